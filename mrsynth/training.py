"""The training loop: any method, no paper, no disk.

Everything random is a function of (seed, position in the run), never of a generator's history, so that a run that was
stopped and resumed gives the losses of one that never stopped, whatever the number of loader workers.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from mrsynth.augmentation import AugmentationConfig, augment_geometry, augment_intensity
from mrsynth.card import Plain
from mrsynth.errors import Interrupted
from mrsynth.methods.base import Batch, Method


class TrainingConfig(Plain):
    """How to train, apart from the method."""

    iterations: int = Field(200_000, gt=0)
    batch_size: int = Field(8, gt=0)
    accumulation: int = Field(1, gt=0, description="batches per optimiser step")
    learning_rate: float = Field(1e-4, gt=0)
    decay: Literal["constant", "cosine"] = "constant"
    warmup: int = Field(0, ge=0, description="iterations of linear warm-up")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(0.9999, ge=0, lt=1, description="decay of the averaged weights used for inference")
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 0
    workers: int = Field(0, ge=0, description="processes that load examples")
    log_every: int = Field(50, gt=0)
    validate_every: int = Field(2000, gt=0)
    save_every: int = Field(500, gt=0)
    augmentation: AugmentationConfig = AugmentationConfig()


@dataclass(frozen=True)
class Slab:
    """One slice with its neighbours: images (C, 1 + N, H, W), u in [0, 1], the slice itself first; present (C,) bool."""

    images: NDArray[np.float32]
    present: NDArray[np.bool_]


class SliceSource(Protocol):
    """All slices to train on; where they come from is not our business."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Slab: ...


@dataclass
class TrainingState:
    """All that a run needs to go on: weights, averaged weights, optimisers, and the number of finished iterations."""

    method: Method
    average: Method
    optimizers: list[torch.optim.Optimizer]
    iteration: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data only, so that it can be read back with `weights_only=True`."""
        return {
            "iteration": self.iteration,
            "method": self.method.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state."""
        self.method.load_state_dict(state["method"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.iteration = state["iteration"]


@dataclass(frozen=True)
class Callbacks:
    """What the loop tells the outside.

    log       (iteration, {"loss": ..., "learning_rate": ..., "seconds_per_iteration": ...})
    save      (state), called every save_every iterations, at the end, and when stopped
    validate  (averaged method, iteration)
    stop      whether somebody asked us to stop
    """

    log: Callable[[int, dict[str, float]], None]
    save: Callable[[TrainingState], None]
    validate: Callable[[Method, int], None]
    stop: Callable[[], bool]


def begin(method: Method, config: TrainingConfig) -> TrainingState:
    """A run at iteration 0: Adam per objective, averaged weights equal to the weights."""
    average = copy.deepcopy(method).eval().requires_grad_(False)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam(objective.parameters, lr=config.learning_rate, betas=(0.9, 0.999))
        for objective in method.objectives()
    ]
    return TrainingState(method, average, optimizers)


def train(
    state: TrainingState, source: SliceSource, config: TrainingConfig, callbacks: Callbacks, device: str = "auto"
) -> None:
    """Run from state.iteration to config.iterations. Raises Interrupted, after saving, when told to stop."""
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    accelerator = Accelerator(
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        cpu=device == "cpu",
        dataloader_config=DataLoaderConfiguration(even_batches=False),
    )
    method = state.method.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    state.average.to(accelerator.device)
    examples = Examples(source, method, config)
    order = PositionSampler(len(source), config, state.iteration)
    loader: Any = DataLoader(
        examples,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
    )
    wrapped, loader, *optimizers = accelerator.prepare(method, loader, *state.optimizers)
    for optimizer in state.optimizers:
        to_device(optimizer, accelerator.device)
    objectives = accelerator.unwrap_model(wrapped).objectives()
    batches = iter(loader)
    began, finished = time.perf_counter(), state.iteration
    while state.iteration < config.iterations:
        step = state.iteration
        rate = learning_rate(step, config)
        terms: dict[str, float] = {}
        micro = [next(batches) for _ in range(config.accumulation)]
        for objective, optimizer in zip(objectives, optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            for part, batch in enumerate(micro):
                generator = torch.Generator().manual_seed(
                    seed_of(config.seed, step, part, accelerator.process_index, objective.name)
                )
                with accelerator.autocast():
                    losses = objective.loss(batch.to(accelerator.device), generator)
                accelerator.backward(losses["loss"] / config.accumulation)
                for name, value in losses.items():
                    terms[name] = terms.get(name, 0.0) + float(value.detach()) / config.accumulation
            accelerator.clip_grad_norm_(objective.parameters, config.clip)
            optimizer.step()
        state.iteration = step + 1
        average_weights(state, config.ema)
        last, stopping = state.iteration == config.iterations, callbacks.stop()
        if not accelerator.is_main_process:
            continue
        if state.iteration % config.log_every == 0 or last:
            seconds = (time.perf_counter() - began) / (state.iteration - finished)
            callbacks.log(state.iteration, {**terms, "learning_rate": rate, "seconds_per_iteration": seconds})
            began, finished = time.perf_counter(), state.iteration
        if state.iteration % config.save_every == 0 or last or stopping:
            callbacks.save(state)
        if state.iteration % config.validate_every == 0 or last:
            callbacks.validate(state.average, state.iteration)
            began, finished = time.perf_counter(), state.iteration
        if stopping and not last:
            raise Interrupted(f"Stopped after {state.iteration} of {config.iterations} iterations; --resume goes on.")


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then constant or a half cosine down to a hundredth."""
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.decay == "constant":
        return config.learning_rate * rise
    return config.learning_rate * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / config.iterations)))


def average_weights(state: TrainingState, decay: float) -> None:
    """Exponential moving average; its memory grows from ten iterations so that early noise is forgotten."""
    weight = 1 - min(decay, (1 + state.iteration) / (10 + state.iteration))
    with torch.no_grad():
        for ours, theirs in zip(state.average.parameters(), state.method.parameters(), strict=True):
            ours.lerp_(theirs.to(ours), weight)


class Examples(Dataset[dict[str, Tensor]]):
    """Slices made into training examples; example `position` of the run is the same wherever and whenever it is made."""

    def __init__(self, source: SliceSource, method: Method, config: TrainingConfig):
        self.source = source
        self.draw_available = method.draw_available
        self.config = config
        self.total = config.iterations * config.batch_size * config.accumulation

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        position, index = key
        slab = self.source[index]
        random = np.random.default_rng([self.config.seed, position])
        available = self.draw_available(slab.present, position / self.total, random)
        c, n = slab.images.shape[:2]
        stack = torch.from_numpy(np.ascontiguousarray(slab.images, dtype=np.float32)).flatten(0, 1)
        stack = augment_geometry(stack, self.config.augmentation, random)
        inputs = np.where(available, np.arange(c), -1).repeat(n)
        images = augment_intensity(stack, inputs, self.config.augmentation, random).unflatten(0, (c, n)) * 2 - 1
        return {
            "images": images[:, 0],
            "context": images[:, 1:],
            "present": torch.from_numpy(slab.present.copy()),
            "available": torch.from_numpy(available),
        }


class PositionSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (position, slice index): every epoch is a fresh permutation, a function of the seed and the epoch."""

    def __init__(self, length: int, config: TrainingConfig, iteration: int):
        self.length, self.config = length, config
        self.first = iteration * config.accumulation

    def __len__(self) -> int:
        return self.config.iterations * self.config.accumulation - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.arange(0)
        for batch in range(self.first, self.first + len(self)):
            keys = []
            for position in range(batch * self.config.batch_size, (batch + 1) * self.config.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = np.random.default_rng([self.config.seed, epoch, 1]).permutation(self.length)
                keys.append((position, int(order[position % self.length])))
            yield keys


def collate(examples: Sequence[Mapping[str, Tensor]]) -> Batch:
    """Stack examples; smaller slices are padded with background (-1) to the largest of the batch."""
    size = [max(e["images"].shape[axis] for e in examples) for axis in (-2, -1)]

    def padded(x: Tensor) -> Tensor:
        h, w = size[0] - x.shape[-2], size[1] - x.shape[-1]
        return nn.functional.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2), value=-1.0)

    columns = {name: torch.stack([padded(e[name]) for e in examples]) for name in ("images", "context")}
    flags = {name: torch.stack([e[name] for e in examples]) for name in ("present", "available")}
    return Batch(**columns, **flags)


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from numbers and names."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def to_device(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move what an optimiser remembers to the device of its parameters."""
    for values in optimizer.state.values():
        for key, value in values.items():
            if isinstance(value, Tensor) and key != "step":
                values[key] = value.to(device)
