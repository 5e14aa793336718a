"""How long a batch will take and how much memory, before it starts: one subject is read, and a part of it made."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mrsynth.contrasts import Contrast
from mrsynth.devices import out_of_memory
from mrsynth.diffusion.noise import SeededNoise
from mrsynth.errors import MemoryExhausted
from mrsynth.io.subjects import load_raw
from mrsynth.methods.base import Method
from mrsynth.plain import Array
from mrsynth.sampling import Estimator
from mrsynth.scans.planes import cut
from mrsynth.scans.preparation import Prepared
from mrsynth.scans.subject import Subject
from mrsynth.synthesis import synthesise_volume, synthesise_whole
from mrsynth.tasks.batch.attempt import AT_ONCE, Models
from mrsynth.tasks.complete.plan import CompleteOptions, Plan
from mrsynth.tasks.complete.run import brain_finder
from mrsynth.tasks.complete.self_check import FAST_SELF_CHECK_CONTRASTS, FAST_SELF_CHECK_SLICES, SELF_CHECK_SLICES
from mrsynth.tasks.memory import peak_memory_mb, reset_peak_memory
from mrsynth.tasks.trained import Trained, TrainedMethod

SIDE = 64  # voxels, of the box that stands for a whole volume
FEW_STEPS = 2  # of a chain, which stand for all
WRITING = 4e-7  # seconds a voxel of an image that was made, with its report; processor time of a Xeon
WRITING_BYTES = 80  # memory a voxel of the grid while a report is written, more than while the network works


@dataclass(frozen=True)
class Estimate:
    """Of one subject among others.

    reading, network, writing   seconds
    memory_mb                   of the process, with AT_ONCE subjects in it; None where the system does not tell
    """

    reading: float
    network: float
    writing: float
    memory_mb: float | None

    @property
    def seconds(self) -> float:
        """From one subject to the next, where AT_ONCE are at work and the network has one at a time."""
        return max(self.network, (self.reading + self.network + self.writing) / AT_ONCE)


def estimate(request: CompleteOptions, todo: Plan, models: Models) -> Estimate:
    """Read a subject, make some slices of it or a box, and reckon; nothing is written.

    Raises what `complete` raises of this subject.
    """
    assert todo.checkpoint is not None
    trained = models(todo.checkpoint)
    how = trained.estimator(request.sampling)
    reset_peak_memory(how.device)
    clock = time.perf_counter()
    find_brain = brain_finder(request.strip)
    raw = load_raw(todo.files, align=request.align, onto=request.onto, find_brain=find_brain, n4=request.n4)
    reading = time.perf_counter() - clock
    before, network, passes = peak_memory_mb(how.device), 0.0, 0.0
    slices = FAST_SELF_CHECK_SLICES if request.fast else SELF_CHECK_SLICES
    checked = 1 if how.mode == "sample" else how.samples  # images that a self-check makes of a hidden contrast
    for one in networks_of(trained, raw.subject, todo.targets, models):
        one.method.to(how.device).optimise(how.precision)
        clock = time.perf_counter()
        prepared = one.prepare(raw.subject, request.crop)
        preparing = time.perf_counter() - clock
        try:
            planes = trained.planes(how, one.card.name)
            each, share = timed(one.method, prepared, raw.subject.name, replace(how, samples=1, planes=planes))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise MemoryExhausted(f"Memory ran out for a part of {raw.subject.name}.") from error
        in_2d = one.method.dimensions == 2
        scale = 1.0 if in_2d else share  # of what a pass holds: a batch of slices is as large for any number of them
        after = peak_memory_mb(how.device)
        passes = max(passes, ((after or 0.0) - (before or 0.0)) / scale)
        check = each * slices / how.batch_size if in_2d else each / share
        checks = hidden_by(one, raw.subject) if request.self_check else 0
        checks = min(checks, FAST_SELF_CHECK_CONTRASTS) if request.fast else checks
        turns = how.samples * (2 if how.cycle_spinning else 1)
        network += preparing + turns * each / share + checks * (preparing + checked * check)
    return Estimate(
        reading=reading,
        network=network,
        writing=WRITING * raw.subject.reference.voxels.size * len(todo.targets),
        memory_mb=None if before is None else memory(before, passes, raw.subject),
    )


def networks_of(
    trained: Trained, subject: Subject, targets: Sequence[Contrast], models: Models
) -> Iterator[TrainedMethod]:
    """The network, or of a committee one after the other those that make any of the targets."""
    if isinstance(trained, TrainedMethod):
        yield trained
        return
    members = {m.card.name: m for target in targets for m in trained.taking_part(subject.available, target)}
    for member in members.values():
        yield models.network(member)


def hidden_by(one: TrainedMethod, subject: Subject) -> int:
    """How many contrasts a self-check can hide from a network and make again."""
    present = set(subject.available)
    return sum(one.card.supports(present - {hidden}, hidden) for hidden in present)


def timed(method: Method, prepared: Prepared, name: str, how: Estimator) -> tuple[float, float]:
    """Seconds that a batch of slices takes, or a box of a volume; and its share of the whole.

    The second time counts: the first one also gets things ready.
    """
    few = replace(how, steps=min(how.steps, FEW_STEPS))
    do, share = (some_slices if method.dimensions == 2 else one_box)(method, prepared, name, few)
    do()
    clock = time.perf_counter()
    do()
    return (time.perf_counter() - clock) * how.steps / few.steps, share


def some_slices(method: Method, prepared: Prepared, name: str, how: Estimator) -> tuple[Callable[[], object], float]:
    """What makes a batch of axial slices from the middle; their share of those of all planes."""
    filled = np.flatnonzero(prepared.mask.any(axis=(0, 1)))
    count = sum(int(cut(prepared.mask, plane).any(axis=(0, 1)).sum()) for plane in how.planes)
    first = max(0, (len(filled) - how.batch_size) // 2)
    part = filled[first : first + how.batch_size].tolist()
    return lambda: synthesise_volume(method, prepared, name, how, slices=part), len(part) / count


def one_box(method: Method, prepared: Prepared, name: str, how: Estimator) -> tuple[Callable[[], object], float]:
    """What makes a box from the middle; its share of the volume."""
    images = torch.from_numpy(box_of(prepared.images)) * 2 - 1
    available = np.asarray(prepared.available, dtype=bool)
    noise = SeededNoise(how.seed, name, method.targets, 0, method.shared_noise, how.noise)
    return lambda: synthesise_whole(method, images, available, noise, how), images.numel() / prepared.images.size


def box_of(images: Array) -> Array:
    """The middle of images (C, I, J, K), at most SIDE along each axis, which multiples of 32 divide."""
    starts = [max(0, (n - SIDE) // 2) for n in images.shape[1:]]
    return images[:, *(slice(start, start + SIDE) for start in starts)]


def memory(before: float, network: float, subject: Subject) -> float:
    """MB of a process that samples one subject while it writes another.

    before    it held when the first was read and prepared
    network   a pass takes more
    """
    return before + network + WRITING_BYTES * subject.reference.voxels.size / 2**20


def in_words(each: Estimate, count: int, processes: int = 1) -> str:
    """What a batch of so many subjects comes to, in so many processes."""
    minutes = each.seconds * count / processes / 60
    time_taken = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{max(1, round(minutes))} minutes"
    held = "" if each.memory_mb is None else f", {each.memory_mb / 1024:.1f} GB of memory" + " each" * (processes > 1)
    return f"Estimated for {count}: about {time_taken} at {each.seconds:.0f} s a subject{held}."
