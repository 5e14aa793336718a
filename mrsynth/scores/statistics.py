"""Means with intervals, and paired tests, over the rows of a benchmark. The person is the unit.

Whatever was made of one person in a group (several examinations, patterns, targets, seeds) is averaged first, so a
person counts once however often he was scanned. Not-a-number means not measured: such rows are left out. An infinite
value (PSNR of equal images) takes part in median, worst, best and the ranks of a test; means and their intervals are
over the finite values, `counted` says of how many persons, and `infinite` how many scores were not.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from mrsynth.scores.inference import FEW, detectable, holm, interval, signed_rank, skewed_interval
from mrsynth.scores.rows import BASELINES, Score

ANY = "any"  # the pattern or target of a pooled group
LOWER_IS_BETTER = frozenset({"MSE", "MAE", "NMSE", "HD95"})
BEST_AT_ONE = frozenset({"CONSISTENCY", "EDGE", "SLOPE"})

Key = tuple[str, ...]
Kind = tuple[str, str, str]  # protocol, region, metric
Case = tuple[str, str, str]  # examination, pattern, target
_Values = Mapping[Case, float]
_ByPerson = Mapping[str, Sequence[float]]


class Question(NamedTuple):
    """What a benchmark is to decide, named before it runs: one figure, over all that both methods made."""

    protocol: str
    region: str
    metric: str


PRIMARY = Question("brain3d", "brain", "PSNR_FIT")


def question_among(protocols: Sequence[str]) -> Question:
    """The primary question of a run by these protocols: PRIMARY where it is measured, else one of the first of them."""
    if PRIMARY.protocol in protocols:
        return PRIMARY
    first = protocols[0]
    regions = {"brain2d": "brain", "slice2d": "slices", "brasyn": "tumour"}
    return Question(first, regions.get(first, "volume"), "SSIM" if first == "brasyn" else "PSNR")


class Summary(NamedTuple):
    """One group of scores.

    pattern, target   of the rows, or ANY: over all patterns or targets of this group, whichever they were
    n                 persons
    mean              over the persons with a finite value; infinite where there is none
    low, high         its 95 % interval over persons; None with fewer than FEW finite ones
    worst, best       person, by the sense of the metric
    goodness          mean over persons, the larger the better: what decides who is best
    counted           persons that mean and interval rest on
    infinite          scores left out of mean and interval
    """

    dataset: str
    split: str
    method: str
    pattern: str
    target: str
    protocol: str
    region: str
    metric: str
    n: int
    mean: float
    low: float | None
    high: float | None
    median: float
    worst: float
    best: float
    goodness: float
    counted: int
    infinite: int = 0


class PairedTest(NamedTuple):
    """Two methods on what both were scored on: `method_a` minus `method_b`, averaged within each person.

    pattern, target   of the rows; ANY for both: over all examinations, patterns and targets that both made of a person
    n                 persons
    mean_a, mean_b    over the same persons; of a metric that is best at 1 these are distances from it, |ln value|
    low, high         95 % interval of the mean difference over persons; None with fewer than FEW finite ones
    detectable        the smallest true difference that so many persons show in four of five studies
    p_value           exact Wilcoxon signed-rank, two-sided; None with fewer than FEW persons or without any difference
    p_holm            of the primary question alone: corrected by Holm 1979 as one family, all pairs of methods but two
                      baselines. All other tests are exploratory and have none
    counted           persons that means and interval rest on
    infinite          scores left out of means and interval
    """

    protocol: str
    region: str
    metric: str
    pattern: str
    target: str
    method_a: str
    method_b: str
    n: int
    mean_a: float | None
    mean_b: float | None
    mean_difference: float | None
    low: float | None
    high: float | None
    detectable: float | None
    p_value: float | None
    p_holm: float | None = None
    primary: bool = False
    counted: int = 0
    infinite: int = 0


class Ground(NamedTuple):
    """The rows on which methods can be compared.

    rows       of the cases that all methods have which tried the same pattern and target, and that are finite for all;
               where none is, also those that are not
    lacking    method -> cases that others have a score of and it has none: it failed, or was not finished
    infinite   method -> cases left out because its score was infinite
    """

    rows: tuple[Score, ...]
    lacking: Mapping[str, int]
    infinite: Mapping[str, int]


def person_of(row: Score) -> str:
    """Who was scanned; where that is not recorded, every subject is a person of its own."""
    return row.person or row.subject


def examination_of(row: Score) -> str:
    """One examination of one person: two persons may have subjects of one name."""
    return f"{row.person}\n{row.subject}"


def warning_for(persons: int) -> str | None:
    """What must be said of differences with so few persons; None with enough of them."""
    if persons >= FEW:
        return None
    if persons == 1:
        return "n = 1: there is no interval and no test, and one person says nothing of others."
    return f"n = {persons} persons: too few for intervals and tests, so there are none."


def summarise(rows: Sequence[Score]) -> list[Summary]:
    """One summary per dataset, split, method, pattern, target, protocol, region and metric, in the order of the rows.

    The groups with ANY as target, as pattern, and as both follow those of the rows.
    """
    groups: dict[Key, dict[str, list[float]]] = {}
    for pooled in ((), ("target",), ("pattern",), ("pattern", "target")):
        for row in rows:
            if np.isnan(row.value):
                continue
            pattern = ANY if "pattern" in pooled else row.pattern
            target = ANY if "target" in pooled else row.target
            key = (row.dataset, row.split, row.method, pattern, target, row.protocol, row.region, row.metric)
            groups.setdefault(key, {}).setdefault(person_of(row), []).append(row.value)
    return [_summary(key, persons) for key, persons in groups.items()]


def equal_ground(rows: Sequence[Score]) -> Ground:
    """Leave out what not all methods have: a method that fails a hard case must not look better for it."""
    cells: dict[Key, dict[str, dict[str, list[float]]]] = {}  # ... -> method -> examination -> scores
    for row in rows:
        key: Key = (row.dataset, row.split, *_kind(row), row.pattern, row.target)
        values = [] if np.isnan(row.value) else [row.value]
        cells.setdefault(key, {}).setdefault(row.method, {}).setdefault(examination_of(row), []).extend(values)
    kept: dict[Key, set[str]] = {}
    lacking: dict[str, set[Case]] = {}
    infinite: dict[str, set[Case]] = {}
    for key, by in cells.items():
        scored = {method: {s for s, v in subjects.items() if v} for method, subjects in by.items()}
        finite = {m: {s for s in names if np.isfinite(by[m][s]).all()} for m, names in scored.items()}
        every = set[str]().union(*scored.values())
        kept[key] = every.intersection(*finite.values()) or every.intersection(*scored.values())
        for method, names in scored.items():
            lacking.setdefault(method, set()).update((s, key[-2], key[-1]) for s in every - names)
            infinite.setdefault(method, set()).update((s, key[-2], key[-1]) for s in names - finite[method])
    usable = [r for r in rows if examination_of(r) in kept[(r.dataset, r.split, *_kind(r), r.pattern, r.target)]]
    return Ground(
        rows=tuple(row for row in usable if not np.isnan(row.value)),
        lacking={method: len(cases) for method, cases in lacking.items() if cases},
        infinite={method: len(cases) for method, cases in infinite.items() if cases},
    )


def paired_tests(rows: Sequence[Score], question: Question | None = PRIMARY) -> list[PairedTest]:
    """Every two methods against each other, wherever they were scored on common cases.

    question  the primary one, whose tests are corrected; None: all tests are exploratory
    Raises UsageError where an interval is due (at least FEW common persons) and scipy is not installed.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    persons = {examination_of(row): person_of(row) for row in rows}
    scores: dict[Kind, dict[str, dict[Case, list[float]]]] = {}
    for row in rows:
        if not np.isnan(row.value):
            case = (examination_of(row), row.pattern, row.target)
            value = distance(row.metric, row.value)
            scores.setdefault(_kind(row), {}).setdefault(row.method, {}).setdefault(case, []).append(value)
    alone: list[PairedTest] = []
    together: list[PairedTest] = []
    for kind, by in scores.items():
        means: dict[str, dict[Key, dict[Case, float]]] = {}  # method -> pattern and target, or ANY -> case -> value
        for method, cases in by.items():
            for case, values in cases.items():
                pairs: tuple[Key, Key] = (case[1:], (ANY, ANY))
                for pair in pairs:
                    means.setdefault(method, {}).setdefault(pair, {})[case] = mean_of(values)
        for a, b in combinations([method for method in methods if method in means], 2):
            for place, first in means[a].items():
                second = means[b].get(place, {})
                if first.keys() & second.keys():
                    test = _test(kind, place, a, b, first, second, persons)
                    (together if place == (ANY, ANY) else alone).append(test)
    return [*alone, *corrected(together, question)]


def corrected(tests: Sequence[PairedTest], question: Question | None) -> list[PairedTest]:
    """The tests with those of the primary question marked, and their p values corrected as one family."""
    family = [
        i
        for i, test in enumerate(tests)
        if test[:3] == question and test.pattern == ANY and not {test.method_a, test.method_b} <= {*BASELINES}
    ]
    done = list(tests)
    for i, p in zip(family, holm([tests[i].p_value for i in family]), strict=True):
        done[i] = tests[i]._replace(p_holm=p, primary=True)
    return done


def goodness(metric: str, value: float) -> float:
    """The larger the better: the value, its negative for errors, and how near it is to 1 where 1 is best."""
    return -distance(metric, value) if metric in LOWER_IS_BETTER | BEST_AT_ONE else value


def distance(metric: str, value: float) -> float:
    """What means are compared of: the value, or where 1 is best from both sides its distance from that, |ln value|."""
    if metric not in BEST_AT_ONE:
        return value
    return abs(float(np.log(value))) if value > 0 else float("inf")


# One group -----------------------------------------------------------------------------------------------------------


def _kind(row: Score) -> Kind:
    return row.protocol, row.region, row.metric


def _summary(key: Key, persons: _ByPerson) -> Summary:
    dataset, split, method, pattern, target, protocol, region, metric = key
    names = sorted(persons)
    values = np.array([mean_of(persons[name]) for name in names])
    good = [mean_of([goodness(metric, value) for value in persons[name]]) for name in names]
    finite = values[np.isfinite(values)]
    low, high = skewed_interval(finite)
    from_worst = [value for _, value in sorted(zip(good, values.tolist(), strict=True))]
    return Summary(
        *(dataset, split, method, pattern, target, protocol, region, metric),
        n=len(values),
        mean=mean_of(values.tolist()),
        low=low,
        high=high,
        median=float(np.median(values)),
        worst=from_worst[0],
        best=from_worst[-1],
        goodness=mean_of(good),
        counted=len(finite),
        infinite=sum(not np.isfinite(score) for scores in persons.values() for score in scores),
    )


def mean_of(values: Iterable[float]) -> float:
    """The mean of the finite ones; of the infinite ones if there are no others."""
    every = np.array(list(values), float)
    finite = every[np.isfinite(every)]
    return float(finite.mean()) if finite.size else float(every[0])


# Two methods ---------------------------------------------------------------------------------------------------------


def _test(
    kind: Kind, pair: Key, a: str, b: str, first: _Values, second: _Values, persons: Mapping[str, str]
) -> PairedTest:
    both: dict[str, list[tuple[float, float]]] = {}
    for case, value in first.items():
        if case in second:
            both.setdefault(persons[case[0]], []).append((value, second[case]))
    infinite = sum(not np.isfinite(two).all() for pairs in both.values() for two in pairs)
    each = np.array([_person(both[name]) for name in sorted(both)])  # (persons, 2)
    x, y = each.T
    equal = x == y  # two infinite values of one sign: their difference is not a number, and zero is meant
    difference = np.where(equal, 0.0, np.subtract(x, y, where=~equal, out=np.zeros_like(x)))
    usable = np.isfinite(each).all(axis=1)
    finite = difference[usable]
    mean_a, mean_b, mean = (float(v.mean()) if v.size else None for v in (x[usable], y[usable], finite))
    low, high = interval(finite)
    protocol, region, metric = kind
    pattern, target = pair
    return PairedTest(
        *(protocol, region, metric, pattern, target, a, b),
        n=len(each),
        mean_a=mean_a,
        mean_b=mean_b,
        mean_difference=mean,
        low=low,
        high=high,
        detectable=detectable(finite),
        p_value=signed_rank(difference) if len(each) >= FEW else None,
        counted=len(finite),
        infinite=infinite,
    )


def _person(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The means of two methods over what both made of a person: of what is finite for both, unless nothing is."""
    usable = [two for two in pairs if np.isfinite(two).all()] or pairs[:1]
    return mean_of(two[0] for two in usable), mean_of(two[1] for two in usable)
