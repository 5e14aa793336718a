"""The subjects of a data set, collected from the folders over which it spreads them.

Reads names, and the first bytes of headers, never voxels.
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.io.discovery import SubjectFiles, check_names, subjects_among_files
from mrsynth.io.folders import entries, few, is_synthetic, walk
from mrsynth.io.layouts import LAYOUTS, MASK, SEGMENTATION, Layout, Survey, examination, looks_like, why_not


class Found(NamedTuple):
    """The subjects of a data set.

    subjects  sorted by name, whole or not
    problems  why a subject or folder is left out, a line each
    notes     which files are not used, and why, a line for each reason
    empty     which folders hold images of which none is a scan, and what they are, a line each
    """

    subjects: list[SubjectFiles]
    problems: list[str]
    notes: list[str]
    empty: list[str]

    @property
    def left_out(self) -> list[str]:
        """All that is not used, and why."""
        return self.problems + self.empty + self.notes


def read_subjects(dataset: str, root: Path, seen: Survey) -> Found:
    """Every subject of a data set below a folder.

    dataset  a key of LAYOUTS, or "folder" for whatever `subjects_among_files` understands
    Raises InputError when two subjects have the same name.
    """
    if dataset not in LAYOUTS:
        subjects, problems, empty = subjects_among_files(root)
        return Found(subjects, problems, [], empty)
    layout, notes, empty = LAYOUTS[dataset], list[str](), list[str]()
    if layout.place is not None:
        subjects, problems, notes, empty = _collected(root, layout)
    else:
        subjects, problems, empty = subjects_among_files(root)
        subjects, strangers = _without_strangers(dataset, layout, subjects)
        problems += strangers
    if layout.home is not None:
        at_hand = {folder for subject in subjects for folder in (subject.folder, *subject.folder.parents)}
        named = " ".join(problems + empty)
        without = [
            f for f in seen.folders if layout.home.fullmatch(f.name) and f not in at_hand and f.name not in named
        ]
        problems += [f"{f.name}: {f} holds no scan. Copy or download the subject again." for f in without]
    if layout.aside is not None:
        pattern, why = layout.aside
        others = [s.name for s in subjects if pattern.fullmatch(s.name)]
        if 0 < len(others) < len(subjects):
            notes.append(f"{few(others, 3)}: {why}")
            subjects = [s for s in subjects if s.name not in others]
    return Found(subjects, problems, notes, empty)


def _collected(root: Path, layout: Layout) -> Found:
    assert layout.place is not None
    problems: list[str] = []
    notes: list[str] = []
    unused: dict[str, list[Path]] = {}
    lost: dict[tuple[str, Path | None], str] = {}
    found: dict[tuple[str, Path | None], dict[Contrast | str, list[Path]]] = {}
    for folder in walk(root, problems):
        try:
            paths, broken, _ = entries(folder)
        except InputError as error:
            problems.append(str(error))
            continue
        for path, why in broken.items():
            if at := layout.place(path):
                lost[(at.subject, at.folder)] = f"{at.subject}: {path} is {why}."
            else:
                unused.setdefault(why, []).append(path)
        for path in paths:
            at = layout.place(path)
            if at is not None and is_synthetic(path):
                unused.setdefault("synthetic: mrsynth made it", []).append(path)
            elif at is not None:
                found.setdefault((at.subject, at.folder), {}).setdefault(at.kind, []).append(path)
            elif (look := looks_like(path)) == "" or LAYOUTS.get(look) is layout:
                why = why_not(path) or f"not named as in this data set ({layout.example})"
                unused.setdefault(why, []).append(path)
    subjects = []
    for (name, home), kinds in sorted(found.items(), key=lambda item: item[0][0]):
        twice = {kind: paths for kind, paths in kinds.items() if len(paths) > 1 and isinstance(kind, Contrast)}
        if (name, home) in lost:
            problems.append(lost[name, home])
            continue
        if twice:
            both = "; ".join(f"{kind.label}: {', '.join(map(str, paths))}" for kind, paths in twice.items())
            problems.append(f"{name}: more than one file for a contrast ({both}). Move all but one elsewhere.")
            continue
        files = {contrast: kinds[contrast][0] for contrast in Contrast if contrast in kinds}
        around = home or Path(os.path.commonpath([path.parent for path in files.values()]))
        labels, mask = (kinds.get(kind, []) for kind in (SEGMENTATION, MASK))
        subject = SubjectFiles(name, around, "free", files)
        subject = replace(subject, segmentation=labels[0]) if len(labels) == 1 else subject
        subjects.append(replace(subject, mask=mask[0]) if len(mask) == 1 else subject)
    check_names(subjects)
    subjects = _with_left_out(subjects, unused)
    for why, paths in unused.items():
        such = few((path.relative_to(root).as_posix() for path in paths), 2)
        notes.append(f"{such}: {'not used' if len(paths) == 1 else f'{len(paths)} files not used'}: {why}.")
    return Found(subjects, problems, notes, [])


def _with_left_out(subjects: list[SubjectFiles], unused: Mapping[str, list[Path]]) -> list[SubjectFiles]:
    """Let each subject name the images in its own folder that are not used."""
    homes: dict[Path, dict[Path, str]] = {subject.folder: {} for subject in subjects}
    for why, paths in unused.items():
        for path in paths:
            if home := next((folder for folder in path.parents if folder in homes), None):
                homes[home][path] = why
    alone = Counter(subject.folder for subject in subjects)
    return [replace(s, left_out=homes[s.folder]) if alone[s.folder] == 1 else s for s in subjects]


def _without_strangers(
    dataset: str, layout: Layout, subjects: list[SubjectFiles]
) -> tuple[list[SubjectFiles], list[str]]:
    """Leave out what is of another data set, and examinations that are there under two names."""
    kept, problems = [], []
    looks = {subject.name: looks_like(next(iter(subject.files.values()))) for subject in subjects}
    own = {examination(name): name for name, look in looks.items() if look == dataset}
    for subject in subjects:
        look = looks[subject.name]
        if look not in ("", dataset, *layout.kin):
            problems.append(f"{subject.name}: named as in {look}, not as in {dataset}. Open that data set by itself.")
        elif look == "" and layout.own_only:
            problems.append(
                f"{subject.name}: not named as in {dataset} ({layout.example}), so that nobody knows what its label 4 "
                "means. Open it with --dataset folder."
            )
        elif look in layout.kin and (same := own.get(examination(subject.name))):
            problems.append(
                f"{subject.name}: the same examination as {same}, under its other name. Remove one of them."
            )
        else:
            kept.append(subject)
    return kept, problems
