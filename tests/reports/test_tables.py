"""The tables of a benchmark against tables made by hand."""

import numpy as np

from mrsynth.contrasts import STANDARD
from mrsynth.reports import tables
from mrsynth.reports.tables import (
    Results,
    difference,
    p_text,
    pattern_table,
    rank_table,
    resource_table,
    score_table,
    segmentation_table,
    signed,
)
from mrsynth.scores.inference import skewed_interval
from mrsynth.scores.ranks import Rank
from mrsynth.scores.statistics import ANY, PairedTest
from tests.reports.benchmark_figures import column, every_pattern, texts


def test_the_score_table_by_hand():
    """Baselines come last; best means are marked; the mean over the one-missing patterns is that over subjects."""
    rows = [
        *column([10, 12], method="copy"),
        *column([20, 24]),
        *column([30, 34], pattern="t1+t1ce+t2", target="flair"),
        *column([21, 25], method="cwdm"),
        *column([29, 29], method="cwdm", pattern="t1+t1ce+t2", target="flair"),
    ]
    table = score_table(Results(rows, STANDARD), "full3d", ["PSNR"], "title")

    assert table.head == [
        "Region",
        "Metric",
        "Method",
        "T1ce from the others",
        "FLAIR from the others",
        "mean of these",
    ]
    assert texts(table) == [
        ["volume", "PSNR (dB)", "fgc2f", "22.00", "*32.00", "*27.00"],
        ["volume", "PSNR (dB)", "cwdm", "*23.00", "29.00", "26.00"],
        ["volume", "PSNR (dB)", "copy (baseline)", "11.00", "", ""],  # it made only one of the two
    ]


def test_smaller_errors_are_better():
    rows = column([0.1, 0.1], metric="MSE") + column([0.2, 0.2], metric="MSE", method="copy")

    assert texts(score_table(Results(rows, STANDARD), "full3d", ["MSE"], ""))[0][3] == "*0.1"


def test_intervals_from_six_subjects_on_and_other_numbers_of_subjects_are_told():
    rows = column([20, 22] * 4) + column([30, 32] * 3, method="cwdm")
    eight, six = texts(score_table(Results(rows, STANDARD), "full3d", ["PSNR"], ""))

    low, high = skewed_interval(np.array([20.0, 22] * 3))  # over the persons that both have
    assert low is not None and high is not None

    assert eight[3] == f"21.00 [{low:.2f}, {high:.2f}] (n = 6)"
    assert six[3] == f"*31.00 [{low + 10:.2f}, {high + 10:.2f}] (n = 6)"
    assert texts(score_table(Results(rows[:5], STANDARD), "full3d", ["PSNR"], ""))[0][3] == "20.80"


def test_infinite_scores_are_told():
    """Where every case is infinite for one method there is no common finite one, and its own means are shown."""
    rows = column([20, 30, np.inf]) + column([np.inf] * 3, method="cwdm")
    some, all_of_them = texts(score_table(Results(rows, STANDARD), "full3d", ["PSNR"], ""))

    assert some[3] == "25.00 (n = 2; 1 infinite left out)"
    assert all_of_them[3] == "*infinite"


def test_a_mean_over_all_patterns_is_best_only_among_methods_that_made_them_all():
    results = Results(every_pattern(), STANDARD)
    table = score_table(results, "full3d", ["PSNR"], "")
    last = {row[2]: (row[-2], row[-1]) for row in texts(table)}

    assert table.head[-2:] == ["mean of all patterns", "pairs made"]
    assert [row[2] for row in texts(table)] == ["fgc2f", "cwdm", "copy (baseline)", "regression (baseline)"]
    assert last["cwdm"][1] == "4 of 28" and last["fgc2f"][1] == "28 of 28"
    assert not last["cwdm"][0].startswith("*")
    assert sum(mean.startswith("*") for mean, _ in last.values()) == 1


def test_the_pattern_table_has_every_pair_and_a_gap_where_nothing_was_made():
    table = pattern_table(Results(every_pattern(), STANDARD), "full3d", "volume", "PSNR")
    cells = texts(table)

    assert len(cells) == 28
    assert cells[0][:2] == ["T1", "T1ce+T2+FLAIR"]
    assert all(row[3] for row in cells[:4]) and not any(row[3] for row in cells[4:])
    assert all(sum(cell.startswith("*") for cell in row) == 1 for row in cells)
    assert pattern_table(Results(column([1, 2]), STANDARD), "full3d", "volume", "PSNR") is None


def test_seconds_are_per_volume_and_memory_is_the_most():
    """8 s for both contrasts that the pattern lacks are 4 s each; two protocols do not count twice."""
    more = {"pattern": "t1+t2", "seconds": 8.0, "steps": 4, "samples": 2, "weights": "ship"}
    rows = [
        *column([20], target="t1ce", peak_memory_mb=700, **more),
        *column([20], target="flair", peak_memory_mb=700, **more),
        *column([20], target="flair", protocol="brain3d", peak_memory_mb=700, **more),
        *column([20], **more | {"pattern": "t1+t2+flair", "seconds": 2.0}, peak_memory_mb=900),
        *column([20], method="copy"),
    ]
    ours, copy = texts(resource_table(Results(rows, STANDARD)))

    assert ours == ["fgc2f", "ship", "4", "2", "0", "3", "3 [2, 4]", "900"]
    assert copy == ["copy (baseline)", "", "", "", "0", "1", "not known", "not known"]


def test_real_synthetic_and_left_out_stand_side_by_side():
    place = {"protocol": "segmentation", "region": "WT"}
    rows = [
        *column([0.9, 0.8], metric="DICE", method="real", pattern="", target="", **place),
        *column([0.2, 0.4], metric="DICE", method="left-out", **place),
        *column([0.6, 0.7], metric="DICE", **place),
        *column([np.inf, 8.0], metric="HD95", **place),
    ]
    table = segmentation_table(Results(rows, STANDARD))

    assert table.head == ["Missing", "Given", "Region", "Metric", "n", "all real", "left out", "made by fgc2f"]
    assert texts(table) == [
        ["T1ce", "T1+T2+FLAIR", "WT", "Dice", "2", "0.850", "0.300", "0.650"],
        ["T1ce", "T1+T2+FLAIR", "WT", "HD95 (mm)", "2", "", "", "8.0 (n = 1; 1 infinite left out)"],
    ]
    assert segmentation_table(Results(column([1]), STANDARD)) is None


PRIMARY = PairedTest(
    **{"protocol": "full3d", "region": "volume", "metric": "PSNR", "pattern": ANY, "target": ANY},
    **{"method_a": "fgc2f", "method_b": "copy", "n": 8, "mean_a": 21.0, "mean_b": 20.5, "mean_difference": 0.5},
    **{"low": 0.1, "high": 0.9, "detectable": 0.4, "p_value": 0.008, "p_holm": 0.024, "primary": True},
)


def test_the_primary_question_shows_the_corrected_p_and_no_other_does():
    other = PRIMARY._replace(p_holm=None, primary=False, pattern="t1+t2", target="flair", detectable=None)
    primary, exploratory = tables.test_table([PRIMARY], "a"), tables.test_table([other], "b")

    assert (primary.head[-1], exploratory.head[-1]) == ("p (Holm)", "p, exploratory")
    assert texts(primary)[0][3:] == [
        *("all that both made", "fgc2f - copy (baseline)", "8", "+0.50 [0.10, 0.90]", "0.40", "0.024")
    ]
    assert texts(exploratory)[0][3:] == [
        *("FLAIR from T1+T2", "fgc2f - copy (baseline)", "8", "+0.50 [0.10, 0.90]", "", "0.008")
    ]
    assert tables.test_table([], "c") is None


def test_ranks_are_printed_with_what_they_rest_on():
    rows = [Rank("fgc2f", 1.25, 0.9, 0, 8, 4), Rank("copy", 1.75, None, 3, 8, 4)]

    assert texts(rank_table(rows)) == [
        ["fgc2f", "1.25", "90%", "0 of 8", "4"],
        ["copy (baseline)", "1.75", "", "3 of 8", "4"],
    ]
    assert rank_table([]) is None


def test_numbers_are_printed_with_sign_and_never_as_zero():
    assert (signed(-0.004, ".2f"), signed(0.25, ".1f"), signed(None, ".2f")) == ("-0.00", "+0.2", "infinite")
    assert (p_text(0.0004), p_text(0.0125), p_text(None)) == ("< 0.001", "0.013", "")
    some = PRIMARY._replace(counted=7, infinite=1)
    assert difference(some, ".2f") == "+0.50 [0.10, 0.90] (n = 7; 1 infinite left out)"
