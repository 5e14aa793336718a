"""What a checkpoint says of itself: the plain data that the manifest, the file header and the report share."""

import math
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from mrsynth.contrasts import Contrast, pattern_name
from mrsynth.plain import Plain
from mrsynth.sampling import AXIAL, Planes
from mrsynth.scores.rows import Score

LONGEST_NAME = 200
MEDIAN = "median"  # of a committee's brightness


class DataSource(Plain):
    """One data set a checkpoint was trained on."""

    name: str
    licence: str
    citation: str
    subjects: int = Field(ge=0)


class Card(Plain):
    """Everything about a checkpoint that can be known without loading its tensors.

    requires   target -> the inputs it needs at least; None when any non-empty subset of `contrasts` will do
    intensity  contrast -> normalised histogram (fractions, sum 1) of brain voxels of the training data over u in [0, 1]
    subjects   contrast -> training subjects that had it, once each; none is neither made nor read. None: not recorded
    scores     means over validation subjects
    sampling   how to sample unless told otherwise: the default `mode`, all `modes`, sampler and steps of mode sample
               (mrsynth/sampling.py). Files of 0.1.0 name no mode: {"sampler": "ddim", "steps": 1, "samples": 4}
    planes     those whose slices it learnt from: mode mean can make a volume from the slices of each, and take the mean
    """

    name: str
    method: str
    contrasts: tuple[Contrast, ...]
    requires: dict[Contrast, tuple[Contrast, ...]] | None = None
    licence: str
    subjects: dict[Contrast, int] | None = None
    sampling: dict[str, Any] = Field({})
    planes: Planes = AXIAL
    training_data: tuple[DataSource, ...] = ()
    run_file: str | None = None
    iterations: int = 0
    scores: tuple[Score, ...] = ()
    intensity: dict[Contrast, tuple[float, ...]] = Field({})
    note: str = ""

    @field_validator("name", "method")
    @classmethod
    def _printable(cls, text: str) -> str:
        if not text or not text.isprintable() or len(text) > LONGEST_NAME:  # half a surrogate is not printable either
            raise ValueError(f"should be a name of at most {LONGEST_NAME} printable characters")
        return text

    @field_validator("intensity")
    @classmethod
    def _histograms(cls, shares: dict[Contrast, tuple[float, ...]]) -> dict[Contrast, tuple[float, ...]]:
        for contrast, histogram in shares.items():
            if not histogram or not all(math.isfinite(share) and share >= 0 for share in histogram):
                raise ValueError(f"the histogram of {contrast} should hold finite fractions, at least one")
        return shares

    @property
    def learnt(self) -> tuple[Contrast, ...]:
        """The contrasts that some training subject had: what can be made, and what may be read."""
        return tuple(c for c in self.contrasts if self.subjects is None or self.subjects.get(c, 0))

    @property
    def unlearnt(self) -> tuple[Contrast, ...]:
        """The contrasts that no training subject had: the network never saw them, so they are not read."""
        return tuple(c for c in self.contrasts if c not in self.learnt)

    @property
    def learnt_from(self) -> int:
        """How many subjects it was trained on; 0 where it does not say."""
        return sum(source.subjects for source in self.training_data)

    def supports(self, available: frozenset[Contrast] | set[Contrast], target: Contrast) -> bool:
        """Whether this checkpoint can make `target` from exactly the contrasts at hand."""
        if target not in self.learnt or target in available or not available & set(self.learnt):
            return False
        if self.requires is None:
            return True
        return target in self.requires and set(self.requires[target]) <= available

    @property
    def ability(self) -> str:
        """What it makes from what, in words: `t1ce from t1+t2+flair`."""
        if self.requires is None:
            never = f" (it was trained without any {', '.join(self.unlearnt)})" if self.unlearnt else ""
            return f"any of {', '.join(self.learnt)} from one or more of the others{never}"
        return ", ".join(f"{target} from {pattern_name(inputs)}" for target, inputs in self.requires.items())


class Member(Plain):
    """One checkpoint of a committee: its name in the manifest, and how it takes part.

    weight   of its image beside those of the others
    planes   of the slices that its image is made from
    """

    name: str
    weight: float = Field(1.0, gt=0)
    planes: Planes = AXIAL


class Committee(Plain):
    """Several checkpoints whose images are brought to one brightness and averaged (mrsynth/methods/committee.py).

    members      in order; for each case those that can make it
    brightness   whose mean and standard deviation in the brain all are given: those of a member, by its name (or the
                 first that takes part, where it does not), or the median over the members
    """

    members: tuple[Member, ...] = Field(min_length=2)
    brightness: str = MEDIAN

    @property
    def leader(self) -> int:
        """Which member's grid the images meet on: that which gives the brightness, else the first."""
        return next((n for n, member in enumerate(self.members) if member.name == self.brightness), 0)

    @model_validator(mode="after")
    def _of_its_own(self) -> Self:
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            raise ValueError("each member should be named once")
        if self.brightness not in (MEDIAN, *names):
            raise ValueError(f"brightness {self.brightness!r}: expected {MEDIAN}, or one of {', '.join(names)}")
        return self


class ErrorFile(Plain):
    """The small network that says how far a committee's images are likely to be wrong (mrsynth/methods/error_map.py).

    file     under mrsynth/weights/, with its sha256 and size in bytes
    """

    file: str
    sha256: str
    size: int


class AuthorsFigure(Plain):
    """What the authors of published weights say that these reach; no measurement of ours, and not comparable with one.

    value      of the metric, over whole volumes unless the protocol says other
    protocol   data, scaling, region and steps, as far as known, in words
    source     where it stands, and whether it was read there
    """

    target: Contrast
    metric: str
    value: float
    protocol: str
    source: str


class ManifestEntry(Card):
    """A card and where its file is: `file` beside the package's weights, or `repository` and `pattern` on a hub; or,
    without a file of its own, the `committee` of other entries that it is.

    error_map     of a committee: with it an error map is written
    cpu_seconds   processor time that a brain at 1 mm takes, as the checkpoint is used unless told otherwise
    """

    file: str | None = None
    repository: str | None = None
    pattern: str | None = None
    sha256: str | None = None
    size: int | None = None
    committee: Committee | None = None
    error_map: ErrorFile | None = None
    cpu_seconds: float | None = Field(None, gt=0)
    published: tuple[AuthorsFigure, ...] = ()
