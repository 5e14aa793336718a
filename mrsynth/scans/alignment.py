"""Rigid registration of one scan of a head to another of the same person, and resampling onto its grid.

Mutual information after Mattes et al. 2003 (doi:10.1109/TMI.2003.809072), from several starts, coarse to fine, on
SimpleITK. Everything is in millimetres; transforms are 4 x 4 and map points of the fixed scan to points of the moving
one, in RAS+.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrsynth.plain import Array, Doubles, Mask
from mrsynth.scans.volume import Volume

COARSE_MM, FINE_MM = 4.0, 1.5  # voxels of the two resolutions, where the scan's own are not larger
TILTS = (0.0, 0.3, -0.3)  # radians of nodding (about the left-right axis) that the search starts from
BINS = 32
SAMPLES = 60_000  # voxels of the fixed scan in a metric
SEED = 20031  # of the places that are compared
KEPT = 2  # starts that go on to the fine resolution
DESCENT = {"minStep": 0.004, "numberOfIterations": 200, "relaxationFactor": 0.7, "gradientMagnitudeTolerance": 1e-7}
POWELL = {
    "numberOfIterations": 20, "maximumLineIterations": 30, "stepLength": 1.0, "stepTolerance": 1e-3,
    "valueTolerance": 1e-5,
}  # fmt: skip

LARGEST_ANGLE = 45.0  # degrees, between two scans of one examination
LARGEST_SHIFT = 120.0  # mm, of the middle of the head
SMALLEST_OVERLAP = 0.5  # share of the smaller head that the other scan's field of view shows
SMALLEST_GAIN = 0.02  # nats of mutual information, above what chance gives
FLIP_MARGIN = 1.05  # a mirrored image that agrees better by this factor is taken for a left-right flip

FEWEST_VOXELS = 4  # along every axis of both scans: the metric's gradient needs as many

FLIP_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS+ to LPS+ and back


@dataclass(frozen=True, eq=False)
class Registration:
    """How a scan lies on another.

    transform  (4, 4) float64, points of the fixed scan in RAS+ mm -> points of the moving scan
    information  mutual information at the end, nats
    before     the same by the headers alone
    mirrored   the same after the moving scan was mirrored left to right and registered anew
    overlap    share of the smaller head that both fields of view show, 0 to 1
    angle      degrees
    shift      mm by which the middle of the fixed head is moved
    """

    transform: Doubles
    information: float
    before: float
    mirrored: float
    overlap: float
    angle: float
    shift: float

    def doubts(self) -> list[str]:
        """Why this is no plausible registration of two scans of one head, in words with numbers; empty when it is."""
        found = []
        if self.information < SMALLEST_GAIN:
            found.append(f"mutual information {self.information:.3f} nats (at least {SMALLEST_GAIN} expected)")
        if self.overlap < SMALLEST_OVERLAP:
            found.append(f"only {self.overlap:.0%} of the head lies in both scans (at least {SMALLEST_OVERLAP:.0%})")
        if self.angle > LARGEST_ANGLE:
            found.append(f"a turn of {self.angle:.0f} degrees (at most {LARGEST_ANGLE:.0f})")
        if self.shift > LARGEST_SHIFT:
            found.append(f"a shift of {self.shift:.0f} mm (at most {LARGEST_SHIFT:.0f})")
        if self.mirrored > FLIP_MARGIN * self.information:
            found.append(
                f"its mirror image agrees better ({self.mirrored:.3f} against {self.information:.3f} nats): "
                "left and right may be exchanged in one of the files"
            )
        return found


def register(
    fixed: Volume,
    moving: Volume,
    *,
    inside: Mask | None = None,
    start: Doubles | None = None,
    check_mirror: bool = True,
) -> Registration:
    """Where a scan lies on another of the same head: rigid, the same result on every run.

    inside       (I, J, K) bool on the grid of `fixed`: only there the two are compared, such as in the dilated brain
    start        refine this transform, as after a first registration; None tries several, from far away
    check_mirror also register the mirror image, which takes as long again
    """
    with _one_thread():
        return _register(fixed, moving, inside, start, check_mirror)


def _register(
    fixed: Volume, moving: Volume, inside: Mask | None, start: Doubles | None, check_mirror: bool
) -> Registration:
    still, moved = _image(fixed), _image(moving)
    region = None if inside is None else _mask_like(inside, still)
    middle = _middle(fixed)
    if start is None:
        best, information = _search(still, moved, region, _starts(fixed, moving, middle))
    else:
        best, information = _refined(still, moved, region, _euler(start, middle))
    before = _information(still, moved, region, _euler(np.eye(4), middle))
    mirrored = 0.0
    if check_mirror:
        reflected = mirror(moving)
        starts = _starts(fixed, reflected, middle)
        mirrored = _search(still, _image(reflected), region, starts, fine=False)[1]
        information_coarse = _search(still, moved, region, [best], fine=False)[1]
        mirrored *= information / max(information_coarse, 1e-9)  # both at the coarse resolution
    transform = _matrix(best)
    angle = math.degrees(math.acos(float(np.clip((np.trace(transform[:3, :3]) - 1) / 2, -1, 1))))
    shift = float(np.linalg.norm((transform @ [*middle, 1.0])[:3] - middle))
    return Registration(transform, information, before, mirrored, overlap_of(fixed, moving, transform), angle, shift)


def cannot_register(volume: Volume) -> str:
    """Why a scan can be registered to no other, nor another to it, in words; empty when it can."""
    if min(volume.shape) < FEWEST_VOXELS:
        size = "x".join(map(str, volume.shape))
        return f"it has {size} voxels, and registration needs at least {FEWEST_VOXELS} along every axis"
    spacing = np.array(volume.spacing)
    skewed = (volume.affine[:3, :3] - _rotation(volume.affine) * spacing) * (np.array(volume.shape) - 1)
    farthest = float(np.linalg.norm(skewed, axis=0).sum())
    if farthest > spacing.min() / 2:
        return (
            f"its axes are not at right angles (up to {farthest:.2g} mm off), which a rigid registration does not know"
        )
    return ""


def resampled(
    moving: Volume, fixed: Volume, transform: Doubles, *, nearest: bool = False, outside: float = 0.0
) -> Volume:
    """The moving scan on the grid of the fixed one, interpolated once: linear, or nearest for labels.

    outside  the value where the moving scan shows nothing
    """
    sitk = _sitk()
    kind = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    image = sitk.Resample(_raw(moving), _raw(fixed), _affine_transform(transform), kind, outside)
    return Volume(_array(image), fixed.affine)


def mirror(volume: Volume) -> Volume:
    """The image reflected at the plane x = middle of its grid; affine and grid stay."""
    centre = volume.affine @ [*(np.array(volume.shape) - 1) / 2, 1.0]
    reflect = np.diag([-1.0, 1.0, 1.0, 1.0])
    reflect[0, 3] = 2 * centre[0]
    return resampled(volume, volume, reflect)


def overlap_of(fixed: Volume, moving: Volume, transform: Doubles) -> float:
    """Share of the smaller of the two heads that lies within the other's field of view, 0 to 1."""
    shares = []
    for one, other, way in ((fixed, moving, transform), (moving, fixed, np.linalg.inv(transform))):
        head = np.argwhere(head_of(one))[::97]
        points = np.c_[head, np.ones(len(head))] @ (np.linalg.inv(other.affine) @ way @ one.affine).T
        inside = ((points[:, :3] > -0.5) & (points[:, :3] < np.array(other.shape) - 0.5)).all(1)
        shares.append((float(inside.mean()) if len(head) else 0.0, len(head) * abs(np.linalg.det(one.affine[:3, :3]))))
    return min(shares, key=lambda share: share[1])[0]


def head_of(volume: Volume) -> Mask:
    """(I, J, K) bool: brighter than a tenth of the bright end, which leaves out air and its noise."""
    mask: Mask = volume.voxels > 0.1 * float(np.quantile(volume.voxels.ravel(order="K"), 0.98))
    return mask


def displacement(one: Doubles, other: Doubles, points: Doubles) -> float:
    """Mean distance, in mm, between where two transforms take the points (N, 3)."""
    homogeneous = np.c_[points, np.ones(len(points))]
    return float(np.linalg.norm((homogeneous @ (one - other).T)[:, :3], axis=1).mean())


# Search ---------------------------------------------------------------------------------------------------------------


def _search(still: Any, moved: Any, region: Any, begins: Sequence[Any], fine: bool = True) -> tuple[Any, float]:
    """The best transform from these starts, and its mutual information: at the fine resolution or the coarse one."""
    tried = _descended(still, moved, region, begins, COARSE_MM, step=4.0)
    if fine:
        near = _descended(still, moved, region, [transform for transform, _ in tried[:KEPT]], FINE_MM, step=1.0)
        return _refined(still, moved, region, near[0][0])
    return tried[0]


def _descended(
    still: Any, moved: Any, region: Any, begins: Sequence[Any], spacing: float, step: float
) -> list[tuple[Any, float]]:
    """What each start leads to down the gradient, the best first: quick, and it comes near from far away."""
    images = _shrunk(still, spacing), _shrunk(moved, spacing)
    ends = [
        _optimised(*images, region, begin, "RegularStepGradientDescent", learningRate=step, **DESCENT)
        for begin in begins
    ]
    return sorted(ends, key=lambda found: -found[1])


def _refined(still: Any, moved: Any, region: Any, begin: Any) -> tuple[Any, float]:
    """From nearby to the place itself, by line searches without a gradient: Powell 1964, Comput. J. 7.

    Between thick slices the gradient of this metric misleads: descent ends one to two millimetres away, where the
    metric is lower than at the true place.
    """

    return _optimised(_shrunk(still, FINE_MM), _shrunk(moved, FINE_MM), region, begin, "Powell", **POWELL)


def _optimised(still: Any, moved: Any, region: Any, begin: Any, optimiser: str, **settings: float) -> tuple[Any, float]:
    """`begin` improved by an optimiser of SimpleITK with its settings, and the mutual information there."""
    sitk = _sitk()
    method = _metric(still, region)
    getattr(method, f"SetOptimizerAs{optimiser}")(**settings)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = sitk.Euler3DTransform(begin)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(still, moved)
    except RuntimeError:  # no overlap from this start
        return begin, -math.inf
    return sitk.Euler3DTransform(transform), -float(method.GetMetricValue())


def _information(still: Any, moved: Any, region: Any, transform: Any) -> float:
    still, moved = _shrunk(still, FINE_MM), _shrunk(moved, FINE_MM)
    method = _metric(still, region)
    method.SetInitialTransform(_sitk().Euler3DTransform(transform), inPlace=False)
    try:
        return -float(method.MetricEvaluate(still, moved))
    except RuntimeError:
        return 0.0


def _metric(still: Any, region: Any) -> Any:
    sitk = _sitk()
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)  # off the grid: on it whole-voxel shifts would look best
    method.SetMetricSamplingPercentage(min(1.0, SAMPLES / still.GetNumberOfPixels()), SEED)
    method.SetInterpolator(sitk.sitkLinear)
    if region is not None:
        method.SetMetricFixedMask(region)
    return method


def _starts(fixed: Volume, moving: Volume, middle: Doubles) -> list[Any]:
    """By the headers, with the middles of the heads on one another, and that with the head nodded either way."""
    apart = _middle(moving) - middle
    begins = [_euler(np.eye(4), middle)]
    for tilt in TILTS:
        c, s = math.cos(tilt), math.sin(tilt)
        turned = np.eye(4)
        turned[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        turned[:3, 3] = middle + apart - turned[:3, :3] @ middle
        begins.append(_euler(turned, middle))
    return begins


def _middle(volume: Volume) -> Doubles:
    """The centre of the head's box in RAS+ mm: steadier than the centre of mass where a coil shines from one side."""
    found = np.argwhere(head_of(volume))
    box = np.quantile(found, [0.02, 0.98], axis=0).mean(0) if len(found) else (np.array(volume.shape) - 1) / 2
    centre: Doubles = (volume.affine @ [*box, 1.0])[:3]
    return centre


# SimpleITK ------------------------------------------------------------------------------------------------------------


def _sitk() -> Any:
    import SimpleITK  # here, so that reading a configuration does not wait for it

    return SimpleITK


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in several threads differ in their last digits from run to run, and an optimiser makes more of that."""
    threads = _sitk().ProcessObject
    before = threads.GetGlobalDefaultNumberOfThreads()
    threads.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        threads.SetGlobalDefaultNumberOfThreads(before)


def _raw(volume: Volume) -> Any:
    """As a SimpleITK image, whose axes are I, J, K and whose world is LPS+; a shear is lost: see `cannot_register`."""
    sitk = _sitk()
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.T, dtype=np.float32))
    affine = FLIP_LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection(_rotation(affine).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _rotation(affine: Doubles) -> Doubles:
    """The rotation nearest to an affine, (3, 3), a mirror image where that is one: codes round their quaternions."""
    left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    nearest: Doubles = left @ right
    return nearest


def _image(volume: Volume) -> Any:
    """The same with the brightest thousandth clipped, so that a vessel does not fill the histogram."""
    low, high = np.quantile(volume.voxels, [0.001, 0.999])
    return _raw(Volume(np.clip(volume.voxels, low, high), volume.affine))


def _array(image: Any) -> Array:
    voxels: Array = np.ascontiguousarray(_sitk().GetArrayFromImage(image).T)
    return voxels


def _mask_like(inside: Mask, like: Any) -> Any:
    sitk = _sitk()
    mask = sitk.GetImageFromArray(np.ascontiguousarray(inside.T).astype(np.uint8))
    mask.CopyInformation(like)
    return mask


def _shrunk(image: Any, spacing: float) -> Any:
    """Smoothed and thinned along the axes whose voxels are smaller than `spacing` mm."""
    sitk = _sitk()
    factors = [max(1, int(spacing / s)) for s in image.GetSpacing()]
    sigmas = [max(1e-3, 0.5 * s * f) if f > 1 else 1e-3 for s, f in zip(image.GetSpacing(), factors, strict=True)]
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, sigmas), factors) if max(factors) > 1 else image


def _euler(transform: Doubles, middle: Doubles) -> Any:
    """A rigid transform in RAS+ as SimpleITK's, which turns about the middle of the fixed head."""
    sitk = _sitk()
    matrix = FLIP_LPS @ transform @ FLIP_LPS
    centre = FLIP_LPS[:3, :3] @ middle
    euler = sitk.Euler3DTransform()
    euler.SetCenter(centre.tolist())
    euler.SetMatrix(matrix[:3, :3].ravel().tolist(), 1e-6)
    euler.SetTranslation((matrix[:3, 3] + matrix[:3, :3] @ centre - centre).tolist())
    return euler


def _matrix(euler: Any) -> Doubles:
    """The inverse of `_euler`."""
    rotation = np.array(euler.GetMatrix()).reshape(3, 3)
    centre, translation = np.array(euler.GetCenter()), np.array(euler.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation + centre - rotation @ centre
    result: Doubles = FLIP_LPS @ matrix @ FLIP_LPS
    return result


def _affine_transform(transform: Doubles) -> Any:
    matrix = FLIP_LPS @ transform @ FLIP_LPS
    affine = _sitk().AffineTransform(3)
    affine.SetMatrix(matrix[:3, :3].ravel().tolist())
    affine.SetTranslation(matrix[:3, 3].tolist())
    return affine
