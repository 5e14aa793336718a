"""A 2-D U-Net with a time embedding, in the manner of Dhariwal and Nichol 2021 (ADM)."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from mrsynth.networks.blocks import (
    LevelEmbedding,
    ResidualBlock,
    SelfAttention,
    Upsample,
    active,
    folded,
    gated,
    zeroed,
)
from mrsynth.networks.norm import GroupNorm
from mrsynth.plain import Plain


class UNetConfig(Plain):
    """Size of the network.

    fold folds fold x fold pixels into channels before the first convolution and unfolds them after the last:
    the same field of view at a fraction of the memory traffic. 1 is the pixel-space network of the paper.
    """

    width: int = Field(64, gt=0, description="channels of the first level")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 2, 4, 4), min_length=1, description="width of each level in units of `width`"
    )
    blocks: int = Field(2, gt=0, description="residual blocks per level on the way down; one more on the way up")
    up_blocks: int | None = Field(None, gt=0, description="residual blocks per level on the way up; None is blocks + 1")
    groups: int = Field(32, gt=0, description="groups of every GroupNorm")
    attention: tuple[int, ...] = Field((3,), description="levels with self-attention; the bottleneck has it too if any")
    head_dim: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    fold: int = Field(1, gt=0, description="pixels folded into channels at the stem, per axis")
    slim_up: bool = Field(False, description="up-sampling convolutions narrow to the width of the level they enter")
    input_skip: bool = Field(False, description="add a gated, filtered input to the output: edges pass unblurred")

    @model_validator(mode="after")
    def _widths_divide(self) -> "UNetConfig":
        for m in self.multipliers:
            if (self.width * m) % self.groups:
                raise ValueError(f"width {self.width * m} is no multiple of {self.groups} groups")
        if any(not 0 <= level < len(self.multipliers) for level in self.attention):
            raise ValueError(f"attention levels {self.attention} are not all among the {len(self.multipliers)} levels")
        attended = {*self.attention, len(self.multipliers) - 1} if self.attention else set()
        for width in (self.width * self.multipliers[level] for level in sorted(attended)):
            if width % self.head_dim:
                raise ValueError(f"width {width} does not split into attention heads of {self.head_dim}")
        if self.up_blocks is not None and self.up_blocks > self.blocks + 1:
            raise ValueError("the way up has at most blocks + 1 residual blocks per level: each takes one skip")
        return self

    @property
    def ascending(self) -> int:
        """Residual blocks per level on the way up."""
        return self.up_blocks or self.blocks + 1

    @property
    def multiple(self) -> int:
        """Height and width of the input must be multiples of this."""
        return self.fold << (len(self.multipliers) - 1)


class Stage(nn.Module):
    """One level on the way down or up: residual blocks, each with its attention, then the change of resolution."""

    def __init__(self, blocks: Sequence[nn.Module], attention: Sequence[nn.Module], resample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(attention)
        self.resample = resample


class UNet(nn.Module):
    """forward(x (B, in, H, W), level (B,), condition (B, conditions) or None) -> (B, out, H, W).

    condition is added to the level's embedding through one linear layer; absent when conditions = 0.
    The head starts at zero: an untrained network returns 0 everywhere.
    """

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, conditions: int = 0):
        super().__init__()
        self.config = config
        pixels = config.fold**2
        widths = [config.width * m for m in config.multipliers]
        embedding = 4 * config.width
        self.embed_level = LevelEmbedding(config.width, embedding)
        self.embed_condition = nn.Linear(conditions, embedding) if conditions else None
        self.stem = nn.Conv2d(in_channels * pixels, widths[0], 3, padding=1)

        def block(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, embedding, config.groups, config.dropout)

        def attention(level: int) -> nn.Module:
            if level not in config.attention:
                return nn.Identity()
            return SelfAttention(widths[level], config.head_dim, config.groups)

        down: list[Stage] = []
        skips, current = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            blocks, attentions = [], []
            for _ in range(config.blocks):
                blocks.append(block(current, width))
                attentions.append(attention(level))
                current = width
                skips.append(current)
            resample = nn.Conv2d(current, current, 3, stride=2, padding=1) if level < len(widths) - 1 else None
            if resample is not None:
                skips.append(current)
            down.append(Stage(blocks, attentions, resample))
        self.down = nn.ModuleList(down)

        self.middle_in = block(current, current)
        self.middle_attention = (
            SelfAttention(current, config.head_dim, config.groups) if config.attention else nn.Identity()
        )
        self.middle_out = block(current, current)

        up: list[Stage] = []
        for level, width in reversed(list(enumerate(widths))):
            blocks, attentions = [], []
            level_skips = [skips.pop() for _ in range(config.blocks + 1)]
            for skip in level_skips[: config.ascending]:
                blocks.append(block(current + skip, width))
                attentions.append(attention(level))
                current = width
            entered = widths[level - 1] if config.slim_up and level > 0 else current
            up.append(Stage(blocks, attentions, Upsample(current, entered) if level > 0 else None))
            current = entered
        self.up = nn.ModuleList(up)

        self.head_norm = GroupNorm(config.groups, widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], out_channels * pixels, 3, padding=1))
        self.input_gate = nn.Linear(embedding, in_channels) if config.input_skip else None
        self.input_head = (
            zeroed(nn.Conv2d(in_channels * pixels, out_channels * pixels, 3, padding=1)) if config.input_skip else None
        )

    def forward(self, x: Tensor, level: Tensor, condition: Tensor | None = None) -> Tensor:
        if x.shape[-2] % self.config.multiple or x.shape[-1] % self.config.multiple:
            raise ValueError(f"a slice of {tuple(x.shape[-2:])} is no multiple of {self.config.multiple}")
        embedding = self.embed_level(level)
        if self.embed_condition is not None and condition is not None:
            embedding = embedding + self.embed_condition(condition.to(embedding.dtype))
        inputs = folded(x, self.config.fold)
        h = self.stem(inputs)
        skips = [h]
        for stage in cast("Sequence[Stage]", self.down):
            for residual, attention in zip(stage.blocks, stage.attention, strict=True):
                h = attention(residual(h, embedding))
                skips.append(h)
            if stage.resample is not None:
                h = stage.resample(h)
                skips.append(h)
        h = self.middle_out(self.middle_attention(self.middle_in(h, embedding)), embedding)
        for stage in cast("Sequence[Stage]", self.up):
            level_skips = [skips.pop() for _ in range(self.config.blocks + 1)][: self.config.ascending]
            for residual, attention, skip in zip(stage.blocks, stage.attention, level_skips, strict=True):
                h = attention(residual(torch.cat([h, skip], dim=1), embedding))
            if stage.resample is not None:
                h = stage.resample(h)
        out = self.head(active(self.head_norm(h)))
        if self.input_gate is not None and self.input_head is not None:
            out = out + self.input_head(gated(inputs, self.input_gate, embedding, self.config.fold))
        return F.pixel_shuffle(out, self.config.fold)
