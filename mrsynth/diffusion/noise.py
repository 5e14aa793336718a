"""Randomness as an argument: one stream of normal noise per subject, contrast, sample and slice.

So neither the batch size, nor the order of the slices, nor the device changes a result. The noise is drawn on the CPU.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrsynth.contrasts import Contrast

Noise = Callable[[Tensor], Tensor]
"""Standard normal noise like the argument: its shape, dtype and device. Every call gives new noise."""


@dataclass(frozen=True)
class SeededNoise:
    """All the noise of one synthesis.

    contrasts   of the channels, in their order; a contrast keeps its noise whatever else is in the list
    sample      which of several syntheses of the same subject
    shared      every slice gets the same noise field, which keeps neighbouring slices alike
    """

    seed: int
    subject: str
    contrasts: Sequence[Contrast]
    sample: int = 0
    shared: bool = False

    def slices(self, indices: Sequence[int]) -> Noise:
        """Noise for (B, C, H, W) batches whose element b is slice indices[b]. Successive calls continue the streams."""
        return self._noise(["shared" if self.shared else int(index) for index in indices])

    def volume(self) -> Noise:
        """Noise for (1, C, D, H, W) volumes. Successive calls continue the streams."""
        return self._noise(["volume"])

    def _noise(self, places: Sequence[int | str]) -> Noise:
        streams = [[self._stream(contrast, place) for contrast in self.contrasts] for place in places]

        def noise(like: Tensor) -> Tensor:
            assert like.shape[:2] == (len(places), len(self.contrasts)), f"noise for another batch: {tuple(like.shape)}"
            drawn = torch.empty(like.shape, dtype=torch.float32)
            for b, row in enumerate(streams):
                for c, stream in enumerate(row):
                    drawn[b, c] = torch.randn(like.shape[2:], generator=stream)
            return drawn.to(like)

        return noise

    def _stream(self, contrast: Contrast, place: int | str) -> torch.Generator:
        key = repr((int(self.seed), self.subject, str(contrast), int(self.sample), place))
        digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
        # The generator keeps 32 bits of it: 1 volume in 20,000 has two slices with the same noise, which does no harm.
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
