"""The planes in which a volume is cut into slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsynth.sampling import AXIAL, Plane
from mrsynth.scans.preparation import PreparationConfig

# the axes of (I, J, K), left-right, front-back and up-down, that become rows, columns and number of a slice
ORDER: Mapping[Plane, tuple[int, int, int]] = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}


def cut(volumes: NDArray[Any], plane: Plane) -> NDArray[Any]:
    """Volumes (..., I, J, K) seen as slices of a plane, (..., H, W, slices): a view of the same memory."""
    lead = volumes.ndim - 3
    return volumes.transpose(*range(lead), *(lead + axis for axis in ORDER[plane]))


def padded(slices: NDArray[Any], multiple: int, rows: int, background: int = 0) -> NDArray[Any]:
    """Slices with background behind their rows (the axis of that number) and columns, up to such a multiple."""
    ends = [(0, -n % multiple) if rows <= axis <= rows + 1 else (0, 0) for axis, n in enumerate(slices.shape)]
    return np.pad(slices, ends, constant_values=background) if any(after for _, after in ends) else slices


def cannot_be_cut(preparation: PreparationConfig, planes: Sequence[Plane]) -> str:
    """Why volumes prepared so have no slices of these planes under their names, in words; empty when they have."""
    kinds = ["LR", "PA", "IS"]
    if tuple(planes) == AXIAL or all(axis in kind for axis, kind in zip(preparation.axes, kinds, strict=True)):
        return ""
    return f"axes {preparation.axes}: expected left-right, front-back and up-down in this order, as in LPS"
