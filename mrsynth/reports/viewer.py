"""The viewer inside a page: volumes as sheets of slices, for the script `templates/viewer.js`.

A sheet is a PNG of the axial slices of the brain's box, in rows, in 256 steps from one end of the panel's window to the
other. Lossless because a step of grey should be one step of 1/255 of the window and not an artefact of the compression;
of grey, a PNG is a fifth smaller than a lossless WebP and takes a fourth of the time.
"""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrsynth.plain import Mask
from mrsynth.reports.montage import MAPS, Panel, colour_table, extent, scale_end
from mrsynth.scans.views import grey, png

LARGEST = 16383  # pixels along one side of what a browser decodes


class SubjectPicture(NamedTuple):
    """One contrast that was made, beside what it was made from: a montage as PNG, and what `viewer_data` gives."""

    png: bytes
    viewer: Any | None = None


def viewer_data(panels: Sequence[Panel], mask: Mask, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Any:
    """What the script reads, as plain data: geometry of the box, and for each panel its sheet and its window.

    panels    (I, J, K) each, axes LPS, as in the montage
    mask      (I, J, K) bool, the brain: the sheets hold its box and the margin of the montage
    spacing   millimetres along I, J, K
    """
    mask = mask if mask.any() else np.ones_like(mask)
    box = tuple(extent(mask, axis) for axis in range(3))
    shape = [s.stop - s.start for s in box]
    columns = _columns(shape)
    return {
        "shape": shape,
        "first": [s.start for s in box],
        "spacing": list(spacing),
        "columns": columns,
        "layers": [_layer(panel, mask, box, columns) for panel in panels],
    }


def _layer(panel: Panel, mask: Mask, box: tuple[slice, ...], columns: int) -> dict[str, Any]:
    """The window in u runs from 0 to `end`; `low` and `high` are the values of the panel's file there."""
    end = scale_end(panel.voxels[mask]) if panel.kind in MAPS else 1.0
    levels = grey(panel.voxels[box], end)
    low, high = panel.ends
    return {
        "title": panel.title,
        "kind": panel.kind,
        "low": low,
        "high": low + (high - low) * end,
        "colours": colour_table(MAPS[panel.kind]).tolist() if panel.kind in MAPS else None,
        "sheet": "data:image/png;base64," + b64encode(png(sheet(levels, columns))).decode("ascii"),
    }


def sheet(voxels: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """(I, J, K) -> its axial slices as seen from below, J downwards, `columns` of them beside each other."""
    i, j, k = voxels.shape
    rows = -(-k // columns)
    slices = np.zeros((rows * columns, j, i), np.uint8)
    slices[:k] = voxels.transpose(2, 1, 0)
    return slices.reshape(rows, columns, j, i).transpose(0, 2, 1, 3).reshape(rows * j, columns * i)


def _columns(shape: Sequence[int]) -> int:
    """So many slices beside each other that the sheet is about square, within what a browser decodes."""
    i, j, k = shape
    return int(np.clip(round((k * j / i) ** 0.5), 1, max(1, min(k, LARGEST // i))))
