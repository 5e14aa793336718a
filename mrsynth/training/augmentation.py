"""Random changes to training examples, seeded example by example, on MONAI's transforms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mrsynth.plain import Plain


class AugmentationConfig(Plain):
    """What may happen to an example. Geometry changes all contrasts together; intensity changes only the inputs.

    The truth keeps its intensities: a network cannot know how the scanner would have scaled the contrast it makes.
    """

    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    affine: float = Field(0.0, ge=0, le=1, description="probability of a small rotation and scaling")
    rotation: float = Field(0.15, ge=0, description="largest rotation (in the slice plane), radians")
    scaling: float = Field(0.08, ge=0, lt=1, description="largest relative change of width (axis H, left-right)")
    gamma: float = Field(0.0, ge=0, lt=1, description="inputs are raised to a power in 1 / (1 + gamma) .. 1 + gamma")
    gain: float = Field(0.0, ge=0, lt=1, description="inputs are multiplied by 1 - gain .. 1 + gain")
    bias_field: float = Field(0.0, ge=0, lt=1, description="largest coefficient of a smooth bias field on the inputs")


def augment_geometry(stack: Tensor, config: AugmentationConfig, random: np.random.Generator) -> Tensor:
    """Flip, rotate and scale a stack of images (N, H, W) of one slice, or (N, I, J, K), alike; axis 1 is left-right.

    Background must be 0. Returns the same shape. Volumes are turned about, and scaled along, each of their axes.
    """
    return _moved([stack], ["bilinear"], config, random)[0]


def augment_labelled(
    stack: Tensor, labels: Tensor, config: AugmentationConfig, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """`augment_geometry` of a stack, and of the labels that belong to it by the nearest neighbour.

    labels  (H, W) or (I, J, K) int64; 0 comes in from outside. If any is negative, there are none to move: returned as
            they are
    """
    if bool((labels < 0).any()):
        return augment_geometry(stack, config, random), labels
    moved, turned = _moved([stack, labels[None].float()], ["bilinear", "nearest"], config, random)
    return moved, turned[0].round().long()


def _moved(
    stacks: Sequence[Tensor], modes: Sequence[str], config: AugmentationConfig, random: np.random.Generator
) -> list[Tensor]:
    """Stacks of images of one slice or volume, all moved alike, each interpolated in its own way."""
    from monai.transforms import RandAffine

    moved = list(stacks)
    if random.random() < config.flip:
        moved = [stack.flip(1) for stack in moved]
    if random.random() < config.affine:
        # of slices a single number, which scales the first axis only and so varies the proportions too
        axes = 1 if moved[0].dim() == 3 else 3
        transform: Any = RandAffine(
            prob=1.0,
            rotate_range=[config.rotation] * axes,
            scale_range=[config.scaling] * axes,
            padding_mode="zeros",
        )
        transform.set_random_state(seed=int(random.integers(2**31)))
        moved = [  # only the first draws the change; the others follow it
            plain_tensor(transform(stack, mode=mode, randomize=n == 0)).contiguous()
            for n, (stack, mode) in enumerate(zip(moved, modes, strict=True))
        ]
    return moved


def augment_intensity(
    stack: Tensor, channels: NDArray[np.int_], config: AugmentationConfig, random: np.random.Generator
) -> Tensor:
    """Change the intensities of each input contrast by its own gamma, gain and bias field, alike in all its images.

    stack     (N, H, W) or (N, I, J, K), u in [0, 1]; background 0 stays 0
    channels  (N,) the contrast of each image, -1 for images to leave alone
    """
    from monai.transforms import RandBiasField

    stack = stack.clone()
    for channel in sorted(set(channels.tolist()) - {-1}):
        member = torch.from_numpy(channels == channel)
        images = stack[member]
        if config.gamma:
            images = images.clamp(min=0) ** float((1 + config.gamma) ** random.uniform(-1, 1))
        if config.gain:
            images = images * float(1 + config.gain * random.uniform(-1, 1))
        if config.bias_field:
            field: Any = RandBiasField(prob=1.0, degree=3, coeff_range=(-config.bias_field, config.bias_field))
            field.set_random_state(seed=int(random.integers(2**31)))
            images = plain_tensor(field(images))
        stack[member] = images.clamp(0, 1)
    return stack


def plain_tensor(image: Any) -> Tensor:
    """What MONAI returns, without its metadata: a batch of MetaTensor would slow down every operation it meets."""
    return torch.as_tensor(image).as_subclass(Tensor)
