"""NIfTI files: read what the scanner wrote, refuse what is no image, return geometry untouched."""

import errno
import gzip
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from mrsynth.errors import InputError, OutputError
from mrsynth.io import nifti, streams
from mrsynth.io.nifti import read_geometry, read_volume, write_volume
from mrsynth.scans.volume import Volume
from tests.helpers import at_most

SHAPE = (5, 6, 7)
RAMP = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def oblique(shift: float = 0.0) -> NDArray[np.float64]:
    c, s = np.cos(0.2), np.sin(0.2)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-c, s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([0.9, 1.1, 3])
    affine[:3, 3] = 10 + shift, -20, 30
    return affine


def save(path: Path, data: Any = RAMP, affine: Any = None, **codes: int) -> Path:
    image = nib.Nifti1Image(data, oblique() if affine is None else affine)
    image.set_sform(oblique(), codes.get("sform", 1))
    image.set_qform(oblique(shift=codes.get("shift", 0)), codes.get("qform", 1))
    nib.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "u2", "i4", "f4", ">f4", "f8"])
def test_every_number_type_reads_as_float32(tmp_path: Path, dtype: str, suffix: str) -> None:
    volume = read_volume(save(tmp_path / f"a{suffix}", RAMP.astype(dtype)))

    assert volume.voxels.dtype == np.float32 and volume.voxels.dtype.isnative
    np.testing.assert_array_equal(volume.voxels, RAMP)
    np.testing.assert_allclose(volume.affine, oblique(), atol=1e-6)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_files_scaling_is_applied(tmp_path: Path, dtype: type, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    header = nib.Nifti1Image(RAMP.astype(dtype), oblique()).header
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 0.5, -3
    raw = header.binaryblock + bytes(4) + RAMP.astype(dtype).tobytes(order="F")
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)

    volume = read_volume(path)
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, RAMP * 0.5 - 3)


def test_trailing_axes_of_length_one_are_dropped(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", RAMP[..., None, None])

    np.testing.assert_array_equal(read_volume(path).voxels, RAMP)
    write_volume(tmp_path / "b.nii.gz", read_volume(path), like=path)
    assert nib.load(tmp_path / "b.nii.gz").shape == SHAPE


def test_sform_is_preferred_then_qform(tmp_path: Path) -> None:
    both = save(tmp_path / "both.nii", shift=5)
    only_q = save(tmp_path / "q.nii", shift=5, sform=0)
    only_s = save(tmp_path / "s.nii", shift=5, qform=0)

    assert read_volume(both).affine[0, 3] == read_volume(only_s).affine[0, 3] == 10
    assert read_volume(only_q).affine[0, 3] == 15
    np.testing.assert_allclose(read_volume(only_q).affine, oblique(5), atol=1e-5)


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (4, 1), (2, 0), (0, 2), (3, 4), (0, 0)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_geometry_is_copied_field_by_field(tmp_path: Path, sform: int, qform: int, suffix: str) -> None:
    """sform and qform differ here, so neither can stand in for the other."""
    like = save(tmp_path / "like.nii.gz", RAMP.astype(np.int16), sform=sform, qform=qform, shift=5)
    volume = read_volume(like)
    written = tmp_path / f"out{suffix}"
    write_volume(written, Volume(RAMP / 7, volume.affine), like=like, description="mrsynth synthetic t1ce")
    a, b = nib.load(like).header, nib.load(written).header

    for field in (*nifti.GEOMETRY_FIELDS, "dim"):
        np.testing.assert_array_equal(a[field], b[field], err_msg=field)
    raw = nib.Nifti1Header((gzip.decompress if suffix.endswith("gz") else bytes)(written.read_bytes())[:348])
    assert raw.get_data_dtype() == np.float32 and (raw["scl_slope"], raw["scl_inter"]) == (1, 0)
    assert b["descrip"].item() == b"mrsynth synthetic t1ce"
    np.testing.assert_array_equal(read_volume(written).voxels, RAMP / 7)
    np.testing.assert_array_equal(read_volume(written).affine, volume.affine)


@pytest.mark.parametrize("size", [np.nan, np.inf])
def test_voxel_sizes_that_are_none_are_not_copied(tmp_path: Path, size: float) -> None:
    """The sform says where the scan lies; the header of the result is sound all the same."""
    like = save(tmp_path / "like.nii", RAMP.astype(np.int16), sform=4)
    damaged = bytearray(like.read_bytes())
    damaged[80:84] = np.float32(size).tobytes()
    like.write_bytes(damaged)
    volume = read_volume(like)
    write_volume(tmp_path / "out.nii", Volume(RAMP, volume.affine), like=like)
    header = nib.load(tmp_path / "out.nii").header

    np.testing.assert_allclose(header.get_zooms(), volume.spacing, rtol=1e-5)
    np.testing.assert_allclose(header.get_qform(), volume.affine, atol=1e-5)
    np.testing.assert_array_equal(header.get_sform(), volume.affine)
    assert header["sform_code"] == 4


def test_nifti_2_stays_nifti_2_with_its_exact_affine(tmp_path: Path) -> None:
    like = tmp_path / "like.nii"
    nib.save(nib.Nifti2Image(RAMP, oblique()), like)
    write_volume(tmp_path / "out.nii.gz", Volume(2 * RAMP, oblique()), like=like)
    image = nib.load(tmp_path / "out.nii.gz")

    assert isinstance(image, nib.Nifti2Image)
    np.testing.assert_array_equal(image.affine, nib.load(like).affine)
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii.gz").voxels, 2 * RAMP)


def test_units_and_left_handed_voxels_are_kept(tmp_path: Path) -> None:
    image = nib.Nifti1Image(RAMP, np.diag([-1.0, 1, 1, 1]))
    image.header.set_xyzt_units("micron", "msec")
    nib.save(image, tmp_path / "like.nii")
    write_volume(tmp_path / "out.nii", read_volume(tmp_path / "like.nii"), like=tmp_path / "like.nii")
    header = nib.load(tmp_path / "out.nii").header

    assert header.get_xyzt_units() == ("micron", "msec")
    assert header["pixdim"][0] == image.header["pixdim"][0]


def test_a_volume_of_no_file_brings_its_own_affine(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", Volume(RAMP, oblique()))
    image = nib.load(tmp_path / "a.nii.gz")

    for get in (image.get_sform, image.get_qform):
        affine, code = get(coded=True)
        np.testing.assert_allclose(affine, oblique(), atol=1e-5)
        assert code == 1
    assert image.header.get_xyzt_units()[0] == "mm"


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    like = save(tmp_path / "like.nii.gz")
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, Volume(RAMP, oblique()), like=like)

    a = (tmp_path / "a.nii.gz").read_bytes()
    assert a == (tmp_path / "b.nii.gz").read_bytes() and a[4:8] == bytes(4)


def test_a_long_description_is_cut_to_fit(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", Volume(RAMP, oblique()), description="x" * 200)

    assert nib.load(tmp_path / "a.nii").header["descrip"].item() == b"x" * 79


def test_another_grid_than_that_of_like_is_our_mistake(tmp_path: Path) -> None:
    like = save(tmp_path / "like.nii.gz")
    for volume in (Volume(RAMP[1:], oblique()), Volume(RAMP, oblique(shift=1))):
        with pytest.raises(ValueError, match="grid"):
            write_volume(tmp_path / "a.nii.gz", volume, like=like)
    with pytest.raises(ValueError, match="ends in"):
        write_volume(tmp_path / "a.mgz", Volume(RAMP, oblique()), like=like)
    assert list(tmp_path.iterdir()) == [like]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OutputError, match="disk is full"):
        write_volume(tmp_path / "a.nii.gz", Volume(RAMP, oblique()))
    assert not list(tmp_path.iterdir())


def refusal(path: Path) -> str:
    """The message of an InputError that names the file."""
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_file_folder_and_foreign_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.mnc").touch()

    assert "no such file" in refusal(tmp_path / "none.nii.gz")
    assert "is a folder" in refusal(tmp_path)
    assert "expected a NIfTI" in refusal(tmp_path / "a.mnc")


def test_unreadable_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii.gz")

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(streams, "open_regular", denied)  # the tests may run as root, who may read anything
    assert "no permission" in refusal(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    path = save(tmp_path / f"a{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])

    assert "truncated" in refusal(path) or "cannot be read" in refusal(path)


def test_gzip_whose_checksum_does_not_fit(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[-8] ^= 0xFF  # the first byte of the CRC
    path.write_bytes(bytes(data))

    assert "damaged" in refusal(path) and "checksum" in refusal(path)


def test_gzip_whose_content_is_damaged(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[5000:5200] = bytes(200)
    path.write_bytes(bytes(data))

    with pytest.raises(InputError):
        read_volume(path)


def test_compression_and_name_must_agree(tmp_path: Path) -> None:
    plain, packed = save(tmp_path / "a.nii"), save(tmp_path / "b.nii.gz")

    assert "NIfTI that is not packed; let its name end in .nii" in refusal(plain.rename(tmp_path / "c.nii.gz"))
    assert "is gzip" in refusal(packed.rename(tmp_path / "d.nii"))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_no_nifti(tmp_path: Path, suffix: str) -> None:
    words = b"These are not the voxels you are looking for. " * 20
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(words) if suffix.endswith("gz") else words)
    empty = tmp_path / f"empty{suffix}"
    empty.touch()

    assert "NIfTI" in refusal(path)
    assert "0 bytes" in refusal(empty)


def test_four_dimensions_colour_and_complex_numbers(tmp_path: Path) -> None:
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])

    assert "4 axes (5x6x7x2)" in refusal(save(tmp_path / "4d.nii", np.stack([RAMP, RAMP], -1)))
    assert "RGB" in refusal(save(tmp_path / "rgb.nii", colour))
    assert "complex64" in refusal(save(tmp_path / "complex.nii", RAMP.astype(np.complex64)))
    assert "2 axes" in refusal(save(tmp_path / "2d.nii", RAMP[0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_voxels_that_are_not_finite_are_counted(tmp_path: Path, dtype: type) -> None:
    data = RAMP.astype(dtype)
    data[1, 2, :3], data[0, 0, 0] = np.nan, np.inf

    message = refusal(save(tmp_path / "a.nii.gz", data))
    assert "3 voxels are NaN and 1 infinite" in message and "210" in message


def test_numbers_beyond_float32_count_as_infinite(tmp_path: Path) -> None:
    data = RAMP.astype(np.float64)
    data[0, 0, 0] = 1e300

    assert "1 infinite" in refusal(save(tmp_path / "a.nii", data))


@pytest.mark.parametrize("value", [0, 7])
def test_constant_volumes(tmp_path: Path, value: int) -> None:
    assert f"every voxel is {value}" in refusal(save(tmp_path / "a.nii.gz", np.full(SHAPE, value, np.int16)))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.zeros((3, 4)), "zero along"),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0.0]]), "zero along"),
        (np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0.0]]), "singular"),
        (np.array([[np.nan, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.0]]), "not finite"),
    ],
)
def test_affines_that_place_nothing(tmp_path: Path, rows: NDArray[np.float64], words: str) -> None:
    path = save(tmp_path / "a.nii")
    data = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    header["srow_x"], header["srow_y"], header["srow_z"] = rows
    data[:348] = header.binaryblock
    path.write_bytes(bytes(data))

    message = refusal(path)
    assert words in message and "Expected" in message


def test_no_voxels_at_all(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii")
    data = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    header["dim"][3] = 0
    data[:348] = header.binaryblock
    path.write_bytes(bytes(data))

    assert "no voxels" in refusal(path)


# Claims before content -----------------------------------------------------------------------------------------------


def claiming(path: Path, kind: type = nib.Nifti1Header, data: bytes = b"", **fields: Any) -> Path:
    """A file whose header says what it likes, with `data` after it."""
    header = kind()
    header.set_data_dtype(fields.pop("dtype", np.int16))
    header.set_data_shape((5, 6, 7))
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = header.single_vox_offset
    for field, value in fields.items():
        header[field] = value
    raw = header.binaryblock + bytes(4) + data
    path.write_bytes(gzip.compress(raw, 1) if path.suffix == ".gz" else raw)
    return path


def dim(*shape: int) -> list[int]:
    return [len(shape), *shape, *[1] * (7 - len(shape))]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        (nib.Nifti1Header, (32767, 32767, 32767), "which is more than 268435456"),
        (nib.Nifti2Header, (2**40, 1, 1), "which is more than 268435456"),
        (nib.Nifti2Header, (2**31, 2**31, 2**31), "which is more than 268435456"),
        (nib.Nifti1Header, (1200, 1200, 1200), "which is more than 268435456"),
        (nib.Nifti1Header, (601, 6, 7), "is 0.601 m long"),
        (nib.Nifti1Header, (599, 599, 599), "truncated"),
        (nib.Nifti1Header, (-5, 6, 7), "no voxels"),
        (nib.Nifti2Header, (-(2**60), 6, 7), "no voxels"),
    ],
)
def test_what_a_header_claims_is_refused_before_memory_is_taken(
    tmp_path: Path, kind: type, shape: tuple[int, ...], suffix: str, words: str
) -> None:
    path = claiming(tmp_path / f"a{suffix}", kind, bytes(60_000), dim=dim(*shape))
    with at_most(10e6):
        for read in (read_volume, nifti.read_geometry):
            with pytest.raises(InputError, match=words):
                read(path)


def test_gzip_is_read_no_further_than_the_header_claims(tmp_path: Path) -> None:
    """A bomb behind a small image, and one in front of it."""
    bomb = bytes(2**25)
    behind = claiming(tmp_path / "a.nii.gz", data=RAMP.astype("i2").tobytes(order="F") + bomb)
    before = claiming(tmp_path / "b.nii.gz", data=bomb, vox_offset=2**30)
    with at_most(10e6):
        assert "is longer than its header says: 5x6x7 voxels of int16 end at byte 772" in refusal(behind)
        assert "voxels begin at byte 1073741824" in refusal(before)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("extra", [1, 84, 100_000])
def test_a_file_longer_than_its_header_says_is_refused(tmp_path: Path, suffix: str, extra: int) -> None:
    path = claiming(tmp_path / f"a{suffix}", data=RAMP.astype("i2").tobytes(order="F") + bytes(extra))

    assert "is longer than its header says" in refusal(path)


def test_zeros_behind_gzip_and_several_parts_of_it_are_no_voxels(tmp_path: Path) -> None:
    """gzip itself allows both: padding of tapes, and what bgzip and pigz write."""
    data = gzip.decompress(save(tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data) + bytes(512))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(data[:500]) + gzip.compress(data[500:]))

    for name in ("a.nii.gz", "b.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).voxels, RAMP)


def test_extensions_of_the_header_are_passed_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(RAMP, oblique())
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").voxels, RAMP)

    data = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    data[352:356] = (2**31 - 16).to_bytes(4, "little")  # an extension that claims two gigabytes
    (tmp_path / "a.nii").write_bytes(bytes(data))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").voxels, RAMP)


@pytest.mark.parametrize("offset", [0, 300, -1e30, 1e30, float("nan"), float("inf")])
def test_voxels_that_begin_nowhere(tmp_path: Path, offset: float) -> None:
    refusal(claiming(tmp_path / "a.nii", data=RAMP.astype("i2").tobytes(order="F"), vox_offset=offset))


def test_pipes_devices_and_pairs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii").symlink_to("/dev/zero")
    nib.save(nib.Nifti1Pair(RAMP, oblique()), tmp_path / "c.hdr")

    assert "is a pipe or a device" in refusal(tmp_path / "a.nii.gz")
    assert "is a pipe or a device" in refusal(tmp_path / "b.nii")
    assert "header of a pair" in refusal((tmp_path / "c.hdr").rename(tmp_path / "c.nii"))


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "u4", "i8", "f4", "f8", ">f8"])
@pytest.mark.parametrize("factors", [(1, 0), (0.37, -3.3), (1e-20, 0), (0, 5), (float("nan"), 0)])
def test_scaling_in_pieces_gives_the_bits_of_nibabel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, factors: tuple[float, float]
) -> None:
    monkeypatch.setattr(nifti, "PIECE", 17)
    data = np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)
    big = {"endianness": ">"} if dtype[0] == ">" else {}
    header = nib.Nifti1Image(data, oblique(), nib.Nifti1Header(**big)).header
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, *factors
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock + bytes(4) + data.astype(header.get_data_dtype()).tobytes(order="F"))

    expected = np.asarray(nib.load(path).dataobj, dtype=np.float32)
    np.testing.assert_array_equal(read_volume(path).voxels.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize(("sform", "qform", "known"), [(1, 0, True), (0, 1, True), (4, 2, True), (0, 0, False)])
def test_without_codes_left_and_right_are_unknown(tmp_path: Path, sform: int, qform: int, known: bool) -> None:
    assert nifti.read_forms(save(tmp_path / "a.nii.gz", sform=sform, qform=qform)).known == known


@pytest.mark.parametrize(
    ("unit", "numbers", "millimetres"),
    [
        *(("mm", 1.0, 1.0), ("unknown", 1.0, 1.0), ("meter", 1e-3, 1.0), ("micron", 1e3, 1.0), ("micron", 300, 0.3)),
        *(("meter", 1.0, 1.0), ("micron", 0.5, 0.5)),  # stated by mistake
    ],
)
def test_units_become_millimetres(tmp_path: Path, unit: str, numbers: float, millimetres: float) -> None:
    affine = np.diag([numbers, numbers, numbers, 1.0])
    affine[:3, 3] = 7 * numbers
    image = nib.Nifti1Image(RAMP, affine)
    image.header.set_xyzt_units(unit)
    image.set_sform(affine, 1)
    image.set_qform(affine, 2)
    path = tmp_path / "a.nii.gz"
    nib.save(image, path)
    expected = np.diag([*[millimetres] * 3, 1.0])
    expected[:3, 3] = 7 * millimetres
    volume, forms = read_volume(path), nifti.read_forms(path)

    assert forms.sform is not None and forms.qform is not None
    assert forms.mistaken == (unit if unit in ("meter", "micron") and numbers == millimetres else "")
    for found in (volume.affine, nifti.read_geometry(path).affine, forms.sform, forms.qform):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    nifti.write_volume(tmp_path / "b.nii.gz", volume, path)  # as its file has it
    written = nib.load(tmp_path / "b.nii.gz")
    assert written.header.get_xyzt_units()[0] == unit and np.array_equal(written.affine, image.affine)


@pytest.mark.parametrize("size", [0.0, np.nan])
def test_a_voxel_without_a_size_is_refused_unless_the_sform_has_one(tmp_path, size):
    path = tmp_path / "a.nii"
    for code, fine in ((0, False), (1, True)):
        image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([2.0, 2.0, 2.0, 1.0]))
        image.set_qform(image.affine, 1)
        image.set_sform(image.affine, code)
        nib.save(image, path)
        content = bytearray(path.read_bytes())
        content[80:84] = np.array(size, "<f4").tobytes()
        path.write_bytes(content)
        if fine:
            assert read_volume(path).spacing == (2.0, 2.0, 2.0)
        else:
            with pytest.raises(InputError, match=f"voxels are {size:g}, 2, 2 mm large"):
                read_volume(path)


@pytest.mark.parametrize("spacing", [0.001, 0.02, 25.0])
def test_voxels_that_are_none_of_a_head_are_told_from_the_header(tmp_path, spacing):
    """Metres without the unit: before anything is registered, and by `inspect` too."""
    path = tmp_path / "t1.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.diag([1.0, 1.0, spacing, 1.0])), path)
    with pytest.raises(InputError, match=r"expected a head, .* of voxels of 0\.05 to 20 mm.*in another unit"):
        read_geometry(path)


PAGE = b"<!DOCTYPE html><html>404: not found</html>" * 20
IN_ITS_PLACE = [  # what lies there, and what is told of it
    *(
        (data, "holds a text, no image")
        for data in (PAGE, b'<?xml version="1.0"?><Error/>' * 9, b'{"status": 403} ' * 30)
    ),
    (b"PK\x03\x04" + bytes(600), "a zip archive; unpack it"),
    (bytes(257) + b"ustar" + bytes(600), "a tar archive"),
    (b"BZh9" + bytes(600), r"let its name end in \.nii\.bz2|not damaged"),
    (b"\xfd7zXZ\0" + bytes(600), "unxz"),
    (bytes(128) + b"DICM" + bytes(600), "is DICOM; convert it with dcm2niix"),
    (b"NRRD0004\n" + bytes(600), r"let its name end in \.nrrd"),
    (b"\0\0\0\1\0\0\0\5" + bytes(600), r"let its name end in \.mgh"),
    (b"\x89PNG" + bytes(600), "a picture or a document"),
    (b"\x5c\1\0\0" + bytes(600), "not packed|Analyze"),
]


@pytest.mark.parametrize(("data", "said"), IN_ITS_PLACE)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_lies_in_the_place_of_an_image_is_called_by_its_name(tmp_path, suffix, packed, data, said):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if packed else data)
    if packed and suffix == ".nii":
        said = "the file is gzip"
    elif data.startswith(b"BZh") and suffix == ".nii":
        said = "the file is bzip2"
    with pytest.raises(InputError, match=said):
        read_volume(path)


def test_a_file_that_is_packed_twice_is_called_that(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(gzip.compress(bytes(1000))))
    with pytest.raises(InputError, match="packed twice; unpack it once"):
        read_volume(path)
