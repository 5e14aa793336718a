"""Which checkpoint makes the missing contrasts, and why.

Reads only what checkpoints say of themselves (`card`): no tensors, no disk, no network. The rule, among those at hand
that can make every wanted contrast from the available ones:

1. the best measured brain PSNR for these inputs, averaged over the targets, where it is plausible; unmeasured
   checkpoints come after measured;
2. without a measurement, a network made for one target when one is wanted and three contrasts are there, else one
   network for all patterns;
3. the order given, which is the manifest's.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast, pattern_name
from mrsynth.errors import UsageError, WeightsError

AUTO = "auto"
PLAUSIBLE = (0.0, 50.0)  # dB: noise has more than the first, a copy of the truth in 8 bits little more than the second
MOST_SUBJECTS = 100_000
DECIDES = ("brain", "PSNR")  # region and metric


@dataclass(frozen=True)
class Selection:
    """The checkpoint to use, and why in one sentence that report, sidecar and `inspect` show."""

    entry: ManifestEntry | Card
    reason: str


@dataclass(frozen=True)
class Measured:
    """The mean brain PSNR in dB of a checkpoint in one case, and the least number of subjects behind a target's."""

    value: float
    subjects: int


def select(
    entries: Sequence[Card],
    available: Collection[Contrast],
    targets: Iterable[Contrast],
    method: str = AUTO,
    methods: Collection[str] = (),
    *,
    downloads: bool = False,
) -> Selection:
    """One checkpoint that makes all the targets.

    entries    the checkpoints known, in order of preference
    available  the contrasts the subject has
    targets    the contrasts wanted, at least one
    method     only checkpoints of this method; "auto" for any
    methods    names of methods that exist even if no entry is of them
    downloads  a checkpoint that is only published may be chosen, when none at hand will do
    Raises UsageError for a target that is present, an unknown method, and a method that cannot do this case;
    WeightsError when no checkpoint at hand can.
    """
    targets = check_targets(available, targets)
    known = sorted({*methods, *(e.method for e in entries)})
    if method != AUTO and known and method not in known:
        raise UsageError(f"There is no method '{method}'. Known: {', '.join(known)}; {AUTO} takes the best at hand.")
    at_hand = [e for e in entries if is_at_hand(e)]
    able = [e for e in at_hand if _can(e, available, targets)]
    candidates = [e for e in able if method in (AUTO, e.method)]
    if not candidates and downloads:
        candidates = [e for e in entries if method in (AUTO, e.method) and _can(e, available, targets)]
    if not candidates:
        raise _none_can(entries, at_hand, able, available, targets, method)
    best = min(candidates, key=lambda e: _rank(e, available, targets))  # min keeps the first of equals
    return Selection(best, _sentence(best, available, targets, _why(best, candidates, available, targets, method)))


def named(card: Card, available: Collection[Contrast], targets: Iterable[Contrast], method: str = AUTO) -> Selection:
    """The checkpoint the user named, if it can make all the targets and is of `method`. Raises UsageError if not."""
    targets = check_targets(available, targets)
    if method not in (AUTO, card.method):
        raise UsageError(f"{card.name} is a checkpoint of {card.method}, not of {method}. Leave one of the two out.")
    if not _can(card, available, targets):
        raise UsageError(
            f"{card.name} cannot make {_and(targets)} from {pattern_name(available)}. It makes {card.ability}. "
            "Name another checkpoint, or none to have one chosen."
        )
    return Selection(card, _sentence(card, available, targets, "as asked for by name"))


def check_targets(available: Collection[Contrast], targets: Iterable[Contrast]) -> tuple[Contrast, ...]:
    """The targets once each, in canonical order. Raises UsageError for one that is already present."""
    wanted = set(targets)
    if not wanted:
        raise ValueError("at least one target is needed")
    if present := [c for c in Contrast if c in wanted and c in available]:
        missing = [c for c in STANDARD if c not in available]
        raise UsageError(
            f"{_and(present)} {'is' if len(present) == 1 else 'are'} already present "
            f"(found: {', '.join(c for c in Contrast if c in available)}). "
            f"Missing and possible as a target: {', '.join(missing) or 'none'}."
        )
    return tuple(c for c in Contrast if c in wanted)


def measured(card: Card, available: Collection[Contrast], targets: Collection[Contrast]) -> Measured | None:
    """What a checkpoint that can do this scored in it; None unless it was measured for every target.

    A score that no checkpoint can have is no measurement: whoever wrote the file wrote the score. Available contrasts
    that the checkpoint does not look at do not count in the pattern.
    """
    patterns = {target: pattern_name(_inputs(card, available, target)) for target in targets}
    scores = [s for s in card.scores if (s.region, s.metric) == DECIDES and patterns.get(s.made) == s.pattern]
    low, high = PLAUSIBLE
    scores = [s for s in scores if low < s.value < high and s.subjects <= MOST_SUBJECTS]
    if {s.target for s in scores} != set(targets):
        return None
    each = [[s.value for s in scores if s.target == target] for target in targets]
    return Measured(sum(sum(v) / len(v) for v in each) / len(each), min(s.subjects for s in scores))


def is_at_hand(card: Card) -> bool:
    """Whether the checkpoint's file is on this machine; a card that is no manifest entry was read from its file."""
    return not isinstance(card, ManifestEntry) or card.file is not None


def _can(card: Card, available: Collection[Contrast], targets: Collection[Contrast]) -> bool:
    return all(card.supports(frozenset(available), target) for target in targets)


def _inputs(card: Card, available: Collection[Contrast], target: Contrast) -> set[Contrast]:
    """The available contrasts the checkpoint looks at."""
    return set(available) & set(card.learnt) if card.requires is None else set(card.requires[target])


def _rank(card: Card, available: Collection[Contrast], targets: Collection[Contrast]) -> tuple[bool, float, bool]:
    """Smaller is better."""
    score = measured(card, available, targets)
    if score is not None:
        return False, -score.value, False
    return True, 0.0, (card.requires is not None) != _asks_for_specialist(available, targets)


def _asks_for_specialist(available: Collection[Contrast], targets: Collection[Contrast]) -> bool:
    return len(targets) == 1 and len(set(available) & set(STANDARD)) == 3


def _sentence(card: Card, available: Collection[Contrast], targets: Sequence[Contrast], why: str) -> str:
    inputs = set[Contrast]().union(*(_inputs(card, available, target) for target in targets))
    case = f"{card.name}: makes {_and(targets)} from {pattern_name(inputs)}"
    score = measured(card, available, targets)
    if score is None:
        return f"{case}, {why}; no score was measured for this case."
    mean = "a mean of " if len(targets) > 1 else ""
    subjects = f"{score.subjects} validation subject{'s' if score.subjects > 1 else ''}"
    return f"{case} with {mean}{score.value:.1f} dB brain PSNR on {subjects}{_claimed_by(card)}, {why}."


def _claimed_by(card: Card) -> str:
    """Who says how good a checkpoint is, where that is not mrsynth's own manifest."""
    ours = isinstance(card, ManifestEntry) and (card.repository is not None or not os.path.isabs(card.file or ""))
    return "" if ours else " (as the checkpoint itself claims)"


def _why(
    best: Card, candidates: Sequence[Card], available: Collection[Contrast], targets: Sequence[Contrast], method: str
) -> str:
    kind = "" if method == AUTO else f"{method} "
    n = len(candidates)
    if not is_at_hand(best):
        return f"to be downloaded because no {kind}checkpoint at hand can"
    if n == 1:
        return f"the only {kind}checkpoint at hand that can"
    scored = sum(measured(c, available, targets) is not None for c in candidates)
    if scored == n:
        return f"the best of {n} {kind}checkpoints at hand"
    if scored:
        return f"the best of those measured ({scored} of {n} {kind}checkpoints at hand)"
    if best.requires is not None and _asks_for_specialist(available, targets):
        return f"chosen of {n} {kind}checkpoints at hand because it is made for just this contrast"
    if best.requires is None and not _asks_for_specialist(available, targets):
        return f"chosen of {n} {kind}checkpoints at hand because it is made for any set of missing contrasts"
    return f"the first of {n} {kind}checkpoints at hand"


def _none_can(
    entries: Sequence[Card],
    at_hand: Sequence[Card],
    able: Sequence[Card],
    available: Collection[Contrast],
    targets: Sequence[Contrast],
    method: str,
) -> UsageError | WeightsError:
    case = f"{_and(targets)} from {pattern_name(available)}"
    elsewhere = _elsewhere([e for e in entries if method in (AUTO, e.method)], available, targets)
    if not at_hand:
        return WeightsError(f"No checkpoint is at hand to make {case}.{elsewhere} {_ADVICE}")
    if method == AUTO:
        return WeightsError(f"No checkpoint at hand makes {case}. At hand: {_abilities(at_hand)}.{elsewhere} {_ADVICE}")
    others = f" Others at hand that can: {_abilities(able)}." if able else " No other checkpoint at hand can either."
    if own := [e for e in at_hand if e.method == method]:
        known = f"Its checkpoints at hand: {_abilities(own)}."
        return UsageError(f"{method} cannot make {case}. {known}{others}{elsewhere}")
    return WeightsError(f"No checkpoint of {method} is at hand to make {case}.{others}{elsewhere} {_ADVICE}")


_ADVICE = (
    "Train one (`mrsynth train`), or put the .safetensors file of one into a folder named by MRSYNTH_WEIGHTS_DIR; "
    "`mrsynth weights list` shows those known."
)


def _elsewhere(entries: Sequence[Card], available: Collection[Contrast], targets: Sequence[Contrast]) -> str:
    able = [e for e in entries if not is_at_hand(e) and _can(e, available, targets)]
    return f" Published, and downloaded with --fetch: {_abilities(able)}." if able else ""


def _abilities(cards: Sequence[Card]) -> str:
    return "; ".join(f"{c.name} ({c.method}: {c.ability})" for c in cards)


def _and(contrasts: Sequence[Contrast]) -> str:
    """`t1`, `t1 and t2`, `t1, t2 and flair`."""
    *most, last = [c.value for c in contrasts]
    return f"{', '.join(most)} and {last}" if most else last
