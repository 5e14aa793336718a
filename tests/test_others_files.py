"""Whatever command writes into a folder, a file of somebody else that lies there is never replaced."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from mrsynth.io.splits import write_split
from mrsynth.tasks.benchmark.pieces import WRITTEN as OF_A_BENCHMARK
from mrsynth.tasks.train.run import BEGIN, is_run_file
from mrsynth.tasks.train.run import WRITTEN as OF_A_TRAINING

NAMES = {
    "benchmark": OF_A_BENCHMARK,
    "train": OF_A_TRAINING,
    "batch": ("batch.json", "summary.csv", "index.html", "journal.jsonl", "journal-of-mine.jsonl"),
    "dicom": ("P1_t1.nii.gz", "P1_t2.json"),
    "phantom": ("phantom-000/phantom-000_t1.nii.gz", "phantom-000/phantom-000_seg.nii.gz"),
}


@pytest.fixture
def asked(tmp_path, write_subject_folder, write_series, only_tiny):
    """asked(command, out): its arguments."""
    for seed, name in enumerate("abc"):
        write_subject_folder(tmp_path / "data", name, seed=seed)
    write_split(tmp_path / "split.yaml", {"train": ["a"], "test": ["b", "c"]})
    for number, timing in ((1, ("t1_se_tra", 500, 10)), (2, ("t2_tse_tra", 5000, 100))):
        write_series(tmp_path / "dicom", number, *timing)
    data = ("--dataset", "folder", "--data", tmp_path / "data", "--split", tmp_path / "split.yaml")

    def arguments(command: str, out: Path) -> tuple[object, ...]:
        return {
            "benchmark": (*data, "--no-pictures", "--no-baselines", "-o", out),
            "train": ("--method", "fgc2f", "--data", tmp_path / "data", "--out", out),
            "batch": (tmp_path / "data", "-o", out, "--overwrite"),
            "dicom": (tmp_path / "dicom", "-o", out, "--name", "P1"),
            "phantom": (out,),
        }[command]

    return arguments


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, names in NAMES.items() for name in names])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_of_somebody_else_stays(asked, run_cli, tmp_path, command, name, kind):
    if command == "phantom" and find_spec("nilearn") is None:
        pytest.skip("nilearn is not installed")
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    if kind == "file":
        path.write_bytes(b"somebody else's work")
    else:
        (tmp_path / "work").write_bytes(b"somebody else's work")
        path.symlink_to(tmp_path / "work")
    status, _, err = run_cli(command, *asked(command, tmp_path / "out"))

    assert status == 2 and f"holds {path.name}, which mrsynth did not write" in " ".join(err.split()), err
    assert path.read_bytes() == b"somebody else's work" and path.is_symlink() == (kind == "link")


def test_a_sidecar_that_is_left_over_makes_no_scan_ours(asked, run_cli, tmp_path):
    words, image = asked("dicom", tmp_path / "out"), tmp_path / "out" / "P1_t1.nii.gz"
    assert run_cli("dicom", *words)[0] == 0
    image.write_bytes(b"somebody else's work")

    status, _, err = run_cli("dicom", *words)
    assert status == 2 and "holds P1_t1.nii.gz, which mrsynth did not write" in " ".join(err.split()), err
    assert image.read_bytes() == b"somebody else's work"


def test_what_an_earlier_run_wrote_is_replaced(asked, run_cli, tmp_path):
    for _ in range(2):
        status, _, err = run_cli("dicom", *asked("dicom", tmp_path / "out"))
        assert status == 0, err
    (tmp_path / "config.yaml").write_text(BEGIN + "name: x\n")
    assert is_run_file(tmp_path / "config.yaml")
