"""`mrsynth dicom`: from the DICOM files of an examination to the NIfTI files that every other command reads."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, UsageError
from mrsynth.io.archives import unpack
from mrsynth.io.dicom import Guess, Series, guess, read_series, series_below, unused
from mrsynth.io.files import ensure_folder, write_text
from mrsynth.io.nifti import write_volume
from mrsynth.io.provenance import description, refuse_others
from mrsynth.io.reading import read_json
from mrsynth.plain import Plain

DESCRIPTION = "DICOM series, converted by mrsynth"


class DicomOptions(Plain):
    """The request of the command line.

    source   a folder of DICOM files, at any depth, or a zip of one
    out      receives NAME_t1.nii.gz and so on, with a .json each
    name     NAME; None takes the folder's, which may be a patient's
    chosen   contrast -> the number of its series, where the guess is wrong or two series could be it
    """

    source: Path
    out: Path
    name: str | None = None
    chosen: Mapping[Contrast, int] = Field({})


@dataclass(frozen=True)
class Converted:
    """What was written, as which contrast and why; and a line for each series that was not used, with the reason."""

    files: Mapping[Contrast, Path]
    reasons: Mapping[Contrast, str]
    unused: tuple[str, ...]


def convert(options: DicomOptions) -> Converted:
    """Write one NIfTI file per contrast found. Raises InputError when there is none, or two for one contrast.

    Only what an earlier conversion wrote is replaced. Raises UsageError when something else has one of the names.
    """
    source, name = options.source.expanduser(), options.name
    if name is not None and (Path(name).name != name or name[:1] in ("", ".") or not name.isprintable()):
        raise UsageError(f"--name {name}: files begin so, expected a plain name.")
    if not source.exists():
        raise InputError(f"{source}: no such folder.")
    if source.is_dir():
        return _convert(source, options)
    with TemporaryDirectory() as folder:
        unpack(source, Path(folder))
        return _convert(Path(folder), options)


def _convert(folder: Path, options: DicomOptions) -> Converted:
    guesses = [(series, guess(series)) for series in series_below(folder)]
    taken = _one_each(guesses, options.chosen)
    if not taken:
        raise InputError("None of the series is a T1, T1ce, T2 or FLAIR:\n  " + "\n  ".join(unused(guesses)))
    name = options.name or options.source.expanduser().resolve().name.removesuffix(".zip")
    out = ensure_folder(options.out.expanduser())
    files = {contrast: out / f"{name}_{contrast}.nii.gz" for contrast in taken}
    sidecars = {contrast: out / f"{name}_{contrast}.json" for contrast in taken}
    refuse_others(out, [path.name for path in files.values()], lambda path: description(path) == DESCRIPTION)
    refuse_others(out, [path.name for path in sidecars.values()], _of_ours)
    new = [path for path in (*files.values(), *sidecars.values()) if not path.exists()]
    try:
        for contrast, (series, reason) in taken.items():
            write_text(sidecars[contrast], _sidecar(series, contrast, reason))
            write_volume(files[contrast], read_series(series), description=DESCRIPTION)
    except BaseException:
        for path in new:  # all of it, or nothing
            path.unlink(missing_ok=True)
        raise
    left = [line for line, (series, _) in zip(_lines(guesses), guesses, strict=True) if series not in _used(taken)]
    return Converted(files, {c: f"{s.label}: {reason}" for c, (s, reason) in taken.items()}, tuple(left))


def _of_ours(sidecar: Path) -> bool:
    """Whether an earlier conversion wrote this JSON file: it says what the series was taken for."""
    try:
        content = read_json(sidecar)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"TakenFor", "Reason"} <= set(content)


def _one_each(
    guesses: list[tuple[Series, Guess]], chosen: Mapping[Contrast, int]
) -> dict[Contrast, tuple[Series, str]]:
    """The series of each contrast and the reason: what was chosen by number, else the only one that is guessed."""
    numbered = {series.number: series for series, _ in guesses}
    taken: dict[Contrast, tuple[Series, str]] = {}
    for contrast, number in chosen.items():
        if number not in numbered:
            there = ", ".join(series.label for series, _ in guesses)
            raise InputError(f"There is no series {number}; there are {there}.")
        taken[contrast] = numbered[number], "named by its number"
    candidates: dict[Contrast, list[tuple[Series, str]]] = defaultdict(list)
    for series, found in guesses:
        if found.contrast is not None and series not in _used(taken):
            candidates[found.contrast].append((series, found.reason))
    for contrast, several in candidates.items():
        if contrast in taken:
            continue
        if len(several) > 1:
            named = "; ".join(f"{series.label} ({reason})" for series, reason in several)
            raise InputError(f"{len(several)} series could be the {contrast.label}: {named}. Give --{contrast} NUMBER.")
        taken[contrast] = several[0]
    for series, found in guesses:
        if series not in _used(taken) and any(c in STANDARD and c not in taken for c in found.could_be):
            flags = " or ".join(f"--{contrast} NUMBER" for contrast in found.could_be)
            raise InputError(
                f"{series.label}: {found.reason}. What is there is not made again: name a series with {flags}, or move "
                "this one elsewhere."
            )
    return {c: taken[c] for c in Contrast if c in taken}


def _used(taken: Mapping[Contrast, tuple[Series, str]]) -> list[Series]:
    return [series for series, _ in taken.values()]


def _lines(guesses: list[tuple[Series, Guess]]) -> list[str]:
    return [
        f"{series.label}: {found.reason if found.contrast is None else 'another series was named'}"
        for series, found in guesses
    ]


def _sidecar(series: Series, contrast: Contrast, reason: str) -> str:
    """What is known of the sequence; times in seconds, as BIDS has them."""
    seconds = {
        "RepetitionTime": series.repetition,
        "EchoTime": series.echo,
        "InversionTime": series.inversion,
    }
    content = {
        "SeriesNumber": series.number,
        "SeriesDescription": series.description,
        "ProtocolName": series.protocol,
        "ContrastBolusAgent": series.agent or None,
        "ImageType": list(series.image_type),
        **{key: None if value is None else round(value / 1000, 6) for key, value in seconds.items()},
        "TakenFor": str(contrast),
        "Reason": reason,
    }
    return json.dumps({key: value for key, value in content.items() if value is not None}, indent=2) + "\n"
