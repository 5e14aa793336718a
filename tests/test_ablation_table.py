"""The table of ablations: means over seeds, their spread, and the difference from `full` seed by seed."""

import pytest

from mrsynth.scores.rows import Score, results_csv
from runs.measure.ablation_table import cell, table


def results(folder, file, values):
    """A results.csv like those of `mrsynth benchmark`: checkpoint -> PSNR of each of its rows."""
    same = {"pattern": "t1+t2", "target": "flair", "protocol": "brain3d", "region": "brain"}
    rows = [
        Score(**same, metric=metric, value=figure, weights=weights)
        for weights, figures in values.items()
        for figure in figures
        for metric in ("PSNR", "PSNR_FIT", "SSIM")
    ]
    (folder / file).write_text(results_csv(rows))
    return folder / file


def test_means_over_seeds_with_their_spread_and_paired_differences(tmp_path):
    files = [
        results(tmp_path, "1.csv", {"small-s1": [10.0, 12.0], "full-s1": [20.0, 22.0]}),
        results(tmp_path, "2.csv", {"small-s2": [13.0], "full-s2": [25.0]}),
    ]
    head, rule, full, small = table(files)

    assert head.split(" | ")[-1] == "PSNR - full |" and rule.count("|") == head.count("|")
    assert full.startswith("| full | 2 | 23.000 ± 2.828 |") and full.endswith("|  |")
    assert small.startswith("| small | 2 | 12.000 ± 1.414 |")
    assert small.endswith("| -11.000 ± 1.414 |")  # -10 and -12: the spread of the difference, not of the two


def test_one_seed_has_no_spread_and_names_must_tell_the_seed(tmp_path):
    assert cell([1.0]) == "1.000" and cell([0.5], "+") == "+0.500"
    with pytest.raises(SystemExit, match="VARIANT-sSEED"):
        table([results(tmp_path, "1.csv", {"full": [1.0]})])
