"""Intensity rules: from the units of a file to u in [0, 1], and the images no rule can make sense of."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.scans.foreground import background_of
from mrsynth.scans.volume import Volume

NEGATIVE_SHARE = 0.1  # of the total absolute intensity: ringing stays far below, z-scored images near 0.5
LOW, HIGH = 0.001, 0.999  # the quantiles of the released cWDM weights

IntensityRule = Literal["brain_quantile", "volume_quantiles"]
RULES: dict[IntensityRule, str] = {
    "brain_quantile": (
        "u = clip(v / q, 0, 1); q = {quantile:g} quantile of the contrast's voxels in the foreground; 0 outside it"
    ),
    "volume_quantiles": (
        "u = (clip(v, q0, q1) - offset) / scale; q0, q1 = 0.001 and 0.999 quantiles of the contrast's whole volume, "
        "background included; offset and scale = minimum and range of the clipped volume; 0 in the padding"
    ),
}


def brain_quantile(name: str, contrast: Contrast, inside: NDArray[np.float32], quantile: float) -> float:
    """The intensity that becomes u = 1: a quantile of the foreground voxels.

    inside  (N,) the voxels of the foreground, in the units of the file
    Raises InputError when it is of no use as a divisor.
    """
    scale = float(np.quantile(inside, quantile))
    if not scale > 0:
        raise InputError(
            f"{name}: the {100 * quantile:g}th percentile of {contrast.label} in the foreground is {scale:g}; expected "
            "a positive intensity. Nearly all of the image is 0 or negative: check it, or leave this contrast out."
        )
    return scale


def volume_quantile_unit(voxels: NDArray[Any], what: str = "the image") -> tuple[NDArray[np.float64], float, float]:
    """The rule of the released cWDM weights: clip to two quantiles of the whole volume, then stretch to [0, 1].

    voxels  (I, J, K), the whole file with its background, in its units; finite
    what    names the image in the message
    Gives u (I, J, K) float64, offset and scale: u * scale + offset are the clipped voxels.
    Raises InputError when nothing is left to stretch.
    """
    voxels = voxels.astype(np.float64)  # single precision moves the quantiles
    unit = np.clip(voxels, *np.quantile(voxels, (LOW, HIGH)))
    offset, high = float(unit.min()), float(unit.max())
    if not high > offset:
        raise InputError(
            f"{what} is {offset:g} in all of its volume but the {LOW:.1%} of the voxels at either end; expected an "
            "image of a brain. Check that it is whole and not a mask, and leave it out if it is."
        )
    scale = high - offset
    unit -= offset
    unit /= scale
    return unit, offset, scale


def check_contrast(name: str, contrast: Contrast, inside: NDArray[np.float32]) -> None:
    """Raise InputError when an image has one value in the whole foreground.

    inside  (N,) the voxels of the foreground
    """
    low, high = float(inside.min()), float(inside.max())
    if low == high:
        raise InputError(
            f"{name}: {contrast.label} is {low:g} in every voxel of the foreground; expected an image with contrast. "
            "Check that it is not a mask or an empty file, and leave it out if it is."
        )


def check_intensities(name: str, contrast: Contrast, volume: Volume, *, masked: bool = False) -> None:
    """Raise InputError unless the volume looks like a magnitude image on a background of zero.

    masked   a brain mask says what is outside, so that a background which is not 0 does no harm there
    A few negative voxels, as ringing leaves them, are fine; a negative background and z-scored intensities are not.
    """
    voxels = volume.voxels
    background = background_of(volume)
    if background < 0 or (background > 0 and not masked):
        raise InputError(
            f"{name}: {contrast.label} background is {background:g}; mrsynth expects exactly 0 outside "
            "the brain (a skull-stripped image). Set the background to 0, or multiply the image by its brain mask."
        )
    low, high = float(voxels.min()), float(voxels.max())
    if low < 0:
        negative = -float(np.minimum(voxels, 0).sum(dtype=np.float64))
        total = float(np.abs(voxels).sum(dtype=np.float64))
        if negative > NEGATIVE_SHARE * total:
            raise InputError(
                f"{name}: {contrast.label} has large negative intensities (from {low:g} to {high:g}, "
                f"{negative / total:.0%} of the signal); mrsynth expects a magnitude image that is 0 outside the brain "
                "and positive inside. Give the image as it was before intensity normalisation (z-scoring)."
            )
