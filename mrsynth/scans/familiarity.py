"""Whether a subject looks like the images a checkpoint was trained on, in plain words where it does not."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.scans.agreement import misplaced
from mrsynth.scans.foreground import differences, shown_by_each
from mrsynth.scans.likeness import made_from_another
from mrsynth.scans.preparation import Prepared
from mrsynth.scans.stripping import LARGEST_BRAIN_LITRES
from mrsynth.scans.subject import Subject

SMALLEST_BRAIN_LITRES = 0.6
THICK_SLICES_MM = 2.5
CLIPPED_SHARE = 0.02  # of a CT without its air; what a head has beyond 2000 Hounsfield units is less
# Of the 83 images of 22 real training subjects, 81 (98 %) lie closer than this to the mean histogram of
# the other subjects and six phantoms. T1ce and FLAIR spread most, since vessels and lesions set their scale. Further
# away lie, of the same images, T2 given as T1 (86 %), T1 as T2 (91 %), FLAIR as T2 and T2 as FLAIR (59 %), inverted T1
# (91 %) and T2 (95 %), and every raw head with its skull. T1ce and FLAIR taken for each other often pass.
USUAL_DISTANCE = {Contrast.T1: 0.25, Contrast.T1CE: 0.27, Contrast.T2: 0.15, Contrast.FLAIR: 0.21}
USUAL_DISTANCE_OF_OTHERS = 0.25

Histogram = Sequence[float] | NDArray[np.float64]  # one share per bin, in equal bins of u over [0, 1]


class Known(Protocol):
    """What a checkpoint's card says of its training data: its contrasts, and a histogram of some of them."""

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """In the order of the channels."""
        ...

    @property
    def intensity(self) -> Mapping[Contrast, tuple[float, ...]]:
        """Share of the brain voxels in equal bins of u over [0, 1]."""
        ...


def unfamiliar(subject: Subject, prepared: Prepared, card: Known) -> list[str]:
    """Sentences about foreground, spacing and intensities unlike the training data; none when all is as usual."""
    warnings = []
    litres = foreground_litres(subject)
    if litres > LARGEST_BRAIN_LITRES and Contrast.CT not in card.contrasts:  # where CT is known, so are whole heads
        warnings.append(
            f"The foreground is {litres:.1f} litres, more than a brain: is the skull still there? This checkpoint "
            "knows only skull-stripped images. Remove the skull (for example with HD-BET or SynthStrip) and run again."
        )
    elif litres < SMALLEST_BRAIN_LITRES:
        warnings.append(
            f"The foreground is {litres:.2g} litres, less than a whole brain. The intensity scale is taken from what "
            "is there and may be off."
        )
    mask = None if subject.mask is None else subject.mask.voxels != 0
    used = {c: subject.volumes[c] for c in prepared.scales if c in subject.volumes}
    seen = shown_by_each(used, mask)
    warnings += differences(seen)
    warnings += misplaced(prepared)
    warnings += made_from_another(used, seen)
    if max(subject.reference.spacing) > THICK_SLICES_MM:
        size = " x ".join(f"{s:.3g}" for s in subject.reference.spacing)
        warnings.append(
            f"Voxels are {size} mm. The checkpoint works on a 1 mm grid; "
            "what lies between thick slices is interpolated."
        )
    clipped = prepared.record.get("clipped", {}).get(Contrast.CT.value, 0.0)
    if clipped > CLIPPED_SHARE:
        low, high = prepared.hounsfield
        warnings.append(
            f"{clipped:.0%} of the CT, air apart, lie above {high:g} Hounsfield units and are clipped: this checkpoint "
            f"knows {low:g} to {high:g}. Metal, a contrast agent, or a CT that is not in these units."
        )
    for contrast, usual in card.intensity.items():
        if contrast not in prepared.scales:
            continue
        distance = histogram_distance(intensity_histogram(prepared, contrast, len(usual)), usual)
        limit = USUAL_DISTANCE.get(contrast, USUAL_DISTANCE_OF_OTHERS)
        if distance > limit:
            warnings.append(
                f"The intensities of {contrast.label} are spread unlike those of the training data (distance "
                f"{distance:.2f}, usual up to {limit:.2f}): another scanner protocol, a strong bias field, or not the "
                "contrast it is taken for. Expect lower quality."
            )
    return warnings


def foreground_litres(subject: Subject) -> float:
    """Volume of the foreground."""
    return int(subject.foreground().sum()) * subject.reference.voxel_volume / 1e6


def has_skull(subject: Subject) -> bool:
    """Whether the foreground is larger than any brain."""
    return foreground_litres(subject) > LARGEST_BRAIN_LITRES


def intensity_histogram(prepared: Prepared, contrast: Contrast, bins: int) -> NDArray[np.float64]:
    """Share of the brain voxels in equal bins of u over [0, 1]: what `Card.intensity` averages over training subjects.

    The brain is the foreground of the available contrasts; voxels of it where this contrast is 0 count.
    """
    voxels = prepared.images[prepared.contrasts.index(contrast)][prepared.mask]
    counts, _ = np.histogram(voxels, bins=bins, range=(0, 1))
    shares: NDArray[np.float64] = counts / max(counts.sum(), 1)
    return shares


def histogram_distance(ours: Histogram, theirs: Histogram) -> float:
    """Earth mover's distance between two histograms over [0, 1] with the same bins: 0 if alike, below 1."""
    a, b = (np.cumsum(h) / max(np.sum(h), 1e-12) for h in (ours, theirs))
    return float(np.abs(a - b).mean())
