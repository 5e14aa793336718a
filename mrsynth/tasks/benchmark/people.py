"""Who the subjects of a data set are: one person may have been examined several times."""

import hashlib
from collections.abc import Mapping

from mrsynth.io.datasets import Dataset
from mrsynth.io.layouts import patient_of
from mrsynth.io.subjects import SubjectFiles

NAMED_BY_USERS = ("folder", "phantom")  # names that others may use too, for other people


def people(dataset: Dataset) -> Mapping[str, str]:
    """Subject -> person, by the names of the data set.

    Where users give the names, a mark of the person's first files is added, so that two folders whose subjects share
    names are two groups of people, wherever they lie.
    """
    name = dataset.spec.name
    of = {files.name: patient_of(name, files.name) for files in dataset.subjects}
    if name not in NAMED_BY_USERS:
        return of
    first: dict[str, SubjectFiles] = {}
    for files in sorted(dataset.subjects, key=lambda files: files.name):
        first.setdefault(of[files.name], files)
    return {subject: f"{person}@{_mark(first[person])}" for subject, person in of.items()}


def _mark(files: SubjectFiles) -> str:
    """Eight hexadecimal digits that change with the contrasts of an examination and the sizes of their files."""
    sizes = sorted((contrast.value, path.stat().st_size) for contrast, path in files.files.items())
    return hashlib.sha256(repr(sizes).encode()).hexdigest()[:8]
