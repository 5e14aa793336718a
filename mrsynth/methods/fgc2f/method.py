"""FgC2F-UDiff: frequency-guided and coarse-to-fine unified diffusion (arXiv 2501.03526).

One 2-D network fills in any missing subset of the contrasts. The reverse chain is cut in two: while the image is
mostly noise (coarse) the network is shown a low-pass image of an available contrast, afterwards (fine) a high-pass
image. Which contrast supplies them follows a fixed ranking by low-frequency content. docs/methods/fgc2f.md tells what
the paper leaves open and what is chosen here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mrsynth.diffusion.prediction import noised, to_x0, training_target
from mrsynth.diffusion.samplers import SAMPLERS, known_sampler, levels_of
from mrsynth.diffusion.schedules import draw_levels, make_schedule
from mrsynth.methods.base import ABSENT, Batch, Method, Objective, Wish, modes_of
from mrsynth.methods.brightness import blended, brain_of
from mrsynth.methods.fgc2f.config import FgC2FConfig
from mrsynth.methods.patterns import draw_pattern, legal_patterns
from mrsynth.networks.frequency import low_pass
from mrsynth.networks.unet import UNet
from mrsynth.sampling import Mode


@dataclass(frozen=True)
class Guidance:
    """The guidance images of a batch, made once: low and high are (B, 1, H, W)."""

    low: Tensor
    high: Tensor


class FgC2F(Method):
    """Frequency-guided coarse-to-fine unified diffusion.

    Input of the network: C contrasts, one guidance channel, and C channels for each neighbouring slice.
    """

    Config = FgC2FConfig
    rank: Tensor

    def __init__(self, config: FgC2FConfig):
        super().__init__(config)
        self.config = config
        self.neighbours = config.neighbours
        self.multiple = config.network.multiple
        self.shared_noise = config.noise == "shared"
        self.schedule = make_schedule(config.schedule, config.T)
        c = len(config.contrasts)
        self.network = UNet(config.network, c + 1 + 2 * c * config.neighbours, c, c if config.mask_embed else 0)
        rank = torch.tensor([float(config.freq.ranking.index(x)) for x in config.contrasts])
        if config.freq.mode == "soft" or config.freq.select == "learned":
            # a step of 4 in the logit: the first available contrast starts with 98 % of the weight
            self.low_logits = nn.Parameter(-4 * rank)
            self.high_logits = nn.Parameter(4 * rank)
        if config.freq.mode == "soft":
            self.rho = nn.Parameter(torch.tensor(float(np.log(np.expm1(config.freq.sigma)))))
        self.register_buffer("rank", rank, persistent=False)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The mean first where it is trained for or a chain takes one step; never with eps."""
        return modes_of(self.config.param, self.config.mean_share, self.config.steps)

    # --- Frequency-guided collaborative strategy -----------------------------------------------------------------

    def source_weights(self, available: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, C) of the contrasts in the low-frequency and the high-frequency source; rows sum to 1."""
        select = "learned" if self.config.freq.mode == "soft" else self.config.freq.select
        never = torch.where(available, 0.0, -torch.inf)
        if select == "learned":
            return (self.low_logits + never).softmax(1), (self.high_logits + never).softmax(1)
        if select == "mean":
            mean = available / available.sum(1, keepdim=True)
            return mean, mean
        order = torch.arange(len(self.contrasts), device=available.device) if select == "fixed" else self.rank
        low = one_hot_of_largest(never - order)
        high = low if select == "fixed" else one_hot_of_largest(never + order)
        return (high, low) if select == "reverse" else (low, high)

    def guidance(self, images: Tensor, available: Tensor) -> Guidance:
        """Low- and high-pass images of the chosen sources. They do not depend on the level."""
        freq = self.config.freq
        if freq.mode == "none":
            zeros = torch.zeros_like(images[:, :1])
            return Guidance(zeros, zeros)
        seen = where_available(images, available)
        # not einsum: under autocast it would round to bfloat16, and the high-pass image is a small difference
        low, high = ((w[:, :, None, None] * seen).sum(1, keepdim=True) for w in self.source_weights(available))
        if freq.mode == "plain":
            return Guidance(low, low)
        sigma = F.softplus(self.rho) if freq.mode == "soft" else freq.sigma
        low, high = low_pass(low, sigma, freq.kernel), high - low_pass(high, sigma, freq.kernel)
        high = freq.hf_gain * high
        match freq.mode:
            case "lf_only":
                return Guidance(low, low)
            case "hf_only":
                return Guidance(high, high)
            case "swapped":
                return Guidance(high, low)
            case _:
                return Guidance(low, high)

    def guide(self, guidance: Guidance, level: Tensor) -> Tensor:
        """g_t (B, 1, H, W): the low image while coarse (t >= switch * T), the high image while fine."""
        first_coarse = self.config.first_coarse
        if self.config.freq.mode == "soft":
            weight = torch.sigmoid((level - (first_coarse - 0.5)) / self.config.freq.tau)[:, None, None, None]
            return weight * guidance.low + (1 - weight) * guidance.high
        coarse = (level >= first_coarse)[:, None, None, None]
        return torch.where(coarse, guidance.low, guidance.high)

    # --- Unified network ------------------------------------------------------------------------------------------

    def assemble(self, x_t: Tensor, images: Tensor, available: Tensor, guide: Tensor, context: Tensor) -> Tensor:
        """Network input: available contrasts clean, missing ones noisy, the guidance, available neighbours."""
        contrasts = torch.where(available[:, :, None, None], images, x_t)
        around = torch.where(available[:, :, None, None, None], context, ABSENT).flatten(1, 2)
        return torch.cat([contrasts, guide, around], dim=1)

    def predict(self, x_t: Tensor, level: Tensor, batch: Batch, guidance: Guidance) -> Tensor:
        """Output of the network (B, C, H, W), float32, for levels (B,)."""
        x = self.assemble(x_t, batch.images, batch.available, self.guide(guidance, level), batch.context)
        out: Tensor = self.network(x, level, batch.available.to(x.dtype))
        return out.float()

    # --- Training -------------------------------------------------------------------------------------------------

    def objectives(self, stage: str) -> list[Objective]:
        """One: to denoise."""
        return [Objective("denoise", list(self.parameters()), self.loss)]

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error on the missing contrasts whose truth is known; every example weighs the same.

        With `brightness_weight`, of x_0, with less weight on what a line through the brain takes away: see `blended`.

        With `snr_cap`, the error of x_0 in one of the chain weighs min(max(SNR, 1), snr_cap), SNR = abar / (1 - abar):
        between the truncated ratio of Salimans & Ho 2022 (section 4) and the clipped one of Hang et al. 2023 (section
        3.4). Without it, param x0 counts next to nothing at low noise, where errors are small and texture is made, and
        param v counts there many times what the mean does.
        """
        b = len(batch.images)
        level = self.draw_levels(b, generator)
        eps = torch.randn(batch.images.shape, generator=generator).to(batch.images.device)
        level, mean = self.config.draw_mean(level, generator)
        abar = self.schedule.abar[level][:, None, None, None]  # float64, which some devices do not have
        level, mean = level.to(batch.images.device), mean.to(batch.images.device)
        wanted = batch.present & ~batch.available
        truth = where_available(batch.images, batch.present)
        x_t = torch.where(mean[:, None, None, None], 0.0, noised(truth, eps, abar))
        output = self.predict(x_t, level, batch, self.guidance(batch.images, batch.available))
        by_ratio, slope, weight = self.config.snr_cap > 1, self.config.gradient_weight, self.config.brightness_weight
        made = to_x0(self.config.param, output, x_t, abar) if by_ratio or slope or weight < 1 else output
        if by_ratio or weight < 1:
            error = blended(made, truth, brain_of(truth, batch.present), weight, self.distance)
        else:
            error = self.distance(output - training_target(self.config.param, truth, eps, abar)).mean((2, 3))
        if slope:
            error = error + slope * gradient_error(made - truth)
        per_example = torch.where(wanted, error, 0.0).sum(1) / wanted.sum(1).clamp(min=1)
        if by_ratio:
            ratio = (abar / (1 - abar)).clamp(1, self.config.snr_cap).flatten().to(per_example)
            per_example = torch.where(mean, per_example, ratio * per_example)
        return {"loss": per_example.mean()}

    def distance(self, error: Tensor) -> Tensor:
        """What every pixel's error costs, elementwise."""
        return error.square() if self.config.loss == "mse" else (error.square() + CHARBONNIER**2).sqrt()

    def draw_levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Training levels (count,) int64 in 0..T-1."""
        return draw_levels(self.config.T, count, self.config.level_bias, generator)

    def draw_available(
        self, present: NDArray[np.bool_], progress: float, random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Easy patterns first: one missing contrast, then up to two, then up to three, then all patterns alike."""
        legal = legal_patterns(present, self.contrasts)
        return draw_pattern(legal, present, self.shares_at(progress), random)

    def shares_at(self, progress: float) -> tuple[float, float, float] | None:
        """Shares of examples with one, two and three missing contrasts; None for all patterns alike."""
        phases = CURRICULA.get(self.config.curriculum, ())
        current = sum(progress >= end for end in self.config.phases)
        return phases[current] if current < len(phases) else self.config.shares

    # --- Sampling -------------------------------------------------------------------------------------------------

    def fill_in(self, images: Tensor, available: Tensor, wish: Wish) -> Tensor:
        """Fill in every contrast that is not available, all of them in one chain: see Method."""
        sampler = known_sampler(wish.sampler or self.config.sampler)
        steps = wish.steps or self.config.steps or self.config.T
        visited = levels_of(sampler, self.schedule, steps, solver_levels=self.config.solver_levels)
        images = where_available(images, available)
        batch = Batch(images, available, available, wish.context)
        guidance = self.guidance(images, available)
        tell = wish.counter(len(visited))

        def denoise(x_t: Tensor, level: int) -> Tensor:
            t = torch.full((len(images),), level, device=images.device)
            x_0 = to_x0(self.config.param, self.predict(x_t, t, batch, guidance), x_t, float(self.schedule.abar[level]))
            tell()
            return x_0.clamp(-1, 1)

        # the denoiser changes with the stage, so a multistep solver forgets its history there
        restart = {"restart_at": self.config.first_coarse} if sampler == "dpm_solver_pp" else {}
        options = {**self.sampler_options(sampler, steps, wish), **restart}
        x_0 = SAMPLERS[sampler](denoise, wish.noise(images), self.schedule, visited, wish.noise, **options)
        return torch.where(available[:, :, None, None], images, x_0)


CHARBONNIER = 1e-3  # errors well below this cost as their square, above it as their size

# Probability of one, two, and three or more missing contrasts, in each phase of training.
CURRICULA: Mapping[str, tuple[tuple[float, float, float], ...]] = {
    "cumulative": ((1, 0, 0), (0.5, 0.5, 0), (0.25, 0.25, 0.5)),
    "strict": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}


def gradient_error(difference: Tensor) -> Tensor:
    """Mean absolute gradient (B, C) of the difference (B, C, H, W) of two images: of their gradients' difference."""
    return difference.diff(dim=2).abs().mean((2, 3)) + difference.diff(dim=3).abs().mean((2, 3))


def one_hot_of_largest(scores: Tensor) -> Tensor:
    """(B, C) float: 1 at the largest score of every row."""
    return F.one_hot(scores.argmax(1), scores.shape[1]).float()


def where_available(images: Tensor, available: Tensor) -> Tensor:
    """Images (B, C, H, W) with every channel that is not available (B, C) set to 0, whatever it held."""
    return torch.where(available[:, :, None, None], images, 0.0)
