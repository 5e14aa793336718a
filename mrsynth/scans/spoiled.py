"""Signs that a scan is spoiled: hints for a person who then looks at it, no verdict."""

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume

SLAB = 2  # slices in a row without any difference between voxels, where other contrasts show the brain
SLICE_SHARE = 0.05  # of the largest slice of the brain: smaller ones at its ends say nothing
CLIPPED_SHARE = 0.005  # of the brain at exactly the highest value


def signs_of_damage(subject: Subject) -> dict[Contrast, list[str]]:
    """For each contrast that shows any: constant slabs, and clipping. Empty where nothing was seen."""
    brain = subject.foreground()
    found = {c: [*constant_slabs(v, brain), *clipping(v, brain)] for c, v in subject.volumes.items()}
    return {contrast: signs for contrast, signs in found.items() if signs}


def constant_slabs(volume: Volume, brain: NDArray[np.bool_]) -> list[str]:
    """Slabs along any axis in which every voxel of the brain has one value, such as 0 where slices were lost.

    brain   (I, J, K) bool, as all contrasts together show it
    """
    signs = []
    for axis, name in enumerate(["first", "second", "third"]):
        planes, inside = np.moveaxis(volume.voxels, axis, 0), np.moveaxis(brain, axis, 0)
        area = inside.sum((1, 2))
        wide = area > SLICE_SHARE * area.max()
        flat = np.array([bool(w) and bool(np.ptp(p[b]) == 0) for p, b, w in zip(planes, inside, wide, strict=True)])
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [0]])))
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            if end - first >= SLAB:
                signs.append(f"slices {first} to {end - 1} along its {name} axis hold one value only")
    return signs


def clipping(volume: Volume, brain: NDArray[np.bool_]) -> list[str]:
    """Whether many voxels of the brain share the highest value, as where a range was cut off."""
    inside = volume.voxels[brain]
    if inside.size == 0 or len(np.unique(inside[:1000])) < 3:
        return []
    share = float((inside == inside.max()).mean())
    return [f"{share:.1%} of the brain have exactly the highest value"] if share > CLIPPED_SHARE else []
