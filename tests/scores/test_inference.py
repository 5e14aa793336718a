"""Exact tests and intervals against enumeration, scipy and known counts."""

import sys
from itertools import product

import numpy as np
import pytest

from mrsynth.errors import UsageError
from mrsynth.scores.inference import detectable, holm, interval, least_p, persons_needed, signed_rank, skewed_interval


def enumerated(differences):
    """The share of all signs whose smaller rank sum is no larger than the one found."""
    from scipy.stats import rankdata

    d = np.array([x for x in differences if x], float)
    ranks = rankdata(np.abs(d))
    signs = np.array(list(product((False, True), repeat=len(d))))
    sums = np.minimum(signs @ ranks, ~signs @ ranks)
    return float(np.mean(sums <= min(ranks[d > 0].sum(), ranks[d < 0].sum())))


@pytest.mark.parametrize(
    "differences",
    [
        [1, 1, -2, 2, 3, 3, -3],
        [1, 2, 3, 4, 5, 6, -7],
        [0, 0, 0.5, -0.5, 0.5, 2, -9, np.inf],
        [-1, -1, -1, -1, -1, -1],
        [3, -3],
    ],
)
def test_p_is_the_share_of_signs_that_are_as_far_out(differences):
    assert signed_rank(np.array(differences, float)) == pytest.approx(min(1, enumerated(differences)))


def test_nine_ties_and_five_gains_are_worth_what_five_persons_can_give():
    """0.1.0 fell back to the normal approximation here: p = 0.043."""
    assert signed_rank(np.array([0] * 9 + [1, 2, 3, 4, 5], float)) == 0.0625
    assert signed_rank(np.zeros(8)) is None


@pytest.mark.parametrize("n", [3, 8, 13, 40])
def test_without_ties_it_is_the_exact_distribution_of_scipy(n):
    from scipy.stats import wilcoxon

    d = np.random.default_rng(n).normal(0.4, 1, n)

    assert signed_rank(d) == pytest.approx(wilcoxon(d, method="exact").pvalue, rel=1e-9)


def test_no_p_is_below_what_the_count_can_give():
    for n in range(1, 12):
        assert signed_rank(np.arange(1.0, n + 1)) == pytest.approx(least_p(n))
    assert (persons_needed(1), persons_needed(12)) == (6, 9)
    assert 12 * least_p(8) > 0.05 >= 12 * least_p(9)


def test_the_interval_is_that_of_students_t():
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(3).gamma(2, 3, 9)

    assert interval(values) == pytest.approx(tuple(ttest_1samp(values, 0).confidence_interval()))
    assert interval(values[:5]) == (None, None)


def test_the_interval_of_skewed_values_is_that_of_all_their_resamples():
    """Of six values there are 6^6 resamples, all equally likely: the quantiles of all of them, not of some."""
    values = np.array([1.0, 1.2, 1.7, 2.0, 3.5, 9.0])
    every = values[np.stack(np.meshgrid(*[range(6)] * 6), axis=-1).reshape(-1, 6)]
    every = every[every.std(axis=1) > 0]
    t = (every.mean(axis=1) - values.mean()) / every.std(axis=1, ddof=1)
    low, high = (values.mean() - np.quantile(t, q) * values.std(ddof=1) for q in (0.99, 0.01))
    found = np.array(skewed_interval(values), float)

    assert found - values.mean() == pytest.approx(np.array([low, high]) - values.mean(), rel=0.1)
    assert found[1] - values.mean() > 2 * (values.mean() - found[0]), "the long side is the wide one"
    assert tuple(found) == skewed_interval(values)
    assert skewed_interval(np.full(7, 0.1)) == pytest.approx((0.1, 0.1))
    assert skewed_interval(values[:5]) == (None, None)


def test_intervals_of_skewed_scores_cover():
    """Lognormal, 0.5: 97 % by the simulation of runs/measure, where Student's t covers 91 %; lognormal, 1: 93 %."""
    random = np.random.default_rng(1)
    for spread, least in ((0.5, 0.95), (1.0, 0.91)):
        values = np.exp(spread * random.standard_normal((500, 6)))
        intervals = [skewed_interval(row) for row in values]

        assert np.mean([low <= np.exp(spread**2 / 2) <= high for low, high in intervals]) > least


def test_what_could_have_been_seen_is_seen_in_four_of_five_studies():
    """Of the closed form: n = 10 with deviation 1, by the noncentral t of scipy."""
    from scipy.stats import nct, t

    values = np.sqrt(9 / 10) * np.array([1.0, -1.0] * 5)  # deviation 1
    least = detectable(values)
    power = 1 - nct.cdf(t.ppf(0.975, 9), 9, least * np.sqrt(10))

    assert power == pytest.approx(0.8, abs=0.02)
    assert detectable(values[:5]) is None


def test_holm_by_hand():
    """Three figures: 0.01 x 3, 0.02 x 2, 0.04 x 1 raised to the one before; None is not counted."""
    assert holm([0.04, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_without_scipy_the_extra_is_named_and_the_test_goes_on(monkeypatch):
    from mrsynth.scores import inference

    inference._t.cache_clear()
    monkeypatch.setitem(sys.modules, "scipy.stats", None)

    with pytest.raises(UsageError, match=r"pip install 'mrsynth\[benchmark\]'"):
        interval(np.arange(6.0))
    assert signed_rank(np.arange(1.0, 7)) == 2 / 64
