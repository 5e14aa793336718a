"""The montage: orientation by known marks, and that it is a picture of the right things."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mrsynth.plain import Array, Mask
from mrsynth.reports.montage import Cut, Panel, montage, preview, spread
from mrsynth.scans.views import png


def ball(shape: tuple[int, int, int] = (30, 36, 28)) -> tuple[Array, Mask]:
    """A bright ball with darker noise in it: (image in [0, 1], mask)."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = np.sum(np.square(grid), axis=0) < 0.8
    image = mask * np.random.default_rng(0).uniform(0.3, 0.9, shape)
    return image.astype(np.float32), mask


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def marked(i: int, j: int, k: int) -> Array:
    """One bright voxel in an LPS volume of 10 x 12 x 14 whose other voxels are 0."""
    volume = np.zeros((10, 12, 14), np.float32)
    volume[i, j, k] = 1
    return volume


@pytest.mark.parametrize(
    ("cut", "voxel", "row_and_column"),
    [
        (Cut(2, 5), (0, 0, 5), (0, 0)),  # right anterior: top left of an axial cut
        (Cut(2, 5), (9, 0, 5), (0, 9)),  # left anterior: top right
        (Cut(2, 5), (0, 11, 5), (11, 0)),  # right posterior: bottom left
        (Cut(1, 5), (0, 5, 13), (0, 0)),  # right superior: top left of a coronal cut
        (Cut(1, 5), (9, 5, 0), (13, 9)),  # left inferior: bottom right
        (Cut(0, 5), (5, 0, 13), (0, 0)),  # anterior superior: top left of a sagittal cut
        (Cut(0, 5), (5, 11, 0), (13, 11)),  # posterior inferior: bottom right
    ],
)
def test_radiological_convention(cut: Cut, voxel: tuple[int, int, int], row_and_column: tuple[int, int]) -> None:
    plane = cut.of(marked(*voxel))

    assert plane[row_and_column] == 1
    assert plane.sum() == 1


def test_spread_cuts_a_box_evenly_and_follows_the_mass() -> None:
    box = np.zeros((4, 4, 100), bool)
    box[:, :, 10:60] = True
    assert spread(box, 4) == [19, 29, 39, 49]

    box[0, 0, 60:] = True  # a thin tail hardly moves them
    assert max(spread(box, 4)) < 55


def test_a_mark_on_the_patients_right_is_drawn_on_the_left() -> None:
    image, mask = ball()
    image = np.where(mask, 0.2, 0).astype(np.float32)
    image[:12, 16:20, 12:16] = 1.0  # low I: the patient's right
    drawn = pixels(montage([Panel("T1", image)], mask, slices=[14])).astype(int)
    cell = drawn[60 : 60 + 2 * 36]  # the axial row
    columns = np.nonzero((cell.min(axis=2) > 240).sum(axis=0) > 3)[0]

    assert columns.size
    assert columns.mean() < drawn.shape[1] / 2


def test_only_a_synthetic_panel_has_a_red_frame() -> None:
    image, mask = ball()

    def red(kind: str) -> int:
        r, g, b = np.moveaxis(pixels(montage([Panel("FLAIR", image, kind)], mask)).astype(int), 2, 0)  # type: ignore[arg-type]
        return int(((r > 200) & (g < 130) & (b < 130)).sum())

    assert red("synthetic") > 500
    assert red("input") == red("reference") == 0


def test_a_warning_stands_in_the_picture_of_its_panel_and_nowhere_else() -> None:
    image, mask = ball((150, 180, 140))
    plain, warned = (
        pixels(montage([Panel("T1", image), Panel("synthetic T1ce", image, "synthetic", note=note)], mask))
        for note in ("", "never evidence of enhancement")
    )
    changed = np.argwhere((plain != warned).any(axis=2))

    assert plain.shape == warned.shape and len(changed) > 100
    assert changed[:, 1].min() > plain.shape[1] / 2, "in the right column"
    assert np.ptp(changed[:, 0]) < 20, "one line of text"


def test_a_warning_stays_within_its_frame_however_narrow() -> None:
    image, mask = ball((150, 180, 140))
    others = [Panel("T1", image)] * 7
    plain, warned = (
        pixels(montage([*others, Panel("synthetic T1ce", image, "synthetic", note=note)], mask))
        for note in ("", "never evidence of enhancement")
    )
    changed = np.argwhere((plain != warned).any(axis=2))

    assert len(changed) > 100 and np.ptp(changed[:, 0]) < 40
    assert changed[:, 1].min() > plain.shape[1] * (1 - 1 / 8), "in the last of eight columns"


def test_size_columns_and_determinism() -> None:
    image, mask = ball((150, 180, 140))
    kinds = ("input", "input", "synthetic", "uncertainty", "reference", "difference")
    panels = [Panel("a <title> with $ and _", image, kind) for kind in kinds]  # type: ignore[arg-type]
    png = montage(panels, mask)

    assert png.startswith(b"\x89PNG")
    assert 1200 <= pixels(png).shape[1] <= 1600
    assert png == montage(panels, mask)
    assert pixels(montage(panels[:2], mask)).shape[1] < pixels(png).shape[1]


def test_thick_slices_keep_their_proportions() -> None:
    image, mask = ball((30, 36, 8))
    low = pixels(montage([Panel("T1", image)], mask, spacing=(1, 1, 5))).shape[0]
    high = pixels(montage([Panel("T1", image)], mask, spacing=(1, 1, 9))).shape[0]

    assert high - low > 2 * 8 * 4  # two cuts, 8 planes, 4 mm more each


def test_a_slab_thinner_than_a_few_centimetres_is_not_cut_across() -> None:
    image = np.ones((40, 50, 20), np.float32)
    mask = np.ones(image.shape, bool)

    def rows(millimetres: float) -> float:
        """Of the axial planes, which are twice the 50 mm high."""
        return pixels(montage([Panel("T1", image)], mask, slices=[3], spacing=(1, 1, millimetres))).shape[0] / 100

    assert rows(1.4) < 2 < rows(1.6)  # 28 mm and 32 mm


def test_images_without_a_map_are_drawn_without_matplotlib() -> None:
    code = (
        "import sys, numpy as np\n"
        "from mrsynth.reports.montage import Panel, montage\n"
        "montage([Panel('T1', np.ones((9, 9, 9), np.float32), 'synthetic')], np.ones((9, 9, 9), bool))\n"
        "assert not [name for name in sys.modules if name.startswith('matplotlib')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_map_has_the_colours_of_its_bar() -> None:
    flat = np.full((30, 36, 28), 0.05, np.float32)
    drawn = pixels(montage([Panel("spread", flat, "uncertainty")], flat > 0))
    colours, counts = np.unique(drawn[60:120].reshape(-1, 3), axis=0, return_counts=True)
    mapped = [c for c, n in zip(colours, counts, strict=True) if n > 500 and c.max() - c.min() > 100]

    assert [c.tolist() for c in mapped] == [[188, 55, 84]]  # the middle of inferno: the scale ends at 0.1


def test_slices_outside_the_brain_and_an_empty_mask_are_drawn_all_the_same() -> None:
    image, mask = ball()

    assert montage([Panel("T1", image)], mask, slices=[0, 27])
    assert montage([Panel("T1", image, "uncertainty")], np.zeros_like(mask))


def test_panels_of_another_shape_are_refused() -> None:
    image, mask = ball()
    with pytest.raises(ValueError, match="shape"):
        montage([Panel("T1", image[:-1])], mask)


@pytest.mark.real_data
def test_a_real_montage_stays_under_a_megabyte_and_a_half(shared_data: Path) -> None:
    import nibabel as nib

    folder = shared_data / "data" / "glioma_brats" / "BraTS-GLI-00027-000"  # BraTS is LPS as stored
    file: Any = nib.load(folder / f"{folder.name}_t2.nii.gz")
    image = file.get_fdata(dtype=np.float32)
    u = np.clip(image / np.quantile(image[image > 0], 0.995), 0, 1)
    panels = [Panel("T2", u), Panel("T2", u)]
    panels += [Panel("T2", u, k) for k in ("synthetic", "uncertainty", "reference", "difference")]

    assert len(montage(panels, image > 0)) < 1.5e6


def test_a_preview_holds_every_montage_whole_one_below_the_other():
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (*shape, 3), np.uint8) for shape in ((4, 6), (5, 3)))
    made = Image.open(io.BytesIO(preview([png(first), png(second)], {"Software": "mrsynth 0"})))
    pixels = np.asarray(made)

    assert pixels.shape == (9, 6, 3) and made.text == {"Software": "mrsynth 0"}
    np.testing.assert_array_equal(pixels[:4], first)
    np.testing.assert_array_equal(pixels[4:, :3], second)
    assert (pixels[4:, 3:] == pixels[4, 5]).all()
