"""How much is said and where, with the options that set it; the progress bar; what a task refuses, as a usage error."""

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrsynth.errors import UsageError
from mrsynth.texts import visible

if TYPE_CHECKING:
    from rich.console import Console

    from mrsynth.plain import Progress


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more, and tracebacks of unexpected errors.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress bar (automatic without a terminal).")]


class Verbosity:
    """How much to say; set by each command's -q and -v."""

    quiet = False
    verbose = False
    deaf = False  # standard output is closed, or its disk full


class Visible(logging.Formatter):
    """Log lines may hold names of others, too."""

    def format(self, record: logging.LogRecord) -> str:
        """The line as a terminal may print it."""
        return visible(super().format(record))


def speak(quiet: bool, verbose: bool) -> None:
    """Set how much is printed and logged by this command."""
    Verbosity.quiet, Verbosity.verbose = quiet, verbose
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
    for handler in (h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler):
        handler.setFormatter(Visible("%(levelname)s: %(message)s"))


def say(text: str) -> None:
    """Print for people; silent under -q."""
    if not Verbosity.quiet:
        print_result(text)


def print_result(text: str) -> None:
    """Print what a script would read: plain, unwrapped, also under -q."""
    with heard():
        print(visible(text), flush=True)


def print_json(content: Any) -> None:
    """Print JSON for programs: ASCII alone, so that it is JSON whatever a stream can show and a name holds."""
    print_result(json.dumps(content, indent=2))


def open_streams() -> None:
    """Let standard output and error escape what they cannot show: work is never lost to printing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def heard() -> Iterator[None]:
    """Print; where nobody listens any more, or the disk behind the stream is full, say so once and go on."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if Verbosity.deaf:
            return
        Verbosity.deaf = True
        with suppress(OSError):  # what is still in the buffer goes nowhere, and the interpreter does not try again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            with suppress(OSError):
                print(f"Standard output cannot be written: {error.strerror}.", file=sys.stderr)


def console() -> "Console":
    """A rich console that prints text on stderr as it is, made when first needed."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False)


@contextmanager
def progress_bar(hidden: bool) -> "Iterator[Progress | None]":
    """A progress callback that draws a bar with the time left, on stderr; None when hidden or without a terminal."""
    if hidden or Verbosity.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich

    counts = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
    clocks = (rich.TimeElapsedColumn(), rich.TimeRemainingColumn())
    with rich.Progress(*counts, *clocks, console=console(), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def progress(what: str, done: int, total: int) -> None:
            if what.split(",")[0] != bar.tasks[0].description.split(",")[0]:  # another stage: its own clock
                bar.reset(task, description=what, total=total)
            bar.update(task, description=visible(what), completed=done, total=total)

        yield progress


def validated(options: Any, **values: Any) -> Any:
    """Options of a task; what they refuse is a usage error that names the option."""
    from pydantic import ValidationError

    try:
        return options(**values)
    except ValidationError as error:
        raise UsageError("; ".join(f"--{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from error
