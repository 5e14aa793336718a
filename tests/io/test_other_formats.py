"""Images in other formats: the same voxels in the same places as in NIfTI, or a refusal that says what to do."""

import bz2
import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.io.formats import TO_CONVERT
from mrsynth.io.nifti import read_geometry, read_volume, write_volume
from mrsynth.io.subjects import find_subject, load_subject
from mrsynth.scans.volume import Volume, same_grid

T1, T1CE, T2, FLAIR = STANDARD
ANGLE = np.deg2rad(20)
TURN = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1.0]])
AFFINES = {
    "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "sagittal": np.array([[0, 0, 2.0, -7], [-1.0, 0, 0, 5], [0, 1.0, 0, 3], [0, 0, 0, 1]]),
    "oblique": np.vstack([np.hstack([TURN @ np.diag([-0.9, 1.1, 3.0]), [[4.0], [-6.0], [8.0]]]), [[0, 0, 0, 1]]]),
}


def voxels(shape: tuple[int, ...] = (5, 6, 7)) -> NDArray[np.float32]:
    return np.random.default_rng(0).integers(0, 1000, shape).astype(np.float32)


def by_itk(path: Path, affine: NDArray[Any]) -> None:
    image = sitk.GetImageFromArray(voxels().T.copy())
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))


def by_nibabel(kind: type[Any]) -> Callable[[Path, NDArray[Any]], None]:
    return lambda path, affine: nib.save(kind(voxels(), affine), path)


def packed(path: Path, affine: NDArray[Any]) -> None:
    plain = path.with_name("plain.nii")
    nib.save(nib.Nifti1Image(voxels(), affine), plain)
    path.write_bytes(bz2.compress(plain.read_bytes()))
    plain.unlink()


WRITERS: dict[str, Callable[[Path, NDArray[Any]], None]] = {
    ".mgz": by_nibabel(nib.MGHImage),
    ".mgh": by_nibabel(nib.MGHImage),
    ".nrrd": by_itk,
    ".nhdr": by_itk,
    ".mha": by_itk,
    ".mhd": by_itk,
    ".img": by_nibabel(nib.Nifti1Pair),
    ".nii.bz2": packed,
}


@pytest.mark.parametrize("place", AFFINES)
@pytest.mark.parametrize("ending", WRITERS)
def test_the_same_voxels_in_the_same_places(tmp_path: Path, ending: str, place: str) -> None:
    path, affine = tmp_path / f"x{ending}", AFFINES[place]
    WRITERS[ending](path, affine)

    read = read_volume(path)

    assert (read.voxels == voxels()).all() and read.voxels.dtype == np.float32
    assert np.abs(read.affine - affine).max() < 1e-5
    assert read_geometry(path).shape == read.shape and same_grid(read, read_geometry(path))


@pytest.mark.parametrize("ending", WRITERS)
def test_a_subject_may_mix_formats_and_results_are_nifti(tmp_path: Path, ending: str) -> None:
    WRITERS[ending](tmp_path / f"T1{ending}", AFFINES["LPS"])
    nib.save(nib.Nifti1Image(voxels() + 1, AFFINES["LPS"]), tmp_path / "FLAIR.nii.gz")

    subject = find_subject(tmp_path)
    assert subject.available == (T1, FLAIR) and not subject.left_out
    assert load_subject(subject).available == (T1, FLAIR)
    assert subject.output_name(T2).endswith(".nii.gz")
    write_volume(tmp_path / "new.nii.gz", Volume(voxels(), AFFINES["LPS"]), like=subject.files[T1])
    made = nib.load(tmp_path / "new.nii.gz")
    assert np.allclose(made.affine, AFFINES["LPS"]) and (made.header["sform_code"], made.header["qform_code"]) == (1, 1)


def test_headers_that_leave_orientation_open_are_refused(tmp_path: Path) -> None:
    nrrd = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 5 6 7\nspacings: 1 1 1\nendian: little\nencoding: raw\n\n"
    (tmp_path / "T1.nrrd").write_bytes(nrrd + voxels().astype("<i2").tobytes())
    mha = b"ObjectType = Image\nNDims = 3\nDimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "T2.mha").write_bytes(mha + voxels().astype("<i2").tobytes())
    nib.save(nib.AnalyzeImage(voxels(), np.eye(4)), tmp_path / "FLAIR.img")

    for name, why in (("T1.nrrd", "how the image lies"), ("T2.mha", "how the image lies"), ("FLAIR.img", "which way")):
        with pytest.raises(InputError, match=why):
            read_volume(tmp_path / name)


@pytest.mark.parametrize("ending", [".mgz", ".nrrd", ".mha", ".nii.bz2", ".img"])
def test_damaged_files_are_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"T1{ending}").write_bytes(b"something else")
    with pytest.raises(InputError):
        read_volume(tmp_path / f"T1{ending}")


@pytest.mark.parametrize(("image", "packed_part"), [("T1.mgz", "T1.mgz"), ("T1.img.gz", "T1.hdr.gz")])
def test_a_damaged_packed_file_is_refused_wherever_it_is_damaged(tmp_path: Path, image: str, packed_part: str) -> None:
    nib.save((nib.MGHImage if image.endswith(".mgz") else nib.Nifti1Pair)(voxels(), np.eye(4)), tmp_path / image)
    whole = (tmp_path / packed_part).read_bytes()
    refused = 0
    for place in range(10, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / packed_part).write_bytes(damaged)
        try:
            read = read_volume(tmp_path / image)
        except InputError:
            refused += 1
        else:  # bits that nothing stands in
            assert (read.voxels == voxels()).all() and np.array_equal(read.affine, np.eye(4)), place
    assert refused


@pytest.mark.parametrize("what", ["a claim", "a claim of .mgz", "a bomb of .mgz", "a bomb of .bz2"])
def test_memory_is_taken_for_what_is_there_and_claimed_only(tmp_path: Path, what: str) -> None:
    """A header that claims what the file does not hold, and files that unpack into more than their header claims."""
    much = bytes(2**26)
    header = nib.Nifti1Header()
    header.set_data_shape((300, 300, 300))
    header.set_data_dtype(np.float64)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    if what == "a claim":
        path = tmp_path / "T1.nii.bz2"
        path.write_bytes(bz2.compress(header.binaryblock + bytes(100)))
    elif what == "a claim of .mgz":
        path = tmp_path / "T1.mgz"
        said = nib.MGHImage(voxels(), np.eye(4)).header
        said["dims"] = (300, 300, 300, 1)
        path.write_bytes(gzip.compress(said.binaryblock + bytes(100)))
    elif what == "a bomb of .mgz":
        path = tmp_path / "T1.mgz"
        path.write_bytes(gzip.compress(nib.MGHImage(voxels(), np.eye(4)).to_bytes() + much))
    else:
        path = tmp_path / "T1.nii.bz2"
        path.write_bytes(bz2.compress(nib.Nifti1Image(voxels(), np.eye(4)).to_bytes() + much))
    tracemalloc.start()
    try:
        assert read_volume(path).shape == voxels().shape and "claim" not in what
    except InputError:
        assert "claim" in what
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 2**25


@pytest.mark.parametrize("ending", sorted(TO_CONVERT))
def test_formats_that_are_not_read_are_never_missing(tmp_path: Path, ending: str) -> None:
    """A wanted contrast in such a file ends the run, with the way to convert it; any other is only named."""
    for name in ("T1.nii.gz", "T2.nii.gz", f"FLAIR{ending}"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="convert it to NIfTI with") as caught:
        find_subject(tmp_path)
    assert f"FLAIR{ending}" in str(caught.value)

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.nii.gz").touch()
    subject = find_subject(tmp_path, {FLAIR: tmp_path / "elsewhere/x.nii.gz"})
    assert [path.name for path in subject.left_out] == [f"FLAIR{ending}"]


def test_a_pair_needs_both_files_and_is_one_image(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(voxels(), np.eye(4)), tmp_path / "T1.img")
    assert list(find_subject(tmp_path).files.values()) == [tmp_path / "T1.img"]
    (tmp_path / "T1.hdr").unlink()
    with pytest.raises(InputError, match=r"T1\.img is without its header T1\.hdr"):
        find_subject(tmp_path)


def test_contrast_named_by_option_may_be_of_any_format_that_is_read(tmp_path: Path) -> None:
    by_itk(tmp_path / "one.mha", np.eye(4))
    assert find_subject(tmp_path, {Contrast.T1: tmp_path / "one.mha"}).available == (T1,)
