"""cWDM: conditional wavelet diffusion (Friedrich et al. 2024, arXiv 2411.17203).

One 3-D network per target contrast. Diffusion runs on wavelet coefficients of the target, which halve every axis; the
coefficients of the three other contrasts are given beside them. The network predicts x_0, and every step of sampling
clips that prediction to [0, 1] as an image. docs/methods/cwdm.md tells where code and paper part, and what we add.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from mrsynth.contrasts import Contrast
from mrsynth.diffusion.prediction import noised
from mrsynth.diffusion.samplers import SAMPLERS, known_sampler, levels_of
from mrsynth.diffusion.schedules import SolverLevels, Spacing, draw_levels, make_schedule
from mrsynth.methods.base import Batch, ChainConfig, Method, Objective, Wish, modes_of
from mrsynth.methods.brightness import BrightnessWeight, brain_of, fitted
from mrsynth.methods.cwdm.fast import FastWaveletUNet
from mrsynth.methods.cwdm.kernels import clip_haar
from mrsynth.methods.cwdm.network import WaveletUNet, WaveletUNetConfig
from mrsynth.networks.wavelet import dwt, filters, idwt
from mrsynth.sampling import Mode, Variance

BANDS = 8  # of one level in three dimensions
ANY = "any"
WIDE = 64  # channels of the first level from which on the fast form pays in float32 too


class CwdmConfig(ChainConfig):
    """Every choice and ablation of the method; defaults are those of the official code.

    target     the contrast this network makes from all the others, or "any": one network for every target, which sees
               all contrasts with zeros in place of the one to make. Not in the paper; a start for specialised networks
    schedule   linear or cosine over T levels; sampled: T of the 1000 linear levels; direct: the linear betas times
               1000 / T (the latter two are fast-cwdm's, for short chains that are trained short)
    """

    FORMER: ClassVar[Mapping[str, Any]] = {**ChainConfig.FORMER, "eta": 0.0, "brightness_weight": 1.0}

    method: Literal["cwdm"] = "cwdm"
    target: Contrast | Literal["any"]
    network: WaveletUNetConfig = WaveletUNetConfig()
    wavelet: str = Field("haar", description="an orthogonal filter bank of PyWavelets")
    low_scale: float = Field(3.0, gt=0, description="the low-pass band is divided by this, to span what the others do")
    schedule: Literal["linear", "cosine", "sampled", "direct"] = "linear"
    variance: Literal["auto", "beta", "posterior"] = Field(
        "auto",
        description="of ancestral steps; auto: beta over all T levels, as the official code, posterior over fewer",
    )
    clip: bool = Field(True, description="clip x_0 to [0, 1] as an image at every step")
    weighting: Literal["bands", "image"] = Field(
        "bands", description="bands: all weigh alike, as stored; image: as in the squared error of the image"
    )
    brightness_weight: BrightnessWeight = 1.0
    noisy_input: Literal["as_is", "signal"] = Field(
        "as_is", description="signal: the network sees sqrt(abar_t) x_t, whose noise does not drown the conditions"
    )
    sampler: Literal["ddpm", "ddim", "dpm_solver_pp"] = "ddpm"
    eta: float = Field(0.0, ge=0, le=1, description="of ddim; 0 is deterministic, 1 as noisy as ddpm")
    spacing: Spacing = Field("linspace", description="which levels fewer steps visit; linspace: from T - 1 down to 0")
    solver_levels: SolverLevels = Field(
        "log_snr", description="what dpm_solver_pp visits: levels even in log-SNR, or those of other samplers"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "CwdmConfig":
        if self.target != ANY and self.target not in self.contrasts:
            raise ValueError(f"target {self.target} is none of the contrasts {[c.value for c in self.contrasts]}")
        filters(self.wavelet)
        return self

    @classmethod
    def from_format_1(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Also: `beta` was the default, which only checkpoints that sample by ddpm meant."""
        whole = super().from_format_1(data)
        if whole.get("variance") == "beta" and whole.get("sampler") != "ddpm":
            whole["variance"] = "auto"
        return whole

    def variance_of(self, steps: int) -> Variance:
        """The variance of ancestral steps when so many of the T levels are visited."""
        if self.variance == "auto":
            return "beta" if steps == self.T else "posterior"
        return self.variance

    @property
    def targets(self) -> tuple[Contrast, ...]:
        """What this network can make."""
        return self.contrasts if self.target == ANY else (Contrast(self.target),)

    @property
    def conditions(self) -> tuple[Contrast, ...]:
        """What the network looks at, in this order: all but the target, or all."""
        return tuple(c for c in self.contrasts if c != self.target)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "paper": {"variance": "posterior"},
    "fast": {"T": 10, "schedule": "sampled"},
    "ship": {
        "network": {
            "width": 32,
            "multipliers": (1, 1, 2),
            "blocks": 1,
            "groups": 8,
            "skips": "additive",
            "input_skip": True,
        },
        "noisy_input": "signal",
        "weighting": "image",
        "level_bias": 2.0,
        "sampler": "ddim",
        "steps": 1,
    },
    "tiny": {"network": {"width": 16, "multipliers": (1, 2), "blocks": 1, "groups": 8}, "T": 10, "schedule": "sampled"},
}


class Cwdm(Method):
    """Conditional wavelet diffusion.

    Input of the network: 8 coefficients of the noisy target, then 8 of each condition.
    """

    Config = CwdmConfig
    dimensions = 3

    def __init__(self, config: CwdmConfig):
        super().__init__(config)
        self.config = config
        self.targets = config.targets
        self.multiple = 2 * config.network.multiple
        self.schedule = make_schedule(config.schedule, config.T)
        kinds = len(config.contrasts) if config.target == ANY else 0
        self.network = WaveletUNet(config.network, BANDS * (1 + len(config.conditions)), BANDS, kinds)
        self._fast: FastWaveletUNet | None = None

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The mean first where it is trained for or a chain takes one step."""
        return modes_of("x0", self.config.mean_share, self.config.steps)

    def supports(self, available: Iterable[Contrast], target: Contrast) -> bool:
        """Only from all the other contrasts."""
        others = {c for c in self.contrasts if c != target}
        return target in self.targets and set(available) & set(self.contrasts) == others

    def learns_from(self, present: Iterable[Contrast]) -> bool:
        """Only from subjects with all contrasts."""
        return set(self.contrasts) <= set(present)

    def optimise(self, precision: str) -> None:
        """Synthesise through the fast form of the network where that pays; for any target through the plain.

        In bf16 it always does; in fp32 from the width of the official network on, and on a processor.
        """
        wide = self.config.network.width >= WIDE and self.network.stem.weight.device.type == "cpu"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32 if wide else None
        self.quicken(None if self.config.target == ANY else dtype)

    def quicken(self, dtype: torch.dtype | None) -> None:
        """Synthesise through the fast form of the network, with values of this type; None: through the plain."""
        self._fast = None if dtype is None else FastWaveletUNet(self.network, dtype)

    @property
    def denoises_plainly(self) -> bool:
        """Whether it synthesises through the plain network."""
        return self._fast is None

    def variance_of(self, steps: int) -> Variance:
        """As configured; by default that of the official code where all levels are visited."""
        return self.config.variance_of(steps)

    # --- Wavelet domain -------------------------------------------------------------------------------------------

    def encode(self, u: Tensor) -> Tensor:
        """Images (B, C, D, H, W) in [0, 1] as coefficients (B, 8 C, D / 2, H / 2, W / 2), the low-pass band scaled."""
        return dwt(u, self.config.wavelet) / self.band_scales(u)

    def decode(self, coefficients: Tensor) -> Tensor:
        """The inverse of `encode`."""
        return idwt(coefficients * self.band_scales(coefficients[:, ::BANDS]), self.config.wavelet)

    def clipped(self, x_0: Tensor) -> Tensor:
        """Coefficients of the image clipped to [0, 1]."""
        if self._fast is not None and self.config.wavelet == "haar":
            return clip_haar(x_0, self.config.low_scale)
        return self.encode(self.decode(x_0).clamp(0, 1))

    def band_scales(self, images: Tensor) -> Tensor:
        """(1, 8 C, 1, 1, 1): what each band is divided by."""
        one = torch.tensor([self.config.low_scale] + [1.0] * (BANDS - 1), dtype=images.dtype, device=images.device)
        return one.repeat(images.shape[1])[None, :, None, None, None]

    def predict(self, x_t: Tensor, level: Tensor, conditions: Tensor, available: Tensor) -> Tensor:
        """x_0 of the plain network, float32."""
        return self.of_network(torch.cat([self.seen(x_t, level), conditions], 1), level, available)

    def of_network(self, inputs: Tensor, level: Tensor, available: Tensor) -> Tensor:
        """x_0 from noisy coefficients and conditions side by side."""
        kind = (~available).float() if self.config.target == ANY else None
        x: Tensor = self.network(inputs, level, kind)
        return x.float()

    def seen(self, x_t: Tensor, level: Tensor) -> Tensor:
        """The noisy coefficients as the network sees them."""
        if self.config.noisy_input == "as_is":
            return x_t
        signal = self.schedule.abar.sqrt().to(x_t.dtype).to(x_t.device)[level]  # there are devices without float64
        return x_t * signal[:, None, None, None, None]

    # --- Training -------------------------------------------------------------------------------------------------

    def objectives(self, stage: str) -> list[Objective]:
        """One: to denoise."""
        return [Objective("denoise", list(self.parameters()), self.loss)]

    def draw_available(
        self, present: NDArray[np.bool_], progress: float, random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """All but the target; of a network for any target all but one."""
        target = self.targets[random.integers(len(self.targets))] if len(self.targets) > 1 else self.targets[0]
        return np.asarray(present & np.array([c != target for c in self.contrasts]))

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the predicted coefficients, at one random level per example."""
        b, _, *space = batch.images.shape
        level = draw_levels(self.config.T, b, self.config.level_bias, generator)
        noise = torch.randn((b, 1, *space), generator=generator)
        level, mean = self.config.draw_mean(level, generator)
        return {"loss": self.band_errors(batch, level, noise, mean).mean()}

    def band_errors(self, batch: Batch, level: Tensor, noise: Tensor, mean: Tensor | None = None) -> Tensor:
        """Mean squared error of each band, (8,), low-pass first, weighted as the configuration says, and with
        `brightness_weight` less of it where a line through the brain of the whole volume takes it away.

        noise   (B, 1, D, H, W) as an image: white noise stays white in the wavelet domain
        mean    (B,) bool: examples that begin from zeros, without noise and without a trace of the truth
        """
        device = batch.images.device
        x_0 = self.encode(self.truth(batch))
        abar = self.schedule.abar[level.cpu()][:, None, None, None, None]  # float64, which some devices do not have
        x_t = noised(x_0, dwt(noise.to(device), self.config.wavelet), abar)
        if mean is not None:
            x_t = torch.where(mean.to(device)[:, None, None, None, None], 0.0, x_t)
        conditions = self.conditions(batch.images, batch.available)
        made = self.predict(x_t, level.to(device), conditions, batch.available)
        errors: Tensor = (made - x_0).square().mean((0, 2, 3, 4))
        if (weight := self.config.brightness_weight) < 1:
            line = fitted(self.decode(made), self.truth(batch), brain_of(batch.images, batch.present))
            errors = weight * errors + (1 - weight) * (self.encode(line) - x_0).square().mean((0, 2, 3, 4))
        if self.config.weighting == "image":
            errors = errors * self.band_scales(x_0[:, :1]).flatten() ** 2
        return errors

    def truth(self, batch: Batch) -> Tensor:
        """The target of each example, (B, 1, D, H, W) in [0, 1]."""
        wanted = (batch.present & ~batch.available)[:, :, None, None, None]
        return torch.where(wanted, (batch.images + 1) / 2, 0.0).sum(1, keepdim=True)

    def conditions(self, images: Tensor, available: Tensor) -> Tensor:
        """Coefficients of what may be read, (B, 8 N, D / 2, H / 2, W / 2); zeros for what may not."""
        slots = [self.contrasts.index(c) for c in self.config.conditions]
        seen = torch.where(available[:, slots, None, None, None], (images[:, slots] + 1) / 2, 0.0)
        return self.encode(seen)

    # --- Sampling -------------------------------------------------------------------------------------------------

    def fill_in(self, images: Tensor, available: Tensor, wish: Wish) -> Tensor:
        """Make the one contrast that is not available. Noise is asked for (B, targets, 8, D, H, W)."""
        sampler = known_sampler(wish.sampler or self.config.sampler)
        made = self.missing_channel(available)
        conditions = self.conditions(images, available)
        steps = wish.steps or self.config.steps or self.config.T
        spacing = "trailing" if wish.mean else self.config.spacing  # leading would begin at the other end
        visited = levels_of(sampler, self.schedule, steps, spacing, self.config.solver_levels)
        tell = wish.counter(len(visited))

        def denoise(x_t: Tensor, level: int) -> Tensor:
            x_0 = network(x_t, torch.full((len(x_t),), level, device=x_t.device))
            tell()
            return self.clipped(x_0) if self.config.clip else x_0

        def fresh(like: Tensor) -> Tensor:
            """Noise of each example's own target."""
            drawn = wish.noise(like[:, None].expand(-1, len(self.targets), *like.shape[1:]))
            index = torch.tensor([self.targets.index(self.contrasts[c]) for c in made], device=like.device)
            return drawn[torch.arange(len(like), device=like.device), index]

        start = fresh(conditions[:, :BANDS])
        network = self.denoiser(conditions, available, len(visited))
        del conditions  # they are in what the network is given
        options = self.sampler_options(sampler, steps, wish)
        x_0 = SAMPLERS[sampler](denoise, start, self.schedule, visited, fresh, **options)
        result = images.clone()
        rows = torch.arange(len(images), device=images.device)
        result[rows, torch.tensor(made, device=images.device)] = self.decode(x_0)[:, 0].clamp(0, 1) * 2 - 1
        return result

    def denoiser(self, conditions: Tensor, available: Tensor, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
        """(x_t, level) -> x_0 given the conditions, to be called `steps` times; x_0 is float32."""
        fast = self._fast
        if fast is None:
            held = torch.cat([conditions[:, :BANDS], conditions], 1)  # one input for all levels, the noisy part first

            def plain(x_t: Tensor, level: Tensor) -> Tensor:
                held[:, :BANDS] = self.seen(x_t, level)
                return self.of_network(held, level, available)

            return plain
        fast.condition(conditions, steps)
        return lambda x_t, level: fast(self.seen(x_t, level), level)

    def missing_channel(self, available: Tensor) -> list[int]:
        """The channel to make in each row. Raises ValueError unless exactly one is missing, and one we can make."""
        makeable = [c in self.targets for c in self.contrasts]
        found = []
        for row in available.tolist():
            missing = [c for c, there in enumerate(row) if not there]
            if len(missing) != 1 or not makeable[missing[0]]:
                raise ValueError(f"cwdm makes one of {', '.join(self.targets)} from all the others, not {row}")
            found += missing
        return found
