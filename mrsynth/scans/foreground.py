"""What of an image is brain and what is background, told for each contrast by itself, and then compared.

A skull-stripped image is exactly 0 outside the brain, and then every voxel that is not 0 is foreground. Resampling
leaves dust there: values that are nowhere exactly 0, far below any of the brain. Where there is much of it, it is
background.
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.plain import Mask
from mrsynth.scans.volume import Volume

HEAD_ABOVE_HU = -500.0  # Hounsfield units: half way from air (-1000) to water (0)
DUST = 1e-3  # of the 99.5th percentile: no tissue is so dark beside the brightest
DUSTY = 0.05  # so much dust, as a share of what is brighter, is no matter of a few dark voxels at the edge
QUANTILE = 0.995
LACKS = 0.03  # of the brain of all contrasts together, that one may lack before it is told
LARGER = 1.15  # times the foreground of the others, from which on one contrast is said to show more than a brain


def shown(contrast: Contrast, volume: Volume) -> NDArray[np.bool_]:
    """(I, J, K) bool: where an image is not background: not 0 nor dust, and in a CT no air."""
    voxels = volume.voxels
    if contrast is Contrast.CT:
        return voxels > HEAD_ABOVE_HU
    there: NDArray[np.bool_] = voxels != 0
    probe = voxels[::3, ::3, ::3]  # enough to see whether there is much of it
    if not _has_dust(probe, DUST * _largest(voxels)):
        return there
    limit = DUST * float(np.quantile(np.abs(voxels[there]), QUANTILE))
    return np.abs(voxels) > limit if _has_dust(probe, limit) else there


def shown_by_any(volumes: Mapping[Contrast, Volume]) -> NDArray[np.bool_]:
    """(I, J, K) bool: where any of some images on one grid, at least one, is not background."""
    return reduce(np.logical_or, (shown(c, v) for c, v in volumes.items()))  # NumPy's own reduce would stack them


def _largest(voxels: NDArray[np.float32]) -> float:
    return max(float(voxels.max()), -float(voxels.min()))


def _has_dust(voxels: NDArray[np.float32], limit: float) -> bool:
    size = np.abs(voxels)
    bright = int(np.count_nonzero(size > limit))
    return int(np.count_nonzero(size)) - bright > DUSTY * bright


def background_of(volume: Volume) -> float:
    """The value that most of the six faces of an image share, above all dust; 0 where there is none."""
    value = value_around(volume.voxels)
    return value if value and abs(value) > DUST * _largest(volume.voxels) else 0.0


def value_around(voxels: NDArray[np.float32]) -> float | None:
    """The value that most voxels of the six outer faces (I, J, K) share; None where there is none."""
    values, counts = np.unique(np.concatenate([face.ravel() for face in _faces(voxels)]), return_counts=True)
    return float(values[counts.argmax()]) if 2 * counts.max() > counts.sum() else None


def shows_air(contrast: Contrast, volume: Volume) -> bool:
    """Whether most of each of the six faces is neither 0, dust, nor one other value: noise, around a whole head.

    However tightly a brain is cut out, the faces of its box are mostly empty.
    """
    if contrast is Contrast.CT or not fills_its_faces(volume.voxels) or background_of(volume):
        return False
    return fills_its_faces(shown(contrast, volume))


def fills_its_faces(image: NDArray[Any]) -> bool:
    """Whether more than half of each outer face of an image (I, J, K) is not 0."""
    return all(2 * np.count_nonzero(face) > face.size for face in _faces(image))


def _faces(image: NDArray[Any]) -> list[NDArray[Any]]:
    """Views: `take` would copy all of an array as files hold it."""
    return [np.moveaxis(image, axis, 0)[end] for axis in range(3) for end in (0, -1)]


def shown_by_each(volumes: Mapping[Contrast, Volume], mask: Mask | None = None) -> dict[Contrast, Mask]:
    """Where each contrast shows something: (I, J, K) bool, of all but a CT, whose air is no background.

    mask  (I, J, K) bool: what counts at all
    """
    return {c: shown(c, v) if mask is None else shown(c, v) & mask for c, v in volumes.items() if c is not Contrast.CT}


def differences(seen: Mapping[Contrast, Mask]) -> list[str]:
    """Which contrast shows less than the others, or more, and how much, in sentences; empty where they agree.

    seen  by `shown_by_each`
    """
    if len(seen) < 2:
        return []
    told = []
    for contrast, own in seen.items():
        others = [other for c, other in seen.items() if c is not contrast]
        size = float(max(int(other.sum()) for other in others))  # one that shows a part only makes no other larger
        if int(own.sum()) > LARGER * size > 0:
            names = ", ".join(c.label for c in seen if c is not contrast)
            told.append(
                f"The foreground of {contrast.label} is {int(own.sum()) / size:.2f} times that of {names}: is its "
                "skull still there, or its background not 0? What it alone shows is painted, too."
            )
            continue
        common = reduce(np.logical_and, others)
        lacking = int((common & ~own).sum()) / max(int(common.sum()), 1)
        if lacking > LACKS:
            told.append(
                f"{contrast.label} lacks {lacking:.0%} of the brain that the other contrasts show: it covers a part "
                "only, or is 0 there. What is made in that part is inferred without it."
            )
    return told
