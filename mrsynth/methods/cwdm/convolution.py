"""3 x 3 x 3 convolutions of the fast network: slab by slab along D, with few multiplications and little traffic.

A slab is read, normalised and activated where it stays in the cache, and the output is added to what it belongs to.
Neither the activated input nor the concatenation with a skip ever exists as a whole. How the products are formed:

directly  all 27 of them
fours     float32 on a processor: F(4, 3) along D halves them. To points and back are products with small matrices, and
          at each point stands an ordinary 3 x 3 convolution, which oneDNN runs near the peak of the processor
squares   bfloat16 on processors without matrix units: F(2, 3) along D and H saves five of nine, which compiled kernels
          only make worth while. F(4, 3) would lose too much in bfloat16

Doubling and then convolving is one transposed convolution, with a third of the multiplications; with `fours`, 2/9.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrsynth.methods.cwdm.kernels import PLAIN, Sums, kernels, sums_of

How = Literal["directly", "squares", "fours"]

SLAB_BYTES = 8 << 20  # of a convolution's input: with its output it stays in the last level of the cache
FEWEST_PLANES = 4  # in a slab; fewer would spend too much on their neighbours

# Nearest doubling followed by three taps a, b, c equals these four taps of a transposed convolution, stride 2.
DOUBLED = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))  # c, b + c, a + b, a
# F(2, 3), Lavin and Gray 2015, eq. 8: three taps at four points, and two results from the products there.
AT_POINTS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
FROM_POINTS = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))


class AlongDepth(NamedTuple):
    """Three taps g along D by products at points: results = back ((taps g) * (to values)) of a window of planes.

    to     (points, window): the window begins one plane before the first result and ends one behind the last
    taps   (points, 3)
    back   (results, points); the column of point 1 is ones, so that a bias of its product is one of every result
    """

    to: tuple[tuple[float, ...], ...]
    taps: tuple[tuple[float, ...], ...]
    back: tuple[tuple[float, ...], ...]


# F(4, 3), Lavin and Gray 2015, section 4.3: four planes from six.
FOURS = AlongDepth(
    (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
    (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
)
# Of the doubled x: a x[-1] + (b + c) x[0] and (a + b) x[0] + c x[1] share (a + b + c) x[0].
DOUBLES = AlongDepth(((1, -1, 0), (0, 1, 0), (0, -1, 1)), ((1, 0, 0), (1, 1, 1), (0, 0, 1)), ((1, 1, 0), (0, 1, 1)))


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
    how        products are formed; squares only where D and H are even, nothing is doubled and kernels are compiled
    doubling   of the input doubled to the nearest: out has twice its planes, rows and columns
    out        (D, H, W, C) is overwritten when bias is None; else the convolution and the bias (C,) are added to it
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype, how: How = "directly", doubling: bool = False):
        weight = weight.detach().float()
        self.outputs, self.inputs = weight.shape[:2]
        self.factor = 2 if doubling else 1
        self.at_points: list[Tensor] = []
        self.along: AlongDepth | None = None
        doubled = torch.tensor(DOUBLED, device=weight.device)
        if how == "fours":
            self.along = DOUBLES if doubling else FOURS
            self.to_points = torch.tensor(self.along.to, dtype=dtype, device=weight.device)
            self.from_points = torch.tensor(self.along.back, dtype=dtype, device=weight.device)
            taps = torch.tensor(self.along.taps, dtype=torch.float32, device=weight.device)
            spread = torch.einsum("oidhw,pd->poihw", weight, taps)
            if doubling:
                spread = torch.einsum("poihw,qh,rw->pioqr", spread, doubled, doubled)
            self.at_points = [packed(w, dtype) for w in spread]
            return
        if how == "squares" and not doubling:
            taps = torch.tensor(AT_POINTS, device=weight.device)
            self.from_points = torch.tensor(FROM_POINTS, device=weight.device)
            spread = torch.einsum("oidhw,pd,qh->pqoiw", weight, taps, taps).flatten(0, 1)
            self.at_points = [packed(w[:, :, None], dtype) for w in spread]
        if doubling:
            weight = torch.einsum("oidhw,pd,qh,rw->iopqr", weight, doubled, doubled, doubled)
        self.weight = packed(weight, dtype)

    def __call__(self, sources: Sequence[Source], out: Tensor, bias: Tensor | None = None) -> Tensor:
        values = sources[0].values
        d, h, w = values.shape[:3]
        step = self._tiles(values) * self._tile if self.along else planes_at_once(values, self.inputs)
        points = self._room(step, values, out)
        # planes start - 1 to stop, so with the neighbours of a slab; beyond the grid, as above and below it, zeros
        slab = out.new_zeros(step + 2, h + 2, w, self.inputs)
        self._fill(slab[1:2], sources, 0)
        sums = torch.zeros(2, self.outputs, device=out.device)
        for start in range(0, d, step):
            stop = min(start + step, d)
            inside = slab[: stop - start + 2]
            self._fill(inside[2:], sources, start + 1)
            made = out[self.factor * start : self.factor * stop]
            if self.along:
                sums += torch.stack(self._along_depth(inside, points, bias, made))
            elif points:
                sums += torch.stack(self._in_squares(inside, [p[: (stop - start) // 2] for p in points], bias, made))
            else:
                sums += torch.stack(self._directly(inside, bias, made))
            ends = inside[-2:]
            slab[:2] = ends if len(inside) >= 4 else ends.clone()  # or they would overlap
        return sums

    @property
    def _tile(self) -> int:
        """Planes of the input that go through the points together."""
        return len(self.along.to[0]) - 2 if self.along else 1

    def _tiles(self, x: Tensor) -> int:
        """How many of them make a slab of x (D, H, W, C)."""
        needed = -(-len(x) // self._tile)
        if x.device.type != "cpu":
            return needed
        plane = x.shape[1] * x.shape[2] * max(self.inputs, self.factor**2 * self.outputs) * x.element_size()
        return min(max(1, SLAB_BYTES // (plane * self._tile)), needed)

    def _room(self, step: int, x: Tensor, out: Tensor) -> list[Tensor]:
        """For a slab of `step` planes of x (D, H, W, C) at the points; none where it is convolved directly."""
        d, h, w = x.shape[:3]
        if self.along:
            points, tiles = len(self.at_points), step // self._tile
            made = points, tiles, self.factor * h, self.factor * w, self.outputs
            return [out.new_empty(points, tiles, h + 2, w, self.inputs), out.new_empty(made)]
        if self.at_points and d % 2 == h % 2 == 0 and kernels(x) is not PLAIN:
            return [out.new_empty(step // 2, h // 2, w, self.inputs) for _ in self.at_points]
        return []

    def _fill(self, planes: Tensor, sources: Sequence[Source], start: int) -> None:
        """Write planes from start on, as far as there are any; zeros behind the last."""
        there = min(len(planes), len(sources[0].values) - start)
        planes[there:] = 0
        first = 0
        for source in sources:
            last = first + source.values.shape[-1]
            source.write(start, start + there, planes[:there, 1:-1, :, first:last])
            first = last

    def _directly(self, slab: Tensor, bias: Tensor | None, out: Tensor) -> Sums:
        """slab (n + 2, H + 2, W, in) into out (factor n, factor H, factor W, out)."""
        if self.factor == 2:
            y = channels_last(F.conv_transpose3d(channels_first(slab), self.weight, stride=2, padding=(3, 3, 1)))
        else:
            y = channels_last(F.conv3d(channels_first(slab), self.weight, padding=(0, 0, 1)))
        return kernels(y).store(y.flatten(0, 1), bias, out.flatten(0, 1))

    def _in_squares(self, slab: Tensor, points: list[Tensor], bias: Tensor | None, out: Tensor) -> Sums:
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

    def _along_depth(self, slab: Tensor, room: list[Tensor], bias: Tensor | None, out: Tensor) -> Sums:
        """The same by points along D, a tile of planes at a time, the last perhaps not whole.

        room   for the points (points, tiles, H + 2, W, in) and for the products there
        """
        starts = range(0, len(slab) - 2, self._tile)
        points, products = (r[:, : len(starts)] for r in room)
        for k, start in enumerate(starts):
            window = slab[start : start + self._tile + 2].flatten(1)
            torch.mm(self.to_points[:, : len(window)], window, out=points[:, k].flatten(1))
        for k, weight in enumerate(self.at_points):
            planes, once = points[k].permute(0, 3, 1, 2), bias if k == 1 else None
            if self.factor == 2:
                y = F.conv_transpose2d(planes, weight, once, stride=2, padding=(3, 1))
            else:
                y = F.conv2d(planes, weight, once, padding=(0, 1))
            products[k] = y.permute(0, 2, 3, 1)
        for k, start in enumerate(starts):
            made = out[self.factor * start : self.factor * (start + self._tile)].flatten(1)
            back, there = self.from_points[: len(made)], products[:, k].flatten(1)
            if bias is None:
                torch.mm(back, there, out=made)
            else:
                made.addmm_(back, there)
        return sums_of(out)


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
