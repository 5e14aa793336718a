"""Residual shifting against its table, Bayes' rule and what can be followed by hand."""

import math
from itertools import pairwise

import pytest
import torch

from mrsynth.diffusion.residual_shift import exponential, posterior, residual_shift, shifted
from mrsynth.diffusion.schedules import levels
from mrsynth.errors import UsageError

SCHEDULE = exponential()
# As in docs/methods/dfbk.md: sqrt(eta), eta, alpha, from x_t, from x_0, variance / kappa^2, pixel and latent scale.
TABLE = [
    (0.100000, 0.010000, 0.010000, 0.000000, 1.000000, 0.000000, 1.6000, 1.0198),
    (0.520096, 0.270500, 0.260500, 0.036969, 0.963031, 0.009630, 4.1206, 1.4429),
    (0.761382, 0.579703, 0.309202, 0.466619, 0.533381, 0.144280, 5.5683, 1.8218),
    (0.990000, 0.980100, 0.400397, 0.591473, 0.408527, 0.236824, 6.9400, 2.2182),
]


def gaussian(*shape, seed=0):
    """Normal numbers that are standardised exactly, float64."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x - x.mean()) / x.std(correction=0)


def noise_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


# Check 2: the schedule ------------------------------------------------------------------------------------------------


def test_the_schedule_is_that_of_the_table():
    eta = [0.0, *SCHEDULE.eta.tolist()]
    for level, row in enumerate(TABLE):
        step = posterior(eta[level + 1], eta[level])

        assert math.sqrt(eta[level + 1]) == pytest.approx(row[0], abs=1e-6)
        assert eta[level + 1] == pytest.approx(row[1], abs=1e-6)
        assert float(SCHEDULE.alpha[level]) == pytest.approx(row[2], abs=1e-6)
        assert tuple(step) == pytest.approx(row[3:6], abs=1e-6)
    assert SCHEDULE.length == 4 and SCHEDULE.kappa == 2.0


@pytest.mark.parametrize("options", [{}, {"T": 15, "m": 0.04}, {"T": 2, "p": 1.0}, {"T": 9, "kappa": 0.5}], ids=str)
def test_eta_rises_from_its_first_value_to_its_last_and_its_steps_add_up(options):
    schedule = exponential(**options)
    eta = schedule.eta.tolist()
    m, kappa = options.get("m", 0.2), options.get("kappa", 2.0)

    assert len(eta) == options.get("T", 4) and all(a < b for a, b in pairwise(eta))
    assert math.sqrt(eta[0]) == pytest.approx(min(m / kappa, m), rel=1e-12)
    assert eta[-1] == pytest.approx(0.9801, rel=1e-12)
    assert float(schedule.alpha.sum()) == pytest.approx(eta[-1], rel=1e-12)


def test_the_setting_for_15_steps_begins_almost_clean():
    assert float(exponential(15, m=0.04).eta[0]) == pytest.approx(4e-4, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"T": 1}, "at least 2 levels, not 1"), ({"m": 2.5}, r"from 1.25 to 0.99"), ({"E": 1.2}, r"to 1.2")],
    ids=str,
)
def test_a_schedule_that_does_not_rise_inside_0_and_1_is_refused(options, why):
    with pytest.raises(UsageError, match=why):
        exponential(**options)


# Check 3: the posterior -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "s"), [(3, 2), (3, 1), (3, 0), (2, 0), (1, 0)])
def test_marginal_then_posterior_is_the_marginal_of_any_lower_level(t, s):
    """An identity of polynomials: mean x_0 + eta_s e_0, variance kappa^2 eta_s."""
    eta_t, eta_s = SCHEDULE.eta[t].item(), SCHEDULE.eta[s].item()
    step = posterior(eta_t, eta_s)
    x_0, y_0 = 0.3, -0.8
    mean = step.from_x_t * (x_0 + eta_t * (y_0 - x_0)) + step.from_x_0 * x_0
    variance = step.from_x_t**2 * eta_t + step.variance

    assert step.from_x_t + step.from_x_0 == pytest.approx(1, abs=1e-15)
    assert mean == pytest.approx(x_0 + eta_s * (y_0 - x_0), abs=1e-15)
    assert variance == pytest.approx(eta_s, abs=1e-15)


@pytest.mark.parametrize(("t", "s"), [(3, 2), (3, 0), (2, 1)])
def test_the_posterior_is_bayes_rule(t, s):
    """Product of q(x_s | x_0, y_0) and q(x_t | x_s, y_0) as functions of x_s, whose precisions add."""
    eta_t, eta_s = SCHEDULE.eta[t].item(), SCHEDULE.eta[s].item()
    x_0, y_0, x_t, kappa = 0.3, -0.8, 1.7, SCHEDULE.kappa
    prior = kappa**2 * eta_s
    likelihood = kappa**2 * (eta_t - eta_s)
    variance = 1 / (1 / prior + 1 / likelihood)
    shift = (eta_t - eta_s) * (y_0 - x_0)
    mean = variance * ((x_0 + eta_s * (y_0 - x_0)) / prior + (x_t - shift) / likelihood)
    step = posterior(eta_t, eta_s)

    assert step.from_x_t * x_t + step.from_x_0 * x_0 == pytest.approx(mean, abs=1e-14)
    assert kappa**2 * step.variance == pytest.approx(variance, abs=1e-14)


def test_two_steps_are_as_good_as_one():
    """Going from t to s by way of r draws x_s from the same distribution."""
    t, r, s = (SCHEDULE.eta[level].item() for level in (3, 2, 0))
    first, second, both = posterior(t, r), posterior(r, s), posterior(t, s)

    assert second.from_x_t * first.from_x_t == pytest.approx(both.from_x_t, abs=1e-15)
    assert second.from_x_t**2 * first.variance + second.variance == pytest.approx(both.variance, abs=1e-15)


def test_the_marginal_has_its_mean_and_its_spread():
    x_0, y_0, eps = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), -1.0), torch.ones(1, 1, 2, 2)
    eta = SCHEDULE.eta[1]
    expected = torch.full_like(x_0, 0.5 - 1.5 * 0.2705 + 2 * 0.520096)

    assert torch.allclose(shifted(x_0, y_0, eps, eta, 2.0), expected, atol=1e-5)
    assert torch.allclose(shifted(x_0, y_0, eps, SCHEDULE.eta[[1]][:, None, None, None], 2.0), expected, atol=1e-5)


# Check 4: the sampler -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_with_an_oracle_the_sampler_returns_what_the_oracle_says_for_any_seed(steps):
    truth, y_0 = gaussian(2, 1, 8, 8), gaussian(2, 1, 8, 8, seed=1)
    for seed in range(3):
        for answer in (truth, y_0):
            made = residual_shift(lambda x, level, a=answer: a, y_0, SCHEDULE, levels(4, steps), noise_of(seed))
            assert torch.equal(made, answer)


def test_it_starts_at_the_source_with_noise_and_visits_the_levels_in_order():
    seen, y_0 = [], torch.full((1, 1, 400, 400), 0.4, dtype=torch.float64)
    residual_shift(lambda x, level: seen.append((level, x)) or y_0, y_0, SCHEDULE, [3, 2, 1, 0], noise_of(0))

    assert [level for level, _ in seen] == [3, 2, 1, 0]
    for level, x in seen:  # with the source for an answer it stays on the way from y_0 to y_0
        spread = SCHEDULE.kappa * math.sqrt(SCHEDULE.eta[level].item())
        assert float(x.mean()) == pytest.approx(0.4, abs=4 * spread / 400)
        assert float(x.std()) == pytest.approx(spread, rel=0.01)


def moments(schedule, visited, mean, variance, y_0):
    """Mean and variance of what the sampler makes of the exact denoiser of N(mean, variance) data, step by step.

    E[x_0 | x_t] = mean + k (x_t - a mean - eta y_0), with a = 1 - eta and k = v a / (a^2 v + kappa^2 eta).
    """
    eta = [float(schedule.eta[level]) for level in visited]
    m, v = y_0, schedule.kappa**2 * eta[0]
    for eta_t, eta_s in zip(eta, [*eta[1:], 0.0], strict=True):
        a = 1 - eta_t
        k = variance * a / (a**2 * variance + schedule.kappa**2 * eta_t)
        kept, added = eta_s / eta_t, schedule.kappa**2 * eta_s * (eta_t - eta_s) / eta_t
        m = kept * m + (1 - kept) * (mean + k * (m - a * mean - eta_t * y_0))
        v = (kept + (1 - kept) * k) ** 2 * v + added
    return m, v


@pytest.mark.parametrize(("T", "steps"), [(4, 4), (4, 2), (4, 1), (15, 15), (60, 20)])
def test_it_reaches_the_moments_that_its_own_recursion_predicts(T, steps):
    schedule, mean, variance, y_0 = exponential(T, kappa=0.5), 0.3, 0.25, -0.6
    visited = levels(T, steps)

    def denoise(x, level):
        eta = float(schedule.eta[level])
        a = 1 - eta
        k = variance * a / (a**2 * variance + schedule.kappa**2 * eta)
        return mean + k * (x - a * mean - eta * y_0)

    made = residual_shift(
        denoise, torch.full((1, 1, 200, 200), y_0, dtype=torch.float64), schedule, visited, noise_of(0)
    )
    expected_mean, expected_variance = moments(schedule, visited, mean, variance, y_0)

    assert float(made.mean()) == pytest.approx(expected_mean, abs=4 * math.sqrt(expected_variance / 40_000) + 1e-9)
    assert float(made.var()) == pytest.approx(expected_variance, rel=0.03)


def test_many_steps_reach_the_data_and_four_come_short_of_its_variance():
    long = exponential(2000, p=0.3, kappa=2.0, m=0.04, E=0.999)

    assert moments(long, levels(2000, 2000), 0.3, 0.25, -0.6) == pytest.approx((0.3, 0.25), rel=0.02)
    assert moments(SCHEDULE, levels(4, 4), 0.3, 0.25, -0.6)[1] == pytest.approx(0.0572, abs=1e-4)


# Check 5: what the network is shown -----------------------------------------------------------------------------------


def test_input_scales_are_those_of_the_table():
    assert SCHEDULE.input_scales("pixel").tolist() == pytest.approx([row[6] for row in TABLE], abs=1e-4)
    assert SCHEDULE.input_scales("latent").tolist() == pytest.approx([row[7] for row in TABLE], abs=1e-4)
    assert SCHEDULE.input_scales("none").tolist() == [1.0] * 4


def test_loss_weights_are_those_of_the_paper_and_the_infinite_one_is_that_of_the_next_level():
    weights, eta, alpha = SCHEDULE.loss_weights().tolist(), SCHEDULE.eta.tolist(), SCHEDULE.alpha.tolist()

    assert weights[1:] == pytest.approx([alpha[t] / (8 * eta[t] * eta[t - 1]) for t in (1, 2, 3)])
    assert weights[0] == weights[1]
