"""Slow changes of brightness, as coils leave them: N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908)."""

from typing import Any

import numpy as np

from mrsynth.plain import Array, Mask
from mrsynth.scans.volume import Volume

COARSE_MM = 4.0  # the field is found on voxels of this size
ITERATIONS = (50, 50, 30)


def corrected(volume: Volume, brain: Mask | None = None) -> Volume:
    """The scan divided by its bias field, whose geometric mean in the brain is 1; background 0 stays 0.

    brain  where the field is measured; None: wherever the scan is positive
    """
    import SimpleITK

    sitk: Any = SimpleITK
    positive = volume.voxels > 0
    inside = positive if brain is None else positive & brain
    image, mask = _image(sitk, volume.voxels.clip(0), volume), _image(sitk, inside.astype(np.uint8), volume)
    steps = [max(1, int(COARSE_MM / s)) for s in volume.spacing]
    method = sitk.N4BiasFieldCorrectionImageFilter()
    method.SetMaximumNumberOfIterations(ITERATIONS)
    method.Execute(sitk.Shrink(image, steps), sitk.Shrink(mask, steps))
    log_field: Array = sitk.GetArrayFromImage(method.GetLogBiasFieldAsImage(image)).T
    log_field = log_field - (log_field[inside].mean() if inside.any() else 0)
    return Volume((volume.voxels / np.exp(log_field)).astype(np.float32), volume.affine)


def _image(sitk: Any, array: Any, volume: Volume) -> Any:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(volume.spacing)
    return image
