"""Training examples made on the device: the corpus lies there in 8 bits, and a whole batch is augmented at once.

The order of examples, which contrasts may be read, and every draw are functions of the seed and the position in the
run, as in `mrsynth.training.batches`; the draws are others, so a run on a device is not the run on a processor.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrsynth.errors import UsageError
from mrsynth.io.cache import LEVELS, CachedSubject
from mrsynth.methods.base import Batch, Trainable
from mrsynth.plain import Doubles
from mrsynth.sampling import AXIAL
from mrsynth.tasks.train.sources import Boxes, Slices
from mrsynth.training.augmentation import DEGREE, AugmentationConfig, legendre, theta_of, turned
from mrsynth.training.batches import Examples, PositionSampler, StoppedWaiting, TrainingConfig


@dataclass(frozen=True)
class Draws:
    """What happens to the examples of a batch.

    flip     (B,) bool
    theta    (B, d, d + 1): where voxels come from, as nn.functional.affine_grid has it
    gamma    (B, C), gain (B, C): exponent and factor of each contrast; 1 leaves it alone
    bias     (B, C, 4, 4) or (B, C, 4, 4, 4): coefficients of Legendre polynomials; 0 leaves it alone
    """

    flip: Tensor
    theta: Tensor
    gamma: Tensor
    gain: Tensor
    bias: Tensor

    def to(self, device: torch.device) -> "Draws":
        """All of it on a device."""
        return Draws(**{name: value.to(device) for name, value in vars(self).items()})


class DeviceFeed:
    """Used in place of `example_batches`; keeps every subject that was asked for on the device, a byte a voxel."""

    def __init__(self, device: str):
        self.device = torch.device(device)
        self.held: dict[str, Tensor] = {}

    @contextmanager
    def __call__(
        self,
        method: Trainable,
        iteration: int,
        source: Slices | Boxes,
        config: TrainingConfig,
        process: int = 0,
        processes: int = 1,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Iterator[Batch]]:
        """The batches still to be seen; StoppedWaiting once `stopped` says so. UsageError for what is not made here."""
        if source.labels:
            raise UsageError("Segmentations are not learnt from here: train this on a processor, with mrsynth train.")
        if config.planes != AXIAL:
            raise UsageError("Only axial slices are learnt from here: train this on a processor, with mrsynth train.")
        if unknown := [name for name in ("elastic", "curve", "blur") if getattr(config.augmentation, name)]:
            raise UsageError(
                f"augmentation.{unknown[0]} is not made here: train this on a processor, with mrsynth train."
            )
        order = PositionSampler(source.sizes, config, iteration, process, processes)
        yield self.batches(source, Examples(source, method, config, processes), order, stopped)

    def batches(
        self, source: Slices | Boxes, rules: Examples, order: PositionSampler, stopped: Callable[[], bool]
    ) -> Iterator[Batch]:
        """One after the other; what may be read, and what is left alone, as `rules` has it."""
        for keys in order:
            if stopped():
                raise StoppedWaiting
            slabs, present, available, randoms = [], [], [], []
            for position, index in keys:
                slab, there = self.slab(source, index)
                random = np.random.default_rng([rules.config.seed, position])
                slabs.append(slab)
                present.append(there)
                available.append(rules.draw_available(there, position / rules.total, random))
                randoms.append(random)
            stack = stacked(slabs)  # (B, C, N, ...), one byte a voxel
            inputs = np.stack(available) & ~rules.absolute
            drawn = draw(rules.config.augmentation, randoms, inputs, stack.shape[3:]).to(self.device)
            images = augmented(stack.float() / 255, drawn) * 2 - 1
            yield Batch(
                images=images[:, :, 0],
                context=images[:, :, 1:],
                present=torch.from_numpy(np.stack(present)).to(self.device),
                available=torch.from_numpy(np.stack(available)).to(self.device),
            )

    def slab(self, source: Slices | Boxes, index: int) -> tuple[Tensor, Any]:
        """(C, N, ...) uint8 on the device: a slice with its neighbours, or a box; and which contrasts are there."""
        if isinstance(source, Slices):
            s, _, k = source.places[index]
            subject = source.subjects[s]
            stored = self.stored(subject)  # (K, C, I, J)
            n = source.neighbours
            offsets = torch.tensor([0, *(o for o in range(-n, n + 1) if o)], device=self.device) + k
            inside = (offsets >= 0) & (offsets < len(stored))
            picked = stored[offsets.clamp(0, len(stored) - 1)] * inside[:, None, None, None]
            return picked.transpose(0, 1), np.array(subject.present)
        s, corner, size = source.places[index]
        subject = source.subjects[s]
        i, j, k3 = (slice(c, c + n) for c, n in zip(corner, size, strict=True))
        part = self.stored(subject)[k3, :, i, j].permute(1, 2, 3, 0)
        ends = [end for n, m in zip(reversed(size), reversed(part.shape[1:]), strict=True) for end in (0, n - m)]
        return nn.functional.pad(part, ends)[:, None], np.array(subject.present)

    def stored(self, subject: CachedSubject) -> Tensor:
        """(K, C, I, J) uint8 on the device."""
        key = str(subject.path)
        if key not in self.held:
            bytes_ = np.rint(subject.stored.astype(np.float32) * np.float32(255 / LEVELS)).astype(np.uint8)
            self.held[key] = torch.from_numpy(bytes_).to(self.device)
        return self.held[key]


def stacked(slabs: Sequence[Tensor]) -> Tensor:
    """(B, C, N, ...): smaller slabs are padded with background to the largest, as much before as after."""
    largest = [max(sizes) for sizes in zip(*(slab.shape[2:] for slab in slabs), strict=True)]

    def padded(slab: Tensor) -> Tensor:
        lacking = [n - own for n, own in zip(largest, slab.shape[2:], strict=True)]
        return nn.functional.pad(slab, [end for n in reversed(lacking) for end in (n // 2, n - n // 2)])

    return torch.stack([padded(slab) for slab in slabs])


def draw(config: AugmentationConfig, randoms: Sequence[np.random.Generator], inputs: Any, size: Sequence[int]) -> Draws:
    """What happens to each example, by its own generator.

    inputs  (B, C) bool: contrasts whose intensities may change
    size    of the images, (H, W) or (I, J, K)
    """
    d, c = len(size), inputs.shape[1]
    flips, thetas, gammas, gains, biases = [], [], [], [], []
    degrees = np.indices((DEGREE + 1,) * d)
    wanted = degrees[0] >= degrees[1] if d == 2 else degrees.sum(0) <= DEGREE
    for random, reads in zip(randoms, inputs, strict=True):
        flips.append(random.random() < config.flip)
        matrix: Doubles = np.eye(d)
        if random.random() < config.affine:
            axes = 1 if d == 2 else 3
            angles = random.uniform(-config.rotation, config.rotation, axes)
            scales = 1 + random.uniform(-config.scaling, config.scaling, axes)
            matrix = turned(angles.tolist()) @ np.diag([*scales.tolist(), *[1.0] * (d - axes)])
        thetas.append(theta_of(matrix, size))
        gammas.append(np.where(reads, (1 + config.gamma) ** random.uniform(-1, 1, c), 1.0))
        gains.append(np.where(reads, 1 + config.gain * random.uniform(-1, 1, c), 1.0))
        field = random.uniform(-config.bias_field, config.bias_field, (c, *wanted.shape)) * wanted
        biases.append(field * reads.reshape(c, *[1] * d))
    return Draws(
        torch.tensor(flips),
        torch.stack(thetas),
        torch.from_numpy(np.stack(gammas).astype(np.float32)),
        torch.from_numpy(np.stack(gains).astype(np.float32)),
        torch.from_numpy(np.stack(biases).astype(np.float32)),
    )


def augmented(images: Tensor, drawn: Draws) -> Tensor:
    """A batch (B, C, N, ...), u in [0, 1] with background 0, moved and with other intensities: the same shape."""
    b, c, n, *size = images.shape
    shape, ones = (b, 1, 1, *[1] * len(size)), (b, c, 1, *[1] * len(size))
    images = torch.where(drawn.flip.view(shape), images.flip(3), images)
    if not bool((drawn.theta == torch.eye(len(size), len(size) + 1, device=drawn.theta.device)).all()):
        grid = nn.functional.affine_grid(drawn.theta, [b, 1, *size], align_corners=True)
        moved = nn.functional.grid_sample(
            images.flatten(1, 2), grid, mode="bilinear", padding_mode="zeros", align_corners=True
        )
        images = moved.unflatten(1, (c, n))
    images = images.clamp(0, 1).pow(drawn.gamma.view(ones)) * drawn.gain.view(ones)
    field = drawn.bias
    for length in size:  # each product takes the first axis of degrees and leaves its voxels as the last
        field = torch.tensordot(field, legendre(length).to(field.device), dims=([2], [1]))
    return (images * field.exp()[:, :, None]).clamp(0, 1)
