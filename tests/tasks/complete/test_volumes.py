"""`complete` with a method of three dimensions: a network per target, whole volumes, weights that may be elsewhere."""

import json
import re
from pathlib import Path
from shutil import copyfile

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, T1CE_WARNING, Contrast
from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
from mrsynth.methods import build_method, preset
from mrsynth.methods.cwdm.method import Cwdm
from mrsynth.reports.record import Report
from mrsynth.sampling import Sampling
from mrsynth.scans.hounsfield import HOUNSFIELD
from mrsynth.scans.intensity import volume_quantile_unit
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.scores.rows import Score
from mrsynth.tasks.complete.completion import in_standard_u
from mrsynth.tasks.complete.run import CompleteOptions, complete, complete_subject, load_method, plan
from tests.helpers import moved_fields

T1, T1CE, T2, FLAIR = STANDARD
THREE = (T1, T2, FLAIR)
OWN = PreparationConfig(multiple=32, depth_multiple=32)
LIKE_RELEASED = PreparationConfig(
    multiple=32, depth_multiple=32, crop="full", grid=(64, 64, 64), intensity="volume_quantiles"
)

pytestmark = pytest.mark.usefixtures("one_thread", "only_cwdm")


def write_cwdm(path, preparation=OWN, **card):
    """Preset tiny for T1ce, seeded weights of which no layer is left at zero, two DDIM steps; called `cwdm-tiny`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = build_method({**preset("cwdm", "tiny"), "target": T1CE})
        with torch.no_grad():
            for parameter in method.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
    said = {"requires": {T1CE: THREE}, "licence": "CC0", "sampling": {"sampler": "ddim", "steps": 2}} | card
    content = (method.config.model_dump(mode="json"), preparation.model_dump(mode="json"), method.state_dict())
    card = Card(name="cwdm-tiny", method="cwdm", contrasts=STANDARD, **said)
    write_checkpoint(path, Checkpoint(card, *content))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_cwdm(tmp_path_factory.mktemp("cwdm") / "cwdm-tiny.safetensors")


@pytest.fixture(scope="module")
def cwdm(checkpoint):
    return load_method(checkpoint)


@pytest.fixture(scope="module")
def like_released(tmp_path_factory):
    return load_method(write_cwdm(tmp_path_factory.mktemp("released") / "like.safetensors", LIKE_RELEASED))


@pytest.fixture
def only_cwdm(checkpoint, monkeypatch, tmp_path):
    """`cwdm-tiny` is the only checkpoint known; the store would be `home/weights`."""
    monkeypatch.setattr("mrsynth.io.store.manifest", list)
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(checkpoint.parent))
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "home"))


@pytest.fixture
def and_fgc2f(only_cwdm, checkpoint, tiny_checkpoint, monkeypatch):
    """`tiny`, of fgc2f, is at hand too."""
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", f"{checkpoint.parent}:{tiny_checkpoint.parent}")


@pytest.fixture
def echo(monkeypatch):
    """In place of the network: the image that was made is T1, as the network would have seen it."""

    def fill_in(self, images, available, wish):
        assert images.shape[2] % 32 == images.shape[3] % 32 == images.shape[4] % 32 == 0
        made = images.clone()
        made[:, 1] = images[:, 0]
        return made

    monkeypatch.setattr(Cwdm, "fill_in", fill_in)


def report_in(folder):
    return Report.model_validate_json((folder / "mrsynth" / "report.json").read_text())


def options(folder, **changes):
    return CompleteOptions(folder=folder, **{"precision": "fp32", "device": "cpu"} | changes)


def made(subject, trained, **changes):
    named = {name: changes.pop(name) for name in list(changes) if name in Sampling.model_fields}
    asked = Sampling(**{"precision": "fp32", "device": "cpu"} | named)
    return complete_subject(subject, trained, sampling=asked, **changes)


# Files and words -----------------------------------------------------------------------------------------------------


def test_everything_is_said_of_an_image(folder):
    todo, written = complete(options(folder, samples=2, seed=4))

    out = folder / "mrsynth"
    images = ["p1_t1ce.json", "p1_t1ce.nii.gz", "p1_t1ce_spread.json", "p1_t1ce_spread.nii.gz"]
    assert sorted(p.name for p in out.iterdir()) == [
        "metrics.csv",
        "mrsynth.log",
        *images,
        "preview.png",
        "report.html",
        "report.json",
    ]
    brain = nib.load(folder / "p1_t1.nii.gz").get_fdata() != 0
    mean, std = (nib.load(out / f"p1_t1ce{tag}.nii.gz").get_fdata() for tag in ("", "_spread"))
    assert mean.min() >= 0 and mean.max() <= 1000 and mean[brain].std() > 1
    assert 0 < std[brain].mean() < 500
    assert not mean[~brain].any() and not std[~brain].any()

    report = report_in(folder)
    assert report == written.report
    assert todo.selection.reason == report.selection
    assert report.selection.startswith("cwdm-tiny: makes t1ce from t1+t2+flair, the only checkpoint at hand that can")
    assert (report.weights.name, report.weights.method, report.available) == ("cwdm-tiny", "cwdm", THREE)
    assert (report.sampler.name, report.sampler.steps, report.sampler.samples) == ("ddim", 2, 2)
    assert [report.preparation[what] for what in ("crop", "grid", "resampled")] == ["brain", None, False]
    assert report.preparation["shape"]["model"] == [32, 32, 32]
    for name in ("p1_t1ce.json", "p1_t1ce_spread.json"):
        said = json.loads((out / name).read_text())
        assert (said["Method"], said["Target"], said["SelectionReason"]) == ("cwdm", "t1ce", report.selection)
        assert [Path(i["file"]).name for i in said["Inputs"]] == [f"p1_{c}.nii.gz" for c in THREE]
        assert T1CE_WARNING in said["Notices"]
    assert T1CE_WARNING in report.notices

    # it cannot make what it reads: no self-check, and no verdict made up for it
    assert report.scores == ()
    page = (out / "report.html").read_text()
    assert page.count('src="data:image/png;base64,iVBOR') == 1
    assert "No self-check was" in page and "How good it is is unknown" in page
    assert "never evidence of contrast enhancement" in page


@pytest.mark.usefixtures("no_pictures")
def test_cycle_spinning_changes_the_image_and_is_told(folder, tmp_path):
    path, images, told = write_cwdm(tmp_path / "mean.safetensors", sampling={"mode": "mean"}), [], []
    for spun in (False, True):
        out = tmp_path / f"out {spun}"
        complete(CompleteOptions(folder=folder, out=out, weights=str(path), mode="mean", cycle_spinning=spun))
        images.append(nib.load(out / "p1_t1ce.nii.gz").get_fdata())
        told.append(json.loads((out / "p1_t1ce.json").read_text()))

    brain = nib.load(folder / "p1_t1.nii.gz").get_fdata() != 0
    assert np.abs(images[0] - images[1]).max() > 10 and not images[1][~brain].any()
    assert [said["Sampler"].get("cycle_spinning") for said in told] == [None, True]
    assert "two grids" in told[1]["Estimator"] and "two grids" not in told[0]["Estimator"]


@pytest.mark.usefixtures("no_pictures")
def test_the_checkpoints_own_validation_speaks_where_nothing_can_be_checked(folder, tmp_path):
    score = Score(
        pattern="t1+t2+flair", target=T1CE, region="brain", metric="PSNR", value=24, subjects=5, protocol="v1"
    )
    path = write_cwdm(tmp_path / "scored.safetensors", scores=(score,))
    complete(options(folder, weights=str(path)))

    assert (
        "24.0 dB brain PSNR on 5 validation subjects (as the checkpoint itself claims), as asked for by name"
        in report_in(folder).selection
    )
    page = (folder / "mrsynth" / "report.html").read_text()
    assert "In validation on 5 other subjects" in page and "is unknown: trust nothing" not in page


@pytest.mark.usefixtures("no_pictures")
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder, tmp_path):
    def bytes_of(out, **changes):
        complete(options(folder, out=tmp_path / out, **changes))
        return (tmp_path / out / "p1_t1ce.nii.gz").read_bytes()

    first = bytes_of("a")
    assert first == bytes_of("b", self_check=False)
    assert first != bytes_of("c", seed=1)


def test_progress_counts_the_steps_of_all_samples(make_subject, cwdm):
    seen = []
    made(make_subject(without=[T1CE]), cwdm, samples=2, steps=3, self_check=True, progress=lambda *s: seen.append(s))

    assert seen == [("synthesising the volume", n, 6) for n in range(1, 7)]


def test_more_steps_than_levels_are_refused_and_nothing_is_left(folder):
    with pytest.raises(UsageError, match="100 sampling steps from a chain of 10"):
        complete(options(folder, steps=100))
    assert not (folder / "mrsynth").exists()


def test_the_method_is_made_ready_for_the_precision_that_is_used(make_subject, cwdm, monkeypatch):
    asked = []
    monkeypatch.setattr(Cwdm, "optimise", lambda self, precision: asked.append(precision))
    used = [made(make_subject(without=[T1CE]), cwdm, steps=1, precision=p).how.precision for p in ("fp32", "bf16")]

    assert asked == used == ["fp32", "bf16"]


# Any grid ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", [(1, 4), (0, 2), (1, 0)], ids="qform {0[0]}, sform {0[1]}".format)
@pytest.mark.usefixtures("no_pictures")
def test_the_result_lies_on_the_inputs_own_oblique_grid(make_subject, tmp_path, codes):
    """2 x 2 x 3 mm, turned and sheared, with the codes as they were: the header comes back, field by field."""
    home = tmp_path / "p1"
    home.mkdir()
    oblique = np.array([[-1.9, 0.3, 0.2, 25], [0.3, 1.95, 0.3, -31], [0.1, 0.2, 2.9, -18], [0, 0, 0, 1.0]])
    for contrast, volume in make_subject(without=[T1CE], shape=(14, 15, 9)).volumes.items():
        image = nib.Nifti1Image(volume.voxels.astype(np.int16), None)
        image.header.set_xyzt_units("mm", "sec")
        image.set_qform(oblique, code=codes[0], strip_shears=True)
        image.set_sform(oblique, code=codes[1])
        nib.save(image, home / f"p1_{contrast}.nii.gz")
    complete(options(home))

    before, after = nib.load(home / "p1_t1.nii.gz"), nib.load(home / "mrsynth" / "p1_t1ce.nii.gz")
    assert after.shape == before.shape and np.array_equal(after.affine, before.affine)
    assert moved_fields(after, before) == []
    assert report_in(home).preparation["resampled"] is True
    inside = before.get_fdata() != 0
    assert after.get_fdata()[inside].std() > 1 and not after.get_fdata()[~inside].any()


def turned(volume, axes):
    """The same picture in the same place, with its array axes along `axes`."""
    way = ornt_transform(io_orientation(volume.affine), axcodes2ornt(tuple(axes)))
    image = nib.Nifti1Image(volume.voxels, volume.affine).as_reoriented(way)
    return Volume(np.ascontiguousarray(image.get_fdata(dtype=np.float32)), image.affine)


@pytest.mark.parametrize("axes", ["RAS", "PIR", "SAL"])
@pytest.mark.parametrize("preparation", ["cwdm", "like_released"])
def test_the_picture_is_the_same_however_the_arrays_lie(make_subject, request, preparation, axes):
    trained = request.getfixturevalue(preparation)
    subject = make_subject("s", without=[T1CE])
    other = Subject("s", {c: turned(v, axes) for c, v in subject.volumes.items()})

    first, second = (made(s, trained, steps=1).volumes[T1CE] for s in (subject, other))

    assert second.shape == other.reference.shape and np.array_equal(second.affine, other.reference.affine)
    assert first.voxels.std() > 1
    assert np.abs(turned(second, "LPS").voxels - first.voxels).max() < 0.1


@pytest.mark.usefixtures("echo")
def test_two_millimetres_come_back_in_place(make_subject, cwdm):
    """T1 as the network saw it, at 1 mm, is T1 once more when it lies on its own grid again."""
    affine = np.array([[-2.0, 0, 0, 20], [0, -2.0, 0, 30], [0, 0, 2.0, -10], [0, 0, 0, 1]])
    subject = make_subject(without=[T1CE], shape=(18, 20, 16), affine=affine)
    done = made(subject, cwdm)

    assert done.prepared.record["spacing_mm"] == {"from": [2, 2, 2], "to": [1, 1, 1]}
    t1, back = subject.volumes[T1].voxels, done.volumes[T1CE].voxels
    assert not back[t1 == 0].any()
    assert np.corrcoef(t1[t1 != 0], back[t1 != 0])[0, 1] > 0.98


# Crop, and the grid of the released weights --------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["cwdm-tiny", "tiny"])
@pytest.mark.usefixtures("no_pictures", "and_fgc2f")
def test_brain_or_full_grid(write_subject_folder, tmp_path, weights):
    home = write_subject_folder(tmp_path, "p1", without=[T1CE], shape=(36, 34, 36))
    brain = nib.load(home / "p1_t1.nii.gz").get_fdata() != 0
    records, images = {}, {}
    for crop in ("brain", "full", None):
        complete(options(home, weights=weights, crop=crop, steps=2, self_check=False, overwrite=True))
        records[crop] = report_in(home).preparation
        images[crop] = nib.load(home / "mrsynth" / "p1_t1ce.nii.gz").get_fdata()
        assert report_in(home).options["crop"] == crop
        assert images[crop].shape == brain.shape and images[crop][brain].std() > 1 and not images[crop][~brain].any()

    assert np.array_equal(images[None], images["brain"]) and records[None] == records["brain"]
    assert not np.array_equal(images["full"], images["brain"])
    small, large = records["brain"], records["full"]
    assert (small["crop"], large["crop"]) == ("brain", "full")
    assert large["box"] == [[0, 36], [0, 34], [0, 36]] != small["box"]
    expected = {"cwdm-tiny": ([32, 32, 32], [64, 64, 64]), "tiny": ([32, 32, 30], [48, 48, 36])}
    assert (small["shape"]["model"], large["shape"]["model"]) == expected[weights]


@pytest.mark.parametrize(
    ("shape", "model"),
    [((24, 28, 20), [64, 64, 64]), ((72, 50, 66), [64, 64, 64]), ((90, 30, 64), [96, 64, 64])],
    ids=["padded", "cropped and padded", "a brain too long for the grid"],
)
@pytest.mark.parametrize("axes", ["LPS", "SAL"])
@pytest.mark.usefixtures("echo")
def test_the_grid_of_the_released_weights_comes_back_exactly(make_subject, like_released, shape, model, axes):
    """T1 as the network saw it: u of the two quantiles, voxel by voxel on the own grid, and 0 outside the brain."""
    subject = make_subject(without=[T1CE], shape=shape)
    subject = Subject("s", {c: turned(v, axes) for c, v in subject.volumes.items()})
    done, cropped = (made(subject, like_released, crop=crop) for crop in (None, "brain"))

    t1 = subject.volumes[T1].voxels
    u = np.where(t1 != 0, volume_quantile_unit(t1)[0], 0)
    for each in (done, cropped):
        assert np.abs(each.volumes[T1CE].voxels - 1000 * u).max() < 1e-3
    record = done.prepared.record
    assert (record["crop"], record["grid"], record["shape"]["model"]) == ("full", [64, 64, 64], model)
    assert "0.999 quantiles of the contrast's whole volume" in record["rule"]
    assert (cropped.prepared.record["crop"], cropped.prepared.record["grid"]) == ("brain", None)


# The choice ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("and_fgc2f")
def test_two_missing_contrasts_are_not_for_cwdm(write_subject_folder, tmp_path):
    home = write_subject_folder(tmp_path, "p1", without=[T1CE, T2])

    with pytest.raises(UsageError, match=r"cwdm cannot make t1ce and t2 from t1\+flair.*that can: tiny \(fgc2f"):
        complete(options(home, method="cwdm"))
    with pytest.raises(UsageError, match="cwdm cannot make t1ce from"):  # nor one of the two
        complete(options(home, method="cwdm", targets=(T1CE,)))
    assert not (home / "mrsynth").exists()
    assert plan(options(home)).selection.entry.name == "tiny"


@pytest.mark.usefixtures("and_fgc2f")
def test_one_missing_contrast_is_for_the_network_made_for_it(folder, write_subject_folder, tmp_path):
    assert plan(options(folder)).selection.entry.name == "cwdm-tiny"
    assert plan(options(folder, method="fgc2f")).selection.entry.name == "tiny"
    other = write_subject_folder(tmp_path / "other", "p2", without=[T2])  # cwdm-tiny makes T1ce only
    assert plan(options(other)).selection.entry.name == "tiny"


# Weights that are elsewhere ------------------------------------------------------------------------------------------


@pytest.fixture
def published(checkpoint, monkeypatch, tmp_path):
    """`cwdm-far` is published and nothing is at hand; `fetch` copies a file into the store. Yields what was fetched."""
    fields = {"name": "cwdm-far", "method": "cwdm", "contrasts": STANDARD, "requires": {T1CE: THREE}, "licence": "CC0"}
    fields |= {"repository": "someone/cwdm", "pattern": "t1ce", "sampling": {"sampler": "ddim", "steps": 1}}
    entry = ManifestEntry(**fields)
    monkeypatch.setattr("mrsynth.io.store.manifest", lambda: [entry])
    monkeypatch.delenv("MRSYNTH_WEIGHTS_DIR")
    fetched, store = [], tmp_path / "home" / "weights"

    def fetch(name, progress=None):
        fetched.append(name)
        store.mkdir(parents=True, exist_ok=True)
        return Path(copyfile(checkpoint, store / f"{name}.safetensors"))

    monkeypatch.setattr("mrsynth.tasks.complete.run.fetch", fetch)
    return fetched


@pytest.mark.parametrize("how", [{}, {"method": "cwdm"}, {"weights": "cwdm-far"}], ids=str)
@pytest.mark.usefixtures("no_pictures")
def test_what_may_be_downloaded_is_fetched_and_used(folder, published, how):
    _, written = complete(options(folder, fetch=True, **how))

    assert published == ["cwdm-far"] and written.images[T1CE].is_file()
    report = written.report
    assert (report.weights.name, report.sampler.steps) == ("cwdm-far", 1)  # what the manifest says of it holds
    why = "as asked for by name" if "weights" in how else "to be downloaded because no .*checkpoint at hand can"
    assert re.search(why, report.selection)

    complete(options(folder, overwrite=True, fetch=True, **how))  # it stays
    assert published == ["cwdm-far"]


@pytest.mark.parametrize("how", [{}, {"method": "cwdm"}, {"weights": "cwdm-far"}], ids=str)
def test_nothing_is_downloaded_unasked(folder, published, how):
    with pytest.raises(WeightsError, match=r"cwdm-far.*--fetch|--fetch: cwdm-far"):
        complete(options(folder, **how))
    assert published == [] and not (folder / "mrsynth").exists()


def test_a_dry_run_downloads_nothing(folder, published):
    todo, written = complete(options(folder, fetch=True, dry_run=True))

    assert (todo.selection.entry.name, written, published) == ("cwdm-far", None, [])
    assert "to be downloaded" in todo.selection.reason and not (folder / "mrsynth").exists()


def test_what_is_at_hand_is_preferred_to_a_download(folder, published, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(tiny_checkpoint.parent))

    assert plan(options(folder, fetch=True)).selection.entry.name == "tiny"
    assert plan(options(folder, fetch=True, method="cwdm")).selection.entry.name == "cwdm-far"


def test_a_download_that_fails_leaves_nothing(folder, published, monkeypatch):
    def fetch(name, progress=None):
        raise WeightsError("no connection")

    monkeypatch.setattr("mrsynth.tasks.complete.run.fetch", fetch)
    with pytest.raises(WeightsError, match="no connection"):
        complete(options(folder, fetch=True))
    assert not (folder / "mrsynth").exists()


def test_a_request_that_cannot_be_met_costs_no_download(folder, published):
    with pytest.raises(UsageError, match="no sampler 'euler'"):
        complete(options(folder, fetch=True, sampler="euler"))
    (folder / "mrsynth").mkdir()
    (folder / "mrsynth" / "report.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds report\.json, which mrsynth did not write"):
        complete(options(folder, fetch=True))
    assert published == []


def test_a_ct_is_scored_in_the_window_that_protocols_name():
    """Whatever the checkpoint's own: 0 HU is 1024 / 3024 of -1024 to 2000, and half of -1000 to 1000."""
    half = np.full((2, 2, 2), 0.5, np.float32)

    assert in_standard_u(Contrast.CT, half, (-1000, 1000)) == pytest.approx(1024 / 3024)
    assert in_standard_u(Contrast.CT, half, HOUNSFIELD) is half and in_standard_u(Contrast.T2, half, (-1, 1)) is half
