"""The montage of a report: acquired and synthetic images side by side, as PNG bytes.

Columns are images, rows are cuts: axial slices spread over the brain, then one coronal and one sagittal cut, where
errors between slices would show; of a thin slab axial slices alone. Radiological convention: the patient's right is on
the left of the picture, anterior is up. Drawn with Pillow, in a tenth of matplotlib's time, which gives the colours of
maps alone.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from mrsynth.plain import Array, Mask
from mrsynth.scans.views import grey, plane, png, saying
from mrsynth.scans.volume import extent as extent_of

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

Kind = Literal["input", "synthetic", "reference", "uncertainty", "difference"]

AXIAL_CUTS = 4
WIDTH = 1300  # pixels of the widest picture; fewer columns than fill it make a narrower one
LARGEST_ZOOM = 2.0  # pixels per millimetre
MARGIN = 3  # voxels around the brain
THINNEST_MM = 30.0  # of a slab that is cut across: what is thinner is a stripe
TITLE, SMALL = 14, 11  # pixels of text
INK, PAPER, ALARM, QUIET = "#e8e8e8", "#0b0b0d", "#ff5a4f", "#9aa0a8"
MAPS: dict[Kind, str] = {"uncertainty": "inferno", "difference": "magma"}  # the others are grey, 0 to 1
SCALES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # ends of colour bars


@dataclass(frozen=True, eq=False)
class Panel:
    """One column. `voxels` (I, J, K) with axes LPS; in [0, 1] (difference: the absolute difference of two such).

    ends   what 0 and 1 are in the numbers of the panel's file
    note   a warning that stands in the picture itself, at the foot of the first cut
    """

    title: str
    voxels: Array
    kind: Kind = "input"
    ends: tuple[float, float] = (0.0, 1.0)
    note: str = ""


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
    from PIL import Image, ImageDraw

    if not panels or any(p.voxels.shape != mask.shape for p in panels):
        raise ValueError(f"panels and mask must share one shape: {[p.voxels.shape for p in panels]}, {mask.shape}")
    mask = mask if mask.any() else np.ones_like(mask)
    cuts = [Cut(2, k) for k in (spread(mask) if slices is None else slices)]
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    if (filled[-1] - filled[0] + 1) * spacing[2] >= THINNEST_MM:
        cuts += [Cut(1, _quantile(mask, 1, 0.5)), Cut(0, _quantile(mask, 0, 0.45))]  # 0.5: the gap between halves
    box = tuple(extent(mask, axis, [c.index for c in cuts if c.axis == axis]) for axis in range(3))

    layout = _Layout(len(panels), cuts, [(s.stop - s.start) * mm for s, mm in zip(box, spacing, strict=True)])
    picture = Image.new("RGB", (layout.width, layout.height), PAPER)
    draw = ImageDraw.Draw(picture)
    for column, panel in enumerate(panels):
        end = scale_end(panel.voxels[mask]) if panel.kind in MAPS else 1.0
        for row, cut in enumerate(cuts):
            pixels = Cut(cut.axis, cut.index - box[cut.axis].start).of(panel.voxels[box])
            x, y, width, height = layout.cell(column, row)
            cell = Image.fromarray(coloured(pixels, panel.kind, end)).resize((width, height), Image.Resampling.BICUBIC)
            picture.paste(cell, (x, y))
            left, right = cut.edges
            start, _, whole, _ = layout.frame(column)
            draw.text((start + 3, y + 2), left, INK, font(SMALL), anchor="lt")
            draw.text((start + whole - 3, y + 2), right, INK, font(SMALL), anchor="rt")
            if panel.note and row == 0:
                foot, lines = (start + whole / 2, y + height - 4), wrapped(draw, panel.note, whole - 8)
                draw.multiline_text(foot, lines, ALARM, font(SMALL), anchor="md", align="center")
        _draw_titles(draw, layout, column, panel)
        if panel.kind in MAPS:
            _draw_colour_bar(picture, draw, layout, column, panel.kind, end)
    for row, cut in enumerate(cuts):
        _, y, _, height = layout.cell(0, row)
        name = Image.new("RGB", (height, SMALL + 4), PAPER)
        ImageDraw.Draw(name).text((height / 2, SMALL / 2 + 2), cut.name, QUIET, font(SMALL), anchor="mm")
        picture.paste(name.transpose(Image.Transpose.ROTATE_90), (4, y))
    return png(np.asarray(picture))


def coloured(values: Array, kind: Kind, end: float) -> NDArray[np.uint8]:
    """Values (rows, columns) from 0 to `end` as (rows, columns, 3) in red, green and blue: grey, or the kind's map."""
    levels = grey(values, end)
    return colour_table(MAPS[kind])[levels] if kind in MAPS else np.repeat(levels[..., None], 3, axis=2)


@cache
def colour_table(name: str) -> NDArray[np.uint8]:
    """(256, 3): a colour map of matplotlib, red, green and blue from 0 to 255."""
    from matplotlib import colormaps

    table: Array = np.asarray(colormaps[name](np.arange(256)))[:, :3]
    return np.rint(table * 255).astype(np.uint8)


@cache
def font(size: int) -> "FreeTypeFont":
    """That which comes with Pillow, at so many pixels."""
    from PIL import ImageFont

    return cast("FreeTypeFont", ImageFont.load_default(size))


def preview(montages: Sequence[bytes], texts: Mapping[str, str]) -> bytes:
    """Montages one below the other in one PNG, which says `texts` of itself."""
    from PIL import Image

    if len(montages) == 1:
        return saying(montages[0], texts)
    pictures = [Image.open(io.BytesIO(one)) for one in montages]
    size = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    sheet, top = Image.new("RGB", size, PAPER), 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return png(np.asarray(sheet), texts)


class _Layout:
    """Where things are, in pixels: left, top, width, height, from the top left corner of the picture."""

    left, top, bottom, gap = 24, 46, 44, 4  # row names, titles, colour bars, between the cells

    def __init__(self, columns: int, cuts: Sequence[Cut], size: Sequence[float]) -> None:
        """Choose the zoom; `size` is the extent of the brain along I, J, K in millimetres."""
        i, j, k = size
        widest = max(i, j)  # sagittal planes are as wide as J
        zoom = min(LARGEST_ZOOM, (WIDTH - self.left - columns * self.gap) / (columns * widest))
        self.cell_width = round(zoom * widest)
        extents = [{0: (k, j), 1: (k, i), 2: (j, i)}[cut.axis] for cut in cuts]  # millimetres high and wide
        self.sizes = [(max(1, round(zoom * high)), max(1, round(zoom * wide))) for high, wide in extents]
        self.width = self.left + columns * (self.cell_width + self.gap)
        self.height = self.top + self.bottom + sum(high + self.gap for high, _ in self.sizes)

    def cell(self, column: int, row: int) -> tuple[int, int, int, int]:
        """One cut, in the middle of its column."""
        x, y, _, _ = self.frame(column)
        high, wide = self.sizes[row]
        above = sum(high + self.gap for high, _ in self.sizes[:row])
        return x + (self.cell_width - wide) // 2, y + above, wide, high

    def frame(self, column: int) -> tuple[int, int, int, int]:
        """All cells of a column together."""
        x = self.left + column * (self.cell_width + self.gap)
        return x, self.top, self.cell_width, self.height - self.top - self.bottom - self.gap


def wrapped(draw: "ImageDraw", text: str, width: float) -> str:
    """A note in lines of at most so many pixels, where its words allow."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font(SMALL)) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _draw_titles(draw: "ImageDraw", layout: _Layout, column: int, panel: Panel) -> None:
    """The title of a column; what is synthetic says so, in a red frame."""
    x, y, width, height = layout.frame(column)
    synthetic = panel.kind == "synthetic"
    for line, up in ((panel.title, 12), *((("SYNTHETIC", 32),) if synthetic else ())):
        draw.text((x + width / 2, y - up), line, ALARM if synthetic else INK, font(TITLE), anchor="mm")
    if synthetic:
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=ALARM, width=2)


def _draw_colour_bar(picture: Any, draw: "ImageDraw", layout: _Layout, column: int, kind: Kind, end: float) -> None:
    """Below a column: the colours from 0 to `end`, with three marks."""
    from PIL import Image

    x, y, width, height = layout.frame(column)
    start, top, length = x + width // 10, y + height + 8, max(2, 8 * width // 10)
    ramp = np.broadcast_to(np.linspace(0, 1, length, dtype=np.float32), (9, length))
    picture.paste(Image.fromarray(coloured(ramp, kind, 1.0)), (start, top))
    for share in (0.0, 0.5, 1.0):
        mark = start + share * (length - 1)
        draw.line((mark, top + 9, mark, top + 11), INK)
        draw.text((mark, top + 14), f"{share * end:g}", INK, font(SMALL), anchor="mt")


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
    brain = extent_of(mask, axis, MARGIN)
    return slice(min([brain.start, *indices]), max([brain.stop, *(i + 1 for i in indices)]))
