"""From noise to an image: ancestral DDPM, DDIM and DPM-Solver++(2M).

All take a denoiser (x_t, level) -> x_0, the noise to start from, the schedule and the falling list of levels to visit.
Every step goes from level t to the *next level of that list*, s, which need not be t - 1; after the last level comes
x_0 itself. Coefficients are Python floats; tensors keep the dtype of x.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

from mrsynth.diffusion.noise import Noise
from mrsynth.diffusion.schedules import Schedule, SolverLevels, Spacing, levels, log_snr_levels
from mrsynth.errors import UsageError

Denoiser = Callable[[Tensor, int], Tensor]
Sampler = Callable[..., Tensor]  # (denoise, x, schedule, levels, noise, **options) -> x_0


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    levels: Sequence[int],
    noise: Noise,
    *,
    variance: Literal["posterior", "beta"] = "posterior",
) -> Tensor:
    """Ancestral sampling: x_s ~ q(x_s | x_t, x_0), Ho et al. 2020, eq. 7, with alpha = abar_t / abar_s.

    variance   "posterior": (1 - abar_s) / (1 - abar_t) (1 - alpha); "beta": 1 - alpha. Ho et al. 2020, section 3.2
    """
    for level, abar_t, abar_s in _steps(schedule, levels):
        x_0 = denoise(x, level)
        if abar_s == 1.0:
            return x_0
        alpha = abar_t / abar_s
        from_x_0 = math.sqrt(abar_s) * (1 - alpha) / (1 - abar_t)
        from_x_t = math.sqrt(alpha) * (1 - abar_s) / (1 - abar_t)
        spread = 1 - alpha if variance == "beta" else (1 - abar_s) / (1 - abar_t) * (1 - alpha)
        x = from_x_0 * x_0 + from_x_t * x + math.sqrt(spread) * noise(x)
    return x


def ddim(
    denoise: Denoiser, x: Tensor, schedule: Schedule, levels: Sequence[int], noise: Noise, *, eta: float = 0.0
) -> Tensor:
    """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) eps + sigma z: Song et al. 2021, eq. 12.

    eta   0: deterministic, `noise` is never called; 1: ancestral DDPM with posterior variance (eq. 16)
    """
    for level, abar_t, abar_s in _steps(schedule, levels):
        x_0 = denoise(x, level)
        if abar_s == 1.0:
            return x_0
        sigma = eta * math.sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
        # eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t), folded into the two coefficients
        from_x_t = math.sqrt((1 - abar_s - sigma**2) / (1 - abar_t))
        from_x_0 = math.sqrt(abar_s) - from_x_t * math.sqrt(abar_t)
        x = from_x_0 * x_0 + from_x_t * x
        if eta > 0:
            x = x + sigma * noise(x)
    return x


def dpm_solver_pp(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    levels: Sequence[int],
    noise: Noise,
    *,
    restart_at: int | None = None,
) -> Tensor:
    """DPM-Solver++(2M), data prediction: Lu et al. 2022 (arXiv 2211.01095), algorithm 2. Deterministic.

    restart_at   the first level visited below this one starts without history (a first-order step), because the
                 denoiser itself changes there and an extrapolation across the change would be wrong
    """
    previous: tuple[int, Tensor, float] | None = None  # level, x_0 and lambda one step ago
    for level, abar_t, abar_s in _steps(schedule, levels):
        x_0 = denoise(x, level)
        if abar_s == 1.0:
            return x_0  # the first-order step to lambda = infinity
        if previous and restart_at is not None and level < restart_at <= previous[0]:
            previous = None
        h = _half_log_snr(abar_s) - _half_log_snr(abar_t)
        data = x_0
        if previous:
            r = (_half_log_snr(abar_t) - previous[2]) / h
            data = (1 + 0.5 / r) * x_0 - 0.5 / r * previous[1]
        x = math.sqrt((1 - abar_s) / (1 - abar_t)) * x - math.sqrt(abar_s) * math.expm1(-h) * data
        previous = (level, x_0, _half_log_snr(abar_t))
    return x


def levels_of(
    sampler: str, schedule: Schedule, steps: int, spacing: Spacing = "trailing", solver_levels: SolverLevels = "log_snr"
) -> list[int]:
    """The falling levels that a sampler visits in `steps` steps.

    spacing        of all samplers but DPM-Solver++, which overshoots with them: from N(0, 0.25), a linear schedule over
                   1000 levels and 10 steps linspace makes a variance of 0.480, levels even in log-SNR 0.266
    solver_levels  of DPM-Solver++
    """
    if sampler == "dpm_solver_pp" and solver_levels == "log_snr":
        return log_snr_levels(schedule, steps)
    return levels(schedule.length, steps, spacing)


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "dpm_solver_pp": dpm_solver_pp}


def known_sampler(name: str) -> str:
    """The same name, if there is a sampler of it. Raises UsageError."""
    if name not in SAMPLERS:
        raise UsageError(f"Unknown sampler {name!r}; there are {', '.join(SAMPLERS)}.")
    return name


def _steps(schedule: Schedule, levels: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    """(level t, abar_t, abar_s) for every step; abar_s is exactly 1 in the last, which reaches x_0."""
    assert len(levels) > 0 and all(t > s for t, s in pairwise(levels)), "levels must fall"
    abar = [float(schedule.abar[level]) for level in levels]
    return zip(levels, abar, [*abar[1:], 1.0], strict=True)


def _half_log_snr(abar: float) -> float:
    """lambda = log(sqrt(abar) / sqrt(1 - abar)): Lu et al. 2022, section 2."""
    return 0.5 * (math.log(abar) - math.log1p(-abar))
