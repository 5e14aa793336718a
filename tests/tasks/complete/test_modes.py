"""Every combination of mode, samples and --fast, from the request to the files."""

import json

import nibabel as nib
import numpy as np
import pytest

from mrsynth.card import Card
from mrsynth.contrasts import STANDARD
from mrsynth.errors import UsageError
from mrsynth.io.subjects import load_subject
from mrsynth.methods import build_method, preset
from mrsynth.reports.record import Report
from mrsynth.sampling import Sampling
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.synthesis import Synthesis
from mrsynth.tasks.complete.run import CompleteOptions, complete, complete_subject, load_method
from mrsynth.tasks.models import check_sampling
from mrsynth.tasks.trained import TrainedMethod

T1, T1CE, T2, FLAIR = STANDARD
BOTH = {"mode": "mean", "modes": ["mean", "sample"], "sampler": "ddpm", "steps": 4}

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def both(write_tiny_checkpoint, tmp_path):
    """A checkpoint of this version: mean by default, chains of four steps."""
    return str(write_tiny_checkpoint(tmp_path / "both.safetensors", "both", sampling=BOTH))


def images(folder, out, weights, **asked):
    """The voxels of what was written, by what follows the contrast in the file's name; and the report."""
    options = {"self_check": False, "precision": "fp32", "device": "cpu"} | asked
    complete(CompleteOptions(folder=folder, out=out, weights=weights, **options))
    found = {p.name.removesuffix(".nii.gz").removeprefix("p1_t1ce"): p for p in out.glob("*.nii.gz")}
    for path in found.values():
        assert path.with_name(path.name.replace(".nii.gz", ".json")).exists()
    report = Report.model_validate_json((out / "report.json").read_text())
    return {tag: nib.load(path).get_fdata() for tag, path in found.items()}, report


@pytest.mark.parametrize(
    ("asked", "files", "recorded"),
    [
        ({}, {""}, ("mean", "one call", 1, 1)),
        ({"fast": True}, {""}, ("mean", "one call", 1, 1)),
        ({"mode": "mean"}, {""}, ("mean", "one call", 1, 1)),
        ({"mode": "sample"}, {""}, ("sample", "ddpm", 4, 1)),
        ({"mode": "sample", "samples": 3}, {"", "_mean", "_spread"}, ("sample", "ddpm", 4, 3)),
        ({"mode": "sample", "samples": 2, "fast": True}, {"", "_mean", "_spread"}, ("sample", "ddpm", 4, 2)),
        ({"mode": "sample", "steps": 2, "sampler": "ddim"}, {""}, ("sample", "ddim", 2, 1)),
    ],
)
def test_what_is_written_and_what_is_said_of_it(folder, both, tmp_path, asked, files, recorded):
    made, report = images(folder, tmp_path / "out", both, **asked)

    assert set(made) == files
    s = report.sampler
    assert (s.mode, s.name, s.steps, s.samples) == recorded
    said = json.loads((tmp_path / "out" / "p1_t1ce.json").read_text())
    assert said["Sampler"]["mode"] == recorded[0] and said["Estimator"] == s.words
    assert s.words in (tmp_path / "out" / "report.html").read_text()


def test_the_delivered_image_is_the_first_sample_however_many_there_are(folder, both, tmp_path):
    one, _ = images(folder, tmp_path / "one", both, mode="sample")
    three, _ = images(folder, tmp_path / "three", both, mode="sample", samples=3)
    other, _ = images(folder, tmp_path / "other", both, mode="sample", seed=1)

    assert np.array_equal(one[""], three[""]) and not np.array_equal(one[""], other[""])
    assert not np.array_equal(three[""], three["_mean"])
    # of three numbers the first lies within 2/sqrt(3) standard deviations of their mean: (n - 1) / sqrt(n)
    assert (np.abs(three[""] - three["_mean"]) <= 2 / 3**0.5 * three["_spread"] + 1e-2).all()


def test_the_mean_is_the_same_whatever_the_seed(folder, both, tmp_path):
    first, _ = images(folder, tmp_path / "a", both)
    second, _ = images(folder, tmp_path / "b", both, seed=5, mode="mean")

    assert np.array_equal(first[""], second[""]) and first[""].any()


def test_a_file_that_names_no_mode_does_as_it_did(folder, write_tiny_checkpoint, tmp_path):
    """0.1.0: the mean of its draws; a mode that is asked for holds all the same."""
    sampling = {"sampler": "ddim", "steps": 2, "samples": 2}
    old = str(write_tiny_checkpoint(tmp_path / "old.safetensors", "old", sampling=sampling))
    drawn, report = images(folder, tmp_path / "old", old)
    again, _ = images(folder, tmp_path / "again", old, mode="sample", steps=2, sampler="ddim", samples=2)
    mean, by_mean = images(folder, tmp_path / "mean", old, mode="mean")

    assert (report.sampler.mode, report.sampler.samples) == ("draws", 2)
    assert np.allclose(drawn[""], again["_mean"], atol=1e-3) and np.allclose(drawn["_spread"], again["_spread"])
    assert by_mean.sampler.mode == "mean" and set(mean) == {""}


def test_noise_between_the_steps_can_be_asked_for_and_is_recorded(folder, both, tmp_path):
    made, said = {}, {}
    asked = {
        "0": {"sampler": "ddim"},
        "1": {"sampler": "ddim", "eta": 1.0},
        "posterior": {"sampler": "ddpm"},
        "beta": {"variance": "beta", "steps": 2},
    }
    for name, options in asked.items():
        images_of, report = images(folder, tmp_path / name, both, mode="sample", **options)
        made[name] = images_of[""]
        said[name] = json.loads((tmp_path / name / "p1_t1ce.json").read_text())["Sampler"]
        told = [w for w in report.warnings if "variance beta" in w]
        assert bool(told) == (name == "beta")

    assert [(s.get("eta"), s.get("variance")) for s in said.values()] == [
        (0.0, None),
        (1.0, None),
        (None, "posterior"),
        (None, "beta"),
    ]
    assert not np.array_equal(made["0"], made["1"])
    assert np.allclose(made["1"], made["posterior"], atol=0.5)  # the same chain; of 1000


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"eta": 0.5}, "--eta is an option of the sampler ddim"),
        ({"variance": "beta", "sampler": "ddim"}, "of the sampler ddpm"),
    ],
    ids=str,
)
def test_an_option_that_the_sampler_does_not_read_is_refused_before_anything_is_written(folder, both, option, message):
    with pytest.raises(UsageError, match=message):
        complete(CompleteOptions(folder=folder, weights=both, mode="sample", **option))
    assert not (folder / "mrsynth").exists()


@pytest.mark.parametrize(
    "option",
    [{"steps": 3}, {"sampler": "ddim"}, {"samples": 2}, {"eta": 1.0}, {"variance": "beta"}, {"noise": "v1"}],
    ids=str,
)
def test_options_of_a_chain_are_refused_before_anything_is_written(folder, both, option):
    with pytest.raises(UsageError, match="with mode mean of both"):
        complete(CompleteOptions(folder=folder, weights=both, **option))
    assert not (folder / "mrsynth").exists()
    with pytest.raises(UsageError, match="with mode mean of both"):
        complete_subject(load_subject(folder), load_method(both), sampling=Sampling(**option))


def test_mode_sample_reaches_the_fine_stage_which_the_mean_does_not(folder, both, monkeypatch):
    """The guidance of the fine stage replaced by rubbish: nothing changes in mode mean, something in mode sample."""
    from mrsynth.methods.fgc2f import FgC2F, Guidance

    trained, subject = load_method(both), load_subject(folder)

    def made(mode):
        asked = Sampling(mode=mode, precision="fp32", device="cpu")
        return complete_subject(subject, trained, sampling=asked).volumes[T1CE].voxels

    before = {mode: made(mode) for mode in ("mean", "sample")}
    original = FgC2F.guidance

    def spoiled(self, images, available):
        found = original(self, images, available)
        return Guidance(found.low, found.high + 5)

    monkeypatch.setattr(FgC2F, "guidance", spoiled)

    assert np.array_equal(made("mean"), before["mean"])
    assert not np.array_equal(made("sample"), before["sample"])


@pytest.mark.parametrize(
    ("asked", "checked", "hidden"),
    [
        ({}, ("mean", 1), (T1, T2, FLAIR)),
        ({"mode": "sample", "samples": 3}, ("sample", 1), (T1, T2, FLAIR)),
        ({"fast": True}, ("mean", 1), (T1,)),
    ],
)
def test_the_self_check_scores_the_estimator_that_is_delivered(make_subject, both, monkeypatch, asked, checked, hidden):
    """And neither mask nor crop knows the contrast that is hidden: here T2 alone reaches further than the others."""
    subject = make_subject("s", without=[T1CE], shape=(24, 28, 12))
    subject.volumes[T2].voxels[2, 3:6, 4:8] = 500.0
    used, masks = [], []

    def watched(method, prepared, name, how, **_):
        used.append((how.mode, how.samples))
        masks.append(int(prepared.mask.sum()))
        return Synthesis(prepared.images, None, None)

    monkeypatch.setattr("mrsynth.tasks.trained.synthesise_volume", watched)
    done = complete_subject(subject, load_method(both), sampling=Sampling(device="cpu", **asked), self_check=True)

    assert {row.target for row in done.scores} == set(hidden)
    assert set(used[1:]) == {checked} and len(used) == 1 + len(hidden)
    whole, *seen = masks
    assert all(mask < whole if contrast is T2 else mask == whole for contrast, mask in zip(hidden, seen, strict=True))


def test_an_unknown_sampler_is_named():
    with pytest.raises(UsageError, match="no sampler 'euler'"):
        check_sampling(Sampling(sampler="euler"))


def chain_of(name, **asked):
    """What a request comes to for a method of preset tiny, whatever its weights."""
    method = build_method({**preset(name, "tiny"), "method": name})
    card = Card(name="x", method=name, contrasts=STANDARD, licence="CC0", sampling={"modes": ["mean", "sample"]})
    return TrainedMethod(method, card, PreparationConfig(), "0" * 64).estimator(Sampling(device="cpu", **asked))


def test_decoders_alone_draw_nothing_and_say_so():
    how = chain_of("msg-ldm", mode="sample", sampler="direct")

    assert (how.steps, how.samples, how.generator) == (1, 1, None)
    assert "nothing is drawn" in how.words and "texture" not in how.words


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("msg-ldm", {"sampler": "direct", "samples": 3}, "--samples with --sampler direct"),
        ("msg-ldm", {"sampler": "direct", "steps": 2, "noise": "v1"}, "--steps and --noise with --sampler direct"),
        ("msg-ldm", {"sampler": "residual_shift"}, "no sampler 'residual_shift'; it has ddpm, ddim"),
        ("msg-ldm", {"sampler": "ddim", "steps": 5000}, "5000 sampling steps from a chain of 200"),
        ("fgc2f", {"sampler": "direct"}, "no sampler 'direct'"),
        ("dfbk", {"sampler": "ddim"}, "no sampler 'ddim'"),
    ],
)
def test_what_a_chain_cannot_do_is_refused_before_anything_is_read(name, asked, message):
    with pytest.raises(UsageError, match=message):
        chain_of(name, mode="sample", **asked)
