"""`WaveletUNet` made fast for synthesis: the same weights and numbers, arranged for little work and memory traffic.

Nothing is approximated in float32. What is gained, and where:

- Values lie channels last, one sample at a time, as (D, H, W, C): what the convolutions of oneDNN like best.
- Convolutions walk along D in slabs, and save multiplications where they can (`convolution`).
- The sums that a GroupNorm needs are formed while its input is written. A bias or a level embedding before a norm only
  changes these sums.
- What the conditions add to the first convolution is the same at every step of sampling.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import sqrt
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrsynth.methods.cwdm.convolution import Convolution, How, Source, planes_at_once
from mrsynth.methods.cwdm.kernels import compiling, kernels
from mrsynth.methods.cwdm.network import ResidualBlock3d, WaveletUNet, check_grid

LEVELS: Mapping[How, int] = {"directly": 0, "squares": 2, "fours": 4}  # the finest, where most of the work is
REPAYS = 300_000_000  # values of the first level, over all forwards, from which on compiling repays: five official ones


class FastWaveletUNet:
    """What `plain` computes, faster; it keeps its own copy of the weights.

    fast.condition(conditions (B, K, D, H, W), forwards) once, then for every step
    fast(x (B, in - K, D, H, W), level (B,)) -> (B, out, D, H, W), all float32: plain(cat([x, conditions], 1), level)

    dtype   of weights and values; sums are float32. bfloat16 deviates by 1 to 1.5 % (rms) of the output's deviation
    how     products are formed at the finest levels; None decides by the machine
    """

    def __init__(self, plain: WaveletUNet, dtype: torch.dtype = torch.bfloat16, how: How | None = None):
        assert plain.embed_kind is None, "the fast form is of networks for one target"
        how = how or best(dtype, plain.stem.weight.device.type)
        finest = how if how == "fours" else "directly"  # of the few channels at both ends
        self.config = plain.config
        self.dtype = dtype
        self.embed_level = deepcopy(plain.embed_level)
        self.stem_weight, self.stem_bias = copied(plain.stem.weight), copied(plain.stem.bias)
        self.work = 0
        level, made = 0, []
        for block in cast("Sequence[ResidualBlock3d]", [*plain.down, *plain.middle, *plain.up]):
            level += {"halve": 1, "keep": 0, "double": -1}[block.resample]
            made.append(FastBlock(block, dtype, how if level < LEVELS[how] else "directly"))
        middle = len(plain.down), len(plain.down) + len(plain.middle)
        self.down, self.middle, self.up = made[: middle[0]], made[slice(*middle)], made[middle[1] :]
        self.head_norm = deepcopy(plain.head_norm)
        self.head, self.head_bias = Convolution(plain.head.weight, dtype, finest), copied(plain.head.bias)
        self.how_stem = finest
        self.stem = Convolution(self.stem_weight, dtype, finest)
        self.fixed: list[Tensor] = []
        self.input_gate, self.input_weight, self.input_bias = deepcopy(plain.input_gate), None, None
        if plain.input_head is not None:
            self.input_weight, self.input_bias = copied(plain.input_head.weight), copied(plain.input_head.bias)
        self.conditions: list[Source] = []

    @torch.inference_mode()  # views are not kept track of, which would make kernels compile again and again
    def condition(self, conditions: Tensor, forwards: int = 1) -> None:
        """Keep what the conditions (B, K, D, H, W) add to the first convolution, until the next call.

        forwards   with these conditions: kernels are compiled where with all forwards so far that repays
        """
        check_grid(conditions, self.config)
        self.work += forwards * self.config.width * len(conditions) * conditions.shape[2:].numel()
        own = self.stem_weight.shape[1] - conditions.shape[1]
        self.stem = Convolution(self.stem_weight[:, :own], self.dtype, self.how_stem)
        constant = Convolution(self.stem_weight[:, own:], self.dtype, self.how_stem)
        self.fixed = [
            torch.empty(*c.shape[1:], constant.outputs, dtype=self.dtype, device=c.device) for c in conditions
        ]
        self.conditions = [self._source(sample) for sample in conditions]
        for source, out in zip(self.conditions, self.fixed, strict=True):
            constant([source], out)
        if self.input_gate is None:  # then they are not needed any more
            self.conditions = []

    def __call__(self, x: Tensor, level: Tensor) -> Tensor:
        return self._forward(x, level).clone()  # may be changed in place, unlike what inference mode makes

    @torch.inference_mode()
    def _forward(self, x: Tensor, level: Tensor) -> Tensor:
        check_grid(x, self.config)
        fixed = self.fixed or [
            torch.zeros(*sample.shape[1:], self.stem.outputs, dtype=self.dtype, device=x.device) for sample in x
        ]
        expected = (len(fixed), self.stem.inputs, *fixed[0].shape[:3])
        if x.shape != expected:
            raise ValueError(f"x is {tuple(x.shape)}; with these weights and conditions it must be {expected}")
        conditions = [[c] for c in self.conditions] or [[] for _ in fixed]
        with compiling(self.work >= REPAYS):
            return torch.stack([self._one(*sample) for sample in zip(x, level, fixed, conditions, strict=True)])

    def _one(self, x: Tensor, level: Tensor, fixed: Tensor, conditions: list["Source"]) -> Tensor:
        """One sample: x (own, D, H, W), level (), fixed (D, H, W, C) -> (out, D, H, W)."""
        embedding = F.silu(self.embed_level(level[None]))[0]
        out = fixed.clone()
        h = Features(out, self.stem([self._source(x)], out, self.stem_bias))
        skips = [h]
        for block in self.down:
            h = block([h], embedding)
            if block.refines:
                skips.pop()
            skips.append(h)
        for block in self.middle:
            h = block([h], embedding)
        parts = [h]
        del h, out  # or they would outlive their use
        for block in self.up:
            if block.resample == "keep":
                parts.append(skips.pop())
                if self.config.skips == "additive":
                    parts = [added(parts)]
            parts = [block(parts, embedding)]
        scale, shift = affine(self.head_norm, parts[0].sums, parts[0].voxels)
        h = parts[0]
        result = torch.zeros(*h.values.shape[:3], self.head.outputs, dtype=self.dtype, device=x.device)
        self.head([Source(h.values, scale, shift)], result, self.head_bias)
        if self.input_gate is not None and self.input_weight is not None:
            gate = 1 + self.input_gate(embedding)
            filtered = Convolution(self.input_weight * gate[None, :, None, None, None], self.dtype)
            filtered([self._source(x), *conditions], result, self.input_bias)
        return result.permute(3, 0, 1, 2).float()

    def _source(self, sample: Tensor) -> "Source":
        """(C, D, H, W) float32 as part of a convolution's input."""
        return Source(sample.permute(1, 2, 3, 0).to(self.dtype, memory_format=torch.contiguous_format))


class FastBlock:
    """`ResidualBlock3d`: block(parts, embedding (E,) after its SiLU) -> Features.

    parts   [h], or [h, skip] for their concatenation. The list is emptied once it is used, which frees what nobody
            else holds
    """

    def __init__(self, plain: ResidualBlock3d, dtype: torch.dtype, how: How):
        self.resample, self.refines = plain.resample, plain.refines
        self.norm1, self.norm2 = deepcopy(plain.norm1), deepcopy(plain.norm2)
        self.conv1 = Convolution(plain.conv1.weight, dtype, how, doubling=plain.resample == "double")
        self.conv2 = Convolution(plain.conv2.weight, dtype, how)
        self.embed = deepcopy(plain.embed)
        self.bias1, self.bias2 = copied(plain.conv1.bias), copied(plain.conv2.bias)
        self.project: Tensor | None = None
        if isinstance(plain.skip, nn.Conv3d):
            self.project = copied(plain.skip.weight).flatten(1).to(dtype)
            self.bias2 += copied(plain.skip.bias)

    def __call__(self, parts: list["Features"], embedding: Tensor) -> "Features":
        values = [p.values for p in parts]
        scale, shift = affine(self.norm1, torch.cat([p.sums for p in parts], 1), parts[0].voxels)
        if self.resample == "halve":
            active, out = kernels(values[0]).activate_halved(values[0], scale, shift)
            sources = [Source(active)]
        else:
            out = self._skipped(values)
            widths = [v.shape[-1] for v in values]
            sources = [Source(*part) for part in zip(values, scale.split(widths), shift.split(widths), strict=True)]
        h = out.new_empty(*out.shape[:3], self.conv1.outputs)
        sums = self.conv1(sources, h)
        del values, sources
        parts.clear()
        scale, shift = affine(self.norm2, sums, h.shape[:3].numel(), self.embed(embedding) + self.bias1)
        return Features(out, self.conv2([Source(h, scale, shift)], out, self.bias2))

    def _skipped(self, parts: list[Tensor]) -> Tensor:
        """The input as it will be added to the output, in memory of its own."""
        x = parts[0]
        if self.resample == "double":
            d, h, w, c = x.shape
            out = x.new_empty(d, 2, h, 2, w, 2, c)
            return out.copy_(x[:, None, :, None, :, None]).view(2 * d, 2 * h, 2 * w, c)
        if self.project is None:
            return x.clone()
        out = x.new_empty(*x.shape[:3], len(self.project))
        step = planes_at_once(x, sum(p.shape[-1] for p in parts))
        for start in range(0, len(x), step):
            joined = torch.cat([p[start : start + step] for p in parts], dim=-1)
            out[start : start + step] = F.linear(joined, self.project)
        return out


class Features(NamedTuple):
    """What a block leaves.

    values   (D, H, W, C)
    sums     (2, C) float32: over all voxels, the sum of the values and that of their squares
    """

    values: Tensor
    sums: Tensor

    @property
    def voxels(self) -> int:
        """D H W."""
        return self.values.shape[:3].numel()


def best(dtype: torch.dtype, device: str) -> How:
    """How to form products on this machine."""
    if device != "cpu":
        return "directly"
    if dtype == torch.float32:
        return "fours"
    return "directly" if torch.cpu._is_amx_tile_supported() else "squares"


def affine(norm: nn.GroupNorm, sums: Tensor, voxels: int, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) with which norm(x + offset) = scale x + shift, from the sums (2, C) of x."""
    total, squares = sums
    if offset is not None:
        squares = squares + 2 * offset * total + voxels * offset**2
        total = total + voxels * offset
    groups, size = norm.num_groups, norm.num_channels // norm.num_groups
    mean = total.view(groups, size).sum(1) / (voxels * size)
    variance = (squares.view(groups, size).sum(1) / (voxels * size) - mean**2).clamp(min=0)
    scale = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(size)
    shift = norm.bias - scale * mean.repeat_interleave(size)
    return scale, shift if offset is None else shift + scale * offset


def added(parts: list[Features]) -> Features:
    """(h + skip) / sqrt 2."""
    h, skip = (p.values for p in parts)
    joined = (h + skip) / sqrt(2)
    return Features(h, torch.stack(kernels(h).store(joined.flatten(0, 1), None, h.flatten(0, 1))))


def copied(parameter: Tensor | None) -> Tensor:
    """A float32 copy that no longer belongs to the plain network."""
    assert parameter is not None, "every convolution of this network has a bias"
    return parameter.detach().to(torch.float32, copy=True)
