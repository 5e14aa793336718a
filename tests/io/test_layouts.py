"""Which data set a name is of, whose file it is, and who is one patient."""

from pathlib import Path

import pytest

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.io.collecting import read_subjects
from mrsynth.io.layouts import LAYOUTS, in_test_folder, looks_like, patient_of, survey
from mrsynth.io.subjects import SubjectFiles
from tests.helpers import touch


def read(name: str, root: Path) -> tuple[list[SubjectFiles], list[str]]:
    return read_subjects(name, root, survey(root))[:2]


def found(subject: SubjectFiles) -> str:
    return " ".join(subject.available)


@pytest.mark.parametrize(
    ("path", "look"),
    [
        ("x/BraTS20_Training_001_t1.nii", "brats20"),
        ("x/BraTS2021_00000_seg.nii.gz", "brats21"),
        ("x/BraTS-GLI-00027-000-t1n.nii.gz", "brats23"),
        ("x/BraTS-GLI-00027-001_t1.nii.gz", "brats23"),
        ("x/BraTS-GLI-00005-100-t1n.nii.gz", "brats24"),
        ("x/BraTS-GLI-00005-112-t1n.nii.gz", "brats24"),
        ("IXI-T1/IXI002-Guys-0828-T1.nii.gz", "ixi"),
        ("IXI002-Guys-0828/t1.nii.gz", "ixi"),
        ("d/VSD.Brain.XX.O.MR_Flair.70614.nii", "isles15"),
        ("d/VSD.Brain_3more.XX.O.OT.70617.nii", "isles15"),
        ("pre/FLAIR.nii.gz", "wmh"),
        ("0/wmh.nii.gz", "wmh"),
        ("1BA001/ct.nii.gz", "synthrad23"),
        ("x/phantom-000_t1.nii.gz", "phantom"),
        ("x/BraTS19_TCIA01_131_1_t1.nii.gz", "BraTS 2017 to 2019"),
        ("x/Brats18_TCIA01_131_1_t1.nii.gz", "BraTS 2017 to 2019"),
        ("x/BraTS-MEN-00004-000-t1c.nii.gz", "another task of BraTS (metastases, meningioma, children, Africa)"),
        ("d/VSD.Brain.XX.O.MR_CBF.7.nii", "ISLES 2015 SPES"),
        ("1PA001/ct.nii.gz", "synthrad23"),
        ("2BA001/cbct.nii.gz", ""),
        ("x/TCGA-FG-6692_t1.nii.gz", ""),
        ("T1/scan.nii.gz", ""),
    ],
)
def test_a_name_tells_the_data_set(path: str, look: str) -> None:
    assert looks_like(Path("/data") / path) == look


def test_the_example_of_a_layout_is_named_as_in_it() -> None:
    for name, layout in LAYOUTS.items():
        assert looks_like(Path("/data/x") / layout.example) == name


@pytest.mark.parametrize(
    ("dataset", "subject", "patient"),
    [
        ("brats20", "BraTS20_Training_001", "BraTS20_Training_001"),
        ("brats21", "BraTS2021_00027", "00027"),
        ("brats21", "BraTS-GLI-00027-000", "00027"),
        ("brats21", "TCGA-FG-6692", "TCGA-FG-6692"),
        ("brats23", "BraTS-GLI-00027-001", "00027"),
        ("brats24", "BraTS-GLI-00005-100", "BraTS-GLI-00005"),
        ("brats24", "BraTS-GLI-00005-101", "BraTS-GLI-00005"),
        ("ixi", "IXI002-Guys-0828", "IXI002"),
        ("wmh", "wmh-100", "wmh-100"),
        ("folder", "sub-01_ses-2", "sub-01"),
        ("folder", "sub-01", "sub-01"),
        ("folder", "BraTS-MET-00005-001", "BraTS-MET-00005"),
        ("folder", "case-1", "case-1"),
    ],
)
def test_the_patient_of_an_examination(dataset: str, subject: str, patient: str) -> None:
    assert patient_of(dataset, subject) == patient


@pytest.mark.parametrize(
    ("folder", "test"),
    [
        ("test/Utrecht/1", True),
        ("training/Utrecht/0", False),
        ("Utrecht/0", False),
        ("SISS2015_Testing/1", True),
        ("SISS2015_Training/Testing/1", True),
        ("Testing/SISS2015_Training/1", False),
        ("test/a/b/c/d/1", False),
        ("latest/1", False),
        ("test_of_something/1", False),
        ("test", False),  # a subject of that name
    ],
)
def test_the_nearest_folder_tells_the_organisers_test_subjects(folder: str, test: bool) -> None:
    assert in_test_folder(Path("/data/set") / folder) is test


# Subjects ------------------------------------------------------------------------------------------------------------

VSD = "VSD.Brain.XX.O.MR_{0}.7/VSD.Brain.XX.O.MR_{0}.7.nii"
SISS = " ".join(f"{{0}}/{VSD.format(c)}" for c in ("T1", "T2", "Flair", "DWI"))
OT = "{0}/VSD.Brain_3more.XX.O.OT.9/VSD.Brain_3more.XX.O.OT.9.nii"


def test_isles_numbers_begin_anew_in_the_test_set(tmp_path: Path) -> None:
    root = touch(tmp_path, f"{SISS} {OT}".format("SISS2015_Training/1") + " " + SISS.format("SISS2015_Testing/1"))

    training, test = read("isles15", root)[0]

    assert (training.name, test.name) == ("siss-01", "siss-test-01")
    assert training.folder == root / "SISS2015_Training/1"
    assert found(training) == "t1 t2 flair dwi"
    assert training.files[Contrast.FLAIR].name == "VSD.Brain.XX.O.MR_Flair.7.nii"
    assert training.segmentation == root / OT.format("SISS2015_Training/1")
    assert test.segmentation is None


def test_isles_files_without_folders_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "12/VSD.Brain.XX.O.MR_T1.1.nii 12/VSD.Brain.XX.O.MR_DWI.2.nii.gz 12/VSD.Brain.XX.O.OT.3.nii")

    (subject,) = read("isles15", tmp_path)[0]

    assert (subject.name, found(subject), subject.segmentation is not None) == ("siss-12", "t1 dwi", True)


def test_wmh_takes_pre_and_never_orig(tmp_path: Path) -> None:
    files = "pre/T1 pre/FLAIR pre/3DT1 orig/T1 orig/FLAIR orig/3DT1 wmh"
    for home in ("training/Utrecht/0", "training/Amsterdam/GE3T/100"):
        touch(tmp_path / home, files)
    touch(tmp_path, "additional_annotations/observer_o3/training/Utrecht/0/result")

    first, second = read("wmh", tmp_path)[0]

    assert (first.name, second.name) == ("wmh-000", "wmh-100")
    assert first.folder == tmp_path / "training/Utrecht/0"
    assert first.files == {c: first.folder / f"pre/{c.label}.nii.gz" for c in (Contrast.T1, Contrast.FLAIR)}
    assert first.segmentation == first.folder / "wmh.nii.gz"
    assert [s.name for s in read("wmh", first.folder.parent)[0]] == ["wmh-000"]  # the name is the same from any root


@pytest.mark.parametrize(
    "names",
    [
        "IXI-T1/IXI002-Guys-0828-T1 IXI-T2/IXI002-Guys-0828-T2 IXI-PD/IXI002-Guys-0828-PD IXI-MRA/IXI002-Guys-0828-MRA",
        "IXI002-Guys-0828/t1 IXI002-Guys-0828/t2 IXI002-Guys-0828/pd IXI002-Guys-0828/brain_mask",
        "IXI002-Guys-0828/IXI002-Guys-0828-T1_brain IXI002-Guys-0828/IXI002-Guys-0828-T2_brain.nii "
        "IXI002-Guys-0828/IXI002-Guys-0828-PD_brain",
        "flat/IXI002-Guys-0828-T1 flat/IXI002-Guys-0828-T2 flat/IXI002-Guys-0828-PD flat/notes.txt",
    ],
)
def test_ixi_by_contrast_or_by_subject(tmp_path: Path, names: str) -> None:
    (subject,), problems = read("ixi", touch(tmp_path, names))

    assert (subject.name, found(subject), problems) == ("IXI002-Guys-0828", "t1 t2 pd", [])
    assert all(path.is_relative_to(subject.folder) for path in subject.files.values())


def test_ixi_with_raw_and_prepared_files_names_both(tmp_path: Path) -> None:
    touch(tmp_path, "raw/IXI002-Guys-0828-T1 done/IXI002-Guys-0828-T1_brain raw/IXI003-HH-1-T1")

    subjects, problems = read("ixi", tmp_path)

    assert [s.name for s in subjects] == ["IXI003-HH-1"]
    (problem,) = problems
    assert problem.startswith("IXI002-Guys-0828: more than one file for a contrast (T1: ")
    assert str(tmp_path / "raw/IXI002-Guys-0828-T1.nii.gz") in problem
    assert str(tmp_path / "done/IXI002-Guys-0828-T1_brain.nii.gz") in problem


def test_synthrad_takes_brains_with_their_mask(tmp_path: Path) -> None:
    touch(tmp_path, "Task1/brain/1BA001/ct Task1/brain/1BA001/mr Task1/brain/1BA001/mask Task1/pelvis/1PA001/ct")
    touch(tmp_path, "Task1/brain/overview/1BA001_train.png Task1/brain/1BB002/readme.txt")

    (subject,), problems = read("synthrad23", tmp_path)

    assert (subject.name, found(subject)) == ("1BA001", "ct mr")
    assert subject.mask == subject.folder / "mask.nii.gz"
    assert [problem.split(":")[0] for problem in problems] == ["1BB002"]


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        ("wmh", "a/0/pre/T1 b/0/pre/T1"),
        ("isles15", f"a/1/{VSD.format('T1')} b/1/{VSD.format('T1')}"),
        ("synthrad23", "a/1BA001/ct b/1BA001/ct"),
        ("brats21", "a/BraTS2021_00000/BraTS2021_00000_t1 b/BraTS2021_00000/BraTS2021_00000_t1"),
    ],
)
def test_two_subjects_of_one_name_are_both_named(tmp_path: Path, dataset: str, names: str) -> None:
    touch(tmp_path, names)

    with pytest.raises(InputError, match="Two subjects are named") as caught:
        read(dataset, tmp_path)

    assert str(tmp_path / "a") in str(caught.value) and str(tmp_path / "b") in str(caught.value)


def test_links_to_nowhere_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "1BA001/ct 1BA001/mr 1BA002/ct")
    (tmp_path / "1BA002/mr.nii.gz").symlink_to(tmp_path / "gone")

    subjects, problems = read("synthrad23", tmp_path)

    assert [s.name for s in subjects] == ["1BA001"]
    assert "1BA002" in problems[0] and "link to a file that is not there" in problems[0] and len(problems) == 1


# BraTS ---------------------------------------------------------------------------------------------------------------


def test_the_misnamed_segmentation_of_brats20_is_found(tmp_path: Path) -> None:
    """Copies of BraTS 2020 hold the labels of subject 355 under a name of their source."""
    touch(tmp_path / "BraTS20_Training_355", "BraTS20_Training_355_t1.nii W39_1998.09.19_Segm.nii")

    (subject,) = read("brats20", tmp_path)[0]

    assert subject.segmentation is not None and subject.segmentation.name == "W39_1998.09.19_Segm.nii"


def test_files_of_2023_may_lie_in_brats21_and_the_same_examination_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "BraTS2021_00001/BraTS2021_00001_t1 TCGA-FG-1/TCGA-FG-1_t1")
    for name in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"):
        touch(tmp_path, f"{name}/{name}-t1n")

    for dataset, twin in (("brats21", "BraTS-GLI-00001-000"), ("brats23", "BraTS2021_00001")):
        subjects, problems = read(dataset, tmp_path)

        assert [problem.split(":")[0] for problem in problems] == [twin] and "the same examination" in problems[0]
        assert len(subjects) == 4 and twin not in {subject.name for subject in subjects}


def test_where_label_4_means_something_else_names_do_not_mix(tmp_path: Path) -> None:
    touch(tmp_path, "BraTS-GLI-00005-100/BraTS-GLI-00005-100-t1n BraTS2021_00001/BraTS2021_00001_t1 X/X_t1")

    for dataset, kept, left_out in (
        ("brats24", ["BraTS-GLI-00005-100"], ["BraTS2021_00001", "X"]),
        ("brats21", ["BraTS2021_00001", "X"], ["BraTS-GLI-00005-100"]),
    ):
        subjects, problems = read(dataset, tmp_path)

        assert [subject.name for subject in subjects] == kept
        assert [problem.split(":")[0] for problem in problems] == left_out


def test_folders_of_subjects_without_scans_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "BraTS2021_00001/BraTS2021_00001_t1 BraTS2021_00002/BraTS2021_00002_seg name_mapping.csv")
    (tmp_path / "BraTS2021_00003").mkdir()

    subjects, problems = read("brats21", tmp_path)

    assert [subject.name for subject in subjects] == ["BraTS2021_00001"]
    assert [problem.split(":")[0] for problem in problems] == ["BraTS2021_00002", "BraTS2021_00003"]
    assert all("holds no scan" in problem for problem in problems)
