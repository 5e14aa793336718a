"""The picture of README.md: what a checkpoint makes of one subject, beside what it was made from and beside the truth.

usage: python runs/measure/picture.py SUBJECT_DIR OUT.png TARGET [TARGET ...]

One row a TARGET: the three other contrasts, the synthetic image by the default of `mrsynth complete`, the true one, in
one axial plane: that with the most of the segmentation, else the middle one. Images are windowed as in a report.
SUBJECT_DIR must have all four contrasts, and a licence that allows to show it.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.subjects import load_subject
from mrsynth.plain import Array, Mask
from mrsynth.reports.montage import extent
from mrsynth.scans.subject import Subject
from mrsynth.scans.views import View, grey, plane, png
from mrsynth.scores.baselines import as_input, placed
from mrsynth.scores.metrics import to_unit
from mrsynth.tasks.complete.run import complete_subject, load_method

CHECKPOINT = "committee-ship"
CELL = 178  # pixels wide
HEAD, GAP = 24, 4
INK, ALARM, PAPER = (232, 232, 232), (255, 90, 79), (11, 11, 13)


def main() -> None:
    """Make the picture."""
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    subject = load_subject(Path(sys.argv[1]), segmentation=True)
    trained, rows = load_method(CHECKPOINT), []
    view = View.of(subject)
    k = cut(subject, view)
    for target in map(Contrast, sys.argv[3:]):
        made = complete_subject(subject.without(target), trained, [target])
        shown = [(c.label, placed(subject, as_input(subject, c)).voxels) for c in STANDARD if c is not target]
        shown.append((f"SYNTHETIC {target.label}", made.in_u(target)))
        shown.append((f"true {target.label}", to_unit(subject.volumes[target].voxels, None)))
        rows.append([(title, cell(view.shown(u), view.mask, k)) for title, u in shown])
    Path(sys.argv[2]).write_bytes(png(sheet(rows), {"Software": "mrsynth", "Title": f"SYNTHETIC, {subject.name}"}))


def cut(subject: Subject, view: View) -> int:
    """Along K."""
    if subject.segmentation is not None:
        return int(view.turn.apply(subject.segmentation.voxels > 0).sum(axis=(0, 1)).argmax())
    filled = np.flatnonzero(view.mask.any(axis=(0, 1)))
    return int(filled[len(filled) // 2])


def cell(u: Array, mask: Mask, k: int) -> Image.Image:
    """One axial plane within the brain's box, CELL pixels wide."""
    box = (extent(mask, 0), extent(mask, 1))
    image = Image.fromarray(grey(np.ascontiguousarray(plane(u[box], 2, k))))
    return image.resize((CELL, round(CELL * image.height / image.width)), Image.Resampling.BICUBIC)


def sheet(rows: list[list[tuple[str, Image.Image]]]) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """All cells, each below its title; what is synthetic framed in red."""
    height = rows[0][0][1].height + HEAD + GAP
    page = Image.new("RGB", (len(rows[0]) * (CELL + GAP) + GAP, len(rows) * height + GAP), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for row, cells in enumerate(rows):
        for column, (title, image) in enumerate(cells):
            x, y = GAP + column * (CELL + GAP), GAP + row * height + HEAD
            page.paste(image, (x, y))
            alarm = title.startswith("SYNTHETIC")
            draw.text((x + CELL / 2, y - HEAD / 2), title, ALARM if alarm else INK, font, anchor="mm")
            if alarm:
                draw.rectangle((x, y, x + CELL - 1, y + image.height - 1), outline=ALARM, width=2)
    return np.asarray(page)


if __name__ == "__main__":
    main()
