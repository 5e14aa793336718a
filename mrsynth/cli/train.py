"""`mrsynth train`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrsynth.cli.console import NoProgress, Quiet, Verbose, print_result, progress_bar, speak
from mrsynth.cli.options import Device, Threads, lowered, use_threads
from mrsynth.contrasts import contrasts_named
from mrsynth.errors import UsageError

if TYPE_CHECKING:
    from mrsynth.plain import Progress

EVERY = 60.0  # seconds between lines of a job log


def train(
    data: Annotated[list[Path], typer.Option(metavar="ROOT", help="Folder of subjects, any depth; repeatable.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    method: Annotated[
        str | None,
        typer.Option(help="Method to train: fgc2f, cwdm, msg-ldm or dfbk.", callback=lowered, show_default=False),
    ] = None,
    segmenter: Annotated[
        bool, typer.Option("--segmenter", help="Train the tumour segmenter of the benchmark instead of a method.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="Run file (YAML).", show_default="the paper's settings; with --init those of its checkpoint"),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the run file; repeatable.")
    ] = None,
    contrasts: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Such as ct,mr: --set method.contrasts.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH", help="Begin with the weights of a checkpoint (fine-tuning).", show_default=False
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Tokens of `weights embed-text`, for a method that reads text.", show_default=False
        ),
    ] = None,
    min_subjects: Annotated[
        int | None,
        typer.Option(min=1, help="Fewer usable subjects are an error.", show_default="half of those found"),
    ] = None,
    accept_changed_data: Annotated[
        bool, typer.Option("--accept-changed-data", help="Resume although images are others than before.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Train on folders of subjects. Stops cleanly on SIGTERM or Ctrl-C; --resume goes on exactly."""
    speak(quiet, verbose)
    use_threads(threads)
    changes = settings(set_ or [])
    if segmenter:
        given_too = {"--method": method, "--contrasts": contrasts, "--init": init, "--tokens": tokens}
        if wrong := [option for option, value in given_too.items() if value is not None]:
            raise UsageError(f"--segmenter is no method: leave {' and '.join(wrong)} out.")
        method = "segmenter"
    if contrasts is not None:
        if "method.contrasts" in changes:
            raise UsageError("--contrasts and --set method.contrasts say the same thing: leave one of them out.")
        changes["method.contrasts"] = [c.value for c in contrasts_named(contrasts)]
    from mrsynth.tasks.train import run as task

    options = task.TrainOptions(
        method=method,
        data=tuple(data),
        out=out,
        config=config,
        overrides=changes,
        resume=resume,
        device=device.lower(),
        init=init,
        tokens=tokens,
        min_subjects=min_subjects,
        accept_changed_data=accept_changed_data,
    )
    with progress_bar(no_progress) as progress:
        checkpoint = task.train(options, progress or lines(quiet))
    print_result(str(checkpoint))


def lines(quiet: bool) -> "Progress | None":
    """Where there is no terminal: a line on stderr when something begins and every minute, for the log of a job."""
    if quiet:
        return None
    last: dict[str, Any] = {"said": -EVERY, "what": "", "begun": 0.0, "from": 0}

    def progress(what: str, done: int, total: int) -> None:
        now, kind = time.monotonic(), what.split(",")[0].split(" ")[0]
        if kind != last["what"]:
            last.update({"what": kind, "begun": now, "from": done, "said": -EVERY})
        if now - last["said"] < EVERY and done < total:
            return
        last["said"] = now
        rate = (now - last["begun"]) / (done - last["from"]) if done > last["from"] else None
        left = "" if rate is None or done >= total else f", about {(total - done) * rate:.0f} s left"
        print(f"{what}: {done} of {total}{left}", file=sys.stderr, flush=True)

    return progress


def settings(pairs: list[str]) -> dict[str, Any]:
    """`training.iterations=12` as {"training.iterations": 12}; values are YAML."""
    from mrsynth.tasks.train.config import value_of

    found: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key in found:
            raise UsageError(f"--set {key} is given twice. Leave out one of the two.")
        try:
            found[key] = value_of(value)
        except ValueError as error:
            raise UsageError(f"--set {pair}: {value} is no YAML value.") from error
        if not key or "=" not in pair:
            raise UsageError(f"--set {pair}: expected KEY=VALUE, as in training.iterations=1000.")
    return found
