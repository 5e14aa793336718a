"""The diffusion stage of MSG-LDM: a U-Net on the joint latents of all contrasts, with what it minimises."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrsynth.diffusion.prediction import noised, to_x0, training_target
from mrsynth.diffusion.samplers import SAMPLERS, levels_of
from mrsynth.diffusion.schedules import draw_levels, make_schedule
from mrsynth.methods.base import ABSENT, Batch, Objective, Wish
from mrsynth.methods.msg_ldm.config import MsgLdmConfig
from mrsynth.methods.msg_ldm.first_stage import FirstStage
from mrsynth.methods.msg_ldm.losses import Terms
from mrsynth.methods.msg_ldm.structure import Structures, StructureStage, seen_in_training
from mrsynth.networks.unet import UNet


class Noiseless(NamedTuple):
    """What is diffused in a batch, and what the network is told of it.

    x_0        (B, C, c, h, w) with variance near 1
    condition  (B, channels, h, w), put beside the noisy latents
    """

    x_0: Tensor
    condition: Tensor


class LatentDiffusion(nn.Module):
    """Noise to latents of all contrasts together, and with the first stage to images.

    Input of the network: C c channels of noisy latents, the structure map, and, where `known` is concat or draft, C c
    latents of what is known and C flags of what is available.
    """

    latent_scale: Tensor
    difference_scale: Tensor

    def __init__(self, config: MsgLdmConfig):
        super().__init__()
        self.config = config
        self.schedule = make_schedule(config.schedule, config.T)
        self.first_stage = FirstStage(config)
        contrasts = len(config.contrasts)
        latents = contrasts * config.first_stage.channels
        told = latents + contrasts if self.tells else 0
        self.network = UNet(config.network, latents + config.structure.widths[-1] + told, latents)
        channels = (contrasts, config.first_stage.channels, 1, 1) if config.latent_scaling == "channel" else ()
        self.register_buffer("latent_scale", torch.zeros(channels))
        if config.known == "draft":
            self.register_buffer("difference_scale", torch.zeros(channels))

    @property
    def tells(self) -> bool:
        """Whether the diffusion network is told latents and flags of what is available."""
        return self.config.known in ("concat", "draft")

    @property
    def measured(self) -> bool:
        """Whether the spread of the latents is known."""
        return bool((self.latent_scale > 0).any())

    def scale(self) -> Tensor:
        """What latents are multiplied by to have variance 1, () or (C, c, 1, 1); 1 before it was measured."""
        return torch.where(self.latent_scale > 0, self.latent_scale, 1.0)

    def diffused_scale(self) -> Tensor:
        """The same of what is diffused: the latents, or with known=draft their difference from the draft's."""
        if self.config.known != "draft":
            return self.scale()
        return torch.where(self.difference_scale > 0, self.difference_scale, 1.0)

    def known_latents(self, images: Tensor, available: Tensor, drafts: Tensor | None) -> Tensor:
        """Unscaled latents of what is available and, given drafts (B, C, H, W), of those in place of the rest."""
        if drafts is None:
            return self.first_stage.latents(images, available)
        everything = torch.where(available[:, :, None, None], images, drafts.clamp(-1, 1))
        return self.first_stage.latents(everything, torch.ones_like(available))

    def condition(self, structure: Tensor, known: Tensor, available: Tensor) -> Tensor:
        """What is put beside the noisy latents (B, channels, h, w): F_s, and what is known if it is told."""
        grid = (known.shape[-2], known.shape[-1])
        if tuple(structure.shape[-2:]) != grid:
            structure = F.interpolate(structure.float(), size=grid, mode="bilinear")
        if not self.tells:
            return structure.float()
        flags = available[:, :, None, None].float().expand(-1, -1, *grid)
        return torch.cat([structure.float(), (known * self.scale()).flatten(1, 2), flags], 1)

    def predict(self, x_t: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """Output of the diffusion network (B, C, c, h, w), float32, for levels (B,)."""
        out: Tensor = self.network(torch.cat([x_t.flatten(1, 2), condition], 1), level)
        return out.float().reshape(x_t.shape)

    # --- Training -------------------------------------------------------------------------------------------------

    def objectives(self, structure: StructureStage) -> list[Objective]:
        """To predict what was noised; the first stage and the structure network are only used."""

        def loss(batch: Batch, generator: torch.Generator) -> Terms:
            return self.loss(structure, batch, generator)

        return [Objective("denoise", list(self.network.parameters()), loss, weight_decay=0.01)]

    def loss(self, structure: StructureStage, batch: Batch, generator: torch.Generator) -> Terms:
        """Mean squared error of the prediction, over the latents of all contrasts whose truth is known.

        Where the model is told the available ones, over the missing ones only. Every example weighs the same.
        """
        config = self.config
        available = batch.available if self.tells else seen_in_training(batch, config.complete, generator)
        with torch.no_grad():
            x_0, condition = self.diffused(structure, batch, available)
        device = x_0.device
        level = draw_levels(config.T, len(x_0), config.level_bias, generator)
        eps = torch.randn(x_0.shape, generator=generator).to(device)
        level, mean = config.draw_mean(level, generator)
        abar = self.schedule.abar[level][:, None, None, None, None]  # float64, which some devices do not have
        x_t = torch.where(mean.to(device)[:, None, None, None, None], 0.0, noised(x_0, eps, abar))
        output = self.predict(x_t, level.to(device), condition)
        error = (output - training_target(config.param, x_0, eps, abar)).square().mean((2, 3, 4))
        wanted = self.judged(batch, available)
        per_example = torch.where(wanted, error, 0.0).sum(1) / wanted.sum(1).clamp(min=1)
        return {"loss": per_example.mean()}

    def judged(self, batch: Batch, available: Tensor) -> Tensor:
        """Which contrasts (B, C) the network has to predict."""
        return batch.present & ~available if self.tells else batch.present

    def diffused(self, structure: StructureStage, batch: Batch, available: Tensor) -> Noiseless:
        """What is noised, and what the network is told beside it."""
        truth = torch.where(batch.present[:, :, None, None], batch.images, ABSENT)
        found: Structures = structure(batch.images, batch.context, available)
        drafts = structure.direct(found, ~available) if self.config.known == "draft" else None
        known = self.known_latents(truth, available & self.tells, drafts)
        wanted = self.judged(batch, available)
        x_0 = self.first_stage.latents(truth, wanted)
        if drafts is not None:
            x_0 = torch.where(wanted[:, :, None, None, None], x_0 - known, 0.0)
        elif self.tells:
            x_0 = torch.where(available[:, :, None, None, None], known, x_0)
        return Noiseless(x_0 * self.diffused_scale(), self.condition(found.map, known, available))

    @torch.no_grad()
    def measure(self, structure: StructureStage, batches: Iterable[Batch]) -> None:
        """Set the scales to 1 / standard deviation: of all latents, and of the differences if those are diffused."""
        self.latent_scale.zero_()
        if self.config.known == "draft":
            self.difference_scale.zero_()
        latents, differences = Spread(), Spread()
        for batch in batches:
            latents.add(self.first_stage.latents(torch.nan_to_num(batch.images), batch.present), batch.present)
            if self.config.known == "draft":
                x_0, _ = self.diffused(structure, batch, batch.available)
                differences.add(x_0, self.judged(batch, batch.available))
        self.latent_scale.copy_(latents.scale(self.latent_scale))
        if self.config.known == "draft":
            self.difference_scale.copy_(differences.scale(self.difference_scale))

    # --- Sampling -------------------------------------------------------------------------------------------------

    def sample(
        self,
        images: Tensor,
        available: Tensor,
        found: Structures,
        drafts: Tensor | None,
        wish: Wish,
        sampler: str,
        options: Mapping[str, Any],
    ) -> Tensor:
        """Images (B, C, H, W) of the missing contrasts by sampling latents; zeros elsewhere. Not bounded.

        drafts   (B, C, H, W) direct images, with known=draft
        options  of the sampler
        """
        config, schedule, first_stage = self.config, self.schedule, self.first_stage
        visited = levels_of(
            sampler, schedule, wish.steps or config.steps or config.T, solver_levels=config.solver_levels
        )
        scale = self.diffused_scale()
        b, _, h, w = images.shape
        # what already stands in the joint latents: those that are known, or with draft that they do not differ from it
        stands = available & (config.known != "none")
        known = self.known_latents(images, stands, drafts)
        condition = self.condition(found.map, known, available)
        fixed = stands[:, :, None, None, None]
        truth = known * scale if config.known in ("concat", "replace") else known.new_zeros(())
        tell = wish.counter(len(visited))

        def denoise(x_t: Tensor, level: int) -> Tensor:
            t = torch.full((b,), level, device=images.device)
            x_0 = to_x0(config.param, self.predict(x_t, t, condition), x_t, float(schedule.abar[level]))
            tell()
            return torch.where(fixed, truth, x_0)

        start = wish.noise(torch.empty_like(known))
        # Fixed latents start at their place for the first level. Every sampler then moves them to their place for each
        # next level, since it is told their true x_0: they need not be noised anew at every step.
        abar = float(schedule.abar[visited[0]])
        start = torch.where(fixed, noised(truth.expand_as(start), start, abar), start)
        latents = SAMPLERS[sampler](denoise, start, schedule, visited, wish.noise, **options) / scale
        if drafts is None:
            return first_stage.images_of(latents, ~available, (h, w))
        # the draft, plus what the difference changes in an image: what its latents lose of it stays
        before, after = (first_stage.images_of(z, ~available, (h, w)) for z in (known, known + latents))
        return drafts + (after - before)


class Spread:
    """How much tensors (B, C, c, h, w) spread, counted batch by batch, for each of C and c and for all together."""

    def __init__(self) -> None:
        self.count = self.sum = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, values: Tensor, counted: Tensor) -> None:
        """Count those of the contrasts that are `counted` (B, C)."""
        whole = torch.where(counted[:, :, None, None, None], values, 0.0).cpu().double()
        pixels = values.shape[-2] * values.shape[-1]
        self.count = self.count + pixels * counted.sum(0).cpu().double()[:, None].expand(whole.shape[1:3])
        self.sum = self.sum + whole.sum((0, 3, 4))
        self.squares = self.squares + whole.square().sum((0, 3, 4))

    def scale(self, like: Tensor) -> Tensor:
        """1 / standard deviation in the shape of `like`, () or (C, c, 1, 1); 0 for what was never counted.

        A channel that spreads less than a hundredth of all together stays that small: it holds nothing but rounding.
        """
        count, total = self.count.sum(), self.sum.sum()
        if not count:
            return torch.zeros_like(like)
        joint = (self.squares.sum() / count - (total / count) ** 2).clamp(min=1e-12)
        if not like.dim():
            return joint.rsqrt()
        own = self.squares / self.count - (self.sum / self.count) ** 2  # NaN where nothing was counted
        return torch.nan_to_num(own.clamp(min=1e-4 * joint).rsqrt(), nan=0.0)[:, :, None, None]
