"""A brain whose truth is known: four co-registered contrasts computed from tissue maps.

Tissue maps -> individual anatomy -> lesion -> rotation, scaling and smooth deformation -> fraction of each tissue per
voxel -> signal equations -> bias field -> Rician noise. Everything follows from one seed.

An array of fractions has the tissues of `tissues.TISSUES` along its last axis.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, field_validator

from mrsynth.errors import UsageError
from mrsynth.phantom.tissues import TISSUES, WM, Real, rician, tissue_signals
from mrsynth.plain import Array, Plain
from mrsynth.scans.grid import is_axis_code
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=32767)]  # what NIfTI-1 can say

MOST_POINTS = 2**27  # at which one phantom samples the maps: half a millimetre in each direction needs half of it
MARGIN_MM = 12.0  # around the template's brain: room for the deformation, and background as a scan has it
KNOTS_MM = 32.0  # between control points of the deformation
BIAS_KNOTS_MM = 70.0
LABELS = np.array([0, 0, 0, 2, 1, 4], np.float32)  # of TISSUES in BraTS: 1 necrotic core, 2 oedema, 4 enhancing


@dataclass(frozen=True, eq=False)
class Tissues:
    """Fractions of grey matter, white matter and fluid: (I, J, K) float32 in [0, 1], sum 1 in the brain, 0 outside.

    affine  (4, 4) voxel index -> millimetres in RAS+
    """

    gm: Array
    wm: Array
    csf: Array
    affine: Real


class PhantomConfig(Plain):
    """One phantom, fully determined."""

    seed: int = Field(default=0, ge=0)
    spacing: tuple[Positive, Positive, Positive] = Field(default=(1.0, 1.0, 1.0), description="mm along the voxel axes")
    shape: tuple[Count, Count, Count] | None = Field(default=None, description="voxels; None: the brain and a margin")
    axes: str = Field(default="LPS", description="where each voxel axis points, as in BraTS")
    lesion: Literal["glioma", "ms", "none"] = "glioma"
    deformation_mm: float = Field(
        default=4.0, ge=0, le=50, description="largest displacement of the smooth nonlinear part"
    )
    bias: float = Field(default=0.2, ge=0, lt=1, description="bias field, peak to peak, its own for each contrast")
    noise: float = Field(
        default=0.02, ge=0, le=1, description="standard deviation per channel, relative to white matter"
    )

    @field_validator("axes")
    @classmethod
    def _names_three_directions(cls, axes: str) -> str:
        if not is_axis_code(axes):
            raise ValueError(f"axes {axes!r}: expected one each of R/L, A/P and S/I, such as LPS")
        return axes


def phantom(tissues: Tissues, config: PhantomConfig | None = None, name: str = "phantom") -> Subject:
    """T1, T1ce, T2, FLAIR and, where there is a lesion, segmentation of a made-up subject, skull-stripped.

    Voxels are whole numbers that fit int16: 0 outside the brain, at least 1 inside.
    The segmentation has BraTS labels: 1 necrotic core, 2 oedema (or plaque), 4 enhancing.
    The stages draw from streams of their own: the same seed without a lesion is the same head, healthy.
    """
    config = config or PhantomConfig()
    anatomy, lesion, pose, protocol, coil, receiver = np.random.default_rng(config.seed).spawn(6)
    tissues = cropped(tissues)
    fractions = with_lesion(individual(tissues, anatomy), tissues.affine, config.lesion, lesion)
    affine, shape = target_grid(tissues, config)
    fractions = warped(fractions, tissues.affine, affine, shape, config.deformation_mm, pose)
    brain = fractions.sum(axis=-1) > 0
    if not brain.any():
        raise UsageError(f"{name}: no voxel lies in the brain at spacing {config.spacing} mm; use a finer one.")

    volumes = {}
    for contrast, signals in tissue_signals(protocol).items():
        scale = protocol.uniform(700, 1500) / signals[:3].max()  # scanners have no common unit
        image = fractions @ (scale * signals).astype(np.float32) * bias_field(brain, affine, config.bias, coil)
        image = rician(image, config.noise * scale * signals[TISSUES.index(WM)], receiver)
        volumes[contrast] = Volume(np.where(brain, np.clip(np.rint(image), 1, 32767), 0).astype(np.float32), affine)
    if config.lesion == "none":
        return Subject(name, volumes)
    return Subject(name, volumes, segmentation=Volume(LABELS[fractions.argmax(axis=-1)], affine))


def bias_field(brain: NDArray[np.bool_], affine: Real, peak_to_peak: float, rng: Generator) -> Array:
    """(I, J, K) smooth factor that runs from 1 - peak_to_peak / 2 to 1 + peak_to_peak / 2 inside the brain."""
    field = smooth_field(rng, brain.shape, BIAS_KNOTS_MM / spacing_of(affine))
    low, high = field[brain].min(), field[brain].max()
    return np.asarray(1 + peak_to_peak * ((field - low) / max(high - low, 1e-6) - 0.5), np.float32)


# Anatomy and lesions, on the grid of the tissue maps


def cropped(tissues: Tissues) -> Tissues:
    """The maps in the box of the brain and one empty voxel around it, towards which they fade out."""
    where = np.argwhere(tissues.gm + tissues.wm + tissues.csf > 0)
    if not len(where):
        raise UsageError("the tissue maps are empty; a phantom needs grey matter, white matter and fluid.")
    low, high = where.min(axis=0), where.max(axis=0) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine = tissues.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (low - 1)
    return Tissues(np.pad(tissues.gm[box], 1), np.pad(tissues.wm[box], 1), np.pad(tissues.csf[box], 1), affine)


def individual(tissues: Tissues, rng: Generator) -> Array:
    """(I, J, K, 3) fractions of one person: an average template has blurred sulci, a person has sharp ones.

    Powers of the fractions sharpen them; a gain on fluid widens sulci and ventricles as age does.
    """
    maps = np.stack([tissues.gm, tissues.wm, tissues.csf], axis=-1)
    sharp = (maps * np.array([1, 1, rng.uniform(1, 2)], np.float32)) ** np.float32(rng.uniform(1.4, 2.2))
    return np.asarray(sharp * (maps.sum(axis=-1) / np.maximum(sharp.sum(axis=-1), 1e-6))[..., None], np.float32)


def with_lesion(healthy: Array, affine: Real, kind: str, rng: Generator) -> Array:
    """(I, J, K, 3) fractions -> (I, J, K, 6): lesion tissue takes the place of healthy tissue; the sum stays."""
    fractions = np.zeros((*healthy.shape[:3], len(TISSUES)), np.float32)
    fractions[..., :3] = healthy
    if kind == "glioma":
        (centre,) = lesion_centres(healthy, affine, 1, rng, near_fluid=False)
        add_glioma(fractions, centre, spacing_of(affine), rng)
    elif kind == "ms":
        for centre in lesion_centres(healthy, affine, int(rng.integers(8, 30)), rng, near_fluid=True):
            add_plaque(fractions, centre, spacing_of(affine), rng)
    return fractions


def lesion_centres(healthy: Array, affine: Real, count: int, rng: Generator, near_fluid: bool) -> list[Real]:
    """Voxel indices deep in the white matter of the hemispheres; near_fluid favours the ventricles, as plaques do."""
    spacing = spacing_of(affine)
    step = np.maximum(1, np.rint(4 / spacing)).astype(int)
    coarse = healthy[:: step[0], :: step[1], :: step[2]]
    weight = gaussian(coarse[..., 1], 6 / (step * spacing)) ** 2 * (coarse[..., 1] > 0.5)
    if near_fluid:
        weight = weight * (0.02 + gaussian(coarse[..., 2], 6 / (step * spacing)))
    index = np.moveaxis(np.indices(weight.shape), 0, -1) * step
    x, _, z = np.moveaxis((index - (np.array(healthy.shape[:3]) - 1) / 2) @ affine[:3, :3].T, -1, 0)
    away = 12 if near_fluid else 20  # mm from the midline, which a tumour must not cross
    hemispheres = (np.abs(x) > away) & (z > -25)  # neither brain stem nor cerebellum
    weight = np.where(hemispheres, weight, 0) if (weight * hemispheres).any() else weight
    if not weight.any():
        raise UsageError("the tissue maps hold no white matter to put a lesion into; ask for no lesion.")
    chosen = rng.choice(weight.size, count, p=(weight / weight.sum()).ravel())
    return [index.reshape(-1, 3)[i] for i in chosen]


def add_glioma(fractions: Array, centre: Real, spacing: Real, rng: Generator) -> None:
    """A necrotic core in an uneven enhancing rim, in oedema along the white matter. Changes `fractions`."""
    radius = rng.uniform(9, 20)
    reach = radius * rng.uniform(1.3, 1.8)
    local, distance = around(fractions, centre, spacing, 1.7 * reach, rng)
    bumps, width, fingers = (smooth_field(rng, distance.shape, mm / spacing) for mm in (10.0, 6.0, 10.0))
    surface: Array = distance + 0.18 * radius * bumps
    tumour = inside(radius - surface, 0.7)
    core = np.minimum(tumour, inside(radius - rng.uniform(2, 4) - surface - width, 0.7))
    oedema = inside(reach - distance - 0.2 * reach * fingers, 2.0) * (1 - tumour)
    brain = local.sum(axis=-1)
    spare = 1 - tumour[..., None] - oedema[..., None] * np.array([0.35, 0.95, 0], np.float32)  # of grey, white, fluid
    local[..., :3] *= spare
    local[..., 4], local[..., 5] = core * brain, (tumour - core) * brain
    local[..., 3] = brain - local.sum(axis=-1)


def add_plaque(fractions: Array, centre: Real, spacing: Real, rng: Generator) -> None:
    """One small demyelinated plaque; one in eight enhances. Changes `fractions`."""
    radius = min(rng.lognormal(np.log(2.5), 0.4), 8)
    local, distance = around(fractions, centre, spacing, 2 * radius + 2, rng)
    part = inside(radius - distance - 0.2 * radius * smooth_field(rng, distance.shape, 4 / spacing), 0.7)
    taken = local[..., :2] * part[..., None] * np.array([0.4, 0.9], np.float32)
    local[..., :2] -= taken
    local[..., 5 if rng.random() < 1 / 8 else 3] += taken.sum(axis=-1)


def around(fractions: Array, centre: Real, spacing: Real, half: float, rng: Generator) -> tuple[Array, Array]:
    """View of the fractions `half` mm around the centre, and the distance from it in mm, stretched at random."""
    low = np.maximum(0, np.floor(centre - half / spacing)).astype(int)
    high = np.minimum(fractions.shape[:3], np.ceil(centre + half / spacing) + 1).astype(int)
    stretch = rng.uniform(0.8, 1.25, 3)
    x, y, z = ((np.arange(a, b) - c) * s for a, b, c, s in zip(low, high, centre, spacing * stretch, strict=True))
    distance = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2).astype(np.float32)
    return fractions[low[0] : high[0], low[1] : high[1], low[2] : high[2]], distance


def inside(depth: Array, softness: float) -> Array:
    """How much of a voxel belongs to a body it lies `depth` mm deep in: a logistic step, `softness` in mm."""
    return np.asarray(1 / (1 + np.exp(np.clip(-depth / softness, -30, 30))), np.float32)


# From the grid of the tissue maps to the grid of the scan


def target_grid(tissues: Tissues, config: PhantomConfig) -> tuple[Real, tuple[int, int, int]]:
    """Affine and shape of the scan, centred on the template's brain.

    Raises UsageError for a grid that takes more than MOST_POINTS samples of the maps.
    """
    direction = np.zeros((3, 3))
    for axis, letter in enumerate(config.axes):
        direction["RLAPSI".index(letter) // 2, axis] = 1 if letter in "RAS" else -1
    extent = np.abs(direction.T @ tissues.affine[:3, :3]) @ np.array(tissues.gm.shape) + 2 * MARGIN_MM
    counts = np.ceil(extent / config.spacing) if config.shape is None else np.array(config.shape, float)
    if (points := np.prod(counts * sampling(tissues.affine, np.array(config.spacing)))) > MOST_POINTS:
        voxels, sides = (" x ".join(f"{n:g}" for n in each) for each in (counts, config.spacing))
        raise UsageError(
            f"{voxels} voxels of {sides} mm take {points:.2g} samples of the tissue maps, expected at most "
            f"{MOST_POINTS:.2g}. Give a --spacing of 0.5 to 10 mm, or a smaller --shape."
        )
    i, j, k = counts.astype(int).tolist()
    affine = np.eye(4)
    affine[:3, :3] = direction * config.spacing
    affine[:3, 3] = centre_of(tissues.affine, tissues.gm.shape) - affine[:3, :3] @ ((np.array([i, j, k]) - 1) / 2)
    return affine, (i, j, k)


def sampling(source: Real, spacing: Real) -> Real:
    """Samples per voxel along each axis (3,), whole numbers: no further apart than 1.5 voxels of the maps."""
    return np.asarray(np.ceil(spacing / (1.5 * spacing_of(source).max())))


def warped(
    maps: Array, source: Real, target: Real, shape: tuple[int, int, int], deformation_mm: float, rng: Generator
) -> Array:
    """(*maps, C) on the grid `source` -> (*shape, C) on `target`, turned, scaled and smoothly deformed.

    Each voxel is the mean of samples (`sampling`), so thick slices blur as in a scanner.
    Voxels less than half in the brain become 0, the others sum to 1.
    """
    centre, spacing = centre_of(source, maps.shape), spacing_of(target)
    samples = sampling(source, spacing).astype(int)
    fine = np.array(shape) * samples
    knots = [spline(n, KNOTS_MM * s / d) for n, s, d in zip(fine, samples, spacing, strict=True)]
    control = rng.standard_normal((*(b.shape[1] for b in knots), 3))
    control *= deformation_mm / np.linalg.norm(control, axis=-1).max()
    turn = rotation(rng.uniform(-6, 6, 3)) * rng.uniform(0.95, 1.05, 3)

    to_source = np.linalg.inv(source)
    linear = to_source[:3, :3] @ turn @ target[:3, :3]  # voxel of the scan -> voxel of the maps
    start = to_source[:3, :3] @ (centre + turn @ (target[:3, 3] - centre)) + to_source[:3, 3]
    control = control @ to_source[:3, :3].T
    x, y, z = ((np.arange(n) + 0.5) / s - 0.5 for n, s in zip(fine, samples, strict=True))
    plane = linear[:, 0] * x[:, None, None] + linear[:, 1] * y[:, None] + start  # (I, J, 3)
    result = np.zeros((*shape, maps.shape[3]), np.float32)
    for k, row in enumerate(knots[2]):
        sheet = np.einsum("abcd,c->abd", control, row)
        displacement = np.einsum("ia,abd,jb->ijd", knots[0], sheet, knots[1], optimize=True)
        sampled = trilinear(maps, (plane + linear[:, 2] * z[k] + displacement).reshape(-1, 3))
        blocks = sampled.reshape(shape[0], samples[0], shape[1], samples[1], -1)
        result[:, :, k // samples[2]] += blocks.mean(axis=(1, 3)) / samples[2]
    brain = result.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(brain >= 0.5, result / np.maximum(brain, 0.5), 0), np.float32)


def trilinear(maps: Array, points: Real) -> Array:
    """(I, J, K, C) at (N, 3) voxel coordinates -> (N, C); 0 outside the grid.

    Ours and not SimpleITK's, whose filters take each of the C maps alone: a phantom takes 1.3 to 1.8 times as long.
    """
    size = np.array(maps.shape[:3])
    result = np.zeros((len(points), maps.shape[3]), np.float32)
    within = np.flatnonzero(((points >= 0) & (points <= size - 1)).all(axis=1))
    low = np.minimum(points[within].astype(np.int64), size - 2)
    part = (points[within] - low).astype(np.float32)
    flat, strides = maps.reshape(-1, maps.shape[3]), np.array([size[1] * size[2], size[2], 1])
    first = low @ strides
    values = np.zeros((len(within), maps.shape[3]), np.float32)
    for corner in np.ndindex(2, 2, 2):
        x, y, z = (part[:, axis] if upper else 1 - part[:, axis] for axis, upper in enumerate(corner))
        values += (x * y * z)[:, None] * flat[first + corner @ strides]
    result[within] = values
    return result


# Small tools


def spline(samples: int, knot_distance: float) -> Real:
    """(samples, control points) cubic B-spline basis, control points `knot_distance` samples apart; rows sum to 1.

    Ours and not SimpleITK's, which weighs all 64 control points for each voxel in place of 4 along each axis: a field
    takes five times as long.
    """
    points = np.arange(samples) / knot_distance
    x = np.abs(points[:, None] - np.arange(-1, np.ceil(points[-1]) + 2))
    return np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.clip(2 - x, 0, None) ** 3 / 6)


def smooth_field(rng: Generator, shape: tuple[int, ...], knot_distance: Real) -> Array:
    """(I, J, K) random field of mean 0 and standard deviation 1, smooth over `knot_distance` voxels along each axis."""
    x, y, z = (spline(n, d) for n, d in zip(shape, knot_distance, strict=True))
    control = rng.standard_normal((x.shape[1], y.shape[1], z.shape[1]))
    field = np.einsum("ia,jb,kc,abc->ijk", x, y, z, control, optimize=True)
    return np.asarray((field - field.mean()) / max(field.std(), 1e-6), np.float32)


def gaussian(image: Array, sigma: Real) -> Array:
    """(I, J, K) smoothed with `sigma` voxels along each axis; zero beyond the edges.

    Ours and not SimpleITK's: the recursive and the discrete one are approximations that would move the lesions of many
    seeds by voxels, and the exact one, by Fourier transform, takes thirty times as long.
    """
    lags = [np.subtract.outer(np.arange(n), np.arange(n)) for n in image.shape]
    x, y, z = (np.exp(-0.5 * (lag / s) ** 2) for lag, s in zip(lags, sigma, strict=True))
    smooth = np.einsum("ia,jb,kc,abc->ijk", x, y, z, image, optimize=True)
    return np.asarray(smooth / (np.sqrt(2 * np.pi) ** 3 * np.prod(sigma)), np.float32)


def rotation(degrees: Real) -> Real:
    """(3, 3) turn about x, then y, then z."""
    import SimpleITK  # here, so that reading a configuration does not wait for it

    sitk: Any = SimpleITK  # it has no types
    x, y, z = np.deg2rad(degrees).tolist()
    turn = sitk.Euler3DTransform()
    turn.SetComputeZYX(True)
    turn.SetRotation(x, -y, z)  # about y from x to z, where ITK turns from z to x
    return np.reshape(turn.GetMatrix(), (3, 3))


def spacing_of(affine: Real) -> Real:
    """(3,) voxel size in mm."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def centre_of(affine: Real, shape: tuple[int, ...]) -> Real:
    """(3,) middle of a grid in mm."""
    return np.asarray(affine[:3, :3] @ ((np.array(shape[:3]) - 1) / 2) + affine[:3, 3])
