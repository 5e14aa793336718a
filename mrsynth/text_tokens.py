"""Tokens that a text encoder made of sentences, and the names they go by. Without torch."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrsynth.errors import UsageError

AGAIN = "Make them again with `mrsynth weights embed-text`."


def prompt_key(encoder: str, prompt: str, length: int) -> str:
    """Under which name the tokens of a prompt are stored: 32 hex digits of a SHA-256."""
    return hashlib.sha256(repr((encoder, prompt, length)).encode()).hexdigest()[:32]


def identity(encoder: str, prompts: Iterable[str], length: int) -> bytes:
    """32 bytes that stand for an encoder, a list of prompts in their order and the length they are cut to."""
    return hashlib.sha256(repr((encoder, list(prompts), length)).encode()).digest()


@dataclass(frozen=True, eq=False)
class TokenTable:
    """What a text encoder made of prompts.

    encoder  whose tokens they are: the name of a repository on a hub, or one that says what the weights are
    length   prompts were cut to so many tokens
    tokens   `prompt_key` -> (n, width) float16, its last hidden states; 1 <= n <= length
    sha256   of the file of the encoder's weights, hexadecimal; empty where it is not known
    """

    encoder: str
    length: int
    tokens: Mapping[str, NDArray[np.float16]]
    sha256: str = ""

    def lookup(self, encoder: str, prompts: Iterable[str], length: int, width: int) -> list[NDArray[np.float16]]:
        """The tokens of these prompts, of which some may be alike, by one encoder. Raises UsageError for others."""
        prompts = list(prompts)
        wanted = {text: prompt_key(encoder, text, length) for text in prompts}
        if lacking := [text for text, key in wanted.items() if key not in self.tokens]:
            if self.encoder != encoder:
                why = f"they were made by the encoder {self.encoder}, expected {encoder} (kg.encoder)"
            elif self.length != length:
                why = f"their prompts were cut to {self.length} tokens, expected {length} (kg.length)"
            else:
                why = f"{len(lacking)} of {len(wanted)} prompts are not among them, such as {lacking[0]!r}"
            raise UsageError(
                f"These tokens are not for this configuration: {why}. Make them for it with `mrsynth weights "
                "embed-text`, or set kg.text=learned, which needs none."
            )
        found = [self.tokens[wanted[text]] for text in prompts]
        for text, tokens in zip(prompts, found, strict=True):
            if tokens.ndim != 2 or not 1 <= len(tokens) <= length or tokens.shape[1] != width:
                raise UsageError(
                    f"The tokens of {text!r} have the shape {tokens.shape}, expected up to {length} of width {width} "
                    f"(kg.length, kg.width). {AGAIN}"
                )
            if not np.isfinite(tokens).all():
                raise UsageError(f"The tokens of {text!r} are not all finite numbers. {AGAIN}")
        return found
