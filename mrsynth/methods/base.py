"""What every method offers to the rest of mrsynth: configuration, objectives and synthesis."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrsynth.card import Plain
from mrsynth.contrasts import STANDARD, Contrast, patterns
from mrsynth.noise import Noise

ABSENT = 0.0  # what stands in for a contrast that is not there, where a paper does not say


class MethodConfig(Plain):
    """Options of one method; every checkpoint stores the whole of it."""

    method: str
    contrasts: tuple[Contrast, ...] = STANDARD


@dataclass(frozen=True)
class Batch:
    """Slices (or volumes) to learn from.

    images     (B, C, H, W) or (B, C, D, H, W) float32 in [-1, 1], channels in the method's order of contrasts
    present    (B, C) bool: the truth is in `images`
    available  (B, C) bool: the method may read it; a subset of `present`
    context    (B, C, N, H, W) float32: the N neighbouring slices, below and above; N may be 0, and is for volumes
    Whatever stands in a channel that is not present must not matter: it may be NaN.
    """

    images: Tensor
    present: Tensor
    available: Tensor
    context: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("images", "present", "available", "context")}
        return replace(self, **moved)


@dataclass(frozen=True)
class Objective:
    """One thing to minimise: `loss(batch, generator)` gives named terms, of which "loss" is the one to descend."""

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch, torch.Generator], dict[str, Tensor]]


class Method(nn.Module, ABC):
    """A synthesis method: a network, how it is trained, and how it is sampled.

    dimensions    2: it works on axial slices; 3: on whole volumes
    neighbours    slices below and above that the method reads
    multiple      every side of its slices or volumes must be a multiple of this
    shared_noise  all slices of a volume start from the same noise field: SeededNoise(..., shared=True)
    targets       the contrasts it can make; `noise` has one stream for each
    """

    Config: ClassVar[type[MethodConfig]]
    dimensions: int = 2
    neighbours: int = 0
    multiple: int = 1
    shared_noise: bool = False

    def __init__(self, config: MethodConfig):
        super().__init__()
        self.contrasts = config.contrasts
        self.targets: tuple[Contrast, ...] = config.contrasts

    @abstractmethod
    def objectives(self) -> list[Objective]:
        """What to train, in order; one for most papers."""

    @abstractmethod
    def synthesise(
        self,
        images: Tensor,
        available: Tensor,
        *,
        context: Tensor,
        noise: Noise,
        steps: int | None = None,
        sampler: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Fill in every contrast that is not available.

        images     (B, C, H, W) or (B, C, D, H, W) in [-1, 1]; channels that are not available are never read
        available  (B, C) bool, at least one per row
        context    (B, C, N, H, W), see Batch
        returns    like images, in [-1, 1]; available channels as given
        """

    def optimise(self, precision: str) -> None:
        """Be ready to synthesise many times with these weights, on this device: faster, with the same results.

        precision   fp32 or bf16. Does nothing unless a method says other.
        """
        return None

    def supports(self, available: Iterable[Contrast], target: Contrast) -> bool:
        """Whether `target` can be made from these contrasts; from any non-empty subset unless a method says other."""
        known = set(available) & set(self.contrasts)
        return bool(known) and target in self.contrasts and target not in known

    def learns_from(self, present: Iterable[Contrast]) -> bool:
        """Whether a subject with these contrasts can train it; two are enough unless a method says other."""
        return len(set(present) & set(self.contrasts)) >= 2

    def draw_available(
        self, present: NDArray[np.bool_], progress: float, random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Choose for one training example which of its present contrasts the method may read.

        present   (C,) bool
        progress  0 at the first step of training, 1 at the last
        returns   (C,) bool: a subset of `present` that leaves at least one present contrast to be made
        """
        legal = legal_patterns(present, self.contrasts)
        return legal[random.integers(len(legal))]


def legal_patterns(present: NDArray[np.bool_], contrasts: Sequence[Contrast]) -> list[NDArray[np.bool_]]:
    """The distinct patterns of availability that leave something to read and something with a known truth to make."""
    seen: dict[tuple[bool, ...], NDArray[np.bool_]] = {}
    for pattern in patterns(contrasts):
        available = np.array([c in pattern for c in contrasts]) & present
        if available.any() and (present & ~available).any():
            seen.setdefault(tuple(available.tolist()), available)
    return list(seen.values())
