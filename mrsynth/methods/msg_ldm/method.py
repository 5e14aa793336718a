"""MSG-LDM: multiscale structure-guided latent diffusion (arXiv 2603.12581).

Three models, trained one after the other: an autoencoder of slices (first stage); a structure network that splits the
contrasts at hand into a structure map, which has no contrast, and style codes; and a diffusion model of the latents of
all contrasts together, told of the anatomy by the structure map alone. docs/methods/msg-ldm.md tells what the paper
leaves open and what is chosen here; `objectives` holds what each stage minimises.
"""

from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mrsynth.diffusion.prediction import noised, to_x0
from mrsynth.diffusion.samplers import SAMPLERS, known_sampler
from mrsynth.diffusion.schedules import levels, make_schedule
from mrsynth.methods.base import ABSENT, Batch, Method, Objective, Wish
from mrsynth.methods.msg_ldm.autoencoder import Autoencoder
from mrsynth.methods.msg_ldm.config import MsgLdmConfig
from mrsynth.methods.msg_ldm.decoders import ReconstructionDecoder, SegmentationDecoder, StyleEncoder
from mrsynth.methods.msg_ldm.discriminator import PatchDiscriminator
from mrsynth.methods.msg_ldm.losses import INITIAL_LOG_TEMPERATURE
from mrsynth.methods.msg_ldm.objectives import (
    adversary_loss,
    diffusion_loss,
    first_stage_loss,
    measure_scales,
    structure_loss,
)
from mrsynth.methods.msg_ldm.structure_map import StructureMap
from mrsynth.networks.regression import VoxelRegression, fit_regression
from mrsynth.networks.unet import UNet

DIRECT = "direct"  # as a sampler: the images of the structure network's decoders, without diffusion
MEASURED = 8  # batches from which the spread of the latents is measured


class Structures(NamedTuple):
    """What the structure network finds in a batch.

    levels   F_1 .. F_L, the finest first
    map      F_s (B, C_L, h, w), the structure map
    start    (B, C, H, W) what image decoders add to, in [-1, 1]; None where they add to nothing
    """

    levels: list[Tensor]
    map: Tensor
    start: Tensor | None


class MsgLdm(Method):
    """Structure-guided latent diffusion.

    Latents of a batch are (B, C, c, h, w): contrasts, channels of one contrast's latents, their grid. Input of the
    diffusion network: C c channels of noisy latents, the structure map, and, where `known` is concat or draft, C c
    latents of what is known and C flags of what is available.
    """

    Config = MsgLdmConfig
    samplers = (*SAMPLERS, DIRECT)
    stages: tuple[str, ...] = ("first_stage", "structure", "diffusion")  # a model may do without the first or the last
    styles: nn.ModuleList
    prototypes: Tensor
    prototype_counts: Tensor
    latent_scale: Tensor
    difference_scale: Tensor

    def __init__(self, config: MsgLdmConfig):
        super().__init__(config)
        self.config = config
        self.neighbours = config.neighbours
        self.multiple = config.multiple
        self.shared_noise = config.noise == "shared"
        self.wants_labels = config.segments
        c = len(config.contrasts)
        sizes = config.structure
        self.structure = StructureMap(sizes, c, 1 + 2 * config.neighbours)
        self.reconstructors = nn.ModuleList(ReconstructionDecoder(sizes) for _ in range(c))
        self.regression = VoxelRegression(c) if sizes.regression else None
        if config.styled:
            self.styles = nn.ModuleList(StyleEncoder(sizes) for _ in range(c))
            self.register_buffer("prototypes", torch.zeros(c, sizes.style_dim))
            self.register_buffer("prototype_counts", torch.zeros(c))
            if config.losses.w_sc:
                self.log_temperature = nn.Parameter(torch.tensor(INITIAL_LOG_TEMPERATURE))
        self.segmenter = SegmentationDecoder(sizes, 1 + len(config.regions)) if config.segments else None
        self.first_stage: Autoencoder | None = None
        self.discriminator: PatchDiscriminator | None = None
        self.network: UNet | None = None
        if config.decode == "diffusion":
            self._add_diffusion(c)
        identity = config.first_stage.kind == "identity"
        absent = {"first_stage", "diffusion"} if config.decode == "direct" else {"first_stage"} if identity else set()
        self.stages = tuple(stage for stage in MsgLdm.stages if stage not in absent)
        self.judged_stages = tuple(stage for stage in self.stages if stage != "first_stage")

    def _add_diffusion(self, contrasts: int) -> None:
        config = self.config
        self.schedule = make_schedule(config.schedule, config.T)
        self.first_stage = Autoencoder(config.first_stage)
        if config.losses.w_gan and config.first_stage.kind != "identity":
            self.discriminator = PatchDiscriminator(config.discriminator)
        latents = contrasts * config.first_stage.channels
        told = latents + contrasts if self.tells else 0
        self.network = UNet(config.network, latents + config.structure.widths[-1] + told, latents)
        self.register_buffer("latent_scale", torch.zeros(()))
        if config.known == "draft":
            self.register_buffer("difference_scale", torch.zeros(()))

    @property
    def tells(self) -> bool:
        """Whether the diffusion network is told latents and flags of what is available."""
        return self.config.known in ("concat", "draft")

    # --- Structure and style --------------------------------------------------------------------------------------

    def structures(self, images: Tensor, context: Tensor, available: Tensor) -> Structures:
        """What the structure network finds in the contrasts that are available; nothing else is read."""
        stack = torch.cat([images[:, :, None], context], 2)
        features, structure = self.structure(stack, available)
        if self.regression is None:
            return Structures(features, structure, None)
        return Structures(features, structure, self.regression.images(images, available))

    def direct(self, found: Structures, wanted: Tensor) -> Tensor:
        """Images (B, C, H, W) of the contrasts that are wanted (B, C), by decoder and prototype; zeros elsewhere."""
        structure, factor = found.map, self.config.structure.factor
        codes = self.prototypes if self.config.styled else structure.new_zeros(len(self.contrasts), 0)
        size = (structure.shape[-2] * factor, structure.shape[-1] * factor)
        made = structure.new_zeros(*wanted.shape, *size, dtype=torch.float32)
        for j in range(len(self.contrasts)):
            rows = wanted[:, j].nonzero()[:, 0]
            if len(rows):
                made[rows, j] = self.decoded(found, j, rows, codes[j].expand(len(rows), -1))
        return made

    def decoded(self, found: Structures, contrast: int, rows: Tensor, codes: Tensor) -> Tensor:
        """Images (N, H, W) of one contrast for some rows of the batch, from their style codes (N, style_dim)."""
        finer = [level[rows] for level in found.levels[:-1]]
        image: Tensor = self.reconstructors[contrast](found.map[rows], finer, codes)[:, 0]
        return image if found.start is None else image + found.start[rows, contrast]

    # --- Latents --------------------------------------------------------------------------------------------------

    def latents(self, images: Tensor, wanted: Tensor) -> Tensor:
        """Unscaled latents (B, C, c, h, w) of the contrasts that are wanted (B, C); zeros elsewhere."""
        assert self.first_stage is not None
        factor, channels = self.config.first_stage.factor, self.config.first_stage.channels
        h, w = (side // factor for side in images.shape[-2:])
        found = images.new_zeros(*wanted.shape, channels, h, w)
        if bool(wanted.any()):
            found[wanted] = self.first_stage.encode(images[wanted][:, None])
        return found

    def images_of(self, latents: Tensor, wanted: Tensor, size: tuple[int, int]) -> Tensor:
        """Images (B, C, H, W) of unscaled latents of the contrasts that are wanted; zeros elsewhere."""
        assert self.first_stage is not None
        made = latents.new_zeros(*wanted.shape, *size)
        if bool(wanted.any()):
            made[wanted] = self.first_stage.decode(latents[wanted])[:, 0]
        return made

    @torch.no_grad()
    def reconstruct(self, images: Tensor, wanted: Tensor) -> Tensor:
        """Images through the first stage and back, in [-1, 1]: the most that diffusion of its latents can reach."""
        return self.images_of(self.latents(images, wanted), wanted, (images.shape[-2], images.shape[-1])).clamp(-1, 1)

    def known_latents(self, images: Tensor, available: Tensor, drafts: Tensor | None) -> Tensor:
        """Unscaled latents of what is available and, given drafts (B, C, H, W), of those in place of the rest."""
        if drafts is None:
            return self.latents(images, available)
        everything = torch.where(available[:, :, None, None], images, drafts.clamp(-1, 1))
        return self.latents(everything, torch.ones_like(available))

    def scale(self) -> Tensor:
        """What latents are multiplied by to have variance 1; 1 before the diffusion stage has measured it."""
        return torch.where(self.latent_scale > 0, self.latent_scale, 1.0)

    def diffused_scale(self) -> Tensor:
        """The same of what is diffused: the latents, or with known=draft their difference from the draft's."""
        if self.config.known != "draft":
            return self.scale()
        return torch.where(self.difference_scale > 0, self.difference_scale, 1.0)

    # --- Diffusion ------------------------------------------------------------------------------------------------

    def condition(self, structure: Tensor, known: Tensor | None, available: Tensor, grid: tuple[int, int]) -> Tensor:
        """What is put beside the noisy latents (B, channels, h, w): F_s, and what is known if it is told."""
        if tuple(structure.shape[-2:]) != grid:
            structure = F.interpolate(structure.float(), size=grid, mode="bilinear")
        if not self.tells:
            return structure.float()
        assert known is not None
        flags = available[:, :, None, None].float().expand(-1, -1, *grid)
        return torch.cat([structure.float(), (known * self.scale()).flatten(1, 2), flags], 1)

    def predict(self, x_t: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """Output of the diffusion network (B, C, c, h, w), float32, for levels (B,)."""
        assert self.network is not None
        out: Tensor = self.network(torch.cat([x_t.flatten(1, 2), condition], 1), level)
        return out.float().reshape(x_t.shape)

    # --- Training -------------------------------------------------------------------------------------------------

    def objectives(self, stage: str) -> list[Objective]:
        """first_stage: to encode and decode slices, and with an adversary its own objective; structure; diffusion."""
        if stage == "first_stage":
            assert self.first_stage is not None
            betas = self.config.betas
            parameters = list(self.first_stage.parameters())
            found = [Objective("encode", parameters, partial(first_stage_loss, self), betas)]
            if self.discriminator is not None:
                adversary = list(self.discriminator.parameters())
                found.append(Objective("discriminate", adversary, partial(adversary_loss, self), betas))
            return found
        if stage == "structure":
            moved = [p for n, p in self.named_parameters() if n.startswith(self.stage_tensors("structure"))]
            return [Objective("structure", moved, partial(structure_loss, self), self.config.betas, 0.01)]
        assert stage == "diffusion" and self.network is not None, stage
        parameters = list(self.network.parameters())
        return [Objective("denoise", parameters, partial(diffusion_loss, self), weight_decay=0.01)]

    def stage_tensors(self, stage: str) -> tuple[str, ...]:
        """Beginnings of the names of what each stage trains or measures."""
        return {
            "first_stage": ("first_stage.", "discriminator."),
            "structure": (
                *("structure.", "reconstructors.", "regression."),
                *("styles.", "prototype", "log_temperature", "segmenter."),
            ),
            "diffusion": ("network.", "latent_scale", "difference_scale"),
        }[stage]

    def training_only(self) -> tuple[str, ...]:
        """Style encoders (synthesis has their prototypes), segmentation decoder, discriminator."""
        return ("styles.", "segmenter.", "discriminator.", "log_temperature", "prototype_counts")

    def enter_stage(self, stage: str, batches: Iterable[Batch]) -> None:
        """Before structure: fit the regression. Before diffusion: measure the spread of what will be diffused."""
        if stage == "structure" and self.regression is not None:
            fit_regression(self.regression, (batch.complete_images() for batch in batches))
        if stage == "diffusion":
            measure_scales(self, islice(batches, MEASURED))

    def draw_available(
        self, present: NDArray[np.bool_], progress: float, random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """The number of missing contrasts is uniform, then which ones; `complete` adds none missing, in the loss."""
        contrasts = np.flatnonzero(present)
        missing = random.permutation(contrasts)[: random.integers(1, len(contrasts))]
        available = present.copy()
        available[missing] = False
        return available

    # --- Sampling -------------------------------------------------------------------------------------------------

    def fill_in(self, images: Tensor, available: Tensor, wish: Wish) -> Tensor:
        """Fill in every contrast that is not available, all of them in one chain.

        sampler "direct" takes the structure network's own decoders, as a model without diffusion always does, and as
        long as only the stages before it have been trained.
        """
        sampler = wish.sampler or self.config.sampler
        direct = self.network is None or sampler == DIRECT or self.stage == "structure"
        sampler = "ddim" if direct else known_sampler(sampler)
        size = (images.shape[-2], images.shape[-1])
        if any(side % self.multiple for side in size):
            raise ValueError(f"a slice of {size} is no multiple of {self.multiple}")
        images = torch.where(available[:, :, None, None], images, ABSENT)
        found = self.structures(images, wish.context, available)
        drafts = self.direct(found, ~available) if direct or self.config.known == "draft" else None
        if direct:
            assert drafts is not None
            made = drafts
            wish.counter(1)()
        else:
            made = self._diffused(images, available, found.map, drafts, wish, sampler)
        return torch.where(available[:, :, None, None], images, made.clamp(-1, 1))

    def _diffused(
        self,
        images: Tensor,
        available: Tensor,
        structure: Tensor,
        drafts: Tensor | None,
        wish: Wish,
        sampler: str,
    ) -> Tensor:
        """Images (B, C, H, W) of the missing contrasts by sampling latents; zeros elsewhere. Not bounded."""
        config, schedule = self.config, self.schedule
        visited = levels(config.T, wish.steps or config.steps or config.T)
        factor, scale = config.first_stage.factor, self.diffused_scale()
        b, c, h, w = images.shape
        grid = (h // factor, w // factor)
        known = None if config.known == "none" else self.known_latents(images, available, drafts)
        condition = self.condition(structure, known, available, grid)
        # what already stands in the joint latents: those that are known, or with draft that they do not differ from it
        fixed = available[:, :, None, None, None] & (known is not None)
        truth = images.new_zeros(()) if known is None or drafts is not None else known * scale
        tell = wish.counter(len(visited))

        def denoise(x_t: Tensor, level: int) -> Tensor:
            t = torch.full((b,), level, device=images.device)
            x_0 = to_x0(config.param, self.predict(x_t, t, condition), x_t, float(schedule.abar[level]))
            tell()
            return torch.where(fixed, truth, x_0)

        start = wish.noise(images.new_empty(b, c, config.first_stage.channels, *grid))
        # Fixed latents start at their place for the first level. Every sampler then moves them to their place for each
        # next level, since it is told their true x_0: they need not be noised anew at every step.
        abar = float(schedule.abar[visited[0]])
        start = torch.where(fixed, noised(truth.expand_as(start), start, abar), start)
        options = {"eta": config.eta} if sampler == "ddim" else {}
        latents = SAMPLERS[sampler](denoise, start, schedule, visited, wish.noise, **options) / scale
        if drafts is None:
            return self.images_of(latents, ~available, (h, w))
        assert known is not None
        # the draft, plus what the difference changes in an image: what its latents lose of it stays
        changed = self.images_of(known + latents, ~available, (h, w)) - self.images_of(known, ~available, (h, w))
        return drafts + changed
