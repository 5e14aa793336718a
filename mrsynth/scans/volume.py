"""A volume: voxels and where they lie."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrsynth.errors import UsageError
from mrsynth.plain import Mask

GRID_TOLERANCE_MM = 1e-3
SPACING_RANGE_MM = (0.05, 20.0)  # of a head's voxels
MOST_VOXELS = 2**28  # of an image, read or prepared: a head at 0.25 mm has as many


@dataclass(frozen=True, eq=False)
class Volume:
    """One image on its grid.

    voxels  (I, J, K) float32, in the units of the file it came from
    affine  (4, 4) float64, voxel index -> millimetres in RAS+
    Raises UsageError for what is no array of such a shape; what the arrays hold is not looked at.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        for what, given, wanted in (("voxels", self.voxels, "(I, J, K)"), ("affine", self.affine, "(4, 4)")):
            if not isinstance(given, np.ndarray):
                raise UsageError(f"Volume: {what} is a {type(given).__name__}; expected an array of numpy, {wanted}.")
        if self.voxels.ndim != 3:
            raise UsageError(f"Volume: voxels has the shape {self.voxels.shape}; expected three axes, (I, J, K).")
        if self.affine.shape != (4, 4):
            raise UsageError(f"Volume: affine has the shape {self.affine.shape}; expected (4, 4).")

    def __repr__(self) -> str:
        spacing = " x ".join(f"{x:.3g}" for x in self.spacing)
        return f"<Volume of {'x'.join(map(str, self.shape))} voxels, {spacing} mm>"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along I, J, K."""
        i, j, k = self.voxels.shape
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along I, J, K in millimetres."""
        i, j, k = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)).tolist()
        return i, j, k

    @property
    def voxel_volume(self) -> float:
        """Cubic millimetres that a voxel fills; less than the product of its spacings where axes are not orthogonal."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether two volumes have the same shape and put every voxel within a micrometre of the same place."""
    if a.shape != b.shape:
        return False
    corners = np.array([[i, j, k, 1] for i in (0, a.shape[0]) for j in (0, a.shape[1]) for k in (0, a.shape[2])])
    return bool(np.abs(corners @ (a.affine - b.affine).T).max() < GRID_TOLERANCE_MM)


def extent(content: Mask, axis: int, margin: int = 0) -> slice:
    """Where (I, J, K) `content` begins and ends along an axis, and `margin` voxels more, inside the volume.

    At least one voxel must be content.
    """
    (where,) = np.nonzero(content.any(axis=tuple(other for other in range(3) if other != axis)))
    return slice(max(int(where[0]) - margin, 0), min(int(where[-1]) + 1 + margin, content.shape[axis]))
