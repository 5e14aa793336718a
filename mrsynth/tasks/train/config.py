"""The run file of a training: what it may hold, how it is read, and when two are of the same run."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, PositiveInt, ValidationError

from mrsynth.card import DataSource
from mrsynth.devices import choose_precision
from mrsynth.errors import UsageError
from mrsynth.io.checkpoint import FORMAT
from mrsynth.io.yaml_files import parse_yaml, read_yaml
from mrsynth.methods import method_class, preset
from mrsynth.methods.base import Trainable
from mrsynth.plain import Plain
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.segmenter.learner import SegmenterLearner
from mrsynth.segmenter.network import KIND
from mrsynth.texts import meant
from mrsynth.training.batches import TrainingConfig

MAY_CHANGE = {  # between a run and its resumption; everything else would make it another run
    "name",
    "licence",
    "data.sources",
    *(f"training.{key}" for key in ("iterations", "log_every", "save_every", "validate_every", "workers")),
}
# Of the segmenter, where its run file says nothing: 2 mm, because a small net then sees a whole brain at once.
SEGMENTER: dict[str, Any] = {
    "name": KIND,
    "preparation": {"spacing": 2.0, "multiple": 8, "depth_multiple": 8},
    "training": {
        **{"iterations": 700, "batch_size": 1, "learning_rate": 2e-3, "decay": "cosine", "warmup": 20, "ema": 0.99},
        **{"log_every": 10, "validate_every": 100, "save_every": 50},
        "augmentation": {"affine": 0.7, "rotation": 0.3, "scaling": 0.15, "gamma": 0.3},
    },
}
NOT_TRAINING = ("init", "trained")  # of the keys of one stage
OF_STAGE = re.compile(r"stages\.[^.]+\.")  # in the place of `training.`, for one stage


class DataConfig(Plain):
    """Which subjects train and which judge. Names are those of the subject folders."""

    validation: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    repeat: dict[str, PositiveInt] = Field({}, description="subjects that count several times, by name: {ms07: 4}")
    sources: tuple[DataSource, ...] = Field((), description="data sets, licences and citations, for the model card")


class RunConfig(Plain):
    """A run file: everything that decides what comes out, apart from where the data lie."""

    name: str = "unnamed"
    init: str | None = Field(None, description="name or path of the checkpoint whose weights training begins with")
    tokens: str | None = Field(None, description="file of `mrsynth weights embed-text`, for methods that read text")
    method: dict[str, Any] = Field(description="method, optional preset, and the options of the method's configuration")
    preparation: PreparationConfig = PreparationConfig()
    training: TrainingConfig = TrainingConfig()
    stages: dict[str, dict[str, Any]] = Field(
        {},
        description="by stage of the method: keys of `training` that are different there, and `init`, a checkpoint "
        "that supplies the stage so that it is not trained: {vq: {iterations: 2000, init: NAME_OR_PATH}}; with "
        "`trained: true` it is trained on from there",
    )
    data: DataConfig = DataConfig()
    licence: str = "not stated"

    @property
    def begun(self) -> dict[str, str]:
        """Stages that a checkpoint supplies, and its name or path."""
        return {stage: str(options["init"]) for stage, options in self.stages.items() if options.get("init")}

    @property
    def given(self) -> frozenset[str]:
        """Of those the stages that are not trained on."""
        return frozenset(stage for stage in self.begun if not self.stages[stage].get("trained"))

    def training_of(self, stage: str) -> TrainingConfig:
        """How one stage is trained."""
        different = {key: value for key, value in self.stages.get(stage, {}).items() if key not in NOT_TRAINING}
        return TrainingConfig.model_validate(merged(self.training.model_dump(mode="json"), different))

    def settled(self, device: str, begun: "RunConfig | None" = None) -> "RunConfig":
        """With `precision: auto` settled: as the run was begun, else by what the device multiplies natively."""

        def precision(wanted: TrainingConfig, before: TrainingConfig | None) -> str:
            if wanted.precision == "auto" and before is not None:
                return before.precision
            return choose_precision(wanted.precision, device)

        training = {"precision": precision(self.training, begun.training if begun else None)}
        stages = {
            stage: {**options, **({"precision": training["precision"]} if options.get("precision") == "auto" else {})}
            for stage, options in self.stages.items()
        }
        return self.model_copy(update={"training": self.training.model_copy(update=training), "stages": stages})

    def plain(self) -> dict[str, Any]:
        """As plain data, for YAML; without stages where none differs. What `read_run_file` reads."""
        text = self.model_dump(mode="json", exclude=None if self.stages else {"stages"})
        text = {"format": FORMAT, **text}
        return {KIND if key == "method" and self.method["method"] == KIND else key: v for key, v in text.items()}


def trainable_class(method: str) -> Any:
    """The class of a method, or of the segmenter: its `Config` and its `stages`."""
    return SegmenterLearner if method == KIND else method_class(method)


def build_trainable(config: Mapping[str, Any]) -> Trainable:
    """A method or segmenter with fresh weights, from its configuration as plain data."""
    kind = trainable_class(config.get("method", ""))
    built: Trainable = kind(kind.Config.model_validate(config))
    return built


def read_run_file(
    file: Path | None,
    method: str,
    overrides: Mapping[str, Any] | None = None,
    begun: bool = False,
    base: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of a run of `method`, whole and valid. Raises UsageError.

    method   `segmenter` for the segmenter, whose run file has a key `segmenter` in the place of `method`
    begun    the file is that of a run folder: what it lacks means what it meant to the version that began the run
    base     keys below those of the file
    """
    kind, text = trainable_class(method), run_text(file, overrides or {}, base or {}, begun)
    if text.pop("format", None) is None and begun:
        text = text_of_format_1(text, method, str(file))
    place = KIND if method == KIND else "method"
    if place == KIND:
        text = merged(SEGMENTER, text)
        if "method" in text or text.get("init") or text.get("tokens"):
            raise UsageError(
                f"{file or 'The request'} is not of the segmenter: expected keys such as segmenter, training, data, "
                "and no method, init or tokens. Give --method instead of --segmenter."
            )
    options = text.pop(place, None) or {}
    if not isinstance(options, Mapping):
        raise UsageError(f"{place}: expected keys such as method, preset, network; found {options!r} (in {file}).")
    if (other := options.get("method", method)) != method:
        raise UsageError(f"{file} is a run of {other}, not of {method}.")
    wanted = {"method": method, **options}
    if "preset" in wanted:
        wanted = merged(preset(method, str(wanted.pop("preset"))), wanted)
    wrong = [f"  {key}: expected a finite number" for key in not_finite({**text, place: wanted})]
    try:
        wanted = kind.Config.model_validate(wanted).model_dump(mode="json")
    except ValidationError as error:
        wrong += complaints(error, place)
    try:
        config = RunConfig.model_validate({**text, "method": wanted})
    except ValidationError as error:
        wrong += complaints(error)
    else:
        stages, complaints_of_stages = checked_stages(config, kind.stages)
        wrong += complaints_of_stages
        config = config.model_copy(update={"stages": stages})
    if wrong:
        raise UsageError(f"The configuration of the run is not valid ({file or 'no file'}):\n" + "\n".join(wrong))
    return config


def text_of_format_1(text: Mapping[str, Any], method: str, place: str) -> dict[str, Any]:
    """The keys of a run that mrsynth 0.1.0 began, with those it did not know as they were meant then."""
    try:
        if method == KIND:
            raise ValueError("the segmenter had a training loop of its own.")
        text = RunConfig.from_format_1(text)
        return {**text, "method": method_class(method).Config.from_format_1(text.get("method") or {})}
    except ValueError as error:
        raise UsageError(
            f"{place} is of a run that mrsynth 0.1.0 began, which cannot go on with this version: {error} Go on with "
            "0.1.0, or begin a new run, with `--init` and the checkpoint of that one."
        ) from error


def value_of(text: str) -> Any:
    """A value given on the command line, which is YAML. Raises ValueError."""
    return parse_yaml(text)


def run_text(
    file: Path | None, overrides: Mapping[str, Any], base: Mapping[str, Any] | None = None, begun: bool = False
) -> dict[str, Any]:
    """The keys of a run file, not yet judged, changed by `overrides` (dotted keys). Raises UsageError.

    A file may name another as its `base`, by a path from where it lies itself; its keys are then laid over those of
    the other. That of a run folder (`begun`) has paths as seen from where the run was begun.
    """
    text = merged(base or {}, {} if file is None else keys_of(file, (), begun))
    for dotted, value in overrides.items():
        text = merged(text, nested(str(dotted).split("."), value))
    return text


def keys_of(file: Path, above: tuple[Path, ...], begun: bool = False) -> dict[str, Any]:
    """The keys of a run file with its base; `above` are the files that led here."""
    try:
        text = read_yaml(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read the run file {file}: {error}") from error
    text = {} if text is None else text
    if not isinstance(text, dict):
        raise UsageError(f"{file} is no run file: expected keys such as method, training, data.")
    text = text if begun else with_own_paths(text, file)  # beside it lie the run's own checkpoints
    base = text.pop("base", None)
    if base is None:
        return text
    if not isinstance(base, str):
        raise UsageError(f"base: expected the path of another run file, found {base!r} (in {file}).")
    above = (*above, file.resolve())
    if (below := file.parent / base).resolve() in above:
        raise UsageError(f"{file} leads back to itself by its base {base}.")
    return merged(keys_of(below, above), text)


def with_own_paths(text: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The keys of a run file with its `init`s as seen from where we are: a path is one from where the file lies.

    What is no path to a file from there is the name of a checkpoint, or a path from where we are, and stays.
    """

    def seen(init: Any) -> Any:
        there = isinstance(init, str) and (file.parent / Path(init).expanduser()).is_file()
        return str(file.parent / Path(init).expanduser()) if there else init

    text = {key: seen(value) if key in ("init", "tokens") else value for key, value in text.items()}
    stages = text.get("stages")
    if isinstance(stages, Mapping):
        text["stages"] = {
            stage: {**options, "init": seen(options["init"])}
            if isinstance(options, Mapping) and "init" in options
            else options
            for stage, options in stages.items()
        }
    return text


def checked_stages(config: RunConfig, known: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The `stages` of a run file as plain data of the right types; and what is wrong with them, line by line.

    known   the stages of the method
    """
    checked: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    for stage, options in config.stages.items():
        if stage not in known:
            wrong.append(f"  stages.{stage}: unknown stage; there are {', '.join(known)}.{meant(stage, known)}")
            continue
        init = options.get("init")
        if init is not None and not isinstance(init, str):
            wrong.append(f"  stages.{stage}.init: expected the name or path of a checkpoint, found {init!r}")
        if (trained := options.get("trained")) is not None and (not isinstance(trained, bool) or init is None):
            wrong.append(f"  stages.{stage}.trained: expected true or false beside an init, found {trained!r}")
        try:
            training = config.training_of(stage).model_dump(mode="json")
        except ValidationError as error:
            wrong += complaints(error, "stages", stage)
        else:
            checked[stage] = {key: options[key] if key in NOT_TRAINING else training[key] for key in options}
    return checked, wrong


def complaints(error: ValidationError, *place: str) -> list[str]:
    """One line for each thing pydantic did not accept, with its place: `  training.iteration: unknown key`."""
    return [
        f"  {'.'.join(map(str, (*place, *e['loc'])))}: {'unknown key' if e['type'] == 'extra_forbidden' else e['msg']}"
        for e in error.errors()
    ]


def not_finite(text: Any, place: str = "") -> list[str]:
    """Where in the keys of a run file an infinite number or none (nan) stands: pydantic lets infinity pass."""
    if isinstance(text, float):
        return [] if math.isfinite(text) else [place]
    inner = text if isinstance(text, Mapping) else dict(enumerate(text)) if isinstance(text, list | tuple) else {}
    return [
        found for key, value in inner.items() for found in not_finite(value, f"{place}.{key}" if place else str(key))
    ]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, key by key at every depth; an empty mapping empties what it lies on."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping) and value:
            value = merged(inner, value)
        result[key] = value
    return result


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for the path a, b."""
    return {path[0]: nested(path[1:], value) if len(path) > 1 else value}


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """The reverse of `nested`, for all leaves."""
    if not isinstance(value, Mapping):
        return {place: value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{place}.{key}" if place else key).items()}


def refuse_another_run(saved: RunConfig, wanted: RunConfig, out: Path) -> None:
    """Raise UsageError when a resumed run would not be the same run."""
    before, now = flat(saved.model_dump(mode="json")), flat(wanted.model_dump(mode="json"))
    changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    differing = [k for k in changed if OF_STAGE.sub("training.", k) not in MAY_CHANGE]
    if differing:
        lines = [f"  {key}: {before.get(key)!r} in the run, {now.get(key)!r} asked for" for key in differing]
        raise UsageError(
            f"The run in {out} was begun with another configuration:\n" + "\n".join(lines) + "\n"
            "Resume it with its own (leave --config out), or begin a new run in another --out."
        )


def yaml_text(data: Mapping[str, Any]) -> str:
    """YAML in the order of the keys."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)
