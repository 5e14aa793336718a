"""Schedules end in noise, and short chains start there."""

from itertools import pairwise

import pytest
import torch

from mrsynth.diffusion.schedules import SCHEDULES, cosine, levels, linear, linear_scaled, make_schedule, require_noise
from mrsynth.errors import UsageError

SPACINGS = ("trailing", "linspace", "leading")


@pytest.mark.parametrize(
    ("name", "T"),
    [("cosine", 200), ("linear_scaled", 200), ("linear", 1000), ("cosine", 1000), ("cosine", 5), ("linear_scaled", 50)],
)
def test_every_accepted_schedule_falls_inside_0_1_and_ends_in_noise(name, T):
    schedule = make_schedule(name, T)

    assert schedule.length == T and schedule.name == name
    assert schedule.abar.dtype == torch.float64
    assert bool((schedule.abar > 0).all() and (schedule.abar < 1).all() and (schedule.abar.diff() < 0).all())
    assert schedule.abar[-1] < 1e-3


def test_plain_linear_over_200_levels_is_refused_because_signal_is_left():
    assert float(linear(200).abar[-1]) == pytest.approx(0.132, abs=5e-4)

    with pytest.raises(UsageError, match=r"0\.132.*cosine"):
        make_schedule("linear", 200)
    assert require_noise(cosine(200)).length == 200


def test_values_of_the_specification():
    """fgc2f, section 4: how much signal is left at the end and at the switch from coarse to fine."""
    assert float(cosine(200).abar[-1]) == pytest.approx(6e-8, rel=0.1)
    assert float(cosine(200).abar[99]) == pytest.approx(0.49, abs=0.01)
    assert float(linear_scaled(200).abar[-1]) == pytest.approx(3.0e-5, rel=0.02)
    assert float(linear_scaled(200).abar[99]) == pytest.approx(0.077, abs=0.0005)
    assert float(linear(1000).abar[-1]) == pytest.approx(4.04e-5, rel=0.01)
    assert torch.equal(linear(1000).abar, linear_scaled(1000).abar)


def test_cosine_follows_its_formula_until_beta_is_clipped():
    t = torch.arange(201, dtype=torch.float64) / 200
    f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2

    assert torch.allclose(cosine(200).abar[:-1], f[1:-1] / f[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [0, -3])
def test_a_schedule_without_levels_is_refused(name, T):
    with pytest.raises(UsageError, match="at least one level"):
        make_schedule(name, T)


def test_unknown_names_and_betas_of_1_are_refused():
    with pytest.raises(UsageError, match=r"sigmoid.*cosine"):
        make_schedule("sigmoid", 200)
    with pytest.raises(UsageError, match="more than 20"):
        linear_scaled(20)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("T", [1, 2, 7, 50, 200])
def test_levels_fall_strictly_inside_the_chain_for_every_number_of_steps(T, spacing):
    for steps in range(1, T + 1):
        chosen = levels(T, steps, spacing)

        assert len(chosen) == steps
        assert all(t > s for t, s in pairwise(chosen))
        assert chosen[0] < T and chosen[-1] >= 0
        if spacing != "leading":
            assert chosen[0] == T - 1
    assert chosen == list(range(T - 1, -1, -1))


def test_levels_by_hand():
    assert levels(1000, 10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert levels(1000, 10, "leading") == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert levels(1000, 10, "linspace") == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert levels(200, 4) == [199, 149, 99, 49]


def test_twenty_steps_split_evenly_at_half_the_chain():
    """fgc2f, check 4: coarse iff t >= T / 2."""
    assert sum(t >= 100 for t in levels(200, 20)) == 10


@pytest.mark.parametrize("steps", [0, -1, 201])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(UsageError, match="200 levels"):
        levels(200, steps)
