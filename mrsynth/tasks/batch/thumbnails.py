"""A picture of what was made, small enough for a page of a thousand."""

import base64
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrsynth.contrasts import Contrast
from mrsynth.io.nifti import read_volume
from mrsynth.scans.grid import Orientation
from mrsynth.scans.views import AXES, grey, plane, png

SIDE = 96  # pixels


def thumbnail(images: Mapping[Contrast, Path]) -> str:
    """The middle axial slice of each image side by side, front up and the patient's left on the right; PNG, base64."""
    slices = [_middle(path) for path in images.values()]
    return base64.b64encode(png(np.concatenate(slices, axis=1))).decode()


def _middle(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """(SIDE, SIDE) uint8, in proportion, windowed from 0 to the 99.5 % quantile of what is not 0."""
    from PIL import Image

    volume = read_volume(path, labels=True)
    turn = Orientation.between(volume.affine, AXES)
    voxels, spacing = turn.apply(volume.voxels), turn.spacing(volume.spacing)
    filled = np.flatnonzero((voxels != 0).any(axis=(0, 1)))
    place = int(filled[len(filled) // 2]) if len(filled) else voxels.shape[2] // 2
    image = plane(voxels, 2, place)
    inside = image[image > 0]
    top = float(np.quantile(inside, 0.995)) if inside.size else 1.0
    pixels = Image.fromarray(grey(image, max(top, 1e-9)))
    height, width = image.shape[0] * spacing[1], image.shape[1] * spacing[0]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new("L", (SIDE, SIDE))
    canvas.paste(pixels.resize(size), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(canvas)
