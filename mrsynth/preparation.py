"""From a subject's own grid to the grid and intensities of a model, and exactly back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from mrsynth.card import Plain
from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.grid import Orientation, Resampling, is_axis_code
from mrsynth.subject import Subject
from mrsynth.volume import Volume

SPACING_RANGE_MM = (0.05, 20.0)
LARGEST_EXTENT_MM = 1000.0
NEGATIVE_SHARE = 0.1  # of the total absolute intensity: ringing stays far below, z-scored images near 0.5
RULE = "u = clip(v / q, 0, 1); q = {quantile:g} quantile of the contrast's voxels in the foreground; 0 outside it"

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


class PreparationConfig(Plain):
    """The grid and intensity rule that a checkpoint was trained with.

    axes               where the array axes point, one of the 48 codes: LPS means left, posterior, superior
    spacing            millimetres, isotropic
    spacing_tolerance  an axis whose spacing differs by no more than this fraction is left as it is
    quantile           of the foreground intensities, the one that becomes u = 1
    multiple           the first two axes are padded to multiples of this many voxels
    """

    axes: str = "LPS"
    spacing: float = Field(1.0, gt=0)
    spacing_tolerance: float = Field(0.05, ge=0)
    quantile: float = Field(0.995, gt=0, le=1)
    multiple: int = Field(16, gt=0)

    @field_validator("axes")
    @classmethod
    def _is_axis_code(cls, axes: str) -> str:
        if not is_axis_code(axes):
            raise ValueError(f"axes {axes!r}: expected one letter of each of L/R, P/A and I/S, as in LPS")
        return axes


@dataclass(frozen=True, eq=False)
class Prepared:
    """A subject as a model sees it.

    images     (C, I, J, K) float32, u in [0, 1], 0 outside the mask; absent contrasts all zero
    available  (C,) bool
    mask       (I, J, K) bool, the foreground
    contrasts  what the C channels are
    scales     available contrast -> q, in the units of its file
    record     what was done, ready for JSON
    grid       the way back
    """

    images: Array
    available: Mask
    mask: Mask
    contrasts: tuple[Contrast, ...]
    scales: Mapping[Contrast, float]
    record: dict[str, Any]
    grid: "ModelGrid"

    def restore(self, array: NDArray[Any]) -> Volume:
        """Bring an image from the model's grid to the subject's own; 0 outside the subject's foreground.

        array  (I, J, K), as one of `images`. Without resampling every voxel comes back bit for bit.
        """
        if array.shape != self.mask.shape:
            raise ValueError(f"restore expects an image of shape {self.mask.shape}, not {array.shape}")
        return self.grid.restore(np.asarray(array, dtype=np.float32), self.mask)


def prepare(subject: Subject, contrasts: Sequence[Contrast], config: PreparationConfig) -> Prepared:
    """Bring those of `contrasts` that the subject has to the axes, spacing and intensities of `config`.

    The images are cropped to the box of the foreground (voxels non-zero in any of them, inside the brain mask if there
    is one); the first two axes are padded centrally to multiples of `config.multiple`, the third is the box.
    Raises InputError when no voxels or no usable intensities are left, or when the spacing is not that of a head.
    """
    used = {c: subject.volumes[c] for c in contrasts if c in subject.volumes}
    if not used:
        raise InputError(
            f"{subject.name}: none of the contrasts this model knows ({', '.join(c.label for c in contrasts)}) is "
            f"there; found {', '.join(c.label for c in subject.available)}. Give at least one, or use another method."
        )
    for contrast, volume in used.items():
        check_intensities(subject.name, contrast, volume)
    foreground = _foreground(subject, used)
    scales = {c: _scale(subject.name, c, v.voxels[foreground], config.quantile) for c, v in used.items()}

    reference = subject.reference
    _check_spacing(subject.name, reference)
    orientation = Orientation.between(reference.affine, config.axes)
    resampling = Resampling.to(
        config.spacing,
        config.spacing_tolerance,
        orientation.apply(foreground).shape,
        orientation.spacing(reference.spacing),
    )
    weight = resampling.forward(orientation.apply(foreground).astype(np.float32))
    mask = weight >= 0.5
    if not mask.any():
        raise InputError(
            f"{subject.name}: the foreground ({int(foreground.sum())} voxels) is too small to be seen at "
            f"{config.spacing:g} mm. Expected a brain; check the images and their voxel spacing."
        )
    box = _box(mask)
    padding = [_central_padding(b.stop - b.start, config.multiple if axis < 2 else 1) for axis, b in enumerate(box)]
    shape = tuple(b.stop - b.start + sum(p) for b, p in zip(box, padding, strict=True))
    inside = tuple(slice(p[0], n - p[1]) for p, n in zip(padding, shape, strict=True))

    images = np.zeros((len(contrasts), *shape), dtype=np.float32)
    model_mask = np.zeros(shape, dtype=bool)
    model_mask[inside] = mask[box]
    for channel, contrast in enumerate(contrasts):
        if contrast in used:
            # dividing by the interpolated foreground keeps the background from bleeding into the edge of the brain
            masked = np.where(foreground, used[contrast].voxels, np.float32(0))
            voxels = resampling.forward(orientation.apply(masked))[box] / np.maximum(weight[box], np.float32(0.5))
            u = np.clip(voxels / np.float32(scales[contrast]), 0, 1)
            images[channel][inside] = np.where(mask[box], u, np.float32(0))

    grid = ModelGrid(reference.affine, foreground, orientation, resampling, box, inside)
    record = {
        "axes": {"from": orientation.code, "to": config.axes},
        "spacing_mm": {"from": list(resampling.spacing), "to": list(resampling.new_spacing)},
        "resampled": resampling.needed,
        "interpolation": "linear, normalised by the interpolated foreground" if resampling.needed else None,
        "shape": {"own": list(reference.shape), "resampled": list(mask.shape), "model": list(shape)},
        "box": [[b.start, b.stop] for b in box],
        "padding": [list(p) for p in padding],
        "foreground_voxels": int(foreground.sum()),
        "brain_mask_given": subject.mask is not None,
        "scales": {c.value: q for c, q in scales.items()},
        "rule": RULE.format(quantile=config.quantile),
    }
    available = np.array([c in used for c in contrasts], dtype=bool)
    return Prepared(images, available, model_mask, tuple(contrasts), scales, record, grid)


def check_intensities(name: str, contrast: Contrast, volume: Volume) -> None:
    """Raise InputError unless the volume looks like a magnitude image on a background of zero.

    A few negative voxels, as ringing leaves them, are fine; a negative background and z-scored intensities are not.
    """
    voxels = volume.voxels
    faces = np.concatenate([np.take(voxels, end, axis=axis).ravel() for axis in range(3) for end in (0, -1)])
    values, counts = np.unique(faces, return_counts=True)
    commonest = counts.argmax()
    if values[commonest] < 0 and 2 * counts[commonest] > faces.size:
        raise InputError(
            f"{name}: {contrast.label} background is {values[commonest]:g}; mrsynth expects exactly 0 outside "
            "the brain (a skull-stripped image). Set the background to 0, or multiply the image by its brain mask."
        )
    low, high = float(voxels.min()), float(voxels.max())
    if low < 0:
        negative = -float(np.minimum(voxels, 0).sum(dtype=np.float64))
        total = float(np.abs(voxels).sum(dtype=np.float64))
        if negative > NEGATIVE_SHARE * total:
            raise InputError(
                f"{name}: {contrast.label} has large negative intensities (from {low:g} to {high:g}, "
                f"{negative / total:.0%} of the signal); mrsynth expects a magnitude image that is 0 outside the brain "
                "and positive inside. Give the image as it was before intensity normalisation (z-scoring)."
            )


@dataclass(frozen=True, eq=False)
class ModelGrid:
    """The steps from a subject's own grid to the model's, in order, and their undoing.

    foreground  (I, J, K) bool on the own grid
    box         the crop, in the oriented and resampled image
    inside      where that crop lies in the padded image
    """

    affine: NDArray[np.float64]
    foreground: Mask
    orientation: Orientation
    resampling: Resampling
    box: tuple[slice, ...]
    inside: tuple[slice, ...]

    def restore(self, array: Array, mask: Mask) -> Volume:
        """`array` (zero outside `mask`, both on the model's grid) on the own grid."""
        whole: Array = np.zeros(self.resampling.new_shape, dtype=np.float32)
        whole[self.box] = np.where(mask, array, np.float32(0))[self.inside]
        if self.resampling.needed:
            low, high = whole.min(), whole.max()
            weight = np.zeros_like(whole)
            weight[self.box] = mask[self.inside]
            whole = self.resampling.back(whole)
            whole /= np.maximum(self.resampling.back(weight), np.float32(1e-3))
            np.clip(whole, low, high, out=whole)  # rounding must not lead out of [0, 1]
        voxels = np.where(self.foreground, self.orientation.undo(whole), np.float32(0))
        return Volume(np.ascontiguousarray(voxels), self.affine)


def _foreground(subject: Subject, used: Mapping[Contrast, Volume]) -> Mask:
    """(I, J, K) bool: non-zero in any used contrast and inside the brain mask; never empty."""
    union: Mask = np.logical_or.reduce([v.voxels != 0 for v in used.values()])
    names = ", ".join(c.label for c in used)
    if not union.any():
        raise InputError(
            f"{subject.name}: every voxel of {names} is 0. Expected a brain; check that the files are whole."
        )
    if subject.mask is not None:
        union &= subject.mask.voxels != 0
        if not union.any():
            raise InputError(
                f"{subject.name}: the brain mask and the non-zero voxels of {names} have no voxel in common. "
                "Expected a mask that is non-zero inside the brain; check it, or leave it out."
            )
    return union


def _scale(name: str, contrast: Contrast, inside: Array, quantile: float) -> float:
    """The quantile of the foreground voxels, found to be usable as a divisor."""
    low, high = float(inside.min()), float(inside.max())
    if low == high:
        raise InputError(
            f"{name}: {contrast.label} is {low:g} in every voxel of the foreground; expected an image with contrast. "
            "Check that it is not a mask or an empty file, and leave it out if it is."
        )
    scale = float(np.quantile(inside, quantile))
    if not scale > 0:
        raise InputError(
            f"{name}: the {100 * quantile:g}th percentile of {contrast.label} in the foreground is {scale:g}; expected "
            "a positive intensity. Nearly all of the image is 0 or negative: check it, or leave this contrast out."
        )
    return scale


def _check_spacing(name: str, volume: Volume) -> None:
    """Raise InputError when the affine cannot be that of a head in millimetres."""
    low, high = SPACING_RANGE_MM
    extent = max(n * s for n, s in zip(volume.shape, volume.spacing, strict=True))
    if not all(low <= s <= high for s in volume.spacing) or extent > LARGEST_EXTENT_MM:
        raise InputError(
            f"{name}: voxels of {' x '.join(f'{s:g}' for s in volume.spacing)} mm, {extent:g} mm at the longest side; "
            f"expected {low:g} to {high:g} mm and at most {LARGEST_EXTENT_MM:g} mm. Check the affine and its units."
        )


def _box(mask: Mask) -> tuple[slice, slice, slice]:
    """The smallest box around a mask that is not empty."""
    ends = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))[[0, -1]] for axis in range(3)]
    i, j, k = (slice(int(first), int(last) + 1) for first, last in ends)
    return i, j, k


def _central_padding(size: int, multiple: int) -> tuple[int, int]:
    """Before and after, to the next multiple; the odd voxel goes after."""
    missing = -size % multiple
    return missing // 2, missing - missing // 2
