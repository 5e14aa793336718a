"""Scores and pictures of a method in training: all patterns on a few slices of subjects it never learns from."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrsynth.contrasts import Contrast, pattern_name, patterns
from mrsynth.metrics import score
from mrsynth.methods.base import Batch, Method
from mrsynth.noise import SeededNoise
from mrsynth.training import Slab, SliceSource, collate

PER_SUBJECT = 3


class ValidationRow(NamedTuple):
    """Means over the validation slices: PSNR and SSIM inside the brain of u, not fitted."""

    pattern: str
    target: str
    psnr: float
    ssim: float


class ValidationSlices:
    """A handful of slices spread over each validation subject, as one batch."""

    def __init__(self, slabs: Sequence[Slab]):
        self.slabs = slabs

    @classmethod
    def of(cls, subjects: Iterable[SliceSource]) -> "ValidationSlices":
        """The same few slices every time: evenly spread over the middle four fifths of each subject."""
        picked = []
        for slices in subjects:
            places = np.linspace(0.1, 0.9, PER_SUBJECT) * (len(slices) - 1)
            picked += [slices[int(p)] for p in places.round()]
        return cls(picked)

    def __len__(self) -> int:
        return len(self.slabs)

    def batch(self) -> Batch:
        """All slices; `available` equals `present` until a pattern is chosen."""
        columns = []
        for slab in self.slabs:
            images, present = torch.from_numpy(slab.images) * 2 - 1, torch.from_numpy(slab.present)
            columns.append({"images": images[:, 0], "context": images[:, 1:], "present": present, "available": present})
        return collate(columns)


def validate(method: Method, slices: ValidationSlices, bf16: bool = False) -> list[ValidationRow]:
    """Every pattern the method supports on every slice that has all its contrasts; one row per pattern and target."""
    batch = slices.batch()
    rows = []
    for pattern in patterns(method.contrasts):
        targets = [c for c in method.contrasts if method.supports(pattern, c)]
        if not targets:
            continue
        made, truth = fill_in(method, batch, pattern, bf16), (batch.images + 1) / 2
        for target in targets:
            channel = method.contrasts.index(target)
            usable = batch.present.all(1)
            if usable.any():
                p, y = (x[usable, channel].permute(1, 2, 0).numpy() for x in (made, truth))
                brain = (truth[usable] > 0).any(1).permute(1, 2, 0).numpy()
                values = {m.name: m.value for m in score(p, y, brain, slices=True)}
                rows.append(ValidationRow(pattern_name(pattern), target, values["psnr_brain"], values["ssim_brain"]))
    return rows


def sample_grid(method: Method, slices: ValidationSlices, bf16: bool = False) -> bytes:
    """A PNG: one row per validation slice, for each contrast the truth and what the others make of it."""
    from matplotlib.image import imsave

    batch = slices.batch()
    truth = ((batch.images + 1) / 2).clamp(0, 1)
    columns = []
    for channel, target in enumerate(method.contrasts):
        others = [c for c in method.contrasts if c is not target]
        columns += [truth[:, channel], fill_in(method, batch, others, bf16)[:, channel]]
    stack = torch.stack(columns, dim=1)  # slices, columns, H, W with H left-right and W back-front
    picture = stack.permute(0, 3, 1, 2).flatten(0, 1).flatten(1, 2).numpy()
    png = BytesIO()
    imsave(png, picture, cmap="gray", vmin=0, vmax=1, format="png")
    return png.getvalue()


@torch.no_grad()
def fill_in(method: Method, batch: Batch, pattern: Sequence[Contrast], bf16: bool = False) -> Tensor:
    """(B, C, H, W) u in [0, 1], background 0: the batch with everything outside `pattern` made by the method."""
    device = next(method.parameters()).device
    flags = torch.tensor([c in pattern for c in method.contrasts]) & batch.present
    noise = SeededNoise(0, "validation", method.contrasts).slices(range(len(batch.images)))
    images, context = batch.images.to(device), batch.context.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        made = method.synthesise(images, flags.to(device), context=context, noise=noise)
    brain = (batch.images > -1).any(1, keepdim=True)
    return torch.where(brain, (made.cpu() + 1) / 2, 0.0).clamp(0, 1)
