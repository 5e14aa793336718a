"""A 2-D U-Net of residual blocks and Swin blocks, with attention on sub-bands on its way up.

The backbone of DFBK (arXiv 2504.09441), which takes it from ResShift (Yue et al. 2023, arXiv 2307.12348): residual
blocks whose second normalisation is scaled and shifted by the embedding of the level, and windowed attention.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from mrsynth.methods.dfbk.attention import BandAttention, BandAttentionConfig
from mrsynth.methods.dfbk.windows import WindowAttention, WindowRule
from mrsynth.networks.blocks import LevelEmbedding, Upsample, active, added, folded, gated, zeroed
from mrsynth.networks.norm import GroupNorm
from mrsynth.plain import Plain


class SwinUNetConfig(Plain):
    """Size of the network; defaults are those of the paper at 192 x 192.

    Levels count from the finest, 0, which has the size of the image; each further one halves it.
    windows  how a level that is no multiple of the window is cut: see `mrsynth.methods.dfbk.windows.cut`
    fold     folds fold x fold pixels into channels before the first convolution and unfolds them after the last: the
             same field of view at a fraction of the memory traffic. 1 is the paper's
    """

    width: int = Field(160, gt=0, description="channels of the first level")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 1, 2, 2, 4, 4), min_length=1, description="width of each level in units of `width`"
    )
    blocks: int = Field(2, gt=0, description="residual blocks per level on the way down; one more on the way up")
    up_blocks: int | None = Field(None, gt=0, description="residual blocks per level on the way up; None is blocks + 1")
    groups: int = Field(32, gt=0, description="groups of every GroupNorm")
    swin_levels: tuple[int, ...] = Field((2, 3, 4, 5), description="levels with Swin blocks; the bottleneck has them")
    swin_width: int = Field(256, gt=0, description="channels inside Swin blocks")
    swin_depth: int = Field(2, gt=0, description="Swin blocks in a row, every other one shifted")
    head_dim: int = Field(32, gt=0, description="of the heads in windows")
    window: int = Field(8, gt=0)
    windows: WindowRule = "pad"
    mlp_ratio: int = Field(4, gt=0)
    fold: int = Field(1, gt=0, description="pixels folded into channels at the stem, per axis")
    slim_up: bool = Field(False, description="up-sampling convolutions narrow to the width of the level they enter")
    input_skip: bool = Field(False, description="add a gated, filtered input to the output: edges pass unblurred")

    @model_validator(mode="after")
    def _widths_divide(self) -> "SwinUNetConfig":
        for width in [self.width * m for m in self.multipliers] + [self.swin_width]:
            if width % self.groups:
                raise ValueError(f"width {width} is no multiple of {self.groups} groups")
        if self.swin_width % self.head_dim:
            raise ValueError(f"swin_width {self.swin_width} does not split into attention heads of {self.head_dim}")
        if any(not 0 <= level < len(self.multipliers) for level in self.swin_levels):
            raise ValueError(f"Swin levels {self.swin_levels} are not all among the {len(self.multipliers)} levels")
        if self.up_blocks is not None and self.up_blocks > self.blocks + 1:
            raise ValueError("the way up has at most blocks + 1 residual blocks per level: each takes one skip")
        return self

    @property
    def multiple(self) -> int:
        """Height and width of the input must be multiples of this."""
        return self.fold << (len(self.multipliers) - 1)

    def width_from_below(self, level: int) -> int:
        """Channels of the features that enter a level on the way up, from the bottleneck or the level below."""
        below = level if self.slim_up else min(level + 1, len(self.multipliers) - 1)
        return self.width * self.multipliers[below]

    def check(self, name: str, bands: BandAttentionConfig) -> None:
        """Raise ValueError for attention on sub-bands at a level that does not exist or does not split into heads."""
        if any(not 0 <= level < len(self.multipliers) for level in bands.active):
            raise ValueError(f"{name}.levels {bands.active} are not all among the {len(self.multipliers)} levels")
        for level in bands.active:
            if (width := self.width_from_below(level)) % bands.head_dim:
                raise ValueError(
                    f"{name}: {width} channels at level {level} do not split into heads of {bands.head_dim}"
                )


class SwinUNet(nn.Module):
    """forward(x (B, in, H, W), level (B,), target (B,) or None, tokens (B, L, T), valid (B, L)) -> (B, out, H, W).

    level    from 0; target one of `targets` things to make, which is told through an embedding; None if targets is 0
    tokens   what knowledge guidance reads, float, and which of them count; None if it is off
    dfb      dynamic frequency balance: on the way up, on the features that come from below
    kg       knowledge guidance, likewise, and in the bottleneck if it works at the deepest level
    The head and the end of every residual block start at zero: an untrained network returns 0 everywhere.
    """

    def __init__(
        self,
        config: SwinUNetConfig,
        in_channels: int,
        out_channels: int,
        *,
        targets: int = 0,
        dfb: BandAttentionConfig | None = None,
        kg: BandAttentionConfig | None = None,
        token_width: int = 0,
    ):
        super().__init__()
        self.config = config
        dfb, kg = dfb or BandAttentionConfig(mode="off"), kg or BandAttentionConfig(mode="off")
        widths = [config.width * m for m in config.multipliers]
        deepest = len(widths) - 1
        config.check("dfb", dfb)
        config.check("kg", kg)
        if both := set(dfb.active) & set(kg.active):
            raise ValueError(f"levels {sorted(both)} have both dfb and kg; give each level to one of them")
        embedding = 4 * config.width
        self.embed_level = LevelEmbedding(config.width, embedding)
        self.embed_target = nn.Embedding(targets, embedding) if targets else None
        self.stem = nn.Conv2d(in_channels * config.fold**2, widths[0], 3, padding=1)

        def stage(level: int, inputs: Sequence[int], resample: nn.Module | None) -> Stage:
            blocks = [ScaleShiftBlock(channels, widths[level], embedding, config.groups) for channels in inputs]
            swin = SwinBlocks(config, widths[level]) if level in config.swin_levels else nn.Identity()
            return Stage(blocks, swin, resample)

        skips, current = [widths[0]], widths[0]
        down = []
        for level, width in enumerate(widths):
            halve = nn.Conv2d(width, width, 3, stride=2, padding=1) if level < deepest else None
            down.append(stage(level, [current] + [width] * (config.blocks - 1), halve))
            current = width
            skips += [width] * (config.blocks + (level < deepest))
        self.down = nn.ModuleList(down)

        self.middle = stage(deepest, [current, current], None)
        guided_middle = deepest in kg.active
        self.middle_guidance = (
            BandAttention(kg, current, config.groups, 0, token_width) if guided_middle else nn.Identity()
        )

        up: list[nn.Module] = []
        bands: list[nn.Module] = []
        balances, guidances = 0, int(guided_middle)  # how many are executed before: it decides their lambda
        for level in range(deepest, -1, -1):
            if level in dfb.active:
                bands.append(BandAttention(dfb, current, config.groups, balances))
                balances += 1
            elif level in kg.active:
                bands.append(BandAttention(kg, current, config.groups, guidances, token_width))
                guidances += 1
            else:
                bands.append(nn.Identity())
            level_skips = [skips.pop() for _ in range(config.blocks + 1)][: config.up_blocks]
            before = [current] + [widths[level]] * (len(level_skips) - 1)
            current = config.width_from_below(level - 1) if level > 0 else widths[0]
            double = Upsample(widths[level], current) if level > 0 else None
            up.append(stage(level, [a + b for a, b in zip(before, level_skips, strict=True)], double))
        self.up, self.bands = nn.ModuleList(up), nn.ModuleList(bands)

        self.head_norm = GroupNorm(config.groups, widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], out_channels * config.fold**2, 3, padding=1))
        if config.input_skip:
            self.input_gate = nn.Linear(embedding, in_channels)
            pixels = config.fold**2
            self.input_head = zeroed(nn.Conv2d(in_channels * pixels, out_channels * pixels, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        target: Tensor | None = None,
        tokens: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        if x.shape[-2] % self.config.multiple or x.shape[-1] % self.config.multiple:
            raise ValueError(f"a slice of {tuple(x.shape[-2:])} is no multiple of {self.config.multiple}")
        embedding = self.embed_level(level)
        if self.embed_target is not None and target is not None:
            embedding = embedding + self.embed_target(target)
        text = (tokens, valid)
        inputs = folded(x, self.config.fold)
        h = self.stem(inputs)
        skips = [h]
        for stage in cast("Sequence[Stage]", self.down):
            for number, block in enumerate(stage.blocks):
                h = block(h, embedding)
                h = stage.swin(h) if number == 0 else h
                skips.append(h)
            if stage.resample is not None:
                h = stage.resample(h)
                skips.append(h)
        first, second = self.middle.blocks
        h = second(attend(self.middle_guidance, self.middle.swin(first(h, embedding)), text), embedding)
        for stage, bands in zip(cast("Sequence[Stage]", self.up), self.bands, strict=True):
            h = attend(bands, h, text)
            level_skips = [skips.pop() for _ in range(self.config.blocks + 1)]
            for number, (block, skip) in enumerate(zip(stage.blocks, level_skips, strict=False)):
                h = block(torch.cat([h, skip], dim=1), embedding)
                h = stage.swin(h) if number == 0 else h
            if stage.resample is not None:
                h = stage.resample(h)
        out = self.head(active(self.head_norm(h)))
        if self.config.input_skip:
            out = out + self.input_head(gated(inputs, self.input_gate, embedding, self.config.fold))
        return F.pixel_shuffle(out, self.config.fold)


def attend(module: nn.Module, h: Tensor, text: tuple[Tensor | None, Tensor | None]) -> Tensor:
    """Attention on sub-bands, with the text where it is guidance; nothing where there is none."""
    if not isinstance(module, BandAttention):
        return h
    out: Tensor = module(h, *text) if module.reads_text else module(h)
    return out


class Stage(nn.Module):
    """One level on the way down or up: residual blocks, Swin blocks after the first, then the change of resolution."""

    def __init__(self, blocks: Sequence[nn.Module], swin: nn.Module, resample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.swin = swin
        self.resample = resample


class ScaleShiftBlock(nn.Module):
    """norm, SiLU, conv, norm, times 1 + scale plus shift from the embedding, SiLU, conv; plus the input.

    forward(x (B, in, H, W), embedding (B, E)) -> (B, out, H, W)
    """

    def __init__(self, in_channels: int, out_channels: int, embedding: int, groups: int):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embedding, 2 * out_channels)
        self.norm2 = GroupNorm(groups, out_channels)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.norm2(self.conv1(active(self.norm1(x))))
        scale, shift = self.embed(F.silu(embedding))[:, :, None, None].to(h.dtype).chunk(2, 1)
        skipped: Tensor = self.skip(x)
        return added(self.conv2(active(h * (1 + scale) + shift)), skipped)


class SwinBlocks(nn.Module):
    """To swin_width; blocks of [norm, window attention, +; norm, MLP, +]; back to C. Nothing is added around them.

    forward(x (B, C, H, W)) -> (B, C, H, W). Inside it is (B, H, W, C), where a 1x1 convolution is a linear layer.
    """

    def __init__(self, config: SwinUNetConfig, channels: int):
        super().__init__()
        width, hidden = config.swin_width, config.swin_width * config.mlp_ratio
        depth = range(config.swin_depth)
        self.enter = nn.Linear(channels, width)
        self.norms = nn.ModuleList(GroupNorm(config.groups, width) for _ in range(2 * config.swin_depth))
        self.attentions = nn.ModuleList(
            WindowAttention(width, config.head_dim, config.window, n % 2 == 1, config.windows) for n in depth
        )
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)) for _ in depth
        )
        self.leave = nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x.permute(0, 2, 3, 1))
        for number, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            before, between = self.norms[2 * number], self.norms[2 * number + 1]
            h = h + attention(before(h.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
            h = h + mlp(between(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        out: Tensor = self.leave(h).permute(0, 3, 1, 2)
        return out
