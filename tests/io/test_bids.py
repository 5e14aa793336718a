"""BIDS data sets: what is one, how its files are named, and what a derivative says of itself."""

from pathlib import Path

import pytest

from mrsynth.io.bids import BidsDataset, dataset_of, description_of_derivative, home_in_tree
from mrsynth.io.subjects import find_subjects
from tests.helpers import touch


@pytest.fixture
def study(tmp_path):
    touch(tmp_path / "a study", "sub-01/anat/sub-01_T1w sub-02/ses-1/anat/sub-02_ses-1_T1w")
    (tmp_path / "a study" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    return tmp_path / "a study"


@pytest.mark.parametrize("inside", [".", "sub-01", "sub-02/ses-1", "sub-02/ses-1/anat"])
def test_a_data_set_is_known_by_its_description_also_from_a_participant(inside, study):
    assert dataset_of(study / inside) == BidsDataset(study, {"Name": "x", "BIDSVersion": "1.8.0"})


@pytest.mark.parametrize("said", ["", "{", "[]", '{"Name": "x"}', '"BIDSVersion"'])
def test_a_folder_without_a_version_of_bids_is_none(said, study):
    (study / "dataset_description.json").write_text(said)
    assert dataset_of(study) is None and dataset_of(study / "sub-01") is None


def test_a_folder_of_another_kind_in_a_data_set_is_none(study):
    assert dataset_of(study / "code") is None


def test_a_uri_names_a_file_from_the_root(study):
    uri = BidsDataset(study).uri(study / "sub-01" / "anat" / "sub-01_T1w.nii.gz")

    assert uri == "bids:source:sub-01/anat/sub-01_T1w.nii.gz"


@pytest.mark.parametrize(
    ("out", "link"), [("a study/derivatives/mrsynth", "../.."), ("out", "../a%20study"), ("x/y", "../../a%20study")]
)
def test_a_derivative_links_to_its_source(out, link, study):
    said = description_of_derivative(BidsDataset(study, {"License": "CC0"}), study.parent / out, {"Name": "mrsynth"})

    assert said["DatasetLinks"] == {"source": link} and said["SourceDatasets"] == [{"URL": link}]
    assert said["Name"] == "Synthetic contrasts of a study" and said["License"] == "CC0"
    assert said["DatasetType"] == "derivative" and said["GeneratedBy"] == [{"Name": "mrsynth"}]


def test_a_source_with_a_doi_is_named_by_it(study):
    said = description_of_derivative(BidsDataset(study, {"DatasetDOI": "doi:10.1/x"}), study, {"Name": "mrsynth"})

    assert said["SourceDatasets"] == [{"DOI": "doi:10.1/x"}]


def test_anatomy_lies_where_bids_has_it():
    assert home_in_tree("sub-01") == Path("sub-01/anat")
    assert home_in_tree("sub-01_ses-pre") == Path("sub-01/ses-pre/anat")
    assert home_in_tree("p1") is None and home_in_tree("sub-01_run-1") is None


def test_what_is_no_raw_data_of_a_data_set_is_not_looked_into(study):
    touch(study, "sourcedata/sub-01/sub-01_T1w code/sub-03_T1w derivatives/x/sub-01/anat/sub-01_T1w")
    names = [files.name for files in find_subjects(study)[0]]
    assert names == ["sub-01", "sub-02_ses-1"]

    (study / "dataset_description.json").unlink()
    assert "sub-03" in [files.name for files in find_subjects(study / "code")[0]]
