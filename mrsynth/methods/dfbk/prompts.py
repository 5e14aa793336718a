"""The sentences that tell what is made of what, and the tokens that a text encoder makes of them. Without torch."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.errors import UsageError

# What radiology says of each contrast, and nothing about any subject.
DESCRIPTIONS: Mapping[Contrast, str] = {
    Contrast.T1: "T1-weighted, white matter brighter than grey matter, fluid dark",
    Contrast.T1CE: "T1-weighted after gadolinium, enhancing lesion and vessels bright",
    Contrast.T2: "T2-weighted, fluid and oedema bright",
    Contrast.FLAIR: "FLAIR, T2-weighted with fluid suppressed, oedema bright",
    Contrast.PD: "proton density-weighted, grey matter brighter than white matter",
    Contrast.DWI: "diffusion-weighted, acute infarct bright, fluid dark",
    Contrast.CT: "computed tomography, bone bright, soft tissue grey, air dark",
    Contrast.MR: "magnetic resonance image, bone dark, soft tissue bright",
}


def prompt(sources: Iterable[Contrast], target: Contrast) -> str:
    """The sentence for a pair, sources in canonical order: "Axial brain MRI. Input: .... Output: ....\""""
    given = set(sources)
    kind = "CT and MRI" if Contrast.CT in given | {target} else "MRI"
    inputs = "; ".join(DESCRIPTIONS[c] for c in Contrast if c in given)
    return f"Axial brain {kind}. Input: {inputs}. Output: {DESCRIPTIONS[target]}."


def prompt_key(encoder: str, prompt: str, length: int) -> str:
    """Under which name the tokens of a prompt are stored: 32 hex digits of a SHA-256."""
    return hashlib.sha256(repr((encoder, prompt, length)).encode()).hexdigest()[:32]


def identity(encoder: str, prompts: Iterable[str], length: int) -> bytes:
    """32 bytes that stand for an encoder, a list of prompts in their order and the length they are cut to."""
    return hashlib.sha256(repr((encoder, list(prompts), length)).encode()).digest()


@dataclass(frozen=True, eq=False)
class TokenTable:
    """What a text encoder made of prompts.

    encoder  the name or folder it was read from
    length   prompts were cut to so many tokens
    tokens   `prompt_key` -> (n, width) float16, its last hidden states; 1 <= n <= length
    """

    encoder: str
    length: int
    tokens: Mapping[str, NDArray[np.float16]]

    def lookup(self, encoder: str, prompts: Iterable[str], length: int, width: int) -> list[NDArray[np.float16]]:
        """The tokens of these prompts by this encoder. Raises UsageError unless they are exactly those."""
        wanted = {text: prompt_key(encoder, text, length) for text in prompts}
        if lacking := [text for text, key in wanted.items() if key not in self.tokens]:
            if self.encoder != encoder:
                why = f"they were made by the encoder {self.encoder}, expected {encoder} (kg.encoder)"
            elif self.length != length:
                why = f"their prompts were cut to {self.length} tokens, expected {length} (kg.length)"
            else:
                why = f"{len(lacking)} of {len(wanted)} prompts are not among them, such as {lacking[0]!r}"
            raise UsageError(
                f"These tokens are not for this configuration: {why}. Make them for it, "
                "or set kg.text=learned, which needs none."
            )
        found = [self.tokens[key] for key in wanted.values()]
        for text, tokens in zip(wanted, found, strict=True):
            if tokens.ndim != 2 or not 1 <= len(tokens) <= length or tokens.shape[1] != width:
                raise UsageError(
                    f"The tokens of {text!r} have the shape {tokens.shape}, expected up to {length} of width {width} "
                    "(kg.length, kg.width). Make them again."
                )
            if not np.isfinite(tokens).all():
                raise UsageError(f"The tokens of {text!r} are not all finite numbers. Make them again.")
        return found
