"""What lies in a folder: scans, label maps, what mrsynth made itself, and what cannot be told.

Reads names and sidecars, never voxels.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.io.naming import ScanName, is_channel, read_name, stem_of
from mrsynth.io.reading import read_json
from mrsynth.io.vocabulary import contrast_in_name, is_label_map

SKIPPED_FOLDERS = {"mrsynth", "derivatives", "labelsTr", "labelsTs", "labelsVal"}
BIDS_DATATYPES = {"anat", "beh", "dwi", "eeg", "fmap", "func", "ieeg", "meg", "perf", "pet"}
FLAGS = " ".join(f"--{contrast} FILE" for contrast in STANDARD)
RECOGNISED = "t1, t1n, t1w, mprage; t1ce, t1c, t1gd, t1_post; t2, t2w; flair, t2f, t2_flair"


@dataclass
class Content:
    """What lies in a folder and in its `anat`.

    channels         what `_0000`, `_0001`, ... mean; empty unless there are such files and a table that explains them
    channel_problem  why there is no such table
    unknown          NIfTI files whose names state no contrast
    others           names of all that is not NIfTI, with `/` after folders
    """

    folder: Path
    channels: Mapping[int, Contrast]
    channel_problem: str = ""
    scans: dict[Path, ScanName] = field(default_factory=dict)
    labels: list[Path] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)
    synthetic: list[Path] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def read_folder(folder: Path, sessions: bool) -> Content:
    """Sort the files of a folder by what their names say.

    sessions  whether to look into its only `ses-*` when the folder itself has no scan
    Raises InputError when the folder cannot be read, holds a link to nowhere, or holds several sessions.
    """
    niftis, others = entries(folder)
    if "anat/" in others:
        niftis += entries(folder / "anat")[0]
    channels, problem = _channels(folder) if any(is_channel(path.name) for path in niftis) else ({}, "")
    content = Content(folder, channels, problem, others=others)
    for path in niftis:
        if _is_synthetic(path):
            content.synthetic.append(path)
        elif name := read_name(path.name, channels):
            content.scans[path] = name
        else:
            (content.labels if is_label_map(path.name) else content.unknown).append(path)
    if sessions and not content.scans:
        inside = [read_folder(folder / name[:-1], sessions=False) for name in others if name.startswith("ses-")]
        inside = [session for session in inside if session.scans]
        if len(inside) > 1:
            found = ", ".join(str(session.folder) for session in inside)
            raise InputError(f"{folder} holds {len(inside)} sessions: {found}. Give one of them.")
        if inside:
            return replace(inside[0], folder=folder)
    return content


def entries(folder: Path) -> tuple[list[Path], list[str]]:
    """The NIfTI files of a folder, links followed, and the names of all else; hidden ones left out.

    Raises InputError when the folder cannot be read or holds a link to nowhere.
    """
    niftis, others = [], []
    try:
        with os.scandir(folder) as listing:
            for entry in sorted(listing, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    others.append(f"{entry.name}/")
                elif not is_nifti(entry.name):
                    others.append(entry.name)
                elif entry.is_file():
                    niftis.append(folder / entry.name)
                else:
                    raise InputError(
                        f"{folder / entry.name} is a link to a file that is not there. "
                        "Fetch that file (for example with `datalad get`) or remove the link."
                    )
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}. Check its permissions.") from error
    return niftis, others


def walk(root: Path, reasons: list[str]) -> Iterator[Path]:
    """`root` and the folders below it where subjects may lie, each once even if links lead there twice."""

    def unreadable(error: OSError) -> None:
        reasons.append(f"{error.filename} cannot be read: {error.strerror}. Check its permissions.")

    seen: set[str] = set()
    for path, below, _ in os.walk(root, onerror=unreadable, followlinks=True):
        skipped = SKIPPED_FOLDERS | (BIDS_DATATYPES if "anat" in below else set())
        below[:] = sorted(name for name in below if name not in skipped and not name.startswith("."))
        if (real := os.path.realpath(path)) in seen:
            below.clear()
            continue
        seen.add(real)
        yield Path(path)


def _channels(folder: Path) -> tuple[dict[int, Contrast], str]:
    """Channel -> contrast from the dataset.json of nnU-Net, here or up to two folders above; and why there is none."""
    here = Path(os.path.abspath(folder))
    for path in (parent / "dataset.json" for parent in (here, *here.parents[:2])):
        if not path.is_file():
            continue
        try:
            table = read_json(path)
            names = {int(i): str(name) for i, name in (table.get("channel_names") or table["modality"]).items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}, f"{path} has no usable table of channels (channel_names or modality: index -> name)"
        contrasts = {i: contrast for i, name in names.items() if (contrast := contrast_in_name(name))}
        return contrasts, "" if contrasts else f"{path} names the channels {few(names.values())}: no known contrast"
    return {}, "no dataset.json says which channel is which contrast, and the order differs between data sets"


def _is_synthetic(path: Path) -> bool:
    """Whether this tool wrote the file: its sidecar, or that of the contrast whose uncertainty it shows, says so."""
    stem = stem_of(path.name)
    if re.search(r"_desc-synth(std|mean|spread)?_", stem):
        return True
    for name in {stem, re.sub("_(std|mean|spread)$", "", stem)}:
        try:
            content = read_json(path.with_name(f"{name}.json"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("synthetic") is True:
            return True
    return False


def is_nifti(filename: str) -> bool:
    """Whether the name ends in .nii or .nii.gz, in any case."""
    return filename.lower().endswith((".nii", ".nii.gz"))


def nothing_found(content: Content) -> str:
    """Why a folder gives no subject: what was found, what was expected, what to do."""
    seen = [path.name for path in (*content.unknown, *content.labels)]
    made = few(path.name for path in content.synthetic)
    made = f" Left out because mrsynth made them: {made}." if made else ""
    if any(is_channel(path.name) for path in content.unknown) and content.channel_problem:
        return (
            f"{content.folder}: {few(seen)} are named as nnU-Net does, but {content.channel_problem}. "
            f"Add a dataset.json with channel_names here or above, or name the files: {FLAGS}."
        )
    if seen:
        return (
            f"{content.folder}: no contrast recognised in {few(seen)}; masks and segmentations are not used.{made} "
            f"Expected names with {RECOGNISED}. Rename the files, or name them: {FLAGS}."
        )
    dicom = any(re.search(r"(?i)\.(dcm|ima)$|^dicomdir$", name) for name in content.others)
    todo = "Convert DICOM first, for example with dcm2niix" if dicom else "Give the folder with one subject's scans"
    found = few(content.others) or "nothing at all"
    return f"{content.folder} holds no scan in NIfTI format (.nii, .nii.gz).{made} Found {found}. {todo}."


def few(names: Iterable[str], most: int = 8) -> str:
    """Names for a message: the first few, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
