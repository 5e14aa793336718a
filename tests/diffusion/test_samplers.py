"""Samplers against what can be worked out by hand.

When the data are N(m, v) the exact denoiser is E[x_0 | x_t] = m + k_t (x_t - sqrt(abar_t) m), with
k_t = v sqrt(abar_t) / (abar_t v + 1 - abar_t). Every sampler then maps a Gaussian to a Gaussian, whose mean and
variance are followed here step by step, from the definitions rather than from the code under test.
"""

import math
from itertools import pairwise

import pytest
import torch

from mrsynth.diffusion.prediction import noised, to_x0, training_target
from mrsynth.diffusion.samplers import SAMPLERS, ddim, ddpm, dpm_solver_pp, levels_of
from mrsynth.diffusion.schedules import cosine, levels, linear, log_snr_levels

MEAN, VARIANCE, SAMPLES = 0.3, 0.25, 20_000
LINEAR = linear(1000)


def test_ddpm_reaches_the_moments_that_its_own_recursion_predicts(gaussian):
    for variance in ("posterior", "beta"):
        for steps in (1000, 50, 10):
            chosen = levels(1000, steps)
            x = ddpm(gaussian.denoise, gaussian.start, LINEAR, chosen, gaussian.noise, variance=variance)
            mean, spread = ancestral_moments(chosen, variance)

            assert float(x.mean()) == pytest.approx(mean, abs=0.012)  # 3.4 standard errors
            assert float(x.var()) == pytest.approx(spread, rel=0.03)


def test_ddim_and_dpm_solver_follow_their_own_recursion_exactly(gaussian):
    """Both are deterministic, so an exactly standardised start leaves rounding as the only difference."""
    for sampler, moments in ((ddim, ddim_moments), (dpm_solver_pp, dpm_solver_moments)):
        for steps in (1000, 50, 10, 3, 1):
            chosen = levels(1000, steps)
            x = sampler(gaussian.denoise, gaussian.start, LINEAR, chosen, forbidden)
            mean, spread = moments(chosen)

            assert float(x.mean()) == pytest.approx(mean, abs=1e-9)
            assert float(x.var(correction=0)) == pytest.approx(spread, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [("ddpm", {}), ("ddpm", {"variance": "beta"}), ("ddim", {}), ("ddim", {"eta": 1.0}), ("dpm_solver_pp", {})],
)
def test_a_thousand_steps_reach_the_data(name, options, gaussian):
    x = SAMPLERS[name](gaussian.denoise, gaussian.start, LINEAR, levels(1000, 1000), gaussian.noise, **options)

    assert float(x.mean()) == pytest.approx(MEAN, abs=0.012)
    assert float(x.var()) == pytest.approx(VARIANCE, rel=0.03)


def test_the_recursion_itself_reaches_the_data_within_two_per_cent():
    every = levels(1000, 1000)

    for _, variance in (
        ancestral_moments(every, "posterior"),
        ancestral_moments(every, "beta"),
        ddim_moments(every),
        dpm_solver_moments(every),
    ):
        assert variance == pytest.approx(VARIANCE, rel=0.02)


@pytest.mark.parametrize(
    ("steps", "posterior", "beta", "deterministic"), [(50, 0.196, 0.268, 0.223), (10, 0.104, 0.359, 0.131)]
)
def test_variances_of_the_decision_page(steps, posterior, beta, deterministic, gaussian):
    """They belong to levels spaced evenly from T - 1 to 0."""
    chosen = levels(1000, steps, "linspace")
    run = (gaussian.denoise, gaussian.start, LINEAR, chosen, gaussian.noise)

    assert ancestral_moments(chosen, "posterior")[1] == pytest.approx(posterior, abs=5e-4)
    assert ancestral_moments(chosen, "beta")[1] == pytest.approx(beta, abs=6e-4)
    assert ddim_moments(chosen)[1] == pytest.approx(deterministic, abs=5e-4)
    assert float(ddpm(*run).var()) == pytest.approx(posterior, rel=0.03)
    assert float(ddpm(*run, variance="beta").var()) == pytest.approx(beta, rel=0.03)
    assert float(ddim(*run).var()) == pytest.approx(deterministic, rel=0.005)


@pytest.mark.parametrize(
    ("variance", "expected"), [("beta", 0.342), ("posterior", 0.012), (None, 0.016)], ids=["beta", "posterior", "ddim"]
)
def test_ten_official_levels_of_data_that_vary_by_a_twentieth(variance, expected, monkeypatch):
    """Why few steps of the official cWDM weights take ddim: beta leaves seven times the deviation of the data."""
    monkeypatch.setattr(f"{__name__}.VARIANCE", 0.05**2)
    chosen = levels(1000, 10, "linspace")
    _, found = ddim_moments(chosen) if variance is None else ancestral_moments(chosen, variance)

    assert math.sqrt(found) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("solver_levels", "expected"), [("spacing", 0.480), ("log_snr", 0.266)])
def test_dpm_solver_overshoots_unless_its_levels_are_even_in_log_snr(solver_levels, expected, gaussian):
    chosen = levels_of("dpm_solver_pp", LINEAR, 10, "linspace", solver_levels)
    x = dpm_solver_pp(gaussian.denoise, gaussian.start, LINEAR, chosen, forbidden)

    assert dpm_solver_moments(chosen)[1] == pytest.approx(expected, abs=5e-4)
    assert float(x.var(correction=0)) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0])
def test_ten_levels_even_in_log_snr_come_near_whatever_the_spread_of_the_data(spread, monkeypatch):
    monkeypatch.setattr(f"{__name__}.VARIANCE", spread**2)
    found = {
        "log_snr": dpm_solver_moments(log_snr_levels(LINEAR, 10))[1],
        **{spacing: dpm_solver_moments(levels(1000, 10, spacing))[1] for spacing in ("trailing", "linspace")},
    }
    errors = {name: abs(variance / spread**2 - 1) for name, variance in found.items()}

    assert errors["log_snr"] < 0.08
    assert errors["trailing"] > 0.1 and errors["linspace"] > 0.5


def test_other_samplers_visit_the_levels_of_their_spacing():
    for name in ("ddpm", "ddim"):
        for spacing in ("trailing", "linspace", "leading"):
            assert levels_of(name, LINEAR, 10, spacing) == levels(1000, 10, spacing)


def test_the_common_mistake_of_stepping_to_t_minus_1_is_far_away():
    """Visiting 50 levels with the coefficients of a step to t - 1 leaves a variance of 0.88 instead of 0.2."""
    chosen = levels(1000, 50, "linspace")
    abar = LINEAR.abar.tolist()
    wrong = 1.0
    for t in chosen[:-1]:
        a, b = posterior(abar[t], abar[t - 1])
        wrong = (a * gain(abar[t]) + b) ** 2 * wrong + bayes_variance(abar[t], abar[t - 1])
    wrong *= gain(abar[chosen[-1]]) ** 2

    assert wrong == pytest.approx(0.876, abs=0.001)  # the decision page says 0.89
    assert ancestral_moments(chosen, "posterior")[1] < 0.2


def test_dpm_solver_is_nearer_to_the_data_than_ddim_in_few_steps():
    for steps, part in ((10, 0.8), (20, 0.4), (50, 0.05)):
        chosen = levels(1000, steps)  # trailing; with linspace the last step, to level 0, is too long for second order

        assert abs(dpm_solver_moments(chosen)[1] - VARIANCE) < part * abs(ddim_moments(chosen)[1] - VARIANCE)


def test_one_ancestral_step_is_the_posterior(spy):
    """fgc2f, check 6: with the true noise, mean and variance of q(x_s | x_t, x_0) by Bayes' rule, for s far below t."""
    x_0, eps = torch.tensor([[[[0.4]]]]), torch.tensor([[[[-1.3]]]])
    schedule, t, s = cosine(200), 120, 70
    abar_t, abar_s = float(schedule.abar[t]), float(schedule.abar[s])
    x_t = noised(x_0, eps, abar_t)
    variance = bayes_variance(abar_t, abar_s)
    a, b = posterior(abar_t, abar_s)

    for z in (0.0, 1.0):
        x = spy(lambda x, level: to_x0("eps", eps, x, float(schedule.abar[level])))
        ddpm(x, x_t, schedule, [t, s], lambda like, z=z: torch.full_like(like, z))
        assert float(x.seen[s]) == pytest.approx(float(a * x_0 + b * x_t) + z * math.sqrt(variance), abs=1e-6)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("steps", [200, 20, 4])
@pytest.mark.parametrize("sampler", [ddim, dpm_solver_pp])
def test_a_deterministic_chain_with_an_oracle_recovers_the_image(sampler, steps, kind):
    """fgc2f, check 6."""
    generator = torch.Generator().manual_seed(1)
    x_0, eps = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1, torch.randn(2, 3, 8, 8, generator=generator)
    schedule = cosine(200)

    def oracle(x, level):
        abar = float(schedule.abar[level])
        return to_x0(kind, training_target(kind, x_0, eps, abar), x, abar)

    x = sampler(oracle, noised(x_0, eps, float(schedule.abar[-1])), schedule, levels(200, steps), forbidden)

    assert float((x - x_0).abs().max()) <= 1e-3


def test_ddim_with_eta_1_is_ancestral_sampling(gaussian):
    """Song et al. 2021, eq. 16."""
    chosen, ones = levels(1000, 20), torch.ones_like

    assert torch.allclose(
        ddim(gaussian.denoise, gaussian.start, LINEAR, chosen, ones, eta=1.0),
        ddpm(gaussian.denoise, gaussian.start, LINEAR, chosen, ones),
        atol=1e-9,
    )


def test_restart_makes_the_first_step_below_it_first_order(gaussian, spy):
    """A first-order step of DPM-Solver++ is a step of DDIM; the others are not."""
    chosen = levels(1000, 8)  # 999, 874, 749, 624, 499, ...
    for restart_at, first_order in ((None, {999}), (500, {999, 499}), (499, {999, 374}), (2000, {999}), (0, {999})):
        denoise = spy(gaussian.denoise)
        dpm_solver_pp(denoise, gaussian.start, LINEAR, chosen, forbidden, restart_at=restart_at)

        for t, s in pairwise(chosen):
            single = spy(gaussian.denoise)
            ddim(single, denoise.seen[t], LINEAR, [t, s], forbidden)
            assert torch.allclose(denoise.seen[s], single.seen[s], atol=1e-9) == (t in first_order)


@pytest.mark.parametrize("name", SAMPLERS)
def test_levels_are_visited_once_each_and_the_last_estimate_is_returned(name, spy):
    denoise = spy(lambda x, level: torch.full_like(x, level))
    x = SAMPLERS[name](denoise, torch.zeros(1, 1, 2, 2), cosine(200), [199, 120, 50, 7], torch.zeros_like)

    assert list(denoise.seen) == [199, 120, 50, 7]
    assert torch.equal(x, torch.full((1, 1, 2, 2), 7.0))


@pytest.mark.parametrize("name", SAMPLERS)
def test_images_keep_their_dtype(name, spy):
    denoise = spy(lambda x, level: x / 2)
    SAMPLERS[name](denoise, torch.ones(1, 1, 2, 2, dtype=torch.bfloat16), cosine(200), levels(200, 5), torch.ones_like)

    assert {x.dtype for x in denoise.seen.values()} == {torch.bfloat16}


class Gaussian:
    """Data N(MEAN, VARIANCE), their exact denoiser, and an exactly standardised start."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)
        start = self.noise(torch.empty(SAMPLES, 1, 1, 1, dtype=torch.float64))
        self.start = (start - start.mean()) / start.std(correction=0)

    def noise(self, like):
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)

    def denoise(self, x, level):
        abar = float(LINEAR.abar[level])
        return MEAN + gain(abar) * (x - math.sqrt(abar) * MEAN)


class Spy:
    """A denoiser that remembers what it was shown at each level."""

    def __init__(self, denoise):
        self.denoise, self.seen = denoise, {}

    def __call__(self, x, level):
        self.seen[level] = x.clone()
        return self.denoise(x, level)


@pytest.fixture
def gaussian():
    return Gaussian()


@pytest.fixture
def spy():
    return Spy


def forbidden(like):
    raise AssertionError("a deterministic sampler asked for noise")


def gain(abar):
    return VARIANCE * math.sqrt(abar) / (abar * VARIANCE + 1 - abar)


def bayes_variance(abar_t, abar_s):
    """Precisions add: x_s is seen through x_t = sqrt(alpha) x_s + noise, and known from x_0."""
    alpha = abar_t / abar_s
    return 1 / (alpha / (1 - alpha) + 1 / (1 - abar_s))


def posterior(abar_t, abar_s):
    """The weights of x_0 and x_t in the mean of q(x_s | x_t, x_0)."""
    alpha, variance = abar_t / abar_s, bayes_variance(abar_t, abar_s)
    return variance * math.sqrt(abar_s) / (1 - abar_s), variance * math.sqrt(alpha) / (1 - alpha)


def ancestral_moments(chosen, variance):
    abar = [float(LINEAR.abar[t]) for t in chosen]
    m, v = 0.0, 1.0
    for t, s in pairwise(abar):
        a, b = posterior(t, s)
        c = a * gain(t) + b
        m = c * m + a * MEAN * (1 - gain(t) * math.sqrt(t))
        v = c**2 * v + (bayes_variance(t, s) if variance == "posterior" else 1 - t / s)
    k = gain(abar[-1])
    return MEAN + k * (m - math.sqrt(abar[-1]) * MEAN), k**2 * v


def ddim_moments(chosen):
    """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) eps, as an affine map (slope, shift) of the start."""
    abar = [float(LINEAR.abar[t]) for t in chosen] + [1.0]
    slope, shift = 1.0, 0.0
    for t, s in pairwise(abar):
        data = gain(t) * slope, MEAN + gain(t) * (shift - math.sqrt(t) * MEAN)
        slope, shift = (
            math.sqrt(s) * d + math.sqrt(1 - s) * (x - math.sqrt(t) * d) / math.sqrt(1 - t)
            for x, d in ((slope, data[0]), (shift, data[1]))
        )
    return shift, slope**2


def dpm_solver_moments(chosen):
    """Lu et al. 2022, second-order update through the finite difference of x_0 over lambda."""
    abar = [float(LINEAR.abar[t]) for t in chosen]
    half_log_snr = [math.log(math.sqrt(a / (1 - a))) for a in abar]
    x, history = (1.0, 0.0), []
    for i, t in enumerate(abar):
        data = gain(t) * x[0], MEAN + gain(t) * (x[1] - math.sqrt(t) * MEAN)
        history.append(data)
        if i + 1 == len(abar):
            break
        s, h = abar[i + 1], half_log_snr[i + 1] - half_log_snr[i]
        slope = (
            [(new - old) / (half_log_snr[i] - half_log_snr[i - 1]) for new, old in zip(data, history[-2], strict=True)]
            if i
            else [0.0, 0.0]
        )
        ratio, weight = math.sqrt((1 - s) / (1 - t)), math.sqrt(s) * (1 - math.exp(-h))
        x = tuple(ratio * now + weight * (d + h / 2 * d1) for now, d, d1 in zip(x, data, slope, strict=True))
    return history[-1][1], history[-1][0] ** 2
