"""The choices and ablations of DFBK, its presets, and which contrast is shifted into which."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from mrsynth.contrasts import Contrast
from mrsynth.diffusion.residual_shift import InputScale, exponential
from mrsynth.errors import UsageError
from mrsynth.methods.base import ChainConfig
from mrsynth.methods.brightness import BrightnessWeight
from mrsynth.methods.dfbk.attention import BandAttentionConfig
from mrsynth.methods.dfbk.network import SwinUNetConfig
from mrsynth.methods.patterns import Shares

BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"

STORED = ("biomedclip", "shuffled", "same")  # kinds of text that an encoder made
OF_STORED = ("order", "encoder", "length", "drop", "fallback")  # options of kg that nothing else reads

# The contrast to begin from: the first of these that is available.
ANCHORS: Mapping[Contrast, tuple[Contrast, ...]] = {
    Contrast.T1: (Contrast.T1CE, Contrast.FLAIR, Contrast.T2),
    Contrast.T1CE: (Contrast.T1, Contrast.FLAIR, Contrast.T2),
    Contrast.T2: (Contrast.FLAIR, Contrast.T1, Contrast.T1CE),
    Contrast.FLAIR: (Contrast.T2, Contrast.T1, Contrast.T1CE),
}


class Pair(NamedTuple):
    """What the network reads and what it makes of it."""

    sources: tuple[Contrast, ...]
    target: Contrast


class GuidanceConfig(BandAttentionConfig):
    """Knowledge guidance: which text, besides the form of its attention.

    text  biomedclip: the stored tokens of each prompt; learned: learnt tokens for each pair of sources and target.
          Controls: shuffled: every pair reads the stored tokens of a pair with another target; same: all pairs read
          those of one sentence; none: all pairs read the same learnt tokens. Without effect when mode is off
    swap  a control at test time: trained with its own, each pair then reads the tokens of a pair with another target
    Where no stored tokens are read, what only they need (OF_STORED) cannot be set.
    """

    FORMER: ClassVar[Mapping[str, Any]] = {"order": "input_first", "swap": False}

    text: Literal["biomedclip", "learned", "shuffled", "same", "none"] = "learned"
    order: Literal["output_first", "input_first"] = Field(
        "output_first", description="of the sentence, which kg.length may cut"
    )
    swap: bool = False
    width: int = Field(768, gt=0, description="of a token")
    count: int = Field(16, gt=0, description="learnt tokens")
    encoder: str = Field(BIOMEDCLIP, description="whose stored tokens are accepted")
    length: int = Field(64, gt=0, description="most stored tokens per prompt")
    drop: float = Field(
        0.1, ge=0, lt=1, description="share of training examples that read learnt tokens in place of stored ones"
    )
    fallback: bool = Field(False, description="without stored tokens read the learnt ones instead of stopping")

    @property
    def stored(self) -> bool:
        """Whether it reads tokens that a text encoder made."""
        return self.text in STORED and bool(self.active)

    @model_validator(mode="after")
    def _fallback_is_trained(self) -> "GuidanceConfig":
        if self.fallback and self.drop == 0:
            raise ValueError("kg.fallback needs kg.drop above 0: what is fallen back on must have been trained")
        if self.swap and not self.active:
            raise ValueError("kg.swap without effect: kg.mode or kg.levels leave no attention that reads a text")
        if self.swap and self.text not in ("biomedclip", "learned"):
            raise ValueError(f"kg.swap with kg.text={self.text} exchanges nothing; use it with biomedclip or learned")
        return self

    @model_validator(mode="after")
    def _what_is_set_is_read(self) -> "GuidanceConfig":
        unread, why, way_out = self.idle(self.text, self.mode, self.levels, self.drop)
        fields = type(self).model_fields
        if given := [f"kg.{name}" for name in unread if getattr(self, name) != fields[name].default]:
            raise ValueError(f"{' and '.join(given)} without effect: {why}; leave it out, or give {way_out}")
        return self

    @classmethod
    def idle(cls, text: str, mode: str, levels: Sequence[int], drop: float) -> tuple[tuple[str, ...], str, str]:
        """The options of the text that have no effect with these, why, and what would give them one."""
        if mode == "off":  # says so itself: an ablation turns off what a preset sets
            return (), "", ""
        if not levels:
            return ("text", *OF_STORED), "kg.levels is empty, so that guidance is off", "kg.levels"
        if text not in STORED:
            return OF_STORED, f"kg.text={text} reads no stored tokens", "kg.text=biomedclip and --tokens"
        return () if drop else ("count",), "kg.drop=0 leaves no learnt tokens", "kg.drop above 0"

    @classmethod
    def from_format_1(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Also: what had no effect could be set then; it is as if it had not been."""
        whole, fields = super().from_format_1(data), cls.model_fields
        said = (whole.get(name, fields[name].default) for name in ("text", "mode", "levels", "drop"))
        return {**whole, **{name: fields[name].default for name in cls.idle(*said)[0] if name in whole}}


class DfbkConfig(ChainConfig):
    """Every choice and ablation of the method; defaults are the paper's where it states one.

    sources  multi: the network sees every available contrast; single: only the one it begins from, as in the paper
    unified  one network for every target; false: only `target`, as in the paper, and only from `source` if there is one
    anchors  for a target, in which order the available contrasts are preferred to begin from; a target that it does
             not name has the order of ANCHORS, and what an order leaves out follows in that of `contrasts`. Not with
             `source`, and not with begin=regression unless sources=single, where nothing reads it
    begin    contrast: that contrast itself; regression: the target as a straight line of all contrasts that the network
             sees, voxel by voxel, fitted when training begins
    shares   of the training examples with 1, 2, and 3 or more missing contrasts; None draws all patterns alike
    chain    a contrast that was made counts as available for the next, in the order of `contrasts`
    predict  what the network's output is: x0, or the residual that is added to the image it begins from
    """

    FORMER: ClassVar[Mapping[str, Any]] = {**ChainConfig.FORMER, "own_share": 0.0, "brightness_weight": 1.0}

    method: Literal["dfbk"] = "dfbk"
    network: SwinUNetConfig = SwinUNetConfig()
    dfb: BandAttentionConfig = BandAttentionConfig(levels=(2, 3, 4))
    kg: GuidanceConfig = GuidanceConfig(levels=(5,))
    sources: Literal["multi", "single"] = "multi"
    unified: bool = True
    source: Contrast | None = None
    target: Contrast | None = None
    anchors: dict[Contrast, tuple[Contrast, ...]] = Field({}, description="what chains begin from")
    begin: Literal["contrast", "regression"] = "contrast"
    shares: Shares | None = None
    chain: bool = False
    T: int = Field(4, gt=1, description="levels of the chain")
    kappa: float = Field(2.0, gt=0, description="strength of the noise")
    p: float = Field(0.3, gt=0, description="how fast sqrt(eta) rises at first")
    m: float = Field(0.2, gt=0, description="sqrt(eta) begins at min(m / kappa, m)")
    E: float = Field(0.99, gt=0, le=1, description="sqrt(eta) ends here")
    inscale: InputScale = Field("pixel", description="what x_t is divided by: 1 + 3 kappa sqrt(eta), or by variance")
    brightness_weight: BrightnessWeight = 1.0
    weighted: bool = Field(False, description="weigh the levels as in eq. 4, the infinite weight as the next")
    predict: Literal["x0", "residual"] = "x0"
    own_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="examples below the last level whose x_t is made from the network's own estimate, as in sampling",
    )
    neighbours: int = Field(0, ge=0, description="slices below and above whose source contrasts the network reads")
    noise: Literal["independent", "shared"] = Field("independent", description="noise fields per slice or per volume")
    sampler: Literal["residual_shift"] = "residual_shift"
    steps: int | None = Field(None, gt=0, description="network calls per contrast; None visits all T levels")

    @model_validator(mode="after")
    def _fits_together(self) -> "DfbkConfig":
        self.network.check("dfb", self.dfb)
        self.network.check("kg", self.kg)
        if self.kg.swap and (not self.unified or self.sources == "single"):
            raise ValueError("kg.swap needs unified=true and sources=multi, else there is no pair to exchange with")
        if both := set(self.dfb.active) & set(self.kg.active):
            raise ValueError(f"levels {sorted(both)} have both dfb and kg; give each level to one of them")
        try:
            exponential(self.T, self.kappa, self.p, self.m, self.E)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _contrasts_are_known(self) -> "DfbkConfig":
        known = set(self.contrasts)
        if self.unified and (self.source or self.target):
            raise ValueError("source and target are for unified=false; a unified network makes every contrast")
        if not self.unified and self.target is None:
            raise ValueError("unified=false needs a target: the contrast to make")
        if self.source == self.target and self.source is not None:
            raise ValueError(f"source and target are both {self.source}")
        if self.chain and self.neighbours:
            raise ValueError("chain with neighbours: the neighbouring slices of a synthetic contrast are not known")
        if not self.unified and self.chain:
            raise ValueError("chain feeds one synthetic contrast into the next; with unified=false there is only one")
        for name in [c for c in (self.source, self.target) if c] + list(self.anchors):
            if name not in known:
                raise ValueError(f"{name} is none of the contrasts {[c.value for c in self.contrasts]}")
        if self.anchors and self.begin == "regression" and self.sources == "multi":
            raise ValueError("anchors without effect: chains begin from a regression of all that the network sees")
        if self.anchors and self.source is not None:
            raise ValueError(f"anchors without effect: chains begin from source {self.source}")
        for target, order in self.anchors.items():
            if not set(order) <= known - {target}:
                raise ValueError(
                    f"anchors of {target}: {[c.value for c in order]} are not all among the other contrasts"
                )
        return self

    @classmethod
    def from_format_1(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Also: anchors that nothing read could be set then."""
        whole = super().from_format_1(data)
        read = whole.get("source") is None and (whole.get("begin") != "regression" or whole.get("sources") == "single")
        return whole if read else {**whole, "anchors": {}}

    @property
    def targets(self) -> tuple[Contrast, ...]:
        """What this network can make."""
        return self.contrasts if self.target is None else (self.target,)

    def anchor_order(self, target: Contrast) -> tuple[Contrast, ...]:
        """Every contrast that `target` may begin from, the preferred first."""
        if self.source is not None:
            return (self.source,)
        preferred = [c for c in self.anchors.get(target, ANCHORS.get(target, ())) if c in self.contrasts]
        return (*preferred, *(c for c in self.contrasts if c not in (*preferred, target)))

    def pairs(self) -> tuple[Pair, ...]:
        """All that may be read and made, target by target: 28 with four contrasts, 12 from single sources."""
        found = []
        for target in self.targets:
            others = [c for c in self.contrasts if c != target]
            sizes = range(1, 1 + (1 if self.sources == "single" else len(others)))
            sets = [chosen for size in sizes for chosen in combinations(others, size)]
            found += [Pair(s, target) for s in sets if self.source is None or self.source in s]
        return tuple(found)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"kg": {"levels": (5,), "text": "biomedclip"}},
    "small": {
        "network": {"width": 64, "multipliers": (1, 1, 2, 2, 4), "swin_levels": (2, 3, 4), "swin_width": 128},
        "dfb": {"levels": (2, 3)},
        "kg": {"levels": (4,)},
    },
    "tiny": {
        "network": {
            "width": 32,
            "multipliers": (1, 1, 2),
            "blocks": 1,
            "groups": 8,
            "swin_levels": (1, 2),
            "swin_width": 32,
            "head_dim": 16,
        },
        "dfb": {"levels": (1,)},
        "kg": {"levels": (2,), "width": 64},
    },
    "ship": {
        "network": {
            "width": 32,
            "multipliers": (1, 2, 3, 4),
            "blocks": 1,
            "up_blocks": 1,
            "groups": 8,
            "swin_levels": (2, 3),
            "swin_width": 64,
            "fold": 2,
            "slim_up": True,
            "input_skip": True,
        },
        "dfb": {"levels": (1, 2)},
        "kg": {"levels": (3,), "width": 128},
        "begin": "regression",
        "shares": (0.5, 0.3, 0.2),
        "predict": "residual",
        "neighbours": 1,
        "noise": "shared",
    },
}
