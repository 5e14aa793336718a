"""Write docs/cards/ anew: the model card of every checkpoint that the manifest knows.

usage: python runs/measure/cards.py [--pictures [NAME ...]]

--pictures   also make the picture of each anew, or of those named, of a phantom with a glioma (some minutes of
             processor time): to be done whenever weights change. Without it the pictures that are there stay, and cards
             show them
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mrsynth.card import ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.data_sources import known_data
from mrsynth.io.store import manifest
from mrsynth.phantom.brain import PhantomConfig, phantom
from mrsynth.preference import is_at_hand
from mrsynth.reports.model_card import card_page
from mrsynth.reports.montage import Panel, montage
from mrsynth.scans.views import View
from mrsynth.scores.metrics import to_unit
from mrsynth.tasks.complete.run import complete_subject, load_method
from mrsynth.tasks.phantom_subjects import mni152

CARDS = Path(__file__).resolve().parents[2] / "docs" / "cards"
INDEX = """# Model cards

One page for every checkpoint that mrsynth knows by name, made from the manifest (`python runs/measure/cards.py`).
`mrsynth weights show NAME --card` prints the same without the picture, also of a file of your own.

"""
PHANTOM = PhantomConfig(seed=3, shape=(176, 208, 12))  # a slab through its tumour, 1 mm
CAPTION = (
    "A phantom with a glioma, made up from tissue maps, so that no scan is shown: inputs, what {name} makes of them, "
    "the truth and the difference. The network never saw this head. Greys are guessed, fine texture is gone, and a rim "
    "that enhances is missing where it belongs, or copied where it does not."
)
COLOURS = 256  # of a picture: half the bytes, and the colour scale stays even


def pages() -> dict[str, str]:
    """File name -> text, of the cards and their index."""
    entries = manifest()
    made = {f"{entry.name}.md": card_page(entry, known_data(entry)) + illustration(entry) for entry in entries}
    lines = [f"- [{entry.name}]({entry.name}.md): {entry.ability}" for entry in entries]
    return {"README.md": INDEX + "\n".join(lines) + "\n", **made}


def illustration(entry: ManifestEntry) -> str:
    """The picture beside the card, where there is one."""
    if not (CARDS / f"{entry.name}.png").exists():
        return ""
    return f"\n## A picture\n\n![{entry.name}]({entry.name}.png)\n\n{CAPTION.format(name=entry.name)}\n"


def picture(entry: ManifestEntry) -> bytes:
    """A contrast of the phantom made from the others: T1ce where it can be chosen. PNG."""
    subject = phantom(mni152(), PHANTOM)
    target = Contrast.T1CE if entry.requires is None else next(iter(entry.requires))
    made = complete_subject(subject.without(target), load_method(entry.name), [target]).in_u(target)
    view, truth = View.of(subject), to_unit(subject.volumes[target].voxels)
    panels = [
        Panel(c.label, view.shown(to_unit(subject.volumes[c].voxels)), "input") for c in STANDARD if c is not target
    ]
    panels.append(Panel(f"synthetic {target.label}", view.shown(made), "synthetic"))
    panels.append(Panel(f"true {target.label}", view.shown(truth), "reference"))
    panels.append(Panel("difference", view.shown(np.abs(truth - made)), "difference"))
    assert subject.segmentation is not None
    tumour = view.turn.apply(subject.segmentation.voxels > 0)
    drawn = montage(panels, view.mask, slices=[int(np.argmax(tumour.sum(axis=(0, 1))))], spacing=view.spacing)
    return small(drawn)


def small(png: bytes) -> bytes:
    """The same picture in few colours."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Write them; pages and pictures of checkpoints that are no more are removed."""
    CARDS.mkdir(exist_ok=True)
    known = {entry.name for entry in manifest()}
    for path in CARDS.glob("*.png"):
        if path.stem not in known:
            path.unlink()
    asked = sys.argv[1:]
    if asked[:1] == ["--pictures"]:
        for entry in (e for e in manifest() if is_at_hand(e) and (e.name in asked or len(asked) == 1)):
            (CARDS / f"{entry.name}.png").write_bytes(picture(entry))
    written = pages()
    for path in CARDS.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (CARDS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
