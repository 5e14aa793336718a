"""`mrsynth weights`: list, show, fetch, import, verify, clear, embed-text. Each imports its task inside."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from mrsynth.cli.console import NoProgress, Quiet, Verbose, print_json, print_result, progress_bar, say, speak
from mrsynth.cli.options import Json, contrasts_listed, lowered
from mrsynth.cli.words import Commands
from mrsynth.contrasts import STANDARD, contrasts_named
from mrsynth.errors import UsageError

weights_app = Commands(
    help="Checkpoints: list, show, fetch, import, verify, clear; tokens of a text encoder.", no_args_is_help=True
)


@weights_app.command(name="list")
def weights_list(as_json: Json = False, verbose: Verbose = False) -> None:
    """Checkpoints known, where they are and what they make."""
    speak(False, verbose)
    from mrsynth.tasks.checkpoints.run import facts, listing

    if as_json:
        print_json(facts())
        return
    for line in listing(shutil.get_terminal_size((100, 24)).columns):
        print_result(line)


@weights_app.command(name="show")
def weights_show(
    name: Annotated[str, typer.Argument(help="Name or path.")],
    card: Annotated[bool, typer.Option("--card", help="Print the model card as a page of Markdown.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """All that a checkpoint says of itself, as YAML: uses, failures and scores too."""
    speak(False, verbose)
    from mrsynth.tasks.checkpoints.run import card_fields, card_markdown, card_text

    if card and as_json:
        raise UsageError("--card prints Markdown, --json JSON: leave one of them out.")
    if as_json:
        print_json(card_fields(name))
    else:
        print_result((card_markdown(name) if card else card_text(name)).rstrip())


@weights_app.command(name="fetch")
def weights_fetch(
    name: Annotated[str, typer.Argument(help="Name of a published checkpoint, as `weights list` shows it.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Download a published checkpoint, check its SHA-256 and keep it for `complete`."""
    speak(quiet, verbose)
    from mrsynth.tasks.checkpoints.run import at_hand, fetch

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
    method: Annotated[str, typer.Option(help="Method it was trained for, as in cwdm.", callback=lowered)],
    target: Annotated[
        str | None, typer.Option(help="Contrast it makes, where a network makes only one.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What --weights is to call it.", show_default="from the file's name")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Convert a checkpoint made elsewhere and keep it for `complete`. No code inside the file is run."""
    speak(quiet, verbose)
    from mrsynth.tasks.checkpoints.importing import import_checkpoint

    makes = contrasts_listed("--target", [target] if target else [])
    if len(makes) > 1:
        raise UsageError(f"--target {target}: a network makes one contrast; give one.")
    only = makes[0] if makes else None
    print_result(str(import_checkpoint(file, method=method, target=only, name=name)))


@weights_app.command(name="clear")
def weights_clear(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these.", show_default="all that was fetched")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and do nothing.")] = False,
    verbose: Verbose = False,
) -> None:
    """Remove downloaded checkpoints from this machine: `weights fetch` gets them again. Your own files stay."""
    speak(False, verbose)
    from mrsynth.tasks.checkpoints.clearing import clear

    removed, size = clear(names or [], dry_run=dry_run)
    for path in removed:
        print_result(str(path))
    say(f"{'Would free' if dry_run else 'Freed'} {size / 1e6:.1f} MB.")


@weights_app.command(name="verify")
def weights_verify(verbose: Verbose = False) -> None:
    """Check size and SHA-256 of every checkpoint that should be on this machine."""
    speak(False, verbose)
    from mrsynth.tasks.checkpoints.run import verify

    for line in verify():
        print_result(line)


@weights_app.command(name="embed-text")
def weights_embed_text(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.npz", help="File to write.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="REPOSITORY|FOLDER", help="Text encoder: on a hub, or in a folder.", show_default="BiomedCLIP"
        ),
    ] = None,
    encoder_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the encoder in a folder is, as kg.encoder will name it.",
            show_default="the folder's name and its SHA-256",
        ),
    ] = None,
    contrasts: Annotated[str, typer.Option(help="Contrasts of the training, such as ct,mr.")] = ",".join(STANDARD),
    length: Annotated[int, typer.Option(help="Tokens that a sentence is cut to (kg.length).")] = 64,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Encode the sentences that dfbk reads, for `train --tokens`. Downloads the encoder unless it is in a folder."""
    speak(quiet, verbose)
    from mrsynth.tasks.checkpoints import embedding as task

    options = task.EmbedOptions(out, encoder or task.DEFAULTS.encoder, encoder_name, contrasts_named(contrasts), length)
    with progress_bar(no_progress) as progress:
        done = task.embed_text(options, progress)
    print_result(str(done.path))
    say(f"{done.sentences} sentences by {done.encoder}, tokens of width {done.width}.")
    if done.cut:
        say(
            f"Note: {done.cut} sentences were cut to {done.length} tokens; the longest has {done.longest}. "
            f"--length {done.longest}, and kg.length={done.longest} in training, keep them whole."
        )
    keys = " ".join(f"--set {setting}" for setting in done.settings)
    say(f"Train with: mrsynth train --method dfbk --tokens {done.path} {keys}")
