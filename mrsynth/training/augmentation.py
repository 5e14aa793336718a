"""Random changes to training examples, seeded example by example.

What comes out is what MONAI's RandAffine and RandBiasField make of the same draws, which the tests hold; it is computed
by torch's grid_sample and by products of small matrices, a quarter of the time for twelve slices of 160x192.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mrsynth.plain import Doubles, Plain

DEGREE = 3  # of the polynomials of a bias field


class AugmentationConfig(Plain):
    """What may happen to an example. Geometry changes all contrasts together; intensity changes only the inputs.

    The truth keeps its intensities: a network cannot know how the scanner would have scaled the contrast it makes.
    """

    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    affine: float = Field(0.0, ge=0, le=1, description="probability of a small rotation and scaling")
    rotation: float = Field(0.15, ge=0, description="largest rotation (in the slice plane), radians")
    scaling: float = Field(
        0.08,
        ge=0,
        lt=1,
        description="largest relative change of the first axis of a slice",
    )
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
    moved = list(stacks)
    if random.random() < config.flip:
        moved = [stack.flip(1) for stack in moved]
    if random.random() < config.affine:
        size = moved[0].shape[1:]
        drawn = np.random.RandomState(int(random.integers(2**31)))
        axes = 1 if len(size) == 2 else 3
        drawn.uniform(size=2 * axes)  # MONAI draws all of them twice
        angles = [float(drawn.uniform(-config.rotation, config.rotation)) for _ in range(axes)]
        # of slices a single number, which scales the first axis only and so varies the proportions too
        scales = [1 + float(drawn.uniform(-config.scaling, config.scaling)) for _ in range(axes)]
        grid = affine_grid(turned(angles) @ np.diag(scales + [1.0] * (len(size) - axes)), size)
        moved = [
            nn.functional.grid_sample(stack[None], grid, mode=mode, padding_mode="zeros", align_corners=True)[0]
            for stack, mode in zip(moved, modes, strict=True)
        ]
    return [stack.contiguous() for stack in moved]


def turned(angles: Sequence[float]) -> Doubles:
    """The rotation of a slice by an angle, (2, 2), or of a volume by one about each of its axes in turn, (3, 3)."""
    (c, *cs), (s, *ss) = np.cos(angles).tolist(), np.sin(angles).tolist()
    if not cs:
        return np.array([[c, -s], [s, c]])
    first = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    second = np.array([[cs[0], 0, ss[0]], [0, 1, 0], [-ss[0], 0, cs[0]]])
    third = np.array([[cs[1], -ss[1], 0], [ss[1], cs[1], 0], [0, 0, 1]])
    product: Doubles = first @ second @ third
    return product


def affine_grid(matrix: Doubles, size: Sequence[int]) -> Tensor:
    """Where the voxels of a moved image come from, for grid_sample with aligned corners: see `theta_of`."""
    return nn.functional.affine_grid(theta_of(matrix, size)[None], [1, 1, *size], align_corners=True)


def theta_of(matrix: Doubles, size: Sequence[int]) -> Tensor:
    """(d, d + 1): a move as torch's affine_grid takes it, with aligned corners.

    matrix  (d, d), of the offset of a voxel from the middle of the image; size (d,)
    """
    half = (np.array(size) - 1) / 2  # grid_sample counts from -1 to 1, and its axes from the last to the first
    unit = (matrix * half[None, :] / half[:, None])[::-1, ::-1]
    return torch.from_numpy(np.concatenate([unit, np.zeros((len(size), 1))], axis=1).astype(np.float32))


def augment_intensity(
    stack: Tensor, channels: NDArray[np.int_], config: AugmentationConfig, random: np.random.Generator
) -> Tensor:
    """Change the intensities of each input contrast by its own gamma, gain and bias field, alike in all its images.

    stack     (N, H, W) or (N, I, J, K), u in [0, 1]; background 0 stays 0
    channels  (N,) the contrast of each image, -1 for images to leave alone
    """
    stack = stack.clone()
    for channel in sorted(set(channels.tolist()) - {-1}):
        member = np.flatnonzero(channels == channel)
        images = stack[torch.from_numpy(member)]
        if config.gamma:
            images = images.clamp_(min=0).pow_(float((1 + config.gamma) ** random.uniform(-1, 1)))
        if config.gain:
            images *= float(1 + config.gain * random.uniform(-1, 1))
        if config.bias_field:
            images *= bias_field(tuple(stack.shape[1:]), config.bias_field, int(random.integers(2**31)))
        stack[torch.from_numpy(member)] = images.clamp_(0, 1)
    return stack


def bias_field(size: tuple[int, ...], limit: float, seed: int) -> Tensor:
    """(H, W) or (I, J, K): the exponential of Legendre polynomials, each coefficient uniform in -limit .. limit.

    Of a slice the products P_i(y) P_j(x) with j <= i <= 3, of a volume those of at most the third degree in all.
    """
    drawn = np.random.RandomState(seed)
    drawn.rand()  # whether to make one: always
    degrees = np.indices((DEGREE + 1,) * len(size))
    wanted = degrees[0] >= degrees[1] if len(size) == 2 else degrees.sum(0) <= DEGREE
    coefficients = np.zeros(wanted.shape)
    coefficients[wanted] = drawn.uniform(-limit, limit, int(wanted.sum()))
    field = torch.from_numpy(coefficients.astype(np.float32))
    for length in size:  # each product takes the first axis and leaves its voxels as the last
        field = torch.tensordot(field, legendre(length), dims=([0], [1]))
    return field.exp()


@cache
def legendre(length: int) -> Tensor:
    """(length, DEGREE + 1) float32: the polynomials over -1 .. 1."""
    values = np.polynomial.legendre.legvander(np.linspace(-1, 1, length, dtype=np.float32), DEGREE)
    return torch.from_numpy(values.astype(np.float32))
