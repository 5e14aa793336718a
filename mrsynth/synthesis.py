"""A method over a whole volume, at once or in batches of slices; samples reduced to their mean and spread."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.devices import out_of_memory, release_cache
from mrsynth.diffusion.noise import SeededNoise
from mrsynth.errors import WeightsError
from mrsynth.methods.base import Method, carried
from mrsynth.plain import Array, Mask, Progress
from mrsynth.sampling import AXIAL, Estimator
from mrsynth.scans.planes import cut, padded
from mrsynth.scans.preparation import Prepared

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Synthesis:
    """All (C, I, J, K), u in [0, 1]; available contrasts as they are, in the spread 0.

    image    what is delivered: the estimate of mode mean; the first sample; or the mean of the draws
    mean     over the samples, where the image is one of several
    spread   the standard deviation over the samples, where there are several
    error    the absolute error that is to be expected after the straight-line fit, where it can be said
    """

    image: Array
    mean: Array | None
    spread: Array | None
    error: Array | None = None


def synthesise_volume(
    method: Method,
    prepared: Prepared,
    subject: str,
    how: Estimator,
    *,
    available: Sequence[bool] | None = None,
    targets: Collection[Contrast] | None = None,
    slices: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Fill in every contrast that is not available, or at least the targets; available ones come back as they are.

    prepared    images of the method's contrasts, in its order
    subject     its name, which seeds the noise
    available   (C,) what the method may read; None for all that the subject has. Hiding a contrast makes a self-check
    targets     missing contrasts that are wanted; None for all
    slices      indices along K to make, by a method that works on slices, as axial ones whatever `how` says; None for
                all with foreground. The rest stay 0
    Raises WeightsError when the network gives numbers that are not finite.
    """
    flags = np.asarray(prepared.available if available is None else available, dtype=bool)
    missing = torch.from_numpy(~flags)
    mean = torch.zeros((int(missing.sum()), *prepared.mask.shape))
    spread = torch.zeros_like(mean) if how.samples > 1 else None
    first: torch.Tensor | None = None
    planes = AXIAL if method.dimensions == 3 or slices is not None else how.planes
    shifts = (0, 1) if how.cycle_spinning else (0,)
    turns = list(product(range(how.samples), planes, shifts))
    for turn, (sample, plane, shift) in enumerate(turns):
        noise = SeededNoise(how.seed, subject, method.targets, sample, method.shared_noise, how.noise)

        def tell(what: str, done: int, total: int, turn: int = turn) -> None:
            if progress is not None:
                progress(f"synthesising {what}", turn * total + done, len(turns) * total)

        images, mask = prepared.images, prepared.mask
        if plane != "axial":
            images, mask = (padded(cut(x, plane), method.multiple, x.ndim - 3) for x in (images, mask))
        images, mask = (shifted(x, shift) for x in (images, mask))
        mean_cut = torch.from_numpy(cut(mean.numpy(), plane))[:, shift:, shift:, shift:]  # the same memory
        spread_cut = None if spread is None else torch.from_numpy(cut(spread.numpy(), plane))
        rows, columns, depth = mean_cut.shape[1:]
        u = torch.zeros((images.shape[-1], len(mean_cut), rows, columns))
        for where, whole_slices in parts(method, images, mask, flags, targets, slices, noise, how, tell):
            made = whole_slices[:, missing, :rows, :columns]
            brain = torch.from_numpy(mask[:rows, :columns, where]).permute(2, 0, 1)
            if not bool(made.isfinite().all(1)[brain].all()):
                raise WeightsError(
                    f"What the network makes of {subject} is not finite, so nothing was kept. "
                    "Its weights may be damaged, or too large for the precision: try --precision fp32."
                )
            u[where] = ((made + 1) / 2).clamp(0, 1)
        u = u[:depth]
        # running mean and sum of squared deviations: Welford 1962
        change = u.permute(1, 2, 3, 0) - mean_cut
        mean_cut += change / (turn + 1)
        if spread_cut is not None:
            spread_cut += change * (u.permute(1, 2, 3, 0) - mean_cut)
        if turn == 0 and how.mode == "sample" and how.samples > 1:
            first = mean.clone()

    def whole(made: torch.Tensor, others: Array) -> Array:
        result = others.copy()
        result[~flags] = torch.where(torch.from_numpy(prepared.mask), made, 0.0).numpy()
        return result

    images = prepared.images
    deviation = None if spread is None else (spread / (how.samples - 1)).sqrt()
    return Synthesis(
        image=whole(mean if first is None else first, images),
        mean=None if first is None else whole(mean, images),
        spread=None if deviation is None else whole(deviation, np.zeros_like(images)),
    )


def shifted(x: NDArray[Any], voxels: int) -> NDArray[Any]:
    """A volume (..., I, J, K) moved towards its beginning along every axis; what comes in at the end is background."""
    if not voxels:
        return x
    return np.pad(x[..., voxels:, voxels:, voxels:], [(0, 0)] * (x.ndim - 3) + [(0, voxels)] * 3)


def parts(
    method: Method,
    images: Array,
    mask: Mask,
    available: NDArray[np.bool_],
    targets: Collection[Contrast] | None,
    slices: Sequence[int] | None,
    noise: SeededNoise,
    how: Estimator,
    tell: Progress,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """One sample of the volume, piece by piece: indices along K, and (K', C, I, J) in [-1, 1] on the CPU.

    images   (C, I, J, K) u in [0, 1], and the mask (I, J, K), both as slices of a plane are seen
    Where memory runs out for a batch of slices, half of them are tried, down to one.
    """
    if method.dimensions == 3:
        read = torch.from_numpy(np.ascontiguousarray(images)) * 2 - 1
        assert slices is None, "a method of three dimensions makes whole volumes"
        release_cache(how.device)  # of the preparation: a volume's layers are too large for what is left there
        whole = synthesise_whole(method, read, available, noise, how, lambda n, of: tell("the volume", n, of))
        yield list(range(read.shape[-1])), whole.permute(3, 0, 1, 2)
        return
    read = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 0, 1, 2))) * 2 - 1  # slice by slice in memory
    if slices is None:
        slices = np.flatnonzero(mask.any(axis=(0, 1))).tolist()
    start, size = 0, how.batch_size
    while start < len(slices):
        batch = list(slices[start : start + size])
        try:
            made = synthesise_slices(method, read, available, batch, noise, how, targets)
        except (MemoryError, RuntimeError) as error:
            if len(batch) == 1 or not out_of_memory(error):
                raise
            made = None
        if made is None:  # only here: until the error is let go its frames hold the memory
            size = len(batch) // 2
            log.warning("Memory ran out for %d slices at once; going on with %d.", len(batch), size)
            release_cache(how.device)
            continue
        yield batch, made
        start += len(batch)
        tell("slices", start, len(slices))


def synthesise_whole(
    method: Method,
    images: torch.Tensor,
    available: NDArray[np.bool_],
    noise: SeededNoise,
    how: Estimator,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Images (C, I, J, K) in [-1, 1], filled in as one volume on the device: the same, float32 on the CPU."""
    device = torch.device(how.device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=how.precision == "bf16"):
        made = method.synthesise(
            carried(images[None], device),
            carried(torch.from_numpy(available)[None], device),
            context=torch.empty((1, len(images), 0, *images.shape[1:]), device=device),
            noise=noise.volume(),
            **options(how),
            progress=progress,
        )
    return made[0].float().cpu()


def synthesise_slices(
    method: Method,
    images: torch.Tensor,
    available: NDArray[np.bool_],
    indices: Sequence[int],
    noise: SeededNoise,
    how: Estimator,
    targets: Collection[Contrast] | None = None,
) -> torch.Tensor:
    """Slices `indices` of images (K, C, I, J) in [-1, 1], made on the device: (B, C, I, J) float32 on the CPU."""
    device = torch.device(how.device)
    depth, n = len(images), method.neighbours
    stack = images[list(indices)]
    around = torch.full((len(indices), images.shape[1], 2 * n, *images.shape[2:]), -1.0)
    for place, offset in enumerate(o for o in range(-n, n + 1) if o):
        for b, index in enumerate(indices):
            if 0 <= index + offset < depth:
                around[b, :, place] = images[index + offset]
    flags = torch.from_numpy(available).expand(len(indices), -1)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=how.precision == "bf16"):
        made = method.synthesise(
            carried(stack, device),
            carried(flags, device),
            context=carried(around, device),
            noise=noise.slices(indices),
            targets=targets,
            **options(how),
        )
    return made.float().cpu()


def options(how: Estimator) -> dict[str, Any]:
    """What `Method.synthesise` is to be told; in mode mean there is neither sampler nor step."""
    if how.mode == "mean":
        return {"mode": "mean"}
    return {"steps": how.steps, "sampler": how.sampler, "eta": how.eta, "variance": how.variance}
