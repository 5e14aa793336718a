"""DICOM series of one examination: found, told apart, and read as volumes by SimpleITK (GDCM).

Only what describes the sequence is read from a header. Nothing of the patient module (group 0010) is ever asked for, so
that none of it can reach a message, a log or a result.
"""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.io.dicom_elements import fits
from mrsynth.io.folders import few
from mrsynth.io.nifti import LONGEST_SIDE_MM
from mrsynth.io.other_formats import affine_of
from mrsynth.io.reading import open_regular
from mrsynth.io.sidecars import IMAGE_KINDS, names_an_agent
from mrsynth.io.vocabulary import UNNAMED, judge_name
from mrsynth.plain import Doubles
from mrsynth.scans.volume import MOST_VOXELS, Volume

log = logging.getLogger(__name__)

PREFIX = 128  # bytes before the letters DICM
MOST_FILES = 20_000
FEWEST_SLICES = 5
MOST_DRIFT = 1.0  # mm, by which slices may lie sideways of each other: more is a tilted gantry
EVEN = 0.1  # of the usual distance between slices, by which one may differ

TAGS = {
    "uid": "0020|000e",
    "number": "0020|0011",
    "modality": "0008|0060",
    "description": "0008|103e",
    "protocol": "0018|1030",
    "image_type": "0008|0008",
    "sequence": "0018|0020",
    "agent": "0018|0010",
    "repetition": "0018|0080",
    "echo": "0018|0081",
    "inversion": "0018|0082",
    "frames": "0028|0008",
    "orientation": "0020|0037",
    "position": "0020|0032",
    "samples": "0028|0002",
    "grey": "0028|0004",
    "rows": "0028|0010",
    "columns": "0028|0011",
    "pixel": "0028|0030",
    "slope": "0028|1053",
    "intercept": "0028|1052",
}
SCOUT = re.compile(
    r"locali[sz]er|scout|survey|3.?plane|aahead|posdisp|\bloc\b|plan.?scan|smart.?brain|\b(?:asset|array|coil).?cal",
    re.IGNORECASE,
)
DERIVED = re.compile(
    r"\b(adc|fa|trace|colfa|ivim|cbf|cbv|mtt|ttp|perf\w*|dwi|dti|diff\w*|swi|mip|minip|sub(?:traction)?|"
    r"bold|rest|spectro\w*|t2\W?star|gre|hemo|map|mpr|mag|pha\w*|field.?map|angio|tof|mra|mrv)\b",
    re.IGNORECASE,
)
NO_SCAN = ("its modality", "a localiser", "a derived image", "a colour image")  # how the reasons begin of what is none
UNLIKE_A_SCAN = {*IMAGE_KINDS, "SUBTRACT", "MIN IP", "VELOCITY", "SECONDARY CAPTURE", "SCREEN SAVE", "MOSAIC"}


@dataclass(frozen=True)
class Series:
    """One series: its files in slice order, and what its header says of the sequence.

    number      of the series in the examination; None where the header has none
    repetition, echo, inversion   milliseconds; None where the header has none
    agent       the contrast agent named, empty for none
    image_type  as in ORIGINAL, PRIMARY, M
    trouble     why it cannot be used, in words; empty where it can
    frames      images in each file: one, unless it is a multi-frame image
    """

    files: tuple[Path, ...]
    number: int | None
    modality: str
    description: str
    protocol: str
    sequence: str
    agent: str
    repetition: float | None
    echo: float | None
    inversion: float | None
    image_type: tuple[str, ...]
    trouble: str = ""
    frames: int = 1

    @property
    def label(self) -> str:
        """`series 4 "t1_mprage_tra"`, for messages."""
        number = "series without number" if self.number is None else f"series {self.number}"
        return f'{number} "{self.description or self.protocol}"'


@dataclass(frozen=True)
class Guess:
    """What a series is taken for, or None, and why.

    could_be  the contrasts between which it leaves the choice, or that of a scan that is not whole
    """

    contrast: Contrast | None
    reason: str
    could_be: tuple[Contrast, ...] = ()


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does: DICM after 128 bytes; a pipe is not waited for."""
    try:
        with open_regular(path) as file:
            return file.read(PREFIX + 4)[PREFIX:] == b"DICM"
    except OSError:
        return False


def series_below(folder: Path) -> list[Series]:
    """Every series in the DICOM files of a folder and those below it, by number.

    Files that begin as DICOM and hold no image are logged as a warning: a damaged slice would else be missing unsaid.
    Raises InputError when there is none, or more than 20,000 files.
    """
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and is_dicom(path):
            files.append(path)
        if len(files) > MOST_FILES:
            raise InputError(f"{folder} holds more than {MOST_FILES} DICOM files. Give the folder of one examination.")
    groups: dict[str, list[tuple[Path, dict[str, str]]]] = defaultdict(list)
    damaged = []
    for path in files:
        if header := _header(path):
            groups[header["uid"]].append((path, header))
        elif path.name.upper() != "DICOMDIR":  # a table of contents
            damaged.append(path.name)
    if damaged:
        log.warning("%d DICOM files hold no image that can be read: %s.", len(damaged), few(damaged))
    if not groups:
        raise InputError(f"{folder} holds no DICOM image that can be read.")
    found = [_series(members) for members in groups.values()]
    return sorted(found, key=lambda s: (s.number is None, s.number or 0, s.description))


def guess(series: Series) -> Guess:
    """What contrast a series is, from its description, its timing and the agent; the two must not disagree."""
    said = judge_name(re.sub(r"[^\w+*-]+", "_", f"{series.description or series.protocol}").strip("_"))
    if series.trouble:
        few_slices = len(series.files) * series.frames < FEWEST_SLICES
        if few_slices or series.trouble.startswith(NO_SCAN):
            return Guess(None, series.trouble)
        enhanced = said.contrast is Contrast.T1 and names_an_agent(series.agent)
        lost = Contrast.T1CE if enhanced else said.contrast
        return Guess(None, series.trouble, (lost,) if lost else said.could_be)
    named, timed = said.contrast, _by_timing(series)
    untold = timed is Contrast.T2 and Contrast.FLAIR in said.could_be  # no inversion time is no proof of a T2
    if said.why and said.why != UNNAMED and not said.could_be:
        return Guess(None, said.why)
    agent = names_an_agent(series.agent) and not said.other
    if Contrast.T1CE in said.could_be and agent and timed in (None, Contrast.T1):
        named = Contrast.T1CE
    elif said.could_be and (said.other or untold or timed not in said.could_be or Contrast.T1CE in said.could_be):
        return Guess(None, f"it could be the {' or the '.join(c.label for c in said.could_be)}", said.could_be)
    if named is None and timed is None:
        return Guess(None, "neither its description nor its timing tells a T1, T1ce, T2 or FLAIR")
    contrast = named or timed
    family = {Contrast.T1CE: Contrast.T1}
    if named and timed and family.get(named, named) is not family.get(timed, timed):
        why = f"its description says {named.label}, its timing ({_timing(series)}) says {timed.label}"
        return Guess(None, why, (named, timed))
    reason = f'"{series.description or series.protocol}"' if named else _timing(series)
    if named and timed:
        reason += f" and {_timing(series)}"
    if contrast is Contrast.T1 and names_an_agent(series.agent):
        return Guess(Contrast.T1CE, f"{reason}; contrast agent given")
    return Guess(contrast, reason)


def read_series(series: Series) -> Volume:
    """The volume of a series, in the scanner's units with slope and intercept applied; affine in RAS+ mm.

    Raises InputError for slices that are missing, double or unevenly spaced, and for what is no set of parallel slices
    or holds numbers that are none.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    if series.trouble:
        raise InputError(f"{series.label}: {series.trouble}.")
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(path) for path in series.files])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{series.label} cannot be read: {str(error).splitlines()[-1].strip()}.") from error
    with np.errstate(over="ignore"):
        voxels = np.ascontiguousarray(sitk.GetArrayFromImage(image).T).astype(np.float32)
    if voxels.ndim != 3:
        raise InputError(f"{series.label} is no volume of grey values: its shape is {voxels.shape}.")
    if not np.isfinite(voxels).all():
        raise InputError(f"{series.label} holds numbers beyond 3.4e38. Its slope or its voxels are damaged.")
    return Volume(voxels, affine_of(image))


# Headers --------------------------------------------------------------------------------------------------------------


def _header(path: Path) -> dict[str, str] | None:
    """The fields of TAGS as text, stripped; None for what has no image."""
    import SimpleITK

    sitk: Any = SimpleITK
    if not fits(path):
        return None
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    there = set(reader.GetMetaDataKeys())
    found = {name: _text(reader.GetMetaData(tag)) if tag in there else "" for name, tag in TAGS.items()}
    return found if found["uid"] else None


def _text(value: str) -> str:
    """Printable, on one line: surrogates of odd character sets become question marks."""
    return " ".join(value.encode("utf-8", "replace").decode("utf-8").replace("\0", " ").split())


def _series(members: Sequence[tuple[Path, dict[str, str]]]) -> Series:
    head = members[0][1]
    files, trouble = _in_order(members)
    kinds = tuple(part.strip().upper() for part in head["image_type"].split("\\"))
    text = f"{head['description']} {head['protocol']}"
    if head["modality"] not in ("MR", "CT"):
        trouble = f"its modality is {head['modality'] or 'not stated'}, not MR"
    elif SCOUT.search(text) or "LOCALIZER" in kinds:
        trouble = "a localiser"
    elif unlike := [kind for kind in kinds if kind in UNLIKE_A_SCAN]:
        trouble = f"a derived image ({unlike[0]})"
    elif match := _derived(head["description"], kinds):
        trouble = f"a derived image or another sequence ({match})"
    elif _number(head["frames"]) not in (None, 1.0):
        trouble = "a multi-frame image: convert it with dcm2niix and give the NIfTI files"
    elif _number(head["samples"]) not in (None, 1.0):
        trouble = "a colour image"
    elif inverted := [h["grey"] for _, h in members if h["grey"] not in ("", "MONOCHROME2")]:
        trouble = f"its numbers do not grow with brightness ({inverted[0]})"
    elif several := [name for name in ("echo", "inversion") if _differ([_number(h[name]) for _, h in members])]:
        trouble = f"its slices are of several {several[0]} times: more than one image in one series"
    elif claims := _claims([header for _, header in members]):
        trouble = claims
    number = _number(head["number"])
    return Series(
        files=files,
        number=None if number is None else int(number),
        modality=head["modality"],
        description=head["description"],
        protocol=head["protocol"],
        sequence=head["sequence"],
        agent=head["agent"],
        repetition=_number(head["repetition"]),
        echo=_number(head["echo"]),
        inversion=_number(head["inversion"]),
        image_type=kinds,
        trouble=trouble,
        frames=int(_number(head["frames"]) or 1),
    )


def _derived(description: str, kinds: Sequence[str]) -> str:
    """The word of a description that says that an image is derived, or of another sequence; "" for none.

    A T1-weighted gradient echo is a T1, and `t1_mpr` an MPRAGE, unless it is said to be a reformatted one.
    """
    found = {match[0].lower() for match in DERIVED.finditer(description.replace("_", " "))}
    if judge_name(re.sub(r"[^\w+*-]+", "_", description)).contrast in (Contrast.T1, Contrast.T1CE):
        found -= {"gre"} if "MPR" in kinds or "ORIGINAL" not in kinds else {"gre", "mpr"}
    return min(found, default="")


def _claims(headers: Sequence[dict[str, str]]) -> str:
    """What is wrong with the sizes and factors that slices state, before memory is taken for them; "" for nothing."""
    rows, columns = (max(_number(h[side]) or 0 for h in headers) for side in ("rows", "columns"))
    if rows * columns * len(headers) > MOST_VOXELS:
        return f"it claims {columns:g}x{rows:g} voxels in {len(headers)} slices, which is more than {MOST_VOXELS}"
    pixels = [_numbers(h["pixel"], 2) for h in headers]
    if any(p is None or (p <= 0).any() for p in pixels):
        return "its slices do not say how large their pixels are"
    longest = max(float((p * (rows, columns)).max()) for p in pixels if p is not None)
    if longest > LONGEST_SIDE_MM:
        return f"it is {longest / 1000:.3g} m long, expected a head, at most {LONGEST_SIDE_MM / 1000:g} m"
    if any(h[factor] and _number(h[factor]) is None for h in headers for factor in ("slope", "intercept")):
        return "its slope or intercept is no number"
    return ""


def _in_order(members: Sequence[tuple[Path, dict[str, str]]]) -> tuple[tuple[Path, ...], str]:
    """The files along the normal of their slices; and what keeps them from being one volume."""
    paths = tuple(path for path, _ in members)
    axes = [_numbers(header["orientation"], 6) for _, header in members]
    places = [_numbers(header["position"], 3) for _, header in members]
    if any(a is None for a in axes) or any(p is None for p in places):
        return paths, "its slices do not say where they lie"
    first = axes[0]
    assert first is not None
    if any(np.abs(a - first).max() > 1e-3 for a in axes if a is not None):
        return paths, "a localiser: its slices are not parallel"
    if len(paths) < FEWEST_SLICES:
        return paths, f"{len(paths)} slices only"
    normal = np.cross(first[:3], first[3:])
    heights = np.array([float(p @ normal) for p in places if p is not None])
    order = np.argsort(heights, kind="stable")
    away = np.array([p - places[0] for p in places if p is not None and places[0] is not None])
    if (drift := float(np.linalg.norm(away - np.outer(away @ normal, normal), axis=1).max())) > MOST_DRIFT:
        return paths, f"its slices lie up to {drift:.1f} mm sideways of each other: convert it with dcm2niix"
    steps = np.diff(heights[order])
    usual = float(np.median(steps))
    ordered = tuple(paths[i] for i in order)
    if usual <= 0.01 or (steps < 0.01).any():
        return ordered, f"{int((steps < 0.01).sum())} of its slices lie where another one lies"
    if (steps > (1 + EVEN) * usual).any():
        lacking = round(float((steps[steps > (1 + EVEN) * usual] / usual - 1).sum()))
        return ordered, f"{max(lacking, 1)} slices are missing (a gap between those that are {usual:.2f} mm apart)"
    if (steps < (1 - EVEN) * usual).any():
        return ordered, "its slices are unevenly spaced"
    return ordered, ""


def _by_timing(series: Series) -> Contrast | None:
    """From repetition, echo and inversion time, for the usual ranges of brain MRI at 1.5 and 3 T."""
    tr, te, ti = series.repetition, series.echo, series.inversion
    if series.modality != "MR" or tr is None or te is None:
        return None
    if ti is not None and ti > 1500 and te > 60:
        return Contrast.FLAIR
    if te < 30 and (tr < 1200 or (ti is not None and 300 <= ti <= 1300)):
        return Contrast.T1
    if te >= 60 and tr >= 1800 and not (ti and ti > 100):
        return Contrast.T2
    return None


def _timing(series: Series) -> str:
    parts = [("TR", series.repetition), ("TE", series.echo), ("TI", series.inversion)]
    return " ".join(f"{name} {value:g} ms" for name, value in parts if value) or "no timing"


def _differ(times: Sequence[float | None]) -> bool:
    """Whether times of a sequence, in ms, are not those of one image: rounded, they may differ a little."""
    known = [time for time in times if time is not None]
    return bool(known) and max(known) - min(known) > EVEN * max(known)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _numbers(text: str, count: int) -> Doubles | None:
    values = [_number(part) for part in text.split("\\")]
    known = [v for v in values if v is not None]
    return np.array(known) if len(known) == count == len(values) else None


def unused(guesses: Sequence[tuple[Series, Guess]]) -> Iterator[str]:
    """One line for each series that is taken for no contrast, with the reason."""
    for series, taken in guesses:
        if taken.contrast is None:
            yield f"{series.label}: {taken.reason}"
