"""`mrsynth weights`: list, show, fetch, import, verify. Like all commands, each imports its task inside."""

from pathlib import Path
from typing import Annotated

import typer

from mrsynth.console import NoProgress, Quiet, Verbose, print_result, progress_bar, say, speak
from mrsynth.contrasts import Contrast

weights_app = typer.Typer(help="Checkpoints: list, show, fetch, import, verify.", no_args_is_help=True)


@weights_app.command(name="list")
def weights_list(verbose: Verbose = False) -> None:
    """Checkpoints known, where they are and what they make."""
    speak(False, verbose)
    from mrsynth.tasks.weights import listing

    for line in listing():
        print_result(line)


@weights_app.command(name="show")
def weights_show(name: Annotated[str, typer.Argument(help="Name or path.")], verbose: Verbose = False) -> None:
    """All that a checkpoint says of itself, as YAML."""
    speak(False, verbose)
    from mrsynth.tasks.weights import card_text

    print_result(card_text(name).rstrip())


@weights_app.command(name="fetch")
def weights_fetch(
    name: Annotated[str, typer.Argument(help="Name of a published checkpoint, as `weights list` shows it.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Download a published checkpoint, check its SHA-256 and keep it for `complete`."""
    speak(quiet, verbose)
    from mrsynth.tasks.weights import at_hand, fetch

    path = at_hand(name)
    if path is None:
        with progress_bar(no_progress) as progress:
            path = fetch(name, progress)
    else:
        say(f"{name} is on this machine already; nothing was downloaded.")
    print_result(str(path))


@weights_app.command(name="import")
def weights_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt file as the authors of a method publish it.")],
    method: Annotated[str, typer.Option(help="Method it was trained for, as in cwdm.")],
    target: Annotated[
        Contrast | None, typer.Option(help="Contrast it makes, where a network makes only one.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What --weights is to call it.", show_default="from the file's name")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Convert a checkpoint made elsewhere and keep it for `complete`. No code inside the file is run."""
    speak(quiet, verbose)
    from mrsynth.tasks.importing import import_checkpoint

    print_result(str(import_checkpoint(file, method=method, target=target, name=name)))


@weights_app.command(name="verify")
def weights_verify(verbose: Verbose = False) -> None:
    """Check size and SHA-256 of every checkpoint that should be on this machine."""
    speak(False, verbose)
    from mrsynth.tasks.weights import verify

    for line in verify():
        print_result(line)
