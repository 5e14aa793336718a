"""A method over a whole volume, at once or in batches of slices; samples reduced to mean and deviation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mrsynth.diffusion.noise import SeededNoise
from mrsynth.methods.base import Method
from mrsynth.plain import Array, Progress
from mrsynth.scans.preparation import Prepared


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
    slices      indices along K to make, by a method that works on slices; None for all with foreground. The rest stay 0
    """
    flags = np.asarray(prepared.available if available is None else available, dtype=bool)
    missing = torch.from_numpy(~flags)
    mean = torch.zeros((int(missing.sum()), *prepared.mask.shape))
    spread = torch.zeros_like(mean) if sampling.samples > 1 else None
    for sample in range(sampling.samples):
        noise = SeededNoise(sampling.seed, subject, method.targets, sample, shared=method.shared_noise)

        def tell(what: str, done: int, total: int, sample: int = sample) -> None:
            if progress is not None:
                progress(f"synthesising {what}", sample * total + done, sampling.samples * total)

        for where, made in parts(method, prepared, flags, slices, noise, sampling, tell):
            u = ((made[missing] + 1) / 2).clamp(0, 1)
            # running mean and sum of squared deviations: Welford 1962
            change = u - mean[..., where]
            mean[..., where] += change / (sample + 1)
            if spread is not None:
                spread[..., where] += change * (u - mean[..., where])
    inside = torch.from_numpy(prepared.mask)
    result = prepared.images.copy()
    result[~flags] = torch.where(inside, mean, 0.0).numpy()
    if spread is None:
        return Synthesis(result, None)
    deviation = np.zeros_like(result)
    deviation[~flags] = torch.where(inside, (spread / (sampling.samples - 1)).sqrt(), 0.0).numpy()
    return Synthesis(result, deviation)


def parts(
    method: Method,
    prepared: Prepared,
    available: NDArray[np.bool_],
    slices: Sequence[int] | None,
    noise: SeededNoise,
    sampling: Sampling,
    tell: Progress,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """One sample of the volume, piece by piece: indices along K, and (C, I, J, K') in [-1, 1] on the CPU."""
    images = torch.from_numpy(prepared.images) * 2 - 1
    if method.dimensions == 3:
        assert slices is None, "a method of three dimensions makes whole volumes"
        whole = synthesise_whole(method, images, available, noise, sampling, lambda n, of: tell("the volume", n, of))
        yield list(range(images.shape[-1])), whole
        return
    if slices is None:
        slices = np.flatnonzero(prepared.mask.any(axis=(0, 1))).tolist()
    for start in range(0, len(slices), sampling.batch_size):
        batch = list(slices[start : start + sampling.batch_size])
        yield batch, synthesise_slices(method, images, available, batch, noise, sampling).permute(1, 2, 3, 0)
        tell("slices", start + len(batch), len(slices))


def synthesise_whole(
    method: Method,
    images: torch.Tensor,
    available: NDArray[np.bool_],
    noise: SeededNoise,
    sampling: Sampling,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Images (C, I, J, K) in [-1, 1], filled in as one volume on the device: the same, float32 on the CPU."""
    device = torch.device(sampling.device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=sampling.precision == "bf16"):
        made = method.synthesise(
            images[None].to(device),
            torch.from_numpy(available)[None].to(device),
            context=torch.empty((1, len(images), 0, *images.shape[1:]), device=device),
            noise=noise.volume(),
            steps=sampling.steps,
            sampler=sampling.sampler,
            progress=progress,
        )
    return made[0].float().cpu()


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
