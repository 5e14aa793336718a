"""The main job on real scans with the checkpoint that ships: right files, right geometry, scores. Minutes each."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.store import manifest
from mrsynth.reports.record import Report
from tests.helpers import moved_fields

T1, T1CE, T2, FLAIR = STANDARD

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


@pytest.fixture(autouse=True)
def only_what_ships(monkeypatch):
    monkeypatch.delenv("MRSYNTH_WEIGHTS_DIR", raising=False)
    monkeypatch.delenv("MRSYNTH_HOME", raising=False)
    if not any(entry.file for entry in manifest()):
        pytest.skip("no checkpoint is in the package yet")


@pytest.mark.parametrize("available", [(T1, T2, FLAIR), (T1, T1CE, T2), (T1,), (T2, FLAIR)], ids="+".join)
@pytest.mark.parametrize("subject", ["ms_mni/ms19", "glioma_brats/BraTS-GLI-00027-000"])
def test_complete(shared_data, run_cli, tmp_path, subject, available):
    truth = shared_data / "data" / subject
    name = truth.name
    folder = tmp_path / name
    folder.mkdir()
    for contrast in available:
        shutil.copy(truth / f"{name}_{contrast}.nii.gz", folder)
    missing = [c for c in STANDARD if c not in available]

    status, _, err = run_cli("complete", folder, "--fast", "--reference", truth)
    assert (status, err) == (0, "")

    out = folder / "mrsynth"
    assert {p.name for p in out.iterdir()} == {
        *(f"{name}_{c}{ending}" for c in missing for ending in (".nii.gz", ".json")),
        *("metrics.csv", "mrsynth.log", "preview.png", "report.html", "report.json"),
    }
    reference = nib.load(folder / f"{name}_{available[0]}.nii.gz")
    brain = np.any([nib.load(p).get_fdata(dtype=np.float32) != 0 for p in folder.glob("*.nii.gz")], axis=0)
    for contrast in missing:
        made = nib.load(out / f"{name}_{contrast}.nii.gz")
        assert made.shape == reference.shape and np.array_equal(made.affine, reference.affine)
        assert moved_fields(made, reference) == []
        voxels = made.get_fdata(dtype=np.float32)
        assert voxels.min() >= 0 and voxels.max() <= 1000 and not voxels[~brain].any()
        assert 50 < voxels[brain].mean() < 950 and voxels[brain].std() > 5

    report = Report.model_validate_json((out / "report.json").read_text())
    assert report.preparation["resampled"] is False
    assert not any("skull" in warning for warning in report.warnings)
    for kind, targets in (("reference", missing), ("self-check", available if len(available) > 1 else ())):
        rows = [row for row in report.scores if row.kind == kind]
        assert {row.target for row in rows} == {Contrast(t) for t in targets}
        for target in targets:
            figures = {(row.region, row.metric): row.value for row in rows if row.target == target}
            assert set(figures) >= {(r, m) for r in ("volume", "brain") for m in ("PSNR", "SSIM", "MSE", "MAE")}
            assert np.isfinite(list(figures.values())).all()
