"""Texts of others, as they may be printed and written, and what they may have meant. Loads next to nothing, so that
--help need not wait.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

ALIKE = 0.7  # of get_close_matches; at 0.6, its own, t1gd is like t1


def visible(text: str) -> str:
    """Text of others as a terminal may print it: what would move its cursor, turn its letters or break is spelt out."""
    if text.isprintable():
        return text  # at once: a picture in a page is a million letters
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def in_utf8(value: Any) -> Any:
    """Plain data with the bytes of names that are not in UTF-8 written out: `M\\xfcller`. So it fits into any JSON."""
    if isinstance(value, str):
        return (
            value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        )
    if isinstance(value, Mapping):
        return {in_utf8(key): in_utf8(item) for key, item in value.items()}
    return type(value)(map(in_utf8, value)) if type(value) in (list, tuple) else value


def meant(name: object, known: Iterable[str] | Mapping[str, str]) -> str:
    """` Did you mean fgc2f?`, the end of what is said of a name that is not known; empty where none is like it.

    name    as it was given, in a file perhaps no text
    known   names; or spellings, and the name that each stands for
    """
    names = known if isinstance(known, Mapping) else {name: name for name in known}
    spellings = {spelling.lower(): str(found) for spelling, found in names.items()}
    close = get_close_matches(str(name).lower(), spellings, n=1, cutoff=ALIKE)
    return f" Did you mean {spellings[close[0]]}?" if close else ""
