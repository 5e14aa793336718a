"""`mrsynth train`: from folders of subjects to a checkpoint that `complete` can use.

A run folder holds
    checkpoint.safetensors   the averaged weights, for use
    state.pt                 all that --resume needs
    config.yaml              the whole configuration
    subjects.yaml            who trains, who validates, who was left out and why
    losses.csv               one row every `log_every` iterations
    validation.csv           one row per validation, pattern and target
    samples/                 pictures of the validation slices
    tensorboard/             the same figures for TensorBoard
    cache/                   prepared subjects; may be deleted
"""

import io
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
from mrsynth.io.files import ensure_folder, write_bytes, write_text
from mrsynth.methods import build_method
from mrsynth.methods.adapters import cwdm_for_target
from mrsynth.methods.base import Method
from mrsynth.tasks.cohort import Cohort, card_of, examples_of, gather, refuse_other_subjects
from mrsynth.tasks.models import load_method, tensors_misfit
from mrsynth.tasks.run_config import RunConfig, read_run_file, refuse_another_run, yaml_text
from mrsynth.tasks.run_log import RunLog
from mrsynth.training import Callbacks, TrainingState, begin, device_of, processes, train
from mrsynth.validation import ValidationSlices, fill_in_every_pattern, picture, score_patterns

MEANING = ("method", "contrasts", "wavelet", "low_scale")  # of a network's inputs, which the shapes do not show

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainOptions:
    """The request of the command line.

    config     a run file; without one the defaults hold, or with `resume` those of the run
    overrides  on top of it, by dotted key: {"training.iterations": 12}
    init       name or path of the checkpoint whose weights to begin with; None leaves it to the run file
    """

    method: str
    data: tuple[Path, ...]
    out: Path
    config: Path | None = None
    overrides: Mapping[str, Any] | None = None
    resume: bool = False
    device: str = "auto"
    init: str | None = None


def run(options: TrainOptions, progress: Progress | None = None) -> Path:
    """Train, or go on training, and return the checkpoint's path.

    Raises UsageError for a request or configuration that makes no sense, InputError for data that cannot train,
    WeightsError for a damaged state.pt, Interrupted when stopped by SIGTERM or SIGINT (after saving).
    """
    if missing := [package for package in ("accelerate", "tensorboard") if find_spec(package) is None]:
        raise UsageError(f"Training needs {' and '.join(missing)}: pip install 'mrsynth[train]'")
    device_of(options.device)  # now, not after an hour of preparation
    out, state_file = options.out, options.out / "state.pt"
    if options.resume and not state_file.exists():
        raise UsageError(f"{out} holds no run to resume: state.pt is missing. Leave --resume out to begin one.")
    if not options.resume and (state_file.exists() or (out / "checkpoint.safetensors").exists()):
        raise UsageError(f"{out} already holds a run. Give --resume to go on with it, or another --out.")
    config = read_config(options)
    if options.resume:
        refuse_another_run(read_run_file(out / "config.yaml", options.method), config, out)
    method = fresh_method(config)
    if config.init and not options.resume:
        take_over(method, config.init)
    state = begin(method, config.training)
    if options.resume:
        load_state(state, state_file, config)
    ensure_folder(out)
    process = processes(options.device)
    report: Progress = progress if progress is not None and process.is_main_process else lambda *_: None
    with stop_signals() as stopped:
        with process.main_process_first():  # the others find everything in the cache
            cohort = gather(options.data, config, state.method, out / "cache", report, stopped)
        if process.is_main_process:
            if options.resume:
                refuse_other_subjects(cohort, out / "subjects.yaml")
            write_text(out / "subjects.yaml", yaml_text(cohort.listing()))
            write_text(out / "config.yaml", yaml_text(config.model_dump(mode="json")))
        work(state, cohort, config, out, report, stopped, options.device)
    return out / "checkpoint.safetensors"


def work(
    state: TrainingState,
    cohort: Cohort,
    config: RunConfig,
    out: Path,
    report: Progress,
    stopped: Callable[[], bool],
    device: str,
) -> None:
    """Everything is ready: train, and keep the run folder up to date."""
    total, bf16 = config.training.iterations, config.training.precision == "bf16"
    card = card_of(config, state.method, cohort.training)
    source = examples_of(cohort.training, state.method, config.training.crop)
    each = [examples_of([s], state.method) for s in cohort.validation]
    judges = ValidationSlices.whole(each) if state.method.dimensions == 3 else ValidationSlices.of(each)
    log = RunLog(out, state.iteration)

    def save(state: TrainingState) -> None:
        buffer = io.BytesIO()  # torch.save into a file hides a full disk behind an error of its own
        torch.save(state.state_dict(), buffer)
        write_bytes(out / "state.pt", buffer.getvalue())
        finished = card.model_copy(update={"iterations": state.iteration})
        tensors = state.average.state_dict()
        content = Checkpoint(finished, config.method, config.preparation.model_dump(mode="json"), tensors)
        write_checkpoint(out / "checkpoint.safetensors", content)

    def validate(average: Method, iteration: int) -> None:
        if not len(judges) or log.has("validation.csv", iteration):
            return
        report("validating", iteration, total)
        batch, made = judges.batch(), {}
        for pattern, images in fill_in_every_pattern(average, batch, bf16):
            if stopped():
                return
            made[pattern] = images
        log.validation(iteration, score_patterns(average, batch, made))
        log.picture(iteration, picture(average, batch, made))

    def note(iteration: int, terms: dict[str, float]) -> None:
        log.losses(iteration, terms)
        report(f"training, loss {terms['loss']:.4f}", iteration, total)

    report("training", state.iteration, total)
    try:
        train(state, source, config.training, Callbacks(note, save, validate, stopped), device)
    finally:
        log.close()


def read_config(options: TrainOptions) -> RunConfig:
    """Defaults, then the preset, then the run file, then the overrides; unknown keys are refused with their place."""
    file = options.config or (options.out / "config.yaml" if options.resume else None)
    overrides = {**(options.overrides or {}), **({"init": options.init} if options.init else {})}
    return read_run_file(file, options.method, overrides)


def fresh_method(config: RunConfig) -> Method:
    """The method with the weights it begins with. Raises UsageError for options that contradict one another."""
    torch.manual_seed(config.training.seed)
    try:
        method = build_method(config.method)
    except ValueError as error:
        raise UsageError(f"method: {error}") from error
    sides = {"multiple": config.preparation.multiple, "depth_multiple": config.preparation.depth_multiple}
    for key, side in list(sides.items())[: method.dimensions - 1]:
        if side % method.multiple:
            raise UsageError(
                f"preparation.{key} is {side}; this network needs {'slices' if method.dimensions == 2 else 'volumes'} "
                f"whose sides are multiples of {method.multiple}. Set preparation.{key} to that."
            )
    if config.training.crop and method.dimensions == 2:
        raise UsageError("training.crop is for methods that learn from volumes; this one learns from slices.")
    if config.training.crop and any(side % method.multiple for side in config.training.crop):
        raise UsageError(f"training.crop {config.training.crop}: every side must be a multiple of {method.multiple}.")
    return method


def take_over(method: Method, init: str) -> None:
    """Begin with the weights of a checkpoint. Raises WeightsError when there is none, or one of another network."""
    found = load_method(init)
    tensors = dict(found.method.state_dict())
    if found.card.method == "cwdm" and len(found.method.targets) > 1 and len(method.targets) == 1:
        tensors = cwdm_for_target(tensors, method.contrasts.index(method.targets[0]))
    theirs, ours = options_of(found.method), options_of(method)
    wrong = [f"{key} is {theirs.get(key)}, here {ours.get(key)}" for key in MEANING if theirs.get(key) != ours.get(key)]
    if wrong := wrong + tensors_misfit(method, tensors):
        raise WeightsError(
            f"{init} is of another network than this run's: {'; '.join(wrong[:3])}. Give the run the configuration of "
            "that checkpoint (`mrsynth weights show`), or begin without --init."
        )
    method.load_state_dict(tensors)


def options_of(method: Method) -> dict[str, Any]:
    """The configuration of a method as plain data."""
    config: Any = method.config
    return dict(config.model_dump())


def load_state(state: TrainingState, file: Path, config: RunConfig) -> None:
    """Take over what a run saved. Raises WeightsError for a damaged file, UsageError for a run that is further on."""
    try:
        state.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (OSError, EOFError, LookupError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".:")
        raise WeightsError(
            f"{file} cannot be resumed from: {reason}. It is damaged, or of another version of mrsynth. "
            "checkpoint.safetensors beside it can still be used; training must begin anew in another --out."
        ) from error
    if state.iteration > config.training.iterations:
        raise UsageError(
            f"{file.parent} has {state.iteration} iterations already; training.iterations asks for only "
            f"{config.training.iterations}."
        )


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM and SIGINT only set a flag; the value says whether it is set."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
