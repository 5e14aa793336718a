"""The subjects of a training run: found, prepared, divided, and addressed slice by slice or box by box."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsynth.card import Card
from mrsynth.contrasts import Contrast, patterns
from mrsynth.errors import InputError, Interrupted, UsageError
from mrsynth.io.cache import CachedSubject, cached
from mrsynth.io.discovery import check_names
from mrsynth.io.subjects import SubjectFiles, find_subjects
from mrsynth.io.yaml_files import read_yaml
from mrsynth.methods.base import Method, Trainable
from mrsynth.plain import Progress
from mrsynth.tasks.train.config import RunConfig
from mrsynth.training.examples import ExampleSource, Slab

log = logging.getLogger(__name__)

EMPTY = 0.1  # boxes with less brain than this share of their voxels are not worth training on


def examples_of(
    subjects: Sequence[CachedSubject], method: Trainable, crop: Sequence[int] | None = None
) -> ExampleSource:
    """What the method learns from in these subjects: slices, or boxes for a method of three dimensions.

    crop   voxels of the boxes; None for whole volumes
    With labels, where the method wants them and any of the subjects has a segmentation.
    """
    labels = method.wants_labels and any(subject.labels is not None for subject in subjects)
    if method.dimensions == 3:
        return Boxes(subjects, crop, labels)
    return Slices(subjects, method.neighbours, labels)


class Slices:
    """Every training slice of a cohort, addressed by one index."""

    def __init__(self, subjects: Sequence[CachedSubject], neighbours: int, labels: bool = False):
        self.subjects, self.neighbours, self.labels = subjects, neighbours, labels
        self.places = [(s, k) for s, subject in enumerate(subjects) for k in subject.slices]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Slab:
        s, k = self.places[index]
        subject = self.subjects[s]
        labels = subject.label_slice(k) if self.labels else None
        return Slab(subject.slab(k, self.neighbours), np.array(subject.present), labels)


class Boxes:
    """Boxes of a cohort's volumes, half overlapping and none of them empty; or the whole volumes."""

    def __init__(self, subjects: Sequence[CachedSubject], size: Sequence[int] | None, labels: bool = False):
        self.subjects, self.labels = subjects, labels
        self.places: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []  # subject, corner, size
        for s, subject in enumerate(subjects):
            whole = subject.shape
            if size is None:
                self.places.append((s, (0, 0, 0), whole))
                continue
            brain: NDArray[np.bool_] = (subject.stored[::4, :, ::4, ::4] > 0).max(axis=1).transpose(1, 2, 0)
            for corner in product(*(corners(n, own) for n, own in zip(whole, size, strict=True))):
                part = tuple(slice(c // 4, math.ceil((c + n) / 4)) for c, n in zip(corner, size, strict=True))
                if brain[part].mean() > EMPTY:
                    self.places.append((s, corner, tuple(size)))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Slab:
        s, corner, size = self.places[index]
        subject = self.subjects[s]
        labels = subject.label_box(corner, size) if self.labels else None
        return Slab(subject.box(corner, size)[:, None], np.array(subject.present), labels)


def corners(whole: int, size: int) -> list[int]:
    """Where boxes begin along an axis, so that they cover it and overlap by about a half."""
    room = max(whole - size, 0)
    return [round(c) for c in np.linspace(0, room, 1 + math.ceil(2 * room / size)).tolist()]


@dataclass(frozen=True)
class Cohort:
    """Prepared subjects: those that train and those that judge; and for each left out, why."""

    training: list[CachedSubject]
    validation: list[CachedSubject]
    left_out: list[str]

    def listing(self) -> dict[str, Any]:
        """As plain data: {training: [{name: slices}, ...], validation: ..., left out: ...}.

        With `labelled: [name, ...]` where segmentations are learned from.
        """
        named = {part: [{s.name: len(s.slices)} for s in getattr(self, part)] for part in ("training", "validation")}
        labelled = list(dict.fromkeys(s.name for s in self.training if s.labels is not None))
        return {**named, **({"labelled": labelled} if labelled else {}), "left out": self.left_out}


def gather(
    roots: Sequence[Path],
    config: RunConfig,
    method: Trainable,
    cache: Path,
    report: Progress,
    stopped: Callable[[], bool] = lambda: False,
) -> Cohort:
    """Find and prepare every subject below the roots. Raises InputError, and Interrupted when stopped."""
    found: dict[tuple[Path, ...], SubjectFiles] = {}  # by files: roots may overlap
    left_out: list[str] = []
    for root in roots:
        subjects, reasons = find_subjects(root)
        found |= {tuple(sorted(p.resolve() for p in s.files.values())): s for s in subjects}
        left_out += reasons
    check_names(sorted(found.values(), key=lambda files: files.name))
    names = {subject.name for subject in found.values()}
    for part in ("validation", "exclude", "repeat"):
        if unknown := set(getattr(config.data, part)) - names:
            raise InputError(
                f"data.{part} names subjects that are not there: {', '.join(sorted(unknown))}. "
                f"Below {', '.join(map(str, roots))} there are {len(names)} others."
            )
    wanted = []
    for files in found.values():
        if files.name in config.data.exclude:
            left_out.append(f"{files.name}: excluded by the configuration")
        elif not method.learns_from(files.files):
            seen = ", ".join(c for c in method.contrasts if c in files.files) or "none"
            left_out.append(f"{files.name}: {seen} of {', '.join(method.contrasts)} is not enough to learn from")
        elif method.only_labelled and files.segmentation is None:
            left_out.append(f"{files.name}: has no segmentation, and nothing else can be learnt from here")
        else:
            wanted.append(files)
    if lacking := len(found) - len(wanted):
        log.warning("%d of %d subjects are left out; subjects.yaml says which, and why.", lacking, len(found))
    prepared = []
    for done, files in enumerate(wanted):
        if stopped():
            raise Interrupted(f"Stopped after preparing {done} of {len(wanted)} subjects; they need not be done again.")
        report(f"preparing {files.name}", done, len(wanted))
        subject = cached(files, method.contrasts, config.preparation, cache, method.wants_labels)
        if subject.labels is not None:
            method.check_labels(subject.values, str(files.segmentation))
        prepared.append(subject)
    training = [
        s for s in prepared if s.name not in config.data.validation for _ in range(config.data.repeat.get(s.name, 1))
    ]
    if not any(s.slices for s in training):
        why = "".join(f"\n  {reason}" for reason in left_out[:10])
        labelled = " and a segmentation" if method.only_labelled else ""
        enough = "at least two" if method.learns_from(method.contrasts[:2]) else "all"
        raise InputError(
            f"Nothing to train on below {', '.join(map(str, roots))}. Expected subjects with {enough} of "
            f"{', '.join(method.contrasts)}{labelled}; found {len(found)} subjects, "
            f"{len(config.data.validation)} of them for validation.{' Left out:' if why else ''}{why}"
        )
    if method.needs_labels and all(s.labels is None for s in training):
        raise InputError(
            f"None of the {len(training)} training subjects below {', '.join(map(str, roots))} has a segmentation, and "
            "the method is configured to need one. Expected a file such as NAME_seg.nii.gz beside the scans of at "
            "least one subject; or configure the method to do without."
        )
    return Cohort(training, [s for s in prepared if s.name in config.data.validation], left_out)


def refuse_other_subjects(cohort: Cohort, listing: Path) -> None:
    """Raise UsageError when a resumed run would see other slices, in another order."""
    if not listing.exists():
        return
    try:
        before, now = dict(read_yaml(listing)), cohort.listing()
        before.update({part: list(before[part]) for part in ("training", "validation")})
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UsageError(f"{listing} is damaged ({error}), so the run cannot be resumed. Begin a new run.") from error
    if (had := before.get("labelled", [])) != (have := now.get("labelled", [])):
        raise UsageError(
            f"Not the same training subjects have a segmentation as when the run was begun. Then: "
            f"{', '.join(had) or 'none'}. Now: {', '.join(have) or 'none'}. Put the files back, or begin a new run."
        )
    for part in ("training", "validation"):
        old, new = ([str(subject) for subject in data[part]] for data in (before, now))
        if old != new:
            gone, come = (", ".join(s.strip("{}") for s in a if s not in b) for a, b in ((old, new), (new, old)))
            raise UsageError(
                f"The {part} subjects (and their numbers of slices) are not those the run was begun with. Missing: "
                f"{gone or 'none'}. New: {come or 'none'}. Give the same --data in the same order, or begin a new run."
            )


def card_of(config: RunConfig, method: Trainable, training: Sequence[CachedSubject]) -> Card:
    """What the checkpoint will say of itself, with the intensity histograms of its training data."""
    intensity: dict[Contrast, tuple[float, ...]] = {}
    for channel, contrast in enumerate(method.contrasts):
        having = [s.histograms[channel] for s in training if s.present[channel]]
        if having:
            intensity[contrast] = tuple(np.mean(having, axis=0).round(6).tolist())
    return Card(
        name=config.name,
        method=config.method["method"],
        contrasts=method.contrasts,
        requires=requirements(method) if isinstance(method, Method) else {},  # a segmenter makes no contrast
        licence=config.licence,
        sampling=sampling_of(method) if isinstance(method, Method) else {},
        training_data=config.data.sources,
        intensity=intensity,
    )


def sampling_of(method: Method) -> dict[str, Any]:
    """What its card says of sampling: the modes, the default first, and the chain of mode sample if it has one."""
    sampler, steps = method.chain
    chain = {"sampler": sampler, "steps": steps} if "sample" in method.modes else {}
    return {"mode": method.modes[0], "modes": list(method.modes), **chain}


def requirements(method: Method) -> dict[Contrast, tuple[Contrast, ...]] | None:
    """The inputs that each target needs: those of every pattern it can be made from. None when any subset will do."""
    cases = [(set(p), t) for p in patterns(method.contrasts) for t in method.contrasts if t not in p]
    if all(method.supports(given, t) for given, t in cases):
        return None
    able = {t: [given for given, target in cases if target is t and method.supports(given, t)] for t in method.targets}
    return {
        t: tuple(c for c in method.contrasts if all(c in given for given in sets)) for t, sets in able.items() if sets
    }
