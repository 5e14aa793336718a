"""Results reach the disk together or not at all, and never in the place of something else unasked."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest

from mrsynth.contrasts import STANDARD
from mrsynth.io.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from mrsynth.io.locks import LOCK, locked
from mrsynth.scans.views import png
from tests.helpers import content, raising

T1, T1CE, T2, FLAIR = STANDARD
QUICK = ("--no-self-check", "--precision", "fp32")

pytestmark = pytest.mark.usefixtures("only_tiny", "no_pictures")


# Earlier results -----------------------------------------------------------------------------------------------------


def test_earlier_results_are_replaced_only_when_asked(run_cli, folder):
    assert run_cli("complete", folder, *QUICK)[0] == 0
    before = content(folder)

    for again in ((), ("--samples", 3), ("--dry-run",)):
        status, _, err = run_cli("complete", folder, *QUICK, "--seed", 1, *again)
        assert (
            status == 2
            and "already holds p1_t1ce.json, p1_t1ce.nii.gz, mrsynth.log, metrics.csv" in err
            and "--overwrite" in err
        )
        assert content(folder) == before

    assert run_cli("complete", folder, *QUICK, "--seed", 1, "--overwrite")[0] == 0
    assert content(folder).keys() == before.keys()
    assert content(folder)["mrsynth/p1_t1ce.nii.gz"] != before["mrsynth/p1_t1ce.nii.gz"]


def test_a_deviation_does_not_outlive_its_mean(run_cli, folder):
    assert run_cli("complete", folder, *QUICK, "--samples", 2)[0] == 0
    assert (folder / "mrsynth" / "p1_t1ce_spread.nii.gz").exists() and (
        folder / "mrsynth" / "p1_t1ce_spread.json"
    ).exists()
    (folder / "mrsynth" / "notes.txt").write_text("mine")

    assert run_cli("complete", folder, *QUICK, "--overwrite")[0] == 0
    assert set(content(folder / "mrsynth")) == {
        *("p1_t1ce.nii.gz", "p1_t1ce.json", "mrsynth.log", "metrics.csv"),
        *("preview.png", "report.html", "report.json", "notes.txt"),
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
    assert status == 4 and "Left out because mrsynth made them: p1_t1ce.nii.gz, p1_t1ce_spread.nii.gz" in " ".join(
        err.split()
    )


# What mrsynth did not write ------------------------------------------------------------------------------------------


def test_nothing_is_replaced_that_mrsynth_did_not_write(run_cli, folder, write_subject_folder, tmp_path):
    """A scan in --out, a sidecar of its converter, somebody's table, a page, a folder, a link to a scan."""
    scan = write_subject_folder(tmp_path / "other", "p1") / "p1_t1ce.nii.gz"
    in_the_way = {
        "p1_t1ce.nii.gz": scan.read_bytes(),
        "p1_t1ce_spread.nii.gz": scan.read_bytes(),
        "p1_t1ce.json": b'{"SeriesDescription": "t1 mpr gado"}',
        "metrics.csv": b"name,value\na,1\n",
        "preview.png": png(np.zeros((1, 1), np.uint8), {"Software": "another program"}),
        "report.html": b"<html>of somebody else</html>",
        "report.json": b'{"version": 1}',
    }
    for number, (name, data) in enumerate(in_the_way.items()):
        for kind in ("file", "folder", "link"):
            out = tmp_path / f"{number} {kind}"
            out.mkdir()
            if kind == "file":
                (out / name).write_bytes(data)
            elif kind == "folder":
                (out / name).mkdir()
            else:
                (out / name).symlink_to(scan)
            before = content(out)
            for options in ((), ("--overwrite",), ("--overwrite", "--dry-run")):
                status, _, err = run_cli("complete", folder, *QUICK, "--out", out, *options)
                assert status == 2 and f"holds {name}, which mrsynth did not write" in " ".join(err.split())
                assert content(out) == before
    assert scan.read_bytes() == in_the_way["p1_t1ce.nii.gz"]


def test_what_came_while_it_worked_is_not_replaced(run_cli, folder, tmp_path, monkeypatch):
    import mrsynth.tasks.complete.run as task

    write = task.write_results

    def later(place, **how):
        (tmp_path / "out" / "p1_t1ce.nii.gz").write_bytes(b"a scan")
        return write(place, **how)

    monkeypatch.setattr(task, "write_results", later)
    for options in ((), ("--overwrite",)):
        status, _, err = run_cli("complete", folder, *QUICK, "--out", tmp_path / "out", *options)
        assert status == 2 and "which mrsynth did not write" in " ".join(err.split())
        assert content(tmp_path / "out") == {"p1_t1ce.nii.gz": b"a scan"}
        (tmp_path / "out" / "p1_t1ce.nii.gz").unlink()


def test_scans_that_are_links_keep_results_from_beside_the_real_ones(run_cli, folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.glob("*.nii.gz"):
        (linked / path.name).symlink_to(path)
    (tmp_path / "door").symlink_to(folder)
    before = content(folder)
    for out in (folder, linked, tmp_path / "door", folder / ".." / folder.name):
        status, _, err = run_cli("complete", linked, *QUICK, "--out", out)
        assert status == 2 and "holds the scans" in err
    assert content(folder) == before


# Two runs, and killed ones -------------------------------------------------------------------------------------------


def test_the_later_of_two_runs_on_one_folder_ends(run_cli, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with locked(out):
        status, _, err = run_cli("complete", folder, *QUICK, "--out", out)
        assert status == 2 and "Another run of mrsynth is writing to" in err and set(content(out)) == {LOCK}
    assert run_cli("complete", folder, *QUICK, "--out", out)[0] == 0


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(run_cli, folder, tmp_path):
    out = tmp_path / "out"
    (out / ".partial-0123456789abcdef" / "x").mkdir(parents=True)
    (out / ".0123456789abcdef.nii.gz").write_bytes(b"half")
    for name in (".partial-mine", ".hidden", ".0123456789abcdef0.nii.gz", "0123456789abcdef.json"):
        (out / name).write_bytes(b"mine")
    (out / LOCK).write_bytes(b"")
    assert run_cli("complete", folder, *QUICK, "--out", out)[0] == 0
    mine = {name for name, data in content(out).items() if data == b"mine"}
    assert mine == {".partial-mine", ".hidden", ".0123456789abcdef0.nii.gz", "0123456789abcdef.json"}
    assert {name for name in content(out) if name.startswith(".")} == {".partial-mine", ".hidden"} | {
        ".0123456789abcdef0.nii.gz"
    }


# Failures in the middle ----------------------------------------------------------------------------------------------


def fail_at(monkeypatch, place, error):
    """Make the disk, or the user, stop the run at a certain file."""
    write, replace = Path.write_bytes, os.replace
    monkeypatch.undone = False

    def failing_write(path, data):
        if place.startswith("write") and Path(path).suffix == place.removeprefix("write "):
            write(path, data[: len(data) // 2])
            raise error
        return write(path, data)

    def failing_replace(source, target):
        if (
            place.startswith("move")
            and Path(target).name == place.removeprefix("move ")
            and ".partial" in str(source)
            and not monkeypatch.undone
        ):
            monkeypatch.undone = place.startswith("move")  # what it had replaced may be put back
            raise error
        return replace(source, target)

    monkeypatch.setattr(Path, "write_bytes", failing_write)
    monkeypatch.setattr(os, "replace", failing_replace)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "place",
    ["write .json", "write .gz", "write .csv", "write .png", "write .html", "move p1_flair.nii.gz", "move report.json"],
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
@pytest.mark.parametrize("place", ["write .html", "move p1_t1ce.nii.gz", "move report.json"])
@pytest.mark.parametrize("links", [True, False])
def test_a_failure_leaves_earlier_results_as_they_were(run_cli, folder, monkeypatch, place, error, links):
    """Also one among the renames, and where a file system has no hard links."""
    assert run_cli("complete", folder, *QUICK, "--samples", 2)[0] == 0
    before = content(folder)
    fail_at(monkeypatch, place, error)
    if not links:
        monkeypatch.setattr(os, "link", raising(OSError(errno.EPERM, "Operation not permitted")))

    assert run_cli("complete", folder, *QUICK, "--seed", 1, "--overwrite")[0] in (1, 130)
    assert content(folder) == before


def test_an_output_folder_that_cannot_be_written_is_found_before_the_work(run_cli, folder, monkeypatch, tmp_path):
    monkeypatch.setattr("mrsynth.tasks.trained.synthesise_volume", raising(AssertionError("too late")))
    (tmp_path / "file").write_text("")

    status, _, err = run_cli("complete", folder, "--out", tmp_path / "file")
    assert status == 1 and "Cannot write" in err and "a file of that name is in the way" in " ".join(err.split())
    monkeypatch.setattr(Path, "mkdir", raising(PermissionError(errno.EACCES, "Permission denied")))
    status, _, err = run_cli("complete", folder, "--out", tmp_path / "new")
    assert status == 6 and "no permission to write there" in " ".join(err.split())


# A checkpoint that is not believed -----------------------------------------------------------------------------------


def test_weights_that_give_nothing_finite_write_nothing(run_cli, folder, only_tiny, tmp_path):
    """Weights of 1e30: finite themselves, and what they make is not."""
    stored = read_checkpoint(only_tiny)
    large = {n: t * 1e30 if n.endswith("weight") and t.dim() > 1 else t for n, t in stored.tensors.items()}
    path = tmp_path / "large.safetensors"
    write_checkpoint(path, Checkpoint(stored.card, stored.config, stored.preparation, large))
    before = content(folder)
    status, _, err = run_cli("complete", folder, *QUICK, "--weights", path)
    assert status == 5 and "not finite" in " ".join(err.split()) and content(folder) == before


# Privacy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("outside", [True, False])
def test_no_folder_name_is_written(run_cli, write_subject_folder, tmp_path, monkeypatch, absolute, outside):
    """Folders above the subject's, of --out, of a file named by option, and of the weights may be a patient's name."""
    home = tmp_path / "DOE JANE 1970" / "visit_SMITH"
    folder = write_subject_folder(home, "p1", without=[T1CE])
    elsewhere = tmp_path / "ROE" / "p1_t2.nii.gz"
    elsewhere.parent.mkdir()
    (folder / "p1_t2.nii.gz").rename(elsewhere)
    out = tmp_path / "MILLER" / "results" if outside else folder / "mrsynth"
    monkeypatch.chdir(home)
    given = [folder, "--t2", elsewhere, "--out", out]
    if not absolute:
        given = [os.path.relpath(a) if isinstance(a, Path) else a for a in given]
    status, _, err = run_cli("complete", *given, *QUICK)
    assert status == 0, err
    for name, data in content(out).items():
        if data is not None and not name.endswith(".nii.gz"):
            told = re.findall(rb".{30}(?:DOE|JANE|SMITH|ROE|MILLER|pytest-).{0,20}", data)
            assert not told, (name, told[:3])
    assert b'"p1_t1.nii.gz"' in (out / "report.json").read_bytes()
