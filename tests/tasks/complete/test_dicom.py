"""`mrsynth complete` given DICOM: a folder or zip of series, as four vendors name them, in one command."""

import gzip
import json
import shutil
import zipfile

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.io.dicom import read_series, series_below
from mrsynth.io.nifti import read_volume
from tests.helpers import VENDORS, content

LACKING = dict(zip(VENDORS, (Contrast.T1CE, Contrast.FLAIR, Contrast.T2, Contrast.T1), strict=True))
QUICK = ("--fast", "--no-self-check", "--no-progress", "--precision", "fp32")

pytestmark = pytest.mark.usefixtures("only_tiny", "no_pictures")


@pytest.fixture(scope="module")
def examinations(tmp_path_factory, write_series, brain_volumes):
    """Of each vendor a brain without one contrast, with a localiser."""
    root = tmp_path_factory.mktemp("from the scanner")
    volumes = brain_volumes((24, 28, 12))
    for vendor, series in VENDORS.items():
        write_series(root / f"MUELLER {vendor}" / "S0", 90, "localizer")
        for number, (description, tr, te, ti, agent, contrast) in enumerate(series, start=1):
            if contrast is not LACKING[vendor]:
                voxels = volumes[contrast].voxels.T.astype(np.int16)
                folder = root / f"MUELLER {vendor}" / f"S{number}"
                write_series(folder, number, description, tr, te, ti, agent, voxels=voxels)
    return root


@pytest.fixture
def examination(examinations, tmp_path):
    """That of the first vendor, to write beside."""
    return shutil.copytree(examinations / "MUELLER siemens", tmp_path / "Mueller Hans")


def texts(out):
    """All that lies in a folder, packed files unpacked."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return b"".join(gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in files)


@pytest.mark.parametrize("vendor", VENDORS)
def test_an_examination_is_completed_whoever_made_the_scanner(vendor, examinations, tmp_path, run_cli, monkeypatch):
    folder, out, lacking = examinations / f"MUELLER {vendor}", tmp_path / "out", LACKING[vendor]
    before = content(folder)
    monkeypatch.chdir(folder.parent)  # what was typed is in the report, too
    status, printed, err = run_cli("complete", folder.name, "-o", out, "--name", "P1", *QUICK)
    assert status == 0, err

    made, scan = read_volume(out / f"P1_{lacking}.nii.gz"), read_series(series_below(folder)[0])
    assert made.shape == scan.shape and np.allclose(made.affine, scan.affine, atol=1e-5)
    assert made.voxels.max() > 0 and not made.voxels[scan.voxels == 0].any()
    report = json.loads((out / "report.json").read_text())
    assert [i["contrast"] for i in report["inputs"]] == [c for *_, c in VENDORS[vendor] if c is not lacking]
    notes = "\n".join(report["file_notes"])
    assert notes.count(": series ") == 4 and 'not used: series 90 "localizer": a localiser' in notes
    assert content(folder) == before
    assert "SECRET" not in printed + err and b"SECRET" not in texts(out)
    assert b"MUELLER" not in texts(out), "the name of the folder may be a patient's"


def test_results_lie_in_the_folder_and_are_not_taken_for_scans(examination, run_cli):
    assert run_cli("complete", examination, *QUICK)[0] == 0
    assert (examination / "mrsynth" / "Mueller Hans_t1ce.nii.gz").exists()

    status, _, err = run_cli("complete", examination, *QUICK)
    assert status == 2 and "already holds" in err
    assert run_cli("complete", examination, *QUICK, "--overwrite")[0] == 0


def test_a_zip_of_an_examination_is_one(examination, tmp_path, run_cli):
    archive = tmp_path / "scan.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in examination.rglob("*.dcm"):
            packed.write(path, path.relative_to(examination))
    status, _, err = run_cli("complete", archive, *QUICK)

    assert status == 0, err
    assert (tmp_path / "mrsynth" / "scan" / "scan_t1ce.nii.gz").exists()


def test_a_series_is_named_by_its_number_and_a_file_by_its_path(examination, tmp_path, run_cli, write_series):
    write_series(examination / "S9", 9, "t2_tse_tra_repeat", 5000, 100)
    status, _, err = run_cli("complete", examination, *QUICK)
    assert status == 4 and "2 series could be the T2" in err

    assert run_cli("dicom", examination, "-o", tmp_path / "nifti", "--name", "P1", "--t2", "3")[0] == 0
    files = ("--flair", tmp_path / "nifti" / "P1_flair.nii.gz")
    status, printed, err = run_cli("complete", examination, *QUICK, "--t2", "3", *files)
    assert status == 0, err
    assert "series 3" in printed + err and "named by its number" in printed + err
    inputs = json.loads((examination / "mrsynth" / "report.json").read_text())["inputs"]
    assert {i["contrast"]: i["file"] for i in inputs}["flair"] == "P1_flair.nii.gz"


def test_the_voxels_are_those_of_conversion_first(examination, tmp_path, run_cli):
    assert run_cli("dicom", examination, "-o", tmp_path / "P1", "--name", "P1")[0] == 0
    assert run_cli("complete", tmp_path / "P1", *QUICK)[0] == 0
    assert run_cli("complete", examination, "--name", "P1", *QUICK)[0] == 0
    one, other = (read_volume(f / "mrsynth" / "P1_t1ce.nii.gz") for f in (tmp_path / "P1", examination))

    assert np.array_equal(one.voxels, other.voxels) and np.array_equal(one.affine, other.affine)


@pytest.mark.parametrize("place", [".", "S1"])
def test_results_never_lie_among_the_scans(place, examination, run_cli):
    before = content(examination)
    status, _, err = run_cli("complete", examination, "-o", examination / place, *QUICK)

    assert status == 2 and "holds the scans" in err and content(examination) == before


def test_a_dry_run_and_inspect_say_what_would_be_done(examination, run_cli):
    before = content(examination)
    status, printed, err = run_cli("complete", examination, "--dry-run", *QUICK)
    assert status == 0 and f"Would write {examination / 'mrsynth' / 'Mueller Hans_t1ce.nii.gz'}" in printed, err

    status, printed, err = run_cli("inspect", examination, "--json")
    found = json.loads(printed)
    assert status == 0 and found["missing"] == ["t1ce"] and found["folder"] == str(examination), err
    assert found["files"]["t2"] == "Mueller Hans_t2.nii.gz" and len(found["notes"]) == 4
    assert content(examination) == before


def test_a_name_is_for_dicom_only(folder, run_cli):
    status, _, err = run_cli("complete", folder, "--name", "P2", *QUICK)

    assert status == 2 and "--name names what is made from DICOM" in err


def test_a_gap_between_slices_is_refused_with_its_number(examination, run_cli):
    for path in list((examination / "S1").iterdir())[3:5]:
        path.unlink()
    status, _, err = run_cli("complete", examination, "--t1", "1", *QUICK)

    assert status == 4 and "slices are missing" in err and not (examination / "mrsynth").exists()
