"""Files of tokens: what a text encoder made of sentences, as .npz.

    mrsynth     JSON: {"format": 1, "encoder": ..., "length": ..., "sha256": ..., "prompts": {KEY: SENTENCE}}
    KEY         (n, width) float16, the tokens of a sentence; KEY is its `prompt_key`

The sentences are there to be read by people, and to find out whether names were changed: the keys are made of them.
"""

import io
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mrsynth.errors import InputError
from mrsynth.io.files import write_bytes
from mrsynth.io.reading import parse_json, read_bounded
from mrsynth.plain import Plain
from mrsynth.text_tokens import AGAIN, TokenTable, prompt_key

DAMAGED = (OSError, EOFError, ValueError, LookupError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error)
HEADER = "mrsynth"
FORMAT = 1
LONGEST = 2**28  # bytes; a thousand sentences of a large encoder have fewer


class TokensHeader(Plain):
    """What a file of tokens says of itself: see TokenTable, and `prompts`, the sentence of every key."""

    format: int
    encoder: str
    length: int
    sha256: str
    prompts: dict[str, str]


def write_tokens(path: Path, table: TokenTable, prompts: Iterable[str]) -> None:
    """Write a table whose tokens are those of these prompts, whole or not at all; equal content gives equal bytes.

    Raises OutputError when the file cannot be written.
    """
    keys = dict(sorted((prompt_key(table.encoder, text, table.length), text) for text in prompts))
    if set(keys) != set(table.tokens):
        raise ValueError("the tokens are not those of the prompts")
    header = TokensHeader(format=FORMAT, encoder=table.encoder, length=table.length, sha256=table.sha256, prompts=keys)
    arrays: dict[str, Any] = {key: table.tokens[key].astype(np.float16) for key in keys}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{HEADER: np.array(header.model_dump_json())}, **arrays)
    write_bytes(path, buffer.getvalue())


def read_tokens(path: Path) -> TokenTable:
    """Read a file of tokens; nothing in it is run. Raises InputError for a file that is missing, damaged or foreign."""
    try:
        content = read_bounded(path, LONGEST)
    except OSError as error:
        raise InputError(f"Cannot read the tokens {path}: {error.strerror}. Check the path.") from error
    if content[:4] != b"PK\x03\x04":
        raise InputError(f"{path} is no file of tokens (.npz). Expected what `mrsynth weights embed-text` writes.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            if sum(part.file_size for part in parts.infolist()) > len(content):
                raise ValueError("it would unpack into more than it is, which mrsynth never writes")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays: dict[str, NDArray[Any]] = {name: archive[name] for name in archive.files}
    except MemoryError as error:  # what is there is short, so an array claims to be longer
        raise InputError(f"{path} cannot be read as tokens: it claims more than it holds. {AGAIN}") from error
    except DAMAGED as error:
        # a ValueError is also what an array of Python objects gives, which would have to be unpickled
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path} cannot be read as tokens: {reason[0].rstrip('.')}. Copy it again. {AGAIN}") from error
    return _table(path, _header(path, arrays.pop(HEADER, None)), arrays)


def _header(path: Path, stored: NDArray[Any] | None) -> TokensHeader:
    if stored is None or stored.dtype.kind != "U" or stored.ndim:
        raise InputError(
            f"{path} is an .npz of something else: it has no header '{HEADER}'. Expected what `mrsynth weights "
            "embed-text` writes."
        )
    try:
        content = parse_json(str(stored))
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise InputError(
                f"{path} has the tokens format {content.get('format')!r}; this mrsynth reads format {FORMAT}. "
                f"Update mrsynth. Or: {AGAIN}"
            )
        return TokensHeader.model_validate(content)
    except (ValidationError, ValueError) as error:
        raise InputError(f"{path}: its header is not one of tokens, so it was changed or damaged. {AGAIN}") from error


def _table(path: Path, header: TokensHeader, arrays: dict[str, NDArray[Any]]) -> TokenTable:
    """The table, once header and arrays are found to agree."""
    changed = [k for k, text in header.prompts.items() if k != prompt_key(header.encoder, text, header.length)]
    if changed:
        raise InputError(
            f"{path}: {len(changed)} of {len(header.prompts)} sentences do not have the name that encoder "
            f"({header.encoder}), sentence and length ({header.length}) give them, so one of these was changed. {AGAIN}"
        )
    if set(arrays) != set(header.prompts):
        lacking, foreign = set(header.prompts) - set(arrays), set(arrays) - set(header.prompts)
        raise InputError(
            f"{path}: tokens of {len(lacking)} sentences are missing, and {len(foreign)} arrays belong to none. {AGAIN}"
        )
    for key, tokens in arrays.items():
        if tokens.dtype != np.float16 or tokens.ndim != 2:
            raise InputError(
                f"{path}: the tokens of {header.prompts[key]!r} are {tokens.dtype} of shape {tokens.shape}, expected "
                f"float16 (tokens, width). {AGAIN}"
            )
    return TokenTable(header.encoder, header.length, arrays, header.sha256)
