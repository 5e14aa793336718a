"""What tuning brought: people count alike, however many scans each has."""

import pytest

from mrsynth.scores.rows import Score, results_csv
from runs.measure.tuning_table import table


def written(file, values):
    """A results.csv of these PSNR, by checkpoint and subject."""
    same = {"pattern": "t2+flair", "target": "t1", "protocol": "brain3d", "region": "brain"}
    rows = [
        Score(**same, metric=metric, value=value, weights=weights, subject=subject)
        for (weights, subject), value in values.items()
        for metric in ("PSNR", "PSNR_FIT", "SSIM", "MSE")
    ]
    file.write_text(results_csv(rows))
    return file


def test_people_count_alike_and_before_is_told_from_after(tmp_path):
    first = written(tmp_path / "a.csv", {("tuning-base", "one"): 10, ("tuned-a", "one"): 12})
    again = {("tuning-base", "two"): 20, ("tuned-b", "two"): 19, ("tuning-base", "2nd"): 22, ("tuned-b", "2nd"): 21}
    lines = table([first, written(tmp_path / "b.csv", again)])

    assert "| t1 | PSNR | 15.50 | 16.00 | +0.50 | 1 of 2 |" in lines
    assert len(lines) == 2 + 3


def test_benchmarks_without_figures_are_no_table(tmp_path):
    with pytest.raises(SystemExit, match=r"a\.csv: no figures"):
        table([written(tmp_path / "a.csv", {})])
