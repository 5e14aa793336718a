"""The contrasts, and the patterns in which they can be missing."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import combinations

from mrsynth.errors import UsageError
from mrsynth.texts import meant


class Contrast(StrEnum):
    """One kind of image. Everywhere in mrsynth the value is the short lower-case name."""

    T1 = "t1"
    T1CE = "t1ce"  # T1 after gadolinium
    T2 = "t2"
    FLAIR = "flair"
    PD = "pd"
    DWI = "dwi"
    CT = "ct"
    MR = "mr"  # an MR of unstated weighting, as in SynthRAD

    @property
    def label(self) -> str:
        """The name as a radiologist writes it: T1, T1ce, T2, FLAIR, ..."""
        return "T1ce" if self is Contrast.T1CE else self.value.upper()


SPELLINGS: Mapping[str, str] = {  # what a name that is no contrast may have meant
    **{contrast.value: contrast.value for contrast in Contrast},
    **dict.fromkeys(("t1n", "t1w", "mprage"), "t1"),
    **dict.fromkeys(("t1c", "t1gd", "t1post", "t1_ce"), "t1ce"),
    **{"t2w": "t2", "t2f": "flair", "t2flair": "flair"},
}
STANDARD: tuple[Contrast, ...] = (Contrast.T1, Contrast.T1CE, Contrast.T2, Contrast.FLAIR)

T1CE_WARNING = (
    "A synthetic T1ce is never evidence of contrast enhancement: no contrast agent was given, "
    "and enhancement cannot be inferred from the other contrasts."
)
CT_WARNING = (
    "A synthetic CT must not be used for dose calculation or diagnosis without validation: its Hounsfield units are "
    "inferred, no X-ray measured them."
)
WARNINGS: dict[Contrast, str] = {Contrast.T1CE: T1CE_WARNING, Contrast.CT: CT_WARNING}


def contrast_of(name: object, where: str = "") -> Contrast:
    """The contrast of a name in any letter case: `T1ce`. Raises UsageError for anything else; `where` it was named."""
    if isinstance(name, str) and name.lower() in set(Contrast):
        return Contrast(name.lower())
    said, hint = f"an object of type {type(name).__name__}", ""
    if isinstance(name, str):
        said, hint = repr(name), meant(name, SPELLINGS)
    no = f"{where}: no" if where else "No"
    raise UsageError(f"{no} contrast is named {said}; known are {', '.join(Contrast)}.{hint}")


def patterns(contrasts: Sequence[Contrast] = STANDARD) -> list[tuple[Contrast, ...]]:
    """Every set of available contrasts that is neither empty nor complete; 14 of them for four contrasts.

    Sets with most contrasts present come first; inside a set the order is that of `contrasts`.
    """
    sizes = range(len(contrasts) - 1, 0, -1)
    return [subset for size in sizes for subset in combinations(contrasts, size)]


def pattern_name(available: Iterable[Contrast]) -> str:
    """`t1+t2`: the available contrasts in canonical order, the spelling used in tables and options."""
    present = set(available)
    return "+".join(c.value for c in Contrast if c in present)


def contrasts_in(pattern: str) -> tuple[Contrast, ...]:
    """The contrasts of `t1+t2`, in the order written; none of "". Undoes `pattern_name`. Raises ValueError."""
    return tuple(Contrast(name) for name in pattern.split("+")) if pattern else ()


def spelled(pattern: str | Iterable[Contrast]) -> str:
    """`t1+t1ce` as a radiologist writes it, T1+T1ce; words that are no contrast stay."""
    known = {c.value: c.label for c in Contrast}
    names = pattern.split("+") if isinstance(pattern, str) else pattern
    return "+".join(known.get(name, name) for name in names)


def contrasts_named(text: str) -> tuple[Contrast, ...]:
    """The contrasts of `ct,mr`. Raises UsageError for unknown names, one twice, and one alone."""
    names = tuple(contrast_of(name.strip(), f"--contrasts {text}") for name in text.split(","))
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(f"--contrasts {text}: expected two or more different contrasts, as in ct,mr.")
    return names
