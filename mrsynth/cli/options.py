"""Options that several commands have in common, and how what was typed is read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer

from mrsynth.contrasts import Contrast, contrast_of
from mrsynth.errors import UsageError
from mrsynth.texts import meant

SOME_FAILED = 3  # exit status: done, but some subjects failed


def lowered(value: str | None) -> str | None:
    """A name as it is known, in whichever letter case it was typed."""
    return value and value.lower()


SubjectFolder = Annotated[
    Path | None,
    typer.Argument(
        metavar="SUBJECT_DIR",
        help="Scans of one subject: a folder, or one or a zip of DICOM series.",
        show_default=False,
    ),
]
InputFolder = Annotated[
    Path | None, typer.Option("--input", "-i", metavar="FOLDER", help="The same, as an option.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
MOST_THREADS = 1024  # tens of thousands end a process without a word
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, max=MOST_THREADS, metavar="N", help="Processor threads to use.", show_default="one per core"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", envvar="MRSYNTH_DEVICE", callback=lowered)]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.", callback=lowered)]
Noise = Annotated[
    str | None,
    typer.Option(
        "--noise",
        metavar="v1|v2",
        help="Of mode sample: the generator of the noise; v1 is that of version 0.1.0.",
        callback=lowered,
        show_default="the checkpoint's",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
Fast = Annotated[
    bool,
    typer.Option("--fast", help="One small network, no committee, in its mode's cheapest form; a shorter self-check."),
]
Segment = Annotated[
    bool,
    typer.Option("--segment", help="Also measure tumour regions with and without what is synthetic: no measurement."),
]
Viewer = Annotated[bool, typer.Option(help="Put the volumes into report.html, to scroll through.")]
NumParts = Annotated[int, typer.Option(min=1, metavar="K", help="Share the work among K runs.")]
PartId = Annotated[int, typer.Option(min=0, metavar="I", help="Which of them this is, from 0.")]
Method = Annotated[
    str,
    typer.Option(
        help="Method: auto takes the best checkpoint at hand; fgc2f, cwdm, msg-ldm, dfbk, committee.", callback=lowered
    ),
]
T1 = Annotated[
    Path | None,
    typer.Option("--t1", help="Take this file as T1; of DICOM also a number of a series.", show_default=False),
]
T1ce = Annotated[
    Path | None,
    typer.Option("--t1ce", help="Take this file as T1ce; of DICOM also a number of a series.", show_default=False),
]
T2 = Annotated[
    Path | None,
    typer.Option("--t2", help="Take this file as T2; of DICOM also a number of a series.", show_default=False),
]
Mask = Annotated[Path | None, typer.Option("--mask", help="Take this file as the brain mask.", show_default=False)]
Flair = Annotated[
    Path | None,
    typer.Option("--flair", help="Take this file as FLAIR; of DICOM also a number of a series.", show_default=False),
]
ModeOption = Annotated[
    str | None,
    typer.Option(
        "--mode",
        help="mean: one call, the conditional mean, closest on average and smooth; sample: the paper's chain, with "
        "texture as it occurs.",
        callback=lowered,
        show_default="the checkpoint's",
    ),
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Of mode sample: network calls.", show_default="the checkpoint's")
]
Sampler = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        help="Of mode sample: ddpm, ddim or dpm_solver_pp; some methods have others.",
        callback=lowered,
        show_default="the checkpoint's",
    ),
]

Eta = Annotated[
    float | None,
    typer.Option(
        "--eta",
        min=0,
        max=1,
        help="Of --sampler ddim: noise added at each step, from 0 (none) to 1 (as ddpm).",
        show_default="the checkpoint's",
    ),
]
Variance = Annotated[
    str | None,
    typer.Option(
        "--variance",
        metavar="posterior|beta",
        help="Of --sampler ddpm: how much noise a step adds; beta is for chains of all levels.",
        callback=lowered,
        show_default="the checkpoint's",
    ),
]

Planes = Annotated[
    list[str] | None,
    typer.Option(
        "--planes",
        metavar="PLANE[,PLANE]",
        help="Of mode mean: the mean of what axial, coronal and sagittal slices give, if the checkpoint learnt them.",
        show_default="axial; a committee's own",
    ),
]


CycleSpinning = Annotated[
    bool,
    typer.Option(
        "--cycle-spinning",
        help="Of mode mean, of cwdm: the mean of what it makes on two grids a voxel apart. Nearer, in twice the time.",
    ),
]


def one_folder(argument: Path | None, option: Path | None) -> Path:
    """The folder that was given, in either way. Raises UsageError for none and for two."""
    if (argument is None) == (option is None):
        raise UsageError("Give the folder of one subject: as an argument, or with -i.")
    folder = argument if argument is not None else option
    assert folder is not None
    return folder


def listed(values: Sequence[str] | None) -> tuple[str, ...]:
    """The names of `a,b`, or of an option given several times; each once."""
    return tuple(dict.fromkeys(name.strip() for value in values or () for name in value.split(",") if name.strip()))


def planes_listed(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """The planes of `axial,coronal`; None where none are given. Raises UsageError for other names."""
    names = tuple(name.lower() for name in listed(values))
    if not names:
        return None
    from mrsynth.sampling import Plane

    if unknown := [name for name in names if name not in get_args(Plane)]:
        hint = meant(unknown[0], get_args(Plane))
        raise UsageError(f"--planes {unknown[0]}: there is no such plane. Known: {', '.join(get_args(Plane))}.{hint}")
    return names


def contrasts_listed(option: str, values: Sequence[str] | None) -> tuple[Contrast, ...]:
    """The contrasts of `t1ce,T2`, or of an option given several times; each once. Raises UsageError for other names."""
    return tuple(dict.fromkeys(contrast_of(name, option) for name in listed(values)))


def use_threads(count: int | None) -> None:
    """Let torch and what it calls use so many threads; None leaves it to them. For commands that run networks."""
    if count is not None:
        os.environ["OMP_NUM_THREADS"] = str(count)
    from mrsynth.devices import keep_freed_memory, limit_threads

    keep_freed_memory()
    if count is not None:
        limit_threads(count)
