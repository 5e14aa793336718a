"""`mrsynth batch`."""

from pathlib import Path
from typing import Annotated

import typer

from mrsynth.cli.console import NoProgress, Quiet, Verbose, print_result, progress_bar, say, speak, validated
from mrsynth.cli.options import (
    SOME_FAILED,
    CycleSpinning,
    Device,
    Eta,
    Fast,
    Method,
    ModeOption,
    NumParts,
    PartId,
    Planes,
    Precision,
    Sampler,
    Seed,
    Segment,
    Steps,
    Threads,
    Variance,
    Viewer,
    contrasts_listed,
    listed,
    planes_listed,
    use_threads,
)
from mrsynth.cli.raw import Align, AlignOption, N4Option, OntoOption, StripOption


def batch(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of subjects, at any depth.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Output folder.", show_default="ROOT/mrsynth; of a BIDS data set derivatives/mrsynth"
        ),
    ] = None,
    participants: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME]", help="Only these, with all sessions of each.", show_default="all"),
    ] = None,
    method: Method = "auto",
    weights: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="Checkpoint to use.", show_default="chosen for each subject")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME]", help="Make only these contrasts.", show_default="all missing"),
    ] = None,
    mode: ModeOption = None,
    steps: Steps = None,
    sampler: Sampler = None,
    planes: Planes = None,
    cycle_spinning: CycleSpinning = False,
    eta: Eta = None,
    variance: Variance = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Of mode sample.", show_default="1")] = None,
    fast: Fast = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    precision: Precision = "auto",
    self_check: Annotated[bool, typer.Option(help="Hide each available contrast, remake it and score it.")] = True,
    segment: Segment = False,
    viewer: Viewer = True,
    align: AlignOption = Align.AUTO,
    reference_contrast: OntoOption = None,
    strip: StripOption = "auto",
    n4: N4Option = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do again what is done.")] = False,
    bids: Annotated[bool, typer.Option("--bids", help="Refuse ROOT unless it is a BIDS data set.")] = False,
    only_summary: Annotated[
        bool, typer.Option("--only-summary", help="Write summary.csv and index.html anew, and do nothing else.")
    ] = False,
    num_parts: NumParts = 1,
    part_id: PartId = 0,
    dask: Annotated[
        str | None,
        typer.Option("--dask", metavar="tcp://HOST:PORT", help="Let the workers of this scheduler do the subjects."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Let N processes of this machine do them.", show_default="none"),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Complete every subject below a folder; the same command goes on where it was stopped.

    Of a BIDS data set the results are a derivative: named, described and placed as BIDS has it.

    Ends with 3 when some subjects failed or could not be used; the others are done, and index.html names them all.
    """
    speak(quiet, verbose)
    use_threads(threads)
    from mrsynth.tasks.batch import run as task

    options = validated(
        task.BatchOptions,
        root=root,
        out=out,
        participants=listed(participants),
        bids=bids,
        only_summary=only_summary,
        method=method,
        weights=weights,
        targets=contrasts_listed("--target", target),
        mode=mode,
        steps=steps,
        sampler=sampler,
        planes=planes_listed(planes),
        cycle_spinning=cycle_spinning,
        eta=eta,
        variance=variance,
        samples=samples,
        fast=fast,
        seed=seed,
        device=device,
        precision=precision,
        self_check=self_check,
        segment=segment,
        viewer=viewer,
        align=align.value,
        onto=reference_contrast,
        strip=strip,
        n4=n4,
        overwrite=overwrite,
        num_parts=num_parts,
        part_id=part_id,
        dask=dask,
        workers=workers,
        threads=threads,
    )
    with progress_bar(no_progress) as progress:
        done = task.batch(options, progress, say)
    print_result(f"{done.out / 'summary.csv'}")
    print_result(f"{done.out / 'index.html'}")
    if done.failed:
        say(f"{len(done.failed)} of {len(done.records)} subjects failed; index.html says why.")
    if done.unusable:
        say(f"{len(done.unusable)} with scans that cannot be used as they are; index.html says why.")
    if done.failed or done.unusable:
        raise typer.Exit(SOME_FAILED)
