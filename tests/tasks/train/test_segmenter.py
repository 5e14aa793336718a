"""`mrsynth train --segmenter`: what it leaves, how it stops and goes on, what it learns, what it refuses."""

import csv
import os
import shutil
import signal
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from mrsynth.contrasts import STANDARD, Contrast, patterns
from mrsynth.errors import InputError, Interrupted, UsageError, WeightsError
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.io.subjects import load_subject
from mrsynth.scans.volume import Volume
from mrsynth.segmenter.network import REGIONS, dice_and_hd95, region_masks
from mrsynth.tasks.benchmark.segmentation import open_segmenter
from mrsynth.tasks.train.segmenter import SegmenterOptions, learning_rate, run
from mrsynth.tasks.train.segmenter_cases import draw_available, example, gather
from mrsynth.tasks.train.segmenter_config import SegmenterTraining, read_run

RUN_FILE = """
name: small
licence: CC0
segmenter: {blocks_down: [1, 1]}
preparation: {spacing: 1.0, multiple: 8, depth_multiple: 8}
training:
  iterations: 6
  batch_size: 2
  warmup: 2
  ema: 0.5
  log_every: 1
  validate_every: 3
  save_every: 2
  augmentation: {affine: 0.5, gamma: 0.2}
data:
  validation: [judge]
  exclude: [secret]
  sources: [{name: made up, licence: CC0, citation: none, subjects: 2}]
"""

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("default:.*left out")]


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_subject_folder):
    """Two subjects that train, one that judges, one to leave out, one without T2, one without labels."""
    root = tmp_path_factory.mktemp("labelled")
    odd = {"lacking": {"without": (Contrast.T2,)}, "unlabelled": {"segmentation": False}}
    for seed, name in enumerate(("one", "two", "judge", "secret", "lacking", "unlabelled")):
        made = {"segmentation": True, **odd.get(name, {})}
        write_subject_folder(root, name, shape=(26, 30, 22), seed=seed, **made)
    return root


@pytest.fixture(scope="module")
def options(data, tmp_path_factory):
    """options(out, **changes): the request; `a__b` sets the key a.b."""
    file = tmp_path_factory.mktemp("config") / "run.yaml"
    file.write_text(RUN_FILE)

    def make(out, **changes):
        overrides = {k.replace("__", "."): changes.pop(k) for k in list(changes) if "__" in k}
        return replace(SegmenterOptions((data,), out, file, overrides, device="cpu"), **changes)

    return make


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    """The folder of a run that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run(options(out)) == out / "checkpoint.safetensors"
    return out


def table(path, *without):
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


def stop_at(iteration):
    def progress(what, done, total):
        if what.startswith("training") and done == iteration:
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


def same_run(one, other):
    weights = [read_checkpoint(out / "checkpoint.safetensors").tensors for out in (one, other)]
    equal = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    return equal and all(table(one / f) == table(other / f) for f in ("losses.csv", "validation.csv"))


# What a run leaves ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_segmenter_its_configuration_and_its_figures(finished, data):
    card = read_checkpoint(finished / "checkpoint.safetensors").card
    listing = yaml.safe_load((finished / "subjects.yaml").read_text())

    assert (card.name, card.method, card.licence, card.iterations) == ("small", "segmenter", "CC0", 6)
    assert [source.name for source in card.training_data] == ["made up"]
    assert (listing["training"], listing["validation"]) == (["one", "two"], ["judge"])
    assert sorted(reason.split(":")[0] for reason in listing["left out"]) == ["lacking", "secret", "unlabelled"]
    assert "lacking: without T2 it" in " ".join(listing["left out"])
    assert [row["iteration"] for row in table(finished / "losses.csv")] == list("123456")
    assert read_run(finished / "config.yaml").training.iterations == 6
    segmenter = open_segmenter(finished, "cpu")
    assert set(segmenter.segment(load_subject(data / "judge").volumes)) == {"WT", "TC", "ET"}


def test_validation_scores_what_the_checkpoint_finds(finished, data):
    """Nothing is resampled here, so the grid of the training is that of the subject."""
    subject = load_subject(data / "judge", segmentation=True)
    found = open_segmenter(finished, "cpu").segment(subject.volumes)
    truth = dict(zip(("WT", "TC", "ET"), region_masks(subject.segmentation.voxels, REGIONS, "seg"), strict=True))
    rows = [row for row in table(finished / "validation.csv") if row["iteration"] == "6"]

    assert [(row["subject"], row["region"]) for row in rows] == [("judge", name) for name in ("WT", "TC", "ET")]
    for row in rows:
        brain = subject.foreground()
        dice, _ = dice_and_hd95(found[row["region"]], truth[row["region"]] & brain, (1, 1, 1))
        assert float(row["dice"]) == pytest.approx(dice, abs=0.02)


def test_a_stopped_run_goes_on_as_if_it_never_stopped(finished, options, tmp_path):
    with pytest.raises(Interrupted, match="after 3 of 6 iterations"):
        run(options(tmp_path / "run"), stop_at(3))
    assert len(table(tmp_path / "run" / "losses.csv")) == 3
    run(options(tmp_path / "run", resume=True, config=None))

    assert same_run(finished, tmp_path / "run")


def test_another_seed_is_another_run(finished, options, tmp_path):
    run(options(tmp_path / "run", training__seed=1, training__iterations=1))

    assert table(tmp_path / "run" / "losses.csv")[0]["loss"] != table(finished / "losses.csv")[0]["loss"]


def test_it_learns_to_find_what_it_is_shown(options, brain_volumes, tmp_path):
    """Its tumours are where T2 is bright; in a brain it never saw it finds them too."""
    for seed, name in enumerate(("one", "two", "new")):
        volumes = brain_volumes(shape=(26, 30, 22), seed=seed)
        (tmp_path / "data" / name).mkdir(parents=True)
        bright = volumes[Contrast.T2].voxels > np.median(volumes[Contrast.T2].voxels[volumes[Contrast.T2].voxels > 0])
        files = {**volumes, "seg": Volume(bright.astype(np.float32), volumes[Contrast.T2].affine)}
        for ending, volume in files.items():
            image = nib.Nifti1Image(volume.voxels.astype(np.int16), volume.affine)
            nib.save(image, tmp_path / "data" / name / f"{name}_{ending}.nii.gz")
    changes = {"training__iterations": 40, "training__learning_rate": 1e-2, "training__validate_every": 40}
    changes |= {"training__batch_size": 1, "training__ema": 0.8, "segmenter__regions": [{"name": "WT", "labels": [1]}]}
    run(options(tmp_path / "run", data=(tmp_path / "data",), data__validation=["new"], data__exclude=[], **changes))
    losses = [float(row["loss"]) for row in table(tmp_path / "run" / "losses.csv")]

    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert [float(row["dice"]) for row in table(tmp_path / "run" / "validation.csv")][-1] > 0.8


# What it sees --------------------------------------------------------------------------------------------------------


def test_contrasts_are_hidden_as_often_as_said():
    random = np.random.default_rng(0)
    seen = [tuple(np.array(STANDARD)[draw_available(STANDARD, 0.3, random)].tolist()) for _ in range(4000)]
    shares = {pattern: seen.count(tuple(pattern)) / len(seen) for pattern in patterns()}

    assert seen.count(STANDARD) / len(seen) == pytest.approx(0.3, abs=0.03)
    assert all(share == pytest.approx(0.7 / 14, abs=0.015) for share in shares.values())
    assert draw_available(STANDARD, 1.0, random).all() and draw_available(STANDARD[:1], 0.0, random).all()


def test_an_example_depends_on_its_position_alone_and_its_labels_move_with_its_images(options, data, tmp_path):
    config = read_run(options(tmp_path).config, {"training.augmentation": {"flip": 1.0, "affine": 0.0, "gamma": 0.0}})
    cases, _, _ = gather((data,), config, tmp_path, lambda *_: None, lambda: False)
    seen = [example(cases, config, position) for position in range(4)]
    again = example(cases, config, 2)
    raw = {case.subject.name: case.read() for case in cases}

    assert all(torch.equal(a, b) for a, b in zip(seen[2], again, strict=True))
    for images, available, regions in seen:
        assert images.dtype == regions.dtype == torch.float32 and available.dtype == torch.bool
        pairs = [(i.flip(1), r.flip(1)) for i, r in raw.values()]
        assert any(torch.allclose(images, i) and torch.equal(regions, r) for i, r in pairs)


def test_the_learning_rate_rises_and_falls():
    config = SegmenterTraining(iterations=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(101)]

    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(rates[9]) and rates[9] > 0.97
    assert rates[50] == pytest.approx(0.505) and rates[100] == pytest.approx(0.01)


# What is refused -----------------------------------------------------------------------------------------------------


def test_runs_that_make_no_sense_are_refused(finished, options, tmp_path):
    with pytest.raises(UsageError, match="already holds a run"):
        run(options(finished))
    with pytest.raises(UsageError, match="holds no run to resume"):
        run(options(tmp_path / "none", resume=True))
    with pytest.raises(UsageError, match=r"training\.seed: 0 in the run, 3 asked for"):
        run(options(finished, resume=True, training__seed=3))
    with pytest.raises(UsageError, match=r"training\.crop: unknown key"):
        run(options(tmp_path / "run", training__crop=3))
    with pytest.raises(UsageError, match="needs multiples of 16"):
        run(options(tmp_path / "run", segmenter__blocks_down=[1, 1, 1, 1, 1]))
    assert not (tmp_path / "run").exists()


def test_the_run_file_of_a_method_is_refused(options, tmp_path):
    file = tmp_path / "method.yaml"
    file.write_text("method: {method: fgc2f}")
    with pytest.raises(UsageError, match="Give --method instead of --segmenter"):
        run(options(tmp_path / "run", config=file))
    with pytest.raises(UsageError, match="Cannot read the run file"):
        run(options(tmp_path / "run", config=tmp_path / "gone.yaml"))


def test_data_that_cannot_train_is_refused(options, tmp_path, write_subject_folder):
    with pytest.raises(InputError, match=r"data\.validation names subjects that are not there: nobody"):
        run(options(tmp_path / "a", data__validation=["nobody"]))
    with pytest.raises(InputError, match=r"Nothing to train on .*(?s:.*)unlabelled: without a segmentation"):
        run(options(tmp_path / "b", data__exclude=["one", "two", "secret"]))
    lesions = write_subject_folder(tmp_path / "ms", "ms01", segmentation=True).parent
    known = {"segmenter__regions": [{"name": "WT", "labels": [1]}], "data__validation": [], "data__exclude": []}
    with pytest.raises(InputError, match=r"found the labels 2, 4, which belong to no region \(WT: \[1\]\)"):
        run(options(tmp_path / "c", data=(lesions,), **known))
    twin = write_subject_folder(tmp_path / "again", "one", segmentation=True).parent
    with pytest.raises(InputError, match="Two subjects are called one"):
        run(options(tmp_path / "d", data=(*options(tmp_path).data, twin)))


def test_a_run_resumed_with_other_subjects_or_damaged_is_refused(finished, options, tmp_path, data):
    out = tmp_path / "run"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns("cache", "tensorboard"))
    fewer = tmp_path / "fewer"
    for name in ("one", "judge", "secret"):
        shutil.copytree(data / name, fewer / name)
    with pytest.raises(UsageError, match="training subjects are not those the run was begun with: one, two then, one"):
        run(options(out, resume=True, data=(fewer,)))
    (out / "state.pt").write_bytes((out / "state.pt").read_bytes()[:-500])
    with pytest.raises(WeightsError, match="cannot be resumed from"):
        run(options(out, resume=True))


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_hands_on_what_it_is_given(run_cli, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "mrsynth.tasks.train.segmenter.run", lambda options, _: seen.append(options) or tmp_path / "made"
    )
    command = ("train", "--segmenter", "--data", tmp_path, "--data", "b", "--out", "run", "--set", "training.seed=2")
    status, out, _ = run_cli(*command, "--resume", "--device", "cpu")

    assert (status, out) == (0, f"{tmp_path / 'made'}\n")
    (options,) = seen
    assert (options.data[0], options.out.name, options.config) == (tmp_path, "run", None)
    assert (options.overrides, options.resume, options.device) == ({"training.seed": 2}, True, "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give --method NAME, the method to train, or --segmenter."),
        (("--segmenter", "--method", "fgc2f"), "leave --method out"),
        (("--segmenter", "--init", "tiny"), "leave --init out"),
    ],
)
def test_a_command_that_is_neither_or_both_is_refused(run_cli, tmp_path, arguments, message):
    status, _, err = run_cli("train", "--data", tmp_path, "--out", tmp_path / "run", *arguments)

    assert status == 2 and message in " ".join(err.split())
    assert not (tmp_path / "run").exists()
