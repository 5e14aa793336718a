"""How a run is judged while it goes on: the validation subjects, and the figures and pictures made of them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from mrsynth.io.cache import CachedSubject
from mrsynth.methods.base import Method, Trainable
from mrsynth.scores.rows import Score
from mrsynth.segmenter.learner import SegmenterLearner
from mrsynth.segmenter.network import dice_and_hd95
from mrsynth.tasks.train.cohort import examples_of
from mrsynth.training.validation import ValidationSlices, fill_in_every_pattern, picture, score_patterns

Rows = list[dict[str, Any]]
Figures = tuple[Rows, bytes | None]


class Judge(Protocol):
    """Scores averaged weights. An empty one has nobody to score them on."""

    def __len__(self) -> int: ...

    def figures(self, average: Trainable, stage: str, bf16: bool, stopped: Callable[[], bool]) -> Figures | None:
        """Rows of validation.csv and a picture, if there is one to show; None when told to stop meanwhile."""


def judge_of(method: Trainable, subjects: Sequence[CachedSubject], spacing: float) -> Judge:
    """What judges a method, or the segmenter, on these subjects."""
    if isinstance(method, SegmenterLearner):
        return SegmentationJudge(method, subjects, spacing)
    return SynthesisJudge(method, subjects)


class SynthesisJudge:
    """Every pattern of missing contrasts on a few slices of each subject, or on whole volumes."""

    def __init__(self, method: Trainable, subjects: Sequence[CachedSubject]):
        each = [examples_of([s], method) for s in subjects]
        self.slices = ValidationSlices.whole(each) if method.dimensions == 3 else ValidationSlices.of(each)

    def __len__(self) -> int:
        return len(self.slices)

    def figures(self, average: Trainable, stage: str, bf16: bool, stopped: Callable[[], bool]) -> Figures | None:
        """PSNR and SSIM of each pattern and target, and a picture."""
        assert isinstance(average, Method)
        batch, made = self.slices.batch(), {}
        for pattern, images in fill_in_every_pattern(average, batch, bf16, average.judged_by(stage)):
            if stopped():
                return None
            made[pattern] = images
        return lines(score_patterns(average, batch, made)), picture(average, batch, made)


class SegmentationJudge:
    """Each subject segmented from all its contrasts, on the grid of the training."""

    def __init__(self, method: Trainable, subjects: Sequence[CachedSubject], spacing: float):
        self.source, self.spacing = examples_of(subjects, method), spacing
        self.names = [subject.name for subject in subjects]

    def __len__(self) -> int:
        return len(self.source)

    @torch.no_grad()
    def figures(self, average: Trainable, stage: str, bf16: bool, stopped: Callable[[], bool]) -> Figures | None:
        """Dice and HD95 of each subject and region."""
        assert isinstance(average, SegmenterLearner)
        place = next(average.parameters()).device
        rows: Rows = []
        for index, name in enumerate(self.names):
            if stopped():
                return None
            batch = ValidationSlices([self.source[index]]).batch().to(place)
            assert batch.labels is not None
            found, truth = (average.logits(batch)[0] > 0).cpu(), (average.regions(batch.labels)[0] > 0).cpu()
            for region, ours, theirs in zip(average.config.regions, found, truth, strict=True):
                dice, hd95 = dice_and_hd95(ours.numpy(), theirs.numpy(), (self.spacing,) * 3)
                rows.append({"subject": name, "region": region.name, "dice": dice, "hd95": hd95})
        return rows, None


def lines(rows: Iterable[Score]) -> list[dict[str, Any]]:
    """One line per pattern and target, each metric a column under its name in small letters."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        line = found.setdefault((row.pattern, row.target), {"pattern": row.pattern, "target": row.target})
        line[row.metric.lower()] = row.value
    return list(found.values())
