"""The objectives of MSG-LDM's three stages."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mrsynth.diffusion.prediction import noised, training_target
from mrsynth.diffusion.schedules import draw_levels
from mrsynth.errors import InputError
from mrsynth.methods.base import ABSENT, Batch
from mrsynth.methods.msg_ldm.autoencoder import pull_to_normal
from mrsynth.methods.msg_ldm.losses import (
    adversarial_weight,
    discriminator_loss,
    pixel_error,
    region_targets,
    segmentation_loss,
    spectral_similarity,
    style_consistency,
)

if TYPE_CHECKING:
    from mrsynth.methods.msg_ldm.decoders import ReconstructionDecoder
    from mrsynth.methods.msg_ldm.method import MsgLdm

Terms = dict[str, Tensor]


# First stage ---------------------------------------------------------------------------------------------------------


def first_stage_loss(model: "MsgLdm", batch: Batch, generator: torch.Generator) -> Terms:
    """Image error of one contrast of each example through the bottleneck, price of its latents, adversarial loss.

    Also tells the PSNR of the batch in dB, range 2, background included.
    """
    assert model.first_stage is not None
    losses = model.config.losses
    images = one_contrast(batch, generator)
    made, price = model.first_stage.reconstruct(images, generator)
    error = pixel_error(losses.pixel, made, images).mean()
    terms = {"loss": error + losses.w_latent * price, "image": error, "latents": price}
    if model.discriminator is not None:
        adversarial = -model.discriminator(made).float().mean()
        # without gradients, as when a loss is only looked at, there is nothing to weigh
        graph = torch.is_grad_enabled() and made.requires_grad
        weight = adversarial_weight(error, adversarial, model.first_stage.last_layer) if graph else 1.0
        terms |= {"loss": terms["loss"] + losses.w_gan * weight * adversarial, "adversarial": adversarial}
    mse = pixel_error("l2", made.detach(), images).mean().clamp(min=1e-12)
    return {**terms, "psnr": 10 * torch.log10(4 / mse)}


def adversary_loss(model: "MsgLdm", batch: Batch, generator: torch.Generator) -> Terms:
    """Hinge loss of the discriminator between slices and their reconstructions."""
    assert model.first_stage is not None and model.discriminator is not None
    images = one_contrast(batch, generator)
    with torch.no_grad():
        made, _ = model.first_stage.reconstruct(images, generator)
    return {"loss": discriminator_loss(model.discriminator(images), model.discriminator(made))}


def one_contrast(batch: Batch, generator: torch.Generator) -> Tensor:
    """A slice (B, 1, H, W) of each example: any of the contrasts whose truth is known."""
    chosen = torch.multinomial(batch.present.float().cpu(), 1, generator=generator)[:, 0].to(batch.images.device)
    rows = torch.arange(len(chosen), device=chosen.device)
    return batch.images[rows, chosen][:, None]


# Structure -----------------------------------------------------------------------------------------------------------


def structure_loss(model: "MsgLdm", batch: Batch, generator: torch.Generator) -> Terms:
    """Images and spectra of all contrasts, regions, style consistency, and the pull at the heads of AdaIN."""
    config, losses = model.config, model.config.losses
    available = seen_in_training(model, batch, generator)
    truth = torch.where(batch.present[:, :, None, None], batch.images, ABSENT)
    found = model.structures(batch.images, batch.context, available)
    styles = styles_of(model, truth, batch.present)
    prototype = torch.rand(available.shape, generator=generator).to(truth.device) < config.prototype
    zero = truth.new_zeros(())
    terms = {"image": zero, "frequency": zero, "pull": zero}
    for j in range(len(model.contrasts)):
        weights = torch.where(available[:, j], losses.w_available, 1.0)
        rows = (batch.present[:, j] & (weights > 0)).nonzero()[:, 0]
        if not len(rows):
            continue
        codes = truth.new_zeros(len(rows), 0)
        if styles is not None:
            instead = (prototype & ~available)[rows, j, None]
            codes = torch.where(instead, model.prototypes[j], styles[rows, j])
        made = model.decoded(found, j, rows, codes)
        error, weight = pixel_error(losses.pixel, made, truth[rows, j]), weights[rows]
        terms["image"] = terms["image"] + (weight * error).mean()
        if losses.w_sa:
            lost = 1 - spectral_similarity(made[:, None], truth[rows, j][:, None], losses.freq)
            terms["frequency"] = terms["frequency"] + (weight * lost).mean()
        if losses.w_kl:
            gamma, beta = cast("ReconstructionDecoder", model.reconstructors[j]).modulation(codes)
            terms["pull"] = terms["pull"] + pull_to_normal(gamma - 1, beta).mean()
    terms |= {"consistency": consistency(model, styles, batch.present), "regions": regions(model, found.levels, batch)}
    weights_of = {"image": losses.w_rec, "frequency": losses.w_sa, "pull": losses.w_kl}
    weights_of |= {"consistency": losses.w_sc, "regions": losses.w_seg}
    total = sum((weights_of[name] * term for name, term in terms.items()), zero)
    if styles is not None and model.styles.training:
        remember(model, styles.detach(), batch.present)
    return {"loss": total, **terms}


def seen_in_training(model: "MsgLdm", batch: Batch, generator: torch.Generator) -> Tensor:
    """Which contrasts the encoders read (B, C): as drawn; with `complete` all of them in 1 of n examples.

    n is how many contrasts the example has. Drawn were 1 to n - 1 missing ones, alike; this makes it 0 to n - 1, alike.
    """
    if not model.config.complete:
        return batch.available
    whole = torch.rand(len(batch.present), generator=generator).to(batch.present.device) * batch.present.sum(1) < 1
    return torch.where(whole[:, None], batch.present, batch.available)


def styles_of(model: "MsgLdm", truth: Tensor, present: Tensor) -> Tensor | None:
    """Style codes (B, C, style_dim) of the contrasts that are present, zeros elsewhere; None without styles."""
    if not model.config.styled:
        return None
    columns = []
    for j, encoder in enumerate(model.styles):
        rows = present[:, j].nonzero()[:, 0]
        column = truth.new_zeros(len(truth), model.config.structure.style_dim)
        columns.append(column.index_copy(0, rows, encoder(truth[rows, j][:, None]).float()) if len(rows) else column)
    return torch.stack(columns, 1)


def consistency(model: "MsgLdm", styles: Tensor | None, present: Tensor) -> Tensor:
    """L_sc over the codes of all that is present in the batch."""
    if styles is None or not model.config.losses.w_sc:
        return torch.zeros((), device=present.device)
    return style_consistency(styles[present], present.nonzero()[:, 1], model.log_temperature)


def regions(model: "MsgLdm", features: list[Tensor], batch: Batch) -> Tensor:
    """L_seg over the examples that have a segmentation. Raises InputError where seg=on and one has none."""
    if model.segmenter is None:
        return torch.zeros((), device=batch.images.device)
    b = len(batch.images)
    labels = batch.labels if batch.labels is not None else batch.present.new_full((b, 1, 1), -1, dtype=torch.long)
    labelled = (labels >= 0).flatten(1).any(1)
    if model.config.seg == "on" and not bool(labelled.all()):
        raise InputError(
            f"method.seg is on, but {int((~labelled).sum())} of {b} training examples have no segmentation. "
            "Add the segmentation files, leave those subjects out (data.exclude), or set method.seg to auto or off."
        )
    if not bool(labelled.any()):
        return torch.zeros((), device=batch.images.device)
    logits = model.segmenter([level[labelled] for level in features])
    return segmentation_loss(logits, region_targets(labels[labelled], model.config.regions))


@torch.no_grad()
def remember(model: "MsgLdm", styles: Tensor, present: Tensor) -> None:
    """Move each contrast's prototype towards the mean code of this batch; the first batches count as a plain mean."""
    for j in range(len(model.contrasts)):
        if bool(present[:, j].any()):
            model.prototype_counts[j] += 1
            share = max(1 - model.config.prototype_decay, 1 / float(model.prototype_counts[j]))
            model.prototypes[j].lerp_(styles[present[:, j], j].mean(0), share)


# Diffusion -----------------------------------------------------------------------------------------------------------


def diffusion_loss(model: "MsgLdm", batch: Batch, generator: torch.Generator) -> Terms:
    """Mean squared error of the prediction, over the latents of all contrasts whose truth is known.

    Where the model is told the available ones, over the missing ones only. Every example weighs the same. The first
    stage and the structure network are only used.
    """
    config = model.config
    available = batch.available if model.tells else seen_in_training(model, batch, generator)
    with torch.no_grad():
        x_0, condition = diffused(model, batch, available)
    device = x_0.device
    level = draw_levels(config.T, len(x_0), config.level_bias, generator).to(device)
    eps = torch.randn(x_0.shape, generator=generator).to(device)
    abar = model.schedule.abar.to(device)[level][:, None, None, None, None]
    output = model.predict(noised(x_0, eps, abar), level, condition)
    error = (output - training_target(config.param, x_0, eps, abar)).square().mean((2, 3, 4))
    wanted = judged(model, batch, available)
    per_example = torch.where(wanted, error, 0.0).sum(1) / wanted.sum(1).clamp(min=1)
    return {"loss": per_example.mean()}


def judged(model: "MsgLdm", batch: Batch, available: Tensor) -> Tensor:
    """Which contrasts (B, C) the diffusion model has to predict."""
    return batch.present & ~available if model.tells else batch.present


def diffused(model: "MsgLdm", batch: Batch, available: Tensor) -> tuple[Tensor, Tensor]:
    """What is noised, x_0 (B, C, c, h, w) with variance near 1, and what the network is told beside it."""
    truth = torch.where(batch.present[:, :, None, None], batch.images, ABSENT)
    found = model.structures(batch.images, batch.context, available)
    drafts = model.direct(found, ~available) if model.config.known == "draft" else None
    known = model.known_latents(truth, available, drafts) if model.tells else None
    x_0 = model.latents(truth, judged(model, batch, available))
    if drafts is not None and known is not None:
        missing = judged(model, batch, available)[:, :, None, None, None]
        x_0 = torch.where(missing, x_0 - known, 0.0)
    elif model.config.known == "concat" and known is not None:
        x_0 = torch.where(available[:, :, None, None, None], known, x_0)
    return x_0 * model.diffused_scale(), model.condition(found.map, known, available, (x_0.shape[-2], x_0.shape[-1]))


@torch.no_grad()
def measure_scales(model: "MsgLdm", batches: Iterable[Batch]) -> None:
    """Set the scales to 1 / standard deviation: of all latents, and of the differences if those are diffused."""
    model.latent_scale.zero_()
    if model.config.known == "draft":
        model.difference_scale.zero_()
    squares = {"latent_scale": 0.0, "difference_scale": 0.0}
    sums, counts = dict(squares), dict(squares)

    def add(name: str, values: Tensor) -> None:
        sums[name] += float(values.double().sum())
        squares[name] += float(values.double().square().sum())
        counts[name] += values.numel()

    for batch in batches:
        add("latent_scale", model.latents(torch.nan_to_num(batch.images), batch.present)[batch.present])
        if model.config.known == "draft":
            x_0, _ = diffused(model, batch, batch.available)
            add("difference_scale", x_0[judged(model, batch, batch.available)])
    for name, count in counts.items():
        if count:
            variance = squares[name] / count - (sums[name] / count) ** 2
            getattr(model, name).fill_(max(variance, 1e-12) ** -0.5)
