"""Words of a file name that change its meaning: the image is a map, a part, a field or a scout, and no scan."""

import re
from collections.abc import Mapping, Sequence

from mrsynth.contrasts import Contrast

_MAP, _FIELD, _SCOUT = "a map computed from scans", "a field, not an image", "a scout"
_DIFFERENCE, _MADE = "the difference of two scans", "its name says that it is synthetic"
_OTHER, _GRADIENT = "of no contrast that mrsynth knows", "T2*-weighted"
_ANYWHERE = {  # word -> what such a file is
    **dict.fromkeys(("adc", "eadc", "cbf", "cbv", "mtt", "ttp", "tmax", "qsm", "mtr", "pvemap", "probmap"), _MAP),
    **dict.fromkeys(("prob", "probability", "jacobian", "mip", "minip", "subtraction", "probseg", "ples"), _MAP),
    **dict.fromkeys(("ratio", "ratios", "divided", "mixeltype", "relaxometry", "vfa", "despot1", "looklocker"), _MAP),
    **dict.fromkeys(("warpfield", "deformation", "displacement", "biasfield", "xfm"), _FIELD),
    **dict.fromkeys(("scout", "localizer", "localiser", "survey", "3plane", "3pl"), _SCOUT),
    **dict.fromkeys(("swi", "swan", "megre", "mra", "mrv", "tof", "asl", "angio", "angiography", "venography"), _OTHER),
    **dict.fromkeys(
        ("spine", "cspine", "tspine", "lspine", "spinal", "cervical", "thoracic", "lumbar"), "of the spine"
    ),
    **dict.fromkeys(("calibration", "calib", "smartbrain", "refscan"), _SCOUT),
    **dict.fromkeys(("ciss", "fiesta", "trufi", "trufisp", "bffe", "btfe", "fgatir"), _OTHER),  # quick as a T1 is
    **dict.fromkeys(("dce", "dsc", "dyn", "dynamic", "perf", "perfusion", "twist"), "of a perfusion or dynamic series"),
}
_PARTS = {
    **dict.fromkeys(("phase", "pha", "ph", "phs", "angle", "wrapped", "unwrapped"), "a phase image"),
    **dict.fromkeys(("real", "imag", "imaginary"), "the real or imaginary part of an image"),
}
_RIGHT_AFTER = dict.fromkeys(("map", "mapping", "rho", "relaxation", "gm", "wm", "csf"), _MAP)
_BEHIND = {  # anywhere after the contrast
    **dict.fromkeys(("thickness", "difference", "diff", "subtracted", "minus", "zscore", "variance", "texture"), _MAP),
    **dict.fromkeys(
        ("map", "maps", "distance", "curv", "sulc", "myelin", "snr", "sd", "gradient", "error", "spread"), _MAP
    ),
    **dict.fromkeys(("uncertainty", "entropy", "residual", "residuals", "jac", "logjac", "b1", "molli"), _MAP),
    **dict.fromkeys(("overlay", "outline", "edges", "checkerboard"), "a picture made from scans"),
    **dict.fromkeys(("warp", "inverse", "field", "coef", "coeff", "invwarp", "displacements"), _FIELD),
    **dict.fromkeys(("loc", "calibration"), _SCOUT),
    **dict.fromkeys(("gan", "cyclegan", "gen", "remade", "inpainted", "hallucinated"), _MADE),
}
_OF_T2 = {  # beside T2
    *("star", "ffe", "gre", "hemo", "haemo", "heme", "medic", "merge", "swan", "fl2d", "fl3d", "flash", "mpgr", "epi"),
}
_RIGHT_BEFORE = {
    "q": _MAP,
    "sub": _DIFFERENCE,
    "inplane": "an in-plane reference",
    "loc": _SCOUT,
    **dict.fromkeys(("phase", "pha", "phs"), "a phase image"),
}
_WEAKER_FIELD = {"low", "high", "ultra"}
_BY = {"over", "by", "minus"}  # between two contrasts
_SKIPPED = re.compile(r"[23]d|ax\w*|sag\w*|cor\w*|tra\w*|fs|iso|wi?|weighted|p\d")
_WORDS = (
    (re.compile(r"(?:t1|t2|t2star|r1|r2|r2star|pd|mtr)(?:map|rho)s?|(?:gm|wm|csf)prob\w*"), _MAP),
    (re.compile(r"t2w?(?:star|s)w?|.*t2w?(?:t?ffe|flash|gre|epi)"), _GRADIENT),
    (re.compile(r"ep2d\w*|epfid\w*"), "an echo-planar image"),
    (re.compile(r"irt1"), "one of several from which a map is computed"),
)
_DIXON = re.compile(r"[mqe]?dixon\w*|ideal|flex")  # of which there are water, fat, in and opposed phase
_DELTA = re.compile(r"(?:d|delta)(?:t1|t2|flair)w?")


def why_no_scan(words: Sequence[str], hits: Mapping[int, Contrast]) -> str:
    """What else than a scan of a contrast the words say; "" where they say nothing of that kind.

    hits  place -> the contrast that the word there names
    """
    for word in words:
        if why := _ANYWHERE.get(word) or next((why for pattern, why in _WORDS if pattern.fullmatch(word)), ""):
            return why
    for i, word in enumerate(words):
        if _at(words, i - 1) == "in":
            continue  # T1_in_phase, of water and fat
        if word in _PARTS and (_at(words, i - 1) == "part" or (hits and i > min(hits)) or word == words[-1]):
            return _PARTS[word]
    if any(map(_DIXON.fullmatch, words)):
        fat = [i for i, word in enumerate(words) if word in ("f", "fat", "ff", "fatonly")]
        if {"opp", "op", "out", "opposed"} & set(words) or any(not re.match("sat|sup", _at(words, i + 1)) for i in fat):
            return "the fat or the opposed phase of a Dixon scan"
    if _of_mp2rage(words) and any(re.fullmatch(r"inv\d?", word) for word in words):
        return "one inversion of an MP2RAGE, not the image made of both"
    return _beside(words, hits) if hits else ""


def is_difference(chunk: str) -> bool:
    """Whether a run of lower-case letters is the difference of two scans: dT1."""
    return _DELTA.fullmatch(chunk) is not None


def _beside(words: Sequence[str], hits: Mapping[int, Contrast]) -> str:
    """What the words around the contrast say."""
    last = max(hits)
    if len(hits) > 1 and _BY & set(words[min(hits) : last]):
        return _MAP
    if len(hits) > 1 and "from" in words[min(hits) : last]:
        return _MADE
    if {"bias", "totbias"} & (behind := set(words[last + 1 :])) and "fast" in behind:
        return _FIELD
    for i, word in enumerate(words[last + 1 :], last + 1):
        if re.fullmatch(r"[a-z]{2,}maps?|b[01]maps?", word):
            return _MAP
        if word in {"skull", "mesh"} and words[i - 1] == "bet":
            return "an outline of the skull"
        if word in _BEHIND and not (word == "field" and words[i - 1] in _WEAKER_FIELD):
            return _BEHIND[word]
        if word == "sub" and _SKIPPED.fullmatch(_at(words, i + 1) or "ax"):  # T1_sub_01 is a subject
            return _DIFFERENCE
    if _of_mp2rage(words) and _at(words, last + 1) == "images" and hits[last] is Contrast.T1:
        return _MAP  # so Siemens calls the T1 times
    after = last + 1
    while _SKIPPED.fullmatch(_at(words, after)):
        after += 1
    if _at(words, last + 1) == "star" or (
        hits[last] is Contrast.T2 and {_at(words, after), _at(words, last - 1)} & _OF_T2
    ):
        return _GRADIENT
    return _RIGHT_BEFORE.get(_at(words, last - 1), "") or _RIGHT_AFTER.get(_at(words, last + 1), "")


def _of_mp2rage(words: Sequence[str]) -> bool:
    return any(word.startswith("mp2rage") for word in words)


def _at(words: Sequence[str], i: int) -> str:
    return words[i] if 0 <= i < len(words) else ""
