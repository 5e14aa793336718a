"""`mrsynth train --segmenter`: what it leaves, how it stops and goes on, what it learns, what it refuses."""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from mrsynth.contrasts import STANDARD, Contrast, patterns
from mrsynth.errors import InputError, Interrupted, UsageError, WeightsError
from mrsynth.io.cache import cached
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.io.subjects import find_subject, load_subject
from mrsynth.methods.base import Batch
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.scans.volume import Volume
from mrsynth.segmenter.learner import SegmenterLearner
from mrsynth.segmenter.network import REGIONS, SegmenterConfig, dice_and_hd95
from mrsynth.tasks.benchmark.segmentation import open_segmenter
from mrsynth.tasks.train.cohort import gather
from mrsynth.tasks.train.config import build_trainable, read_run_file
from mrsynth.tasks.train.run import train
from mrsynth.tasks.train.sources import examples_of
from mrsynth.training.batches import Examples
from tests.tasks.train.runs import request_maker, stop_at, table

RUN_FILE = """
name: small
licence: CC0
segmenter: {blocks_down: [1, 1]}
preparation: {spacing: 1.0, multiple: 8, depth_multiple: 8}
training:
  iterations: 6
  accumulation: 2
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
    """options(out, **changes): the request."""
    return request_maker("segmenter", data, tmp_path_factory.mktemp("config") / "run.yaml", RUN_FILE)


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    """The folder of a run that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train(options(out)) == out / "checkpoint.safetensors"
    return out


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
    assert [[name for entry in listing[part] for name in entry] for part in ("training", "validation")] == [
        ["one", "two"],
        ["judge"],
    ]
    assert listing["labelled"] == ["one", "two"]
    assert sorted(reason.split(":")[0] for reason in listing["left out"]) == ["lacking", "secret", "unlabelled"]
    assert "lacking: t1, t1ce, flair of t1, t1ce, t2, flair is not enough" in " ".join(listing["left out"])
    assert card.requires == {} and not card.supports({"t1"}, "t2")
    assert [row["iteration"] for row in table(finished / "losses.csv")] == list("123456")
    assert read_run_file(finished / "config.yaml", "segmenter").training.iterations == 6
    segmenter = open_segmenter(finished, "cpu")
    assert set(segmenter.segment(load_subject(data / "judge").volumes)) == {"WT", "TC", "ET"}


def test_validation_scores_what_the_checkpoint_finds(finished, data):
    """Nothing is resampled here, so the grid of the training is that of the subject."""
    subject = load_subject(data / "judge", segmentation=True)
    found = open_segmenter(finished, "cpu").segment(subject.volumes)
    truth = {region.name: np.isin(subject.segmentation.voxels, region.labels) for region in REGIONS}
    rows = [row for row in table(finished / "validation.csv") if row["iteration"] == "6"]

    assert [(row["subject"], row["region"]) for row in rows] == [("judge", name) for name in ("WT", "TC", "ET")]
    for row in rows:
        brain = subject.foreground()
        dice, _ = dice_and_hd95(found[row["region"]], truth[row["region"]] & brain, (1, 1, 1))
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-3)  # images in 16 bits: a voxel near 0 may turn


def test_a_stopped_run_goes_on_as_if_it_never_stopped(finished, options, tmp_path):
    with pytest.raises(Interrupted, match="after 3 of 6 iterations"):
        train(options(tmp_path / "run"), stop_at(3))
    assert len(table(tmp_path / "run" / "losses.csv")) == 3
    train(options(tmp_path / "run", resume=True, config=None))

    assert same_run(finished, tmp_path / "run")


def test_another_seed_is_another_run(finished, options, tmp_path):
    train(options(tmp_path / "run", training__seed=1, training__iterations=1))

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
    changes |= {
        "training__accumulation": 1,
        "training__ema": 0.8,
        "segmenter__regions": [{"name": "WT", "labels": [1]}],
    }
    train(options(tmp_path / "run", data=(tmp_path / "data",), data__validation=["new"], data__exclude=[], **changes))
    losses = [float(row["loss"]) for row in table(tmp_path / "run" / "losses.csv")]

    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert [float(row["dice"]) for row in table(tmp_path / "run" / "validation.csv")][-1] > 0.8


# What it sees --------------------------------------------------------------------------------------------------------


def learner(**options):
    with torch.random.fork_rng(devices=[]):
        return SegmenterLearner(SegmenterConfig(blocks_down=(1, 1), **options))


def test_contrasts_are_hidden_as_often_as_said():
    random, present = np.random.default_rng(0), np.ones(4, bool)
    method = learner(complete=0.3)
    draws = [method.draw_available(present, 0, random) for _ in range(4000)]
    seen = [tuple(np.array(STANDARD)[draw].tolist()) for draw in draws]
    shares = {pattern: seen.count(tuple(pattern)) / len(seen) for pattern in patterns()}

    assert seen.count(STANDARD) / len(seen) == pytest.approx(0.3, abs=0.03)
    assert all(share == pytest.approx(0.7 / 14, abs=0.015) for share in shares.values())
    assert learner(complete=1.0).draw_available(present, 0, random).all()
    assert learner(complete=0.0, contrasts=STANDARD[:1]).draw_available(present[:1], 0, random).all()


def test_an_example_depends_on_its_position_alone_and_its_labels_move_with_its_images(options, data, tmp_path):
    changes = {"training.augmentation": {"flip": 1.0, "affine": 0.0, "gamma": 0.0}}
    config = read_run_file(options(tmp_path).config, "segmenter", changes)
    method = build_trainable(config.method)
    cohort = gather((data,), config, method, tmp_path, lambda *_: None)
    source = examples_of(cohort.training, method)
    examples = Examples(source, method, config.training)
    seen, again = [examples[position, position % 2] for position in range(4)], examples[2, 0]

    assert all(torch.equal(again[key], value) for key, value in seen[2].items())
    for position, example in enumerate(seen):
        raw = source[position % 2]
        assert torch.allclose(example["images"], torch.from_numpy(raw.images[:, 0]).flip(1) * 2 - 1)
        assert torch.equal(example["labels"], torch.from_numpy(raw.labels.astype(np.int64)).flip(0))
        assert {1, 2, 4} <= set(example["labels"].unique().tolist())


def test_the_loss_is_zero_for_the_right_regions_and_reads_no_hidden_contrast(data, options, tmp_path):
    """Dice loss plus focal loss of logits that are sure and right is 0; NaN in a hidden contrast changes nothing."""
    method = learner()
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    labels[:, 2:6, 2:6, 2:6], labels[:, 3:5, 3:5, 3:5] = 2, 4
    flags = torch.tensor([[True, True, False, True]])
    batch = Batch(torch.rand(1, 4, 8, 8, 8) * 2 - 1, flags, flags, torch.zeros(1, 4, 0, 8, 8, 8), labels)
    regions = method.regions(labels)
    assert regions.sum((0, 2, 3, 4)).tolist() == [64, 8, 8]
    usual = method.loss(batch, torch.Generator())["loss"]
    hidden = replace(batch, images=torch.where(flags[:, :, None, None, None], batch.images, torch.nan))

    assert torch.equal(method.loss(hidden, torch.Generator())["loss"], usual) and usual > 0.1
    method.logits = lambda _: (regions * 2 - 1) * 50
    assert float(method.loss(batch, torch.Generator())["loss"]) < 1e-4


def test_labels_reach_the_training_as_they_do_for_methods(data, tmp_path):
    """The regions are those of the stored segmentation: one rule brings labels to the grid of the model."""
    files = find_subject(data / "one")
    subject = cached(files, STANDARD, PreparationConfig(spacing=2.0), tmp_path, labels=True)
    stored = torch.from_numpy(subject.label_box((0, 0, 0), subject.shape).astype(np.int64))
    regions = learner().regions(stored[None])[0]

    assert subject.values == (0, 1, 2, 4)
    assert torch.equal(regions[0] > 0, stored > 0) and torch.equal(regions[2] > 0, stored == 4)


# What is refused -----------------------------------------------------------------------------------------------------


def test_runs_that_make_no_sense_are_refused(finished, options, tmp_path):
    with pytest.raises(UsageError, match="already holds a run"):
        train(options(finished))
    with pytest.raises(UsageError, match="holds no run to resume"):
        train(options(tmp_path / "none", resume=True))
    with pytest.raises(UsageError, match=r"training\.seed: 0 in the run, 3 asked for"):
        train(options(finished, resume=True, training__seed=3))
    with pytest.raises(UsageError, match=r"training\.itrations: unknown key"):
        train(options(tmp_path / "run", training__itrations=3))
    with pytest.raises(UsageError, match="multiples of 16"):
        train(options(tmp_path / "run", segmenter__blocks_down=[1, 1, 1, 1, 1]))
    assert not (tmp_path / "run").exists()


def test_the_run_file_of_a_method_is_refused(options, tmp_path):
    file = tmp_path / "method.yaml"
    file.write_text("method: {method: fgc2f}")
    with pytest.raises(UsageError, match="unknown key"):
        train(replace(options(tmp_path / "run"), method="fgc2f"))
    with pytest.raises(UsageError, match="Give --method instead of --segmenter"):
        train(options(tmp_path / "run", config=file))
    with pytest.raises(UsageError, match="Cannot read the run file"):
        train(options(tmp_path / "run", config=tmp_path / "gone.yaml"))


def test_data_that_cannot_train_is_refused(options, tmp_path, write_subject_folder):
    with pytest.raises(InputError, match=r"data\.validation names subjects that are not there: nobody"):
        train(options(tmp_path / "a", data__validation=["nobody"]))
    with pytest.raises(InputError, match=r"Nothing to train on .*(?s:.*)unlabelled: has no segmentation"):
        train(options(tmp_path / "b", data__exclude=["one", "two", "secret"], min_subjects=1))
    lesions = write_subject_folder(tmp_path / "ms", "ms01", segmentation=True).parent
    known = {"segmenter__regions": [{"name": "WT", "labels": [1]}], "data__validation": [], "data__exclude": []}
    with pytest.raises(InputError, match=r"found the labels 2, 4, which belong to no region \(WT: \[1\]\)"):
        train(options(tmp_path / "c", data=(lesions,), **known))
    twin = write_subject_folder(tmp_path / "again", "one", segmentation=True).parent
    with pytest.raises(InputError, match="Two subjects are named one"):
        train(options(tmp_path / "d", data=(*options(tmp_path).data, twin)))


def test_a_run_resumed_with_other_subjects_or_damaged_is_refused(finished, options, tmp_path, data):
    out = tmp_path / "run"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns("cache", "tensorboard"))
    fewer = tmp_path / "fewer"
    for name in ("one", "judge", "secret"):
        shutil.copytree(data / name, fewer / name)
    with pytest.raises(
        UsageError, match=r"Not the same training subjects have a segmentation.*Then: one, two. Now: one"
    ):
        train(options(out, resume=True, data=(fewer,)))
    (out / "state.pt").write_bytes((out / "state.pt").read_bytes()[:-500])
    with pytest.raises(WeightsError, match="cannot be resumed from"):
        train(options(out, resume=True))


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_hands_on_what_it_is_given(run_cli, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("mrsynth.tasks.train.run.train", lambda options, _: seen.append(options) or tmp_path / "made")
    command = ("train", "--segmenter", "--data", tmp_path, "--data", "b", "--out", "run", "--set", "training.seed=2")
    status, out, _ = run_cli(*command, "--resume", "--device", "cpu")

    assert (status, out) == (0, f"{tmp_path / 'made'}\n")
    (options,) = seen
    assert options.method == "segmenter"
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
