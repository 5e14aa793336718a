"""The first stage of a latent diffusion model: an autoencoder of single-contrast slices, one for all contrasts.

Layout after Esser et al. 2021 (VQGAN) and Rombach et al. 2022 (latent diffusion): residual blocks, halving by strided
convolution, self-attention in the middle only. Latents are what the encoder returns; a codebook, if there is one,
stands at the entrance of the decoder, so that sampled latents are quantised like encoded ones.
"""

from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from mrsynth.networks.blocks import SelfAttention, Upsample, active, added
from mrsynth.networks.norm import GroupNorm
from mrsynth.plain import Plain


class AutoencoderConfig(Plain):
    """Size and kind of the first stage; defaults are those of the public code of MSG-LDM.

    kind    vq: a codebook of nearest neighbours; kl: normal latents with a weak pull to N(0, 1); identity: pixels
            folded into channels, exactly invertible, nothing to train
    fold    folds fold x fold pixels into channels before the first convolution and unfolds them after the last
    bypass  a linear way around encoder and decoder. Their norms take the level of every image away, and a network that
            is trained for minutes does not learn to restore it
    """

    kind: Literal["vq", "kl", "identity"] = "vq"
    width: int = Field(128, gt=0, description="channels of the first level")
    multipliers: tuple[PositiveInt, ...] = Field((1, 1, 2, 4), min_length=1, description="width of each level")
    blocks: int = Field(2, gt=0, description="residual blocks per level of the encoder; the decoder has one more")
    decoder_blocks: int | None = Field(None, gt=0, description="residual blocks per level of the decoder, otherwise")
    latent: int = Field(4, gt=0, description="channels of the latents of one contrast; not used by identity")
    groups: int = Field(32, gt=0, description="groups of every GroupNorm")
    attention: bool = Field(True, description="one head of self-attention in the middle")
    fold: int = Field(1, gt=0, description="pixels folded into channels at the stem, per axis")
    bypass: bool = False
    codes: int = Field(8192, gt=1, description="size of the codebook")
    commitment: float = Field(0.25, ge=0, description="weight of the pull of the latents to their codes")

    @model_validator(mode="after")
    def _widths_divide(self) -> "AutoencoderConfig":
        for m in self.multipliers if self.kind != "identity" else ():
            if (self.width * m) % self.groups:
                raise ValueError(f"first stage: width {self.width * m} is no multiple of {self.groups} groups")
        return self

    @property
    def factor(self) -> int:
        """Pixels of the image per pixel of the latents, per axis."""
        return self.fold << (len(self.multipliers) - 1)

    @property
    def channels(self) -> int:
        """Channels of the latents of one contrast."""
        return self.factor**2 if self.kind == "identity" else self.latent


class Quantised(NamedTuple):
    """Latents moved to their nearest codes, with the gradient of the latents; and what the codebook costs."""

    latents: Tensor
    loss: Tensor


class Codebook(nn.Module):
    """Nearest-neighbour quantisation: van den Oord et al. 2017, eq. 2 and 3.

    forward(z (B, D, H, W)) -> Quantised; the loss is |sg(z) - e|^2 + commitment |z - sg(e)|^2, as a mean.
    """

    def __init__(self, codes: int, dim: int, commitment: float):
        super().__init__()
        self.commitment = commitment
        self.codes = nn.Parameter(torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes))

    def forward(self, z: Tensor) -> Quantised:
        # in float32 also under autocast: half the mantissa would pick other codes
        with torch.autocast(z.device.type, enabled=False):
            flat = z.permute(0, 2, 3, 1).float()
            codes = self.codes.float()
            nearest = F.embedding(nearest_of(flat.detach(), codes.detach()), codes)
            pull = self.commitment * (nearest.detach() - flat).square().mean()
            loss = (nearest - flat.detach()).square().mean() + pull
            straight = flat + (nearest - flat).detach()
            return Quantised(straight.permute(0, 3, 1, 2), loss)


def nearest_of(flat: Tensor, codes: Tensor) -> Tensor:
    """The number of the code (N, D) nearest to each place of flat (B, H, W, D): (B, H, W) int64.

    Image by image: the distances to all codes are by far the largest thing there is.
    """
    squares = codes.square().sum(1)  # and |z|^2 is the same for every code
    return torch.stack([(squares - 2 * image @ codes.T).argmin(-1) for image in flat])


class PlainBlock(nn.Module):
    """Norm, SiLU, conv, twice, around a skip: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(active(self.norm1(x)))
        h = self.conv2(active(self.norm2(h)))
        return added(h, self.skip(x))


class Encoder(nn.Module):
    """forward(x (N, 1, H, W)) -> (N, outputs, H / factor, W / factor)."""

    def __init__(self, config: AutoencoderConfig, outputs: int):
        super().__init__()
        self.fold = config.fold
        widths = [config.width * m for m in config.multipliers]
        layers: list[nn.Module] = [nn.Conv2d(config.fold**2, widths[0], 3, padding=1)]
        current = widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                layers.append(PlainBlock(current, width, config.groups))
                current = width
            if level < len(widths) - 1:
                layers.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
        layers += middle(current, config)
        layers += [GroupNorm(config.groups, current), nn.SiLU(), nn.Conv2d(current, outputs, 3, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.to_latent = nn.Conv2d(outputs, outputs, 1)
        self.bypass = nn.Conv2d(1, outputs, config.factor, stride=config.factor) if config.bypass else None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.to_latent(self.layers(F.pixel_unshuffle(x, self.fold)))
        return out if self.bypass is None else out + self.bypass(x)


class Decoder(nn.Module):
    """forward(z (N, channels, h, w)) -> (N, 1, factor h, factor w), not bounded."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.fold = config.fold
        widths = [config.width * m for m in config.multipliers]
        current = widths[-1]
        self.from_latent = nn.Conv2d(config.channels, config.channels, 1)
        layers: list[nn.Module] = [nn.Conv2d(config.channels, current, 3, padding=1), *middle(current, config)]
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.decoder_blocks or config.blocks + 1):
                layers.append(PlainBlock(current, width, config.groups))
                current = width
            if level > 0:
                layers.append(Upsample(current, current))
        layers += [GroupNorm(config.groups, current), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(current, config.fold**2, 3, padding=1)
        self.factor = config.factor
        self.bypass = nn.Conv2d(config.channels, config.factor**2, 3, padding=1) if config.bypass else None

    def forward(self, z: Tensor) -> Tensor:
        image = F.pixel_shuffle(self.head(self.layers(self.from_latent(z))), self.fold)
        return image if self.bypass is None else image + F.pixel_shuffle(self.bypass(z), self.factor)


def middle(channels: int, config: AutoencoderConfig) -> list[nn.Module]:
    """Residual block, attention if wanted, residual block."""
    attention = [SelfAttention(channels, channels, config.groups)] if config.attention else []
    return [PlainBlock(channels, channels, config.groups), *attention, PlainBlock(channels, channels, config.groups)]


def pull_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) | N(0, 1)) of each row (N, ...) as a mean over its elements: (N,).

    Kingma and Welling 2014, appendix B.
    """
    mean, log_variance = mean.float().flatten(1), log_variance.float().flatten(1)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(1)


class Autoencoder(nn.Module):
    """The first stage of kind vq, kl or identity. Images (N, 1, H, W) in [-1, 1]; H and W multiples of the factor."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder: Encoder | None = None
        self.decoder: Decoder | None = None
        self.codebook: Codebook | None = None
        if config.kind == "identity":
            return
        self.encoder = Encoder(config, config.channels * (2 if config.kind == "kl" else 1))
        self.decoder = Decoder(config)
        if config.kind == "vq":
            self.codebook = Codebook(config.codes, config.channels, config.commitment)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (N, channels, H / factor, W / factor), float32: of kl the mean, of vq before the codebook."""
        if self.encoder is None:
            return F.pixel_unshuffle(images, self.config.factor)
        z: Tensor = self.encoder(images)
        return z[:, : self.config.channels].float()

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, 1, H, W) of latents, float32, not bounded; of vq after moving the latents to their codes."""
        if self.decoder is None:
            return F.pixel_shuffle(latents, self.config.factor)
        z = latents if self.codebook is None else self.codebook(latents).latents
        image: Tensor = self.decoder(z)
        return image.float()

    def reconstruct(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For training: the images through the bottleneck, and the price of their latents, a mean over elements.

        vq: the codebook's loss. kl: the latents are drawn, and pay `pull_to_normal`. identity: nothing.
        """
        if self.encoder is None:
            return images, images.new_zeros(())
        if self.codebook is not None:
            quantised = self.codebook(self.encoder(images))
            return self.decoded(quantised.latents), quantised.loss
        mean, log_variance = self.encoder(images).float().chunk(2, 1)
        log_variance = log_variance.clamp(-30, 20)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        price = pull_to_normal(mean, log_variance).mean()
        return self.decoded(mean + (0.5 * log_variance).exp() * noise), price

    def decoded(self, z: Tensor) -> Tensor:
        """The decoder alone."""
        return cast(Tensor, cast(Decoder, self.decoder)(z)).float()

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights of the last convolution, at which losses are weighed against each other."""
        return cast(nn.Parameter, cast(Decoder, self.decoder).head.weight)
