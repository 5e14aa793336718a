"""Whether the words of a file name say that a T1 was taken after contrast agent, in the languages that users write."""

import re
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import pairwise

_KONTRAST = r"[ck]ontr(?:as(?!\w*(?:siz|less|free|los)$)[a-z]{1,7})?"  # kontrastowe, contr; not kontrastsiz, control
_GADOLINIUM = r"gd(?:\w*(?:tpa|dota|bopta|do3a))?|gad(?:o(?:[a-z]{3,})?)?|gbca"  # gado: and the names of its chelates
_SUBSTANCE = rf"(?:iv)?(?:{_KONTRAST}|{_GADOLINIUM}|km|c?mdc|civ|in[jy](?:e[ck]t\w*)?|tehost\w*|varjoain\w*)"
_SHORT = {"c", "cm", "ks", "kl", "pc", "enh", "post"}  # too common to count anywhere; ks, kl: Slovene, Czech
_PRODUCTS = {
    *("dtpa", "dota", "bopta", "gadavist", "dotarem", "magnevist", "multihance", "prohance", "hance", "artirem"),
    *("omniscan", "clariscan", "vueway", "elucirem", "primovist", "eovist", "feraheme", "ferumoxytol"),
}
_AFTER = {
    *("post", "with", "w", "plus", "mit", "nach", "after", "avec", "con", "dopo", "na", "po", "apres", "iv", "pos"),
    *("com", "med", "efter", "etter", "met", "s", "z", "m"),
}
_WITHOUT = {
    *("pre", "no", "non", "none", "without", "wo", "native", "nativ", "ohne", "o", "sans", "sin", "senza", "bez"),
    *("vor", "before", "sem", "utan", "uten", "zonder", "plain", "unenhanced", "not", "prior"),
    *("lacking", "wout", "out", "kein", "keine", "avant", "antes", "prima", "przed", "innan", "fore", "foer", "ilman"),
}
_NONE = {"pre", "no", "non", "none", "without", "neg", "negative", "nein"}  # behind an agent; `native` may be the space
_PERHAPS_NONE = {"0", "free"}  # behind an agent: none of it, or a number and "free breathing"
_FILLERS = {"iv", "any", "the", "to"}  # no IV contrast, prior to gadolinium
_SHORTENED = {("s", "c"), ("s", "mdc")}  # sine contrasto
_VAGUE = {"plus", "con", "cont", "contras", "delayed", "late"}  # behind a T1: agent, or not
BOTH = "wwo"  # with and without: what is said of an examination, not of a scan
_ANYWHERE = re.compile(
    rf"(?:post|with|w|plus|mit|m|nach|avec|con|dopo|med|efter|etter|met|com|pos)(?:{_SUBSTANCE}|ce)"
    rf"|ce|{_GADOLINIUM}|gdpost|postc(?:on)?|plusc|cplus|(?:contrast)?enhanced"
)
_LONG = re.compile(_SUBSTANCE)
_NUMBERED = re.compile(rf"^({_SUBSTANCE}|ce)[1-9]$")  # the first, the second scan with it
_POST = re.compile(r"post\d*")  # the first, the second after contrast agent
_AFTER_TREATMENT = re.compile(r"op.*|surg.*|treat.*|therap.*|chemo.*|radi.*|rt|tx")
_ABROAD = (  # what is written in other letters; without comes first, since it contains the other
    (
        re.compile(
            r"平扫|平掃|非造影|造影前|単純|조영 ?전|비조영|(?:без|до)[ _-]?(?:контраст[^\W_]*|ку(?![^\W_]))"
            r"|(?:χωρισ|πριν)[ _-]?σκιαγ[^\W_]*|(?:ללא|בלי)[ _-]?(?:חומר|ניגוד)"
            r"|(?:بدون|قبل)[ _-]?(?:ال)?(?:صبغ|تباين|حقن)[^\W_]*",
            re.IGNORECASE,
        ),
        "_native_",
    ),
    (
        re.compile(
            r"增强|增強|造影[後后]?|조영 ?후|조영(?: ?증강)?|(?:с[ _-]?)?контраст[^\W_]*|с[ _-]?ку(?![^\W_])"
            r"|(?<![^\W_])ку(?![^\W_])|σκιαγ[^\W_]*|חומר|ניגוד|(?:بعد|مع)?[ _-]?(?:ال)?(?:صبغ|تباين)[^\W_]*",
            re.IGNORECASE,
        ),
        "_plusc_",
    ),
)
_SEPARATED = r"[_ &+/-]"
_SIGNS = (
    (
        re.compile(
            rf"(?<![a-z0-9])w(?:ith)?{_SEPARATED}*(?:and{_SEPARATED}*)?(?:w{_SEPARATED}?o(?:ut)?|without)(?![a-z])"
            rf"(?:{_SEPARATED}(?:iv{_SEPARATED})?(?:c|con|cont|contrast|gd|gad|gado)(?![a-z]))?",
            re.IGNORECASE,
        ),
        f"_{BOTH}_",
    ),
    (re.compile(r"(?:(?<![a-z])minus[_ -]?|(?:^|(?<=[_ (\[]))-)c(?![a-z0-9])", re.IGNORECASE), "_native_"),  # T1_-C
    (re.compile(r"(?<![a-z0-9])pred[_ -]?(?:kontr[a-z]*|k[sl](?![a-z]))", re.IGNORECASE), "_native_"),  # not predicted
    (re.compile(r"(?<![a-z])minus[_ -]?(?:gd|gad|gado|km|contrast)(?![a-z0-9])", re.IGNORECASE), "_native_"),
    (re.compile(r"(?<=[_ (\[])-(?:gd|gad|gado|km)(?![a-z0-9])", re.IGNORECASE), "_plus_"),  # without it, or a hyphen
    (re.compile(r"(?<=t1)(w?)c-(?![a-z0-9-])", re.IGNORECASE), r"\1_native_"),  # T1C-: the usual counterpart of T1C+
    (
        re.compile(r"(?<![a-z0-9])(?:c|ce|iv|inj|gd|gad|gado|km|[ck]ontrast)-(?![a-z0-9-])", re.IGNORECASE),
        "_native_",
    ),  # C-_AX_T1
    (re.compile(r"(?<![a-z0-9])(?:iv|inj|gd|gad|gado|km)\+(?![a-z0-9])", re.IGNORECASE), "_plusc_"),  # T1_IV+
    (re.compile(r"\+ ?(?:c|k|gd|gad|gado|km|kl|contrast)(?![a-z])|c\+(?![a-z0-9])", re.IGNORECASE), "_plusc_"),
    (re.compile(r"(?<=t1)(w?)\+(?![a-z0-9])", re.IGNORECASE), r"\1_plusc_"),
    (re.compile(r"(?<![a-z0-9])\+(?![a-z0-9])", re.IGNORECASE), "_plus_"),  # T1_+: of what?
)


class Agent(Enum):
    """What is said of contrast agent; OPEN: something was before the scan, and it is not said what."""

    GIVEN, OPEN, UNSAID = range(3)


def spelt_out(text: str) -> str:
    """A name with the signs and the words in other letters for contrast agent in plain ones: `t1+c` -> `t1_plusc_`."""
    for pattern, word in (*_ABROAD, *_SIGNS):
        text = pattern.sub(word, text)
    return text


def of_agent(word: str) -> bool:
    """Whether a lower-case word may speak of contrast agent, given or not."""
    known = word in _SHORT | _PRODUCTS | _WITHOUT
    return known or any(pattern.fullmatch(word) for pattern in (_ANYWHERE, _LONG, _POST))


def agent_named(words: Sequence[str]) -> bool:
    """Whether contrast agent is named so clearly that the place in the name does not matter."""
    for i, word in enumerate(words):
        if (word in _PRODUCTS or _ANYWHERE.fullmatch(word)) and not (_denied(words, i) or _perhaps_none(words, i)):
            return True
    return any(
        one in _AFTER and _substance(other) and (one, other) not in _SHORTENED and not _denied(words, i)
        for i, (one, other) in enumerate(pairwise(words))
    )


def agent_of(words: Sequence[str], first: int, passes: Callable[[str], bool]) -> Agent:
    """What a name says of contrast agent for the T1 whose words begin at `first`.

    passes  whether a word only says how the scan was made, so that what stands beyond it still belongs to the T1
    """
    words = [*words[: first + 1], *(_NUMBERED.sub(r"\1", word) for word in words[first + 1 :])]
    if agent_named(words):
        return Agent.GIVEN
    doubt = any(_ANYWHERE.fullmatch(word) and _perhaps_none(words, i) for i, word in enumerate(words))
    near, found = True, Agent.OPEN if doubt else Agent.UNSAID
    for i in range(first + 1, len(words)):
        said = _said(words, i)
        if (_LONG.fullmatch(said) or (said and near)) and not _perhaps_none(words, i):
            return Agent.GIVEN
        vague = words[i] == "dose" or (near and words[i] in _VAGUE)
        if said or (vague and not _denied(words, i)):
            found = Agent.OPEN
        near = near and passes(words[i]) and not (_POST.fullmatch(words[i]) and not said)
    near = True
    for i in range(first - 1, -1, -1):
        said = _said(words, i)
        if _LONG.fullmatch(said) and near:
            return Agent.GIVEN
        if said and (near or _POST.fullmatch(said) or _LONG.fullmatch(said)):
            found = Agent.OPEN
        near = near and passes(words[i])
    if BOTH in words and not (found is Agent.OPEN or _WITHOUT.intersection(words)):
        return Agent.OPEN
    return found


def _said(words: Sequence[str], i: int) -> str:
    """The word at a place if it speaks of contrast agent that was given; else empty."""
    word = words[i]
    if not (word in _SHORT or _LONG.fullmatch(word) or _POST.fullmatch(word)) or _denied(words, i):
        return ""
    treated = _POST.fullmatch(word) and i + 1 < len(words) and _AFTER_TREATMENT.fullmatch(words[i + 1])
    return "" if treated else word


def _substance(word: str) -> bool:
    return bool(_LONG.fullmatch(word)) or word in _SHORT - {"post", "pc", "enh"}


def _denied(words: Sequence[str], i: int) -> bool:
    """Whether a word beside says that there was none: `ohne KM`, `contrast none`, `pre gad`."""
    before = [word for word in words[:i] if word not in _FILLERS][-1:]
    shortened = tuple(words[max(i - 1, 0) : i + 1]) in _SHORTENED
    return bool(_WITHOUT.intersection(before) or _NONE.intersection(words[i + 1 : i + 2])) or shortened


def _perhaps_none(words: Sequence[str], i: int) -> bool:
    return bool(_PERHAPS_NONE.intersection(words[i + 1 : i + 2]))
