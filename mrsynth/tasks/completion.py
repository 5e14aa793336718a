"""What completing a subject gives, before anything is written."""

from collections.abc import Mapping
from dataclasses import dataclass

from mrsynth.contrasts import Contrast
from mrsynth.preparation import Prepared
from mrsynth.report import ScoreRow
from mrsynth.synthesis import Sampling
from mrsynth.volume import Volume

SCALE = 1000.0  # output volumes are 1000 u


@dataclass(frozen=True)
class Completion:
    """Synthetic volumes on the subject's own grid, intensities 0..1000, and how they came about.

    deviations  voxel-wise standard deviation over the samples; empty for one sample
    scores      of the self-check, if there was one
    """

    volumes: Mapping[Contrast, Volume]
    deviations: Mapping[Contrast, Volume]
    prepared: Prepared
    sampling: Sampling
    scores: tuple[ScoreRow, ...]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
