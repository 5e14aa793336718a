"""Blocks that more than one network uses: residual block, resampling, self-attention, time embedding."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrsynth.networks.norm import GroupNorm

M = TypeVar("M", bound=nn.Module)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, plus embedding, norm, SiLU, dropout, conv; the second convolution starts at zero.

    forward(x (B, in, H, W), embedding (B, E)) -> (B, out, H, W)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        groups: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embedding, out_channels)
        self.norm2 = GroupNorm(groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(active(self.norm1(x)))
        h = added(h, self.embed(F.silu(embedding))[:, :, None, None].to(h.dtype))
        h = self.conv2(self.dropout(active(self.norm2(h))))
        return added(h, self.skip(x))


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels of a feature map, pre-normalised and residual.

    forward(x (B, C, H, W)) -> (B, C, H, W); C must be a multiple of head_dim.
    """

    def __init__(self, channels: int, head_dim: int, groups: int):
        super().__init__()
        if channels % head_dim:
            raise ValueError(f"{channels} channels do not split into heads of {head_dim}")
        self.heads = channels // head_dim
        self.norm = GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, HW, head_dim)
        y = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, h, w)
        out: Tensor = x + self.out(y)
        return out


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution: (B, in, H, W) -> (B, out, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return out


class LevelEmbedding(nn.Module):
    """Sinusoidal embedding of the noise level, then two linear layers (Ho et al. 2020, appendix B).

    forward(level (B,) integer or float) -> (B, out)
    """

    frequencies: Tensor

    def __init__(self, dim: int, out: int, cosines_first: bool = False):
        super().__init__()
        if dim % 2:
            raise ValueError("a sinusoidal embedding has an even number of dimensions")
        self.cosines_first = cosines_first
        half = dim // 2
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * torch.arange(half) / half), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(dim, out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, level: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.waves(level))
        return out

    def waves(self, level: Tensor) -> Tensor:
        """Sines and cosines of the level at falling frequencies: (B, dim)."""
        angles = level[:, None].float() * self.frequencies
        halves = [angles.cos(), angles.sin()] if self.cosines_first else [angles.sin(), angles.cos()]
        return torch.cat(halves, dim=1)


def folded(x: Tensor, fold: int) -> Tensor:
    """fold x fold pixels into channels: (B, C, H, W) -> (B, C fold^2, H / fold, W / fold), channels last in memory."""
    b, c, h, w = x.shape
    pixels = x.reshape(b, c, h // fold, fold, w // fold, fold).permute(0, 2, 4, 1, 3, 5).contiguous()
    return pixels.view(b, h // fold, w // fold, c * fold**2).permute(0, 3, 1, 2)


def gated(x: Tensor, gate: nn.Module, embedding: Tensor, fold: int) -> Tensor:
    """Folded channels x (B, C fold^2, H, W), each times 1 + what the gate makes of the embedding (B, E) for its C.

    Which channels are noise depends on the level, and on what is available or made: the embedding knows.
    """
    gates: Tensor = 1 + gate(F.silu(embedding))
    each = gates.repeat_interleave(fold**2, 1)  # pixel folded into channels
    return x * each[:, :, None, None].to(x.dtype)


def active(normed: Tensor) -> Tensor:
    """SiLU of what only it needs: in the same memory, unless gradients need it too."""
    return F.silu(normed, inplace=not torch.is_grad_enabled())


def added(h: Tensor, other: Tensor) -> Tensor:
    """h + other; without gradients in the memory of h. With them, in place, these would be summed in another order."""
    return other + h if torch.is_grad_enabled() else h.add_(other)


def zeroed(module: M) -> M:
    """Start a layer at zero, so that the block around it begins as the identity (or a head as zero)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
