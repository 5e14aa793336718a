"""Options that several commands have in common, and how what was typed is read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mrsynth.contrasts import Contrast
from mrsynth.errors import UsageError

SubjectFolder = Annotated[
    Path | None, typer.Argument(metavar="SUBJECT_DIR", help="Folder with the scans of one subject.", show_default=False)
]
InputFolder = Annotated[
    Path | None, typer.Option("--input", "-i", metavar="FOLDER", help="The same, as an option.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="Processor threads to use.", show_default="one per core"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", envvar="MRSYNTH_DEVICE")]


def one_folder(argument: Path | None, option: Path | None) -> Path:
    """The folder that was given, in either way. Raises UsageError for none and for two."""
    if (argument is None) == (option is None):
        raise UsageError("Give the folder of one subject: as an argument, or with -i.")
    folder = argument if argument is not None else option
    assert folder is not None
    return folder


def contrasts_listed(option: str, values: Sequence[str] | None) -> tuple[Contrast, ...]:
    """The contrasts of `t1ce,T2`, or of an option given several times; each once. Raises UsageError for other names."""
    names = [name.strip() for value in values or () for name in value.split(",") if name.strip()]
    if unknown := [name for name in names if name.lower() not in set(Contrast)]:
        raise UsageError(f"{option} {unknown[0]}: there is no such contrast. Known: {', '.join(Contrast)}.")
    return tuple(dict.fromkeys(Contrast(name.lower()) for name in names))


def use_threads(count: int | None) -> None:
    """Let torch and what it calls use so many threads; None leaves it to them."""
    if count is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(count)
    from mrsynth.devices import limit_threads

    limit_threads(count)
