"""Means with intervals, and paired tests, over the rows of a benchmark. Subjects are the unit.

Rows of one subject in one group (several patterns, targets, seeds) are averaged first, so a subject counts once however
much was made of it. Not-a-number means not measured: such rows are left out. An infinite value (PSNR of equal images,
HD95 of a structure that was missed) takes part in median, worst, best and the ranks of a test; means and their
intervals are over the finite values, and `infinite` says how many were not: a mean beside a count above zero flatters
HD95 and is harsh on PSNR.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from mrsynth.errors import UsageError
from mrsynth.plain import Doubles
from mrsynth.scores.rows import Score

FEW = 6  # subjects: below this no two-sided signed-rank test can fall under 0.05 (2 / 2^5 = 0.0625)
LEVEL = 0.95
RESAMPLES = 2000
ANY = "any"  # the pattern or target of a pooled group
LOWER_IS_BETTER = frozenset({"MSE", "MAE", "NMSE", "HD95"})

Cell = tuple[str, ...]
_Cells = Mapping[Cell, Mapping[str, Mapping[str, float]]]  # ... -> method -> subject -> value


class Summary(NamedTuple):
    """One group of scores.

    pattern, target   of the rows, or ANY: over all patterns or targets of this group, whichever they were
    n                 subjects
    mean              over the finite values; infinite where there is no finite one
    low, high         its 95 % percentile bootstrap interval over subjects; None with fewer than two finite values
    worst, best       by the sense of the metric
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
    infinite: int = 0

    @property
    def few(self) -> bool:
        """Whether there are too few subjects for the interval to mean anything."""
        return self.n < FEW


class Difference(NamedTuple):
    """First minus second, paired by subject.

    n              subjects that both have
    mean           over the subjects where both are finite, or None; low, high: as in `Summary`
    first, second  the means of the two over the same subjects
    p_value        Wilcoxon signed-rank, two-sided; None with fewer than FEW subjects or when all differences are zero
    infinite       subjects left out of means and interval
    """

    n: int
    first: float | None
    second: float | None
    mean: float | None
    low: float | None
    high: float | None
    p_value: float | None
    infinite: int


class PairedTest(NamedTuple):
    """Two methods on the subjects both were scored on: `method_a` minus `method_b`.

    pattern, target   of the rows; ANY for both: over the pairs of pattern and target that both made of a subject
    p_holm            the p value after the correction of Holm 1979 within one protocol, region and metric: once over
                      all tests of a pair of pattern and target, once over the pooled tests
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
    p_value: float | None
    p_holm: float | None
    infinite: int = 0


def warning_for(subjects: int) -> str | None:
    """What must be said of intervals and tests with so few subjects; None with enough of them."""
    if subjects >= FEW:
        return None
    if subjects == 1:
        return "n = 1: there is no interval and no test, and one subject says nothing of others."
    return f"n = {subjects}: intervals and tests mean nothing."


def summarise(rows: Sequence[Score], *, resamples: int = RESAMPLES, seed: int = 0) -> list[Summary]:
    """One summary per dataset, split, method, pattern, target, protocol, region and metric, in the order of the rows.

    The groups with ANY as target, as pattern, and as both follow those of the rows. The resamples depend on the number
    of subjects and the seed only, so the order of the rows and what else is in the table change nothing.
    """
    groups: dict[Cell, dict[str, list[float]]] = {}
    for pooled in ((), ("target",), ("pattern",), ("pattern", "target")):
        for row in rows:
            if np.isnan(row.value):
                continue
            pattern = ANY if "pattern" in pooled else row.pattern
            target = ANY if "target" in pooled else row.target
            key = (row.dataset, row.split, row.method, pattern, target, row.protocol, row.region, row.metric)
            groups.setdefault(key, {}).setdefault(row.subject, []).append(row.value)
    return [_summary(key, subjects, resamples, seed) for key, subjects in groups.items()]


def paired_tests(rows: Sequence[Score], *, resamples: int = RESAMPLES, seed: int = 0) -> list[PairedTest]:
    """Every two methods against each other, wherever they were scored on common subjects.

    Raises UsageError where a test is due (at least FEW common subjects) and scipy is not installed.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    scores: dict[Cell, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        if not np.isnan(row.value):
            key = (row.protocol, row.region, row.metric, row.pattern, row.target)
            scores.setdefault(key, {}).setdefault(row.method, {}).setdefault(row.subject, []).append(row.value)
    cells: _Cells = {
        key: {method: {name: _mean(values) for name, values in subjects.items()} for method, subjects in by.items()}
        for key, by in scores.items()
    }
    alone = [
        _test(key, a, b, by[a], by[b], resamples, seed)
        for key, by in cells.items()
        for a, b in combinations([method for method in methods if method in by], 2)
        if by[a].keys() & by[b].keys()
    ]
    together = [
        _test((*family, ANY, ANY), a, b, *_pooled(cells, family, a, b), resamples, seed)
        for family, a, b in dict.fromkeys((test[:3], test.method_a, test.method_b) for test in alone)
    ]
    return [*_corrected(alone), *_corrected(together)]


def paired_difference(
    first: Mapping[str, float], second: Mapping[str, float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Compare two scores (subject -> value) on the subjects both have. Raises UsageError as `paired_tests` does."""
    common = sorted(first.keys() & second.keys())
    a, b = (np.array([scores[subject] for subject in common], float) for scores in (first, second))
    equal = a == b  # two infinite values of one sign: their difference is not a number, and zero is meant
    difference = np.where(equal, 0.0, np.subtract(a, b, where=~equal, out=np.zeros_like(a)))
    usable = np.isfinite(a) & np.isfinite(b)
    finite = difference[usable]
    low, high = _interval(finite, resamples, seed)
    first_mean, second_mean, mean = (float(v.mean()) if v.size else None for v in (a[usable], b[usable], finite))
    return Difference(
        n=len(common),
        first=first_mean,
        second=second_mean,
        mean=mean,
        low=low,
        high=high,
        p_value=_signed_rank(difference) if len(common) >= FEW and difference.any() else None,
        infinite=len(common) - finite.size,
    )


def require_scipy() -> None:
    """Raise UsageError when tests cannot be made: better before a long run than after it."""
    try:
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "Tests between methods need scipy, which is not installed: pip install 'mrsynth[benchmark]'"
        ) from error


def goodness(metric: str, value: float) -> float:
    """The larger the better: the value, its negative for errors, and for CONSISTENCY how near it is to 1."""
    if metric == "CONSISTENCY":
        return -abs(float(np.log(value))) if value > 0 else -np.inf
    return -value if metric in LOWER_IS_BETTER else value


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values of one family, corrected: Holm 1979, Scand. J. Statist. 6, the sequentially rejective procedure.

    The k-th smallest of m is multiplied by m - k + 1; none is smaller than one before it, none above 1. None stays None
    and does not count.
    """
    ranked = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for k, (p, i) in enumerate(ranked):
        largest = max(largest, min(1.0, p * (len(ranked) - k)))
        corrected[i] = largest
    return corrected


# One group -----------------------------------------------------------------------------------------------------------


def _summary(key: Cell, subjects: Mapping[str, list[float]], resamples: int, seed: int) -> Summary:
    dataset, split, method, pattern, target, protocol, region, metric = key
    values = np.array([_mean(subjects[name]) for name in sorted(subjects)])
    low, high = _interval(values[np.isfinite(values)], resamples, seed)
    from_worst = sorted(values.tolist(), key=lambda value: goodness(metric, value))
    return Summary(
        *(dataset, split, method, pattern, target, protocol, region, metric),
        n=len(values),
        mean=_mean(values.tolist()),
        low=low,
        high=high,
        median=float(np.median(values)),
        worst=from_worst[0],
        best=from_worst[-1],
        infinite=sum(not np.isfinite(score) for scores in subjects.values() for score in scores),
    )


def _mean(values: Iterable[float]) -> float:
    """Of the finite ones; of the infinite ones if there are no others."""
    every = np.array(list(values), float)
    finite = every[np.isfinite(every)]
    return float(finite.mean()) if finite.size else float(every[0])


def _interval(values: Doubles, resamples: int, seed: int) -> tuple[float | None, float | None]:
    """Percentile bootstrap of the mean: Efron and Tibshirani 1993, section 13.3."""
    if len(values) < 2:
        return None, None
    means = _weights(len(values), resamples, seed) @ values
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@lru_cache(maxsize=8)
def _weights(n: int, resamples: int, seed: int) -> Doubles:
    """(resamples, n): how often each of n subjects is drawn, divided by n. One draw serves all groups of n subjects."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    weights: Doubles = counts / n
    return weights


# Two methods ---------------------------------------------------------------------------------------------------------


def _test(
    key: Cell, a: str, b: str, first: Mapping[str, float], second: Mapping[str, float], resamples: int, seed: int
) -> PairedTest:
    protocol, region, metric, pattern, target = key
    d = paired_difference(first, second, resamples=resamples, seed=seed)
    return PairedTest(
        *(protocol, region, metric, pattern, target, a, b),
        n=d.n,
        mean_a=d.first,
        mean_b=d.second,
        mean_difference=d.mean,
        low=d.low,
        high=d.high,
        p_value=d.p_value,
        p_holm=None,
        infinite=d.infinite,
    )


def _pooled(cells: _Cells, family: Cell, a: str, b: str) -> tuple[dict[str, float], dict[str, float]]:
    """Each subject's mean over the pairs of pattern and target that both methods made of it.

    A pair where one of the two is infinite counts for neither, unless the subject has no other.
    """
    both: dict[str, list[tuple[float, float]]] = {}
    for key, by in cells.items():
        if key[:3] == family and a in by and b in by:
            for subject, value in by[a].items():
                if subject in by[b]:
                    both.setdefault(subject, []).append((value, by[b][subject]))
    usable = {subject: [two for two in pairs if np.isfinite(two).all()] or pairs for subject, pairs in both.items()}
    first, second = ({subject: _mean(two[i] for two in pairs) for subject, pairs in usable.items()} for i in (0, 1))
    return first, second


def _corrected(tests: Sequence[PairedTest]) -> list[PairedTest]:
    families: dict[Cell, list[int]] = {}
    for i, test in enumerate(tests):
        families.setdefault(test[:3], []).append(i)
    done = list(tests)
    for members in families.values():
        for i, p in zip(members, holm([tests[i].p_value for i in members]), strict=True):
            done[i] = tests[i]._replace(p_holm=p)
    return done


def _signed_rank(difference: Doubles) -> float:
    """The p value; infinite differences keep their rank, which is all the test looks at."""
    require_scipy()
    from scipy.stats import wilcoxon

    finite = np.abs(difference[np.isfinite(difference)])
    beyond = 2 * (finite.max() if finite.size else 0.0) + 1
    return float(wilcoxon(np.clip(difference, -beyond, beyond)).pvalue)
