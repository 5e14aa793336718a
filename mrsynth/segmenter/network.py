"""Tumour segmentation, to see what a synthetic contrast is worth downstream: nets of MONAI, Dice and HD95.

A segmenter is no method: it makes no image. All kinds (our own net, a MONAI bundle, a TorchScript file) read a subject
in one way, described by `Reading`, and give overlapping regions, each with a probability of its own.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, UsageError
from mrsynth.plain import Mask, Plain
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume, extent

KIND: Literal["segmenter"] = "segmenter"  # what the card of a checkpoint says in the place of a method
GROUPS = 8  # of MONAI's SegResNet: every layer has a multiple of so many channels


class Region(Plain):
    """A region of a tumour and the labels it is made of."""

    name: str
    labels: tuple[int, ...] = Field(min_length=1)


# BraTS 2018 to 2021: 1 necrotic core, 2 oedema, 4 enhancing; 2023: 3 is enhancing. Neither uses the other's label, so
# one table serves both. It does not fit BraTS 2024 after treatment, where 4 is the cavity.
REGIONS = (
    Region(name="WT", labels=(1, 2, 3, 4)),
    Region(name="TC", labels=(1, 3, 4)),
    Region(name="ET", labels=(3, 4)),
)


class SegmenterConfig(Plain):
    """The built-in net: MONAI's SegResNet (Myronenko 2018, arXiv 1810.11654, without the autoencoder), made small.

    contrasts    input channels; as many maps follow that say which of them are there
    regions      output channels; a list, because the keys of a mapping come back from a file in another order
    filters      channels of the first level; each further level has twice as many
    blocks_down  residual blocks of each level; every level but the first halves the grid
    complete, weight_decay   are of its training only
    """

    method: Literal["segmenter"] = KIND
    contrasts: tuple[Contrast, ...] = Field(STANDARD, min_length=1)
    regions: tuple[Region, ...] = Field(REGIONS, min_length=1)
    filters: PositiveInt = 8
    blocks_down: tuple[PositiveInt, ...] = Field((1, 2, 1, 1), min_length=2)
    complete: float = Field(0.5, ge=0, le=1, description="probability that an example hides no contrast")
    weight_decay: float = Field(1e-4, ge=0)

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.filters % GROUPS:
            raise ValueError(f"filters {self.filters}: expected a multiple of {GROUPS}")
        names = [region.name for region in self.regions]
        if len(set(names)) < len(names):
            raise ValueError(f"regions {', '.join(names)}: expected different names")
        return self

    @property
    def multiple(self) -> int:
        """Of how many voxels each side of an image must be a multiple."""
        return int(2 ** (len(self.blocks_down) - 1))


class Reading(Plain):
    """How a network wants its input, and what its output means.

    contrasts     input channels, in order
    regions       output channels, in order; each independent of the others
    availability  whether as many channels follow, 1 everywhere for a contrast that is there, 0 for one that is not
    output        logits (a sigmoid is still to be applied) or probabilities
    preparation   axes, spacing, box and padding. With `quantile` 1 no intensity is clipped but those below 0
    """

    contrasts: tuple[Contrast, ...] = Field(min_length=1)
    regions: tuple[str, ...] = Field(min_length=1)
    availability: bool = False
    output: Literal["logits", "probabilities"] = "logits"
    preparation: PreparationConfig


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A network that finds a tumour, ready to be used.

    name     for tables and reports
    network  in evaluation mode, on `device`: (1, C or 2C, I, J, K) float32 -> (1, R, I, J, K)
    """

    name: str
    network: nn.Module
    reading: Reading
    device: str = "cpu"

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """The contrasts it was made for, in the order of its input."""
        return self.reading.contrasts

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions it gives, in the order of its output."""
        return self.reading.regions

    @torch.no_grad()
    def segment(self, volumes: Mapping[Contrast, Volume]) -> dict[str, Mask]:
        """Region -> (I, J, K) bool on the subject's own grid: where its probability is above one half.

        volumes  of one subject on one grid, in the units of its files, background 0. A contrast of ours that is not
                 among them is left out: its channel is 0. Those that are not ours are not looked at.
        Never outside the foreground (any of our contrasts non-zero). Raises InputError when none of our contrasts is
        there, when the grids differ, and for images that `prepare` can make nothing of.
        """
        used = {c: v for c, v in volumes.items() if c in self.contrasts}
        if not used:
            found = ", ".join(c.label for c in volumes) or "nothing"
            raise InputError(
                f"The segmenter {self.name} reads {', '.join(c.label for c in self.contrasts)}; found {found}. "
                "Give at least one of these."
            )
        prepared = prepare(Subject(self.name, used), self.contrasts, self.reading.preparation)
        images, available = torch.from_numpy(prepared.images)[None], torch.from_numpy(prepared.available)[None]
        out = self.network(network_input(images, available, maps=self.reading.availability).to(self.device))
        chance = (out.float().sigmoid() if self.reading.output == "logits" else out.float())[0].cpu().numpy()
        return {region: prepared.restore(p).voxels > 0.5 for region, p in zip(self.regions, chance, strict=True)}


def build_network(config: SegmenterConfig) -> nn.Module:
    """The net of a configuration: (B, 2C, I, J, K) -> logits (B, R, I, J, K). Its first weights are torch's to draw."""
    from monai.networks.nets import SegResNet

    return SegResNet(
        spatial_dims=3,
        init_filters=config.filters,
        in_channels=2 * len(config.contrasts),
        out_channels=len(config.regions),
        blocks_down=config.blocks_down,
        blocks_up=(1,) * (len(config.blocks_down) - 1),
    )


def network_input(images: Tensor, available: Tensor, *, maps: bool) -> Tensor:
    """Images as networks see them: each contrast with mean 0 and deviation 1 over its own voxels, all else 0.

    images     (B, C, I, J, K) float32, u in [0, 1], background 0; anything where a contrast is not available
    available  (B, C) bool
    maps       append C channels that are 1 where a contrast is available
    Of voxels above 0 this is what MONAI's NormalizeIntensity(nonzero=True, channel_wise=True) does, which its BraTS
    bundle was trained with; the factor between u and the units of the file falls out.
    """
    there = available[:, :, None, None, None]
    images = torch.where(there, images, 0.0)  # where, not times: NaN times zero is NaN
    inside = images > 0
    space = (2, 3, 4)
    count = inside.sum(space, keepdim=True).clamp(min=1)
    mean = images.sum(space, keepdim=True) / count
    centred = torch.where(inside, images - mean, 0.0)
    deviation = ((centred**2).sum(space, keepdim=True) / count).sqrt()
    seen = centred / torch.where(deviation > 0, deviation, 1.0)
    return torch.cat([seen, there.to(seen).expand_as(seen)], dim=1) if maps else seen


def refuse_other_labels(found: Sequence[float], regions: Sequence[Region], where: str) -> None:
    """Raise InputError when a label map (`where`) holds values that are none of these regions' labels."""
    known = {0, *(label for region in regions for label in region.labels)}
    if unknown := [f"{value:g}" for value in found if value not in known]:
        raise InputError(
            f"{where}: found the labels {', '.join(unknown[:5])}, which belong to no region "
            f"({'; '.join(f'{region.name}: {list(region.labels)}' for region in regions)}). "
            "Expected a tumour segmentation; set segmenter.regions to the labels of this data set, or leave it out."
        )


def dice_and_hd95(prediction: Mask, truth: Mask, spacing: Sequence[float]) -> tuple[float, float]:
    """Dice, and the 95th percentile of the Hausdorff distance in millimetres, of two masks, as MONAI computes them.

    prediction, truth  (I, J, K) bool on one grid
    spacing            millimetres between voxels along I, J, K

    Dice is 2 |A and B| / (|A| + |B|). HD95 is the greater of two 95th percentiles: of the distances from the surface of
    the one to the surface of the other, and back. Surfaces are voxels of a mask that have a neighbour outside it.
    Two empty masks agree: Dice 1, HD95 0. One empty mask: Dice 0, and as no distance exists HD95 is the diagonal of the
    whole volume, the largest that any could have had.
    Raises UsageError when scipy is not installed.
    """
    if prediction.shape != truth.shape or prediction.ndim != 3:
        raise ValueError(f"expected two masks of one shape (I, J, K), not {prediction.shape} and {truth.shape}")
    if not prediction.any() and not truth.any():
        return 1.0, 0.0
    if not prediction.any() or not truth.any():
        return 0.0, float(np.linalg.norm([n * s for n, s in zip(truth.shape, spacing, strict=True)]))
    if find_spec("scipy") is None:
        raise UsageError("HD95 needs scipy: pip install 'mrsynth[benchmark]'")
    from monai.metrics import compute_dice, compute_hausdorff_distance

    box = _box_with_margin(prediction | truth)
    a, b = (torch.from_numpy(mask[box].astype(np.float32))[None, None] for mask in (prediction, truth))
    dice = compute_dice(a, b, include_background=True, ignore_empty=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 uses an argument that it deprecates itself
        distance = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=list(spacing))
    return float(dice), float(distance)


def _box_with_margin(mask: Mask) -> tuple[slice, ...]:
    """The box around a mask and one voxel more on each side where there is one: surfaces stay what they are."""
    return tuple(extent(mask, axis, 1) for axis in range(3))
