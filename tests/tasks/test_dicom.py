"""`mrsynth dicom` through the command line."""

import json

import numpy as np
import pytest

from mrsynth.io.nifti import read_volume


@pytest.fixture
def examination(tmp_path, write_series):
    folder = tmp_path / "an examination"
    write_series(folder / "a", 2, "t1_se_tra", 500, 10)
    write_series(folder / "b", 3, "t2_tse_tra", 5000, 100)
    write_series(folder / "b", 4, "t1_se_tra", 500, 10, agent="Gadovist")
    write_series(folder, 1, "localizer")
    return folder


def test_series_become_files_and_the_reasons_are_told(examination, tmp_path, run_cli):
    status, out, err = run_cli("dicom", examination, "-o", tmp_path / "out", "--name", "P1")

    assert status == 0, err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        f"P1_{c}.{kind}" for c in ("t1", "t1ce", "t2") for kind in ("nii.gz", "json")
    }
    assert 'T1ce: series 4 "t1_se_tra"' in out + err and "contrast agent given" in out + err
    assert 'not used: series 1 "localizer": a localiser' in out + err
    assert "SECRET" not in out + err + "".join(p.read_text() for p in (tmp_path / "out").glob("*.json"))
    assert json.loads((tmp_path / "out" / "P1_t2.json").read_text())["EchoTime"] == 0.1
    assert np.allclose(read_volume(tmp_path / "out" / "P1_t1.nii.gz").spacing, (1.1, 0.9, 2.5), atol=1e-4)


def test_two_series_for_one_contrast_must_be_chosen_between(examination, tmp_path, run_cli, write_series):
    write_series(examination, 9, "t2_tse_tra_repeat", 5000, 100)
    status, out, err = run_cli("dicom", examination, "-o", tmp_path / "out")
    assert status == 4 and "2 series could be the T2" in out + err and "--t2 NUMBER" in out + err
    assert not (tmp_path / "out").exists()

    status, out, err = run_cli("dicom", examination, "-o", tmp_path / "out", "--t2", "9")
    assert status == 0 and 'not used: series 3 "t2_tse_tra": another series was named' in out + err


def test_a_contrast_that_is_there_and_not_whole_or_not_clear_is_not_passed_over(
    examination, tmp_path, run_cli, write_series
):
    write_series(examination / "c", 9, "AX FLAIR", 9000, 120, 2500, skip=(5,))
    status, out, err = run_cli("dicom", examination, "-o", tmp_path / "out")
    assert status == 4 and 'series 9 "AX FLAIR": 1 slices are missing' in out + err and "--flair NUMBER" in out + err

    write_series(examination / "d", 10, "AX FLAIR again", 9000, 120, 2500)
    assert run_cli("dicom", examination, "-o", tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--flair", "17"], "There is no series 17"), (["--flair", "1"], 'series 1 "localizer": a localiser')],
)
def test_a_number_that_cannot_be_is_refused(arguments, message, examination, tmp_path, run_cli):
    status, out, err = run_cli("dicom", examination, "-o", tmp_path / "out", *arguments)

    assert status == 4 and message in out + err


@pytest.mark.parametrize("name", ["../P1", "a/b", "/P1", "..", "P\n1"])
def test_a_name_leads_nowhere_else(name, examination, tmp_path, run_cli):
    for command in ("dicom", "complete"):
        status, _, err = run_cli(command, examination, "-o", tmp_path / "in" / "out", "--name", name)
        assert status == 2 and "expected a plain name" in err
    assert not (tmp_path / "in").exists()


def test_no_usable_series_lists_them_all(tmp_path, run_cli, write_series):
    write_series(tmp_path / "in", 1, "localizer")
    write_series(tmp_path / "in", 2, "ep2d_diff_ADC")
    status, out, err = run_cli("dicom", tmp_path / "in", "-o", tmp_path / "out")

    assert status == 4 and "localizer" in out + err and "ep2d_diff_ADC" in out + err
