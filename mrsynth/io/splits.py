"""Who trains, who validates and who tests: by a file of names, or by a data set's own rule."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mrsynth.errors import InputError
from mrsynth.io.datasets import Dataset
from mrsynth.io.files import write_text
from mrsynth.io.folders import few
from mrsynth.io.layouts import LAYOUTS, examination, in_test_folder, patient_of
from mrsynth.io.yaml_files import read_yaml

ANOTHER_STUDY = 100  # BraTS 2024 gives examinations of its patients numbers from here on, and counts patients anew
PARTS = {"train": 0.8, "validation": 0.9, "test": 1.0}  # part -> where it ends, of a patient's number in [0, 1)
PARTS_BESIDE_A_TEST_SET = {"train": 0.9, "validation": 1.0}


@dataclass(frozen=True)
class Split:
    """Which subjects belong to which part.

    parts   part -> names, sorted; a part of the rule may be empty, one of a file never is
    absent  names in the file that are not among the subjects at hand
    """

    parts: Mapping[str, tuple[str, ...]]
    absent: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """8 hex digits of the SHA-256 over the sorted names of each part that has any: who was scored, in short."""
        content = {part: sorted(names) for part, names in self.parts.items() if names}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def split_of(dataset: Dataset, file: Path | None = None) -> Split:
    """Divide the subjects: as a file of names says (`read_split`), else by the data set's rule.

    Raises InputError when the file cannot be read, when nobody of one of its parts is at hand, or when it has one
    patient in two parts.
    """
    if file is not None:
        return _split_from(dataset, file)
    ends = PARTS_BESIDE_A_TEST_SET if dataset.spec.has_tests else PARTS
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for subject in dataset.subjects:
        if dataset.spec.has_tests and in_test_folder(subject.folder):
            parts["test"].append(subject.name)
        else:
            number = _number(dataset.spec.name, patient_of(dataset.spec.name, subject.name))
            parts[next(part for part, end in ends.items() if number < end)].append(subject.name)
    return Split({part: tuple(sorted(names)) for part, names in parts.items()})


def read_split(path: Path) -> dict[str, list[str]]:
    """Read which subjects belong to which part: YAML, `train: [a, b]` and `validation: [c]`.

    Raises InputError when the file cannot be read, is of another form, or names a subject twice.
    """
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as YAML: {error}") from error
    lists = isinstance(content, dict) and all(isinstance(ids, list) for ids in content.values())
    if not lists or not all(isinstance(i, str) for part, ids in content.items() for i in (part, *ids)):
        raise InputError(
            f"{path}: expected lists of subject names, as in `train: [a, b]`, `validation: [c]`. "
            "Put names made of digits in quotes."
        )
    _check_split(content, str(path))
    return {part: list(ids) for part, ids in content.items()}


def write_split(path: Path, split: Mapping[str, Sequence[str]]) -> None:
    """Write what `read_split` reads, without parts that are empty.

    Raises InputError when a subject is named twice, OutputError from the disk.
    """
    _check_split(split, "the split")
    content = {part: list(ids) for part, ids in split.items() if ids}
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def person_of(subject: str) -> str:
    """The person a subject is of, when nobody says which data set it belongs to.

    `sub-01_ses-2` -> `sub-01`; BraTS2021_00027 and BraTS-GLI-00027-000, the same scans under two names -> `BraTS 00027`
    """
    patient, time = examination(subject)
    return f"BraTS {patient}" if patient != subject and time < ANOTHER_STUDY else patient_of("", subject)


def refuse_shared_people(parts: Mapping[str, Sequence[str]], person: Callable[[str], str], where: str) -> None:
    """Raise InputError when two parts share what `person` makes of a name: a patient, or the content of a scan.

    where  begins the message
    """
    homes: dict[str, tuple[str, str]] = {}
    for part, names in parts.items():
        for name in names:
            other, first = homes.setdefault(person(name), (name, part))
            if first != part:
                raise InputError(
                    f"{where}: {other} in {first} and {name} in {part} are one patient. Divide by patient: scores on "
                    "someone a model has seen say nothing."
                )


def _check_split(split: Mapping[str, Sequence[str]], where: str) -> None:
    seen: dict[str, str] = {}
    for part, ids in split.items():
        for name in ids:
            if name in seen:
                raise InputError(
                    f"{where}: {name} is in {seen[name]} and again in {part}; a subject belongs to one part, once."
                )
            seen[name] = part


def _split_from(dataset: Dataset, file: Path) -> Split:
    listed = read_split(file)
    at_hand = {subject.name for subject in dataset.subjects}
    parts = {part: tuple(sorted(at_hand & set(names))) for part, names in listed.items()}
    absent = tuple(sorted(name for names in listed.values() for name in names if name not in at_hand))
    if not parts:
        raise InputError(f"{file} names no part; expected for example `validation: [{dataset.subjects[0].name}]`.")
    for part, names in parts.items():
        if not names:
            known = few(sorted(at_hand), 3)
            raise InputError(
                f"{file}: the part {part} is empty: {len(listed[part])} names, none of them a usable subject below "
                f"{dataset.root}. Found there: {known}. Named but absent: {few(absent) or 'nobody'}. "
                "Correct the names, or remove the part."
            )
    refuse_shared_people(parts, lambda name: patient_of(dataset.spec.name, name), str(file))
    return Split(parts, absent)


def _number(dataset: str, patient: str) -> float:
    """A number in [0, 1) that depends on nothing but data set and patient: the first 53 bits of their SHA-256."""
    shared = (LAYOUTS[dataset].shares if dataset in LAYOUTS else "") or dataset
    digest = hashlib.sha256(f"{shared}/{patient}".encode(errors="surrogateescape")).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53  # as many bits as a float holds: never rounded up to 1
