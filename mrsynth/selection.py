"""Which checkpoint makes the missing contrasts, and why.

Reads only what checkpoints say of themselves (`card`) and what the user measured: no tensors, no disk, no network. The
rule, among those at hand that can make every wanted contrast from the available ones, in the mode asked for:

1. what did best in the user's own benchmark, of those recorded there for this case (`mrsynth benchmark --record`);
2. a published checkpoint that was fetched: made for this case, from far more subjects than ours;
3. the committee;
4. ours, by measured brain PSNR averaged over the targets, where it is plausible; unmeasured ones come after measured,
   and of these a network made for one target first when one is wanted and three contrasts are there, else one network
   for all patterns;
5. files of the user's without a recorded score, by the scores they claim. Where there is another, they are named in a
   hint and not chosen: nothing says how good they are.

With `fast`, and where it would take more than ten minutes here, 2 and 3 are passed over for a smaller one.
The order given, which is the manifest's, decides between equals.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast, pattern_name
from mrsynth.errors import UsageError, WeightsError
from mrsynth.preference import AS_ALWAYS, AUTO, Circumstances, Preference, in_words, is_at_hand, recorded_for, sentence
from mrsynth.sampling import Sampling
from mrsynth.texts import meant


@dataclass(frozen=True)
class Selection:
    """The checkpoint to use, and why in one sentence that report, sidecar and `inspect` show.

    hints   what else there is and is not used: the user's unmeasured files, and what could be downloaded
    """

    entry: ManifestEntry | Card
    reason: str
    hints: tuple[str, ...] = ()


def select(
    entries: Sequence[Card],
    available: Collection[Contrast],
    targets: Iterable[Contrast],
    method: str = AUTO,
    methods: Collection[str] = (),
    *,
    downloads: bool = False,
    given: Circumstances = AS_ALWAYS,
) -> Selection:
    """One checkpoint that makes all the targets.

    entries    the checkpoints known, in order of preference
    available  the contrasts the subject has
    targets    the contrasts wanted, at least one
    method     only checkpoints of this method; "auto" for any
    methods    names of methods that exist even if no entry is of them
    downloads  a checkpoint that is only published may be chosen, when none at hand will do
    given      the request, the user's measurements, the machine
    Raises UsageError for a target that is present, an unknown method, and a method that cannot do this case;
    WeightsError when no checkpoint at hand can.
    """
    targets = check_targets(available, targets)
    known = sorted({*methods, *(e.method for e in entries)})
    if method != AUTO and known and method not in known:
        hint = meant(method, known)
        raise UsageError(f"There is no method '{method}'. Known: {', '.join(known)}; {AUTO} takes the best.{hint}")
    at_hand = [e for e in entries if is_at_hand(e)]
    able = [e for e in at_hand if _can(e, available, targets)]
    candidates = [e for e in able if method in (AUTO, e.method)]
    if not candidates and downloads:
        candidates = [e for e in entries if method in (AUTO, e.method) and _can(e, available, targets)]
    if not candidates:
        raise _none_can(entries, at_hand, able, available, targets, method)
    preference = Preference(
        available, targets, method, given, recorded_for(given.recorded, candidates, available, targets)
    )
    best, why = preference.best_of(candidates)
    elsewhere = [e for e in entries if not is_at_hand(e) and method in (AUTO, e.method) and _can(e, available, targets)]
    told = sentence(best, available, targets, why, preference.own.get(best.name), given.asked)
    return Selection(best, told, preference.hints(best, candidates, elsewhere))


def named(
    card: Card,
    available: Collection[Contrast],
    targets: Iterable[Contrast],
    method: str = AUTO,
    asked: Sampling = AS_ALWAYS.asked,
) -> Selection:
    """The checkpoint the user named, if it can make all the targets and is of `method`. Raises UsageError if not."""
    targets = check_targets(available, targets)
    if method not in (AUTO, card.method):
        raise UsageError(f"{card.name} is a checkpoint of {card.method}, not of {method}. Leave one of the two out.")
    if not _can(card, available, targets):
        raise UsageError(
            f"{card.name} cannot make {in_words(targets)} from {pattern_name(available)}. It makes {card.ability}. "
            "Name another checkpoint, or none to have one chosen."
        )
    return Selection(card, sentence(card, available, targets, "as asked for by name", asked=asked))


def check_targets(available: Collection[Contrast], targets: Iterable[Contrast]) -> tuple[Contrast, ...]:
    """The targets once each, in canonical order. Raises UsageError for one that is already present."""
    wanted = set(targets)
    if not wanted:
        raise ValueError("at least one target is needed")
    if present := [c for c in Contrast if c in wanted and c in available]:
        missing = [c for c in STANDARD if c not in available]
        raise UsageError(
            f"{in_words(present)} {'is' if len(present) == 1 else 'are'} already present "
            f"(found: {', '.join(c for c in Contrast if c in available)}). "
            f"Missing and possible as a target: {', '.join(missing) or 'none'}."
        )
    return tuple(c for c in Contrast if c in wanted)


def _can(card: Card, available: Collection[Contrast], targets: Collection[Contrast]) -> bool:
    return all(card.supports(frozenset(available), target) for target in targets)


def _none_can(
    entries: Sequence[Card],
    at_hand: Sequence[Card],
    able: Sequence[Card],
    available: Collection[Contrast],
    targets: Sequence[Contrast],
    method: str,
) -> UsageError | WeightsError:
    case = f"{in_words(targets)} from {pattern_name(available)}"
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
