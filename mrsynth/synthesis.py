"""A method over a whole volume: slices in batches, one noise stream each, samples reduced to mean and deviation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mrsynth.methods.base import Method
from mrsynth.noise import SeededNoise
from mrsynth.preparation import Prepared

Progress = Callable[[str, int, int], None]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How to run the diffusion process backwards.

    samples     syntheses to average
    precision   bf16 runs the network under autocast; everything else stays float32
    """

    sampler: str
    steps: int
    samples: int = 1
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    batch_size: int = 8


@dataclass(frozen=True)
class Synthesis:
    """Mean over the samples and, with two or more, their standard deviation: (C, I, J, K), u in [0, 1]."""

    mean: Array
    deviation: Array | None


def synthesise_volume(
    method: Method,
    prepared: Prepared,
    subject: str,
    sampling: Sampling,
    *,
    available: Sequence[bool] | None = None,
    slices: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Fill in every contrast that is not available; available contrasts come back as they are.

    prepared    images of the method's contrasts, in its order
    subject     its name, which seeds the noise
    available   (C,) what the method may read; None for all that the subject has. Hiding a contrast makes a self-check
    slices      indices along K to make; None for all with foreground. The others stay 0
    """
    flags = np.asarray(prepared.available if available is None else available, dtype=bool)
    if slices is None:
        slices = np.flatnonzero(prepared.mask.any(axis=(0, 1))).tolist()
    images = torch.from_numpy(prepared.images) * 2 - 1
    missing = torch.from_numpy(~flags)
    mean = torch.zeros((int(missing.sum()), *prepared.mask.shape))
    spread = torch.zeros_like(mean) if sampling.samples > 1 else None
    batches = [slices[i : i + sampling.batch_size] for i in range(0, len(slices), sampling.batch_size)]
    total, done = len(slices) * sampling.samples, 0
    for sample in range(sampling.samples):
        noise = SeededNoise(sampling.seed, subject, prepared.contrasts, sample, shared=method.shared_noise)
        for batch in batches:
            made = synthesise_slices(method, images, flags, batch, noise, sampling)
            u = ((made[:, missing] + 1) / 2).clamp(0, 1).permute(1, 2, 3, 0)
            # running mean and sum of squared deviations: Welford 1962
            change = u - mean[..., batch]
            mean[..., batch] += change / (sample + 1)
            if spread is not None:
                spread[..., batch] += change * (u - mean[..., batch])
            done += len(batch)
            if progress is not None:
                progress("synthesising slices", done, total)
    inside = torch.from_numpy(prepared.mask)
    result = prepared.images.copy()
    result[~flags] = torch.where(inside, mean, 0.0).numpy()
    if spread is None:
        return Synthesis(result, None)
    deviation = np.zeros_like(result)
    deviation[~flags] = torch.where(inside, (spread / (sampling.samples - 1)).sqrt(), 0.0).numpy()
    return Synthesis(result, deviation)


def synthesise_slices(
    method: Method,
    images: torch.Tensor,
    available: NDArray[np.bool_],
    indices: Sequence[int],
    noise: SeededNoise,
    sampling: Sampling,
) -> torch.Tensor:
    """Axial slices `indices` of images (C, I, J, K) in [-1, 1], made on the device: (B, C, I, J) float32 on the CPU."""
    device = torch.device(sampling.device)
    depth, n = images.shape[-1], method.neighbours
    stack = images[..., list(indices)].permute(3, 0, 1, 2)
    around = torch.full((len(indices), len(images), 2 * n, *images.shape[1:3]), -1.0)
    for place, offset in enumerate(o for o in range(-n, n + 1) if o):
        for b, index in enumerate(indices):
            if 0 <= index + offset < depth:
                around[b, :, place] = images[..., index + offset]
    flags = torch.from_numpy(available).expand(len(indices), -1)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=sampling.precision == "bf16"):
        made = method.synthesise(
            stack.to(device),
            flags.to(device),
            context=around.to(device),
            noise=noise.slices(indices),
            steps=sampling.steps,
            sampler=sampling.sampler,
        )
    return made.float().cpu()
