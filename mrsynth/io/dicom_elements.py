"""Whether the elements of a DICOM file fit into it: what reads them takes memory for whatever length one states."""

import mmap
from pathlib import Path
from typing import Literal

Order = Literal["little", "big"]

PREFIX = 128 + 4  # bytes: a preamble that may hold anything, and DICM
IMPLICIT, BIG_ENDIAN = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2"  # transfer syntaxes
DEFLATED = b"1.2.840.10008.1.2.1.99"
SYNTAX, PIXELS = (0x0002, 0x0010), (0x7FE0, 0x0010)
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}  # four bytes say it
DELIMITERS = 0xFFFE  # group of what begins and ends items
UNDEFINED = 0xFFFFFFFF  # length of what ends where a delimiter says
ITEM = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
MOST = 100_000  # elements of a file, those within sequences counted


def fits(path: Path) -> bool:
    """Whether each element of a file ends within it, at every depth. Not so for a packed one, which cannot be known.

    Raises OSError.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, syntax = PREFIX, IMPLICIT
        while data[at : at + 2] == b"\x02\x00":  # what is said of the file, always in one form
            group, element, begin, length = _element(data, at, explicit=True, order="little")
            at = begin + length
            if at > len(data):
                return False
            if (group, element) == SYNTAX:
                syntax = data[begin:at].rstrip(b"\0 ")
        if syntax == DEFLATED:
            return False
        return _all_fit(data, at, explicit=syntax != IMPLICIT, order="big" if syntax == BIG_ENDIAN else "little")


def _all_fit(data: mmap.mmap, at: int, *, explicit: bool, order: Order) -> bool:
    packed = False  # pixels in items, which hold no elements
    for _ in range(MOST):
        if at + 8 > len(data):
            return True  # padding
        group, element, begin, length = _element(data, at, explicit=explicit, order=order)
        packed |= (group, element) == PIXELS and length == UNDEFINED
        inside = (group, element) == (DELIMITERS, 0xE000) and not packed
        if inside or length == UNDEFINED or data[begin : begin + 4] in ITEM:
            at = begin
        elif begin + length > len(data):
            return False
        else:
            at = begin + length
    return False


def _element(data: mmap.mmap, at: int, *, explicit: bool, order: Order) -> tuple[int, int, int, int]:
    """Group, element, where the value begins, and its length in bytes."""

    def number(first: int, count: int) -> int:
        return int.from_bytes(data[first : first + count], order)

    group, element, kind = number(at, 2), number(at + 2, 2), data[at + 4 : at + 6]
    if group == DELIMITERS or not (explicit and kind.isalpha() and kind.isupper()):
        return group, element, at + 8, number(at + 4, 4)
    if kind in LONG:
        return group, element, at + 12, number(at + 8, 4)
    return group, element, at + 8, number(at + 6, 2)
