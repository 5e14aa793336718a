"""The data sets of the benchmark as their providers release them: whole trees, extras included.

Each tree has the folders, names and extra files that the release's own page or paper describes, for few subjects.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mrsynth.io.datasets import DATASETS, open_dataset
from mrsynth.io.subjects import find_subjects


@dataclass(frozen=True)
class Release:
    """A tree, its subjects with their contrasts, how many have a mask and labels, and what is told of the rest."""

    tree: str
    subjects: dict[str, str]
    masks: int = 0
    labels: int = 0
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def product(prefix: str, words: str, ending: str = ".nii.gz") -> str:
    return " ".join(f"{prefix}{word}{ending}" for word in words.split())


ISLES = (
    "{0}/VSD.Brain.XX.O.MR_{1}.{2}/VSD.Brain.XX.O.MR_{1}.{2}.nii "
    "{0}/VSD.Brain.XX.O.MR_{1}.{2}/VSD.Brain.XX.O.MR_{1}.{2}.txt"
)
RELEASES = {
    "brats20": Release(
        "MICCAI_BraTS2020_TrainingData/name_mapping.csv MICCAI_BraTS2020_TrainingData/survival_info.csv "
        + product(
            "MICCAI_BraTS2020_TrainingData/BraTS20_Training_001/BraTS20_Training_001_", "t1 t1ce t2 flair seg", ".nii"
        )
        + " "
        + product(
            "MICCAI_BraTS2020_TrainingData/BraTS20_Training_355/BraTS20_Training_355_", "t1 t1ce t2 flair", ".nii"
        )
        + " MICCAI_BraTS2020_TrainingData/BraTS20_Training_355/W39_1998.09.19_Segm.nii"  # its labels have this name
        + " MICCAI_BraTS2020_ValidationData/name_mapping_validation_data.csv"
        + " MICCAI_BraTS2020_ValidationData/survival_evaluation.csv "
        + product(
            "MICCAI_BraTS2020_ValidationData/BraTS20_Validation_001/BraTS20_Validation_001_", "t1 t1ce t2 flair", ".nii"
        ),
        {f"BraTS20_{n}": "t1 t1ce t2 flair" for n in ("Training_001", "Training_355", "Validation_001")},
        labels=2,
    ),
    "brats21": Release(
        product("RSNA_ASNR_MICCAI_BraTS2021_TrainingData/BraTS2021_00000/BraTS2021_00000_", "t1 t1ce t2 flair seg")
        + " "
        + product("RSNA_ASNR_MICCAI_BraTS2021_ValidationData/BraTS2021_00001/BraTS2021_00001_", "t1 t1ce t2 flair"),
        {"BraTS2021_00000": "t1 t1ce t2 flair", "BraTS2021_00001": "t1 t1ce t2 flair"},
        labels=1,
    ),
    "brats23": Release(
        product(
            "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-00000-000/BraTS-GLI-00000-000-",
            "t1n t1c t2w t2f seg",
        )
        + " "
        + product(
            "ASNR-MICCAI-BraTS2023-GLI-Challenge-ValidationData/BraTS-GLI-00001-000/BraTS-GLI-00001-000-",
            "t1n t1c t2w t2f",
        ),
        {"BraTS-GLI-00000-000": "t1 t1ce t2 flair", "BraTS-GLI-00001-000": "t1 t1ce t2 flair"},
        labels=1,
    ),
    "brats24": Release(
        product("training_data1_v2/BraTS-GLI-00005-100/BraTS-GLI-00005-100-", "t1n t1c t2w t2f seg")
        + " "
        + product("training_data_additional/BraTS-GLI-02405-100/BraTS-GLI-02405-100-", "t1n t1c t2w t2f seg")
        + " "
        + product("validation_data/BraTS-GLI-02073-100/BraTS-GLI-02073-100-", "t1n t1c t2w t2f"),
        {f"BraTS-GLI-{n}-100": "t1 t1ce t2 flair" for n in ("00005", "02073", "02405")},
        labels=2,
    ),
    "ixi": Release(
        "IXI.xls IXI-T1/IXI002-Guys-0828-T1.nii.gz IXI-T2/IXI002-Guys-0828-T2.nii.gz IXI-PD/IXI002-Guys-0828-PD.nii.gz "
        "IXI-MRA/IXI002-Guys-0828-MRA.nii.gz IXI-DTI/IXI002-Guys-0828-DTI-00.nii.gz "
        "IXI-DTI/IXI002-Guys-0828-DTI-01.nii.gz IXI-DTI/bvecs.txt IXI-DTI/bvals.txt",
        {"IXI002-Guys-0828": "t1 t2 pd"},
        notes=("IXI-MRA/IXI002-Guys-0828-MRA.nii.gz: not used: an angiogram", "2 files not used: diffusion"),
    ),
    "isles15": Release(
        " ".join(ISLES.format("SISS2015_Training/1", c, n) for n, c in enumerate(("DWI", "Flair", "T1", "T2"), 70613))
        + " SISS2015_Training/1/VSD.Brain_3more.XX.O.OT.70618/VSD.Brain_3more.XX.O.OT.70618.nii "
        + " ".join(ISLES.format("SISS2015_Testing/1", c, n) for n, c in enumerate(("DWI", "Flair", "T1", "T2"), 80613)),
        {"siss-01": "t1 t2 flair dwi", "siss-test-01": "t1 t2 flair dwi"},
        labels=1,
    ),
    "wmh": Release(
        " ".join(
            f"{home}/wmh.nii.gz {home}/orig/reg_3DT1_to_FLAIR.txt {product(f'{home}/pre/', '3DT1 T1 FLAIR')} "
            f"{product(f'{home}/orig/', '3DT1 3DT1_mask T1 FLAIR')}"
            for home in (
                "training/Utrecht/0",
                "training/Amsterdam/GE3T/100",
                "test/Amsterdam/Philips_VU .PETMR_01./160",
            )
        )
        + " "
        + " ".join(f"additional_annotations/observer_o{o}/training/Utrecht/0/result.nii.gz" for o in (3, 4)),
        {"wmh-000": "t1 flair", "wmh-100": "t1 flair", "wmh-160": "t1 flair"},
        labels=3,
        notes=("12 files not used: orig holds", "3 files not used: 3DT1 is on a grid of its own", "further observer"),
    ),
    "synthrad23": Release(
        product("Task1/brain/1BA001/", "ct mr mask")
        + " Task1/brain/overview/1BA001_train.png Task1/brain/overview/1_brain_train.xlsx "
        + product("Task1/pelvis/1PA001/", "ct mr mask")
        + " Task1/pelvis/overview/1PA001_train.png "
        + product("Task2/brain/2BA001/", "ct cbct mask")
        + " "
        + product("Task1_val/brain/1BA004/", "mr mask"),
        {"1BA001": "ct mr", "1BA004": "mr"},
        masks=2,
        notes=("Task2/brain/2BA001/cbct.nii.gz: not used: cone-beam CT", "1PA001, 2BA001: the pelvis"),
        problems=("1BA004: CT missing",),
    ),
    "phantom": Release(
        product("phantom-000/phantom-000_", "t1 t1ce t2 flair seg"), {"phantom-000": "t1 t1ce t2 flair"}, labels=1
    ),
    "folder": Release(
        product("sub-01/ses-1/anat/sub-01_ses-1_", "T1w FLAIR") + " participants.tsv dataset_description.json",
        {"sub-01_ses-1": "t1 flair"},
    ),
}


def plant(root: Path, tree: str) -> Path:
    """Small images under the names that end in .nii or .nii.gz, empty files under the others."""
    tree = tree.replace("Philips_VU .PETMR", "Philips_VU\0.PETMR")  # a blank in a name of the release
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.diag([-1, -1, 1, 1]))
    for name in tree.split(" "):
        path = root / name.replace("\0", " ")
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path) if ".nii" in name else path.touch()
    return root


def test_every_data_set_of_the_catalogue_has_its_tree() -> None:
    assert set(RELEASES) == set(DATASETS)


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_is_read_as_it_comes(tmp_path: Path, name: str) -> None:
    release = RELEASES[name]
    dataset = open_dataset(name, plant(tmp_path, release.tree))
    below, told = find_subjects(tmp_path)

    assert {s.name: " ".join(s.available) for s in below} == release.subjects
    whole = [n for n, c in release.subjects.items() if not any(p.startswith(n) for p in release.problems)]
    assert [s.name for s in dataset.subjects] == sorted(whole)
    assert sum(s.mask is not None for s in below) == release.masks
    assert sum(s.segmentation is not None for s in below) == release.labels
    assert len(dataset.problems) == len(release.problems) and len(dataset.notes) == len(release.notes)
    for expected in release.problems:
        assert any(problem.startswith(expected) for problem in dataset.problems)
    for expected in release.notes:
        assert any(expected in note for note in dataset.notes) and any(expected in line for line in told)


def test_the_pelvis_alone_is_read_with_its_mask_but_is_no_part_of_the_benchmark(tmp_path: Path) -> None:
    plant(tmp_path, product("pelvis/1PA001/", "ct mr mask") + " " + product("pelvis/1PB002/", "ct mr mask"))

    subjects, told = find_subjects(tmp_path)
    assert [(s.name, s.mask is not None) for s in subjects] == [("1PA001", True), ("1PB002", True)] and not told
    with pytest.raises(Exception, match="1PA001: the pelvis"):
        open_dataset("synthrad23", tmp_path)
