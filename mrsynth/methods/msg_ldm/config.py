"""Options, ablations and presets of MSG-LDM."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mrsynth.diffusion.prediction import Kind
from mrsynth.diffusion.schedules import SolverLevels
from mrsynth.methods.base import ChainConfig
from mrsynth.methods.brightness import BrightnessWeight
from mrsynth.methods.msg_ldm.autoencoder import AutoencoderConfig
from mrsynth.methods.msg_ldm.discriminator import DiscriminatorConfig
from mrsynth.methods.msg_ldm.structure_map import StructureConfig
from mrsynth.methods.patterns import Shares
from mrsynth.networks.unet import UNetConfig
from mrsynth.plain import Plain


class LossConfig(Plain):
    """Weights and forms of the losses; a weight of 0 leaves the term out.

    The first stage minimises the image error + w_latent price of the latents + w_gan adversarial loss; the structure
    stage w_sa (w_rec image error + w_freq spectra) + w_seg regions + w_sc style consistency + w_kl pull at the heads.
    """

    FORMER: ClassVar[Mapping[str, Any]] = {"brightness_weight": 1.0}

    pixel: Literal["l1", "l2"] = Field("l1", description="image error; l2 is what PSNR measures, l1 the paper's")
    w_latent: float = Field(1.0, ge=0, description="codebook loss of vq; of kl take 1e-6 or so")
    w_gan: float = Field(1.0, ge=0, description="adversarial loss of the first stage, times its adaptive weight")
    w_rec: float = Field(1.0, ge=0, description="image error of all contrasts whose truth is known")
    w_available: float = Field(1.0, ge=0, description="of which those that were available weigh so much")
    brightness_weight: BrightnessWeight = 1.0
    w_freq: float = Field(1.0, ge=0, description="dissimilarity of spectra")
    w_sa: float = Field(
        1.0, ge=0, description="structure-aware loss, which is both; with 0 there are no image decoders either"
    )
    freq: Literal["log", "raw"] = Field("log", description="spectra as log(1 + |DCT|), or as |DCT|: the public code")
    w_seg: float = Field(2.0, ge=0)
    w_sc: float = Field(0.1, ge=0)
    w_kl: float = Field(0.0, ge=0, description="KL of N(head 1, exp(head 2)) to N(0, 1) at the heads of AdaIN")

    @classmethod
    def from_format_1(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """The spectra alone were called w_sa; nothing weighed the two as a whole."""
        return {**super().from_format_1(data), "w_freq": data.get("w_sa", 1.0), "w_sa": 1.0}


class MsgLdmConfig(ChainConfig):
    """Every choice and ablation of the method; defaults are the paper's where it is known.

    decode     diffusion; or direct: the images of the structure network's own decoders, and no diffusion model at all.
               A model with diffusion gives them too: sampler "direct"
    mean_by    whose one call mode mean is: the diffusion network's from zeros, as `mean_share` trains it; or direct
    known      what the diffusion model is told of the latents of available contrasts. none (the paper): nothing;
               concat: they and the pattern are further inputs; replace: as none, but while sampling they stand in the
               joint latents at each level's noise; draft: as concat, and the latents of the direct images stand in for
               the missing ones; diffusion then only makes the difference to the truth, and details that the latents
               of the direct image lose are added back to the result
    prototype  how often the style of a missing contrast is its prototype while the structure network is trained;
               otherwise it is that of its true image, which is not there in use
    prototypes learned: by the images decoded with them; running: the running mean of the codes of each contrast
    latent_scaling  channel: each channel of each contrast's latents is brought to variance 1; joint: all by one factor
    complete   also train on examples with nothing missing, 1 in n, which is how many contrasts there are
    shares     of the training examples with 1, 2, and 3 or more missing contrasts; None: every number alike
    seg        auto: segmentations are learnt from where there are any; on: they must be there; off: never
    regions    overlapping regions, and the values of the label file that belong to each; None: those that the catalogue
               names for the data set of the training subjects, and where there are no segmentations none
    """

    FORMER: ClassVar[Mapping[str, Any]] = {
        **ChainConfig.FORMER,
        "prototypes": "running",
        "latent_scaling": "joint",
        "mean_by": "direct",
        "shares": None,
    }

    method: Literal["msg-ldm"] = "msg-ldm"
    first_stage: AutoencoderConfig = AutoencoderConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    structure: StructureConfig = StructureConfig()
    network: UNetConfig = UNetConfig(width=128, multipliers=(1, 1, 2), blocks=1, attention=(1, 2))
    losses: LossConfig = LossConfig()
    decode: Literal["diffusion", "direct"] = "diffusion"
    mean_by: Literal["diffusion", "direct"] = "diffusion"
    known: Literal["none", "concat", "replace", "draft"] = "none"
    prototype: float = Field(0.5, ge=0, le=1)
    prototypes: Literal["learned", "running"] = "learned"
    prototype_decay: float = Field(0.99, ge=0, lt=1, description="of running prototypes")
    latent_scaling: Literal["channel", "joint"] = "channel"
    complete: bool = True
    shares: Shares | None = None
    neighbours: int = Field(0, ge=0, description="slices below and above that the structure encoders read too")
    seg: Literal["auto", "on", "off"] = "auto"
    regions: dict[str, tuple[int, ...]] | None = None
    betas: tuple[float, float] = Field((0.5, 0.9), description="of Adam in the first stage and the structure stage")
    T: int = Field(1000, gt=1, description="levels of the training chain")
    schedule: Literal["sqrt_linear", "cosine", "linear", "linear_scaled"] = "sqrt_linear"
    param: Kind = Field("eps", description="what the network predicts")
    noise: Literal["independent", "shared"] = Field("independent", description="noise fields per slice or per volume")
    sampler: Literal["ddpm", "ddim", "dpm_solver_pp", "direct"] = "ddim"
    solver_levels: SolverLevels = Field(
        "log_snr", description="what dpm_solver_pp visits: levels even in log-SNR, or those of other samplers"
    )
    steps: int | None = Field(50, gt=0, description="sampling steps; None visits all T levels")
    eta: float = Field(0.0, ge=0, le=1, description="of ddim; 0 is deterministic, 1 the public code's")

    @model_validator(mode="after")
    def _fits_together(self) -> "MsgLdmConfig":
        empty = self.regions is not None and not self.regions
        if self.seg != "off" and (empty or any(min(v, default=0) < 1 for v in (self.regions or {}).values())):
            raise ValueError(f"regions {self.regions}: each needs values, all above 0; seg: off learns without any")
        if self.seg == "on" and not self.losses.w_seg:
            raise ValueError("seg on with losses.w_seg 0 would learn nothing from the segmentations")
        if not self.structure.decouple and self.losses.w_kl:
            raise ValueError("losses.w_kl acts on style codes; with structure.decouple false there are none")
        if self.mean_share and self.mean_by == "direct":
            raise ValueError("mean_share without effect: with mean_by direct nobody makes the call that it trains")
        if self.has_prototypes and self.prototypes == "learned" and not self.prototype:
            raise ValueError("prototype 0 leaves nothing to learn prototypes from; say prototypes: running")
        decoding = {"decode: direct": self.decode == "direct", "known: draft": self.known == "draft"}
        decoding |= {"sampler: direct": self.sampler == "direct", "mean_by: direct": self.mean_by == "direct"}
        decoding |= {"structure.regression": self.structure.regression, "losses.w_kl": self.losses.w_kl > 0}
        decoding |= {"seg other than on": self.seg != "on"}
        decoding |= {"structure.msse, which image decoders alone read": self.structure.msse}
        if not self.decodes and (needing := [name for name, needs in decoding.items() if needs]):
            raise ValueError(
                "losses.w_sa 0 leaves the image decoders out, and segmentations alone then train the structure map: "
                f"it does not go with {', '.join(needing)}"
            )
        if self.losses.brightness_weight < 1 and not (self.decodes and self.losses.w_rec):
            raise ValueError(
                "losses.brightness_weight is of an image error that losses.w_sa or losses.w_rec 0 leaves out"
            )
        if self.decodes and not (self.losses.w_rec or self.losses.w_freq):
            raise ValueError(
                "losses.w_rec and losses.w_freq are both 0, so that nothing trains the image decoders; "
                "losses.w_sa 0 leaves them out"
            )
        always = self.seg == "on" or (self.structure.decouple and self.losses.w_sc)  # whatever is in a batch
        if self.decodes and self.complete and not self.losses.w_available and not always:
            raise ValueError(
                "losses.w_available 0 with complete: true leaves nothing to learn from examples with nothing missing; "
                "say complete: false, or learn from styles (structure.decouple, losses.w_sc) or segmentations (seg: on)"
            )
        return self

    @property
    def multiple(self) -> int:
        """What the sides of a slice must be multiples of."""
        if self.decode == "direct":
            return self.structure.factor
        return math.lcm(self.structure.factor, self.first_stage.factor * self.network.multiple)

    @property
    def segments(self) -> bool:
        """Whether there is a segmentation decoder."""
        return self.seg != "off" and self.losses.w_seg > 0 and bool(self.regions)

    @property
    def styled(self) -> bool:
        """Whether there are style codes."""
        return self.structure.decouple and (self.decodes or self.losses.w_sc > 0)

    @property
    def decodes(self) -> bool:
        """Whether there are image decoders."""
        return self.losses.w_sa > 0

    @property
    def has_prototypes(self) -> bool:
        """Whether there is a style for a contrast that is missing."""
        return self.styled and self.decodes


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "code": {
        "structure": {
            "hfib": "conv",
            "sigma": "scalar",
            "fusion": "concat",
            "gate": "normed",
            "style_codes": "raw",
            "alpha": "fixed",
            "style_norm": True,
        },
        "losses": {"freq": "raw", "w_kl": 0.05},
        "prototype": 0.0,
        "prototypes": "running",
        "latent_scaling": "joint",
        "steps": 100,
        "eta": 1.0,
    },
    "ship": {
        "first_stage": {
            "kind": "kl",
            "width": 32,
            "multipliers": (1, 2),
            "blocks": 1,
            "decoder_blocks": 1,
            "groups": 8,
            "attention": False,
            "fold": 2,
            "bypass": True,
        },
        "structure": {
            "widths": (24, 48, 96),
            "fold": 2,
            "norm": "group",
            "fusion": "concat",
            "dropout": 0.0,
            "style_width": 8,
            "decoder_blocks": 2,
            "decoder_kernel": 3,
            "decoder_skips": True,
            "regression": True,
            "head": "linear",
        },
        "network": {
            "width": 32,
            "multipliers": (1, 2, 2),
            "blocks": 1,
            "up_blocks": 1,
            "groups": 8,
            "attention": (2,),
            "slim_up": True,
            "input_skip": True,
        },
        "losses": {
            "pixel": "l2",
            "w_latent": 1e-6,
            "w_gan": 0.0,
            "w_rec": 10.0,
            "w_available": 0.1,
            "w_freq": 0.0,
        },
        "known": "draft",
        "prototype": 1.0,
        "complete": False,
        "betas": (0.9, 0.99),
        "neighbours": 1,
        "seg": "off",
        "T": 200,
        "schedule": "cosine",
        "param": "x0",
        "level_bias": 2.0,
        "noise": "shared",
        "steps": 1,
    },
    "tiny": {
        "first_stage": {"kind": "kl", "width": 16, "multipliers": (1, 1, 2, 2), "blocks": 1, "groups": 8},
        "structure": {"widths": (8, 16, 32, 64), "style_width": 8, "decoder_blocks": 1},
        "network": {"width": 32, "multipliers": (1, 1, 2), "blocks": 1, "groups": 8, "attention": (1, 2)},
        "discriminator": {"width": 16},
        "losses": {"w_latent": 1e-6, "w_gan": 0.0},
        "seg": "off",
        "T": 200,
        "schedule": "cosine",
        "param": "x0",
        "steps": 10,
    },
}
