"""One piece of a benchmark: make what a subject lacks, as `complete` would, and score it by the protocols."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mrsynth.contrasts import Contrast, pattern_name
from mrsynth.devices import choose_device
from mrsynth.reports.montage import Panel, montage
from mrsynth.reports.viewer import SubjectPicture, viewer_data
from mrsynth.sampling import Estimator, Sampling
from mrsynth.scans.hounsfield import window_of
from mrsynth.scans.subject import Subject
from mrsynth.scans.views import View
from mrsynth.scans.volume import Volume
from mrsynth.scores.baselines import Baseline, as_input, placed
from mrsynth.scores.metrics import to_unit
from mrsynth.scores.protocols import measure, scored_case
from mrsynth.scores.rows import LEFT_OUT, REAL, Score
from mrsynth.tasks.benchmark.contenders import Gap
from mrsynth.tasks.benchmark.pieces import Piece
from mrsynth.tasks.complete.completion import in_file_units, in_u
from mrsynth.tasks.complete.run import complete_subject
from mrsynth.tasks.memory import peak_memory_mb, reset_peak_memory
from mrsynth.tasks.models import load_method
from mrsynth.tasks.trained import Trained

if TYPE_CHECKING:
    from mrsynth.segmenter.network import Segmenter

SEGMENTATION = "segmentation"


@dataclass(frozen=True)
class Job:
    """What one method, baseline or segmentation control has to do with one subject.

    plan   checkpoint -> targets, for methods; {} for the others
    """

    piece: Piece
    gap: Gap
    plan: Mapping[str, tuple[Contrast, ...]]


@dataclass(frozen=True)
class Made:
    """Synthetic volumes, u in [0, 1], on the subject's own grid, and what making them took.

    weights, how   by target: the checkpoint, and how it was sampled; empty for baselines
    """

    volumes: Mapping[Contrast, Volume]
    seconds: float
    peak_memory_mb: float | None
    weights: Mapping[Contrast, str]
    how: Mapping[Contrast, Estimator]


class Measurer:
    """Makes and scores. `baselines` is called when the first baseline is needed: fitting takes a while."""

    def __init__(
        self,
        labels: Mapping[str, str],
        sampling: Sampling,
        protocols: Sequence[str],
        regions: Mapping[str, frozenset[int]],
        baselines: Callable[[], Mapping[str, Baseline]],
        segmenter: "Segmenter | None" = None,
        people: Mapping[str, str] | None = None,
    ):
        """`labels` are the columns that all rows share: dataset and split; `people` is subject -> person."""
        self.people = people or {}
        self.labels, self.sampling, self.protocols, self.regions = labels, sampling, protocols, regions
        self.baselines, self.segmenter = baselines, segmenter

    def rows(self, subject: Subject, job: Job) -> list[Score]:
        """Every score of a job. The subject has the truth of all its contrasts."""
        if job.piece.method in (REAL, LEFT_OUT):
            return self._segmented(subject, job, {}, None)
        made = self.make(subject, job)
        rows = []
        for target, volume in made.volumes.items():
            how = made.how.get(target)
            rows += measure(
                scored_case(subject, target, volume.voxels, self.regions),
                self.protocols,
                **self.labels,
                subject=subject.name,
                person=self.people.get(subject.name, ""),
                method=job.piece.method,
                weights=made.weights.get(target, ""),
                pattern=job.gap.pattern,
                target=target.value,
                seconds=made.seconds,
                peak_memory_mb=made.peak_memory_mb,
                mode=how.mode if how else "",
                steps=how.steps if how else None,
                samples=how.samples if how else None,
                seed=self.sampling.seed,
            )
        return rows + self._segmented(subject, job, made.volumes, made)

    def make(self, subject: Subject, job: Job) -> Made:
        """What the method or baseline synthesises when it sees only what the gap leaves."""
        given = subject.without(*(c for c in subject.available if c not in job.gap.available))
        if not job.plan:
            baseline = self.baselines()[job.piece.method]
            for target in job.gap.targets:
                baseline.fit(job.gap.available, target)  # once for all subjects, so not their time
            reset_peak_memory()
            began = time.perf_counter()
            volumes = {t: baseline.predict(given, t) for t in job.gap.targets}
            return Made(volumes, time.perf_counter() - began, peak_memory_mb(), {}, {})
        device = choose_device(self.sampling.device)
        reset_peak_memory(device)
        volumes, seconds = {}, 0.0
        weights: dict[Contrast, str] = {}
        how: dict[Contrast, Estimator] = {}
        for name, targets in job.plan.items():
            trained = loaded(name)
            done = complete_subject(given, trained, targets, sampling=self.sampling)
            seconds += sum(done.seconds.values())
            for target in targets:
                volume = done.volumes[target]
                volumes[target] = Volume(in_u(target, volume.voxels), volume.affine)
                weights[target] = trained.card.name
                how[target] = done.how
        return Made(volumes, seconds, peak_memory_mb(device), weights, how)

    def _segmented(
        self, subject: Subject, job: Job, synthetic: Mapping[Contrast, Volume], made: Made | None
    ) -> list[Score]:
        """Dice and HD95 of a segmentation that sees the synthetic contrasts in place of the missing ones."""
        if self.segmenter is None or subject.segmentation is None:
            return []
        from mrsynth.segmenter.network import dice_and_hd95

        wanted = [c for c in job.gap.targets if c in self.segmenter.contrasts]
        if made is not None and (not wanted or any(c not in synthetic for c in wanted)):
            return []
        true = {c: v for c, v in subject.volumes.items() if job.piece.method == REAL or c in job.gap.available}
        found = self.segmenter.segment({**true, **{c: in_file_units(c, v) for c, v in synthetic.items()}})
        labels = subject.segmentation.voxels.round().astype(np.int16)
        rows = []
        for region in self.segmenter.regions:
            if region not in self.regions:
                continue
            truth = np.isin(labels, list(self.regions[region]))
            dice, distance = dice_and_hd95(found[region], truth, subject.reference.spacing)
            for metric, value in (("DICE", dice), ("HD95", distance)):
                rows.append(
                    Score(
                        **self.labels,
                        subject=subject.name,
                        person=self.people.get(subject.name, ""),
                        method=job.piece.method,
                        weights="+".join(dict.fromkeys(made.weights.values())) if made else "",
                        pattern=job.gap.pattern,
                        target=pattern_name(job.gap.targets),
                        protocol=SEGMENTATION,
                        region=region,
                        metric=metric,
                        value=value,
                        seed=self.sampling.seed,
                    )
                )
        return rows

    def picture(self, subject: Subject, job: Job, target: Contrast, *, viewer: bool) -> SubjectPicture:
        """The inputs, what is made again of them, the truth and the difference."""
        volume = self.make(subject, job).volumes[target]
        view = View.of(subject)
        truth = to_unit(subject.volumes[target].voxels, window_of(target))
        inputs = {c: placed(subject, as_input(subject, c)) for c in job.gap.available}
        panels = [Panel(c.label, view.shown(image.voxels), "input") for c, image in inputs.items()]
        panels.append(Panel(f"synthetic {target.label}", view.shown(volume.voxels), "synthetic"))
        panels.append(Panel(f"true {target.label}", view.shown(truth), "reference"))
        panels.append(Panel("difference", view.shown(np.abs(truth - volume.voxels)), "difference"))
        data = viewer_data(panels, view.mask, view.spacing) if viewer else None
        return SubjectPicture(montage(panels, view.mask, spacing=view.spacing), data)


@lru_cache(maxsize=6)
def loaded(name: str) -> Trained:
    """A trained method, kept for the next subject."""
    return load_method(name)
