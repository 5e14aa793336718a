"""The structure stage of MSG-LDM: structure map, style codes and what decodes the two, with what they minimise."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrsynth.errors import InputError
from mrsynth.methods.base import ABSENT, Batch, Objective
from mrsynth.methods.brightness import brain_of
from mrsynth.methods.msg_ldm.autoencoder import pull_to_normal
from mrsynth.methods.msg_ldm.config import MsgLdmConfig
from mrsynth.methods.msg_ldm.decoders import ReconstructionDecoder, SegmentationDecoder, StyleEncoder
from mrsynth.methods.msg_ldm.losses import (
    INITIAL_LOG_TEMPERATURE,
    Terms,
    anatomical_error,
    region_targets,
    segmentation_loss,
    spectral_similarity,
    style_consistency,
)
from mrsynth.methods.msg_ldm.structure_map import StructureMap
from mrsynth.networks.regression import VoxelRegression, fit_regression


class Structures(NamedTuple):
    """What the structure network finds in a batch.

    levels   F_1 .. F_L, the finest first
    map      F_s (B, C_L, h, w), the structure map
    start    (B, C, H, W) what image decoders add to, in [-1, 1]; None where they add to nothing
    """

    levels: list[Tensor]
    map: Tensor
    start: Tensor | None


class StructureStage(nn.Module):
    """Contrasts at hand to a structure map; and from it and a style code back to an image of any contrast."""

    prototypes: Tensor
    prototype_counts: Tensor

    def __init__(self, config: MsgLdmConfig):
        super().__init__()
        self.config = config
        c = len(config.contrasts)
        sizes = config.structure
        self.map = StructureMap(sizes, c, 1 + 2 * config.neighbours)
        self.reconstructors = nn.ModuleList(ReconstructionDecoder(sizes) for _ in range(c if config.decodes else 0))
        self.regression = VoxelRegression(c) if sizes.regression else None
        self.styles = nn.ModuleList(StyleEncoder(sizes) for _ in range(c if config.styled else 0))
        if config.has_prototypes and config.prototypes == "learned":
            self.prototypes = nn.Parameter(torch.randn(c, sizes.style_dim))
        elif config.has_prototypes:
            self.register_buffer("prototypes", torch.zeros(c, sizes.style_dim))
            self.register_buffer("prototype_counts", torch.zeros(c))
        if config.styled and config.losses.w_sc:
            self.log_temperature = nn.Parameter(torch.tensor(INITIAL_LOG_TEMPERATURE))
        if config.seg == "on" and not config.regions:
            raise ValueError("seg is on, but it is not said which values of a segmentation are which region: regions")
        self.regions = config.regions or {}
        self.segmenter = SegmentationDecoder(sizes, 1 + len(self.regions)) if config.segments else None

    # --- In use ---------------------------------------------------------------------------------------------------

    def forward(self, images: Tensor, context: Tensor, available: Tensor) -> Structures:
        """What is found in the contrasts that are available; nothing else is read.

        images (B, C, H, W), context (B, C, N, H, W), available (B, C)
        """
        stack = torch.cat([images[:, :, None], context], 2)
        features, structure = self.map(stack, available)
        start = None if self.regression is None else self.regression.images(images, available)
        return Structures(features, structure, start)

    def direct(self, found: Structures, wanted: Tensor) -> Tensor:
        """Images (B, C, H, W) of the contrasts that are wanted (B, C), by decoder and prototype; zeros elsewhere."""
        structure, factor = found.map, self.config.structure.factor
        codes = self.held(self.prototypes) if self.config.styled else structure.new_zeros(wanted.shape[1], 0)
        size = (structure.shape[-2] * factor, structure.shape[-1] * factor)
        made = structure.new_zeros(*wanted.shape, *size, dtype=torch.float32)
        for j in range(wanted.shape[1]):
            rows = wanted[:, j].nonzero()[:, 0]
            if len(rows):
                made[rows, j] = self.decoded(found, j, rows, codes[j].expand(len(rows), -1))
        return made

    def decoded(self, found: Structures, contrast: int, rows: Tensor, codes: Tensor) -> Tensor:
        """Images (N, H, W) of one contrast for some rows of the batch, from their style codes (N, style_dim)."""
        finer = [level[rows] for level in found.levels[:-1]]
        image: Tensor = self.reconstructors[contrast](found.map[rows], finer, codes)[:, 0]
        return image if found.start is None else image + found.start[rows, contrast]

    def held(self, codes: Tensor) -> Tensor:
        """Style codes (..., style_dim) as they modulate: of the length sqrt(style_dim), or as given."""
        if self.config.structure.style_codes == "raw":
            return codes
        return math.sqrt(codes.shape[-1]) * F.normalize(codes.float(), dim=-1)

    # --- Training -------------------------------------------------------------------------------------------------

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Before training: fit the regression, where there is one."""
        if self.regression is not None:
            fit_regression(self.regression, ((batch.images, batch.present) for batch in batches), self.config.contrasts)

    def objectives(self) -> list[Objective]:
        """One for all parts."""
        return [Objective("structure", list(self.parameters()), self.loss, self.config.betas, 0.01)]

    def loss(self, batch: Batch, generator: torch.Generator) -> Terms:
        """Images and spectra of all contrasts, regions, style consistency, and the pull at the heads of AdaIN."""
        config, losses = self.config, self.config.losses
        available = seen_in_training(batch, config.complete, generator)
        truth = torch.where(batch.present[:, :, None, None], batch.images, ABSENT)
        brain = brain_of(batch.images, batch.present)
        found: Structures = self(batch.images, batch.context, available)
        styles = self.styles_of(truth, batch.present)
        prototype = torch.rand(available.shape, generator=generator).to(truth.device) < config.prototype
        zero = truth.new_zeros(())
        terms = {"image": zero, "frequency": zero, "pull": zero}
        for j, reconstructor in enumerate(self.reconstructors):
            weights = torch.where(available[:, j], losses.w_available, 1.0)
            rows = (batch.present[:, j] & (weights > 0)).nonzero()[:, 0]
            if not len(rows):
                continue
            codes = truth.new_zeros(len(rows), 0)
            if styles is not None:
                instead = (prototype & ~available)[rows, j, None]
                codes = torch.where(instead, self.held(self.prototypes[j]), styles[rows, j])
            made = self.decoded(found, j, rows, codes)
            weight = weights[rows]
            error = anatomical_error(losses.pixel, made, truth[rows, j], brain[rows], losses.brightness_weight)
            terms["image"] = terms["image"] + (weight * error).mean()
            if losses.w_freq:
                lost = 1 - spectral_similarity(made[:, None], truth[rows, j][:, None], losses.freq)
                terms["frequency"] = terms["frequency"] + (weight * lost).mean()
            if losses.w_kl and isinstance(reconstructor, ReconstructionDecoder):
                gamma, beta = reconstructor.modulation(codes)
                terms["pull"] = terms["pull"] + pull_to_normal(gamma - 1, beta).mean()
        terms["consistency"] = self.consistency(styles, batch.present)
        terms["regions"] = self.region_loss(found.levels, batch)
        weights_of = {"image": losses.w_sa * losses.w_rec, "frequency": losses.w_sa * losses.w_freq}
        weights_of["pull"] = losses.w_kl
        weights_of |= {"consistency": losses.w_sc, "regions": losses.w_seg}
        total = sum((weights_of[name] * term for name, term in terms.items()), zero)
        if styles is not None and config.has_prototypes and config.prototypes == "running" and self.styles.training:
            self.remember(styles.detach(), batch.present)
        return {"loss": total, **terms}

    def styles_of(self, truth: Tensor, present: Tensor) -> Tensor | None:
        """Style codes (B, C, style_dim), as they modulate, of what is present; zeros elsewhere; None without styles."""
        if not self.config.styled:
            return None
        columns = []
        for j, encoder in enumerate(self.styles):
            rows = present[:, j].nonzero()[:, 0]
            column = truth.new_zeros(len(truth), self.config.structure.style_dim)
            if len(rows):
                column = column.index_copy(0, rows, self.held(encoder(truth[rows, j][:, None]).float()))
            columns.append(column)
        return torch.stack(columns, 1)

    def consistency(self, styles: Tensor | None, present: Tensor) -> Tensor:
        """L_sc over the codes of all that is present in the batch."""
        if styles is None or not self.config.losses.w_sc:
            return torch.zeros((), device=present.device)
        return style_consistency(styles[present], present.nonzero()[:, 1], self.log_temperature)

    def region_loss(self, features: list[Tensor], batch: Batch) -> Tensor:
        """L_seg over the examples that have a segmentation. Raises InputError where seg=on and one has none."""
        if self.segmenter is None:
            return torch.zeros((), device=batch.images.device)
        b = len(batch.images)
        labels = batch.labels if batch.labels is not None else batch.present.new_full((b, 1, 1), -1, dtype=torch.long)
        labelled = (labels >= 0).flatten(1).any(1)
        if self.config.seg == "on" and not bool(labelled.all()):
            raise InputError(
                f"method.seg is on, but {int((~labelled).sum())} of {b} training examples have no segmentation. "
                "Add the segmentation files, leave those subjects out (data.exclude), or set method.seg to auto or off."
            )
        if not bool(labelled.any()):
            return torch.zeros((), device=batch.images.device)
        logits = self.segmenter([level[labelled] for level in features])
        return segmentation_loss(logits, region_targets(labels[labelled], self.regions))

    @torch.no_grad()
    def remember(self, styles: Tensor, present: Tensor) -> None:
        """Move each contrast's prototype towards the mean code of this batch; the first ones count as a plain mean.

        One without a count is from a file of 0.1.0, which lacks the encoders that made it: it stays as it is.
        """
        least = 1 - self.config.prototype_decay
        for j, (prototype, count) in enumerate(zip(self.prototypes, self.prototype_counts, strict=True)):
            if bool(present[:, j].any()) and not (bool(prototype.any()) and not bool(count)):
                count.copy_((count + 1).clamp(max=math.ceil(1 / least)))  # beyond, it decides nothing
                prototype.lerp_(styles[present[:, j], j].mean(0), max(least, 1 / float(count)))


def seen_in_training(batch: Batch, complete: bool, generator: torch.Generator) -> Tensor:
    """Which contrasts the encoders read (B, C): as drawn; with `complete` all of them in 1 of n examples.

    n is how many contrasts the example has. Drawn were 1 to n - 1 missing ones, alike; this makes it 0 to n - 1, alike.
    """
    if not complete:
        return batch.available
    whole = torch.rand(len(batch.present), generator=generator).to(batch.present.device) * batch.present.sum(1) < 1
    return torch.where(whole[:, None], batch.present, batch.available)
