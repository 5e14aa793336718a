"""`mrsynth train`: from folders of subjects to a checkpoint that `complete` can use.

A run folder holds
    checkpoint.safetensors   the averaged weights, for use
    best.safetensors         those that did best on the validation subjects
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

import logging
import pickle
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mrsynth.contrasts import Contrast
from mrsynth.devices import choose_device, out_of_memory
from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.checkpoint import WRITTEN_BY, read_header
from mrsynth.io.files import ensure_folder, write_text
from mrsynth.io.locks import locked, sweep_leftovers
from mrsynth.io.provenance import refuse_others
from mrsynth.io.reading import open_regular
from mrsynth.io.tokens import read_tokens
from mrsynth.io.yaml_files import read_yaml
from mrsynth.methods.base import Method, Trainable
from mrsynth.plain import Progress
from mrsynth.sampling import AXIAL, Plane
from mrsynth.scans.planes import cannot_be_cut
from mrsynth.segmenter.network import KIND
from mrsynth.tasks.models import load_network
from mrsynth.tasks.train.cards import counts
from mrsynth.tasks.train.cohort import Cohort, gather, refuse_other_subjects
from mrsynth.tasks.train.config import (
    RunConfig,
    build_trainable,
    read_run_file,
    refuse_another_run,
    run_text,
    yaml_text,
)
from mrsynth.tasks.train.regions import with_regions
from mrsynth.tasks.train.stages import StagePlan, take_over
from mrsynth.tasks.train.stopping import stop_signals
from mrsynth.tasks.train.work import work
from mrsynth.training.batches import example_batches
from mrsynth.training.loop import Feed, TrainingState, begin, learning_rate, processes

log = logging.getLogger(__name__)

WRITTEN = ("best.safetensors", "config.yaml", "subjects.yaml", "losses.csv", "validation.csv")
BEGIN = "# written by mrsynth train\n"  # how the configuration of a run begins
NOT_BUILT = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AssertionError)  # from nonsense
DAMAGE = (AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError)  # of a saved state


@dataclass(frozen=True)
class TrainOptions:
    """The request of the command line.

    config     a run file; without one the defaults hold, or with `resume` those of the run
    overrides  on top of it, by dotted key: {"training.iterations": 12}
    init       name or path of the checkpoint whose weights to begin with; None leaves it to the run file
    tokens     file of `mrsynth weights embed-text`; None leaves it to the run file
    """

    method: str | None  # or segmenter; None: that of `init`
    data: tuple[Path, ...]
    out: Path
    config: Path | None = None
    overrides: Mapping[str, Any] | None = None
    resume: bool = False
    device: str = "auto"
    init: str | None = None
    tokens: Path | None = None
    min_subjects: int | None = None
    accept_changed_data: bool = False


def train(options: TrainOptions, progress: Progress | None = None, *, feed: Feed = example_batches) -> Path:
    """Train, or go on training, and return the checkpoint's path.

    feed   what makes batches of the examples; runs/gpu has one that does it on a device
    Raises UsageError for a request or configuration that makes no sense, InputError for data that cannot train,
    WeightsError for a damaged state.pt, MemoryExhausted when a loader was killed, Interrupted when stopped by a signal
    (see `stop_signals`), both after saving.
    """
    if missing := [package for package in ("accelerate", "tensorboard") if find_spec(package) is None]:
        raise UsageError(f"Training needs {' and '.join(missing)}: pip install 'mrsynth[train]'")
    options = at_home(options)
    device = choose_device(options.device)  # now, not after an hour of preparation
    out = options.out
    refuse_wrong_folder(options)
    config, saved = configurations(options, device)
    refuse_another_run(saved, config, out)
    method = fresh_method(config)
    plan = StagePlan.of(config, method)
    if options.resume:
        plan = replace(plan, supplied=planes_said(out, config))
    elif isinstance(method, Method):
        if config.init:
            take_over(method, config.init, config.preparation)
        cards = {stage: take_over(method, init, config.preparation, stage) for stage, init in config.begun.items()}
        plan = replace(plan, supplied={stage: cards[stage].planes for stage in config.given})
        give_text(method, config)
    with ExitStack() as stack:
        stopped = stack.enter_context(stop_signals())
        process = processes(options.device)
        ensure_folder(out)
        if process.is_main_process:
            stack.enter_context(alone_in(out))
            refuse_wrong_folder(options)  # another may have worked here until a moment ago
        state = begin(method, plan.stages[0], plan.taken_over)
        if options.resume:
            load_state(state, out / "state.pt", plan)
            plan.refuse_changed_past(saved, state)
            say_what_is_longer(saved, config, state)
        report: Progress = progress if progress is not None and process.is_main_process else lambda *_: None
        with process.main_process_first():  # the others find everything in the cache
            cohort = gather(options.data, config, state.method, out / "cache", report, stopped, options.min_subjects)
        if process.is_main_process:
            keep_record(cohort, config, options)
        work(state, cohort, config, plan, out, report, stopped, options.device, feed)
    return out / "checkpoint.safetensors"


def at_home(options: TrainOptions) -> TrainOptions:
    """The request with `~` read as the home folder, which no shell does in `--out=~/run`."""
    paths = {name: getattr(options, name) for name in ("out", "config", "tokens")}
    known = {name: path.expanduser() for name, path in paths.items() if path is not None}
    return replace(options, data=tuple(root.expanduser() for root in options.data), **known)


def refuse_wrong_folder(options: TrainOptions) -> None:
    """Raise UsageError when there is no run to resume, or one that would be overwritten."""
    out = options.out
    if options.resume and not (out / "state.pt").exists():
        raise UsageError(f"{out} holds no run to resume: state.pt is missing. Leave --resume out to begin one.")
    if not options.resume and any((out / name).exists() for name in ("state.pt", "checkpoint.safetensors")):
        raise UsageError(f"{out} already holds a run. Give --resume to go on with it, or another --out.")
    if not options.resume:
        begun = is_run_file(out / "config.yaml")  # killed before it had saved anything
        refuse_others(out, WRITTEN, lambda _: begun)


def is_run_file(path: Path) -> bool:
    """Whether a training wrote this configuration."""
    try:
        with open_regular(path) as file:
            return file.read(len(BEGIN)) == BEGIN.encode()
    except OSError:
        return False


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Hold the run folder, and sweep what killed runs left there. Raises UsageError when another run holds it."""
    with ExitStack() as stack:
        try:
            if stack.enter_context(locked(out)):
                for folder in (out / "cache", out / "samples"):
                    if folder.is_dir():
                        sweep_leftovers(folder)
        except BlockingIOError:
            raise UsageError(
                f"Another training is at work in {out}. Wait until it ends, or give this one another --out."
            ) from None
        yield


def keep_record(cohort: Cohort, config: RunConfig, options: TrainOptions) -> None:
    """Write who trains and how; say which contrasts nobody has. Raises UsageError when a resumed run would differ."""
    listing, file = cohort.listing(), options.out / "subjects.yaml"
    if options.resume:
        changed = refuse_other_subjects(cohort, file, options.accept_changed_data)
        before = dict(read_yaml(file)).get("changed", []) if file.exists() else []
        if changed := sorted({*before, *changed}):
            listing["changed"] = changed
            log.warning("The data of %s changed since the run was begun; subjects.yaml records it.", ", ".join(changed))
    contrasts = [Contrast(c) for c in config.method["contrasts"]]
    seen = counts(contrasts, cohort.training)
    if never := [c.label for c in contrasts if not seen[c]]:
        log.warning("No training subject has %s: the checkpoint will neither make nor read it.", ", ".join(never))
    write_text(options.out / "config.yaml", BEGIN + yaml_text(config.plain()))  # first: it marks the folder as a run's
    write_text(file, yaml_text(listing))


def say_what_is_longer(saved: RunConfig, config: RunConfig, state: TrainingState) -> None:
    """Say what another number of iterations changes in the stage that goes on."""
    had, asked = (c.training_of(state.stage) for c in (saved, config))
    if had.iterations == asked.iterations:
        return
    before, now = (learning_rate(state.iteration, training) for training in (had, asked))
    rate = f"; the learning rate goes on at {now:.3g} instead of {before:.3g}" if before != now else ""
    log.warning(
        "%d iterations are asked for instead of %d: what depends on the share that is done (a curriculum, the cosine "
        "of the learning rate) is stretched%s.",
        *(asked.iterations, had.iterations, rate),
    )


def configurations(options: TrainOptions, device: str) -> tuple[RunConfig, RunConfig]:
    """That which is asked for, and that of the run to resume (the same without one); `auto` is settled in both."""
    config = read_config(options)
    if not options.resume or config.method.get("regions", ...) is None:
        config = with_regions(config, options.data)
    if not options.resume:
        return config.settled(device), config.settled(device)
    saved = read_run_file(options.out / "config.yaml", method_of(options), begun=True).settled(device)
    return config.settled(device, saved), saved


def method_of(options: TrainOptions) -> str:
    """The method to train: as asked for, else that of the run to resume or of the checkpoint to begin with.

    Raises UsageError when nothing says.
    """
    if options.method is not None:
        return options.method
    text = run_text(config_file(options), options.overrides or {})
    said = KIND if KIND in text else (text.get("method") or {}).get("method") or ""
    if not said and (init := options.init or text.get("init")):
        said = load_network(str(init)).card.method
    if not said:
        raise UsageError("Give --method NAME, the method to train, or --segmenter.")
    return str(said)


def config_file(options: TrainOptions) -> Path | None:
    """The run file: the one given, or that of the run to resume."""
    return options.config or (options.out / "config.yaml" if options.resume else None)


def read_config(options: TrainOptions) -> RunConfig:
    """Defaults, then the preset, then the run file, then the overrides; unknown keys are refused with their place.

    Without a run file, --init gives the method, preparation and planes of its checkpoint.
    """
    file, method = config_file(options), method_of(options)
    said = {"init": options.init, "tokens": options.tokens and str(options.tokens)}
    overrides = {**(options.overrides or {}), **{key: value for key, value in said.items() if value}}
    base: dict[str, Any] = {}
    if options.init and file is None:
        found = load_network(options.init)
        if found.card.method != method:
            raise UsageError(f"{options.init} is a checkpoint of {found.card.method}, not of {method}.")
        settings: Any = found.method.config
        base = {
            "method": settings.model_dump(mode="json"),
            "preparation": found.preparation.model_dump(mode="json"),
            "training": {"planes": found.card.planes},
        }
    return read_run_file(file, method, overrides, begun=options.resume and options.config is None, base=base)


def planes_said(out: Path, config: RunConfig) -> dict[str, tuple[Plane, ...]]:
    """The planes of the stages that are not trained, by the checkpoint of the run: theirs may be gone by now."""
    try:
        planes = read_header(out / "checkpoint.safetensors").card.planes
    except WeightsError:  # damaged, or killed before it was there
        return {}
    return dict.fromkeys(config.given, planes)


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
    except NOT_BUILT as error:
        if out_of_memory(error):
            raise
        raise UsageError(f"method: {error}") from error
    sides = {"multiple": config.preparation.multiple, "depth_multiple": config.preparation.depth_multiple}
    for key, side in list(sides.items())[: method.dimensions - 1]:
        if side % method.multiple:
            raise UsageError(
                f"preparation.{key} is {side}; this network needs {'slices' if method.dimensions == 2 else 'volumes'} "
                f"whose sides are multiples of {method.multiple}. Set preparation.{key} to that."
            )
    places = {"training": config.training} | {f"stages.{stage}": config.training_of(stage) for stage in config.stages}
    for where, training in places.items():
        place, crop = f"{where}.crop", training.crop
        if training.slices and method.dimensions == 3:
            raise UsageError(f"{where}.slices is for methods that learn from slices; this one learns from volumes.")
        if training.planes != AXIAL and method.dimensions == 3:
            raise UsageError(f"{where}.planes is for methods that learn from slices; this one learns from volumes.")
        if wrong := cannot_be_cut(config.preparation, training.planes):
            raise UsageError(f"{where}.planes {', '.join(training.planes)} with preparation.{wrong}.")
        if training.augmentation.flip and config.preparation.axes[0] not in "LR":
            raise UsageError(
                f"{where}.augmentation.flip mirrors along the first axis, and with preparation.axes "
                f"{config.preparation.axes} that is not left-right. Set it to 0, or take axes that begin with L or R."
            )
        if crop and method.dimensions == 2:
            raise UsageError(f"{place} is for methods that learn from volumes; this one learns from slices.")
        if crop and any(side % method.multiple for side in crop):
            raise UsageError(f"{place} {crop}: every side must be a multiple of {method.multiple}.")
    return method


def load_state(state: TrainingState, file: Path, plan: StagePlan) -> None:
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
