"""What the words of a file name mean: which contrast, contrast agent or none, label map, map or scan.

Judged from one name alone; what a folder's names have in common is weighed in `naming`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from mrsynth.contrasts import Contrast
from mrsynth.io.formats import stem_of

MANY = 2**14  # words and names whose meaning is kept: a cohort has few words, and each name is judged twice

# Words that name a contrast ------------------------------------------------------------------------------------------

_PLANE = r"(?:[23]d|ax(?:ial)?|sag(?:ittal)?|cor(?:onal)?|tra(?:nsversal|ns)?|iso)"
_SEQUENCE = rf"(?:mpr(?:age?)?|f?spgr|bravo|vibe|t?fe|t?ffe|tfl|t?se|fse|spa?ce?|flash|cube|vista|fs|{_PLANE})"
_T1 = r"t1(?:n|wi?|native|weighted)?"
_AGENT = r"(?:c|ce|gd|gad|gado|gadolinium|km|ks|cm|mdc|inj|enh|contrast)"  # km, ks, mdc: in German, Slovene, Italian
_BEFORE = r"(?:pre(?:gd|gad|gado|km|contrast)?)"
_MOVED = r"[smruw]{1,3}"  # prefixes of SPM (r: resliced, w: warped, m: bias corrected) and of Philips (s)

_WORDS = {
    Contrast.T1: rf"{_PLANE}*(?:{_T1}{_BEFORE}?{_SEQUENCE}*|(?:me)?mprage|f?spgr|bravo){_BEFORE}?|{_MOVED}t1w?",
    Contrast.T1CE: rf"{_PLANE}*(?:(?:c|ce|gd|gad|gado|km){_T1}{_SEQUENCE}*|"
    rf"(?:{_T1}{_SEQUENCE}*|mprage)(?:post|pc|(?:post)?{_AGENT}){_SEQUENCE}*)|{_MOVED}t1(?:c|ce|gd)",
    Contrast.FLAIR: rf"t2f|{_PLANE}*(?:t2(?:wi?)?)?(?:flair|fla|darkfluid)(?:t2w?|wi?)?(?:post|gd|ce)?{_PLANE}*"
    rf"|{_MOVED}flair|fl",
    Contrast.T2: rf"{_PLANE}*t2(?:wi?|weighted)?{_SEQUENCE}*|{_MOVED}t2w?",
}
_EXACT = {"pd": Contrast.PD, "pdw": Contrast.PD, "dp": Contrast.PD, "dwi": Contrast.DWI, "ct": Contrast.CT}
_ACCELERATED = r"p\d|pat\d?|grappa\d?|sense|clear|caipi\w*|t?fl[23]d|nd|dis[23]d|wip|n[45]"  # how, in names of vendors
_HOW = rf"{_SEQUENCE}|wi?|weighted|ima?ge?|with|mri?|\d+mm"
_ACQUIRED = re.compile(rf"(?:{_HOW})+")
_BETWEEN = re.compile(rf"(?:{_HOW}|{_ACCELERATED})+")  # words that part T1 from "post"; alone, p1 may be a patient
_TOWARDS = {"to", "in", "on", "onto", "into", "regto"}  # "flair_to_t1": the T1 is the reference

# Contrast agent ------------------------------------------------------------------------------------------------------

_ENHANCED = {
    *("ce", "gd", "gad", "gado", "gadolinium", "gbca", "enhanced", "plusc", "pluscontrast", "withcontrast"),
    *(
        "postgd",
        "postgad",
        "postgado",
        "postce",
        "postcontrast",
        "postkm",
        "mitkm",
        "nachkm",
        "contrastenhanced",
        "mkm",
    ),
    *("withgd", "withgad", "wgd", "wgad", "gdpost", "gddtpa", "dtpa", "gadavist", "gadovist", "gadobutrol", "dotarem"),
    *("wcontrast", "magnevist", "multihance", "prohance", "omniscan", "clariscan", "gadoterate", "vueway", "elucirem"),
}
_ENHANCED_AFTER_T1 = {
    *("c", "km", "ks", "cm", "contrast", "contraste", "kontrast", "post", "pc", "mdc", "enh", "inj", "injected"),
}  # too common to count elsewhere
_AFTER = {"post", "with", "w", "plus", "mit", "nach", "after", "avec", "con", "dopo", "na", "po", "apres", "iv"}
_SUBSTANCE = {"contrast", "contraste", "kontrast", "km", "ks", "cm", "mdc", "c", "gd", "gad", "gado", "inj"}
_WITHOUT = {
    *("pre", "no", "non", "none", "without", "wo", "native", "nativ", "ohne", "sans", "sin", "senza", "bez", "vor"),
    "before",
}
_AFTER_TREATMENT = re.compile(r"op.*|surg.*|treat.*|therap.*|chemo.*|radi.*|rt|tx")

# What is no scan -----------------------------------------------------------------------------------------------------

# After the contrast they mean a drawing on it, `p1_flair_GT`; before it they may be a name, `wmh_07_flair`.
_OF_AN_EXPERT = {
    *("gt", "groundtruth", "truth", "manual", "consensus", "expert", "rater", "annotation", "annotated", "wmh", "wmhs"),
    *("pred", "preds", "prediction", "predicted", "prob", "probs", "probability"),
}
_LABELS = {
    *("label", "labels", "labelmap", "lesion", "lesions", "roi", "rois", "segm"),
    *("pve", "pveseg", "parc", "parcellation", "atlas"),
}
_MAP = "a map computed from scans"
_NO_SCAN = {  # word -> what such a file is
    **dict.fromkeys(("adc", "eadc", "cbf", "cbv", "mtt", "ttp", "tmax", "qsm", "mtr", "pvemap", "probmap"), _MAP),
    **dict.fromkeys(("prob", "probability", "jacobian", "mip", "minip", "subtraction", "probseg"), _MAP),
    **dict.fromkeys(("warpfield", "deformation", "displacement", "biasfield"), "a field, not an image"),
    **dict.fromkeys(("scout", "localizer", "localiser", "survey", "3plane"), "a scout"),
    **dict.fromkeys(("swi", "megre", "mra", "tof", "asl"), "of no contrast that mrsynth knows"),
}
_PARTS = {
    **dict.fromkeys(("phase", "pha", "ph", "phs"), "a phase image"),
    **dict.fromkeys(("real", "imag", "imaginary"), "the real or imaginary part of an image"),
}
_NOT_A_SCAN_AFTER = {
    **dict.fromkeys(("map", "mapping", "rho", "relaxation", "gm", "wm", "csf"), _MAP),
    **dict.fromkeys(("star", "ffe", "gre", "hemo", "haemo", "heme", "medic", "merge", "swan", "fl2d"), "T2*-weighted"),
}
_NOT_A_SCAN_BEFORE = {"q": _MAP, "inplane": "an in-plane reference"}
UNNAMED = "its name states no contrast"
_MADE = {"synthetic", "synth", "synthsr", "pseudo", "fake"}
_MADE_OF = re.compile(  # T2Synth, pseudoT1
    r"(?:t1|t2|flair|t1ce)\w{0,3}?(?:synth|synthetic|synthesi[sz]ed|pseudo|fake)"
    r"|(?:synth|synthetic|pseudo|fake)(?:t1|t2|flair)\w{0,3}"
)
_COMPUTED = re.compile(  # by SPM and CAT
    r"(?:[rwm]*c[1-6]|m?wp[0-3]|m?wrp[0-3])(?=[rwmsu]{0,3}(?:t1|t2|flair|mprage))|(?:i?y|u|wj)_"
)


@dataclass(frozen=True)
class Verdict:
    """What a name says: a contrast; or contrasts between which it leaves the choice; or why the file is no scan.

    label  whether it is a mask or a segmentation
    """

    contrast: Contrast | None = None
    could_be: tuple[Contrast, ...] = ()
    why: str = ""
    label: bool = False


@lru_cache(maxsize=MANY)
def judge_name(filename: str) -> Verdict:
    """What a file name says of the image.

    `t1_gd.nii.gz` is a T1CE, `T1_brain` a T1, `T1_brain_mask` a label map, `T1_map` a map. The last contrast named
    counts, because identifiers come first. `AX_T1_FLAIR` leaves the choice: some mean a T1-weighted scan, some a FLAIR.
    """
    stem = _plain(filename)
    words = name_words(filename)
    if is_label_map(filename):
        return Verdict(why="a mask or segmentation", label=True)
    if _COMPUTED.match(stem.lower()):
        return Verdict(why="made by SPM from a scan")
    if any(chunk in _MADE or _MADE_OF.fullmatch(chunk) for chunk in map(str.lower, _chunks(stem))):
        return Verdict(why="its name says that it is synthetic")
    candidates = [i for i in range(len(words)) if _word_at(words, i - 1) not in _TOWARDS]
    hits = {i: contrast for i in candidates if (contrast := contrast_of_word(words[i]))}
    if reason := _why_no_scan(words, hits):
        return Verdict(why=reason)
    if not hits:
        faint = _faint_contrast(words)
        return Verdict(faint, why="" if faint else UNNAMED)
    last = max(hits)
    if set(words[last + 1 :]) & _OF_AN_EXPERT:
        return Verdict(why="drawn on a scan, or predicted from one", label=True)
    first, together = last, {hits[last]}  # hits side by side describe one contrast: T2 FLAIR, T1 MPRAGE
    for i in range(last - 1, -1, -1):
        if i in hits:
            first, together = i, together | {hits[i]}
        elif not (_BETWEEN.fullmatch(words[i]) or words[i] in _ENHANCED | _ENHANCED_AFTER_T1 | _WITHOUT):
            break
    if Contrast.FLAIR in together:
        t1 = [c for c in (Contrast.T1, Contrast.T1CE) if c in together]
        return either(t1[-1], Contrast.FLAIR) if t1 else Verdict(Contrast.FLAIR)
    if hits[last] is Contrast.T2:
        return Verdict(Contrast.T2)
    if Contrast.T1CE in together or _is_enhanced(words, first):
        return Verdict(Contrast.T1CE)
    return either(Contrast.T1, Contrast.T1CE) if _after_something(words, first) else Verdict(Contrast.T1)


def contrast_in_name(filename: str) -> Contrast | None:
    """The contrast a scan's file name states; None for label maps, maps, and names that state none or several."""
    return judge_name(filename).contrast


def either(*contrasts: Contrast) -> Verdict:
    """The verdict that leaves the choice between contrasts, with what to do."""
    names = " or the ".join(c.label for c in contrasts)
    flags = " or ".join(f"--{c} FILE" for c in contrasts)
    return Verdict(could_be=contrasts, why=f"it could be the {names}; say which with {flags}")


def is_label_map(filename: str) -> bool:
    """Whether the name says mask, segmentation, label, lesion or region: not an image of any contrast."""
    for chunk in _chunks(_plain(filename)):
        words = _split_chunk(chunk)
        for word, following in zip(words, [*words[1:], ""], strict=True):
            # of words run together, the last tells: BrainSeg is a mask, VesSegTrial a study
            if is_label_word(word) and (not following or contrast_of_word(following)):
                return True
    return False


def is_brain_mask(filename: str) -> bool:
    """Only what no lesion mask is ever called: a lesion taken for the brain would ruin everything."""
    text = " ".join(name_words(filename))
    return re.search(r"\b((brain|head) ?mask|bet mask)\b", text) is not None and not re.search("lesion|tumou?r", text)


def is_anatomy(filename: str) -> bool:
    """Whether a segmentation is one of the anatomy, not of a tumour or of lesions."""
    words = name_words(filename)
    named = {"aseg", "synthseg", "probseg", "parc", "parcellation", "atlas", "pve", "pveseg"}
    return bool(named & set(words)) or re.search(r"\bbrain seg", " ".join(words)) is not None


def is_lesion_map(filename: str) -> bool:
    """Whether the name of a label map says that it shows a tumour, lesions, or unnamed labels."""
    named = {"autoseg", "dseg", "label", "labels", "segm", "segmentation", "lesion", "lesions"}
    return bool((named | {"lesionmask", "lesionseg"}) & set(name_words(filename)))


def name_words(filename: str) -> list[str]:
    """The lower-case words of a file name, without its ending and without the BIDS entities sub, ses and space.

    `PatT2_BrainMask.nii.gz` -> pat, t2, brainmask; `sub-CT01_T2w.nii.gz` -> t2w; `9_+C_Sag_T1` -> 9, plusc, sag, t1
    """
    return [word for chunk in _chunks(_plain(filename)) for word in _split_chunk(chunk)]


@lru_cache(maxsize=MANY)
def contrast_of_word(word: str) -> Contrast | None:
    """The contrast that one lower-case word names by itself."""
    return next((contrast for contrast, pattern in _WORDS.items() if re.fullmatch(pattern, word)), None)


@lru_cache(maxsize=MANY)
def is_label_word(word: str) -> bool:
    """Whether one lower-case word says mask, segmentation, label, lesion or region."""
    word = word.rstrip("0123456789")
    return word in _LABELS or word.endswith(("seg", "segs", "mask", "masks")) or word.startswith("segment")


def is_acquisition(word: str) -> bool:
    """Whether a lower-case word only says how a scan was made: a plane, a sequence, contrast agent."""
    return bool(_ACQUIRED.fullmatch(word)) or word in _ENHANCED | _ENHANCED_AFTER_T1 | _WITHOUT


def _plain(filename: str) -> str:
    """The name without its ending, and with the signs that are words written as words."""
    stem = stem_of(re.split(r"[\\/]", filename)[-1])
    if stem.lower().startswith("sub-"):
        stem = re.sub(r"(?i)(^sub|(?<=_)ses|(?<=_)space)-[a-z0-9]+", "", stem)
    stem = re.sub(r"(?i)t2\*", "t2_star_", stem)
    stem = re.sub(r"(?i)mp[^a-z0-9]rage", "mprage", stem)
    stem = re.sub(r"(?i)dark[^a-z0-9]fluid", "darkfluid", stem)
    stem = re.sub(r"(?i)(?<=t1)(w?)c-(?![a-z0-9-])", r"\1_native_", stem)  # T1C-: the usual counterpart of T1C+
    stem = re.sub(r"(?i)\+ ?(?:c|gd|gad|gado|km|contrast)(?![a-z])|c\+(?![a-z0-9])", "_plusc_", stem)
    return re.sub(r"(?i)(?<=t1)(w?)\+(?![a-z0-9])", r"\1_plusc_", stem)


def _chunks(stem: str) -> list[str]:
    return [chunk for chunk in re.split(r"[^A-Za-z0-9]+", stem) if chunk]


def _split_chunk(chunk: str) -> list[str]:
    """Words of a run of letters and digits: itself if it is a known word, else cut where its case changes."""
    word = chunk.lower()
    if contrast_of_word(word) or is_label_word(word):
        return [word]
    moved = re.fullmatch(r"(.+?)(?:to|2)(?:t[12]|flair).*", word)  # flair2t1, regtoT1: moved onto that scan
    if moved and (contrast_of_word(moved[1]) or moved[1].endswith("reg")):
        return [moved[1]]
    humps = re.split(r"(?<=[a-z])(?=[A-Z])|(?<=\d)(?=[A-Z][a-z]|T[12])", chunk)
    if len(humps) == 1:
        return [chunk.lower()]
    return [hump.lower() for hump in humps if hump.lower() not in _EXACT]  # "McDonaldPD" is a name


def _word_at(words: Sequence[str], i: int) -> str:
    return words[i] if 0 <= i < len(words) else ""


def _why_no_scan(words: Sequence[str], hits: dict[int, Contrast]) -> str:
    """What else than a scan of a contrast the words say; "" where they say nothing of that kind."""
    for word in words:
        if word in _NO_SCAN:
            return _NO_SCAN[word]
        if re.fullmatch(r"(?:t1|t2|t2star|r1|r2|r2star|pd|mtr)(?:map|rho)s?", word):
            return _MAP
        if re.fullmatch(r"t2w?(?:star|s)w?", word):
            return "T2*-weighted"
    for i, word in enumerate(words):
        if word in _PARTS and (_word_at(words, i - 1) == "part" or (hits and i > min(hits)) or word == words[-1]):
            return _PARTS[word]
    if hits:
        last = max(hits)
        before, after = _word_at(words, last - 1), _word_at(words, last + 1)
        if hits[last] is not Contrast.T2 and after in _NOT_A_SCAN_AFTER and _NOT_A_SCAN_AFTER[after] != _MAP:
            after = "star" if after == "star" else ""  # T1 FFE is a T1
        if re.fullmatch(r".*t2w?t?ffe", words[last]):
            after = "ffe"
        return _NOT_A_SCAN_BEFORE.get(before, "") or _NOT_A_SCAN_AFTER.get(after, "")
    return ""


def _is_enhanced(words: Sequence[str], t1: int) -> bool:
    """Whether contrast agent is named anywhere, or by one of the shorter words after the T1 at position `t1`."""
    for i, word in enumerate(words):
        if word in _ENHANCED and not _WITHOUT & {_word_at(words, i - 1), _word_at(words, i + 1)}:
            return True
    if any(one in _AFTER and other in _SUBSTANCE for one, other in pairwise(words)):
        return True
    for i in range(t1 + 1, len(words)):
        if words[i] in _ENHANCED_AFTER_T1:
            return not (words[i] == "post" and _AFTER_TREATMENT.fullmatch(_word_at(words, i + 1)))
        if not (_BETWEEN.fullmatch(words[i]) or contrast_of_word(words[i])):
            return False
    return False


def _after_something(words: Sequence[str], t1: int) -> bool:
    """Whether the T1 at position `t1` is called `post`, and not after what: contrast agent, or an operation."""
    for i in range(t1 - 1, -1, -1):
        if words[i] == "post":
            return not _AFTER_TREATMENT.fullmatch(words[i + 1])
        if not _BETWEEN.fullmatch(words[i]):
            return False
    return False


def _faint_contrast(words: Sequence[str]) -> Contrast | None:
    """Words that count only where no clearer one is: pd, dwi, ct, tse and agents anywhere, mr and ce at the end.

    Agent alone is given for a T1 (`GADO_preprocessed`), unless the name says perfusion.
    """
    if exact := [_EXACT[word] for word in words if word in _EXACT]:
        return exact[-1]
    if "tse" in words:
        return Contrast.T2
    if {"gad", "gado", "gadolinium", "postgad", "postgado", "postcontrast"} & set(words):
        return (
            None if {"perf", "perfusion", "dsc", "dce", "dyn", "dynamic", "mra", "swi"} & set(words) else Contrast.T1CE
        )
    return {"mr": Contrast.MR, "ce": Contrast.T1CE}.get(words[-1]) if words else None
