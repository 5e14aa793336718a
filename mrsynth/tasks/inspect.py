"""`mrsynth inspect`: what a folder holds, what is missing, and which checkpoint would be used. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import MrsynthError
from mrsynth.io.store import available_entries
from mrsynth.io.subjects import SubjectFiles, find_subject
from mrsynth.selection import select


@dataclass(frozen=True)
class Inspection:
    """What was found; `choice` says which checkpoint would be used and why, or why none can."""

    files: SubjectFiles
    missing: tuple[Contrast, ...]
    choice: str | None


def inspect(folder: Path, overrides: Mapping[Contrast, Path] | None = None, mask: Path | None = None) -> Inspection:
    """Look at one subject by its file names. Raises InputError as `complete` would."""
    files = find_subject(folder, overrides, mask)
    missing = files.missing(STANDARD)
    if not missing:
        return Inspection(files, (), None)
    try:
        choice = select(available_entries(), files.available, missing).reason
    except MrsynthError as error:
        choice = f"None: {error}"
    return Inspection(files, missing, choice)
