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

import csv
import io
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from mrsynth.card import Card
from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError, Interrupted, UsageError, WeightsError
from mrsynth.io.cache import CachedSubject, cached
from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
from mrsynth.io.dataset import SubjectFiles, find_subjects
from mrsynth.io.files import ensure_folder, write_bytes, write_text
from mrsynth.methods import build_method
from mrsynth.methods.base import Method
from mrsynth.tasks.run_config import RunConfig, read_run_file, refuse_another_run, yaml_text
from mrsynth.training import Callbacks, Slab, TrainingState, begin, device_of, processes, train
from mrsynth.validation import ValidationRow, ValidationSlices, fill_in_every_pattern, picture, score_patterns

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainOptions:
    """The request of the command line.

    config     a run file; without one the defaults hold, or with `resume` those of the run
    overrides  on top of it, by dotted key: {"training.iterations": 12}
    """

    method: str
    data: tuple[Path, ...]
    out: Path
    config: Path | None = None
    overrides: Mapping[str, Any] | None = None
    resume: bool = False
    device: str = "auto"


class Slices:
    """Every training slice of a cohort, addressed by one index."""

    def __init__(self, subjects: Sequence[CachedSubject], neighbours: int):
        self.subjects, self.neighbours = subjects, neighbours
        self.places = [(s, k) for s, subject in enumerate(subjects) for k in subject.slices]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Slab:
        s, k = self.places[index]
        subject = self.subjects[s]
        return Slab(subject.slab(k, self.neighbours), np.array(subject.present))


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
    state = begin(fresh_method(config), config.training)
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
    cohort: "Cohort",
    config: RunConfig,
    out: Path,
    report: Progress,
    stopped: Callable[[], bool],
    device: str,
) -> None:
    """Everything is ready: train, and keep the run folder up to date."""
    total, bf16 = config.training.iterations, config.training.precision == "bf16"
    card = card_of(config, state.method, cohort.training)
    source = Slices(cohort.training, state.method.neighbours)
    judges = ValidationSlices.of([Slices([s], state.method.neighbours) for s in cohort.validation])
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
    return read_run_file(file, options.method, options.overrides or {})


def fresh_method(config: RunConfig) -> Method:
    """The method with the weights it begins with. Raises UsageError for options that contradict one another."""
    torch.manual_seed(config.training.seed)
    try:
        method = build_method(config.method)
    except ValueError as error:
        raise UsageError(f"method: {error}") from error
    if config.preparation.multiple % method.multiple:
        raise UsageError(
            f"preparation.multiple is {config.preparation.multiple}; this network needs slices whose height and width "
            f"are multiples of {method.multiple}. Set preparation.multiple to that."
        )
    return method


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


# Data ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cohort:
    """Prepared subjects: those that train and those that judge; and for each left out, why."""

    training: list[CachedSubject]
    validation: list[CachedSubject]
    left_out: list[str]

    def listing(self) -> dict[str, Any]:
        """As plain data: {training: [{name: slices}, ...], validation: ..., left out: ...}."""
        named = {part: [{s.name: len(s.slices)} for s in getattr(self, part)] for part in ("training", "validation")}
        return {**named, "left out": self.left_out}


def gather(
    roots: Sequence[Path],
    config: RunConfig,
    method: Method,
    cache: Path,
    report: Progress,
    stopped: Callable[[], bool] = lambda: False,
) -> Cohort:
    """Find and prepare every subject below the roots. Raises InputError, and Interrupted when stopped."""
    found: dict[tuple[Path, ...], SubjectFiles] = {}  # by files: roots may overlap
    left_out: list[str] = []
    for root in roots:
        subjects, reasons = find_subjects(root)
        found |= {tuple(sorted(p.resolve() for p in s.files.values())): s for s in subjects}
        left_out += reasons
    names = {subject.name for subject in found.values()}
    for part in ("validation", "exclude", "repeat"):
        if unknown := set(getattr(config.data, part)) - names:
            raise InputError(
                f"data.{part} names subjects that are not there: {', '.join(sorted(unknown))}. "
                f"Below {', '.join(map(str, roots))} there are {len(names)} others."
            )
    wanted = []
    for files in found.values():
        if files.name in config.data.exclude:
            left_out.append(f"{files.name}: excluded by the configuration")
        elif sum(c in files.files for c in method.contrasts) < 2:
            left_out.append(f"{files.name}: fewer than two of {', '.join(method.contrasts)}")
        else:
            wanted.append(files)
    prepared = []
    for done, files in enumerate(wanted):
        if stopped():
            raise Interrupted(f"Stopped after preparing {done} of {len(wanted)} subjects; they need not be done again.")
        report(f"preparing {files.name}", done, len(wanted))
        prepared.append(cached(files, method.contrasts, config.preparation, cache))
    training = [
        s for s in prepared if s.name not in config.data.validation for _ in range(config.data.repeat.get(s.name, 1))
    ]
    if not any(s.slices for s in training):
        why = "".join(f"\n  {reason}" for reason in left_out[:10])
        raise InputError(
            f"Nothing to train on below {', '.join(map(str, roots))}. Expected subjects with at least two of "
            f"{', '.join(method.contrasts)}; found {len(found)} subjects, {len(config.data.validation)} of them for "
            f"validation.{' Left out:' if why else ''}{why}"
        )
    return Cohort(training, [s for s in prepared if s.name in config.data.validation], left_out)


def refuse_other_subjects(cohort: Cohort, listing: Path) -> None:
    """Raise UsageError when a resumed run would see other slices, in another order."""
    if not listing.exists():
        return
    before = yaml.safe_load(listing.read_text(encoding="utf-8"))
    for part in ("training", "validation"):
        old, new = ([str(subject) for subject in data[part]] for data in (before, cohort.listing()))
        if old != new:
            gone, come = (", ".join(s.strip("{}") for s in a if s not in b) for a, b in ((old, new), (new, old)))
            raise UsageError(
                f"The {part} subjects (and their numbers of slices) are not those the run was begun with. Missing: "
                f"{gone or 'none'}. New: {come or 'none'}. Give the same --data in the same order, or begin a new run."
            )


def card_of(config: RunConfig, method: Method, training: Sequence[CachedSubject]) -> Card:
    """What the checkpoint will say of itself, with the intensity histograms of its training data."""
    intensity: dict[Contrast, tuple[float, ...]] = {}
    for channel, contrast in enumerate(method.contrasts):
        having = [s.histograms[channel] for s in training if s.present[channel]]
        if having:
            intensity[contrast] = tuple(np.mean(having, axis=0).round(6).tolist())
    return Card(
        name=config.name,
        method=config.method["method"],
        contrasts=method.contrasts,
        licence=config.licence,
        sampling={k: config.method[k] for k in ("sampler", "steps") if config.method.get(k) is not None},
        training_data=config.data.sources,
        intensity=intensity,
    )


# The run folder ------------------------------------------------------------------------------------------------------


class RunLog:
    """What a run leaves for people: losses and scores as CSV and for TensorBoard, and pictures.

    Rows of iterations after the one a run resumes from are dropped: they will come again. Nothing is written before the
    first row is, so that of several processes only the one that is called writes.
    """

    def __init__(self, out: Path, iteration: int):
        self.out, self.iteration = out, iteration
        self.rows: dict[str, list[dict[str, str]]] = {}
        self.board: Any = None

    def losses(self, iteration: int, terms: Mapping[str, float]) -> None:
        """One row of `losses.csv`."""
        self.add("losses.csv", [{"iteration": iteration, **terms}])
        self.scalars(iteration, {f"train/{name}": value for name, value in terms.items()})

    def validation(self, iteration: int, rows: Sequence[ValidationRow]) -> None:
        """One row of `validation.csv` per pattern and target."""
        if not rows:
            return
        self.add("validation.csv", [{"iteration": iteration, **row._asdict()} for row in rows])
        for metric in ("psnr", "ssim"):
            values = {f"validation_{metric}/{row.pattern}:{row.target}": getattr(row, metric) for row in rows}
            self.scalars(iteration, {**values, f"validation/{metric}": float(np.mean(list(values.values())))})

    def picture(self, iteration: int, png: bytes) -> None:
        """`samples/000500.png`."""
        write_bytes(ensure_folder(self.out / "samples") / f"{iteration:06d}.png", png)

    def add(self, name: str, new: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to a CSV file, which is written anew as a whole."""
        rows = self.known(name)
        rows += [{k: f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in row.items()} for row in new]
        text = io.StringIO()
        writer = csv.DictWriter(text, dict.fromkeys(k for row in rows for k in row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.out / name, text.getvalue())

    def known(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file."""
        if name not in self.rows:
            path = self.out / name
            old = list(csv.DictReader(io.StringIO(path.read_text()))) if path.exists() else []
            self.rows[name] = [row for row in old if int(row["iteration"]) <= self.iteration]
        return self.rows[name]

    def has(self, name: str, iteration: int) -> bool:
        """Whether a CSV file has rows of an iteration."""
        return any(int(row["iteration"]) == iteration for row in self.known(name))

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve of TensorBoard."""
        if self.board is None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(log_dir=str(self.out / "tensorboard"), purge_step=self.iteration + 1)
        for name, value in values.items():
            self.board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Let TensorBoard write what it holds back."""
        if self.board is not None:
            self.board.close()


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
