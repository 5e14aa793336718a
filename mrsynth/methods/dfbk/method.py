"""DFBK: dynamic frequency balance and knowledge guidance (arXiv 2504.09441).

One contrast is shifted into another in four steps (ResShift). The paper has a network for each pair of contrasts; here
one network sees all available contrasts and makes any missing one, each in a chain of its own that begins from the
available contrast most like it, or from a regression of them all. docs/methods/dfbk.md tells what the paper leaves
open and what is chosen here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsynth.contrasts import Contrast
from mrsynth.diffusion.residual_shift import SAMPLER, exponential, residual_shift, shifted
from mrsynth.diffusion.schedules import draw_levels, levels
from mrsynth.errors import UsageError
from mrsynth.methods.base import ABSENT, Batch, Method, Objective, Wish, modes_of
from mrsynth.methods.brightness import blended, brain_of
from mrsynth.methods.dfbk.config import DfbkConfig
from mrsynth.methods.dfbk.network import SwinUNet
from mrsynth.methods.dfbk.text import GuidanceText
from mrsynth.methods.patterns import draw_pattern, legal_patterns
from mrsynth.networks.regression import VoxelRegression, fit_regression
from mrsynth.sampling import Mode
from mrsynth.text_tokens import TokenTable


@dataclass(frozen=True)
class Conditions:
    """What the network is given beside x_t, for one target per example.

    y_0      (B, 1, H, W): what the chain begins from
    seen     (B, N, H, W): further channels; N may be 0
    target   (B,) int64: the contrast to make
    tokens   (B, L, width) and valid (B, L): the text; None without guidance
    """

    y_0: Tensor
    seen: Tensor
    target: Tensor
    tokens: Tensor | None
    valid: Tensor | None


def part_of(given: Conditions, rows: Tensor) -> Conditions:
    """Those of some examples (B,) bool."""
    tokens = None if given.tokens is None else given.tokens[rows]
    valid = None if given.valid is None else given.valid[rows]
    return Conditions(given.y_0[rows], given.seen[rows], given.target[rows], tokens, valid)


class Dfbk(Method):
    """Residual shifting with attention on sub-bands.

    Input of the network: x_t and y_0; with sources=multi also the C contrasts, 0 where not available, and C maps of
    which are; then, of each neighbouring slice, the C contrasts, or with sources=single the one that y_0 is of.
    """

    Config = DfbkConfig
    samplers = (SAMPLER,)
    paper_chain = (SAMPLER, None)
    preference: Tensor
    pair_numbers: Tensor

    def __init__(self, config: DfbkConfig):
        super().__init__(config)
        self.config = config
        self.targets = config.targets
        self.neighbours = config.neighbours
        self.multiple = config.network.multiple
        self.shared_noise = config.noise == "shared"
        self.schedule = exponential(config.T, config.kappa, config.p, config.m, config.E)
        self.scales = self.schedule.input_scales(config.inscale)
        c = len(config.contrasts)
        read = c if config.sources == "multi" else 1
        channels = (2 if config.sources == "single" else 2 + 2 * c) + 2 * read * config.neighbours
        self.text = GuidanceText(config.kg, config.pairs(), config.contrasts) if config.kg.active else None
        self.network = SwinUNet(
            config.network,
            channels,
            1,
            targets=c if config.unified else 0,
            dfb=config.dfb,
            kg=config.kg,
            token_width=config.kg.width,
        )
        self.regression = VoxelRegression(c) if config.begin == "regression" else None
        # preference[t, c]: how much target t likes to begin from c; 0: never
        preference = torch.zeros(c, c)
        for t, target in enumerate(config.contrasts):
            for place, source in enumerate(config.anchor_order(target) if target in self.targets else ()):
                preference[t, config.contrasts.index(source)] = c - place
        self.register_buffer("preference", preference, persistent=False)
        # pair_numbers[sources as a binary number, t]
        numbers = torch.zeros(2**c, c, dtype=torch.int64)
        for number, (sources, target) in enumerate(config.pairs()):
            numbers[sum(1 << config.contrasts.index(s) for s in sources), config.contrasts.index(target)] = number
        self.register_buffer("pair_numbers", numbers, persistent=False)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The mean first where it is trained, or where a chain takes one step."""
        return modes_of("x0", self.config.mean_share, self.config.steps)

    def supports(self, available: Iterable[Contrast], target: Contrast) -> bool:
        """From any non-empty subset; from one with `source` in it where the configuration names one."""
        known = set(available) & set(self.contrasts)
        return target in self.targets and target not in known and bool(known & set(self.config.anchor_order(target)))

    def learns_from(self, present: Iterable[Contrast]) -> bool:
        """From subjects with one of its targets and something to begin from."""
        known = set(present) & set(self.contrasts)
        return any(t in known and bool(known & set(self.config.anchor_order(t))) for t in self.targets)

    def give_tokens(self, table: TokenTable) -> None:
        """The stored tokens that guidance reads. Raises UsageError for others than the configuration asks for."""
        if self.text is None:
            raise UsageError("Knowledge guidance is off (kg.mode or kg.levels), so no tokens are read; leave them out.")
        self.text.give(table)

    def lacking(self) -> str:
        """The stored tokens, where it has none and the configuration asks for them."""
        return "" if self.text is None else self.text.lacking()

    # --- What the network is given --------------------------------------------------------------------------------

    def anchors(self, available: Tensor, target: Tensor) -> Tensor:
        """The contrast (B,) int64 to begin from: the available one (B, C) that the target (B,) likes best."""
        return torch.where(available, self.preference[target], -1.0).argmax(1)

    def conditions(
        self, images: Tensor, available: Tensor, context: Tensor, target: Tensor, dropped: Tensor | None = None
    ) -> Conditions:
        """All of it but x_t; `images` of contrasts that are not available are never read.

        dropped   (B,) bool: examples that shall read learnt tokens in place of stored ones
        """
        rows = torch.arange(len(images), device=images.device)
        anchor = self.anchors(available, target)
        if self.config.sources == "single":
            available = rows.new_zeros(available.shape).bool()
            available[rows, anchor] = True
            seen = [context[rows, anchor]]
        else:
            maps = torch.where(available[:, :, None, None], images, ABSENT)
            flags = available[:, :, None, None].to(images.dtype).expand_as(maps)
            around = torch.where(available[:, :, None, None, None], context, ABSENT).flatten(1, 2)
            seen = [maps, flags, around]
        y_0 = images[rows, anchor][:, None]
        if self.regression is not None:
            y_0 = self.regression.images(images, available)[rows, target][:, None].clamp(-1, 1)
        tokens = valid = None
        if self.text is not None:
            bits = 2 ** torch.arange(available.shape[1], device=images.device)
            tokens, valid = self.text(self.pair_numbers[(available * bits).sum(1), target], dropped)
        return Conditions(y_0, torch.cat(seen, 1), target, tokens, valid)

    def predict(self, x_t: Tensor, level: Tensor, given: Conditions) -> Tensor:
        """x_0 (B, 1, H, W), float32, for levels (B,)."""
        scale = self.scales.to(x_t.dtype).to(x_t.device)[level][:, None, None, None]
        x = torch.cat([x_t / scale, given.y_0, given.seen], 1)
        out: Tensor = self.network(x, level, given.target, given.tokens, given.valid).float()
        return given.y_0 + out if self.config.predict == "residual" else out

    # --- Training -------------------------------------------------------------------------------------------------

    def objectives(self, stage: str) -> list[Objective]:
        """One: to find x_0."""
        moved = [p for name, p in self.named_parameters() if not name.startswith("regression.")]
        return [Objective("denoise", moved, self.loss)]

    def enter_stage(self, stage: str, batches: Iterable[Batch]) -> None:
        """Fit the regression, which then stays as it is."""
        if self.regression is not None:
            fit_regression(
                self.regression, ((batch.images, batch.present) for batch in batches), self.contrasts, self.targets
            )

    def entered(self, stage: str) -> bool:
        """Whether the regression is fitted, where there is one."""
        return self.regression is None or self.regression.fitted

    def draw_available(
        self, present: NDArray[np.bool_], progress: float, random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Of the patterns that leave a target of this network, and something to begin from; `shares` weighs them."""
        known = [c for c, there in zip(self.contrasts, present, strict=True) if there]
        legal = []
        for pattern in legal_patterns(present, self.contrasts):
            given = [c for c, there in zip(self.contrasts, pattern, strict=True) if there]
            if any(self.supports(given, t) for t in self.targets if t in known):
                legal.append(pattern)
        return draw_pattern(legal, present, self.config.shares, random)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of x_0, for one missing contrast per example whose truth is known, at one random level.

        With `brightness_weight` what a line through the brain takes away of it weighs less: see `blended`.
        """
        b, c, *space = batch.images.shape
        device = batch.images.device
        draw = torch.rand((b, c), generator=generator)
        level = draw_levels(self.config.T, b, self.config.level_bias, generator)
        eps = torch.randn((b, 1, *space), generator=generator).to(device)
        dropped = torch.rand(b, generator=generator) < self.config.kg.drop
        mine = torch.tensor([c in self.targets for c in self.contrasts], device=device)
        wanted = batch.present & ~batch.available & mine
        target = torch.where(wanted, draw.to(device), -1.0).argmax(1)

        truth = torch.where(batch.present[:, :, None, None], batch.images, 0.0)
        x_0 = truth[torch.arange(b, device=device), target][:, None]
        given = self.conditions(truth, batch.available, batch.context, target, dropped.to(device))
        eta = self.schedule.eta[level].to(x_0.dtype).to(device)[:, None, None, None]
        x_t = shifted(x_0, given.y_0, eps, eta, self.schedule.kappa)
        if self.config.own_share:
            own = (torch.rand(b, generator=generator) < self.config.own_share) & (level < self.config.T - 1)
            steps = [torch.randn((b, 1, *space), generator=generator).to(device) for _ in range(2)]
        level, mean = self.config.draw_mean(level, generator)
        if self.config.own_share and bool((own := own & ~mean).any()):  # what the mean is made from needs none
            noise = [field[own] for field in steps]
            x_t[own] = self.revisited(part_of(given, own.to(device)), level[own], *noise)
        x_t = torch.where(mean.to(device)[:, None, None, None], given.y_0, x_t)
        brain = brain_of(batch.images, batch.present)
        error = blended(self.predict(x_t, level.to(device), given), x_0, brain, self.config.brightness_weight)[:, 0]
        if self.config.weighted:
            error = error * self.schedule.loss_weights()[level].to(error.dtype).to(device)
        return {"loss": torch.where(wanted.any(1), error, 0.0).mean()}

    @torch.no_grad()
    def revisited(self, given: Conditions, level: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """x_t at these levels (B,) below the last, as sampling sees it that visits the last and then these.

        It is made from the network's own estimate, with the noise (B, 1, H, W) of the start and that of the step.
        """
        last, kappa = self.config.T - 1, self.schedule.kappa
        eta = self.schedule.eta.to(first)
        start = given.y_0 + kappa * eta[last].sqrt() * first
        x_0 = self.predict(start, torch.full(level.shape, last, device=first.device), given).clamp(-1, 1)
        kept = (eta[level] / eta[last])[:, None, None, None]
        return kept * start + (1 - kept) * x_0 + kappa * (kept * (eta[last] - kept * eta[last])).sqrt() * second

    # --- Sampling -------------------------------------------------------------------------------------------------

    def fill_in(self, images: Tensor, available: Tensor, wish: Wish) -> Tensor:
        """Fill in every contrast that is not available and that somebody wants, each in its own chain.

        The others, and those that this network does not make, keep 0 (mid-grey). What a later one is to be made from is
        made too. Noise is asked for (B, targets, H, W).
        """
        if (wish.sampler or SAMPLER) != SAMPLER:
            raise UsageError(f"dfbk samples with {SAMPLER} only, not with {wish.sampler}; leave --sampler out.")
        visited = levels(self.config.T, wish.steps or self.config.steps or self.config.T)
        missing = [t for t in self.targets if not bool(available[:, self.contrasts.index(t)].all())]
        if not missing and not self.config.unified:
            raise ValueError(f"this network makes {', '.join(self.targets)}, which no row lacks")
        last = max((n for n, t in enumerate(missing) if wish.wants(t)), default=-1)
        missing = missing[: last + 1] if self.config.chain else [t for t in missing if wish.wants(t)]
        result = torch.where(available[:, :, None, None], images, ABSENT)
        # drawn for all targets at once, so that a contrast has its noise whatever else is missing
        fields = result[:, [self.contrasts.index(t) for t in self.targets]]
        drawn = [wish.noise(fields) for _ in visited] if missing else []
        tell = wish.counter(len(visited) * len(missing))
        read = available
        for target in missing:
            channel = self.contrasts.index(target)
            rows = (~available[:, channel]).nonzero()[:, 0]
            if not bool((read[rows] & (self.preference[channel] > 0)).any(1).all()):
                needed = " or ".join(self.config.anchor_order(target))
                raise ValueError(f"dfbk makes {target} from {needed}, and there is a row without")
            given = self.conditions(result[rows], read[rows], wish.context[rows], torch.full_like(rows, channel))
            own = [field[rows, self.targets.index(target)][:, None] for field in drawn]
            result[rows, channel] = self.run_chain(given, visited, own, tell)[:, 0]
            if self.config.chain:
                read = read.clone()
                read[rows, channel] = True
        return result

    def run_chain(
        self, given: Conditions, visited: Sequence[int], fields: Sequence[Tensor], tell: Callable[[], None]
    ) -> Tensor:
        """One contrast, (B, 1, H, W), through these levels with these noise fields; `tell` after each network call."""
        fresh = iter(fields)

        def denoise(x_t: Tensor, level: int) -> Tensor:
            x_0 = self.predict(x_t, torch.full((len(x_t),), level, device=x_t.device), given)
            tell()
            return x_0.clamp(-1, 1)

        return residual_shift(denoise, given.y_0, self.schedule, visited, lambda like: next(fresh))
