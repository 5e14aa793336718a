"""Attention on the sub-bands of a feature map: dynamic frequency balance and knowledge guidance.

DFBK, arXiv 2504.09441. One level of the Haar transform splits features z (B, C, H, W) into a low band z^L (C channels)
and the high bands z^H = LH, HL, HH side by side (3 C channels), both (H / 2, W / 2). The low band gets attention, the
high bands differential attention (Ye et al. 2024, arXiv 2410.05258), which takes one attention map from another so that
what both see cancels. Without a text (dynamic frequency balance) bands attend to themselves, with one (knowledge
guidance) to its tokens.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mrsynth.networks.blocks import zeroed
from mrsynth.networks.norm import GroupNorm
from mrsynth.networks.wavelet import dwt, idwt
from mrsynth.plain import Plain

Mode = Literal["off", "L", "H", "LH", "plain"]
HIGH = 3  # bands


class BandAttentionConfig(Plain):
    """Which bands attend, where, and in what form.

    mode  LH: low and high bands; L, H: one of them, the other passes unchanged; plain: ordinary attention on the whole
          features, without wavelet; off
    Where no high bands attend, subln and lambda_init are not read, and cannot be set.
    """

    mode: Mode = "LH"
    levels: tuple[int, ...] = Field((), description="of the network, 0 the finest; once per level")
    head_dim: int = Field(32, gt=0, multiple_of=2)
    residual: bool = Field(
        True, description="z + IWT(...) of normalised bands, starting at zero; false: the paper's bare IWT(...)"
    )
    subln: bool = Field(True, description="normalise each head of differential attention; not in the paper")
    lambda_init: Literal["schedule"] | float = Field("schedule", description="schedule: rises with depth")

    @model_validator(mode="after")
    def _every_choice_has_an_effect(self) -> "BandAttentionConfig":
        fields = type(self).model_fields
        if idle := [name for name in self.unread(self.mode) if getattr(self, name) != fields[name].default]:
            raise ValueError(
                f"{' and '.join(idle)} without effect: mode {self.mode} has no differential attention, which alone "
                "reads it; leave it out, or choose H or LH"
            )
        return self

    @classmethod
    def unread(cls, mode: str) -> tuple[str, ...]:
        """The options that have no effect with this mode."""
        return () if mode in ("H", "LH") else ("subln", "lambda_init")

    @classmethod
    def from_format_1(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """What had no effect could be set then; it is as if it had not been."""
        whole = super().from_format_1(data)
        unset = {n: cls.model_fields[n].default for n in cls.unread(whole.get("mode", "LH")) if n in whole}
        return {**whole, **unset}

    @property
    def active(self) -> tuple[int, ...]:
        """The levels it works at: none when it is off."""
        return () if self.mode == "off" else self.levels

    def start(self, depth: int) -> float:
        """lambda_init of the block executed as number `depth`, from 0: Ye et al. 2024, section 2.1."""
        return 0.8 - 0.6 * math.exp(-0.3 * depth) if self.lambda_init == "schedule" else self.lambda_init


class BandAttention(nn.Module):
    """forward(z (B, C, H, W), tokens (B, L, T), valid (B, L) bool) -> (B, C, H, W).

    tokens and valid are None for self-attention, which is what tokens=0 builds; else T = tokens. Of a text at least
    one token must be valid. Odd sizes are reflected to even ones before the transform and cropped after.
    """

    def __init__(self, config: BandAttentionConfig, channels: int, groups: int, depth: int, tokens: int = 0):
        super().__init__()
        self.config = config
        self.reads_text = tokens > 0
        low = config.mode in ("L", "LH", "plain")
        self.low = Attention(config, channels, groups, tokens) if low else None
        high = config.mode in ("H", "LH")
        self.high = DifferentialAttention(config, channels, groups, config.start(depth), tokens) if high else None

    def forward(self, z: Tensor, tokens: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        if self.config.mode == "plain":
            assert self.low is not None
            change: Tensor = self.low(z, tokens, valid)
            return z + change if self.config.residual else change
        h, w = z.shape[-2:]
        low, high = split(z)
        new_low = low if self.low is None else self.low(low, tokens, valid)
        new_high = high if self.high is None else self.high(high, tokens, valid)
        if not self.config.residual:
            return merge(new_low, new_high)[..., :h, :w]
        # a band that does not attend changes by nothing
        new_low = torch.zeros_like(low) if self.low is None else new_low
        new_high = torch.zeros_like(high) if self.high is None else new_high
        return z + merge(new_low, new_high)[..., :h, :w]


def split(z: Tensor) -> tuple[Tensor, Tensor]:
    """z^L (B, C, h, w) and z^H (B, 3 C, h, w), bands LH, HL, HH one after the other; h = ceil(H / 2), w likewise."""
    h, w = z.shape[-2:]
    for axis, size in ((-1, w), (-2, h)):
        if size % 2:  # reflected: the last but one follows the last; a single line can only be repeated
            z = torch.cat([z, z.narrow(axis, max(size - 2, 0), 1)], axis)
    bands = dwt(z).unflatten(1, (-1, 1 + HIGH))
    return bands[:, :, 0], bands[:, :, 1:].transpose(1, 2).flatten(1, 2)


def merge(low: Tensor, high: Tensor) -> Tensor:
    """The inverse of `split`, of even size: (B, C, 2 h, 2 w)."""
    return idwt(torch.cat([low[:, :, None], high.unflatten(1, (HIGH, -1)).transpose(1, 2)], 2).flatten(1, 2))


class Projections(nn.Module):
    """What both kinds of attention share: where queries come from, where keys and values do, and the way out.

    Queries come from the map; keys and values from the map too, or from the tokens of a text.
    """

    def __init__(
        self, config: BandAttentionConfig, channels: int, groups: int, width: int, sizes: Sequence[int], tokens: int
    ):
        super().__init__()
        self.sizes = list(sizes)
        self.norm = GroupNorm(groups, channels) if config.residual else nn.Identity()
        own = self.sizes[:1] if tokens else self.sizes
        self.from_map = nn.Linear(channels, sum(own))
        self.from_text = nn.Linear(tokens, sum(self.sizes[1:])) if tokens else None
        out = nn.Linear(width, channels)
        self.out = zeroed(out) if config.residual else out

    def project(self, z: Tensor, tokens: Tensor | None) -> tuple[Tensor, ...]:
        """Queries, keys and values as `sizes` has them, each (B, positions or tokens, size)."""
        pixels = self.from_map(self.norm(z).flatten(2).transpose(1, 2))
        if self.from_text is None:
            return tuple(pixels.split(self.sizes, -1))
        assert tokens is not None, "this attention reads a text"
        return pixels, *self.from_text(tokens.to(z.dtype)).split(self.sizes[1:], -1)


class Attention(Projections):
    """softmax(Q K^T / sqrt d) V over all positions of the low band, or from them to the tokens of a text.

    forward(z (B, C, h, w), tokens, valid) -> (B, C, h, w)
    """

    def __init__(self, config: BandAttentionConfig, channels: int, groups: int, tokens: int = 0):
        super().__init__(config, channels, groups, channels, [channels] * 3, tokens)
        self.heads = channels // config.head_dim

    def forward(self, z: Tensor, tokens: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        q, k, v = (heads(part, self.heads) for part in self.project(z, tokens))
        made = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask(valid))
        return as_map(self.out(made.transpose(1, 2).flatten(2)), z)


class DifferentialAttention(Projections):
    """(softmax(Q1 K1^T / sqrt d) - lambda softmax(Q2 K2^T / sqrt d)) V over the high bands, or to the tokens of a text.

    lambda = exp(q1 . k1) - exp(q2 . k2) + lambda_init, of four learnt vectors and a constant: Ye et al. 2024, eq. 1
    and 2. C / head_dim heads with values of head_dim and queries and keys of half that.
    forward(z (B, 3 C, h, w), tokens, valid) -> (B, 3 C, h, w)
    """

    def __init__(self, config: BandAttentionConfig, channels: int, groups: int, lambda_init: float, tokens: int = 0):
        super().__init__(config, HIGH * channels, groups, channels, [channels] * 3, tokens)
        self.heads = channels // config.head_dim
        self.lambda_init = lambda_init
        # q1, k1, q2, k2: one lambda for all heads
        self.lambdas = nn.ParameterList(0.1 * torch.randn(config.head_dim // 2) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(config.head_dim)) if config.subln else None

    def balance(self) -> Tensor:
        """lambda, float32, a scalar."""
        q1, k1, q2, k2 = (vector.float() for vector in self.lambdas)
        value: Tensor = (q1 * k1).sum().exp() - (q2 * k2).sum().exp() + self.lambda_init
        return value

    def forward(self, z: Tensor, tokens: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        q, k, v = self.project(z, tokens)
        made = self.attend(heads(q, 2 * self.heads), heads(k, 2 * self.heads), heads(v, self.heads), key_mask(valid))
        return as_map(self.out(made.transpose(1, 2).flatten(2)), z)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, n, N, D) of q, k (B, 2 n, N or L, D / 2) and v (B, n, L, D); heads 0, 2, 4, ... of q and k make the
        first map, the others the second. Both maps read the same values, so that each is applied on its own.
        """
        # zeros change no product, but only with equal widths a processor takes its fast kernel: 1.5 to 4 times faster
        wider = v.shape[-1] - q.shape[-1]
        both: Tensor = F.scaled_dot_product_attention(
            F.pad(q, (0, wider)),
            F.pad(k, (0, wider)),
            v.repeat_interleave(2, 1),
            attn_mask=mask,
            scale=q.shape[-1] ** -0.5,
        ).unflatten(1, (-1, 2))
        made: Tensor = both[:, :, 0] - self.balance().to(both) * both[:, :, 1]
        if self.scale is None:
            return made
        made = F.rms_norm(made.float(), made.shape[-1:], self.scale.float(), 1e-5)
        return (made * (1 - self.lambda_init)).to(both.dtype)


def heads(x: Tensor, count: int) -> Tensor:
    """(B, N, count * D) -> (B, count, N, D)."""
    split_up: Tensor = x.unflatten(-1, (count, -1))
    return split_up.transpose(1, 2)


def key_mask(valid: Tensor | None) -> Tensor | None:
    """(B, L) bool as every head and query sees it."""
    return None if valid is None else valid[:, None, None]


def as_map(x: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, h, w)."""
    return x.transpose(1, 2).reshape(len(x), -1, *like.shape[-2:])
