"""What `mrsynth complete` would do: files, contrasts to make, the checkpoint and why. Loads no torch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, UsageError
from mrsynth.io.store import Resolved, Stock
from mrsynth.io.subjects import SubjectFiles, find_subject, refuse_copies
from mrsynth.preference import AUTO, is_at_hand
from mrsynth.sampling import Sampling, mode_of
from mrsynth.scans.raw import Align
from mrsynth.selection import Selection, named, select
from mrsynth.tasks.circumstances import circumstances
from mrsynth.tasks.privacy import Places

if TYPE_CHECKING:
    from mrsynth.scans.headers import Forms
    from mrsynth.scans.volume import Volume


class SubjectOptions(Sampling):
    """What `complete` and `batch` take alike, for one subject or for each; None leaves it to the checkpoint."""

    method: str = AUTO
    weights: str | None = None
    targets: tuple[Contrast, ...] = ()
    align: Align = Field("auto", description="scans on different grids: register, refuse, or register in any case")
    onto: Contrast | None = Field(None, description="whose grid is kept; None leaves it to `scans.raw`")
    strip: str = Field("auto", description="whole heads: auto finds the brain by deepbet, off leaves it, or a program")
    n4: bool = Field(False, description="correct slow changes of brightness first")
    self_check: bool = True
    segment: bool = Field(False, description="measure tumour regions by the built-in segmenter, and say so")
    viewer: bool = Field(True, description="put the volumes into report.html, to scroll through")
    overwrite: bool = Field(False, description="results of an earlier run may be replaced")


class CompleteOptions(SubjectOptions):
    """The request of the command line."""

    folder: Path
    out: Path | None = Field(None, description="None: `mrsynth` inside the subject's folder")
    overrides: Mapping[Contrast, Path] = Field(
        {}, description="files to take, whatever their names; of DICOM also series"
    )
    name: str | None = Field(None, description="of a subject that is DICOM; None: its folder's or zip's")
    mask: Path | None = Field(None, description="the brain mask to take; None: the one found, if there is one")
    replaced: tuple[Contrast, ...] = Field((), description="contrasts to make although they are there: spoiled ones")
    fetch: bool = Field(False, description="a checkpoint that is not on this machine may be downloaded")
    reference: Path | None = None
    dry_run: bool = False
    command: str = Field("", description="what was typed, for the report")
    dataset: Path | None = Field(None, description="the BIDS data set that the scans are of, for their URIs")


@dataclass(frozen=True)
class Plan:
    """What would be done.

    files       what is read
    selection   the checkpoint and why; None when nothing is missing
    checkpoint  its file; None while it is only published, and is to be downloaded
    replaced    contrasts that are made although this file of theirs is there; it is not among `files`
    source      the folder or zip of DICOM that the files were converted from
    """

    files: SubjectFiles
    targets: tuple[Contrast, ...]
    selection: Selection | None
    out: Path
    checkpoint: Resolved | None = None
    replaced: Mapping[Contrast, Path] = field(default_factory=dict)
    source: Path | None = None

    @property
    def places(self) -> Places:
        """What may be said of paths in results."""
        return Places(self.files.folder, self.out, self.source)

    def output_name(self, target: Contrast, tag: str = "") -> str:
        """The file name for a target, or what belongs to it (`mean`, `error`); another where a scan is replaced."""
        words = ["remade"] if target in self.replaced else []
        return self.files.output_name(target, "_".join([*words, tag] if tag else words))


def choose(
    options: CompleteOptions,
    methods: Collection[str] = (),
    files: SubjectFiles | None = None,
    stock: Stock | None = None,
) -> Plan:
    """Look, and choose; of the scans only names are read.

    methods   names of methods that exist even if no checkpoint is of them
    files     the subject, where it has been found before
    stock     the checkpoints at hand, where they have been looked at before
    Raises InputError, UsageError and WeightsError as `complete` does.
    """
    files, replaced = found(options, files)
    out = output_folder(options, files)
    stock = stock or Stock()
    if options.weights is None:
        if not (targets := wanted(options, files, STANDARD)):
            refuse_copies(files)
            return Plan(files, (), None, out, replaced=replaced)
        given = circumstances(options.sampling, stock)
        selection = select(
            stock.entries, files.available, targets, options.method, methods, downloads=options.fetch, given=given
        )
        entry = next(e for e in stock.entries if e is selection.entry)
        checkpoint = stock.located(entry) if is_at_hand(entry) else None
    else:
        remote = [e for e in stock.entries if e.name == options.weights and not is_at_hand(e)]
        checkpoint = None if remote and options.fetch else stock.resolve(options.weights)
        card = remote[0] if checkpoint is None else checkpoint.card
        if not (targets := wanted(options, files, card.contrasts)):
            refuse_copies(files)
            return Plan(files, (), None, out, replaced=replaced)
        selection = named(card, files.available, targets, options.method, options.sampling)
    chosen = selection.entry
    mode_of(chosen.sampling, options, chosen.name, chosen.method, chosen.planes)
    return Plan(files.only(chosen.contrasts), targets, selection, out, checkpoint, replaced)


def found(options: CompleteOptions, files: SubjectFiles | None = None) -> tuple[SubjectFiles, dict[Contrast, Path]]:
    """The files to read, and those that are there but are to be replaced. Raises InputError or UsageError."""
    files = files or find_subject(options.folder, options.overrides, options.mask)
    if absent := [c.value for c in options.replaced if c not in files.files]:
        raise UsageError(
            f"--replace {','.join(absent)}: {files.name} has no such scan, so it is made without that option. "
            f"Found: {', '.join(files.available)}."
        )
    replaced = {c: files.files[c] for c in Contrast if c in options.replaced}
    if len(replaced) == len(files.files):
        raise UsageError(f"--replace {','.join(replaced)}: nothing would be left of {files.name} to make them from.")
    return replace(files, files={c: p for c, p in files.files.items() if c not in replaced}), replaced


def wanted(options: CompleteOptions, files: SubjectFiles, contrasts: Collection[Contrast]) -> tuple[Contrast, ...]:
    """The contrasts to make: those asked for and those to replace; where none is asked for, all that are missing."""
    targets = {*(options.targets or files.missing(contrasts)), *options.replaced}
    return tuple(c for c in Contrast if c in targets)


def output_folder(options: CompleteOptions, files: SubjectFiles) -> Path:
    """What --out says, else `mrsynth` in the subject's folder, and in that `NAME` where the folder is not its own."""
    if options.out is not None:
        return options.out.expanduser()
    home = files.folder / "mrsynth"
    return home if options.folder.expanduser().is_dir() else home / files.name


def reference_files(folder: Path, targets: Sequence[Contrast]) -> dict[Contrast, Path]:
    """The true images of the targets in a folder; those that are not there are left out, none at all is an error."""
    files = find_subject(folder, needed=targets)
    found = {c: files.files[c] for c in targets if c in files.files}
    if not found:
        raise InputError(
            f"{folder} holds none of the contrasts to be made ({', '.join(c.label for c in targets)}); found "
            f"{', '.join(c.label for c in files.available)}. Leave --reference out, or give the folder with the truth."
        )
    return found


def header_problems(files: SubjectFiles, align: Align = "auto", onto: Contrast | None = None) -> list[str]:
    """What the headers tell, of all files at once: those that cannot be read; and grids that `complete` refuses."""
    from mrsynth.io.nifti import read_forms, read_geometry
    from mrsynth.scans.headers import check_grids, exactly_on
    from mrsynth.scans.raw import home_of

    problems: list[str] = []
    grids: dict[Contrast, Volume] = {}
    forms: dict[Contrast, Forms] = {}
    for contrast, path in files.files.items():
        try:
            grids[contrast], forms[contrast] = read_geometry(path), read_forms(path)
        except InputError as error:
            problems.append(str(error))
    if problems:
        return problems
    try:
        home = home_of(files.name, grids, onto)
        known = {c: forms[c].known == forms[home].known for c in grids}
        grids = {c: exactly_on(grid, grids[home], known=known[c]) or grid for c, grid in grids.items()}
        check_grids(files.name, grids, home, align, forms, {c: str(path) for c, path in files.files.items()})
    except InputError as error:
        return [str(error)]
    return []
