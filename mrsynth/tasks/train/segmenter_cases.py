"""What the segmenter learns from: complete labelled subjects, prepared, augmented, in a seeded order."""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrsynth.contrasts import Contrast, patterns
from mrsynth.errors import InputError, Interrupted
from mrsynth.io.cache import CachedSubject, cached
from mrsynth.io.files import write_bytes
from mrsynth.io.subjects import SubjectFiles, find_subjects, load_subject
from mrsynth.plain import Mask, Progress
from mrsynth.scans.preparation import prepare
from mrsynth.segmenter.network import on_model_grid, region_masks
from mrsynth.tasks.train.segmenter_config import SegmenterRun
from mrsynth.training.augmentation import augment_geometry, augment_intensity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """A prepared subject and its labels.

    labels  a `.npy` file (R, I, J, K) bool on the grid of the images
    """

    subject: CachedSubject
    labels: Path

    def read(self) -> tuple[Tensor, Tensor]:
        """Images (C, I, J, K) float32, u in [0, 1], and regions (R, I, J, K) float32, 0 or 1."""
        images = self.subject.box((0, 0, 0), self.subject.shape)
        return torch.from_numpy(images), torch.from_numpy(np.load(self.labels)).float()


def example(cases: Sequence[Case], config: SegmenterRun, position: int) -> tuple[Tensor, Tensor, Tensor]:
    """What is seen at a position of the run: images (C, I, J, K), available (C,) bool, regions (R, I, J, K) 0 or 1.

    Every epoch is a fresh permutation of the subjects.
    """
    training = config.training
    epoch, place = divmod(position, len(cases))
    order = np.random.default_rng([training.seed, epoch, 1]).permutation(len(cases))
    images, regions = cases[int(order[place])].read()
    random = np.random.default_rng([training.seed, position])
    available = draw_available(config.segmenter.contrasts, training.complete, random)
    stack = augment_geometry(torch.cat([images, regions]), training.augmentation, random)
    images, regions = stack[: len(images)].clamp(0, 1), (stack[len(images) :] >= 0.5).float()
    images = augment_intensity(images, np.arange(len(images)), training.augmentation, random)
    return images, torch.from_numpy(available), regions


def draw_available(contrasts: Sequence[Contrast], complete: float, random: np.random.Generator) -> Mask:
    """(C,) bool: all with probability `complete`, else one of the patterns in which some are missing."""
    if len(contrasts) == 1 or random.random() < complete:
        return np.ones(len(contrasts), dtype=bool)
    some = patterns(contrasts)
    kept = some[int(random.integers(len(some)))]
    return np.array([c in kept for c in contrasts])


def gather(
    roots: Sequence[Path], config: SegmenterRun, cache: Path, report: Progress, stopped: Callable[[], bool]
) -> tuple[list[Case], list[Case], list[str]]:
    """Those that train, those that validate, and for each subject left out why. Raises InputError, or Interrupted."""
    found: dict[tuple[Path, ...], SubjectFiles] = {}  # by files: roots may overlap
    left_out: list[str] = []
    for root in roots:
        subjects, reasons = find_subjects(root)
        found |= {tuple(sorted(p.resolve() for p in s.files.values())): s for s in subjects}
        left_out += reasons
    names = [files.name for files in found.values()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"Two subjects are called {', '.join(twice)}. Rename one of each pair, or give fewer --data.")
    for part in ("validation", "exclude", "repeat"):
        if unknown := set(getattr(config.data, part)) - set(names):
            raise InputError(
                f"data.{part} names subjects that are not there: {', '.join(sorted(unknown))}. "
                f"Below {', '.join(map(str, roots))} there are {len(names)} others."
            )
    cases: dict[str, Case] = {}
    for done, files in enumerate(found.values()):
        if stopped():
            raise Interrupted(f"Stopped after preparing {done} of {len(found)} subjects; they need not be done again.")
        report(f"preparing {files.name}", done, len(found))
        lacking = ", ".join(c.label for c in config.segmenter.contrasts if c not in files.files)
        if files.name in config.data.exclude:
            left_out.append(f"{files.name}: excluded by the configuration")
        elif lacking or files.segmentation is None:
            left_out.append(f"{files.name}: without {lacking or 'a segmentation'} it cannot teach to segment")
        else:
            cases[files.name] = prepared_case(files, config, cache)
    training = [
        case
        for name, case in cases.items()
        if name not in config.data.validation
        for _ in range(config.data.repeat.get(name, 1))
    ]
    if not training:
        why = "".join(f"\n  {reason}" for reason in left_out[:10])
        raise InputError(
            f"Nothing to train on below {', '.join(map(str, roots))}. Expected subjects with a segmentation and "
            f"{', '.join(c.label for c in config.segmenter.contrasts)}; found {len(found)} subjects, "
            f"{len(config.data.validation)} of them for validation.{' Left out:' if why else ''}{why}"
        )
    if left_out:
        log.warning("%d subjects are left out; subjects.yaml says which, and why.", len(left_out))
    return training, [case for name, case in cases.items() if name in config.data.validation], left_out


def prepared_case(files: SubjectFiles, config: SegmenterRun, cache: Path) -> Case:
    """A subject and its labels on the grid of the training, from the cache where they are unchanged."""
    assert files.segmentation is not None
    subject = cached(files, config.segmenter.contrasts, config.preparation, cache)
    stat = files.segmentation.stat()
    wanted = [region.labels for region in config.segmenter.regions]
    facts = [str(files.segmentation.resolve()), stat.st_size, stat.st_mtime_ns, wanted]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    labels = subject.path.with_name(f"{subject.path.stem}-labels-{key}.npy")
    if not labels.exists():
        whole = load_subject(files, segmentation=True)
        assert whole.segmentation is not None
        masks = region_masks(whole.segmentation.voxels, config.segmenter.regions, str(files.segmentation))
        prepared = prepare(whole, config.segmenter.contrasts, config.preparation)
        buffer = io.BytesIO()
        np.save(buffer, np.stack([on_model_grid(mask, prepared) for mask in masks]))
        write_bytes(labels, buffer.getvalue())
    return Case(subject, labels)
