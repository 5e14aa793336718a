"""What the page shows of a completion: the volumes of its files, in the values of its files."""

from types import SimpleNamespace

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.scans.grid import Orientation
from mrsynth.scans.volume import Volume
from mrsynth.tasks.complete.completion import SCALE
from mrsynth.tasks.complete.pictures import picture

T1, T1CE = Contrast.T1, Contrast.T1CE
RAS = np.eye(4)


@pytest.fixture
def shown(make_subject, monkeypatch):
    """Title -> panel of a subject stored in RAS, with its true T1ce; and the subject."""
    monkeypatch.setattr("mrsynth.tasks.complete.pictures.montage", lambda *_, **__: b"PNG")
    panels = []
    monkeypatch.setattr("mrsynth.tasks.complete.pictures.viewer_data", lambda given, *_: panels.extend(given))
    subject = make_subject(affine=RAS)
    made = Volume(np.where(subject.foreground(), 0.25, 0).astype(np.float32) * np.float32(SCALE), RAS)
    record = {"offsets": {T1: 0.0}}
    completion = SimpleNamespace(
        prepared=SimpleNamespace(scales={T1: 640.0}, record=record, hounsfield=(-1000, 1500)),
        volumes={T1CE: made},
        means={},
        spreads={T1CE: Volume(made.voxels / 10, RAS)},
        errors={T1CE: Volume(made.voxels / 20, RAS)},
        in_u=lambda contrast: made.voxels / np.float32(SCALE),
    )
    raw = SimpleNamespace(subject=subject.without(T1CE), registrations={}, home=T1)
    picture(raw, [T1], completion, T1CE, subject.volumes[T1CE], viewer=True)
    return {panel.title: panel for panel in panels}, subject


def test_a_panel_has_the_values_of_its_file_in_lps(shown):
    panels, subject = shown
    lps = Orientation.between(RAS, "LPS")
    brain = lps.apply(subject.foreground())
    expected = {
        "T1": lps.apply(subject.volumes[T1].voxels).clip(None, 640),
        "synthetic T1ce": np.where(brain, 250, 0),
        "spread of samples": np.where(brain, 25, 0),
        "error to expect": np.where(brain, 12.5, 0),
    }
    for title, values in expected.items():
        low, high = panels[title].ends
        np.testing.assert_allclose(low + panels[title].voxels * (high - low), values, atol=1e-3 * high)

    true, (low, high) = panels["true T1ce"].voxels, panels["true T1ce"].ends
    values = lps.apply(subject.volumes[T1CE].voxels).clip(low, high)
    np.testing.assert_allclose((low + true * (high - low))[brain], values[brain], rtol=1e-4)
    difference = np.abs(true - panels["synthetic T1ce"].voxels)
    np.testing.assert_allclose(panels["difference"].voxels[brain], difference[brain], atol=1e-6)


def test_each_panel_says_what_it_is(shown):
    assert [(p.title, p.kind) for p in shown[0].values()] == [
        ("T1", "input"),
        ("synthetic T1ce", "synthetic"),
        ("spread of samples", "uncertainty"),
        ("error to expect", "uncertainty"),
        ("true T1ce", "reference"),
        ("difference", "difference"),
    ]
