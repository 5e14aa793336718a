"""DICOM series as four vendors name them, made from a small head by SimpleITK."""

import os
import struct
import zipfile

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.io.archives import unpack
from mrsynth.io.dicom import guess, is_dicom, read_series, series_below
from mrsynth.io.dicom_elements import DEFLATED, UNDEFINED, fits
from tests.helpers import VENDORS, at_most

SHAPE = (12, 10, 8)  # of what write_series writes: K, J, I
TURNED = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
SPACING = (1.1, 0.9, 2.5)

T1, T1CE, T2, FLAIR = Contrast.T1, Contrast.T1CE, Contrast.T2, Contrast.FLAIR


@pytest.mark.parametrize("habit", VENDORS)
def test_series_are_told_apart_as_vendors_name_them(habit, tmp_path, write_series):
    for number, (description, tr, te, ti, agent, _) in enumerate(VENDORS[habit], start=1):
        write_series(tmp_path / "scan", number, description, tr, te, ti, agent)
    found = series_below(tmp_path)

    assert [guess(series).contrast for series in found] == [row[-1] for row in VENDORS[habit]]
    assert [series.number for series in found] == [1, 2, 3, 4]
    assert not any("SECRET" in f"{series} {guess(series)}" for series in found)


@pytest.mark.parametrize(("agent", "contrast"), [("ohne", T1), ("kein", T1), ("NA", T1), ("Nil", T1), ("Gd", T1CE)])
def test_a_field_that_names_no_agent_is_that_of_a_t1(agent, contrast, tmp_path, write_series):
    write_series(tmp_path, 1, "t1_tra", 500, 10, None, agent)
    assert guess(series_below(tmp_path)[0]).contrast is contrast


def test_the_volume_is_that_of_the_scanner(tmp_path, write_series):
    """Files are named in the reverse order of their slices; the affine is that of the image in RAS+."""
    write_series(tmp_path, 3, "t1")
    volume = read_series(series_below(tmp_path)[0])
    turned = np.array(TURNED).reshape(3, 3) * SPACING

    assert np.array_equal(volume.voxels, np.arange(np.prod(SHAPE)).reshape(SHAPE).T.astype(np.float32))
    assert np.allclose(volume.affine[:3, :3], np.diag([-1, -1, 1]) @ turned, atol=1e-5)
    assert np.allclose(volume.affine[:3, 3], (20.0, -30.0, -5.0), atol=1e-5)


@pytest.mark.parametrize(
    ("description", "options", "reason"),
    [
        ("localizer", {}, "localiser"),
        ("t1 tra", {"image_type": "DERIVED\\PRIMARY\\P"}, "derived image"),
        ("ep2d_diff_ADC", {}, "derived image"),
        ("t2_tra", {"skip": (4, 5)}, "2 slices are missing"),
        ("t2_tra", {"twice": (3,)}, "1 of its slices lie where another one lies"),
        ("t2_tra", {"skip": range(3, 12)}, "3 slices only"),
        ("t2_tra", {"each": lambda k: {"0018|0081": str(20 + 80 * (k % 2))}}, "of several echo times"),
        ("t2_tra", {"each": lambda k: {"0020|0032": f"-20\\{30 + 0.3 * k}\\{-5 + 2.5 * k}"}}, "3.3 mm sideways"),
        ("t2_tra", {"image_type": "ORIGINAL\\PRIMARY\\M\\MOSAIC"}, "derived image (MOSAIC)"),
        ("t1_tra", {"image_type": "DERIVED\\PRIMARY\\M\\SUB"}, "derived image (SUB)"),  # what JSON files call none too
        ("t2_tra", {"tr": 500, "te": 10}, "its description says T2, its timing (TR 500 ms TE 10 ms) says T1"),
        ("something", {"tr": 1500, "te": 40}, "neither its description nor its timing"),
    ],
)
def test_what_is_no_scan_or_no_whole_one_is_named(description, options, reason, tmp_path, write_series):
    write_series(tmp_path, 1, description, **options)
    (series,) = series_below(tmp_path)

    assert guess(series).contrast is None
    assert reason in guess(series).reason


def test_inverted_greys_are_named(tmp_path, write_series):
    write_series(tmp_path, 1, "t1_tra")
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1"))
    found = guess(series_below(tmp_path)[0])

    assert found.contrast is None and "do not grow with brightness (MONOCHROME1)" in found.reason


@pytest.mark.parametrize(
    ("description", "options", "could_be"),
    [
        ("AX T1 STEALTH POST", {"tr": 500, "te": 10}, T1CE),
        ("T1 tra nach KM", {"tr": 500, "te": 10}, T1CE),
        ("T1 po kontraście", {"tr": 500, "te": 10}, T1CE),
        ("AX T1 FLAIR", {"tr": 2000, "te": 10, "ti": 860}, T1),
        ("POST AX T1", {"tr": 500, "te": 10}, (T1, T1CE)),
        ("AX T1 W/WO", {"tr": 500, "te": 10}, (T1, T1CE)),
        ("AX T1 W/OUT GAD", {"tr": 500, "te": 10}, T1),
        ("AX T1 -C", {"tr": 500, "te": 10}, T1),
        ("AX T1 ORBITS", {"tr": 500, "te": 10}, (T1,)),
        ("AX T1 ORBITS GD", {"tr": 500, "te": 10, "agent": "Gadovist"}, (T1CE,)),
        ("t2_spc_ir_sag", {"tr": 5000, "te": 100}, (T2, FLAIR)),
        ("t2_spc_ir_sag", {"tr": 5000, "te": 100, "ti": 1800}, FLAIR),
        *(
            (name, {"tr": 500, "te": 10}, ())
            for name in ("t1_dixon_opp", "FAT: Ax T1 IDEAL", "T1 C-SPINE", "SAG LOC T1")
        ),
        ("t1_vibe", {"tr": 5, "te": 2, "image_type": "DERIVED\\PRIMARY\\DIXON\\FAT"}, ()),
        ("POST AX T1", {"tr": 500, "te": 10, "agent": "Gadovist"}, T1CE),
        ("AX T1 FLAIR", {"tr": 1500, "te": 40}, (T1, FLAIR)),
        ("t2_tra", {"skip": (4, 5)}, (T2,)),
        ("t2_tra", {"skip": range(3, 12)}, ()),
        ("t2_tra", {"each": lambda k: {"0020|0032": f"-20\\{30 + 0.3 * k}\\{-5 + 2.5 * k}"}}, (T2,)),
        ("t2_tra", {"each": lambda k: {"0018|0081": str(20 + 80 * (k % 2))}}, (T2,)),
        ("t1_tra", {"agent": "Gadovist", "skip": (4,)}, (T1CE,)),
        ("t2_tra", {"tr": 500, "te": 10}, (T2, T1)),
        ("t1_mp2rage_INV1", {"tr": 500, "te": 10}, ()),
        ("t1_mpr_ns_sag_pat2_iso", {"tr": 2300, "te": 3, "ti": 900}, T1),
        ("t1_mpr_ns_sag_pat2_iso_KM", {"tr": 2300, "te": 3, "ti": 900}, T1CE),
        ("t1_gre_fsp_3d_sag_iso_+C", {"tr": 8, "te": 3}, T1CE),
        ("t1_mpr_tra", {"tr": 2300, "te": 3, "ti": 900, "image_type": "DERIVED\\PRIMARY\\MPR\\NORM"}, ()),
        ("t2_gre_tra", {"tr": 500, "te": 20}, ()),
        *(
            (name, {"tr": 6, "te": 3}, ())
            for name in ("Sag 3D CISS", "FIESTA-C", "B1 calibration", "ASSET cal", "SmartBrain")
        ),
        ("FGATIR", {"tr": 3000, "te": 4, "ti": 400}, ()),
        ("T1 DCE", {"tr": 5, "te": 2}, ()),
    ],
)
def test_a_series_that_could_be_either_is_not_guessed(description, options, could_be, tmp_path, write_series):
    write_series(tmp_path, 1, description, **options)
    found = guess(series_below(tmp_path)[0])
    assert (found.contrast or found.could_be) == could_be


def test_a_multi_frame_image_is_a_scan_that_is_there(tmp_path, write_series):
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.arange(600, dtype=np.int16).reshape(6, 10, 10))
    for tag, value in {"0008|0060": "MR", "0008|103e": "t2_tra", "0020|000e": "1.2.3", "0020|0011": "7"}.items():
        image.SetMetaData(tag, value)
    SimpleITK.WriteImage(image, tmp_path / "enhanced.dcm")
    found = guess(series_below(tmp_path)[0])
    assert found.contrast is None and found.could_be == (T2,) and "multi-frame" in found.reason


def test_a_series_with_a_gap_is_not_read(tmp_path, write_series):
    write_series(tmp_path, 7, "t1_tra", skip=(6,))
    with pytest.raises(InputError, match=r'series 7 "t1_tra": 1 slices are missing'):
        read_series(series_below(tmp_path)[0])


def test_other_files_are_passed_over_and_none_at_all_is_an_error(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(50))
    (tmp_path / "notes.txt").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    assert is_dicom(tmp_path / "DICOMDIR") and not is_dicom(tmp_path / "notes.txt")
    assert not is_dicom(tmp_path / "pipe") and not is_dicom(tmp_path)
    with pytest.raises(InputError, match="no DICOM image"):
        series_below(tmp_path)


def changed(path, element, value):
    """A file with another value of an element of group 0028, little-endian and without types, as ITK writes it."""
    data = path.read_bytes()
    tag = struct.pack("<HH", 0x28, element)
    if (at := data.find(tag)) < 0:  # before the pixels
        at = end = data.index(struct.pack("<HH", 0x7FE0, 0x10))
    else:
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    path.write_bytes(data[:at] + tag + struct.pack("<I", len(value)) + value + data[end:])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({0x10: b"\xff\xff", 0x11: b"\xff\xff"}, "claims 65535x65535 voxels"),
        ({0x30: b"1000\\1000 "}, "is 10 m long"),
        ({0x30: b"nan\\nan "}, "how large their pixels are"),
        ({0x30: b"0\\0 "}, "how large their pixels are"),
        ({0x30: b""}, "how large their pixels are"),
        ({0x1053: b"nan "}, "slope or intercept is no number"),
    ],
)
@pytest.mark.parametrize("slices", [1, 8])
def test_what_slices_claim_is_not_believed(changes, reason, slices, tmp_path, write_series):
    write_series(tmp_path, 1, "t1_tra")
    for path in sorted(tmp_path.iterdir())[:slices]:
        for element, value in changes.items():
            changed(path, element, value)
    with at_most(2**20), pytest.raises(InputError, match=reason):
        read_series(series_below(tmp_path)[0])


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", DEFLATED.decode()]
)
def test_elements_fit_into_their_file(tmp_path, syntax):
    """At every depth, with lengths stated or not; GDCM takes memory for whatever length an element states."""
    order = ">" if syntax.endswith("2.2") else "<"
    explicit = syntax != "1.2.840.10008.1.2"

    def element(group, number, kind, value, length=None, how=None):
        tag, size = struct.pack((how or order) + "HH", group, number), len(value) if length is None else length
        if how is None and not explicit:
            return tag + struct.pack("<I", size) + value
        if kind in (b"SQ", b"OW", b"UN"):
            return tag + kind + bytes(2) + struct.pack(order + "I", size) + value
        return tag + kind + struct.pack((how or order) + "H", size) + value

    def item(value, length=None):
        return struct.pack(order + "HHI", 0xFFFE, 0xE000, len(value) if length is None else length) + value

    def delimiter(number):
        return struct.pack(order + "HHI", 0xFFFE, number, 0)

    def file(*elements):
        head = element(2, 16, b"UI", syntax.encode() + bytes(len(syntax) % 2), how="<")
        (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + head + b"".join(elements))
        return fits(tmp_path / "a.dcm")

    name, pixels = element(16, 16, b"PN", b"A^B "), element(0x7FE0, 16, b"OW", bytes(50))
    nested = element(8, 0x1140, b"SQ", item(name + element(8, 0x1199, b"SQ", item(name))))
    endless = element(8, 0x1140, b"SQ", item(name, UNDEFINED) + delimiter(0xE00D) + delimiter(0xE0DD), UNDEFINED)
    fragments = element(0x7FE0, 16, b"OW", item(b"") + item(b"\xff" * 40) + delimiter(0xE0DD), UNDEFINED)
    whole = syntax != DEFLATED.decode()
    for sound in (
        (name, pixels),
        (nested, pixels),
        (endless, name, pixels),
        (name, fragments),
        (name, pixels, bytes(3)),
    ):
        assert file(*sound) == whole
    far = element(0x7FE0, 16, b"OW", bytes(50), 2**31)
    for damaged in (
        (name, far),
        (name, pixels[:-1]),
        (element(8, 0x1140, b"SQ", item(name + element(9, 1, b"UN", b"", 2**30))), pixels),
        (endless[:-30] + element(9, 1, b"UN", b"", 2**30), pixels),
        (element(0x7FE0, 16, b"OW", item(bytes(8), 2**31), UNDEFINED),),
    ):
        assert not file(*damaged)


def test_a_slice_that_is_damaged_is_named(tmp_path, write_series, caplog):
    """The one at the end, too, which leaves no gap."""
    write_series(tmp_path, 1, "t1_tra")
    last = sorted(tmp_path.iterdir())[0]
    last.write_bytes(last.read_bytes()[:-100])
    series_below(tmp_path)
    assert f"1 DICOM files hold no image that can be read: {last.name}" in caplog.text


def test_an_archive_that_unpacks_into_far_more_than_it_is_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("a", bytes(2**24))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="holds too much for one examination: 1 files, 16777216 bytes"):
        unpack(tmp_path / "scan.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_an_archive_is_unpacked_by_number(tmp_path, write_series):
    """Names in an archive may lead out of the folder."""
    write_series(tmp_path / "in", 1, "t2_tra", 5000, 100)
    archive = tmp_path / "scan.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for number, path in enumerate(sorted((tmp_path / "in").iterdir())):
            content.write(path, f"../../{number}.dcm")
    (tmp_path / "out").mkdir()
    unpack(archive, tmp_path / "out")

    assert guess(series_below(tmp_path / "out")[0]).contrast is T2
    assert not list(tmp_path.glob("*.dcm"))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (["p1/p1_t1.nii.gz", "p1/p1_t2.nii.gz"], "no DICOM: p1/p1_t1"),
        (["IM1", "p1_t1.nii.gz"], "no DICOM: p1_t1.nii.gz"),  # one of both would be passed over
        (["inner/dcm.zip", "__MACOSX/._x"], r"scan\.zip holds no DICOM; found inner/dcm\.zip\."),
        ([], "nothing at all"),
    ],
)
def test_an_archive_of_anything_else_is_called_that(members, said, tmp_path):
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as content:
        for name in members:
            content.writestr(name, bytes(128) + b"DICM" if name == "IM1" else b"else")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=said):
        unpack(tmp_path / "scan.zip", tmp_path / "out")


def test_a_pipe_is_no_archive_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "scan.zip")
    with pytest.raises(InputError, match="is a pipe"):
        unpack(tmp_path / "scan.zip", tmp_path)


def test_a_damaged_archive_is_refused(tmp_path):
    (tmp_path / "scan.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(tmp_path / "scan.zip", tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_archive_is_refused_whose_content_is_damaged(method, tmp_path):
    inside, refused = bytes(range(256)) * 8, 0
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", method) as content:
        content.writestr("a", inside)
    whole = (tmp_path / "scan.zip").read_bytes()
    for place in range(31, whole.index(b"PK\x01\x02"), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "scan.zip").write_bytes(damaged)
        (tmp_path / f"{place}").mkdir()
        try:
            unpack(tmp_path / "scan.zip", tmp_path / f"{place}")
        except InputError:
            refused += 1
        else:  # bits that nothing stands in
            assert (tmp_path / f"{place}" / "00000.dcm").read_bytes() == inside
    assert refused
