"""`mrsynth train`: from folders of subjects to a checkpoint that `complete` can use."""

import csv
import io
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import Field, ValidationError

from mrsynth.card import Card, DataSource, Plain
from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError, UsageError
from mrsynth.io.cache import CachedSubject, cached
from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
from mrsynth.io.dataset import find_subjects
from mrsynth.io.files import atomic, ensure_folder, write_bytes, write_text
from mrsynth.methods import build_method, method_class, preset
from mrsynth.methods.base import Method
from mrsynth.preparation import PreparationConfig
from mrsynth.training import Callbacks, Slab, TrainingConfig, TrainingState, begin, train
from mrsynth.validation import ValidationRow, ValidationSlices, sample_grid, validate

Progress = Callable[[str, int, int], None]


class DataConfig(Plain):
    """Which subjects train and which judge. Names are those of the subject folders."""

    validation: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    sources: tuple[DataSource, ...] = Field((), description="data sets, licences and citations, for the model card")


class RunConfig(Plain):
    """A run file: everything that decides what comes out, apart from where the data lie."""

    name: str = "unnamed"
    method: dict[str, Any] = Field(description="method, optional preset, and the options of the method's configuration")
    preparation: PreparationConfig = PreparationConfig()
    training: TrainingConfig = TrainingConfig()
    data: DataConfig = DataConfig()
    licence: str = "not stated"


@dataclass(frozen=True)
class TrainOptions:
    """The request of the command line."""

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

    Raises UsageError for a configuration that makes no sense, InputError for data that cannot train, Interrupted when
    stopped by SIGTERM or SIGINT (after saving).
    """
    out = ensure_folder(options.out)
    state_file = out / "state.pt"
    if state_file.exists() and not options.resume:
        raise UsageError(f"{out} already holds a run. Give --resume to go on with it, or another --out.")
    if options.resume and not state_file.exists():
        raise UsageError(f"{out} holds no run to resume: {state_file.name} is missing. Leave --resume out to begin one.")
    config = read_config(options)
    torch.manual_seed(config.training.seed)
    method = build_method(config.method)
    training, validation = gather(options.data, config, method, out / "cache", progress)
    write_text(out / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    state = begin(method, config.training)
    if options.resume:
        state.load_state_dict(torch.load(state_file, map_location="cpu", weights_only=True))
    card = card_of(config, method, training)
    checkpoint = out / "checkpoint.safetensors"
    slices = ValidationSlices.of([Slices([s], method.neighbours) for s in validation])
    log = RunLog(out)

    def save(state: TrainingState) -> None:
        with atomic(state_file) as temporary:
            torch.save(state.state_dict(), temporary)
        finished = card.model_copy(update={"iterations": state.iteration})
        tensors = {name: tensor.contiguous() for name, tensor in state.average.state_dict().items()}
        content = Checkpoint(finished, config.method, config.preparation.model_dump(mode="json"), tensors)
        write_checkpoint(checkpoint, content)

    def check(average: Method, iteration: int) -> None:
        if len(slices):
            bf16 = config.training.precision == "bf16"
            log.validation(iteration, validate(average, slices, bf16))
            log.picture(iteration, sample_grid(average, slices, bf16))

    def note(iteration: int, terms: dict[str, float]) -> None:
        log.losses(iteration, terms)
        if progress is not None:
            progress(f"training, loss {terms['loss']:.4f}", iteration, config.training.iterations)

    with stop_signals() as stopped:
        train(state, Slices(training, method.neighbours), config.training, Callbacks(note, save, check, stopped),
              options.device)
    return checkpoint


def read_config(options: TrainOptions) -> RunConfig:
    """Defaults, then the preset, then the run file, then the overrides; unknown keys are refused with their place."""
    text: dict[str, Any] = {}
    if options.config is not None:
        try:
            text = yaml.safe_load(options.config.read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise UsageError(f"Cannot read the run file {options.config}: {error}") from error
    if not isinstance(text, dict):
        raise UsageError(f"{options.config} is no run file: expected keys such as method, training, data.")
    for dotted, value in (options.overrides or {}).items():
        place = text
        *path, last = dotted.split(".")
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    wanted = {"method": options.method, **text.get("method", {})}
    if wanted["method"] != options.method:
        raise UsageError(f"{options.config} is a run of {wanted['method']}, not of {options.method}.")
    try:
        if "preset" in wanted:
            wanted = merged(preset(options.method, wanted.pop("preset")), wanted)
        resolved = method_class(options.method).Config.model_validate(wanted).model_dump(mode="json")
        return RunConfig.model_validate({**text, "method": resolved})
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise UsageError("The run configuration is not valid:\n" + "\n".join(lines)) from error


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, key by key at every depth."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def gather(
    roots: Sequence[Path], config: RunConfig, method: Method, cache: Path, progress: Progress | None
) -> tuple[list[CachedSubject], list[CachedSubject]]:
    """Prepare every subject below the roots; return those that train and those that judge."""
    found = [subject for root in roots for subject in find_subjects(root)[0]]
    names = {subject.name for subject in found}
    unknown = set(config.data.validation) - names
    if unknown:
        raise InputError(f"Validation subjects not found: {', '.join(sorted(unknown))}. Found {len(names)} subjects.")
    wanted = [s for s in found if s.name not in config.data.exclude and any(c in s.files for c in method.contrasts)]
    subjects = []
    for done, files in enumerate(wanted):
        if progress is not None:
            progress(f"preparing {files.name}", done, len(wanted))
        subjects.append(cached(files, method.contrasts, config.preparation, cache))
    training = [s for s in subjects if s.name not in config.data.validation and sum(s.present) > 1]
    if not training:
        raise InputError(
            f"Nothing to train on below {', '.join(map(str, roots))}: found {len(found)} subjects, of which "
            f"{len(subjects)} are not excluded; a training subject needs at least two contrasts."
        )
    return training, [s for s in subjects if s.name in config.data.validation]


def card_of(config: RunConfig, method: Method, training: Sequence[CachedSubject]) -> Card:
    """What the checkpoint will say of itself, with the intensity histograms of its training data."""
    intensity: dict[Contrast, tuple[float, ...]] = {}
    for channel, contrast in enumerate(method.contrasts):
        having = [s.histogram(channel) for s in training if s.present[channel]]
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


class RunLog:
    """What a run leaves for people: losses and scores as CSV and for TensorBoard, and pictures."""

    def __init__(self, out: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.out = out
        self.board: Any = SummaryWriter(log_dir=str(out / "tensorboard"))  # type: ignore[no-untyped-call]

    def losses(self, iteration: int, terms: Mapping[str, float]) -> None:
        """One row of `losses.csv`."""
        append_row(self.out / "losses.csv", {"iteration": iteration, **terms})
        for name, value in terms.items():
            self.board.add_scalar(f"train/{name}", value, iteration)

    def validation(self, iteration: int, rows: Sequence[ValidationRow]) -> None:
        """One row of `validation.csv` per pattern and target."""
        for row in rows:
            append_row(self.out / "validation.csv", {"iteration": iteration, **row._asdict()})
            self.board.add_scalar(f"validation/{row.pattern}:{row.target}/psnr", row.psnr, iteration)
        self.board.add_scalar("validation/psnr", float(np.mean([r.psnr for r in rows])), iteration)
        self.board.flush()

    def picture(self, iteration: int, png: bytes) -> None:
        """`samples/000500.png`."""
        write_bytes(ensure_folder(self.out / "samples") / f"{iteration:06d}.png", png)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a CSV file, with a header if the file is new."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    with path.open("a", newline="") as file:
        file.write(text.getvalue())


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM and SIGINT only set a flag; the value says whether it is set."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
