"""NIfTI files in and out. Nothing else in mrsynth knows nibabel."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from mrsynth.errors import InputError
from mrsynth.io.files import write_bytes
from mrsynth.scans.volume import Volume, same_grid

SUFFIXES = (".nii", ".nii.gz")
CHUNK = 1 << 20  # bytes read at a time
DESCRIPTION_BYTES = 79  # 80 in the header, the last one ends the string
GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"),
)
UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    EOFError,
    OSError,
    ValueError,
    zlib.error,
    OverflowError,
)


def read_volume(path: Path, *, labels: bool = False) -> Volume:
    """Read one three-dimensional image: float32 with the file's scaling applied, affine from the sform, else the qform.

    labels   it is a segmentation, which may be 0 everywhere: of somebody healthy
    Raises InputError when the file cannot be read or is no image of a head: not NIfTI, 4-D, coloured, with NaN or
    infinite voxels, constant, or without a usable affine.
    """
    image = _open(path)
    shape, affine = _checked_grid(path, image)
    try:
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is reported below
            voxels = np.asarray(np.asarray(image.dataobj, dtype=np.float32), dtype=np.float32).reshape(shape, order="F")
        _check_gzip(path)
    except MemoryError:
        raise
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    _check_voxels(path, voxels, constant=labels)
    return Volume(voxels, affine)


def read_geometry(path: Path) -> Volume:
    """Read where the voxels of an image lie, from its header alone: shape and affine, with 0 in place of every voxel.

    The zeros are one number seen many times, so that thousands of files can be compared in little memory. Raises
    InputError for a file that cannot be read, is no three-dimensional image, or is a .nii shorter than its header says;
    a .nii.gz that breaks off later is found by `read_volume` only.
    """
    image = _open(path)
    shape, affine = _checked_grid(path, image)
    if path.suffix.lower() == ".nii":
        promised = image.dataobj.offset + math.prod(shape) * image.get_data_dtype().itemsize
        if path.stat().st_size < promised:
            raise _unreadable(path, EOFError())
    return Volume(np.broadcast_to(np.float32(0), shape), affine)


def write_volume(
    path: Path, volume: Volume, like: Path | None = None, description: str = "", *, whole: bool = False
) -> None:
    """Write float32 voxels, atomically; the same volume always gives the same bytes.

    like         the file whose geometry is copied as it stands: sform, qform, both codes, voxel sizes, units.
                 None for a volume that comes from no file: its affine becomes sform and qform, in scanner space.
    description  goes into the header's 79 bytes
    whole        write int16 instead, rounded, as CT in Hounsfield units is kept
    Raises ValueError when `volume` does not lie on the grid of `like` or goes beyond int16, OutputError when the file
    cannot be written.
    """
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path.name}: a NIfTI file ends in .nii or .nii.gz")
    source = None if like is None else _open(like)
    header: Any = nib.Nifti1Header() if source is None else type(source.header)()  # NIfTI-1 or 2, as `like`
    header.set_data_shape(volume.shape)
    header.set_data_dtype(np.int16 if whole else np.float32)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = header.single_vox_offset
    header["descrip"] = description.encode("ascii", "replace")[:DESCRIPTION_BYTES]
    if like is None or source is None:
        header.set_xyzt_units("mm")
        header.set_qform(volume.affine, code="scanner")
        header.set_sform(volume.affine, code="scanner")
    else:
        shape, affine = _checked_grid(like, source)
        if shape != volume.shape or not same_grid(volume, Volume(volume.voxels, affine)):
            raise ValueError(f"{path.name}: the volume does not lie on the grid of {like}")
        for field in GEOMETRY_FIELDS:
            header[field] = source.header[field]

    no_extension = bytes(4)
    voxels = np.rint(volume.voxels) if whole else volume.voxels
    if whole and np.abs(voxels + 0.5).max() > 2**15:
        raise ValueError(f"{path.name}: voxels from {voxels.min():g} to {voxels.max():g} are no int16")
    data = header.binaryblock + no_extension + np.asarray(voxels, dtype="<i2" if whole else "<f4").tobytes(order="F")
    write_bytes(path, gzip.compress(data, compresslevel=1, mtime=0) if path.suffix == ".gz" else data)


def _open(path: Path) -> Any:
    """The image with its header read and its voxels still on disk."""
    name = path.name
    if not path.exists():
        raise InputError(f"{path}: no such file. Check the name and that the disk is mounted.")
    if not path.is_file():
        raise InputError(f"{path} is a folder; expected a NIfTI file (.nii or .nii.gz).")
    if not name.lower().endswith(SUFFIXES):
        raise InputError(
            f"{path}: expected a NIfTI file (.nii or .nii.gz). Convert it first, for example with dcm2niix."
        )
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not start:
        raise InputError(f"{path} is empty (0 bytes); expected a NIfTI file. Copy or export it again.")
    if name.lower().endswith(".gz") and start != b"\x1f\x8b":
        raise InputError(f"{path}: the name ends in .gz but the file is not gzip. Rename it to .nii, or compress it.")
    if not name.lower().endswith(".gz") and start == b"\x1f\x8b":
        raise InputError(f"{path}: the file is gzip but its name does not say so. Rename it to .nii.gz.")
    try:
        image: Any = nib.load(path, mmap=False)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path} is a {type(image).__name__}; expected a three-dimensional NIfTI image.")
    return image


def _checked_grid(path: Path, image: Any) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape without trailing axes of length 1, and the affine, of a header that describes one grey image."""
    dtype, shape = image.get_data_dtype(), tuple(int(n) for n in image.shape)
    if dtype.fields is not None:
        raise InputError(f"{path} is a colour (RGB) image; expected grey values. Convert it to one channel.")
    if dtype.kind not in "iuf":
        raise InputError(f"{path} holds {dtype} voxels; expected integers or real numbers. Write the magnitude image.")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    size = "x".join(map(str, shape))
    if len(shape) != 3:
        raise InputError(f"{path} has {len(shape)} axes ({size}); expected three. Split or average the volumes first.")
    if min(shape) < 1:
        raise InputError(f"{path} has no voxels ({size}); expected a three-dimensional image. Export it again.")

    affine = np.asarray(image.affine, dtype=np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (lengths < 1e-6).any():
        flaw = "not finite" if not np.isfinite(affine).all() else "zero along at least one axis"
    elif abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        flaw = "singular: two of its axes point the same way"
    else:
        return (shape[0], shape[1], shape[2]), affine
    rows = "; ".join(" ".join(f"{x:.4g}" for x in row) for row in affine[:3])
    raise InputError(
        f"{path}: the affine is {flaw} [{rows}]. Expected one that places every voxel in space. "
        "Export the image again, or copy the geometry from an image of the same examination (fslcpgeom)."
    )


def _check_gzip(path: Path) -> None:
    """Read a gzip file to its end, where its checksum is; nibabel stops at the last voxel. Raises as gzip does."""
    if path.name.lower().endswith(".gz"):
        with gzip.open(path) as file:
            while file.read(CHUNK):
                pass


def _check_voxels(path: Path, voxels: NDArray[np.float32], *, constant: bool) -> None:
    """Raise InputError for voxels that are not finite or, unless they may be `constant`, all the same."""
    low, high = float(voxels.min()), float(voxels.max())  # NaN if there is one
    if not (np.isfinite(low) and np.isfinite(high)):
        nan, infinite = int(np.isnan(voxels).sum()), int(np.isinf(voxels).sum())
        raise InputError(
            f"{path}: {nan} voxels are NaN and {infinite} infinite (beyond 3.4e38), of {voxels.size}. Expected finite "
            "intensities. Set them to 0 if they lie outside the brain; otherwise export the image again."
        )
    if low == high and not constant:
        raise InputError(
            f"{path}: every voxel is {low:g}. Expected an image of a brain; check that the export finished."
        )


def _unreadable(path: Path, error: BaseException) -> InputError:
    """What went wrong, in the words of someone who has to repair it."""
    if isinstance(error, PermissionError):
        return InputError(f"{path}: no permission to read it. Change its permissions or copy it to a folder of yours.")
    if isinstance(error, gzip.BadGzipFile):
        return InputError(
            f"{path} is damaged: {error}. Its content does not fit its checksum. Copy or export it again."
        )
    if isinstance(error, EOFError | zlib.error) or ("Expected" in str(error) and "bytes" in str(error)):
        return InputError(f"{path} is truncated or damaged: it ends before its last voxel. Copy or export it again.")
    return InputError(f"{path} cannot be read as NIfTI ({error}). Expected a whole .nii or .nii.gz; export it again.")
