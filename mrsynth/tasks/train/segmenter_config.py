"""The run file of the segmenter: what it may hold, how it is read, and when two are of the same run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mrsynth.errors import UsageError
from mrsynth.plain import Plain
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.segmenter.network import SegmenterConfig
from mrsynth.tasks.train.config import DataConfig, complaints, flat, run_text
from mrsynth.training.augmentation import AugmentationConfig

MAY_CHANGE = {  # between a run and its resumption
    *("name", "licence", "data.sources"),
    *("training.log_every", "training.save_every", "training.validate_every"),
}


class SegmenterTraining(Plain):
    """How the segmenter is trained.

    Each example is a whole brain. With probability `complete` the net sees all contrasts, else one of the 14 patterns,
    each as likely: a net that never saw a contrast missing would be no fair judge of one that is left out.
    """

    iterations: int = Field(700, gt=0)
    batch_size: int = Field(1, gt=0, description="subjects whose gradients are averaged in an iteration")
    learning_rate: float = Field(2e-3, gt=0, description="after the warm-up; falls along a half cosine to a hundredth")
    warmup: int = Field(20, ge=0, description="iterations")
    weight_decay: float = Field(1e-4, ge=0)
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the averaged weights, which are those used")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    complete: float = Field(0.5, ge=0, le=1, description="probability that no contrast is hidden")
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = Field(0, ge=0)
    log_every: int = Field(10, gt=0)
    validate_every: int = Field(100, gt=0)
    save_every: int = Field(50, gt=0)
    augmentation: AugmentationConfig = AugmentationConfig(affine=0.7, rotation=0.3, scaling=0.15, gamma=0.3)

    def due(self, every: int, iteration: int) -> bool:
        """Whether something done every so many iterations, and at the end, is to be done after this one."""
        return iteration % every == 0 or iteration == self.iterations


class SegmenterRun(Plain):
    """A run file of the segmenter. 2 mm, because a small net then sees a whole brain at once."""

    name: str = "segmenter"
    segmenter: SegmenterConfig = SegmenterConfig()
    preparation: PreparationConfig = PreparationConfig(spacing=2.0, multiple=8, depth_multiple=8)
    training: SegmenterTraining = SegmenterTraining()
    data: DataConfig = DataConfig()
    licence: str = "not stated"


def read_run(file: Path | None, overrides: Mapping[str, Any] | None = None) -> SegmenterRun:
    """The configuration of a run, whole and valid. Raises UsageError with the place of every key it does not accept."""
    text = run_text(file, overrides or {})
    if "method" in text:
        raise UsageError(
            f"{file} is no run file of the segmenter: expected keys such as segmenter, training, data, but it is one "
            "of a method. Give --method instead of --segmenter."
        )
    try:
        config = SegmenterRun.model_validate(text)
    except ValidationError as error:
        wrong = "\n".join(complaints(error))
        raise UsageError(f"The configuration of the run is not valid ({file or 'no file'}):\n{wrong}") from error
    if any(side % config.segmenter.multiple for side in config.preparation.multiples):
        raise UsageError(
            f"preparation.multiple and depth_multiple are {config.preparation.multiple} and "
            f"{config.preparation.depth_multiple}; this network needs multiples of {config.segmenter.multiple}."
        )
    return config


def refuse_another_run(saved: SegmenterRun, wanted: SegmenterRun, out: Path) -> None:
    """Raise UsageError when a resumed run would not be the same run."""
    before, now = flat(saved.model_dump(mode="json")), flat(wanted.model_dump(mode="json"))
    if differing := [k for k in {**before, **now} if before.get(k) != now.get(k) and k not in MAY_CHANGE]:
        lines = "\n".join(f"  {k}: {before.get(k)!r} in the run, {now.get(k)!r} asked for" for k in differing)
        raise UsageError(
            f"The run in {out} was begun with another configuration:\n{lines}\n"
            "Resume it with its own (leave --config out), or begin a new run in another --out."
        )
