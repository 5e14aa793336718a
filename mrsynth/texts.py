"""Texts of others, as they may be printed and written. Loads nothing, so that --help need not wait."""

from collections.abc import Mapping
from typing import Any


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
