"""The training loop: whatever has stages and objectives; no paper, no disk.

Everything random is a function of (seed, position in the run), never of a generator's history, so that a run that was
stopped and resumed gives the losses of one that never stopped, whatever the number of loader workers.
"""

import copy
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mrsynth.devices import choose_device
from mrsynth.errors import Interrupted, MrsynthError, UsageError
from mrsynth.methods.base import Batch, Objective, Trainable
from mrsynth.training.batches import ExampleSource, LoaderLost, StoppedWaiting, TrainingConfig, example_batches

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState


log = logging.getLogger(__name__)

Feed = Callable[..., AbstractContextManager[Iterator[Batch]]]  # as `example_batches`
OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class TrainingState:
    """All that a run needs to go on: weights, averaged weights, the stage, its optimisers and its iterations so far.

    taken_over   stages whose weights came from a checkpoint: what these were trained with is not fitted anew
    """

    method: Trainable
    average: Trainable
    stage: str
    optimizers: list[torch.optim.Optimizer]
    iteration: int = 0
    taken_over: frozenset[str] = frozenset()

    @property
    def of_stage(self) -> str:
        """` of stage NAME`, for a sentence; nothing where there is only one."""
        return f" of stage {self.stage}" if len(self.method.stages) > 1 else ""

    def enter(self, stage: str) -> None:
        """Go over to a stage: the averaged weights become the weights, the optimisers are fresh, no iteration done."""
        self.method.load_state_dict(self.average.state_dict())
        self._begin(stage)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data only, so that it can be read back with `weights_only=True`."""
        return {
            **({"stage": self.stage} if len(self.method.stages) > 1 else {}),
            "iteration": self.iteration,
            "method": self.method.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state. Raises ValueError when it is in a stage that the method does not have."""
        self._begin(state["stage"] if "stage" in state else self.method.stages[0])
        self.method.load_state_dict(state["method"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.iteration = state["iteration"]

    def _begin(self, stage: str) -> None:
        if stage not in self.method.stages:
            raise ValueError(f"the stage {stage!r} is none of {', '.join(self.method.stages)}")
        self.stage = stage
        self.optimizers = optimizers_of(self.method, stage)
        self.iteration = 0


@dataclass(frozen=True)
class Callbacks:
    """What the loop tells the outside; of several processes only the main one calls any but `stop`.

    log       (iteration, {"loss": ..., "learning_rate": ..., "seconds_per_iteration": ..., "cpu_seconds": ...}); the
              last is what this process, without its loader workers, has used since the row before
    save      (state), called every save_every iterations, at the end, and when stopped
    validate  (averaged method, iteration); again on resuming from there, since the stop may have come in between
    stop      whether somebody asked us to stop; asked in every process, one yes stops all
    """

    log: Callable[[int, dict[str, float]], None]
    save: Callable[[TrainingState], None]
    validate: Callable[[Trainable, int], None]
    stop: Callable[[], bool]


def begin(method: Trainable, stage: str | None = None, taken_over: frozenset[str] = frozenset()) -> TrainingState:
    """A run at iteration 0 of a stage, the first if not told: averaged weights equal to the weights."""
    average = copy.deepcopy(method).eval().requires_grad_(False)
    state = TrainingState(method, average, "", [], taken_over=taken_over)
    state.enter(stage or method.stages[0])
    return state


def optimizers_of(method: Trainable, stage: str) -> list[torch.optim.Optimizer]:
    """Adam for each objective of a stage; AdamW for those that decay their weights. Every step sets the rate anew."""
    chosen = [(torch.optim.AdamW if o.weight_decay else torch.optim.Adam, o) for o in method.objectives(stage)]
    return [kind(o.parameters, lr=1e-4, betas=o.betas, weight_decay=o.weight_decay) for kind, o in chosen]


def train(
    state: TrainingState,
    source: ExampleSource,
    config: TrainingConfig,
    callbacks: Callbacks,
    device: str = "auto",
    feed: Feed = example_batches,
) -> bool:
    """Run from state.iteration to config.iterations of the stage that the state is in.

    feed   what makes batches of the examples
    Under `accelerate launch` every process takes its own batches, gradients are averaged, and all hold equal weights.
    Returns whether somebody asked to stop when it was done anyway, which is all that a next stage needs to know.
    Raises Interrupted, after saving, when told to stop before; MrsynthError when the gradient is no longer finite.
    """
    from accelerate import Accelerator

    several = processes(device).num_processes > 1
    # Precision and placement are ours: Accelerate would fix both for the life of the process at the first run in it.
    accelerator = Accelerator(mixed_precision="no", device_placement=False)
    place = accelerator.device if several else torch.device(choose_device(device))
    state.method.to(place)
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}  # of convolutions: what CPU and tensor cores like
    for parameter in state.method.parameters():
        if state.method.channels_last and parameter.dim() in layouts:
            parameter.data = parameter.detach().contiguous(memory_format=layouts[parameter.dim()])
    state.average.to(place)
    for optimizer in state.optimizers:
        to_device(optimizer, place)
    process, number = accelerator.process_index, accelerator.num_processes
    # of several processes all must stop together, so none may give up waiting alone
    may_stop = callbacks.stop if number == 1 else lambda: False
    if not state.iteration and not (state.stage in state.taken_over and state.method.entered(state.stage)):
        try:
            enter_stage(state, source, config, accelerator, place, may_stop, feed)
        except StoppedWaiting:
            callbacks.save(state)
            raise Interrupted(f"Stopped after {how_far(state, config)}; --resume goes on.") from None
    train_only_what_is_listed(state.method, state.stage)
    stopped = False
    if state.iteration and accelerator.is_main_process and config.due(config.validate_every, state.iteration):
        callbacks.validate(state.average, state.iteration)
    began, used, finished = time.perf_counter(), time.process_time(), state.iteration
    saved = -1
    with feed(state.method, state.iteration, source, config, process, number, may_stop) as batches:
        while state.iteration < config.iterations:
            try:
                micro = [next(batches).to(place) for _ in range(config.accumulation)]
            except (StoppedWaiting, LoaderLost) as reason:
                if accelerator.is_main_process and saved != state.iteration:
                    callbacks.save(state)
                if isinstance(reason, StoppedWaiting):
                    break
                raise LoaderLost(f"{reason} Saved after {how_far(state, config)}; --resume goes on.") from reason
            terms = descend(state, micro, config, accelerator)
            save_due = config.due(config.save_every, state.iteration)
            if accelerator.is_main_process:
                if config.due(config.log_every, state.iteration):
                    seconds = (time.perf_counter() - began) / (state.iteration - finished)
                    spent = {"seconds_per_iteration": seconds, "cpu_seconds": time.process_time() - used}
                    callbacks.log(state.iteration, {**terms, **spent})
                    began, used, finished = time.perf_counter(), time.process_time(), state.iteration
                if save_due:
                    callbacks.save(state)
                    saved = state.iteration
                if config.due(config.validate_every, state.iteration):
                    callbacks.validate(state.average, state.iteration)
                    began, used, finished = time.perf_counter(), time.process_time(), state.iteration
            stopped = any_process(callbacks.stop(), accelerator, place)
            if stopped and state.iteration < config.iterations:
                if accelerator.is_main_process and not save_due:
                    callbacks.save(state)
                break
    accelerator.wait_for_everyone()  # the first process to end takes the others with it, even one that is saving
    if state.iteration < config.iterations:
        raise Interrupted(f"Stopped after {how_far(state, config)}; --resume goes on.")
    return stopped


def how_far(state: TrainingState, config: TrainingConfig) -> str:
    """`120 of 3000 iterations`, and of which stage."""
    return f"{state.iteration} of {config.iterations} iterations{state.of_stage}"


def enter_stage(
    state: TrainingState,
    source: ExampleSource,
    config: TrainingConfig,
    accelerator: "Accelerator",
    place: torch.device,
    stopped: Callable[[], bool],
    feed: Feed = example_batches,
) -> None:
    """Let the method make itself ready for the stage that begins, alike in all processes; the average follows.

    Raises StoppedWaiting when told to stop while it looks at the data.
    """

    def one_pass() -> Generator[Batch, None, None]:  # that of the main process, for all
        count = math.ceil(len(source) / config.batch_size)
        alone = config.model_copy(update={"iterations": count, "accumulation": 1, "workers": 0})
        with feed(state.method, 0, source, alone) as batches:
            for batch in batches:
                if stopped():
                    raise StoppedWaiting
                yield batch.to(place)

    torch.manual_seed(seed_of(config.seed, state.stage))
    with torch.no_grad(), closing(one_pass()) as batches:
        state.method.eval().enter_stage(state.stage, batches)
    if accelerator.num_processes > 1:  # what was measured may differ by rounding
        from accelerate.utils import broadcast

        for tensor in state.method.state_dict().values():
            tensor.copy_(broadcast(tensor.contiguous()))
    state.average.load_state_dict(state.method.state_dict())


def train_only_what_is_listed(method: Trainable, stage: str) -> None:
    """Freeze every parameter that no objective of the stage lists; parts all of whose parameters are frozen run as in
    use: without dropout, and with their running statistics left alone.
    """
    listed = {id(parameter) for objective in method.objectives(stage) for parameter in objective.parameters}
    method.train()
    for part in method.modules():
        own = [id(parameter) for parameter in part.parameters()]
        if own and listed.isdisjoint(own):
            part.eval()
    for parameter in method.parameters():
        parameter.requires_grad_(id(parameter) in listed)


def descend(
    state: TrainingState, micro: Sequence[Batch], config: TrainingConfig, accelerator: "Accelerator"
) -> dict[str, float]:
    """One iteration: every objective takes a step on the mean gradient of these batches. Returns the terms, as means.

    Raises MrsynthError when a gradient is not finite, before it reaches a weight.
    """
    rate = learning_rate(state.iteration, config)
    objectives = state.method.objectives(state.stage)
    terms: dict[str, list[Tensor]] = {}
    for objective, optimizer in zip(objectives, state.optimizers, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        for part, batch in enumerate(micro):
            seed = seed_of(config.seed, state.iteration, part, accelerator.process_index, objective.name)
            torch.manual_seed(seed)  # for dropout, which takes no generator
            with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                losses = objective.loss(batch, torch.Generator().manual_seed(seed))
            accelerator.backward(losses["loss"] / config.accumulation)
            for name, value in losses.items():
                terms.setdefault(name, []).append(value.detach())
                if len(objectives) > 1:  # then "loss" is the sum over the objectives
                    terms.setdefault(f"{objective.name}_{name}", []).append(value.detach())
        average_gradients(objective, accelerator)
        norm = accelerator.clip_grad_norm_(objective.parameters, config.clip)
        if norm is not None and not bool(torch.isfinite(norm)):
            raise MrsynthError(
                f"Training diverged at iteration {state.iteration + 1}{state.of_stage}: the norm of the "
                f"{objective.name} gradient is {float(norm)}. What was saved before is untouched. "
                "Begin again with a lower training.learning_rate."
            )
        optimizer.step()
    state.iteration += 1
    update_average(state, config.ema)
    means = {name: sum(float(v) / len(micro) for v in values) for name, values in terms.items()}
    return {**means, "learning_rate": rate}


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then constant or a half cosine down to a hundredth, or to the final rate."""
    last = config.iterations if config.decay == "cosine" else None
    end = 0.01 if config.final_learning_rate is None else config.final_learning_rate / config.learning_rate
    return config.learning_rate * share_of_rate(step, config.warmup, last, end)


def share_of_rate(step: int, warmup: int, last: int | None, end: float = 0.01) -> float:
    """The share of the learning rate: linear warm-up, then 1, or with `last` a half cosine that ends there at `end`."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise if last is None else rise * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * step / last)))


def update_average(state: TrainingState, decay: float) -> None:
    """Exponential moving average; its memory grows from ten iterations so that early noise is forgotten.

    Buffers, such as running statistics, are averages or constants already: the averaged method takes them as they are.
    Frozen parameters are what they were when the stage began, in both.
    """
    weight = 1 - min(decay, (1 + state.iteration) / (10 + state.iteration))
    with torch.no_grad():
        for ours, theirs in zip(state.average.parameters(), state.method.parameters(), strict=True):
            if theirs.requires_grad:
                ours.lerp_(theirs.to(ours), weight)
        for kept, current in zip(state.average.buffers(), state.method.buffers(), strict=True):
            kept.copy_(current)


# Processes and devices -----------------------------------------------------------------------------------------------


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from numbers and names."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def processes(device: str) -> "PartialState":
    """This process among those of the run: the only one, unless started by `accelerate launch` or torchrun.

    Raises UsageError when there are several that cannot reach one another: each would believe itself the main one.
    """
    from accelerate import PartialState

    expected = int(os.environ.get("WORLD_SIZE", "1"))
    left = [f"{name}={os.environ[name]}" for name in OF_A_LAUNCHER if name in os.environ]
    if left and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            f"The environment says {', '.join(left)}, as a launcher of several processes does, but no WORLD_SIZE. "
            "Start with `accelerate launch` or torchrun, or take them out of the environment with `unset`."
        )
    if expected > 1:
        log.warning("Waiting for %d processes, as the environment says: %s.", expected, ", ".join(left) or "WORLD_SIZE")
    # While the main process prepares data or validates, the others wait: hours, with a large cohort.
    state = PartialState(cpu=expected > 1 and device == "cpu", timeout=timedelta(days=1))
    if state.num_processes != expected:
        raise UsageError(
            f"Started as {expected} processes, but Accelerate finds {state.num_processes} and no accelerator for each. "
            "Give --device cpu to train on processors, or start a single process."
        )
    return state


def to_device(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move what an optimiser remembers to the device of its parameters."""
    for values in optimizer.state.values():
        for key, value in values.items():
            if isinstance(value, Tensor) and key != "step":
                values[key] = value.to(device)


def average_gradients(objective: Objective, accelerator: "Accelerator") -> None:
    """Give every process the mean gradient, in one exchange per objective. Nothing to do in a single process.

    Not by DistributedDataParallel: that knows one forward() per step, a method has objectives instead.
    """
    if accelerator.num_processes == 1:
        return
    for parameter in objective.parameters:
        if parameter.grad is None:  # every process must send the same
            parameter.grad = torch.zeros_like(parameter.data)
    gradients = [parameter.grad for parameter in objective.parameters if parameter.grad is not None]
    mean = accelerator.reduce(torch.cat([gradient.reshape(-1) for gradient in gradients]), "mean")
    assert isinstance(mean, Tensor)
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def any_process(flag: bool, accelerator: "Accelerator", device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    flags = torch.tensor(float(flag), device=device)
    return flag if accelerator.num_processes == 1 else bool(accelerator.reduce(flags, "sum") > 0)
