"""Whole volumes from slices: what goes in comes back, and neither batches, order nor precision decide what is made."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.methods.base import Method, MethodConfig
from mrsynth.noise import SeededNoise
from mrsynth.preparation import PreparationConfig, prepare
from mrsynth.synthesis import Sampling, synthesise_volume
from mrsynth.tasks.models import load_method

SHAPE = (24, 28, 10)
ONCE = Sampling("ddim", 2)


class Recorder(Method):
    """Makes what `answer(images, context, noise)` says, and notes how it was asked."""

    neighbours = 1

    def __init__(self, answer=lambda images, context, noise: torch.zeros_like(images)):
        super().__init__(MethodConfig(method="recorder"))
        self.answer = answer
        self.asked = []

    def objectives(self):
        return []

    def synthesise(self, images, available, *, context, noise, steps=None, sampler=None, progress=None):
        self.asked.append((len(images), available, steps, sampler, torch.is_autocast_enabled("cpu")))
        return self.answer(images, context, noise)


@pytest.fixture(scope="module")
def prepared(make_subject):
    subject = make_subject("s", shape=SHAPE, without=[Contrast.T1CE, Contrast.FLAIR])
    return prepare(subject, STANDARD, PreparationConfig())


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return load_method(tiny_checkpoint).method


def test_available_contrasts_come_back_and_missing_ones_are_made_inside_the_brain(prepared):
    made = synthesise_volume(Recorder(lambda x, *_: torch.full_like(x, 0.5)), prepared, "s", ONCE).mean

    t1, t1ce, t2, flair = range(4)
    assert np.array_equal(made[[t1, t2]], prepared.images[[t1, t2]])
    for channel in (t1ce, flair):
        assert np.array_equal(made[channel], np.where(prepared.mask, np.float32(0.75), 0))


def test_what_a_method_overshoots_is_clipped(prepared):
    made = synthesise_volume(Recorder(lambda x, *_: torch.full_like(x, 3.0)), prepared, "s", ONCE).mean

    assert (made.min(), made.max()) == (0, 1)


def test_batch_size_changes_nothing_that_can_be_seen(prepared, tiny):
    one, three, all_at_once = (
        synthesise_volume(tiny, prepared, "s", replace(ONCE, batch_size=n)).mean for n in (1, 3, 64)
    )

    assert one[1][prepared.mask].std() > 0.01  # there is something to differ
    assert np.abs(one - three).max() < 1e-4 and np.abs(one - all_at_once).max() < 1e-4


def test_a_few_slices_are_those_of_the_whole_volume(prepared, tiny):
    whole = synthesise_volume(tiny, prepared, "s", ONCE).mean
    few = synthesise_volume(tiny, prepared, "s", ONCE, slices=[6, 2]).mean

    assert np.allclose(few[1][..., [2, 6]], whole[1][..., [2, 6]], atol=1e-5)
    assert not few[1][..., [0, 1, 3, 4, 5, 7]].any()


def test_seed_and_subject_name_the_noise(prepared, tiny):
    def made(subject, seed):
        return synthesise_volume(tiny, prepared, subject, Sampling("ddim", 2, seed=seed)).mean

    first = made("s", 0)
    assert np.array_equal(first, made("s", 0))
    assert not np.allclose(first, made("s", 1)) and not np.allclose(first, made("other", 0))


def test_mean_and_deviation_are_those_of_the_samples(prepared):
    """Noise in, noise out: three samples whose values are known."""
    method = Recorder(lambda images, context, noise: (0.1 * noise(images)).clamp(-1, 1))
    made = synthesise_volume(method, prepared, "s", Sampling("ddim", 2, samples=3, seed=5, batch_size=4))

    shape = (len(STANDARD), *prepared.mask.shape[:2])
    k, inside = 4, prepared.mask[..., 4]
    samples = [SeededNoise(5, "s", STANDARD, n).slices([k])(torch.zeros(1, *shape))[0] for n in range(3)]
    u = (0.1 * torch.stack(samples).clamp(-10, 10)[:, 1].numpy() + 1) / 2
    assert np.allclose(made.mean[1][..., k][inside], u.mean(0)[inside], atol=1e-6)
    assert np.allclose(made.deviation[1][..., k][inside], u.std(0, ddof=1)[inside], atol=1e-6)
    assert not made.deviation[[0, 2]].any() and not made.deviation[:, ~prepared.mask].any()


def test_one_sample_has_no_deviation(prepared):
    assert synthesise_volume(Recorder(), prepared, "s", ONCE).deviation is None


def test_shared_noise_is_the_same_in_every_slice(prepared):
    method = Recorder(lambda images, context, noise: 0.1 * noise(images))
    method.shared_noise = True
    made = synthesise_volume(method, prepared, "s", ONCE).mean

    both = prepared.mask[..., 3] & prepared.mask[..., 6]
    assert np.array_equal(made[1][..., 3][both], made[1][..., 6][both])


def test_context_is_the_slice_below_and_the_slice_above(prepared):
    """A method that answers with one neighbour of T1 shifts the volume by one slice; beyond its end is background."""
    for place, shift in ((0, -1), (1, 1)):
        method = Recorder(lambda images, context, noise, place=place: context[:, :1, place].expand_as(images))
        made = synthesise_volume(method, prepared, "s", ONCE).mean[1]

        depth = made.shape[-1]
        t1 = np.pad(prepared.images[0], ((0, 0), (0, 0), (1, 1)))[..., 1 + shift : 1 + shift + depth]
        assert np.allclose(made, np.where(prepared.mask, t1, 0), atol=1e-6)


def test_a_hidden_contrast_is_made_and_never_read(prepared, tiny):
    flags = [True, False, False, False]
    hidden = synthesise_volume(tiny, prepared, "s", ONCE, available=flags)
    images = prepared.images.copy()
    images[1:] = np.nan
    unknown = synthesise_volume(tiny, replace(prepared, images=images), "s", ONCE, available=flags)

    assert not np.array_equal(hidden.mean[2], prepared.images[2])
    assert np.array_equal(hidden.mean, unknown.mean)


def test_steps_sampler_and_precision_reach_the_method(prepared):
    method = Recorder()
    synthesise_volume(method, prepared, "s", Sampling("dpm_solver_pp", 7, precision="bf16", batch_size=64))

    ((batch, available, *how),) = method.asked
    assert how == [7, "dpm_solver_pp", True]
    assert available.tolist() == [[True, False, True, False]] * batch


def test_bf16_is_close_to_fp32(prepared, tiny):
    full, half = (synthesise_volume(tiny, prepared, "s", replace(ONCE, precision=p)).mean for p in ("fp32", "bf16"))

    assert not np.array_equal(full, half)
    assert np.abs(full - half).mean() < 0.02


def test_progress_counts_slices_of_all_samples(prepared):
    seen = []
    synthesise_volume(
        Recorder(),
        prepared,
        "s",
        Sampling("ddim", 2, samples=2, batch_size=3),
        progress=lambda *step: seen.append(step),
    )

    slices = int(prepared.mask.any(axis=(0, 1)).sum())
    assert {what for what, _, _ in seen} == {"synthesising slices"}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1:] == (2 * slices, 2 * slices)
