"""How scans are named: the layout, subject and contrast a file name states, and the name a synthetic contrast gets."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.vocabulary import contrast_in_name

BRATS21 = dict(zip(STANDARD, ("t1", "t1ce", "t2", "flair"), strict=True))
BRATS23 = dict(zip(STANDARD, ("t1n", "t1c", "t2w", "t2f"), strict=True))
BIDS = {Contrast.T1: "T1w", Contrast.T1CE: "T1w", Contrast.T2: "T2w", Contrast.FLAIR: "FLAIR", Contrast.PD: "PDw"}

_BRATS21 = re.compile(rf"(.+)_({'|'.join(BRATS21.values())})")
_BRATS23 = re.compile(rf"(.+)-({'|'.join(BRATS23.values())})")
_BIDS = re.compile(r"(sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)(?:_[a-z]+-[A-Za-z0-9+]+)*_(?:T1w|T2w|FLAIR|PDw|dwi)")
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_SEPARATOR = re.compile(r"[^A-Za-z0-9]+")
_PLAIN_WORD = re.compile(r"(?i)(t1|t2|flair|pd|dwi|ct|mr)[a-z]*")


@dataclass(frozen=True)
class ScanName:
    """What the name of one scan says.

    layout   brats21, brats23, bids, nnunet or free
    subject  the part that identifies the subject, "" if there is none: sub-X[_ses-Y], the nnU-Net case, what stands
             before the contrast
    pattern  prefix and suffix around the word for the contrast, where it is a single plain word: ("p1_", "_brain")
    """

    contrast: Contrast
    layout: str
    subject: str
    pattern: tuple[str, str] | None = None


def read_name(filename: str, channels: Mapping[int, Contrast]) -> ScanName | None:
    """Understand a scan's file name; None for masks and for names that state no contrast.

    channels  what `_0000`, `_0001`, ... mean, from a dataset.json; empty when there is none
    """
    stem = stem_of(filename)
    channel = _CHANNEL.fullmatch(stem)
    if channel and int(channel[2]) in channels:
        return ScanName(channels[int(channel[2])], "nnunet", channel[1])
    contrast = contrast_in_name(filename)
    if contrast is None or (channel and contrast not in STANDARD):  # CT_0001_0000: who knows
        return None
    if bids := _BIDS.fullmatch(stem):
        return ScanName(contrast, "bids", bids[1])
    for layout, known in (("brats21", _BRATS21), ("brats23", _BRATS23)):
        if brats := known.fullmatch(stem):
            return ScanName(contrast, layout, brats[1])
    start = _start_of_contrast(stem, contrast)
    word = _SEPARATOR.split(stem[start:])[0]
    plain = contrast_in_name(word) is contrast and _PLAIN_WORD.fullmatch(word)
    pattern = (stem[:start], stem[start + len(word) :]) if plain else None
    return ScanName(contrast, "free", re.sub(r"[^A-Za-z0-9]+$", "", stem[:start]), pattern)


def layout_of(names: Iterable[ScanName]) -> str:
    """The layout that all these names share, else "free"."""
    found = {(name.layout, name.subject) for name in names}
    return found.pop()[0] if len(found) == 1 else "free"


def output_name(
    contrast: Contrast,
    name: str,
    layout: str,
    filenames: Sequence[str],
    channels: Mapping[Contrast, int],
    tag: str = "",
) -> str:
    """The file name for a contrast the subject lacks, in the manner of the scans it has.

    name       of the subject, used where the scans show no manner of their own
    filenames  of the subject's scans
    channels   the nnU-Net channel of each contrast, where there are such
    tag        of a map that belongs to the contrast, such as the "spread" of samples; "" for the contrast itself
    """
    scans = [scan for filename in filenames if (scan := read_name(filename, {i: c for c, i in channels.items()}))]
    subject = next((scan.subject for scan in scans if scan.layout == layout), name)
    ending = f"_{tag}" if tag else ""
    if layout == "bids":
        return _bids_name(contrast, subject, filenames, tag) + ".nii.gz"
    if layout == "brats23":
        return f"{subject}-{BRATS23.get(contrast, contrast.value)}{ending}.nii.gz"
    if layout == "brats21":
        return f"{subject}_{contrast.value}{ending}.nii.gz"
    if layout == "nnunet" and contrast in channels:
        return f"{subject}_{channels[contrast]:04d}{ending}.nii.gz"
    patterns = {scan.pattern for scan in scans}
    if layout == "free" and len(patterns) == 1 and (pattern := patterns.pop()):
        before, after = pattern
        words = [stem_of(filename)[len(before) :].removesuffix(after) for filename in filenames]
        word = contrast.value if all(word.islower() for word in words) else contrast.label
        return f"{before}{word}{after}{ending}.nii.gz"
    return f"{name}_{contrast.value}{ending}.nii.gz"


def stem_of(filename: str) -> str:
    """The file name without .nii or .nii.gz, in any case."""
    return re.sub(r"\.nii(\.gz)?$", "", filename, flags=re.IGNORECASE)


def is_channel(filename: str) -> bool:
    """Whether the name has the form CASE_0000 of nnU-Net."""
    return _CHANNEL.fullmatch(stem_of(filename)) is not None


def _bids_name(contrast: Contrast, subject: str, filenames: Sequence[str], tag: str) -> str:
    """BIDS derivative: only desc-* keeps readers from taking the file for an acquisition; `rec` would be raw data."""
    spaces = {match[1] if (match := re.search(r"_(space-[A-Za-z0-9]+)_", name)) else "" for name in filenames}
    entities = [
        subject,
        "ce-gadolinium" if contrast is Contrast.T1CE else "",
        spaces.pop() if len(spaces) == 1 else "",
        f"desc-synth{tag}",
        BIDS.get(contrast, contrast.value),
    ]
    return "_".join(entity for entity in entities if entity)


def _start_of_contrast(stem: str, contrast: Contrast) -> int:
    """Where the words that state the contrast begin: 4 in `p01_t1_gd_brain`."""
    starts = [0, *(match.end() for match in _SEPARATOR.finditer(stem))]
    for i in range(len(starts) - 1, 0, -1):
        before, rest = stem[starts[i - 1] : starts[i]], stem[starts[i] :]
        weak = _SEPARATOR.split(rest)[0].lower() in ("ce", "tse")  # these may belong to a T1 further left
        if not weak and contrast_in_name(rest) is contrast and contrast_in_name(before) not in STANDARD:
            return starts[i]
    return 0
