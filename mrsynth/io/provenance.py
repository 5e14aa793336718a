"""Whether mrsynth wrote a file. Nothing else is ever replaced or removed, whatever its name.

Reads the first bytes of headers and short texts, with neither numpy nor nibabel, so that `inspect` may use it.
"""

import bz2
import hashlib
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mrsynth.errors import UsageError
from mrsynth.io.formats import HEADERS
from mrsynth.io.reading import open_regular, parse_json, read_bounded

DESCRIPTION = {348: (148, 80), 540: (240, 80)}  # length of a NIfTI header -> where its description lies
MARK = " by mrsynth "  # in the description that `complete` writes: "SYNTHETIC T1ce by mrsynth 0.1.0 (...), ..."
LONGEST_PAGE = 64 * 2**20  # bytes: a report with the pictures of every slice has less
PNG, PNG_MARK = b"\x89PNG\r\n\x1a\n", b"tEXtSoftware\0mrsynth "  # how one begins; the text before its pixels
BRAIN_MASK = "brain mask by mrsynth"  # how the header of one begins
PAGE, LOG_LINE = b"made by mrsynth", re.compile(rb"\d{4}-\d\d-\d\dT[\d:+]+ INFO mrsynth ")


def is_ours(path: Path) -> bool:
    """Whether mrsynth wrote this file: an image by its header or its sidecar; the others by what they say."""
    if not path.is_file():
        return False
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        text = description(path)
        return says_synthetic(path) or text.startswith(BRAIN_MASK) or (not text and _sidecar_says(path))
    try:
        content = read_bounded(path, LONGEST_PAGE)
    except OSError:
        return False
    if name.endswith(".json"):
        said = _object(content)
        mask = str(said.get("Description", "")).startswith(BRAIN_MASK)
        return mask or _made_by_us(said) or {"schema_version", "weights", "outputs"} <= set(said)
    if name.endswith(".csv"):
        return content.startswith(b"subject,pattern,target,method,")
    if name.endswith(".png"):
        return content.startswith(PNG) and PNG_MARK in content[:4096]
    return PAGE in content if name.endswith(".html") else LOG_LINE.match(content) is not None


def refuse_others(folder: Path, names: Iterable[str], ours: Callable[[Path], bool] = is_ours) -> None:
    """Raise UsageError when something that is not `ours` has one of these names in a folder."""
    if others := [name for name in names if os.path.lexists(folder / name) and not ours(folder / name)]:
        raise UsageError(
            f"{folder} holds {', '.join(others)}, which mrsynth did not write, so it is never replaced. Give another "
            "--out, or move it elsewhere."
        )


def says_synthetic(path: Path) -> bool:
    """Whether the header of a NIfTI file says that mrsynth made what is in it."""
    text = description(path)
    return text.upper().startswith("SYNTHETIC ") and MARK in f"{text} ".lower()


def description(path: Path) -> str:
    """What a NIfTI header says of its image; empty for anything that cannot be read."""
    start = _header(path)
    if place := _place(start):
        offset, length = place
        return start[offset : offset + length].split(b"\0")[0].decode("latin-1")
    return ""


def begins_as_nifti(path: Path) -> bool:
    """Whether a file begins as a NIfTI header does, packed or not, whatever its name."""
    return _place(_header(path)) is not None


def _header(path: Path) -> bytes:
    """The first bytes of a file, unpacked, of a pair those of its header; empty for what cannot be read."""
    for header, image in HEADERS.items():
        if path.name.lower().endswith(image):
            path = path.with_name(path.name[: -len(image)] + header)
    try:
        with open_regular(path) as file:
            start = file.read(4096)
        if start[:3] == b"BZh":
            with bz2.open(path) as packed:
                return packed.read(1024)
        return zlib.decompressobj(wbits=31).decompress(start, 1024) if start[:2] == b"\x1f\x8b" else start
    except (OSError, EOFError, zlib.error):
        return b""


def _place(start: bytes) -> tuple[int, int] | None:
    """Where the description of the NIfTI header that a file begins with lies; None where it begins with none."""
    if len(start) < min(DESCRIPTION):
        return None
    sizes = [struct.unpack(f"{order}i", start[:4])[0] for order in "<>"]
    return next((DESCRIPTION[size] for size in sizes if size in DESCRIPTION), None)


def _sidecar_says(image: Path) -> bool:
    """Whether the sidecar of an image without description says it, and the report beside it tells of no other image."""
    sidecar = image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    return _made_by_us(_read(sidecar)) and _recorded(image) in ("", _sha256(image))


def _made_by_us(sidecar: dict[str, Any]) -> bool:
    versions = sidecar.get("Software", sidecar.get("SoftwareVersions"))  # the second is 0.1.0's
    return sidecar.get("synthetic") is True and isinstance(versions, dict) and "mrsynth" in versions


def _recorded(image: Path) -> str:
    """The SHA-256 that the report beside an image has of it; empty where it has none."""
    outputs = _read(image.with_name("report.json")).get("outputs")
    found = [one for one in outputs if isinstance(one, dict)] if isinstance(outputs, list) else []
    return next((str(one.get("sha256")) for one in found if one.get("file") == image.name), "")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:  # it was read before, so it is no pipe
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        return _object(read_bounded(path))
    except OSError:
        return {}


def _object(text: bytes) -> dict[str, Any]:
    """An object in JSON, in whichever encoding; empty for anything else."""
    try:
        content = parse_json(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
