"""Results reach the disk together or not at all, and never in the place of something else unasked."""

import errno
import os
import re
from pathlib import Path

import pytest

from mrsynth.contrasts import STANDARD

T1, T1CE, T2, FLAIR = STANDARD
QUICK = ("--no-self-check", "--precision", "fp32")

pytestmark = pytest.mark.usefixtures("only_tiny", "no_pictures")


@pytest.fixture
def folder(write_subject_folder, tmp_path):
    """A subject without T1ce."""
    return write_subject_folder(tmp_path, "p1", without=[T1CE])


def content(folder):
    """Every path below a folder, hidden ones too, with the bytes of each file."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


# Earlier results -----------------------------------------------------------------------------------------------------


def test_earlier_results_are_replaced_only_when_asked(run_cli, folder):
    assert run_cli("complete", folder, *QUICK)[0] == 0
    before = content(folder)

    for again in ((), ("--samples", 3), ("--dry-run",)):
        status, _, err = run_cli("complete", folder, *QUICK, "--seed", 1, *again)
        assert status == 2 and "already holds p1_t1ce.json, p1_t1ce.nii.gz, metrics.csv" in err and "--overwrite" in err
        assert content(folder) == before

    assert run_cli("complete", folder, *QUICK, "--seed", 1, "--overwrite")[0] == 0
    assert content(folder).keys() == before.keys()
    assert content(folder)["mrsynth/p1_t1ce.nii.gz"] != before["mrsynth/p1_t1ce.nii.gz"]


def test_a_deviation_does_not_outlive_its_mean(run_cli, folder):
    assert run_cli("complete", folder, *QUICK, "--samples", 2)[0] == 0
    assert (folder / "mrsynth" / "p1_t1ce_std.nii.gz").exists() and (folder / "mrsynth" / "p1_t1ce_std.json").exists()
    (folder / "mrsynth" / "notes.txt").write_text("mine")

    assert run_cli("complete", folder, *QUICK, "--overwrite")[0] == 0
    assert set(content(folder / "mrsynth")) == {
        *("p1_t1ce.nii.gz", "p1_t1ce.json", "metrics.csv", "report.html", "report.json", "notes.txt"),
    }


def test_another_target_does_not_replace_the_report_unasked(run_cli, write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE, FLAIR])
    assert run_cli("complete", folder, *QUICK, "--target", "t1ce")[0] == 0

    status, _, err = run_cli("complete", folder, *QUICK, "--target", "flair")
    assert status == 2 and "report.html" in err
    assert run_cli("complete", folder, *QUICK, "--target", "flair", "--out", tmp_path / "other")[0] == 0


def test_results_are_never_taken_for_scans(run_cli, folder, tmp_path):
    """Neither in the subject's folder nor where --out put them."""
    out = tmp_path / "elsewhere"
    assert run_cli("complete", folder, *QUICK, "--samples", 2, "--out", out)[0] == 0
    assert run_cli("complete", folder, *QUICK)[0] == 0

    status, said, _ = run_cli("inspect", folder)
    assert status == 0 and "T1ce   missing" in said
    status, _, err = run_cli("complete", out)
    assert status == 4 and "Left out because mrsynth made them: p1_t1ce.nii.gz, p1_t1ce_std.nii.gz" in " ".join(
        err.split()
    )


# Failures in the middle ----------------------------------------------------------------------------------------------


def fail_at(monkeypatch, place, error):
    """Make the disk, or the user, stop the run at a certain file."""
    write, replace = Path.write_bytes, os.replace

    def failing_write(path, data):
        if place.startswith("write") and Path(path).suffix == place.removeprefix("write "):
            write(path, data[: len(data) // 2])
            raise error
        return write(path, data)

    def failing_replace(source, target):
        if place.startswith("move") and Path(target).name == place.removeprefix("move ") and ".partial" in str(source):
            raise error
        return replace(source, target)

    monkeypatch.setattr(Path, "write_bytes", failing_write)
    monkeypatch.setattr(os, "replace", failing_replace)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "place", ["write .json", "write .gz", "write .csv", "write .html", "move p1_flair.nii.gz", "move report.json"]
)
@pytest.mark.parametrize(("error", "status"), [(FULL, 1), (KeyboardInterrupt(), 130)], ids=["full", "interrupted"])
def test_a_failure_while_writing_leaves_nothing(
    run_cli, write_subject_folder, tmp_path, monkeypatch, place, error, status
):
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE, FLAIR])
    before = content(tmp_path)
    fail_at(monkeypatch, place, error)

    got, _, err = run_cli("complete", folder, *QUICK, "--out", tmp_path / "new" / "deep")
    assert got == status and "Traceback" not in err
    if status == 1:
        assert "Cannot write" in err and re.search("disk is full|No space left", err)
    assert content(tmp_path) == before


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full", "interrupted"])
def test_a_failure_while_writing_leaves_earlier_results_as_they_were(run_cli, folder, monkeypatch, error):
    assert run_cli("complete", folder, *QUICK)[0] == 0
    before = content(folder)
    fail_at(monkeypatch, "write .html", error)

    assert run_cli("complete", folder, *QUICK, "--seed", 1, "--overwrite")[0] in (1, 130)
    assert content(folder) == before


def test_an_output_folder_that_cannot_be_written_is_found_before_the_work(run_cli, folder, monkeypatch, tmp_path):
    monkeypatch.setattr("mrsynth.tasks.complete.run.synthesise_volume", raising(AssertionError("too late")))
    (tmp_path / "file").write_text("")

    status, _, err = run_cli("complete", folder, "--out", tmp_path / "file")
    assert status == 1 and "Cannot write" in err and "a file of that name is in the way" in " ".join(err.split())
    monkeypatch.setattr(Path, "mkdir", raising(PermissionError(errno.EACCES, "Permission denied")))
    status, _, err = run_cli("complete", folder, "--out", tmp_path / "new")
    assert status == 1 and "no permission to write there" in " ".join(err.split())
