"""What a network predicts, and how to reach x_0 from it.

`abar` is the share of signal variance at the level of x_t: a float, or a tensor (float64 at best) that broadcasts
against the images, (B, 1, 1, 1) for a batch of slices. Results keep the dtype and device of the images.
"""

import math
from typing import Literal, assert_never

from torch import Tensor

Kind = Literal["eps", "x0", "v"]


def noised(x_0: Tensor, eps: Tensor, abar: Tensor | float) -> Tensor:
    """x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps: Ho et al. 2020, eq. 4."""
    signal, noise = _amplitudes(abar, x_0)
    return signal * x_0 + noise * eps


def training_target(kind: Kind, x_0: Tensor, eps: Tensor, abar: Tensor | float) -> Tensor:
    """What the network should return for x_t; v = sqrt(abar) eps - sqrt(1 - abar) x_0: Salimans & Ho 2022, sec. 4."""
    match kind:
        case "eps":
            return eps
        case "x0":
            return x_0
        case "v":
            signal, noise = _amplitudes(abar, x_0)
            return signal * eps - noise * x_0
    assert_never(kind)


def to_x0(kind: Kind, output: Tensor, x_t: Tensor, abar: Tensor | float) -> Tensor:
    """x_0 as the network's output implies it: Salimans & Ho 2022, sec. 4. With "eps" errors grow by 1 / sqrt(abar)."""
    if kind == "x0":
        return output
    signal, noise = _amplitudes(abar, x_t)
    match kind:
        case "eps":
            return (x_t - noise * output) / signal
        case "v":
            return signal * x_t - noise * output
    assert_never(kind)


def _amplitudes(abar: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor] | tuple[float, float]:
    """sqrt(abar) and sqrt(1 - abar), taken in the precision of abar and only then cast."""
    if isinstance(abar, Tensor):
        return abar.sqrt().to(like), (1 - abar).sqrt().to(like)
    return math.sqrt(abar), math.sqrt(1 - abar)
