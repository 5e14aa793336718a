"""How much signal is left at each level, and which levels a short chain visits.

Level t runs from 0 (almost clean) to T - 1 (almost pure noise); abar_t is the share of signal variance at level t:
x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al. 2020, eq. 4).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mrsynth.errors import UsageError

Spacing = Literal["trailing", "linspace", "leading"]
SolverLevels = Literal["log_snr", "spacing"]  # those that DPM-Solver++ visits: even in log-SNR, or as other samplers'

MOST_SIGNAL_LEFT = 1e-3
LONG = 1000


@dataclass(frozen=True, eq=False)
class Schedule:
    """abar (T,) float64 on the CPU, strictly falling inside (0, 1)."""

    abar: Tensor
    name: str

    @property
    def length(self) -> int:
        """T, the number of levels."""
        return len(self.abar)


def cosine(T: int, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """abar_t = f(t) / f(0), f(t) = cos^2((t / T + s) / (1 + s) * pi / 2): Nichol & Dhariwal 2021, eq. 17."""
    t = torch.arange(_positive(T) + 1, dtype=torch.float64)
    f = torch.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2
    return _from_betas((1 - f[1:] / f[:-1]).clamp(max=max_beta), "cosine")


def linear(T: int, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """beta rises evenly from `start` to `end`: Ho et al. 2020, section 4. Made for T = 1000."""
    return _from_betas(torch.linspace(start, end, _positive(T), dtype=torch.float64), "linear")


def sqrt_linear(T: int, start: float = 0.0015, end: float = 0.0195) -> Schedule:
    """The root of beta rises evenly: Rombach et al. 2022 for latents (elsewhere "scaled linear"). Made for T = 1000."""
    return _from_betas(torch.linspace(start**0.5, end**0.5, _positive(T), dtype=torch.float64) ** 2, "sqrt_linear")


def linear_scaled(T: int) -> Schedule:
    """The linear schedule with betas times 1000 / T, so that a short chain destroys as much signal as a long one."""
    scale = 1000 / _positive(T)
    if 0.02 * scale >= 1:
        raise UsageError(
            f"The schedule linear_scaled needs more than 20 levels, not {T}: its last beta would reach 1. Use cosine."
        )
    return _from_betas(torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64), "linear_scaled")


def sampled(T: int) -> Schedule:
    """T of the 1000 levels of the linear schedule, from the first to the last: fast-cwdm's, for short chains."""
    if _positive(T) > LONG:
        raise UsageError(f"The schedule sampled takes its levels from a chain of {LONG}; {T} is more than that.")
    if T == 1:
        return Schedule(linear(LONG).abar[-1:], "sampled")  # the last, unclipped: 0.999 would leave too much signal
    abar = linear(LONG).abar[torch.linspace(0, LONG - 1, T, dtype=torch.float64).long()]
    betas = 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    return _from_betas(betas.clamp(1e-4, 0.999), "sampled")


SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "cosine": cosine,
    "linear": linear,
    "linear_scaled": linear_scaled,
    "direct": linear_scaled,  # as fast-cwdm calls it
    "sampled": sampled,
    "sqrt_linear": sqrt_linear,
}


def make_schedule(name: str, T: int) -> Schedule:
    """The schedule called `name` over T levels, refused unless its last level is noise."""
    if name not in SCHEDULES:
        raise UsageError(f"Unknown noise schedule {name!r}; there are {', '.join(SCHEDULES)}.")
    return require_noise(SCHEDULES[name](T))


def require_noise(schedule: Schedule) -> Schedule:
    """The same schedule, or UsageError when sampling from N(0, 1) would not match its last level.

    Linear at T = 200 keeps abar = 0.132: training never sees the pure noise that sampling starts from.
    """
    left = float(schedule.abar[-1])
    if left >= MOST_SIGNAL_LEFT:
        raise UsageError(
            f"The {schedule.name} schedule over {schedule.length} levels still holds {left:.3g} of the "
            f"signal at its last level; less than {MOST_SIGNAL_LEFT:g} is needed, because sampling starts "
            "from pure noise. Use cosine, linear_scaled, or more levels."
        )
    return schedule


def levels(T: int, steps: int, spacing: Spacing = "trailing") -> list[int]:
    """`steps` of the T levels, strictly falling. Lin et al. 2024, table 2, counted from 0.

    trailing   ends of equal parts: holds T - 1, so that sampling starts where the noise is pure
    linspace   evenly from T - 1 down to 0
    leading    starts of equal parts: holds 0 but not T - 1
    """
    if not 1 <= steps <= T:
        raise UsageError(f"Cannot take {steps} sampling steps from a chain of {T} levels; give 1 to {T}.")
    match spacing:
        case "trailing":
            return [round(T - i * T / steps) - 1 for i in range(steps)]
        case "linspace":
            return [round(T - 1 - i * (T - 1) / max(steps - 1, 1)) for i in range(steps)]
        case "leading":
            return [i * T // steps for i in reversed(range(steps))]
    raise UsageError(f"Unknown spacing of levels {spacing!r}; there are trailing, linspace and leading.")


def log_snr_levels(schedule: Schedule, steps: int) -> list[int]:
    """`steps` levels, strictly falling, as even in log(abar / (1 - abar)) as there are levels, from T - 1 to 0.

    Lu et al. 2022 (arXiv 2211.01095), section 5: what DPM-Solver++ extrapolates in. Where levels lie too far apart for
    that, as near 0, each is taken once and the neighbours give way.
    """
    T = schedule.length
    if steps < 2 or steps > T:
        return levels(T, steps)
    log_snr = (schedule.abar / (1 - schedule.abar)).log()
    wanted = torch.linspace(float(log_snr[-1]), float(log_snr[0]), steps, dtype=torch.float64)
    nearest = (log_snr[None] - wanted[:, None]).abs().argmin(1).tolist()
    found, last = [], T
    for place, level in enumerate(nearest):
        last = max(min(level, last - 1), steps - 1 - place)
        found.append(last)
    return found


def draw_levels(T: int, count: int, bias: float, generator: torch.Generator) -> Tensor:
    """Training levels (count,) int64 in 0..T-1: evenly with bias 1, more at the noisy end above; t = T (1 - r^bias)."""
    r = torch.rand(count, generator=generator, dtype=torch.float64)
    return (T * (1 - r**bias)).ceil().long().clamp(1, T) - 1


def _from_betas(betas: Tensor, name: str) -> Schedule:
    """abar_t = product of (1 - beta) up to t: Ho et al. 2020, eq. 4."""
    return Schedule(torch.cumprod(1 - betas, dim=0), name)


def _positive(T: int) -> int:
    if T < 1:
        raise UsageError(f"A noise schedule needs at least one level, not {T}.")
    return T
