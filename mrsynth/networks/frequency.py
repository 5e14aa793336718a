"""Low-pass and high-pass images by a Gaussian, and how much of an image is low-frequency."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mrsynth.errors import UsageError

SMALLEST_SIGMA = 1e-6  # from here down the kernel is a delta


def gaussian_kernel(
    sigma: float | Tensor, size: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """G[i] proportional to exp(-i^2 / (2 sigma^2)), i from -size // 2 to size // 2, sum 1: (size,).

    sigma   in pixels; a 0-d tensor lets gradients through, and decides the device unless one is given
    """
    if size < 1 or size % 2 == 0:
        raise UsageError(f"The kernel of a Gaussian filter needs an odd number of pixels, not {size}.")
    if isinstance(sigma, Tensor):
        sigma = sigma.to(device or sigma.device, dtype)
    width = torch.as_tensor(sigma, dtype=dtype, device=device).clamp(min=SMALLEST_SIGMA)
    i = torch.arange(size, dtype=dtype, device=width.device) - size // 2
    weights = torch.exp(-0.5 * (i / width) ** 2)
    return weights / weights.sum()


def low_pass(x: Tensor, sigma: float | Tensor, size: int) -> Tensor:
    """G * x for every image of x (B, C, H, W), separably, with reflected borders.

    An axis of at most size // 2 pixels cannot be reflected; its border pixels are repeated instead. Constants stay
    constant either way. Computed in float32 at least, also under autocast: the high-pass image is a small difference.
    """
    b, c, h, w = x.shape
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(b * c, 1, h, w)
        kernel = gaussian_kernel(sigma, size, dtype=wide.dtype, device=x.device)
        half = size // 2
        rows = F.conv2d(_padded(wide, (0, 0, half, half)), kernel.view(1, 1, size, 1))
        both = F.conv2d(_padded(rows, (half, half, 0, 0)), kernel.view(1, 1, 1, size))
        return both.view(b, c, h, w).to(x.dtype)


def high_pass(x: Tensor, sigma: float | Tensor, size: int) -> Tensor:
    """x - G * x, so that low_pass + high_pass gives x again."""
    return x - low_pass(x, sigma, size)


def low_frequency_share(x: Tensor, cutoff: float = 0.054) -> Tensor:
    """Share of the spectral energy at or below `cutoff`, in cycles per pixel, the mean included: (..., H, W) -> (...).

    Give images whose background is 0. An image of zeros has share 0.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    h, w = x.shape[-2:]
    radius = torch.hypot(torch.fft.fftfreq(h, device=x.device)[:, None], torch.fft.fftfreq(w, device=x.device))
    energy = torch.fft.fft2(wide).abs().square()
    low = torch.where(radius <= cutoff, energy, 0.0).sum((-2, -1))
    total = energy.sum((-2, -1))
    return cast(Tensor, low / total.clamp(min=torch.finfo(total.dtype).tiny))


def _padded(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Reflect one axis of (N, 1, H, W), or repeat its border where it is too short to be reflected."""
    left, _, top, _ = padding
    fits = left < x.shape[-1] and top < x.shape[-2]
    return F.pad(x, padding, mode="reflect" if fits else "replicate")
