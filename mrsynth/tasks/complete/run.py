"""`mrsynth complete`: find a subject, make what it lacks, write it with a report. The Python API lives here too."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mrsynth import __version__
from mrsynth.contrasts import Contrast, contrast_of, pattern_name
from mrsynth.devices import out_of_memory
from mrsynth.errors import InputError, MemoryExhausted, UsageError
from mrsynth.io.files import write_text
from mrsynth.io.images import subject_of
from mrsynth.io.nifti import read_volume, write_volume
from mrsynth.io.store import Resolved, Stock, resolve
from mrsynth.io.subjects import SubjectFiles, load_raw, settle_masks
from mrsynth.methods import KINDS
from mrsynth.plain import Array, Progress
from mrsynth.preference import AUTO
from mrsynth.sampling import Sampling
from mrsynth.scans.familiarity import unfamiliar
from mrsynth.scans.headers import exactly_on
from mrsynth.scans.preparation import Prepared
from mrsynth.scans.raw import FindBrain
from mrsynth.scans.stripping import brain_by_deepbet, brain_by_program, known_program
from mrsynth.scans.subject import Subject, describe_grid
from mrsynth.scans.volume import Volume
from mrsynth.scores.protocols import measure, scored_case
from mrsynth.scores.rows import Score
from mrsynth.selection import named
from mrsynth.tasks.checkpoints.run import fetch
from mrsynth.tasks.complete.completion import in_file_units, in_standard_u, spread
from mrsynth.tasks.complete.examination import beside, examined, refuse_to_lie_among_dicom
from mrsynth.tasks.complete.log import run_log
from mrsynth.tasks.complete.notebook import Completion
from mrsynth.tasks.complete.output import (
    LOG,
    Saved,
    refuse_what_is_there,
    result_names,
    results_folder,
    write_results,
)
from mrsynth.tasks.complete.plan import CompleteOptions, Plan, choose, header_problems, reference_files
from mrsynth.tasks.complete.regions import region_volumes, segmenter_for
from mrsynth.tasks.complete.self_check import (
    FAST_SELF_CHECK_CONTRASTS,
    FAST_SELF_CHECK_SLICES,
    SELF_CHECK_SLICES,
    check_on_itself,
)
from mrsynth.tasks.models import check_sampling, load, load_method
from mrsynth.tasks.trained import Trained
from mrsynth.texts import meant

__all__ = ["CompleteOptions", "Completion", "Plan", "complete", "complete_subject", "load_method", "plan"]


OF_VOLUMES = ("full3d", "brain3d")  # protocols of reference
DEFAULT = Sampling()
ALWAYS = nullcontext()


def plan(options: CompleteOptions, files: SubjectFiles | None = None, stock: Stock | None = None) -> Plan:
    """Look, and choose; of the scans only names are read. Raises as `complete` does.

    files  the subject, where it has been found before
    stock  the checkpoints at hand, where they have been looked at before
    """
    check_request(options)
    todo = choose(options, KINDS, files, stock)
    if todo.selection is None:
        return todo
    if todo.out.resolve() in scan_folders(todo):
        raise UsageError(
            f"{todo.out} holds the scans; synthetic images never lie beside acquired ones. Give another --out."
        )
    refuse_what_is_there(todo.out, result_names(todo), options.overwrite)
    if options.reference is not None:
        reference_files(options.reference, todo.targets)
    return todo


def complete(
    options: CompleteOptions,
    progress: Progress | None = None,
    *,
    todo: Plan | None = None,
    models: Callable[[Resolved], Trained] = load,
    network: AbstractContextManager[Any] = ALWAYS,
) -> tuple[Plan, Saved | None]:
    """Make and write the missing contrasts of one subject. Nothing is written when nothing is missing or in a dry run.

    The folder may hold DICOM series, or be a zip of such: they are converted into a temporary folder.

    todo     what `plan` made of the options, if it was asked before
    models   builds a checkpoint, or has it already
    network  held while the network works: a lock, where several subjects are done at once

    Raises InputError, UsageError, WeightsError, MemoryExhausted or OutputError; then no output is left behind.
    """
    began = time.perf_counter()
    if todo is not None:
        return make(options, todo, began, progress, models, network)
    check_request(options)
    with examined(options.folder, options.overrides, options.mask, options.name) as files:
        if files is None:
            return make(options, plan(options), began, progress, models, network)
        source, out = options.folder.expanduser(), options.out or beside(options.folder, files.name)
        refuse_to_lie_among_dicom(out.expanduser(), source)
        taken = {"folder": files.folder, "out": out, "overrides": {}, "mask": None, "name": files.name}
        options = options.model_copy(update=taken)
        todo = replace(plan(options, files), source=source)
        return make(options, todo, began, progress, models, network)


def make(
    options: CompleteOptions,
    todo: Plan,
    began: float,
    progress: Progress | None,
    models: Callable[[Resolved], Trained],
    network: AbstractContextManager[Any],
) -> tuple[Plan, Saved | None]:
    """What `complete` does once it knows what to do; begun at `time.perf_counter()` = began."""
    if todo.selection is None:
        return todo, None
    if options.dry_run and (problems := header_problems(todo.files, options.align, options.onto)):
        raise InputError("\n".join(problems))
    segmenter = segmenter_for(todo, options.device) if options.segment else None
    if options.dry_run:
        if todo.checkpoint is not None:
            models(todo.checkpoint).estimator(options.sampling)  # what it refuses, a dry run refuses
        return todo, None
    command = todo.places.command(options.command or "complete")
    began_as = (f"mrsynth {__version__}: {command}", todo.selection.reason)
    with (
        results_folder(todo.out, result_names(todo), overwrite=options.overwrite) as folder,
        run_log(*began_as) as log,
    ):
        say = log.watching(progress)
        say("reading", 0, 1)
        files = settle_masks(todo.files)
        find_brain = brain_finder(options.strip)
        raw = load_raw(files, align=options.align, onto=options.onto, find_brain=find_brain, n4=options.n4)
        subject = raw.subject
        truths = references(options.reference, subject, todo.targets) if options.reference else {}
        seconds = {"reading": time.perf_counter() - began}
        with network:
            trained = models(todo.checkpoint or fetched(todo.selection.entry.name, say))
            done = complete_subject(
                subject,
                trained,
                todo.targets,
                sampling=options.sampling,
                self_check=options.self_check,
                progress=say,
            )
            volumes = region_volumes(segmenter, done, truths) if segmenter else None
        seconds |= done.seconds
        rows = list(done.scores)
        for number, (target, truth) in enumerate(truths.items()):
            say("comparing with the reference", number, len(truths))
            rows += against_reference(subject, done, target, truth)
        say("writing", 0, 1)
        report = write_results(
            folder,
            todo=replace(todo, files=files),
            raw=raw,
            completion=replace(
                done, scores=tuple(rows), seconds=seconds, warnings=(*raw.notes, *said_of(todo), *done.warnings)
            ),
            truths=truths,
            options=options.model_dump(mode="json", exclude={"command", "dataset"}),
            command=options.command,
            dataset=options.dataset,
            viewer=options.viewer,
            volumes=volumes,
            began=began,
        )
        for warning in (*report.notices, *report.warnings):
            log.note(warning, "WARNING")
        log.note(f"done in {report.timings['total']:.1f} s")
        write_text(folder / LOG, todo.places.text(log.text))
    images = {target: todo.out / todo.output_name(target) for target in done.volumes}  # not as the report spells them
    return todo, Saved(todo.out, images, report, todo.out / "report.html")


def brain_finder(strip: str) -> FindBrain | None:
    """How the brain is found in a whole head: by deepbet, by a program, or not. Raises UsageError for another one."""
    if strip == "off":
        return None
    if strip == "auto":
        return brain_by_deepbet
    known_program(strip)
    return lambda volume: brain_by_program(strip, volume, write_volume, read_volume)


def complete_subject(
    subject: Subject | Mapping[Contrast, Any] | Mapping[str, Any],
    trained: Trained,
    targets: Contrast | str | Collection[Contrast | str] | None = None,
    *,
    affine: ArrayLike | None = None,
    name: str | None = None,
    sampling: Sampling = DEFAULT,
    self_check: bool = False,
    progress: Progress | None = None,
) -> Completion:
    """Make the missing contrasts of a subject in memory, on its own grid: float32 (I, J, K), 0 to 1000 (CT: HU).

    subject     as `load_subject` reads it; or images by contrast, `{"t1": ..., "flair": ...}`, each of nibabel or an
                array (I, J, K) of any unit, 0 outside the brain or the head; `affine` (4, 4) says where arrays lie, in
                mm, `name` what to call the subject (`io.images`)
    trained     from `load_method`
    targets     a contrast or several, in any letter case; None for all that the subject lacks among the method's
    sampling    steps, seed, device and so on; what it leaves open is the checkpoint's choice
    self_check  also hide each available contrast on a few slices, make it from the rest, and score it
    progress    called with what is being done, how much is done, and how much there is
    Raises InputError or UsageError when the subject or the request cannot be used, WeightsError when a member of a
    committee cannot be read, MemoryExhausted.
    """
    if not isinstance(trained, Trained):
        raise UsageError(f"trained is of type {type(trained).__name__}; expected what load_method(NAME) gives.")
    if not isinstance(sampling, Sampling):
        raise UsageError(
            f"sampling is {sampling!r}; expected options in a Sampling, as in Sampling(mode='mean', seed=1)."
        )
    if progress is not None and not callable(progress):
        raise UsageError(f"progress is {progress!r}; expected a function of (what, done, total), or None.")
    card, subject = trained.card, subject_of(subject, affine, name)
    wanted = subject.missing(card.learnt) if targets is None else named_targets(targets)
    if not wanted:
        raise UsageError(f"{subject.name} lacks none of the contrasts that {card.name} makes.")
    named(card, subject.available, wanted)
    how = trained.estimator(sampling)
    seconds: dict[str, float] = {}
    clock = time.perf_counter()
    try:
        prepared = trained.prepare(subject, sampling.crop)
        seconds["preparation"], clock = time.perf_counter() - clock, time.perf_counter()
        made = trained.synthesise(subject, prepared, how, targets=wanted, progress=progress)
        volumes, means, spreads, errors = {}, {}, {}, {}
        for target in wanted:
            channel = prepared.contrasts.index(target)
            volumes[target] = in_file_units(target, prepared.restore(made.image[channel]), prepared.hounsfield)
            if made.mean is not None:
                means[target] = in_file_units(target, prepared.restore(made.mean[channel]), prepared.hounsfield)
            if made.spread is not None:
                spreads[target] = differences(made.spread[channel], prepared, target)
            if made.error is not None and made.error[channel].any():  # a network alone tells none
                errors[target] = differences(made.error[channel], prepared, target)
        seconds["synthesis"], clock = time.perf_counter() - clock, time.perf_counter()
        scores: list[Score] = []
        if self_check:
            count = FAST_SELF_CHECK_SLICES if sampling.fast else SELF_CHECK_SLICES
            most = FAST_SELF_CHECK_CONTRASTS if sampling.fast else None
            scores = check_on_itself(
                trained, subject.without(*card.unlearnt), how, sampling.crop, count, progress, most
            )
            seconds["self-check"] = time.perf_counter() - clock
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        size = "x".join(map(str, subject.reference.shape))
        raise MemoryExhausted(
            f"Memory ran out on {how.device} while completing {subject.name} ({size} voxels). Close other programs, "
            "use --device cpu, or a machine with more memory."
        ) from error
    warnings = [*unfamiliar(subject, prepared, card), *trained.cautions(how)]
    members = {target: trained.taking_part(subject.available, target) for target in wanted}
    brightness = {t: u * spread(t, prepared.hounsfield) for t, u in trained.brightness.items() if t in errors}
    return Completion(
        subject=subject,
        card=card,
        sha256=trained.sha256,
        volumes=volumes,
        means=means,
        spreads=spreads,
        prepared=prepared,
        how=how,
        scores=tuple(scores),
        warnings=tuple(warnings),
        seconds=seconds,
        members=members,
        planes={m.card.name: trained.planes(how, m.card.name) for those in members.values() for m in those},
        errors=errors,
        brightness=brightness,
    )


def named_targets(targets: object) -> tuple[Contrast, ...]:
    """The contrasts of a name or of several. Raises UsageError for no name, and for one that is not known."""
    if isinstance(targets, str):
        return (contrast_of(targets),)
    if not isinstance(targets, Iterable) or isinstance(targets, bytes):
        raise UsageError(f"targets is of type {type(targets).__name__}; expected contrasts, as in ['t1ce'].")
    if not (wanted := tuple(contrast_of(target) for target in targets)):
        raise UsageError("targets names no contrast; leave it out for all that are missing.")
    return wanted


def differences(u: Array, prepared: Prepared, target: Contrast) -> Volume:
    """Differences in u on the model's grid, (I, J, K), as files have them on the subject's own."""
    over = prepared.restore(u)
    return Volume(over.voxels * np.float32(spread(target, prepared.hounsfield)), over.affine)


def check_request(options: CompleteOptions) -> None:
    """Raise UsageError for a method, sampler, device, precision or program that there is not: nothing is read yet."""
    if (name := options.method) not in (AUTO, *KINDS):
        raise UsageError(f"There is no method '{name}'. Give {AUTO} or one of {', '.join(KINDS)}.{meant(name, KINDS)}")
    check_sampling(options)
    brain_finder(options.strip)


def fetched(name: str, progress: Progress | None) -> Resolved:
    """A published checkpoint, downloaded. Raises WeightsError or OutputError."""
    fetch(name, progress)
    return resolve(name)


def said_of(todo: Plan) -> list[str]:
    """What must be said of contrasts that were made although there is a scan of them."""
    return [
        f"{c.label} was made although {path.name} is there, as asked for by --replace: that file was neither read nor "
        "changed, and what is true in it may be wrong here."
        for c, path in todo.replaced.items()
    ]


def scan_folders(todo: Plan) -> set[Path]:
    """Where scans lie: the folder that names each, and the one it is in, which differ where a scan is a link."""
    files = todo.files
    all_files = (*files.files.values(), *todo.replaced.values(), *files.masks, files.segmentation, files.mask)
    scans = [path for path in all_files if path is not None]
    return {path.parent.resolve() for path in scans} | {path.resolve().parent for path in scans}


def references(folder: Path, subject: Subject, targets: Sequence[Contrast]) -> dict[Contrast, Volume]:
    """The true volumes of the targets in a folder (`reference_files`), on the subject's grid.

    Raises InputError for one that lies on another grid.
    """
    files = reference_files(folder, targets)
    found = {contrast: read_volume(path) for contrast, path in files.items()}
    for contrast, volume in found.items():
        if (there := exactly_on(volume, subject.reference)) is None:
            raise InputError(
                f"{files[contrast]}: the reference does not lie on the grid of {subject.name}.\n"
                f"{describe_grid('reference', volume)}\n{describe_grid(subject.name, subject.reference)}\n"
                "Resample it to the subject's grid, or leave --reference out."
            )
        found[contrast] = there
    return found


def against_reference(subject: Subject, done: Completion, target: Contrast, truth: Volume) -> tuple[Score, ...]:
    """Scores of one synthetic volume against the truth, on the subject's own grid; the truth counts as foreground."""
    made = in_standard_u(target, done.in_u(target), done.prepared.hounsfield)
    case = scored_case(replace(subject, volumes={**subject.volumes, target: truth}), target, made)
    about = {"pattern": pattern_name(done.prepared.scales), "target": target, "kind": "reference"}
    return tuple(measure(case, OF_VOLUMES, **about, seconds=done.seconds["synthesis"]))
