"""Means with intervals and paired tests: hand-made tables, scipy called directly, coverage on Gaussian data."""

import sys
from math import inf, nan

import numpy as np
import pytest

from mrsynth.errors import UsageError
from mrsynth.scores.rows import Score
from mrsynth.scores.statistics import ANY, Summary, holm, paired_difference, paired_tests, summarise, warning_for


def row(subject: str, value: float, *, method="m", pattern="t1+t2", target="flair", metric="PSNR", **more) -> Score:
    fields = {"dataset": "phantom", "split": "all@00000000", "protocol": "full3d", "region": "volume"} | more
    fields |= {"method": method, "pattern": pattern, "target": target, "metric": metric}
    return Score(subject=subject, value=value, **fields)


def column(values, **more) -> list[Score]:
    """One row per value; subjects s00, s01, ..."""
    return [row(f"s{i:02}", float(value), **more) for i, value in enumerate(values)]


def only(summaries, pattern, target, **fields) -> Summary:
    (found,) = [
        s
        for s in summaries
        if (s.pattern, s.target) == (pattern, target) and all(getattr(s, k) == v for k, v in fields.items())
    ]
    return found


# Summaries -----------------------------------------------------------------------------------------------------------


def test_mean_median_worst_and_best_of_a_table_made_by_hand():
    psnr = only(summarise(column([20, 22, 27])), "t1+t2", "flair")
    mse = only(summarise(column([0.1, 0.2, 0.6], metric="MSE")), "t1+t2", "flair")

    assert (psnr.n, psnr.mean, psnr.median, psnr.worst, psnr.best, psnr.infinite) == (3, 23, 22, 20, 27, 0)
    assert (mse.mean, mse.median, mse.worst, mse.best) == (pytest.approx(0.3), 0.2, 0.6, 0.1)
    even = only(summarise(column([0.5, 0.9, 1.2], metric="CONSISTENCY")), "t1+t2", "flair")
    assert (even.worst, even.best) == (0.5, 0.9)  # 1 is best
    assert 20 <= psnr.low < 23 < psnr.high <= 27
    assert psnr.few


def test_a_subject_counts_once_however_much_was_made_of_it():
    """a: 10 and 20 with two patterns, b: 30 with one. The mean over subjects is 22.5, that over rows 20."""
    rows = [row("a", 10, pattern="t1"), row("a", 20, pattern="t2"), row("b", 30, pattern="t1")]
    summaries = summarise(rows)

    assert only(summaries, ANY, "flair")[8:10] == (2, 22.5)
    assert only(summaries, "t1", "flair").mean == 20
    assert only(summaries, "t2", "flair").mean == 20
    assert only(summaries, ANY, ANY).mean == 22.5
    assert only(summaries, "t1", ANY).mean == 20


def test_groups_do_not_mix():
    rows = [
        *column([1.0, 2.0]),
        *column([3.0, 4.0], method="other"),
        *column([5.0, 6.0], protocol="brain3d", region="brain"),
        *column([7.0, 8.0], metric="SSIM"),
        *column([9.0, 9.5], dataset="ixi"),
        *column([9.0, 9.8], split="test@00000000"),
    ]
    exact = [s for s in summarise(rows) if (s.pattern, s.target) == ("t1+t2", "flair")]

    assert [s.mean for s in exact] == [1.5, 3.5, 5.5, 7.5, 9.25, 9.4]


def test_one_subject_has_no_interval():
    summary = only(summarise([row("a", 20)]), ANY, ANY)

    assert (summary.n, summary.mean, summary.low, summary.high) == (1, 20, None, None)


def test_infinite_values_are_left_out_of_the_mean_and_counted():
    summary = only(summarise(column([20, 30, inf])), "t1+t2", "flair")

    assert (summary.n, summary.mean, summary.median, summary.best, summary.infinite) == (3, 25, 30, inf, 1)
    assert 20 <= summary.low <= summary.high <= 30
    missed = only(summarise(column([inf, inf], metric="HD95")), "t1+t2", "flair")
    assert (missed.mean, missed.low, missed.worst, missed.infinite) == (inf, None, inf, 2)


def test_what_was_not_measured_does_not_count():
    assert only(summarise(column([20, nan, 30])), "t1+t2", "flair")[8:10] == (2, 25)
    assert summarise(column([nan])) == []
    assert summarise([]) == []


def test_the_same_seed_gives_the_same_interval_in_any_order_of_rows():
    rows = column(np.random.default_rng(1).normal(20, 3, 12))
    there, back = (only(summarise(some), ANY, ANY) for some in (rows, rows[::-1]))

    assert there[8:] == pytest.approx(back[8:])
    assert only(summarise(rows, seed=1), ANY, ANY).low != there.low


def test_the_interval_agrees_with_that_of_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(2).gamma(2.0, 5.0, 30)
    ours = only(summarise(column(values), resamples=20000), ANY, ANY)
    theirs = bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=0).confidence_interval

    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.01)


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        summary = summarise(column(rng.normal(25, 4, 40)), resamples=500)[0]
        hits += summary.low <= 25 <= summary.high

    assert 0.91 <= hits / 400 <= 0.98  # 0.95, less a little that the percentile bootstrap loses at n = 40


@pytest.mark.parametrize(("n", "said"), [(1, "n = 1: there is no interval"), (2, "n = 2: intervals and tests mean")])
def test_few_subjects_are_said_to_be_few(n, said):
    assert warning_for(n).startswith(said)
    assert warning_for(5) is not None
    assert warning_for(6) is None


# Tests ---------------------------------------------------------------------------------------------------------------


def test_p_value_and_difference_are_those_of_scipy_and_numpy():
    from scipy.stats import wilcoxon

    rng = np.random.default_rng(4)
    a, b = rng.normal(25, 2, 15), rng.normal(24, 2, 15)
    alone, pooled = paired_tests(column(a, method="a") + column(b, method="b"))

    assert (alone.method_a, alone.method_b, alone.n) == ("a", "b", 15)
    assert alone.p_value == pytest.approx(wilcoxon(a, b).pvalue)
    assert alone.mean_difference == pytest.approx(np.mean(a - b))
    assert alone.low < alone.mean_difference < alone.high
    assert (pooled.pattern, pooled.target, pooled.p_value) == (ANY, ANY, alone.p_value)


def test_six_gains_of_six_are_worth_two_in_64():
    """Exact: of the 2^6 sign patterns two are as extreme."""
    (alone, _) = paired_tests(column([1, 2, 3, 4, 5, 6], method="a") + column(np.zeros(6), method="b"))

    assert alone.p_value == pytest.approx(2 / 64)


def test_the_pairing_is_by_subject_and_not_by_order():
    a, b = column(range(10), method="a"), column(range(10), method="b")
    shifted = [r.model_copy(update={"value": r.value + 1 + i / 100}) for i, r in enumerate(b)]

    assert paired_tests(a + shifted)[0] == paired_tests(a + shifted[::-1])[0]
    assert paired_tests(a + shifted)[0].p_value == pytest.approx(2 / 2**10)


@pytest.mark.parametrize(("a", "b"), [([1, 2, 3, 4, 5], [0, 0, 0, 0, 0]), (range(8), range(8)), ([inf] * 8, [inf] * 8)])
def test_no_p_value_for_few_subjects_or_equal_scores(a, b):
    alone, _ = paired_tests(column(a, method="a") + column(b, method="b"))

    assert (alone.p_value, alone.p_holm) == (None, None)


def test_only_common_subjects_and_common_pairs_count():
    """cwdm made one pair, fgc2f two: pooled, only the pair both made is compared."""
    rows = [
        *column(np.arange(8.0), method="fgc2f"),
        *column([99.0] * 8, method="fgc2f", pattern="t1"),
        *column(np.arange(7.0) - 1, method="cwdm"),
    ]
    alone, pooled = paired_tests(rows)

    assert (alone.n, pooled.n) == (7, 7)
    assert (alone.mean_difference, pooled.mean_difference) == (1, 1)


def test_methods_without_a_common_subject_are_not_tested():
    assert paired_tests([row("s1", 1, method="a"), row("s2", 2, method="b")]) == []
    assert paired_tests([]) == []


def test_an_infinite_score_is_the_largest_rank_and_no_part_of_the_mean():
    from scipy.stats import wilcoxon

    b = np.zeros(8)
    a = np.array([1, -2, 3, 4, 5, 6, 7, inf])
    (alone, _) = paired_tests(column(a, method="a") + column(b, method="b"))

    assert alone.p_value == pytest.approx(wilcoxon([1, -2, 3, 4, 5, 6, 7, 100]).pvalue)
    assert (alone.mean_difference, alone.infinite) == (pytest.approx(24 / 7), 1)


def test_pooled_differences_compare_like_with_like_where_one_score_is_infinite():
    rows = [row("s", v, method=m, pattern=p) for m, p, v in (("a", "t1", inf), ("b", "t1", 10), ("a", "t2", 22))]
    pooled = paired_tests([*rows, row("s", 20, method="b", pattern="t2")])[-1]

    assert (pooled.pattern, pooled.mean_difference) == (ANY, 2)


def test_holm_by_hand():
    """Three figures: 0.01 x 3, 0.02 x 2, 0.04 x 1 raised to the one before; None is not counted."""
    assert holm([0.04, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_the_correction_stays_within_protocol_region_and_metric():
    rng = np.random.default_rng(5)
    rows = []
    for target in ("t1ce", "flair"):
        for metric in ("PSNR", "SSIM"):
            rows += column(rng.normal(1, 1, 10), method="a", target=target, metric=metric)
            rows += column(rng.normal(0, 1, 10), method="b", target=target, metric=metric)
    tests = paired_tests(rows)
    alone = [t for t in tests if t.metric == "SSIM" and t.target != ANY]
    pooled = [t for t in tests if t.metric == "SSIM" and t.target == ANY]

    assert [t.p_holm for t in alone] == holm([t.p_value for t in alone])
    assert [t.p_holm for t in pooled] == [t.p_value for t in pooled]
    assert len(alone) == 2 and len(pooled) == 1


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    many = {f"s{i}": float(i) for i in range(6)}

    with pytest.raises(UsageError, match=r"pip install 'mrsynth\[benchmark\]'"):
        paired_difference(many, {name: 0.0 for name in many})
    assert paired_difference({"a": 2.0}, {"a": 1.0}).mean == 1.0  # no test, no scipy


def test_summaries_and_tests_load_no_torch():
    import subprocess

    heavy = "('torch', 'scipy', 'matplotlib')"
    code = f"import sys, mrsynth.scores.statistics; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
