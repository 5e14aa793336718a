"""A volume knows its grid."""

import numpy as np
import pytest

from mrsynth.errors import UsageError
from mrsynth.scans.volume import Volume, extent, same_grid


def volume(shape: tuple[int, ...] = (3, 4, 5), affine: np.ndarray | None = None) -> Volume:
    return Volume(np.zeros(shape, np.float32), np.eye(4) if affine is None else affine)


def test_spacing_is_the_length_of_one_voxel_step_also_when_oblique() -> None:
    angle = 0.3
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.5, 0.75, 3.0])

    assert volume(affine=affine).spacing == pytest.approx((0.5, 0.75, 3.0))


def test_grids_are_the_same_within_a_micrometre_and_no_further() -> None:
    near, far = np.eye(4), np.eye(4)
    near[0, 3], far[0, 3] = 5e-4, 2e-3

    assert same_grid(volume(), volume(affine=near))
    assert not same_grid(volume(), volume(affine=far))
    assert not same_grid(volume(), volume((3, 4, 6)))


def test_a_small_tilt_counts_where_it_moves_the_far_corner() -> None:
    tilted = np.eye(4)
    tilted[0, 0] = 1 + 1e-4

    assert same_grid(volume((5, 5, 5)), volume((5, 5, 5), tilted))
    assert not same_grid(volume((50, 5, 5)), volume((50, 5, 5), tilted))


def test_only_three_axes_and_a_four_by_four_affine() -> None:
    with pytest.raises(UsageError, match=r"\(3, 4\); expected three axes"):
        volume((3, 4))
    with pytest.raises(UsageError, match=r"\(3, 3\); expected \(4, 4\)"):
        volume(affine=np.eye(3))
    with pytest.raises(UsageError, match="voxels is a list; expected an array"):
        Volume([[[1.0]]], np.eye(4))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="affine is a NoneType"):
        Volume(np.zeros((3, 4, 5), np.float32), None)  # type: ignore[arg-type]


def test_it_shows_its_grid_and_not_its_voxels() -> None:
    assert repr(volume((30, 40, 5), np.diag([1, 1, 2.5, 1]))) == "<Volume of 30x40x5 voxels, 1 x 1 x 2.5 mm>"


def test_extent_finds_ends_and_stays_inside() -> None:
    content = np.zeros((9, 5, 20), bool)
    content[3:5, 4, 10:13] = True

    assert [extent(content, axis) for axis in range(3)] == [slice(3, 5), slice(4, 5), slice(10, 13)]
    assert [extent(content, axis, 4) for axis in range(3)] == [slice(0, 9), slice(0, 5), slice(6, 17)]


def test_a_sheared_voxel_is_smaller_than_the_product_of_its_spacings():
    affine = np.array([[4.0, 2, 0, 0], [0, 4, 0, 0], [0, 0, -4, 0], [0, 0, 0, 1]])
    volume = Volume(np.zeros((2, 2, 2), np.float32), affine)

    assert volume.voxel_volume == pytest.approx(64) and np.prod(volume.spacing) > 71
