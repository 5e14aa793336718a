"""`complete` from a folder to files: what is made, where it lies, and what is said of it."""

import csv
import gzip
import io
import json
import re
import struct
from base64 import b64decode
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import mrsynth
from mrsynth.contrasts import STANDARD, WARNINGS, Contrast
from mrsynth.errors import InputError, UsageError
from mrsynth.io.subjects import find_subject, load_subject
from mrsynth.reports.record import Report
from mrsynth.sampling import Sampling, fast_steps
from mrsynth.scans.grid import Orientation
from mrsynth.scans.hounsfield import HOUNSFIELD
from mrsynth.scans.preparation import prepare
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.synthesis import Synthesis
from mrsynth.tasks.complete.run import (
    CompleteOptions,
    against_reference,
    complete,
    complete_subject,
    load_method,
    plan,
)
from mrsynth.tasks.complete.self_check import spread_slices
from tests.helpers import moved_fields

T1, T1CE, T2, FLAIR = STANDARD
QUICK = {"self_check": False, "precision": "fp32"}

pytestmark = pytest.mark.usefixtures("only_tiny")


@pytest.fixture
def subject_folder(write_subject_folder, tmp_path):
    return write_subject_folder(tmp_path, "p1", without=[T1CE])


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return load_method(tiny_checkpoint)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def report_in(folder):
    return Report.model_validate_json((folder / "report.json").read_text())


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "name", "images"),
    [
        ("brats21", "p1", ["p1_t1ce", "p1_flair"]),
        ("brats23", "p1-000", ["p1-000-t1c", "p1-000-t2f"]),
        ("bids", "sub-01", ["sub-01_ce-gadolinium_desc-synth_T1w", "sub-01_desc-synth_FLAIR"]),
        ("nnunet", "case", ["case_0001", "case_0003"]),
        ("free", "anna", ["anna_t1ce", "anna_flair"]),
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_the_files_are_named_as_the_study_names_its_own(write_subject_folder, tmp_path, layout, name, images):
    folder = write_subject_folder(tmp_path, name, layout, without=[T1CE, FLAIR])

    todo, written = complete(CompleteOptions(folder=folder, **QUICK))

    assert todo.out == folder / "mrsynth"
    assert names(todo.out) == sorted(
        [
            *(image + ending for image in images for ending in (".nii.gz", ".json")),
            "mrsynth.log",
            "metrics.csv",
            "preview.png",
            "report.html",
            "report.json",
        ]
    )
    assert [path.name for path in written.images.values()] == [f"{image}.nii.gz" for image in images]
    scans = {path.name for path in folder.rglob("*.nii.gz") if "mrsynth" not in path.parts}
    assert len(scans) == 2 and not scans & set(names(todo.out))
    # what was made is never taken for a scan
    assert find_subject(folder).missing() == (T1CE, FLAIR)
    said = (todo.out / "mrsynth.log").read_text()
    assert f"WARNING {WARNINGS[T1CE]}" in said, "wherever a T1ce is written"


def test_everything_is_said_of_an_image(subject_folder, only_tiny):
    _, written = complete(CompleteOptions(folder=subject_folder, samples=3, seed=4, precision="fp32"))

    out = subject_folder / "mrsynth"
    assert {"p1_t1ce_spread.nii.gz", "p1_t1ce_spread.json"} <= set(names(out))
    header = nib.load(out / "p1_t1ce.nii.gz").header
    assert header["descrip"].item().startswith(b"SYNTHETIC T1ce by mrsynth")
    assert header.get_data_dtype() == np.float32
    said = json.loads((out / "p1_t1ce.json").read_text())
    checkpoint = sha256(only_tiny.read_bytes()).hexdigest()
    assert (said["synthetic"], said["Content"], said["Method"], said["Target"]) == (True, "image", "fgc2f", "t1ce")
    assert said["Weights"] == {"name": "tiny", "sha256": checkpoint, "licence": "CC0"}
    assert said["Sampler"].pop("noise").startswith("v2: Philox")
    assert said["Sampler"] == {"mode": "draws", "name": "ddim", "steps": 2, "seed": 4, "samples": 3, "eta": 0.0}
    scans = [subject_folder / f"p1_{c}.nii.gz" for c in ("t1", "t2", "flair")]
    assert [(i["file"], i["sha256"]) for i in said["Inputs"]] == [
        (path.name, sha256(path.read_bytes()).hexdigest()) for path in scans
    ]
    assert "0.995 quantile" in said["IntensityMapping"] and said["SkullStripped"] is True
    assert said["Software"]["mrsynth"] == mrsynth.__version__ and "torch" in said["Software"]
    assert any("never evidence of contrast enhancement" in notice for notice in said["Notices"])
    assert any("less than a whole brain" in warning for warning in said["Warnings"])
    assert json.loads((out / "p1_t1ce_spread.json").read_text())["Content"] == "spread"

    report = report_in(out)
    assert report == written.report
    assert (report.subject, report.layout, report.available) == ("p1", "brats21", (T1, T2, FLAIR))
    assert (report.sampler.name, report.sampler.steps, report.sampler.device, report.sampler.precision) == (
        *("ddim", 2),
        *("cpu", "fp32"),
    )
    (made,) = report.outputs
    assert (made.contrast, made.file, made.spread_file) == (T1CE, "p1_t1ce.nii.gz", "p1_t1ce_spread.nii.gz")
    assert made.sha256 == sha256((out / made.file).read_bytes()).hexdigest()
    assert set(report.timings) == {"reading", "preparation", "synthesis", "self-check", "total"}
    assert report.peak_memory_mb > 50 and report.preparation["resampled"] is False
    assert report.selection.startswith("tiny: makes t1ce from t1+t2+flair")

    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert len(rows) == len(report.scores) > 0
    assert {row["metric"] for row in rows} >= {"PSNR", "PSNR_FIT", "EDGE", "EDGE_R", "SLOPE"}
    page = (out / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and page.count('src="data:image/png;base64,iVBOR') == 1
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)

    preview = Image.open(out / "preview.png")
    (inside,) = re.findall('src="data:image/png;base64,([^"]+)', page)
    np.testing.assert_array_equal(np.asarray(preview), np.asarray(Image.open(io.BytesIO(b64decode(inside)))))
    assert preview.text["Software"] == f"mrsynth {mrsynth.__version__}" and preview.text["Title"] == "SYNTHETIC T1ce"
    assert "never evidence of contrast enhancement" in preview.text["Warning"]


def test_without_the_viewer_the_pictures_stay(subject_folder, run_cli, only_tiny):
    assert run_cli("complete", subject_folder, "--no-viewer", "--no-self-check")[0] == 0

    out = subject_folder / "mrsynth"
    page = (out / "report.html").read_text()
    assert (
        'class="viewer"' not in page
        and "application/json" not in page
        and page.count('src="data:image/png;base64,iVBOR') == 1
    )
    assert (out / "preview.png").exists()


@pytest.mark.usefixtures("no_pictures")
def test_mean_and_deviation_files(subject_folder):
    complete(CompleteOptions(folder=subject_folder, samples=3, **QUICK))

    out = subject_folder / "mrsynth"
    mean, std = (nib.load(out / f"p1_t1ce{tag}.nii.gz").get_fdata() for tag in ("", "_spread"))
    brain = nib.load(subject_folder / "p1_t1.nii.gz").get_fdata() != 0
    assert mean.min() >= 0 and mean.max() <= 1000 and mean[brain].std() > 1
    assert 0 < std[brain].mean() < 500
    assert not mean[~brain].any() and not std[~brain].any()


@pytest.mark.usefixtures("no_pictures")
def test_only_the_target_is_written(write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE, FLAIR])
    todo, written = complete(CompleteOptions(folder=folder, targets=(FLAIR,), **QUICK))

    assert todo.targets == (FLAIR,) and set(written.images) == {FLAIR}
    assert [n for n in names(todo.out) if n.endswith(".nii.gz")] == ["p1_flair.nii.gz"]
    assert [o.contrast for o in report_in(todo.out).outputs] == [FLAIR]


@pytest.mark.usefixtures("no_pictures")
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(subject_folder, tmp_path):
    def made(out, **options):
        complete(CompleteOptions(folder=subject_folder, out=tmp_path / out, **QUICK, **options))
        return (tmp_path / out / "p1_t1ce.nii.gz").read_bytes()

    first = made("a")
    assert first == made("b")
    assert first != made("c", seed=1)


@pytest.mark.parametrize(
    ("asked", "recorded"),
    [
        ({}, ("ddim", 2)),
        ({"steps": 4, "sampler": "dpm_solver_pp"}, ("dpm_solver_pp", 4)),
        ({"sampler": "ddpm"}, ("ddpm", 2)),
        ({"fast": True}, ("ddim", 2)),
        ({"fast": True, "steps": 5}, ("ddim", 5)),
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_what_was_really_used_is_recorded(subject_folder, monkeypatch, asked, recorded):
    """The method itself is watched."""
    from mrsynth.methods.fgc2f import FgC2F

    used, original = set(), FgC2F.synthesise

    def watched(self, *arguments, **options):
        used.add((options["sampler"], options["steps"]))
        return original(self, *arguments, **options)

    monkeypatch.setattr(FgC2F, "synthesise", watched)
    complete(CompleteOptions(folder=subject_folder, self_check=True, precision="fp32", **asked))

    report = report_in(subject_folder / "mrsynth")
    sampler = json.loads((subject_folder / "mrsynth" / "p1_t1ce.json").read_text())["Sampler"]
    assert used == {recorded} == {(report.sampler.name, report.sampler.steps)} == {(sampler["name"], sampler["steps"])}
    assert {len(row.slices) for row in report.scores} == {2 if asked.get("fast") else 5}


def test_without_the_checkpoints_advice_the_methods_own_is_recorded(subject_folder, write_tiny_checkpoint, tmp_path):
    path = write_tiny_checkpoint(tmp_path / "own.safetensors", "own", sampling={})
    done = complete_subject(load_subject(subject_folder), load_method(path), sampling=Sampling(precision="fp32"))

    assert (done.how.sampler, done.how.steps) == ("ddpm", 3)


@pytest.mark.parametrize(("usual", "fast"), [(1, 1), (2, 2), (3, 2), (4, 2), (50, 25), (200, 100)])
def test_fast_takes_half_the_steps_but_one_for_each_stage(usual, fast):
    assert fast_steps(usual) == fast


# Scores --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
def test_every_available_contrast_is_hidden_once(subject_folder):
    complete(CompleteOptions(folder=subject_folder, precision="fp32"))

    rows = [row for row in report_in(subject_folder / "mrsynth").scores if row.kind == "self-check"]
    assert {(row.target, row.pattern) for row in rows} == {(T1, "t2+flair"), (T2, "t1+flair"), (FLAIR, "t1+t2")}
    assert {(row.region, row.metric) for row in rows} >= {
        (region, metric) for region in ("volume", "brain") for metric in ("PSNR", "SSIM", "MSE", "MAE")
    }
    assert all(np.isfinite(row.value) and row.protocol.endswith("2d") for row in rows)


@pytest.mark.usefixtures("no_pictures")
def test_one_contrast_leaves_nothing_to_check_and_the_report_says_so(write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[T1, T1CE, FLAIR])
    complete(CompleteOptions(folder=folder, precision="fp32"))

    assert report_in(folder / "mrsynth").scores == ()
    assert "T2 is the only contrast of this subject" in (folder / "mrsynth" / "report.html").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_perfect_method_passes_its_self_check(make_subject, tiny, monkeypatch):
    """The truth of a self-check is scaled as the method's output is: the image itself scores as good as equal."""
    subject = make_subject(without=[T1CE], shape=(32, 36, 24))

    whole = prepare(subject, tiny.method.contrasts, tiny.preparation)

    def oracle(method, prepared, *_, **__):
        assert prepared.images.shape == whole.images.shape  # the contrasts of this subject show the same brain
        return Synthesis(whole.images, None, None)

    monkeypatch.setattr("mrsynth.tasks.trained.synthesise_volume", oracle)
    rows = complete_subject(subject, tiny, self_check=True).scores

    assert min(row.value for row in rows if (row.metric, row.region) == ("PSNR", "brain")) > 35
    assert min(row.value for row in rows if row.metric == "SSIM") > 0.99


@pytest.mark.usefixtures("no_pictures")
def test_a_contrast_that_no_training_subject_had_is_not_read_in_the_self_check_either(make_subject, tiny):
    trained = replace(tiny, card=tiny.card.model_copy(update={"subjects": {T1: 3, T1CE: 3, T2: 3, FLAIR: 0}}))
    subject = make_subject(without=[T1CE])
    asked = {"sampling": Sampling(precision="fp32", device="cpu"), "self_check": True}
    rows, without = (complete_subject(s, trained, **asked).scores for s in (subject, subject.without(FLAIR)))

    assert {(row.pattern, row.target) for row in rows} == {("t2", T1), ("t1", T2)}
    assert [row.value for row in rows] == [row.value for row in without]


@pytest.mark.usefixtures("no_pictures")
def test_a_fast_self_check_scores_one_contrast_as_the_whole_does_on_fewer_slices(make_subject, tiny):
    subject = make_subject(without=[T1CE])
    checked = [
        complete_subject(subject, tiny, sampling=Sampling(precision="fp32", device="cpu", fast=fast), self_check=True)
        for fast in (False, True)
    ]
    slices = [{row.target: row.slices for row in done.scores} for done in checked]

    assert set(slices[0]) == {T1, T2, FLAIR}
    assert set(slices[1]) == {T1}
    assert (len(slices[0][T1]), len(slices[1][T1])) == (5, 2)


def test_figures_of_a_reference_do_not_depend_on_how_the_scans_are_stored(make_subject):
    """Axial slices are those of the head, not what the third axis of the files counts."""

    def figures(order):
        subject = make_subject("c")
        affine = subject.reference.affine[:, [*order, 3]]
        t1, t2 = (Volume(subject.volumes[c].voxels.transpose(order), affine) for c in (Contrast.T1, Contrast.T2))
        random = np.random.default_rng(0).uniform(0, 1, subject.reference.shape).astype(np.float32).transpose(order)
        done = SimpleNamespace(
            prepared=SimpleNamespace(hounsfield=HOUNSFIELD, scales={Contrast.T1: 1.0}),
            seconds={"synthesis": 1.0},
            in_u=lambda target: random,
        )
        alone = Subject("c", {Contrast.T1: t1})
        return {(r.protocol, r.region, r.metric): r.value for r in against_reference(alone, done, Contrast.T2, t2)}

    axial = figures((0, 1, 2))
    assert {"CONSISTENCY", "EDGE", "EDGE_R"} <= {metric for _, _, metric in axial}
    for order in ((2, 0, 1), (0, 2, 1)):
        assert figures(order) == pytest.approx(axial)


@pytest.mark.parametrize("named", ["nowhere", "t1 only"])
def test_a_reference_that_holds_no_truth_is_told_before_anything_is_read(
    named, write_subject_folder, tmp_path, monkeypatch
):
    """In a dry run too."""
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE, FLAIR])
    write_subject_folder(tmp_path, "t1 only", without=[T1CE, T2, FLAIR])
    monkeypatch.setattr("mrsynth.tasks.complete.run.load_raw", None)
    for dry in (False, True):
        with pytest.raises(InputError, match=named):
            complete(CompleteOptions(folder=folder, reference=tmp_path / named, dry_run=dry, **QUICK))


def test_a_reference_is_compared_in_the_whole_volume_and_in_the_brain(write_subject_folder, tmp_path):
    whole = write_subject_folder(tmp_path / "truth", "p1")
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE, FLAIR])
    complete(CompleteOptions(folder=folder, reference=whole, **QUICK))

    rows = report_in(folder / "mrsynth").scores
    assert {(row.kind, row.pattern) for row in rows} == {("reference", "t1+t2")}
    for target in (T1CE, FLAIR):
        of_target = {(row.region, row.metric): row for row in rows if row.target == target}
        assert set(of_target) >= {(r, m) for r in ("volume", "brain") for m in ("PSNR", "SSIM", "MSE", "MAE")}
        truth, image = (nib.load(f / f"p1_{target}.nii.gz").get_fdata() for f in (whole, folder / "mrsynth"))
        brain = nib.load(whole / "p1_t1.nii.gz").get_fdata() != 0
        low, high = np.quantile(truth, [0.001, 0.999])
        error = np.clip((truth - low) / (high - low), 0, 1)[brain] - image[brain] / 1000
        assert of_target["brain", "MSE"].value == pytest.approx((error**2).mean(), rel=1e-3)
    assert "Against the true T1ce" in (folder / "mrsynth" / "report.html").read_text()


def test_slices_of_the_self_check_lie_in_the_brain():
    mask = np.zeros((4, 4, 100), bool)
    mask[..., 20:81] = True

    assert spread_slices(mask, 5) == [26, 38, 50, 62, 74]
    assert spread_slices(mask[..., 20:22], 5) == [0, 1] or set(spread_slices(mask[..., 20:22], 5)) <= {0, 1}


# Any grid ------------------------------------------------------------------------------------------------------------


def turned(volume, axes):
    """The same picture in the same place, with its array axes along `axes`."""
    way = Orientation.between(volume.affine, axes)
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, flip) in enumerate(zip(way.order, way.flip, strict=True)):
        turn[old, new] = -1 if flip else 1
        turn[old, 3] = volume.shape[old] - 1 if flip else 0
    return Volume(np.ascontiguousarray(way.apply(volume.voxels)), volume.affine @ turn)


def in_space(volume, like):
    """The voxels of a volume in the order of another's, found through the affines alone."""
    places = np.stack([*np.indices(like.shape), np.ones(like.shape)]).reshape(4, -1)
    i, j, k, _ = np.rint(np.linalg.inv(volume.affine) @ like.affine @ places).astype(int)
    return volume.voxels[i, j, k].reshape(like.shape)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 4.0), (0.9, 1.1, 0.7)], ids=str)
def test_the_picture_is_the_same_however_the_arrays_lie(make_subject, tiny, spacing):
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = 30, 40, -20
    shape = tuple(int(n / s) for n, s in zip((26, 30, 22), spacing, strict=True))
    subject = make_subject("s", without=[T1CE, FLAIR], shape=shape, affine=affine)
    first = complete_subject(subject, tiny, sampling=Sampling(precision="fp32")).volumes

    for axes in ("RAS", "PIR", "SAL", "IRP", "ASR"):
        volumes = {c: turned(v, axes) for c, v in subject.volumes.items()}
        made = complete_subject(Subject("s", volumes), tiny, sampling=Sampling(precision="fp32")).volumes
        for target in (T1CE, FLAIR):
            assert made[target].shape == volumes[T1].shape and np.array_equal(made[target].affine, volumes[T1].affine)
            assert np.abs(in_space(made[target], first[target]) - first[target].voxels).max() < 0.1
    assert first[T1CE].voxels.std() > 1


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.usefixtures("no_pictures")
def test_the_result_lies_on_the_reference_inputs_own_grid(make_subject, tmp_path, ending):
    """int16 with scl_slope, 2 x 2 x 4 mm, oblique, a qform that is not the sform: all of it comes back as it was."""
    folder = tmp_path / "p1"
    folder.mkdir()
    oblique = np.array([[-1.9, 0.3, 0.2, 25], [0.3, 1.95, 0.3, -31], [0.1, 0.2, 3.9, -18], [0, 0, 0, 1.0]])
    for contrast, volume in make_subject(without=[T1CE], shape=(16, 18, 7)).volumes.items():
        image = nib.Nifti1Image(volume.voxels.astype(np.int16), None)
        image.header.set_slope_inter(0.5, 0)
        image.header.set_xyzt_units("mm", "sec")
        image.set_qform(np.diag([2.0, 2.0, 4.0, 1.0]), code=1, strip_shears=True)
        image.set_sform(oblique, code=4)
        nib.save(image, folder / f"p1_{contrast}{ending}")
    complete(CompleteOptions(folder=folder, **QUICK))

    before, after = nib.load(folder / f"p1_t1{ending}"), nib.load(folder / "mrsynth" / "p1_t1ce.nii.gz")
    assert after.shape == before.shape and np.array_equal(after.affine, before.affine)
    assert moved_fields(after, before) == []
    assert report_in(folder / "mrsynth").preparation["resampled"] is True
    assert np.asarray(after.dataobj)[before.get_fdata() != 0].std() > 1


@pytest.mark.usefixtures("no_pictures")
def test_a_scaled_file_gives_what_its_values_give(write_subject_folder, tmp_path):
    """scl_slope 0.5 halves every value, and the scale of the inputs must not matter."""
    plain = write_subject_folder(tmp_path / "a", "p1", without=[T1CE])
    scaled = write_subject_folder(tmp_path / "b", "p1", without=[T1CE])
    for path in scaled.iterdir():
        header_and_voxels = bytearray(gzip.decompress(path.read_bytes()))
        header_and_voxels[112:116] = struct.pack("<f", 0.5)  # nibabel would divide the voxels by it
        path.write_bytes(gzip.compress(header_and_voxels))
        assert nib.load(path).get_fdata().max() == nib.load(plain / path.name).get_fdata().max() / 2
    for folder in (plain, scaled):
        complete(CompleteOptions(folder=folder, **QUICK))

    one, other = (nib.load(folder / "mrsynth" / "p1_t1ce.nii.gz").get_fdata() for folder in (plain, scaled))
    assert np.array_equal(one, other)


# Plans and the API ---------------------------------------------------------------------------------------------------


def test_subjects_that_share_a_folder_do_not_share_their_results(write_subject_folder, tmp_path):
    for name in ("p01", "p02"):
        folder = write_subject_folder(tmp_path / "made", name, without=[T1CE])
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())

    assert plan(CompleteOptions(folder=tmp_path / "p01")).out == tmp_path / "mrsynth" / "p01"
    assert plan(CompleteOptions(folder=tmp_path / "p02")).out == tmp_path / "mrsynth" / "p02"


def test_the_api_refuses_what_makes_no_sense(make_subject, tiny):
    with pytest.raises(UsageError, match="lacks none of the contrasts that tiny makes"):
        complete_subject(make_subject(), tiny)
    with pytest.raises(UsageError, match="t1 is already present"):
        complete_subject(make_subject(without=[T2]), tiny, [T1])
    with pytest.raises(UsageError, match="100 sampling steps from a chain of 8"):
        complete_subject(make_subject(without=[T2]), tiny, sampling=Sampling(steps=100))
    with pytest.raises(UsageError, match="no sampler 'euler'"):
        complete_subject(make_subject(without=[T2]), tiny, sampling=Sampling(sampler="euler"))


def test_contrasts_the_method_does_not_know_are_left_alone(make_subject, tiny):
    subject = make_subject("s", without=[T1CE, FLAIR], contrasts=(*STANDARD, Contrast.PD))
    done = complete_subject(subject, tiny, sampling=Sampling(precision="fp32"))
    without = complete_subject(
        replace(subject, volumes={c: subject.volumes[c] for c in (T1, T2)}), tiny, sampling=Sampling(precision="fp32")
    )

    assert set(done.volumes) == {T1CE, FLAIR} and done.spreads == {}
    assert np.array_equal(done.volumes[FLAIR].voxels, without.volumes[FLAIR].voxels)
