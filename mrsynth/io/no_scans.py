"""Words of a file name that change its meaning: the image is a map, a part, a field or a scout, and no scan.

What they say for certain is told by `why_no_scan`, what they may well say by `may_be_other`.
"""

import re
from collections.abc import Mapping, Sequence

from mrsynth.contrasts import Contrast

_MAP, _FIELD, _SCOUT = "a map computed from scans", "a field, not an image", "a scout"
_DIFFERENCE, _MADE = "the difference of two scans", "its name says that it is synthetic"
_OTHER, _GRADIENT = "of no contrast that mrsynth knows", "T2*-weighted"
_ANYWHERE = {  # word -> what such a file is
    **dict.fromkeys(("adc", "eadc", "cbf", "cbv", "mtt", "ttp", "tmax", "qsm", "mtr", "pvemap", "probmap"), _MAP),
    **dict.fromkeys(
        ("prob", "probability", "jacobian", "mip", "mips", "minip", "maxip", "probseg", "ples", "mapit"), _MAP
    ),
    **dict.fromkeys(("ratio", "ratios", "divided", "mixeltype", "relaxometry", "vfa", "despot1", "looklocker"), _MAP),
    **dict.fromkeys(("warpfield", "deformation", "displacement", "biasfield", "xfm"), _FIELD),
    **dict.fromkeys(("scout", "localizer", "localiser", "survey", "3plane", "3pl"), _SCOUT),
    **dict.fromkeys(("swi", "swan", "megre", "mra", "mrv", "tof", "asl", "angio", "angiography", "venography"), _OTHER),
    **dict.fromkeys(
        ("spine", "cspine", "tspine", "lspine", "spinal", "cervical", "thoracic", "lumbar", "hws", "lws", "rachis"),
        "of the spine",
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
    **dict.fromkeys(("thickness", "difference", "diff", "minus", "zscore", "variance", "texture"), _MAP),
    **dict.fromkeys(
        ("map", "maps", "distance", "curv", "sulc", "myelin", "snr", "sd", "gradient", "error", "spread"), _MAP
    ),
    **dict.fromkeys(("uncertainty", "entropy", "residual", "residuals", "jac", "logjac", "b1", "molli"), _MAP),
    **dict.fromkeys(("overlay", "outline", "edges", "checkerboard"), "a picture made from scans"),
    **dict.fromkeys(("warp", "inverse", "field", "coef", "coeff", "invwarp", "displacements"), _FIELD),
    **dict.fromkeys(("loc", "calibration"), _SCOUT),
    **dict.fromkeys(("gan", "cyclegan", "gen", "remade", "hallucinated", "inpaint", "inpainted"), _MADE),
    **dict.fromkeys(("mesh", "inskull", "outskull", "outskin"), "an outline of the skull"),
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
_WITH = {"with", "no", "without", "w", "wo", "non"}
_WEAKER_FIELD = {"low", "high", "ultra"}
_BY = {"over", "by", "minus"}  # between two contrasts
_SKIPPED = re.compile(r"[23]d|ax\w*|sag\w*|cor\w*|tra(?!ce)\w*|fs|iso|wi?|weighted|p\d")
_WORDS = (
    (re.compile(r"(?:t1|t2|t2star|r1|r2|r2star|pd|mtr)(?:map|rho)s?|(?:gm|wm|csf)prob\w*"), _MAP),
    (re.compile(r"t2w?(?:star|s)w?|.*t2w?(?:t?ffe|flash|gre|epi)"), _GRADIENT),
    (re.compile(r"ep2d\w*|epfid\w*"), "an echo-planar image"),
    (re.compile(r"irt1"), "one of several from which a map is computed"),
    (re.compile(r"subs?t(?:r(?:a[ck]t?[a-z]*)?)?|soustr[a-z]*|sottraz[a-z]*|sustrac[a-z]*"), _DIFFERENCE),
)
_DIXON = re.compile(r"[mqe]?dixon\w*|ideal|flex")  # of which there are water, fat, in and opposed phase
_DELTA = re.compile(r"(?:d|delta)(?:t1|t2|flair)w?")
# Behind the contrast they mean a drawing on it, `p1_flair_GT`; before it they may be a name, `wmh_07_flair`.
_DRAWN = re.compile(
    r"gt|groundtruth|truth|manual|consensus|experte?|(?:rat|read|observ|annotat)ers?|annotators?"
    r"|annot(?:at(?:ions?|ed))?|wm[hl]s?|preds?|predict(?:ions?|ed)|probs?|probability|lbl|les|delin(?:eation)?|thr"
    r"|thresh(?:olded)?|bin(?:ary|ari[sz]ed)?|\d*class(?:es)?|cls|voi|hyperintens[a-z]*"
    r"|l(?:ae?|e)sion(?:e|i|en|er|s)?|lesao|lesoes|lst|lpa|lga|dilated|eroded|clusters?|components?|argmax|onehot"
    r"|gradcam|nnunet|dkt(?:atlas)?|aal|malf|icv|tiv|samseg|bianca"
)
_COMPUTED = (  # behind the contrast they may mean what was computed from it
    r"delta|z?scores?|var|sigma|mse|rmse|mae|ssim|dist|[st]df|uncert[a-z]*|conf(?:idence)?|softmax|sigmoid|logits?"
    r"|salien[a-z]*|attention|attn|noise|sobel|laplac[a-z]*|canny|edge|hessian|frangi|vesselness|wavelet[a-z]*|lbp"
    r"|glcm|radiomics?|grad(?:s|mag)?|times|template|epi|proj(?:ections?)?|images|kurtosis|skewness|exponential"
    r"|squareroot|cam|syn|uni|unit1|uniden|gold|bw|[a-z]*unet[a-z]*|fastsurfer"
)
_OF_A_PART = (  # and these a part of it, cut out or drawn
    r"tumou?rs?|o?edema|ed|necro[a-z]*|ncr|net|wt|et|tc|core|cavity|voided|enhancing|ventric[a-z]*|cort(?:ex|ical)"
    r"|subcortical|(?:hypo)?thalam[a-z]*|brainstem|midbrain|pons|lobes?|frontal|temporal|occipital|parietal"
    r"|cerebell[a-z]*|cerebrum|hippocamp[a-z]*|amygdalae?|putamen|caudate|pallid[a-z]*|vessels?|veins?|venous"
    r"|arter[a-z]*|infarct[a-z]*|bleed[a-z]*|ha?emorr?hag[a-z]*|ha?ematoma|metast[a-z]*"
    r"|(?:gli|mening|aden|schwann|lymph|neur|astrocyt|ependym|cavern|hemangi)[a-z]*omas?"
)
_PERHAPS = re.compile(rf"{_COMPUTED}|{_OF_A_PART}")
_ELSEWHERE = re.compile(  # of other parts of the body, or of a small one of the head
    r"neck|eyes?|optic|orbits?|orbitae?|pituitary|sella[a-z]*|hypoph[a-z]*|iacs?|abdom[a-z]*|cardiac|heart|liver"
    r"|pelvi[cs]|chest|thorax|knee|shoulder|breast|prostate|parotid|larynx|thyroid|sinus(?:es)?|tmj"
)
_DIFFUSION = re.compile(r"dwi|dti|diffusion|b0|b[1-9]\d{2,3}|trace[a-z]*|fa")  # whose images without weighting are T2
_UNDONE = re.compile(r"corr[a-z]*|remov[a-z]*|reduc[a-z]*|suppr[a-z]*|filter[a-z]*|free")
_MENDED = {"noise", "dist", "epi", "grad"}  # dist_corr
_SPACES = re.compile(rf"template|epi|{_DIFFUSION.pattern}")
_PLACES = {"to", "in", "on", "onto", "into", "regto", "space", "reg", "coreg", "registered", "aligned", "warped"}


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
    inversion = r"inv\d?" if _of_mp2rage(words) else r"inv\d"
    if (hits or _of_mp2rage(words)) and any(re.fullmatch(inversion, word) for word in words):
        return "one inversion of an MP2RAGE, not the image made of both"
    return _beside(words, hits) if hits else ""


def may_be_other(words: Sequence[str], first: int, last: int, contrast: Contrast) -> bool:
    """Whether words around the contrast may mean that the image is none of a whole head, but they may be names, too.

    first, last  the words that name the contrast
    """
    before = first - 1
    while _SKIPPED.fullmatch(_at(words, before)):
        before -= 1
    around = [i for i in (before, *range(last + 1, len(words))) if i >= 0 and not _aside(words, i)]
    behind = [words[i] for i in around if i > last]
    if any(_PERHAPS.fullmatch(word.rstrip("0123456789")) for word in behind):
        return True
    if any(_ELSEWHERE.fullmatch(words[i]) and not (words[i] == "neck" and "head" in words) for i in around):
        return True
    if behind and behind[-1] == "skull" and _at(words, len(words) - 2) not in _WITH:
        return True
    if behind[:1] == [f"r{contrast.value[1]}"] and contrast is not Contrast.FLAIR:  # T1_R1: the rate
        return True
    return contrast is Contrast.T2 and any(_DIFFUSION.fullmatch(words[i]) for i in around)


def is_drawn(word: str) -> bool:
    """Whether a lower-case word, behind a contrast, says that an expert drew on it, or a network: rater1, thr0.5."""
    return _DRAWN.fullmatch(word.rstrip("0123456789")) is not None


def is_known(word: str) -> bool:
    """Whether a lower-case word says in itself that an image is no scan, or may not be one."""
    known = word in _ANYWHERE or word in _BEHIND or word == "gradwarp"  # of ADNI, and no field
    return known or is_drawn(word) or _PERHAPS.fullmatch(word) is not None


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
        if word == "skull" and words[i - 1] in {"bet", "brain"}:
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


def _aside(words: Sequence[str], i: int) -> bool:
    """Whether a word only says where the image was moved, or what was mended: to_template, epi_space, dist_corr."""
    before, word, behind = (_at(words, k) for k in (i - 1, i, i + 1))
    if _SPACES.fullmatch(word) and (before in _PLACES or behind == "space"):
        return True
    return word in _MENDED and _UNDONE.fullmatch(behind) is not None


def _of_mp2rage(words: Sequence[str]) -> bool:
    return any(word.startswith("mp2rage") for word in words)


def _at(words: Sequence[str], i: int) -> str:
    return words[i] if 0 <= i < len(words) else ""
