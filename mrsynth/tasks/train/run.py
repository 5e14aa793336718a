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
A method of several stages is trained in one stage after the other; iterations are then counted over all of them.
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

from mrsynth.devices import choose_device
from mrsynth.errors import Interrupted, UsageError, WeightsError
from mrsynth.io.checkpoint import FORMAT, WRITTEN_BY, Checkpoint, write_checkpoint
from mrsynth.io.files import ensure_folder, write_bytes, write_text
from mrsynth.io.tokens import read_tokens
from mrsynth.methods.base import Method, Trainable
from mrsynth.plain import Progress
from mrsynth.tasks.train.cohort import Cohort, card_of, examples_of, gather, refuse_other_subjects
from mrsynth.tasks.train.config import RunConfig, build_trainable, read_run_file, refuse_another_run, yaml_text
from mrsynth.tasks.train.judging import judge_of
from mrsynth.tasks.train.log import RunLog
from mrsynth.tasks.train.regions import with_regions
from mrsynth.tasks.train.stages import Plan, take_over
from mrsynth.training.loop import Callbacks, TrainingState, begin, processes, train

DAMAGE = (AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError)  # of a saved state


@dataclass(frozen=True)
class TrainOptions:
    """The request of the command line.

    config     a run file; without one the defaults hold, or with `resume` those of the run
    overrides  on top of it, by dotted key: {"training.iterations": 12}
    init       name or path of the checkpoint whose weights to begin with; None leaves it to the run file
    tokens     file of `mrsynth weights embed-text`; None leaves it to the run file
    """

    method: str  # or segmenter
    data: tuple[Path, ...]
    out: Path
    config: Path | None = None
    overrides: Mapping[str, Any] | None = None
    resume: bool = False
    device: str = "auto"
    init: str | None = None
    tokens: Path | None = None


def run(options: TrainOptions, progress: Progress | None = None) -> Path:
    """Train, or go on training, and return the checkpoint's path.

    Raises UsageError for a request or configuration that makes no sense, InputError for data that cannot train,
    WeightsError for a damaged state.pt, Interrupted when stopped by SIGTERM or SIGINT (after saving).
    """
    if missing := [package for package in ("accelerate", "tensorboard") if find_spec(package) is None]:
        raise UsageError(f"Training needs {' and '.join(missing)}: pip install 'mrsynth[train]'")
    choose_device(options.device)  # now, not after an hour of preparation
    out, state_file = options.out, options.out / "state.pt"
    if options.resume and not state_file.exists():
        raise UsageError(f"{out} holds no run to resume: state.pt is missing. Leave --resume out to begin one.")
    if not options.resume and (state_file.exists() or (out / "checkpoint.safetensors").exists()):
        raise UsageError(f"{out} already holds a run. Give --resume to go on with it, or another --out.")
    config = read_config(options)
    if not options.resume or config.method.get("regions", ...) is None:
        config = with_regions(config, options.data)
    saved = read_run_file(out / "config.yaml", options.method, begun=True) if options.resume else config
    refuse_another_run(saved, config, out)
    method = fresh_method(config)
    plan = Plan.of(config, method)
    if isinstance(method, Method) and not options.resume:
        for stage, init in ([(None, config.init)] if config.init else []) + list(config.given.items()):
            take_over(method, init, stage)
        give_text(method, config)
    state = begin(method, plan.stages[0])
    if options.resume:
        load_state(state, state_file, plan)
        plan.refuse_changed_past(saved, state)
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
            write_text(out / "config.yaml", yaml_text(config.plain()))
        work(state, cohort, config, plan, out, report, stopped, options.device)
    return out / "checkpoint.safetensors"


def work(
    state: TrainingState,
    cohort: Cohort,
    config: RunConfig,
    plan: Plan,
    out: Path,
    report: Progress,
    stopped: Callable[[], bool],
    device: str,
) -> None:
    """Everything is ready: train one stage after the other, and keep the run folder up to date."""
    card = card_of(config, state.method, cohort.training)
    judged = state.method.stages if state.method.judged_stages is None else state.method.judged_stages
    judge = judge_of(state.method, cohort.validation, config.preparation.spacing)
    log = RunLog(out, plan.done(state))

    def save(state: TrainingState) -> None:
        buffer = io.BytesIO()  # torch.save into a file hides a full disk behind an error of its own
        torch.save({"format": FORMAT, **state.state_dict()}, buffer)
        write_bytes(out / "state.pt", buffer.getvalue())
        current = card.model_copy(update={"iterations": plan.done(state), "note": plan.note(state)})
        tensors = state.average.saved_state()
        content = Checkpoint(current, config.method, config.preparation.model_dump(mode="json"), tensors)
        write_checkpoint(out / "checkpoint.safetensors", content)

    def validate(average: Trainable, iteration: int) -> None:
        iteration += plan.before(state.stage)
        if state.stage not in judged or not len(judge) or log.has("validation.csv", iteration):
            return
        report(plan.text("validating", state.stage), iteration, plan.total)
        bf16 = plan.training[state.stage].precision == "bf16"
        found = judge.figures(average, state.stage, bf16, stopped)
        if found is None:
            return
        rows, shown = found
        log.validation(iteration, rows)
        if shown is not None:
            log.picture(iteration, shown)

    def note(iteration: int, terms: dict[str, float]) -> None:
        iteration += plan.before(state.stage)
        log.losses(iteration, terms, state.stage if plan.named else "")
        report(f"{plan.text('training', state.stage)}, loss {terms['loss']:.4f}", iteration, plan.total)

    callbacks = Callbacks(note, save, validate, stopped)
    try:
        for stage in plan.stages[plan.stages.index(state.stage) :]:
            if stage != state.stage:
                state.enter(stage)
            training = plan.training[stage]
            source = examples_of(cohort.training, state.method, training.crop)
            report(plan.text("training", stage), plan.done(state), plan.total)
            if train(state, source, training, callbacks, device) and stage != plan.stages[-1]:
                raise Interrupted(f"Stopped after the stage {stage}, which is finished; --resume goes on.")
    finally:
        log.close()


def read_config(options: TrainOptions) -> RunConfig:
    """Defaults, then the preset, then the run file, then the overrides; unknown keys are refused with their place."""
    file = options.config or (options.out / "config.yaml" if options.resume else None)
    said = {"init": options.init, "tokens": options.tokens and str(options.tokens)}
    overrides = {**(options.overrides or {}), **{key: value for key, value in said.items() if value}}
    return read_run_file(file, options.method, overrides, begun=options.resume and options.config is None)


def give_text(method: Trainable, config: RunConfig) -> None:
    """Hand a method the tokens it reads, where the run names some.

    Raises UsageError for tokens it does not take, and when it lacks some; InputError for a file that is none.
    """
    if config.tokens:
        method.give_tokens(read_tokens(Path(config.tokens)))
    if missing := method.lacking():
        raise UsageError(missing)


def fresh_method(config: RunConfig) -> Trainable:
    """The method with the weights it begins with. Raises UsageError for options that contradict one another."""
    torch.manual_seed(config.training.seed)
    try:
        method = build_trainable(config.method)
    except ValueError as error:
        raise UsageError(f"method: {error}") from error
    sides = {"multiple": config.preparation.multiple, "depth_multiple": config.preparation.depth_multiple}
    for key, side in list(sides.items())[: method.dimensions - 1]:
        if side % method.multiple:
            raise UsageError(
                f"preparation.{key} is {side}; this network needs {'slices' if method.dimensions == 2 else 'volumes'} "
                f"whose sides are multiples of {method.multiple}. Set preparation.{key} to that."
            )
    places = {"training.crop": config.training.crop}
    places |= {f"stages.{stage}.crop": config.training_of(stage).crop for stage in config.stages}
    for place, crop in places.items():
        if crop and method.dimensions == 2:
            raise UsageError(f"{place} is for methods that learn from volumes; this one learns from slices.")
        if crop and any(side % method.multiple for side in crop):
            raise UsageError(f"{place} {crop}: every side must be a multiple of {method.multiple}.")
    return method


def load_state(state: TrainingState, file: Path, plan: Plan) -> None:
    """Take over what a run saved. Raises WeightsError for a damaged file, UsageError for a run that is further on."""
    written_by = ""
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        if saved.pop("format", 1) == 1:
            written_by = f" ({WRITTEN_BY[1]} wrote it)"
            saved |= {part: state.method.tensors_of_format_1(saved[part]) for part in ("method", "average")}
        state.load_state_dict(saved)
    except (*DAMAGE, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".:")
        raise WeightsError(
            f"{file} cannot be resumed from: {reason}. It is damaged, or of another version of mrsynth{written_by}. "
            "checkpoint.safetensors beside it can still be used; training must begin anew in another --out."
        ) from error
    if state.iteration > (asked := plan.training[state.stage].iterations):
        raise UsageError(
            f"{file.parent} has {state.iteration} iterations{state.of_stage} already; training.iterations asks for "
            f"only {asked}."
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
