"""Schedules end in noise, and short chains start there."""

from itertools import pairwise

import pytest
import torch

from mrsynth.diffusion.schedules import (
    SCHEDULES,
    cosine,
    levels,
    linear,
    linear_scaled,
    log_snr_levels,
    make_schedule,
    require_noise,
    sampled,
)
from mrsynth.errors import UsageError

SPACINGS = ("trailing", "linspace", "leading")


@pytest.mark.parametrize(
    ("name", "T"),
    [
        ("cosine", 200),
        ("linear_scaled", 200),
        ("linear", 1000),
        ("sqrt_linear", 1000),
        ("cosine", 1000),
        ("cosine", 5),
        ("linear_scaled", 50),
        ("sampled", 10),
        ("sampled", 1000),
        ("sampled", 2),
        ("sampled", 1),
    ],
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


def test_values_that_docs_and_presets_rest_on():
    """Of fgc2f: how much signal is left at the end and at the switch from coarse to fine."""
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


def betas_of(abar):
    return 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])


def test_sampled_over_10_levels_is_the_long_chain_visited_10_times():
    """fast-cwdm's indices 0, 111, ..., 999 are those that the official code visits in 10 steps."""
    visited = levels(1000, 10, "linspace")[::-1]

    assert visited == list(range(0, 1000, 111))
    assert torch.allclose(sampled(10).abar, linear(1000).abar[visited], rtol=1e-12, atol=0)


@pytest.mark.parametrize("T", [1, 4, 20, 50, 100, 999, 1000])
def test_sampled_takes_levels_of_the_long_chain_from_the_first_to_the_last(T):
    """At int(linspace(0, 999, T)); of a single level the last, since the first is hardly noise."""
    indices = [i * 999 // (T - 1) for i in range(T)] if T > 1 else [999]

    assert torch.allclose(sampled(T).abar, linear(1000).abar[indices], rtol=1e-9, atol=0)


@pytest.mark.parametrize("T", [2, 3])
def test_sampled_clips_its_last_beta_where_levels_are_few(T):
    """To 0.999, as fast-cwdm does."""
    betas = betas_of(sampled(T).abar)

    assert float(betas[0]) == pytest.approx(1e-4) and float(betas[-1]) == pytest.approx(0.999)


def test_direct_over_25_levels():
    """beta from 0.1 / T to 20 / T: fast-cwdm."""
    schedule = make_schedule("direct", 25)

    expected = torch.linspace(0.1 / 25, 20 / 25, 25, dtype=torch.float64)
    assert torch.allclose(betas_of(schedule.abar), expected, rtol=1e-9, atol=0)
    assert torch.allclose(make_schedule("direct", 1000).abar, linear(1000).abar, rtol=1e-12, atol=0)


@pytest.mark.parametrize("T", [1, 10, 19, 20])
def test_direct_over_too_few_levels_is_refused(T):
    with pytest.raises(UsageError, match=f"more than 20 levels, not {T}"):
        make_schedule("direct", T)


def test_sampled_cannot_take_more_levels_than_there_are():
    with pytest.raises(UsageError, match="1000; 1001 is more"):
        make_schedule("sampled", 1001)


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


@pytest.mark.parametrize("schedule", [linear(1000), cosine(200), sampled(10)], ids=lambda s: s.name)
def test_levels_even_in_log_snr(schedule):
    """From T - 1 to 0, strictly falling, each the nearest to its place wherever levels are close enough."""
    T = schedule.length
    log_snr = (schedule.abar / (1 - schedule.abar)).log()
    assert log_snr_levels(schedule, 1) == [T - 1]
    assert log_snr_levels(schedule, T) == list(range(T - 1, -1, -1))
    for steps in range(2, T, max(T // 20, 1)):
        found = log_snr_levels(schedule, steps)
        assert (found[0], found[-1], len(found)) == (T - 1, 0, steps)
        assert all(a > b for a, b in pairwise(found))
    if T == 1000:
        gaps = log_snr[log_snr_levels(schedule, 8)].diff()
        assert float(gaps.max() / gaps.min()) < 1.2


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
