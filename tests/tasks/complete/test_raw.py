"""`mrsynth complete` on scans as the scanner wrote them, through the command line, on small made-up heads."""

import json

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.io.nifti import read_volume, write_volume
from mrsynth.scans import raw
from mrsynth.scans.alignment import Registration, resampled
from mrsynth.scans.volume import Volume
from mrsynth.tasks.complete import run as task
from mrsynth.tasks.complete.pictures import checkerboard

SHIFT = np.eye(4)
SHIFT[:3, 3] = (4.0, -6.0, 2.0)


@pytest.fixture
def apart(tmp_path, brain_volumes):
    """T1, T2 and FLAIR of one brain; the T2 and the FLAIR lie shifted on grids of their own."""
    volumes = brain_volumes((40, 44, 36))
    folder = tmp_path / "P 1"
    folder.mkdir()
    t1 = volumes[Contrast.T1]
    write_volume(folder / "t1.nii.gz", t1)
    for number, contrast in enumerate((Contrast.T2, Contrast.FLAIR), start=2):
        own = Volume(np.zeros((40 + number, 44, 36), np.float32), t1.affine)
        write_volume(folder / f"{contrast}.nii.gz", resampled(volumes[contrast], own, np.linalg.inv(SHIFT)))
    return folder


@pytest.fixture
def search(monkeypatch):
    """In place of the search, its result: the planted shift."""
    answers = {"transform": SHIFT, "information": 0.8, "before": 0.4, "mirrored": 0.3}
    answers |= {"overlap": 0.95, "angle": 0.0, "shift": 7.5}
    monkeypatch.setattr(raw, "register", lambda *_, **__: Registration(**answers))
    return answers


def complete(run_cli, folder, *options):
    return run_cli("complete", folder, "--fast", "--no-self-check", "--no-progress", *options)


def test_scans_on_three_grids_are_brought_onto_the_first_of_the_usual_order(apart, search, run_cli):
    status, _, err = complete(run_cli, apart)
    assert status == 0, err
    result = apart / "mrsynth" / "t1ce.nii.gz"
    made, t1 = read_volume(result), read_volume(apart / "t1.nii.gz")
    report = json.loads((apart / "mrsynth" / "report.json").read_text())
    inputs = {record["contrast"]: record for record in report["inputs"]}

    assert made.shape == t1.shape and np.array_equal(made.affine, t1.affine)
    assert "registration" not in inputs["t1"] or inputs["t1"]["registration"] is None
    assert np.allclose(inputs["t2"]["registration"]["transform"], SHIFT)
    assert inputs["flair"]["registration"]["onto"] == "t1"
    assert any("FLAIR was registered to T1" in warning for warning in report["warnings"])


def test_the_grid_kept_can_be_named(apart, search, run_cli):
    status, _, err = complete(run_cli, apart, "--reference-contrast", "flair")
    assert status == 0, err

    assert read_volume(apart / "mrsynth" / "t1ce.nii.gz").shape == read_volume(apart / "flair.nii.gz").shape


def test_off_refuses_and_doubts_refuse_unless_forced(apart, search, run_cli):
    status, _, err = complete(run_cli, apart, "--align", "off")
    assert status == 4 and "lie on different grids" in err

    search["angle"] = 88.0
    status, _, err = complete(run_cli, apart)
    assert status == 4 and "a turn of 88 degrees" in err and not (apart / "mrsynth").exists()

    status, out, err = complete(run_cli, apart, "--align", "force")
    assert status == 0 and "a turn of 88 degrees" in out + err


def test_a_whole_head_loses_all_but_the_brain_and_the_mask_is_kept(apart, search, run_cli, monkeypatch):
    monkeypatch.setattr(raw, "shows_the_head", lambda volume: True)

    def find(volume):
        mask = np.zeros(volume.shape, bool)
        mask[10:30, 12:32, 10:26] = True
        return mask

    monkeypatch.setattr(task, "brain_by_deepbet", find)
    status, out, err = complete(run_cli, apart)
    assert status == 0, err
    mask = read_volume(apart / "mrsynth" / "P 1_brain_mask.nii.gz", labels=True).voxels > 0
    made = read_volume(apart / "mrsynth" / "t1ce.nii.gz").voxels

    assert mask.sum() == 20 * 20 * 16 and not made[~mask].any()
    assert "The brain was found in the T1" in out + err
    assert complete(run_cli, apart, "--overwrite")[0] == 0  # the mask is ours, and may be replaced

    status, out, err = complete(run_cli, apart, "--overwrite", "--strip", "off")
    assert status == 0 and "a face can be rebuilt" in out + err
    assert not (apart / "mrsynth" / "P 1_brain_mask.nii.gz").exists()


def test_an_unknown_program_is_exit_2_before_anything_is_read(apart, run_cli):
    status, _, err = complete(run_cli, apart, "--strip", "magic")

    assert status == 2 and "--strip magic: give auto, off, or one of hd-bet, mri_synthstrip" in err
    assert complete(run_cli, apart, "--strip", "magic", "--dry-run")[0] == 2, "a dry run ends as the run would"


def test_a_checkerboard_shows_both_in_turn():
    board = checkerboard(np.zeros((12, 12, 6)), np.ones((12, 12, 6)), (12.0, 12.0, 12.0))

    assert board[:, 0, 0].tolist() == [0, 0, 1, 1] * 3
    assert board[0, :, 2].tolist() == [1, 1, 0, 0] * 3
