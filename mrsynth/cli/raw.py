"""Scans as the scanner wrote them: `mrsynth dicom`, and the options of commands that take raw scans."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mrsynth.cli.console import Quiet, Verbose, print_result, say, speak
from mrsynth.cli.options import lowered
from mrsynth.contrasts import Contrast


class Align(StrEnum):
    """What happens to scans that lie on different grids."""

    AUTO = "auto"
    OFF = "off"
    FORCE = "force"


AlignOption = Annotated[
    Align,
    typer.Option(
        case_sensitive=False, help="Scans on different grids: register, refuse, or register whatever the doubts."
    ),
]
OntoOption = Annotated[
    Contrast | None,
    typer.Option(
        "--reference-contrast",
        case_sensitive=False,
        help="Whose grid is kept, and results are written on.",
        show_default="where grids differ T1ce, T1, FLAIR, T2",
    ),
]
StripOption = Annotated[
    str,
    typer.Option(
        metavar="auto|off|TOOL",
        help="Whole heads: find the brain (by hd-bet or mri_synthstrip, if named).",
        callback=lowered,
    ),
]
N4Option = Annotated[bool, typer.Option("--n4", help="Correct slow changes of brightness first.")]

Number = Annotated[int | None, typer.Option(metavar="NUMBER", help="Take this series for it.", show_default=False)]


def dicom(
    source: Annotated[Path, typer.Argument(metavar="FOLDER|ZIP", help="DICOM files of one examination, any depth.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Receives one NIfTI file per contrast.")],
    name: Annotated[str | None, typer.Option(help="Name of the subject.", show_default="the folder's")] = None,
    t1: Number = None,
    t1ce: Number = None,
    t2: Number = None,
    flair: Number = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn the series of an examination into NIfTI files, T1, T1ce, T2 and FLAIR told apart by name, timing and agent.

    Says what each was taken for and why, and what was left out. Nothing of the patient module is read.
    """
    speak(quiet, verbose)
    from mrsynth.tasks import dicom as task

    given = {Contrast.T1: t1, Contrast.T1CE: t1ce, Contrast.T2: t2, Contrast.FLAIR: flair}
    chosen = {contrast: number for contrast, number in given.items() if number is not None}
    done = task.convert(task.DicomOptions(source=source, out=out, name=name, chosen=chosen))
    for contrast, reason in done.reasons.items():
        say(f"{contrast.label}: {reason}")
    for line in done.unused:
        say(f"not used: {line}")
    for path in done.files.values():
        print_result(str(path))
