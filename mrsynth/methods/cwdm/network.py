"""The 3-D U-Net of cWDM, which works on wavelet coefficients (Friedrich et al. 2024, arXiv 2411.17203, section 2).

A residual U-Net without attention: every change of resolution happens inside a residual block, and every block,
resampling or not, leaves a skip connection for the way up. This is the plain form: the reference, and what is trained.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from mrsynth.networks.blocks import LevelEmbedding, active, added, zeroed
from mrsynth.networks.norm import GroupNorm
from mrsynth.plain import Plain

Resample = Literal["keep", "halve", "double"]
LARGE = 1 << 22  # numbers of a volume with its channels, from which on a convolution goes slab by slab
SLAB = 16  # planes


class WaveletUNetConfig(Plain):
    """Defaults are those of the official weights: 81.5 million parameters."""

    FORMER: ClassVar[Mapping[str, Any]] = {"further": ()}

    width: int = Field(64, gt=0, description="channels of the first level, even")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 2, 2, 4, 4), min_length=1, description="times width, level by level"
    )
    blocks: int = Field(2, gt=0, description="residual blocks per level on the way down; one more on the way up")
    further: tuple[NonNegativeInt, ...] = Field(
        (),
        description="more blocks on the way down, level by level, without skip connections of their own; empty: none",
    )
    groups: int = Field(32, gt=0, description="of every GroupNorm")
    skips: Literal["concat", "additive"] = Field("concat", description="how the way up takes up what the way down left")
    input_skip: bool = Field(False, description="add a gated, filtered input to the output: edges pass unblurred")

    @model_validator(mode="after")
    def _widths_divide(self) -> "WaveletUNetConfig":
        if self.further and len(self.further) != len(self.multipliers):
            raise ValueError(f"further {self.further} must have a number for each of {len(self.multipliers)} levels")
        if self.width % 2:
            raise ValueError(f"width {self.width} must be even: half are cosines of the level, half sines")
        for m in self.multipliers:
            if (self.width * m) % self.groups:
                raise ValueError(f"width {self.width * m} is no multiple of {self.groups} groups")
        return self

    @property
    def multiple(self) -> int:
        """Every side of the coefficient grid must be a multiple of this."""
        return 1 << (len(self.multipliers) - 1)


class ResidualBlock3d(nn.Module):
    """norm, SiLU, resample, conv, plus embedding, norm, SiLU, conv; the second convolution starts at zero.

    forward(x (B, in, D, H, W), embedding (B, E)) -> (B, out, D', H', W'), sizes kept, halved or doubled

    refines   what it makes takes the place of the skip connection that its input left
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        groups: int,
        resample: Resample = "keep",
        refines: bool = False,
    ):
        super().__init__()
        self.resample = resample
        self.refines = refines
        self.norm1 = GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embedding, out_channels)
        self.norm2 = GroupNorm(groups, out_channels)
        self.conv2 = zeroed(nn.Conv3d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv3d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = convolved(self.conv1, resampled(active(self.norm1(x)), self.resample))
        h = added(h, self.embed(F.silu(embedding))[:, :, None, None, None].to(h.dtype))
        normed = active(self.norm2(h))
        del h  # or it would outlive its use
        h = convolved(self.conv2, normed)
        del normed
        x = resampled(x, self.resample)
        return added(h, x if isinstance(self.skip, nn.Identity) else convolved(self.skip, x))


class WaveletUNet(nn.Module):
    """forward(x (B, in, D, H, W), level (B,), kind (B, kinds) or None) -> (B, out, D, H, W).

    kind is added to the level's embedding through one linear layer; absent when kinds = 0.
    The head starts at zero: an untrained network returns 0 everywhere. Raises ValueError for an odd grid.
    """

    def __init__(self, config: WaveletUNetConfig, in_channels: int = 32, out_channels: int = 8, kinds: int = 0):
        super().__init__()
        self.config = config
        widths = [config.width * m for m in config.multipliers]
        embedding = 4 * config.width
        self.embed_level = LevelEmbedding(config.width, embedding, cosines_first=True)
        self.embed_kind = nn.Linear(kinds, embedding) if kinds else None
        self.stem = nn.Conv3d(in_channels, widths[0], 3, padding=1)

        def block(inputs: int, outputs: int, resample: Resample = "keep", refines: bool = False) -> ResidualBlock3d:
            return ResidualBlock3d(inputs, outputs, embedding, config.groups, resample, refines)

        down: list[nn.Module] = []
        skips = [widths[0]]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                down.append(block(skips[-1], width))
                skips.append(width)
            for _ in range(config.further[level] if config.further else 0):
                down.append(block(width, width, refines=True))
            if level < len(widths) - 1:
                down.append(block(width, width, "halve"))
                skips.append(width)
        self.down = nn.ModuleList(down)
        current = skips[-1]
        self.middle = nn.ModuleList([block(current, current), block(current, current)])

        up: list[nn.Module] = []
        for level, width in reversed(list(enumerate(widths))):
            for last in [False] * config.blocks + [True]:
                skip = skips.pop()
                if config.skips == "additive":  # what comes out must fit the next skip
                    inputs, outputs = current, skips[-1] if skips else width
                else:
                    inputs, outputs = current + skip, width
                up.append(block(inputs, outputs))
                current = outputs
                if last and level > 0:
                    up.append(block(current, current, "double"))
        self.up = nn.ModuleList(up)
        self.head_norm = GroupNorm(config.groups, current)
        self.head = zeroed(nn.Conv3d(current, out_channels, 3, padding=1))
        self.input_gate = nn.Linear(embedding, in_channels) if config.input_skip else None
        self.input_head = zeroed(nn.Conv3d(in_channels, out_channels, 3, padding=1)) if config.input_skip else None

    def forward(self, x: Tensor, level: Tensor, kind: Tensor | None = None) -> Tensor:
        check_grid(x, self.config)
        embedding = self.embed_level(level)
        if self.embed_kind is not None and kind is not None:
            embedding = embedding + self.embed_kind(kind.to(embedding.dtype))
        h = convolved(self.stem, x)
        skips = [h]
        for step in cast("Sequence[ResidualBlock3d]", self.down):
            h = step(h, embedding)
            if step.refines:
                skips.pop()
            skips.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for block in cast("Sequence[ResidualBlock3d]", self.up):
            if block.resample == "keep":
                h = joined(h, skips.pop(), self.config.skips)
            h = block(h, embedding)
        out = convolved(self.head, active(self.head_norm(h)))
        if self.input_gate is not None and self.input_head is not None:
            # how much of the noisy part is of use depends on the level
            gate = 1 + self.input_gate(F.silu(embedding))
            out = out + convolved(self.input_head, x * gate[:, :, None, None, None].to(x.dtype))
        return out


def check_grid(x: Tensor, config: WaveletUNetConfig) -> None:
    """Raise ValueError unless every side of the grid can be halved once for each change of level."""
    if any(size % config.multiple for size in x.shape[2:]):
        raise ValueError(
            f"a grid of {tuple(x.shape[2:])} coefficients; every side must be a multiple of {config.multiple}"
        )


def convolved(convolution: nn.Module, x: Tensor) -> Tensor:
    """A convolution of 3 x 3 x 3 with zero padding, or of 1; of large volumes on the CPU slab by slab along D.

    The numbers are the same: what is saved are the copies that oneDNN makes of a whole input and a whole output.
    """
    assert isinstance(convolution, nn.Conv3d)
    depth, reach = x.shape[2], convolution.kernel_size[0] // 2
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.numel() < LARGE:
        whole: Tensor = convolution(x)
        return whole
    out: Tensor | None = None
    for start in range(0, depth, SLAB):
        stop = min(start + SLAB, depth)
        slab = x[:, :, max(start - reach, 0) : stop + reach]
        slab = F.pad(slab, (0, 0, 0, 0, reach * (start == 0), reach * (stop == depth)))
        made = F.conv3d(slab, convolution.weight, convolution.bias, padding=(0, reach, reach))
        if out is None:
            out = made.new_empty(*made.shape[:2], depth, *made.shape[3:])
        out[:, :, start:stop] = made
    assert out is not None, "no volume is without planes"
    return out


def joined(h: Tensor, skip: Tensor, how: Literal["concat", "additive"]) -> Tensor:
    """What the way up takes in. Additive skips keep the variance: (h + skip) / sqrt 2."""
    if how == "concat":
        return torch.cat([h, skip], dim=1)
    total = h + skip
    return total / math.sqrt(2) if torch.is_grad_enabled() else total.div_(math.sqrt(2))


def resampled(x: Tensor, how: Resample) -> Tensor:
    """Means of 2 x 2 x 2 voxels, or every voxel repeated 2 x 2 x 2 times, or x itself."""
    match how:
        case "halve":
            return halved(x)
        case "double":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        case _:
            return x


def halved(x: Tensor) -> Tensor:
    """Means of 2 x 2 x 2 voxels. By sums of slices: avg_pool3d has no bfloat16 on the CPU, and is slower in float32."""
    x = x[:, :, ::2] + x[:, :, 1::2]
    x = x[:, :, :, ::2] + x[:, :, :, 1::2]
    return (x[..., ::2] + x[..., 1::2]) / 8
