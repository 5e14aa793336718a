"""FgC2F-UDiff: what its paper claims, and that every switch of the configuration does what it says."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mrsynth.contrasts import STANDARD, Contrast, pattern_name, patterns
from mrsynth.diffusion.noise import SeededNoise
from mrsynth.diffusion.prediction import noised
from mrsynth.errors import UsageError
from mrsynth.methods import build_method, preset
from mrsynth.methods.base import Batch
from mrsynth.methods.fgc2f import FgC2FConfig, FrequencyConfig, Guidance, gradient_error
from mrsynth.methods.patterns import legal_patterns, pattern_weights
from mrsynth.networks.frequency import low_pass
from mrsynth.networks.unet import UNetConfig
from mrsynth.scans.preparation import PreparationConfig, prepare

T1, T1CE, T2, FLAIR = STANDARD
ALL_PATTERNS = patterns()
RANKED = ("flair", "t1", "t1ce", "t2")  # another order than the default
TABLE = {  # available -> (low from, high from)
    "t1": (T1, T1),
    "t1ce": (T1CE, T1CE),
    "t2": (T2, T2),
    "flair": (FLAIR, FLAIR),
    "t1+t1ce": (T1, T1CE),
    "t1+t2": (T1, T2),
    "t1+flair": (T1, FLAIR),
    "t1ce+t2": (T2, T1CE),
    "t1ce+flair": (FLAIR, T1CE),
    "t2+flair": (T2, FLAIR),
    "t1+t1ce+t2": (T1, T1CE),
    "t1+t1ce+flair": (T1, T1CE),
    "t1+t2+flair": (T1, FLAIR),
    "t1ce+t2+flair": (T2, T1CE),
}


def config(freq=None, **options):
    return {**preset("fgc2f", "tiny"), "freq": freq or {}, **options}


def flags(*names):
    return torch.tensor([[c.value in name.split("+") for c in STANDARD] for name in names])


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def no_context(x):
    return x.new_empty(*x.shape[:2], 0, *x.shape[2:])


def noise_for(batch, seed=0, shared=False):
    return SeededNoise(seed, "subject", STANDARD, shared=shared).slices(range(len(batch.images)))


def loss_of(method, batch, seed=0):
    with torch.no_grad():
        return float(method.loss(batch, torch.Generator().manual_seed(seed))["loss"])


def run(method, batch, noise=None, **options):
    return method.synthesise(
        batch.images, batch.available, context=batch.context, noise=noise or noise_for(batch), **options
    )


@pytest.fixture
def guide(wake):
    """guide(freq, images, available): the guidance images of a fresh method."""
    return lambda freq, x, available: wake(config(freq)).guidance(x, available)


class Watcher:
    """What a network was shown and what it answered, at each level."""

    def __init__(self, method):
        self.inputs, self.outputs = {}, {}
        method.network.register_forward_hook(self.note)

    def note(self, network, arguments, output):
        level = int(arguments[1][0])
        self.inputs[level], self.outputs[level] = arguments[0], output


# Checks 1 and 2: the filters ------------------------------------------------------------------------------------------


def test_a_point_becomes_the_kernel_in_the_low_image_and_its_complement_in_the_high(guide):
    x = torch.zeros(1, 4, 48, 48)
    x[0, 0, 24, 24] = 1
    i = torch.arange(-10, 11)
    kernel = torch.exp(-(i[:, None] ** 2 + i**2) / (2 * 3.5**2))
    made = guide({}, x, flags("t1"))

    assert torch.allclose(made.low[0, 0, 14:35, 14:35], kernel / kernel.sum(), atol=1e-7)
    assert float(made.low.sum()) == pytest.approx(1, abs=1e-5)
    assert float(made.high.sum()) == pytest.approx(0, abs=1e-5)
    assert float(made.high[0, 0, 24, 24]) == pytest.approx(1 - float(kernel[10, 10] / kernel.sum()), abs=1e-6)


def test_low_and_high_of_one_source_add_up_to_it_and_constants_are_all_low(guide):
    x = images(2, 4, 32, 40)
    made = guide({}, x, flags("t2", "flair"))
    flat = guide({}, torch.full_like(x, -1.0), flags("t2", "flair"))

    assert torch.allclose(made.low + made.high, torch.stack([x[0, 2:3], x[1, 3:4]]), atol=1e-6)
    assert torch.allclose(flat.low, torch.full_like(flat.low, -1.0), atol=1e-6)
    assert float(flat.high.abs().max()) < 1e-6  # the border too: reflected, not padded with zeros


def test_without_width_all_is_low(guide):
    x = images(1, 4, 32, 40)
    made = guide({"sigma": 1e-9}, x, flags("t1"))

    assert torch.equal(made.low, x[:, :1]) and not made.high.any()


def test_white_noise_keeps_a_150th_of_its_variance(guide):
    x = torch.randn(1, 4, 256, 256, generator=torch.Generator().manual_seed(0))

    assert float(guide({}, x, flags("t1")).low.var()) == pytest.approx(0.0066, rel=0.1)


def test_guidance_keeps_its_precision_under_autocast(guide):
    """Rounded to bfloat16, the high image would be off by 0.004, a good part of it."""
    x = images(1, 4, 32, 40)
    exact = guide({}, x, flags("t1+t1ce"))
    with torch.autocast("cpu", torch.bfloat16):
        trained = guide({}, x, flags("t1+t1ce"))

    assert torch.equal(trained.low, exact.low) and torch.equal(trained.high, exact.high)


# Check 3: which contrast guides ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", TABLE)
def test_sources_are_those_of_the_table(pattern, wake):
    low, high = wake(config()).source_weights(flags(pattern))

    assert (STANDARD[low.argmax()], STANDARD[high.argmax()]) == TABLE[pattern]
    assert sorted(low[0].tolist()) == sorted(high[0].tolist()) == [0, 0, 0, 1]


def test_the_table_is_whole():
    assert set(TABLE) == {pattern_name(p) for p in ALL_PATTERNS}


@pytest.mark.parametrize("select", ["dynamic", "fixed", "reverse", "mean", "learned"])
def test_only_available_contrasts_guide(select, wake):
    available = flags(*TABLE)
    for weights in wake(config({"select": select})).source_weights(available):
        assert torch.allclose(weights.sum(1), torch.ones(14))
        assert not weights[~available].any()


def test_every_way_to_select_differs_as_it_says(wake):
    available = flags("t1ce+t2+flair")
    ways = {
        name: [w[0].tolist() for w in wake(config({"select": name})).source_weights(available)]
        for name in ("dynamic", "fixed", "reverse", "mean", "learned")
    }
    t1ce, t2 = [0, 1, 0, 0], [0, 0, 1, 0]
    third = pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])

    assert ways["dynamic"] == [t2, t1ce]
    assert ways["reverse"] == [t1ce, t2]
    assert ways["fixed"] == [t1ce, t1ce]
    assert ways["mean"] == [third, third]
    # ranks 1, 2, 3 of T2, FLAIR, T1ce in steps of 4
    parts = np.exp([0.0, -4.0, -8.0]) / np.exp([0.0, -4.0, -8.0]).sum()
    assert ways["learned"][0] == pytest.approx([0, parts[2], parts[0], parts[1]], abs=1e-6)
    assert ways["learned"][1] == pytest.approx([0, parts[0], parts[2], parts[1]], abs=1e-6)


def test_the_ranking_is_by_name_and_can_be_that_of_another_data_set(wake):
    ixi = (Contrast.PD, T1, T2)
    method = wake(config({"ranking": (T2, Contrast.PD, T1)}, contrasts=ixi))
    low, high = method.source_weights(torch.tensor([[True, True, False], [False, True, True], [True, True, True]]))

    assert [ixi[i] for i in low.argmax(1)] == [Contrast.PD, T2, T2]
    assert [ixi[i] for i in high.argmax(1)] == [T1, T1, T1]
    assert method.network.head.out_channels == 3


# Checks 4, 6 and 7: the chain -----------------------------------------------------------------------------------------


def test_low_guides_from_half_the_chain_upwards(wake):
    method, made = wake(config()), Guidance(torch.zeros(4, 1, 2, 2), torch.ones(4, 1, 2, 2))
    shown = method.guide(made, torch.tensor([199, 100, 99, 0]))

    assert shown[:, 0, 0, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("T", "switch", "first"), [(200, 0.5, 100), (5, 0.5, 3), (200, 0.0, 0), (200, 1.0, 200),
                                                    (100, 0.07, 7), (100, 0.29, 29), (1000, 0.25, 250)])  # fmt: skip
def test_the_switch_can_be_anywhere(T, switch, first, wake):
    method, made = wake(config(T=T, switch=switch)), Guidance(torch.zeros(T, 1, 1, 1), torch.ones(T, 1, 1, 1))

    assert method.config.first_coarse == first
    assert method.guide(made, torch.arange(T)).flatten().tolist() == [1.0] * first + [0.0] * (T - first)


def test_the_network_sees_clean_inputs_noisy_targets_and_the_guidance_of_the_stage(wake, make_batch):
    """With 20 steps, ten are coarse and ten fine: the level counts, not its place in the short list."""
    method, batch = wake(config()), make_batch([(T1, FLAIR), (T2,)])
    watch, cached = Watcher(method), method.guidance(batch.images, batch.available)
    run(method, batch, steps=20, sampler="ddim")
    low = [t for t, x in watch.inputs.items() if torch.equal(x[:, 4:], cached.low)]
    high = [t for t, x in watch.inputs.items() if torch.equal(x[:, 4:], cached.high)]

    assert low == [199 - 10 * i for i in range(10)] and high == [99 - 10 * i for i in range(10)]
    start = noise_for(batch)(batch.images)
    for t, x in watch.inputs.items():
        assert x.shape == (2, 5, 32, 40)
        assert torch.equal(x[:, :4][batch.available], batch.images[batch.available])
        assert torch.equal(x[:, :4][~batch.available], start[~batch.available]) == (t == 199)


def test_missing_channels_hold_x_t(wake):
    method, x, x_t = wake(config()), images(2, 4, 8, 8), images(2, 4, 8, 8, seed=1)
    available = flags("t1+t2", "flair")
    shown = method.assemble(x_t, x, available, torch.zeros(2, 1, 8, 8), no_context(x))

    assert torch.equal(shown[:, :4], torch.where(available[..., None, None], x, x_t))


class Oracle(torch.nn.Module):
    """A network that knows the truth and answers with the noise that leads to x_t."""

    def __init__(self, truth, schedule):
        super().__init__()
        self.truth, self.schedule, self.seen = truth, schedule, {}

    def forward(self, x, level, condition):
        abar = float(self.schedule.abar[int(level[0])])
        self.seen[int(level[0])] = x[:, :4]
        return ((x[:, :4].double() - math.sqrt(abar) * self.truth) / math.sqrt(1 - abar)).float()


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 200), ("ddim", 20), ("ddpm", 200), ("dpm_solver_pp", 20)])
def test_an_oracle_leads_back_to_the_image(sampler, steps, wake, make_batch):
    method, batch = wake(config()), make_batch([(T1,), (T2, FLAIR)])
    method.network = Oracle(batch.images, method.schedule)

    assert float((run(method, batch, sampler=sampler, steps=steps) - batch.images).abs().max()) <= 1e-3


def test_one_ancestral_step_is_the_posterior(wake, make_batch):
    """Bayes: precisions of x_s given x_0, and of x_t given x_s, add up. From level 149 to 99, in a chain of four."""
    method, batch = wake(config()), make_batch([(T1,)])
    method.network = oracle = Oracle(batch.images, method.schedule)
    abar_t, abar_s = (float(method.schedule.abar[t]) for t in (149, 99))
    alpha = abar_t / abar_s
    variance = 1 / (alpha / (1 - alpha) + 1 / (1 - abar_s))
    for z in (0.0, 1.0):
        drawn = iter(
            [images(1, 4, 32, 40), images(1, 4, 32, 40, seed=1), torch.full((1, 4, 32, 40), z), torch.zeros(1)]
        )
        run(method, batch, noise=lambda like, drawn=drawn: next(drawn).expand(like.shape), steps=4, sampler="ddpm")
        x_t, x_s = oracle.seen[149][:, 1:], oracle.seen[99][:, 1:]
        x_0 = batch.images[:, 1:]
        mean = variance * (math.sqrt(abar_s) / (1 - abar_s) * x_0 + math.sqrt(alpha) / (1 - alpha) * x_t)
        assert float((x_s - mean - z * math.sqrt(variance)).abs().max()) < 1e-5


# Check 5: schedules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "linear_scaled"])
def test_selectable_schedules_end_in_noise(schedule):
    abar = build_method(config(schedule=schedule)).schedule.abar

    assert len(abar) == 200 and bool((abar.diff() < 0).all()) and 0 < float(abar[-1]) < 1e-3 and float(abar[0]) < 1


def test_the_linear_schedule_of_1000_levels_is_refused_at_200():
    with pytest.raises(UsageError, match=r"0\.132"):
        build_method(config(schedule="linear"))
    assert build_method(config(schedule="linear", T=1000)).schedule.name == "linear"


# Check 8: what is missing is never read -------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["dynamic", "fixed", "mean", "learned"])
def test_garbage_in_missing_channels_changes_nothing(select, wake, make_batch):
    method, batch = wake(config({"select": select}, neighbours=1)), make_batch([(T1,), (T2, FLAIR)], neighbours=1)
    hidden = ~batch.available
    garbage = replace(
        batch,
        images=torch.where(hidden[..., None, None], 99.0, batch.images),
        context=torch.where(hidden[..., None, None, None], torch.inf, batch.context),
    )
    options = {"noise": noise_for(batch), "steps": 3}

    assert torch.equal(run(method, garbage, **options), run(method, batch, **{**options, "noise": noise_for(batch)}))


# Check 9: the loss ----------------------------------------------------------------------------------------------------


def test_the_output_for_available_and_for_unknown_contrasts_gets_no_gradient(wake, make_batch):
    method, batch = wake(config()), make_batch([(T1, T1CE), (T2,)], present=(T1, T1CE, T2))
    answers = []
    method.network.register_forward_hook(lambda *call: call[2].retain_grad() or answers.append(call[2]))
    method.loss(batch, torch.Generator().manual_seed(0))["loss"].backward()
    wanted = batch.present & ~batch.available

    assert wanted.tolist() == [[False, False, True, False], [True, True, False, False]]
    assert not answers[0].grad[~wanted].any()
    assert bool(answers[0].grad[wanted].any(dim=1).any(dim=1).all())


def test_every_example_weighs_the_same_whatever_it_misses(make_batch):
    """An untrained network answers 0, so that with param x0 the loss is the mean square of the missing images."""
    method, batch = build_method(config(param="x0")), make_batch([(T1, T2, FLAIR), (T2,), (T1, FLAIR)])
    squares = batch.images.square().mean((2, 3))
    each = [squares[b][~batch.available[b]].mean() for b in range(3)]

    def loss(rows):
        part = replace(batch, **{k: getattr(batch, k)[rows] for k in ("images", "present", "available", "context")})
        return loss_of(method, part)

    assert loss([0, 1, 2]) == pytest.approx(float(sum(each) / 3), rel=1e-5)
    assert loss([2, 0, 1]) == pytest.approx(loss([0, 1, 2]), rel=1e-6)
    assert [loss([b]) for b in range(3)] == pytest.approx([float(e) for e in each], rel=1e-5)


def test_an_example_with_nothing_to_make_costs_nothing(make_batch):
    method, batch = build_method(config(param="x0")), make_batch([(T1,), STANDARD])

    assert loss_of(method, batch) == pytest.approx(loss_of(method, make_batch([(T1,)])) / 2, rel=1e-5)


def test_learning_the_mean_shows_the_last_level_and_no_noise(wake, make_batch):
    method, batch = wake(config(param="x0", mean_share=1.0)), make_batch([(T1,), (T1, T2)])
    seen = []
    method.network.register_forward_hook(lambda network, given, _: seen.append(given))
    losses = [loss_of(method, batch, seed) for seed in (0, 1)]
    shown, level = seen[0][:2]

    assert losses[0] == losses[1]
    assert level.tolist() == [method.config.T - 1] * 2
    assert torch.equal(shown[:, :4], torch.where(batch.available[:, :, None, None], batch.images, 0.0))


def test_a_share_of_the_examples_learns_the_mean(wake, make_batch):
    method, batch = wake(config(param="x0", mean_share=0.5)), make_batch([(T1,)] * 4)
    levels = []
    method.network.register_forward_hook(lambda network, given, _: levels.append(given[1]))
    for seed in range(20):
        loss_of(method, batch, seed)

    assert 0.3 < float((torch.cat(levels) == method.config.T - 1).float().mean()) < 0.7


def test_charbonnier_is_the_mean_absolute_error_of_large_errors(make_batch):
    """An untrained network answers 0."""
    batch = make_batch([(T1, T2, FLAIR), (T2,)])
    absolute = [batch.images[b][~batch.available[b]].abs().mean() for b in range(2)]

    assert loss_of(build_method(config(param="x0", loss="charbonnier")), batch) == pytest.approx(
        float(sum(absolute) / 2), rel=1e-2
    )


def test_the_gradient_term_is_blind_to_brightness_and_counts_edges():
    flat, ramp = torch.full((1, 1, 5, 5), 0.3), torch.arange(5.0).expand(1, 1, 5, 5)

    assert gradient_error(flat).tolist() == [[0.0]]
    assert gradient_error(ramp).tolist() == gradient_error(-ramp + 7).tolist() == [[1.0]]


def test_the_gradient_term_is_added_with_its_weight(make_batch):
    batch = make_batch([(T1, T2, FLAIR)])
    plain, weighted = (loss_of(build_method(config(param="x0", gradient_weight=w)), batch) for w in (0.0, 0.5))
    truth = torch.where(batch.available[:, :, None, None], 0.0, batch.images)

    assert weighted - plain == pytest.approx(0.5 * float(gradient_error(truth).sum()), rel=1e-4)


@pytest.mark.parametrize("param", ["x0", "v"])
@pytest.mark.parametrize(("cap", "loss"), [(5.0, {}), (1000.0, {"loss": "charbonnier", "gradient_weight": 0.5})])
def test_examples_of_the_chain_weigh_as_their_signal_to_noise_ratio(make_batch, cap, loss, param):
    """Untrained, the output is 0, so that the error of x_0 is known: all of it, or what is not in x_t."""
    method = build_method(config(param=param, mean_share=0.3, snr_cap=cap, **loss))
    batch, slope = make_batch([(T1, T2, FLAIR)]), method.config.gradient_weight
    truth, weights, wanted = batch.images[:, 1].double(), [], []
    for seed in range(60):
        random = torch.Generator().manual_seed(seed)
        level = method.draw_levels(1, random)
        eps = torch.randn(batch.images.shape, generator=random)[:, 1].double()
        level, mean = method.config.draw_mean(level, random)
        abar = float(method.schedule.abar[level])
        x_t = math.sqrt(abar) * truth + math.sqrt(1 - abar) * eps
        made = math.sqrt(abar) * x_t if param == "v" and not mean else torch.zeros_like(truth)
        wanted.append(1.0 if mean else min(max(abar / (1 - abar), 1.0), cap))
        off = made - truth
        plain = method.distance(off).mean() + slope * gradient_error(off[:, None]).mean()
        weights.append(float(method.loss(batch, torch.Generator().manual_seed(seed))["loss"].detach() / plain))

    assert weights == pytest.approx(wanted, rel=1e-4)
    assert min(wanted) == 1.0 and 5.0 <= max(wanted) <= cap


# Check 10: the start --------------------------------------------------------------------------------------------------


def test_untrained_it_predicts_0_for_all_14_patterns_and_returns_what_it_was_given(make_batch):
    method, batch = build_method(config()), make_batch(ALL_PATTERNS, same_slice=True)
    watch = Watcher(method)
    made = run(method, batch, steps=2)

    assert len(made) == 14 and bool(made.isfinite().all())
    assert not any(output.any() for output in watch.outputs.values())
    assert torch.equal(made[batch.available], batch.images[batch.available])
    assert not torch.equal(made[~batch.available], batch.images[~batch.available])


# Check 11: the curriculum ---------------------------------------------------------------------------------------------

WHOLE = np.ones(4, bool)


def drawn_missing(kind, progress, present=WHOLE, count=400):
    method = build_method(config(curriculum=kind))
    random = np.random.default_rng(0)
    draws = [method.draw_available(present, progress, random) for _ in range(count)]
    return draws, [int((present & ~d).sum()) for d in draws]


@pytest.mark.parametrize(
    ("kind", "progress", "numbers"),
    [
        ("cumulative", 0.0, {1}),
        ("cumulative", 0.2, {1, 2}),
        ("cumulative", 0.4, {1, 2, 3}),
        ("cumulative", 1.0, {1, 2, 3}),
        ("strict", 0.0, {1}),
        ("strict", 0.2, {2}),
        ("strict", 0.4, {3}),
        ("strict", 1.0, {1, 2, 3}),
        ("none", 0.0, {1, 2, 3}),
    ],
)
def test_how_many_contrasts_are_missing_when(kind, progress, numbers):
    draws, missing = drawn_missing(kind, progress)

    assert set(missing) == numbers
    assert all(d.any() and not d.all() for d in draws)
    if progress == 1.0 or kind == "none":
        assert len({tuple(d) for d in draws}) == 14
    assert all(np.array_equal(a, b) for a, b in pairwise([draws, drawn_missing(kind, progress)[0]]))


@pytest.mark.parametrize(
    ("kind", "progress", "shares"),
    [
        ("cumulative", 0.149, (1, 0, 0)),
        ("cumulative", 0.15, (1 / 2, 1 / 2, 0)),
        ("cumulative", 0.30, (1 / 4, 1 / 4, 1 / 2)),
        ("cumulative", 0.50, (4 / 14, 6 / 14, 4 / 14)),
        ("strict", 0.15, (0, 1, 0)),
        ("strict", 0.30, (0, 0, 1)),
        ("none", 0.0, (4 / 14, 6 / 14, 4 / 14)),
    ],
)
def test_shares_of_one_two_and_three_missing(kind, progress, shares):
    missing = np.array([4 - len(p) for p in ALL_PATTERNS])
    probabilities = pattern_weights(build_method(config(curriculum=kind)).shares_at(progress), missing)

    assert [probabilities[missing == k].sum() for k in (1, 2, 3)] == pytest.approx(shares)
    for k in (1, 2, 3):
        assert np.ptp(probabilities[missing == k]) == 0  # patterns alike


@pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.25, 0.25, 0.5), (0, 0, 1)])
@pytest.mark.parametrize("contrasts", [3, 4, 5, 7])
def test_shares_are_kept_however_many_contrasts_there_are(contrasts, shares):
    missing = np.array([contrasts - len(p) for p in patterns(tuple(Contrast)[:contrasts])])
    probabilities = pattern_weights(shares, missing)
    kinds = [probabilities[kind].sum() for kind in (missing == 1, missing == 2, missing >= 3)]

    possible = np.array(shares) * [True, True, contrasts > 3]
    if possible.any():
        assert kinds == pytest.approx(possible / possible.sum())
    assert np.ptp(probabilities[missing >= 3]) == 0 if contrasts > 3 else kinds[2] == 0


def test_phases_and_shares_are_choices():
    method = build_method(config(phases=(0.1, 0.2, 0.2), shares=(0.5, 0.3, 0.2)))

    assert method.shares_at(0.15) == (0.5, 0.5, 0)
    assert method.shares_at(0.2) == (0.5, 0.3, 0.2)


@pytest.mark.parametrize("kind", ["cumulative", "strict", "none"])
@pytest.mark.parametrize("progress", [0.0, 0.2, 0.4, 0.9])
def test_subjects_that_lack_contrasts_take_part_in_every_phase(kind, progress):
    for present in ([True, False, True, True], [False, True, False, True]):
        draws, missing = drawn_missing(kind, progress, np.array(present), count=50)
        assert min(missing) >= 1 and all(d.any() and not (d & ~np.array(present)).any() for d in draws)


def test_legal_patterns_of_a_subject_with_two_contrasts():
    present = np.array([True, False, False, True])

    assert [p.tolist() for p in legal_patterns(present, STANDARD)] == [
        [True, False, False, False],
        [False, False, False, True],
    ]


# Check 12: whole volumes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_alike_slices_come_out_alike_when_the_noise_is_shared(noise, wake, make_batch):
    method, batch = wake(config(noise=noise)), make_batch([(T1, T2)])
    source = SeededNoise(0, "subject", STANDARD, shared=method.shared_noise)
    third, ninth = (run(method, batch, noise=source.slices([k]), steps=3) for k in (3, 9))

    assert method.shared_noise == (noise == "shared")
    assert torch.equal(third, ninth) == method.shared_noise


def test_what_is_cropped_comes_back_in_its_place(make_subject):
    subject = make_subject()
    prepared = prepare(subject, STANDARD, PreparationConfig(multiple=8))
    back = prepared.restore(prepared.images[0])
    t1 = subject.volumes[T1]
    expected = np.clip(t1.voxels / np.float32(prepared.scales[T1]), 0, 1)

    assert np.array_equal(back.voxels, expected) and np.array_equal(back.affine, t1.affine)


# Sections 8 and 9: every switch does something ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "coarse", "fine"),
    [
        ("c2f", "low t1", "high flair"),
        ("plain", "whole t1", "whole t1"),
        ("none", "zeros", "zeros"),
        ("lf_only", "low t1", "low t1"),
        ("hf_only", "high flair", "high flair"),
        ("swapped", "high flair", "low t1"),
    ],
)
def test_what_each_mode_shows_while_coarse_and_while_fine(mode, coarse, fine, wake):
    x, available = images(1, 4, 32, 40), flags("t1+t2+flair")
    t1, flair = x[:, :1], x[:, 3:]
    expected = {
        "low t1": low_pass(t1, 3.5, 21),
        "high flair": flair - low_pass(flair, 3.5, 21),
        "whole t1": t1,
        "zeros": torch.zeros_like(t1),
    }
    method = wake(config({"mode": mode}))
    made = method.guidance(x, available)

    assert torch.allclose(method.guide(made, torch.tensor([150])), expected[coarse], atol=1e-6)
    assert torch.allclose(method.guide(made, torch.tensor([50])), expected[fine], atol=1e-6)


@pytest.mark.parametrize("pattern", TABLE)
def test_soft_begins_as_c2f(pattern, wake):
    """To 4 % of the range [-1, 1], since the second contrast has 2 % of the weight; exactly from one contrast."""
    x, available, level = images(1, 4, 32, 40), flags(pattern), torch.arange(200)
    shown = []
    for mode in ("soft", "c2f"):
        method = wake(config({"mode": mode, **({"tau": 0.02} if mode == "soft" else {})}))
        made = method.guidance(x, available)
        every = Guidance(made.low.expand(200, -1, -1, -1), made.high.expand(200, -1, -1, -1))
        shown.append(method.guide(every, level).detach())

    assert float((shown[0] - shown[1]).abs().max()) < (1e-5 if "+" not in pattern else 0.08)


def test_the_cross_fade_of_soft_is_a_sigmoid_around_the_switch(wake):
    """Section 9: w(t) = sigmoid((t - (T - 1) / 2) / tau)."""
    made, levels = Guidance(torch.ones(200, 1, 1, 1), torch.zeros(200, 1, 1, 1)), torch.arange(200)
    for tau in (2.0, 7.0):
        shown = wake(config({"mode": "soft", "tau": tau})).guide(made, levels).flatten()
        assert torch.allclose(shown, torch.sigmoid((levels - 99.5) / tau), atol=1e-6)


def test_soft_learns_its_width_and_its_sources(wake, make_batch):
    method, batch = wake(config({"mode": "soft"})), make_batch([(T1, T2, FLAIR)] * 8, same_slice=True)
    method.loss(batch, torch.Generator().manual_seed(0))["loss"].backward()
    sigma = torch.nn.functional.softplus(method.rho.detach())

    assert float(sigma) == pytest.approx(3.5)
    for parameter in (method.rho, method.low_logits, method.high_logits):
        assert bool(parameter.grad.any())
    assert float(method.low_logits.grad[1]) == 0  # T1ce was never available


def test_filter_and_gain_reach_the_guidance(guide):
    x, available = images(1, 4, 32, 40), flags("t1")
    usual, wider, shorter, louder = (
        guide(freq, x, available) for freq in ({}, {"sigma": 5.0}, {"kernel": 11}, {"hf_gain": 3.0})
    )

    assert float(wider.low.var()) < float(usual.low.var()) < float(shorter.low.var())
    assert torch.equal(louder.low, usual.low) and torch.allclose(louder.high, 3 * usual.high)


def test_length_steps_and_sampler_decide_the_levels_visited(wake, make_batch):
    batch = make_batch([(T1,)])
    for options, given, visited in (
        ({"T": 50}, {}, list(range(49, -1, -1))),
        ({"T": 50, "steps": 5}, {}, [49, 39, 29, 19, 9]),
        ({"T": 50, "steps": 5}, {"steps": 2}, [49, 24]),
        ({"T": 1000}, {"steps": 4}, [999, 749, 499, 249]),
    ):
        method, told = wake(config(**options)), []
        watch = Watcher(method)
        run(method, batch, progress=lambda *step, told=told: told.append(step), **given)
        assert list(watch.inputs) == visited
        assert told == [(i + 1, len(visited)) for i in range(len(visited))]


def test_samplers_differ_and_the_configured_one_is_used(wake, make_batch):
    batch = make_batch([(T1,)])
    made = {
        name: run(wake(config(param="x0", sampler=name)), batch, steps=6) for name in ("ddpm", "ddim", "dpm_solver_pp")
    }

    for name, result in made.items():
        assert torch.equal(run(wake(config(param="x0")), batch, steps=6, sampler=name), result)
        assert all(not torch.equal(result, other) for key, other in made.items() if key != name)


def test_the_multistep_solver_forgets_its_history_at_the_switch(wake, make_batch):
    """The network here does not look at the guidance: all that the switch changes is the solver's memory."""
    batch, made = make_batch([(T1,)]), {}
    for switch in (0.5, 0.505, 0.0):
        method = wake(config(param="x0", switch=switch))
        method.network = Ramp()
        made[switch] = run(method, batch, steps=8, sampler="dpm_solver_pp")

    assert torch.equal(made[0.5], made[0.505])  # levels 124 and 99 lie on either side of both
    assert not torch.allclose(made[0.5][:, 1:], made[0.0][:, 1:], atol=1e-4)


class Ramp(torch.nn.Module):
    """An answer that depends on the level and x_t, not on the guidance."""

    def forward(self, x, level, condition):
        return (0.5 * x[:, :4] + level[:, None, None, None] / 400).clamp(-0.9, 0.9)


@pytest.mark.parametrize(("param", "expected"), [("eps", 1.0), ("x0", 0.25), ("v", None)])
def test_param_is_what_the_network_predicts(param, expected):
    """Untrained, the loss is the mean square of the target: noise 1, an image of 0.5 a quarter, v in between."""
    method = build_method(config(param=param))
    x = torch.full((64, 4, 16, 16), 0.5)
    everything = torch.ones(64, 4, dtype=torch.bool)
    batch = Batch(x, everything, flags(*["t1"] * 64), no_context(x))
    if expected is None:
        generator = torch.Generator().manual_seed(0)
        abar = method.schedule.abar[method.draw_levels(64, generator)]
        expected = float((abar + (1 - abar) * 0.25).mean())

    assert loss_of(method, batch) == pytest.approx(expected, rel=0.03)


def test_the_network_is_told_what_is_available_unless_told_not_to(wake):
    x, level = images(2, 5, 16, 16), torch.tensor([10, 10])
    told, untold = (wake(config(mask_embed=m)).network for m in (True, False))
    one, other = flags("t1", "t1").float(), flags("t2", "t2").float()

    assert not torch.allclose(told(x, level, one), told(x, level, other), atol=1e-4)
    assert torch.equal(untold(x, level, one), untold(x, level, other))
    assert untold.embed_condition is None


def test_neighbours_of_available_contrasts_are_read(wake, make_batch):
    method, batch = wake(config(neighbours=1)), make_batch([(T1, T2)], neighbours=1)
    watch, base = Watcher(method), run(method, batch, steps=1)
    shown = next(iter(watch.inputs.values()))

    assert method.neighbours == 1 and shown.shape[1] == 4 + 1 + 2 * 4
    around = shown[:, 5:].unflatten(1, (4, 2))
    assert torch.equal(around[batch.available], batch.context[batch.available]) and not around[~batch.available].any()
    for channel, read in enumerate(batch.available[0].tolist()):
        context = batch.context.clone()
        context[:, channel] += 0.5
        assert torch.equal(run(method, replace(batch, context=context), steps=1), base) == (not read)


@pytest.mark.parametrize("bias", [1.0, 3.0])
def test_levels_are_drawn_evenly_or_towards_noise(bias):
    """P(t < k) = 1 - (1 - k / T)^(1 / bias)."""
    drawn = build_method(config(level_bias=bias)).draw_levels(200_000, torch.Generator().manual_seed(0))

    assert int(drawn.min()) == 0 and int(drawn.max()) == 199 and drawn.dtype == torch.int64
    for k in (1, 20, 100, 180, 199):
        assert float((drawn < k).float().mean()) == pytest.approx(1 - (1 - k / 200) ** (1 / bias), abs=0.004)


def test_training_shows_the_guidance_of_the_drawn_level(wake, make_batch):
    """The same rule as in sampling, example by example."""
    method, batch = wake(config()), make_batch([(T1, T2)] * 8, same_slice=True)
    seen = []
    method.network.register_forward_hook(lambda _, arguments, __: seen.append(arguments))
    method.loss(batch, torch.Generator().manual_seed(3))
    x, level, condition = seen[0]
    made = method.guidance(batch.images, batch.available)
    generator = torch.Generator().manual_seed(3)

    assert torch.equal(level, method.draw_levels(8, generator)) and 0 < int((level >= 100).sum()) < 8
    assert torch.equal(x[:, 4:], torch.where((level >= 100)[:, None, None, None], made.low, made.high))
    eps = torch.randn(batch.images.shape, generator=generator)
    x_t = noised(batch.images, eps, method.schedule.abar[level][:, None, None, None])
    assert torch.equal(x[:, :4], torch.where(batch.available[..., None, None], batch.images, x_t))
    assert torch.equal(condition, batch.available.float())


# The page, and what is refused ----------------------------------------------------------------------------------------


def test_the_page_names_every_switch_and_every_value():
    page = (Path(__file__).resolve().parents[2] / "docs" / "methods" / "fgc2f.md").read_text(encoding="utf-8")
    for prefix, model in (("", FgC2FConfig), ("freq.", FrequencyConfig)):
        for name in set(model.model_fields) - {"method", "freq", "network"}:
            values = [v for v in get_args(model.model_fields[name].annotation) if isinstance(v, str)]
            assert f"`{prefix}{name}`" in page
            assert all(f"`{value}`" in page for value in values), name
    assert all(name in page for name in UNetConfig.model_fields)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrasts": ("t1", "t2")}, "must hold each of the contrasts"),
        ({"freq": {"ranking": ("t1", "t2", "flair", "flair")}}, "must hold each of the contrasts"),
        ({"freq": {"kernel": 20}}, "odd"),
        ({"freq": {"select": "learned", "mode": "plain"}}, "without a gradient"),
        ({"freq": {"select": "fixed", "mode": "none"}}, r"freq\.select without effect: freq\.mode none"),
        ({"freq": {"select": "mean", "mode": "soft"}}, r"freq\.select without effect: freq\.mode soft"),
        ({"freq": {"sigma": 2.0, "mode": "none"}}, r"freq\.sigma without effect"),
        ({"freq": {"kernel": 11, "mode": "none"}}, r"freq\.kernel without effect"),
        ({"freq": {"sigma": 2.0, "kernel": 11, "mode": "plain"}}, r"freq\.sigma, freq\.kernel without effect"),
        ({"freq": {"hf_gain": 2.0, "mode": "none"}}, r"freq\.hf_gain without effect"),
        ({"freq": {"hf_gain": 2.0, "mode": "plain"}}, r"freq\.hf_gain without effect"),
        ({"freq": {"hf_gain": 2.0, "mode": "lf_only"}}, r"freq\.hf_gain without effect"),
        ({"freq": {"tau": 3.0}}, r"freq\.tau without effect"),
        ({"freq": {"ranking": RANKED, "mode": "none"}}, r"freq\.ranking without effect"),
        ({"freq": {"ranking": RANKED, "select": "fixed"}}, r"freq\.ranking without effect.*select fixed"),
        ({"freq": {"ranking": RANKED, "select": "mean"}}, r"freq\.ranking without effect"),
        ({"freq": {"mode": "plain"}, "switch": 0.3}, "switch without effect"),
        ({"T": 50, "steps": 51}, "51 sampling steps from 50 levels"),
        ({"switch": 1.5}, "switch"),
        ({"level_bias": 0.5}, "level_bias"),
        ({"mean_share": 0.5, "param": "eps"}, "eps is undefined"),
        ({"gradient_weight": 0.5, "param": "eps"}, "gradient_weight needs param x0 or v"),
        ({"snr_cap": 5, "param": "eps"}, "snr_cap needs param x0 or v"),
        ({"snr_cap": 5, "param": "x0", "mean_share": 1}, "snr_cap without effect"),
        ({"snr_cap": 0.5}, "snr_cap"),
        ({"brightness_weight": 0.5, "param": "eps"}, "brightness_weight is of the error of x_0"),
        ({"brightness_weight": 0.5, "param": "v"}, "v with an snr_cap above 1"),
        ({"phases": (0.5, 0.3, 0.6)}, "no phase ends before the one before it"),
        ({"shares": (-1, 1, 1)}, "greater than or equal to 0"),
        ({"shares": (0, 0, 0)}, "one above 0"),
        ({"shares": (1, float("inf"), 1)}, "finite"),
        ({"network": {"multipliers": ()}}, "at least 1 item"),
        ({"network": {"multipliers": (1, -1)}}, "greater than 0"),
        ({"guidance": "c2f"}, "guidance"),
    ],
    ids=str,
)
def test_configurations_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        FgC2FConfig.model_validate({**preset("fgc2f", "tiny"), **options})


SWITCHES = {  # option -> another value than the default
    "select": ["fixed", "reverse", "mean", "learned"],
    "sigma": [1.0],
    "kernel": [11],
    "hf_gain": [2.0],
    "ranking": [RANKED],
    "tau": [9.0],
}


@pytest.mark.parametrize("mode", get_args(FrequencyConfig.model_fields["mode"].annotation))
@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in SWITCHES.items() for v in values])
def test_a_switch_that_can_be_set_changes_what_the_network_is_shown(mode, name, value, wake):
    """With every mode, every option either is refused or moves the guidance or where it begins."""
    try:
        FrequencyConfig(mode=mode, **{name: value})
    except ValidationError as error:
        assert f"freq.{name} without effect" in str(error) or value == "learned"  # which may lack gradients instead
        return
    x, available = images(2, 4, 32, 32), flags("t1ce+t2+flair", "t2+flair")
    seen = []
    for more in ({}, {name: value}):
        method = wake(config({"mode": mode, **more}))
        made = method.guidance(x, available)
        seen.append(torch.stack([method.guide(made, torch.full((2,), level)) for level in (10, 98, 150)]))
    assert not torch.equal(*seen)


def test_what_had_no_effect_in_a_file_of_0_1_0_is_as_if_it_had_not_been_set():
    old = {"mode": "none", "select": "fixed", "sigma": 1.0, "hf_gain": 3.0, "tau": 5.0, "ranking": list(RANKED)}
    soft = {"mode": "soft", "select": "mean", "sigma": 1.0, "tau": 5.0}
    others = {"mode": "none", "ranking": ["pd", "t1"]}  # of other contrasts it has to be given

    assert FrequencyConfig(**FrequencyConfig.from_format_1(old)) == FrequencyConfig(mode="none")
    assert FrequencyConfig(**FrequencyConfig.from_format_1(soft)) == FrequencyConfig(mode="soft", sigma=1.0, tau=5.0)
    assert FrequencyConfig.from_format_1(others)["ranking"] == ["pd", "t1"]
    moved = {"method": "fgc2f", "switch": 0.3, "freq": {"mode": "plain"}}
    assert FgC2FConfig(**FgC2FConfig.from_format_1(moved)).switch == 0.5
    solver = FgC2FConfig.from_format_1({**moved, "sampler": "dpm_solver_pp"})
    assert FgC2FConfig(**solver).switch == FgC2FConfig.from_format_1({**moved, "freq": {}})["switch"] == 0.3


def test_unknown_samplers_too_many_steps_and_rows_without_input_are_refused(make_batch):
    method, batch = build_method(config()), make_batch([(T1,)])

    with pytest.raises(UsageError, match=r"euler.*ddpm, ddim, dpm_solver_pp"):
        run(method, batch, sampler="euler")
    with pytest.raises(UsageError, match="200 levels"):
        run(method, batch, steps=201)
    with pytest.raises(ValueError, match="at least one"):
        run(method, make_batch([(T1,), ()]))
