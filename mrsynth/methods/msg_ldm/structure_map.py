"""The structure map of MSG-LDM: what is anatomy in the contrasts at hand, on several scales, without their style.

One encoder per contrast, each level sharpened by HFIB; what is not available is removed; MMSF gates and fuses the
contrasts of a level; MSSE lets the coarsest level look at the finer ones. Level 1 is the finest.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from mrsynth.networks.norm import GroupNorm
from mrsynth.plain import Plain

Norm = Literal["instance", "group", "none"]
SMALLEST_SIGMA = 1e-3  # of the learnt number, and of what 0.1.0 read from means
SIGMAS = (0.3, 1.5)  # pixels; of the adaptive Gaussian: below, nothing is smoothed; above, its support cuts it off
RADIUS = 3  # pixels on either side of the adaptive Gaussian's centre
FLOOR = 1e-3  # of the deviations whose logarithms are taken: an empty slice has none
GROUPS = 8


class StructureConfig(Plain):
    """Sizes and ablations of the structure-style network; defaults are the paper's where it is known.

    hfib           residual: C + (C - G*C), the paper's; conv: the public code's; none: C
    sigma          adaptive: width of G, 0.3 to 1.5 pixels, from the spread and roughness of each channel before its
                   norm, over 7 x 7 pixels; scalar: one learnt number per level, over 3 x 3; means: 0.1.0's adaptive
                   form, from the mean of each channel of C, after its norm and over 3 x 3, which hardly varies
    fusion         sum: the sum of the gated contrasts into a 1x1 convolution, the paper's; concat: they side by side
    gate           normed: gates pass a norm and an activation first, as in the public code, and so stay above 0.48
    decouple       false: one encoder for the stack of contrasts, no style, no gates
    style_codes    unit: brought to the length sqrt(style_dim), so that only their direction modulates; raw: 0.1.0's,
                   whose length nothing holds
    fold           folds fold x fold pixels into channels before the first level (1: the paper)
    norm           of encoders, fusion and decoders; instance (the paper) removes each slice's level, none keeps it
    decoder_skips  reconstruction decoders also see the finer levels of the structure map; not in the paper
    regression     reconstruction decoders add to a voxel-wise regression of the available contrasts; not in the paper
    """

    FORMER: ClassVar[Mapping[str, Any]] = {"style_codes": "raw", "sigma": "means", "fusion": "concat"}

    widths: tuple[PositiveInt, ...] = Field((32, 64, 128, 256), min_length=2, description="channels of each level")
    fold: int = Field(1, gt=0)
    norm: Norm = "instance"
    dropout: float = Field(0.3, ge=0, lt=1)
    hfib: Literal["residual", "conv", "none"] = "residual"
    sigma: Literal["adaptive", "scalar", "means"] = "adaptive"
    fusion: Literal["sum", "concat"] = "sum"
    gate: Literal["plain", "normed"] = "plain"
    msse: bool = True
    heads: int = Field(4, gt=0, description="heads of the attention of MSSE")
    alpha: Literal["learned", "fixed"] = Field("learned", description="weight of MSSE; both begin at 0.5")
    decouple: bool = True
    style_dim: int = Field(8, gt=0, description="numbers in a style code")
    style_codes: Literal["unit", "raw"] = "unit"
    style_width: int = Field(32, gt=0, description="channels of the first layer of the style encoder")
    style_norm: bool = Field(False, description="instance norms in the style encoder, which erase much of the style")
    decoder_blocks: int = Field(4, ge=1, description="AdaIN blocks of a reconstruction decoder")
    decoder_kernel: int = Field(5, gt=0, description="of the convolutions after its up-sampling, odd")
    decoder_skips: bool = False
    regression: bool = False
    head: Literal["tanh", "linear"] = Field("tanh", description="what bounds its image; linear is clipped in use")

    @classmethod
    def from_format_1(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """What was called adaptive then is called means."""
        whole = super().from_format_1(data)
        return {**whole, "sigma": "means"} if whole["sigma"] == "adaptive" else whole

    @model_validator(mode="after")
    def _fits_together(self) -> "StructureConfig":
        if self.widths[-1] % self.heads:
            raise ValueError(f"structure: width {self.widths[-1]} does not split into {self.heads} heads")
        if self.decoder_kernel % 2 == 0:
            raise ValueError(f"structure.decoder_kernel {self.decoder_kernel}: expected an odd number of pixels")
        if self.regression and self.head != "linear":
            raise ValueError("structure.regression needs structure.head linear: what is added must not be squeezed")
        if self.norm == "group" and any(width % GROUPS for width in self.widths):
            raise ValueError(f"structure.norm group needs widths that are multiples of {GROUPS}, not {self.widths}")
        return self

    @property
    def factor(self) -> int:
        """Pixels of the image per pixel of the coarsest level, per axis."""
        return self.fold << (len(self.widths) - 1)


def norm_of(kind: Norm, channels: int) -> nn.Module:
    """The norm of that name; instance has nothing to learn."""
    if kind == "group":
        return GroupNorm(GROUPS, channels)
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.Identity()


def convolution(inputs: int, outputs: int, kernel: int, stride: int, norm: Norm) -> nn.Conv2d:
    """A convolution before a norm and a LeakyReLU(0.01); no bias where an instance norm would cancel it.

    Without a norm it begins with weights that keep the variance (He et al. 2015, eq. 15): the usual smaller ones would
    let the signal die out within a few layers, the finest first.
    """
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=norm != "instance")
    if norm == "none":
        nn.init.kaiming_normal_(layer.weight, a=0.01, nonlinearity="leaky_relu")
    return layer


def unit(inputs: int, outputs: int, kernel: int, stride: int, norm: Norm, dropout: float = 0.0) -> nn.Sequential:
    """Convolution, dropout, norm, LeakyReLU(0.01)."""
    return nn.Sequential(
        convolution(inputs, outputs, kernel, stride, norm),
        nn.Dropout(dropout),
        norm_of(norm, outputs),
        nn.LeakyReLU(0.01),
    )


class Hfib(nn.Module):
    """High-frequency injection: forward(C (B, C, H, W), before its norm (B, C, H, W)) -> the same shape.

    C + (C - G*C) or a learnt mix of both. G is a Gaussian with replicated borders, so that constants have no high
    frequencies anywhere.
    """

    def __init__(self, channels: int, form: Literal["residual", "conv"], sigma: Literal["adaptive", "scalar", "means"]):
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels, 3, padding=1) if form == "conv" else None
        self.read = nn.Linear(2 * channels, 1) if sigma == "adaptive" else None
        self.width = nn.Linear(channels, 1) if sigma == "means" else None
        self.scalar = nn.Parameter(torch.ones(())) if sigma == "scalar" else None
        if self.width is not None:  # begins as sigma = 1 whatever the features
            nn.init.zeros_(self.width.weight)
            nn.init.constant_(self.width.bias, math.log(math.expm1(1 - SMALLEST_SIGMA)))
        if (
            self.read is not None
        ):  # begins as: the rougher the features, the narrower the Gaussian; their spread is free
            with torch.no_grad():
                self.read.weight[0, :channels] = 0
                self.read.weight[0, channels:] = -2 / channels
                self.read.bias.fill_(-0.5)

    def forward(self, features: Tensor, before: Tensor) -> Tensor:
        sharpen = high_frequencies if self.read is None else wide_high_frequencies
        high = sharpen(features, self.sigma(features, before))
        if self.mix is None:
            return features + high
        return F.leaky_relu(self.mix(torch.cat([features, high], 1)), 0.05)

    def sigma(self, features: Tensor, before: Tensor) -> Tensor:
        """Width of the Gaussian in pixels: (B,) for the forms that read the input, () for the scalar one."""
        if self.read is not None:
            lowest, highest = SIGMAS
            found = spread_and_roughness(before.float())  # and a sum by hand, which autocast leaves in float32
            return lowest + (highest - lowest) * torch.sigmoid((found * self.read.weight).sum(1) + self.read.bias)
        if self.width is not None:
            return SMALLEST_SIGMA + F.softplus(self.width(features.mean((2, 3))).float())[:, 0]
        return cast(Tensor, self.scalar).clamp(min=SMALLEST_SIGMA)


def spread_and_roughness(x: Tensor) -> Tensor:
    """Of each channel of x (B, C, H, W): log of its standard deviation, and log of the size of differences between
    neighbours for that deviation, (B, 2C). White noise has a roughness of log(2) / 2, what is smooth has less; a factor
    of x moves the spread alone.
    """
    spread = (x.var((2, 3), correction=0) + FLOOR**2).sqrt()
    squares = (x.diff(dim=axis).square().sum((2, 3)) for axis in (2, 3))
    rough = (sum(squares, x.new_zeros(())) / (2 * x[0, 0].numel()) + FLOOR**2).sqrt()
    return torch.cat([spread.log(), (rough / spread).log()], 1)


def high_frequencies(x: Tensor, sigma: Tensor) -> Tensor:
    """x - G*x for x (B, C, H, W), G the normalised Gaussian of 3 x 3 pixels with sigma () or (B,), borders replicated.

    Separable, and written by differences, so that a constant image gives exact zeros and a tiny sigma does too.
    """
    side = torch.exp(-0.5 / sigma.square())  # against 1 at the centre
    weight = (side / (1 + 2 * side)).to(x.dtype).reshape(-1, 1, 1, 1)
    low = x
    for axis in (2, 3):
        n = low.shape[axis]
        before = torch.cat([low.narrow(axis, 0, 1), low.narrow(axis, 0, n - 1)], axis)
        after = torch.cat([low.narrow(axis, 1, n - 1), low.narrow(axis, n - 1, 1)], axis)
        low = low + weight * (before + after - 2 * low)
    return x - low


def wide_high_frequencies(x: Tensor, sigma: Tensor) -> Tensor:
    """x - G*x for x (B, C, H, W), G the normalised Gaussian of 7 x 7 pixels with sigma (B,), borders replicated."""
    b, c, h, w = x.shape
    kernels = gaussian(sigma).to(x.dtype).repeat_interleave(c, 0)[:, None]  # one for each example and channel
    x = x - x[..., :1, :1]  # which leaves constants exactly 0
    low = F.pad(x, (RADIUS,) * 4, mode="replicate").reshape(1, b * c, h + 2 * RADIUS, w + 2 * RADIUS)
    low = F.conv2d(F.conv2d(low, kernels[..., None], groups=b * c), kernels[:, :, None], groups=b * c)
    return x - low.reshape(x.shape)


def gaussian(sigma: Tensor) -> Tensor:
    """The weights along one axis, (B, 7), for sigma (B,); they sum to 1."""
    distance = torch.arange(-RADIUS, RADIUS + 1, device=sigma.device, dtype=sigma.dtype)
    return torch.softmax(-0.5 * (distance / sigma[:, None]).square(), 1)


class StructureEncoder(nn.Module):
    """forward(x (B, in, H, W)) -> S_1 .. S_L; S_l (B, widths[l], H / 2^l, W / 2^l) for l from 0, H and W as folded."""

    def __init__(self, config: StructureConfig, in_channels: int):
        super().__init__()
        self.entries, self.residuals, self.sharpeners = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        current = in_channels
        for level, width in enumerate(config.widths):
            self.entries.append(unit(current, width, 3, 1 if level == 0 else 2, config.norm))
            first = unit(width, width, 3, 1, config.norm, config.dropout)
            self.residuals.append(nn.Sequential(first, unit(width, width, 3, 1, config.norm)))
            if config.hfib != "none":
                self.sharpeners.append(Hfib(width, config.hfib, config.sigma))
            current = width

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for level, (entry, residual) in enumerate(zip(self.entries, self.residuals, strict=True)):
            convolve, *rest = cast(nn.Sequential, entry)
            u = before = convolve(x)
            for layer in rest:
                u = layer(u)
            x = u + residual(u)
            if len(self.sharpeners):
                x = self.sharpeners[level](x, before)
            found.append(x)
        return found


class Mmsf(nn.Module):
    """Gated fusion of one level: forward(S (B, M, C, H, W)) -> F (B, C, H, W)."""

    def __init__(self, contrasts: int, channels: int, config: StructureConfig):
        super().__init__()
        self.fusion = config.fusion
        if config.gate == "normed":
            self.logits: nn.Module = nn.Sequential(
                nn.Conv2d(contrasts * channels, contrasts, 3, padding=1, bias=False),
                nn.InstanceNorm2d(contrasts),
                nn.LeakyReLU(0.01),
            )
        else:
            self.logits = nn.Conv2d(contrasts * channels, contrasts, 3, padding=1)
        inputs = channels * (contrasts if config.fusion == "concat" else 1)
        self.fuse = unit(inputs, channels, 1, 1, config.norm)

    def gates(self, structures: Tensor) -> Tensor:
        """How much of each contrast passes, (B, M, H, W) in (0, 1)."""
        out: Tensor = torch.sigmoid(self.logits(structures.flatten(1, 2)))
        return out

    def forward(self, structures: Tensor) -> Tensor:
        gated = self.gates(structures)[:, :, None] * structures
        out: Tensor = self.fuse(gated.sum(1) if self.fusion == "sum" else gated.flatten(1, 2))
        return out


class Msse(nn.Module):
    """Cross-attention of the coarsest level with all finer ones: forward(F_1 .. F_L) -> F_s, the shape of F_L.

    Finer levels are resized with anti-aliasing before their 1x1 convolution: the two commute, this order is cheaper.
    """

    def __init__(self, config: StructureConfig):
        super().__init__()
        width = config.widths[-1]
        self.heads = config.heads
        self.lateral = nn.ModuleList(nn.Conv2d(finer, width, 1) for finer in config.widths[:-1])
        self.norm = nn.LayerNorm(width)
        self.query = nn.Conv2d(width, width, 1)
        self.key = nn.Conv2d(width, width, 1, bias=False)  # the softmax over the keys would cancel it
        self.value = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, width, 1)
        half = torch.tensor(0.5)
        if config.alpha == "learned":
            self.alpha = nn.Parameter(half)
        else:
            self.register_buffer("alpha", half)

    def forward(self, features: list[Tensor]) -> Tensor:
        coarse = features[-1]
        b, c, h, w = coarse.shape
        source = torch.zeros_like(coarse)
        for lateral, finer in zip(self.lateral, features[:-1], strict=True):
            small = F.interpolate(finer.float(), size=(h, w), mode="bilinear", antialias=True)
            source = source + lateral(small.to(coarse.dtype))
        normed = self.norm(coarse.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

        def tokens(x: Tensor) -> Tensor:
            return x.reshape(b, self.heads, c // self.heads, h * w).transpose(-1, -2)

        attended = F.scaled_dot_product_attention(
            tokens(self.query(normed)), tokens(self.key(source)), tokens(self.value(source))
        )
        out: Tensor = self.out(attended.transpose(-1, -2).reshape(b, c, h, w))
        return coarse + self.alpha * out


class StructureMap(nn.Module):
    """From the contrasts at hand to the structure map.

    forward(images (B, M, N, H, W), available (B, M)) -> ([F_1 .. F_L], F_s). N is the slice itself and its neighbours.
    Contrasts that are not available are removed after their encoder (before it, where there is only one), so that
    whatever their channels hold, NaN included, changes nothing.
    """

    def __init__(self, config: StructureConfig, contrasts: int, slices: int = 1):
        super().__init__()
        self.config = config
        folded = slices * config.fold**2
        if config.decouple:
            self.encoders = nn.ModuleList(StructureEncoder(config, folded) for _ in range(contrasts))
            self.fusions = nn.ModuleList(Mmsf(contrasts, width, config) for width in config.widths)
        else:
            self.encoders = nn.ModuleList([StructureEncoder(config, folded * contrasts)])
        self.msse = Msse(config) if config.msse else None

    def forward(self, images: Tensor, available: Tensor) -> tuple[list[Tensor], Tensor]:
        seen = torch.where(available[:, :, None, None, None], images, 0.0)  # NaN must not meet a gradient either
        if self.config.decouple:
            fused = self.fused(seen, available)
        else:
            fused = self.encoders[0](self.folded(seen.flatten(1, 2)))
        return fused, fused[-1] if self.msse is None else self.msse(fused)

    def fused(self, seen: Tensor, available: Tensor) -> list[Tensor]:
        """F_1 .. F_L. An encoder runs only on the examples that have its contrast."""
        by_contrast = []
        for j, encoder in enumerate(self.encoders):
            rows = available[:, j].nonzero()[:, 0]
            by_contrast.append((rows, encoder(self.folded(seen[rows, j])) if len(rows) else None))
        levels = []
        for level, fusion in enumerate(self.fusions):
            example = next(found[level] for _, found in by_contrast if found is not None)
            stack = example.new_zeros((len(seen), len(self.encoders), *example.shape[1:]))
            for j, (rows, found) in enumerate(by_contrast):
                if found is not None:
                    stack[rows, j] = found[level]
            levels.append(fusion(stack))
        return levels

    def folded(self, x: Tensor) -> Tensor:
        """fold x fold pixels into channels."""
        return F.pixel_unshuffle(x, self.config.fold)
