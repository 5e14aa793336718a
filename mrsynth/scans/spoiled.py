"""Signs that a scan is spoiled: hints for a person who then looks at it, no verdict."""

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume

SLAB = 2  # slices in a row without any difference between voxels, where other contrasts show the brain
SLICE_SHARE = 0.05  # of the largest slice of the brain: smaller ones at its ends say nothing
CLIPPED_SHARE = 0.005  # of the brain at exactly the highest value
LEAST_SHARED = {  # of a contrast's variance in the brain, what the others predict of it: the least of 22 real subjects
    Contrast.T1: 0.20,
    Contrast.T1CE: 0.12,
    Contrast.T2: 0.24,
    Contrast.FLAIR: 0.30,
}
FAR_BELOW = 0.5  # of that; three in four of their T2 that were mirrored, moved by six voxels or noisy fall below
SAMPLE, FEWEST = 30_000, 5_000  # voxels of the brain that this is told from


def signs_of_damage(subject: Subject) -> dict[Contrast, list[str]]:
    """For each contrast that shows any: constant slabs, clipping, and what the others do not predict.

    Empty where nothing was seen.
    """
    brain = subject.foreground()
    found = {c: [*constant_slabs(v, brain), *clipping(v, brain)] for c, v in subject.volumes.items()}
    for contrast, sign in unlike_the_others(subject, brain).items():
        found[contrast].append(sign)
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


def unlike_the_others(subject: Subject, brain: NDArray[np.bool_]) -> dict[Contrast, str]:
    """The contrast that the others predict far worse than usual, if there is one; needs three contrasts.

    It may be noise, moved, mirrored, or of somebody else. A spoiled contrast spoils what it predicts, too, so only the
    worst is named.
    """
    known = [c for c in subject.volumes if c in LEAST_SHARED]
    inside = np.flatnonzero(brain)
    if len(known) < 3 or len(inside) < FEWEST:
        return {}
    chosen = np.random.default_rng(0).choice(inside, min(SAMPLE, len(inside)), replace=False)
    u = {c: _unit(subject.volumes[c].voxels.reshape(-1)[chosen]) for c in known}
    shared = {c: predicted_share(u[c], np.stack([u[other] for other in known if other is not c])) for c in known}
    worst = min(shared, key=lambda c: shared[c] / LEAST_SHARED[c])
    if shared[worst] >= FAR_BELOW * LEAST_SHARED[worst]:
        return {}
    told = f"the others predict {max(shared[worst], 0):.0%} of its variation, usually {LEAST_SHARED[worst]:.0%} or more"
    return {worst: told}


def predicted_share(target: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The share of the variance of `target` (N,) that a cubic regression on `others` (C, N) predicts.

    Fitted on every second voxel and counted on the rest: 1 is all, 0 no more than the mean.
    """
    products = [a * b for i, a in enumerate(others) for b in others[i:]]
    terms = np.stack([np.ones_like(target), *others, *products, *others**3], axis=1)
    fitted = np.arange(len(target)) % 2 == 0
    weights = np.linalg.lstsq(terms[fitted], target[fitted], rcond=None)[0]
    missed = target[~fitted] - terms[~fitted] @ weights
    variance = float(target[~fitted].var())
    return 1 - float((missed**2).mean()) / variance if variance else 1.0


def _unit(voxels: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) u in [0, 1]: 1 at the 99.5th percentile."""
    top = float(np.percentile(voxels, 99.5)) or 1.0
    return np.clip(voxels.astype(np.float64) / top, 0, 1)
