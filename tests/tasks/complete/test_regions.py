"""Volumes of tumour regions with and without what is synthetic, and what is said of them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mrsynth.contrasts import STANDARD
from mrsynth.reports.record import VOLUMES_WARNING, Report
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.scans.volume import Volume
from mrsynth.segmenter.network import Reading, Segmenter
from mrsynth.tasks.complete.regions import region_volumes

T1, T1CE, T2, FLAIR = STANDARD


class Present(nn.Module):
    """Region WT where any contrast is there, ET where the T1ce is: closed forms of what is seen."""

    def forward(self, x):
        channels = len(STANDARD)
        inside = (x[:, :channels] != 0).any(1, keepdim=True)
        enhancing = inside & (x[:, channels + 1 : channels + 2] > 0)
        return torch.cat([inside, enhancing], dim=1).float() * 20 - 10


@pytest.fixture
def segmenter():
    reading = Reading(contrasts=STANDARD, regions=("WT", "ET"), availability=True, preparation=PreparationConfig())
    return Segmenter("present", Present(), reading)


def test_each_figure_is_of_the_contrasts_it_says(make_subject, segmenter):
    """Voxels of 1 x 2 x 3 mm: 6 cubic millimetres, and every voxel of the brain is in the region."""
    subject = make_subject(affine=np.diag([-1.0, -2.0, 3.0, 1.0]))
    voxels = subject.foreground()
    made = Volume(subject.volumes[T1CE].voxels / np.float32(4), subject.reference.affine)
    completed = SimpleNamespace(subject=subject.without(T1CE), volumes={T1CE: made})

    alone = region_volumes(segmenter, completed)
    found = region_volumes(segmenter, completed, {T1CE: subject.volumes[T1CE]})

    brain = voxels.sum() * 6 / 1000
    whole, enhancing = found.regions
    assert (found.acquired, found.synthetic) == ((T1, T2, FLAIR), (T1CE,))
    assert whole.synthetic_ml == pytest.approx(brain, rel=0.05) and whole.acquired_ml == pytest.approx(brain, rel=0.05)
    assert enhancing.acquired_ml == 0 and enhancing.synthetic_ml == pytest.approx(whole.synthetic_ml)
    assert enhancing.true_ml == pytest.approx(whole.true_ml) and alone.regions[0].true_ml is None


def test_a_report_has_them_when_they_are_asked_for_and_says_what_they_are(
    run_cli, folder, write_subject_folder, tmp_path, only_tiny, no_pictures
):
    truth = write_subject_folder(tmp_path / "truth", "p1")
    quick = ("--no-self-check", "--precision", "fp32")
    status, out, err = run_cli("complete", folder, *quick, "--segment", "--reference", truth)
    assert status == 0, err
    assert "FROM SYNTHETIC IMAGES" in out and "ml without what is synthetic" in out

    report = Report.model_validate_json((folder / "mrsynth" / "report.json").read_text())
    assert [r.region for r in report.volumes.regions] == ["WT", "TC", "ET"]
    assert all(r.true_ml is not None for r in report.volumes.regions)
    assert report.volumes.warning == VOLUMES_WARNING
    sidecar = json.loads((folder / "mrsynth" / "p1_t1ce.json").read_text())
    assert sidecar["RegionVolumes"]["warning"].startswith("FROM SYNTHETIC IMAGES")
    page = (folder / "mrsynth" / "report.html").read_text()
    for words in (
        "Tumour regions, from synthetic images",
        "with the SYNTHETIC T1ce",
        "from T1, T2, FLAIR alone",
        VOLUMES_WARNING,
    ):
        assert words in page

    assert run_cli("complete", folder, *quick, "--overwrite")[0] == 0
    assert "RegionVolumes" not in (folder / "mrsynth" / "p1_t1ce.json").read_text()
    assert "Tumour regions" not in (folder / "mrsynth" / "report.html").read_text()


def test_where_nothing_can_be_measured_that_is_said_before_the_work(run_cli, folder, only_tiny, monkeypatch, segmenter):
    reads = segmenter.reading.model_copy(update={"contrasts": (T1,)})
    other = Segmenter("t1 only", segmenter.network, reads)
    monkeypatch.setattr("mrsynth.tasks.complete.regions.open_segmenter", lambda *_: other)
    monkeypatch.setattr("mrsynth.tasks.complete.run.complete_subject", lambda *_, **__: pytest.fail("too late"))

    status, _, err = run_cli("complete", folder, "--segment")
    assert status == 4 and "reads T1, of which none is to be made" in " ".join(err.split())
