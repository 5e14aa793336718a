"""What the index of a batch shows of a result."""

import base64
import io

import numpy as np
from PIL import Image

from mrsynth.contrasts import Contrast
from mrsynth.io.nifti import write_volume
from mrsynth.scans.volume import Volume
from mrsynth.tasks.batch.thumbnails import SIDE, thumbnail


def test_a_thumbnail_is_a_square_for_each_image_with_the_front_up_and_the_left_on_the_right(tmp_path):
    """A block in the left front quarter of a brain stored in RAS, whose planes are wider than high."""
    voxels = np.zeros((40, 20, 6), np.float32)
    voxels[:, :, 3] = 100
    voxels[:20, 10:, 3] = 1000  # small I is left, large J is the front
    write_volume(tmp_path / "t1.nii", Volume(voxels, np.eye(4)))
    png = base64.b64decode(thumbnail({Contrast.T1: tmp_path / "t1.nii", Contrast.T2: tmp_path / "t1.nii"}))
    pixels = np.asarray(Image.open(io.BytesIO(png)))

    assert pixels.shape == (SIDE, 2 * SIDE)
    np.testing.assert_array_equal(pixels[:, :SIDE], pixels[:, SIDE:])
    quarters = [pixels[row, column] for row in (36, 60) for column in (24, 72)]
    assert quarters == [26, 255, 26, 26]
    assert not pixels[:20].any() and not pixels[-20:].any(), "in proportion: half as high as wide"
