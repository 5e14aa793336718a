"""What stands beside a scan or in its place: JSON in any encoding, what dcm2niix wrote, pointers to a content."""

import codecs
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.formats import stem_of
from mrsynth.io.naming import ScanName, scan_of
from mrsynth.io.reading import parse_json, read_bounded
from mrsynth.io.vocabulary import UNNAMED, Verdict, either, judge_name

POINTER = 2048  # bytes: no longer is what git-annex or Git LFS leaves in place of a file
_AGENT_NONE = re.compile(  # `0 ml`, `No contrast`, `w/o`; but not `0.1 mmol/kg`
    r"(?i)(?:no|not|non|none|nil|null|n|false|without|w/?o|pre|before|nativ\w*|declined|ohne|kein\w*|sans|aucun\w*|sin"
    r"|ning[uú]n\w*|senza|nessun\w*|sem|bez|brak|0+(?:[.,]0+)?(?![.,]?\d)\s*(?:ml|cc|mg)?)(?![^\W_])"
    r"|.*\b(?:none|not (?:given|administered))\b"
)
_AGENT_UNSAID = re.compile(  # neither: `unknown`, `n/a` as BIDS has it, `?`
    r"(?i)\s*(?:unknown|undefined|unspecified|not (?:specified|applicable|available|recorded)|n[./]?a\.?"
    r"|[-_?.\[\]\s]*)\s*"
)
_AMOUNTS = ("Volume", "TotalDose")
_DESCRIPTIONS = ("SeriesDescription", "ProtocolName")
IMAGE_KINDS = {  # of ImageType -> what such a file is
    **dict.fromkeys(("P", "PHASE", "PHASE MAP"), "a phase image"),
    **dict.fromkeys(("R", "REAL", "I", "IMAGINARY"), "the real or imaginary part of an image"),
    **dict.fromkeys(
        ("ADC", "FA", "EADC", "TRACEW_ADC", "T1 MAP", "T2 MAP", "SUB", "SUBTRACTION"), "a map computed from scans"
    ),
    **dict.fromkeys(("FAT", "FAT_FRACTION", "OPP_PHASE", "OUT_PHASE"), "the fat or the opposed phase of a Dixon scan"),
    **dict.fromkeys(("LOCALIZER", "SCOUT"), "a scout"),
    **dict.fromkeys(("PROJECTION IMAGE", "MIP", "MINIP"), "a projection"),
}
_NO_MR = {  # Modality -> what such a file is
    **{"CT": "a CT", "PT": "a PET image", "NM": "a nuclear image", "US": "an ultrasound image", "XA": "an angiogram"},
    **{"SEG": "a mask or segmentation", "RTSTRUCT": "a plan", "RTDOSE": "a plan"},
}
_ELSEWHERE = re.compile(  # parts of the body, as DICOM names them
    r"abdom|pelv|chest|thora|lung|heart|cardi|liver|kidney|spine|neck|knee|hip|shoulder|ankle|foot|hand|wrist|elbow"
    r"|breast|prostat|uter|rect(?:al|um)|colon|extremity|^(?:arm|leg)"
)


def any_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without byte order mark, or in Latin-1.

    None where the file is not there, cannot be read or is no JSON.
    """
    try:
        text = read_bounded(path)
    except OSError:
        return None
    for encoding in ("", "utf-16", "utf-16-be", "latin-1"):
        with suppress(ValueError):
            return parse_json(text.decode(encoding) if encoding else text)
    return None


def sidecar_of(path: Path) -> Mapping[str, Any]:
    """The object in the JSON file of the same name beside an image; empty where there is none."""
    stem = stem_of(path.name)
    for ending in (".json", ".JSON"):
        if isinstance(content := any_json(path.with_name(stem + ending)), dict):
            return content
    return {}


def pointer_of(path: Path) -> str:
    """How to get the content of a file that is but a pointer to it; "" for any other file, read or not."""
    if path.is_symlink() and not path.exists():
        target = str(path.readlink())
        if ".git/annex/" in target.replace("\\", "/"):
            return "a link of git-annex whose content is not here; fetch it with `datalad get` or `git annex get`"
        return (
            "a link to a file that is not there; fetch that file (for example with `datalad get`), or remove the link"
        )
    try:
        if not 0 < path.stat().st_size <= POINTER:
            return ""
        start = path.read_bytes().removeprefix(codecs.BOM_UTF8).replace(b"\\", b"/")
    except OSError:
        return ""
    if re.match(rb"\s*(\.\./)*(\.git)?/?annex/objects/", start):
        return "a pointer of git-annex, its content is not here; fetch it with `datalad get` or `git annex get`"
    if start.startswith((b"version https://git-lfs", b"version https://hawser")):
        return "a pointer of Git LFS, its content is not here; fetch it with `git lfs pull`"
    return ""


# What dcm2niix says --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """What the JSON file of dcm2niix says of a scan.

    verdict  as of a name; with neither contrast nor reason where the JSON tells neither
    agent    whether contrast agent was given, None where that is not said
    doubt    whether an agent is named, and none of it given
    words    what it was read from, for a reason: `SeriesDescription "AX T1 POST"`
    timed    whether the verdict rests on echo, repetition and inversion time alone, which a clear name outranks
    times    the contrast that those times leave no doubt of
    silent   a description that names no contrast
    part     of the body, where it is none of the head
    """

    verdict: Verdict
    agent: bool | None
    words: str
    timed: bool = False
    times: Contrast | None = None
    silent: str = ""
    part: str = ""
    doubt: bool = False


def series_of(content: Mapping[str, Any]) -> Series | None:
    """What dcm2niix, or a BIDS converter, wrote of a series; None for a JSON file that says nothing of that."""
    (agent, words), timing = _agent(content), _by_timing(content)
    series = _said(content, agent, words, timing)
    modality = str(content.get("Modality") or "").strip().upper()
    if modality in _NO_MR and (series.verdict.could_be or not series.verdict.why):
        verdict = Verdict(Contrast.CT) if modality == "CT" else Verdict(why=_NO_MR[modality])
        series = Series(verdict, None, f"Modality {modality}")
    silent = "" if series.words.startswith(_DESCRIPTIONS) else " ".join(_descriptions(content).values())
    part = str(content.get("BodyPartExamined") or "").strip()
    part = part if _ELSEWHERE.search(part.lower()) and not re.search(r"(?i)head|brain|skull", part) else ""
    series = replace(series, times=timing, silent=silent, part=part, doubt=agent is None and words != "")
    return series if series != Series(Verdict(), None, "") else None


def _said(content: Mapping[str, Any], agent: bool | None, words: str, timing: Contrast | None) -> Series:
    """What the fields of a JSON file say one after the other: the first that says something counts.

    agent, words, timing  what it says of contrast agent, in which words, and by its times
    """
    kinds = content.get("ImageType")
    kinds = [str(kind).upper() for kind in kinds] if isinstance(kinds, list) else []
    if kind := next((kind for kind in kinds if kind in IMAGE_KINDS), ""):
        return Series(Verdict(why=IMAGE_KINDS[kind]), None, f"ImageType {kind}")
    for key, text in _descriptions(content).items():
        verdict = judge_name(_as_name(text))
        if verdict.contrast in (Contrast.T1, Contrast.T1CE) or Contrast.T1 in verdict.could_be:
            if timing in verdict.could_be and not verdict.other:
                verdict = Verdict(timing)
            if agent is not None and verdict.contrast is Contrast.T1 and not _says_without(text):
                verdict = Verdict(Contrast.T1CE if agent else Contrast.T1)
            return Series(verdict, agent, f'{key} "{text}"' + (f", {words}" if agent else ""))
        if verdict.contrast is Contrast.FLAIR and timing is Contrast.T1:
            verdict = either(Contrast.T1CE if agent else Contrast.T1, Contrast.FLAIR)
        if verdict.contrast or verdict.could_be or verdict.why != UNNAMED:
            return Series(verdict, agent, f'{key} "{text}"')
    if timing is not None:
        found = Contrast.T1CE if timing is Contrast.T1 and agent else timing
        return Series(Verdict(found), agent, "its echo and repetition times" + (f", {words}" if agent else ""), True)
    return Series(Verdict(), agent, words if agent is not None else "")


def weigh(filename: str, name: ScanName | Verdict, series: Series | None) -> tuple[ScanName | Verdict, str]:
    """What a file is by its name and by its JSON file, which outranks the name; and why, where the two disagree.

    Times alone only choose where the name states nothing, or leaves the choice.
    """
    if series is None or (isinstance(name, Verdict) and (name.other or (name.why != UNNAMED and not name.could_be))):
        return name, ""  # a mask or a map has the JSON file of the scan it was made from
    found, note = _outranked(filename, name, series)
    contrast, said = found.contrast, series.verdict
    if contrast not in STANDARD:
        return found, note
    if series.silent:  # what it says of an image of that contrast: `gre_hemo` of a T2
        kind = judge_name(re.sub(r"(?i)gradient[ _-]?echo", "gre", _as_name(f"{contrast.label} {series.silent}")))
        if not (kind.contrast or kind.could_be or kind.label):
            return Verdict(why=f'{kind.why}, as its JSON file says ("{series.silent}")'), ""
    if series.part:
        why = f"it could be the {contrast.label}, but its JSON file says BodyPartExamined {series.part}; if it is, "
        return replace(either(contrast), why=f"{why}say so with --{contrast} FILE"), ""
    if contrast is Contrast.FLAIR and series.times is Contrast.T1 and (series.timed or said.contrast is not contrast):
        return either(Contrast.T1CE if series.agent else Contrast.T1, Contrast.FLAIR), ""
    if contrast is Contrast.T1 and series.doubt and not _says_without(f"{filename} {series.words}"):
        return either(Contrast.T1, Contrast.T1CE), ""
    return found, note


def _outranked(filename: str, name: ScanName | Verdict, series: Series) -> tuple[ScanName | Verdict, str]:
    """What a file is by its name, and by what its JSON file says of the contrast, and of contrast agent."""
    named = name.contrast
    could_be = name.could_be if isinstance(name, Verdict) else ()
    said, enhanced = series.verdict, (Contrast.T1, Contrast.T1CE)
    if said.why and not said.could_be:
        return Verdict(why=f"{said.why}, as its JSON file says ({series.words})"), ""
    if said.could_be:
        return (name, "") if named in said.could_be else (said, "")
    contrast, note = said.contrast, ""
    if series.timed and (named or could_be):
        untold = contrast is Contrast.T2 and Contrast.FLAIR in (named, *could_be)  # no inversion time is no proof
        alike = untold or contrast is named or {contrast, named} <= {*enhanced}
        if said.contrast and named in STANDARD and not alike:
            note = f"its echo and repetition times are those of the {said.contrast.label}, its name says {named.label}"
        if named or untold or contrast not in could_be:
            contrast = None
    if contrast is None and series.agent is not None and (named in enhanced or could_be == enhanced):
        contrast = Contrast.T1CE if series.agent else Contrast.T1
    open_ = named or (Contrast.T1CE if could_be == enhanced else None)
    silent = contrast is Contrast.T1 and open_ is Contrast.T1CE and series.agent is None
    if contrast is None or contrast is named or (silent and not _says_without(series.words)):
        return name, note
    scan = name if isinstance(name, ScanName) else scan_of(filename, contrast)
    found = replace(scan, contrast=contrast, pattern=None)
    less = f", the name says {named.label}" if named else ""
    return found, f"taken for the {contrast.label}, as its JSON file says ({series.words}){less}"


def _agent(content: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Whether contrast agent was given, and the words that say so; None where one is named, of an amount of 0."""
    for key in ("ContrastBolusAgent", "ContrastBolusIngredient"):
        value = content.get(key) or ""
        text = (" ".join(map(str, value)) if isinstance(value, list) else str(value)).strip()
        if not _AGENT_UNSAID.fullmatch(text):
            none = names_an_agent(text) and any(_is_nothing(content.get(f"ContrastBolus{k}")) for k in _AMOUNTS)
            return None if none else names_an_agent(text), f'{key} "{text}"'
    return None, ""


def _is_nothing(amount: Any) -> bool:
    return amount is not None and re.fullmatch(r"\s*0+([.,]0*)?\s*(?:ml|cc)?\s*", str(amount)) is not None


def _descriptions(content: Mapping[str, Any]) -> dict[str, str]:
    return {key: text for key in _DESCRIPTIONS if (text := str(content.get(key) or "").strip())}


def _as_name(text: str) -> str:
    return re.sub(r"[\\/]", " ", text)


def names_an_agent(text: str) -> bool:
    """Whether the field for the contrast agent names one: it is not empty nor unknown, and says no `none`."""
    return not (_AGENT_UNSAID.fullmatch(text) or _AGENT_NONE.match(text.strip()))


def _says_without(text: str) -> bool:
    return re.search(r"(?i)\b(pre|without|w/?o|native?|ohne|sans|non?)\b", text.replace("_", " ")) is not None


def _by_timing(content: Mapping[str, Any]) -> Contrast | None:
    """The contrast that echo, repetition and inversion time leave no doubt of, else None.

    They are in seconds, as dcm2niix writes them, unless that is absurd: then in milliseconds, as in DICOM.
    """
    echo, repetition, inversion = (_number(content.get(f"{kind}Time")) for kind in ("Echo", "Repetition", "Inversion"))
    if echo is None or repetition is None:
        return None
    if echo > 1 or repetition > 50:
        echo, repetition, inversion = echo / 1000, repetition / 1000, inversion and inversion / 1000
    if inversion is not None and inversion > 1.5 and echo > 0.06 and repetition > 4:
        return Contrast.FLAIR
    if inversion is None and echo > 0.07 and repetition > 2:
        return Contrast.T2
    if echo < 0.025 and (repetition < 1 or (inversion is not None and 0.5 < inversion < 1.4)):
        return Contrast.T1
    return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None
