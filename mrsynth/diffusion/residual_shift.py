"""Residual shifting: a chain that leads from a source image y_0 to the target x_0 in few steps.

ResShift, Yue et al. 2023 (arXiv 2307.12348). With e_0 = y_0 - x_0 the mean walks from x_0 to y_0 while noise is added:
x_t = x_0 + eta_t e_0 + kappa sqrt(eta_t) eps. Levels count from 0 as in the other chains: level 0 is t = 1 of the
paper, level T - 1 is t = T.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mrsynth.diffusion.noise import Noise
from mrsynth.diffusion.samplers import Denoiser
from mrsynth.errors import UsageError

SAMPLER = "residual_shift"
InputScale = Literal["pixel", "latent", "none"]


@dataclass(frozen=True, eq=False)
class ShiftSchedule:
    """eta (T,) float64 on the CPU, strictly rising inside (0, 1]; kappa, the strength of the noise."""

    eta: Tensor
    kappa: float

    @property
    def length(self) -> int:
        """T, the number of levels."""
        return len(self.eta)

    @property
    def alpha(self) -> Tensor:
        """alpha_t = eta_t - eta_(t-1), with eta_0 = 0: (T,) float64. Their sum is the last eta."""
        return self.eta.diff(prepend=self.eta.new_zeros(1))

    def input_scales(self, rule: InputScale) -> Tensor:
        """What x_t is divided by before a network sees it, (T,) float64; y_0 is never divided.

        pixel   1 + 3 kappa sqrt(eta_t): images in [-1, 1] with three standard deviations of the noise
        latent  sqrt(kappa^2 eta_t + 1): unit variance when x_0 has it
        """
        spread = self.kappa * self.eta.sqrt()
        match rule:
            case "pixel":
                return 1 + 3 * spread
            case "latent":
                return (spread**2 + 1).sqrt()
            case "none":
                return torch.ones_like(spread)

    def loss_weights(self) -> Tensor:
        """alpha_t / (2 kappa^2 eta_t eta_(t-1)), (T,) float64: DFBK, arXiv 2504.09441, eq. 4.

        It is infinite at the first level, which takes the weight of the second.
        """
        weights = self.alpha[1:] / (2 * self.kappa**2 * self.eta[1:] * self.eta[:-1])
        return torch.cat([weights[:1], weights])


class Step(NamedTuple):
    """x_s ~ N(from_x_t x_t + from_x_0 x_0, kappa^2 variance): one step of the chain backwards."""

    from_x_t: float
    from_x_0: float
    variance: float


def exponential(T: int = 4, kappa: float = 2.0, p: float = 0.3, m: float = 0.2, E: float = 0.99) -> ShiftSchedule:
    """sqrt(eta_t) = s_1 (s_T / s_1)^(((t - 1) / (T - 1))^p) with s_1 = min(m / kappa, m) and s_T = E.

    The first and last value belong to sqrt(eta), as in the authors' program, although their text speaks of eta.
    Raises UsageError for fewer than two levels, and when s_1 is not below E or E is above 1.
    """
    if T < 2:
        raise UsageError(f"Residual shifting needs at least 2 levels, not {T}: it leads from one image to another.")
    first = min(m / kappa, m)
    if not 0 < first < E <= 1:
        raise UsageError(f"sqrt(eta) would go from {first:.3g} to {E:.3g}; it must rise within (0, 1]. Change m or E.")
    place = (torch.arange(T, dtype=torch.float64) / (T - 1)) ** p
    return ShiftSchedule((first * (E / first) ** place) ** 2, kappa)


def shifted(x_0: Tensor, y_0: Tensor, eps: Tensor, eta: Tensor, kappa: float) -> Tensor:
    """x_t = x_0 + eta_t (y_0 - x_0) + kappa sqrt(eta_t) eps: Yue et al. 2023, section 2.

    eta   (float64 at best) broadcasts against the images
    """
    return x_0 + eta.to(x_0) * (y_0 - x_0) + (kappa * eta.sqrt()).to(x_0) * eps


def posterior(eta_t: float, eta_s: float) -> Step:
    """q(x_s | x_t, x_0, y_0) for any eta_s < eta_t, which does not depend on y_0: Yue et al. 2023, section 2.

    The paper gives neighbouring levels. Between any two, q(x_t | x_s, y_0) = N(x_s + (eta_t - eta_s) e_0,
    kappa^2 (eta_t - eta_s)) by adding up the steps, and Bayes' rule with the marginal at s gives the mean
    (eta_s / eta_t) x_t + (1 - eta_s / eta_t) x_0 and the variance kappa^2 eta_s (eta_t - eta_s) / eta_t.
    """
    kept = eta_s / eta_t
    return Step(kept, 1 - kept, kept * (eta_t - eta_s))


def residual_shift(
    denoise: Denoiser, y_0: Tensor, schedule: ShiftSchedule, levels: Sequence[int], noise: Noise
) -> Tensor:
    """From y_0 to x_0 through these falling levels, each a call of `denoise`: Yue et al. 2023, section 2.

    It starts at x_T = y_0 + kappa sqrt(eta_T) eps, which leaves out the remainder (1 - eta_T) (x_0 - y_0). The last
    step returns the denoised image itself. `noise` is called once for each level.
    """
    assert len(levels) > 0 and all(a > b for a, b in pairwise(levels)), "levels must fall"
    eta = [float(schedule.eta[level]) for level in levels]
    x = y_0 + schedule.kappa * math.sqrt(eta[0]) * noise(y_0)
    for level, eta_t, eta_s in zip(levels, eta, eta[1:], strict=False):
        step = posterior(eta_t, eta_s)
        x_0 = denoise(x, level)
        x = step.from_x_t * x + step.from_x_0 * x_0 + schedule.kappa * math.sqrt(step.variance) * noise(x)
    return denoise(x, levels[-1])
