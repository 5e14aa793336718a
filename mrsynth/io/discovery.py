"""Subjects among the files of a folder, told apart by names: which scan is whose, and what else belongs to it.

Reads names, never voxels, and imports neither numpy nor nibabel, so that `mrsynth inspect` is quick.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.io.folders import (
    FLAGS,
    Content,
    entries,
    few,
    is_synthetic,
    listed,
    looks_like_dicom,
    nothing_found,
    read_folder,
    walk,
)
from mrsynth.io.formats import ARCHIVES, how_to_convert, is_volume, stem_of
from mrsynth.io.naming import ScanName, layout_of, mask_name, output_name, read_name
from mrsynth.io.occasions import occasion_in
from mrsynth.io.sidecars import pointer_of
from mrsynth.io.vocabulary import is_anatomy, is_brain_mask, is_lesion_map, name_words


@dataclass(frozen=True)
class SubjectFiles:
    """Where the volumes of one subject are.

    folder        the folder given, or in which the subject was found
    layout        brats21, brats23, bids, nnunet or free; dicom or "in memory" for what was no such file
    files         the scan of each contrast present
    segmentation  the tumour or lesion labels, if there is exactly one such file
    mask          the brain mask, if exactly one file is unmistakably that
    masks         the brain masks, if there are several: `load_subject` compares them
    channels      what the channels of nnU-Net mean, where the layout is nnunet
    left_out      every other image in the folder, and why it is not used
    notes         what else is to be told of how files were understood
    """

    name: str
    folder: Path
    layout: str
    files: Mapping[Contrast, Path]
    segmentation: Path | None = None
    mask: Path | None = None
    masks: tuple[Path, ...] = ()
    channels: Mapping[Contrast, int] = field(default_factory=dict)
    left_out: Mapping[Path, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def available(self) -> tuple[Contrast, ...]:
        """The contrasts present, in canonical order."""
        return tuple(c for c in Contrast if c in self.files)

    def missing(self, contrasts: Iterable[Contrast] = STANDARD) -> tuple[Contrast, ...]:
        """Those of `contrasts` the subject lacks, in canonical order."""
        wanted = set(contrasts)
        return tuple(c for c in Contrast if c in wanted and c not in self.files)

    def with_files(self, files: Mapping[Contrast, Path]) -> "SubjectFiles":
        """The same subject with these files for their contrasts; a file serves one contrast only."""
        taken = {os.path.realpath(path) for path in files.values()}
        others = {c: path for c, path in self.files.items() if c not in files and os.path.realpath(path) not in taken}
        both = {**others, **files}
        left_out = {path: why for path, why in self.left_out.items() if os.path.realpath(path) not in taken}
        return replace(self, files={c: both[c] for c in Contrast if c in both}, left_out=left_out)

    def only(self, contrasts: Collection[Contrast]) -> "SubjectFiles":
        """The same subject with the scans of these contrasts; the others are left out, whether they can be read or not.

        Where none would be left, all stay.
        """
        if not (files := {c: path for c, path in self.files.items() if c in contrasts}):
            return self
        others = {p: f"{c.label}, which the checkpoint does not use" for c, p in self.files.items() if c not in files}
        return replace(self, files=files, left_out={**self.left_out, **others}) if others else self

    def with_mask(self, mask: Path) -> "SubjectFiles":
        """The same subject with this brain mask, instead of any other."""
        others = {
            path
            for path in (*self.masks, self.mask)
            if path is not None and os.path.realpath(path) != os.path.realpath(mask)
        }
        left_out = {p: why for p, why in self.left_out.items() if os.path.realpath(p) != os.path.realpath(mask)}
        left_out |= dict.fromkeys(others, "a brain mask, and another was named")
        segmentation = (
            None
            if self.segmentation and os.path.realpath(self.segmentation) == os.path.realpath(mask)
            else self.segmentation
        )
        return replace(self, mask=mask, masks=(), left_out=left_out, segmentation=segmentation)

    def not_used(self) -> dict[str, str]:
        """`left_out` by file names, those in other folders with their path below this one."""
        home = self.folder
        return {
            path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path): why
            for path, why in self.left_out.items()
        }

    def output_name(self, contrast: Contrast, tag: str = "") -> str:
        """The file name for a synthetic contrast, in the subject's own naming: `BraTS-GLI-1-000-t1c.nii.gz`.

        tag   of what belongs to it: `mean` and `spread` of several samples, or the `error` to expect
        """
        names = [path.name for path in self.files.values()]
        return output_name(contrast, self.name, self.layout, names, self.channels, tag)

    def mask_name(self) -> str:
        """The file name for a brain mask that was found: `p1_brain_mask.nii.gz`, `sub-1_desc-brain_mask.nii.gz`."""
        return mask_name(self.name, self.layout, [path.name for path in self.files.values()])


def subject_among_files(
    folder: Path, given: Mapping[Contrast, Path], needed: Collection[Contrast] = STANDARD
) -> SubjectFiles:
    """The one subject in a folder, as `find_subject` has it: told apart by the names of files alone."""
    wanted = None
    if not os.path.isdir(folder):
        if os.path.exists(folder) and folder.name.lower().endswith(ARCHIVES):
            raise InputError(f"{folder} is a packed archive. Unpack it, and give the folder with one subject's scans.")
        if os.path.exists(folder):
            raise InputError(f"{folder} is a file. Give the folder that holds the subject's scans: {folder.parent}")
        if not os.path.isdir(folder.parent):
            raise InputError(f"{folder}: there is no such folder.")
        folder, wanted = folder.parent, folder.name
    content = read_folder(folder, sessions=wanted is None)
    taken = {os.path.realpath(path) for path in given.values()}
    others = {p: n for p, n in content.scans.items() if n.contrast not in given and os.path.realpath(p) not in taken}
    groups = _subjects_among(others)
    if wanted is not None:
        if wanted not in groups:
            raise InputError(f"{folder / wanted}: there is no such folder, nor files in {folder} that begin so.")
        return _subject(content, wanted, groups[wanted], given, needed, alone=False)
    if len(groups) > 1:
        raise InputError(
            f"{folder} holds the scans of {len(groups)} subjects: {few(groups)}. "
            f"Give one of them, for example {folder / min(groups)}, or name the files: {FLAGS}."
        )
    if not groups and not given:
        _refuse_doubt(content, {}, needed, lambda path: True)
        raise InputError(nothing_found(content))
    key, scans = next(iter(groups.items()), ("", {}))
    found = _subject(content, key, scans, given, needed, alone=True)
    return replace(found, left_out={**found.left_out, **_further_down(content, found)})


def subjects_among_files(root: Path | str) -> tuple[list[SubjectFiles], list[str], list[str]]:
    """Every subject below a folder, as `find_subjects` has it, whatever data set it may be of; why others are left out,
    and which folders hold images of which none is a scan.
    """
    root = Path(root).expanduser()
    if not os.path.isdir(root):
        raise InputError(f"{root}: expected a folder, found {'a file' if os.path.exists(root) else 'nothing'}.")
    subjects: list[SubjectFiles] = []
    reasons: list[str] = []
    empty: list[str] = []
    seen: set[Path] = set()  # folders of one contrast, read with the folder above them
    for folder in walk(root, reasons):
        if folder in seen:
            continue
        try:
            content = read_folder(folder, sessions=False)
        except InputError as error:
            reasons.append(str(error))
            continue
        seen |= {path.parent for path in content.scans if path.parent.name != "anat"}
        groups = _subjects_among(content.scans)
        if not groups and (content.unused or content.broken or content.unsure):
            try:
                _refuse_doubt(content, {}, STANDARD, lambda path: True)
                empty.append(nothing_found(content))
            except InputError as error:
                reasons.append(str(error))
        for key, scans in groups.items():
            try:
                subjects.append(_subject(content, key, scans, {}, STANDARD, alone=len(groups) == 1))
            except InputError as error:
                reasons.append(str(error))
    if not subjects and not reasons and not empty:
        empty.append(nothing_found(read_folder(root, sessions=False)))
    subjects.sort(key=lambda subject: subject.name)
    check_names(subjects)
    return subjects, reasons, empty


def check_names(subjects: Sequence[SubjectFiles]) -> None:
    """Raise InputError when two subjects, sorted by name, have the same one."""
    for one, other in pairwise(subjects):
        if one.name == other.name:
            raise InputError(
                f"Two subjects are named {one.name}:\n  {one.folder}\n  {other.folder}\n"
                "Rename one of them, or give a folder that holds only one: names tell subjects apart in results."
            )


# One subject ---------------------------------------------------------------------------------------------------------


def _subjects_among(scans: Mapping[Path, ScanName]) -> dict[str, dict[Path, ScanName]]:
    """Scans by subject. One subject, unless the names clearly tell several apart, or several occasions."""
    groups: dict[str, dict[Path, ScanName]] = {}
    occasions = {name.occasion for name in scans.values() if name.occasion}
    for path, name in scans.items():
        key = name.subject
        if len(occasions) > 1 and name.occasion and occasion_in(key) != name.occasion:
            key = f"{key or path.parent.name}_{name.occasion}"  # what says when stands behind the contrast
            name = replace(name, subject=key)
        groups.setdefault(key, {})[path] = name
    contrasts = [name.contrast for name in scans.values()]
    twice = len(set(contrasts)) < len(contrasts)
    formal = all(name.layout in ("bids", "nnunet") for name in scans.values())
    numbered = len({re.sub(r"\d+", "1", key) for key in groups}) == 1  # p1_t1 and p2_flair, but not ax_t1 and w2_flair
    number = r"\d" if twice or numbered else r"\d\d"
    apart = formal or len(occasions) > 1 or all(re.search(number, subject) for subject in groups)
    return groups if len(groups) == 1 or apart else {"": dict(scans)}


def _subject(
    content: Content,
    key: str,
    scans: Mapping[Path, ScanName],
    given: Mapping[Contrast, Path],
    needed: Collection[Contrast],
    alone: bool,
) -> SubjectFiles:
    """One subject out of a folder.

    needed  the contrasts about which there may be no doubt
    alone   there is no other subject in it, so that everything there belongs to this one
    """
    taken = {os.path.realpath(path) for path in given.values()}

    def own(path: Path) -> bool:
        named = alone or re.match(rf"{re.escape(key)}(?![A-Za-z0-9])", path.name) is not None
        return named and os.path.realpath(path) not in taken

    candidates: dict[Contrast, list[Path]] = {contrast: [path] for contrast, path in given.items()}
    for path, name in scans.items():
        candidates.setdefault(name.contrast, []).append(path)
    left_out = {path: why for path, why in content.left_out().items() if own(path)}
    for contrast, paths in candidates.items():
        derived = _derived(paths)
        left_out |= derived
        candidates[contrast] = [path for path in paths if path not in derived]
    files = {c: candidates[c][0] for c in Contrast if len(candidates.get(c, [])) == 1}
    for contrast in needed if files else candidates:  # two diffusion images are no reason to refuse a T1
        if len(paths := candidates.get(contrast, [])) > 1:
            raise InputError(
                f"{content.folder}: {len(paths)} files could be the {contrast.label}:\n"
                + "".join(f"  {path}\n" for path in paths)
                + f"Say which one to take with --{contrast} FILE, or move the others elsewhere."
            )
    several = {path: c for c, paths in candidates.items() if len(paths) > 1 for path in paths}
    left_out |= {path: f"one of several files that could be the {c.label}" for path, c in several.items()}
    _refuse_doubt(content, files, needed, own)
    names = list(scans.values()) or [n for path in given.values() if (n := read_name(path.name, content.channels))]
    layout = layout_of(names)
    identified = layout in ("bids", "nnunet") or not alone or (layout != "free" and re.search(r"\d", names[0].subject))
    labels = [path for path in content.labels if own(path)]
    if layout == "nnunet":  # labelsTr/CASE.nii.gz belongs to imagesTr/CASE_0000.nii.gz
        beside = content.folder.with_name(content.folder.name.replace("images", "labels"))
        possible = [beside / f"{key}{ending}" for ending in (".nii.gz", ".nii") if beside != content.folder]
        labels += [path for path in possible if path.is_file()]
    segmentation = _only_segmentation(labels)
    masks = [path for path in labels if is_brain_mask(path.name)]
    for path in labels:
        if path != segmentation and path not in masks:
            left_out[path] = (
                "a mask or segmentation, and not that of the brain by its name; --mask FILE takes it as that"
            )
    return SubjectFiles(
        name=names[0].subject if identified else Path(os.path.abspath(content.folder)).name,
        folder=content.folder,
        layout=layout,
        files=files,
        segmentation=segmentation,
        mask=_only(masks),
        masks=tuple(masks) if len(masks) > 1 else (),
        channels={contrast: i for i, contrast in content.channels.items()} if layout == "nnunet" else {},
        left_out=left_out,
        notes=tuple(f"{path.name}: {note}" for path, note in content.notes.items() if own(path)),
    )


def _refuse_doubt(
    content: Content, files: Mapping[Contrast, Path], needed: Collection[Contrast], own: Callable[[Path], bool]
) -> None:
    """Raise InputError for files that are, or could be, a contrast that would be made although it lies there."""
    doubtful: dict[Path, str] = {}
    for path, (shown, why) in content.broken.items():
        if own(path) and any(c in needed and c not in files for c in shown):
            doubtful[path] = f"{path} is {why}. Its name says {' or '.join(c.label for c in shown)}."
    for path, verdict in content.unsure.items():
        if own(path) and any(c in needed and c not in files for c in verdict.could_be):
            doubtful[path] = f"{path}: {verdict.why}."
    if doubtful:
        remedy = "What is there is not made again: mend this, name another file by option, or move this one elsewhere."
        others = {path: why for path, why in content.not_scans().items() if own(path) and path not in doubtful}
        raise InputError("\n".join([*doubtful.values(), remedy]) + listed(content.folder, others, "\nNot used either:"))


def _further_down(content: Content, found: SubjectFiles) -> dict[Path, str]:
    """Images in the folders of a subject's folder, into which nobody looks; what mrsynth made there left out."""
    used = {
        os.path.realpath(path) for path in (*found.files.values(), *found.masks, found.segmentation, found.mask) if path
    }
    below: dict[Path, str] = {}
    for name in content.others:
        aside = name in ("anat/", "mrsynth/", "derivatives/") or content.folder / name[:-1] in content.broken
        if name.endswith("/") and not aside and not name.startswith("ses-"):
            with suppress(InputError):
                images, broken, others = entries(content.folder / name[:-1])
                below |= dict.fromkeys([*images, *broken], "in a folder that is not looked into; name it by option")
                if count := sum(map(looks_like_dicom, others)):
                    why = f"a folder with {count} DICOM files, not looked at beside scans in NIfTI; see `mrsynth dicom`"
                    below[content.folder / name[:-1]] = why
    return {p: why for p, why in below.items() if os.path.realpath(p) not in used and not is_synthetic(p)}


def _derived(paths: Sequence[Path]) -> dict[Path, str]:
    """Of files for one contrast, those whose names say that they were made from another of them; and from which."""
    stems = {stem_of(path.name): path for path in paths}
    found: dict[Path, str] = {}
    for stem, path in stems.items():
        made = re.fullmatch(r"(?i)(.+?)[^a-z0-9]+(?:bias|biasfield|n4bias)", stem) or re.fullmatch(r"m(.+)", stem)
        if made and made[1] in stems:
            found[path] = f"made from {stems[made[1]].name}"
    return found


def check_mask(mask: Path) -> Path:
    """A brain mask named by the user. Raises InputError when it is not there, or no image."""
    path = Path(mask).expanduser()
    _check_file("--mask", path)
    return path


def check_overrides(overrides: Mapping[Contrast, Path]) -> dict[Contrast, Path]:
    """Files named by the user: they exist, are NIfTI, and none is named twice."""
    given = {Contrast(contrast): Path(path).expanduser() for contrast, path in overrides.items()}
    taken: dict[str, Contrast] = {}
    for contrast, path in given.items():
        _check_file(f"--{contrast}", path)
        if other := taken.get(os.path.realpath(path)):
            raise InputError(f"{path} was given for both --{other} and --{contrast}; give two different files.")
        taken[os.path.realpath(path)] = contrast
    return given


def _check_file(option: str, path: Path) -> None:
    if why := pointer_of(path):
        raise InputError(f"{option} {path}: {why}.")
    if not path.is_file():
        raise InputError(f"{option} {path}: there is no such file.")
    if not is_volume(path.name):
        how = how_to_convert(path)
        raise InputError(f"{option} {path}: {how or 'expected a NIfTI file (.nii or .nii.gz)'}.")


def _only_segmentation(labels: Iterable[Path]) -> Path | None:
    """The one segmentation of tumour or lesions; a file called `seg` comes before all others."""
    first: list[Path] = []
    second: list[Path] = []
    for path in labels:
        if is_brain_mask(path.name) or is_anatomy(path.name):
            continue
        if "seg" in name_words(path.name):
            first.append(path)
        elif is_lesion_map(path.name) or path.parent.name.startswith("labels"):
            second.append(path)
    return _only(first or second)


def _only(paths: list[Path]) -> Path | None:
    return paths[0] if len(paths) == 1 else None
