"""One small brain as batches of slices or boxes, and methods whose zero-initialised layers have been woken."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.methods import Method, build_method
from mrsynth.methods.base import Batch
from mrsynth.scans.volume import Volume

MakeVolumes = Callable[..., dict[Contrast, Volume]]

SHAPE = (32, 40, 16)
BOX = (16, 16, 8)


@pytest.fixture(autouse=True)
def sums_are_the_same_on_every_machine(one_thread: None) -> None:
    """No test of a method has more than one thread."""


@pytest.fixture(scope="session")
def make_batch(brain_volumes: MakeVolumes) -> Callable[..., Batch]:
    """make_batch(patterns, neighbours=0, present=STANDARD, same_slice=False) -> Batch of slices (32, 40), all complete.

    patterns    the available contrasts of each example
    present     contrasts whose truth is known; others hold NaN
    same_slice  every example is the middle slice; otherwise example b is the b-th from there upwards
    """
    volumes = brain_volumes(SHAPE)
    u = np.stack([np.clip(volumes[c].voxels / volumes[c].voxels.max(), 0, 1) for c in STANDARD])
    images = torch.from_numpy(u).permute(3, 0, 1, 2) * 2 - 1  # K, C, I, J

    def make(
        patterns: Sequence[Sequence[Contrast]],
        neighbours: int = 0,
        present: Sequence[Contrast] = STANDARD,
        same_slice: bool = False,
    ) -> Batch:
        middle = SHAPE[2] // 2
        places = [middle + (0 if same_slice else b) for b in range(len(patterns))]
        known = torch.tensor([[c in present for c in STANDARD]] * len(patterns))
        around = [[images[k + o] for o in range(-neighbours, neighbours + 1) if o] for k in places]
        context = torch.stack([torch.stack(a, dim=1) if a else torch.empty(4, 0, *SHAPE[:2]) for a in around])
        return Batch(
            images=torch.where(known[:, :, None, None], images[places], torch.nan),
            present=known,
            available=torch.tensor([[c in pattern for c in STANDARD] for pattern in patterns]) & known,
            context=torch.where(known[:, :, None, None, None], context, torch.nan),
        )

    return make


@pytest.fixture(scope="session")
def make_boxes(brain_volumes: MakeVolumes) -> Callable[..., Batch]:
    """make_boxes(patterns, present=STANDARD, same_box=False) -> Batch of boxes (16, 16, 8) of the same brain.

    same_box  every example is the middle box; otherwise example b lies b voxels further back
    """
    volumes = brain_volumes(SHAPE)
    u = np.stack([np.clip(volumes[c].voxels / volumes[c].voxels.max(), 0, 1) for c in STANDARD])
    images = torch.from_numpy(u) * 2 - 1  # C, I, J, K

    def make(
        patterns: Sequence[Sequence[Contrast]], present: Sequence[Contrast] = STANDARD, same_box: bool = False
    ) -> Batch:
        begins = [12 + (0 if same_box else b) for b in range(len(patterns))]
        boxes = torch.stack([images[:, 8 : 8 + BOX[0], j : j + BOX[1], 4 : 4 + BOX[2]] for j in begins])
        known = torch.tensor([[c in present for c in STANDARD]] * len(patterns))
        return Batch(
            images=torch.where(known[:, :, None, None, None], boxes, torch.nan),
            present=known,
            available=torch.tensor([[c in pattern for c in STANDARD] for pattern in patterns]) & known,
            context=torch.empty(len(patterns), 4, 0, *BOX),
        )

    return make


@pytest.fixture(scope="session")
def batch_for(make_batch: Callable[..., Batch], make_boxes: Callable[..., Batch]) -> Callable[..., Batch]:
    """batch_for(method, patterns, present=STANDARD, same=False): slices or boxes, as the method takes them."""

    def make(
        method: Method,
        patterns: Sequence[Sequence[Contrast]],
        present: Sequence[Contrast] = STANDARD,
        same: bool = False,
    ) -> Batch:
        if method.dimensions == 3:
            batch: Batch = make_boxes(patterns, present, same)
        else:
            batch = make_batch(patterns, method.neighbours, present, same)
        return batch

    return make


@pytest.fixture(scope="session")
def wake() -> Callable[[dict[str, Any]], Method]:
    """wake(config) -> the method with seeded weights, in which no parameter is all zeros as some begin."""

    def woken(config: dict[str, Any]) -> Method:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            method = build_method(config).eval()
            with torch.no_grad():
                for parameter in method.parameters():
                    if not parameter.any():  # 27 taps for 9: with more, coefficients leave the range of images
                        parameter.normal_(std=0.02 if parameter.dim() == 5 else 0.1)
        return method

    return woken
