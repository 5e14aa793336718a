"""Grids: which way array axes point, turning them, and interpolating between spacings."""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mrsynth.errors import InputError
from mrsynth.plain import Array
from mrsynth.scans.volume import MOST_VOXELS

AXIS_LETTERS = ("LR", "PA", "IS")  # negative and positive end of x, y, z in RAS+ millimetres

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
T = TypeVar("T", bound=np.generic)


def is_axis_code(axes: str) -> bool:
    """Whether `axes` is one of the 48 codes such as LPS: the ends that the three array axes point to."""
    return len(axes) == 3 and all(any(letter in axes for letter in ends) for ends in AXIS_LETTERS)


def axis_code(affine: NDArray[np.float64]) -> str:
    """Where the array axes of an affine point, to the nearest axis of the body: `LPS`, `RAS`, ..."""
    return "".join(AXIS_LETTERS[world][int(sign > 0)] for world, sign in _closest_axes(affine))


@dataclass(frozen=True)
class Orientation:
    """A permutation and flips of array axes: axis n of the result is axis `order[n]`, reversed if `flip[n]`."""

    code: str  # of the own grid
    order: Triple
    flip: tuple[bool, bool, bool]

    @classmethod
    def between(cls, affine: NDArray[np.float64], axes: str) -> "Orientation":
        """From the grid of `affine` to the axis code `axes`."""
        code = axis_code(affine)
        order = [next(i for i, letter in enumerate(code) if _world(letter) == _world(target)) for target in axes]
        flips = [code[i] != target for i, target in zip(order, axes, strict=True)]
        return cls(code, (order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))

    def spacing(self, own: Spacing) -> Spacing:
        """The spacing along the axes of the result."""
        return own[self.order[0]], own[self.order[1]], own[self.order[2]]

    def apply(self, array: NDArray[T]) -> NDArray[T]:
        """A view of an array on the own grid, in the model's axes."""
        return array.transpose(self.order)[self._reversal]

    def undo(self, array: NDArray[T]) -> NDArray[T]:
        """A view of an array in the model's axes, on the own grid."""
        return array[self._reversal].transpose(np.argsort(self.order))

    @property
    def _reversal(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if f else None) for f in self.flip)


@dataclass(frozen=True)
class Resampling:
    """Linear interpolation between two grids with the same axes and the same centre; the new one covers the old."""

    shape: Triple
    spacing: Spacing
    new_shape: Triple
    new_spacing: Spacing

    @classmethod
    def to(cls, target: float, tolerance: float, shape: Triple, spacing: Spacing) -> "Resampling":
        """Change only those axes whose spacing is further from `target` mm than the tolerance, a fraction."""
        close = [abs(s / target - 1) <= tolerance + 1e-6 for s in spacing]
        i, j, k = (s if ok else target for s, ok in zip(spacing, close, strict=True))
        x, y, z = (
            n if ok else int(np.ceil(n * s / target - 1e-4)) for n, s, ok in zip(shape, spacing, close, strict=True)
        )
        return cls(shape, spacing, (x, y, z), (i, j, k))

    @property
    def needed(self) -> bool:
        """Whether the two grids differ at all."""
        return self.spacing != self.new_spacing

    def forward(self, array: Array) -> Array:
        """From the old grid to the new."""
        return _interpolate(array, self.spacing, self.new_shape, self.new_spacing) if self.needed else array

    def back(self, array: Array) -> Array:
        """From the new grid to the old."""
        return _interpolate(array, self.new_spacing, self.shape, self.spacing) if self.needed else array


def check_room(name: str, shape: tuple[int, ...]) -> None:
    """Raise InputError for a grid that no image has, before memory is taken for it."""
    if math.prod(shape) > MOST_VOXELS:
        raise InputError(
            f"{name}: prepared as the checkpoint asks for, it would have {'x'.join(map(str, shape))} voxels, more than "
            f"{MOST_VOXELS}. Use another checkpoint."
        )


def _world(letter: str) -> int:
    """The axis of the body, 0 to 2, that a letter of an axis code lies on."""
    return next(w for w in range(3) if letter in AXIS_LETTERS[w])


def _closest_axes(affine: NDArray[np.float64]) -> list[tuple[int, int]]:
    """For each array axis the axis of the body (0 to 2) and the direction (-1 or 1) it is closest to.

    The nearest rotation to the affine is matched as a whole, so that oblique grids never claim one axis twice.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(directions)
    rotation = left @ right
    best = max(permutations(range(3)), key=lambda order: sum(abs(rotation[w, j]) for j, w in enumerate(order)))
    return [(world, 1 if rotation[world, j] > 0 else -1) for j, world in enumerate(best)]


def _interpolate(array: Array, spacing: Spacing, new_shape: Triple, new_spacing: Spacing) -> Array:
    """Linear interpolation onto a grid with the same centre."""
    import SimpleITK  # here, so that reading a configuration does not wait for it

    sitk: Any = SimpleITK  # it has no types

    # SimpleITK counts axes the other way round: (I, J, K) is z, y, x to it
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    sides = zip(array.shape, spacing, new_shape, new_spacing, strict=True)
    origin = [((n - 1) * s - (new_n - 1) * new_s) / 2 for n, s, new_n, new_s in sides]
    identity = np.eye(3).ravel().tolist()
    resampled = sitk.Resample(
        image, list(new_shape[::-1]), sitk.Transform(), sitk.sitkLinear, origin[::-1], new_spacing[::-1], identity, 0.0
    )
    result: Array = sitk.GetArrayFromImage(resampled)
    return result
