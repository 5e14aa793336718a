"""From the rows of a benchmark to what `complete` chooses."""

import pytest

from mrsynth.contrasts import STANDARD
from mrsynth.errors import InputError, UsageError
from mrsynth.io.own_scores import own_benchmarks, own_scores_file
from mrsynth.io.store import Stock, sha256_of
from mrsynth.sampling import Sampling
from mrsynth.scores.rows import Score
from mrsynth.tasks.benchmark.recording import check_record, keep
from mrsynth.tasks.circumstances import circumstances, processors_for
from mrsynth.tasks.complete.run import CompleteOptions, plan

LABELS = {"dataset": "folder", "split": "test@12345678"}


def row(value, subject="a", weights="tiny", pattern="t1+t2+flair", target="t1ce", **other):
    fields = {"protocol": "brain3d", "region": "brain", "metric": "PSNR"} | other
    return Score(pattern=pattern, target=target, value=value, subject=subject, weights=weights, **fields)


@pytest.fixture
def two(tmp_path, write_tiny_checkpoint, monkeypatch):
    """Two files of the user's, and nothing else; where scores are kept is a folder of its own."""
    monkeypatch.setattr("mrsynth.io.store.manifest", list)
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    paths = [tmp_path / "weights" / f"{name}.safetensors" for name in ("tiny", "other")]
    return {path.stem: sha256_of(write_tiny_checkpoint(path, path.stem)) for path in paths}


def chosen(folder):
    return plan(CompleteOptions(folder=folder, overwrite=True)).selection


def test_means_over_subjects_are_kept_and_decide(two, folder):
    assert chosen(folder).entry.name == "other"  # the first by name: nothing is known of either
    rows = [row(20.0), row(21.0, "b"), row(18.0, weights="other"), row(40.0, metric="PSNR_FIT"), row(9.0, weights="x")]
    said = keep(rows, LABELS, two)

    assert said.startswith(f"Recorded 2 means in {own_scores_file()}")
    (kept,) = own_benchmarks()
    assert kept.dataset == "folder, test@12345678"
    assert [(s.value, s.subjects) for s in kept.checkpoints["tiny"].scores] == [(20.5, 2)]
    assert chosen(folder).entry.name == "tiny"
    assert "20.5 dB brain PSNR on 2 subjects of your own benchmark (folder, test@12345678)" in chosen(folder).reason


def test_a_score_counts_for_the_file_it_was_measured_with(two, folder, tmp_path, write_tiny_checkpoint):
    keep([row(20.0)], LABELS, two)
    assert chosen(folder).entry.name == "tiny"
    write_tiny_checkpoint(tmp_path / "weights" / "tiny.safetensors", "tiny", note="trained on")

    assert chosen(folder).entry.name == "other"


def test_the_same_benchmark_is_replaced_and_another_comes_first(two):
    keep([row(20.0)], LABELS, two)
    keep([row(19.0, weights="other")], {**LABELS, "dataset": "ixi"}, two)
    keep([row(21.0)], LABELS, two)

    assert [b.dataset for b in own_benchmarks()] == ["folder, test@12345678", "ixi, test@12345678"]
    assert own_benchmarks()[0].checkpoints["tiny"].scores[0].value == 21.0


def test_a_damaged_file_is_told_of_and_counts_as_none(two, folder, caplog):
    keep([row(20.0)], LABELS, two)
    own_scores_file().write_text("benchmarks: [{dataset: 3}]")

    assert chosen(folder).entry.name == "other"
    assert "Your own scores in" in caplog.text and "are not used" in caplog.text


def test_a_damaged_file_is_not_replaced(two):
    own_scores_file().parent.mkdir(exist_ok=True)
    own_scores_file().write_text("benchmarks: [{dataset: 3}]")

    with pytest.raises(InputError, match="Correct the file, or delete it"):
        keep([row(20.0)], LABELS, two)
    assert own_scores_file().read_text() == "benchmarks: [{dataset: 3}]"


def test_the_file_grows_no_longer_than_it_can_be_read(two, monkeypatch):
    monkeypatch.setattr("mrsynth.io.own_scores.LONGEST_YAML", 1000)
    for number in range(9):
        keep([row(20.0)], {**LABELS, "dataset": f"Müller {number}"}, two)
        assert own_scores_file().stat().st_size <= 1000
    assert 1 < len(own_benchmarks()) < 9
    assert own_benchmarks()[0].dataset == "Müller 8, test@12345678"


def test_a_checkpoint_that_is_gone_takes_its_scores_with_it(two, folder, tmp_path):
    keep([row(20.0)], LABELS, two)
    (tmp_path / "weights" / "tiny.safetensors").unlink()

    assert [dict(r.scores) for r in circumstances(Sampling(), Stock()).recorded] == [{}]


@pytest.mark.parametrize(
    ("dataset", "protocols", "asked", "match"),
    [
        ("phantom", ["brain3d"], {}, "phantoms are no patients"),
        ("folder", ["full3d"], {}, "needs the protocol brain3d"),
        ("folder", ["brain3d"], {"mode": "sample", "steps": 3}, "--mode and --steps"),
        ("folder", ["brain3d"], {"fast": True}, "--fast"),
    ],
)
def test_what_says_nothing_of_use_is_not_recorded(dataset, protocols, asked, match):
    with pytest.raises(UsageError, match=match):
        check_record(dataset, protocols, Sampling(**asked))


def test_nothing_to_record_is_said():
    with pytest.raises(UsageError, match="no score of a checkpoint"):
        keep([row(20.0, weights="")], LABELS, {})


def test_processors(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert processors_for("auto") == processors_for("cpu") == 3
    assert processors_for("cuda:1") is None
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert processors_for("cpu") >= 1


def test_every_way_to_name_the_contrasts_is_read_back(two):
    keep(
        [row(20.0, target=t.value, pattern="+".join(c for c in STANDARD if c is not t)) for t in STANDARD], LABELS, two
    )

    assert {s.made for s in own_benchmarks()[0].checkpoints["tiny"].scores} == set(STANDARD)
