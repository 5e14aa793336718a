"""runs/gpu, rehearsed on the processor: what travels, what the device makes of it, and a run that is stopped."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, Interrupted, UsageError
from mrsynth.io.subjects import find_subject, find_subjects, load_subject
from mrsynth.methods import build_method, preset
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.tasks.train.cohort import gather
from mrsynth.tasks.train.run import fresh_method, read_config, train
from mrsynth.tasks.train.sources import examples_of
from mrsynth.training.augmentation import AugmentationConfig, affine_grid, bias_field, turned
from mrsynth.training.batches import TrainingConfig, example_batches
from runs.gpu.corpus import left_out, pack, unpack
from runs.gpu.feed import DeviceFeed, Draws, augmented, draw
from runs.gpu.parts import join, split
from runs.gpu.train import bring_back, take_up, train_for
from tests.tasks.train.runs import losses, stop_when

CHECKOUT = Path(__file__).resolve().parents[3]
MB = 1e-6  # of one byte


# What travels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 10, 20, 25])
def test_a_file_comes_back_from_its_parts(tmp_path, size):
    file = tmp_path / "f.bin"
    file.write_bytes(np.random.default_rng(size).bytes(size))
    parts = split(file, tmp_path / "parts", 10 * MB)

    assert len(parts) == max(1, -(-size // 10)) and all(p.stat().st_size <= 10 for p in parts)
    assert join(tmp_path / "parts", "f.bin", tmp_path / "again").read_bytes() == file.read_bytes()


def test_parts_that_are_missing_or_damaged_are_all_named(tmp_path):
    file = tmp_path / "f.bin"
    file.write_bytes(bytes(range(35)))
    parts = split(file, tmp_path / "parts", 10 * MB)
    parts[1].unlink()
    parts[3].write_bytes(b"other")

    with pytest.raises(InputError, match=r"f\.bin\.001 is missing; f\.bin\.003 is not the file it should be"):
        join(tmp_path / "parts", "f.bin", tmp_path / "again")
    with pytest.raises(InputError, match="holds no parts of g"):
        join(tmp_path / "parts", "g", tmp_path / "again")
    file.write_bytes(b"short")
    assert [p.name for p in split(file, tmp_path / "parts", 10 * MB)] == ["f.bin.000"]
    assert not parts[2].exists()  # of the longer file


def test_the_corpus_comes_back_as_the_model_sees_it(tmp_path, write_subject_folder):
    """u to a few steps of 8 bits (in so small a brain the quantile moves by some); the brain exactly; nobody else."""
    root = tmp_path / "root"
    write_subject_folder(root, "whole", shape=(18, 24, 8), seed=1)
    write_subject_folder(root, "lacking", shape=(18, 24, 8), seed=2, without=[Contrast.T1CE])
    write_subject_folder(root, "alone", shape=(18, 24, 8), seed=3, without=STANDARD[1:])
    write_subject_folder(root, "secret", shape=(18, 24, 8), seed=4)
    written = pack(tmp_path / "parts", [root], part_mb=0.002, exclude=["secret"])
    found = unpack(tmp_path / "parts", tmp_path / "out")

    assert len(written) > 1 and max(p.stat().st_size for p in written) <= 2000
    assert [p.name for p in found] == ["lacking", "whole"]
    for folder in found:
        before = prepare(load_subject(find_subject(root / folder.name)), STANDARD, PreparationConfig())
        after = prepare(load_subject(find_subject(folder)), STANDARD, PreparationConfig())
        assert np.array_equal(before.mask, after.mask) and np.array_equal(before.available, after.available)
        assert np.abs(before.images - after.images).max() < 3 / 255
        assert np.abs(before.images - after.images).mean() < 1 / 255


def test_the_validation_subjects_never_travel():
    assert {"ms19", "BraTS-GLI-00027-000", "BraTS2021_01478"} <= set(left_out())


# What the device makes of it -----------------------------------------------------------------------------------------


def still(batch, channels, size):
    """Draws that change nothing."""
    d = len(size)
    return Draws(
        torch.zeros(batch, dtype=torch.bool),
        torch.eye(d, d + 1).repeat(batch, 1, 1),
        torch.ones(batch, channels),
        torch.ones(batch, channels),
        torch.zeros(batch, channels, *[4] * d),
    )


@pytest.mark.parametrize("size", [(12, 16), (8, 10, 6)])
def test_a_batch_is_moved_and_changed_as_each_example_would_be(size):
    """Against the closed forms of one example: the grid of its matrix, its power, its factor, its bias field."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, 3, 2, *size), generator=generator) * 0.8
    d = len(size)
    nothing = still(2, 3, size)
    assert torch.equal(augmented(images, nothing), images)
    flipped = Draws(**{**vars(nothing), "flip": torch.tensor([True, False])})
    assert torch.equal(augmented(images, flipped)[0], images[0].flip(2)) and torch.equal(
        augmented(images, flipped)[1], images[1]
    )
    config = AugmentationConfig(flip=0, affine=1, rotation=0.3, scaling=0.1)
    moved = draw(config, [np.random.default_rng(n) for n in range(2)], np.zeros((2, 3), bool), size)
    made = augmented(images, moved)
    for n in range(2):
        random = np.random.default_rng(n)
        random.random(), random.random()
        axes = 1 if d == 2 else 3
        angles, scales = random.uniform(-0.3, 0.3, axes), 1 + random.uniform(-0.1, 0.1, axes)
        grid = affine_grid(turned(angles.tolist()) @ np.diag([*scales, *[1.0] * (d - axes)]), size)
        alone = torch.nn.functional.grid_sample(images[n].flatten(0, 1)[None], grid, align_corners=True)[0]
        assert torch.allclose(made[n].flatten(0, 1), alone, atol=1e-5)
    coefficients = np.random.RandomState(5)
    coefficients.rand()
    wanted = np.indices((4,) * d)
    wanted = wanted[0] >= wanted[1] if d == 2 else wanted.sum(0) <= 3
    field = torch.zeros(2, 3, *wanted.shape)
    field[1, 2][torch.from_numpy(wanted)] = torch.from_numpy(
        coefficients.uniform(-0.2, 0.2, int(wanted.sum())).astype(np.float32)
    )
    gamma = torch.ones(2, 3)
    gamma[0, 1] = 1.3
    gain = torch.ones(2, 3)
    gain[0, 0] = 0.9
    made = augmented(images, Draws(**{**vars(nothing), "gamma": gamma, "gain": gain, "bias": field}))
    assert torch.allclose(made[0, 1], images[0, 1] ** 1.3) and torch.allclose(made[0, 0], images[0, 0] * 0.9)
    assert torch.allclose(made[1, 2], (images[1, 2] * bias_field(size, 0.2, 5)).clamp(0, 1), atol=1e-6)
    assert torch.equal(made[1, 0], images[1, 0])


def test_only_inputs_change_their_intensities():
    config = AugmentationConfig(flip=0, gamma=0.3, gain=0.2, bias_field=0.3)
    inputs = np.array([[True, False, True]])
    drawn = draw(config, [np.random.default_rng(1)], inputs, (8, 8))
    images = torch.rand((1, 3, 1, 8, 8)) * 0.5 + 0.2
    made = augmented(images, drawn)

    assert torch.equal(made[0, 1], images[0, 1])
    assert not torch.equal(made[0, 0], images[0, 0]) and not torch.equal(made[0, 2], images[0, 2])


@pytest.mark.parametrize("kind", ["slices", "boxes", "volumes"])
def test_without_augmentation_the_batches_are_those_of_any_training(
    kind, train_options, box_options, training_data, tmp_path
):
    """The same examples in the same order with the same contrasts to read; images to half a step of 8 bits."""
    options = train_options(tmp_path / "run") if kind == "slices" else box_options(tmp_path / "run")
    config = read_config(options)
    method = fresh_method(config)
    cohort = gather((training_data,), config, method, tmp_path / "cache", lambda *_: None)
    training = TrainingConfig(iterations=3, batch_size=2, augmentation=AugmentationConfig(flip=0))
    source = examples_of(cohort.training, method, (16, 16, 8) if kind == "boxes" else None)
    with example_batches(method, 1, source, training) as one, DeviceFeed("cpu")(method, 1, source, training) as other:
        pairs = list(zip(one, other, strict=True))

    assert len(pairs) == 2
    for ours, theirs in pairs:
        assert torch.equal(ours.present, theirs.present) and torch.equal(ours.available, theirs.available)
        assert ours.images.shape == theirs.images.shape and ours.context.shape == theirs.context.shape
        assert torch.allclose(ours.images, theirs.images, atol=1.02 / 255)
        if ours.context.numel():
            assert torch.allclose(ours.context, theirs.context, atol=1.02 / 255)


@pytest.mark.parametrize(
    ("labels", "training", "word"),
    [
        (True, {}, "Segmentations are not learnt from here"),
        (False, {"planes": ("axial", "coronal")}, "Only axial slices are learnt from here"),
        (False, {"augmentation": {"curve": 0.5}}, r"augmentation\.curve is not made here"),
        (False, {"augmentation": {"flip": 0, "blur": 1.0}}, r"augmentation\.blur is not made here"),
    ],
)
def test_what_is_not_made_on_the_device_is_refused(labels, training, word):
    source = SimpleNamespace(labels=labels)
    method = build_method({**preset("fgc2f", "tiny"), "T": 8})
    with (
        pytest.raises(UsageError, match=word),
        DeviceFeed("cpu")(method, 0, source, TrainingConfig.model_validate(training)),
    ):
        pass


# A run ---------------------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_and_brought_back_goes_on_as_if_it_had_not(one_thread, train_options, tmp_path):
    whole = train_options(tmp_path / "whole")
    assert train_for(whole, None)
    begun = train_options(tmp_path / "begun")
    with pytest.raises(Interrupted):
        train(begun, stop_when("training", 3), feed=DeviceFeed("cpu"))
    kept = bring_back(begun.out, tmp_path / "results", 0.05)
    assert [p for p in kept if p.name.startswith("state.pt.")] and max(p.stat().st_size for p in kept) < 1e7
    again = train_options(tmp_path / "again", resume=True)
    take_up(again.out, tmp_path / "results")
    assert train_for(again, None)

    assert losses(again.out) == losses(whole.out) and len(losses(whole.out)) == 6
    assert all(float(row["loss"]) > 0 for row in losses(whole.out))
    take_up(again.out, tmp_path / "results")  # does not undo what was done since
    assert len(losses(again.out)) == 6


@pytest.mark.slow
def test_the_time_given_ends_a_run_which_the_same_command_goes_on_with(training_data, box_options, tmp_path):
    """As it is called: in a process of its own, with hardly any time; then without a limit."""
    file = box_options(tmp_path / "x").config
    out = tmp_path / "run"
    command = [sys.executable, "-m", "runs.gpu.train", str(file), str(training_data), str(out), "--device", "cpu"]
    command += ["--results", str(tmp_path / "results"), "--results-mb", "1", "--set", "training.iterations=400"]
    first = subprocess.run([*command, "--minutes", "0.1"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "stopped; the same command goes on"
    done = len(losses(out))
    assert 0 < done < 400
    command[-1] = f"training.iterations={done + 2}"
    second = subprocess.run([*command, "--no-state"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[-1] == "finished"
    assert (tmp_path / "results" / "checkpoint.safetensors").stat().st_size < (
        out / "checkpoint.safetensors"
    ).stat().st_size


def test_the_unpacked_corpus_trains(one_thread, training_data, train_options, tmp_path):
    pack(tmp_path / "parts", [training_data], exclude=["secret"])
    out = tmp_path / "data"
    unpack(tmp_path / "parts", out)
    assert {s.name for s in find_subjects(out)[0]} == {"whole", "lacking", "judge"}
    options = train_options(tmp_path / "run", data=(out,), data__exclude=[], training__iterations=2)

    assert train_for(options, None) and (options.out / "checkpoint.safetensors").exists()
