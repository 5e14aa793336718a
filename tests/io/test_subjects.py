"""Discovery in folders of every layout, the names of outputs, reading, and what is said when something is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, UsageError
from mrsynth.io.subjects import (
    SubjectFiles,
    everything_below,
    find_subject,
    find_subjects,
    load_raw,
    load_subject,
    settle_masks,
)
from tests.helpers import touch

T1, T1CE, T2, FLAIR = STANDARD


def names_of(subject: SubjectFiles) -> dict[str, str]:
    return {contrast.value: path.name for contrast, path in subject.files.items()}


def save(path: Path, affine: NDArray[Any] | None = None, shape: tuple[int, ...] = (3, 4, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    if "brain_mask" in path.name:
        voxels = np.pad(np.ones([side - 2 for side in shape], np.int16), 1)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


# Layouts -------------------------------------------------------------------------------------------------------------

BRATS21 = "BraTS2021_00000_{}"
BRATS23 = "BraTS-GLI-00027-000-{}"


@pytest.mark.parametrize("missing", STANDARD)
@pytest.mark.parametrize("layout", ["brats21", "brats23", "bids", "nnunet"])
def test_output_takes_the_name_the_missing_scan_had(
    tmp_path: Path, write_subject_folder: Callable[..., Path], layout: str, missing: Contrast
) -> None:
    """Discovery and output naming are inverses: hide a scan, and its synthetic stand-in is called the same."""
    whole = find_subject(write_subject_folder(tmp_path / "whole", "sub-01", layout, segmentation=layout != "nnunet"))
    folder = write_subject_folder(tmp_path / "part", "sub-01", layout, without=[missing])
    subject = find_subject(folder)

    assert (whole.layout, whole.available, whole.missing()) == (layout, STANDARD, ())
    assert (subject.layout, subject.name, subject.folder) == (layout, "sub-01", folder)
    assert subject.missing() == (missing,)
    assert (whole.segmentation is not None) == (layout != "nnunet")
    expected = whole.files[missing].name
    if layout == "bids":  # a derivative must not pass for an acquisition
        expected = expected.replace("_ce-gadolinium_T1w", "_ce-gadolinium_desc-synth_T1w")
        expected = expected if missing is T1CE else expected.replace("sub-01_", "sub-01_desc-synth_")
    assert subject.output_name(missing) == expected


@pytest.mark.parametrize(
    ("files", "name", "layout", "found", "outputs"),
    [
        (
            ("p/BraTS2021_00000_t1 p/BraTS2021_00000_t2 p/BraTS2021_00000_seg"),
            *("BraTS2021_00000", "brats21", "t1 t2"),
            "BraTS2021_00000_t1ce BraTS2021_00000_flair BraTS2021_00000_flair_std",
        ),
        (
            "p/BraTS-GLI-00027-000-t1n p/BraTS-GLI-00027-000-t2f p/BraTS-GLI-00027-000-seg",
            *("BraTS-GLI-00027-000", "brats23", "t1 flair"),
            "BraTS-GLI-00027-000-t1c BraTS-GLI-00027-000-t2w BraTS-GLI-00027-000-t2w_std",
        ),
        (
            "p/anat/sub-A_ses-1_T1w p/anat/sub-A_ses-1_FLAIR p/dwi/sub-A_ses-1_dwi p/anat/sub-A_ses-1_T2starw",
            *("sub-A_ses-1", "bids", "t1 flair"),
            "sub-A_ses-1_ce-gadolinium_desc-synth_T1w sub-A_ses-1_desc-synth_T2w sub-A_ses-1_desc-synthstd_T2w",
        ),
        (
            "p/sub-A_space-MNI_T2w p/sub-A_space-MNI_desc-brain_FLAIR p/sub-A_space-MNI_desc-brain_mask",
            *("sub-A", "bids", "t2 flair"),
            "sub-A_space-MNI_desc-synth_T1w sub-A_ce-gadolinium_space-MNI_desc-synth_T1w "
            "sub-A_ce-gadolinium_space-MNI_desc-synthstd_T1w",
        ),
        ("p/T1_brain p/T2_brain p/T1_brain_mask", "p", "free", "t1 t2", "T1ce_brain FLAIR_brain FLAIR_brain_std"),
        ("p/t1 p/flair", "p", "free", "t1 flair", "t1ce t2 t2_std"),
        (
            "p/IXI2-Guys-T1 p/IXI2-Guys-T2 p/IXI2-Guys-PD",
            *("p", "free", "t1 t2 pd"),
            "IXI2-Guys-T1ce IXI2-Guys-FLAIR -",
        ),
        ("p/mprage p/x_T2-FLAIR", "p", "free", "t1 flair", "p_t1ce p_t2 p_t2_std"),
        ("p/scan_t1 p/scan_t2", "p", "brats21", "t1 t2", "scan_t1ce scan_flair scan_flair_std"),
        ("p/T1_AX p/T1_AX_POST_GAD p/T2_AX p/FLAIR_AX", "p", "free", "t1 t1ce t2 flair", ""),
        ("p/dwi_b0 p/dwi_b1000 p/T1 p/ADC", "p", "free", "t1", "T1ce T2 T2_std"),
        ("p/1BA001/mr p/1BA001/ct", "1BA001", "free", "ct mr", ""),
    ],
)
def test_layouts(tmp_path: Path, files: str, name: str, layout: str, found: str, outputs: str) -> None:
    touch(tmp_path, files)
    subject = find_subject(tmp_path / "p" if "1BA" not in files else tmp_path / "p" / name)

    assert (subject.name, subject.layout) == (name, layout)
    assert " ".join(subject.available) == found
    if outputs:
        first, second, second_std = outputs.split()
        assert [subject.output_name(c) for c in subject.missing()[:2]] == [f"{first}.nii.gz", f"{second}.nii.gz"]
        assert second_std in ("-", subject.output_name(subject.missing()[1], "std").removesuffix(".nii.gz"))


def test_extensions_in_any_case_and_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "T1.nii T2.NII.GZ FLAIR.Nii ._T1.nii.gz .T1.nii t1ce.json t1ce.raw x.nii.gz.part")

    assert names_of(find_subject(tmp_path)) == {"t1": "T1.nii", "t2": "T2.NII.GZ", "flair": "FLAIR.Nii"}


def test_the_folder_may_be_relative_or_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "case", "T1")
    (tmp_path / "link").symlink_to(tmp_path / "case", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "case")

    assert find_subject(".").name == "case"
    assert find_subject(str(tmp_path / "link")).name == "link"


def test_linked_scans(tmp_path: Path) -> None:
    """The link's name counts, not the name of the file it leads to, as in datalad and in data sets made of links."""
    store = touch(tmp_path / "store", "MD5E-s1--abc FLAIR")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "T1.nii.gz").symlink_to(store / "MD5E-s1--abc.nii.gz")
    (tmp_path / "p" / "T2.nii.gz").symlink_to(store / "FLAIR.nii.gz")

    assert find_subject(tmp_path / "p").available == (T1, T2)
    assert [subject.name for subject in find_subjects(tmp_path / "p")[0]] == ["p"]

    (store / "FLAIR.nii.gz").unlink()
    with pytest.raises(InputError, match=r"T2\.nii\.gz is a link to a file that is not there"):
        find_subject(tmp_path / "p")


# Segmentations and masks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "segmentation", "mask"),
    [
        ("p_seg", "p_seg", None),
        ("p_autoseg", "p_autoseg", None),
        ("p_seg p_autoseg", "p_seg", None),
        ("p_dseg p_autoseg", None, None),
        ("T1_brain_mask lesion_mask", "lesion_mask", "T1_brain_mask"),
        ("brainmask labels", "labels", "brainmask"),
        ("sub-1_desc-brain_mask sub-1_label-GM_probseg sub-1_dseg", "sub-1_dseg", "sub-1_desc-brain_mask"),
        ("t1_brainmask t2_brainmask", None, None),
        *((f"T1_{m}", None, f"T1_{m}") for m in ("BrainExtractionMask", "hdbet_mask", "hd-bet_mask", "robex_mask")),
        *(
            (f"p1_{m}", None, f"p1_{m}")
            for m in ("synthstrip_mask", "skullstrip_mask", "skull_stripped_mask", "brain_msk")
        ),
        *((m, None, None) for m in ("nonbrain_mask", "brainstem_mask", "face_mask", "skull_mask", "maske")),
        ("mask", None, None),  # of the brain or of a lesion: nobody knows
        ("brain_lesion_mask", "brain_lesion_mask", None),
        ("lesion_brain_mask", "lesion_brain_mask", None),
        ("brain_segmentation tumor_segmentation", "tumor_segmentation", None),
        ("synthseg aparc+aseg", None, None),
    ],
)
def test_segmentation_and_mask(tmp_path: Path, labels: str, segmentation: str | None, mask: str | None) -> None:
    subject = find_subject(touch(tmp_path, f"T1 {labels}"))

    assert (subject.segmentation and subject.segmentation.name) == (segmentation and f"{segmentation}.nii.gz")
    assert (subject.mask and subject.mask.name) == (mask and f"{mask}.nii.gz")
    assert subject.available == (T1,)


# What mrsynth wrote --------------------------------------------------------------------------------------------------


def test_own_output_is_never_an_input(tmp_path: Path) -> None:
    names = "p1_t1 p1_t2 p1_t1ce p1_t1ce_std p1_flair mrsynth/p1_flair derivatives/p1_flair sub-1_desc-synth_FLAIR"
    touch(tmp_path / "p1", names)
    (tmp_path / "p1" / "p1_t1ce.json").write_text(json.dumps({"synthetic": True}))
    (tmp_path / "p1" / "p1_flair.json").write_text(json.dumps({"synthetic": False}))
    (tmp_path / "p1" / "p1_t2.json").write_text("no JSON")

    subject = find_subject(tmp_path / "p1")

    assert subject.available == (T1, T2, FLAIR)
    assert subject.files[FLAIR].name == "p1_flair.nii.gz"
    assert find_subjects(tmp_path) == ([subject], [])


def test_a_folder_with_nothing_but_output(tmp_path: Path) -> None:
    touch(tmp_path, "p1_t1").joinpath("p1_t1.json").write_text('{"synthetic": true}')

    with pytest.raises(InputError, match=r"because mrsynth made them: p1_t1\.nii\.gz"):
        find_subject(tmp_path)


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True", "yes", "1"])
def test_a_sidecar_says_synthetic_in_any_of_these_ways(tmp_path: Path, value: object) -> None:
    touch(tmp_path, "p1_t1 p1_t2").joinpath("p1_t2.json").write_text(json.dumps({"Synthetic": value}))

    assert find_subject(tmp_path).available == (T1,)


@pytest.mark.parametrize("value", [False, 0, "false", "no", "", None, [True]])
def test_and_in_none_of_these(tmp_path: Path, value: object) -> None:
    touch(tmp_path, "p1_t1 p1_t2").joinpath("p1_t2.json").write_text(json.dumps({"synthetic": value}))

    assert find_subject(tmp_path).available == (T1, T2)


# nnU-Net -------------------------------------------------------------------------------------------------------------

CHANNELS = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}  # the order of the Decathlon, not that of mrsynth


@pytest.mark.parametrize("key", ["channel_names", "modality"])
@pytest.mark.parametrize("place", ["d/imagesTr", "d", "."])
def test_nnunet_channels_come_from_the_table(tmp_path: Path, key: str, place: str) -> None:
    folder = touch(tmp_path / "d/imagesTr", "A_1_0000 A_1_0002 B_0000")
    touch(tmp_path / "d/labelsTr", "A_1 B")
    (tmp_path / place / "dataset.json").write_text(json.dumps({key: CHANNELS}))

    subject = find_subject(folder / "A_1")

    assert (subject.name, subject.layout) == ("A_1", "nnunet")
    assert names_of(subject) == {"t1ce": "A_1_0002.nii.gz", "flair": "A_1_0000.nii.gz"}
    assert [subject.output_name(c) for c in subject.missing()] == ["A_1_0001.nii.gz", "A_1_0003.nii.gz"]
    assert subject.output_name(T2, "std") == "A_1_0003_std.nii.gz"
    assert subject.segmentation == tmp_path / "d/labelsTr/A_1.nii.gz"
    assert [(s.name, s.available) for s in find_subjects(tmp_path)[0]] == [("A_1", (T1CE, FLAIR)), ("B", (FLAIR,))]
    with pytest.raises(InputError, match="2 subjects: A_1, B"):
        find_subject(folder)
    with pytest.raises(InputError, match="no such folder"):
        find_subject(folder / "A")


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (None, "no dataset.json says"),
        ("{", "no usable table"),
        ('{"labels": {}}', "no usable table"),
        ('{"channel_names": ["T1"]}', "no usable table"),
        ('{"channel_names": {"0": "noNorm"}}', "noNorm: no known contrast"),
    ],
)
def test_nnunet_without_a_table(tmp_path: Path, table: str | None, why: str) -> None:
    folder = touch(tmp_path / "a/b/c", "CT_1_0000 CT_1_0001")
    if table:
        (folder / "dataset.json").write_text(table)

    with pytest.raises(InputError, match=why) as caught:
        find_subject(folder)

    assert "CT_1_0000.nii.gz" in str(caught.value) and "--flair FILE" in str(caught.value)
    files = {T1: folder / "CT_1_0000.nii.gz", T2: folder / "CT_1_0001.nii.gz"}
    assert find_subject(folder, files).files == files


# BIDS ----------------------------------------------------------------------------------------------------------------


def test_bids_sessions(tmp_path: Path) -> None:
    touch(tmp_path, "sub-1/ses-a/anat/sub-1_ses-a_T1w sub-1/ses-b/func/sub-1_ses-b_bold sub-1/ses-c/empty.txt")
    touch(tmp_path, "sub-2/anat/sub-2_T1w sub-2/anat/sub-2_ce-GD_T1w derivatives/fmriprep/sub-2/anat/sub-2_T1w")

    subject = find_subject(tmp_path / "sub-1")
    assert (subject.name, subject.folder, subject.layout) == ("sub-1_ses-a", tmp_path / "sub-1", "bids")
    assert find_subject(tmp_path / "sub-1/ses-a/anat").name == "sub-1_ses-a"

    touch(tmp_path, "sub-1/ses-b/anat/sub-1_ses-b_T2w")
    with pytest.raises(InputError, match="2 sessions") as caught:
        find_subject(tmp_path / "sub-1")
    assert all(str(tmp_path / f"sub-1/ses-{s}") in str(caught.value) for s in "ab")

    subjects, reasons = find_subjects(tmp_path)
    assert [(s.name, s.available) for s in subjects] == [
        *(("sub-1_ses-a", (T1,)), ("sub-1_ses-b", (T2,)), ("sub-2", (T1, T1CE)))
    ]
    assert not reasons
    with pytest.raises(InputError, match="Found derivatives/, sub-1/, sub-2/"):
        find_subject(tmp_path)


# Two candidates, overrides -------------------------------------------------------------------------------------------


def test_two_candidates_are_an_error_that_lists_both(tmp_path: Path) -> None:
    touch(tmp_path, "T1 T1_n4 T2")

    with pytest.raises(InputError) as caught:
        find_subject(tmp_path)

    assert str(tmp_path / "T1.nii.gz") in str(caught.value)
    assert str(tmp_path / "T1_n4.nii.gz") in str(caught.value)
    assert "--t1 FILE" in str(caught.value)
    chosen = find_subject(tmp_path, {T1: tmp_path / "T1_n4.nii.gz"})
    assert names_of(chosen) == {"t1": "T1_n4.nii.gz", "t2": "T2.nii.gz"}


@pytest.mark.parametrize("names", ["T1.nii T1.nii.gz", "mprage t1", "sub-1_run-1_T2w sub-1_run-2_T2w", "raw_T1 n4_T1"])
def test_more_ambiguities(tmp_path: Path, names: str) -> None:
    with pytest.raises(InputError, match="2 files could be the T"):
        find_subject(touch(tmp_path, names))


def test_overrides_may_lie_elsewhere_and_win(tmp_path: Path) -> None:
    touch(tmp_path, "p1/p1_t1 p1/p1_t2 p1/p1_weird elsewhere/x")
    given = {T1CE: tmp_path / "elsewhere/x.nii.gz", T2: tmp_path / "p1/p1_weird.nii.gz"}

    subject = find_subject(tmp_path / "p1", given)

    assert subject.files == {T1: tmp_path / "p1/p1_t1.nii.gz", **given}
    assert list(subject.files) == [T1, T1CE, T2]
    assert (subject.name, subject.layout, subject.output_name(FLAIR)) == ("p1", "brats21", "p1_flair.nii.gz")


def test_a_file_named_for_one_contrast_is_not_used_for_another(tmp_path: Path) -> None:
    touch(tmp_path, "p1_t1 p1_t2")

    assert names_of(find_subject(tmp_path, {FLAIR: tmp_path / "p1_t2.nii.gz"})) == {
        "t1": "p1_t1.nii.gz",
        "flair": "p1_t2.nii.gz",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({T1: "absent.nii.gz"}, "--t1 .*absent.* no such file"),
        ({T1: "sub"}, "--t1 .*sub.* no such file"),
        ({T1: "notes.txt"}, "expected a NIfTI file"),
        ({T1: "T2.nii.gz", FLAIR: "sub/../T2.nii.gz"}, "both --t1 and --flair"),
    ],
)
def test_unusable_overrides(tmp_path: Path, given: Mapping[Contrast, str], message: str) -> None:
    touch(tmp_path, "T2 notes.txt sub/T1")

    with pytest.raises(InputError, match=message):
        find_subject(tmp_path, {contrast: tmp_path / name for contrast, name in given.items()})


# Several subjects in one folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "subjects"),
    [
        ("P_01_t1 P_01_t2 P_01_seg P_02_t1 P_02_flair", "P_01 P_02"),
        ("P-01-t1n P-01-t2f P-01-seg P-02-t1n", "P-01 P-02"),
        ("IXI012-HH-1-T1 IXI012-HH-1-T2 IXI012-HH-1_seg IXI013-G-T1", "IXI012-HH-1 IXI013-G"),
        ("sub-1_T1w sub-1_FLAIR sub-1_dseg sub-11_T1w", "sub-1 sub-11"),
        ("P_01_t1 P_01_seg P_02_flair", "P_01 P_02"),  # no contrast twice, and still two people
    ],
)
def test_flat_folders(tmp_path: Path, names: str, subjects: str) -> None:
    folder = touch(tmp_path / "flat", names)

    found, reasons = find_subjects(tmp_path)

    assert " ".join(subject.name for subject in found) == subjects
    assert not reasons
    assert found == [find_subject(folder / subject.name) for subject in found]
    assert [subject.segmentation is not None for subject in found] == [True, False]
    with pytest.raises(InputError, match="2 subjects") as caught:
        find_subject(folder)
    assert all(subject in str(caught.value) for subject in subjects.split())


def test_different_prefixes_are_not_different_subjects(tmp_path: Path) -> None:
    assert find_subject(touch(tmp_path, "ax_t1 3D_flair cor_T2")).available == (T1, T2, FLAIR)


# Cohorts -------------------------------------------------------------------------------------------------------------


def test_find_subjects_at_any_depth(tmp_path: Path) -> None:
    touch(
        tmp_path, "b/x/P2/P2_t1 a/P1/T1 a/P1/mrsynth/P1_t2 a/.cache/P0/T1 a/junk/scan001 z/P3/T1 z/P3/T1_n4 c/notes.txt"
    )

    subjects, reasons = find_subjects(tmp_path)

    assert [subject.name for subject in subjects] == ["P1", "P2"]
    assert len(reasons) == 2
    assert "T1_n4" in reasons[0] and "scan001" in reasons[1], "each once; what could be mended first"


def test_what_is_left_out_is_told_once(tmp_path: Path) -> None:
    """A folder that could be mended, one without a scan, and with no subject at all the root itself."""
    below = everything_below(touch(tmp_path / "some", "a/junk/scan001 z/P3/T1 z/P3/T1_n4"))
    assert [len(lines) for lines in (below.problems, below.empty, below.notes)] == [1, 1, 0]
    assert len(set(below.left_out)) == 2
    (tmp_path / "none").mkdir()
    assert len(everything_below(tmp_path / "none").left_out) == 1


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "store/P1/T1 root/a/notes.txt")
    (tmp_path / "root/P1").symlink_to(tmp_path / "store/P1", target_is_directory=True)
    (tmp_path / "root/a/up").symlink_to(tmp_path / "root", target_is_directory=True)

    assert [subject.folder for subject in find_subjects(tmp_path / "root")[0]] == [tmp_path / "root/P1"]


def test_names_must_differ(tmp_path: Path) -> None:
    touch(tmp_path, "a/P1/T1 b/P1/T1")

    with pytest.raises(InputError, match="Two subjects are named P1") as caught:
        find_subjects(tmp_path)
    assert str(tmp_path / "a/P1") in str(caught.value) and str(tmp_path / "b/P1") in str(caught.value)


def test_find_subjects_where_there_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")

    subjects, reasons = find_subjects(tmp_path)

    assert not subjects
    assert "notes.txt" in reasons[0]
    for path in ("notes.txt", "absent"):
        with pytest.raises(InputError, match="expected a folder"):
            find_subjects(tmp_path / path)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "messages"),
    [
        ("", ["no scan in NIfTI format", "nothing at all"]),
        ("a.txt sub/T1.nii", ["no scan in NIfTI format", "a.txt, sub/"]),
        ("IM0001.dcm IM0002.dcm", ["IM0001.dcm", "mrsynth dicom"]),
        (
            "one.nii two.nii.gz T1_mask.nii",
            ["no contrast recognised", "one.nii", "two.nii.gz", "mprage", "--t1ce FILE"],
        ),
        ("T1_seg", ["no contrast recognised", "T1_seg.nii.gz: a mask or segmentation"]),
        (" ".join(f"x{i}.nii" for i in range(30)), [f"x{i}.nii: its name states no" for i in range(30)]),
    ],
)
def test_folders_without_a_contrast(tmp_path: Path, names: str, messages: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        find_subject(touch(tmp_path, names))

    assert str(tmp_path) in str(caught.value)
    assert all(message in str(caught.value) for message in messages)


def test_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "T1")
    for path, message in (("absent", "no such folder"), ("a/b", "no such folder"), ("T1.nii.gz", "is a file")):
        with pytest.raises(InputError, match=message):
            find_subject(tmp_path / path)


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is made by hand."""
    touch(tmp_path, "p1/T1 p2/T1")
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("p1"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)

    with pytest.raises(InputError, match="p1 cannot be read: Permission denied"):
        find_subject(tmp_path / "p1")
    subjects, reasons = find_subjects(tmp_path)
    assert [subject.name for subject in subjects] == ["p2"]
    assert len(reasons) == 1 and "Permission denied" in reasons[0]


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["brats21", "brats23", "bids", "nnunet", "free"])
def test_load_subject(
    tmp_path: Path,
    write_subject_folder: Callable[..., Path],
    brain_volumes: Callable[..., Any],
    layout: str,
) -> None:
    folder = write_subject_folder(tmp_path, "sub-01", layout, without=[T2], segmentation=layout != "nnunet")
    truth = brain_volumes()

    subject = load_subject(folder, segmentation=True)

    assert (subject.name, subject.available) == ("sub-01", (T1, T1CE, FLAIR))
    for contrast, volume in subject.volumes.items():
        assert np.array_equal(volume.voxels, truth[contrast].voxels)
        assert np.array_equal(volume.affine, truth[contrast].affine)
    assert (subject.segmentation is not None) == (layout != "nnunet")
    assert load_subject(find_subject(folder)).segmentation is None


def test_load_subject_with_mask_and_overrides(tmp_path: Path) -> None:
    save(tmp_path / "p/T1.nii.gz")
    save(tmp_path / "p/brain_mask.nii.gz")
    other = save(tmp_path / "x.nii")

    assert load_subject(tmp_path / "p").mask is not None
    assert load_subject(tmp_path / "p", mask=False).mask is None
    assert load_subject(tmp_path / "p", flair=other).available == (T1, FLAIR)
    assert load_subject(find_subject(tmp_path / "p"), flair=str(other)).available == (T1, FLAIR)
    with pytest.raises(UsageError, match="No contrast is named 'flare'"):
        load_subject(tmp_path / "p", flare=other)


@pytest.mark.parametrize("odd", ["T2.nii.gz", "brain_mask.nii.gz", "seg.nii.gz"])
def test_mixed_grids_name_the_two_files_and_affines(tmp_path: Path, odd: str) -> None:
    for name in ("T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz"):
        save(tmp_path / name)
    save(tmp_path / odd, affine=np.diag([2.5, 1, 1, 1]))

    with pytest.raises(InputError, match="different grids") as caught:
        load_subject(tmp_path, segmentation=True)

    message = str(caught.value)
    assert str(tmp_path / "T1.nii.gz") in message and str(tmp_path / odd) in message and "FLAIR" not in message
    assert "[1 0 0 0;" in message and "[2.5 0 0 0;" in message


def test_an_unreadable_scan_is_an_input_error(tmp_path: Path) -> None:
    save(tmp_path / "T1.nii.gz")
    (tmp_path / "T2.nii.gz").write_bytes(b"no image")

    with pytest.raises(InputError, match=r"T2\.nii\.gz"):
        load_subject(tmp_path)


def test_discovery_stays_light() -> None:
    """`mrsynth inspect` has 0.6 s for everything."""
    code = (
        "import sys, mrsynth.io.subjects; print({'numpy', 'nibabel', 'torch', 'yaml', 'pydantic'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "set()"


# Real data -----------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("archive", "count", "contrasts"),
    [
        ("ms_mni", 2, STANDARD),
        ("glioma_brats", 16, STANDARD),
        ("glioma_upenn", 4, STANDARD),
        ("ms_longitudinal", 5, (T1, T2, FLAIR)),
    ],
)
def test_every_case_of_an_archive(shared_data: Path, archive: str, count: int, contrasts: tuple[Contrast, ...]) -> None:
    root = shared_data / "data" / archive
    subjects, reasons = find_subjects(root)

    assert [s.name for s in subjects] == sorted(folder.name for folder in root.iterdir())
    assert (len(subjects), reasons) == (count, [])
    for subject in subjects:
        assert subject == find_subject(root / subject.name)
        assert (subject.layout, subject.available, subject.mask) == ("brats21", contrasts, None)
        assert all(path.name == f"{subject.name}_{contrast}.nii.gz" for contrast, path in subject.files.items())
        labels = [path for path in subject.folder.iterdir() if path.name.endswith("seg.nii.gz")]
        assert labels == ([subject.segmentation] if subject.segmentation else [])


@pytest.mark.real_data
def test_raw_scans_beside_their_brain_masks(shared_data: Path) -> None:
    subject = find_subject(shared_data / "data/raw_unaligned/TCGA-FG-6692")

    assert (subject.name, subject.layout, subject.mask) == ("TCGA-FG-6692", "free", None)
    assert names_of(subject) == {c.value: f"TCGA-FG-6692_{c}_raw.nii.gz" for c in STANDARD}
    with pytest.raises(InputError, match="different grids"):
        load_subject(subject)


@pytest.mark.real_data
def test_load_a_real_subject(shared_data: Path) -> None:
    subject = load_subject(shared_data / "data/ms_mni/ms19", segmentation=True)

    assert (subject.name, subject.available) == ("ms19", STANDARD)
    assert subject.reference.shape == (182, 218, 182)
    assert subject.segmentation is not None


def test_a_segmentation_may_be_empty(tmp_path, write_subject_folder):
    """Somebody healthy, or a slab beside the lesion; an image that is 0 everywhere stays an error."""
    folder = write_subject_folder(tmp_path, "healthy", segmentation=True)
    path = folder / "healthy_seg.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    assert not load_subject(folder, segmentation=True).segmentation.voxels.any()
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), folder / "healthy_t2.nii.gz")
    with pytest.raises(InputError, match="every voxel is 0"):
        load_subject(folder)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("value", [1, 2])
def test_a_mask_that_covers_all_of_its_volume_is_not_used(
    tmp_path: Path, write_subject_folder: Any, count: int, value: int
) -> None:
    """It does not say where the brain is: the stripped scans do, and of whole heads it would make one large brain."""
    folder = write_subject_folder(tmp_path, "p1")
    image = nib.load(folder / "p1_t1.nii.gz")
    for name in ("p1_brain_mask", "p1_bet_mask")[:count]:
        nib.save(nib.Nifti1Image(np.full(image.shape, value, np.uint8), image.affine), folder / f"{name}.nii.gz")
    settled = settle_masks(find_subject(folder))
    assert load_subject(folder).mask is None and settled.mask is None and settle_masks(settled) == settled
    assert len(settled.left_out) == count and all("every outer face" in why for why in settled.left_out.values())
    (named,) = [n for n in settle_masks(find_subject(folder, mask=folder / "p1_brain_mask.nii.gz")).notes]
    assert "p1_brain_mask.nii.gz marks most of every outer face" in named


def test_a_header_without_codes_is_told(write_subject_folder: Any, tmp_path: Path) -> None:
    folder = write_subject_folder(tmp_path, "p1")
    assert not [note for note in load_raw(find_subject(folder)).notes if "left and right" in note]
    for path in folder.glob("*.nii.gz"):
        image = nib.load(path)
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    (note,) = [note for note in load_raw(find_subject(folder), align="off").notes if "left and right" in note]
    assert note.startswith(
        "p1_t1.nii.gz, p1_t1ce.nii.gz, p1_t2.nii.gz, p1_flair.nii.gz: the header does not say where left and right are"
    )


def test_forms_that_contradict_one_another_are_told(write_subject_folder: Any, tmp_path: Path) -> None:
    folder = write_subject_folder(tmp_path, "p1")
    (path,) = folder.glob("*t2.nii.gz")
    for turn, told in ((np.diag([-1.0, 1.0, 1.0, 1.0]), 1), (np.eye(4), 0)):
        image = nib.load(path)
        image.set_qform(turn @ image.get_sform(), 1)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
        notes = [note for note in load_raw(find_subject(folder), align="off").notes if "sform and qform run" in note]
        assert [note.partition(":")[0] for note in notes] == ["p1_t2.nii.gz"] * told


def test_a_unit_in_which_it_would_be_no_head_is_told(write_subject_folder: Any, tmp_path: Path) -> None:
    folder = write_subject_folder(tmp_path, "p1")
    for path in folder.glob("*t2.nii.gz"):
        image = nib.load(path)
        image.header.set_xyzt_units("meter")
        nib.save(image, path)
    raw = load_raw(find_subject(folder), align="off")
    (note,) = [note for note in raw.notes if "millimetres" in note]
    assert note.startswith("p1_t2.nii.gz: the header states its sizes in meters")
