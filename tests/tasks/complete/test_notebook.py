"""A completion in a notebook: images in memory in, images, files and a viewer out."""

import html
import json
import re
import runpy
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import mrsynth
from mrsynth import Sampling, complete_subject
from mrsynth.contrasts import STANDARD
from mrsynth.errors import InputError, UsageError
from mrsynth.reports.record import Report
from tests.helpers import content

T1, T1CE, T2, FLAIR = STANDARD
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "notebook.py"


def alike(one, other):
    return all(
        np.array_equal(one.volumes[c].voxels, other.volumes[c].voxels)
        and np.array_equal(one.volumes[c].affine, other.volumes[c].affine)
        for c in {*one.volumes, *other.volumes}
    )


# In ------------------------------------------------------------------------------------------------------------------


def test_images_and_arrays_give_what_the_subject_gives(images, subject, trained, completion):
    arrays = {name: image.get_fdata() for name, image in images.items()}
    affine = subject.reference.affine

    assert alike(complete_subject(images, trained, name="p1"), completion)
    assert alike(complete_subject(arrays, trained, affine=affine, name="p1"), completion)
    assert alike(complete_subject({**images, "t2": subject.volumes[T2]}, trained, ["t1ce"], name="p1"), completion)


def test_units_of_a_header_are_minded_and_an_axis_of_length_one_is_dropped(images, subject, trained, completion):
    micro = {}
    for name, image in images.items():
        scale = np.diag([1000.0, 1000, 1000, 1])
        micro[name] = nib.Nifti1Image(image.get_fdata()[..., None], scale @ image.affine)
        micro[name].header.set_xyzt_units("micron")
    made = complete_subject(micro, trained, name="p1")

    np.testing.assert_allclose(made.volumes[T1CE].affine, subject.reference.affine)
    np.testing.assert_array_equal(made.volumes[T1CE].voxels, completion.volumes[T1CE].voxels)


def test_what_cannot_be_used_is_told_by_its_contrast(images, trained):
    flair, affine = images["flair"].get_fdata(), images["flair"].affine
    bad, moved = flair.copy(), affine.copy()
    moved[0, 3] += 40
    bad[0, 0, 0] = np.nan
    wrong = [
        ({"flair": flair}, {}, UsageError, "FLAIR given is an array.*affine="),
        ({"flair": flair}, {"affine": np.eye(3)}, UsageError, "4 x 4, not 3 x 3"),
        ({"t3": flair}, {"affine": affine}, UsageError, "No contrast is named 't3'"),
        ({}, {}, UsageError, "no image"),
        ({"flair": bad}, {"affine": affine}, InputError, "FLAIR given: 1 voxels are NaN"),
        ({"flair": flair > 0}, {"affine": affine}, InputError, "FLAIR given holds bool"),
        ({"flair": (flair > 0) * 1.0}, {"affine": affine}, InputError, "only the values 0, 1"),
        ({"flair": flair[0]}, {"affine": affine}, InputError, "has 2 axes"),
        ({"flair": flair}, {"affine": np.diag([1, 1, 0, 1])}, InputError, "zero along at least one axis"),
        ({"t1": images["t1"], "flair": flair}, {"affine": moved}, InputError, "grids"),
    ]
    for given, more, kind, words in wrong:
        with pytest.raises(kind, match=words):
            complete_subject(given, trained, **more)


# Out -----------------------------------------------------------------------------------------------------------------


def test_an_image_of_nibabel_has_the_voxels_and_says_what_it_is(completion, subject):
    image = completion.to_nibabel("t1ce")

    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), completion.volumes[T1CE].voxels)
    np.testing.assert_allclose(image.affine, subject.reference.affine)
    assert image.header["descrip"].item().startswith(b"SYNTHETIC T1ce by mrsynth")
    assert image.header.get_xyzt_units()[0] == "mm" and image.get_data_dtype() == np.float32
    for contrast, which in (("t2", "image"), ("t1ce", "mean")):
        with pytest.raises(UsageError, match=f"No {which} of {contrast} was made"):
            completion.to_nibabel(contrast, which)


def test_the_spread_of_samples_is_an_image_too(subject, trained):
    made = complete_subject(subject, trained, sampling=Sampling(samples=2))

    np.testing.assert_array_equal(made.to_nibabel(T1CE, "spread").get_fdata(), made.spreads[T1CE].voxels)


def test_what_is_saved_is_what_complete_writes(completion, subject, tmp_path, no_pictures):
    saved = completion.save(tmp_path / "out")

    assert set(content(tmp_path / "out")) == {
        *("p1_t1ce.nii.gz", "p1_t1ce.json", "metrics.csv", "preview.png", "report.html", "report.json")
    }
    image = nib.load(saved.images[T1CE])
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), completion.volumes[T1CE].voxels)
    np.testing.assert_allclose(image.affine, subject.reference.affine)
    said = json.loads((tmp_path / "out" / "p1_t1ce.json").read_text())
    assert said["synthetic"] is True and {i["file"] for i in said["Inputs"]} == {
        "(in memory; SHA-256 of its voxels, float32)"
    }
    assert len({i["sha256"] for i in said["Inputs"]}) == 3
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert (report.subject, report.available) == ("p1", (T1, T2, FLAIR)) and report == saved.report
    with pytest.raises(UsageError, match="already holds"):
        completion.save(tmp_path / "out")
    completion.save(tmp_path / "out", overwrite=True, viewer=False)
    assert 'class="viewer"' not in (tmp_path / "out" / "report.html").read_text()


def test_a_cell_shows_a_page_of_its_own_that_asks_nothing_of_a_network(completion):
    cell = completion._repr_html_()
    (page,) = re.findall('srcdoc="([^"]*)"', cell)
    page = html.unescape(page)

    assert cell.startswith("<iframe") and page.startswith("<!DOCTYPE html>")
    assert page.count('class="viewer"') == 1 and "never evidence of contrast enhancement" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page) and "http" not in page
    layers = json.loads(re.search('<script type="application/json">(.*?)</script>', page).group(1))["layers"]
    assert [layer["title"] for layer in layers] == ["T1", "T2", "FLAIR", "synthetic T1ce"]


def test_the_example_runs(images, trained, tmp_path, monkeypatch, capsys, no_pictures):
    """As it stands, with a small checkpoint in place of the one it names."""
    folder = tmp_path / "anna"
    folder.mkdir()
    for name, image in images.items():
        nib.save(image, folder / f"{name}.nii.gz")
    monkeypatch.setattr(mrsynth, "load_method", lambda name: trained, raising=False)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(folder), str(tmp_path / "out")])

    runpy.run_path(str(EXAMPLE), run_name="__main__")

    said = capsys.readouterr().out
    assert "T1ce: (24, 28, 6), mean" in said and "self-check: t1 from t2+flair" in said
    assert (tmp_path / "out" / "anna_t1ce.nii.gz").exists()
    assert "<iframe" in (tmp_path / "out" / "viewer.html").read_text()
