"""Who competes in a benchmark: methods with their checkpoints, the gaps they are to fill, and what they cannot."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from mrsynth.card import Card
from mrsynth.contrasts import SPELLINGS, Contrast, contrasts_in, pattern_name, patterns
from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.store import available_entries, resolve
from mrsynth.methods import KINDS, METHODS
from mrsynth.preference import has_mode, is_at_hand
from mrsynth.sampling import Sampling
from mrsynth.selection import select
from mrsynth.texts import meant

BRASYN = "brasyn"
USUAL = Sampling()


@dataclass(frozen=True)
class Gap:
    """One experiment on a subject: the contrasts it may be read from, and those to be made."""

    available: tuple[Contrast, ...]
    targets: tuple[Contrast, ...]

    @property
    def pattern(self) -> str:
        """`t1+t2`."""
        return pattern_name(self.available)

    @property
    def name(self) -> str:
        """`t1+t2:t1ce+flair`, as the option --patterns has it."""
        return f"{self.pattern}:{pattern_name(self.targets)}"


@dataclass(frozen=True)
class Assignment:
    """Checkpoint (a key of `Contender.checkpoints`) -> the targets it makes; target -> why none can."""

    made: Mapping[str, tuple[Contrast, ...]]
    unsupported: Mapping[Contrast, str]


@dataclass(frozen=True)
class Contender:
    """One line of the tables: a method, or one of several checkpoints of the same method.

    checkpoints   names or paths by which its checkpoints are loaded, with their cards
    """

    label: str
    checkpoints: Mapping[str, Card]

    def assign(self, gap: Gap) -> Assignment:
        """Which checkpoint makes what: one run for all targets where one checkpoint can, else the best for each."""
        entries = list(self.checkpoints.values())
        unsupported: dict[Contrast, str] = {}
        able: list[Contrast] = []
        for target in gap.targets:
            try:
                select(entries, gap.available, [target])
                able.append(target)
            except (UsageError, WeightsError) as error:
                unsupported[target] = str(error)
        whole = [e for e in entries if all(e.supports(frozenset(gap.available), t) for t in able)]
        made: dict[str, tuple[Contrast, ...]] = {}
        for target in able:
            best = select(whole, gap.available, able) if whole else select(entries, gap.available, [target])
            key = next(key for key, card in self.checkpoints.items() if card is best.entry)  # names may be alike
            made[key] = (*made.get(key, ()), target)
        return Assignment(made, unsupported)


def contenders(methods: Sequence[str], weights: Sequence[str], asked: Sampling = USUAL) -> list[Contender]:
    """Those asked for. With neither methods nor weights: every method that has checkpoints at hand, which can sample as
    asked; with `fast` no committee.

    Checkpoints that can do the same thing are lines of their own, called by their names, or as they were given where
    two names are alike; those of one method that
    complement one another, as the cwdm checkpoints of the four targets do, are one line.
    Raises UsageError for an unknown method or one that none of the weights is of, WeightsError when nothing is at hand.
    """
    if unknown := [m for m in methods if m not in KINDS]:
        hint = meant(unknown[0], KINDS)
        raise UsageError(f"There is no method '{unknown[0]}'. Give one or more of {', '.join(KINDS)}.{hint}")
    if weights:
        cards = {name: resolve(name).card for name in dict.fromkeys(weights)}
        if others := [m for m in methods if m not in {c.method for c in cards.values()}]:
            raise UsageError(f"None of the weights given is of {others[0]}. Leave --method or --weights out.")
        return [one for m in KINDS for one in _lines(m, {n: c for n, c in cards.items() if c.method == m})]
    at_hand = {e.name: e for e in available_entries() if is_at_hand(e)}
    found = []
    if not methods:
        at_hand = {name: card for name, card in at_hand.items() if has_mode(card, asked)}
    for method in methods or (METHODS if asked.fast else KINDS):
        own = {name: card for name, card in at_hand.items() if card.method == method}
        if own:
            found.append(Contender(method, own))
        elif methods:
            raise WeightsError(
                f"No checkpoint of {method} is on this machine. Train one, fetch one (`mrsynth weights list`), or name "
                "a file with --weights."
            )
    if not found:
        raise WeightsError("No checkpoint of any method is on this machine. Train one, or name a file with --weights.")
    return found


@cache
def checksum(name: str) -> str:
    """SHA-256 of a checkpoint's file, or of a committee."""
    return resolve(name).sha256


def _lines(method: str, cards: Mapping[str, Card]) -> list[Contender]:
    if not cards:
        return []
    rivals = any(_abilities(a) & _abilities(b) for a, b in combinations(cards.values(), 2))
    if not rivals:
        return [Contender(method, cards)]
    names = [card.name for card in cards.values()]
    return [Contender(c.name if names.count(c.name) == 1 else given, {given: c}) for given, c in cards.items()]


def _abilities(card: Card) -> set[tuple[str, Contrast]]:
    cases = [(p, t) for p in patterns(card.contrasts) for t in card.contrasts if t not in p]
    return {(pattern_name(p), t) for p, t in cases if card.supports(frozenset(p), t)}


def read_patterns(text: str, contrasts: Sequence[Contrast]) -> list[Gap]:
    """The gaps that --patterns asks for, of a data set with these contrasts.

    text   one-missing, all, or a list such as `t1+t2:t1ce,flair`: what is available and, after a colon, what to make;
           everything that is missing where nothing is said
    Raises UsageError for what is no pattern of this data set.
    """
    if text in ("all", "one-missing"):
        sets = patterns(contrasts)
        return [_gap(p, (), contrasts) for p in sets if text == "all" or len(p) == len(contrasts) - 1]
    gaps = []
    for part in text.split(","):
        given, colon, wanted = part.partition(":")
        gaps.append(_gap(_named(given, part), _named(wanted, part) if colon else (), contrasts))
    return list(dict.fromkeys(gaps))


def dropped_gap(dropped: Contrast, contrasts: Iterable[Contrast]) -> Gap:
    """The gap where one contrast is missing."""
    return Gap(tuple(c for c in contrasts if c is not dropped), (dropped,))


def _gap(available: Sequence[Contrast], targets: Sequence[Contrast], contrasts: Sequence[Contrast]) -> Gap:
    given = tuple(c for c in contrasts if c in available)
    missing = tuple(c for c in contrasts if c not in available)
    if foreign := [c for c in (*available, *targets) if c not in contrasts]:
        raise UsageError(f"--patterns: this data set has no {foreign[0].label}; it has {', '.join(contrasts)}.")
    if not given or not missing:
        raise UsageError("--patterns: give at least one contrast, and leave at least one to be made.")
    if both := [c for c in targets if c in given]:
        raise UsageError(f"--patterns: {both[0].label} is both given and to be made.")
    return Gap(given, tuple(c for c in missing if not targets or c in targets))


def _named(text: str, part: str) -> tuple[Contrast, ...]:
    try:
        if found := contrasts_in(text.strip().lower()):
            return found
        raise ValueError("nothing is named")
    except ValueError as error:
        words = {"one-missing": "one-missing", "all": "all", BRASYN: BRASYN, **SPELLINGS}
        unknown = [name for name in text.strip().lower().split("+") if name not in words]
        raise UsageError(
            f"--patterns {part}: expected one-missing, all, {BRASYN}, or contrasts as in t1+t2:t1ce; known are "
            f"{', '.join(Contrast)}.{meant(unknown[0], words) if unknown else ''}"
        ) from error
