"""Every choice of FgC2F-UDiff: guidance by frequency, the chain and its training, sizes of the network."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mrsynth.contrasts import Contrast
from mrsynth.diffusion.prediction import Kind
from mrsynth.diffusion.schedules import SolverLevels
from mrsynth.methods.base import ChainConfig
from mrsynth.methods.brightness import BrightnessWeight
from mrsynth.methods.patterns import Share, Shares
from mrsynth.networks.unet import UNetConfig
from mrsynth.plain import Plain


class FrequencyConfig(Plain):
    """Guidance by frequency.

    mode    c2f: low-pass while coarse, high-pass while fine; plain: the low-frequency source, unfiltered;
            none: zeros; lf_only, hf_only, swapped; soft: a learnt cross-fade of the two
    select  dynamic: first available in the ranking (low) or from its end (high); fixed: first available in channel
            order for both; reverse: low and high sources exchanged; mean: mean of the available contrasts;
            learned: softmax over the available contrasts. Mode soft always weighs the contrasts by a softmax.
    What a mode does not read cannot be set.
    """

    mode: Literal["c2f", "plain", "none", "lf_only", "hf_only", "swapped", "soft"] = "c2f"
    select: Literal["dynamic", "fixed", "reverse", "mean", "learned"] = "dynamic"
    sigma: float = Field(3.5, gt=0, description="of the Gaussian filter, pixels")
    kernel: int = Field(21, gt=0, description="size of the Gaussian filter, pixels, odd")
    hf_gain: float = Field(1.0, description="factor on the high-pass image")
    ranking: tuple[Contrast, ...] = Field(
        (Contrast.T1, Contrast.T2, Contrast.FLAIR, Contrast.T1CE), description="most low-frequency content first"
    )
    tau: float = Field(2.0, gt=0, description="width of the cross-fade of mode soft, in levels")

    @model_validator(mode="after")
    def _every_choice_has_an_effect(self) -> "FrequencyConfig":
        if self.kernel % 2 == 0:
            raise ValueError(f"freq.kernel {self.kernel}: expected an odd number of pixels")
        if self.select == "learned" and self.mode in ("plain", "none", "lf_only", "hf_only"):
            raise ValueError(
                f"freq.select learned with freq.mode {self.mode} would leave weights without a gradient; "
                "use it with c2f or swapped; soft always learns its sources"
            )
        if idle := [name for name in self.unread(self.mode, self.select) if self.is_set(name, getattr(self, name))]:
            raise ValueError(
                f"freq.{', freq.'.join(idle)} without effect: freq.mode {self.mode} with freq.select {self.select} "
                "does not read it; leave it out, or choose another mode"
            )
        return self

    @classmethod
    def unread(cls, mode: str, select: str) -> tuple[str, ...]:
        """The options that have no effect with these two."""
        found = {
            "none": ("select", "sigma", "kernel", "hf_gain"),
            "plain": ("sigma", "kernel", "hf_gain"),
            "lf_only": ("hf_gain",),
            "soft": ("select",),
        }.get(mode, ())
        unranked = mode == "none" or (mode != "soft" and select in ("fixed", "mean"))
        return (*found, *(("ranking",) if unranked else ()), *(("tau",) if mode != "soft" else ()))

    @classmethod
    def is_set(cls, name: str, value: Any) -> bool:
        """Whether this is another value than the default; a ranking of other contrasts has to be given."""
        default = cls.model_fields[name].default
        if name == "ranking":
            return sorted(value) == sorted(default) and tuple(value) != default
        return bool(value != default)

    @classmethod
    def from_format_1(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """What had no effect could be set then; it is as if it had not been."""
        whole = super().from_format_1(data)
        idle = cls.unread(whole.get("mode", "c2f"), whole.get("select", "dynamic"))
        unset = {n: cls.model_fields[n].default for n in idle if n in whole and cls.is_set(n, whole[n])}
        return {**whole, **unset}


class FgC2FConfig(ChainConfig):
    """Every choice and ablation of the method; defaults are the paper's where it states one."""

    FORMER: ClassVar[Mapping[str, Any]] = {
        **ChainConfig.FORMER,
        "loss": "mse",
        "gradient_weight": 0.0,
        "snr_cap": 1.0,
        "brightness_weight": 1.0,
        "eta": 0.0,
    }

    method: Literal["fgc2f"] = "fgc2f"
    network: UNetConfig = UNetConfig()
    freq: FrequencyConfig = FrequencyConfig()
    T: int = Field(200, gt=1, description="levels of the training chain")
    switch: float = Field(0.5, ge=0, le=1, description="share of the chain that is fine: coarse iff t >= switch * T")
    schedule: Literal["cosine", "linear_scaled", "linear"] = "cosine"
    param: Kind = Field("eps", description="what the network predicts")
    mask_embed: bool = Field(True, description="tell the network which contrasts are available")
    curriculum: Literal["cumulative", "strict", "none"] = "cumulative"
    phases: tuple[Share, Share, Share] = Field(
        (0.15, 0.30, 0.50),
        description="progress at which each of the curriculum's three phases ends; nothing reads it without one",
    )
    shares: Shares | None = Field(
        None,
        description="examples with 1, 2, and 3 or more contrasts missing after the curriculum; None: patterns alike",
    )
    neighbours: int = Field(0, ge=0, description="slices below and above whose available contrasts the network reads")
    loss: Literal["mse", "charbonnier"] = Field("mse", description="charbonnier: sqrt(error^2 + 0.001^2), nearly L1")
    gradient_weight: float = Field(
        0.0, ge=0, description="of the mean absolute difference between the gradients of x_0 and of the truth"
    )
    snr_cap: float = Field(
        1.0,
        ge=1,
        description="x_0's error in examples of the chain weighs as the signal-to-noise ratio, from 1 to this; 1: off",
    )
    brightness_weight: BrightnessWeight = 1.0
    noise: Literal["independent", "shared"] = Field("independent", description="noise fields per slice or per volume")
    sampler: Literal["ddpm", "ddim", "dpm_solver_pp"] = "ddpm"
    eta: float = Field(0.0, ge=0, le=1, description="of ddim; 0 is deterministic, 1 as noisy as ddpm")
    solver_levels: SolverLevels = Field(
        "log_snr", description="what dpm_solver_pp visits: levels even in log-SNR, or those of other samplers"
    )

    @model_validator(mode="after")
    def _ranking_covers_the_contrasts(self) -> "FgC2FConfig":
        if set(self.freq.ranking) != set(self.contrasts) or len(self.freq.ranking) != len(self.contrasts):
            raise ValueError(
                f"freq.ranking {[c.value for c in self.freq.ranking]} must hold each of the contrasts "
                f"{[c.value for c in self.contrasts]} once"
            )
        return self

    @model_validator(mode="after")
    def _can_be_trained(self) -> "FgC2FConfig":
        if list(self.phases) != sorted(self.phases):
            raise ValueError(f"no phase ends before the one before it, as in phases {self.phases}")
        if self.gradient_weight and self.param == "eps":
            raise ValueError("gradient_weight needs param x0 or v: of noise alone eps tells next to nothing of x_0")
        if self.snr_cap > 1 and self.param == "eps":
            raise ValueError(
                "snr_cap needs param x0 or v: it weighs errors of x_0, which eps tells nothing of at high noise"
            )
        if self.brightness_weight < 1 and self.param != "x0" and self.snr_cap == 1:
            raise ValueError(
                "brightness_weight is of the error of x_0: it needs param x0, or v with an snr_cap above 1"
            )
        if self.snr_cap > 1 and self.mean_share == 1:
            raise ValueError("snr_cap without effect: with mean_share 1 no example is of the chain")
        return self

    @model_validator(mode="after")
    def _stages_differ_where_they_are_moved(self) -> "FgC2FConfig":
        if self.switch != 0.5 and self.stages_alike(self.freq.mode, self.sampler):
            raise ValueError(f"switch without effect: freq.mode {self.freq.mode} guides both stages alike")
        return self

    @classmethod
    def stages_alike(cls, mode: str, sampler: str) -> bool:
        """Whether nothing changes at the switch; dpm_solver_pp begins anew there, whatever the guidance."""
        return mode in ("plain", "none", "lf_only", "hf_only") and sampler != "dpm_solver_pp"

    @classmethod
    def from_format_1(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Also: a switch that changed nothing could be moved."""
        whole = super().from_format_1(data)
        alike = cls.stages_alike(whole.get("freq", {}).get("mode", "c2f"), whole.get("sampler", "ddpm"))
        return {**whole, "switch": 0.5} if alike else whole

    @property
    def first_coarse(self) -> int:
        """The lowest level of the coarse stage: the smallest t >= switch * T."""
        return math.ceil(round(self.switch * self.T, 6))  # 0.07 * 100 is 7.000000000000001


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "large": {"network": {"width": 128, "multipliers": (1, 1, 2, 2, 4), "attention": (3, 4)}},
    "small": {"network": {"width": 32, "multipliers": (1, 2, 3, 4), "groups": 16}},
    "tiny": {
        "network": {"width": 16, "multipliers": (1, 2, 2), "blocks": 1, "groups": 8, "attention": (2,), "head_dim": 16}
    },
    "ship": {
        "network": {
            "width": 32,
            "multipliers": (1, 2, 4, 4),
            "blocks": 1,
            "up_blocks": 1,
            "groups": 8,
            "attention": (3,),
            "fold": 2,
            "slim_up": True,
            "input_skip": True,
        },
        "param": "x0",
        "neighbours": 1,
        "level_bias": 4.0,
        "phases": (0.15, 0.30, 0.30),
        "shares": (0.5, 0.3, 0.2),
        "noise": "shared",
        "sampler": "ddim",
        "steps": 1,
    },
}
