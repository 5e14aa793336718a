"""A subject from images that are in memory: arrays, and those of nibabel."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import SPELLINGS, Contrast
from mrsynth.errors import UsageError
from mrsynth.io.nifti import check_voxels, checked_grid, millimetres
from mrsynth.io.subjects import refuse_label_map
from mrsynth.scans.raw import brought_together
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.texts import meant


def subject_of(images: Mapping[str, Any], affine: NDArray[np.float64] | None = None, name: str = "subject") -> Subject:
    """A subject of images by the name of their contrast, all on one grid.

    images   t1, t1ce, t2, flair, ... -> an image of nibabel, an array (I, J, K), or a Volume
    affine   (4, 4), voxel index -> millimetres in RAS+, of the arrays
    name     seeds the noise of a sample, and names files
    Images are held to what is asked of a file: see `io.nifti.read_volume`. Raises UsageError for a contrast that is not
    known and for an array without an affine, InputError for an image that cannot be used or lies on another grid.
    """
    if unknown := [str(key) for key in images if key not in set(Contrast)]:
        named, hint = ", ".join(sorted(unknown)), meant(min(unknown), SPELLINGS)
        raise UsageError(f"No contrast is named {named}; known are {', '.join(Contrast)}.{hint}")
    volumes = {
        Contrast(key): _volume(image, affine, f"The {Contrast(key).label} given") for key, image in images.items()
    }
    if not volumes:
        raise UsageError("There is no image: give at least one of t1, t1ce, t2, flair.")
    return brought_together(name, volumes, align="off").subject


def _volume(image: Any, affine: NDArray[np.float64] | None, what: str) -> Volume:
    """One image, checked. `what` begins the messages."""
    if isinstance(image, Volume):
        voxels, place = image.voxels, image.affine
    elif hasattr(image, "dataobj") and hasattr(image, "affine"):
        voxels, place = np.asanyarray(image.dataobj), np.array(image.affine, np.float64)
        if "xyzt_units" in getattr(image, "header", ()):
            place[:3] *= millimetres(image.header)
    else:
        voxels = np.asanyarray(image)
        if affine is None:
            raise UsageError(f"{what} is an array, which does not say where its voxels lie: give affine= (4 x 4, mm).")
        place = np.array(affine, np.float64)
    if place.shape != (4, 4):
        raise UsageError(f"{what}: an affine is 4 x 4, not {' x '.join(map(str, place.shape))}.")
    shape, place = checked_grid(what, voxels.dtype, voxels.shape, place)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes infinite, which is told below
        volume = Volume(np.asarray(voxels.reshape(shape), np.float32), place)
    check_voxels(what, volume.voxels, constant=False)
    refuse_label_map(what, volume)
    return volume
