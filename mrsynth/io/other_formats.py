"""Images in other formats than NIfTI: FreeSurfer, NRRD, MetaImage, pairs of .hdr and .img, and .nii.bz2.

Only what says where its voxels lie is read: an image without orientation would be placed by a guess.
"""

import bz2
import gzip
import math
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from mrsynth.errors import InputError
from mrsynth.io.formats import ending_of
from mrsynth.plain import Doubles
from mrsynth.scans.alignment import FLIP_LPS

ORIENTED = {  # what a header in text must say, so that ITK does not fill it in
    ".nrrd": (b"space directions:", b"space origin:"),
    ".nhdr": (b"space directions:", b"space origin:"),
    ".mha": (b"TransformMatrix", b"Rotation", b"Orientation"),
    ".mhd": (b"TransformMatrix", b"Rotation", b"Orientation"),
}
ALL_OF_IT = (".nrrd", ".nhdr")
FREESURFER = (".mgh", ".mgz")
PACKED: dict[str, Any] = {".mgz": gzip.open, ".nii.bz2": bz2.open}
CHUNK = 2**20  # bytes read at a time
HEADER = 64 * 2**10  # bytes in which it says so
DAMAGED = (ImageFileError, HeaderDataError, RuntimeError, OSError, ValueError, EOFError, KeyError, zlib.error)


@dataclass(frozen=True)
class Foreign:
    """What the header of an image says: its shape, the type of its voxels, and the affine to mm (RAS)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: Doubles


def read_header(path: Path) -> Foreign:
    """The header of an image. Raises InputError when it cannot be read, or does not say where its voxels lie."""
    try:
        return _of_itk(path) if ending_of(path.name) in ORIENTED else _of_nibabel(path)
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def read_voxels(path: Path) -> Any:
    """The voxels of an image, with its scaling, in the order of the affine of `read_header`. Raises InputError."""
    try:
        if ending_of(path.name) in ORIENTED:
            import SimpleITK

            sitk: Any = SimpleITK
            return np.transpose(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
        if ending_of(path.name) in FREESURFER:
            image: Any = nib.MGHImage.from_bytes(_whole(path, _freesurfer_header(path).get_footer_offset()))
        else:
            image = nib.load(path)
            if ending_of(path.name) in PACKED:
                end = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
                image = type(image).from_bytes(_whole(path, end))
        return np.asarray(image.dataobj)
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def _begin(path: Path, most: int) -> bytes:
    """The first bytes of a file, unpacked, and no more of it; nibabel would leave a .mgz open."""
    with PACKED.get(ending_of(path.name), open)(path, "rb") as file:
        parts: list[bytes] = []
        while most and (part := file.read(min(most, CHUNK))):  # a single read would take `most` before it looks
            parts.append(part)
            most -= len(part)
        return b"".join(parts)


def _whole(path: Path, end: int) -> bytes:
    """A file to the end of its voxels, and what stands behind them. Raises EOFError before any more memory is taken.

    nibabel takes what the header claims first, and looks whether it is there then.
    """
    content = _begin(path, end + HEADER)
    if len(content) < end:
        raise EOFError
    return content


def _freesurfer_header(path: Path) -> Any:
    return nib.freesurfer.mghformat.MGHHeader.from_fileobj(BytesIO(_begin(path, HEADER)))


def _of_nibabel(path: Path) -> Foreign:
    if ending_of(path.name) in FREESURFER:
        header = _freesurfer_header(path)
        return Foreign(tuple(header.get_data_shape()), header.get_data_dtype(), np.asarray(header.get_affine()))
    image: Any = nib.load(path)
    if isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Pair):
        raise InputError(
            f"{path} is an Analyze image, whose header does not say which way is left. Convert it to NIfTI with a "
            "program that knows, or export it again."
        )
    return Foreign(tuple(image.shape), image.get_data_dtype(), np.asarray(image.affine, np.float64))


def _of_itk(path: Path) -> Foreign:
    import SimpleITK

    sitk: Any = SimpleITK
    ending = ending_of(path.name)
    with path.open("rb") as file:
        begin = file.read(HEADER)
    said = [word in begin for word in ORIENTED[ending]]
    if not (all(said) if ending in ALL_OF_IT else any(said)):
        words = ", ".join(word.decode() for word in ORIENTED[ending])
        raise InputError(
            f"{path}: its header does not say how the image lies in space ({words}). Export it again, as NIfTI if that "
            "can be."
        )
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetNumberOfComponents() != 1:
        raise InputError(f"{path} is a colour image; expected grey values. Convert it to one channel.")
    shape = tuple(reader.GetSize())
    affine = affine_of(reader) if len(shape) == 3 else np.eye(4)
    kind = sitk.GetArrayViewFromImage(sitk.Image([1] * len(shape), reader.GetPixelID())).dtype
    return Foreign(shape, kind, affine)


def affine_of(image: Any) -> Doubles:
    """(4, 4) voxel index to mm in RAS+, of a three-dimensional image of SimpleITK or of a reader of one."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    result: Doubles = FLIP_LPS @ affine
    return result


def _unreadable(path: Path, error: BaseException) -> InputError:
    if isinstance(error, PermissionError):
        return InputError(f"{path}: no permission to read it. Change its permissions or copy it to a folder of yours.")
    why = str(error).strip().splitlines()
    return InputError(f"{path} cannot be read ({why[-1] if why else 'it ends early'}). Export it again, as NIfTI.")
