"""A subject from images that are in memory: arrays, and those of nibabel."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrsynth.contrasts import Contrast
from mrsynth.errors import UsageError
from mrsynth.io.nifti import check_voxels, checked_grid, millimetres
from mrsynth.io.subjects import refuse_label_map
from mrsynth.scans.raw import brought_together
from mrsynth.scans.subject import Subject, by_contrast
from mrsynth.scans.volume import Volume

NAME = "subject"  # of one that has none
NOT_ARRAYS = (ValueError, TypeError, RuntimeError)  # what numpy, and torch, say of what cannot become an array


def subject_of(
    given: Subject | Mapping[Contrast, Any] | Mapping[str, Any],
    affine: ArrayLike | None = None,
    name: str | None = None,
) -> Subject:
    """A subject of images by the name of their contrast, all on one grid; or one that is there, under its own name.

    given    t1, t1ce, t2, flair, ... in any letter case -> an image of nibabel, an array (I, J, K), or a Volume
    affine   (4, 4), voxel index -> millimetres in RAS+, of the arrays
    name     seeds the noise of a sample, and names files; None: `subject`, or the subject's own
    Images are held to what is asked of a file (see `io.nifti.read_volume`), and copied; a Volume is not copied. Raises
    UsageError for a contrast that is not known, an array without an affine, an affine that no array needs and a name
    that no file can have; InputError for an image that cannot be used or lies on another grid.
    """
    check_name(NAME if name is None else name)
    if isinstance(given, Subject):
        if affine is not None:
            raise UsageError("affine= says where arrays lie; a Subject has its own. Leave affine= out.")
        for what, volume in (("brain mask", given.mask), ("segmentation", given.segmentation)):
            if volume is not None:
                check_voxels(f"The {what} of {given.name}", volume.voxels, constant=True)
        checked = {c: _volume(v, None, f"The {c.label} of {given.name}") for c, v in given.volumes.items()}
        return replace(given, name=given.name if name is None else name, volumes=checked)
    if not isinstance(given, Mapping):
        raise UsageError(
            f"The subject is of type {type(given).__name__}; expected images by contrast, such as {{'t1': image}}, or "
            "what load_subject(FOLDER) gives."
        )
    images = by_contrast(given)
    place = None if affine is None else _affine(affine)
    volumes = {contrast: _volume(image, place, f"The {contrast.label} given") for contrast, image in images.items()}
    if not volumes:
        raise UsageError("There is no image: give at least one of t1, t1ce, t2, flair.")
    if place is not None and all(_has_place(image) for image in images.values()):
        contrast, volume = next(iter(volumes.items()))
        if not np.allclose(volume.affine, place, atol=1e-3):
            raise UsageError(
                f"affine= is for arrays; the {contrast.label} given says where it lies, and that is elsewhere. Leave "
                "affine= out, or give the arrays."
            )
    return brought_together(NAME if name is None else name, volumes, align="off").subject


def check_name(name: object) -> None:
    """Raise UsageError for what cannot name a subject, and with it files."""
    try:
        plain = isinstance(name, str) and bool(os.fsencode(name).strip()) and "\0" not in name
    except UnicodeEncodeError:
        plain = False
    if not plain or Path(str(name)).name != name or name == "..":
        raise UsageError(
            f"The name of a subject is {name!r}; files are named by it, expected a plain name such as p01."
        )


def _has_place(image: Any) -> bool:
    return isinstance(image, Volume) or (hasattr(image, "dataobj") and hasattr(image, "affine"))


def _affine(given: ArrayLike) -> NDArray[np.float64]:
    """The affine of the arrays."""
    try:
        if np.iscomplexobj(given):
            raise TypeError("it is complex")
        affine = np.array(given, np.float64)
    except NOT_ARRAYS as error:
        raise UsageError(
            f"affine= cannot be used: {error}. Expected 4 x 4 numbers, voxel index to mm in RAS+."
        ) from error
    if affine.shape != (4, 4):
        raise UsageError(f"affine=: an affine is 4 x 4, not {' x '.join(map(str, affine.shape)) or 'a number'}.")
    if not np.allclose(affine[3], (0, 0, 0, 1)):
        raise UsageError(
            f"affine=: the last row of an affine is 0 0 0 1, not {' '.join(f'{x:g}' for x in affine[3])}. Is it "
            "transposed?"
        )
    return affine


def _volume(image: Any, affine: NDArray[np.float64] | None, what: str) -> Volume:
    """One image, checked; copied, for arrays are written into later. `what` begins the messages."""
    if isinstance(image, Volume):
        voxels, place = image.voxels, np.array(image.affine, np.float64)
    elif _has_place(image):
        voxels, place = np.asanyarray(image.dataobj), np.array(image.affine, np.float64)
        if "xyzt_units" in getattr(image, "header", ()):
            place[:3] *= millimetres(image.header)
    elif image is None or isinstance(image, str | bytes | os.PathLike):
        raise UsageError(
            f"{what} is of type {type(image).__name__}; expected an image of nibabel or an array. Files are read by "
            "nibabel.load(FILE), or by load_subject(FOLDER)."
        )
    else:
        try:
            voxels = np.asanyarray(image)
        except NOT_ARRAYS as error:
            raise UsageError(f"{what} cannot be read as an array: {error}") from error
        if affine is None:
            raise UsageError(f"{what} is an array, which does not say where its voxels lie: give affine= (4 x 4, mm).")
        place = affine.copy()
    if np.ma.is_masked(voxels):
        raise UsageError(f"{what} is a masked array: what lies under its mask is not known. Give it as .filled(0).")
    shape, place = checked_grid(what, voxels.dtype, voxels.shape, place)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes infinite, which is told below
        mine = np.array if not isinstance(image, Volume) else np.asarray  # a Volume is never written into
        volume = Volume(mine(voxels.reshape(shape), np.float32), place)
    check_voxels(what, volume.voxels, constant=False)
    refuse_label_map(what, volume)
    return volume
