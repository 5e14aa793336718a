"""Zip files of examinations, unpacked within bounds."""

import lzma
import os
import zipfile
import zlib
from pathlib import Path

from mrsynth.errors import InputError
from mrsynth.io.dicom import MOST_FILES, is_dicom
from mrsynth.io.folders import few
from mrsynth.io.formats import is_volume
from mrsynth.io.reading import open_regular

LARGEST_ARCHIVE, MOST_PACKED = 8 << 30, 100  # bytes, unpacked, and how many of them to one of the archive


def unpack(archive: Path, into: Path) -> None:
    """Unpack a zip file of an examination.

    Raises InputError for a damaged, dangerous or far too large one, and for one of other images, or without DICOM.
    """
    try:
        with open_regular(archive) as file, zipfile.ZipFile(file) as content:
            members = [m for m in content.infolist() if not m.is_dir()]
            names = [m.filename for m in members if not Path(m.filename).name.startswith(".")]
            if images := [name for name in names if is_volume(name)]:
                raise InputError(
                    f"{archive.name} holds images that are no DICOM: {few(images)}. Unpack it and give the folder."
                )
            size, least = sum(m.file_size for m in members), os.fstat(file.fileno()).st_size
            if len(members) > MOST_FILES or size > min(LARGEST_ARCHIVE, MOST_PACKED * least):
                raise InputError(
                    f"{archive.name} ({least} bytes) holds too much for one examination: {len(members)} files, {size} "
                    "bytes."
                )
            for number, member in enumerate(members):  # by number: names in an archive may lead anywhere
                with content.open(member) as source, (into / f"{number:05d}.dcm").open("xb") as target:
                    left = member.file_size
                    while left > 0 and (part := source.read(min(left, 1 << 20))):
                        target.write(part)
                        left -= len(part)
            if not any(map(is_dicom, into.iterdir())):
                raise InputError(
                    f"{archive.name} holds no DICOM; found {few(names) or 'nothing at all'}. Unpack it, and what is "
                    "packed in it, and give the folder with one subject's scans."
                )
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, OSError) as error:
        raise InputError(
            f"{archive.name} cannot be unpacked: {error}. Unpack it yourself and give the folder."
        ) from error
