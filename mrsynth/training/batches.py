"""What a method learns from: slices or boxes, augmented, in an order that only the seed decides."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from mrsynth.errors import MemoryExhausted
from mrsynth.methods.base import Batch, Trainable
from mrsynth.plain import Plain
from mrsynth.sampling import AXIAL, Planes
from mrsynth.scans.hounsfield import window_of
from mrsynth.training.augmentation import AugmentationConfig, augment_geometry, augment_intensity, augment_labelled

# What Ctrl-C, a scheduler before its time limit (SLURM: --signal), and a closed terminal send. Not all are on Windows
STOPS = [getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, n)]
WINDOW = 16  # batches among whose examples those of like size are put together
PATIENCE = 2.0  # seconds after which a wait for a worker is interrupted to ask whether to stop


class TrainingConfig(Plain):
    """How to train, apart from the method."""

    iterations: int = Field(200_000, gt=0)
    batch_size: int = Field(8, gt=0)
    crop: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
        None, description="voxels of the boxes a volumetric method learns from; None: whole volumes"
    )
    accumulation: int = Field(1, gt=0, description="batches per optimiser step")
    learning_rate: float = Field(1e-4, gt=0)
    decay: Literal["constant", "cosine"] = "constant"
    final_learning_rate: float | None = Field(
        None, gt=0, description="where decay cosine ends; None: at a hundredth of learning_rate"
    )
    slices: PositiveInt | None = Field(
        None, description="slices of each subject to learn from, evenly over its brain; None: all that have brain"
    )
    planes: Planes = Field(
        AXIAL,
        description="of the slices to learn from: axial, coronal, sagittal; mode mean makes a volume from each, and "
        "takes the mean",
    )
    warmup: int = Field(0, ge=0, description="iterations of linear warm-up")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(0.9999, ge=0, lt=1, description="decay of the averaged weights used for inference")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device multiplies it natively; settled when the run begins"
    )
    seed: int = Field(0, ge=0)
    workers: int = Field(0, ge=0, description="processes that load examples")
    log_every: int = Field(50, gt=0)
    validate_every: int = Field(2000, gt=0)
    save_every: int = Field(500, gt=0)
    augmentation: AugmentationConfig = AugmentationConfig()

    @field_validator("planes")
    @classmethod
    def _axial_is_among(cls, planes: Planes) -> Planes:
        if "axial" not in planes:  # validation, the self-check and mode sample see no other
            raise ValueError("should have axial among them")
        return planes

    @model_validator(mode="after")
    def _final_rate_is_reached(self) -> Self:
        if self.final_learning_rate is not None and self.decay != "cosine":
            raise ValueError("final_learning_rate needs decay cosine: a constant rate ends where it began")
        return self

    def due(self, every: int, iteration: int) -> bool:
        """Whether something that is done every so many iterations, and at the end, is to be done after this one."""
        return iteration % every == 0 or iteration == self.iterations


@dataclass(frozen=True)
class Slab:
    """One slice with its neighbours, or one box out of a volume.

    images   (C, 1 + N, H, W) float32, u in [0, 1], the slice itself first; or (C, 1, D, H, W); anything in channels
             that are not present
    present  (C,) bool
    labels   (H, W) or (D, H, W), whole numbers: the segmentation; -1 everywhere in a subject without one; None where
             nobody asked. All slabs of a source have them, or none
    across   left and right lie across the slice, not along H: it is sagittal
    """

    images: NDArray[np.float32]
    present: NDArray[np.bool_]
    labels: NDArray[np.integer[Any]] | None = None
    across: bool = False


class ExampleSource(Protocol):
    """All slices or boxes to train on; where they come from is not our business. See also `sizes_of`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Slab: ...


@contextmanager
def example_batches(
    method: Trainable,
    iteration: int,
    source: ExampleSource,
    config: TrainingConfig,
    process: int = 0,
    processes: int = 1,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Iterator[Batch]]:
    """The batches that one process of so many still has to see after so many iterations.

    stopped   asked while waiting for a worker; a yes raises StoppedWaiting
    The iterator raises LoaderLost when a worker was killed.
    """
    loader: DataLoader[Any] = DataLoader(
        Examples(source, method, config, processes),
        batch_sampler=PositionSampler(sizes_of(source), config, iteration, process, processes),
        collate_fn=as_arrays,
        num_workers=config.workers,
        worker_init_fn=leave_signals_to_the_parent,
        timeout=PATIENCE if config.workers else 0,
    )
    with as_lost_loader():
        handler = signal.getsignal(signal.SIGCHLD)
        batches = iter(loader)
        if config.workers and threading.current_thread() is threading.main_thread():
            # torch's own raises wherever we are, half a step done; we ask between iterations instead
            signal.signal(signal.SIGCHLD, handler)
    try:
        yield patient(batches, stopped)
    finally:
        if config.workers:  # now, not when it is collected: the program would wait for workers that ignore its SIGTERM
            batches._shutdown_workers()  # type: ignore[attr-defined]
            for worker in batches._workers:  # type: ignore[attr-defined]
                worker.kill()  # one that hangs does not hear that it is over


class StoppedWaiting(Exception):
    """Somebody asked to stop while data was waited for, or looked at before a stage."""


class LoaderLost(MemoryExhausted):
    """A worker is gone, or could not be begun."""


@contextmanager
def as_lost_loader() -> Iterator[None]:
    """What torch and the system say of workers that die, or find no room, as LoaderLost."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        text = str(error)
        if isinstance(error, RuntimeError) and "DataLoader worker" not in text and "shared memory" not in text:
            raise
        raise LoaderLost(
            f"A process that loads examples is gone ({text.splitlines()[0]}). Most often memory ran out, or the shared "
            "memory in /dev/shm is too small (in Docker: --shm-size). Set training.workers to 0, which needs neither."
        ) from error


def patient(loader: Iterator[Any], stopped: Callable[[], bool]) -> Iterator[Batch]:
    """The batches of a loader, which gives up waiting every few seconds so that we can look around."""
    while True:
        try:
            with as_lost_loader():
                arrays = next(loader)
        except StopIteration:
            return
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            if stopped():
                raise StoppedWaiting from error
            continue
        yield Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


class Examples(Dataset[dict[str, Tensor]]):
    """Slices or boxes made into examples; that at one position of a run is always the same."""

    def __init__(self, source: ExampleSource, method: Trainable, config: TrainingConfig, processes: int = 1):
        self.source = source
        self.draw_available = method.draw_available
        # whose intensities mean something, and are left alone
        self.absolute = np.array([window_of(c) is not None for c in method.contrasts])
        self.config = config
        self.total = config.iterations * config.batch_size * config.accumulation * processes

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        position, index = key
        slab = self.source[index]
        random = np.random.default_rng([self.config.seed, position])
        available = self.draw_available(slab.present, position / self.total, random)
        c, n = slab.images.shape[:2]
        images, augmentation = slab.images, self.config.augmentation
        if slab.across:
            if random.random() < augmentation.flip:  # of the head, not of the slice: its neighbours change sides
                images = images[:, [0, *range(n - 1, 0, -1)]]
            augmentation = augmentation.model_copy(update={"flip": 0.0})
        stack = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).flatten(0, 1)
        labels: dict[str, Tensor] = {}
        if slab.labels is None:
            stack = augment_geometry(stack, augmentation, random)
        else:
            values = torch.from_numpy(slab.labels.astype(np.int64))
            stack, labels["labels"] = augment_labelled(stack, values, augmentation, random)
        inputs = np.where(available & ~self.absolute, np.arange(c), -1).repeat(n)
        images = augment_intensity(stack, inputs, self.config.augmentation, random).unflatten(0, (c, n)) * 2 - 1
        return {
            "images": images[:, 0],
            "context": images[:, 1:],
            "present": torch.from_numpy(slab.present.copy()),
            "available": torch.from_numpy(available),
            **labels,
        }


class PositionSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (position, index): every epoch is a fresh permutation, a function of the seed and the epoch.

    Of the examples of every WINDOW batches those of like size come together, since a batch is padded to its largest.
    Of n processes each takes every n-th batch; together they see what one with n times the accumulation would see.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, ...]],
        config: TrainingConfig,
        iteration: int,
        process: int = 0,
        processes: int = 1,
    ):
        self.sizes, self.config = sizes, config
        self.process, self.processes = process, processes
        self.first = iteration * config.accumulation
        self._order = lru_cache(2)(self._permuted)
        self._window = lru_cache(1)(self._batches)

    def __len__(self) -> int:
        return self.config.iterations * self.config.accumulation - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for own in range(self.first, self.first + len(self)):
            window, place = divmod(own * self.processes + self.process, WINDOW)
            yield self._window(window)[place]

    def _batches(self, window: int) -> list[list[tuple[int, int]]]:
        """The batches of a window, in the order in which they are seen."""
        size, first = self.config.batch_size, window * WINDOW
        last = min(first + WINDOW, self.config.iterations * self.config.accumulation * self.processes)
        keys = [self._key(position) for position in range(first * size, last * size)]
        kinds = {self.sizes[index] for _, index in keys}
        if size == 1 or len(kinds) == 1:
            return [keys[start : start + size] for start in range(0, len(keys), size)]
        keys.sort(key=lambda key: self.sizes[key[1]])
        order = np.random.default_rng([self.config.seed, window, 2]).permutation(last - first)
        return [keys[place * size : (place + 1) * size] for place in order.tolist()]

    def _key(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, len(self.sizes))
        return position, int(self._order(epoch)[place])

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.config.seed, epoch, 1]).permutation(len(self.sizes))


def sizes_of(source: ExampleSource) -> Sequence[tuple[int, ...]]:
    """(H, W) or (D, H, W) of each example, of a source that has `sizes`; of others all count as alike."""
    return getattr(source, "sizes", None) or [()] * len(source)


def collate(examples: Sequence[Mapping[str, Tensor]]) -> Batch:
    """Stack examples; smaller slices and boxes are padded with background (-1) to the largest of the batch.

    Labels are padded with background too, which is 0; and with -1 where there are none.
    """
    largest = [max(sizes) for sizes in zip(*(e["images"].shape[1:] for e in examples), strict=True)]

    def padded(x: Tensor, value: float = -1.0) -> Tensor:
        lacking = [size - own for size, own in zip(largest, x.shape[-len(largest) :], strict=True)]
        ends = [end for n in reversed(lacking) for end in (n // 2, n - n // 2)]  # from the last axis to the first
        return nn.functional.pad(x, ends, value=value)

    columns = {name: torch.stack([padded(e[name]) for e in examples]) for name in ("images", "context")}
    flags = {name: torch.stack([e[name] for e in examples]) for name in ("present", "available")}
    if "labels" in examples[0]:
        segmentations = [e["labels"] for e in examples]
        columns["labels"] = torch.stack([padded(s, -1.0 if bool((s < 0).any()) else 0.0) for s in segmentations])
    return Batch(**columns, **flags)


def as_arrays(examples: Sequence[Mapping[str, Tensor]]) -> dict[str, NDArray[Any]]:
    """A batch by name, as arrays: workers send these through a pipe, tensors through /dev/shm, which may be small."""
    batch = collate(examples)
    names = [field.name for field in fields(batch) if getattr(batch, field.name) is not None]
    return {name: np.ascontiguousarray(getattr(batch, name).numpy()) for name in names}


def leave_signals_to_the_parent(worker: int) -> None:
    """A signal to the whole group (Ctrl-C, scancel) must not kill a worker under the process that is about to save."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
