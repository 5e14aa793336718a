"""Whether the words of a file name say that a T1 was taken after contrast agent, in the languages that users write."""

import re
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import pairwise

_WITHOUT_BEHIND = r"(?!\w*(?:s[iu]z|less|fre[ei]|los|loos|fri|vrij|mentes|nelkul|neg)$)"  # kontrastsiz, gadofrei
_KONTRAST = rf"(?:[ck]ontr|(?:[ck]ontras(?!tive)(?=[a-z])|kontras){_WITHOUT_BEHIND}[a-z]*)"  # kontrastowe; not control
_GADOLINIUM = rf"gd(?:\w*(?:tpa|dota|bopta|do3a))?|gad(?:o(?:{_WITHOUT_BEHIND}[a-z]{{3,}})?)?|gbca"  # gado: chelates
_SUBSTANCE = rf"(?:iv)?(?:{_KONTRAST}|{_GADOLINIUM}|km(?:g|gabe)?|c?mdc|civ|in[jy](?:e[ck]t\w*)?|tehost\w*|varjoain\w*)"
_SHORT = {"c", "cm", "ks", "kl", "pc", "enh", "post"}  # too common to count anywhere; ks, kl: Slovene, Czech
_PRODUCTS = {
    *("dtpa", "dota", "bopta", "gadavist", "dotarem", "magnevist", "multihance", "prohance", "hance", "artirem"),
    *("omniscan", "clariscan", "vueway", "elucirem", "primovist", "eovist", "feraheme", "ferumoxytol", "optimark"),
    *("cyclolux", "dotagraf", "dotagita", "magnegita", "ablavar", "vasovist", "pixxoscan"),
}
_AFTER = {
    *("post", "with", "w", "plus", "mit", "nach", "after", "avec", "con", "dopo", "na", "po", "apres", "iv", "pos"),
    *("com", "med", "efter", "etter", "met", "s", "z", "m", "dengan", "sau", "cu", "depois", "despues", "apos"),
    *("following", "nakon", "poslije", "tras", "dupa", "su", "ar", "sa"),
}
_WITHOUT = {
    *("pre", "no", "non", "none", "without", "wo", "native", "nativ", "ohne", "o", "sans", "sin", "senza", "bez"),
    *("vor", "before", "sem", "utan", "uten", "zonder", "plain", "unenhanced", "not", "prior", "nil", "zero", "never"),
    *("lacking", "wout", "out", "kein", "keine", "avant", "antes", "prima", "przed", "innan", "fore", "foer", "ilman"),
    *("lack", "absent", "absence", "un", "neg", "negative", "nicht", "keinem", "keiner", "pas", "previo", "previa"),
    *("uden", "ikke", "ej", "voor", "geen", "niet", "fara", "inainte", "prije", "brez", "pirms", "pries", "enne"),
    *("ennen", "ilma", "nem", "nie", "tanpa", "sebelum", "khong", "truoc", "hic", "prae", "pra", "instead"),
}
_PERHAPS_WITHOUT = {"do", "be", "for"}  # Slavic, Lithuanian and Danish; or words of other languages
_ONLY_BESIDE = {"o", "out", "plain", "un", "ej", "hic"}  # without, or another thing: they count only beside the agent
_NO_DOSE = re.compile(r"0+(?:ml|cc|mg|mmol)")
_NONE = re.compile(  # behind an agent; `native` may be the space
    rf"none|neg|negativ[eao]?|nein|nil|yok|oncesi|nelkul|elott|frei|fri|vrij|mentes|{_NO_DOSE.pattern}"
)
_NONE_AT_THE_END = re.compile(  # and with more behind, T1_gd_no_fs, T1_gd_failed_qc, of what?
    r"pre|non?|not|without|zero|absent|missing|off"
    r"|(?:refus|declin|withh|omit|cancel|skip|abgel|verweig|verzicht|unavail|fail|contraind|kontraind)\w*"
)
_PERHAPS_NONE = {"0", "free"}  # behind an agent: none of it, or a number and "free breathing"
_FILLER = re.compile(  # without any IV contrast, sans produit de contraste, przed podaniem kontrastu
    r"iv|any|the|an?|of|to|d[aeiou]|de[lrmn]|dell[aoe]?|des|l[aeo]|l|el|il|di[en]|das|vo[nm]|van|het|i|v|al|use|using|dozyln\w*"
    r"|agent\w*|medi(?:um|[oa])|mezzo|meio|moyen|produ[ckit]\w*|prodott\w*|mittel\w*|stof\w*|substan\w*|sostanz\w*"
    r"|sredst\w*|srodk\w*|latk\w*|anyag\w*|intraven\w*|endoven\w*|in[ijy](?:e[ckz]\w*|icir\w*)|administ\w*|somminist\w*"
    r"|gabe|verabr\w*|appli[ck]\w*|apli[ck]\w*|aplica\w*|podan\w*|podava\w*|uzyci\w*|toedien\w*|bolus|dose|infus\w*"
)
_SHORTENED = {("s", "c"), ("s", "mdc")}  # sine contrasto
_VAGUE = re.compile(  # behind a T1: agent, or not
    r"plus|con|cont|contras|delay\w*|late|iv|after|sau|pi|cc|k|e|pst|tiem"
)
BOTH = "wwo"  # with and without: what is said of an examination, not of a scan
_DOUBT = "perhapsnone"  # stands for a word that denies, and it is not said what
_LOOSE = "perhapsgiven"  # stands for a contrast that may be one of the image, and for a post of something else
_ANYWHERE = re.compile(
    rf"(?:post|with|w|plus|mit|m|nach|avec|con|dopo|med|efter|etter|met|com|pos)(?:{_SUBSTANCE}|ce)"
    rf"|ce|{_GADOLINIUM}|gdpost?|postc(?:on)?|plusc|cplus|(?:contrast)?enhanced"
)
_LONG = re.compile(_SUBSTANCE)
_NUMBERED = re.compile(rf"^({_SUBSTANCE}|ce)[1-9]$")  # the first, the second scan with it
_POST = re.compile(r"post\d*")  # the first, the second after contrast agent
_ITSELF_AFTER = re.compile(r"post.*|plusc|cplus|with.*|gdpost?")  # what no word before it denies: pre, post
_ITSELF_WITHOUT = re.compile(rf"(?:pre|non?|un|ohne|sans|without|wo)(?:{_SUBSTANCE}|ce|enhanced)|{_NO_DOSE.pattern}")
_AFTER_TREATMENT = re.compile(r"op.*|surg.*|treat.*|therap.*|chemo.*|radi.*|rt|tx")
_GENERIC = re.compile(rf"{_KONTRAST}|enh\w*")  # of agent, or of the image
_OF_THE_IMAGE = re.compile(
    r"ima?ge?|adjust\w*|normali\w*|match\w*|stretch\w*|augment\w*|transf\w*|equali\w*|clahe|sr|super\w*|resol\w*|filter\w*"
    r"|hist\w*|local\w*|gamma|window\w*|ratio|boost\w*|improv\w*|optimi\w*|high|low|deep|ai|learn\w*"
)
_DONE = re.compile(  # to a scan, so that it says nothing of the contrast beside
    r"(?:co)?reg(?:istered)?|align\w*|warp\w*|resam\w*|crop\w*|(?:skull)?strip\w*|ss|bet|mni\w*|defac\w*|std"
    r"|raw|orig\w*|nii|dcm|in|on|to|onto|and|scan|series|run|hdbet|skull|bias|n[34]\w*"
)
_OF_A_FILE = re.compile(  # and of its frame: what may stand behind `post`
    r"\d+|[se]\d+|[a-c]|(?:run|acq|scan|series|echo|im|img|ser)\d*|eq|tilt|in|on|to|onto|and|axials?"
    r"|water|reformat\w*|vol\w*|\d+x\d+(?:x\d+)?|wwo"
)
_NOT_RU = r"(?<![^\W_])(?:без|до|преди|пре|перед|не|нет)(?![^\W_])"
_GIVING_RU = r"(?:введени|инъекци|внутривенн|примене|использ|инжект)[^\W_]*"
_SUBSTANCE_RU = r"(?:контраст|усилен|гадо)[^\W_]*"
_AGENT_RU = rf"(?:{_SUBSTANCE_RU}|к[ув](?![^\W_]))"
_AGENT_CJK = r"(?:造影|增[强強]|増強)"
_ABROAD = (  # what is written in other letters; without comes first, since it contains the other
    (
        re.compile(
            rf"平扫|平掃|[非未无無不][ _]?(?:{_AGENT_CJK}|注)|{_AGENT_CJK}[剤剂劑]?[ _]?(?:前|な[しい]|無)"
            r"|単純|조영제?[ _]?(?:주입[ _]?)?(?:전|없)|비[ _]?조영"
            rf"|(?:без|до)[ _-]?{_AGENT_RU}|{_NOT_RU}[ _-]*(?:{_GIVING_RU}[ _-]*|в[ _.-]?в[ _.-]+){{0,3}}{_AGENT_RU}"
            r"|(?:χωρισ|πριν|προ)[ _-]?(?:(?:απο|την?|το|χορηγηση|ενεση|εγχυση)[ _-]?){0,3}σκιαγ[^\W_]*"
            r"|(?:ללא|בלי|לפני)[ _-]?(?:הזרקת[ _-]?)?(?:ה?חומר|ניגוד)(?:[ _-]?ה?ניגוד)?"
            r"|(?:بدون|قبل|بلا)[ _-]?(?:(?:حقن|مادة)[ _-]?)?(?:ال)?(?:صبغ|تباين|حقن)[^\W_]*",
            re.IGNORECASE,
        ),
        "_native_",
    ),
    (
        re.compile(
            rf"{_AGENT_CJK}[後后]?|조영 ?후|조영(?: ?증강)?|(?:с[ _-]?)?{_SUBSTANCE_RU}|с[ _-]?к[ув](?![^\W_])"
            r"|(?<![^\W_])ку(?![^\W_])|σκιαγ[^\W_]*|חומר|ניגוד|(?:بعد|مع)?[ _-]?(?:ال)?(?:صبغ|تباين)[^\W_]*",
            re.IGNORECASE,
        ),
        "_plusc_",
    ),
    (  # what denies, and not beside the agent
        re.compile(
            rf"[非未无無]|前|な[しい]|없|(?<![가-힣])전(?![가-힣])|{_NOT_RU}|χωρισ|πριν|ללא|בלי|לפני|بدون|قبل",
            re.IGNORECASE,
        ),
        f"_{_DOUBT}_",
    ),
    (re.compile(r"(?<![a-z0-9])([ip])\.([iv])(?![a-z0-9])\.?", re.IGNORECASE), r"\1\2_"),  # i.v., p.i.
)
_SEPARATED = r"[_ &+/-]"
_WITH = r"w(?:ith)?"
_WITH_NONE = rf"(?:w{_SEPARATED}?o(?:ut)?|without)"
_AND = rf"{_SEPARATED}*(?:and{_SEPARATED}*)?"
_SIGNS = (
    (
        re.compile(
            rf"(?<![a-z0-9])(?:{_WITH}{_AND}{_WITH_NONE}|{_WITH_NONE}{_SEPARATED}+(?:and{_SEPARATED}*)?{_WITH})(?![a-z])"
            rf"(?:{_SEPARATED}(?:iv{_SEPARATED})?(?:c|con|cont|contrast|gd|gad|gado)(?![a-z]))?",
            re.IGNORECASE,
        ),
        f"_{BOTH}_",
    ),
    (
        re.compile(
            r"(?<![a-z0-9])(?:c|ce|iv|inj|gd|gad|gado|km|[ck]ontrast)(?:[_ ]?[(\[]-[)\]]|[_ ]-$)", re.IGNORECASE
        ),
        "_native_",
    ),  # Gd(-)
    (re.compile(r"[(\[]-[)\]][_ ]?(?:c|gd|gad|gado|km)(?![a-z0-9])", re.IGNORECASE), "_native_"),
    (re.compile(r"(?<=t1)(wi?|)post(?![a-z0-9])", re.IGNORECASE), r"\1_post"),  # T1post_stroke
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
    (
        re.compile(r"\+ ?(?:c|k|gd|gad|gado|km|kl|contrast)(?![a-z])|c\+(?![a-z0-9])|(?<![a-z0-9])k\+", re.IGNORECASE),
        "_plusc_",
    ),
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
        one in _AFTER
        and _substance(other)
        and (one, other) not in _SHORTENED
        and not (_denied(words, i) or _denied(words, i + 1) or _perhaps_none(words, i + 1))
        for i, (one, other) in enumerate(pairwise(words))
    )


def agent_of(words: Sequence[str], first: int, passes: Callable[[str], bool]) -> Agent:
    """What a name says of contrast agent for the T1 whose words begin at `first`.

    passes  whether a word only says how the scan was made, so that what stands beyond it still belongs to the T1
    """
    words = [*words[: first + 1], *(_NUMBERED.sub(r"\1", word) for word in words[first + 1 :])]
    words = [_LOOSE if _loose(words, i, passes) else word for i, word in enumerate(words)]
    found = _found(words, first, passes)
    if found is Agent.UNSAID and _LOOSE in words:
        return Agent.OPEN
    denied = any(_denies(words, i, passes) for i in range(len(words)))
    return Agent.OPEN if found is Agent.GIVEN and denied else found


def _found(words: Sequence[str], first: int, passes: Callable[[str], bool]) -> Agent:
    """What is said of agent, whatever else may be denied elsewhere in the name."""
    if agent_named(words):
        return Agent.GIVEN
    near, found = True, Agent.UNSAID
    if any(_agent(word) and not _denied(words, i) and _perhaps_none(words, i) for i, word in enumerate(words)):
        found = Agent.OPEN
    for i in range(first + 1, len(words)):
        said = _said(words, i)
        if (_LONG.fullmatch(said) or (said and near)) and not _perhaps_none(words, i):
            return Agent.GIVEN
        vague = words[i] == "dose" or words[i].startswith("enhanc") or (near and _VAGUE.fullmatch(words[i]))
        if said or (vague and not _denied(words, i)):
            found = Agent.OPEN
        near = near and passes(words[i]) and not (_POST.fullmatch(words[i]) and not said)
    near = True
    for i in range(first - 1, -1, -1):
        said = _said(words, i)
        if _LONG.fullmatch(said) and near and not _perhaps_none(words, i):
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
    return "" if _POST.fullmatch(word) and _of_treatment(words, i) else word


def _of_treatment(words: Sequence[str], i: int) -> bool:
    """Whether a `pre` or `post` is of an operation, or of another treatment."""
    return i + 1 < len(words) and bool(_AFTER_TREATMENT.fullmatch(words[i + 1]))


def _substance(word: str) -> bool:
    return bool(_LONG.fullmatch(word)) or word in _SHORT - {"post", "pc", "enh"}


def _agent(word: str) -> bool:
    return word in _PRODUCTS or bool(_LONG.fullmatch(word) or _ANYWHERE.fullmatch(word))


def _of_phrase(word: str) -> bool:
    """Whether a word may stand between an agent and what denies it."""
    return bool(_FILLER.fullmatch(word)) or (_agent(word) and not _ITSELF_AFTER.fullmatch(word))


def _borders(words: Sequence[str], i: int, within: Callable[[str], bool]) -> tuple[int, int]:
    """The places before and behind the run of words around a place that are all within."""
    before, behind = i - 1, i + 1
    while before >= 0 and within(words[before]):
        before -= 1
    while behind < len(words) and within(words[behind]):
        behind += 1
    return before, behind


def _denied(words: Sequence[str], i: int) -> bool:
    """Whether a word beside its phrase says that there was none: `ohne i.v. KM`, `contrast none`, `pre gad`."""
    if _ITSELF_AFTER.fullmatch(words[i]):
        return False
    before, behind = _borders(words, i, _of_phrase)
    if before >= 0 and (words[before] in _WITHOUT or _NO_DOSE.fullmatch(words[before])):
        return True
    if tuple(words[max(i - 1, 0) : i + 1]) in _SHORTENED:
        return True
    rest = words[behind:]
    numbered = rest[:1] == ["no"] and any(map(str.isdigit, rest[1:2]))
    alone = not numbered and all(word.isdigit() or word.startswith("t1") for word in rest[1:])
    return bool(rest and (_NONE.fullmatch(rest[0]) or (alone and _NONE_AT_THE_END.fullmatch(rest[0]))))


def _perhaps_none(words: Sequence[str], i: int) -> bool:
    """Whether a word beside the phrase of an agent, that is not denied, may say that there was none."""
    before, behind = _borders(words, i, lambda word: _of_phrase(word) and word not in _PERHAPS_WITHOUT)
    if before >= 0 and words[before] in _PERHAPS_WITHOUT:
        return before == 0 or words[before - 1] not in _AFTER  # Portuguese: depois do contraste
    if before >= 0 and _NONE_AT_THE_END.fullmatch(words[before]):  # patient refused gad
        return True
    if behind == len(words) or words[behind] in _PERHAPS_NONE:
        return behind < len(words)
    return bool(_NONE_AT_THE_END.fullmatch(words[behind])) and not _of_treatment(words, behind)


def _denies(words: Sequence[str], i: int, passes: Callable[[str], bool]) -> bool:
    """Whether a word denies agent, as far as one can tell: not `native space`, `pre op`, `No 3` or `gd without fs`."""
    word, behind = words[i], words[i + 1 : i + 2]
    if word == _DOUBT or _ITSELF_WITHOUT.fullmatch(word):
        return True
    if word not in _WITHOUT - _ONLY_BESIDE or _of_treatment(words, i):
        return False
    if word.startswith("nativ") and "space" in (*behind, *words[max(i - 1, 0) : i]):
        return False
    if word in ("no", "non", "not", "zero") and behind and behind[0].isdigit():
        return False
    return not (behind and passes(behind[0]) and not any(_agent(other) or other in _SHORT for other in words[i:]))


def _loose(words: Sequence[str], i: int, passes: Callable[[str], bool]) -> bool:
    """Whether a `contrast`, an `enhanced` or a `post` may be of the image, of its processing, or of an event."""
    word, behind = words[i], words[i + 1 :]
    if _POST.fullmatch(word):
        while behind and _OF_A_FILE.fullmatch(behind[0]):
            behind = behind[1:]
        how = not behind or (passes(behind[0]) and not _DONE.fullmatch(behind[0]))
        of_it = behind and (of_agent(behind[0]) or _VAGUE.fullmatch(behind[0]))
        return not (how or of_it or _of_phrase(behind[0]) or _of_treatment(words, i))
    if not _GENERIC.fullmatch(word) or _denied(words, i):
        return False
    one, other = _borders(words, i, lambda near: bool(_GENERIC.fullmatch(near)))
    before, after = words[max(one, 0) : one + 1], words[other : other + 1]

    def known(word: str) -> bool:
        spoken = of_agent(word) or _of_phrase(word) or word in _AFTER or word in (BOTH, _LOOSE)
        return spoken or passes(word) or bool(re.search(r"\d", word) or _DONE.fullmatch(word))

    if any(_OF_THE_IMAGE.fullmatch(beside) for beside in (*before, *after)) or not all(map(known, before)):
        return True
    return other - one == 2 and not _AFTER.intersection(before) and not all(map(known, after))
