"""`mrsynth complete` and `mrsynth inspect`: what is done with one subject. Each imports its task inside."""

import gc
import shlex
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrsynth.cli.console import (
    NoProgress,
    Quiet,
    Verbose,
    print_json,
    print_result,
    progress_bar,
    say,
    speak,
    validated,
)
from mrsynth.cli.options import (
    T1,
    T2,
    CycleSpinning,
    Device,
    Eta,
    Fast,
    Flair,
    InputFolder,
    Json,
    Mask,
    Method,
    ModeOption,
    Noise,
    Planes,
    Precision,
    Sampler,
    Seed,
    Segment,
    Steps,
    SubjectFolder,
    T1ce,
    Threads,
    Variance,
    Viewer,
    contrasts_listed,
    one_folder,
    planes_listed,
    use_threads,
)
from mrsynth.cli.raw import Align, AlignOption, N4Option, OntoOption, StripOption
from mrsynth.contrasts import Contrast

if TYPE_CHECKING:
    from mrsynth.tasks.inspect import Inspection


class Crop(StrEnum):
    """Which part of the volume the network sees."""

    BRAIN = "brain"
    FULL = "full"


def complete(
    folder: SubjectFolder = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder.", show_default="SUBJECT_DIR/mrsynth")
    ] = None,
    method: Method = "auto",
    weights: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="Checkpoint to use.", show_default="chosen")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME]", help="Write only these missing contrasts.", show_default="all"),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help="Make these although they are there, because they are spoiled.",
            show_default="none",
        ),
    ] = None,
    mode: ModeOption = None,
    steps: Steps = None,
    sampler: Sampler = None,
    planes: Planes = None,
    cycle_spinning: CycleSpinning = False,
    eta: Eta = None,
    variance: Variance = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of mode sample: the image is the first; from 2 on their mean and spread are written too.",
            show_default="1",
        ),
    ] = None,
    fast: Fast = False,
    seed: Seed = 0,
    noise: Noise = None,
    device: Device = "auto",
    threads: Threads = None,
    precision: Precision = "auto",
    reference: Annotated[
        Path | None, typer.Option(help="Folder with the true images, to score against.", show_default=False)
    ] = None,
    self_check: Annotated[
        bool, typer.Option(help="Hide each available contrast on a few slices, remake it and score it.")
    ] = True,
    segment: Segment = False,
    viewer: Viewer = True,
    crop: Annotated[
        Crop | None,
        typer.Option(
            case_sensitive=False,
            help="Part of the volume the network sees: brain box or full grid; default is the checkpoint's.",
            show_default=False,
        ),
    ] = None,
    align: AlignOption = Align.AUTO,
    reference_contrast: OntoOption = None,
    strip: StripOption = "auto",
    n4: N4Option = False,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Allow downloading a checkpoint that is published but not on this machine.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    t1: T1 = None,
    t1ce: T1ce = None,
    t2: T2 = None,
    flair: Flair = None,
    mask: Mask = None,
    name: Annotated[
        str | None, typer.Option(help="Name of a subject that is DICOM.", show_default="its folder's or zip's")
    ] = None,
    input_: InputFolder = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Make the contrasts a subject lacks and write them with a report that says how far to trust them."""
    speak(quiet, verbose)
    folder = one_folder(folder, input_)
    use_threads(threads)
    from mrsynth.tasks.complete import run as task

    options = validated(
        task.CompleteOptions,
        folder=folder,
        out=out,
        overrides=given(t1, t1ce, t2, flair),
        method=method,
        weights=weights,
        targets=contrasts_listed("--target", target),
        replaced=contrasts_listed("--replace", replace),
        mask=mask,
        name=name,
        mode=mode,
        steps=steps,
        sampler=sampler,
        planes=planes_listed(planes),
        cycle_spinning=cycle_spinning,
        eta=eta,
        variance=variance,
        fast=fast,
        samples=samples,
        seed=seed,
        noise=noise,
        device=device,
        precision=precision,
        reference=reference,
        self_check=self_check,
        segment=segment,
        viewer=viewer,
        crop=crop.value if crop else None,
        align=align.value,
        onto=reference_contrast,
        strip=strip,
        n4=n4,
        fetch=fetch,
        overwrite=overwrite,
        dry_run=dry_run,
        command=shlex.join(["mrsynth", *sys.argv[1:]]),
    )
    with progress_bar(no_progress) as progress:
        plan, saved = task.complete(options, progress)
    found, where = ", ".join(c.label for c in plan.files.available), plan.source or plan.files.folder
    say(f"Found {found} ({plan.files.layout} names) in {where}.")
    told(plan.files.notes, plan.files.not_used())
    if plan.selection is None:
        say("Nothing is missing: no image was made.")
        return
    say(f"Missing: {', '.join(c.label for c in plan.targets)}. {plan.selection.reason}")
    for hint in plan.selection.hints:
        say(f"Note: {hint}")
    if saved is None:
        for contrast in plan.targets:
            print_result(f"Would write {plan.out / plan.output_name(contrast)}")
        say("Judged by headers only.")
        return
    from mrsynth.reports.trust import assess

    say(saved.report.sampler.words)
    for contrast, path in saved.images.items():
        print_result(f"{contrast.label}: {path}")
        say(assess(saved.report, contrast).text)
    if volumes := saved.report.volumes:
        print_result("Tumour regions FROM SYNTHETIC IMAGES, no measurement:")
        for r in volumes.regions:
            true = "" if r.true_ml is None else f", {r.true_ml:.1f} ml with the true ones"
            print_result(
                f"  {r.region}: {r.synthetic_ml:.1f} ml; {r.acquired_ml:.1f} ml without what is synthetic{true}"
            )
    for text in (*saved.report.warnings, *saved.report.notices):
        say(f"Note: {text}")
    print_result(f"Report: {saved.html}")
    say(f"Took {saved.report.timings['total']:.0f} s, {saved.report.peak_memory_mb or 0:.0f} MB.")


def inspect(
    folder: SubjectFolder = None,
    t1: T1 = None,
    t1ce: T1ce = None,
    t2: T2 = None,
    flair: Flair = None,
    mask: Mask = None,
    input_: InputFolder = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read the voxels too: what `complete` would say, and signs of spoiled scans.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what a folder holds, what is missing, and which checkpoint would be used; ends as `complete` would."""
    speak(quiet, verbose)
    if not deep:
        gc.disable()  # modules and headers make no garbage: to look for it takes a seventh of the time
    try:
        from mrsynth.tasks import inspect as task

        found = task.inspect(one_folder(folder, input_), given(t1, t1ce, t2, flair), mask, deep=deep)
    finally:
        gc.enable()
    if as_json:
        print_json(found.plain())
    else:
        show(found)
    if found.status:
        raise typer.Exit(found.status)


def show(found: "Inspection") -> None:
    """Print what `inspect` found."""
    files = found.files
    say(f"Subject {files.name} ({files.layout} names) in {files.folder}")
    for contrast, path in files.files.items():
        print_result(f"  {contrast.label:6} {path.name}")
    labels = [("labels", files.segmentation), ("mask", files.mask)]
    for label, extra in labels + [("mask", path) for path in files.masks]:
        if extra is not None:
            say(f"  {label:6} {extra.name}")
    if files.masks:
        say("  Several brain masks: compared when they are read; --mask FILE takes one.")
    for contrast in found.missing:
        print_result(f"  {contrast.label:6} missing")
    told(files.notes, files.not_used())
    say(f"Checkpoint: {found.choice}" if found.choice else "Nothing is missing.")
    for problem in found.problems:
        print_result(f"Problem: {problem}")
    for hint in found.hints:
        say(f"Note: {hint}")
    if found.judged == "voxels":
        say("Judged by all voxels.")
    elif found.missing:
        say("Judged by headers only; --deep reads the voxels.")


def given(t1: Path | None, t1ce: Path | None, t2: Path | None, flair: Path | None) -> dict[Contrast, Path]:
    """The files named by --t1, --t1ce, --t2 and --flair."""
    named = {Contrast.T1: t1, Contrast.T1CE: t1ce, Contrast.T2: t2, Contrast.FLAIR: flair}
    return {contrast: path for contrast, path in named.items() if path is not None}


def told(notes: Sequence[str], not_used: Mapping[str, str]) -> None:
    """Print how files were understood, and every image that is not used, with the reason."""
    for note in notes:
        say(f"Note: {note}")
    if not_used:
        say("Not used:")
    for name, why in not_used.items():
        say(f"  {name}: {why}")
