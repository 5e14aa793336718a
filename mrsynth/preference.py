"""Of several checkpoints that can do a thing, which comes first, and what is said of it. The rule is in `selection`."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast, pattern_name
from mrsynth.sampling import AXIAL, MODES, OF_WAVELETS, Sampling, of_another_mode, usual_mode
from mrsynth.scores.rows import Score

AUTO = "auto"
PLAUSIBLE = (0.0, 50.0)  # dB: noise has more than the first, a copy of the truth in 8 bits little more than the second
MOST_SUBJECTS = 100_000
PATIENCE = 600.0  # seconds for a subject; what takes longer is used only when it is named
DECIDES = ("brain", "PSNR")  # region and metric
PUBLISHED, COMMITTEE, OURS, CLAIMED = 1, 2, 3, 4  # tiers; 0 is what the user's own benchmark recorded


@dataclass(frozen=True)
class Measured:
    """The mean brain PSNR in dB of a checkpoint in one case, and the least number of subjects behind a target's."""

    value: float
    subjects: int


@dataclass(frozen=True)
class Recorded:
    """What the user's own benchmark found: scores by the name of a checkpoint, and the data set they are from."""

    dataset: str
    scores: Mapping[str, tuple[Score, ...]]


@dataclass(frozen=True)
class Circumstances:
    """What else decides: the request, what the user measured, and the machine.

    recorded     the user's benchmarks, the latest first
    processors   to reckon with; None where time is no matter (a GPU)
    """

    asked: Sampling = field(default_factory=Sampling)
    recorded: tuple[Recorded, ...] = ()
    processors: int | None = None

    def seconds(self, card: Card) -> float | None:
        """How long the checkpoint takes for a subject here; None where that is unknown or no matter."""
        if self.processors is None or not isinstance(card, ManifestEntry) or card.cpu_seconds is None:
            return None
        own, steps = card.sampling.get("mode"), card.sampling.get("steps") or 1  # of its samples
        drawn = (self.asked.mode or own) == "sample"
        calls = (self.asked.steps or steps) / (steps if own == "sample" else 1) if drawn else 1.0  # times what is known
        chains = (self.asked.samples or 1) if drawn else 1
        turns = len(self.asked.planes or AXIAL) * (2 if self.asked.cycle_spinning else 1)
        return card.cpu_seconds * calls * chains * turns / self.processors


AS_ALWAYS = Circumstances()


@dataclass(frozen=True)
class Preference:
    """What to choose by, in one case.

    own   checkpoint -> what the user's benchmark found of it, in this case, and the data set: `recorded_for`
    """

    available: Collection[Contrast]
    targets: Sequence[Contrast]
    method: str
    given: Circumstances
    own: Mapping[str, tuple[Measured, str]]

    def best_of(self, candidates: Sequence[Card]) -> tuple[Card, str]:
        """The best candidate, and why it is."""
        fitting = [c for c in candidates if has_mode(c, self.given.asked)] or list(candidates)
        some_small = not all(_is_large(c) for c in fitting)
        passed = [c for c in fitting if some_small and _is_large(c) and self.takes_too_long(c)]
        running = [c for c in fitting if c not in passed]
        best = min(running, key=self.rank)  # min keeps the first of equals
        why = self.why(best, running)
        first = min(passed, key=self.rank, default=None)
        if first is not None and self.rank(first) < self.rank(best):
            why += f"; {first.name} was passed over, {self.why_passed(first)}"
        return best, why

    def rank(self, card: Card) -> tuple[int, bool, float, bool]:
        """Smaller is better: the tier, then whether it was never measured, then the score."""
        if card.name in self.own:
            return 0, False, -self.own[card.name][0].value, False
        tier = _tier(card)
        score = measured(card, self.available, self.targets)
        if score is not None:
            return tier, False, -score.value, False
        return tier, True, 0.0, (card.requires is not None) != _asks_for_specialist(self.available, self.targets)

    def takes_too_long(self, card: Card) -> bool:
        """Whether a smaller one is taken in its place."""
        return self.given.asked.fast or (self.given.seconds(card) or 0.0) > PATIENCE

    def why_passed(self, card: Card) -> str:
        """Of one that takes too long, in words."""
        if self.given.asked.fast:
            return "since --fast asks for a small one"
        return f"since it would take about {_duration(self.given.seconds(card) or 0.0)} here (--weights has it used)"

    def why(self, best: Card, running: Sequence[Card]) -> str:
        """What speaks for the best of those that may run."""
        kind, n = "" if self.method == AUTO else f"{self.method} ", len(running)
        at_hand, chosen = f"{kind}checkpoints at hand", f"chosen of {n} {kind}checkpoints at hand because it is"
        if not is_at_hand(best):
            return f"to be downloaded because no {kind}checkpoint at hand can"
        if n == 1:
            return f"the only {kind}checkpoint at hand that can"
        if best.name in self.own:
            return f"the best of those recorded there ({len(self.own)} of {n} {at_hand})"
        if _tier(best) == PUBLISHED:
            return f"{chosen} made for this case and published by its authors, {_training(best)}"
        if _tier(best) == COMMITTEE:
            seconds = self.given.seconds(best)
            time = "" if seconds is None else f" (about {_duration(seconds)} here)"
            return f"{chosen} the mean of several, which takes as long as all of them{time}"
        scored = sum(not self.rank(c)[1] for c in running if _tier(c) == _tier(best))
        if scored == n:
            return f"the best of {n} {at_hand}"
        if scored:
            return f"the best of those measured ({scored} of {n} {at_hand})"
        if best.requires is not None and _asks_for_specialist(self.available, self.targets):
            return f"{chosen} made for just this contrast"
        if best.requires is None and not _asks_for_specialist(self.available, self.targets):
            return f"{chosen} made for any set of missing contrasts"
        return f"the first of {n} {at_hand}"

    def hints(self, best: Card, candidates: Sequence[Card], elsewhere: Sequence[Card]) -> tuple[str, ...]:
        """The user's files that nothing is known of; and what is published for this case and would come before."""
        tier = self.rank(best)[0]
        unknown = [c.name for c in candidates if c is not best and tier < CLAIMED == self.rank(c)[0]]
        return (
            *(
                f"{name} is a file of yours without a recorded score, so it is not chosen by itself: --weights {name} "
                "uses it, `mrsynth benchmark --record` measures it."
                for name in unknown
            ),
            *(
                f"{card.name} is published for this case, {_training(card)}, and is not on this machine: "
                f"`mrsynth weights fetch {card.name}` gets it. Nothing is downloaded unasked."
                for card in elsewhere
                if tier > PUBLISHED and not self.takes_too_long(card)
            ),
        )


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


def recorded_for(
    recorded: Sequence[Recorded], cards: Sequence[Card], available: Collection[Contrast], targets: Collection[Contrast]
) -> dict[str, tuple[Measured, str]]:
    """What the latest benchmark that says something of this case says; scores of two benchmarks are never compared."""
    for benchmark in recorded:
        found: dict[str, tuple[Measured, str]] = {}
        for card in cards:
            own = card.model_copy(update={"scores": benchmark.scores.get(card.name, ())})
            if (score := measured(own, available, targets)) is not None:
                found[card.name] = score, benchmark.dataset
        if found:
            return found
    return {}


def sentence(
    card: Card,
    available: Collection[Contrast],
    targets: Sequence[Contrast],
    why: str,
    own: tuple[Measured, str] | None = None,
    asked: Sampling = AS_ALWAYS.asked,
) -> str:
    """What a checkpoint makes, how well as far as anybody measured, and `why` it is taken, in one sentence.

    own     of the user's benchmark, with the name of its data set
    asked   the request: scores of another mode than it will be are named as such
    """
    inputs = set[Contrast]().union(*(_inputs(card, available, target) for target in targets))
    case = f"{card.name}: makes {in_words(targets)} from {pattern_name(inputs)}"
    score = measured(card, available, targets) if own is None else own[0]
    if score is None:
        return f"{case}, {why}; {_figures_of_others(card, targets)}."
    mean = "a mean of " if len(targets) > 1 else ""
    subjects = f"{score.subjects} validation subject{'s' if score.subjects > 1 else ''}{_claimed_by(card)}"
    if own is not None:
        subjects = f"{score.subjects} subject{'s' if score.subjects > 1 else ''} of your own benchmark ({own[1]})"
    usual = usual_mode(card.sampling)
    if of_another_mode(usual, asked.mode or usual):
        subjects += f" in mode {usual}, not in this one"
    return f"{case} with {mean}{score.value:.1f} dB brain PSNR on {subjects}, {why}."


def _figures_of_others(card: Card, targets: Sequence[Contrast]) -> str:
    """What the authors of weights say of them, with their protocol, or that nobody measured anything."""
    figures = card.published if isinstance(card, ManifestEntry) else ()
    stated = [f"{f.metric} {f.value:g} ({f.protocol}; {f.source})" for f in figures if f.target in targets]
    if not stated:
        return "no score was measured for this case"
    return f"its authors state {', '.join(stated)}, which is no measurement of ours and cannot be compared with one"


def _claimed_by(card: Card) -> str:
    """Who says how good a checkpoint is, where that is not mrsynth's own manifest."""
    return " (as the checkpoint itself claims)" if _tier(card) == CLAIMED else ""


def _tier(card: Card) -> int:
    if not isinstance(card, ManifestEntry):
        return CLAIMED
    if card.committee is not None:
        return COMMITTEE
    if card.repository is not None:
        return PUBLISHED
    return CLAIMED if os.path.isabs(card.file or "") else OURS


def _is_large(card: Card) -> bool:
    return _tier(card) in (PUBLISHED, COMMITTEE)


def has_mode(card: Card, asked: Sampling) -> bool:
    """Whether a checkpoint can do what is asked: the mode, the planes of its slices, and cycle spinning."""
    mode = asked.mode or ("sample" if asked.steps or asked.sampler or asked.samples else None)
    able = mode is None or mode in card.sampling.get("modes", MODES)
    spins = not asked.cycle_spinning or card.method in OF_WAVELETS
    return able and spins and set(asked.planes or ()) <= set(card.planes)


def _training(card: Card) -> str:
    return f"trained on {card.learnt_from:,} subjects" if card.learnt_from else "trained on data it does not name"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def is_at_hand(card: Card) -> bool:
    """Whether the checkpoint's file is on this machine; a card that is no manifest entry was read from its file."""
    return not isinstance(card, ManifestEntry) or card.file is not None or card.committee is not None


def _inputs(card: Card, available: Collection[Contrast], target: Contrast) -> set[Contrast]:
    """The available contrasts the checkpoint looks at."""
    return set(available) & set(card.learnt) if card.requires is None else set(card.requires[target])


def _asks_for_specialist(available: Collection[Contrast], targets: Collection[Contrast]) -> bool:
    return len(targets) == 1 and len(set(available) & set(STANDARD)) == 3


def in_words(contrasts: Sequence[Contrast]) -> str:
    """`t1`, `t1 and t2`, `t1, t2 and flair`."""
    *most, last = [c.value for c in contrasts]
    return f"{', '.join(most)} and {last}" if most else last
