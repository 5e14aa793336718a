"""Random changes to training examples, seeded example by example.

Turns, scales and bias fields are what MONAI's RandAffine and RandBiasField make of the same draws, as the tests hold;
they are computed by torch's grid_sample and by products of small matrices, a quarter of the time for twelve slices of
160x192. Deformations, curves and blur are of this module alone.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mrsynth.networks.frequency import gaussian_kernel
from mrsynth.plain import Doubles, Plain

DEGREE = 3  # of the polynomials of a bias field
BENDS = range(2, 7)  # the degrees of those of a deformation: those below move, turn and scale
KNOTS = 8  # pieces of an intensity curve
REACH = 3  # standard deviations of a Gaussian that its kernel holds, to either side


class AugmentationConfig(Plain):
    """What may happen to an example. Geometry changes all contrasts together; intensity changes only the inputs.

    The truth keeps its intensities: a network cannot know how the scanner would have scaled the contrast it makes.
    """

    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip, of axes that begin so")
    affine: float = Field(0.0, ge=0, le=1, description="probability of a small rotation and scaling")
    rotation: float = Field(0.15, ge=0, description="largest rotation (in the slice plane), radians")
    scaling: float = Field(
        0.08,
        ge=0,
        lt=1,
        description="largest relative change of the first axis of a slice",
    )
    elastic: float = Field(0.0, ge=0, description="largest displacement of a smooth random deformation, voxels")
    gamma: float = Field(0.0, ge=0, lt=1, description="inputs are raised to a power in 1 / (1 + gamma) .. 1 + gamma")
    gain: float = Field(0.0, ge=0, lt=1, description="inputs are multiplied by 1 - gain .. 1 + gain")
    curve: float = Field(
        0.0, ge=0, description="inputs pass a random rising curve whose pieces differ in slope by up to (1 + curve)^2"
    )
    blur: float = Field(
        0.0, ge=0, description="largest standard deviation of a Gaussian along each axis of the inputs, voxels"
    )
    bias_field: float = Field(0.0, ge=0, lt=1, description="largest coefficient of a smooth bias field on the inputs")


def augment_geometry(stack: Tensor, config: AugmentationConfig, random: np.random.Generator) -> Tensor:
    """Flip, rotate, scale and bend a stack of images (N, H, W) of one slice, or (N, I, J, K), alike.

    Axis 1 is left-right. Background must be 0. Returns the same shape. Volumes are turned about, and scaled along, each
    of their axes.
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
    size = moved[0].shape[1:]
    grid = None
    if random.random() < config.affine:
        drawn = np.random.RandomState(int(random.integers(2**31)))
        axes = 1 if len(size) == 2 else 3
        drawn.uniform(size=2 * axes)  # MONAI draws all of them twice
        angles = [float(drawn.uniform(-config.rotation, config.rotation)) for _ in range(axes)]
        # of slices a single number, which scales the first axis only and so varies the proportions too
        scales = [1 + float(drawn.uniform(-config.scaling, config.scaling)) for _ in range(axes)]
        grid = affine_grid(turned(angles) @ np.diag(scales + [1.0] * (len(size) - axes)), size)
    if config.elastic:
        grid = affine_grid(np.eye(len(size)), size) if grid is None else grid
        grid = grid + deformation(size, config.elastic * random.random(), random)
    if grid is not None:
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


def deformation(size: Sequence[int], largest: float, random: np.random.Generator) -> Tensor:
    """What a smooth random deformation adds to a grid of grid_sample: (1, H, W, 2) or (1, I, J, K, 3).

    A sum of products of Legendre polynomials whose degrees together lie in BENDS, scaled so that no voxel moves by more
    than `largest` voxels, and one by just that.
    """
    degrees = np.indices((BENDS.stop,) * len(size)).sum(0)
    wanted = np.isin(degrees, BENDS) / np.maximum(degrees, 1) ** 2  # the finer the weaker
    moves = torch.stack([smooth(wanted * random.uniform(-1, 1, wanted.shape), size) for _ in size])  # voxels, by axis
    moves *= largest / moves.square().sum(0).max().sqrt()
    halves = torch.tensor([max(n - 1, 1) / 2 for n in size]).view(-1, *[1] * len(size))
    return (moves / halves).flip(0).movedim(0, -1)[None]  # grid_sample's axes go from the last to the first


def augment_intensity(
    stack: Tensor, channels: NDArray[np.int_], config: AugmentationConfig, random: np.random.Generator
) -> Tensor:
    """Change each input contrast by its own curve, blur, gamma, gain and bias field, alike in all its images.

    stack     (N, H, W) or (N, I, J, K), u in [0, 1]; background 0 stays 0
    channels  (N,) the contrast of each image, -1 for images to leave alone
    """
    stack = stack.clone()
    for channel in sorted(set(channels.tolist()) - {-1}):
        member = np.flatnonzero(channels == channel)
        images = stack[torch.from_numpy(member)]
        if config.curve:
            images = bent(images, (1 + config.curve) ** random.uniform(-1, 1, KNOTS))
        if config.blur:
            images = blurred(images, (config.blur * random.random(images.ndim - 1)).tolist())
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
    return smooth(coefficients, size).exp()


def smooth(coefficients: Doubles, size: Sequence[int]) -> Tensor:
    """(H, W) or (I, J, K): a sum of products of Legendre polynomials, float32; coefficients by degree, axis by axis."""
    field = torch.from_numpy(coefficients.astype(np.float32))
    for length in size:  # each product takes the first axis and leaves its voxels as the last
        field = torch.tensordot(field, legendre(length, len(coefficients) - 1), dims=([0], [1]))
    return field


@cache
def legendre(length: int, degree: int = DEGREE) -> Tensor:
    """(length, degree + 1) float32: the polynomials over -1 .. 1."""
    values = np.polynomial.legendre.legvander(np.linspace(-1, 1, length, dtype=np.float32), degree)
    return torch.from_numpy(values.astype(np.float32))


def bent(images: Tensor, slopes: Doubles) -> Tensor:
    """u in [0, 1] through a rising curve of straight pieces with these slopes, scaled so that 0 and 1 stay."""
    rise = np.concatenate([[0.0], np.cumsum(slopes)]) / slopes.sum()
    curve = np.interp(images.numpy(), np.linspace(0, 1, len(rise)), rise)
    return torch.from_numpy(curve.astype(np.float32))


def blurred(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Images (N, H, W) or (N, I, J, K) smoothed by a Gaussian along each axis, voxels; background 0 stays, and does not
    darken what lies beside it.
    """
    inside = images > 0
    made = torch.stack([images, inside.to(images.dtype)])
    for axis, sigma in enumerate(sigmas, 2):
        reach = max(1, math.ceil(REACH * sigma))
        lines = made.movedim(axis, -1)
        kernel = gaussian_kernel(sigma, 2 * reach + 1).view(1, 1, -1)
        smoothed = nn.functional.conv1d(lines.reshape(-1, 1, lines.shape[-1]), kernel, padding=reach)
        made = smoothed.view(lines.shape).movedim(-1, axis)
    return torch.where(inside, made[0] / made[1].clamp(min=1e-6), 0.0)
