"""The work of a run: one stage after the other, and a run folder that is kept up to date meanwhile."""

import io
from collections.abc import Callable
from pathlib import Path

import torch

from mrsynth.errors import InputError, Interrupted
from mrsynth.io.checkpoint import FORMAT, Checkpoint, write_checkpoint
from mrsynth.io.files import write_bytes
from mrsynth.methods.base import Trainable
from mrsynth.plain import Progress
from mrsynth.tasks.train.cards import card_of
from mrsynth.tasks.train.cohort import Cohort
from mrsynth.tasks.train.config import RunConfig
from mrsynth.tasks.train.judging import Table, judge_of
from mrsynth.tasks.train.log import RunLog
from mrsynth.tasks.train.sources import EMPTY, examples_of
from mrsynth.tasks.train.stages import StagePlan
from mrsynth.training.batches import example_batches
from mrsynth.training.loop import Callbacks, Feed, TrainingState, train


def work(
    state: TrainingState,
    cohort: Cohort,
    config: RunConfig,
    plan: StagePlan,
    out: Path,
    report: Progress,
    stopped: Callable[[], bool],
    device: str,
    feed: Feed = example_batches,
) -> None:
    """Everything is ready: train one stage after the other, and keep the run folder up to date."""
    card = card_of(config, state.method, cohort.training, plan.supplied)
    judged = state.method.stages if state.method.judged_stages is None else state.method.judged_stages
    judge = judge_of(state.method, cohort.validation, config.preparation.spacing, card.learnt)
    log = RunLog(out, plan.done(state))
    kept = {"iteration": -1}  # what checkpoint.safetensors holds

    def write(name: str, note: str) -> None:
        current = card.model_copy(update={"iterations": plan.done(state), "note": note})
        tensors = state.average.saved_state()
        content = Checkpoint(current, config.method, config.preparation.model_dump(mode="json"), tensors)
        write_checkpoint(out / name, content)

    def curve() -> Table:
        return plan.of_last_stage(log.known("validation.csv"))

    def write_last() -> None:
        kept["iteration"] = plan.done(state)
        notes = (plan.note(state), judge.choice(curve()))
        write("checkpoint.safetensors", " ".join(note for note in notes if note))

    def save(state: TrainingState) -> None:
        buffer = io.BytesIO()  # torch.save into a file hides a full disk behind an error of its own
        torch.save({"format": FORMAT, **state.state_dict()}, buffer)
        write_bytes(out / "state.pt", buffer.getvalue())
        write_last()

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
        if judge.best(curve()) == iteration:
            write("best.safetensors", " ".join(filter(None, (plan.note(state), judge.choice(curve())))))
        if kept["iteration"] == iteration:  # saved before it was judged
            write_last()

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
            source = examples_of(cohort.training, state.method, training.crop, training.slices, training.planes)
            if not len(source):
                raise InputError(
                    f"There is nothing to learn from in boxes of training.crop {training.crop}: none is filled by "
                    f"brain to more than {EMPTY:.0%}. Give smaller boxes, or leave training.crop out."
                )
            report(plan.text("training", stage), plan.done(state), plan.total)
            if train(state, source, training, callbacks, device, feed) and stage != plan.stages[-1]:
                raise Interrupted(f"Stopped after the stage {stage}, which is finished; --resume goes on.")
    finally:
        log.close()
