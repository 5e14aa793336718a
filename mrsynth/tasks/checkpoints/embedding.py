"""`mrsynth weights embed-text`: what a text encoder makes of the sentences that dfbk reads, as a file for training."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, UsageError, WeightsError
from mrsynth.io import hub
from mrsynth.io.encoders import TextEncoder, needed, require_transformers
from mrsynth.io.files import ensure_folder
from mrsynth.io.store import sha256_of
from mrsynth.io.tokens import write_tokens
from mrsynth.methods.dfbk.config import GuidanceConfig
from mrsynth.methods.dfbk.prompts import all_prompts
from mrsynth.plain import Progress
from mrsynth.text_tokens import TokenTable, prompt_key

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
DEFAULTS = GuidanceConfig()
SHORTEST = 3  # the mark of the beginning, one token, the mark of the end


@dataclass(frozen=True)
class EmbedOptions:
    """The request of the command line.

    out        the file to write, .npz
    encoder    a repository of a hub, or a folder with a BERT or with a model of open_clip
    name       whose tokens these are, for a folder; without it the folder's name and the SHA-256 of its weights say it
    contrasts  of the training; sentences are made of every one of them from any others
    length     tokens that a sentence is cut to
    """

    out: Path
    encoder: str = DEFAULTS.encoder
    name: str | None = None
    contrasts: tuple[Contrast, ...] = STANDARD
    length: int = DEFAULTS.length


class Embedded(NamedTuple):
    """What was written.

    sentences  how many
    cut        how many of them have more than `length` tokens
    longest    tokens of the longest, uncut
    width      of a token
    """

    path: Path
    encoder: str
    sentences: int
    cut: int
    longest: int
    length: int
    width: int

    @property
    def settings(self) -> list[str]:
        """What a training must be told to read this file, as KEY=VALUE; nothing for what it does anyway."""
        wanted = {"encoder": self.encoder, "length": self.length, "width": self.width}
        different = {key: value for key, value in wanted.items() if value != getattr(DEFAULTS, key)}
        return ["method.kg.text=biomedclip", *(f"method.kg.{key}={value}" for key, value in different.items())]


def embed_text(options: EmbedOptions, progress: Progress | None = None) -> Embedded:
    """Encode every sentence and write the tokens; `progress` counts megabytes of a download, then sentences.

    Raises UsageError for a request that makes no sense, InputError for a folder that is not there, WeightsError when
    the encoder cannot be had or is none, OutputError when the file cannot be written.
    """
    require_transformers()
    refuse(options)
    ensure_folder(options.out.parent)
    encoder = TextEncoder(folder_of(options, progress))
    if options.length > encoder.longest:
        raise UsageError(f"--length {options.length}: this encoder reads up to {encoder.longest} tokens.")
    sha256 = sha256_of(encoder.weights)
    name = name_of(options, sha256)
    prompts = all_prompts(options.contrasts)
    tokens, lengths = {}, []
    for done, text in enumerate(prompts):
        if progress is not None:
            progress("encoding sentences", done, len(prompts))
        tokens[prompt_key(name, text, options.length)], whole = encoder.embed(text, options.length)
        lengths.append(whole)
    write_tokens(options.out, TokenTable(name, options.length, tokens, sha256), prompts)
    cut = sum(n > options.length for n in lengths)
    return Embedded(options.out, name, len(prompts), cut, max(lengths), options.length, encoder.width)


def refuse(options: EmbedOptions) -> None:
    """Raise UsageError for what cannot be asked."""
    if options.out.suffix != ".npz":
        raise UsageError(f"--out {options.out}: expected a name that ends in .npz.")
    if len(options.contrasts) < 2 or len(set(options.contrasts)) < len(options.contrasts):
        raise UsageError(f"--contrasts {shown(options.contrasts)}: expected two or more, each once.")
    if options.length < SHORTEST:
        raise UsageError(f"--length {options.length}: expected {SHORTEST} tokens or more.")
    if options.name is not None and not Path(options.encoder).expanduser().is_dir():
        raise UsageError("--encoder-name is for an encoder that is read from a folder. Leave it out.")
    if options.name is not None and not options.name.strip():
        raise UsageError("--encoder-name is empty: give the name of the encoder, or leave it out.")


def shown(contrasts: Sequence[Contrast]) -> str:
    """As on the command line."""
    return ",".join(contrast.value for contrast in contrasts)


def folder_of(options: EmbedOptions, progress: Progress | None) -> Path:
    """The folder of the encoder: the one that was given, or where its files were downloaded to."""
    folder = Path(options.encoder).expanduser()
    if folder.is_dir():
        return folder
    if not REPOSITORY.fullmatch(options.encoder):
        raise InputError(
            f"No folder at {options.encoder}. Expected one with a BERT or a model of open_clip in it, or the name of a "
            f"repository on a hub such as {DEFAULTS.encoder}."
        )
    given = f"--encoder FOLDER --encoder-name {options.encoder}"
    try:
        return hub.download_files(options.encoder, needed, f"give the folder of all its files: {given}", progress)
    except WeightsError as error:
        raise WeightsError(
            f"{error}\nThere is no folder {options.encoder} either. Without a network: on a machine that has one, make "
            f"the tokens there and carry the file, which is small; or run `hf download {options.encoder} --local-dir "
            f"FOLDER` there, carry the folder and give {given}."
        ) from error


def name_of(options: EmbedOptions, sha256: str) -> str:
    """Whose tokens these are. A folder is not taken for a published encoder unless the user says that it is one."""
    folder = Path(options.encoder).expanduser()
    if not folder.is_dir():
        return options.encoder
    return options.name or f"{folder.resolve().name}@{sha256[:12]}"
