"""The data sets of the benchmark: opening a copy of one on disk.

Opening reads names and headers, never voxels. Nothing is downloaded: the user brings the root.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mrsynth.errors import InputError
from mrsynth.io.catalogue import DATASETS, DatasetSpec, describe_dataset, list_datasets, spec_of
from mrsynth.io.collecting import read_subjects
from mrsynth.io.discovery import SubjectFiles
from mrsynth.io.folders import few
from mrsynth.io.layouts import FOREIGN, LAYOUTS, Survey, survey

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetSpec",
    "describe_dataset",
    "list_datasets",
    "open_dataset",
]

LEAST_OF_FOLDER = 2  # contrasts: one to make and one to make it from


@dataclass(frozen=True)
class Dataset:
    """A copy of a data set at hand.

    subjects  those that can be used, sorted by name: every contrast there, headers readable, one grid
    problems  "NAME: what is wrong", one for each subject or folder left out
    notes     which files are not used, and why, a line for each reason
    cases     the names of all subjects in the folder, those that cannot be used among them
    """

    spec: DatasetSpec
    root: Path
    subjects: tuple[SubjectFiles, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """Subjects without the segmentation the regions are drawn from; none where the data set has no regions."""
        return tuple(s.name for s in self.subjects if self.spec.regions and s.segmentation is None)


def open_dataset(name: str, root: Path) -> Dataset:
    """Find the subjects of a data set below its root, and say of each that cannot be used why.

    Raises UsageError for an unknown name; InputError when the root is no folder, is empty or that of another data set,
    when two subjects have one name, or when no subject can be used.
    """
    spec, root = spec_of(name), Path(root).expanduser()
    if not root.is_dir():
        raise InputError(
            f"{root}: found {'a file' if root.exists() else 'nothing'}, expected the folder of {spec.title}. "
            "Give that folder with --data."
        )
    seen = survey(root)
    _check_root(spec, root, seen)
    found, problems, notes, empty = read_subjects(name, root, seen)
    problems += empty
    aside = LAYOUTS[name].aside if name in LAYOUTS else None
    usable = []
    for subject in found:
        if aside and aside[0].fullmatch(subject.name):
            problems.append(f"{subject.name}: {aside[1]}")
            continue
        if flaw := _flaw(spec, subject):
            problems.append(f"{subject.name}: {flaw}")
        else:
            usable.append(subject)
    if not usable:
        first = "\n".join(f"  {problem}" for problem in problems[:3])
        raise InputError(
            f"{root}: none of {len(problems)} subjects or folders of {name} can be used; expected {spec.layout}\n"
            f"{first}\n{spec.preparation}".rstrip()
        )
    return Dataset(spec, root, tuple(usable), tuple(problems), tuple(notes), cases=tuple(s.name for s in found))


# What can be wrong ---------------------------------------------------------------------------------------------------


def _check_root(spec: DatasetSpec, root: Path, seen: Survey) -> None:
    """Raise InputError when the folder holds no scan, or holds those of another data set."""
    if not seen.scans:
        packed = [name for name in seen.others if name.lower().endswith((".zip", ".tar", ".tgz", ".tar.gz", ".7z"))]
        todo = f"Unpack {few(packed)} first." if packed else f"Give the folder of {spec.title}."
        found = few(seen.others) or "nothing at all"
        raise InputError(f"{root} holds no NIfTI file (.nii, .nii.gz), here or below: found {found}. {todo}")
    if spec.name not in LAYOUTS:
        return
    layout = LAYOUTS[spec.name]
    own = sum(seen.votes[name] for name in (spec.name, *layout.kin))
    strangers = [(votes, name) for name, votes in seen.votes.items() if name not in ("", spec.name, *layout.kin)]
    if not seen.votes[spec.name]:
        strangers += [(seen.votes[name], name) for name in layout.kin if seen.votes[name]]
        own = 0
    most, other = max(strangers, default=(0, ""))
    if own >= most and own:
        return
    found = f"{own} of {len(seen.scans)} NIfTI files are named as in {spec.title} ({layout.example})"
    if not most:
        raise InputError(
            f"{root}: {found}; found {few(sorted(seen.scans), 3)}. Give the folder of {spec.title}, or take "
            "--dataset folder, which understands any layout."
        )
    todo = "--dataset folder" if other in FOREIGN else f"--dataset {other}"
    title = other if other in FOREIGN else DATASETS[other].title
    raise InputError(
        f"{root}: {found}, and {most} as in {title}. It looks like the root of that: take {todo}, or give the folder "
        f"of {spec.title}."
    )


def _flaw(spec: DatasetSpec, subject: SubjectFiles) -> str:
    """Why a subject cannot be used, from the names and headers of its files; empty where nothing is wrong."""
    from mrsynth.io.nifti import read_geometry
    from mrsynth.scans.headers import exactly_on
    from mrsynth.scans.subject import describe_grid

    has = [c for c in spec.contrasts if c in subject.files]
    lacks = [c.label for c in spec.contrasts if c not in subject.files]
    least = LEAST_OF_FOLDER if spec.name == "folder" else len(spec.contrasts)
    if len(has) < least:
        there = ", ".join(c.label for c in has) or "no scan"
        todo = f"give at least {least} contrasts" if spec.name == "folder" else "copy or download the subject again"
        return f"{', '.join(lacks)} missing in {subject.folder} (found {there}); {todo}."
    try:
        grids = [(label, path, read_geometry(path)) for label, path in _files(subject)]
    except InputError as error:
        return str(error)
    (first, path, reference), *others = grids
    for label, other, geometry in others:
        if exactly_on(geometry, reference) is None:
            return (
                f"{first} and {label} lie on different grids.\n{describe_grid(str(path), reference)}\n"
                f"{describe_grid(str(other), geometry)}\nRegister and resample them to one grid first."
            )
    return ""


def _files(subject: SubjectFiles) -> Iterator[tuple[str, Path]]:
    yield from ((contrast.label, subject.files[contrast]) for contrast in subject.available)
    if subject.segmentation is not None:
        yield "segmentation", subject.segmentation
    if subject.mask is not None:
        yield "mask", subject.mask
