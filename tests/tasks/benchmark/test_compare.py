"""Two benchmarks against each other: what matches, what is said of what does not."""

import numpy as np
import pytest

from mrsynth.errors import InputError, UsageError
from mrsynth.scores.rows import Score, results_csv
from mrsynth.scores.statistics import ANY
from mrsynth.tasks.benchmark import compare as comparing
from mrsynth.tasks.benchmark.compare import compare

BASE = {"dataset": "brats21", "split": "test@0000000a", "pattern": "t1+t2+flair", "target": "t1ce"}
BASE |= {"protocol": "full3d", "region": "volume", "metric": "PSNR", "method": "fgc2f"}


def column(values, **more) -> list[Score]:
    return [Score(**BASE | more | {"subject": f"s{i:02}", "value": float(v)}) for i, v in enumerate(values)]


@pytest.fixture
def runs(tmp_path):
    """Write two tables; gives the folders."""

    def write(a, b):
        for name, rows in (("a", a), ("b", b)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "results.csv").write_text(results_csv(rows))
        return tmp_path / "a", tmp_path / "b"

    return write


def test_differences_means_and_p_value_known_beforehand(runs):
    """B is better by 1, 2, ... 7 dB in 7 subjects: mean 4, exact p 2 / 2^7. B has two subjects that A lacks."""
    a, b = runs(column([20] * 7), column([21, 22, 23, 24, 25, 26, 27, 90, 91]))
    comparison = compare(a, b / "results.csv")  # a folder or its table
    (single,) = [line.test for line in comparison.lines if line.test.pattern != ANY]
    (pooled,) = [line.test for line in comparison.lines if line.test.pattern == ANY]

    for test in (single, pooled):
        assert (test.n, test.mean_b, test.mean_a, test.mean_difference) == (7, 20, 24, 4)
        assert test.p_value == pytest.approx(2 / 2**7)
        assert test.low < 4 < test.high
    assert (len(comparison.subjects), comparison.only_a, comparison.only_b) == (7, (), ("s07", "s08"))
    assert (pooled.primary, pooled.p_holm, single.p_holm) == (True, pooled.p_value, None)
    assert comparison.notes == ()
    line = next(line for line in comparison.text().splitlines() if line.startswith("| fgc2f |"))
    assert "| everything | 7 | 20.00 | 24.00 | +4.00 [" in line
    assert line.endswith("| 2.74 | 0.016 |")


def test_a_run_equals_itself(runs):
    rows = column(np.linspace(20, 30, 8)) + column(np.linspace(0.8, 0.9, 8), metric="SSIM")
    comparison = compare(*runs(rows, rows))

    assert {line.test.mean_difference for line in comparison.lines} == {0}
    assert {line.test.p_value for line in comparison.lines} == {None}


def test_the_only_competitors_are_compared_beside_the_baselines(runs):
    a = column([20] * 3) + column([15] * 3, method="copy")
    b = column([22] * 3, method="cwdm") + column([15] * 3, method="copy")
    comparison = compare(*runs(a, b))

    assert {(line.method_a, line.method_b, line.test.mean_difference) for line in comparison.lines} == {
        ("fgc2f", "cwdm", 2),
        ("copy", "copy", 0),
    }
    assert "Different methods: fgc2f in A against cwdm in B." in comparison.notes
    assert "n = 3 persons: too few for intervals and tests" in comparison.text()
    assert "fgc2f / cwdm" in comparison.text()


def test_common_methods_are_compared_and_others_named(runs):
    a = column([20, 21]) + column([1, 2], method="dfbk")
    comparison = compare(*runs(a, column([20, 21])))

    assert {line.method_a for line in comparison.lines} == {"fgc2f"}
    assert "Not compared, only in A: dfbk." in comparison.notes


def test_methods_that_nobody_could_pair_are_a_usage_error_that_names_both(runs):
    a = column([20, 21]) + column([1, 2], method="dfbk")

    with pytest.raises(UsageError, match=r"(?s)a holds methods fgc2f, dfbk;.*b holds methods cwdm;"):
        compare(*runs(a, column([20, 21], method="cwdm")))


def test_whatever_differs_is_said(runs):
    a = column([20, 21], weights="old", mode="mean", steps=4) + column([1, 2], protocol="slice2d")
    b = column([20, 21], dataset="brats23", split="validation@0000000b", seed=7, weights="new", mode="sample", steps=8)
    notes = "\n".join(compare(*runs(a, b)).notes)

    for part in (
        "Different data sets: A brats21; B brats23.",
        "Different splits (hash): A 0000000a; B 0000000b.",
        "Different seeds: A 0; B 7.",
        "Different protocols: A full3d, slice2d; B full3d; only common ones were compared.",
        "Different weights of fgc2f: A old; B new.",
        "Different mode of fgc2f: A mean; B sample.",
        "Different steps of fgc2f: A 4; B 8.",
    ):
        assert part in notes


def test_another_part_of_the_same_split_is_no_other_split(runs):
    comparison = compare(*runs(column([20, 21]), column([20, 21], split="all@0000000a")))

    assert comparison.notes == ()


def test_infinite_scores_are_left_out_and_counted(runs):
    comparison = compare(*runs(column([20, 21, np.inf]), column([21, 22, 30])))
    (test,) = [line.test for line in comparison.lines if line.test.pattern == ANY]

    assert (test.n, test.mean_difference, test.infinite) == (3, 1, 1)
    assert "(n = 2; 1 infinite left out)" in comparison.text()


@pytest.mark.parametrize("change", [{"pattern": "t1+t2"}, {"protocol": "brain3d"}, {"metric": "SSIM"}])
def test_runs_without_a_common_score_are_an_input_error_that_names_both(runs, change):
    with pytest.raises(InputError, match=r"(?s)no score in common.*a holds methods.*subjects s00, s01.*b holds"):
        compare(*runs(column([20, 21]), column([20, 21], **change)))


def test_a_table_longer_than_any_is_not_read(runs, monkeypatch):
    a, b = runs(column([20]), column([21]))
    monkeypatch.setattr(comparing, "LONGEST_TABLE", 50)
    with pytest.raises(InputError, match=r"Cannot read .*MiB, which no such file has"):
        compare(a, b)


def test_a_missing_an_empty_and_a_foreign_table_are_named(runs, tmp_path):
    a, b = runs(column([20]), [])

    with pytest.raises(InputError, match="holds no score"):
        compare(a, b)
    with pytest.raises(InputError, match=r"Cannot read .*nowhere.*results\.csv"):
        compare(a, tmp_path / "nowhere")
    (b / "results.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="found x, y"):
        compare(a, b)


def test_people_of_two_folders_are_not_paired_by_their_names(runs):
    def marked(values, mark):
        rows = column(values, dataset="folder")
        return [r.model_copy(update={"person": f"{r.subject}@{mark}"}) for r in rows]

    mixed = [*marked([20, 21], "11111111")[:1], *marked([20, 21], "22222222")[1:]]
    comparison = compare(*runs(marked([20, 21], "11111111"), mixed))

    assert comparison.subjects == ("s00",)
    assert "Of the same name, but other people or other files, so not compared: s01." in comparison.notes
    with pytest.raises(InputError, match="no score in common"):
        compare(*runs(marked([20, 21], "11111111"), marked([20, 21], "22222222")))


def test_several_examinations_of_a_person_count_once(runs):
    def by_two(values):
        return [r.model_copy(update={"person": f"p{i // 2}"}) for i, r in enumerate(column(values))]

    comparison = compare(*runs(by_two(range(12)), by_two(range(1, 13))))

    assert (len(comparison.subjects), comparison.persons) == (12, 6)
    assert {line.test.n for line in comparison.lines} == {6}
    assert "Subjects in both: 12, of 6 persons" in comparison.text()
