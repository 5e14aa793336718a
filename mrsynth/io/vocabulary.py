"""What the words of a file name mean: which contrast, contrast agent or none, label map or image."""

import re
from collections.abc import Sequence
from itertools import pairwise

from mrsynth.contrasts import Contrast

_PLANE = r"(?:[23]d|ax(?:ial)?|sag(?:ittal)?|cor(?:onal)?|tra(?:nsversal)?|iso)"
_SEQUENCE = rf"(?:mpr(?:age?)?|f?spgr|bravo|vibe|t?fe|t?ffe|tfl|t?se|fse|spa?ce?|flash|cube|vista|fs|{_PLANE})"
_T1 = r"t1(?:n|wi?|native|weighted)?"
_AGENT = r"(?:c|ce|gd|gad|gado|gadolinium|km|ks|cm|contrast)"  # km, ks: Kontrastmittel, kontrastno sredstvo

_WORDS = {
    Contrast.T1: rf"{_PLANE}*(?:{_T1}(?:pre)?{_SEQUENCE}*|(?:me)?mprage|f?spgr|bravo)(?:pre)?",
    Contrast.T1CE: rf"{_PLANE}*(?:(?:ce|gd|gad){_T1}|(?:{_T1}{_SEQUENCE}*|mprage)(?:post|(?:post)?{_AGENT}))",
    Contrast.FLAIR: rf"t2f|{_PLANE}*(?:t2(?:wi?)?)?(?:flair|fla|darkfluid)(?:t2w?|wi?)?{_PLANE}*",
    Contrast.T2: rf"{_PLANE}*t2(?:wi?|weighted)?{_SEQUENCE}*",
}
_EXACT = {"pd": Contrast.PD, "pdw": Contrast.PD, "dwi": Contrast.DWI, "ct": Contrast.CT}
_BETWEEN = re.compile(rf"(?:{_SEQUENCE}|wi?|weighted|ima?ge?|with|mri?|\d+mm)+")  # words that part T1 from "post"
_ENHANCED = {"ce", "gd", "gad", "gado", "gadolinium", "gadovist", "gbca", "postgd", "postgad", "postce", "postcontrast"}
_ENHANCED_AFTER_T1 = {"c", "km", "ks", "cm", "contrast", "enhanced", "post"}  # too common to count elsewhere
_WITHOUT = {"pre", "no", "non", "none", "without", "native", "nativ"}
_AFTER_TREATMENT = re.compile(r"op.*|surg.*|treat.*|therap.*|chemo.*|radi.*|rt|tx")
_TOWARDS = {"to", "in", "on", "onto", "into", "regto"}  # "flair_to_t1": the T1 is the reference
_NOT_A_SCAN_AFTER = {"map", "mapping", "star", "rho", "relaxation", "subtraction"}  # T1 map, T2 star, ...
_NOT_A_SCAN_BEFORE = {"q", "inplane"}
_LABELS = {
    *("label", "labels", "labelmap", "lesion", "lesions", "roi", "rois", "segm"),
    *("pve", "parc", "parcellation", "atlas"),
}


def contrast_in_name(filename: str) -> Contrast | None:
    """The contrast a scan's file name states; None for masks, segmentations, maps and names that state none.

    `t1_gd.nii.gz` -> T1CE, `sub-01_T2w.nii.gz` -> T2, `T1_brain.nii.gz` -> T1, `T1_brain_mask.nii.gz` -> None.
    The last contrast named counts, because identifiers come first. `AX_T1_FLAIR` -> None: some mean a T1-weighted scan.
    """
    words = name_words(filename)
    if is_label_map(filename):
        return None
    candidates = [i for i in range(len(words)) if _word_at(words, i - 1) not in _TOWARDS]
    hits = {i: contrast for i in candidates if (contrast := _contrast_of_word(words[i]))}
    if not hits:
        return _faint_contrast(words)
    last = max(hits)
    if _word_at(words, last - 1) in _NOT_A_SCAN_BEFORE or _word_at(words, last + 1) in _NOT_A_SCAN_AFTER:
        return None
    first, together = last, {hits[last]}  # hits side by side describe one contrast: T2 FLAIR, T1 MPRAGE
    for i in range(last - 1, -1, -1):
        if i in hits:
            first, together = i, together | {hits[i]}
        elif not (_BETWEEN.fullmatch(words[i]) or words[i] in _ENHANCED | _ENHANCED_AFTER_T1 | _WITHOUT):
            break
    if Contrast.FLAIR in together:
        return None if together & {Contrast.T1, Contrast.T1CE} else Contrast.FLAIR
    if hits[last] is Contrast.T2:
        return Contrast.T2
    return Contrast.T1CE if Contrast.T1CE in together or _is_enhanced(words, first) else Contrast.T1


def is_label_map(filename: str) -> bool:
    """Whether the name says mask, segmentation, label, lesion or region: not an image of any contrast."""
    return any(_is_label_word(word) for word in name_words(filename))


def is_brain_mask(filename: str) -> bool:
    """Only what no lesion mask is ever called: a lesion taken for the brain would ruin everything."""
    text = " ".join(name_words(filename))
    return re.search(r"\b((brain|head) ?mask|bet mask)\b", text) is not None and not re.search("lesion|tumou?r", text)


def name_words(filename: str) -> list[str]:
    """The lower-case words of a file name, without its extension and without the BIDS entities sub, ses and space.

    `PatT2_BrainMask.nii.gz` -> pat, t2, brainmask; `sub-CT01_T2w.nii.gz` -> t2w
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", re.split(r"[\\/]", filename)[-1], flags=re.IGNORECASE)
    if stem.lower().startswith("sub-"):
        stem = re.sub(r"(?i)(^sub|(?<=_)ses|(?<=_)space)-[a-z0-9]+", "", stem)
    stem = re.sub(r"(?i)t2\*", "t2_star_", stem)
    stem = re.sub(r"(?i)dark[^a-z0-9]fluid", "darkfluid", stem)
    return [word for chunk in re.split(r"[^A-Za-z0-9]+", stem) if chunk for word in _split_chunk(chunk)]


def _split_chunk(chunk: str) -> list[str]:
    """Words of a run of letters and digits: itself if it is a known word, else cut where its case changes."""
    word = chunk.lower()
    if _contrast_of_word(word) or _is_label_word(word):
        return [word]
    moved = re.fullmatch(r"(.+?)(?:to|2)(?:t[12]|flair).*", word)  # flair2t1, regtoT1: moved onto that scan
    if moved and (_contrast_of_word(moved[1]) or moved[1].endswith("reg")):
        return [moved[1]]
    humps = re.split(r"(?<=[a-z])(?=[A-Z])|(?<=\d)(?=[A-Z][a-z]|T[12])", chunk)
    if len(humps) == 1:
        return [word]
    return [hump.lower() for hump in humps if hump.lower() not in _EXACT]  # "McDonaldPD" is a name


def _contrast_of_word(word: str) -> Contrast | None:
    return next((contrast for contrast, pattern in _WORDS.items() if re.fullmatch(pattern, word)), None)


def _is_label_word(word: str) -> bool:
    word = word.rstrip("0123456789")
    return word in _LABELS or word.endswith(("seg", "segs", "mask", "masks")) or word.startswith("segment")


def _word_at(words: Sequence[str], i: int) -> str:
    return words[i] if 0 <= i < len(words) else ""


def _is_enhanced(words: Sequence[str], t1: int) -> bool:
    """Whether contrast agent is named anywhere, or by one of the shorter words after the T1 at position `t1`."""
    for i, word in enumerate(words):
        if word in _ENHANCED and not _WITHOUT & {_word_at(words, i - 1), _word_at(words, i + 1)}:
            return True
    if any(pair in (("post", "contrast"), ("with", "contrast")) for pair in pairwise(words)):
        return True
    for i in range(t1 + 1, len(words)):
        if words[i] in _ENHANCED_AFTER_T1:
            return not (words[i] == "post" and _AFTER_TREATMENT.fullmatch(_word_at(words, i + 1)))
        if not (_BETWEEN.fullmatch(words[i]) or _contrast_of_word(words[i])):
            return False
    return False


def _faint_contrast(words: Sequence[str]) -> Contrast | None:
    """Words that count only where no clearer one is: pd, dwi, ct and tse anywhere, mr and ce at the end."""
    if exact := [_EXACT[word] for word in words if word in _EXACT]:
        return exact[-1]
    if "tse" in words:
        return Contrast.T2
    return {"mr": Contrast.MR, "ce": Contrast.T1CE}.get(words[-1]) if words else None
