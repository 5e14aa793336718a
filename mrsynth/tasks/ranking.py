"""`mrsynth rank-contrasts`: the contrasts of a data set in the order of their low-frequency content."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.io.subjects import find_subjects, load_subject
from mrsynth.networks.frequency import low_frequency_share
from mrsynth.plain import Progress
from mrsynth.scans.preparation import PreparationConfig, prepare

FOREGROUND = 0.01  # slices with less brain than this share of their area say little


class RankedContrast(NamedTuple):
    """share: of the spectral energy at or below 0.054 cycles per pixel, the mean over `subjects` subjects."""

    contrast: Contrast
    share: float
    subjects: int


def rank_contrasts(roots: Sequence[Path], progress: Progress | None = None) -> list[RankedContrast]:
    """The contrasts of all subjects below some folders, the one with most low-frequency content first.

    A subject's share is the mean over its axial slices with more than 1 % foreground, prepared as for a model. Every
    subject weighs the same, in the contrasts it has. Raises InputError when there is no subject or one cannot be read.
    """
    found = [find_subjects(root) for root in roots]
    subjects = [subject for some, _ in found for subject in some]
    if not subjects:
        reasons = "\n".join(reason for _, some in found for reason in some)
        raise InputError(f"Found no subject below {', '.join(map(str, roots))}.\n{reasons}".rstrip())
    shares: dict[Contrast, list[float]] = {}
    for done, files in enumerate(subjects):
        if progress is not None:
            progress(f"measuring {files.name}", done, len(subjects))
        prepared = prepare(load_subject(files), files.available, PreparationConfig())
        worthwhile = np.flatnonzero(prepared.mask.mean(axis=(0, 1)) > FOREGROUND)
        if not len(worthwhile):
            raise InputError(f"{files.name}: no axial slice has more than 1 % foreground: nothing to measure.")
        for contrast, image in zip(prepared.contrasts, prepared.images, strict=True):
            slices = torch.from_numpy(image[..., worthwhile]).permute(2, 0, 1)
            shares.setdefault(contrast, []).append(float(low_frequency_share(slices).mean()))
    if progress is not None:
        progress("measured", len(subjects), len(subjects))
    ranked = [RankedContrast(contrast, float(np.mean(values)), len(values)) for contrast, values in shares.items()]
    return sorted(ranked, key=lambda row: -row.share)
