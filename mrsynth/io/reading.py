"""Reading small files of others: of the right kind, no longer than they may be, and no deeper than anything needs.

A pipe is not waited for, and JSON that would take all the stack is measured before it is used.
"""

import codecs
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

LONGEST_TEXT = 16 * 2**20  # bytes, of JSON: a table of ten thousand subjects has less
LONGEST_TABLE = 512 * 2**20  # bytes, of CSV: three million rows of a benchmark
DEEPEST = 50  # levels of lists and mappings
KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Unfit(OSError):
    """A file that is not of a kind or length that could be read; `strerror` says which."""

    def __init__(self, path: Path, why: str):
        super().__init__(None, why, str(path))
        self.strerror = why

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe or device is refused rather than waited for. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(21, "Is a directory", str(path))
        raise Unfit(path, f"it is {KINDS.get(stat.S_IFMT(kind), 'something else')}, expected a file")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, longest: int = LONGEST_TEXT) -> bytes:
    """All of a file that has at most `longest` bytes. Raises OSError for a longer one, before it is read."""
    with open_regular(path) as file:
        content = file.read(longest + 1)  # the size that is stated may not be what comes
    if len(content) > longest:
        raise Unfit(path, f"it has more than {longest / 2**20:.3g} MiB, which no such file has")
    return content


def read_json(path: Path, longest: int = LONGEST_TEXT, *, finite: bool = False) -> Any:
    """What a JSON file holds, in whichever Unicode encoding. Raises OSError, and ValueError as `parse_json` does."""
    return parse_json(read_bounded(path, longest), finite=finite)


def parse_json(text: bytes | str, *, finite: bool = False) -> Any:
    """What JSON says. Raises ValueError for what is no JSON, or too deep, and with `finite` for a number that is not.

    finite  also 1e999, which is infinite once it is read
    """
    how: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite} if finite else {}
    try:
        content = json.loads(text if isinstance(text, str) else decoded(text), **how)
    except RecursionError as error:
        raise ValueError(f"it is more than {DEEPEST} levels deep") from error
    _measure(content)
    return content


def decoded(text: bytes) -> str:
    """Text in UTF-8, or in what its byte order mark says. Raises ValueError."""
    encoding = next((name for mark, name in MARKS.items() if text.startswith(mark)), "utf-8")
    return text.decode(encoding)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {text[:20]}, expected finite ones")
    return number


def _measure(content: Any) -> None:
    """Raise ValueError when lists and mappings are nested too deeply. Goes level by level, not by recursion."""
    level, depth = [content], 0
    while level := [
        child
        for value in level
        if isinstance(value, (dict, list))
        for child in (value.values() if isinstance(value, dict) else value)
        if isinstance(child, (dict, list))
    ]:
        depth += 1
        if depth >= DEEPEST:
            raise ValueError(f"it is more than {DEEPEST} levels deep")
