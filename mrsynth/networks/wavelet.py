"""One level of an orthonormal wavelet transform, periodic at the borders, for 2-D and 3-D tensors.

Sub-bands become channels. With L the low-pass and H the high-pass half along an axis, bands are numbered as binary
numbers: H is 1, and the first spatial axis is the most significant digit. In 3-D: LLL, LLH, LHL, LHH, HLL, HLH, HHL,
HHH.
Orthonormal means that white noise stays white and that squared errors keep their sum (Mallat 1989, section III).
"""

from functools import cache

import torch
from torch import Tensor

from mrsynth.errors import UsageError

Taps = tuple[float, ...]


def dwt(x: Tensor, wavelet: str = "haar") -> Tensor:
    """(B, C, *S) -> (B, C * 2^n, *S / 2) for n spatial axes of even size; the bands of a channel lie side by side.

    wavelet   any orthogonal filter bank of PyWavelets. Haar: L = (x[2i] + x[2i+1]) / sqrt 2, H likewise with a minus
    Raises UsageError for an unknown or not orthogonal filter bank, ValueError for an odd size.
    """
    if any(size % 2 for size in x.shape[2:]):
        raise ValueError(f"a wavelet transform halves every axis; the sizes {tuple(x.shape[2:])} must be even")
    bands = [x]
    for axis in range(2, x.dim()):
        bands = [_analyse(band, taps, axis) for band in bands for taps in filters(wavelet)]
    return torch.stack(bands, dim=2).flatten(1, 2)


def idwt(coefficients: Tensor, wavelet: str = "haar") -> Tensor:
    """The inverse of `dwt`: (B, C * 2^n, *S) -> (B, C, *S * 2)."""
    n = coefficients.dim() - 2
    low, high = filters(wavelet)
    bands: list[Tensor] = list(coefficients.unflatten(1, (-1, 2**n)).unbind(2))
    for axis in reversed(range(2, 2 + n)):
        bands = [
            _synthesise(a, low, axis) + _synthesise(b, high, axis) for a, b in zip(bands[::2], bands[1::2], strict=True)
        ]
    return bands[0]


@cache
def filters(wavelet: str) -> tuple[Taps, Taps]:
    """The low-pass and high-pass taps: L[i] = sum_k low[k] x[2i + k], likewise H. Raises UsageError."""
    import pywt

    try:
        bank = pywt.Wavelet(wavelet)
    except (TypeError, ValueError) as error:
        raise UsageError(f"PyWavelets knows no wavelet {wavelet!r}; haar, db2 and sym4 are examples.") from error
    if not bank.orthogonal or wavelet == "dmey":  # which they call orthogonal, but its inverse is off by 0.5 %
        raise UsageError(f"The wavelet {wavelet!r} is not orthogonal; haar, db2 and sym4 are.")
    # reversed, these are correlations; the high-pass of Haar is then first minus second
    return tuple(bank.rec_lo), tuple(bank.rec_hi)


def _analyse(x: Tensor, taps: Taps, axis: int) -> Tensor:
    half = taps[0] * _every_second(x, 0, axis)
    for k, tap in enumerate(taps[1:], start=1):
        half = half + tap * _every_second(x, k, axis)
    return half


def _synthesise(half: Tensor, taps: Taps, axis: int) -> Tensor:
    """The transpose of `_analyse`."""
    even, odd = (
        sum((tap * half.roll(k, axis) for k, tap in enumerate(taps[start::2])), torch.zeros_like(half))
        for start in (0, 1)
    )
    return torch.stack([even, odd], dim=axis + 1).flatten(axis, axis + 1)


def _every_second(x: Tensor, start: int, axis: int) -> Tensor:
    """x[start], x[start + 2], ... along an axis, around the end."""
    parity, shift = start % 2, start // 2
    index = [slice(None)] * x.dim()
    index[axis] = slice(parity, None, 2)
    return x[tuple(index)].roll(-shift, axis) if shift else x[tuple(index)]
