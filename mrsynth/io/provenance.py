"""Whether mrsynth wrote a file. Nothing else is ever replaced or removed, whatever its name.

Reads the first bytes of headers and short texts, with neither numpy nor nibabel, so that `inspect` may use it.
"""

import struct
import zlib
from pathlib import Path
from typing import Any

from mrsynth.io.reading import open_regular, parse_json, read_bounded

DESCRIPTION = {348: (148, 80), 540: (240, 80)}  # length of a NIfTI header -> where its description lies
MARK = " by mrsynth "  # in the description that `complete` writes: "SYNTHETIC T1ce by mrsynth 0.1.0 (...), ..."
LONGEST_PAGE = 64 * 2**20  # bytes: a report with the pictures of every slice has less
PNG, PNG_MARK = b"\x89PNG\r\n\x1a\n", b"tEXtSoftware\0mrsynth "  # how one begins; the text before its pixels
BRAIN_MASK = "brain mask by mrsynth"  # how the header of one begins


def is_ours(path: Path) -> bool:
    """Whether mrsynth wrote this file: an image by its header or its sidecar; the others by what they say."""
    if not path.is_file():
        return False
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return says_synthetic(path) or _sidecar_says(path) or description(path).startswith(BRAIN_MASK)
    try:
        text = read_bounded(path, LONGEST_PAGE)
    except OSError:
        return False
    if name.endswith(".json"):
        content = _object(text)
        mask = str(content.get("Description", "")).startswith(BRAIN_MASK)
        return mask or content.get("synthetic") is True or {"schema_version", "weights", "outputs"} <= set(content)
    if name.endswith(".csv"):
        return text.startswith(b"subject,pattern,target,method,")
    if name.endswith(".png"):
        return text.startswith(PNG) and PNG_MARK in text[:4096]
    return b"mrsynth" in text  # a page


def says_synthetic(path: Path) -> bool:
    """Whether the header of a NIfTI file says that mrsynth made what is in it."""
    text = description(path)
    return text.startswith("SYNTHETIC ") and MARK in f"{text} "


def description(path: Path) -> str:
    """What a NIfTI header says of its image; empty for anything that cannot be read."""
    try:
        with open_regular(path) as file:
            start = file.read(4096)
        if start[:2] == b"\x1f\x8b":
            start = zlib.decompressobj(wbits=31).decompress(start, 1024)
    except (OSError, zlib.error):
        return ""
    if len(start) < min(DESCRIPTION):
        return ""
    for order in "<>":
        place = DESCRIPTION.get(struct.unpack(f"{order}i", start[:4])[0])
        if place is not None:
            offset, length = place
            return start[offset : offset + length].split(b"\0")[0].decode("latin-1")
    return ""


def _sidecar_says(image: Path) -> bool:
    sidecar = image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    try:
        return _object(read_bounded(sidecar)).get("synthetic") is True
    except OSError:
        return False


def _object(text: bytes) -> dict[str, Any]:
    """An object in JSON, in whichever encoding; empty for anything else."""
    try:
        content = parse_json(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
