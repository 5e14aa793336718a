"""A committee: the mean of what several methods make of one subject, once all have the same brightness.

Errors of networks that were trained apart differ, so their mean has a smaller error than they have on average (Krogh &
Vedelsby 1995): by as much as they differ from one another. Where two differ because one is too bright or too flat all
over, the mean only dilutes that mistake; so every image is first moved along a straight line to a common brain mean and
standard deviation, which touches neither anatomy nor the order of greys.

It is no method of a paper and is never trained: it has no network, and no entry in METHODS.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mrsynth.card import MEDIAN
from mrsynth.plain import Array, Mask
from mrsynth.scans.preparation import Prepared

Exact = NDArray[np.float64]

FLAT = 1e-6  # a standard deviation in u below which an image is one grey, which no line brings to another contrast


def average(images: Mapping[str, Array], weights: Sequence[float], brightness: str, brain: Mask) -> tuple[Array, Array]:
    """The weighted mean of one contrast's images, each moved to the common brightness, and their weighted standard
    deviation, which is how far they disagree; float32, 0 outside the brain.

    images      member -> (I, J, K), u in [0, 1]
    weights     of the members, in the same order, above 0; only their ratios matter
    brightness  a member's name, or MEDIAN: `card.Committee`. One that is not among the images counts as the first
    brain       (I, J, K) bool, not empty: where mean and deviation are taken, and what is made
    """
    voxels = {name: image[brain].astype(np.float64) for name, image in images.items()}
    levels = {name: (float(v.mean()), float(v.std())) for name, v in voxels.items()}
    if brightness == MEDIAN:
        mean, deviation = np.median(list(levels.values()), axis=0).tolist()
    else:
        mean, deviation = levels.get(brightness) or next(iter(levels.values()))
    moved = [to_level(voxels[name], levels[name], (mean, deviation)) for name in images]
    made, disagreement = np.zeros((2, *brain.shape), np.float32)
    mean = np.average(moved, axis=0, weights=weights)
    made[brain] = mean
    disagreement[brain] = np.sqrt(np.average((np.stack(moved) - mean) ** 2, axis=0, weights=weights))
    return made, disagreement


def to_level(voxels: Exact, level: tuple[float, float], wanted: tuple[float, float]) -> Exact:
    """Values (N,) with this mean and standard deviation, moved to those wanted by a straight line and kept in [0, 1].

    An image of one grey keeps its contrast, which is none, and takes the mean.
    """
    (mean, deviation), (new_mean, new_deviation) = level, wanted
    slope = new_deviation / deviation if deviation > FLAT else 1.0
    moved: Exact = np.clip((voxels - mean) * slope + new_mean, 0, 1)
    return moved


def onto(image: Array, own: Prepared, home: Prepared) -> Array:
    """An image on one model's grid, on that of another model for the same subject: (I, J, K) to (I', J', K').

    Where both have the same axes and spacing every voxel that lies in both comes over bit for bit; else by way of the
    subject's own grid. 0 outside the mask of `home`.
    """
    if own is home:
        return image
    here, there = own.grid, home.grid
    if (here.orientation, here.resampling) != (there.orientation, there.resampling):
        return home.brought(own.restore(image).voxels)
    whole: Array = np.zeros(here.resampling.new_shape, np.float32)
    whole[here.box] = np.where(own.mask, image, np.float32(0))[here.inside]
    moved: Array = np.zeros(home.mask.shape, np.float32)
    moved[there.inside] = whole[there.box]
    return np.where(home.mask, moved, np.float32(0))
