"""Which files are images, by their names: those that are read, and those that must be converted first."""

import re
from pathlib import Path

NIFTI = (".nii", ".nii.gz")
READ = (*NIFTI, ".nii.bz2", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".img.gz")
HEADERS = {".hdr": ".img", ".hdr.gz": ".img.gz"}  # of a pair: the image stands for both
TO_CONVERT = {  # ending -> how to make NIfTI of it
    ".mnc": "mnc2nii",
    ".mnc.gz": "gunzip and mnc2nii",
    ".mif": "mrconvert IN OUT.nii.gz",
    ".mif.gz": "mrconvert IN OUT.nii.gz",
    ".mih": "mrconvert IN OUT.nii.gz",
    ".brik": "3dAFNItoNIFTI",
    ".brik.gz": "3dAFNItoNIFTI",
    ".head": "3dAFNItoNIFTI",
    ".par": "dcm2niix",
    ".rec": "dcm2niix",
    ".gipl": "3D Slicer or SimpleITK",
    ".gipl.gz": "3D Slicer or SimpleITK",
    ".vtk": "3D Slicer",
    ".nii.zst": "zstd -d",
    ".nii.xz": "unxz",
    ".nii.zip": "unzip",
    ".mgh.gz": "mri_convert, or let its name end in .mgz",
    ".nifti": "another name: .nii",
    ".nifti.gz": "another name: .nii.gz",
    ".ni.gz": "another name: .nii.gz",
    ".nia": "fslchfiletype NIFTI_GZ",
    ".dcm.gz": "gunzip and dcm2niix",
    ".npy": "the program that wrote it; an array alone has no geometry",
    ".npz": "the program that wrote it; an array alone has no geometry",
    ".tif": "the program that wrote it",
    ".tiff": "the program that wrote it",
}
PERHAPS = (  # endings of arrays of any kind: taken for scans in a format that is not read where a name says a contrast
    *("h5", "hdf5", "pt", "pth", "pkl", "pickle", "zarr", "bmp", "isq", "am", "fdf", "mrc"),
)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
BESIDE = {  # what such a name says of a file that lies beside the image
    *("json", "txt", "md5", "sha1", "sha256", "log", "png", "jpg", "jpeg", "csv", "tsv", "xml", "html", "lock", "dvc")
}
_ENDINGS = sorted((*READ, *HEADERS, *TO_CONVERT), key=len, reverse=True)
_ENDING = re.compile(rf"(?i)(?:{'|'.join(map(re.escape, _ENDINGS))})$")
_READ = "|".join(map(re.escape, sorted(READ, key=len, reverse=True)))
_WRAPPED = re.compile(rf"(?i)(.+?(?:{_READ}))(?:[~_]|(?:[._-][a-z0-9]+)*?[._-]([a-z0-9]+)~?)")


def ending_of(filename: str) -> str:
    """The ending that tells an image's format, in lower case: `.nii.gz`; "" for a name that has none."""
    match = _ENDING.search(filename)
    return match[0].lower() if match else ""


def stem_of(filename: str) -> str:
    """The file name without the ending of an image, in any case."""
    return _ENDING.sub("", filename)


def is_volume(filename: str) -> bool:
    """Whether the name is that of an image in a format that is read."""
    return ending_of(filename) in READ


def is_nifti(filename: str) -> bool:
    """Whether the name ends in .nii or .nii.gz, in any case."""
    return ending_of(filename) in NIFTI


def how_to_convert(path: Path) -> str:
    """What is wrong with an image of a format that is not read, and how to convert it; "" for any other file."""
    ending = ending_of(path.name)
    how = TO_CONVERT.get(ending)
    return f"in the format {ending}, which is not read; convert it to NIfTI with {how}" if how else ""


def wrapped(filename: str) -> str:
    """The name of the image that a file is a packed, encrypted or set aside form of; "" for any other file.

    `p1_t2.nii.gz.zip`, `p1_t2.nii.gz.bak`, `p1_t2.nii.Z`, `p1_t2.nii.gz~`; not `p1_t2.nii.gz.json`
    """
    found = _WRAPPED.fullmatch(filename)
    return found[1] if found and (found[2] or "").lower() not in BESIDE and not ending_of(filename) else ""
