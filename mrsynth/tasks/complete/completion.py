"""What completing a subject gives, before anything is written."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mrsynth.card import Card
from mrsynth.contrasts import Contrast, contrast_of
from mrsynth.errors import UsageError
from mrsynth.io.store import Resolved
from mrsynth.sampling import Estimator, Plane
from mrsynth.scans.hounsfield import HOUNSFIELD, Window, to_window, window_of
from mrsynth.scans.preparation import Prepared
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.scores.rows import Score

SCALE = 1000.0  # output volumes are 1000 u, but CT is in Hounsfield units


@dataclass(frozen=True, eq=False)
class Completed:
    """Synthetic volumes on the subject's own grid, and how they came about.

    subject     what they were made from
    card        of the checkpoint, and the SHA-256 of its file
    volumes     float32 (I, J, K), intensities 0..1000; of CT Hounsfield units, whole numbers, the low end of the window
                outside the head
    means       over the samples, where a volume is the first of several
    spreads     voxel-wise standard deviation over the samples, in the same units; empty for one sample
    errors      voxel-wise absolute error to expect after the straight-line fit, in the same units, where it can be said
    brightness  how far overall brightness is likely to be wrong, in the same units, where errors can be said
    prepared    the subject as the network saw it; how: by what the images were made
    scores      of the self-check, if there was one
    warnings    what the user must hear, in sentences
    seconds     step -> wall time
    members     of a committee: those that made each volume
    planes      member -> of the slices that its image was made from
    """

    subject: Subject
    card: Card
    sha256: str
    volumes: Mapping[Contrast, Volume]
    means: Mapping[Contrast, Volume]
    spreads: Mapping[Contrast, Volume]
    prepared: Prepared
    how: Estimator
    scores: tuple[Score, ...]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    members: Mapping[Contrast, tuple[Resolved, ...]] = field(default_factory=dict)
    planes: Mapping[str, tuple[Plane, ...]] = field(default_factory=dict)
    errors: Mapping[Contrast, Volume] = field(default_factory=dict)
    brightness: Mapping[Contrast, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        made, grid = ", ".join(self.volumes), self.subject.reference
        return f"<{type(self).__name__} of {self.subject.name} by {self.card.name}: {made}; {grid!r}>"

    def in_u(self, contrast: Contrast | str) -> NDArray[np.float32]:
        """A synthetic volume, (I, J, K), as u in [0, 1]. Raises UsageError for what was not made."""
        target = contrast_of(contrast)
        return in_u(target, made(self.volumes, target).voxels, self.prepared.hounsfield)


def made(volumes: Mapping[Contrast, Volume], contrast: Contrast, what: str = "image") -> Volume:
    """One of what was made. Raises UsageError when it was not; `what` names its kind."""
    if contrast not in volumes:
        there = ", ".join(volumes) or "none of any contrast"
        raise UsageError(f"No {what} of {contrast} was made; there is {there}.")
    return volumes[contrast]


def in_file_units(contrast: Contrast, volume: Volume, window: Window = HOUNSFIELD) -> Volume:
    """u in [0, 1] as files have it: 0..1000, or whole Hounsfield units from one end of the window to the other."""
    if (ends := window_of(contrast, window)) is None:
        return Volume(volume.voxels * np.float32(SCALE), volume.affine)
    low, high = ends
    return Volume(np.rint(volume.voxels * np.float32(high - low) + np.float32(low)), volume.affine)


def spread(contrast: Contrast, window: Window = HOUNSFIELD) -> float:
    """What a difference of 1 in u is in a written volume."""
    ends = window_of(contrast, window)
    return SCALE if ends is None else ends[1] - ends[0]


def in_u(contrast: Contrast, voxels: NDArray[np.float32], window: Window = HOUNSFIELD) -> NDArray[np.float32]:
    """Voxels of a written volume as u in [0, 1]."""
    ends = window_of(contrast, window)
    return np.clip(voxels / np.float32(SCALE), 0, 1) if ends is None else to_window(voxels, ends)


def in_standard_u(contrast: Contrast, u: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
    """u of a checkpoint's own window of a CT as u of the one that protocols name; of any other contrast as it is."""
    own, standard = window_of(contrast, window), window_of(contrast)
    if own is None or standard is None or own == standard:
        return u
    return to_window(u * np.float32(own[1] - own[0]) + np.float32(own[0]), standard)
