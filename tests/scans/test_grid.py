"""Axes, turns and resampling of grids, against nibabel and against straight lines, which interpolation keeps."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes, apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray

from mrsynth.scans.grid import Orientation, Resampling, axis_code, is_axis_code
from tests.helpers import turned

CODES = ["".join(letters) for axes in permutations(("LR", "PA", "IS")) for letters in product(*axes)]
SHAPE, SPACING = (5, 4, 3), (0.5, 1.0, 4.0)


def tilted(code: str) -> NDArray[np.float64]:
    """An affine of SPACING along its axes `code`, turned by up to 25 degrees about each axis of the body."""
    affine = np.eye(4)
    straight = np.diag([1.0, 1.0, 1.0, 1.0]) @ inv_ornt_aff(
        ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code)), SHAPE
    )
    affine[:3, :3] = turned() @ straight[:3, :3] * SPACING
    return affine


@pytest.mark.parametrize("code", CODES)
def test_axis_code_agrees_with_nibabel_on_oblique_grids(code: str) -> None:
    assert axis_code(tilted(code)) == code == "".join(aff2axcodes(tilted(code)))


def test_forty_eight_codes_and_no_other_word() -> None:
    letters = ["".join(word) for word in product("LRPAIS", repeat=3)]

    assert [word for word in letters if is_axis_code(word)] == sorted(CODES, key=letters.index)
    assert not any(map(is_axis_code, ("", "LP", "LPSS", "lps", "XYZ")))


@pytest.mark.parametrize("axes", ["LPS", "SRA"])
@pytest.mark.parametrize("code", CODES)
def test_a_turn_is_that_of_nibabel_and_comes_back(code: str, axes: str) -> None:
    affine = tilted(code)
    turn = Orientation.between(affine, axes)
    array = np.random.default_rng(0).integers(0, 99, SHAPE)
    expected = apply_orientation(array, ornt_transform(nib.io_orientation(affine), axcodes2ornt(axes)))

    assert turn.code == code
    np.testing.assert_array_equal(turn.apply(array), expected)
    np.testing.assert_array_equal(turn.undo(turn.apply(array)), array)
    assert {s: n for s, n in zip(turn.spacing(SPACING), turn.apply(array).shape, strict=True)} == dict(
        zip(SPACING, SHAPE, strict=True)
    )


def test_a_turn_copies_nothing() -> None:
    array = np.zeros(SHAPE, np.float32)
    turn = Orientation.between(tilted("SAR"), "LPS")

    assert np.shares_memory(turn.apply(array), array) and np.shares_memory(turn.undo(turn.apply(array)), array)


def test_only_an_axis_that_is_further_off_than_the_tolerance_is_resampled() -> None:
    way = Resampling.to(1.0, 0.05, (10, 20, 30), (1.05, 0.94, 2.0))

    assert way.new_spacing == (1.05, 1.0, 1.0)
    assert way.new_shape == (10, 19, 60)  # 20 x 0.94 mm need 18.8 voxels: the new grid covers the old
    assert way.needed


def test_a_grid_within_the_tolerance_is_handed_through_untouched() -> None:
    way = Resampling.to(1.0, 0.05, (4, 5, 6), (1.0, 1.04, 0.96))
    array = np.ones((4, 5, 6), np.float32)

    assert not way.needed and way.forward(array) is array and way.back(array) is array


def middle(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> list[NDArray[np.float64]]:
    """Coordinates in millimetres from the common centre, one array (I, J, K) for each axis."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij"))


def test_a_linear_function_of_the_place_is_the_same_function_on_the_new_grid_and_back() -> None:
    way = Resampling.to(1.0, 0.05, (9, 8, 7), (2.0, 1.0, 3.0))

    def ramp(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> NDArray[np.float32]:
        x, y, z = middle(shape, spacing)
        return (100 + 2 * x - 3 * y + 0.5 * z).astype(np.float32)

    old, new = ramp(way.shape, way.spacing), ramp(way.new_shape, way.new_spacing)
    inside = np.s_[2:-2, 2:-2, 3:-3]  # at the border the new grid reaches beyond the old one's voxel centres
    np.testing.assert_allclose(way.forward(old)[inside], new[inside], rtol=1e-5)
    np.testing.assert_allclose(way.back(new), old, rtol=1e-5)
