"""DICOM as it comes: a folder or zip of series is a subject, converted for as long as it is worked on."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mrsynth.contrasts import Contrast
from mrsynth.errors import UsageError
from mrsynth.io.folders import SKIPPED_FOLDERS
from mrsynth.io.formats import is_volume
from mrsynth.io.subjects import SubjectFiles, check_mask, check_overrides


@contextmanager
def examined(
    place: Path, overrides: Mapping[Contrast, Path], mask: Path | None = None, name: str | None = None
) -> Iterator[SubjectFiles | None]:
    """The subject in a folder or zip of DICOM series, as NIfTI files that are gone afterwards; None for other folders.

    overrides  contrast -> a file to take for it; or the number of a series, where that is no file
    name       of the subject; None for that of the folder or zip
    The subject's notes say what each series was taken for and why, or why it was not used. Raises InputError as
    `mrsynth dicom` does, and UsageError for a name where there is no DICOM.
    """
    place = place.expanduser()
    if not is_examination(place):
        if name is not None:
            raise UsageError(f"--name names what is made from DICOM, and {place} is none.")
        yield None
        return
    from mrsynth.tasks.dicom import DicomOptions, convert  # SimpleITK, which nobody else needs here

    chosen = {c: int(str(path)) for c, path in overrides.items() if str(path).isdecimal() and not path.exists()}
    given = check_overrides({c: path for c, path in overrides.items() if c not in chosen})
    name = place.resolve().name.removesuffix(".zip") if name is None else name
    with TemporaryDirectory(prefix="mrsynth-") as scratch:
        done = convert(DicomOptions(source=place, out=Path(scratch), name=name, chosen=chosen))
        notes = [f"{contrast.label}: {reason}" for contrast, reason in done.reasons.items()]
        notes += [f"not used: {line}" for line in done.unused]
        files = SubjectFiles(name, Path(scratch), "dicom", done.files, notes=tuple(notes)).with_files(given)
        yield files if mask is None else files.with_mask(check_mask(mask))


def is_examination(place: Path) -> bool:
    """Whether this is a zip, or a folder that holds DICOM files at any depth, and no images of other formats.

    Of a folder no more files are looked at than one examination may have.
    """
    if place.is_file():
        return zipfile.is_zipfile(place)
    found, seen = False, 0
    for folder, below, names in os.walk(place):
        below[:] = sorted(name for name in below if name not in SKIPPED_FOLDERS and not name.startswith("."))
        if any(map(is_volume, names)):
            return False
        from mrsynth.io.dicom import MOST_FILES, is_dicom  # which folders of other images do not need

        found = found or any(is_dicom(Path(folder, name)) for name in names)
        if (seen := seen + len(names)) > MOST_FILES:
            break
    return found


def refuse_to_lie_among_dicom(out: Path, source: Path) -> None:
    """Raise UsageError for an output folder that is the examination's, or holds DICOM files."""
    from mrsynth.io.dicom import is_dicom

    among = out.is_dir() and any(path.is_file() and is_dicom(path) for path in out.iterdir())
    if among or out.resolve() == source.resolve():
        raise UsageError(f"{out} holds the scans; synthetic images never lie beside acquired ones. Give another --out.")


def beside(place: Path, name: str) -> Path:
    """The folder for results of an examination: `mrsynth` in its folder, or `mrsynth/NAME` beside its zip."""
    place = place.expanduser()
    return place / "mrsynth" if place.is_dir() else place.parent / "mrsynth" / name
