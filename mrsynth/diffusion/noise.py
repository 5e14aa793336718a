"""Randomness as an argument: one stream of normal noise per subject, contrast, sample and slice.

So neither the batch size, nor the order of the slices, nor the device changes a result. There are two generators
(`sampling.DRAWS`): v1, of mrsynth 0.1.0, draws on the CPU; v2 has no state but a key and a counter, so it is computed
where the noise is wanted, and the same on every device but for the rounding of logarithm, sine and cosine.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from mrsynth.contrasts import Contrast
from mrsynth.sampling import Draws

Noise = Callable[[Tensor], Tensor]
"""Standard normal noise like the argument: its shape, dtype and device. Every call gives new noise."""


@dataclass(frozen=True)
class SeededNoise:
    """All the noise of one synthesis.

    contrasts   of the channels, in their order; a contrast keeps its noise whatever else is in the list
    sample      which of several syntheses of the same subject
    shared      every slice gets the same noise field, which keeps neighbouring slices alike
    version     of the generator
    """

    seed: int
    subject: str
    contrasts: Sequence[Contrast]
    sample: int = 0
    shared: bool = False
    version: Draws = "v1"

    def slices(self, indices: Sequence[int]) -> Noise:
        """Noise for (B, C, H, W) batches whose element b is slice indices[b]. Successive calls continue the streams."""
        return self._noise(["shared" if self.shared else int(index) for index in indices])

    def volume(self) -> Noise:
        """Noise for (1, C, D, H, W) volumes. Successive calls continue the streams."""
        return self._noise(["volume"])

    def _noise(self, places: Sequence[int | str]) -> Noise:
        keys = [[self._key(contrast, place) for contrast in self.contrasts] for place in places]
        draw = drawn_in_turn(keys) if self.version == "v1" else counted(keys)

        def noise(like: Tensor) -> Tensor:
            assert like.shape[:2] == (len(places), len(self.contrasts)), f"noise for another batch: {tuple(like.shape)}"
            return draw(like)

        return noise

    def _key(self, contrast: Contrast, place: int | str) -> int:
        """64 bits of everything that names a stream."""
        key = repr((int(self.seed), self.subject, str(contrast), int(self.sample), place))
        digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "little")


def drawn_in_turn(keys: Sequence[Sequence[int]]) -> Noise:
    """v1: a generator of torch for each stream, on the CPU."""
    # The generator keeps 32 bits of a key: 1 volume in 20,000 has two slices with the same noise, which does no harm.
    streams = [[torch.Generator().manual_seed(key) for key in row] for row in keys]

    def noise(like: Tensor) -> Tensor:
        drawn = torch.empty(like.shape, dtype=torch.float32)
        for b, row in enumerate(streams):
            for c, stream in enumerate(row):
                drawn[b, c] = torch.randn(like.shape[2:], generator=stream)
        return drawn.to(like)

    return noise


def counted(keys: Sequence[Sequence[int]]) -> Noise:
    """v2: number n of call m of a stream is a function of its key, n and m, computed on the device of the argument."""
    calls = count()
    halves = torch.tensor([[(key & MASK, key >> 32) for key in row] for row in keys])  # (B, C, 2) int64

    def noise(like: Tensor) -> Tensor:
        call, size = next(calls), like.shape[2:].numel()
        key = halves.to(like.device)
        drawn = torch.empty((*like.shape[:2], size), dtype=torch.float32, device=like.device)
        for start in range(0, size, PIECE):
            stop = min(start + PIECE, size)
            numbers = torch.arange(start // 4, -(-stop // 4), device=like.device)
            words = philox((numbers & MASK, numbers >> 32, call, 0), (key[..., :1], key[..., 1:]))
            drawn[..., start:stop] = normal(words).flatten(-2)[..., : stop - start]
        return drawn.view(like.shape).to(like.dtype)

    return noise


MASK = 0xFFFFFFFF
PIECE = 1 << 20  # numbers of a stream at once, a multiple of 4: little memory, and it stays in the cache
FACTORS = (0xD2511F53, 0xCD9E8D57)
STEPS = (0x9E3779B9, 0xBB67AE85)  # of the keys, from round to round
ROUNDS = 10

Word = Tensor | int


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]) -> tuple[Word, Word, Word, Word]:
    """Philox-4x32-10 of Salmon et al. 2011 (Parallel random numbers: as easy as 1, 2, 3): four words from four.

    All are unsigned 32-bit numbers in int64, which broadcast. The products of two such overflow int64, but modulo
    2^64 they are right, and so are both of their halves.
    """
    a, b, c, d = counter
    k, m = key
    for _ in range(ROUNDS):
        first, second = a * FACTORS[0], c * FACTORS[1]
        a, b, c, d = (second >> 32 & MASK) ^ b ^ k, second & MASK, (first >> 32 & MASK) ^ d ^ m, first & MASK
        k, m = k + STEPS[0] & MASK, m + STEPS[1] & MASK
    return a, b, c, d


def normal(words: tuple[Word, Word, Word, Word]) -> Tensor:
    """(..., N) each: words to (..., N, 4) standard normal numbers, by Box and Muller 1958; float32, |x| < 5.9."""
    made = []
    for one, other in (words[:2], words[2:]):
        assert isinstance(one, Tensor) and isinstance(other, Tensor), "only of tensors"
        radius = (-2 * uniform(one).log()).sqrt()
        angle = (2 * torch.pi) * uniform(other)
        made += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(made, dim=-1)


def uniform(word: Tensor) -> Tensor:
    """The upper 24 bits of a word as float32 in (0, 1]: the middles of 2^24 steps, as far as float32 can tell them."""
    return ((word >> 8).float() + 0.5) * 2.0**-24
