"""A subject: the co-registered volumes of one examination."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import STANDARD, Contrast, contrast_of
from mrsynth.errors import InputError, UsageError
from mrsynth.scans.foreground import shown_by_any
from mrsynth.scans.volume import Volume, same_grid

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Subject:
    """Volumes by contrast, all on one grid.

    name          identifies the subject in reports and seeds its noise
    volumes       at least one contrast; names of contrasts will do for keys
    segmentation  optional labels on the same grid
    mask          optional brain mask on the same grid, non-zero inside
    Raises InputError when there is no volume, or when two grids differ; UsageError for a contrast that is not known,
    and for what is no Volume.
    """

    name: str
    volumes: Mapping[Contrast, Volume]
    segmentation: Volume | None = None
    mask: Volume | None = field(default=None)

    def __post_init__(self) -> None:
        self._check_types()
        object.__setattr__(self, "volumes", by_contrast(self.volumes))  # a dict of its own
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

    def __repr__(self) -> str:
        more = [what for what in ("segmentation", "mask") if getattr(self, what) is not None]
        return f"<Subject {self.name}: {', '.join([*self.available, *more])}; {self.reference!r}>"

    def _check_types(self) -> None:
        name: object = self.name
        volumes: object = self.volumes
        if not isinstance(name, str) or not isinstance(volumes, Mapping):
            got = f"{type(name).__name__} and {type(volumes).__name__}"
            raise UsageError(
                f"Subject: name and volumes are of type {got}; expected str and a dict of Volume by contrast."
            )
        beside = {"segmentation": self.segmentation, "mask": self.mask}
        given = [*volumes.items(), *((what, v) for what, v in beside.items() if v is not None)]
        for what, volume in given:
            if not isinstance(volume, Volume):
                raise UsageError(
                    f"{name}: {what} is a {type(volume).__name__}; expected a Volume. Images of nibabel and arrays go "
                    "into `complete_subject` by contrast, without a Subject."
                )

    @property
    def available(self) -> tuple[Contrast, ...]:
        """The contrasts present, in canonical order."""
        return tuple(c for c in Contrast if c in self.volumes)

    def missing(self, contrasts: Iterable[Contrast | str] = STANDARD) -> tuple[Contrast, ...]:
        """Those of `contrasts` the subject lacks, in canonical order. Raises UsageError for one that is not known."""
        wanted = {contrast_of(contrast) for contrast in contrasts}
        return tuple(c for c in Contrast if c in wanted and c not in self.volumes)

    @property
    def reference(self) -> Volume:
        """The first available contrast: its grid is the subject's grid."""
        return self.volumes[self.available[0]]

    def foreground(self) -> NDArray[np.bool_]:
        """(I, J, K) bool: voxels where any available contrast is non-zero (in a CT: no air), inside the brain mask."""
        union: NDArray[np.bool_] = shown_by_any(self.volumes)
        return union if self.mask is None else union & (self.mask.voxels != 0)

    def without(self, *hidden: Contrast | str) -> "Subject":
        """The same subject with some contrasts hidden, as an experiment that knows the truth needs it.

        Raises UsageError for a contrast that is not known, InputError when none is left.
        """
        gone = {contrast_of(contrast) for contrast in hidden}
        kept = {c: v for c, v in self.volumes.items() if c not in gone}
        return Subject(self.name, kept, self.segmentation, self.mask)


def by_contrast(given: Mapping[Any, T]) -> dict[Contrast, T]:
    """A mapping whose keys name contrasts, by these. Raises UsageError for another key, and for two of one contrast."""
    found: dict[Contrast, T] = {}
    for key, value in given.items():
        if (contrast := contrast_of(key)) in found:
            raise UsageError(
                f"{contrast.label} is given twice, under two spellings of its name. Leave one of them out."
            )
        found[contrast] = value
    return found


def describe_grid(label: str, volume: Volume) -> str:
    """Shape and affine on a few lines, for messages."""
    rows = "; ".join(" ".join(f"{x:.4g}" for x in row) for row in volume.affine[:3])
    return f"  {label}: shape {'x'.join(map(str, volume.shape))}, affine [{rows}]"
