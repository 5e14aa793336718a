"""Every image in a subject's folder is used, or named with the reason it is not; masks, pointers, and own results."""

import bz2
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.io.nifti import read_volume
from mrsynth.io.subjects import find_subject, find_subjects, load_subject, settle_masks
from tests.helpers import touch

T1, T1CE, T2, FLAIR = STANDARD
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
QUICK = ("--fast", "--no-self-check", "--no-progress")
RunCli = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]


def write(path: Path, voxels: Any = None, affine: Any = LPS, description: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5) if voxels is None else np.asarray(voxels, np.int16)
    image = nib.Nifti1Image(values, affine)
    image.header["descrip"] = description.encode()
    nib.save(image, path)
    return path


# Nothing is passed over in silence -----------------------------------------------------------------------------------

UNUSABLE = {
    "scan7.nii.gz": "its name states no contrast",
    "p1_T2starw.nii.gz": "T2*-weighted",
    "p1_part-phase_T2w.nii.gz": "a phase image",
    "p1_T1map.nii.gz": "a map computed from scans",
    "localizer.nii.gz": "a scout",
    "p1_adc.nii.gz": "a map computed from scans",
    "p1_mask.nii.gz": "a mask or segmentation",
    "old.mif": "in the format .mif",
    "gone.nii.gz": "a link to a file that is not there",
    "p1_t1ce_made.nii.gz": "synthetic: mrsynth made it",
    "more/p1_t1.nii.gz": "in a folder that is not looked into",
    "c1p1_t1_x.mnc": "in the format .mnc",
}


def test_inspect_and_complete_name_every_file_they_do_not_use(
    tmp_path: Path, only_tiny: Path, no_pictures: None, write_subject_folder: Write, run_cli: RunCli
) -> None:
    """On the screen, in report.json and in the sidecar, each with its reason; however many there are."""
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE])
    touch(folder, " ".join(name for name in UNUSABLE if name not in ("gone.nii.gz", "p1_t1ce_made.nii.gz")))
    (folder / "gone.nii.gz").symlink_to(tmp_path / "nowhere")
    write(folder / "p1_t1ce_made.nii.gz", description="SYNTHETIC T1ce by mrsynth 0.1.0 (x), not acquired")

    status, said, _ = run_cli("inspect", folder)
    assert status == 0 and "T1ce   missing" in said
    for name, why in UNUSABLE.items():
        assert f"  {name}: {why}" in said

    status, said, _ = run_cli("complete", folder, *QUICK)
    assert status == 0 and all(f"  {name}: {why}" in said for name, why in UNUSABLE.items())
    report = json.loads((folder / "mrsynth" / "report.json").read_text())
    sidecar = json.loads((folder / "mrsynth" / "p1_t1ce.json").read_text())
    assert set(report["not_used"]) == set(sidecar["NotUsed"]) == set(UNUSABLE)


BARELY_A_SCAN = {  # what lies there in the place of a T2, and what is told of it
    "p1_t2.nii.gz.part": "an unfinished download",
    "p1_t2.nii.gz.crdownload": "an unfinished download",
    "p1_t2.nii.gz.dvc": "dvc pull",
    "p1_t2": "an image whose name does not say so",
    "p1_t2.gz": "an image whose name does not say so",
    "p1_t2.hdr": "without its image p1_t2.img",
    "p1_t2.nii.gz/readme.txt": "a folder with 0 images",
    "p1_t2/p1_t2.nii.gz": "a folder with 1 images beside the scans",
    "T2_AX/IM0001": "a folder with 1 images beside the scans",
    ".p1_t2.nii.gz.icloud": "in iCloud and not here",
    **dict.fromkeys(
        (f"p1_t2.nii.gz{e}" for e in ("~", ".bak", ".old", ".zip", ".gz", ".7z.001", ".gpg")), "another wrapping"
    ),
    "p1_t2.nii.Z": "another wrapping",
    **dict.fromkeys(
        ("p1_t2.nii (1).gz", "p1_t2.nii.gz.txt", "p1_t2.nii.gz ", "p1_t2.nii.gz.", "p1_t2.nifti1.gz"), "does not say so"
    ),
    **dict.fromkeys(("p1_t2.zip", "p1_t2.tar.gz", "p1_t2.rar"), "a packed archive"),
    "p1_t2.dcm": "a DICOM file",
    "p1_t2.nifti": "another name: .nii",
    "p1_t2.NIFTI.GZ": "another name: .nii.gz",
    "p1_t2.nii.gz_": "another wrapping",
    "p1_t2.mnc.gz": "in the format .mnc.gz",
    "p1_t2.dcm.gz": "in the format .dcm.gz",
    **{f"p1_t2.{ending}": f"in the format .{ending}" for ending in ("h5", "hdf5", "pt", "pkl", "bmp")},
    "p1_t2.zarr/0.0": "in the format .zarr",
}


@pytest.mark.parametrize("name", BARELY_A_SCAN)
def test_a_contrast_that_is_there_in_another_shape_is_not_made_again(tmp_path: Path, name: str) -> None:
    write(tmp_path / "p1_t1.nii.gz")
    written = write(tmp_path / "x.nii.gz")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    written.rename(tmp_path / name)
    if name.endswith(".dcm"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    with pytest.raises(InputError, match=BARELY_A_SCAN[name]):
        find_subject(tmp_path)
    left_out = find_subject(tmp_path, needed=(T1CE,)).left_out
    assert any(BARELY_A_SCAN[name] in why for why in left_out.values())


def test_a_folder_that_cannot_be_read_stops_only_what_it_may_hold(tmp_path: Path, monkeypatch: Any) -> None:
    """Root may read any folder, so the system is asked to refuse."""
    write(tmp_path / "p1_t1.nii.gz")
    closed = tmp_path / "T2_AX"
    closed.mkdir()
    usual = os.scandir

    def refused(place: Any) -> Any:
        if Path(place) == closed:
            raise PermissionError(13, "Permission denied", str(place))
        return usual(place)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InputError, match=r"T2_AX.*a folder that cannot be read"):
        find_subject(tmp_path)
    found = find_subject(tmp_path, needed=(T1CE,))
    assert found.available == (T1,) and "cannot be read" in found.left_out[closed]


def test_a_pipe_is_no_scan_and_is_not_waited_for(tmp_path: Path) -> None:
    for contrast in STANDARD[:3]:
        write(tmp_path / f"p1_{contrast}.nii.gz")
    os.mkfifo(tmp_path / "p1_flair.nii.gz")
    with pytest.raises(InputError, match=r"p1_flair\.nii\.gz is a pipe, a socket or a device"):
        find_subject(tmp_path)


def test_a_dead_link_to_the_folder_of_a_contrast_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "p1_t1.nii.gz")
    (tmp_path / "FLAIR").symlink_to(tmp_path / "nowhere")
    (tmp_path / "p1_t2.json").symlink_to(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="FLAIR is a link to a file that is not there"):
        find_subject(tmp_path)


def test_dicom_in_a_folder_beside_scans_in_nifti_is_named(tmp_path: Path) -> None:
    write(tmp_path / "p1_t1.nii.gz")
    touch(tmp_path / "series2", "IM0001.dcm IM0002.dcm notes.txt")
    assert "a folder with 2 DICOM files" in find_subject(tmp_path).left_out[tmp_path / "series2"]


def test_a_packed_archive_in_the_place_of_a_folder_is_called_that(tmp_path: Path) -> None:
    touch(tmp_path, "scans.tar.gz")
    with pytest.raises(InputError, match=r"is a packed archive\. Unpack it"):
        find_subject(tmp_path / "scans.tar.gz")


def test_what_only_reminds_of_a_scan_disturbs_nobody(tmp_path: Path) -> None:
    write(tmp_path / "p1_t1.nii.gz")
    beside = (
        "p1_t2.nii.gz.json p1_t2.nii.gz.md5 p1_t1.nii.gz.bak p1_t1.nii.gz~ scans.zip p1_t2_seg.zip .notes.txt.icloud"
    )
    for name in ("p1_t2.gz", "p1_t2.txt", "README", "p1_t1.nii.gz.dvc", "p1_t1.nii.gz.part", *beside.split()):
        (tmp_path / name).write_text("T2 of patient 1")
    (tmp_path / "T2_of_study").mkdir()
    (tmp_path / "T2_of_study" / "notes.txt").write_text("none here")
    assert find_subject(tmp_path).available == (T1,) and not find_subject(tmp_path).left_out


def test_a_folder_called_like_a_file_stands_for_the_image_in_it(tmp_path: Path) -> None:
    write(tmp_path / "p1_t1.nii.gz")
    inside = write(tmp_path / "p1_t2.nii" / "00012.nii")
    assert find_subject(tmp_path).files[T2] == inside


def test_a_link_to_itself_is_a_dead_one(tmp_path: Path) -> None:
    write(tmp_path / "p1_t1.nii.gz")
    (tmp_path / "p1_t2.nii.gz").symlink_to("p1_t2.nii.gz")
    with pytest.raises(InputError, match="a link to a file that is not there"):
        find_subject(tmp_path)
    assert find_subject(tmp_path, needed=(T1CE,)).available == (T1,)


def test_a_scan_that_the_checkpoint_does_not_use_need_not_be_read(tmp_path: Path, run_cli: RunCli) -> None:
    """A series of diffusion images, another grid, an empty PD: named, and no reason to refuse."""
    for contrast in ("t1", "t2", "flair"):
        write(tmp_path / f"p1_{contrast}.nii.gz")
    write(tmp_path / "p1_dwi.nii.gz", np.arange(120).reshape(3, 4, 5, 2))
    (tmp_path / "p1_pd.nii.gz").touch()
    status, out, _ = run_cli("inspect", tmp_path)
    assert status == 0 and "DWI, which the checkpoint does not use" in " ".join(out.split())
    status, _, err = run_cli("complete", tmp_path, "--dry-run")
    assert status == 0, err


def test_a_folder_of_nothing_but_unusable_files_lists_all_of_them(tmp_path: Path, run_cli: RunCli) -> None:
    names = [name for name in UNUSABLE if name not in ("gone.nii.gz", "p1_t1ce_made.nii.gz", "more/p1_t1.nii.gz")]
    status, _, err = run_cli("inspect", touch(tmp_path, " ".join(names)))
    assert status == 4 and len(names) == 9
    assert all(name in err and UNUSABLE[name] in err for name in names)


def test_a_contrast_called_ct1_is_not_made_again(tmp_path: Path, only_tiny: Path, run_cli: RunCli) -> None:
    status, said, _ = run_cli("complete", touch(tmp_path, "T1 CT1 T2 FLAIR"))
    assert status == 0 and "Nothing is missing" in said
    assert not (tmp_path / "mrsynth").exists()


# In the place of a scan ----------------------------------------------------------------------------------------------

POINTERS = {
    "annex": (b"/annex/objects/MD5E-s123456--0123456789abcdef0123456789abcdef.nii.gz\n", "datalad get"),
    "annex, relative": (b"../../.git/annex/objects/aa/bb/SHA256E-s9--00.nii.gz/SHA256E-s9--00.nii.gz", "datalad get"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n", "git lfs pull"),
    "LFS, CR LF": (b"version https://git-lfs.github.com/spec/v1\r\noid sha256:00\r\nsize 1\r\n", "git lfs pull"),
}


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mgz"])
@pytest.mark.parametrize("kind", POINTERS)
def test_pointers_say_how_to_get_the_content(tmp_path: Path, kind: str, ending: str, run_cli: RunCli) -> None:
    content, how = POINTERS[kind]
    touch(tmp_path, "T1 T2")
    (tmp_path / f"FLAIR{ending}").write_bytes(content)

    status, _, err = run_cli("inspect", tmp_path)
    assert status == 4 and how in err and f"FLAIR{ending}" in err
    with pytest.raises(InputError, match=how):
        read_volume(tmp_path / f"FLAIR{ending}")
    with pytest.raises(InputError, match=how):
        find_subject(tmp_path, {FLAIR: tmp_path / f"FLAIR{ending}"})

    other = touch(tmp_path / "elsewhere", "x") / "x.nii.gz"
    assert find_subject(tmp_path, {FLAIR: other}).available == (T1, T2, FLAIR)  # it is not needed then


def test_all_scans_are_pointers(tmp_path: Path) -> None:
    for name in ("T1", "T2"):
        (tmp_path / f"{name}.nii.gz").write_bytes(POINTERS["LFS"][0])
    with pytest.raises(InputError, match="git lfs pull") as caught:
        find_subject(tmp_path)
    assert "T1.nii.gz" in str(caught.value) and "T2.nii.gz" in str(caught.value)
    assert "git lfs pull" in "".join(find_subjects(tmp_path)[1])


def test_dead_links_matter_only_where_they_are_needed(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01_T1w sub-01_T2w sub-01_FLAIR")
    for name in ("T2starw", "dwi", "PDw"):
        target = f"../../.git/annex/objects/aa/{name}.nii.gz"
        (tmp_path / f"sub-01_{name}.nii.gz").symlink_to(target)
    subject = find_subject(tmp_path)
    assert subject.available == (T1, T2, FLAIR)
    assert [why.split(";")[0] for why in subject.left_out.values()] == [
        "a link of git-annex whose content is not here"
    ] * 3

    (tmp_path / "sub-01_ce-gd_T1w.nii.gz").symlink_to("nowhere")
    with pytest.raises(
        InputError, match=r"ce-gd_T1w\.nii\.gz is a link to a file that is not there.*\. Its name says T1ce"
    ):
        find_subject(tmp_path)
    assert find_subject(tmp_path, needed=[T2]).available == (T1, T2, FLAIR)


# What mrsynth made ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_a_sidecar_in_any_encoding_tells_a_result(tmp_path: Path, encoding: str) -> None:
    touch(tmp_path, "p1_t1 p1_t2 p1_t1ce p1_t1ce_spread p1_t1ce_mean")
    content = json.dumps({"synthetic": True, "Description": "Grüße"}, ensure_ascii=False)
    (tmp_path / "p1_t1ce.json").write_text(content, encoding=encoding)
    subject = find_subject(tmp_path)
    assert subject.available == (T1, T2)
    assert list(subject.left_out.values()) == ["synthetic: mrsynth made it"] * 3


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["p1_t1ce.nii.gz", "T1ce_final.nii", "renamed_ct1.nii.gz"])
def test_the_header_tells_a_result_whatever_its_name(tmp_path: Path, name: str, kind: type[Any]) -> None:
    touch(tmp_path, "p1_t1 p1_t2")
    image = kind(np.ones((3, 4, 5), np.float32), LPS)
    image.header["descrip"] = b"SYNTHETIC T1ce by mrsynth 0.1.0 (fgc2f-ship), not acquired, not for diagnosis"
    nib.save(image, tmp_path / name)
    subject = find_subject(tmp_path)
    assert subject.available == (T1, T2) and list(subject.left_out) == [tmp_path / name]


def test_a_result_in_the_place_of_a_data_sets_file_is_no_scan(tmp_path: Path) -> None:
    for name in ("mr", "mask"):
        write(tmp_path / f"1BA001/{name}.nii.gz")
    write(tmp_path / "1BA001/ct.nii.gz", description="SYNTHETIC CT by mrsynth 0.2.0 (x)")
    subject = find_subject(tmp_path / "1BA001")
    assert subject.available == (Contrast.MR,) and subject.mask is not None
    assert list(subject.left_out.values()) == ["synthetic: mrsynth made it"]


# Masks ---------------------------------------------------------------------------------------------------------------

HALF = np.zeros((3, 4, 5), np.int16)
HALF[:, :2] = 1
OTHER = HALF.copy()
OTHER[0, 3, 0] = 1
MASKS: dict[str, tuple[dict[str, Any], str | None, str]] = {  # files -> the mask taken, and what is told
    "equal": (
        {"p1_t1_brain_mask": HALF, "p1_flair_brain_mask": HALF * 255},
        "p1_flair_brain_mask",
        "the same brain mask",
    ),
    "different, one of T1": ({"p1_t1_brain_mask": HALF, "p1_flair_brain_mask": OTHER}, "p1_t1_brain_mask", "differ"),
    "different, none of T1": ({"a_brain_mask": HALF, "b_brain_mask": OTHER}, None, "none is taken"),
    "two spaces": ({"p1_brain_mask": HALF, "p1_mni_brain_mask": np.ones((5, 5, 5))}, "p1_brain_mask", "another grid"),
}


@pytest.mark.parametrize("case", MASKS)
def test_several_brain_masks(tmp_path: Path, case: str) -> None:
    files, taken, told = MASKS[case]
    for name in ("p1_t1", "p1_flair"):
        write(tmp_path / f"{name}.nii.gz")
    for name, voxels in files.items():
        write(tmp_path / f"{name}.nii.gz", voxels)

    settled = settle_masks(find_subject(tmp_path))
    assert (settled.mask and settled.mask.name) == (taken and f"{taken}.nii.gz")
    assert told in "\n".join([*settled.notes, *settled.left_out.values()])
    mask = load_subject(tmp_path).mask
    assert (mask is not None) == (taken is not None)


def test_a_mask_named_by_option_wins(tmp_path: Path, run_cli: RunCli) -> None:
    """Also one called `mask`, which may be one of lesions, or that lies elsewhere."""
    for name in ("p1_t1", "p1_flair"):
        write(tmp_path / f"{name}.nii.gz")
    write(tmp_path / "mask.nii.gz", HALF)
    write(tmp_path / "p1_brain_mask.nii.gz", OTHER)

    assert find_subject(tmp_path).mask == tmp_path / "p1_brain_mask.nii.gz"
    chosen = find_subject(tmp_path, mask=tmp_path / "mask.nii.gz")
    assert chosen.mask == tmp_path / "mask.nii.gz"
    assert chosen.left_out == {tmp_path / "p1_brain_mask.nii.gz": "a brain mask, and another was named"}
    mask = load_subject(tmp_path, mask=tmp_path / "mask.nii.gz").mask
    assert mask is not None and (mask.voxels == HALF).all()
    status, said, _ = run_cli("inspect", tmp_path, "--mask", tmp_path / "mask.nii.gz")
    assert status == 0 and "mask   mask.nii.gz" in said
    status, _, err = run_cli("inspect", tmp_path, "--mask", tmp_path / "absent.nii.gz")
    assert status == 4 and "--mask" in err and "no such file" in err


# Encodings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_table_of_nnunet_in_any_encoding(tmp_path: Path, encoding: str, newline: str) -> None:
    touch(tmp_path, "case_0000 case_0002 case_0003")
    table = newline.join(['{"channel_names":', '{"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}}'])
    (tmp_path / "dataset.json").write_bytes(table.encode(encoding))
    assert find_subject(tmp_path).available == (T1, T2, FLAIR)


def test_names_that_are_no_utf_8_are_found(tmp_path: Path) -> None:
    home = os.fsencode(tmp_path) + b"/M\xfcller"
    os.mkdir(home)
    for name in (b"T1.nii.gz", b"T2_\xe4x.nii.gz"):
        with open(home + b"/" + name, "wb"):
            pass
    assert [s.available for s in find_subjects(tmp_path)[0]] == [(T1, T2)]


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (lambda brain: 0 * brain, "it marks nothing"),
        (lambda brain: 1 - brain, "it is inverted"),
    ],
)
def test_a_mask_that_is_none_is_refused(tmp_path: Path, mask: Callable[[Any], Any], why: str) -> None:
    write(tmp_path / "p1_t1.nii.gz", np.arange(720).reshape(8, 9, 10))
    write(tmp_path / "p1_brain_mask.nii.gz", mask(np.pad(np.ones((4, 5, 6), np.int16), 2)))
    with pytest.raises(InputError, match=why):
        load_subject(tmp_path)


def test_a_mask_of_probabilities_counts_from_a_half_on(tmp_path: Path) -> None:
    write(tmp_path / "p1_t1.nii.gz")
    values = np.zeros((3, 4, 5), np.float32)
    values[1, 1:3, 1:4] = [[0.1, 0.5, 1], [0.4, 0.9, 0.6]]
    nib.save(nib.Nifti1Image(values, LPS), tmp_path / "p1_brain_mask.nii.gz")
    mask = load_subject(tmp_path).mask
    assert mask is not None and np.array_equal(mask.voxels == 1, values >= 0.5)


@pytest.mark.parametrize("name", ["p1_t1ce.img", "p1_t1ce.nii.bz2"])
@pytest.mark.parametrize("said", ["SYNTHETIC T1ce by mrsynth 0.2.0 (x)", "synthetic t1ce by MRSYNTH"])
def test_a_result_in_another_form_is_still_a_result(tmp_path: Path, name: str, said: str) -> None:
    write(tmp_path / "p1_t1.nii.gz")
    plain = write(tmp_path / "x.nii", description=said)
    if name.endswith(".img"):
        nib.save(nib.Nifti1Pair.from_image(nib.load(plain)), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(bz2.compress(plain.read_bytes()))
    plain.unlink()
    assert find_subject(tmp_path).available == (T1,)
