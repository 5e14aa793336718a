"""`WaveletUNet` made fast for synthesis: the same weights and numbers, arranged for little memory traffic.

Nothing is approximated in float32. What is gained, and where:

- Values lie channels last, one sample at a time, as (D, H, W, C): what the convolutions of oneDNN like best.
- A convolution walks along D in slabs that stay in the cache: normalise and activate a slab, convolve it, add to the
  output. Neither the activated input nor the concatenation with a skip ever exists as a whole.
- The sums that a GroupNorm needs are formed while its input is written. A bias or a level embedding before a norm only
  changes these sums.
- Doubling and then convolving is one transposed convolution, with a third of the multiplications.
- What the conditions add to the first convolution is the same at every step of sampling.
- On processors without matrix units, F(2, 3) along D and H saves five of nine multiplications at the finest levels.
"""

from collections.abc import Sequence
from copy import deepcopy
from math import sqrt
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrsynth.methods.cwdm.kernels import clip_haar, kernels
from mrsynth.methods.cwdm.network import ResidualBlock3d, WaveletUNet, check_grid

__all__ = ["FastWaveletUNet", "clip_haar"]

SLAB_BYTES = 8 << 20  # of a convolution's input: with its output it stays in the last level of the cache
FEWEST_PLANES = 4  # in a slab; fewer would spend too much on their neighbours
LEVELS_AT_POINTS = 2  # with F(2, 3): the finest, where most of the work is

# Nearest doubling followed by three taps a, b, c equals these four taps of a transposed convolution, stride 2.
DOUBLED = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))  # c, b + c, a + b, a
# F(2, 3), Lavin and Gray 2015, eq. 8: three taps at four points, and two results from the products there.
AT_POINTS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
FROM_POINTS = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))


class FastWaveletUNet:
    """What `plain` computes, faster; it keeps its own copy of the weights.

    fast.condition(conditions (B, K, D, H, W)) once, then for every step
    fast(x (B, in - K, D, H, W), level (B,)) -> (B, out, D, H, W), all float32: plain(cat([x, conditions], 1), level)

    dtype    of weights and values; sums are float32. bfloat16 deviates by 1 to 1.5 % (rms) of the output's deviation
    points   whether to use F(2, 3); None decides by the machine
    """

    def __init__(self, plain: WaveletUNet, dtype: torch.dtype = torch.bfloat16, points: bool | None = None):
        if points is None:
            points = plain.stem.weight.device.type == "cpu" and not torch.cpu._is_amx_tile_supported()
        self.config = plain.config
        self.dtype = dtype
        self.embed_level = deepcopy(plain.embed_level)
        self.stem_weight, self.stem_bias = copied(plain.stem.weight), copied(plain.stem.bias)
        level, made = 0, []
        for block in cast("Sequence[ResidualBlock3d]", [*plain.down, *plain.middle, *plain.up]):
            level += {"halve": 1, "keep": 0, "double": -1}[block.resample]
            made.append(FastBlock(block, dtype, points and level < LEVELS_AT_POINTS))
        middle = len(plain.down), len(plain.down) + len(plain.middle)
        self.down, self.middle, self.up = made[: middle[0]], made[slice(*middle)], made[middle[1] :]
        self.head_norm = deepcopy(plain.head_norm)
        self.head, self.head_bias = Convolution(plain.head.weight, dtype), copied(plain.head.bias)
        self.stem = Convolution(self.stem_weight, dtype)
        self.fixed: list[Tensor] = []
        self.input_gate, self.input_weight, self.input_bias = deepcopy(plain.input_gate), None, None
        if plain.input_head is not None:
            self.input_weight, self.input_bias = copied(plain.input_head.weight), copied(plain.input_head.bias)
        self.conditions: list[Source] = []

    @torch.inference_mode()  # views are not kept track of, which would make kernels compile again and again
    def condition(self, conditions: Tensor) -> None:
        """Keep what the conditions (B, K, D, H, W) add to the first convolution, until the next call."""
        check_grid(conditions, self.config)
        own = self.stem_weight.shape[1] - conditions.shape[1]
        self.stem = Convolution(self.stem_weight[:, :own], self.dtype)
        constant = Convolution(self.stem_weight[:, own:], self.dtype)
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
        return torch.stack([self._one(*sample) for sample in zip(x, level, fixed, conditions, strict=True)])

    def _one(self, x: Tensor, level: Tensor, fixed: Tensor, conditions: list["Source"]) -> Tensor:
        """One sample: x (own, D, H, W), level (), fixed (D, H, W, C) -> (out, D, H, W)."""
        embedding = F.silu(self.embed_level(level[None]))[0]
        out = fixed.clone()
        h = Features(out, self.stem([self._source(x)], out, self.stem_bias))
        skips = [h]
        for block in self.down:
            h = block([h], embedding)
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

    def __init__(self, plain: ResidualBlock3d, dtype: torch.dtype, points: bool):
        self.resample = plain.resample
        self.norm1, self.norm2 = deepcopy(plain.norm1), deepcopy(plain.norm2)
        self.conv1 = Convolution(plain.conv1.weight, dtype, points, doubling=plain.resample == "double")
        self.conv2 = Convolution(plain.conv2.weight, dtype, points)
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


class Source(NamedTuple):
    """Channels of a convolution's input: SiLU(scale values + shift), or just values (D, H, W, C) without a scale."""

    values: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None

    def write(self, start: int, stop: int, out: Tensor) -> None:
        """Planes start to stop into out (stop - start, H, W, C)."""
        planes = self.values[start:stop]
        if self.scale is None or self.shift is None:
            out.copy_(planes)
        elif stop > start:
            kernels(planes).activate(planes.flatten(1, 2), self.scale, self.shift, out.flatten(1, 2))


class Convolution:
    """A 3 x 3 x 3 convolution with zero padding, slab by slab: conv(sources, out, bias) -> sums of out, (2, C).

    weight     (out, in, 3, 3, 3)
    points     use F(2, 3) where it pays
    doubling   of the input doubled to the nearest: out has twice its planes, rows and columns
    out        (D, H, W, C) is overwritten when bias is None; else the convolution and the bias (C,) are added to it
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype, points: bool = False, doubling: bool = False):
        weight = weight.detach().float()
        self.outputs, self.inputs = weight.shape[:2]
        self.factor = 2 if doubling else 1
        self.at_points: list[Tensor] = []
        self.from_points = torch.tensor(FROM_POINTS, device=weight.device)
        if points and not doubling:
            taps = torch.tensor(AT_POINTS, device=weight.device)
            spread = torch.einsum("oidhw,pd,qh->pqoiw", weight, taps, taps).flatten(0, 1)
            self.at_points = [packed(w[:, :, None], dtype) for w in spread]
        if doubling:
            taps = torch.tensor(DOUBLED, device=weight.device)
            weight = torch.einsum("oidhw,pd,qh,rw->iopqr", weight, taps, taps, taps)
        self.weight = packed(weight, dtype)

    def __call__(self, sources: Sequence[Source], out: Tensor, bias: Tensor | None = None) -> Tensor:
        d, h, w = sources[0].values.shape[:3]
        step = planes_at_once(sources[0].values, self.inputs)
        points = []
        if self.at_points and d % 2 == h % 2 == 0:
            points = [out.new_empty(step // 2, h // 2, w, self.inputs) for _ in self.at_points]
        # planes start - 1 to stop, so with the neighbours of a slab; beyond the grid, as above and below it, zeros
        slab = out.new_zeros(step + 2, h + 2, w, self.inputs)
        self._fill(slab[1:2], sources, 0)
        sums = torch.zeros(2, self.outputs, device=out.device)
        for start in range(0, d, step):
            stop = min(start + step, d)
            inside = slab[: stop - start + 2]
            self._fill(inside[2:], sources, start + 1)
            made = out[self.factor * start : self.factor * stop]
            sums += torch.stack(
                self._at_points(inside, [p[: (stop - start) // 2] for p in points], bias, made)
                if points
                else self._directly(inside, bias, made)
            )
            slab[:2] = inside[-2:].clone()
        return sums

    def _fill(self, planes: Tensor, sources: Sequence[Source], start: int) -> None:
        """Write planes from start on, as far as there are any; zeros behind the last."""
        there = min(len(planes), len(sources[0].values) - start)
        planes[there:] = 0
        first = 0
        for source in sources:
            last = first + source.values.shape[-1]
            source.write(start, start + there, planes[:there, 1:-1, :, first:last])
            first = last

    def _directly(self, slab: Tensor, bias: Tensor | None, out: Tensor) -> tuple[Tensor, Tensor]:
        """slab (n + 2, H + 2, W, in) into out (factor n, factor H, factor W, out)."""
        if self.factor == 2:
            y = channels_last(F.conv_transpose3d(channels_first(slab), self.weight, stride=2, padding=(3, 3, 1)))
        else:
            y = channels_last(F.conv3d(channels_first(slab), self.weight, padding=(0, 0, 1)))
        return kernels(y).store(y.flatten(0, 1), bias, out.flatten(0, 1))

    def _at_points(self, slab: Tensor, points: list[Tensor], bias: Tensor | None, out: Tensor) -> tuple[Tensor, Tensor]:
        """The same by F(2, 3) along D and H, both even, with room for the points: 16 of (n / 2, H / 2, W, in)."""
        n, h = out.shape[:2]
        parts = [slab[a : a + n : 2, b : b + h : 2].flatten(2) for a in range(4) for b in range(4)]
        kernels(slab).to_points(parts, [p.flatten(2) for p in points])
        products = [
            F.conv2d(p.permute(0, 3, 1, 2), weight, padding=(0, 1)).permute(0, 2, 3, 1).contiguous()
            for p, weight in zip(points, self.at_points, strict=True)
        ]
        return kernels(out).store_points(
            products, self.from_points, bias, out.view(n // 2, 2, h // 2, 2, *out.shape[2:])
        )


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


def planes_at_once(x: Tensor, channels: int) -> int:
    """Planes of x (D, H, W, C) that make a slab of so many channels: an even number; on an accelerator all of them."""
    depth = len(x)
    if x.device.type != "cpu":
        return depth
    fitting = SLAB_BYTES // (x.shape[1] * x.shape[2] * channels * x.element_size())
    step = max(FEWEST_PLANES, fitting - fitting % 2)
    while depth % step == 2 and step < depth:  # for two planes left over kernels would be compiled anew
        step += 2
    return min(step, depth)


def channels_first(x: Tensor) -> Tensor:
    """(D, H, W, C) -> (1, C, D, H, W), the same memory."""
    return x.permute(3, 0, 1, 2)[None]


def channels_last(y: Tensor) -> Tensor:
    """(1, C, D, H, W) -> (D, H, W, C)."""
    return y[0].permute(1, 2, 3, 0).contiguous()


def packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of weights as the convolutions want them."""
    last = torch.channels_last if weight.dim() == 4 else torch.channels_last_3d
    return weight.to(dtype, copy=True).contiguous(memory_format=last)


def copied(parameter: Tensor | None) -> Tensor:
    """A float32 copy that no longer belongs to the plain network."""
    assert parameter is not None, "every convolution of this network has a bias"
    return parameter.detach().to(torch.float32, copy=True)
