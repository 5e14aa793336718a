"""Images in other formats: the same voxels in the same places as in NIfTI, or a refusal that says what to do."""

import bz2
import gzip
import os
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
from mrsynth.tasks.memory import peak_memory_mb, reset_peak_memory
from tests.helpers import at_most

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


def by_itk(path: Path, affine: NDArray[Any], *, packed: bool = False) -> None:
    image = sitk.GetImageFromArray(voxels().T.copy())
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), packed)


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
    ".img.gz": by_nibabel(nib.Nifti1Pair),
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


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_packed_voxels_and_either_order_of_bytes(tmp_path: Path, ending: str, packed: bool, big: bool) -> None:
    """As ITK itself understands the same file."""
    path = tmp_path / f"x{ending}"
    by_itk(path, AFFINES["oblique"], packed=packed)
    if big:
        said = path.read_bytes().replace(b"endian: little", b"endian: big").replace(b"MSB = False", b"MSB = True")
        path.write_bytes(said)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T

    assert (read_volume(path).voxels == expected).all() and (expected == voxels()).all() != big


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_that_breaks_off_is_refused(tmp_path: Path, ending: str, share: float) -> None:
    """ITK reads half a compressed MetaImage as zeros."""
    path = tmp_path / f"x{ending}"
    if ending in (".nrrd", ".nhdr", ".mha", ".mhd"):
        by_itk(path, AFFINES["LPS"], packed=True)
    else:
        WRITERS[ending](path, AFFINES["LPS"])
    held = next((p for p in tmp_path.iterdir() if ".raw" in p.name or "zraw" in p.name), path)
    content = held.read_bytes()
    if ending == ".mgh":  # behind its voxels stands what nobody reads
        content = content[: 284 + voxels().nbytes]
    held.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError):
        read_volume(path)


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
    own = nib.load(subject.files[T1]).header if ending in (".img", ".img.gz", ".nii.bz2") else {}  # as NIfTI says it
    assert np.allclose(made.affine, AFFINES["LPS"])
    assert all(made.header[code] == own.get(code, 1) for code in ("sform_code", "qform_code"))


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


def large(path: Path, held: bytes) -> None:
    """An image whose header claims 300 voxels a side, twice as long each, over `held`."""
    header: Any
    pack = {".gz": gzip.compress, ".mgz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
    if path.suffix in (".mgz", ".mgh"):
        header = nib.MGHImage(voxels(), np.eye(4)).header
        header["dims"] = (300, 300, 300, 1)
    elif path.suffix in (".nrrd", ".mha"):
        by_itk(path, np.eye(4))
        head = path.read_bytes()
        for line, packed_line in ((b"encoding: raw", b"encoding: gzip"), (b"Data = False", b"Data = True")):
            head = head.replace(line, packed_line)
        end = head.index(b"\n\n") + 2 if path.suffix == ".nrrd" else head.index(b"LOCAL\n") + 6
        path.write_bytes(head[:end].replace(b" 5 6 7\n", b" 300 300 300\n") + gzip.compress(held))
        return
    else:
        pair = ".img" in path.name
        header = nib.nifti1.Nifti1PairHeader() if pair else nib.Nifti1Header()
        header.set_data_shape((300, 300, 300))
        header.set_data_dtype(np.float64)
        header.set_sform(np.eye(4), 1)
        if pair:
            path.with_name(path.name.replace(".img", ".hdr")).write_bytes(pack(header.binaryblock + bytes(4)))
        else:
            header["vox_offset"] = 352
    before = b"" if ".img" in path.name else header.binaryblock + bytes(4 if path.suffix == ".bz2" else 0)
    path.write_bytes(pack(before + held))


@pytest.mark.parametrize("name", ["T1.nii.bz2", "T1.img", "T1.img.gz", "T1.mgz", "T1.mgh", "T1.nrrd", "T1.mha"])
def test_memory_is_taken_for_what_is_there_and_not_for_what_is_claimed(tmp_path: Path, name: str) -> None:
    large(tmp_path / name, bytes(100))
    reset_peak_memory()
    before = peak_memory_mb()
    with (
        at_most(2**28 if name.endswith("bz2") else 2**23),
        pytest.raises(InputError, match=r"cannot be read|ends before"),
    ):
        read_volume(tmp_path / name)
    assert peak_memory_mb() - before < 64  # what is never written is not taken


@pytest.mark.parametrize("name", ["T1.nii.bz2", "T1.img.gz", "T1.mgz"])
def test_what_unpacks_into_more_than_its_header_claims_is_read_no_further(tmp_path: Path, name: str) -> None:
    path, much = tmp_path / name, bytes(2**26)
    if name == "T1.mgz":
        path.write_bytes(gzip.compress(nib.MGHImage(voxels(), np.eye(4)).to_bytes() + much))
    elif name == "T1.img.gz":
        nib.save(nib.Nifti1Pair(voxels(), np.eye(4)), path)
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + much))
    else:
        path.write_bytes(bz2.compress(nib.Nifti1Image(voxels(), np.eye(4)).to_bytes() + much))
    with at_most(2**23):
        if name == "T1.mgz":  # other things may follow its voxels
            assert (read_volume(path).voxels == voxels()).all()
        else:
            with pytest.raises(InputError, match="is longer than its header says"):
                read_volume(path)


def test_an_extension_that_claims_gigabytes_is_passed_over(tmp_path: Path) -> None:
    """In the packed header of a pair, which holds as many."""
    path = tmp_path / "T1.img.gz"
    nib.save(nib.Nifti1Pair(voxels(), np.eye(4)), path)
    header = gzip.decompress((tmp_path / "T1.hdr.gz").read_bytes())[:348]
    claim = bytes([1, 0, 0, 0]) + (2**31 - 16).to_bytes(4, "little") + bytes(4)
    (tmp_path / "T1.hdr.gz").write_bytes(gzip.compress(header + claim + bytes(2**26)))
    with at_most(2**23):
        assert (read_volume(path).voxels == voxels()).all()


@pytest.mark.parametrize(
    ("units", "factor"), [('"mm" "mm" "mm"', 1), ('"m" "m" "m"', 1000), ('"um" "um" "um"', 1e-3), ('"" "" ""', 1)]
)
def test_the_unit_of_a_nrrd_is_heard(tmp_path: Path, units: str, factor: float) -> None:
    path, affine = tmp_path / "T1.nrrd", AFFINES["oblique"].copy()
    affine[:3] /= factor
    by_itk(path, affine)
    header, data = path.read_bytes().split(b"\n\n", 1)
    lines = [line for line in header.split(b"\n") if not line.startswith(b"space units")]
    path.write_bytes(b"\n".join([*lines, b"space units: " + units.encode()]) + b"\n\n" + data)

    assert np.allclose(read_volume(path).affine, AFFINES["oblique"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("units", ['"mm" "mm" "m"', '"furlong" "furlong" "furlong"', '"s" "s" "s"'])
def test_a_unit_of_a_nrrd_that_is_no_length_is_refused(tmp_path: Path, units: str) -> None:
    by_itk(tmp_path / "T1.nrrd", np.eye(4))
    header, data = (tmp_path / "T1.nrrd").read_bytes().split(b"\n\n", 1)
    (tmp_path / "T1.nrrd").write_bytes(header + b"\nspace units: " + units.encode() + b"\n\n" + data)
    with pytest.raises(InputError, match="its unit of length is"):
        read_volume(tmp_path / "T1.nrrd")


@pytest.mark.parametrize("place", ["../secret.raw", "/dev/zero", "pipe", "LIST", "absolute", "link", "%03d.raw 1 7 1"])
@pytest.mark.parametrize("ending", [".nhdr", ".mhd", ".nrrd", ".mha"])
def test_voxels_are_taken_from_the_file_or_from_one_beside_it_only(tmp_path: Path, ending: str, place: str) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(voxels().tobytes())
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(tmp_path / "secret.raw")
    by_itk(folder / f"T1{ending}", np.eye(4))
    header = (folder / f"T1{ending}").read_bytes()
    where = str(tmp_path / "secret.raw") if place == "absolute" else place
    if ending in (".nhdr", ".nrrd"):
        lines = [line for line in header.split(b"\n\n")[0].split(b"\n") if line and b"data file" not in line]
        said = b"\n".join([*lines, b"data file: " + where.encode(), b"", b""])
    else:
        said = header[: header.index(b"ElementDataFile")] + b"ElementDataFile = " + where.encode() + b"\n"
    (folder / f"T1{ending}").write_bytes(said)
    with pytest.raises(InputError, match="expected one file beside it"):
        read_volume(folder / f"T1{ending}")


@pytest.mark.parametrize(
    "line",
    [
        *("NDims = -1", "NDims = 0", "NDims = 4", "NDims = 1000000", "NDims = 3 NDims", "NDims ="),
        *("DimSize = 5 6", "DimSize = 5 6 -7", "DimSize = 5 6 7 8", "DimSize = 5 6 4294967303", "DimSize = 5 6 x"),
        *("ElementSpacing = 1 1", "ElementSpacing = nan 1 1", "TransformMatrix = 1", "Offset = 1 2"),
        *("ElementNumberOfChannels = -1", "ElementNumberOfChannels = 1000000000", "ElementType = MET_NONSENSE"),
        *("NDims = 3\nNDims = -1", "CompressedDataSize = -1\nndims = 3", "ElementType = MET_STRING"),
    ],
)
def test_a_header_that_ends_the_process_of_itk_is_refused_before(tmp_path: Path, line: str) -> None:
    by_itk(tmp_path / "T1.mha", np.eye(4), packed=True)
    content = (tmp_path / "T1.mha").read_bytes()
    head, data = content[: content.index(b"LOCAL\n") + 6], content[content.index(b"LOCAL\n") + 6 :]
    name = line.split(" ")[0].encode()
    lines = [line.encode() if old.startswith(name) else old for old in head.split(b"\n")]
    if line.encode() not in lines:
        lines.insert(1, line.encode())
    (tmp_path / "T1.mha").write_bytes(b"\n".join(lines) + data)
    with pytest.raises(InputError):
        read_volume(tmp_path / "T1.mha")


def test_freesurfer_without_directions_is_refused(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(voxels(), np.eye(4)), tmp_path / "T1.mgh")
    data = bytearray((tmp_path / "T1.mgh").read_bytes())
    data[28:30] = bytes(2)
    (tmp_path / "T1.mgh").write_bytes(data)
    with pytest.raises(InputError, match="does not say how the image lies"):
        read_volume(tmp_path / "T1.mgh")


def test_a_kind_of_voxels_that_freesurfer_does_not_have_is_refused(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(voxels(), np.eye(4)), tmp_path / "T1.mgh")
    data = bytearray((tmp_path / "T1.mgh").read_bytes())
    data[20:24] = (99).to_bytes(4, "big")
    (tmp_path / "T1.mgh").write_bytes(data)
    with pytest.raises(InputError, match="kind of voxels"):
        read_volume(tmp_path / "T1.mgh")


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
