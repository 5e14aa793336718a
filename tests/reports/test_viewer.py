"""The volumes inside a page: whole, in the right place, with the values of their files."""

import io
from base64 import b64decode

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mrsynth.reports.montage import Panel
from mrsynth.reports.viewer import LARGEST, sheet, viewer_data

SHAPE = (23, 31, 17)


def panels() -> list[Panel]:
    """An input in the units of its file, and a map."""
    rng = np.random.default_rng(0)
    u, map_ = rng.random(SHAPE, np.float32), rng.random(SHAPE, np.float32) * np.float32(0.2)
    return [Panel("T1", u, "input", (10.0, 1210.0)), Panel("difference", map_, "difference")]


def brain() -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[6:18, 5:25, 4:12] = True
    return mask


def levels_of(source: str, shape: list[int], columns: int) -> NDArray[np.uint8]:
    """(I, J, K) read back from a sheet, slice by slice."""
    kind, _, data = source.partition("base64,")
    assert kind == "data:image/png;"
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(data))))
    i, j, k = shape
    slices = [divmod(n, columns) for n in range(k)]
    return np.stack([pixels[r * j : (r + 1) * j, c * i : (c + 1) * i].T for r, c in slices], axis=-1)


def test_a_sheet_holds_every_voxel_of_the_brains_box_within_half_a_grey_step():
    data = viewer_data(panels(), brain(), (1.0, 2.0, 3.0))
    first, shape = data["first"], data["shape"]
    box = tuple(slice(f, f + n) for f, n in zip(first, shape, strict=True))

    assert (first, shape, data["spacing"]) == ([3, 2, 1], [18, 26, 14], [1.0, 2.0, 3.0])
    for panel, layer in zip(panels(), data["layers"], strict=True):
        low, high = layer["low"], layer["high"]
        values = panel.ends[0] + panel.voxels[box] * (panel.ends[1] - panel.ends[0])
        shown = low + levels_of(layer["sheet"], shape, data["columns"]) / 255 * (high - low)
        np.testing.assert_allclose(shown, np.clip(values, low, high), atol=(high - low) / 255 * 0.501)


def test_an_image_has_its_files_window_and_a_map_a_round_one_with_its_colours():
    image, map_ = viewer_data(panels(), brain())["layers"]

    assert (image["low"], image["high"], image["colours"]) == (10.0, 1210.0, None)
    assert (map_["low"], map_["high"]) == (0.0, pytest.approx(0.2))
    assert len(map_["colours"]) == 256 and map_["colours"][0] == [0, 0, 4]  # magma begins almost black


@pytest.mark.parametrize(("shape", "columns"), [((3, 2, 5), 2), ((1, 1, 1), 1), ((4, 4, 7), 7)])
def test_slices_fill_rows_from_the_left_and_the_rest_is_black(shape, columns):
    voxels = np.random.default_rng(1).integers(1, 255, shape, np.uint8)
    made = sheet(voxels, columns)
    i, j, k = shape

    assert made.shape == (-(-k // columns) * j, columns * i)
    for n in range(k):
        row, column = divmod(n, columns)
        tile = made[row * j : (row + 1) * j, column * i : (column + 1) * i]
        np.testing.assert_array_equal(tile, voxels[:, :, n].T)
    assert np.count_nonzero(made) == voxels.size


def test_a_sheet_is_about_square_and_fits_what_a_browser_decodes():
    tall = viewer_data([Panel("T1", np.zeros((2, 300, 40), np.float32))], np.ones((2, 300, 40), bool))
    j, i = 300 * -(-40 // tall["columns"]), 2 * tall["columns"]

    assert max(i, j) <= LARGEST


def test_an_empty_mask_shows_the_whole_volume():
    data = viewer_data(panels(), np.zeros(SHAPE, bool))

    assert (data["first"], data["shape"]) == ([0, 0, 0], list(SHAPE))
