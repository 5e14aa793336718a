"""What lies in a folder: scans, label maps, what mrsynth made itself, and what cannot be used, each with the reason.

Reads names, JSON files and the first bytes of headers, never voxels.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.io.bids import DESCRIPTION
from mrsynth.io.formats import ARCHIVES, HEADERS, PERHAPS, ending_of, how_to_convert, is_volume, stem_of, wrapped
from mrsynth.io.naming import ScanName, is_channel, read_names
from mrsynth.io.provenance import begins_as_nifti, says_synthetic
from mrsynth.io.sidecars import any_json, pointer_of, series_of, sidecar_of, weigh
from mrsynth.io.vocabulary import UNNAMED, Verdict, contrast_in_name

SKIPPED_FOLDERS = {"mrsynth", "derivatives", "labelsTr", "labelsTs", "labelsVal"}
NO_RAW_DATA = {"sourcedata", "code", "phenotype", "stimuli"}  # beside the description of a BIDS data set
BIDS_DATATYPES = {"anat", "beh", "dwi", "eeg", "fmap", "func", "ieeg", "meg", "perf", "pet"}
FLAGS = " ".join(f"--{contrast} FILE" for contrast in STANDARD)
RECOGNISED = "t1, t1n, t1w, mprage; t1ce, t1c, ct1, t1gd, t1_post; t2, t2w; flair, t2f, t2_flair"
_DICOM_ENDING = re.compile(r"\.(dcm|ima)$", re.IGNORECASE)
_DICOM_NAME = re.compile(r"(im|i|mr)[-_.]?\d+|(\d+\.){5,}\d+|dicomdir", re.IGNORECASE)


class Entries(NamedTuple):
    """A folder's files, hidden ones left out.

    images  those whose format is read, links followed
    broken  those that are images and cannot be read: dead links, pointers, other formats; with the reason
    others  the names of all else, with `/` after folders
    """

    images: list[Path]
    broken: dict[Path, str]
    others: list[str]


@dataclass
class Content:
    """What lies in a folder and in its `anat`.

    channels         what `_0000`, `_0001`, ... mean; empty unless there are such files and a table that explains them
    channel_problem  why there is no such table
    unsure           scans whose names leave the choice between contrasts
    broken           scans that cannot be read: their contrasts, and why
    unused           files that are no scans of a contrast, or do not say of which; and why
    notes            what else is to be told of a file
    others           names of all that is no image, with `/` after folders
    """

    folder: Path
    channels: Mapping[int, Contrast]
    channel_problem: str = ""
    scans: dict[Path, ScanName] = field(default_factory=dict)
    labels: list[Path] = field(default_factory=list)
    unsure: dict[Path, Verdict] = field(default_factory=dict)
    broken: dict[Path, tuple[tuple[Contrast, ...], str]] = field(default_factory=dict)
    unused: dict[Path, str] = field(default_factory=dict)
    synthetic: list[Path] = field(default_factory=list)
    notes: dict[Path, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def left_out(self) -> dict[Path, str]:
        """Every image that is no scan and no label map, and why."""
        unsure = {path: verdict.why for path, verdict in self.unsure.items()}
        broken = {path: why for path, (_, why) in self.broken.items()}
        made = dict.fromkeys(self.synthetic, "synthetic: mrsynth made it")
        return dict(sorted((self.unused | unsure | broken | made).items()))

    def not_scans(self) -> dict[Path, str]:
        """Every image that is no scan, label maps too, and why."""
        return dict(sorted((self.left_out() | dict.fromkeys(self.labels, "a mask or segmentation")).items()))


def read_folder(folder: Path, sessions: bool) -> Content:
    """Sort the files of a folder by what their names say.

    sessions  whether to look into its only `ses-*` when the folder itself has no scan
    Raises InputError when the folder cannot be read, or holds several sessions.
    """
    images, broken, others = entries(folder)
    if "anat/" in others:
        within = entries(folder / "anat")
        images, broken = images + within.images, broken | within.broken
    if not images and not broken:
        images, broken = _one_folder_a_contrast(folder, others)
    names = [path.name for path in (*images, *broken)]
    channels, problem = _channels(folder) if any(is_channel(name) for name in names) else ({}, "")
    content = Content(folder, channels, problem, others=others)
    synthetic = {path for path in images if is_synthetic(path)}
    read = read_names([name for path in (*images, *broken) if path not in synthetic for name in [path.name]], channels)
    for path in images:
        if path in synthetic:
            content.synthetic.append(path)
        else:
            _place(content, path, _by_folder(path, read[path.name], folder))
    for path, why in broken.items():
        verdict = read[path.name]
        shown = verdict.could_be if isinstance(verdict, Verdict) else (verdict.contrast,)
        content.broken[path] = (shown, why)
    if content.scans:
        taken = {path.parent.name + "/" for path in images if path.parent != folder}
        content.broken |= _beside_the_scans(folder, [name for name in others if name not in taken])
    if sessions and not content.scans:
        inside = [read_folder(folder / name[:-1], sessions=False) for name in others if name.startswith("ses-")]
        inside = [session for session in inside if session.scans]
        if len(inside) > 1:
            found = ", ".join(str(session.folder) for session in inside)
            raise InputError(f"{folder} holds {len(inside)} sessions: {found}. Give one of them.")
        if inside:
            return replace(inside[0], folder=folder)
    return content


def _beside_the_scans(folder: Path, others: Iterable[str]) -> dict[Path, tuple[tuple[Contrast, ...], str]]:
    """Folders beside the scans that are called like a contrast and hold images (FLAIR/ beside T1.nii.gz), and DICOM."""
    found: dict[Path, tuple[tuple[Contrast, ...], str]] = {}
    for name in others:
        if _DICOM_ENDING.search(name) and (contrast := contrast_in_name(name[:-4])):
            found[folder / name] = ((contrast,), "a DICOM file beside scans in NIfTI; convert it with dcm2niix")
            continue
        contrast = contrast_in_name(name[:-1]) if name.endswith("/") and not is_volume(name[:-1]) else None
        if contrast is None or name[:-1] in SKIPPED_FOLDERS:
            continue
        try:
            inside = entries(folder / name[:-1])
        except InputError:
            found[folder / name[:-1]] = ((contrast,), "a folder that cannot be read; check its permissions")
            continue
        if count := len(inside.images) + len(inside.broken) + sum(map(looks_like_dicom, inside.others)):
            todo = "copy the one that is meant here, or name it by option"
            found[folder / name[:-1]] = ((contrast,), f"a folder with {count} images beside the scans; {todo}")
    return found


def looks_like_dicom(name: str) -> bool:
    """Whether a file is called as scanners and archives call DICOM files."""
    return (_DICOM_ENDING.search(name) or _DICOM_NAME.fullmatch(name)) is not None


def _by_folder(path: Path, name: ScanName | Verdict, folder: Path) -> ScanName | Verdict:
    """What a file name says, or where it says nothing of a contrast, the folder the file has to itself."""
    if path.parent in (folder, folder / "anat") or isinstance(name, ScanName) or name.why != UNNAMED:
        return name
    contrast = contrast_in_name(path.parent.name)
    return ScanName(contrast) if contrast else name


def _place(content: Content, path: Path, name: ScanName | Verdict) -> None:
    """Put one image where it belongs."""
    name, note = weigh(path.name, name, series_of(sidecar_of(path)))
    if note := note or (name.why if isinstance(name, ScanName) else ""):
        content.notes[path] = note
    if isinstance(name, ScanName):
        content.scans[path] = name
    elif name.label:
        content.labels.append(path)
    elif name.could_be:
        content.unsure[path] = name
    else:
        content.unused[path] = name.why


def entries(folder: Path) -> Entries:
    """The files of a folder by what can be done with them. Raises InputError when the folder cannot be read."""
    found = Entries([], {}, [])
    try:
        with os.scandir(folder) as listing:
            for entry in sorted(listing, key=lambda entry: entry.name):
                path = folder / entry.name
                if entry.name.startswith("."):
                    if (unfetched := re.fullmatch(r"\.(.+)\.icloud", entry.name)) and is_volume(unfetched[1]):
                        found.broken[folder / unfetched[1]] = "in iCloud and not here; open it, or download the folder"
                    continue
                if _is_folder(entry):
                    _look_into(path, found)
                elif is_volume(entry.name):
                    if why := _why_broken(path):
                        found.broken[path] = why
                    else:
                        found.images.append(path)
                elif (why := how_to_convert(path)) or (why := _why_no_volume(path)):
                    found.broken[path] = why
                elif ending_of(entry.name) not in HEADERS:
                    found.others.append(entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}. Check its permissions.") from error
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _look_into(folder: Path, found: Entries) -> None:
    """Note a folder; one that is called like an image, as some archives unpack, stands for the only image in it."""
    found.others.append(f"{folder.name}/")
    if why := _why_no_array(folder):
        found.broken[folder] = why
    if is_volume(folder.name):
        inside = sorted(path for path in folder.iterdir() if is_volume(path.name) and not path.name.startswith("."))
        if len(inside) == 1 and inside[0].is_file():
            found.images.extend(inside)
        else:
            found.broken[folder] = (
                f"a folder with {len(inside)} images, expected a file; copy the one that is meant here"
            )


def _why_no_volume(path: Path) -> str:
    """Why a file that may well be a scan is not taken for one by its name; "" for any other."""
    name = path.name
    if name.lower().endswith(".dvc") and is_volume(name[:-4]) and not path.with_name(name[:-4]).exists():
        return "a pointer of DVC, its content is not here; fetch it with `dvc pull`"
    for header, image in HEADERS.items():
        stem = name[: -len(header)]
        if name.lower().endswith(header):
            there = any(path.with_name(stem + ending).exists() for ending in (image, image.upper()))
            return "" if there else f"without its image {stem}{image}; copy both files of the pair"
    unfinished = re.fullmatch(r"(?i)(.+)\.(?:part|partial|crdownload|download|filepart|tmp|aria2)", name)
    if unfinished and is_volume(unfinished[1]):
        return "an unfinished download; fetch it again" if not path.with_name(unfinished[1]).exists() else ""
    if (inside := wrapped(name)) and not path.with_name(inside).exists():
        return "an image in another wrapping, or set aside; unpack it, or let its name end as those of images do"
    if packed := next((ending for ending in ARCHIVES if name.lower().endswith(ending)), ""):
        return "a packed archive; unpack it here" if contrast_in_name(name[: -len(packed)]) else ""
    if why := _why_no_array(path):
        return why
    if "." not in name and path.is_symlink() and not path.exists() and contrast_in_name(name):
        return pointer_of(path)  # to a folder of that contrast
    if contrast_in_name(re.sub(r"(?i)\.gz$", "", name)) and not wrapped(name) and begins_as_nifti(path):
        return "an image whose name does not say so; let it end in .nii.gz, or .nii where it is not packed"
    return ""


def _why_no_array(path: Path) -> str:
    """Why an array that is called like a scan is none, in a file or, as of Zarr, in a folder; "" for anything else."""
    if path.suffix[1:].lower() not in PERHAPS or contrast_in_name(path.stem) is None:
        return ""
    return f"in the format {path.suffix}, which is not read; convert it to NIfTI with the program that wrote it"


def _why_broken(path: Path) -> str:
    if why := pointer_of(path):
        return why
    if path.exists() and not path.is_file():
        return "a pipe, a socket or a device, no file"
    for header, image in HEADERS.items():
        stem = path.name[: -len(image)]
        if path.name.lower().endswith(image) and not any(path.with_name(stem + h).is_file() for h in (header, ".HDR")):
            return f"without its header {stem}{header}; copy both files of the pair"
    return ""


def _one_folder_a_contrast(folder: Path, others: Iterable[str]) -> tuple[list[Path], dict[Path, str]]:
    """The images of a folder whose own folders each hold one, and say which contrast it is: BraTS 2015, T1/scan.nii."""
    images: list[Path] = []
    broken: dict[Path, str] = {}
    for name in others:
        if name.endswith("/") and name[:-1] not in SKIPPED_FOLDERS | BIDS_DATATYPES:
            if contrast_in_name(name[:-1]) is None and not re.search(r"(?i)\.OT\.", name):
                continue
            inside = entries(folder / name[:-1])
            if len(inside.images) + len(inside.broken) != 1:
                continue
            images += inside.images
            broken |= inside.broken
    return images, broken


def walk(root: Path, reasons: list[str]) -> Iterator[Path]:
    """`root` and the folders below it where subjects may lie, each once even if links lead there twice."""

    def unreadable(error: OSError) -> None:
        reasons.append(f"{error.filename} cannot be read: {error.strerror}. Check its permissions.")

    seen: set[str] = set()
    for path, below, files in os.walk(root, onerror=unreadable, followlinks=True):
        skipped = SKIPPED_FOLDERS | (BIDS_DATATYPES if "anat" in below else set())
        skipped |= NO_RAW_DATA if DESCRIPTION in files else set()
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
            table = any_json(path)
            names = {int(i): str(name) for i, name in (table.get("channel_names") or table["modality"]).items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return {}, f"{path} has no usable table of channels (channel_names or modality: index -> name)"
        contrasts = {i: contrast for i, name in names.items() if (contrast := contrast_in_name(name))}
        return contrasts, "" if contrasts else f"{path} names the channels {few(names.values())}: no known contrast"
    return {}, "no dataset.json says which channel is which contrast, and the order differs between data sets"


def is_synthetic(path: Path) -> bool:
    """Whether this tool wrote the file: its header or sidecar, or that of the contrast whose map it is, says so."""
    stem = stem_of(path.name)
    if re.search(r"_desc-synth(remade)?(std|mean|spread|error)?_", stem) or says_synthetic(path):
        return True
    image = path.with_name(re.sub("_?(std|mean|spread|error)$", "", stem) + ".nii")
    sidecars = [sidecar_of(path), *([sidecar_of(image)] if stem_of(image.name) != stem else [])]
    said = {"synthetic", "synthesized", "synthesised"}
    return any(_is_true(value) and key.lower() in said for content in sidecars for key, value in content.items())


def _is_true(value: object) -> bool:
    return value == 1 or str(value).strip().lower() in ("true", "yes", "1")


def nothing_found(content: Content) -> str:
    """Why a folder gives no subject: what was found, what was expected, what to do."""
    made = few(path.name for path in content.synthetic)
    made = f" Left out because mrsynth made them: {made}." if made else ""
    seen = {path: why for path, why in content.not_scans().items() if path not in content.synthetic}
    channels = [path.name for path in seen if is_channel(path.name)]
    if channels and content.channel_problem:
        return (
            f"{content.folder}: {few(channels)} are named as nnU-Net does, but {content.channel_problem}. "
            f"Add a dataset.json with channel_names here or above, or name the files: {FLAGS}."
        )
    if seen:
        return (
            f"{content.folder}: no contrast recognised in {few(path.name for path in seen)}.{made}"
            f"{listed(content.folder, seen)}\n"
            f"Expected names with {RECOGNISED}. Rename the files, or name them: {FLAGS}."
        )
    dicom = any(map(looks_like_dicom, content.others))
    todo = (
        "`mrsynth dicom` converts DICOM, `mrsynth complete` takes it as it is; what both refuse is none, or damaged: "
        "export it again, or convert it with dcm2niix"
        if dicom
        else "Give the folder with one subject's scans"
    )
    found = few(content.others) or "nothing at all"
    return f"{content.folder} holds no scan in NIfTI format (.nii, .nii.gz).{made} Found {found}. {todo}."


def listed(folder: Path, files: Mapping[Path, str], title: str = "") -> str:
    """Files and what is said of each, one a line below the title; "" where there are none."""
    lines = [
        f"  {path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path}: {why}"
        for path, why in files.items()
    ]
    return "\n".join([title, *lines]) if lines else ""


def few(names: Iterable[str], most: int = 8) -> str:
    """Names for a message: the first few, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
