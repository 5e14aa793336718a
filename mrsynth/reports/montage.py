"""The montage of a report: acquired and synthetic images side by side, as PNG bytes.

Columns are images, rows are cuts: axial slices spread over the brain, then one coronal and one sagittal cut, where
errors between slices would show. Radiological convention: the patient's right is on the left of the picture, anterior
is up. Made with matplotlib's Agg canvas alone: no pyplot, no global state, no window system.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mrsynth.plain import Array, Mask
from mrsynth.scans.views import plane, png
from mrsynth.scores import metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["input", "synthetic", "reference", "uncertainty", "difference"]

AXIAL_CUTS = 4
WIDTH = 1300  # pixels of the widest picture; fewer columns than fill it make a narrower one
LARGEST_ZOOM = 2.0  # pixels per millimetre
MARGIN = 3  # voxels around the brain
DPI = 100
INK, PAPER, ALARM, QUIET = "#e8e8e8", "#0b0b0d", "#ff5a4f", "#9aa0a8"
MAPS: dict[Kind, str] = {"uncertainty": "inferno", "difference": "magma"}  # the others are grey, 0 to 1
SCALES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # ends of colour bars


@dataclass(frozen=True, eq=False)
class Panel:
    """One column. `voxels` (I, J, K) with axes LPS; in [0, 1] (difference: the absolute difference of two such).

    ends   what 0 and 1 are in the numbers of the panel's file
    """

    title: str
    voxels: Array
    kind: Kind = "input"
    ends: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Cut:
    """One row: the plane with this index along this axis."""

    axis: Literal[0, 1, 2]
    index: int

    @property
    def name(self) -> str:
        """`axial 71`."""
        return f"{('sagittal', 'coronal', 'axial')[self.axis]} {self.index}"

    def of(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """The plane as seen, (rows, columns), first row on top."""
        return plane(voxels, self.axis, self.index)

    @property
    def edges(self) -> tuple[str, str]:
        """What lies on the left and on the right of the picture."""
        return ("A", "P") if self.axis == 0 else ("R", "L")


def spread(mask: Mask, count: int = AXIAL_CUTS) -> list[int]:
    """Indices along K that cut the mask (I, J, K) into `count + 1` parts of equal volume."""
    return [_quantile(mask, 2, (n + 1) / (count + 1)) for n in range(count)]


def montage(
    panels: Sequence[Panel],
    mask: Mask,
    *,
    slices: Sequence[int] | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> bytes:
    """Draw every panel, cut at the same places, and return the PNG.

    mask      (I, J, K) bool, the brain: the picture is cropped to it, and cuts and colour scales come from it
    slices    the axial cuts; by default four spread over the brain
    spacing   millimetres along I, J, K
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not panels or any(p.voxels.shape != mask.shape for p in panels):
        raise ValueError(f"panels and mask must share one shape: {[p.voxels.shape for p in panels]}, {mask.shape}")
    mask = mask if mask.any() else np.ones_like(mask)
    cuts = [Cut(2, k) for k in (spread(mask) if slices is None else slices)]
    cuts += [Cut(1, _quantile(mask, 1, 0.5)), Cut(0, _quantile(mask, 0, 0.45))]  # 0.5 would be the gap between halves
    box = tuple(extent(mask, axis, [c.index for c in cuts if c.axis == axis]) for axis in range(3))

    layout = _Layout(len(panels), cuts, [(s.stop - s.start) * mm for s, mm in zip(box, spacing, strict=True)])
    figure = Figure(figsize=(layout.width / DPI, layout.height / DPI), dpi=DPI, facecolor=PAPER)
    canvas: Any = FigureCanvasAgg(figure)
    for column, panel in enumerate(panels):
        _draw_column(figure, layout, column, panel, mask, box, cuts)
    for row, cut in enumerate(cuts):
        x, y, _, height = layout.cell(0, row)
        figure.text(x / 3, y + height / 2, cut.name, color=QUIET, fontsize=8, rotation=90, ha="left", va="center")
    canvas.draw()
    return png(np.asarray(canvas.buffer_rgba())[..., :3])


def preview(montages: Sequence[bytes], texts: Mapping[str, str]) -> bytes:
    """Montages one below the other in one PNG, which says `texts` of itself."""
    from PIL import Image

    pictures = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in montages]
    width = max(picture.shape[1] for picture in pictures)
    paper = np.array([int(PAPER[n : n + 2], 16) for n in (1, 3, 5)], np.uint8)
    sheet = np.empty((sum(len(picture) for picture in pictures), width, 3), np.uint8)
    sheet[:] = paper
    top = 0
    for picture in pictures:
        sheet[top : top + len(picture), : picture.shape[1]] = picture
        top += len(picture)
    return png(sheet, texts)


class _Layout:
    """Where things are, as fractions of the figure, origin at the bottom left: what `Figure.add_axes` takes."""

    left, top, bottom, gap = 24, 46, 44, 4  # pixels: row names, titles, colour bars, between the cells

    def __init__(self, columns: int, cuts: Sequence[Cut], size: Sequence[float]) -> None:
        """Choose the zoom; `size` is the extent of the brain along I, J, K in millimetres."""
        i, j, k = size
        widest = max(i, j)  # sagittal planes are as wide as J
        zoom = min(LARGEST_ZOOM, (WIDTH - self.left - columns * self.gap) / (columns * widest))
        self.cell_width = zoom * widest
        self.extents = [{0: (k, j), 1: (k, i), 2: (j, i)}[cut.axis] for cut in cuts]  # millimetres high and wide
        self.heights = [zoom * high for high, _ in self.extents]
        self.width = round(self.left + columns * (self.cell_width + self.gap))
        self.height = round(self.top + self.bottom + sum(self.heights) + self.gap * len(cuts))

    def cell(self, column: int, row: int) -> tuple[float, float, float, float]:
        x = self.left + column * (self.cell_width + self.gap)
        y = self.height - self.top - sum(self.heights[: row + 1]) - self.gap * row
        return self._fractions(x, y, self.cell_width, self.heights[row])

    def column(self, column: int) -> tuple[float, float, float, float]:
        """All cells of a column together."""
        x, y, width, _ = self.cell(column, len(self.heights) - 1)
        return x, y, width, 1 - self.top / self.height - y

    def colour_bar(self, column: int) -> tuple[float, float, float, float]:
        x = self.left + column * (self.cell_width + self.gap)
        return self._fractions(x + 0.1 * self.cell_width, 26, 0.8 * self.cell_width, 9)

    def _fractions(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        return x / self.width, y / self.height, width / self.width, height / self.height


def _draw_column(
    figure: "Figure",
    layout: _Layout,
    column: int,
    panel: Panel,
    mask: Mask,
    box: tuple[slice, ...],
    cuts: Sequence[Cut],
) -> None:
    """Title, one cell per cut, a red frame if synthetic, a colour bar if not an image."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    coloured = panel.kind in MAPS
    colours = MAPS.get(panel.kind, "gray")
    end = scale_end(panel.voxels[mask]) if coloured else 1.0
    scale = Normalize(0, end)
    for row, cut in enumerate(cuts):
        axes = figure.add_axes(layout.cell(column, row))
        axes.set_axis_off()
        pixels = Cut(cut.axis, cut.index - box[cut.axis].start).of(panel.voxels[box])
        high, wide = layout.extents[row]
        axes.imshow(
            pixels, cmap=colours, norm=scale, extent=(0, wide, 0, high)
        )  # millimetres: voxels need not be cubes
        for x, side, letter in ((0.02, "left", cut.edges[0]), (0.98, "right", cut.edges[1])):
            axes.text(x, 0.98, letter, transform=axes.transAxes, color=INK, fontsize=8, ha=side, va="top")

    x, y, width, height = layout.column(column)
    synthetic = panel.kind == "synthetic"
    lines = ("SYNTHETIC", panel.title) if synthetic else ("", panel.title)
    for line, up in zip(lines, (26, 8), strict=True):
        figure.text(
            x + width / 2,
            y + height + up / layout.height,
            line.replace("$", r"\$"),  # or matplotlib would read formulas
            color=ALARM if synthetic else INK,
            fontsize=10,
            fontweight="bold" if synthetic else "normal",
            ha="center",
        )
    if synthetic:
        figure.add_artist(Rectangle((x, y), width, height, fill=False, edgecolor=ALARM, linewidth=2))
    if coloured:
        bar = figure.colorbar(
            ScalarMappable(scale, colours), cax=figure.add_axes(layout.colour_bar(column)), orientation="horizontal"
        )
        bar.set_ticks([0, end / 2, end])
        bar.ax.tick_params(colors=INK, labelsize=8, length=2)
        bar.outline.set_visible(False)


def scale_end(values: Array) -> float:
    """The first round number that leaves out less than one voxel in a hundred."""
    reached = float(np.quantile(values, 0.99))
    return next((end for end in SCALES if end >= reached), SCALES[-1])


def _quantile(mask: Mask, axis: int, fraction: float) -> int:
    """The index along an axis below which this fraction of the mask lies."""
    mass = mask.sum(axis=tuple(other for other in range(3) if other != axis)).cumsum()
    return int(np.searchsorted(mass, fraction * mass[-1]))


def extent(mask: Mask, axis: int, indices: Sequence[int] = ()) -> slice:
    """The stretch along an axis that holds the mask and a margin, and these indices."""
    brain = metrics.extent(mask, axis, MARGIN)
    return slice(min([brain.start, *indices]), max([brain.stop, *(i + 1 for i in indices)]))
