"""CT: from Hounsfield units to u in [0, 1] by a fixed window, and the images that are not in these units.

Water is 0 and air -1000 on every scanner, so a CT is never scaled by quantiles, as an MR has to be.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.plain import Array, Mask
from mrsynth.scans.foreground import HEAD_ABOVE_HU, value_around

Window = tuple[float, float]

HOUNSFIELD: Window = (-1024.0, 2000.0)  # from the fill of scanners, below air, to what little of a skull is beyond
LEAST_AIR_HU = -1100.0  # below this only the fill outside a scanner's field of view is found
DENSE_HU = 2000.0
DENSE_SHARE = 0.05  # of what is no air: metal and the densest bone of a head stay below
OFFSET = 1024  # what scanners add to store whole numbers from 0 on


def window_of(contrast: Contrast, window: Window = HOUNSFIELD) -> Window | None:
    """The fixed window of a contrast; None for those that have none, which are all but CT."""
    return window if contrast is Contrast.CT else None


def to_window(voxels: NDArray[Any], window: Window) -> Array:
    """u = clip((v - low) / (high - low), 0, 1) of voxels in Hounsfield units, of any shape, float32."""
    low, high = window
    u: Array = np.clip((voxels.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    return u


def rule_in_words(window: Window) -> str:
    """What `to_window` does, for reports."""
    return f"of a CT, u = clip((v - {window[0]:g}) / {window[1] - window[0]:g}, 0, 1), v in Hounsfield units"


def clipped_share(voxels: Array, window: Window) -> float:
    """Share of the voxels that are no air which lie above the window: metal, the densest bone, or a narrow window."""
    head = voxels[voxels > HEAD_ABOVE_HU]
    return float(np.mean(head > window[1])) if head.size else 0.0


def check_hounsfield(name: str, voxels: Array, window: Window) -> None:
    """Raise InputError unless a CT, (I, J, K), is in Hounsfield units and shows something inside the window.

    Found out: 1024 added, as many files have it; scaled to [0, 1] or to 8 bits; 0 around the head, which is water.
    Single voxels outside the window, such as metal, are no fault: they are clipped.
    """
    low, high = float(voxels.min()), float(voxels.max())
    found = f"{name}: CT from {low:g} to {high:g}"
    if not np.any((voxels >= LEAST_AIR_HU) & (voxels <= HEAD_ABOVE_HU)):
        raise InputError(
            f"{found}, with no voxel of air between {LEAST_AIR_HU:g} and {HEAD_ABOVE_HU:g}; expected Hounsfield units, "
            f"in which air is near -1000 and water 0. {_what_to_do(low, high)}"
        )
    fill = value_around(voxels)
    if fill is not None and fill > HEAD_ABOVE_HU:
        raise InputError(
            f"{found}, and {fill:g} on most of its outer faces; expected air there, near -1000 Hounsfield units "
            f"(0 is water). Set the background to {window[0]:g}."
        )
    if not np.any((voxels > max(window[0], HEAD_ABOVE_HU)) & (voxels < window[1])):
        raise InputError(
            f"{found}: expected a head inside the window from {window[0]:g} to {window[1]:g} Hounsfield units, found "
            "nothing but what is outside it. Check that the file is the CT, or train with another "
            "preparation.hounsfield."
        )
    most = max(DENSE_HU, window[1])
    dense = clipped_share(voxels, (window[0], most))
    if dense > DENSE_SHARE:
        raise InputError(
            f"{found}, with {dense:.0%} of all that is no air above {most:g}; expected at most {DENSE_SHARE:.0%} in "
            "Hounsfield units, for metal and the densest bone. Give the CT with its rescale slope and intercept "
            "applied."
        )


def _what_to_do(low: float, high: float) -> str:
    if low >= -1.5 and high <= 1.5:
        return "It looks scaled to a range of about 1: give the CT as it was before."
    if low >= -100 and high > OFFSET:
        return (
            f"It looks as if {OFFSET} had been added, which makes air about 0: subtract {OFFSET} (the rescale "
            "intercept of the scanner), or set a background of 0 to -1024 if that is all that is wrong."
        )
    return (
        "If the background was set to 0, set it to -1024; if the values were scaled or windowed, give the CT as it was "
        "before."
    )


def without_holes(mask: Mask) -> Mask:
    """(I, J, K): the mask, and all that it encloses. Air in a head is enclosed, and bone that is black in an MR."""
    import SimpleITK  # here, so that reading a configuration does not wait for it

    sitk: Any = SimpleITK  # it has no types
    padded = np.pad(mask, 1).astype(np.uint8)  # what touches the edge of the volume is no hole
    filled: Mask = sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(padded))) != 0
    return filled[1:-1, 1:-1, 1:-1]
