"""The scores that a checkpoint is published with, from either kind of table."""

import json

import pytest

from mrsynth.card import Card
from mrsynth.contrasts import STANDARD
from mrsynth.scores.rows import Score, results_csv
from runs.measure import publish
from runs.measure.publish import scores_in

CARD = Card(name="ours", method="fgc2f", contrasts=STANDARD, licence="Apache-2.0")


def row(value, subject, pattern="t1+t2", target="t1ce", **kwargs):
    keys = {"protocol": "brain3d", "region": "brain", "metric": "PSNR", "weights": "ours", "method": "fgc2f"}
    return Score(pattern=pattern, target=target, value=value, subject=subject, **keys | kwargs)


def test_a_benchmark_gives_the_mean_over_its_subjects_of_every_pattern(tmp_path):
    others = [
        row(1.0, "a", weights="theirs"),
        row(1.0, "a", protocol="full3d"),
        row(1.0, "a", region="tumour"),
        row(0.5, "a", metric="SSIM"),
    ]
    ours = [row(20.0, "a"), row(21.0, "b"), row(22.0, "a", metric="PSNR_FIT"), row(18.0, "a", "t2", "t1")]
    file = tmp_path / "results.csv"
    file.write_text(results_csv([*others, *ours]))
    found = {(s.pattern, s.target, s.metric): (s.value, s.subjects) for s in scores_in(file, CARD)}
    assert found == {
        ("t1+t2", "t1ce", "PSNR"): (20.5, 2),
        ("t1+t2", "t1ce", "PSNR_FIT"): (22.0, 1),
        ("t2", "t1", "PSNR"): (18.0, 1),
    }


def test_rows_of_the_voxel_regression_script_are_of_one_missing_contrast(tmp_path):
    file = tmp_path / "scores.json"
    rows = [{"target": t, "psnr_brain": 17.0 + i, "psnr_brain_fit": 19.0} for t in STANDARD for i in (0, 1)]
    file.write_text(json.dumps(rows))
    found = scores_in(file, CARD)
    assert {(s.pattern, s.target, s.metric, s.value, s.subjects) for s in found} >= {
        ("t1+t2+flair", "t1ce", "PSNR", 17.5, 2),
        ("t1+t1ce+t2", "flair", "PSNR_FIT", 19.0, 2),
    }
    assert len(found) == 8


def test_what_would_draw_a_sample_by_a_thousand_calls_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(publish, "write_checkpoint", lambda *_: pytest.fail("it was published"))
    weights = publish.ROOT / "mrsynth" / "weights" / "cwdm-ship-t1.safetensors"
    run_file = publish.ROOT / "runs" / "cwdm-grown-t1.yaml"
    monkeypatch.setattr("sys.argv", ["publish", str(weights), str(run_file), "--steps", "1000"])

    with pytest.raises(SystemExit):
        publish.main()
    assert "would take 1000 calls" in capsys.readouterr().err


def test_a_table_without_the_checkpoint_is_refused(tmp_path):
    file = tmp_path / "results.csv"
    file.write_text(results_csv([row(20.0, "a", weights="theirs")]))
    with pytest.raises(SystemExit, match="no row of ours"):
        scores_in(file, CARD)
