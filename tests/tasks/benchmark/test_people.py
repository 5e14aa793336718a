"""Who the subjects are: examinations of one person, and people of two folders with the same names."""

from dataclasses import replace
from pathlib import Path

import pytest

from mrsynth.contrasts import Contrast
from mrsynth.errors import UsageError
from mrsynth.io.catalogue import spec_of
from mrsynth.io.datasets import Dataset, open_dataset
from mrsynth.io.discovery import SubjectFiles
from mrsynth.io.splits import Split
from mrsynth.scores.protocols import brasyn_dropped
from mrsynth.scores.statistics import PRIMARY
from mrsynth.tasks.benchmark.people import people
from mrsynth.tasks.benchmark.run import BenchmarkOptions, Work, question_of


def dataset_of(name, folder, **sizes) -> Dataset:
    """One subject for each name, its T1 as long as the size says."""
    subjects = []
    for subject, size in sizes.items():
        file = folder / f"{subject}_t1.nii.gz"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x" * size)
        subjects.append(
            SubjectFiles(name=subject.replace("_", "-"), folder=folder, files={Contrast.T1: file}, layout="")
        )
    return Dataset(spec_of(name), folder, tuple(subjects), ())


def test_examinations_of_a_person_share_him(tmp_path):
    found = people(dataset_of("brats24", tmp_path, BraTS_GLI_00005_100=1, BraTS_GLI_00005_101=2, BraTS_GLI_00006_100=3))

    assert set(found.values()) == {"BraTS-GLI-00005", "BraTS-GLI-00006"}


def test_the_same_names_in_two_folders_are_other_people_and_a_copy_of_a_folder_is_not(tmp_path):
    here, there, copy = (
        people(dataset_of("folder", tmp_path / place, a=10, b=size))
        for place, size in (("x", 20), ("y", 21), ("z", 20))
    )

    assert here == copy
    assert here["a"] == there["a"] and here["b"] != there["b"]
    assert here["a"].startswith("a@")


def test_brasyn_counts_the_cases_that_cannot_be_used(tmp_path, write_subject_folder):
    """The first of four cannot be used: the others drop what they would if it could."""
    names = ("s0", "s1", "s2", "s3")
    for name in names:
        write_subject_folder(tmp_path, name, shape=(6, 6, 6))
    dataset = open_dataset("folder", tmp_path)
    usable = replace(dataset, subjects=dataset.subjects[1:])
    options = BenchmarkOptions(dataset="folder", out=tmp_path / "out")
    work = Work(usable, Split({"test": names[1:]}), options, ())

    assert dataset.cases == names
    assert work.dropped == brasyn_dropped(names)
    assert any(brasyn_dropped(names[1:])[name] != work.dropped[name] for name in names[1:])


@pytest.mark.parametrize("text", ["full3d", "slice2d:slices:PSNR", "full3d:volume:", "full3d:volume:PSNR:x"])
def test_a_question_that_the_run_cannot_answer_is_refused(text):
    options = BenchmarkOptions(dataset="phantom", out=Path("x"), question=text)

    with pytest.raises(UsageError, match="expected PROTOCOL:REGION:METRIC"):
        question_of(options)


def test_the_question_is_the_one_named_or_the_usual_one():
    options = BenchmarkOptions(dataset="phantom", out=Path("x"))

    assert question_of(options) == PRIMARY
    named = options.model_copy(update={"question": "full3d:volume:ssim"})
    assert question_of(named) == ("full3d", "volume", "SSIM")
