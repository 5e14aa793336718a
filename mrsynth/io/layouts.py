"""How each data set of the benchmark is laid out: which files are its own, whose they are, and who is one patient.

Reads names, never voxels, and imports neither numpy nor nibabel. BraTS and free layouts are understood by
`subjects_among_files`; IXI, ISLES, WMH and SynthRAD keep a subject in folders that it would take for several.
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mrsynth.contrasts import Contrast
from mrsynth.io.folders import walk
from mrsynth.io.formats import is_volume, stem_of
from mrsynth.io.vocabulary import contrast_in_name, is_brain_mask, is_label_map

SEGMENTATION, MASK = "segmentation", "mask"
ORGANISERS_FOLDER = re.compile(r"(?i)(?:.*[ _-])?(train|test)(?:ing)?")  # test, training, SISS2015_Testing
OTHERS = 2  # files with names of no data set, for each with that of one: masks and what was not prepared
FOLDERS_ABOVE = 4  # of a subject, in which the organisers' test and training folders are looked for


class Place(NamedTuple):
    """What one file is: of which subject, in which folder (None: wherever its files lie), and what it shows."""

    subject: str
    folder: Path | None
    kind: Contrast | str


@dataclass(frozen=True)
class Layout:
    """How the files of a data set are told from those of others, and its subjects read.

    named     what `FOLDER/FILE` of its scans looks like
    example   such a name, for messages
    place     understands one file; None where `subjects_among_files` does all of it
    patient   its first group in a subject's name is the patient; None where every subject is a patient of its own
    shares    the data set under whose name patients are divided, where several hold the same patients
    kin       data sets whose files may lie among its own: the same patients, contrasts and labels under other names
    spread    whether names tell its subjects apart, so that `place` is needed only where they lie in several folders
    own_only  whether files that look like those of no data set known are left out
    home      the name of a subject's folder, so that one without scans is noticed
    besides   files that come with the data set and are not used: what their path ends like, and why not
    aside     subjects that are left out where there are others: what their name is like, and why
    """

    named: re.Pattern[str]
    example: str
    place: Callable[[Path], Place | None] | None = None
    patient: re.Pattern[str] | None = None
    shares: str = ""
    kin: frozenset[str] = frozenset()
    spread: bool = False
    own_only: bool = False
    home: re.Pattern[str] | None = None
    besides: tuple[tuple[re.Pattern[str], str], ...] = ()
    aside: tuple[re.Pattern[str], str] | None = None


@dataclass
class Survey:
    """What the names below a folder say.

    votes    NIfTI files by the data set they look like, "" for none; without those that a data set has besides
    homes    data set -> the folders its files lie in
    scans    the names of all NIfTI files
    others   the names of all else in the folder itself
    folders  the folder and all below it
    """

    votes: Counter[str] = field(default_factory=Counter)
    homes: dict[str, set[Path]] = field(default_factory=dict)
    scans: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


def survey(root: Path) -> Survey:
    """Look at every name below a folder once."""
    found = Survey()
    for folder in (part for home in walk(root, []) for part in (home, home / "anat") if part.is_dir()):
        found.folders.append(folder)
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue  # said by whoever reads the subjects
        for name in names:
            if name.startswith("."):
                continue
            if is_volume(name) and not (folder / name).is_dir():
                found.scans.append(name)
                if (look := looks_like(folder / name)) or not why_not(folder / name):
                    found.votes[look] += 1
                    found.homes.setdefault(look, set()).add(folder)
            elif folder == root:
                found.others.append(name)
    return found


def looks_like(path: Path) -> str:
    """The data set a file is named as in: a key of LAYOUTS or of FOREIGN, or "" where its name says nothing."""
    name = f"{path.parent.name}/{path.name}"
    patterns = FOREIGN | {key: layout.named for key, layout in LAYOUTS.items()}
    return next((key for key, pattern in patterns.items() if pattern.search(name)), "")


def patient_of(dataset: str, subject: str) -> str:
    """The patient a subject (one examination) is of: its own name unless the data set's names tell the two apart.

    `BraTS-GLI-00005-101` of brats24 -> `BraTS-GLI-00005`
    """
    pattern = LAYOUTS[dataset].patient if dataset in LAYOUTS else _SEVERAL_TIMES
    match = pattern.match(subject) if pattern else None
    return match[1] if match else subject


def examination(name: str) -> tuple[str, int]:
    """Patient and time point in the names of BraTS 2021 and 2023: BraTS2021_00027 is BraTS-GLI-00027-000."""
    match = _EXAMINATION.match(name)
    return (match[1], int(match[2] or 0)) if match else (name, 0)


def in_test_folder(home: Path) -> bool:
    """Whether of the folders around a subject's own, the nearest that says training or test says test."""
    above = list(home.absolute().parents)[:FOLDERS_ABOVE]
    said = [match[1].lower() for folder in above if (match := ORGANISERS_FOLDER.fullmatch(folder.name))]
    return said[:1] == ["test"]


def why_not(path: Path) -> str:
    """Why a file that comes with some data set is none of its scans; "" where none says so."""
    name = path.as_posix()
    return next((why for layout in LAYOUTS.values() for like, why in layout.besides if like.search(name)), "")


# Where files belong --------------------------------------------------------------------------------------------------


def _ixi(path: Path) -> Place | None:
    """IXI-T1/IXI002-Guys-0828-T1.nii.gz; or any names in a folder IXI002-Guys-0828."""
    subject = _IXI.search(path.name) or _IXI.fullmatch(path.parent.name)
    if subject is None:
        return None
    if is_label_map(path.name):
        return Place(subject[0], None, MASK if is_brain_mask(path.name) else SEGMENTATION)
    contrast = contrast_in_name(path.name)
    return Place(subject[0], None, contrast) if contrast in (Contrast.T1, Contrast.T2, Contrast.PD) else None


def _isles15(path: Path) -> Place | None:
    """1/VSD.Brain.XX.O.MR_Flair.70614/VSD.Brain.XX.O.MR_Flair.70614.nii; OT is the lesion."""
    match = _ISLES15.search(path.name)
    if match is None:
        return None
    home = path.parent.parent if path.parent.name.startswith("VSD") else path.parent
    if any("MR_T1c." in name for name in os.listdir(home)):
        return None  # BraTS up to 2015 and SPES have such names too
    kind = SEGMENTATION if match[1] is None else contrast_in_name(match[1])
    test = "test-" if in_test_folder(home) else ""  # numbers begin anew in each folder
    return None if kind is None else Place(f"siss-{test}{home.name.rjust(2, '0')}", home, kind)


def _wmh(path: Path) -> Place | None:
    """Utrecht/0/pre/{T1,FLAIR}.nii.gz and Utrecht/0/wmh.nii.gz; numbers are unique over all sites."""
    stem, home = stem_of(path.name).lower(), path.parent
    if home.name == "pre" and stem in ("t1", "flair"):
        home = home.parent
        return Place(f"wmh-{home.name.rjust(3, '0')}", home, Contrast(stem))
    return Place(f"wmh-{home.name.rjust(3, '0')}", home, SEGMENTATION) if stem == "wmh" else None


def _synthrad23(path: Path) -> Place | None:
    """1BA001/{ct,mr,mask}.nii.gz; the mask is the outline of the head."""
    kinds = {"ct": Contrast.CT, "mr": Contrast.MR, "mask": MASK}
    kind = kinds.get(stem_of(path.name).lower())
    return Place(path.parent.name, path.parent, kind) if kind and _SYNTHRAD.fullmatch(path.parent.name) else None


_IXI = re.compile(r"IXI\d+-[A-Za-z]+-\d+")
_ISLES15 = re.compile(r"(?i)^VSD\..*\.(?:MR_(Flair|DWI|T1|T2)|OT)\..*nii(?:\.gz)?$")
_SYNTHRAD = re.compile(r"[12][BP][A-Z]\d{3}")
_EXAMINATION = re.compile(r"BraTS(?:2021_|-GLI-)(\d+)(?:-(\d+))?")
_SEVERAL_TIMES = re.compile(r"(sub-[A-Za-z0-9]+(?=_ses-)|BraTS-[A-Z]+-\d+(?=-\d{3}$)|UPENN-GBM-\d+(?=_\d\d$))")

LAYOUTS: dict[str, Layout] = {
    "brats20": Layout(
        named=re.compile(r"/BraTS20_[A-Za-z]+_\d+_"),
        example="BraTS20_Training_001_t1.nii",
        home=re.compile(r"BraTS20_[A-Za-z]+_\d+"),
    ),
    "brats21": Layout(
        named=re.compile(r"/BraTS2021_\d+_"),
        example="BraTS2021_00000_t1.nii.gz",
        patient=re.compile(r"BraTS(?:2021_|-GLI-)(\d+)"),
        kin=frozenset({"brats23"}),
        home=re.compile(r"BraTS2021_\d+|BraTS-GLI-\d+-0\d\d"),
    ),
    "brats23": Layout(
        named=re.compile(r"/BraTS-GLI-\d+-0\d\d[-_]"),
        example="BraTS-GLI-00000-000-t1n.nii.gz",
        patient=re.compile(r"BraTS(?:2021_|-GLI-)(\d+)"),
        shares="brats21",
        kin=frozenset({"brats21"}),
        home=re.compile(r"BraTS2021_\d+|BraTS-GLI-\d+-0\d\d"),
    ),
    "brats24": Layout(
        named=re.compile(r"/BraTS-GLI-\d+-1\d\d[-_]"),
        example="BraTS-GLI-00005-100-t1n.nii.gz",
        patient=re.compile(r"(BraTS-GLI-\d+)-\d+"),
        own_only=True,  # its label 4 means something else than everywhere before
        home=re.compile(r"BraTS-GLI-\d+-1\d\d"),
    ),
    "ixi": Layout(
        named=re.compile(r"/IXI\d+-[A-Za-z]+-\d+[-_]|^IXI\d+-[A-Za-z]+-\d+/"),
        example="IXI002-Guys-0828-T1.nii.gz",
        place=_ixi,
        spread=True,
        patient=re.compile(r"(IXI\d+)"),
        besides=(
            (re.compile(r"/IXI\d+[^/]*-MRA[^/]*$"), "an angiogram (MRA) is no contrast that mrsynth knows"),
            (re.compile(r"/IXI\d+[^/]*-DTI[^/]*$"), "diffusion images (DTI) are no contrast that mrsynth knows"),
        ),
    ),
    "isles15": Layout(
        named=re.compile(r"(?i)/VSD\..*\.(MR_(Flair|DWI|T1|T2)|OT)\..*nii(\.gz)?$"),
        example="VSD.Brain.XX.O.MR_Flair.70614.nii",
        place=_isles15,
    ),
    "wmh": Layout(
        named=re.compile(r"(?i)^pre/(T1|FLAIR)\.nii|/wmh\.nii"),
        example="Utrecht/0/pre/FLAIR.nii.gz",
        place=_wmh,
        besides=(
            (
                re.compile(r"/orig/[^/]+$"),
                "orig holds the scans before bias correction and registration, pre those after",
            ),
            (
                re.compile(r"/pre/3DT1\.[^/]+$"),
                "3DT1 is on a grid of its own; T1 is the same scan on that of the FLAIR",
            ),
            (re.compile(r"/observer_o\d+/.*$"), "the labels of a further observer; wmh.nii.gz is the reference"),
        ),
    ),
    "synthrad23": Layout(
        named=re.compile(r"(?i)^[12][BP][A-Z]\d{3}/(ct|mr|mask)\.nii"),
        example="1BA001/mr.nii.gz",
        place=_synthrad23,
        home=_SYNTHRAD,
        besides=((re.compile(r"(?i)/cbct\.nii[^/]*$"), "cone-beam CT is no contrast that mrsynth knows"),),
        aside=(
            re.compile(r"1P.*|2.*"),
            "the pelvis (1P, 2P) or task 2 (2B, 2P), not the brains of task 1. Open it alone.",
        ),
    ),
    "phantom": Layout(
        named=re.compile(r"/phantom-\d+_"), example="phantom-000_t1.nii.gz", home=re.compile(r"phantom-\d+")
    ),
}

# Names of data sets the benchmark does not know, so that they are not taken for those it knows.
FOREIGN: dict[str, re.Pattern[str]] = {
    "BraTS 2017 to 2019": re.compile(r"(?i)/BraTS1[789]_"),
    "another task of BraTS (metastases, meningioma, children, Africa)": re.compile(r"/BraTS-(?!GLI)[A-Za-z]+-\d+"),
    "ISLES 2015 SPES": re.compile(r"(?i)/VSD\..*\.MR_(CBF|CBV|TTP|Tmax|T1c|4DPWI)\."),
}
