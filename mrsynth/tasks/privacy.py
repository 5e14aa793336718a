"""Results travel, and the folders that a scan lay in are often a patient's name: they stay out of what is written."""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDERS = re.compile(
    r"""(?<![\w:/.~])(?:~|[A-Za-z]:)?[/\\](?:[^/\\\s:;,"'<>|]+[/\\])+"""
)  # before the last part of a path


class Places:
    """What may be said of paths: those below the subject's or the output folder from there, of others the bare name.

    source   whence the subject's folder was filled, whose name stays out too
    """

    def __init__(self, subject: Path, out: Path, source: Path | None = None):
        places = (subject, out) if source is None else (subject, out, source)
        spelt = [folder for place in places for folder in (place, Path(os.path.abspath(place)), place.resolve())]
        self.source = source
        self.folders = [folder for folder in dict.fromkeys(spelt) if len(folder.parts) > 1 or not folder.is_absolute()]

    def name(self, path: Path | str) -> str:
        """A path as it may be written."""
        path = Path(path)
        for folder in self.folders:
            if path.is_relative_to(folder) and ".." not in path.relative_to(folder).parts:
                return path.relative_to(folder).as_posix()
        return path.name or "."

    def text(self, text: str) -> str:
        """A sentence without the folders in it."""
        for folder in sorted(map(str, self.folders), key=len, reverse=True):
            if os.path.isabs(folder):
                text = re.sub(
                    rf"{re.escape(folder)}(?:[/\\]|(?![\w.-]))", lambda m: "" if m[0][-1] in "/\\" else ".", text
                )
        return FOLDERS.sub("", text)

    def plain(self, value: Any) -> Any:
        """Plain data without folders in its texts; a text that is a path is its `name`."""
        if isinstance(value, Mapping):
            return {self.plain(key): self.plain(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.plain(inner) for inner in value)
        if isinstance(value, Path):
            return self.name(value)
        if type(value) is not str:
            return value
        is_path = os.sep in value and len(value.split()) < 2
        return self.name(value) if is_path or os.path.isabs(value) else self.text(value)

    def command(self, text: str) -> str:
        """What was typed, with every path as it may be written."""
        try:
            words = shlex.split(text)
        except ValueError:
            return self.text(text)
        return shlex.join(self._word(word) for word in words)

    def _word(self, word: str) -> str:
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        is_path = os.sep in value or (self.source is not None and Path(value) == self.source)
        return option + equals + (self.name(Path(value)) if is_path else value)
