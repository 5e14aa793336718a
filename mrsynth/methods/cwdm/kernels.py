"""Element-wise work of the fast networks: small kernels, compiled where a compiler is at hand and it repays.

What lies between two convolutions costs as much as they do when every operation walks through memory on its own. Each
function here, compiled, reads its input once and writes its output once. In float32 on a processor nothing is
compiled: operations that write into given memory, a few planes at a time, come near it and cost nothing to make.
Values lie channels last; sums are formed in float32.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import product
from math import sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

SMALL = 1 << 18  # values
COMPILING: ContextVar[bool] = ContextVar("compiling", default=False)
TAKEN = ((0, 2, -1), (1, 2, 1), (2, 1, -1), (1, 3, -1))  # of four neighbours, by the points of F(2, 3): a +- b

Sums = tuple[Tensor, Tensor]  # of the values and of their squares: (C,) each, float32


class Kernels(NamedTuple):
    """The functions below, compiled or not."""

    activate: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    activate_halved: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    store: Callable[[Tensor, Tensor | None, Tensor], Sums]
    to_points: Callable[[list[Tensor], list[Tensor]], None]
    store_points: Callable[[list[Tensor], Tensor, Tensor | None, Tensor], Sums]


def clip_haar(x_0: Tensor, low_scale: float) -> Tensor:
    """Haar coefficients of the image clipped to [0, 1], from Haar coefficients, without ever forming the image.

    A voxel is a signed sum of 8 coefficients, and a coefficient the same sum of 8 voxels.

    x_0   (B, 8, D, H, W) float32, bands in the order of `networks.wavelet`, the low-pass band divided by low_scale
    """
    signs = [[(-1.0) ** (band & voxel).bit_count() / sqrt(8) for band in range(8)] for voxel in range(8)]
    voxels = torch.tensor(signs, device=x_0.device, dtype=x_0.dtype)
    scale = torch.tensor([low_scale] + [1.0] * 7, device=x_0.device, dtype=x_0.dtype)
    with torch.autocast(x_0.device.type, enabled=False):  # products in bfloat16 would cost the image its last bits
        clipped = (voxels * scale @ x_0.flatten(2)).clamp_(0, 1)
        return (voxels / scale[:, None] @ clipped).view_as(x_0)


def kernels(like: Tensor) -> Kernels:
    """For tensors of this size on this device. Calling a compiled kernel costs more than small tensors are worth."""
    if like.dtype == torch.float32 and like.device.type == "cpu":
        return IN_PLACE
    return compiled(like.device.type) if COMPILING.get() and like.numel() >= SMALL else PLAIN


@contextmanager
def compiling(repays: bool) -> Iterator[None]:
    """Within it kernels may be compiled, or not."""
    before = COMPILING.set(repays)
    try:
        yield
    finally:
        COMPILING.reset(before)


@cache
def compiled(device: str) -> Kernels:
    """Compiled for this type of device, or as they are when compiling fails: tried once, with the smallest of them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the compiler itself imports
            made = Kernels._make(torch.compile(function, dynamic=True) for function in PLAIN)
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


# float32 on a processor: nothing to compile --------------------------------------------------------------------------


def _activate_in_place(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """`_activate`: what lies in the cache may be walked through twice."""
    F.silu(torch.addcmul(shift, x, scale, out=out), inplace=True)


def _activate_halved_in_place(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """`_activate_halved`, two planes at a time."""
    d, h, w, c = x.shape
    active, plain = x.new_empty(d // 2, h // 2, w // 2, c), x.new_empty(d // 2, h // 2, w // 2, c)
    room = x.new_empty(2, h, w, c)
    for k in range(d // 2):
        planes = x[2 * k : 2 * k + 2]
        _activate_in_place(planes, scale, shift, room)
        for values, out in ((planes, plain[k]), (room, active[k])):
            rows = values[0] + values[1]
            rows = rows[::2] + rows[1::2]
            torch.add(rows[:, ::2], rows[:, 1::2], out=out).div_(8)
    return active, plain


def _store_in_place(y: Tensor, bias: Tensor | None, out: Tensor) -> Sums:
    """`_store`."""
    if bias is None:
        out.copy_(y)
    else:
        out.add_(y).add_(bias)
    return sums_of(out)


def sums_of(out: Tensor) -> Sums:
    """Of values and their squares: (..., W, C) -> (C,) each."""
    rows = out.flatten(0, -3)
    return rows.sum(0).sum(0), rows.square().sum(0).sum(0)


PLAIN = Kernels(_activate, _activate_halved, _store, _to_points, _store_points)
IN_PLACE = PLAIN._replace(activate=_activate_in_place, activate_halved=_activate_halved_in_place, store=_store_in_place)
