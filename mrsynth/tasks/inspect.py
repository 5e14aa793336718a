"""`mrsynth inspect`: what a folder holds, what is missing, which checkpoint would be used, and what stands in the way.

Judges by names and headers, without torch; with `deep` by voxels, as `complete` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, MrsynthError, WeightsError
from mrsynth.io.store import Stock, located
from mrsynth.io.subjects import SubjectFiles, find_subject, load_raw, refuse_copies, settle_masks
from mrsynth.preference import is_at_hand
from mrsynth.sampling import Sampling
from mrsynth.selection import Selection, select
from mrsynth.tasks.circumstances import circumstances
from mrsynth.tasks.complete.examination import examined
from mrsynth.tasks.complete.plan import header_problems

if TYPE_CHECKING:
    from mrsynth.scans.preparation import PreparationConfig


@dataclass(frozen=True)
class Inspection:
    """What was found.

    choice    which checkpoint would be used and why, or why none can; None when nothing is missing
    problems  what keeps `complete` from using the files, in its words
    hints     what does not keep it from anything, but should be known: other checkpoints; of voxels, also where nothing
              is missing, since a scan that is there may be spoiled
    judged    what was looked at
    status    the exit status that `complete` would end with, as far as this looked
    """

    files: SubjectFiles
    missing: tuple[Contrast, ...]
    choice: str | None
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    judged: Literal["headers", "voxels"] = "headers"
    status: int = 0

    def plain(self) -> dict[str, Any]:
        """The same for programs."""
        files = self.files
        return {
            "subject": files.name,
            "folder": str(files.folder),
            "layout": files.layout,
            "files": {c.value: str(path) for c, path in files.files.items()},
            "missing": [c.value for c in self.missing],
            "mask": None if files.mask is None else str(files.mask),
            "segmentation": None if files.segmentation is None else str(files.segmentation),
            "not_used": files.not_used(),
            "notes": list(files.notes),
            "choice": self.choice,
            "judged": self.judged,
            "problems": list(self.problems),
            "hints": list(self.hints),
            "status": self.status,
        }


def inspect(
    folder: Path,
    overrides: Mapping[Contrast, Path] | None = None,
    mask: Path | None = None,
    *,
    deep: bool = False,
) -> Inspection:
    """Look at one subject. Raises InputError as `complete` would where no subject is found at all.

    deep   read the voxels too, and say what `complete` would say of them
    """
    with examined(folder, overrides or {}, mask) as files:
        if files is None:
            return judge(find_subject(folder, overrides, mask), deep)
        found = judge(files, deep)
        bare = {contrast: Path(path.name) for contrast, path in files.files.items()}
        return replace(found, files=replace(files, folder=folder.expanduser(), files=bare))


def judge(files: SubjectFiles, deep: bool) -> Inspection:
    """What is to be said of the files of a subject."""
    missing = files.missing(STANDARD)
    judged: Literal["headers", "voxels"] = "voxels" if deep else "headers"
    if not missing:
        refuse_copies(files)
        return Inspection(files, (), None, hints=tuple(damage(files)) if deep else (), judged=judged)
    status, selection = 0, None
    try:
        stock = Stock()
        selection = select(stock.entries, files.available, missing, given=circumstances(Sampling(), stock))
        choice, files = selection.reason, files.only(selection.entry.contrasts)
    except MrsynthError as error:
        choice, status = f"None: {error}", error.exit_code
    problems = header_problems(files)
    hints = list(selection.hints) if selection is not None else []
    if deep and not problems:
        problems, seen = voxel_problems(files, selection)
        hints += seen
    status = InputError.exit_code if problems else status
    return Inspection(files, missing, choice, tuple(problems), tuple(hints), judged, status)


def voxel_problems(files: SubjectFiles, selection: Selection | None) -> tuple[list[str], list[str]]:
    """What keeps `complete` from using the voxels; and what it would warn of, with signs that a scan is spoiled."""
    from mrsynth.scans.familiarity import unfamiliar
    from mrsynth.scans.preparation import prepare, refuse_one_image
    from mrsynth.scans.spoiled import signs_of_damage
    from mrsynth.tasks.complete.run import brain_finder

    try:
        raw = load_raw(settle_masks(files), find_brain=brain_finder("auto"))
        subject = raw.subject
        hints = [
            f"{contrast.label} may be spoiled: {'; '.join(signs)}. Look at it; `complete --replace {contrast}` makes "
            "it from the others."
            for contrast, signs in signs_of_damage(subject).items()
        ]
        if selection is None:
            refuse_one_image(subject.name, subject.volumes)
        elif isinstance(selection.entry, ManifestEntry) and is_at_hand(selection.entry):
            card, preparation = card_and_preparation(selection.entry, located(selection.entry).path)
            prepared = prepare(subject.without(*card.unlearnt), card.contrasts, preparation)
            hints += unfamiliar(subject, prepared, card)
    except InputError as error:
        return [str(error)], []
    return [], [*raw.notes, *hints]


def damage(files: SubjectFiles) -> list[str]:
    """What speaks for a look at the scans of a subject that lacks nothing: `complete` would not read them."""
    return header_problems(files) or [line for lines in voxel_problems(files, None) for line in lines]


def card_and_preparation(entry: ManifestEntry, checkpoint: Path) -> "tuple[Card, PreparationConfig]":
    """What a checkpoint knows of its training data, and how its images are prepared, as `complete` has both.

    Raises WeightsError where this version cannot prepare them, as `complete`.
    """
    from mrsynth.io.checkpoint import read_header
    from mrsynth.tasks.models import preparation_of, with_histograms

    header = read_header(checkpoint)
    try:
        return with_histograms(entry, header), preparation_of(header)
    except ValueError as error:
        raise WeightsError(f"{checkpoint}: this version of mrsynth cannot prepare images for it: {error}") from error
