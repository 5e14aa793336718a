"""What a handful of numbers, one per person, can say: an exact test, an interval, and what could have been seen.

No scores here and no tables: `statistics` asks. The simulation in `runs/measure/false_alarms.py` holds the promises:
false alarms at most as often as the level says, intervals that cover.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mrsynth.errors import UsageError
from mrsynth.plain import Doubles

FEW = 6  # persons: below this no two-sided signed-rank test can fall under 0.05 (2 / 2^5 = 0.0625)
LEVEL = 0.95
POWER = 0.8
ALARM = 1 - LEVEL
RESAMPLES = 1999  # so that the tails below are whole ranks
TAIL = 0.01  # of resampled means on either side of the interval of a mean: skewed ones are covered too


def signed_rank(differences: Doubles) -> float | None:
    """p of the Wilcoxon signed-rank test, two-sided and exact: Wilcoxon 1945, Biometrics Bull. 1; Pratt 1959 for ties.

    differences  (N,) one per person; infinite ones keep their rank, which is all the test looks at

    Zeros are dropped, and ties share their mean rank; then all 2^n signs of what is left are equally likely under the
    null hypothesis, and p is the share of them whose rank sum is as far out as the one found. None if nothing is left.
    """
    d = differences[differences != 0]
    if d.size == 0:
        return None
    size = np.abs(d)
    below = (size[:, None] > size).sum(1)
    doubled = 2 * below + 1 + (size[:, None] == size).sum(1)  # twice the mean rank: a whole number
    ranks = doubled // np.gcd.reduce(doubled)
    shares = _rank_sums(tuple(np.sort(ranks).tolist()))
    smaller = int(min(ranks[d > 0].sum(), ranks[d < 0].sum()))
    return float(min(1.0, 2 * shares[: smaller + 1].sum()))


def least_p(persons: int) -> float:
    """The smallest p that `signed_rank` can give with so many differences that are not zero."""
    return float(min(1.0, 2.0 * 0.5**persons))


def persons_needed(tests: int) -> int:
    """With how many persons one of so many tests can reach significance after the correction of Holm."""
    n = 1
    while tests * least_p(n) > ALARM:
        n += 1
    return n


def interval(differences: Doubles) -> tuple[float | None, float | None]:
    """95 % interval of the mean by Student's t, for what is not skewed where nothing is: differences of two methods.

    None with fewer than FEW values. Raises UsageError without scipy.
    """
    n = len(differences)
    if n < FEW:
        return None, None
    reach = _t(1 - ALARM / 2, n - 1) * float(differences.std(ddof=1)) / np.sqrt(n)
    mean = float(differences.mean())
    return mean - reach, mean + reach


def skewed_interval(values: Doubles) -> tuple[float | None, float | None]:
    """95 % interval of the mean of what may be skewed, as scores are; none with fewer than FEW values.

    The studentised bootstrap (Efron 1979, Ann. Statist. 7; Hall 1988, Ann. Statist. 16): how far the means of RESAMPLES
    lie from the mean, in their own standard errors, takes the place of Student's t. Of t, BCa and this, this covers
    best: `runs/measure/false_alarms.py`. With TAIL on either side it covers 93 % of the means of six lognormal values,
    and 98 % of six normal ones: too wide where nothing is skewed, which so few values cannot tell. Resamples without
    any spread say nothing and are left out; where there are no others all values are equal, and the interval is a
    point. The same values always have the same interval.
    """
    n = len(values)
    if n < FEW:
        return None, None
    drawn = values[np.random.default_rng(0).integers(n, size=(RESAMPLES, n))]
    spread = drawn.std(axis=1, ddof=1)
    mean = float(values.mean())
    off = (drawn.mean(axis=1) - mean)[spread > 0] / spread[spread > 0]
    if off.size == 0:
        return mean, mean
    left, right = np.quantile(off, [TAIL, 1 - TAIL]) * values.std(ddof=1)
    return mean - float(right), mean - float(left)


def detectable(differences: Doubles) -> float | None:
    """The smallest true mean difference that so many persons show in four of five studies, at the level of one test.

    (t(0.975) + t(0.8)) s / sqrt(n): the usual approximation for a paired t-test, with the s that was found. None with
    fewer than FEW. Raises UsageError without scipy.
    """
    n = len(differences)
    if n < FEW:
        return None
    both = _t(1 - ALARM / 2, n - 1) + _t(POWER, n - 1)
    return float(both * differences.std(ddof=1) / np.sqrt(n))


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


def require_scipy() -> None:
    """Raise UsageError when intervals cannot be made: better before a long run than after it."""
    try:
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise UsageError("Intervals need scipy, which is not installed: pip install 'mrsynth[benchmark]'") from error


@lru_cache(maxsize=64)
def _rank_sums(ranks: tuple[int, ...]) -> Doubles:
    """(S + 1,): how likely each sum of a random half of these whole numbers is; S is the sum of all."""
    shares = np.zeros(sum(ranks) + 1)
    shares[0] = 1.0
    top = 0
    for rank in ranks:
        top += rank
        shares[rank : top + 1] = 0.5 * (shares[rank : top + 1] + shares[: top + 1 - rank])
        shares[:rank] *= 0.5
    return shares


@lru_cache(maxsize=256)
def _t(quantile: float, freedom: int) -> float:
    require_scipy()
    from scipy.stats import t

    return float(t.ppf(quantile, freedom))
