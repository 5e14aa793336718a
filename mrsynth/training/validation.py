"""Scores and pictures of a method in training: all patterns on a few slices of subjects it never learns from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mrsynth.contrasts import Contrast, pattern_name, patterns
from mrsynth.diffusion.noise import SeededNoise
from mrsynth.methods.base import Batch, Method
from mrsynth.scans.views import grey, png
from mrsynth.scores.protocols import Case, measure
from mrsynth.scores.rows import Score
from mrsynth.training.batches import ExampleSource, Slab, collate

PER_SUBJECT = 3
PER_VOLUME = 9  # slices of a synthetic volume that are scored; only three of them are pictured
AT_ONCE = {2: 16, 3: 1}  # slices or volumes in one pass of the network: bounds the memory

Pattern = tuple[Contrast, ...]


class ValidationSlices:
    """A handful of slices spread over each validation subject, or the whole of each, as one batch."""

    def __init__(self, slabs: Sequence[Slab]):
        self.slabs = slabs

    @classmethod
    def of(cls, subjects: Iterable[ExampleSource]) -> "ValidationSlices":
        """The same few slices every time: evenly spread over the middle four fifths of each subject."""
        picked: list[Slab] = []
        for slices in subjects:
            places = np.linspace(0.1, 0.9, PER_SUBJECT) * (len(slices) - 1)
            picked += [slices[int(p)] for p in places.round()] if len(slices) else []
        return cls(picked)

    @classmethod
    def whole(cls, subjects: Iterable[ExampleSource]) -> "ValidationSlices":
        """The subjects as volumes, for a method of three dimensions."""
        return cls([volumes[i] for volumes in subjects for i in range(len(volumes))])

    def __len__(self) -> int:
        return len(self.slabs)

    def batch(self) -> Batch:
        """All slices or volumes; `available` equals `present` until a pattern is chosen. Absent ones are background."""
        columns = []
        for slab in self.slabs:
            present = torch.from_numpy(slab.present)
            images = torch.where(broadcast(present, slab.images.ndim), torch.from_numpy(slab.images) * 2 - 1, -1.0)
            columns.append({"images": images[:, 0], "context": images[:, 1:], "present": present, "available": present})
            if slab.labels is not None:
                columns[-1]["labels"] = torch.from_numpy(slab.labels.astype(np.int64))
        return collate(columns)


def fill_in_every_pattern(
    method: Method, batch: Batch, bf16: bool = False, sampler: str | None = None
) -> Iterator[tuple[Pattern, Tensor]]:
    """Each pattern from which the method can make something, with its `fill_in`; one by one, since each takes time."""
    for pattern in patterns(method.contrasts):
        if any(method.supports(pattern, target) for target in method.contrasts):
            yield pattern, fill_in(method, batch, pattern, bf16, sampler)


def score_patterns(method: Method, batch: Batch, made: Mapping[Pattern, Tensor]) -> list[Score]:
    """PSNR, also fitted, and SSIM by `brain2d` per pattern and target, over the slices that have all their contrasts.

    The truth is what the network would be given, u in [0, 1]. What is not finite is not measured.
    """
    truth, made = as_slices(batch.images, PER_VOLUME), {p: as_slices(x, PER_VOLUME) for p, x in made.items()}
    truth = (truth + 1) / 2
    each = len(truth) // max(len(batch.images), 1)  # slices of one example
    rows = []
    for pattern, images in made.items():
        for target in (c for c in method.contrasts if method.supports(pattern, c)):
            channel = method.contrasts.index(target)
            usable = having(method, batch, (*pattern, target)).repeat_interleave(each)
            if usable.any():
                p, y = (x[usable, channel].permute(1, 2, 0).numpy() for x in (images, truth))
                brain = (truth[usable] > 0).any(1).permute(1, 2, 0).numpy()
                if np.isfinite(p[brain]).all():
                    case = Case(p, y, brain, window=(0.0, 1.0))
                    found = measure(case, ["brain2d"], pattern=pattern_name(pattern), target=target)
                    rows += [row for row in found if row.metric in ("PSNR", "SSIM", "PSNR_FIT")]
    return rows


def picture(method: Method, batch: Batch, made: Mapping[Pattern, Tensor]) -> bytes:
    """A PNG: one row per validation slice; for each contrast the truth and what the others make of it.

    The patient's front is up and the patient's left is right, as radiologists look at it.
    """
    truth = ((as_slices(batch.images, PER_SUBJECT) + 1) / 2).clamp(0, 1)
    columns = []
    for channel, target in enumerate(method.contrasts):
        others = made.get(tuple(c for c in method.contrasts if c is not target))
        columns += [truth[:, channel], torch.zeros_like(truth[:, channel])]
        if others is not None:
            columns[-1] = as_slices(others, PER_SUBJECT)[:, channel]
    stack = torch.stack(columns, dim=1)  # slices, columns, H, W with H left-right and W front-back
    return png(grey(stack.permute(0, 3, 1, 2).flatten(0, 1).flatten(1, 2).numpy()))


@torch.no_grad()
def fill_in(
    method: Method, batch: Batch, pattern: Sequence[Contrast], bf16: bool = False, sampler: str | None = None
) -> Tensor:
    """Like batch.images but u in [0, 1], background 0: the batch with what is outside `pattern` made by the method.

    Slices (or volumes) that lack a contrast of the pattern are left black.
    """
    device = next(method.parameters()).device
    flags = torch.tensor([c in pattern for c in method.contrasts])
    result = torch.zeros_like(batch.images)
    for rows in having(method, batch, pattern).nonzero()[:, 0].split(AT_ONCE[method.dimensions]):
        noise = SeededNoise(0, "validation", method.targets, shared=method.shared_noise).slices(rows.tolist())
        images, context = batch.images[rows].to(device), batch.context[rows].to(device)
        available = flags.expand(len(rows), -1).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            mode = method.modes[0] if sampler is None else "sample"
            made = method.synthesise(images, available, context=context, noise=noise, sampler=sampler, mode=mode)
        brain = (batch.images[rows] > -1).any(1, keepdim=True)
        result[rows] = torch.where(brain, (made.float().cpu() + 1) / 2, 0.0).clamp(0, 1)
    return result


def having(method: Method, batch: Batch, contrasts: Sequence[Contrast]) -> Tensor:
    """(B,) bool: the slices that have all of these contrasts."""
    return batch.present[:, [method.contrasts.index(c) for c in contrasts]].all(1)


def as_slices(images: Tensor, count: int) -> Tensor:
    """Axial slices (B, C, H, W) as they are; of volumes (B, C, I, J, K) `count` of each: (B * count, C, I, J)."""
    if images.dim() == 4:
        return images
    places = (torch.linspace(0.1, 0.9, count) * (images.shape[-1] - 1)).round().long()
    return images[..., places].permute(0, 4, 1, 2, 3).flatten(0, 1)


def broadcast(flags: Tensor, dimensions: int) -> Tensor:
    """(C,) as (C, 1, 1, ...) with so many dimensions."""
    return flags.reshape(-1, *[1] * (dimensions - 1))
