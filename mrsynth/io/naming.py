"""How scans are named: the layout, subject and contrast a file name states, and the name a synthetic contrast gets."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.agents import of_agent
from mrsynth.io.formats import stem_of
from mrsynth.io.occasions import occasion_in
from mrsynth.io.vocabulary import (
    MOVED_ONTO,
    TOWARDS,
    Verdict,
    contrast_in_name,
    contrast_of_word,
    either,
    is_acquisition,
    is_label_map,
    is_label_word,
    judge_name,
    name_words,
    names_contrast,
)

BRATS21 = dict(zip(STANDARD, ("t1", "t1ce", "t2", "flair"), strict=True))
BRATS23 = dict(zip(STANDARD, ("t1n", "t1c", "t2w", "t2f"), strict=True))
BIDS = {Contrast.T1: "T1w", Contrast.T1CE: "T1w", Contrast.T2: "T2w", Contrast.FLAIR: "FLAIR", Contrast.PD: "PDw"}

_BRATS21 = re.compile(rf"(.+)_({'|'.join(BRATS21.values())})")
_BRATS23 = re.compile(rf"(.+)-({'|'.join(BRATS23.values())})")
_BIDS = re.compile(r"(sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)(?:_[a-z]+-[A-Za-z0-9+]+)*_(?:T1w|T2w|FLAIR|PDw|dwi)")
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_NOTHING, _SERIES = "x", "z"  # what letters become that say nothing, and the digits that number a series
_SEPARATOR = re.compile(r"[^A-Za-z0-9]+")
_NUMBER = re.compile(r"(?:s|se|ser|series|scan|im|run|seq)?\d{1,5}[a-z]?")  # of a series, as dcm2niix writes it
_PLAIN_WORD = re.compile(r"(?i)(t1|t2|flair|pd|dwi|ct|mr)[a-z]*")


@dataclass(frozen=True)
class ScanName:
    """What the name of one scan says.

    layout   brats21, brats23, bids, nnunet or free
    subject  the part that identifies the subject, "" if there is none: sub-X[_ses-Y], the nnU-Net case, what stands
             before the contrast
    occasion when it was made: a date, a visit; "" where that is not said
    pattern  prefix and suffix around the word for the contrast, where it is a single plain word: ("p1_", "_brain")
    why      what else decided, where the name alone does not
    """

    contrast: Contrast
    layout: str = "free"
    subject: str = ""
    pattern: tuple[str, str] | None = None
    occasion: str = ""
    why: str = ""


def read_names(filenames: Collection[str], channels: Mapping[int, Contrast]) -> dict[str, ScanName | Verdict]:
    """Understand the names of all images of a folder: of each scan what its name says, of others why they are none.

    channels  what `_0000`, `_0001`, ... mean, from a dataset.json; empty when there is none
    A word at the same place in every name says nothing of one of them, be it a time point called T1 (`P14_T1_FLAIR`,
    `P14_T1_T1`), a study called Seg, or the number of a series, which no other series has. Where every name has a
    contrast in the same place and another one later (`P1_T1_FLAIR`, `P1_T2_T1`), the first are time points.
    """
    loose = [name for name in filenames if not _BIDS.fullmatch(stem_of(name)) and not is_channel(name)]
    hidden = _hidden(loose)
    read: dict[str, ScanName | Verdict] = {}
    for name in filenames:
        read[name] = _read(name, hidden.get(name, stem_of(name)), channels)
    return read | _before_and_after(read)


def read_name(filename: str, channels: Mapping[int, Contrast]) -> ScanName | None:
    """Understand a scan's file name by itself; None for masks and for names that state no contrast."""
    name = _read(filename, stem_of(filename), channels)
    return name if isinstance(name, ScanName) else None


def scan_of(filename: str, contrast: Contrast) -> ScanName:
    """What the name of a scan says whose contrast is known from elsewhere."""
    bids = _BIDS.fullmatch(stem_of(filename))
    return ScanName(contrast, "bids", bids[1]) if bids else ScanName(contrast)


def _read(filename: str, said: str, channels: Mapping[int, Contrast]) -> ScanName | Verdict:
    """said: the stem, with other letters in place of what says nothing"""
    stem = stem_of(filename)
    channel = _CHANNEL.fullmatch(stem)
    if channel and int(channel[2]) in channels:
        return ScanName(channels[int(channel[2])], "nnunet", channel[1])
    verdict = judge_name(said)
    if verdict.contrast is Contrast.T1 and said != stem:
        alone = judge_name(stem)
        post = Contrast.T1CE in alone.could_be and "post" in name_words(stem)
        if alone.contrast is Contrast.T1CE or post:  # all names of the folder say so, or a study is called so
            return either(Contrast.T1, Contrast.T1CE)
    if (contrast := verdict.contrast) is None:
        return verdict
    if channel and contrast not in STANDARD:  # CT_0001_0000: who knows
        return Verdict(why="a numbered channel, and no dataset.json says which contrast it is")
    if bids := _BIDS.fullmatch(stem):
        return ScanName(contrast, "bids", bids[1])
    for layout, known in (("brats21", _BRATS21), ("brats23", _BRATS23)):
        if brats := known.fullmatch(stem):
            return ScanName(contrast, layout, _without_series(brats[1], said), occasion=occasion_in(stem))
    start = _start_of_contrast(said, contrast)
    word = _SEPARATOR.split(stem[start:])[0]
    plain = contrast_in_name(word) is contrast and _PLAIN_WORD.fullmatch(word)
    pattern = (stem[:start], stem[start + len(word) :]) if plain else None
    return ScanName(contrast, "free", _without_series(stem[:start], said), pattern, occasion_in(stem))


def _before_and_after(read: Mapping[str, ScanName | Verdict]) -> dict[str, ScanName]:
    """Of two names that differ by `pre` and `post` alone (PRE, POST; pre_T1, post_T1) the T1 and the T1ce.

    Where there is no other T1 or T1ce, and nothing else is called so: before and after an operation there would be.
    """
    said = {name: words for name in read if {"pre", "post"} & set(words := name_words(name))}
    maybe = {n: {v.contrast} if isinstance(v, ScanName) else set(v.could_be) for n, v in read.items()}
    others = [name for name in read if name not in said and maybe[name] & {Contrast.T1, Contrast.T1CE}]
    if len(said) != 2 or others or any(not maybe[name] & {Contrast.T1, Contrast.T1CE} for name in said):
        return {}
    before, after = sorted(said, key=lambda name: "post" in said[name])
    if "pre" not in said[before] or ["post" if word == "pre" else word for word in said[before]] != said[after]:
        return {}
    found = {}
    for name, contrast, other in ((before, Contrast.T1, after), (after, Contrast.T1CE, before)):
        stem, verdict = stem_of(name), read[name]
        if isinstance(verdict, ScanName):
            continue
        bids, end = _BIDS.fullmatch(stem), max(stem.lower().rfind("pre"), stem.lower().rfind("post"))
        subject = bids[1] if bids else _without_series(stem[:end], stem)
        why = f"taken for the {contrast.label}, since {other} lies beside it"
        found[name] = ScanName(contrast, "bids" if bids else "free", subject, None, occasion_in(stem), why)
    return found


def _without_series(before: str, said: str) -> str:
    """What stands before the contrast, less the number of the series and words about the acquisition: the subject."""
    for word in re.finditer(rf"(?<![A-Za-z0-9]){_SERIES}+(?![A-Za-z0-9])", said[: len(before)]):
        if before[word.start() : word.end()] != word[0]:
            before = before[: word.start()] + before[word.end() :]
            break
    while match := re.search(r"(?:^|[^A-Za-z0-9])([A-Za-z0-9]*)$", before):
        if match[1] and not is_acquisition(match[1].lower()):
            break
        if not before:
            break
        before = before[: match.start()]
    return re.sub(r"^[^A-Za-z0-9]+", "", before)


def _hidden(filenames: Collection[str]) -> dict[str, str]:
    """The stem of each name, of its length, with other letters in place of what all names share and of series."""
    stems = {name: stem_of(name) for name in filenames}
    if len(stems) < 2:
        return stems
    places = {name: [m.span() for m in re.finditer(r"[A-Za-z0-9]+", stem)] for name, stem in stems.items()}
    words = {name: [stems[name][a:b].lower() for a, b in spans] for name, spans in places.items()}
    if not all(words.values()):
        return stems
    numbered, place = _series(words)
    skip = place + 1 if numbered else 0
    least = min(len(found) for found in words.values())
    listed = list(words.values())
    front = [i for i in range(least - 1) if (i != place or not numbered) and len({found[i] for found in listed}) == 1]
    back = [-i for i in range(1, least - skip) if len({found[-i] for found in listed}) == 1]
    coded = any(re.search(r"\d", found[i]) and not contrast_of_word(found[i]) for found in listed for i in front)
    labels = [i for i in front if _is_label(listed[0][i]) and listed[0][i] != "atlas"]  # which may be a space
    kept = [i for i in front if i not in labels or coded or len(name_words(_case(stems, places, i))) > 1]
    visits = [i for i in range(skip, least - 1) if all(re.fullmatch(r"t\d", found[i]) for found in listed)]
    kept += [i for i in visits if not all(contrast_of_word(found[i]) for found in listed)]  # t0_T1, t1_T1
    telling = [i for i in (*front, *back) if contrast_of_word(listed[0][i])]
    silent = [i for i in kept if i not in telling]
    plus = {name: [stems[name][a - 1 : a] == "+" for a, _ in spans] for name, spans in places.items()}
    alike = [i for i in back if len({signs[i] for signs in plus.values()}) == 1]  # not so T1_+C, T2_-C
    agents = [i for i in alike if of_agent(listed[0][i])]
    if agents and {judge_name(stem).contrast for stem in stems.values()} - {None, Contrast.T1, Contrast.T1CE}:
        silent += agents  # T1_post, T2_post, FLAIR_post: after what, `_read` asks

    def masked(indices: Iterable[int]) -> dict[str, str]:
        result = {}
        for name, stem in stems.items():
            for i in indices:
                a, b = places[name][i]
                stem = stem[:a] + _NOTHING * (b - a) + stem[b:]
            if name in numbered:
                a, b = places[name][place]
                stem = stem[:a] + _SERIES * (b - a) + stem[b:]
            result[name] = stem
        return result

    flair = [i for i in telling if contrast_of_word(listed[0][i]) is Contrast.FLAIR]
    if flair and Contrast.FLAIR not in {judge_name(stem).contrast for stem in masked([*silent, *telling]).values()}:
        telling = [i for i in telling if i not in flair]  # AX_T1_FLAIR, AX_T2_FLAIR: one of them may be the FLAIR
        silent = [i for i in silent if listed[0][i] not in TOWARDS | MOVED_ONTO]
    plain = masked(silent)
    times = [i for i in range(skip, least - 1) if i not in front and all(contrast_of_word(w[i]) for w in listed)]
    for tried in ([*telling, *times], telling):
        if not tried:
            continue
        without = masked([*silent, *tried])
        seen = {name: judge_name(stem) for name, stem in without.items()}
        clear = {n for n, verdict in seen.items() if verdict.contrast and names_contrast(without[n])}
        if len({seen[n].contrast for n in clear}) < 2:
            continue  # a word that all share is the contrast itself: T1_AX, T1_SAG; T1_TSE, T1_MPRAGE
        if tried != telling:
            said = [(contrast_of_word(words[n][i]), seen[n].contrast) for n in stems for i in times]
            if len(clear) < len(stems) or all(_agree(one, other) for one, other in said):
                continue  # no time points: T2_FLAIR, T1_MPRAGE; T1_TSE, T2_TSE_FLAIR
        clear |= {n for n, v in seen.items() if v.contrast is Contrast.T1CE or v.could_be or v.label}
        return {n: without[n] if n in clear else plain[n] for n in stems}
    return plain


def _agree(word: Contrast | None, contrast: Contrast | None) -> bool:
    """Whether a word may describe a contrast that another word names."""
    return word is contrast or (word, contrast) in ((Contrast.T1, Contrast.T1CE), (Contrast.T2, Contrast.FLAIR))


def _series(words: Mapping[str, list[str]]) -> tuple[set[str], int]:
    """The names that a number of a series stands in, as dcm2niix writes it, and the place of that word; else none.

    In front (`3_T1`, `4_T2`), or behind what names the subject (`P1_3_T1`, `P1_4_T2`, `P1_5_FLAIR`): there only three
    numbers or more that are not padded with 0, behind another number, since fewer may be visits, and others subjects.
    """
    for place in range(max(map(len, words.values())) - 1):
        numbered = {n: w for n, w in words.items() if len(w) > place + 1 and _NUMBER.fullmatch(w[place])}
        before = {tuple(w[:place]) for w in numbered.values()}
        if len(before) != 1:
            continue
        rests: dict[str, list[str]] = {}
        for found in numbered.values():
            rests.setdefault(found[place], []).append("_".join(found[place + 1 :]))
        if place > 0:
            likely = len(rests) > 2 and any(map(str.isdigit, "".join(*before))) and all(i[0] != "0" for i in rests)
        else:
            likely = len(rests) > 1 and not any(_may_be_scan("_".join(words[n])) for n in words.keys() - numbered)
        if not likely:
            continue
        scans = [rest for group in rests.values() for rest in group if _may_be_scan(rest)]
        if len(set(scans)) == len(scans) and all(map(_one_series, rests.values())):
            return set(numbered), place
    return set(), 0


def _one_series(rests: Sequence[str]) -> bool:
    """Whether names of one number, less that number, are one series: a scan, and what was made of it behind its name.

    `T1`, `T1_ph`, `T1a` and `T1_mask`, echoes `T2_e1` and `T2_e2`; but not `T1` and `T2`, nor `T1` and `T1_gd`, which a
    subject has.
    """
    rests = [re.sub(r"_e\d$", "", rest) for rest in rests]
    contrasts = {judge_name(rest).contrast for rest in rests} - {None}
    begun = all(rest.startswith(min(rests, key=len)) for rest in rests)
    return len(contrasts) < 2 and (begun or not any(map(names_contrast, rests)))


def _may_be_scan(name: str) -> bool:
    return bool(judge_name(name).contrast or judge_name(name).could_be)


def _case(stems: Mapping[str, str], places: Mapping[str, list[tuple[int, int]]], i: int) -> str:
    """The word at one place of the first name, in its own spelling."""
    name = next(iter(stems))
    a, b = places[name][i]
    return stems[name][a:b]


def _is_label(word: str) -> bool:
    return is_label_word(word) or is_label_map(word)


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
    read = read_names(filenames, {i: c for c, i in channels.items()})
    scans = [scan for filename in filenames if isinstance(scan := read[filename], ScanName)]
    subject = next((scan.subject for scan in scans if scan.layout == layout), name)
    ending = f"_{tag}" if tag else ""
    if layout == "bids":
        return _bids_name(contrast, subject, filenames, tag.replace("_", "")) + ".nii.gz"
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


def mask_name(name: str, layout: str, filenames: Sequence[str]) -> str:
    """The file name for the brain mask of a subject."""
    if layout != "bids":
        return f"{name}_brain_mask.nii.gz"
    return "_".join(entity for entity in (name, _space(filenames), "desc-brain", "mask.nii.gz") if entity)


def is_channel(filename: str) -> bool:
    """Whether the name has the form CASE_0000 of nnU-Net."""
    return _CHANNEL.fullmatch(stem_of(filename)) is not None


def _bids_name(contrast: Contrast, subject: str, filenames: Sequence[str], tag: str) -> str:
    """BIDS derivative: only desc-* keeps readers from taking the file for an acquisition; `rec` would be raw data."""
    entities = [
        subject,
        "ce-gadolinium" if contrast is Contrast.T1CE else "",
        _space(filenames),
        f"desc-synth{tag}",
        BIDS.get(contrast, contrast.value),
    ]
    return "_".join(entity for entity in entities if entity)


def _space(filenames: Sequence[str]) -> str:
    """The entity `space-X` that all scans have, else ""."""
    spaces = {match[1] if (match := re.search(r"_(space-[A-Za-z0-9]+)_", name)) else "" for name in filenames}
    return spaces.pop() if len(spaces) == 1 else ""


def _start_of_contrast(stem: str, contrast: Contrast) -> int:
    """Where the words that state the contrast begin: 4 in `p01_t1_gd_brain`."""
    starts = [0, *(match.end() for match in _SEPARATOR.finditer(stem))]
    for i in range(len(starts) - 1, 0, -1):
        before, rest = stem[starts[i - 1] : starts[i]], stem[starts[i] :]
        weak = _SEPARATOR.split(rest)[0].lower() in ("ce", "tse")  # these may belong to a T1 further left
        if not weak and contrast_in_name(rest) is contrast and contrast_in_name(before) not in STANDARD:
            return starts[i]
    return 0
