"""The part of an image's error that is brightness: what a straight line through its values takes away.

How bright a whole contrast is cannot be read from the others (docs/training-log.md). Its error is the same over the
whole image, so that it moves weights more than all that is wrong with anatomy, to no end: it may weigh less.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

BrightnessWeight = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="of the part of an image's error that a straight line through the brain's values takes away; 1: as "
        "all the rest",
    ),
]

DARKEST = -1.0  # of an image in [-1, 1]: what is not brain has this value in every contrast
FLAT = 1e-3  # variance below which a slice has too little in it for a slope


def brain_of(images: Tensor, present: Tensor) -> Tensor:
    """Where any of the contrasts (B, C, ...) that are present (B, C) is brighter than nothing: (B, 1, ...) bool."""
    there = present.reshape(*present.shape, *[1] * (images.dim() - 2))
    return ((images > DARKEST) & there).any(1, keepdim=True)


def fitted(made: Tensor, truth: Tensor, brain: Tensor) -> Tensor:
    """`made` (B, C, ...) on the straight line that brings its values in `brain` (B, 1, ...) nearest to `truth`.

    Each image has a line of its own, by least squares, as PSNR_FIT has. Outside of the brain nothing changes. The line
    counts as given: since it is the best one, the gradient of the squared error that is left is right without it.
    """
    space = tuple(range(2, made.dim()))
    inside = brain.to(made)
    count = inside.sum(space, keepdim=True).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return (values * inside).sum(space, keepdim=True) / count

    with torch.no_grad():
        at, to = mean(made), mean(truth)
        spread = mean((made - at).square())
        slope = mean((made - at) * (truth - to)) / spread.clamp(min=FLAT)
        slope = torch.where(spread < FLAT, 1.0, slope)
        shift = to - slope * at
    return torch.where(brain, slope * made + shift, made)


def blended(
    made: Tensor, truth: Tensor, brain: Tensor, weight: float, cost: Callable[[Tensor], Tensor] = torch.square
) -> Tensor:
    """Mean cost (B, C) of the error of images (B, C, ...), of which brightness weighs less than the rest.

    weight   of brightness, from 0, with which nobody cares for it, to 1, with which it is an error as any other
    cost     elementwise
    """
    space = tuple(range(2, made.dim()))
    error = cost(made - truth).mean(space)
    if weight == 1:
        return error
    return weight * error + (1 - weight) * cost(fitted(made, truth, brain) - truth).mean(space)
