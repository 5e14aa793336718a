"""The command line: parse, call a task, print. Every task is imported inside its command, so that help is quick."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mrsynth import __version__
from mrsynth.cli.batch import batch
from mrsynth.cli.benchmark import benchmark, compare
from mrsynth.cli.console import (
    NoProgress,
    Quiet,
    Verbose,
    Verbosity,
    console,
    heard,
    open_streams,
    print_result,
    progress_bar,
    speak,
    validated,
)
from mrsynth.cli.doctor import doctor
from mrsynth.cli.options import contrasts_listed
from mrsynth.cli.raw import dicom
from mrsynth.cli.stopping import Stop
from mrsynth.cli.subject import complete, inspect
from mrsynth.cli.train import train
from mrsynth.cli.weights import weights_app
from mrsynth.cli.words import Commands
from mrsynth.errors import Interrupted, MemoryExhausted, MrsynthError, UsageError
from mrsynth.texts import visible

app = Commands(
    help="Synthesise the missing contrasts of a brain MRI study. Synthetic images are for research, not for diagnosis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(weights_app, name="weights")
app.command()(complete)
app.command()(inspect)
app.command()(doctor)
app.command()(batch)
app.command()(benchmark)
app.command()(compare)
app.command()(dicom)
app.command()(train)


def tell_version(asked: bool) -> None:
    """Print the version, where it is asked for, and end the program."""
    if asked:
        print_result(f"mrsynth {__version__}")
        raise typer.Exit


@app.callback()
def options_of_the_program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and stop.", is_eager=True, callback=tell_version)
    ] = False,
) -> None:
    """Synthesise the missing contrasts of a brain MRI study. Synthetic images are for research, not for diagnosis."""


Own = Callable[[str], str]


class Lesion(StrEnum):
    """What a phantom suffers from."""

    GLIOMA = "glioma"
    MS = "ms"
    NONE = "none"


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the cohort; one folder per subject.")],
    subjects: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first; the others count on.")] = 0,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME]", help="Leave these contrasts out.", show_default="none"),
    ] = None,
    spacing: Annotated[tuple[float, float, float], typer.Option(metavar="X Y Z", help="Voxel size in millimetres.")] = (
        1.0,
        1.0,
        1.0,
    ),
    shape: Annotated[
        tuple[int, int, int] | None, typer.Option(metavar="I J K", help="Voxels.", show_default="around the brain")
    ] = None,
    lesion: Annotated[Lesion, typer.Option(case_sensitive=False, help="Kind of lesion.")] = Lesion.GLIOMA,
    noise: Annotated[float, typer.Option(min=0, max=1, help="Rician noise, fraction of white matter.")] = 0.02,
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
        without=contrasts_listed("--without", without),
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


def main(words: Sequence[str] | None = None, own: Own | None = None) -> None:
    """Run the program and end it with the exit status of what happened.

    words   what was typed; None for the command line of this process
    own     of another program that calls this one: its words for ours
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: threads that spin slow others five-fold
    stop = Stop()
    open_streams()
    try:
        status = app(words, standalone_mode=False)
        with heard():
            pass  # what is still to be flushed
        if status == Interrupted.exit_code:  # typer makes this of KeyboardInterrupt, and says nothing
            raise KeyboardInterrupt
    except MrsynthError as error:
        status = failed(own(str(error)) if own else str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        status = failed("Interrupted.", Interrupted.exit_code)
    except MemoryError:
        status = failed("Memory ran out. Close other programs, or use a machine with more.", MemoryExhausted.exit_code)
    except Exception as error:  # libraries in other languages make errors of their own of a KeyboardInterrupt
        status = failed("Interrupted.", Interrupted.exit_code) if stop.asked else unexpected(error, own)
    sys.exit(status if isinstance(status, int) else 0)


def unexpected(error: Exception, own: Own | None = None) -> int:
    """Usage errors of the parser print themselves; anything else is our mistake, told in one line."""
    show, message = getattr(error, "show", None), getattr(error, "format_message", None)
    if callable(show) and callable(message):
        status = int(getattr(error, "exit_code", UsageError.exit_code))
        if own:  # what it shows besides is the usage of ours
            return failed(own(message()), status)
        show()
        return status
    if Verbosity.verbose:
        logging.getLogger(__name__).error("unexpected error", exc_info=error)
    return failed(f"Unexpected {type(error).__name__}: {error}\nRun again with -v for the traceback.", 1)


def failed(what: str, status: int) -> int:
    """Print an error on stderr, and give its exit status back."""
    out = console()
    out.print("Error:", style="bold red", end=" ")
    out.print(visible(what), soft_wrap=True)
    return status
