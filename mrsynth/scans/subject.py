"""A subject: the co-registered volumes of one examination."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.scans.foreground import shown_by_any
from mrsynth.scans.volume import Volume, same_grid


@dataclass(frozen=True, eq=False)
class Subject:
    """Volumes by contrast, all on one grid.

    name          identifies the subject in reports and seeds its noise
    volumes       at least one contrast
    segmentation  optional labels on the same grid
    mask          optional brain mask on the same grid, non-zero inside
    Raises InputError when there is no volume, or when two grids differ.
    """

    name: str
    volumes: Mapping[Contrast, Volume]
    segmentation: Volume | None = None
    mask: Volume | None = field(default=None)

    def __post_init__(self) -> None:
        if not self.volumes:
            raise InputError(f"{self.name}: no contrast at all; give at least one of T1, T1ce, T2, FLAIR.")
        named = [(c.label, v) for c, v in self.volumes.items()]
        named += [("segmentation", self.segmentation)] if self.segmentation is not None else []
        named += [("brain mask", self.mask)] if self.mask is not None else []
        (first, reference), *others = named
        for label, volume in others:
            if not same_grid(reference, volume):
                raise InputError(
                    f"{self.name}: {first} and {label} lie on different grids.\n"
                    f"{describe_grid(first, reference)}\n{describe_grid(label, volume)}\n"
                    "Register and resample them to one grid first, as `mrsynth complete` does for files."
                )

    @property
    def available(self) -> tuple[Contrast, ...]:
        """The contrasts present, in canonical order."""
        return tuple(c for c in Contrast if c in self.volumes)

    def missing(self, contrasts: Sequence[Contrast] = STANDARD) -> tuple[Contrast, ...]:
        """Those of `contrasts` the subject lacks, in canonical order."""
        return tuple(c for c in Contrast if c in contrasts and c not in self.volumes)

    @property
    def reference(self) -> Volume:
        """The first available contrast: its grid is the subject's grid."""
        return self.volumes[self.available[0]]

    def foreground(self) -> NDArray[np.bool_]:
        """(I, J, K) bool: voxels where any available contrast is non-zero (in a CT: no air), inside the brain mask."""
        union: NDArray[np.bool_] = shown_by_any(self.volumes)
        return union if self.mask is None else union & (self.mask.voxels != 0)

    def without(self, *hidden: Contrast) -> "Subject":
        """The same subject with some contrasts hidden, as an experiment that knows the truth needs it."""
        kept = {c: v for c, v in self.volumes.items() if c not in hidden}
        return Subject(self.name, kept, self.segmentation, self.mask)


def describe_grid(label: str, volume: Volume) -> str:
    """Shape and affine on a few lines, for messages."""
    rows = "; ".join(" ".join(f"{x:.4g}" for x in row) for row in volume.affine[:3])
    return f"  {label}: shape {'x'.join(map(str, volume.shape))}, affine [{rows}]"
