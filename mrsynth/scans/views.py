"""How volumes are looked at: which way round, in which greys, and as which bytes; whoever shows one shows it so."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mrsynth.plain import Array, Mask
from mrsynth.scans.grid import Orientation, Spacing
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import extent

AXES = "LPS"
STEPS = 255  # from black to white
HEAD = 33  # bytes of a PNG before its second chunk: signature, and size and kind of its pixels


@dataclass(frozen=True, eq=False)
class View:
    """A subject's grid turned to LPS. `mask` (I, J, K) bool is its foreground, `spacing` millimetres, both turned."""

    turn: Orientation
    mask: Mask
    spacing: Spacing

    @classmethod
    def of(cls, subject: Subject) -> "View":
        """That of a subject's own grid, with its foreground."""
        turn = Orientation.between(subject.reference.affine, AXES)
        return cls(turn, turn.apply(subject.foreground()), turn.spacing(subject.reference.spacing))

    def shown(self, u: Array) -> Array:
        """u on the subject's own grid as float32 (I, J, K) in LPS: within 0 and 1, and 0 outside the foreground."""
        shown: Array = np.zeros(self.mask.shape, np.float32)
        box = self._box  # the rest of a volume is most of it
        inside = np.clip(self.turn.apply(u)[box], 0, 1).astype(np.float32)
        shown[box] = np.where(self.mask[box], inside, np.float32(0))
        return shown

    @cached_property
    def _box(self) -> tuple[slice, ...]:
        """Where the foreground is."""
        return tuple(extent(self.mask, axis) for axis in range(3)) if self.mask.any() else (slice(0),) * 3


def plane(voxels: NDArray[Any], axis: Literal[0, 1, 2], index: int) -> NDArray[Any]:
    """A plane of an LPS volume as seen, (rows, columns), first row on top.

    I grows to the patient's left, J to posterior, K to superior: so right is on the left of the picture, anterior on
    top of axial and on the left of sagittal planes, superior on top of the others.
    """
    cut: NDArray[Any] = np.moveaxis(voxels, axis, 0)[index].T  # a view: `take` would copy all of a turned volume
    return cut if axis == 2 else cut[::-1]


def grey(values: NDArray[Any], end: float = 1.0) -> NDArray[np.uint8]:
    """0 is black and `end` white, in 256 steps."""
    return np.rint(np.clip(values / np.float32(end), 0, 1) * STEPS).astype(np.uint8)


def png(pixels: NDArray[np.uint8], texts: Mapping[str, str] | None = None) -> bytes:
    """A PNG of pixels (rows, columns) in grey, or (rows, columns, 3) in red, green and blue.

    texts   what the file says of itself, before its pixels: keyword -> text
    """
    from PIL import Image, PngImagePlugin  # here, so that reading a configuration does not wait for it

    said = PngImagePlugin.PngInfo()
    for keyword, text in (texts or {}).items():
        said.add_text(keyword, text)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", pnginfo=said)
    return file.getvalue()


def saying(picture: bytes, texts: Mapping[str, str]) -> bytes:
    """A PNG that says more of itself: what `png` makes of its pixels with these texts, without packing them anew."""
    from PIL import PngImagePlugin

    said, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for keyword, text in texts.items():
        said.add_text(keyword, text)
    file.write(picture[:HEAD])
    for kind, content, *_ in said.chunks:
        PngImagePlugin.putchunk(file, kind, content)
    return file.getvalue() + picture[HEAD:]
