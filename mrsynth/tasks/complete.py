"""`mrsynth complete`: find a subject, make what it lacks, write it with a report. The Python API lives here too."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mrsynth.card import Plain
from mrsynth.contrasts import STANDARD, Contrast, pattern_name
from mrsynth.errors import InputError, MemoryExhausted, OutputError, UsageError
from mrsynth.familiarity import unfamiliar
from mrsynth.io.dataset import SubjectFiles, find_subject, load_subject
from mrsynth.io.files import ensure_folder
from mrsynth.io.nifti import read_volume
from mrsynth.io.weights import Resolved, available_entries, resolve
from mrsynth.methods import METHODS
from mrsynth.metrics import QUANTILES, score, to_unit
from mrsynth.preparation import Prepared, prepare
from mrsynth.report import Report, ScoreRow, score_rows
from mrsynth.selection import Selection, named, select
from mrsynth.subject import Subject
from mrsynth.synthesis import Sampling, synthesise_volume
from mrsynth.tasks.models import TrainedMethod, build, choose_device, choose_precision, load_method, out_of_memory
from mrsynth.tasks.output import Written, write_results
from mrsynth.volume import Volume, same_grid

__all__ = ["CompleteOptions", "Completion", "Plan", "complete", "complete_subject", "load_method", "plan"]

Progress = Callable[[str, int, int], None]

SCALE = 1000.0  # output volumes are 1000 u
SELF_CHECK_SLICES = 5
FAST_SELF_CHECK_SLICES = 2


class CompleteOptions(Plain):
    """The request of the command line; None leaves the choice to the checkpoint."""

    folder: Path
    out: Path | None = Field(None, description="None: `mrsynth` inside the subject's folder")
    overrides: dict[Contrast, Path] = {}
    method: str = "auto"
    weights: str | None = None
    targets: tuple[Contrast, ...] = ()
    steps: int | None = Field(None, gt=0)
    sampler: str | None = None
    fast: bool = False
    samples: int = Field(1, gt=0)
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    reference: Path | None = None
    self_check: bool = True
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Plan:
    """What would be done: the subject's files, the contrasts to make, the checkpoint and why, the output folder."""

    files: SubjectFiles
    targets: tuple[Contrast, ...]
    selection: Selection | None
    out: Path


@dataclass(frozen=True)
class Completion:
    """Synthetic volumes on the subject's own grid, intensities 0..1000, and how they came about.

    deviations  voxel-wise standard deviation over the samples; empty for one sample
    scores      of the self-check, if there was one
    """

    volumes: Mapping[Contrast, Volume]
    deviations: Mapping[Contrast, Volume]
    prepared: Prepared
    sampling: Sampling
    scores: tuple[ScoreRow, ...]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]


def plan(options: CompleteOptions) -> Plan:
    """Look, and choose; reads names only. `selection` is None when nothing is missing. Raises as `complete` does."""
    files = find_subject(options.folder, options.overrides)
    out = options.out or files.folder / "mrsynth"
    targets = options.targets or files.missing(STANDARD)
    if not targets:
        return Plan(files, (), None, out)
    if options.weights is not None:
        return Plan(files, targets, named(resolve(options.weights).card, files.available, targets, options.method), out)
    return Plan(files, targets, select(available_entries(), files.available, targets, options.method, METHODS), out)


def complete(options: CompleteOptions, progress: Progress | None = None) -> tuple[Plan, Written | None]:
    """Make and write the missing contrasts of one subject. Nothing is written when nothing is missing or in a dry run.

    Raises InputError, UsageError, WeightsError, MemoryExhausted or OutputError; then no output is left behind.
    """
    began = time.perf_counter()
    todo = plan(options)
    if todo.selection is None or options.dry_run:
        return todo, None
    names = [todo.files.output_name(c) for c in todo.targets]
    if not options.overwrite and (there := [n for n in names if (todo.out / n).exists()]):
        raise UsageError(f"{todo.out} already holds {', '.join(there)}. Give --overwrite to replace them, or --out.")
    ensure_folder(todo.out)
    subject = load_subject(todo.files)
    trained = build(located(options, todo.selection))
    truths = references(options.reference, subject, todo.targets) if options.reference else {}
    read = time.perf_counter()
    done = complete_subject(
        subject,
        trained,
        todo.targets,
        steps=options.steps or fast_steps(trained, options.fast),
        sampler=options.sampler,
        samples=options.samples,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        self_check=options.self_check,
        self_check_slices=FAST_SELF_CHECK_SLICES if options.fast else SELF_CHECK_SLICES,
        progress=progress,
    )
    rows = list(done.scores)
    for target, truth in truths.items():
        if progress is not None:
            progress("comparing with the reference", 0, 1)
        rows += against_reference(subject, done, target, truth)
    timings = {"reading": read - began, **done.seconds}
    done = replace(done, scores=tuple(rows), seconds=timings)
    if progress is not None:
        progress("writing", 0, 1)
    written = write_results(
        out=todo.out,
        files=todo.files,
        subject=subject,
        completion=done,
        trained=trained,
        selection=todo.selection.reason,
        truths=truths,
        options=options.model_dump(mode="json"),
        began=began,
    )
    return todo, written


def complete_subject(
    subject: Subject,
    trained: TrainedMethod,
    targets: Collection[Contrast] | None = None,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    samples: int = 1,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    self_check: bool = False,
    self_check_slices: int = SELF_CHECK_SLICES,
    progress: Progress | None = None,
) -> Completion:
    """Make the missing contrasts of a subject in memory.

    targets     None for all that the subject lacks among the method's contrasts
    self_check  also hide each available contrast on a few slices, make it from the rest, and score it
    Raises InputError or UsageError when the subject or the request cannot be used, MemoryExhausted.
    """
    method, card = trained.method, trained.card
    wanted = tuple(targets) if targets is not None else subject.missing(card.contrasts)
    if not wanted:
        raise UsageError(f"{subject.name} lacks none of the contrasts that {card.name} makes.")
    named(card, subject.available, wanted)
    device = choose_device(device)
    sampling = Sampling(
        steps=steps or card.sampling.get("steps"),
        sampler=sampler or card.sampling.get("sampler"),
        samples=samples,
        seed=seed,
        device=device,
        precision=choose_precision(precision, device),
        batch_size=32 if device.startswith("cuda") else 8,
    )
    seconds: dict[str, float] = {}
    clock = time.perf_counter()
    try:
        prepared = prepare(subject, card.contrasts, trained.preparation)
        seconds["preparation"], clock = time.perf_counter() - clock, time.perf_counter()
        method.to(device)
        made = synthesise_volume(method, prepared, subject.name, sampling, progress=progress)
        volumes, deviations = {}, {}
        for target in wanted:
            channel = card.contrasts.index(target)
            volumes[target] = scaled(prepared.restore(made.mean[channel]))
            if made.deviation is not None:
                deviations[target] = scaled(prepared.restore(made.deviation[channel]))
        seconds["synthesis"], clock = time.perf_counter() - clock, time.perf_counter()
        scores: list[ScoreRow] = []
        if self_check:
            scores = check_on_itself(trained, subject, prepared, sampling, self_check_slices, progress)
            seconds["self-check"] = time.perf_counter() - clock
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise MemoryExhausted(
            f"Memory ran out on {device} while completing {subject.name} ({'x'.join(map(str, subject.reference.shape))} "
            "voxels). Close other programs, use --device cpu, or a machine with more memory."
        ) from error
    warnings = unfamiliar(subject, prepared, card)
    return Completion(volumes, deviations, prepared, sampling, tuple(scores), tuple(warnings), seconds)


def check_on_itself(
    trained: TrainedMethod,
    subject: Subject,
    prepared: Prepared,
    sampling: Sampling,
    count: int,
    progress: Progress | None,
) -> list[ScoreRow]:
    """Hide each available contrast on a few slices, make it from the rest, and compare. Empty with one contrast."""
    contrasts, method = prepared.contrasts, trained.method
    present = [c for c, there in zip(contrasts, prepared.available, strict=True) if there]
    slices = spread_slices(prepared.mask, count)
    rows: list[ScoreRow] = []
    for done, hidden in enumerate(present):
        others = [c for c in present if c is not hidden]
        if not trained.card.supports(set(others), hidden):
            continue
        if progress is not None:
            progress("self-check", done, len(present))
        began = time.perf_counter()
        flags = [c in others for c in contrasts]
        one = replace(sampling, samples=1)
        made = synthesise_volume(method, prepared, subject.name, one, available=flags, slices=slices)
        seconds = time.perf_counter() - began
        channel = contrasts.index(hidden)
        truth = prepared.images[channel] * np.float32(prepared.scales[hidden])
        low, high = np.quantile(subject.volumes[hidden].voxels, QUANTILES)
        unit = ((np.clip(truth, low, high) - low) / max(high - low, 1e-8)).astype(np.float32)
        figures = score(
            made.mean[channel][..., slices], unit[..., slices], prepared.mask[..., slices], slices=True
        )
        rows += score_rows(
            figures, target=hidden, pattern=pattern_name(others), kind="self-check", slices=slices, seconds=seconds
        )
    return rows


def references(folder: Path, subject: Subject, targets: Sequence[Contrast]) -> dict[Contrast, Volume]:
    """The true volumes of the targets in a folder; those that are not there are left out, none at all is an error."""
    files = find_subject(folder)
    found = {c: read_volume(files.files[c]) for c in targets if c in files.files}
    if not found:
        raise InputError(
            f"{folder} holds none of the contrasts to be made ({', '.join(c.label for c in targets)}); found "
            f"{', '.join(c.label for c in files.available)}. Leave --reference out, or give the folder with the truth."
        )
    for contrast, volume in found.items():
        if not same_grid(volume, subject.reference):
            raise InputError(
                f"The reference {files.files[contrast]} does not lie on the grid of {subject.name}: shape "
                f"{volume.shape}, expected {subject.reference.shape} with the same affine."
            )
    return found


def against_reference(subject: Subject, done: Completion, target: Contrast, truth: Volume) -> tuple[ScoreRow, ...]:
    """Scores of one synthetic volume against the truth, on the subject's own grid."""
    mask = subject.foreground() | (truth.voxels != 0)
    figures = score(done.volumes[target].voxels / SCALE, to_unit(truth.voxels), mask)
    pattern = pattern_name(c for c in subject.available if c in done.prepared.contrasts)
    return score_rows(
        figures, target=target, pattern=pattern, kind="reference", seconds=done.seconds.get("synthesis")
    )


def spread_slices(mask: NDArray[np.bool_], count: int) -> list[int]:
    """Indices along K, evenly through the middle four fifths of the foreground."""
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    places = np.linspace(0.1, 0.9, count) * (len(filled) - 1)
    return sorted({int(filled[round(p)]) for p in places})


def scaled(volume: Volume) -> Volume:
    """u in [0, 1] as it is written: 0..1000."""
    return Volume(volume.voxels * np.float32(SCALE), volume.affine)


def located(options: CompleteOptions, selection: Selection) -> Resolved:
    """The chosen checkpoint's file, its checksum verified."""
    return resolve(options.weights or selection.entry.name)


def fast_steps(trained: TrainedMethod, fast: bool) -> int | None:
    """`--fast`: half the checkpoint's usual steps, but at least two, one for each stage."""
    usual = trained.card.sampling.get("steps")
    return max(2, usual // 2) if fast and usual else None
