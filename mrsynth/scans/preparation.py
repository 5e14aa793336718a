"""From a subject's own grid to the grid and intensities of a model, and exactly back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, field_validator, model_validator

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.plain import Array, Mask, Plain
from mrsynth.scans.foreground import shown_by_any
from mrsynth.scans.grid import Orientation, Resampling, check_room, is_axis_code
from mrsynth.scans.hounsfield import (
    HOUNSFIELD,
    Window,
    check_hounsfield,
    clipped_share,
    rule_in_words,
    to_window,
    window_of,
    without_holes,
)
from mrsynth.scans.intensity import (
    RULES,
    IntensityRule,
    brain_quantile,
    check_contrast,
    check_intensities,
    volume_quantile_unit,
)
from mrsynth.scans.likeness import same_image
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import SPACING_RANGE_MM, Volume, extent

LARGEST_EXTENT_MM = 1000.0
BRATS_SHAPE = (240, 240, 155)
CWDM_GRID = (224, 224, 160)  # of the released weights: 240x240x155 loses 8 planes at each side, gets 5 at the end

Triple = tuple[int, int, int]
Box = tuple[slice, slice, slice]


class PreparationConfig(Plain):
    """The grid and intensity rule that a checkpoint was trained with.

    axes               where the array axes point, one of the 48 codes: LPS means left, posterior, superior
    spacing            millimetres, isotropic
    spacing_tolerance  an axis whose spacing differs by no more than this fraction is left as it is
    intensity          brain_quantile: u = 1 is a quantile of the foreground; volume_quantiles: the rule of the released
                       cWDM weights, over the whole file
    quantile           for brain_quantile, of the foreground intensities
    hounsfield         of CT, which follows neither rule: the Hounsfield units that become u = 0 and u = 1
    crop               brain: the box of the foreground; full: the whole volume
    grid               for crop full, the voxels a model must have: the volume is cropped or padded to them, see
                       `fit_to_grid`; None leaves the volume as large as it is
    multiple           the first two axes are padded to multiples of this many voxels
    depth_multiple     the third axis likewise
    """

    axes: str = "LPS"
    spacing: float = Field(1.0, ge=SPACING_RANGE_MM[0], le=SPACING_RANGE_MM[1])
    spacing_tolerance: float = Field(0.05, ge=0)
    quantile: float = Field(0.995, gt=0, le=1)
    multiple: int = Field(16, gt=0)
    depth_multiple: int = Field(1, gt=0)
    crop: Literal["brain", "full"] = "brain"
    grid: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    intensity: IntensityRule = "brain_quantile"
    hounsfield: Window = HOUNSFIELD

    @property
    def multiples(self) -> Triple:
        """Of how many voxels each axis is a multiple."""
        return self.multiple, self.multiple, self.depth_multiple

    @field_validator("axes")
    @classmethod
    def _is_axis_code(cls, axes: str) -> str:
        if not is_axis_code(axes):
            raise ValueError(f"axes {axes!r}: expected one letter of each of L/R, P/A and I/S, as in LPS")
        return axes

    @field_validator("hounsfield")
    @classmethod
    def _is_a_window(cls, window: Window) -> Window:
        low, high = window
        if not -32768 <= low < high <= 32767:
            raise ValueError(f"hounsfield {list(window)}: expected [low, high] with low < high, as in [-1024, 2000]")
        return window

    @model_validator(mode="after")
    def _grid_fits(self) -> Self:
        if self.grid is None:
            return self
        if self.crop != "full":
            raise ValueError(f"grid {self.grid} with crop {self.crop}: expected crop full, or no grid")
        if any(side % multiple for side, multiple in zip(self.grid, self.multiples, strict=True)):
            raise ValueError(f"grid {self.grid}: expected multiples of {self.multiples} (multiple, depth_multiple)")
        return self


@dataclass(frozen=True, eq=False)
class Prepared:
    """A subject as a model sees it.

    images     (C, I, J, K) float32, u in [0, 1], 0 in the padding; absent contrasts all zero. Outside the mask 0, or
               with volume_quantiles what that rule makes of 0: more than 0 for a contrast with negative voxels
    available  (C,) bool
    mask       (I, J, K) bool, the foreground
    contrasts  what the C channels are
    scales     available contrast -> how much u = 1 is above u = 0 (record["offsets"]), in the units of its file
    record     what was done, ready for JSON
    grid       the way back
    hounsfield the Hounsfield units of u = 0 and u = 1, for a CT among the contrasts
    """

    images: Array
    available: Mask
    mask: Mask
    contrasts: tuple[Contrast, ...]
    scales: Mapping[Contrast, float]
    record: dict[str, Any]
    grid: "ModelGrid"
    hounsfield: Window = HOUNSFIELD

    def brought(self, voxels: NDArray[Any]) -> Array:
        """Another image of the subject's own grid on the model's, (I, J, K) both, unscaled; 0 outside the mask."""
        return self.grid.brought(np.asarray(voxels, dtype=np.float32), self.mask)

    def restore(self, array: NDArray[Any]) -> Volume:
        """Bring an image from the model's grid to the subject's own; 0 outside the subject's foreground.

        array  (I, J, K), as one of `images`. Without resampling every voxel comes back bit for bit.
        """
        if array.shape != self.mask.shape:
            raise ValueError(f"restore expects an image of shape {self.mask.shape}, not {array.shape}")
        return self.grid.restore(np.asarray(array, dtype=np.float32), self.mask)


def prepare(subject: Subject, contrasts: Sequence[Contrast], config: PreparationConfig) -> Prepared:
    """Bring those of `contrasts` that the subject has to the axes, spacing and intensities of `config`.

    The foreground is where any of them is non-zero (in a CT: no air), inside the brain mask if there is one; what lies
    outside it counts as 0 from the beginning. With CT among `contrasts`, what the foreground encloses belongs to it,
    since air inside a head is part of it, and so is bone that is black in an MR.
    The images are cropped to its box, or left whole, and padded centrally to the multiples of `config`, or brought to
    its grid; the foreground is never cut.
    Raises InputError when no voxels or no usable intensities are left, or when the spacing is not that of a head.
    """
    used = {c: subject.volumes[c] for c in contrasts if c in subject.volumes}
    if not used:
        raise InputError(
            f"{subject.name}: none of the contrasts this model knows ({', '.join(c.label for c in contrasts)}) is "
            f"there; found {', '.join(c.label for c in subject.available)}. Give at least one, or use another method."
        )
    for contrast, volume in used.items():
        if window_of(contrast):
            check_hounsfield(subject.name, volume.voxels, config.hounsfield)
        else:
            check_intensities(subject.name, contrast, volume, masked=subject.mask is not None)
    refuse_one_image(subject.name, used)
    foreground = _foreground(subject, used, fill=Contrast.CT in contrasts)
    scaled = {c: _scaled(subject.name, c, v.voxels, foreground, config) for c, v in used.items()}
    scales = {c: s.scale for c, s in scaled.items()}

    reference = subject.reference
    _check_spacing(subject.name, reference)
    orientation = Orientation.between(reference.affine, config.axes)
    resampling = Resampling.to(
        config.spacing,
        config.spacing_tolerance,
        orientation.apply(foreground).shape,
        orientation.spacing(reference.spacing),
    )
    check_room(subject.name, resampling.new_shape)
    weight = resampling.forward(orientation.apply(foreground).astype(np.float32))
    mask = weight >= 0.5
    if not mask.any():
        raise InputError(
            f"{subject.name}: the foreground ({int(foreground.sum())} voxels) is too small to be seen at "
            f"{config.spacing:g} mm. Expected a brain; check the images and their voxel spacing."
        )
    brain = (extent(mask, 0), extent(mask, 1), extent(mask, 2))
    placements = _placements(brain, mask.shape, config)
    box = tuple(p.kept for p in placements)
    inside = tuple(slice(p.before, p.before + p.kept.stop - p.kept.start) for p in placements)
    shape = tuple(i.stop + p.after for i, p in zip(inside, placements, strict=True))
    check_room(subject.name, shape)

    images = np.zeros((len(contrasts), *shape), dtype=np.float32)
    model_mask = np.zeros(shape, dtype=bool)
    model_mask[inside] = mask[box]
    for channel, contrast in enumerate(contrasts):
        if contrast in used:
            one = scaled[contrast]
            # dividing by the interpolated foreground keeps the background from bleeding into the edge of the brain
            voxels = resampling.forward(orientation.apply(one.masked))[box] / np.maximum(weight[box], np.float32(0.5))
            u = np.clip(voxels / np.float32(one.divisor), 0, 1)
            images[channel][inside] = np.where(mask[box], u, np.float32(one.background))

    grid = ModelGrid(reference.affine, foreground, orientation, resampling, box, inside)
    record: dict[str, Any] = {
        "axes": {"from": orientation.code, "to": config.axes},
        "spacing_mm": {"from": list(resampling.spacing), "to": list(resampling.new_spacing)},
        "resampled": resampling.needed,
        "interpolation": "linear, normalised by the interpolated foreground" if resampling.needed else None,
        "shape": {"own": list(reference.shape), "resampled": list(mask.shape), "model": list(shape)},
        "box": [[b.start, b.stop] for b in box],
        "crop": config.crop,
        "grid": None if config.grid is None or config.crop == "brain" else list(config.grid),
        "padding": [[p.before, p.after] for p in placements],
        "foreground_voxels": int(foreground.sum()),
        "brain_mask_given": subject.mask is not None,
        "scales": {c.value: q for c, q in scales.items()},
        "offsets": {c.value: s.offset for c, s in scaled.items()},
        "rule": RULES[config.intensity].format(quantile=config.quantile),
    }
    if Contrast.CT in contrasts:
        record["hounsfield"] = list(config.hounsfield)
        record["rule"] += f"; {rule_in_words(config.hounsfield)}"
        if Contrast.CT in used:
            record["clipped"] = {"ct": clipped_share(used[Contrast.CT].voxels, config.hounsfield)}
    available = np.array([c in used for c in contrasts], dtype=bool)
    return Prepared(images, available, model_mask, tuple(contrasts), scales, record, grid, config.hounsfield)


class Placement(NamedTuple):
    """How one axis comes onto the model's grid: the part that is kept, and the zero planes before and after it."""

    kept: slice
    before: int
    after: int


def fit_to_grid(
    shape: Triple, brain: Box, grid: Triple, multiples: Triple = (1, 1, 1)
) -> tuple[Placement, Placement, Placement]:
    """Bring a volume of any shape to a fixed grid without cutting its brain.

    shape      of the volume; one of 240x240x155 comes to 224x224x160 as the released cWDM weights expect it: 8 planes
               less at both ends of axes 1 and 2, 5 zero planes at the end of axis 3, wherever its brain is
    brain      its box in that volume. For other shapes and grids, and for a brain that would be cut, it is brought to
               the middle as far as no axis is both cropped and padded
    grid       the shape to reach; an axis the brain does not fit takes the next multiple that holds it
    """
    if (shape, grid) == (BRATS_SHAPE, CWDM_GRID):
        released = (Placement(slice(8, 232), 0, 0), Placement(slice(8, 232), 0, 0), Placement(slice(0, 155), 0, 5))
        if all(p.kept.start <= b.start and b.stop <= p.kept.stop for p, b in zip(released, brain, strict=True)):
            return released
    i, j, k = (_window(*axis) for axis in zip(shape, brain, grid, multiples, strict=True))
    return i, j, k


@dataclass(frozen=True, eq=False)
class ModelGrid:
    """The steps from a subject's own grid to the model's, in order, and their undoing.

    foreground  (I, J, K) bool on the own grid
    box         the crop, in the oriented and resampled image
    inside      where that crop lies in the padded image
    """

    affine: NDArray[np.float64]
    foreground: Mask
    orientation: Orientation
    resampling: Resampling
    box: tuple[slice, ...]
    inside: tuple[slice, ...]

    def brought(self, voxels: Array, mask: Mask) -> Array:
        """`voxels` of the own grid, as far as they are foreground, on the model's; 0 outside `mask`."""
        forward = self.resampling.forward
        weight = forward(self.orientation.apply(self.foreground).astype(np.float32))[self.box]
        own = forward(self.orientation.apply(np.where(self.foreground, voxels, np.float32(0))))[self.box]
        image: Array = np.zeros(mask.shape, np.float32)
        image[self.inside] = np.where(mask[self.inside], own / np.maximum(weight, np.float32(0.5)), np.float32(0))
        return image

    def restore(self, array: Array, mask: Mask) -> Volume:
        """`array` (zero outside `mask`, both on the model's grid) on the own grid."""
        whole: Array = np.zeros(self.resampling.new_shape, dtype=np.float32)
        whole[self.box] = np.where(mask, array, np.float32(0))[self.inside]
        if self.resampling.needed:
            low, high = whole.min(), whole.max()
            weight = np.zeros_like(whole)
            weight[self.box] = mask[self.inside]
            whole = self.resampling.back(whole)
            whole /= np.maximum(self.resampling.back(weight), np.float32(1e-3))
            np.clip(whole, low, high, out=whole)  # rounding must not lead out of [0, 1]
        voxels = np.where(self.foreground, self.orientation.undo(whole), np.float32(0))
        return Volume(np.ascontiguousarray(voxels), self.affine)


def refuse_one_image(name: str, used: Mapping[Contrast, Volume]) -> None:
    """Raise InputError when two contrasts are one image: a model that takes them for two would be misled."""
    for one, other in combinations(used, 2):
        if same_image(used[one].voxels, used[other].voxels):
            raise InputError(
                f"{name}: {one.label} and {other.label} are the same image, up to a factor, a constant, a mirror "
                "or a voxel's shift; expected two different contrasts. Find out which it is, and leave the other file "
                "out."
            )


def _foreground(subject: Subject, used: Mapping[Contrast, Volume], *, fill: bool) -> Mask:
    """(I, J, K) bool, never empty: what any used contrast shows, with `fill` and encloses, inside the brain mask."""
    union: Mask = shown_by_any(used)
    names = ", ".join(c.label for c in used)
    if not union.any():
        raise InputError(
            f"{subject.name}: every voxel of {names} is 0. Expected a brain; check that the files are whole."
        )
    union = without_holes(union) if fill else union
    if subject.mask is not None:
        union &= subject.mask.voxels != 0
        if not union.any():
            raise InputError(
                f"{subject.name}: the brain mask and the non-zero voxels of {names} have no voxel in common. "
                "Expected a mask that is non-zero inside the brain; check it, or leave it out."
            )
    return union


@dataclass(frozen=True, eq=False)
class _Scaled:
    """One contrast on its way to u: `masked / divisor` in the foreground, `background` outside it.

    masked  (I, J, K) float32 on the own grid, 0 outside the foreground
    offset, scale  u * scale + offset are the units of the file
    """

    masked: Array
    divisor: float
    background: float
    offset: float
    scale: float


def _scaled(name: str, contrast: Contrast, voxels: Array, foreground: Mask, config: PreparationConfig) -> _Scaled:
    """The intensity rule of `config` for one contrast; raises InputError for images it can make nothing of."""
    inside = voxels.T[foreground.T] if voxels.flags.f_contiguous else voxels[foreground]  # in the order of memory
    check_contrast(name, contrast, inside)
    if window := window_of(contrast, config.hounsfield):
        u = np.where(foreground, to_window(voxels, window), np.float32(0))
        return _Scaled(u, 1.0, 0.0, window[0], window[1] - window[0])
    masked = np.where(foreground, voxels, np.float32(0))  # changes nothing but where a brain mask was given
    if config.intensity == "brain_quantile":
        scale = brain_quantile(name, contrast, inside, config.quantile)
        return _Scaled(masked, scale, 0.0, 0.0, scale)
    u, offset, scale = volume_quantile_unit(masked, f"{name}: {contrast.label}")
    background = float(u[~foreground].max(initial=0))  # one value everywhere: the background is 0
    return _Scaled(np.where(foreground, u, 0).astype(np.float32), 1.0, background, offset, scale)


def _check_spacing(name: str, volume: Volume) -> None:
    """Raise InputError when the affine cannot be that of a head in millimetres."""
    low, high = SPACING_RANGE_MM
    extent = max(n * s for n, s in zip(volume.shape, volume.spacing, strict=True))
    if not all(low <= s <= high for s in volume.spacing) or extent > LARGEST_EXTENT_MM:
        raise InputError(
            f"{name}: voxels of {' x '.join(f'{s:g}' for s in volume.spacing)} mm, {extent:g} mm at the longest side; "
            f"expected {low:g} to {high:g} mm and at most {LARGEST_EXTENT_MM:g} mm. Check the affine and its units."
        )


def _placements(brain: Box, shape: Triple, config: PreparationConfig) -> tuple[Placement, ...]:
    """What `config` says of the crop, the grid and the padding, for a volume of `shape` with its brain in a box."""
    if config.crop == "full" and config.grid is not None:
        return fit_to_grid(shape, brain, config.grid, config.multiples)
    kept = brain if config.crop == "brain" else tuple(slice(0, n) for n in shape)
    return tuple(_padded(k, multiple) for k, multiple in zip(kept, config.multiples, strict=True))


def _padded(kept: slice, multiple: int) -> Placement:
    """Zeros before and after, to the next multiple; the odd voxel goes after."""
    missing = -(kept.stop - kept.start) % multiple
    return Placement(kept, missing // 2, missing - missing // 2)


def _window(size: int, brain: slice, side: int, multiple: int) -> Placement:
    """`side` voxels of an axis with `size`, or the next multiple that holds the brain, which comes to the middle."""
    length = brain.stop - brain.start
    if length > side:
        side = length + -length % multiple
    start = brain.start - (side - length) // 2
    start = int(np.clip(start, min(0, size - side), max(0, size - side)))
    return Placement(slice(max(start, 0), min(start + side, size)), max(-start, 0), max(start + side - size, 0))
