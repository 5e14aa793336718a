"""Prepared subjects as the loop sees them: addressed slice by slice or box by box."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mrsynth.io.cache import FOREGROUND, CachedSubject
from mrsynth.methods.base import Trainable
from mrsynth.sampling import AXIAL, Plane
from mrsynth.scans.planes import ORDER, padded
from mrsynth.training.batches import ExampleSource, Slab

EMPTY = 0.1  # boxes with less brain than this share of their voxels are not worth training on


def examples_of(
    subjects: Sequence[CachedSubject],
    method: Trainable,
    crop: Sequence[int] | None = None,
    slices: int | None = None,
    planes: Sequence[Plane] = AXIAL,
) -> ExampleSource:
    """What the method learns from in these subjects: slices, or boxes for a method of three dimensions.

    crop    voxels of the boxes; None for whole volumes
    slices  of each subject and plane, evenly over those with brain; None for all
    With labels, where the method wants them and any of the subjects has a segmentation.
    """
    labels = method.wants_labels and any(subject.labels is not None for subject in subjects)
    if method.dimensions == 3:
        return Boxes(subjects, crop, labels)
    return Slices(subjects, method.neighbours, labels, slices, planes, method.multiple)


class Slices:
    """Every training slice of a cohort, or so many of each subject and plane, addressed by one index.

    multiple   of how many pixels the sides of those of other planes than the axial are; the axial are as prepared
    """

    def __init__(
        self,
        subjects: Sequence[CachedSubject],
        neighbours: int,
        labels: bool = False,
        count: int | None = None,
        planes: Sequence[Plane] = AXIAL,
        multiple: int = 1,
    ):
        self.subjects, self.neighbours, self.labels, self.multiple = subjects, neighbours, labels, multiple
        self.places = [
            (s, plane, n)
            for s, subject in enumerate(subjects)
            for plane in planes
            for n in spread(with_brain(subject, plane), count)
        ]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Rows and columns of each."""
        size = cache(lambda s, plane: self._size(self.subjects[s], plane))
        return [size(s, plane) for s, plane, _ in self.places]

    def _size(self, subject: CachedSubject, plane: Plane) -> tuple[int, int]:
        rows, columns = (subject.shape[axis] for axis in ORDER[plane][:2])
        multiple = 1 if plane == "axial" else self.multiple
        return rows + -rows % multiple, columns + -columns % multiple

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Slab:
        s, plane, n = self.places[index]
        subject = self.subjects[s]
        images, labels = subject.slab(n, self.neighbours, plane), None
        if self.labels:
            labels = subject.label_slice(n, plane)
        if plane != "axial":
            images = padded(images, self.multiple, 2)
            if labels is not None:
                labels = padded(
                    labels, self.multiple, 0, background=min(0, int(labels.min()))
                )  # -1 where none are known
        return Slab(images, np.array(subject.present), labels, across=plane == "sagittal")


def with_brain(subject: CachedSubject, plane: Plane) -> Sequence[int]:
    """The slices of a plane that are worth training on; of other planes than the axial by a quarter of the voxels."""
    if plane == "axial":
        return subject.slices
    seen = subject.volumes(plane)[:, ::2, ::2]
    filled: NDArray[np.bool_] = (seen > 0).any(axis=0).mean(axis=(0, 1)) > FOREGROUND
    return [int(n) for n in np.flatnonzero(filled)]


def spread(slices: Sequence[int], count: int | None) -> list[int]:
    """So many of these, each in the middle of an equal part of them; all where there are fewer, or with None."""
    if count is None or count >= len(slices):
        return list(slices)
    return [slices[(2 * part + 1) * len(slices) // (2 * count)] for part in range(count)]


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

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """Of each box."""
        return [size for _, _, size in self.places]

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
