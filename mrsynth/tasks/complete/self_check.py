"""What a subject says of a synthesis: each contrast that is there is hidden, made from the others, and compared."""

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast, pattern_name
from mrsynth.plain import Progress
from mrsynth.sampling import Crop, Estimator
from mrsynth.scans.hounsfield import window_of
from mrsynth.scans.subject import Subject
from mrsynth.scores.metrics import ends
from mrsynth.scores.protocols import Case, measure
from mrsynth.scores.rows import Score
from mrsynth.tasks.complete.completion import in_standard_u
from mrsynth.tasks.trained import Trained

OF_SLICES = ("full2d", "brain2d")  # protocols
SELF_CHECK_SLICES = 5
FAST_SELF_CHECK_SLICES = 2
FAST_SELF_CHECK_CONTRASTS = 1


def check_on_itself(
    trained: Trained,
    subject: Subject,
    how: Estimator,
    crop: Crop | None,
    count: int,
    progress: Progress | None,
    most: int | None = None,
) -> list[Score]:
    """Hide each available contrast, make it from the rest on `count` slices, and compare. Empty with one contrast.

    most   so many contrasts, the first that can be made; None for all

    What is scored is what is delivered: the same estimator with the same draws, in a crop and a foreground that do not
    know the hidden contrast. Of a committee those take part that can do with what is left; the rows name them. Of
    several planes axial slices alone are made, which are a little worse than what is delivered.
    """
    contrasts, progress = trained.contrasts, progress or (lambda *_: None)
    present = [c for c in contrasts if c in subject.available]
    delivered = replace(how, samples=1) if how.mode == "sample" else how  # of several samples the first is delivered
    rows: list[Score] = []
    checked: list[Contrast] = []
    for number, hidden in enumerate(present):
        others = [c for c in present if c is not hidden]
        if len(checked) == most or not trained.card.supports(set(others), hidden):
            continue
        checked.append(hidden)
        progress("self-check", number, len(present))
        began = time.perf_counter()
        given = subject.without(hidden)
        prepared = trained.prepare(given, crop)
        slices = spread_slices(prepared.mask, count)
        made = trained.synthesise(given, prepared, delivered, targets=[hidden], slices=slices)
        seconds = time.perf_counter() - began
        truth = prepared.brought(subject.volumes[hidden].voxels)  # not `images`, which are clipped for the network
        case = Case(
            prediction=in_standard_u(hidden, made.image[contrasts.index(hidden)][..., slices], prepared.hounsfield),
            truth=truth[..., slices],
            mask=prepared.mask[..., slices],
            window=window_of(hidden) or ends(subject.volumes[hidden].voxels),
        )
        able = ", ".join(member.card.name for member in trained.taking_part(others, hidden))
        about = {"pattern": pattern_name(others), "target": hidden, "kind": "self-check", "weights": able}
        rows += measure(case, OF_SLICES, **about, slices=tuple(slices), seconds=seconds)
    return rows


def spread_slices(mask: NDArray[np.bool_], count: int) -> list[int]:
    """Indices along K, evenly through the middle four fifths of the foreground."""
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    places = np.linspace(0.1, 0.9, count) * (len(filled) - 1)
    return sorted({int(filled[round(p)]) for p in places})
