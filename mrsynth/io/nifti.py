"""NIfTI files in and out, and images of other formats in, as if they were NIfTI."""

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger as nibabel_log
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from mrsynth.errors import InputError
from mrsynth.io.files import write_bytes
from mrsynth.io.formats import HEADERS, ending_of, is_nifti, is_volume, stem_of
from mrsynth.io.other_formats import read_header
from mrsynth.io.sidecars import pointer_of
from mrsynth.io.streams import Stream, skip, stream_of, what_else
from mrsynth.scans.headers import Forms
from mrsynth.scans.volume import MOST_VOXELS, SPACING_RANGE_MM, Volume, same_grid

SUFFIXES = (".nii", ".nii.gz")
LONGEST_SIDE_MM = 600.0  # of an image along each axis: a head with neck, and room around it
UNITS_MM = {1: 1000.0, 2: 1.0, 3: 1e-3}  # low bits of xyzt_units: metre, millimetre, micrometre
LARGEST_OFFSET = 2**26  # bytes before the voxels: header and extensions
FREESURFER = (".mgh", ".mgz")
LONGEST_TAIL = 2**16  # bytes read behind the voxels of a format that says more there
PIECE = 1 << 20  # voxels read at a time
KINDS = ((nib.Nifti1Header, b"n+1", b"ni1"), (nib.Nifti2Header, b"n+2", b"ni2"))  # the header alone, of a pair, last
LENGTHS = (348, 540)  # bytes of header, of NIfTI-1 and NIfTI-2
DESCRIPTION_BYTES = 79  # 80 in the header, the last one ends the string
GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"),
)
UNREADABLE = (
    *(ImageFileError, HeaderDataError, WrapStructError),
    *(EOFError, OSError, ValueError, zlib.error, OverflowError),
)
nibabel_log.setLevel("CRITICAL")  # of headers it mends; what it cannot mend it raises whatever the level is


@dataclass(frozen=True)
class _Image:
    """A file whose header was read, and whose voxels are still on the disk.

    header  as nibabel understands it; of another format one that says the same
    stream  of the file that holds the voxels
    offset  of the first voxel in it, in bytes
    dtype   of its voxels
    tail    whether something may follow its voxels
    """

    path: Path
    header: Any
    stream: Stream
    offset: int
    dtype: np.dtype[Any]
    tail: bool = False

    def promised(self) -> int:
        """The bytes that the unpacked file should have, by its header."""
        return self.offset + math.prod(map(int, self.header.get_data_shape())) * self.dtype.itemsize


def read_volume(path: Path, *, labels: bool = False) -> Volume:
    """Read one three-dimensional image: float32 with the file's scaling applied, affine (sform, else qform) in mm.

    labels   it is a segmentation, which may be 0 everywhere: of somebody healthy
    What a header claims is checked before memory is taken for it, and a file is never read further than it claims.
    Raises InputError when the file cannot be read or is no image of a head: not NIfTI, 4-D, coloured, larger than any,
    shorter or longer than its header says, with NaN or infinite voxels, constant, or without a usable affine.
    """
    image = _open(path)
    shape, affine = _checked_grid(path, image)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes infinite, which is reported below
            voxels = _voxels(image, math.prod(shape)).reshape(shape, order="F")
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    check_voxels(path, voxels, constant=labels)
    return Volume(voxels, affine)


def read_geometry(path: Path) -> Volume:
    """Read where the voxels of an image lie, from its header alone: shape and affine, with 0 in place of every voxel.

    The zeros are one number seen many times, so that thousands of files can be compared in little memory. Raises
    InputError for a file that cannot be read, is no three-dimensional image, or is a .nii of another length than its
    header says; a .nii.gz that breaks off later is found by `read_volume` only.
    """
    image = _open(path)
    shape, affine = _checked_grid(path, image)
    _check_length(image)
    return Volume(np.broadcast_to(np.float32(0), shape), affine)


def read_forms(path: Path) -> Forms:
    """Where a file says that its voxels lie, in mm. Other formats than NIfTI say it once, as both forms.

    Raises InputError for a file that cannot be read.
    """
    header = _open(path).header
    scale = np.diag([*[millimetres(header)] * 3, 1.0])
    try:
        sform = scale @ header.get_sform() if header["sform_code"] > 0 else None
        qform = scale @ header.get_qform() if header["qform_code"] > 0 else None
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    stated = int(header["xyzt_units"]) & 7
    mistaken = stated in UNITS_MM and millimetres(header) != UNITS_MM[stated]
    return Forms(sform, qform, str(header.get_xyzt_units()[0]) if mistaken else "")


def millimetres(header: Any) -> float:
    """How many millimetres the unit of a header is.

    A head is some 200 mm large and its voxels are 0.05 to 20 mm: a stated unit that makes it something else, while its
    numbers are right as millimetres, was stated by mistake.
    """
    factor = UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    lengths = np.linalg.norm(np.asarray(header.get_best_affine(), np.float64)[:3, :3], axis=0)
    return 1.0 if _of_a_head(lengths) and not _of_a_head(lengths * factor) else factor


def _of_a_head(spacing: NDArray[np.float64]) -> bool:
    """Whether voxels of a head are so large, in mm."""
    return bool((SPACING_RANGE_MM[0] <= spacing).all() and (spacing <= SPACING_RANGE_MM[1]).all())


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
    kind = nib.Nifti1Header if source is None else type(source.header)  # NIfTI-1 or 2, as `like`
    header = _header_for(kind, volume, description, whole)
    header["vox_offset"] = header.single_vox_offset
    if like is not None and source is not None:
        shape, affine = _checked_grid(like, source)
        if shape != volume.shape or not same_grid(volume, Volume(volume.voxels, affine)):
            raise ValueError(f"{path.name}: the volume does not lie on the grid of {like}")
        sizes = source.header["pixdim"][1:4]  # where they are none, those of the affine stay
        for field in GEOMETRY_FIELDS if ((sizes > 0) & (sizes < np.inf)).all() else ("sform_code",):
            header[field] = source.header[field]

    voxels = np.rint(volume.voxels) if whole else volume.voxels
    if whole and np.abs(voxels + 0.5).max() > 2**15:
        raise ValueError(f"{path.name}: voxels from {voxels.min():g} to {voxels.max():g} are no int16")
    data = header.binaryblock + bytes(4) + np.asarray(voxels, dtype="<i2" if whole else "<f4").tobytes(order="F")
    write_bytes(path, gzip.compress(data, compresslevel=1, mtime=0) if path.suffix == ".gz" else data)


def as_nibabel(volume: Volume, description: str = "", *, whole: bool = False) -> Any:
    """The image that `write_volume` writes of a volume that comes from no file; its voxels are a copy."""
    voxels = np.rint(volume.voxels).astype(np.int16) if whole else volume.voxels.copy()
    return nib.Nifti1Image(voxels, volume.affine, _header_for(nib.Nifti1Header, volume, description, whole))


def _header_for(kind: Any, volume: Volume, description: str, whole: bool) -> Any:
    header = kind()
    header.set_data_shape(volume.shape)
    header.set_data_dtype(np.int16 if whole else np.float32)
    header.set_slope_inter(1, 0)
    header["descrip"] = description.encode("ascii", "replace")[:DESCRIPTION_BYTES]
    header.set_xyzt_units("mm")
    header.set_qform(volume.affine, code="scanner")
    header.set_sform(volume.affine, code="scanner")
    return header


def _open(path: Path) -> _Image:
    """The image with its header read and its voxels still on disk. Extensions of the header are passed over."""
    if not path.exists():
        raise InputError(f"{path}: no such file. Check the name and that the disk is mounted.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a NIfTI file (.nii or .nii.gz).")
    if not path.is_file():
        raise InputError(f"{path} is a pipe or a device; expected a NIfTI file (.nii or .nii.gz).")
    if why := pointer_of(path):
        raise InputError(f"{path} is {why}.")
    if not is_volume(path.name):
        raise InputError(
            f"{path}: expected a NIfTI file (.nii or .nii.gz). Convert it first, for example with dcm2niix."
        )
    try:
        return _opened(path)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _opened(path: Path) -> _Image:
    """The image of a file that is one by its name. Raises InputError, and what `UNREADABLE` lists."""
    ending = ending_of(path.name)
    pair = ending in HEADERS.values()
    if not (pair or is_nifti(path.name) or ending == ".nii.bz2"):
        return _as_nifti(path)
    stream = stream_of(path)
    begin = (stream_of(_header_beside(path)) if pair else stream).begin(max(LENGTHS))
    header = _header(path, begin, pair=pair)
    offset, first = int(header.get_data_offset()), 0 if pair else len(header.binaryblock)
    header.get_slope_inter()  # raises for factors that are no numbers
    if not first <= offset <= LARGEST_OFFSET:
        raise InputError(
            f"{path}: its header says that voxels begin at byte {offset}; expected one from {first} to "
            f"{LARGEST_OFFSET}. Export it again."
        )
    return _Image(path, header, stream, offset, header.get_data_dtype())


def _header_beside(image: Path) -> Path:
    """The header of a pair, in whichever case its ending is. Raises InputError where it is not there."""
    ending = next(header for header, voxels in HEADERS.items() if voxels == ending_of(image.name))
    there = [image.with_name(stem_of(image.name) + spelt) for spelt in (ending, ending.upper())]
    if found := next((path for path in there if path.is_file()), None):
        return found
    raise InputError(f"{image} is without its header {there[0].name}. Copy it there too.")


def _as_nifti(path: Path) -> _Image:
    """An image of another format, with the NIfTI header that says the same of it."""
    said, header = read_header(path), nib.Nifti1Header()
    try:
        header.set_data_shape(said.shape)
        header.set_data_dtype(said.dtype)
        header.set_xyzt_units("mm")
        header.set_sform(said.affine, code="scanner")
        header.set_qform(said.affine, code="scanner", strip_shears=True)
    except np.linalg.LinAlgError as error:
        raise _unreadable(path, error) from error
    return _Image(path, header, said.stream, said.offset, said.dtype, tail=ending_of(path.name) in FREESURFER)


def _header(path: Path, begin: bytes, *, pair: bool) -> Any:
    """The header of a NIfTI-1 or NIfTI-2 file, from its first bytes. Raises InputError, or what nibabel raises."""
    for kind, single, alone in KINDS:
        length = kind.template_dtype.itemsize
        if len(begin) < length:
            continue
        size, place = begin[:4], 344 if kind is nib.Nifti1Header else 4
        if int.from_bytes(size, "little") != length and int.from_bytes(size, "big") != length:
            continue
        magic = begin[place : place + 3]
        if magic == (alone if pair else single):
            raw = kind(begin[:length], check=False)  # type: ignore[no-untyped-call]
            sizes = raw["pixdim"][1:4]  # nibabel would make 1 of a 0
            if raw["sform_code"] <= 0 and not (np.isfinite(sizes) & (sizes != 0)).all():
                raise InputError(
                    f"{path}: its header says that voxels are {', '.join(f'{float(s):g}' for s in sizes)} mm large, "
                    "and has no sform. Export it again, or copy the geometry from an image of the same examination "
                    "(fslcpgeom)."
                )
            return kind(begin[:length])  # type: ignore[no-untyped-call]
        if magic == alone:
            raise InputError(f"{path} is the header of a pair (.hdr and .img); expected one file. Convert it first.")
        if kind is nib.Nifti1Header and (magic != single if pair else magic == bytes(3)):
            raise InputError(
                f"{path} is an Analyze image, whose header does not say which way is left. Convert it to NIfTI with a "
                "program that knows, or export it again."
            )
    if len(begin) < LENGTHS[0] and not what_else(begin):
        raise EOFError
    what = what_else(begin) or "cannot be read as NIfTI: it does not begin as one; export it again"
    raise InputError(f"{path} {what}.")


def _voxels(image: _Image, count: int) -> NDArray[np.float32]:
    """The voxels in the order of the file, scaled, read piece by piece. Raises as `read_volume`, or gzip, does."""
    _check_length(image)
    slope, inter = image.header.get_slope_inter()
    # as nibabel's `dataobj` has it: no factor means 1 and 0, in double precision
    factors = (np.float64(1 if slope is None else slope), np.float64(0 if inter is None else inter))
    voxels = np.empty(count, np.float32)  # of untouched memory, which costs nothing until it is written
    size = image.dtype.itemsize
    with image.stream.open() as file:
        skip(file, image.offset)
        for begin in range(0, count, PIECE):
            end = min(begin + PIECE, count)
            data = file.read((end - begin) * size)
            if len(data) < (end - begin) * size:
                raise EOFError
            voxels[begin:end] = apply_read_scaling(np.frombuffer(data, image.dtype), *factors)
        if file.read(LONGEST_TAIL if image.tail else 1) and not image.tail:  # to the checksum at the end of gzip
            raise _longer(image, image.promised())
    return voxels


def _check_length(image: _Image) -> None:
    """Raise InputError for a file that cannot hold what its header claims, before anything of it is read."""
    promised = image.promised()
    if image.stream.most < promised:
        raise _unreadable(image.path, EOFError())
    if image.stream.packing is None and image.stream.size > promised and not image.tail:
        raise _longer(image, promised)


def _longer(image: _Image, promised: int) -> InputError:
    size = "x".join(map(str, image.header.get_data_shape()))
    return InputError(
        f"{image.path} is longer than its header says: {size} voxels of {image.dtype} end at byte {promised}. Its size "
        "in the header is wrong, or something was appended. Export it again."
    )


def _checked_grid(path: Path, image: _Image) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape without trailing axes of length 1, and the affine, of a header that describes one grey image."""
    try:
        dtype, shape = image.dtype, tuple(int(n) for n in image.header.get_data_shape())
        affine = np.asarray(image.header.get_best_affine(), dtype=np.float64)
        affine[:3] *= millimetres(image.header)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    return checked_grid(path, dtype, shape, affine)


def checked_grid(
    path: Path | str, dtype: np.dtype[Any], shape: tuple[int, ...], affine: NDArray[np.float64]
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape without trailing axes of length 1, and the affine in mm. Raises InputError unless it is one grey image.

    path   what the message calls it
    """
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
    if math.prod(shape) > MOST_VOXELS:
        raise InputError(
            f"{path} claims {size} voxels, which is more than {MOST_VOXELS}; expected an image of a head. Its header "
            "is damaged, or it must be resampled first."
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (lengths < 1e-6).any():
        flaw = "not finite" if not np.isfinite(affine).all() else "zero along at least one axis"
    elif abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        flaw = "singular: two of its axes point the same way"
    elif (extent := float((lengths * shape).max())) > LONGEST_SIDE_MM or not _of_a_head(lengths):
        raise InputError(
            f"{path} is {extent / 1000:.3g} m long ({size} voxels of {' x '.join(f'{x:.3g}' for x in lengths)} mm); "
            f"expected a head, at most {LONGEST_SIDE_MM / 1000:g} m, of voxels of {SPACING_RANGE_MM[0]} to "
            f"{SPACING_RANGE_MM[1]:g} mm. Its header is damaged, or in another unit."
        )
    else:
        return (shape[0], shape[1], shape[2]), affine
    rows = "; ".join(" ".join(f"{x:.4g}" for x in row) for row in affine[:3])
    raise InputError(
        f"{path}: the affine is {flaw} [{rows}]. Expected one that places every voxel in space. "
        "Export the image again, or copy the geometry from an image of the same examination (fslcpgeom)."
    )


def check_voxels(path: Path | str, voxels: NDArray[np.float32], *, constant: bool) -> None:
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
