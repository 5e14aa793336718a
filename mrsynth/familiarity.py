"""Whether a subject looks like the images a checkpoint was trained on, in plain words where it does not."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mrsynth.card import Card
from mrsynth.contrasts import Contrast
from mrsynth.preparation import Prepared
from mrsynth.subject import Subject

# Brains of shared/data measure 1.1 to 1.7 litres, the whole heads of its raw images 4.9 to 5.5.
LARGEST_BRAIN_LITRES = 2.2
SMALLEST_BRAIN_LITRES = 0.6
THICK_SLICES_MM = 2.5
# How far real images lie from the mean histogram of the others: the 95th percentile over the 22 training subjects of
# shared/data, each compared with the mean of the others and six phantoms. Vessels and lesions set the scale of T1ce and
# FLAIR, so those spread most, and a FLAIR or T1ce given as the other is beyond what a histogram tells. Of the same
# subjects, T2 given as T1 is above the limit in 95 %, T1 as T2 in 91 %, FLAIR as T2 in 73 %, T2 as FLAIR in 64 %, an
# inverted T1 or T2 in 91 and 95 %; a head with its skull and the noise around it in T1, T2 and FLAIR, and by its size.
USUAL_DISTANCE = {Contrast.T1: 0.23, Contrast.T1CE: 0.26, Contrast.T2: 0.12, Contrast.FLAIR: 0.20}
USUAL_DISTANCE_OF_OTHERS = 0.25

Histogram = Sequence[float] | NDArray[np.float64]  # one share per bin, in equal bins of u over [0, 1]


def unfamiliar(subject: Subject, prepared: Prepared, card: Card) -> list[str]:
    """Sentences about foreground, spacing and intensities unlike the training data; none when all is as usual."""
    warnings = []
    litres = foreground_litres(subject)
    if has_skull(subject):
        warnings.append(
            f"The foreground is {litres:.1f} litres, more than a brain: is the skull still there? This checkpoint "
            "knows only skull-stripped images. Remove the skull (for example with HD-BET or SynthStrip) and run again."
        )
    elif litres < SMALLEST_BRAIN_LITRES:
        warnings.append(
            f"The foreground is {litres:.2g} litres, less than a whole brain. The intensity scale is taken from what "
            "is there and may be off."
        )
    if max(subject.reference.spacing) > THICK_SLICES_MM:
        size = " x ".join(f"{s:.3g}" for s in subject.reference.spacing)
        warnings.append(
            f"Voxels are {size} mm. The checkpoint works on a 1 mm grid; "
            "what lies between thick slices is interpolated."
        )
    for contrast, usual in card.intensity.items():
        if contrast in prepared.scales:
            histogram = intensity_histogram(prepared, contrast, len(usual))
            warnings += unusual_intensities(contrast, histogram, card.intensity)
    return warnings


def unusual_intensities(contrast: Contrast, histogram: Histogram, usual: Mapping[Contrast, Histogram]) -> list[str]:
    """A warning if the histogram of one contrast is far from the usual one; it names the contrast that is closest."""
    distance = histogram_distance(histogram, usual[contrast])
    limit = USUAL_DISTANCE.get(contrast, USUAL_DISTANCE_OF_OTHERS)
    if distance <= limit:
        return []
    closest = min(usual, key=lambda other: histogram_distance(histogram, usual[other]))
    hint = f" (they look more like {closest.label})" if closest is not contrast else ""
    return [
        f"The intensities of {contrast.label} are spread unlike those of the training data (distance {distance:.2f}, "
        f"usual up to {limit:.2f}): another scanner protocol, a strong bias field, or not the contrast it is taken "
        f"for{hint}. Expect lower quality."
    ]


def foreground_litres(subject: Subject) -> float:
    """Volume of the foreground."""
    voxel = abs(float(np.linalg.det(subject.reference.affine[:3, :3])))  # cubic millimetres, also of a sheared grid
    return int(subject.foreground().sum()) * voxel / 1e6


def has_skull(subject: Subject) -> bool:
    """Whether the foreground is larger than any brain."""
    return foreground_litres(subject) > LARGEST_BRAIN_LITRES


def intensity_histogram(prepared: Prepared, contrast: Contrast, bins: int) -> NDArray[np.float64]:
    """Share of the brain voxels in equal bins of u over [0, 1]: what `Card.intensity` averages over training subjects.

    The brain is where any available contrast is above 0; voxels of it where this contrast is 0 count.
    """
    voxels = prepared.images[prepared.contrasts.index(contrast)][prepared.images.any(axis=0)]
    counts, _ = np.histogram(voxels, bins=bins, range=(0, 1))
    shares: NDArray[np.float64] = counts / max(counts.sum(), 1)
    return shares


def histogram_distance(ours: Histogram, theirs: Histogram) -> float:
    """Earth mover's distance between two histograms over [0, 1] with the same bins: 0 if alike, below 1."""
    a, b = (np.cumsum(h) / max(np.sum(h), 1e-12) for h in (ours, theirs))
    return float(np.abs(a - b).mean())
