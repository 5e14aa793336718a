"""Self-attention inside windows of a feature map (Swin, Liu et al. 2021, arXiv 2103.14030), for maps of any size."""

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WindowRule = Literal["pad", "divide"]


class Axis(NamedTuple):
    """How one axis is cut: its size, the window, the shift, and the size filled up to whole windows."""

    size: int
    window: int
    shift: int
    padded: int


def cut(size: int, window: int, shifted: bool, rule: WindowRule) -> Axis:
    """How an axis is cut into windows; a window that covers it is not shifted.

    pad     windows of `window`, or of the whole axis if that is shorter; what the last one lacks is never attended to
    divide  windows of the largest divisor of the size that is not above `window`
    """
    window = min(size, window)
    if rule == "divide":
        window = next(w for w in range(window, 0, -1) if size % w == 0)
    return Axis(size, window, window // 2 if shifted and size > window else 0, -(-size // window) * window)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learnt bias for each relative position.

    The table of biases is that of a full window; smaller ones use the middle of it, so that a network runs at any size.
    shifted moves the windows by half their size: parts of the map meet that were apart before.
    forward(x (B, C, H, W)) -> (B, C, H, W)
    """

    def __init__(self, channels: int, head_dim: int, window: int, shifted: bool, rule: WindowRule):
        super().__init__()
        self.heads, self.window, self.shifted, self.rule = channels // head_dim, window, shifted, rule
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, self.heads), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        y, z = (cut(size, self.window, self.shifted, self.rule) for size in x.shape[-2:])
        rows, columns = y.padded // y.window, z.padded // z.window
        qkv = F.pad(self.qkv(x.permute(0, 2, 3, 1)), (0, 0, 0, z.padded - z.size, 0, y.padded - y.size))
        if y.shift or z.shift:
            qkv = qkv.roll((-y.shift, -z.shift), (1, 2))
        qkv = qkv.reshape(len(x), rows, y.window, columns, z.window, 3, self.heads, -1)
        # 3 x (B, rows * columns * heads, positions, d): biases and masks are alike in all examples, not in all windows
        q, k, v = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(2, 4).unbind(0)
        # not scaled_dot_product_attention: a bias that is learnt keeps it from its fast kernels, then this is 3 to 10
        # times faster on a processor
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        made = (scores + self.biases(y, z).to(scores.dtype)).softmax(-1) @ v
        made = made.reshape(len(x), rows, columns, self.heads, y.window, z.window, -1)
        made = made.permute(0, 1, 4, 2, 5, 3, 6).reshape(len(x), y.padded, z.padded, -1)
        if y.shift or z.shift:
            made = made.roll((y.shift, z.shift), (1, 2))
        out: Tensor = self.out(made[:, : y.size, : z.size]).permute(0, 3, 1, 2)
        return out

    def biases(self, y: Axis, z: Axis) -> Tensor:
        """(windows * heads, N, N): the bias of each pair of positions, -inf for a pair that may not meet."""
        places = relative_places(y.window, z.window, self.window, self.bias.device)
        bias = self.bias[places].permute(2, 0, 1)  # heads, N, N
        windows = (y.padded // y.window) * (z.padded // z.window)
        if not (y.shift or z.shift or y.padded > y.size or z.padded > z.size):
            return bias.repeat(windows, 1, 1)
        apart = strangers(y, z, self.bias.device)
        return bias.masked_fill(apart[:, None], -torch.inf).flatten(0, 1)


# Made outside of inference mode: what is remembered from there could not be used in training.


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def relative_places(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Where the biases of a window (height, width) stand in the table of one (window, window): (N, N) int64."""
    rows, columns = (torch.arange(size, device=device) for size in (height, width))
    down = (rows[:, None] - rows + window - 1)[:, None, :, None]
    right = (columns[:, None] - columns + window - 1)[None, :, None, :]
    return (down * (2 * window - 1) + right).reshape(height * width, height * width)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def strangers(y: Axis, z: Axis, device: torch.device) -> Tensor:
    """(windows, N, N) bool: pairs of positions in one window that may not meet.

    They were brought together by rolling the map around its end, or the second of them is filling. Filling meets
    itself, so that no row is empty.
    """
    rows, columns = (torch.arange(axis.padded, device=device) for axis in (y, z))
    # before the map is rolled: the number of the shifted window that each position lies in
    group = ((rows - y.shift).div(y.window, rounding_mode="floor") + 1)[:, None] * (z.padded + 1)
    group = group + (columns - z.shift).div(z.window, rounding_mode="floor") + 1
    filling = (rows >= y.size)[:, None] | (columns >= z.size)
    group = torch.where(filling, -1 - torch.arange(group.numel(), device=device).reshape(group.shape), group)
    group = group.roll((-y.shift, -z.shift), (0, 1)).reshape(-1, y.window, z.padded // z.window, z.window)
    group = group.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)
    return group[:, :, None] != group[:, None, :]
