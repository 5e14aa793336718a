"""Whole volumes from slices: what goes in comes back, and neither batches, order nor precision decide what is made."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.diffusion.noise import SeededNoise
from mrsynth.errors import WeightsError
from mrsynth.methods import build_method, preset
from mrsynth.methods.base import Method, MethodConfig
from mrsynth.sampling import Estimator
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.synthesis import synthesise_volume
from mrsynth.tasks.models import load_method

SHAPE = (24, 28, 10)
ONCE = Estimator("ddim", 2)


class Recorder(Method):
    """Makes what `answer(images, context, noise)` says, and notes how it was asked."""

    neighbours = 1

    def __init__(self, answer=lambda images, context, noise: torch.zeros_like(images)):
        super().__init__(MethodConfig(method="recorder"))
        self.answer = answer
        self.asked = []

    def objectives(self, stage):
        return []

    def fill_in(self, images, available, wish):
        self.asked.append((len(images), available, wish.steps, wish.sampler, torch.is_autocast_enabled("cpu")))
        return self.answer(images, wish.context, wish.noise)


@pytest.fixture(scope="module")
def prepared(make_subject):
    subject = make_subject("s", shape=SHAPE, without=[Contrast.T1CE, Contrast.FLAIR])
    return prepare(subject, STANDARD, PreparationConfig())


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return load_method(tiny_checkpoint).method


def test_available_contrasts_come_back_and_missing_ones_are_made_inside_the_brain(prepared):
    made = synthesise_volume(Recorder(lambda x, *_: torch.full_like(x, 0.5)), prepared, "s", ONCE).image

    t1, t1ce, t2, flair = range(4)
    assert np.array_equal(made[[t1, t2]], prepared.images[[t1, t2]])
    for channel in (t1ce, flair):
        assert np.array_equal(made[channel], np.where(prepared.mask, np.float32(0.75), 0))


def test_what_a_method_overshoots_is_clipped(prepared):
    made = synthesise_volume(Recorder(lambda x, *_: torch.full_like(x, 3.0)), prepared, "s", ONCE).image

    assert (made.min(), made.max()) == (0, 1)


def test_batch_size_changes_nothing_that_can_be_seen(prepared, tiny):
    one, three, all_at_once = (
        synthesise_volume(tiny, prepared, "s", replace(ONCE, batch_size=n)).image for n in (1, 3, 64)
    )

    assert one[1][prepared.mask].std() > 0.01  # there is something to differ
    assert np.abs(one - three).max() < 1e-4 and np.abs(one - all_at_once).max() < 1e-4


class Small(Recorder):
    """Has memory for so many slices at once."""

    def __init__(self, room, error):
        super().__init__(lambda x, *_: x + 0.25)
        self.room, self.error = room, error

    def fill_in(self, images, available, wish):
        made = super().fill_in(images, available, wish)
        if len(images) > self.room:
            raise self.error
        return made


NO_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")


@pytest.mark.parametrize("error", [NO_MEMORY, MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_where_memory_runs_out_half_the_slices_are_tried(error, prepared, caplog):
    method = Small(2, error)
    heard = []
    how = replace(ONCE, batch_size=8)
    made = synthesise_volume(method, prepared, "s", how, progress=lambda *step: heard.append(step[1:])).image

    sizes = [asked[0] for asked in method.asked]
    filled = int(prepared.mask.any(axis=(0, 1)).sum())
    assert sizes[:4] == [8, 4, 2, 2] and max(sizes[3:]) == 2 and sum(sizes[2:]) == filled, "no slice is made twice"
    assert np.array_equal(made, synthesise_volume(Small(8, error), prepared, "s", how).image)
    assert heard[0] == (2, filled) and heard[-1] == (filled, filled)
    assert "8 slices at once; going on with 4" in caplog.text


@pytest.mark.parametrize(("room", "error", "tries"), [(0, NO_MEMORY, [8, 4, 2, 1]), (0, RuntimeError("a bug"), [8])])
def test_one_slice_that_is_too_much_and_other_errors_are_not_tried_again(room, error, tries, prepared):
    method = Small(room, error)
    with pytest.raises(RuntimeError):
        synthesise_volume(method, prepared, "s", replace(ONCE, batch_size=8))

    assert [asked[0] for asked in method.asked] == tries


def test_a_few_slices_are_those_of_the_whole_volume(prepared, tiny):
    whole = synthesise_volume(tiny, prepared, "s", ONCE).image
    few = synthesise_volume(tiny, prepared, "s", ONCE, slices=[6, 2]).image

    assert np.allclose(few[1][..., [2, 6]], whole[1][..., [2, 6]], atol=1e-5)
    assert not few[1][..., [0, 1, 3, 4, 5, 7]].any()


def test_seed_and_subject_name_the_noise(prepared, tiny):
    def made(subject, seed):
        return synthesise_volume(tiny, prepared, subject, Estimator("ddim", 2, seed=seed)).image

    first = made("s", 0)
    assert np.array_equal(first, made("s", 0))
    assert not np.allclose(first, made("s", 1)) and not np.allclose(first, made("other", 0))


def test_mean_and_deviation_are_those_of_the_samples(prepared):
    """Noise in, noise out: three samples whose values are known."""
    method = Recorder(lambda images, context, noise: (0.1 * noise(images)).clamp(-1, 1))
    made = synthesise_volume(method, prepared, "s", Estimator("ddim", 2, samples=3, seed=5, batch_size=4))

    shape = (len(STANDARD), *prepared.mask.shape[:2])
    k, inside = 4, prepared.mask[..., 4]
    samples = [SeededNoise(5, "s", STANDARD, n).slices([k])(torch.zeros(1, *shape))[0] for n in range(3)]
    u = (0.1 * torch.stack(samples).clamp(-10, 10)[:, 1].numpy() + 1) / 2
    assert np.allclose(made.image[1][..., k][inside], u.mean(0)[inside], atol=1e-6)
    assert np.allclose(made.spread[1][..., k][inside], u.std(0, ddof=1)[inside], atol=1e-6)
    assert not made.spread[[0, 2]].any() and not made.spread[:, ~prepared.mask].any()


def test_one_sample_has_no_deviation(prepared):
    assert synthesise_volume(Recorder(), prepared, "s", ONCE).spread is None


def test_shared_noise_is_the_same_in_every_slice(prepared):
    method = Recorder(lambda images, context, noise: 0.1 * noise(images))
    method.shared_noise = True
    made = synthesise_volume(method, prepared, "s", ONCE).image

    both = prepared.mask[..., 3] & prepared.mask[..., 6]
    assert np.array_equal(made[1][..., 3][both], made[1][..., 6][both])


def test_context_is_the_slice_below_and_the_slice_above(prepared):
    """A method that answers with one neighbour of T1 shifts the volume by one slice; beyond its end is background."""
    for place, shift in ((0, -1), (1, 1)):
        method = Recorder(lambda images, context, noise, place=place: context[:, :1, place].expand_as(images))
        made = synthesise_volume(method, prepared, "s", ONCE).image[1]

        depth = made.shape[-1]
        t1 = np.pad(prepared.images[0], ((0, 0), (0, 0), (1, 1)))[..., 1 + shift : 1 + shift + depth]
        assert np.allclose(made, np.where(prepared.mask, t1, 0), atol=1e-6)


def test_a_hidden_contrast_is_made_and_never_read(prepared, tiny):
    flags = [True, False, False, False]
    hidden = synthesise_volume(tiny, prepared, "s", ONCE, available=flags)
    images = prepared.images.copy()
    images[1:] = np.nan
    unknown = synthesise_volume(tiny, replace(prepared, images=images), "s", ONCE, available=flags)

    assert not np.array_equal(hidden.image[2], prepared.images[2])
    assert np.array_equal(hidden.image, unknown.image)


def test_steps_sampler_and_precision_reach_the_method(prepared):
    method = Recorder()
    synthesise_volume(method, prepared, "s", Estimator("dpm_solver_pp", 7, precision="bf16", batch_size=64))

    ((batch, available, *how),) = method.asked
    assert how == [7, "dpm_solver_pp", True]
    assert available.tolist() == [[True, False, True, False]] * batch


def test_bf16_is_close_to_fp32(prepared, tiny):
    full, half = (synthesise_volume(tiny, prepared, "s", replace(ONCE, precision=p)).image for p in ("fp32", "bf16"))

    assert not np.array_equal(full, half)
    assert np.abs(full - half).mean() < 0.02


def test_progress_counts_slices_of_all_samples(prepared):
    seen = []
    synthesise_volume(
        Recorder(),
        prepared,
        "s",
        Estimator("ddim", 2, samples=2, batch_size=3),
        progress=lambda *step: seen.append(step),
    )

    slices = int(prepared.mask.any(axis=(0, 1)).sum())
    assert {what for what, _, _ in seen} == {"synthesising slices"}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1:] == (2 * slices, 2 * slices)


# Whole volumes -------------------------------------------------------------------------------------------------------

MISSING = (Contrast.T1CE, Contrast.FLAIR)


class WholeRecorder(Recorder):
    """The same, for whole volumes; it tells of every step, and asks for the noise of its targets."""

    dimensions = 3
    neighbours = 0

    def __init__(self, answer=lambda images, noise: torch.zeros_like(images), targets=MISSING):
        super().__init__(answer)
        self.targets = targets

    def fill_in(self, images, available, wish):
        asked = (images, available, wish.context, wish.steps, wish.sampler, torch.is_autocast_enabled("cpu"))
        self.asked.append(asked)
        tell = wish.counter(wish.steps)
        for _ in range(wish.steps):
            tell()
        return self.answer(images, wish.noise)


def noisy(images, noise):
    """A tenth of the noise of the first target, as every channel."""
    drawn = noise(torch.zeros(1, len(MISSING), *images.shape[2:]))
    return (0.1 * drawn[:, :1]).clamp(-1, 1).expand_as(images)


def test_a_whole_volume_is_made_at_once(prepared):
    method = WholeRecorder(lambda images, noise: torch.full_like(images, 0.5))
    made = synthesise_volume(method, prepared, "s", ONCE).image

    t1, t1ce, t2, flair = range(4)
    assert np.array_equal(made[[t1, t2]], prepared.images[[t1, t2]])
    for channel in (t1ce, flair):
        assert np.array_equal(made[channel], np.where(prepared.mask, np.float32(0.75), 0))
    ((images, available, context, *how),) = method.asked
    assert np.array_equal(images[0].numpy(), prepared.images * 2 - 1)
    assert available.tolist() == [[True, False, True, False]]
    assert context.shape == (1, len(STANDARD), 0, *prepared.mask.shape)
    assert how == [2, "ddim", False]


def test_of_a_whole_volume_what_overshoots_is_clipped_and_precision_reaches_the_method(prepared):
    method = WholeRecorder(lambda images, noise: 3 * torch.sign(images + 0.5))
    made = synthesise_volume(method, prepared, "s", Estimator("ddpm", 1, precision="bf16")).image

    assert (made.min(), made.max()) == (0, 1)
    assert method.asked[0][3:] == (1, "ddpm", True)


def test_mean_and_deviation_of_whole_volumes(prepared):
    """Noise in, noise out: three samples whose values are known."""
    made = synthesise_volume(WholeRecorder(noisy), prepared, "s", Estimator("ddim", 2, samples=3, seed=5))

    like = torch.zeros(1, len(MISSING), *prepared.mask.shape)
    drawn = [SeededNoise(5, "s", MISSING, n).volume()(like)[0, 0].numpy() for n in range(3)]
    u = (np.clip(0.1 * np.stack(drawn), -1, 1) + 1) / 2
    inside = prepared.mask
    assert np.allclose(made.image[1][inside], u.mean(0)[inside], atol=1e-6)
    assert np.allclose(made.spread[1][inside], u.std(0, ddof=1)[inside], atol=1e-6)
    assert not made.spread[[0, 2]].any() and not made.spread[:, ~inside].any()
    assert not made.image[1][~inside].any()
    assert synthesise_volume(WholeRecorder(noisy), prepared, "s", ONCE).spread is None


def test_cycle_spinning_makes_the_volume_on_two_grids_and_each_voxel_stays_where_it_is(prepared):
    """Every contrast is T1 with a pattern of the grid's own, which two grids a voxel apart cancel."""

    def answer(images, noise):
        along = [torch.arange(n) % 2 for n in images.shape[2:]]
        pattern = 0.2 * (1 - 2 * along[0])[:, None, None] + 0.1 * (1 - 2 * along[2])
        return 0.5 * images[:, :1].expand_as(images) + pattern

    method = WholeRecorder(answer)
    spun = synthesise_volume(method, prepared, "s", replace(ONCE, mode="mean", cycle_spinning=True)).image
    plain = synthesise_volume(method, prepared, "s", replace(ONCE, mode="mean")).image

    t1 = np.where(prepared.mask, (0.5 * (prepared.images[0] * 2 - 1) + 1) / 2, 0)
    assert np.allclose(spun[1, 1:, 1:, 1:], t1[1:, 1:, 1:], atol=1e-6)
    assert np.abs(plain[1] - t1).max() > 0.1
    assert np.array_equal(spun[1, 0], plain[1, 0]), "where the second grid has not begun there is one image"
    assert np.array_equal(spun[0], prepared.images[0])
    assert [images.shape for images, *_ in method.asked] == [(1, *prepared.images.shape)] * 3


def test_progress_of_both_grids_is_one(prepared):
    seen = []
    how = replace(ONCE, mode="mean", cycle_spinning=True)
    synthesise_volume(WholeRecorder(), prepared, "s", how, progress=lambda *step: seen.append(step[1:]))
    assert seen == [(1, 2), (2, 2)]


def test_seed_subject_and_sample_name_the_noise_of_a_volume_and_nothing_else_does(prepared):
    def made(subject="s", flags=None, **changes):
        mean = synthesise_volume(
            WholeRecorder(noisy), prepared, subject, replace(ONCE, **changes), available=flags
        ).image
        return np.where(prepared.mask, mean[1], 0)

    first = made()
    for same in ({}, {"batch_size": 3}, {"steps": 5}, {"sampler": "ddpm"}, {"flags": [True, False, False, True]}):
        assert np.array_equal(first, made(**same)), same
    others = [first, made(seed=1), made("other"), 2 * made(samples=2) - first]  # the last: the second sample alone
    for number, one in enumerate(others):
        assert not any(np.allclose(one, other, atol=1e-3) for other in others[:number])


def test_a_target_keeps_its_noise_whatever_else_a_method_makes(prepared):
    def noise_of(targets):
        drawn = []
        method = WholeRecorder(
            lambda images, noise: drawn.append(noise(images[:, : len(targets)])) or images.nan_to_num(), targets
        )
        synthesise_volume(method, prepared, "s", ONCE)
        return dict(zip(targets, drawn[0][0], strict=True))

    alone, among = noise_of((Contrast.FLAIR,)), noise_of(STANDARD)
    assert torch.equal(alone[Contrast.FLAIR], among[Contrast.FLAIR])
    assert not torch.equal(among[Contrast.T1], among[Contrast.FLAIR])


def test_progress_counts_the_steps_of_all_whole_samples(prepared):
    seen = []
    sampling = Estimator("ddim", 3, samples=2)
    synthesise_volume(WholeRecorder(), prepared, "s", sampling, progress=lambda *step: seen.append(step))

    assert seen == [("synthesising the volume", n, 6) for n in range(1, 7)]
    synthesise_volume(WholeRecorder(), prepared, "s", sampling)  # nobody need watch


def test_a_few_slices_cannot_be_had_from_a_method_for_whole_volumes(prepared):
    with pytest.raises(AssertionError, match="whole volumes"):
        synthesise_volume(WholeRecorder(), prepared, "s", ONCE, slices=[4])


@pytest.fixture(scope="module")
def cwdm():
    """Preset tiny for T1ce, seeded; no layer is left at zero, as some begin."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = build_method({**preset("cwdm", "tiny"), "target": Contrast.T1CE}).eval()
        with torch.no_grad():
            for parameter in method.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
    return method


@pytest.fixture(scope="module")
def three(make_subject):
    """A subject that lacks T1ce only, on a grid that halves five times."""
    config = PreparationConfig(multiple=32, depth_multiple=32)
    return prepare(make_subject("s", shape=SHAPE, without=[Contrast.T1CE]), STANDARD, config)


def test_what_stands_in_the_channel_to_make_is_never_read(three, cwdm):
    images = three.images.copy()
    images[1] = np.nan
    first, second = (synthesise_volume(cwdm, p, "s", ONCE).image for p in (three, replace(three, images=images)))

    assert first[1][three.mask].std() > 0.01
    assert np.array_equal(first, second)


def test_the_fast_network_of_bf16_gives_nearly_the_same(three, cwdm):
    made = []
    for precision in ("fp32", "bf16", "fp32"):
        cwdm.optimise(precision)
        made.append(synthesise_volume(cwdm, three, "s", replace(ONCE, precision=precision)).image[1])

    full, half, again = made
    assert np.array_equal(full, again)
    assert not np.array_equal(full, half) and np.abs(full - half).mean() < 0.02


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_an_error(prepared, value):
    """One voxel inside the brain is enough; clipping would hide an infinite one."""
    i, j, k = (axis[len(axis) // 2] for axis in prepared.mask.nonzero())

    def answer(images, context, noise):
        made = torch.zeros_like(images)
        made[:, :, i, j] = value
        return made

    with pytest.raises(WeightsError, match="is not finite, so nothing was kept"):
        synthesise_volume(Recorder(answer), prepared, "s", ONCE, slices=[k])
