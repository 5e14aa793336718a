"""What every method offers to the rest of mrsynth: configuration, objectives and synthesis; and what can be trained."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.diffusion.noise import Noise
from mrsynth.diffusion.samplers import SAMPLERS
from mrsynth.errors import UsageError
from mrsynth.methods.patterns import legal_patterns
from mrsynth.plain import WithParts
from mrsynth.sampling import Mode, Variance
from mrsynth.text_tokens import TokenTable

ABSENT = 0.0  # what stands in for a contrast that is not there, where a paper does not say


class MethodConfig(WithParts):
    """Options of one method; every checkpoint stores the whole of it.

    A new option is named in FORMER with the value that does what was done before there was one.
    """

    method: str
    contrasts: tuple[Contrast, ...] = STANDARD

    @field_validator("contrasts")
    @classmethod
    def _contrasts_differ(cls, contrasts: tuple[Contrast, ...]) -> tuple[Contrast, ...]:
        if len(set(contrasts)) < max(len(contrasts), 2):
            raise ValueError("at least two contrasts are needed, each named once: one to make, one to make it from")
        return contrasts

    @classmethod
    def from_format_1(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Also: a checkpoint whose own sampler is DPM-Solver++ visits the levels it visited then."""
        whole = super().from_format_1(data)
        if "solver_levels" in cls.model_fields:
            own = whole.get("sampler") == "dpm_solver_pp"
            whole = {"solver_levels": "spacing" if own else "log_snr", **whole}
        return whole


class ChainConfig(MethodConfig):
    """Of a method that walks a chain of T levels; a method states its own T where it is not 1000."""

    FORMER: ClassVar[Mapping[str, Any]] = {"mean_share": 0.0}

    T: int = Field(1000, gt=0, description="levels of the training chain")
    level_bias: float = Field(
        1.0,
        ge=1,
        description="1 draws training levels evenly, more favours the noisy end: t = T (1 - r^bias), r in [0, 1)",
    )
    mean_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="examples that learn the conditional mean: the last level, begun as a chain is but without noise",
    )
    steps: int | None = Field(None, gt=0, description="sampling steps; None visits all T levels")

    @model_validator(mode="after")
    def _chain_can_be_walked(self) -> Self:
        if (self.steps or 1) > self.T:
            raise ValueError(f"{self.steps} sampling steps from {self.T} levels")
        if self.mean_share and getattr(self, "param", None) == "eps":
            raise ValueError("mean_share needs param x0 or v: where there is no noise, eps is undefined")
        return self

    def draw_mean(self, level: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Levels (B,) of training examples, the last for those that learn the mean; and which do, (B,) bool."""
        if not self.mean_share:
            return level, torch.zeros_like(level, dtype=torch.bool)
        mean = (torch.rand(len(level), generator=generator) < self.mean_share).to(level.device)
        return torch.where(mean, self.T - 1, level), mean


@dataclass(frozen=True)
class Batch:
    """Slices (or volumes) to learn from.

    images     (B, C, H, W) or (B, C, D, H, W) float32 in [-1, 1], channels in the method's order of contrasts
    present    (B, C) bool: the truth is in `images`
    available  (B, C) bool: the method may read it; a subset of `present`
    context    (B, C, N, H, W) float32: the N neighbouring slices, below and above; N may be 0, and is for volumes
    labels     (B, H, W) or (B, D, H, W) int64: the values of the subject's segmentation file, whatever their
               convention; -1 everywhere in an example of a subject without one. None when no subject has one, or when
               the method does not ask for them (`Method.wants_labels`)
    Whatever stands in a channel that is not present must not matter: it may be NaN.
    """

    images: Tensor
    present: Tensor
    available: Tensor
    context: Tensor
    labels: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        names = ("images", "present", "available", "context", *(("labels",) if self.labels is not None else ()))
        return replace(self, **{name: carried(getattr(self, name), device) for name in names})


def carried(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The same tensor on a device: to a GPU from pinned memory, without waiting until it is there."""
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Wish:
    """How a synthesis is to be made: the options of `Method.synthesise`. None leaves it to the configuration.

    mean      one call, from the noisiest level; `noise` gives zeros
    targets   all that anybody wants of what is missing; None for all
    eta       of ddim, variance of ddpm
    """

    context: Tensor
    noise: Noise
    steps: int | None
    sampler: str | None
    progress: Callable[[int, int], None] | None
    mean: bool = False
    targets: Collection[Contrast] | None = None
    eta: float | None = None
    variance: Variance | None = None

    def wants(self, contrast: Contrast) -> bool:
        """Whether somebody will look at it: a method that makes contrasts one by one may leave the others out."""
        return self.targets is None or contrast in self.targets

    def counter(self, total: int) -> Callable[[], None]:
        """To be called after each of `total` network calls, which `progress` then hears of."""
        calls = count(1)
        progress = self.progress
        return lambda: progress(next(calls), total) if progress is not None else None


@dataclass(frozen=True)
class Objective:
    """One thing to minimise: `loss(batch, generator)` gives named terms, of which "loss" is the one to descend.

    parameters    what it moves; in a stage of training everything that no objective lists stays as it is
    betas         of Adam
    weight_decay  decoupled from the gradient (AdamW); 0 is plain Adam
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch, torch.Generator], dict[str, Tensor]]
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


class Trainable(nn.Module, ABC):
    """A network and how it is trained: all that the training loop and `mrsynth train` know of.

    contrasts      its channels, in order
    dimensions     2: it works on axial slices; 3: on whole volumes
    neighbours     slices below and above that it reads
    multiple       every side of its slices or volumes must be a multiple of this
    channels_last  whether its convolutions are quicker with that layout in memory
    wants_labels   it learns from segmentations too: `Batch.labels`
    needs_labels   and cannot do without: subjects of which none has a segmentation cannot train it
    only_labelled  no subject without a segmentation can train it
    stages         trained one after the other, each on the averaged weights of those before it
    judged_stages  the stages whose results are worth validating; None: all of them
    """

    dimensions: int = 2
    neighbours: int = 0
    multiple: int = 1
    channels_last: bool = True
    wants_labels: bool = False
    needs_labels: bool = False
    only_labelled: bool = False
    stages: tuple[str, ...] = ("all",)
    judged_stages: tuple[str, ...] | None = None

    def __init__(self, contrasts: tuple[Contrast, ...]):
        super().__init__()
        self.contrasts = contrasts

    @abstractmethod
    def objectives(self, stage: str) -> list[Objective]:
        """What to train in a stage, in order; one for most papers.

        Within the stage only the parameters listed here move, and what holds none of them runs as in use (`eval`).
        """

    def enter_stage(self, stage: str, batches: Iterable[Batch]) -> None:
        """Be ready for a stage that begins now, such as by measuring the latents of the one before it.

        batches   one pass over the training data as the stage will see it, on the method's device; each is made when it
                  is asked for

        Called once, without gradients and under a fixed seed, before the first iteration; not for a stage that is
        skipped, not again when a run is resumed within it, and not where weights were taken over that hold what it sets
        (`entered`). So it may change parameters and buffers, which are saved, and nothing else. Does nothing unless a
        method says other.
        """
        return None

    def entered(self, stage: str) -> bool:
        """Whether the weights hold what `enter_stage` sets; those of a run that was never so far do not."""
        return True

    def stage_tensors(self, stage: str) -> tuple[str, ...]:
        """Beginnings of the names, in `state_dict`, of what a stage trains or measures: what a checkpoint given in
        its place supplies. All of them, ("",), unless a method says other.
        """
        return ("",)

    def give_tokens(self, table: TokenTable) -> None:
        """Take what a text encoder made of the sentences it reads, before training; its checkpoints carry it along.

        Raises UsageError for other tokens than the configuration asks for, and for any unless a method reads text.
        """
        raise UsageError("This method reads no text. Leave --tokens (`tokens` of the run file) out.")

    def lacking(self) -> str:
        """What must be given before training can begin, and how, in words; empty when nothing is missing."""
        return ""

    def training_only(self) -> tuple[str, ...]:
        """Beginnings of the names, in `state_dict`, of what synthesis does without; a checkpoint may lack them."""
        return ()

    def saved_state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds: all of `state_dict` but what only training needs."""
        dropped = self.training_only()
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(dropped)}

    def tensors_of_format_1(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state in a file of format 1 (mrsynth 0.1.0) under the names of this version. Raises ValueError for what
        cannot be used any more. The same unless a method says other.
        """
        return dict(tensors)

    def learns_from(self, present: Iterable[Contrast]) -> bool:
        """Whether a subject with these contrasts can train it; two are enough unless a method says other."""
        return len(set(present) & set(self.contrasts)) >= 2

    def check_labels(self, values: Sequence[int], where: str) -> None:
        """Raise InputError when a segmentation file (`where`) holds values that mean nothing here; none unless told."""
        return None

    def draw_available(
        self, present: NDArray[np.bool_], progress: float, random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Choose for one training example which of its present contrasts the method may read.

        present   (C,) bool
        progress  0 at the first step of training (of a stage), 1 at the last
        returns   (C,) bool: a subset of `present` that leaves at least one present contrast to be made
        """
        legal = legal_patterns(present, self.contrasts)
        return legal[random.integers(len(legal))]


class Method(Trainable):
    """A synthesis method: what makes contrasts, and how it is sampled.

    shared_noise  all slices of a volume start from the same noise field: SeededNoise(..., shared=True)
    targets       the contrasts it can make; `noise` has one stream for each
    samplers      what `synthesise` takes as `sampler`
    paper_chain   sampler and steps of the paper; None: all levels
    """

    Config: ClassVar[type[MethodConfig]]
    samplers: ClassVar[tuple[str, ...]] = tuple(SAMPLERS)
    paper_chain: ClassVar[tuple[str, int | None]] = ("ddpm", None)
    shared_noise: bool = False

    def __init__(self, config: MethodConfig):
        super().__init__(config.contrasts)
        self.targets: tuple[Contrast, ...] = config.contrasts

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What its synthesis can be (mrsynth/sampling.py), the default first."""
        return ("sample", "mean")

    @property
    def chain(self) -> tuple[str, int]:
        """Sampler and steps of mode sample: the configuration's, or where that takes a single step the paper's."""
        config: Any = self.config
        sampler, steps = (config.sampler, config.steps) if config.steps != 1 else self.paper_chain
        return sampler, min(steps or config.T, config.T)

    @property
    def eta(self) -> float:
        """Of ddim, unless a request says other; 0, without noise between the steps, of a method that has none."""
        return float(getattr(self.config, "eta", 0.0))

    def variance_of(self, steps: int) -> Variance:
        """Of ddpm in so many steps, unless a request says other."""
        return "posterior"

    def sampler_options(self, sampler: str, steps: int, wish: Wish) -> dict[str, Any]:
        """What a sampler of `SAMPLERS` is told besides the chain."""
        if sampler == "ddim":
            return {"eta": self.eta if wish.eta is None else wish.eta}
        return {"variance": wish.variance or self.variance_of(steps)} if sampler == "ddpm" else {}

    def meaning(self, stage: str | None) -> tuple[str, ...]:
        """Options (dotted keys) that decide what the weights of a stage, or of all, mean, and that their shapes do not
        show: a checkpoint whose weights are taken over must have the same.
        """
        return ()

    def judged_by(self, stage: str) -> str | None:
        """The `sampler` with which validation looks at the method while a stage is trained; None for that of use."""
        return None

    @torch.no_grad()
    def synthesise(
        self,
        images: Tensor,
        available: Tensor,
        *,
        context: Tensor,
        noise: Noise,
        steps: int | None = None,
        sampler: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        mode: Mode = "sample",
        targets: Collection[Contrast] | None = None,
        eta: float | None = None,
        variance: Variance | None = None,
    ) -> Tensor:
        """Fill in every contrast that is not available, or at least the targets.

        images     (B, C, H, W) or (B, C, D, H, W) in [-1, 1]; channels that are not available are never read
        available  (B, C) bool, at least one per row
        context    (B, C, N, H, W), see Batch
        mode       mean: one call of the network without noise; `noise`, `steps` and `sampler` play no part
        eta        of ddim, `variance` of ddpm; None for the configuration's
        targets    what must be made; None for all. What else is made, or stays grey, is the method's affair
        returns    like images, in [-1, 1]; available channels as given
        """
        if not bool(available.any(1).all()):
            raise ValueError("every row of `available` needs at least one contrast")
        wish = Wish(context, noise, steps, sampler, progress, targets=targets, eta=eta, variance=variance)
        if mode == "mean":
            wish = Wish(context, torch.zeros_like, 1, None, progress, mean=True, targets=targets)
        return self.fill_in(images, available, wish)

    @abstractmethod
    def fill_in(self, images: Tensor, available: Tensor, wish: Wish) -> Tensor:
        """What `synthesise` does, for one method; without gradients, and every row has a contrast."""

    def optimise(self, precision: str) -> None:
        """Be ready to synthesise many times with these weights, on this device: faster, with the same results.

        precision   fp32 or bf16. Does nothing unless a method says other.
        """
        return None

    def cautions(self, sampler: str, steps: int, variance: Variance | None = None) -> tuple[str, ...]:
        """What speaks against sampling so, in sentences for the user: that beta is no variance for few steps."""
        levels = getattr(self.config, "T", steps)
        if sampler != "ddpm" or steps == levels or (variance or self.variance_of(steps)) != "beta":
            return ()
        return (
            f"{steps} of {levels} steps by ddpm with the variance beta, which belongs to all of them: noise is left in "
            f"the image. Take --sampler ddim, --variance posterior, or --steps {levels}.",
        )

    def supports(self, available: Iterable[Contrast], target: Contrast) -> bool:
        """Whether `target` can be made from these contrasts; from any non-empty subset unless a method says other."""
        known = set(available) & set(self.contrasts)
        return bool(known) and target in self.contrasts and target not in known


def modes_of(predicts: str, mean_share: float, steps: int | None) -> tuple[Mode, ...]:
    """The modes of a method whose network predicts x_0, v or eps, the default first.

    eps is undefined where there is no noise, so a network that predicts it has no mean in one call. A network that
    learnt from zeros alone has no chain.
    """
    if predicts == "eps":
        return ("sample",)
    if mean_share == 1:
        return ("mean",)
    return ("mean", "sample") if mean_share or steps == 1 else ("sample", "mean")
