"""Whether a subject looks like the images a checkpoint was trained on, in plain words where it does not."""

from collections.abc import Sequence

import numpy as np

from mrsynth.card import Card
from mrsynth.preparation import Prepared
from mrsynth.subject import Subject

LARGEST_BRAIN_LITRES = 2.2
SMALLEST_BRAIN_LITRES = 0.6
LARGEST_HISTOGRAM_DISTANCE = 0.12
THICK_SLICES_MM = 2.5


def unfamiliar(subject: Subject, prepared: Prepared, card: Card) -> list[str]:
    """Sentences about intensities, spacing and foreground unlike the training data; none when all is as usual."""
    warnings = []
    spacing = subject.reference.spacing
    litres = float(subject.foreground().sum() * np.prod(spacing) / 1e6)
    if litres > LARGEST_BRAIN_LITRES:
        warnings.append(
            f"The foreground is {litres:.1f} litres, more than a brain: is the skull still there? This checkpoint knows "
            "only skull-stripped images. Remove the skull (for example with HD-BET or SynthStrip) and run again."
        )
    elif litres < SMALLEST_BRAIN_LITRES:
        warnings.append(
            f"The foreground is {litres:.2f} litres, less than a whole brain. The intensity scale is taken from what is "
            "there and may be off."
        )
    if max(spacing) > THICK_SLICES_MM:
        warnings.append(
            f"Voxels are {' x '.join(f'{s:.3g}' for s in spacing)} mm. The checkpoint works on a 1 mm grid; what lies "
            "between thick slices is interpolated."
        )
    for contrast, expected in card.intensity.items():
        if contrast not in prepared.scales:
            continue
        voxels = prepared.images[prepared.contrasts.index(contrast)][prepared.mask]
        distance = histogram_distance(voxels, expected)
        if distance > LARGEST_HISTOGRAM_DISTANCE:
            warnings.append(
                f"The intensities of {contrast.label} are spread unlike those of the training data (distance "
                f"{distance:.2f}, usual up to {LARGEST_HISTOGRAM_DISTANCE:.2f}): another scanner protocol, strong bias "
                "field, or not the contrast it is taken for. Expect lower quality."
            )
    return warnings


def histogram_distance(voxels: np.typing.NDArray[np.float32], expected: Sequence[float]) -> float:
    """Earth mover's distance between the voxels (u in [0, 1]) and a histogram of equal bins over [0, 1]; 0 to 1."""
    counts, _ = np.histogram(voxels, bins=len(expected), range=(0, 1))
    ours = np.cumsum(counts / max(counts.sum(), 1))
    theirs = np.cumsum(np.asarray(expected) / max(sum(expected), 1e-12))
    return float(np.abs(ours - theirs).mean())
