"""Images in other formats than NIfTI: FreeSurfer, NRRD and MetaImage.

Only what says where its voxels lie is read: an image without orientation would be placed by a guess.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from mrsynth.errors import InputError
from mrsynth.io.formats import ending_of
from mrsynth.io.reading import open_regular
from mrsynth.io.streams import BZIP2, GZIP, ZLIB, Stream, stream_of
from mrsynth.plain import Doubles
from mrsynth.scans.alignment import FLIP_LPS


@dataclass(frozen=True)
class Text:
    """How the header of a format that is text says things.

    reader    of ITK; the name of a file does not choose it
    sign      between the name of a field and what it holds
    end       of the header, where the voxels may begin
    oriented  fields that say how the image lies, so that ITK does not fill it in: one of these, or with `all_of_it` all
    numbers   fields that hold so many: ITK's reader of MetaImages ends the process where one does not
    """

    reader: str
    sign: str
    end: re.Pattern[bytes]
    oriented: tuple[str, ...]
    all_of_it: bool
    numbers: Mapping[str, int]


NRRD = Text(
    "NrrdImageIO",
    ":",
    re.compile(rb"\r?\n\r?\n"),
    ("space directions", "space origin"),
    True,
    {"dimension": 1, "sizes": 3},
)
META = Text(
    "MetaImageIO",
    "=",
    re.compile(rb"(?im)^ElementDataFile\s*=[^\n]*(\n|\Z)"),
    ("transformmatrix", "rotation", "orientation"),
    False,
    {
        **dict.fromkeys(("ndims", "elementnumberofchannels"), 1),
        **dict.fromkeys(("dimsize", "elementspacing", "elementsize", "offset", "origin", "position"), 3),
        **dict.fromkeys(("centerofrotation",), 3),
        **dict.fromkeys(("transformmatrix", "rotation", "orientation"), 9),
    },
)
TEXTS = {".nrrd": NRRD, ".nhdr": NRRD, ".mha": META, ".mhd": META}
ENCODINGS = {"raw": None, "gzip": GZIP, "gz": GZIP, "bzip2": BZIP2, "bz2": BZIP2, "false": None, "true": ZLIB}
UNIT_MM = {"m": 1000.0, "meter": 1000.0, "metre": 1000.0, "cm": 10.0, "mm": 1.0, "millimeter": 1.0, "millimetre": 1.0}
UNIT_MM |= {"um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "micrometer": 1e-3, "micrometre": 1e-3, "": 1.0}
FREESURFER_BYTES, FREESURFER_PLACED = 284, slice(28, 30)  # of its header; where it says whether it says how it lies
HEADER = 64 * 2**10  # bytes in which a header of text ends


@dataclass(frozen=True)
class Foreign:
    """What the header of an image says.

    shape, dtype    of its voxels, the first axis fastest
    affine          to mm (RAS)
    stream, offset  where they are, and the byte at which they begin in it
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: Doubles
    stream: Stream
    offset: int = 0


def read_header(path: Path) -> Foreign:
    """The header of an image.

    Raises InputError when it does not say where its voxels lie, or is written in a way that is not read; OSError,
    EOFError, ValueError and zlib.error when it cannot be read.
    """
    how = TEXTS.get(ending_of(path.name))
    return _of_freesurfer(path) if how is None else _of_text(path, how)


def _of_freesurfer(path: Path) -> Foreign:
    stream = stream_of(path)
    begin = stream.begin(FREESURFER_BYTES)
    try:
        header: Any = nib.freesurfer.mghformat.MGHHeader.from_fileobj(BytesIO(begin.ljust(FREESURFER_BYTES, b"\0")))
    except LookupError as error:
        raise ValueError(f"its header names a kind of voxels that there is not: {error}") from error
    if int.from_bytes(begin[FREESURFER_PLACED], "big") != 1:
        raise InputError(f"{path}: its header does not say how the image lies in space. Export it again.")
    shape, affine = tuple(map(int, header["dims"])), np.asarray(header.get_affine())
    return Foreign(shape, header.get_data_dtype(), affine, stream, FREESURFER_BYTES)


def _of_text(path: Path, how: Text) -> Foreign:
    with open_regular(path) as file:
        begin = file.read(HEADER)
    found = how.end.search(begin)
    end = found.end() if found else len(begin)
    fields: dict[str, str] = {}
    for line in begin[:end].decode("utf-8", "replace").splitlines():
        name, sign, value = line.partition(how.sign)
        if sign and not line.startswith("#") and not value.startswith("="):  # NRRD: `:=` is what users add
            if (name := name.strip().lower()) in fields:
                raise ValueError(f"its header says {name} twice")
            fields[name] = value.strip()
    for name, count in how.numbers.items():
        _check_numbers(path, name, fields.get(name), count)
    if not (all if how.all_of_it else any)(name in fields for name in how.oriented):
        raise InputError(
            f"{path}: its header does not say how the image lies in space ({', '.join(how.oriented)}). Export it "
            "again, as NIfTI if that can be."
        )
    stream, order = _voxels_of(path, fields, end)
    shape, dtype, affine = _by_itk(path, how)
    affine[:3] *= _millimetres(path, fields.get("space units", ""))
    return Foreign(shape, dtype.newbyteorder(order), affine, stream)


def _check_numbers(path: Path, name: str, said: str | None, count: int) -> None:
    """Raise InputError, or ValueError, for a field that does not hold so many numbers, or another number of axes."""
    if said is None:
        return
    values = [float(word) for word in said.split()]
    if name in ("dimension", "ndims") and values != [3]:
        raise InputError(f"{path} has {said[:20]} axes; expected three. Split or average the volumes first.")
    if name in ("dimsize", "sizes") and not all(v.is_integer() and 0 < v < 2**31 for v in values):
        raise ValueError(f"its header says {name} {said[:60]}")
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ValueError(f"its header says {name} {said[:60]}, expected {count} numbers")


def _by_itk(path: Path, how: Text) -> tuple[tuple[int, ...], np.dtype[Any], Doubles]:
    """Shape, type and affine (mm, RAS): ITK knows the many ways to say these."""
    import SimpleITK

    sitk: Any = SimpleITK
    reader = sitk.ImageFileReader()
    reader.SetImageIO(how.reader)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        why = str(error).strip().splitlines()
        raise ValueError(why[-1].strip().rstrip(".") if why else "its header is damaged") from error
    if reader.GetNumberOfComponents() != 1:
        raise InputError(f"{path} is a colour image; expected grey values. Convert it to one channel.")
    shape = tuple(reader.GetSize())
    kind = sitk.GetArrayViewFromImage(sitk.Image([1] * len(shape), reader.GetPixelID())).dtype
    return shape, kind, affine_of(reader) if len(shape) == 3 else np.eye(4)


def _voxels_of(path: Path, fields: Mapping[str, str], end: int) -> tuple[Stream, Literal["<", ">"]]:
    """Where the voxels are, and the order of their bytes.

    Raises InputError unless they are behind the header or in one plain file of the same folder, and written in a way
    that is read.
    """

    def said(*names: str) -> str:
        return next((fields[name] for name in names if name in fields), "")

    encoding = said("encoding", "compresseddata").lower() or "raw"
    skipped = said("byte skip", "byteskip", "headersize") or "0"
    lines, text = said("line skip", "lineskip") or "0", said("binarydata").lower() == "false"
    if encoding not in ENCODINGS or not skipped.isdecimal() or lines != "0" or text:
        raise InputError(
            f"{path}: its voxels are written in a way that is not read (encoding {encoding}, {skipped} bytes and "
            f"{lines} lines skipped{', as text' if text else ''}). Convert it to NIfTI."
        )
    big = "big" in said("endian").lower() or "true" in said("binarydatabyteordermsb", "elementbyteordermsb").lower()
    name = said("data file", "datafile", "elementdatafile") or "LOCAL"
    if name.upper() == "LOCAL":
        file, first = path, end
    else:
        file, first = (path.parent / name).resolve(), 0
        if file.parent != path.parent.resolve() or not file.is_file():
            raise InputError(
                f"{path}: its voxels are in {name!r}, expected one file beside it. Copy it there, or convert the "
                "image to NIfTI."
            )
    return Stream(file, ENCODINGS[encoding], first + int(skipped)), ">" if big else "<"


def _millimetres(path: Path, said: str) -> float:
    """How many millimetres the unit of a NRRD header is. Raises InputError for one that is no length, or several."""
    units = {unit.strip().lower() for unit in re.findall(r'"([^"]*)"', said)} or {""}
    lengths = {UNIT_MM.get(unit.removesuffix("s") or unit) for unit in units}
    (length, *others) = lengths
    if others or length is None:
        raise InputError(
            f"{path}: its unit of length is {', '.join(sorted(units))}; expected one of mm, cm, m, um. Correct "
            "`space units`, or export it again."
        )
    return length


def affine_of(image: Any) -> Doubles:
    """(4, 4) voxel index to mm in RAS+, of a three-dimensional image of SimpleITK or of a reader of one."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    result: Doubles = FLIP_LPS @ affine
    return result
