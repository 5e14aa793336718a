"""A file in parts that can travel one after the other, and the file again, once all of them are there."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mrsynth.errors import InputError
from mrsynth.io.files import ensure_folder, write_bytes, write_text

MB = 10**6


def split(file: Path, folder: Path, limit_mb: float) -> list[Path]:
    """Write NAME.000, NAME.001, ... of at most so many megabytes into a folder, and NAME.parts, which lists them.

    NAME.parts, JSON: size and SHA-256 of the whole, and the SHA-256 of each part. Parts of an earlier time are removed.
    """
    ensure_folder(folder)
    for old in (*folder.glob(f"{file.name}.[0-9][0-9][0-9]"), folder / f"{file.name}.parts"):
        old.unlink(missing_ok=True)
    whole, sums, written = hashlib.sha256(), [], []
    with file.open("rb") as stream:
        for number, piece in enumerate(pieces(stream, int(limit_mb * MB))):
            whole.update(piece)
            sums.append(hashlib.sha256(piece).hexdigest())
            written.append(folder / f"{file.name}.{number:03d}")
            write_bytes(written[-1], piece)
    facts = {"size": file.stat().st_size, "sha256": whole.hexdigest(), "parts": sums}
    write_text(folder / f"{file.name}.parts", json.dumps(facts, indent=1) + "\n")
    return written


def join(folder: Path, name: str, out: Path) -> Path:
    """The file NAME from its parts in a folder, as `out`. Raises InputError that names all parts missing or damaged."""
    listing = folder / f"{name}.parts"
    if not listing.is_file():
        raise InputError(f"{folder} holds no parts of {name}: {listing.name} is not there.")
    facts = json.loads(listing.read_text())
    wrong = []
    for number, expected in enumerate(facts["parts"]):
        part = folder / f"{name}.{number:03d}"
        if not part.is_file():
            wrong.append(f"{part.name} is missing")
        elif hashlib.sha256(part.read_bytes()).hexdigest() != expected:
            wrong.append(f"{part.name} is not the file it should be")
    if wrong:
        raise InputError(f"{folder}: {'; '.join(wrong)}. Bring these parts again.")
    ensure_folder(out.parent)
    with out.open("wb") as stream:
        for number in range(len(facts["parts"])):
            stream.write((folder / f"{name}.{number:03d}").read_bytes())
    return out


def pieces(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """The content in pieces of so many bytes; one that is empty where there is nothing."""
    first = stream.read(limit)
    yield first
    while piece := stream.read(limit):
        yield piece
