"""Where in the output folder of a batch the results of a subject lie: `NAME`, or the tree of a BIDS derivative."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from mrsynth import __version__
from mrsynth.errors import InputError, UsageError
from mrsynth.io.bids import (
    DESCRIPTION,
    BidsDataset,
    dataset_of,
    described,
    description_of_derivative,
    home_in_tree,
)
from mrsynth.io.files import write_text
from mrsynth.io.folders import few
from mrsynth.io.subjects import SubjectFiles
from mrsynth.tasks.complete.output import REPORT_FILES
from mrsynth.texts import meant

PIPELINE = "mrsynth"
NO_BIDS = ("batch.json", "journal*.jsonl", "summary.csv", "index.html")
README = """# Synthetic MRI contrasts

The images here are SYNTHETIC: mrsynth inferred them from other contrasts of the same participants, no scanner acquired
them. They are for research and not for diagnosis. A synthetic T1ce is never evidence of contrast enhancement.

Every image has a JSON file that says what it was made from, by which checkpoint, and what its intensities mean.
`index.html` shows all participants, and the `report.html` beside each one's images how far to trust them.
"""


@dataclass(frozen=True)
class Tree:
    """The output folder, and the BIDS data set that it is a derivative of; None for folders of other kinds."""

    out: Path
    dataset: BidsDataset | None = None

    @classmethod
    def of(cls, root: Path, out: Path | None) -> "Tree":
        """The tree for a batch of `root`: by default `derivatives/mrsynth` of its data set, else `root/mrsynth`.

        Raises UsageError for a place among raw data, or that holds a data set of others.
        """
        dataset = dataset_of(root)
        if dataset is None:
            return cls(out or root / "mrsynth")
        derivatives = dataset.root / "derivatives"
        out = out or derivatives / PIPELINE
        place = out.resolve()
        inside = place.is_relative_to(dataset.root.resolve())
        if inside and derivatives.resolve() not in place.parents:
            raise UsageError(
                f"{out} lies among the data of {dataset.root}. Give --out a folder in {derivatives} or elsewhere."
            )
        if (out / DESCRIPTION).exists() and PIPELINE not in made_by(out):
            raise UsageError(f"{out} holds a data set that mrsynth did not make. Give another --out.")
        return cls(out, dataset)

    def home(self, subject: str) -> Path:
        """The folder of a subject's results, from the output folder."""
        inside = home_in_tree(subject) if self.dataset is not None else None
        return inside or Path(subject)

    def refuse_strangers(self, files: SubjectFiles) -> None:
        """Raise InputError for a subject whose results have no place here.

        Of a BIDS data set one whose scans are not named as in BIDS; else one that is called as a file of the batch is.
        """
        if self.dataset is None and any(fnmatch(files.name.casefold(), name) for name in NO_BIDS):
            raise InputError(
                f"{files.name}: the batch keeps a file of that name, so that results have no place beside it. Rename "
                "the subject's folder, or complete it by itself."
            )
        if self.dataset is not None and (files.layout != "bids" or home_in_tree(files.name) is None):
            raise InputError(
                f"{files.name}: its scans are not named as in BIDS, so that results have no place in a derivative. "
                "Rename them (sub-ID_T1w.nii.gz), or complete this folder by itself."
            )

    def describe(self) -> None:
        """Write what makes the output folder a BIDS data set; what others added to that stays. Raises OutputError."""
        if self.dataset is None:
            return
        pipeline = {"Name": PIPELINE, "Version": __version__, "Description": "Synthesis of missing MRI contrasts"}
        said = description_of_derivative(self.dataset, self.out, pipeline)
        said = {**described(self.out), **said}
        write_text(self.out / DESCRIPTION, json.dumps(said, indent=2, ensure_ascii=False) + "\n")
        if not any(os.path.lexists(self.out / name) for name in ("README", "README.md", "README.rst", "README.txt")):
            write_text(self.out / "README.md", README)
        ignored = self.out / ".bidsignore"
        before = ignored.read_text(encoding="utf-8", errors="replace").splitlines() if ignored.is_file() else []
        apart = (*NO_BIDS, *(f"**/{name}" for name in (*REPORT_FILES, "*_ct.*")))
        write_text(ignored, "\n".join(dict.fromkeys([*before, *apart])) + "\n")


def made_by(folder: Path) -> set[str]:
    """The programs that a data set says it was made by."""
    makers = described(folder).get("GeneratedBy")
    listed = makers if isinstance(makers, list) else []
    return {str(maker.get("Name")) for maker in listed if isinstance(maker, dict)}


def speaking_of(names: Sequence[str], lines: Sequence[str]) -> list[str]:
    """Those of the lines that hold one of the names as a word of its own: p1 is not in p10."""
    words = re.compile("|".join(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])" for name in names))
    return [line for line in lines if words.search(line)]


def of_participants(
    subjects: Sequence[SubjectFiles], wanted: Sequence[str], left_out: Sequence[str] = ()
) -> list[SubjectFiles]:
    """The subjects of these participants, all sessions of each; all subjects where none is named.

    wanted    names as in the data set, of BIDS participants also without `sub-`
    left_out  why folders hold no subject
    Raises UsageError for one that has no subject.
    """
    if not wanted:
        return list(subjects)
    of: dict[str, list[SubjectFiles]] = {}
    for files in subjects:
        person = re.sub(r"_ses-[A-Za-z0-9]+$", "", files.name)
        for name in {files.name, person, person.removeprefix("sub-")}:
            of.setdefault(name, []).append(files)
    if absent := [name for name in wanted if name not in of]:
        because = "".join(f"\n{line}" for line in speaking_of(absent, left_out)[:3])
        raise UsageError(
            f"--participants {','.join(absent)}: found no such subject among {len(subjects)}, "
            f"{few(files.name for files in subjects)}.{meant(absent[0], of.keys())}{because}"
        )
    chosen = {files.name for name in wanted for files in of[name]}
    return [files for files in subjects if files.name in chosen]
