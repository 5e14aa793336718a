"""How a run is judged while it goes on: the validation subjects, and the figures and pictures made of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from mrsynth.contrasts import Contrast, pattern_name
from mrsynth.io.cache import CachedSubject
from mrsynth.methods.base import Method, Trainable
from mrsynth.scores.rows import Score
from mrsynth.segmenter.learner import SegmenterLearner
from mrsynth.segmenter.network import dice_and_hd95
from mrsynth.tasks.train.sources import examples_of
from mrsynth.training.validation import ValidationSlices, fill_in_every_pattern, picture, score_patterns

Rows = list[dict[str, Any]]
Table = Sequence[Mapping[str, str]]  # rows of validation.csv, as they are read
Figures = tuple[Rows, bytes | None]


class Judge(Protocol):
    """Scores averaged weights. An empty one has nobody to score them on."""

    def __len__(self) -> int: ...

    def best(self, known: Table) -> int | None:
        """The iteration whose weights did best, by the mean of one figure; the first of equals."""

    def choice(self, known: Table) -> str:
        """What the curve would have chosen, for the card; nothing before the first validation."""

    def figures(self, average: Trainable, stage: str, bf16: bool, stopped: Callable[[], bool]) -> Figures | None:
        """Rows of validation.csv and a picture, if there is one to show; None when told to stop meanwhile."""


def judge_of(method: Trainable, subjects: Sequence[CachedSubject], spacing: float, learnt: Sequence[Contrast]) -> Judge:
    """What judges a method, or the segmenter, on these subjects; what nobody it learns from has is left out."""
    if isinstance(method, SegmenterLearner):
        return SegmentationJudge(method, subjects, spacing)
    return SynthesisJudge(method, subjects, learnt)


def means(known: Table, figure: str) -> dict[int, float]:
    """Iteration -> mean of a figure over its rows."""
    values: dict[int, list[float]] = {}
    for row in known:
        if row.get(figure):
            values.setdefault(int(row["iteration"]), []).append(float(row[figure]))
    return {iteration: float(np.mean(each)) for iteration, each in values.items()}


class Curve:
    """The choice of the iteration with the highest mean of one figure of validation.csv, `figure`, said in `words`."""

    figure: str
    words: str

    def best(self, known: Table) -> int | None:
        """The first iteration with the highest mean; None where there is none."""
        mean = means(known, self.figure)
        return max(mean, key=lambda iteration: (mean[iteration], -iteration)) if mean else None

    def choice(self, known: Table) -> str:
        """A sentence."""
        at, mean = self.best(known), means(known, self.figure)
        return "" if at is None else f"Best on validation: iteration {at} ({self.words.format(mean[at])})."


class SynthesisJudge(Curve):
    """Every pattern of missing contrasts on a few slices of each subject, or on whole volumes."""

    figure, words = "psnr_fit", "mean fitted brain PSNR {:.2f} dB"

    def __init__(self, method: Trainable, subjects: Sequence[CachedSubject], learnt: Sequence[Contrast]):
        self.learnt = {pattern_name([c]) for c in learnt}
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
        rows = lines(score_patterns(average, batch, made))
        known = [row for row in rows if {row["target"], *row["pattern"].split("+")} <= self.learnt]
        return known, picture(average, batch, made)


class SegmentationJudge(Curve):
    """Each subject segmented from all its contrasts, on the grid of the training."""

    figure, words = "dice", "mean Dice {:.3f}"

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
            brain = (batch.images[0] > -1).any(dim=0)  # nothing is found outside it, as in Segmenter.segment
            found, truth = ((average.logits(batch)[0] > 0) & brain).cpu(), (average.regions(batch.labels)[0] > 0).cpu()
            for region, ours, theirs in zip(average.config.regions, found, truth, strict=True):
                dice, hd95 = dice_and_hd95(ours.numpy(), theirs.numpy(), (self.spacing,) * 3)
                rows.append({"subject": name, "region": region.name, "dice": dice, "hd95": hd95})
        return rows, None


def lines(rows: Iterable[Score]) -> list[dict[str, Any]]:
    """One line per pattern and target, each metric a column under its name in small letters."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        place = {name: getattr(row, name) for name in ("pattern", "target", "region", "protocol")}
        line = found.setdefault((row.pattern, row.target), place)
        line[row.metric.lower()] = row.value
    return list(found.values())
