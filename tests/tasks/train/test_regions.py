"""What the values of a segmentation mean comes from the run file or the catalogue, or training is refused."""

from pathlib import Path

import pytest

from mrsynth.contrasts import STANDARD
from mrsynth.errors import UsageError
from mrsynth.tasks.train.config import read_run_file
from mrsynth.tasks.train.regions import with_regions

BRATS = {"WT": [1, 2, 3, 4], "TC": [1, 3, 4], "ET": [3, 4]}


def subject(root: Path, name: str, seg: bool = True) -> Path:
    """Files of a subject by name alone; nobody looks into them."""
    folder = root / name
    folder.mkdir(parents=True)
    for kind in (*STANDARD, *(["seg"] if seg else [])):
        (folder / f"{name}_{kind}.nii.gz").touch()
    return root


def regions(root, exclude=(), **method):
    changes = {f"method.{key}": value for key, value in method.items()} | {"data.exclude": list(exclude)}
    return with_regions(read_run_file(None, "msg-ldm", changes), [root]).method["regions"]


@pytest.mark.parametrize("name", ["BraTS20_Training_001", "BraTS2021_00001", "BraTS-GLI-00001-000", "phantom-001"])
def test_regions_are_those_of_the_data_set(name, tmp_path):
    assert regions(subject(tmp_path, name)) == BRATS


def test_where_4_is_a_cavity_it_is_no_tumour(tmp_path):
    assert regions(subject(tmp_path, "BraTS-GLI-00005-100")) == {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}


def test_without_segmentations_there_are_none(tmp_path):
    assert regions(subject(tmp_path, "BraTS2021_00001", seg=False)) is None
    assert regions(subject(tmp_path, "p1"), exclude=["p1"]) is None
    assert regions(tmp_path, seg="off") is None


def test_an_unknown_file_is_refused_until_the_run_file_says_what_it_means(tmp_path):
    subject(tmp_path, "p1")
    with pytest.raises(UsageError, match=r"values of the segmentations of p1 mean.*method\.regions.*seg to off"):
        regions(tmp_path)
    assert regions(tmp_path, regions={"lesion": [1]}) == {"lesion": [1]}
    assert regions(tmp_path, seg="off") is None


def test_data_sets_that_disagree_are_refused(tmp_path):
    subject(tmp_path / "a", "BraTS2021_00001")
    subject(tmp_path / "b", "BraTS-GLI-00005-100")
    changes = read_run_file(None, "msg-ldm")
    with pytest.raises(UsageError, match=r"different things: WT 1 2 3 4, .* in brats21 .*brats24"):
        with_regions(changes, [tmp_path / "a", tmp_path / "b"])


def test_a_run_file_that_says_other_than_the_catalogue_is_refused(tmp_path):
    subject(tmp_path, "BraTS-GLI-00005-100")
    with pytest.raises(UsageError, match=r"method\.regions is WT 1 2 3 4, .* of brats24, where WT 1 2 3, "):
        regions(tmp_path, regions=BRATS)


def test_methods_without_regions_are_left_alone(tmp_path):
    config = read_run_file(None, "fgc2f")
    assert with_regions(config, [subject(tmp_path, "p1")]) is config
