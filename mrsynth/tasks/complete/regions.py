"""Volumes of tumour regions, as the built-in segmenter sees them with and without what is synthetic."""

from collections.abc import Mapping

import numpy as np

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.plain import Mask
from mrsynth.reports.record import RegionVolumes, VolumesRecord
from mrsynth.scans.volume import Volume
from mrsynth.segmenter.network import Segmenter
from mrsynth.tasks.benchmark.segmentation import open_segmenter
from mrsynth.tasks.complete.completion import Completed
from mrsynth.tasks.complete.plan import Plan

MM3_PER_ML = 1000.0


def segmenter_for(todo: Plan, device: str) -> Segmenter:
    """The built-in one, before any work is done for it.

    Raises InputError where it reads none of the contrasts that are there, or none of those to be made, WeightsError.
    """
    segmenter = open_segmenter("builtin", device)
    for what, contrasts in (("is there", todo.files.available), ("is to be made", todo.targets)):
        if not set(contrasts) & set(segmenter.contrasts):
            reads = ", ".join(c.label for c in segmenter.contrasts)
            raise InputError(
                f"{todo.files.name}: the built-in segmenter reads {reads}, of which none {what}. Leave --segment out."
            )
    return segmenter


def region_volumes(
    segmenter: Segmenter, completed: Completed, truths: Mapping[Contrast, Volume] | None = None
) -> VolumesRecord:
    """Each region from the acquired contrasts alone, with the synthetic ones, and with the true ones in their place.

    truths   of what was made, on the subject's own grid; the third figure needs all of them
    Raises InputError where the segmenter reads none of the acquired contrasts.
    """
    made = {c: v for c, v in completed.volumes.items() if c in segmenter.contrasts}
    acquired = {c: v for c, v in completed.subject.volumes.items() if c in segmenter.contrasts and c not in made}
    true = {c: v for c, v in (truths or {}).items() if c in made}
    without, synthetic = segmenter.segment(acquired), segmenter.segment({**acquired, **made})
    real = segmenter.segment({**acquired, **true}) if set(true) == set(made) else {}
    voxel = completed.subject.reference.voxel_volume / MM3_PER_ML

    def millilitres(mask: Mask) -> float:
        return float(np.count_nonzero(mask)) * voxel

    return VolumesRecord(
        segmenter=segmenter.name,
        acquired=tuple(acquired),
        synthetic=tuple(made),
        regions=tuple(
            RegionVolumes(
                region=region,
                acquired_ml=millilitres(without[region]),
                synthetic_ml=millilitres(synthetic[region]),
                true_ml=millilitres(real[region]) if real else None,
            )
            for region in segmenter.regions
        ),
    )
