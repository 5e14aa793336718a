"""`mrsynth benchmark` and `mrsynth compare`. Like all commands, each imports its task inside."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

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
    SOME_FAILED,
    CycleSpinning,
    Device,
    Eta,
    ModeOption,
    NumParts,
    PartId,
    Planes,
    Precision,
    Sampler,
    Seed,
    Steps,
    Threads,
    Variance,
    Viewer,
    listed,
    lowered,
    planes_listed,
    use_threads,
)
from mrsynth.errors import UsageError


def benchmark(
    dataset: Annotated[
        str | None, typer.Option(help="Data set by name; --list shows them.", callback=lowered, show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Your copy of the data set.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="RUN", help="Folder of the run.", show_default=False)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="M[,M...]", help="Methods.", callback=lowered, show_default="all with checkpoints at hand"
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|PATH", help="Checkpoint; repeatable.", show_default="the best at hand"),
    ] = None,
    patterns: Annotated[
        str,
        typer.Option(
            help="one-missing, all, brasyn, or AVAILABLE:TARGETS as in t1+t2:t1ce,t2:t1+flair.", callback=lowered
        ),
    ] = "one-missing",
    protocol: Annotated[
        str, typer.Option(metavar="P[,P...]", help="Protocols, or all; docs/protocols.md.", callback=lowered)
    ] = "full3d,brain3d",
    question: Annotated[
        str | None,
        typer.Option(
            metavar="P:REGION:METRIC",
            help="The primary question, the one whose p values are corrected.",
            show_default="brain3d:brain:PSNR_FIT",
        ),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Subject ids by part (YAML).", show_default="the data set's rule"),
    ] = None,
    part: Annotated[str, typer.Option(help="Part of the split to score on, or all.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N subjects.", show_default="all")] = None,
    mode: ModeOption = None,
    steps: Steps = None,
    sampler: Sampler = None,
    planes: Planes = None,
    cycle_spinning: CycleSpinning = False,
    eta: Eta = None,
    variance: Variance = None,
    fast: Annotated[bool, typer.Option("--fast", help="The mode's cheapest form, as `complete --fast`.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    precision: Precision = "auto",
    baselines: Annotated[bool, typer.Option(help="Run the copy and regression baselines beside the methods.")] = True,
    segmenter: Annotated[
        str | None,
        typer.Option(
            metavar="builtin|PATH",
            help="Measure a segmentation too: MONAI bundle, TorchScript, or our own.",
            show_default="none",
        ),
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Make worst, median and best again, for the report.")] = True,
    viewer: Viewer = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Keep these scores of checkpoints: `complete` then goes by them.")
    ] = False,
    num_parts: NumParts = 1,
    part_id: PartId = 0,
    list_: Annotated[bool, typer.Option("--list", help="List the data sets, and stop.")] = False,
    describe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Say what a data set must look like, and stop.", callback=lowered, show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print JSON.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Score methods on a data set: hide contrasts, make them, compare. Exit status 3 when some subjects failed."""
    speak(quiet, verbose)
    if as_json and not list_:
        raise UsageError("--json goes with --list; a run writes summary.json.")
    if list_ and describe:
        raise UsageError("--list and --describe NAME each show something and stop: give one of them.")
    if list_ and as_json:
        from mrsynth.tasks.benchmark.datasets import dataset_facts

        print_json(dataset_facts())
        return
    if list_ or describe:
        from mrsynth.tasks.benchmark.datasets import describe_dataset, list_datasets

        print_result(describe_dataset(describe) if describe else list_datasets())
        return
    if dataset is None or out is None:
        raise UsageError("benchmark needs --dataset NAME and -o RUN; --list shows the data sets.")
    use_threads(threads)
    from mrsynth.scores.protocols import PROTOCOLS
    from mrsynth.tasks.benchmark import run as task

    options = validated(
        task.BenchmarkOptions,
        dataset=dataset,
        data=data,
        out=out,
        methods=listed([method or ""]),
        weights=tuple(weights or ()),
        patterns=patterns,
        protocols=tuple(PROTOCOLS) if protocol == "all" else listed([protocol]),
        question=question,
        split=split,
        part=part,
        limit=limit,
        mode=mode,
        steps=steps,
        sampler=sampler,
        planes=planes_listed(planes),
        cycle_spinning=cycle_spinning,
        eta=eta,
        variance=variance,
        fast=fast,
        seed=seed,
        device=device,
        precision=precision,
        baselines=baselines,
        segmenter=segmenter,
        pictures=pictures,
        viewer=viewer,
        resume=resume,
        record=record,
        num_parts=num_parts,
        part_id=part_id,
        command=shlex.join(["mrsynth", *sys.argv[1:]]),
    )
    with progress_bar(no_progress) as progress:
        done = task.benchmark(options, progress)
    say(done.headline)
    for name in ("results.csv", "summary.json", "report.md", "report.html"):
        print_result(str(done.out / name))
    if done.recorded:
        say(done.recorded)
    if done.record.failures:
        say(f"{len(done.record.failures)} failures; report.md lists them.")
        raise typer.Exit(SOME_FAILED)


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a benchmark, or its results.csv.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the table here (Markdown).", show_default=False)
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare two benchmarks, score by score on the subjects they share."""
    speak(quiet, verbose)
    from mrsynth.tasks.benchmark import compare as task

    comparison = task.compare(run_a, run_b)
    print_result(comparison.text())
    if out is not None:
        task.write(comparison, out)
