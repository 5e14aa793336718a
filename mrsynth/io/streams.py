"""The bytes of an image file, unpacked while they are read and never further than somebody asks."""

import bz2
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrsynth.errors import InputError
from mrsynth.io.reading import open_regular

CHUNK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Packing:
    """A way to pack a file: how it begins, how its name ends, who unpacks it, and what a byte can stand for."""

    name: str
    start: bytes
    endings: tuple[str, ...]
    unpacked: Callable[[Any], Any]
    most: int


class _Inflated:
    """What zlib packed, read from where a file stands."""

    def __init__(self, file: Any):
        self.file, self.inflater = file, zlib.decompressobj(wbits=47)  # with a header of zlib or of gzip

    def read(self, count: int) -> bytes:
        """The next bytes, fewer at the end only. Raises zlib.error, EOFError where it breaks off."""
        parts: list[bytes] = []
        while count > 0 and not self.inflater.eof:
            packed = self.inflater.unconsumed_tail or self.file.read(CHUNK)
            part = self.inflater.decompress(packed, count)
            if not packed and not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


GZIP = Packing("gzip", b"\x1f\x8b", (".gz", ".mgz"), lambda file: gzip.GzipFile(fileobj=file), 1032)
BZIP2 = Packing("bzip2", b"BZh", (".bz2",), bz2.BZ2File, 2**21)
ZLIB = Packing("zlib", b"\x78", (), _Inflated, 1032)


@dataclass(frozen=True)
class Stream:
    """A file from a byte on, and how it is packed; None for as it stands."""

    path: Path
    packing: Packing | None = None
    first: int = 0

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The unpacked bytes, to be read from the first on. Raises OSError."""
        with open_regular(self.path) as file:
            file.seek(self.first)
            yield file if self.packing is None else self.packing.unpacked(file)

    def begin(self, count: int) -> bytes:
        """The first bytes, at most `count`. Raises OSError, EOFError, zlib.error, ValueError for what is damaged."""
        with self.open() as file:
            found: bytes = file.read(count)
        return found

    @property
    def size(self) -> int:
        """In bytes, as it is packed."""
        return max(self.path.stat().st_size - self.first, 0)

    @property
    def most(self) -> int:
        """How many bytes it can unpack into."""
        return self.size * (1 if self.packing is None else self.packing.most)


START = 512  # bytes that show what a file is
OTHERWISE = (  # how files begin that lie in the place of an image; and what they are, with what to do
    (b"PK\x03\x04", "is a zip archive; unpack it"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it"),
    (b"Rar!", "is a rar archive; unpack it"),
    (b"BZh", "is packed by bzip2; let its name end in .nii.bz2"),
    (b"\xfd7zXZ", "is packed by xz; unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "is packed by zstd; unpack it with `zstd -d`"),
    (b"\x1f\x8b", "is packed twice; unpack it once"),
    (b"NRRD", "is in the format NRRD; let its name end in .nrrd"),
    (b"ObjectType = Image", "is in the format MetaImage; let its name end in .mha"),
    (b"\0\0\0\1\0\0", "is in the format of FreeSurfer; let its name end in .mgh, or in .mgz where it is packed"),
    (b"\x89HDF", "is in the format HDF5; convert it to NIfTI with the program that wrote it"),
    *(
        (start, "is a picture or a document, no volume; export it again")
        for start in (b"\x89PNG", b"\xff\xd8\xff", b"%PDF")
    ),
    *(
        (start, "is NIfTI that is not packed; let its name end in .nii")
        for start in (b"\x5c\1\0\0", b"\0\0\1\x5c", b"\x1c\2\0\0")
    ),
)


def what_else(start: bytes) -> str:
    """What a file is by its first bytes that should be an image, and what to do; "" where they do not tell."""
    if start[128:132] == b"DICM":
        return "is DICOM; convert it with dcm2niix, or give the folder of the examination"
    if start[257:262] == b"ustar":
        return "is a tar archive; unpack it"
    if start.lstrip()[:1] in (b"<", b"{") and start.isascii():
        return "holds a text, no image: a web page or a message in its place; download it again"
    return next((what for begin, what in OTHERWISE if start.startswith(begin)), "")


def stream_of(path: Path) -> Stream:
    """An image file that can be opened, packed as its name says. Raises InputError when it is not, OSError."""
    with open_regular(path) as file:
        start = file.read(START)
    if not start:
        raise InputError(f"{path} is empty (0 bytes); expected an image. Copy or export it again.")
    for packing in (GZIP, BZIP2):
        packed, said = start.startswith(packing.start), path.name.lower().endswith(packing.endings)
        if said and not packed and (what := what_else(start)):
            raise InputError(f"{path} {what}.")
        if said and not packed:
            ending = next(ending for ending in packing.endings if path.name.lower().endswith(ending))
            raise InputError(
                f"{path}: the name ends in {ending} but the file is not {packing.name}. Rename it, or compress it."
            )
        if packed and not said:
            raise InputError(f"{path}: the file is {packing.name} but its name does not say so. Rename it to .nii.gz.")
        if packed:
            return Stream(path, packing)
    return Stream(path)


def skip(file: Any, count: int) -> None:
    """Read and forget. Raises EOFError when there is not so much."""
    while count:
        if not (part := file.read(min(count, CHUNK))):
            raise EOFError
        count -= len(part)
