"""The stages of a training run: which are trained and for how long, and what a checkpoint supplies in place of one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mrsynth.card import Card
from mrsynth.errors import UsageError, WeightsError
from mrsynth.methods.base import Method, Trainable
from mrsynth.methods.cwdm.official import cwdm_for_target
from mrsynth.sampling import Plane
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.tasks.models import load_network, tensors_misfit
from mrsynth.tasks.train.config import RunConfig, flat
from mrsynth.tasks.train.judging import Table
from mrsynth.training.batches import TrainingConfig
from mrsynth.training.loop import TrainingState

# Of a network's inputs and outputs, which the shapes of its tensors do not show.
MEANING = ("method", "contrasts", "wavelet", "low_scale")
OF_THE_CHAIN = ("param", "predict", "schedule", "T", "kappa", "p", "m", "E", "inscale", "noisy_input", "begin")
OF_THE_IMAGES = ("axes", "spacing", "intensity", "quantile")  # of the preparation


@dataclass(frozen=True)
class StagePlan:
    """The stages that a run trains, in order, and how; iterations are counted over all of them.

    named        whether there is more than one, so that what people read should name them
    taken_over   those that begin with the weights of a checkpoint
    supplied     those that are not trained -> planes whose slices their checkpoint learnt from
    """

    training: Mapping[str, TrainingConfig]
    named: bool
    taken_over: frozenset[str] = frozenset()
    supplied: Mapping[str, tuple[Plane, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RunConfig, method: Trainable) -> "StagePlan":
        """What a run file asks of a method. Raises UsageError when that makes no sense."""
        if unknown := [stage for stage in config.stages if stage not in method.stages]:
            raise UsageError(
                f"stages.{unknown[0]}: with these options {config.method['method']} has no such stage; it has "
                f"{', '.join(method.stages)}."
            )
        wanted = [stage for stage in method.stages if stage not in config.given]
        if not wanted:
            raise UsageError("stages: every stage has an init, so that nothing is left to train. Leave one out.")
        taken_over = frozenset(wanted if config.init else config.begun)
        return cls({stage: config.training_of(stage) for stage in wanted}, len(method.stages) > 1, taken_over)

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that are trained, in order."""
        return tuple(self.training)

    @property
    def total(self) -> int:
        """Iterations of the whole run."""
        return sum(stage.iterations for stage in self.training.values())

    def before(self, stage: str) -> int:
        """Iterations of the stages before this one."""
        return sum(self.training[s].iterations for s in self.stages[: self.stages.index(stage)])

    def done(self, state: TrainingState) -> int:
        """Iterations that are done."""
        return self.before(state.stage) + state.iteration

    def of_last_stage(self, known: Table) -> Table:
        """Of rows of validation.csv those of the last stage that has any: other stages make something else."""
        last = max((int(row["iteration"]) for row in known), default=0)
        begun = max(before for stage in self.stages if (before := self.before(stage)) < max(last, 1))
        return [row for row in known if int(row["iteration"]) > begun]

    def text(self, what: str, stage: str) -> str:
        """What is being done, with the stage where there is more than one: `training vq`."""
        return f"{what} {stage}" if self.named else what

    def note(self, state: TrainingState) -> str:
        """What an unfinished run of several stages says of its checkpoint; nothing when it is finished."""
        if not self.named or self.done(state) >= self.total:
            return ""
        at, asked = self.stages.index(state.stage), self.training[state.stage].iterations
        finished = [*self.stages[:at], *([state.stage] if state.iteration >= asked else [])]
        parts = [f"finished {', '.join(finished)}"] if finished else []
        parts += [f"{state.stage} has {state.iteration} of {asked} iterations"] if state.iteration < asked else []
        parts += [f"not begun {', '.join(later)}"] if (later := self.stages[at + 1 :]) else []
        return f"Unfinished training: {'; '.join(parts)}."

    def refuse_changed_past(self, saved: RunConfig, state: TrainingState) -> None:
        """Raise UsageError when a stage that is over is asked for another number of iterations than it had."""
        for stage in self.stages[: self.stages.index(state.stage)]:
            had, asked = saved.training_of(stage).iterations, self.training[stage].iterations
            if had != asked:
                raise UsageError(
                    f"The stage {stage} is over, with {had} iterations; {asked} are asked for now. Leave its "
                    "iterations as they were, or begin a new run in another --out."
                )


def take_over(method: Method, init: str, preparation: PreparationConfig, stage: str | None = None) -> Card:
    """Take the weights of a checkpoint: all of them, or those of one stage, which it stands in for; give its card.

    preparation   of the run

    Raises WeightsError when there is no such checkpoint, or when its network means something else: by the shapes of its
    tensors, by what it predicts along which chain, or by how its images are scaled.
    """
    found = load_network(init)
    tensors = found.method.saved_state()  # parts for training only are not in the file: those of `method` stay
    if found.card.method == "cwdm" and len(found.method.targets) > 1 and len(method.targets) == 1:
        tensors = cwdm_for_target(tensors, method.contrasts.index(method.targets[0]))
    theirs, ours = options_of(found.method), options_of(method)
    keys = dict.fromkeys((*MEANING, *(OF_THE_CHAIN if stage is None else ()), *method.meaning(stage)))
    wrong = [f"{key} is {theirs.get(key)}, here {ours.get(key)}" for key in keys if theirs.get(key) != ours.get(key)]
    for key in OF_THE_IMAGES:
        if (their := getattr(found.preparation, key)) != (our := getattr(preparation, key)):
            wrong.append(f"preparation.{key} is {their}, here {our}")
    wanted = ("",) if stage is None else method.stage_tensors(stage)
    tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(wanted)}
    if wrong := wrong + tensors_misfit(method, tensors, wanted):
        place, remedy = ("", "begin without --init") if stage is None else (f"stages.{stage}.init: ", "train the stage")
        raise WeightsError(
            f"{place}{init} is of another network than this run's: {'; '.join(wrong[:3])}. Give the run the "
            f"configuration of that checkpoint (`mrsynth weights show`), or {remedy}."
        )
    method.load_state_dict({**method.state_dict(), **tensors})
    return found.card


def options_of(method: Method) -> dict[str, Any]:
    """The configuration of a method as plain data, by dotted key at every depth."""
    config: Any = method.config
    whole = dict(config.model_dump())
    return {**flat(whole), **whole}
