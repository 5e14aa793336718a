"""The one door to a subject on disk: finding one, finding all below a folder, and reading the voxels.

The Python API and every command come through here, so that they agree. Finding reads names, never voxels, and imports
neither numpy nor nibabel, so that `mrsynth inspect` is quick.
"""

import filecmp
import os
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from mrsynth.contrasts import STANDARD, Contrast, contrast_of
from mrsynth.errors import InputError, UsageError
from mrsynth.io.collecting import Found, read_subjects
from mrsynth.io.discovery import SubjectFiles, check_mask, check_overrides, subject_among_files, subjects_among_files
from mrsynth.io.files import path_of
from mrsynth.io.layouts import LAYOUTS, OTHERS, Survey, survey
from mrsynth.io.vocabulary import contrast_of_word, name_words

if TYPE_CHECKING:
    from mrsynth.scans.raw import Align, FindBrain, Raw
    from mrsynth.scans.subject import Subject
    from mrsynth.scans.volume import Volume

FEW_VALUES = 8  # of a label map at most; any scan has more
PACKED = (".gz", ".mgz")
SMALLEST = 100  # bytes of a file that holds an image, packed
SAMPLED = 20_000  # voxels looked at first: a scan is known by them
EVERYTHING = "marks most of every outer face of the image, where background is"

__all__ = [
    "SubjectFiles",
    "check_mask",
    "check_overrides",
    "find_subject",
    "find_subjects",
    "load_raw",
    "load_subject",
    "settle_masks",
]


def find_subject(
    folder: Path | str,
    overrides: Mapping[Contrast, Path] | None = None,
    mask: Path | None = None,
    needed: Collection[Contrast] = STANDARD,
) -> SubjectFiles:
    """The one subject in a folder: its scans, told apart by name.

    folder     looked into without its subfolders, save `anat` and a single `ses-*`; or one that holds one subject of a
               data set whose names say where its files lie (IXI, ISLES 2015, WMH, SynthRAD 2023). Where a folder
               holds several subjects, `folder/ID` means the one of that name.
    overrides  contrast -> the file to take for it, whatever its name and wherever it lies
    mask       the brain mask to take, wherever it lies
    needed     contrasts about which there may be no doubt; a file that only concerns others is left out
    Masks, segmentations, maps, and files whose header or sidecar says that they are synthetic are no scans; `left_out`
    names them. The folders `mrsynth` and `derivatives` are not looked into. Raises InputError when there is no such
    folder, no scan, more than one subject, two files for one contrast, or a file that is or could be a contrast
    otherwise missing, and cannot be read or told.
    """
    folder, given = Path(folder).expanduser(), check_overrides(overrides or {})
    dataset, home, seen = _kept_otherwise(folder)
    subjects = read_subjects(dataset, home, seen).subjects if dataset else []
    found = subjects[0].with_files(given) if len(subjects) == 1 else subject_among_files(folder, given, needed)
    return found if mask is None else found.with_mask(check_mask(mask))


def find_subjects(root: Path | str) -> tuple[list[SubjectFiles], list[str]]:
    """Every subject below a folder, at any depth, sorted by name; and for each folder or subject left out, why.

    Where names say that the folder is IXI, ISLES 2015, WMH or SynthRAD 2023, whose subjects are spread over several
    folders, it is read as that data set. Raises InputError when `root` is no folder, or when two subjects have the
    same name.
    """
    found = everything_below(root)
    return found.subjects, found.left_out


def everything_below(root: Path | str) -> Found:
    """What `find_subjects` finds, with what concerns subjects apart from what concerns single files. Raises as that."""
    dataset, root, seen = _kept_otherwise(Path(root).expanduser())
    found = read_subjects(dataset, root, seen) if dataset else Found([], [], [], [])
    if not found.subjects:
        subjects, problems, empty = subjects_among_files(root)
        return Found(subjects, problems, [], empty)
    others = sum(votes for name, votes in seen.votes.items() if name not in ("", dataset))
    told = [f"{root}: read as {dataset}; {others} files of other data sets were not looked at."] if others else []
    return found._replace(notes=found.notes + told)


def load_subject(
    source: Path | str | SubjectFiles,
    *,
    segmentation: bool = False,
    mask: bool | Path | str = True,
    **overrides: Path | str,
) -> "Subject":
    """Read the volumes of a subject that lie on one grid; for those that do not there is `load_raw`.

    source        its folder, or what `find_subject` found there
    segmentation  whether to read the segmentation, if there is one
    mask          whether to read the brain mask, if there is one; or the file to read as that
    overrides     t1=, t1ce=, t2=, flair=, ...: files to take instead of those found
    Volumes are float32 (I, J, K) in the units of the files, with their affine in mm. Raises InputError when a file
    cannot be used or does not lie on the grid of the first contrast; UsageError for what is no path and no contrast.
    """
    if not isinstance(segmentation, bool):
        raise UsageError(f"segmentation={segmentation!r}: expected True to read the one in the folder, or False.")
    given = {contrast_of(name): path_of(f"{name}=", path) for name, path in overrides.items()}
    if isinstance(source, SubjectFiles):
        found = source.with_files(check_overrides(given))
    else:
        found = find_subject(path_of("The folder of the subject", source), given)
    if not isinstance(mask, bool):
        found = found.with_mask(check_mask(path_of("mask=", mask)))
    return load_raw(found, align="off", segmentation=segmentation, mask=bool(mask)).subject


def load_raw(
    found: SubjectFiles,
    *,
    align: "Align" = "auto",
    onto: Contrast | None = None,
    find_brain: "FindBrain | None" = None,
    n4: bool = False,
    segmentation: bool = False,
    mask: bool = True,
) -> "Raw":
    """Read the volumes of a subject and bring them together: `scans.raw.brought_together` explains the options.

    Raises InputError as that does, and for a file that cannot be used; a mask must lie on the grid of one of the scans.
    """
    from mrsynth.io.nifti import read_forms, read_volume
    from mrsynth.scans.headers import exactly_on
    from mrsynth.scans.raw import brought_together
    from mrsynth.scans.subject import describe_grid

    found = settle_masks(found) if mask else found
    volumes = {contrast: read_volume(found.files[contrast]) for contrast in found.available}
    for contrast, volume in volumes.items():
        refuse_label_map(found.files[contrast], volume)

    def whose_grid(path: Path, volume: "Volume") -> Contrast:
        for contrast, scan in volumes.items():
            if exactly_on(volume, scan) is not None:
                return contrast
        first = found.available[0]
        raise InputError(
            f"{found.name}: {found.files[first].name} and {path.name} lie on different grids.\n"
            f"{describe_grid(str(found.files[first]), volumes[first])}\n{describe_grid(str(path), volume)}\n"
            "A mask or segmentation must lie on the grid of one of the scans: resample it, or where only its header is "
            "wrong, copy the geometry (fslcpgeom)."
        )

    brain = None
    if mask and found.mask:
        given = as_mask(found.mask, read_volume(found.mask, labels=True))
        brain = given, whose_grid(found.mask, given)
    labels = None
    if segmentation and found.segmentation:
        labels = read_volume(found.segmentation, labels=True)
        whose_grid(found.segmentation, labels)
    forms = {contrast: read_forms(found.files[contrast]) for contrast in volumes}
    raw = brought_together(
        found.name,
        volumes,
        align=align,
        onto=onto,
        find_brain=find_brain,
        mask=brain,
        segmentation=labels,
        places={contrast: str(path) for contrast, path in found.files.items()},
        forms=forms,
        n4=n4,
    )
    notes = list(raw.notes)
    if lost := [found.files[c].name for c, said in forms.items() if not said.known]:
        notes.append(
            f"{', '.join(lost)}: the header does not say where left and right are (sform and qform codes are 0); axes "
            "are taken as its voxel sizes suggest. Left and right may be exchanged, in the results too."
        )
    notes += [
        f"{found.files[c].name}: sform and qform run its axes in different directions. The sform is taken; a program "
        "that goes by the qform shows scan and results turned or mirrored."
        for c, said in forms.items()
        if said.opposed
    ]
    notes += [
        f"{found.files[c].name}: the header states its sizes in {said.mistaken}s, in which it would be no head; they "
        "are taken as millimetres."
        for c, said in forms.items()
        if said.mistaken
    ]
    return replace(raw, notes=tuple(notes))


def as_mask(path: Path, volume: "Volume") -> "Volume":
    """A brain mask as it is meant: of probabilities those from 0.5 on, of anything else all that is above 0.

    Raises InputError for one that marks nothing, or the faces of the image and not its middle, as an inverted one does.
    """
    import numpy as np

    from mrsynth.scans.foreground import fills_its_faces
    from mrsynth.scans.volume import Volume

    inside = volume.voxels > 0
    if 0 < float(volume.voxels.max()) <= 1 and (volume.voxels[inside] != 1).any():
        inside = volume.voxels >= min(0.5, float(volume.voxels.max()))
    middle = inside[tuple(slice(n // 3, n - n // 3) for n in inside.shape)]
    if not inside.any() or (fills_its_faces(inside) and 2 * np.count_nonzero(middle) < middle.size):
        what = "the outer faces of the image and not its middle: it is inverted" if inside.any() else "nothing"
        raise InputError(
            f"{path} is no brain mask: it marks {what}. Move it elsewhere, or name another by --mask FILE."
        )
    return Volume(inside.astype(np.float32), volume.affine)


def settle_masks(found: SubjectFiles) -> SubjectFiles:
    """Choose among brain masks by reading them.

    Those that are equal count once, those on another grid not at all, nor one that marks most of every face of the
    image, such as one that is 1 everywhere: it does not say where the brain is. Of several that differ the one named
    like the first contrast is taken, else none; what was not taken, and why, is in `left_out` and `notes`.
    Raises InputError as `as_mask`.
    """
    if found.mask is None and not found.masks:
        return found
    from mrsynth.io.nifti import read_geometry, read_volume
    from mrsynth.scans.foreground import fills_its_faces
    from mrsynth.scans.headers import exactly_on

    if found.mask is not None:
        if not fills_its_faces(as_mask(found.mask, read_volume(found.mask, labels=True)).voxels):
            return found
        told = f"{found.mask.name} {EVERYTHING}: the brain is looked for without it."
        left_out = {**found.left_out, found.mask: f"a brain mask that {EVERYTHING}"}
        return replace(found, mask=None, left_out=left_out, notes=(*found.notes, told))

    first = found.available[0]
    reference = read_geometry(found.files[first])
    left_out = dict(found.left_out)
    kept: dict[Path, Volume] = {}
    for path in found.masks:
        volume = read_volume(path, labels=True)
        if (there := exactly_on(volume, reference)) is None:
            left_out[path] = f"a brain mask on another grid than the {first.label}"
        elif twin := next((p for p, v in kept.items() if ((v.voxels != 0) == (there.voxels != 0)).all()), None):
            left_out[path] = f"the same brain mask as {twin.name}"
        elif fills_its_faces(there.voxels):
            left_out[path] = f"a brain mask that {EVERYTHING}"
        else:
            kept[path] = there
    named = [path for path in kept if any(contrast_of_word(word) is first for word in name_words(path.name))]
    chosen = list(kept) if len(kept) == 1 else named if len(named) == 1 else []
    notes = list(found.notes)
    for path in kept:
        if path not in chosen:
            left_out[path] = "one of several brain masks that differ"
    if kept and len(kept) > 1:
        taken = f"{chosen[0].name} is taken, named like the {first.label}" if chosen else "none is taken"
        notes.append(f"Brain masks differ: {', '.join(p.name for p in kept)}; {taken}. --mask FILE chooses another.")
    mask = chosen[0] if chosen else None
    return replace(found, mask=mask, masks=(), left_out=left_out, notes=tuple(notes))


def refuse_copies(found: SubjectFiles) -> None:
    """Raise InputError when two scans are one file under two names; of what is packed only the checksum is compared.

    Where something is to be made, their voxels are compared when they are prepared.
    """
    checksum = cache(_checksum)
    for one, other in combinations(found.available, 2):
        a, b = found.files[one], found.files[other]
        try:
            packed = any(path.suffix.lower() in PACKED for path in (a, b))
            same = checksum(a) == checksum(b) if packed else filecmp.cmp(a, b, shallow=False)
            same = same and min(path.stat().st_size for path in (a, b)) > SMALLEST
        except OSError:
            continue  # that it cannot be read is told where it is read
        if same:
            raise InputError(
                f"{found.name}: {one.label} and {other.label} are the same image ({a.name}, {b.name}); expected two "
                "different contrasts. Find out which of the two it is, and leave the other file out."
            )


def _checksum(path: Path) -> bytes:
    """CRC-32 and length of a file's content: of a gzip file its last eight bytes, which say so; else counted."""
    with path.open("rb") as file:
        if path.suffix.lower() in PACKED:
            file.seek(-min(8, path.stat().st_size), os.SEEK_END)
            return file.read(8)
        crc = length = 0
        while piece := file.read(1 << 20):
            crc, length = zlib.crc32(piece, crc), length + len(piece)
    return struct.pack("<II", crc, length % 2**32)


def refuse_label_map(path: Path | str, volume: "Volume") -> None:
    """Raise InputError for an image of a few values: a mask or a segmentation, whatever its name says."""
    import numpy as np

    some = np.unique(volume.voxels.ravel(order="K")[:: max(volume.voxels.size // SAMPLED, 1)])
    if len(some) <= FEW_VALUES and len(values := np.unique(volume.voxels)) <= FEW_VALUES:
        raise InputError(
            f"{path} has only the values {', '.join(f'{v:g}' for v in values)}: a mask or a segmentation, not a scan. "
            "Move it elsewhere or rename it, so that it is not taken for the scan."
        )


def _kept_otherwise(root: Path) -> tuple[str, Path, Survey]:
    """The data set a folder is of, if its subjects are spread over folders, else ""; and what was seen."""
    try:
        home = Path(os.path.abspath(root))  # a subject's folder tells its name, also where it is "."
    except FileNotFoundError as error:
        raise InputError(
            f"{root}: the working directory was deleted. Go to another, or give the whole path."
        ) from error
    seen = survey(home) if home.is_dir() else Survey()
    named = Counter({name: votes for name, votes in seen.votes.items() if name})
    dataset, most = named.most_common(1)[0] if named else ("", 0)
    if dataset not in LAYOUTS or LAYOUTS[dataset].place is None or seen.votes[""] > OTHERS * most:
        return "", root, seen
    if LAYOUTS[dataset].spread and len(seen.homes[dataset]) == 1:
        return "", root, seen
    return dataset, home, seen
