"""Element-wise work of the fast networks: small kernels, compiled where a compiler is at hand.

What lies between two convolutions costs as much as they do when every operation walks through memory on its own. Each
function here reads its input once and writes its output once. Values lie channels last; sums are formed in float32.
"""

import logging
import warnings
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrsynth.networks.wavelet import dwt, idwt

log = logging.getLogger(__name__)

SMALL = 1 << 18  # values
TAKEN = ((0, 2, -1), (1, 2, 1), (2, 1, -1), (1, 3, -1))  # of four neighbours, by the points of F(2, 3): a +- b

Sums = tuple[Tensor, Tensor]  # of the values and of their squares: (C,) each, float32


class Kernels(NamedTuple):
    """The functions below, compiled or not."""

    activate: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    activate_halved: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    store: Callable[[Tensor, Tensor | None, Tensor], Sums]
    to_points: Callable[[list[Tensor], list[Tensor]], None]
    store_points: Callable[[list[Tensor], Tensor, Tensor | None, Tensor], Sums]
    clip_haar: Callable[[Tensor, float], Tensor]


def clip_haar(x_0: Tensor, low_scale: float) -> Tensor:
    """Haar coefficients of the image clipped to [0, 1], from Haar coefficients.

    x_0   (B, 8, D, H, W) float32, bands in the order of `networks.wavelet`, the low-pass band divided by low_scale
    """
    return kernels(x_0).clip_haar(x_0, low_scale)


def kernels(like: Tensor) -> Kernels:
    """For tensors of this size on this device. Calling a compiled kernel costs more than small tensors are worth."""
    return PLAIN if like.numel() < SMALL else compiled(like.device.type)


@cache
def compiled(device: str) -> Kernels:
    """Compiled for this type of device, or as they are when compiling fails: tried once, with the smallest of them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the compiler itself imports
            made = Kernels._make(torch.compile(function, dynamic=True) for function in SOURCES)
            some = torch.ones(4, 4, device=device)
            made.activate(some, some[0].clone(), some[1].clone(), torch.empty_like(some))
    except Exception as error:  # no compiler, no Triton, a platform that cannot: there are many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.info("No kernels can be compiled for %s (%s). The same work is done step by step, slower.", device, reason)
        return PLAIN
    return made


# Normalisation -------------------------------------------------------------------------------------------------------


def _activate(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """out = SiLU(scale x + shift), for x and out (N, C), scale and shift (C,); rows of out may lie apart."""
    out.copy_(F.silu(x.float() * scale + shift))


def _activate_halved(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """(D, H, W, C) -> two times (D/2, H/2, W/2, C): means of 2 x 2 x 2 voxels of SiLU(scale x + shift), and of x."""
    active, plain = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
    for corner in range(8):
        part = x[corner >> 2 :: 2, corner >> 1 & 1 :: 2, corner & 1 :: 2].float()
        active, plain = active + F.silu(part * scale + shift), plain + part
    return (active / 8).to(x.dtype), (plain / 8).to(x.dtype)


# What follows a convolution ------------------------------------------------------------------------------------------


def _store(y: Tensor, bias: Tensor | None, out: Tensor) -> Sums:
    """out = y, or out += y + bias when there is a bias (C,). y and out (N, W, C). Returns sums of what is in out."""
    value = y.float() if bias is None else out.float() + y.float() + bias
    out.copy_(value)
    return _sums(value), _sums(value * value)


def _store_points(products: list[Tensor], back: Tensor, bias: Tensor | None, out: Tensor) -> Sums:
    """`_store` of a convolution made at 4 x 4 points (see `_to_points`).

    products   16 of (T, H / 2, W, C), of which the last four differ along H first
    back       (2, 4) float32: two neighbours from four products
    out        (T, 2, H / 2, 2, W, C)
    """
    rows = [_two_from_four(products[k : k + 4], back, 2) for k in (0, 4, 8, 12)]
    value = _two_from_four(rows, back, 1)
    if bias is not None:
        value = out.float() + value + bias
    out.copy_(value)
    value = value.flatten(0, 3)
    return _sums(value), _sums(value * value)


def _two_from_four(products: list[Tensor], back: Tensor, axis: int) -> Tensor:
    """Sums of the four, weighed by the two rows of back, side by side along a new axis."""
    a, b, c, d = (
        back[:, k].view(2, *[1] * (p.dim() - axis)) * p.unsqueeze(axis).float() for k, p in enumerate(products)
    )
    return a + b + c + d


def _sums(value: Tensor) -> Tensor:
    """(N, W, C) -> (C,), in two stages: short sums lose little, and there are N of them to do at the same time."""
    return value.sum(1).sum(0)


def _to_points(parts: list[Tensor], points: list[Tensor]) -> None:
    """The inputs of F(2, 3) along two axes: 16 parts x[a::2, b::2] with a, b < 4 into 16 points, all (T, H / 2, N)."""
    part = [[p.float() for p in parts[k : k + 4]] for k in (0, 4, 8, 12)]
    for point, ((a, b, along), (c, d, across)) in zip(points, product(TAKEN, TAKEN), strict=True):
        point.copy_(part[a][c] + along * part[b][c] + across * (part[a][d] + along * part[b][d]))


# Wavelets ------------------------------------------------------------------------------------------------------------


def _butterfly_clip(x_0: Tensor, low_scale: float) -> Tensor:
    """`clip_haar` on the 8 bands, without ever forming the image: a voxel of it is a signed sum of 8 coefficients."""
    bands = list(x_0.unbind(1))
    bands[0] = bands[0] * low_scale
    bands = _hadamard([voxel.clamp(0, 1) for voxel in _hadamard(bands)])
    bands[0] = bands[0] / low_scale
    return torch.stack(bands, dim=1)


def _hadamard(v: list[Tensor]) -> list[Tensor]:
    """Sums and differences along each axis of 2 x 2 x 2 values, over sqrt 8: its own inverse."""
    for step in (1, 2, 4):
        v = [v[i ^ step] - v[i] if i & step else v[i] + v[i ^ step] for i in range(8)]
    return [x * 8**-0.5 for x in v]


def _stepwise_clip(x_0: Tensor, low_scale: float) -> Tensor:
    scale = torch.ones(8, 1, 1, 1, device=x_0.device, dtype=x_0.dtype)
    scale[0] = low_scale
    return dwt(idwt(x_0 * scale).clamp(0, 1)) / scale


SOURCES = Kernels(_activate, _activate_halved, _store, _to_points, _store_points, _butterfly_clip)
PLAIN = Kernels(_activate, _activate_halved, _store, _to_points, _store_points, _stepwise_clip)
