"""MSG-LDM: multiscale structure-guided latent diffusion (arXiv 2603.12581).

Three models, trained one after the other: an autoencoder of slices (`first_stage`); a structure network that splits the
contrasts at hand into a structure map, which has no contrast, and style codes (`structure`); and a diffusion model of
the latents of all contrasts together, told of the anatomy by the structure map alone (`latent_diffusion`). Each part
owns what it minimises. docs/methods/msg-ldm.md tells what the paper leaves open and what is chosen here.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrsynth.diffusion.samplers import SAMPLERS, known_sampler
from mrsynth.errors import UsageError
from mrsynth.methods.base import ABSENT, Batch, Method, Objective, Wish, modes_of
from mrsynth.methods.msg_ldm.config import MsgLdmConfig
from mrsynth.methods.msg_ldm.latent_diffusion import LatentDiffusion
from mrsynth.methods.msg_ldm.structure import Structures, StructureStage
from mrsynth.methods.patterns import draw_pattern, legal_patterns
from mrsynth.sampling import DIRECT, Mode

OF_STRUCTURE = tuple(f"structure.{key}" for key in ("style_codes", "head", "heads"))  # what no shape tells
MEASURED = 8  # batches from which the spread of the latents is measured

# Stage -> beginnings of the names of its tensors in files -> in the modules. Files name a tensor by what it belongs to,
# whichever part owns that.
NAMES: Mapping[str, Mapping[str, str]] = {
    "first_stage": {
        "first_stage.": "diffusion.first_stage.autoencoder.",
        "discriminator.": "diffusion.first_stage.discriminator.",
    },
    "structure": {
        "structure.": "structure.map.",
        **{
            name: f"structure.{name}"
            for name in ("reconstructors.", "regression.", "styles.", "prototype", "log_temperature", "segmenter.")
        },
    },
    "diffusion": {name: f"diffusion.{name}" for name in ("network.", "latent_scale", "difference_scale")},
}


class MsgLdm(Method):
    """Structure-guided latent diffusion."""

    Config = MsgLdmConfig
    samplers = (*SAMPLERS, DIRECT)
    paper_chain = ("ddim", 50)
    stages: tuple[str, ...] = tuple(NAMES)  # a model may do without the first or the last

    def __init__(self, config: MsgLdmConfig):
        super().__init__(config)
        self.config = config
        self.neighbours = config.neighbours
        self.multiple = config.multiple
        self.shared_noise = config.noise == "shared"
        self.wants_labels = config.segments
        self.structure = StructureStage(config)
        self.diffusion = LatentDiffusion(config) if config.decode == "diffusion" else None
        identity = config.first_stage.kind == "identity"
        absent = {"first_stage", "diffusion"} if self.diffusion is None else {"first_stage"} if identity else set()
        self.stages = tuple(stage for stage in NAMES if stage not in absent)
        unseen = {"first_stage"} if config.decodes else {"first_stage", "structure"}
        self.judged_stages = tuple(stage for stage in self.stages if stage not in unseen)
        self.register_state_dict_post_hook(name_as_in_files)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(name_as_in_modules)  # type: ignore[no-untyped-call]

    @property
    def network(self) -> nn.Module:
        """The diffusion network; of a model without diffusion the structure map."""
        return self.structure.map if self.diffusion is None else self.diffusion.network

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The mean alone where images come from the decoders; first where a chain takes one step; with eps only that of
        the decoders.
        """
        if self.diffusion is None or self.config.sampler == DIRECT:
            return ("mean",)
        one_call = "x0" if self.config.mean_by == DIRECT else self.config.param
        return modes_of(one_call, self.config.mean_share, self.config.steps)

    # --- Training -------------------------------------------------------------------------------------------------

    def objectives(self, stage: str) -> list[Objective]:
        """first_stage: to encode and decode slices, and with an adversary its own objective; structure; diffusion."""
        if stage == "structure":
            return self.structure.objectives()
        if stage not in self.stages or self.diffusion is None:
            raise ValueError(f"the stage {stage!r} is none of {', '.join(self.stages)}")
        if stage == "first_stage":
            return self.diffusion.first_stage.objectives()
        return self.diffusion.objectives(self.structure)

    def stage_tensors(self, stage: str) -> tuple[str, ...]:
        """Beginnings of the names of what each stage trains or measures."""
        return tuple(NAMES[stage])

    def training_only(self) -> tuple[str, ...]:
        """Style encoders (synthesis has their prototypes), segmentation decoder, discriminator: 0.1.0 left them out."""
        return ("styles.", "segmenter.", "discriminator.", "log_temperature", "prototype_counts")

    def saved_state(self) -> dict[str, Tensor]:
        """All of it: what only training needs is needed to go on training."""
        return dict(self.state_dict())

    def enter_stage(self, stage: str, batches: Iterable[Batch]) -> None:
        """Before structure: fit the regression. Before diffusion: measure the spread of what will be diffused."""
        if stage == "structure":
            self.structure.prepare(batches)
        if stage == "diffusion" and self.diffusion is not None:
            self.diffusion.measure(self.structure, islice(batches, MEASURED))

    def entered(self, stage: str) -> bool:
        """Whether the regression is fitted, where there is one; whether the latents were measured."""
        if stage == "structure":
            return self.structure.regression is None or self.structure.regression.fitted
        return stage != "diffusion" or self.diffusion is None or self.diffusion.measured

    def meaning(self, stage: str | None) -> tuple[str, ...]:
        """How structure map, style codes and decoders compute; what the diffusion network predicts at which noise."""
        of_stage = {"structure": OF_STRUCTURE, "diffusion": ("param", "schedule", "T", "known")}
        return sum(of_stage.values(), ()) if stage is None else of_stage.get(stage, ())

    def judged_by(self, stage: str) -> str | None:
        """While the structure network is trained, its direct images are looked at."""
        return DIRECT if stage == "structure" else None

    def draw_available(
        self, present: NDArray[np.bool_], progress: float, random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """The number of missing contrasts is uniform or as `shares` say, then which; `complete` adds none missing."""
        if self.config.shares is not None:
            return draw_pattern(legal_patterns(present, self.contrasts), present, self.config.shares, random)
        contrasts = np.flatnonzero(present)
        missing = random.permutation(contrasts)[: random.integers(1, len(contrasts))]
        available = present.copy()
        available[missing] = False
        return available

    # --- Sampling -------------------------------------------------------------------------------------------------

    def fill_in(self, images: Tensor, available: Tensor, wish: Wish) -> Tensor:
        """Fill in every contrast that is not available, all of them in one chain.

        sampler "direct" takes the structure network's own decoders, as a model without diffusion always does, and mode
        mean where the configuration says so.
        """
        sampler = wish.sampler or self.config.sampler
        if wish.mean and self.config.mean_by == DIRECT:
            sampler = DIRECT
        sampler = sampler if sampler == DIRECT else known_sampler(sampler)
        if sampler == DIRECT and not self.config.decodes:
            raise UsageError("This checkpoint has no image decoders (losses.w_sa 0): `direct` is no sampler of it.")
        size = (images.shape[-2], images.shape[-1])
        if any(side % self.multiple for side in size):
            raise ValueError(f"a slice of {size} is no multiple of {self.multiple}")
        images = torch.where(available[:, :, None, None], images, ABSENT)
        found: Structures = self.structure(images, wish.context, available)
        if self.diffusion is None or sampler == DIRECT:
            wanted = torch.tensor([wish.wants(c) for c in self.contrasts], device=available.device)
            made = self.structure.direct(found, ~available & wanted)
            wish.counter(1)()
        else:
            drafts = self.structure.direct(found, ~available) if self.config.known == "draft" else None
            options = self.sampler_options(sampler, wish.steps or self.config.steps or self.config.T, wish)
            made = self.diffusion.sample(images, available, found, drafts, wish, sampler, options)
        return torch.where(available[:, :, None, None], images, made.clamp(-1, 1))


# Names of tensors ----------------------------------------------------------------------------------------------------


def name_as_in_files(method: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Rename a state that has just been taken from the modules, in its order."""
    rename(state, prefix, {inside: outside for names in NAMES.values() for outside, inside in names.items()})


def name_as_in_modules(method: nn.Module, state: dict[str, Any], prefix: str, *reports: Any) -> None:
    """Rename a state that is about to be loaded."""
    rename(state, prefix, {outside: inside for names in NAMES.values() for outside, inside in names.items()})


def rename(state: dict[str, Any], prefix: str, beginnings: Mapping[str, str]) -> None:
    """Give every tensor whose name begins with `prefix` and one of `beginnings` the other beginning."""
    for name in [name for name in state if name.startswith(prefix)]:
        tensor, inner = state.pop(name), name.removeprefix(prefix)
        old = next((old for old in beginnings if inner.startswith(old)), None)
        state[name if old is None else prefix + beginnings[old] + inner.removeprefix(old)] = tensor
