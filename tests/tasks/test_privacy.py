"""No name of a folder above the data, the results, the weights or a run file is written: it may be a patient's."""

import gzip
import json
import re
from pathlib import Path

import pytest

from mrsynth.contrasts import Contrast
from mrsynth.io.splits import write_split
from tests.tasks.train.runs import ONE_ITERATION

SECRET = re.compile(rb".{0,30}(?:DOE|JANE|SMITH|ROE|MILLER|pytest-).{0,20}")


@pytest.fixture
def home(tmp_path, write_subject_folder):
    """Data with a subject that lacks a contrast and one that cannot be read; a split, a run file, another scan."""
    data = tmp_path / "DOE JANE 1970" / "visit_SMITH"
    for seed, name in enumerate("abcd"):
        write_subject_folder(data, name, without=[Contrast.T1CE] if name == "d" else [], seed=seed, shape=(18, 24, 8))
    (data / "c" / "c_t2.nii.gz").write_bytes(b"\x1f\x8b damaged")
    (tmp_path / "ROE").mkdir()
    write_split(tmp_path / "ROE" / "split.yaml", {"train": ["a"], "test": ["b", "c"]})
    (tmp_path / "ROE" / "run.yaml").write_text(ONE_ITERATION)
    return data


def told(out: Path) -> dict[str, list[bytes]]:
    """What files of results say of folders that nobody should read of."""
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    texts = {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in files.items()}
    plain = {name: re.sub(rb"base64,[A-Za-z0-9+/=]+", b"", data) for name, data in texts.items()}  # DOE comes by chance
    return {name: found[:3] for name, data in plain.items() if (found := SECRET.findall(data))}


def test_a_benchmark_names_no_folder(home, tmp_path, run_cli, tiny_checkpoint):
    out = tmp_path / "MILLER" / "run"
    weights = tmp_path / "MILLER" / "tiny.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(tiny_checkpoint.read_bytes())
    given = ("--data", home, "--split", tmp_path / "ROE" / "split.yaml", "--weights", weights, "--no-pictures")
    status, _, err = run_cli("benchmark", "--dataset", "folder", *given, "--no-baselines", "-o", out)

    assert status == 3, err
    assert "c/c_t2.nii.gz" in (out / "report.md").read_text()
    assert json.loads((out / "summary.json").read_text())
    assert told(out) == {}


def test_a_batch_names_no_folder(home, tmp_path, run_cli, only_tiny):
    (home / "c" / "c_t1ce.nii.gz").unlink()  # so that it is read
    out = tmp_path / "MILLER" / "batch"
    status, _, err = run_cli("batch", home, "-o", out, "--no-self-check", "--fast", "--no-progress")

    assert status == 3, err
    assert told(out) == {}


@pytest.mark.filterwarnings("default")
def test_a_training_names_no_folder(home, tmp_path, run_cli):
    """Not what it says of itself, nor the checkpoint; the configuration names what --resume must find again."""
    out = tmp_path / "MILLER" / "run"
    config = ("--method", "fgc2f", "--config", tmp_path / "ROE" / "run.yaml")
    (home / "c" / "c_t2.nii.gz").unlink()
    status, _, err = run_cli("train", *config, "--data", home, "--out", out, "--min-subjects", 1)

    assert status == 0, err
    assert told(out) == {}
