"""The command line: parse, call a task, print. Every task is imported inside its command, so that help is quick."""

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mrsynth.cli.benchmark import benchmark, compare
from mrsynth.cli.console import (
    T1,
    T2,
    Flair,
    Mask,
    ModeOption,
    NoProgress,
    Quiet,
    Sampler,
    Steps,
    T1ce,
    Verbose,
    Verbosity,
    console,
    heard,
    open_streams,
    print_result,
    progress_bar,
    say,
    speak,
    validated,
)
from mrsynth.cli.raw import Align, AlignOption, N4Option, OntoOption, StripOption, dicom
from mrsynth.cli.stopping import Stop
from mrsynth.cli.train import train
from mrsynth.cli.weights import weights_app
from mrsynth.contrasts import Contrast
from mrsynth.errors import Interrupted, MemoryExhausted, MrsynthError, UsageError
from mrsynth.plain import visible

app = typer.Typer(
    help="Synthesise the missing contrasts of a brain MRI study. Synthetic images are for research, not for diagnosis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(weights_app, name="weights")
app.command()(benchmark)
app.command()(compare)
app.command()(dicom)
app.command()(train)


class Lesion(StrEnum):
    """What a phantom suffers from."""

    GLIOMA = "glioma"
    MS = "ms"
    NONE = "none"


class Crop(StrEnum):
    """Which part of the volume the network sees."""

    BRAIN = "brain"
    FULL = "full"


@app.command()
def complete(
    folder: Annotated[Path, typer.Argument(metavar="SUBJECT_DIR", help="Folder with the scans of one subject.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder.", show_default="SUBJECT_DIR/mrsynth")
    ] = None,
    method: Annotated[str, typer.Option(help="Method: auto takes the best checkpoint at hand.")] = "auto",
    weights: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="Checkpoint to use.", show_default="chosen")
    ] = None,
    target: Annotated[
        list[Contrast] | None, typer.Option(help="Write only this missing contrast; repeatable.", show_default="all")
    ] = None,
    replace: Annotated[
        list[Contrast] | None,
        typer.Option(
            help="Make this contrast although it is there, because it is spoiled; repeatable.", show_default="none"
        ),
    ] = None,
    mode: ModeOption = None,
    steps: Steps = None,
    sampler: Sampler = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of mode sample: the image is the first; from 2 on their mean and spread are written too.",
            show_default="1",
        ),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="The mode's cheapest form, and a shorter self-check.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", envvar="MRSYNTH_DEVICE")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    reference: Annotated[
        Path | None, typer.Option(help="Folder with the true images, to score against.", show_default=False)
    ] = None,
    self_check: Annotated[
        bool, typer.Option(help="Hide each available contrast on a few slices, remake it and score it.")
    ] = True,
    crop: Annotated[
        Crop | None,
        typer.Option(
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
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Make the contrasts a subject lacks and write them with a report that says how far to trust them."""
    speak(quiet, verbose)
    from mrsynth.tasks.complete import run as task

    options = validated(
        task.CompleteOptions,
        folder=folder,
        out=out,
        overrides=given(t1, t1ce, t2, flair),
        method=method,
        weights=weights,
        targets=tuple(dict.fromkeys(target or ())),
        replaced=tuple(dict.fromkeys(replace or ())),
        mask=mask,
        mode=mode,
        steps=steps,
        sampler=sampler,
        fast=fast,
        samples=samples,
        seed=seed,
        device=device,
        precision=precision,
        reference=reference,
        self_check=self_check,
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
        plan, written = task.complete(options, progress)
    say(f"Found {', '.join(c.label for c in plan.files.available)} ({plan.files.layout} names) in {plan.files.folder}.")
    told(plan.files.notes, plan.files.not_used())
    if plan.selection is None:
        say("Nothing is missing: no image was made.")
        return
    say(f"Missing: {', '.join(c.label for c in plan.targets)}. {plan.selection.reason}")
    if written is None:
        for contrast in plan.targets:
            print_result(f"Would write {plan.out / plan.output_name(contrast)}")
        return
    from mrsynth.reports.trust import assess

    for contrast, path in written.images.items():
        print_result(f"{contrast.label}: {path}")
        say(assess(written.report, contrast).text)
    for text in (*written.report.warnings, *written.report.notices):
        say(f"Note: {text}")
    print_result(f"Report: {written.html}")
    say(f"Took {written.report.timings['total']:.0f} s, {written.report.peak_memory_mb or 0:.0f} MB.")


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="SUBJECT_DIR", help="Folder with the scans of one subject.")],
    t1: T1 = None,
    t1ce: T1ce = None,
    t2: T2 = None,
    flair: Flair = None,
    mask: Mask = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what a folder holds, what is missing, and which checkpoint would be used and why."""
    speak(quiet, verbose)
    from mrsynth.tasks import inspect as task

    found = task.inspect(folder, given(t1, t1ce, t2, flair), mask)
    say(f"Subject {found.files.name} ({found.files.layout} names) in {found.files.folder}")
    for contrast, path in found.files.files.items():
        print_result(f"  {contrast.label:6} {path.name}")
    labels = [("labels", found.files.segmentation), ("mask", found.files.mask)]
    for label, extra in labels + [("mask", path) for path in found.files.masks]:
        if extra is not None:
            say(f"  {label:6} {extra.name}")
    if found.files.masks:
        say("  Several brain masks: compared when they are read; --mask FILE takes one.")
    for contrast in found.missing:
        print_result(f"  {contrast.label:6} missing")
    told(found.files.notes, found.files.not_used())
    say(f"Checkpoint: {found.choice}" if found.choice else "Nothing is missing.")


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the cohort; one folder per subject.")],
    subjects: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first; the others count on.")] = 0,
    without: Annotated[
        list[Contrast] | None, typer.Option(help="Leave this contrast out; repeatable.", show_default="none")
    ] = None,
    spacing: Annotated[tuple[float, float, float], typer.Option(metavar="X Y Z", help="Voxel size in millimetres.")] = (
        1.0,
        1.0,
        1.0,
    ),
    shape: Annotated[
        tuple[int, int, int] | None, typer.Option(metavar="I J K", help="Voxels.", show_default="around the brain")
    ] = None,
    lesion: Annotated[Lesion, typer.Option(help="Kind of lesion.")] = Lesion.GLIOMA,
    noise: Annotated[float, typer.Option(min=0, help="Rician noise, fraction of the brightest tissue.")] = 0.02,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Make subjects to try things on: four contrasts from the MNI152 tissue maps and the MR signal equations."""
    speak(quiet, verbose)
    from mrsynth.tasks import phantom_subjects as task

    options = validated(
        task.PhantomOptions,
        out=out,
        subjects=subjects,
        seed=seed,
        without=tuple(dict.fromkeys(without or ())),
        spacing=spacing,
        shape=shape,
        lesion=lesion.value,
        noise=noise,
    )
    with progress_bar(no_progress) as progress:
        folders = task.make_phantoms(options, progress)
    for path in folders:
        print_result(str(path))


@app.command(name="rank-contrasts")
def rank_contrasts(
    data: Annotated[list[Path], typer.Argument(metavar="ROOT...", help="Folders of subjects.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Order the contrasts of a data set by low-frequency content, for the option freq.ranking of fgc2f."""
    speak(quiet, verbose)
    from mrsynth.tasks.ranking import rank_contrasts as task

    with progress_bar(no_progress) as progress:
        ranking = task(data, progress)
    for contrast, share, subjects in ranking:
        print_result(f"{contrast.value:6} {share:.4f} of the energy below 0.054 cycles/pixel, {subjects} subjects")


def main() -> None:
    """Run the program and end it with the exit status of what happened."""
    stop = Stop()
    open_streams()
    try:
        status = app(standalone_mode=False)
        with heard():
            pass  # what is still to be flushed
        if status == Interrupted.exit_code:  # typer makes this of KeyboardInterrupt, and says nothing
            raise KeyboardInterrupt
    except MrsynthError as error:
        status = failed(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        status = failed("Interrupted.", Interrupted.exit_code)
    except MemoryError:
        status = failed("Memory ran out. Close other programs, or use a machine with more.", MemoryExhausted.exit_code)
    except Exception as error:  # libraries in other languages make errors of their own of a KeyboardInterrupt
        status = failed("Interrupted.", Interrupted.exit_code) if stop.asked else unexpected(error)
    sys.exit(status if isinstance(status, int) else 0)


def unexpected(error: Exception) -> int:
    """Usage errors of the parser print themselves; anything else is our mistake, told in one line."""
    show = getattr(error, "show", None)
    if callable(show):
        show()
        return int(getattr(error, "exit_code", UsageError.exit_code))
    if Verbosity.verbose:
        logging.getLogger(__name__).error("unexpected error", exc_info=error)
    return failed(f"Unexpected {type(error).__name__}: {error}\nRun again with -v for the traceback.", 1)


def failed(what: str, status: int) -> int:
    """Print an error on stderr, and give its exit status back."""
    out = console(stderr=True)
    out.print("Error:", style="bold red", end=" ")
    out.print(visible(what), soft_wrap=True)
    return status


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
