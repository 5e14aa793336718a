"""What the words of a file name mean: which contrast, contrast agent or none, label map, map or scan.

Judged from one name alone; what a folder's names have in common is weighed in `naming`.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.agents import Agent, agent_named, agent_of, of_agent, spelt_out
from mrsynth.io.formats import stem_of
from mrsynth.io.no_scans import is_difference, is_drawn, is_known, may_be_other, why_no_scan

MANY = 2**14  # words and names whose meaning is kept: a cohort has few words, and each name is judged twice

# Words that name a contrast ------------------------------------------------------------------------------------------

_PLANE = r"(?:[23]d|ax(?:ial)?|sag(?:ittal)?|cor(?:onal)?|tra(?:nsversal|ns)?|iso)"
_READOUT = r"(?:spa?ce?|cube|vista|blade|propeller)"
_SEQUENCE = rf"(?:mpr(?:age?)?|f?spgr|bravo|vibe|t?fe|t?ffe|tfl|t?se|fse|flash|fs|{_READOUT}|{_PLANE})"
_FRONT = rf"(?:{_PLANE}|{_READOUT})*"
_T1 = r"t1(?:n|wi?|native?|weighted)?"
_AGENT = r"(?:c|ce|gd|gad|gado|gadolinium|km|ks|cm|mdc|inj|enh|contrast)"  # km, ks, mdc: in German, Slovene, Italian
_BEFORE = r"(?:pre(?:gd|gad|gado|km|con(?:trast)?)?)"
_MOVED = r"[smruw]{1,3}"  # prefixes of SPM (r: resliced, w: warped, m: bias corrected) and of Philips (s)
_GLUED = re.compile(
    r"(.+?)((?:co)?reg(?:istered)?|aligned|warped|resampled|corrected|crop(?:ped)?|ima?ge?|vol(?:ume)?|v\d"
    r"|brain|bet|raw|orig|norm|stripped|n[34]|ss|bc|mni|defaced|post|pre|with|without|no)"
)

_WORDS = {
    Contrast.T1: rf"{_FRONT}(?:{_T1}{_BEFORE}?{_SEQUENCE}*|mprage|mempr(?:age)?|(?:ir)?f?spgr|bravo){_BEFORE}?"
    rf"|{_MOVED}t1w?",
    Contrast.T1CE: rf"{_FRONT}(?:(?:c|ce|gd|gad|gado|km){_T1}{_SEQUENCE}*|"
    rf"(?:{_T1}{_SEQUENCE}*|mprage)(?:post(?:con)?|pc|(?:post)?{_AGENT}(?:wi?)?){_SEQUENCE}*)|{_MOVED}t1(?:c|ce|gd)",
    Contrast.FLAIR: rf"t2f|{_FRONT}(?:t2(?:wi?)?)?(?:flair|fla|darkfluid)(?:t2w?|wi?)?(?:post|gd|ce)?{_FRONT}"
    rf"|{_MOVED}flair|fl",
    Contrast.T2: rf"{_FRONT}t2(?:wi?|weighted)?{_SEQUENCE}*|{_MOVED}t2w?",
}
_EXACT = {"pd": Contrast.PD, "pdw": Contrast.PD, "dp": Contrast.PD, "dwi": Contrast.DWI, "ct": Contrast.CT}
_ACCELERATED = r"p\d|pat\d?|grappa\d?|sense|clear|caipi\w*|t?fl[23]d|nd|dis[23]d|wip|n[45]"  # how, in names of vendors
_HOW = rf"{_SEQUENCE}|ir|wi?|weighted|ima?ge?|with|mri?|\d+mm|\dt|accelerated"
_ACQUIRED = re.compile(rf"(?:{_HOW})+")
_FURTHER = r"dixon|mdixon|spir|spair|fatsat|bb|hr|stealth|nav|navi\w*|neuronav\w*|brain|head|\d{3}"
# words that part T1 from "post"; alone, p1 may be a patient
_BETWEEN = re.compile(rf"(?:{_HOW}|{_ACCELERATED})+|{_FURTHER}")
TOWARDS = {"to", "in", "on", "onto", "into", "regto"}  # "flair_to_t1": the T1 is the reference
MOVED_ONTO = {"reg", "registered", "coreg", "coregistered", "aligned", "warped"}  # and with no "to": which of the two?

# What is no scan -----------------------------------------------------------------------------------------------------

_LABEL_ENDINGS = ("seg", "segs", "mask", "masks", "msk", "msks", "maske", "masque", "maska", "maschera", "mascara")
_TOOLS = r"brain ?extraction|hd ?bet|bet|synthstrip|robex|skull ?strip(?:ped|ping)?"  # that find the brain
_BRAIN_MASK = re.compile(rf"\b((brain|head) ?(?:mask|msk)|(?:{_TOOLS}) ?mask)\b")
_LABELS = {
    *("label", "labels", "labelmap", "lesion", "lesions", "roi", "rois", "segm", "contour"),
    *("pve", "pveseg", "parc", "parcellation", "atlas", "aparc", "wmparc", "ribbon", "tissue", "tissues", "5tt"),
    *("contours", "lesionprob", "lesionprobability"),
}
_STUDIES = {"study", "studie", "trial", "project", "cohort"}  # T1_study_01
_UNIFORM = {"uni", "unit1", "uniden"}  # what Siemens calls the image made of both inversions
_LETTERS = str.maketrans({"ı": "i", "ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "ß": "ss"})
_PARTED = {("t", "1"): Contrast.T1, ("t", "2"): Contrast.T2}  # T-1, T 2: or a visit
UNNAMED = "its name states no contrast"
_LIKE_FLAIR = re.compile(r"(?!flirt)fla?i?r\w{0,2}")  # FLR, FLAIRE; not the program
_OF_FLAIR = re.compile(rf"{_LIKE_FLAIR.pattern}|(?!\w*(?:to|2|in|on|reg)flair)\w*flair\w*")
_UNKNOWN = (  # T1E, T2FL, FLAIRshort: what stands behind is not known, and may change what it is
    (re.compile(r"t1\w*flair\w*|flair\w*t1\w*"), (Contrast.T1, Contrast.FLAIR)),
    (re.compile(r"\w*flair\w*"), (Contrast.FLAIR,)),  # \w*t1 would be subject1
    (re.compile(r"t1(?:[cegkp]|[a-z]*(?:gd|gad|km|ontr|post|inj|enh))\w*"), (Contrast.T1, Contrast.T1CE)),
    (re.compile(r"t1[a-z]\w*"), (Contrast.T1,)),
    (re.compile(r"(?:c|ce|gd)t2\w*"), (Contrast.T2,)),
    (re.compile(r"t2(?!swi|sw|map)[a-z]\w*"), (Contrast.T2, Contrast.FLAIR)),
)
_MADE = r"(?:synth|synthetic|synthesi[sz]ed|pseudo|fake|generated|imputed|simulated|artificial|virtual|translated)"
_MADE_OF = re.compile(  # synthetic; T2Synth, pseudoT1
    rf"mrsynth|synthsr|pix2pix|{_MADE}|(?:t1|t2|flair|t1ce)\w{{0,3}}?{_MADE}|(?:syn|gen|deep|{_MADE})(?:t1|t2|flair)\w{{0,3}}"
)
_COMPUTED = re.compile(  # by SPM and CAT
    r"(?:[rwm]*c[1-6]|m?wp[0-3]|m?wrp[0-3])(?=[rwmsu]{0,3}(?:t1|t2|flair|mprage))|(?:i?y|u|wj)_"
)


@dataclass(frozen=True)
class Verdict:
    """What a name says: a contrast; or contrasts between which it leaves the choice; or why the file is no scan.

    label  whether it is a mask or a segmentation
    other  whether it may be the image of a part, or made from the scan, which no JSON file of that scan can tell
    """

    contrast: Contrast | None = None
    could_be: tuple[Contrast, ...] = ()
    why: str = ""
    label: bool = False
    other: bool = False


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
    chunks = [chunk.lower() for chunk in _chunks(stem)]
    if any(map(_MADE_OF.fullmatch, chunks)):
        return Verdict(why="its name says that it is synthetic")
    if any(map(is_difference, chunks)) or _is_subtraction(stem):
        return Verdict(why="the difference of two scans")
    candidates = [i for i in range(len(words)) if _word_at(words, i - 1) not in TOWARDS]
    hits = {i: contrast for i in candidates if (contrast := contrast_of_word(words[i]))}
    if reason := why_no_scan(words, hits):
        return Verdict(why=reason)
    if not hits:
        return _faint(words)
    last = max(hits)
    if any(map(is_drawn, words[last + 1 :])):
        return Verdict(why="drawn on a scan, or predicted from one", label=True)
    first, together = last, {hits[last]}  # hits side by side describe one contrast: T2 FLAIR, T1 MPRAGE
    for i in range(last - 1, -1, -1):
        if i in hits:
            first, together = i, together | {hits[i]}
        elif not (_passes(words[i]) or of_agent(words[i])):
            break
    if open_ := _open(words, first, last, hits):
        return either(*open_)
    named = {contrast for i, contrast in hits.items() if _word_at(words, i + 1) not in _STUDIES}
    if Contrast.FLAIR in named and Contrast.T2 not in named:
        together |= named  # T1_ARC_FLAIR: whatever stands between
    found = _described(words, first, last, hits, together)
    if other := _is_uniform(words) or may_be_other(words, first, last, hits[last]):
        return replace(either(*found), other=other)
    if "stir" in words[max(first - 1, 0) :] and hits[last] is not Contrast.FLAIR:
        return either(*found)
    return either(*found) if len(found) > 1 else Verdict(found[0])


def contrast_in_name(filename: str) -> Contrast | None:
    """The contrast a scan's file name states; None for label maps, maps, and names that state none or several."""
    return judge_name(filename).contrast


def either(*contrasts: Contrast) -> Verdict:
    """The verdict that leaves the choice between contrasts, with what to do."""
    if len(contrasts) == 1:
        why = f"it could be the {contrasts[0].label}, or another image; if it is, say so with --{contrasts[0]} FILE"
        return Verdict(could_be=contrasts, why=why)
    names = " or the ".join(c.label for c in contrasts)
    flags = " or ".join(f"--{c} FILE" for c in contrasts)
    return Verdict(could_be=contrasts, why=f"it could be the {names}; say which with {flags}")


def is_label_map(filename: str) -> bool:
    """Whether the name says mask, segmentation, label, lesion or region: not an image of any contrast."""
    chunks = _chunks(_plain(filename))
    filled = "filled" in map(str.lower, chunks)  # T1_lesion_filled shows the brain
    for before, chunk in zip(["", *chunks], chunks, strict=False):
        words = _split_chunk(chunk)
        if chunk.lower() == "atlas" and before.lower() in TOWARDS | {"space"}:
            continue  # T1_in_atlas lies there
        for word, following in zip(words, [*words[1:], ""], strict=True):
            # of words run together, the last tells: BrainSeg is a mask, VesSegTrial a study
            if is_label_word(word) and (not following or contrast_of_word(following)) and not filled:
                return True
    return False


def is_brain_mask(filename: str) -> bool:
    """Only what no lesion mask is ever called: a lesion taken for the brain would ruin everything."""
    text = " ".join(name_words(filename))
    return _BRAIN_MASK.search(text) is not None and not re.search("lesion|tumou?r", text)


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


def names_contrast(filename: str) -> bool:
    """Whether a word of the name is that of a contrast, and not only one that scans of several have: tse, mr, ce."""
    return any(contrast_of_word(word) or word in _EXACT for word in name_words(filename))


@lru_cache(maxsize=MANY)
def is_label_word(word: str) -> bool:
    """Whether one lower-case word says mask, segmentation, label, lesion or region."""
    word = word.rstrip("0123456789")
    of_a_plan = re.fullmatch(r"[gcp]tv[a-z]?|rt(?:dose|struct)", word) is not None
    return of_a_plan or word in _LABELS or word.endswith(_LABEL_ENDINGS) or word.startswith("segment")


def is_acquisition(word: str) -> bool:
    """Whether a lower-case word only says how a scan was made: a plane, a sequence, contrast agent."""
    return bool(_ACQUIRED.fullmatch(word)) or of_agent(word)


def _plain(filename: str) -> str:
    """The name without its ending, and with the signs that are words written as words."""
    stem = _in_ascii(stem_of(re.split(r"[\\/]", filename)[-1]))
    if stem.lower().startswith("sub-"):
        stem = re.sub(r"(?i)(^sub|(?<=_)ses|(?<=_)space)-[a-z0-9]+", "", stem)
    stem = re.sub(r"(?i)t2\*", "t2_star_", stem)
    stem = re.sub(r"(?i)mp[^a-z0-9]rage", "mprage", stem)
    stem = re.sub(r"(?i)dark[^a-z0-9]fluid", "darkfluid", stem)
    stem = re.sub(r"(?i)fluid[^a-z0-9]?attenuat(?:ed|ion)", "flair", stem)
    stem = re.sub(r"(?i)маск[а-я]*|сегмент[а-я]*|分割|掩[膜码]|蒙版|标注|マスク|마스크", "_mask_", stem)
    stem = re.sub(r"(?i)фл(?:а|э)й?и?р|フレア|[压壓抑]水|水抑制", "_flair_", stem)
    return spelt_out(stem)


def _in_ascii(text: str) -> str:
    """Latin letters without their marks, in one width, and the Cyrillic or Greek T that looks like one."""
    text = re.sub(r"[\u200b-\u200f\u202a-\u202e\u2060\ufeff]", "", unicodedata.normalize("NFKC", text))
    text = re.sub(r"[ТтΤτ](?=[12])", "T", text.translate(_LETTERS))
    return unicodedata.normalize("NFC", re.sub(r"[\u0300-\u036f]", "", unicodedata.normalize("NFD", text)))


def _chunks(stem: str) -> list[str]:
    return [chunk for chunk in re.split(r"[^A-Za-z0-9]+", stem) if chunk]


def _split_chunk(chunk: str) -> list[str]:
    """Words of a run of letters and digits: itself if it is a known word, else cut where its case changes."""
    word = chunk.lower()
    if contrast_of_word(word) or is_label_word(word) or (is_known(word) and chunk != "SyN"):  # of ANTs
        return [word]
    if word == "t1flair":
        return ["t1", "flair"]
    moved = re.fullmatch(r"(.+?)(?:to|2|in|on|into|onto)(?:t[12]|flair).*", word)  # flair2t1, regtoT1: moved onto it
    if moved and (contrast_of_word(moved[1]) or moved[1].endswith("reg")):
        return [moved[1]]
    moved = re.fullmatch(r"(.+?)(coreg|reg|aligned|warped)(t[12].*|flair.*)", word)  # flairregt1: which of the two?
    if moved and contrast_of_word(moved[1]) and contrast_of_word(moved[3]):
        return list(moved.groups())
    humps = re.split(r"(?<=[a-z])(?=[A-Z])|(?<=\d)(?=[A-Z][a-z]|T[12])", chunk)
    if len(humps) == 1:
        return _unglued(word)
    words = [hump.lower() for hump in humps if hump.lower() not in _EXACT]  # "McDonaldPD" is a name
    return [part for word in words for part in _unglued(word)]


def _unglued(word: str) -> list[str]:
    """A lower-case word, parted if it begins with a contrast and ends with what was done to it: FLAIRreg, T1with."""
    glued = _GLUED.fullmatch(word)
    return [glued[1], glued[2]] if glued and not contrast_of_word(word) and contrast_of_word(glued[1]) else [word]


def _is_subtraction(stem: str) -> bool:
    """Whether a T1ce and a T1 are joined by a minus: T1post-T1pre, T1_+C-T1."""
    for minus in re.finditer(r"(?i)-(?=t1(?:n|w|pre|native?)?(?![a-z0-9]))", stem):
        words = name_words(before := stem[: minus.start()])
        if contrast_in_name(before) is Contrast.T1CE and any(map(contrast_of_word, words)):  # but ce-T1 is a T1ce
            return contrast_of_word(words[-1]) is Contrast.T1CE or of_agent(words[-1])
    return False


def _word_at(words: Sequence[str], i: int) -> str:
    return words[i] if 0 <= i < len(words) else ""


def _passes(word: str) -> bool:
    """Whether a word may stand between a contrast and what belongs to it."""
    return bool(_BETWEEN.fullmatch(word)) or contrast_of_word(word) is not None


def _open(words: Sequence[str], first: int, last: int, hits: Mapping[int, Contrast]) -> tuple[Contrast, ...]:
    """The contrasts between which other words than those for contrast agent leave the choice; empty where they do not.

    first, last   the words that name the contrast
    """
    contrast, behind = hits[last], words[last + 1 :]
    earlier = [hits[i] for i in hits if i < last and hits[i] is not contrast]
    onto = set(words[min(hits) : last]) & MOVED_ONTO or words[last].endswith("space") or behind[:1] == ["space"]
    onto = onto or words[last - 1] == "space" or (last - 1 in hits and behind[:1] == ["reg"])  # T2_space-T1w, T2_T1reg
    if (
        earlier
        and onto
        and (earlier[-1], contrast) not in ((Contrast.T2, Contrast.FLAIR), (Contrast.T1, Contrast.T1CE))
    ):
        return tuple(c for c in Contrast if c in (earlier[-1], contrast))  # FLAIR_reg_T1, T2_T1space
    if contrast is Contrast.T2 and Contrast.FLAIR not in earlier:
        around = set(words[max(first - 1, 0) : first]) | set(behind)
        if around & {"tirm", "ir", "irprep", "tir"} or behind[:1] == ["f"]:  # an inversion, of fluid or of fat; t2_f
            return (Contrast.T2, Contrast.FLAIR)
        if around & {"stir", "ge"} - {w for w in words[:first] if w == "ge"} or "pd" in {*around} - set(behind[1:]):
            return (Contrast.T2,)
    return ()


def _described(
    words: Sequence[str], first: int, last: int, hits: Mapping[int, Contrast], together: set[Contrast]
) -> tuple[Contrast, ...]:
    """The contrast, or those between which T1 beside FLAIR and the words for contrast agent leave the choice.

    together  the contrasts that describe the image
    """
    t1 = [c for c in reversed(STANDARD) if c in together and c in (Contrast.T1, Contrast.T1CE)][:1]
    if Contrast.FLAIR in together:
        return (*t1, Contrast.FLAIR)
    after = [i for i in range(min(hits) + 1, len(words)) if _word_at(words, i - 1) not in TOWARDS]
    if any(_OF_FLAIR.fullmatch(words[i]) for i in after):  # T1_FLR, T2_FLAIRlong
        return (t1[0] if t1 else hits[last]), Contrast.FLAIR
    if hits[last] is Contrast.T2:
        return (Contrast.T2,)
    agent = Agent.GIVEN if Contrast.T1CE in together else agent_of(words, first, _passes)
    if agent is Agent.OPEN:
        return Contrast.T1, Contrast.T1CE
    return (Contrast.T1CE if agent is Agent.GIVEN else Contrast.T1,)


def _is_uniform(words: Sequence[str]) -> bool:
    return any(word.startswith("mp2rage") for word in words) and not _UNIFORM.isdisjoint(words)


def _faint(words: Sequence[str]) -> Verdict:
    """Words that count only where no clearer one is: pd, dwi, ct, tse and agents anywhere, mr and ce at the end.

    Agent alone is given for a T1 (`GADO_preprocessed`).
    """
    if exact := [_EXACT[word] for word in words if word in _EXACT]:
        return Verdict(exact[-1])
    parted = [contrast for one, other in pairwise(words) if (contrast := _PARTED.get((one, other)))]
    if parted and not any(map(contrast_of_word, words)):
        return either(parted[-1])
    if {"tirm", "flr"} & set(words) or any(_LIKE_FLAIR.fullmatch(word) for word in words):
        return either(Contrast.FLAIR)
    two_echoes = {"double", "dual"} & set(words) and "tse" in words
    if "stir" in words or two_echoes or any(re.fullmatch("pdt2w?", word) for word in words):
        return either(Contrast.T2)
    if "mpr" in words and not {"gradwarp", "n3", "anon", "t88"}.isdisjoint(words) and not any(map(of_agent, words)):
        return Verdict(Contrast.T1)  # an MPRAGE of ADNI or OASIS, not an image cut anew
    if any(word.startswith("mp2rage") or word in ("unit1", "mpr") for word in words):
        return either(Contrast.T1CE if agent_named(words) or "km" in words else Contrast.T1)
    for pattern, contrasts in _UNKNOWN:
        if any(pattern.fullmatch(word) for word in words):
            given = contrasts == (Contrast.T1,) and any(map(of_agent, words))  # T1nachKM, T1woGd
            return either(*contrasts, *[Contrast.T1CE] * given)
    if "tse" in words:
        return Verdict(Contrast.T2)
    if {"gad", "gado", "gadolinium", "postgad", "postgado", "postcontrast"} & set(words):
        return Verdict(Contrast.T1CE)
    if words and (faint := {"mr": Contrast.MR, "ce": Contrast.T1CE}.get(words[-1])):
        return Verdict(faint)
    if agent_named(words) or words[-1:] in (["km"], ["mdc"]):
        return either(Contrast.T1CE)
    if words[-1:] in (["pre"], ["post"]):
        return either(Contrast.T1, Contrast.T1CE)
    return Verdict(why=UNNAMED)
