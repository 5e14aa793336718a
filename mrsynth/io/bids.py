"""BIDS data sets: recognised by their description, their files named by URI, and the description of a derivative.

https://bids-specification.readthedocs.io, version 1.10: "Derivatives dataset and pipeline description", "BIDS URI".
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mrsynth.io.reading import read_json

DESCRIPTION = "dataset_description.json"
SOURCE = "source"  # what a derivative calls the data set it was made from
VERSION = "1.10.0"  # of BIDS
_HOME = re.compile(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?")
_INSIDE = re.compile(r"(sub|ses)-[A-Za-z0-9]+|anat")


@dataclass(frozen=True)
class BidsDataset:
    """A data set, raw or itself a derivative, with what its dataset_description.json says."""

    root: Path
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As it calls itself, else as its folder is called."""
        return str(self.said.get("Name") or Path(os.path.abspath(self.root)).name)

    def uri(self, path: Path) -> str:
        """The BIDS URI of one of its files: `bids:source:sub-01/anat/sub-01_T1w.nii.gz`."""
        inside = os.path.relpath(os.path.abspath(path), os.path.abspath(self.root))
        return f"bids:{SOURCE}:{quote(Path(inside).as_posix())}"

    def link(self, out: Path) -> str:
        """The way to it from a folder, as a relative URI: `../..`."""
        return quote(Path(os.path.relpath(self.root.resolve(), out.resolve())).as_posix())


def dataset_of(folder: Path) -> BidsDataset | None:
    """The BIDS data set that a folder is, or of which it is a participant or session; None where there is none.

    A data set has a dataset_description.json that states a BIDSVersion.
    """
    folder = Path(os.path.abspath(folder.expanduser()))
    while True:
        said = described(folder)
        if said.get("BIDSVersion"):
            return BidsDataset(folder, said)
        if not _INSIDE.fullmatch(folder.name):
            return None
        folder = folder.parent


def described(folder: Path) -> dict[str, Any]:
    """What a dataset_description.json says; nothing where there is none, or none that can be read."""
    try:
        said = read_json(folder / DESCRIPTION)
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def home_in_tree(subject: str) -> Path | None:
    """Where in a data set the anatomy of `sub-01_ses-02` lies: sub-01/ses-02/anat; None for another kind of name."""
    match = _HOME.fullmatch(subject)
    return Path(*(part for part in match.groups() if part), "anat") if match else None


def description_of_derivative(dataset: BidsDataset, out: Path, pipeline: Mapping[str, str]) -> dict[str, Any]:
    """The dataset_description.json of what was made from a data set.

    out       where the derivative lies
    pipeline  Name, Version and so on of what made it
    """
    link = dataset.link(out)
    source = {"DOI": dataset.said["DatasetDOI"]} if dataset.said.get("DatasetDOI") else {"URL": link}
    return {
        "Name": f"Synthetic contrasts of {dataset.name}",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        **({"License": dataset.said["License"]} if dataset.said.get("License") else {}),
        "GeneratedBy": [dict(pipeline)],
        "SourceDatasets": [source],
        "DatasetLinks": {SOURCE: link},
    }
