"""How close a synthetic image is to the true one: errors, SSIM, how evenly it errs between slices, how sharp it is.

Formulas only; what is compared, where and after which scaling is in `protocols`. `to_unit` brings a truth to [0, 1] as
all of them do.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrsynth.plain import Array, Mask
from mrsynth.scans.volume import extent

Exact = NDArray[np.float64]

QUANTILES = (0.001, 0.999)
WINDOW = 11  # voxels: sigma 1.5 truncated at 3.5 sigma on both sides, as in Wang et al. 2004 and in scikit-image
SIGMA = 1.5
SLAB = 16  # planes of the SSIM map made at once: bounds the memory, changes no value
EROSION = 3  # voxels of the rim that say nothing about sharpness
UNSEEN = 1e-8  # change of an error, squared and as a fraction of the range squared, that counts as none


def to_unit(voxels: Array, window: tuple[float, float] | None = None) -> Array:
    """Bring a true volume (I, J, K), any unit, to [0, 1] by its 0.1 / 99.9 % quantiles; a constant one becomes zero.

    window  the values that become 0 and 1 instead: Hounsfield units, for a CT
    """
    low, high = ends(voxels) if window is None else window
    unit: Array = ((np.clip(voxels, low, high) - low) / max(high - low, 1e-8)).astype(np.float32)
    return unit


def ends(voxels: Array) -> tuple[float, float]:
    """The values of a true volume that become 0 and 1: the 0.1 / 99.9 % quantiles of all of it."""
    low, high = np.quantile(voxels.ravel(order="K"), QUANTILES).tolist()  # K: no copy
    return low, high


def mse(a: Array, b: Array) -> float:
    """Mean squared error of two arrays of one shape, in their unit squared."""
    return float(np.square(a - b).mean(dtype=np.float64))


def mae(a: Array, b: Array) -> float:
    """Mean absolute error, in the unit of the arrays."""
    return float(np.abs(a - b).mean(dtype=np.float64))


def nmse(prediction: Array, truth: Array) -> float:
    """Squared error over squared truth, sum (p - y)^2 / sum y^2: 0 is perfect, 1 what an empty image gets.

    Where the truth is zero throughout: 0 for a prediction that is so too, else infinite. Not a number where either is.
    """
    energy = float(np.square(truth).sum(dtype=np.float64))
    error = float(np.square(prediction - truth).sum(dtype=np.float64))
    if energy == 0:
        return 0.0 if error == 0 else float("inf") * error
    return error / energy


def psnr(a: Array, b: Array, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(range^2 / MSE); infinite for equal arrays."""
    error = mse(a, b)
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def consistency(prediction: Array, truth: Array, mask: Mask) -> float | None:
    """How much more the error changes from slice to slice than within a slice: 1 is even, more is jumpy.

    prediction, truth  (I, J, K) in [0, 1], K counting neighbouring slices
    mask               (I, J, K) bool; only neighbours that are both inside it are compared

    With e = prediction - truth, D_across the mean of (e(i, j, k+1) - e(i, j, k))^2 over all such neighbours along K,
    and D_within the mean of (e(i+1, j, k) - e(i, j, k))^2 and (e(i, j+1, k) - e(i, j, k))^2 over all along I and J,

        consistency = sqrt((D_across + c) / (D_within + c)),   c = UNSEEN = 1e-8

    An error that is as rough in all directions gives 1, and so does none at all, or one that is the same everywhere: c,
    far below anything visible, keeps rounding from deciding there.
    Noise of variance s^2 in every voxel and an offset of variance t^2 in each slice give sqrt(1 + t^2 / s^2).
    A slice made without its neighbours shows as more than 1, an error smeared across slices as less. Thick slices
    raise it, since anatomy itself changes more from one to the next: compare only volumes of like spacing.
    None when no two slices, or no two voxels of a slice, are neighbours.
    """
    error = prediction - truth
    changes, pairs = np.zeros(3), np.zeros(3)
    for axis in range(3):
        ahead, behind = _along(axis, slice(1, None)), _along(axis, slice(None, -1))
        both = mask[ahead] & mask[behind]
        pairs[axis] = np.count_nonzero(both)
        changes[axis] = np.square((error[ahead] - error[behind])[both]).sum(dtype=np.float64)
    if pairs[2] == 0 or pairs[:2].sum() == 0:
        return None
    across, within = changes[2] / pairs[2], changes[:2].sum() / pairs[:2].sum()
    return float(np.sqrt((across + UNSEEN) / (within + UNSEEN)))


class Fit(NamedTuple):
    """A prediction brought nearest to the truth by a straight line, (N,) in [0, 1].

    slope  of that line; where it came out below 0 the voxels are the mean of the truth instead
    """

    voxels: Array
    slope: float


def line_fit(prediction: Array, truth: Array, data_range: float = 1.0) -> Fit:
    """Bring the prediction nearest to the truth by a straight line that does not fall: forgives scale and offset.

    Both (N,) in [0, data_range], and so is the result. A falling line would turn the picture over, which no display
    window does: the best that does not fall is then the mean of the truth, one grey.
    """
    x, t = prediction.astype(np.float64), truth.astype(np.float64)
    variance = x.var()
    slope = float(((x - x.mean()) * (t - t.mean())).mean() / variance) if variance > 0 else 0.0
    line = t.mean() + max(slope, 0.0) * (x - x.mean())
    return Fit(np.clip(line, 0, data_range).astype(np.float32), slope)


class Edges(NamedTuple):
    """How sharp an image is beside another, and whether its edges lie in the same places.

    ratio        EDGE: 1 is as sharp, less is smoother
    correlation  EDGE_R, Pearson's, -1 to 1; 0 for an image with the same gradient everywhere, None for such a truth
    """

    ratio: float
    correlation: float | None


def edges(prediction: Array, truth: Array, mask: Mask, *, slices: bool = False) -> Edges | None:
    """Compare the gradients in the slice, deep inside the mask.

    prediction, truth  (I, J, K) in one unit, K counting axial slices
    mask               (I, J, K) bool; it is eroded EROSION times by the voxels that share a face (`slices`: in the
                       slice), so that the rim of the brain, which both images have, decides nothing

    With d_i = (v(i+1) - v(i-1)) / 2 and d_j likewise, the ratio is that of the means of (|d_i| + |d_j|) / 2 over what
    is left of the mask, and the correlation that of sqrt(d_i^2 + d_j^2). Blur lowers the ratio more than the
    correlation, noise raises it and lowers the correlation. None where nothing is left, or the truth is flat.
    """
    deep = eroded(mask, axes=(0, 1) if slices else (0, 1, 2))
    made, true = ([_central(image, axis)[deep] for axis in (0, 1)] for image in (prediction, truth))
    there = sum(float(np.abs(step).sum()) for step in true)
    if there == 0:
        return None
    a, b = np.hypot(*made), np.hypot(*true)
    spread = float(a.std() * b.std())
    correlation = float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 1e-12 else 0.0
    return Edges(sum(float(np.abs(step).sum()) for step in made) / there, correlation if b.std() > 1e-6 else None)


def eroded(mask: Mask, axes: tuple[int, ...] = (0, 1, 2), times: int = EROSION) -> Mask:
    """Voxels whose neighbours along the axes, `times` steps away by faces, are all in the mask; the edge is outside."""
    for _ in range(times):
        inner = mask.copy()
        for axis in axes:
            ahead, behind = _along(axis, slice(1, None)), _along(axis, slice(None, -1))
            inner[ahead] &= mask[behind]
            inner[behind] &= mask[ahead]
            inner[_along(axis, slice(0, 1))] = inner[_along(axis, slice(-1, None))] = False
        mask = inner
    return mask


def _central(image: NDArray[Any], axis: int) -> Exact:
    """Half the difference of the two neighbours along an axis, (I, J, K); 0 at the ends."""
    change = np.zeros(image.shape)
    middle = _along(axis, slice(1, -1))
    change[middle] = (image[_along(axis, slice(2, None))].astype(np.float64) - image[_along(axis, slice(None, -2))]) / 2
    return change


def ssim_map(a: Array, b: Array, *, data_range: float = 1.0, slices: bool = False) -> Array:
    """Structural similarity around every voxel, (I, J, K): Wang et al. 2004, eq. 13, K1 = 0.01, K2 = 0.03.

    a, b    (I, J, K) in [0, data_range]; beyond the edge of the volume there is background, zero
    slices  True: the window lies in a slice, 11x11 voxels; else 11x11x11

    Where both images are zero in the whole window SSIM is exactly 1, so only the box around what is not zero is
    computed, slab by slab. The values are those of MONAI's `compute_ssim_and_cs`, which convolves with all 1331 weights
    of the window; here it is taken apart into three times 11, since a Gaussian is the product of its axes. Measured on
    240x240x155, one thread: 0.9 s and 0.1 GB with a brain inside (MONAI 9.7 s), 2.8 s and 0.2 GB with no zero at all.
    """
    similarity = np.ones(a.shape, np.float32)
    content = (a != 0) | (b != 0)
    if not content.any():
        return similarity
    axes = (0, 1) if slices else (0, 1, 2)
    i, j, k = (extent(content, axis, WINDOW // 2 if axis in axes else 0) for axis in range(3))
    for start in range(i.start, i.stop, SLAB):
        stop = min(start + SLAB, i.stop)
        reach = slice(max(start - WINDOW // 2, i.start), min(stop + WINDOW // 2, i.stop))  # beyond the box all is zero
        x, y = (np.ascontiguousarray(v[reach, j, k], dtype=np.float64) for v in (a, b))
        values = _ssim(x, y, axes, data_range)
        similarity[start:stop, j, k] = values[start - reach.start : stop - reach.start]
    return similarity


def interior(shape: tuple[int, ...], *, slices: bool = False) -> tuple[slice, ...]:
    """Where the window fits into the volume, as scikit-image averages; an axis too short for one counts whole.

    An SSIM of a whole volume is the mean of its map in here.
    """
    sides = (WINDOW, WINDOW, 1 if slices else WINDOW)
    margins = [side // 2 if n >= side else 0 for n, side in zip(shape, sides, strict=True)]
    return tuple(slice(m, n - m) for n, m in zip(shape, margins, strict=True))


def _ssim(x: Exact, y: Exact, axes: tuple[int, ...], data_range: float) -> Exact:
    """The map for one slab, with the letters of the paper; zero beyond the slab.

    In double precision: a variance as a difference of squares, in single precision, is wrong by up to 3e-3 where an
    image is flat.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mu_x, mu_y, xx, yy, xy = (_blurred(v, axes) for v in (x, y, x * x, y * y, x * y))
    product, squares = mu_x * mu_y, mu_x * mu_x + mu_y * mu_y
    similarity: Exact = (2 * product + c1) / (squares + c1)
    similarity *= (2 * (xy - product) + c2) / (xx + yy - squares + c2)
    return similarity


def _blurred(x: Exact, axes: tuple[int, ...]) -> Exact:
    """The image under the window: a weighted mean around every voxel, zero beyond the edge."""
    half = np.exp(-0.5 * (np.arange(WINDOW // 2 + 1) / SIGMA) ** 2)
    weights = half / (half[0] + 2 * half[1:].sum())
    for axis in axes:
        blurred = weights[0] * x
        for distance, weight in enumerate(weights[1:], start=1):
            ahead, behind = _along(axis, slice(distance, None)), _along(axis, slice(None, -distance))
            blurred[behind] += weight * x[ahead]
            blurred[ahead] += weight * x[behind]
        x = blurred
    return x


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return tuple(part if other == axis else slice(None) for other in range(3))
