"""The record of one completed subject, and its plain forms: JSON, CSV and the sidecar of each image.

Everything shown anywhere (`trust` for the words, `subject_page` for the HTML, the terminal) is read from a `Report`.
Text only; the tasks write the files.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from mrsynth.card import Card, DataSource
from mrsynth.contrasts import WARNINGS, Contrast
from mrsynth.plain import Plain
from mrsynth.sampling import AXIAL, Plane, usual_mode
from mrsynth.scans.hounsfield import HOUNSFIELD, Window
from mrsynth.scores.rows import Score, csv_text
from mrsynth.texts import in_utf8

if TYPE_CHECKING:
    from mrsynth.scans.alignment import Registration

SCHEMA_VERSION: Literal[1] = 1
Content = Literal["image", "mean", "spread", "error"]
MAPS: tuple[Content, ...] = ("spread", "error")  # of what an image is worth, not images themselves

SYNTHETIC_NOTICE = (
    "These images are SYNTHETIC: a computer inferred them from the other contrasts, no scanner acquired them. "
    "They are for research and not for diagnosis."
)
SPREAD_MAPPING = (
    "The voxel-wise standard deviation over the samples, on the image's own scale: {}. Where it is small the samples "
    "agree, which does not mean that they are right."
)
ERROR_MAPPING = (
    "The voxel-wise absolute error to expect once overall brightness and contrast are right, on the image's own "
    "scale: {}. A small network expects it from what the members of the committee disagree on and from the scans; "
    "1.2533 times it is a standard deviation. It knows the mistakes made in its training data and none of other "
    "kinds: a lesion that no scan shows is missing without a sign."
)
MAPPINGS: Mapping[Content, str] = {"spread": SPREAD_MAPPING, "error": ERROR_MAPPING}
VOLUMES_WARNING = (
    "FROM SYNTHETIC IMAGES: a small segmenter, a weak judge, measured these on images of which a part is synthetic. "
    "They hold nothing that the acquired contrasts do not, are no measurement of this person, and of what enhances "
    "they say nothing where the T1ce is synthetic."
)
MEMBER = {"name", "method", "sha256", "licence", "planes"}
RELATIVE, UNITS = "relative, 0 to 1000", {Contrast.CT: "HU"}


class Record(Plain):
    """Plain data whose infinite figures (the PSNR of equal images) survive JSON, as strings."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, data: Any) -> Any:
        return in_utf8(data)


class RegistrationRecord(Record):
    """How a scan was brought onto another: `scans.alignment.Registration`, as numbers.

    transform  4 x 4, points of the scan `onto` in RAS+ mm -> points of this one
    """

    onto: Contrast
    transform: tuple[tuple[float, ...], ...]
    information: float
    before: float
    mirrored: float
    overlap: float
    angle: float
    shift: float

    @classmethod
    def of(cls, found: "Registration", onto: Contrast) -> "RegistrationRecord":
        """What the report keeps of a registration onto this scan."""
        return cls(**{**vars(found), "onto": onto, "transform": found.transform.tolist()})


class InputRecord(Record):
    """One scan that was read: spacing in mm, axes as nibabel spells them (`LPS`); of the grid that it was used on."""

    contrast: Contrast
    file: str
    sha256: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    axes: str
    registration: RegistrationRecord | None = None
    uri: str | None = Field(None, description="of BIDS, where the results are a derivative")


class OutputRecord(Record):
    """One image that was made, its sidecar, of several samples their mean and spread, and the error to expect.

    brightness   how far overall brightness is likely to be wrong, in the units of the file, where it is known
    """

    contrast: Contrast
    file: str
    mean_file: str | None = None
    spread_file: str | None = None
    error_file: str | None = None
    brightness: float | None = None
    replaces: str | None = Field(None, description="the scan of this contrast that is there, not read and not changed")
    sidecar: str
    sha256: str


class WeightsRecord(Record):
    """The checkpoint: `scores` are what it reached on its validation subjects, `requires` as in `Card`.

    mode      the one that its scores are of; empty in reports that did not say
    members   of a committee: those that made the image, and none otherwise
    planes    of a member: of the slices that its image was made from
    """

    name: str
    sha256: str | None
    licence: str
    method: str
    training_data: tuple[DataSource, ...] = ()
    scores: tuple[Score, ...] = ()
    mode: str = ""
    requires: dict[Contrast, tuple[Contrast, ...]] | None = None
    members: tuple["WeightsRecord", ...] = ()
    planes: tuple[Plane, ...] = AXIAL

    @classmethod
    def of(cls, card: Card, sha256: str | None) -> "WeightsRecord":
        """What the report keeps of a checkpoint's card."""
        return cls(
            name=card.name,
            sha256=sha256,
            licence=card.licence,
            method=card.method,
            training_data=card.training_data,
            scores=card.scores,
            mode=usual_mode(card.sampling),
            requires=card.requires,
        )


# what a sidecar says of a sampler only where it is not as usual
IF_ASKED = {"eta", "variance", "planes", "cycle_spinning"}


class SamplerRecord(Record):
    """How the diffusion process was run backwards."""

    name: str
    steps: int
    seed: int
    samples: int = 1
    precision: str
    device: str
    mode: Literal["mean", "sample", "draws"] = "draws"
    words: str = Field("", description="what such an image is")
    noise: str | None = Field(None, description="version and name of the generator; None where nothing is drawn")
    eta: float | None = Field(None, description="of ddim: noise added at each step, as a share of ddpm's")
    variance: str | None = Field(None, description="of the noise that ddpm adds: posterior or beta")
    planes: tuple[Plane, ...] = Field(AXIAL, description="of the slices; of a committee see its members")
    cycle_spinning: bool = Field(False, description="the mean of what is made on two grids, a voxel apart")


class RegionVolumes(Record):
    """How large a region of a tumour is, in millilitres: see `VolumesRecord`."""

    region: str
    acquired_ml: float
    synthetic_ml: float
    true_ml: float | None = None


class VolumesRecord(Record):
    """Regions by a segmenter that sees the acquired contrasts alone, the synthetic ones too, or true ones instead.

    acquired, synthetic   the contrasts that it read
    """

    segmenter: str
    acquired: tuple[Contrast, ...]
    synthetic: tuple[Contrast, ...]
    regions: tuple[RegionVolumes, ...]
    warning: str = VOLUMES_WARNING


class Report(Record):
    """Everything about one run on one subject. `notices` always holds what must be said of the outputs."""

    schema_version: Literal[1] = SCHEMA_VERSION
    version: str = Field(description="of mrsynth")
    created: AwareDatetime
    subject: str
    layout: str
    command: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    inputs: tuple[InputRecord, ...]
    selection: str = Field(description="why this checkpoint")
    weights: WeightsRecord
    sampler: SamplerRecord
    outputs: tuple[OutputRecord, ...]
    scores: tuple[Score, ...] = ()
    volumes: VolumesRecord | None = None
    warnings: tuple[str, ...] = ()
    notices: tuple[str, ...] = Field(default=(), validate_default=True)
    not_used: dict[str, str] = Field(default_factory=dict, description="image in the subject's folder -> why")
    file_notes: tuple[str, ...] = Field(default=(), description="how files were understood, where that is not plain")
    timings: dict[str, float] = Field(default_factory=dict, description="stage -> seconds")
    preparation: dict[str, Any] = Field(default_factory=dict)
    software: dict[str, str] = Field(default_factory=dict)
    peak_memory_mb: float | None = None

    @field_validator("notices")
    @classmethod
    def _with_what_must_be_said(cls, given: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        outputs: tuple[OutputRecord, ...] = info.data.get("outputs", ())
        return tuple(dict.fromkeys([*notices_for(o.contrast for o in outputs), *given]))

    @property
    def available(self) -> tuple[Contrast, ...]:
        """The contrasts that were read."""
        return tuple(record.contrast for record in self.inputs)


def notices_for(targets: Iterable[Contrast]) -> tuple[str, ...]:
    """What must be said wherever these synthetic contrasts are shown."""
    made = set(targets)
    return (*([SYNTHETIC_NOTICE] if made else []), *(text for contrast, text in WARNINGS.items() if contrast in made))


def report_json(report: Report) -> str:
    """`report.json`; `Report.model_validate_json` reads it back."""
    return report.model_dump_json(indent=2) + "\n"


CSV_COLUMNS = (
    *("subject", "pattern", "target", "method"),
    *("region", "metric", "value", "protocol", "kind", "seconds", "seed"),
)


def metrics_csv(report: Report) -> str:
    """`metrics.csv`: one row per figure, so that the files of many subjects can be put one below the other."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_COLUMNS)
    for row in report.scores:
        seconds = "" if row.seconds is None else f"{row.seconds:.2f}"
        source = (csv_text(report.subject), row.pattern, row.target, csv_text(report.weights.method))
        figure = (row.region, row.metric, f"{row.value:.6g}", row.protocol, row.kind)
        table.writerow([*source, *figure, seconds, report.sampler.seed])
    return text.getvalue()


def intensity_mapping(rule: str, target: Contrast, window: Window = HOUNSFIELD) -> str:
    """What the numbers in a synthetic file mean, given the rule by which the network sees its inputs.

    window   of the checkpoint, for CT
    """
    if target is Contrast.CT:
        return (
            f"Hounsfield units, whole numbers from {window[0]:g} to {window[1]:g}, and {window[0]:g} outside the head "
            "as the available contrasts show it. Inferred, not measured. "
            f"The network sees of every input voxel v: {rule}."
        )
    return (
        f"Relative, 0 to 1000, without a unit. The network sees of every input voxel v: {rule}. The file holds 1000 u, "
        "and exactly 0 outside the foreground (voxels that are non-zero in any available contrast). What 1000 would be "
        "in the scanner's own units is unknown, because this contrast was never acquired."
    )


def _named(member: WeightsRecord) -> dict[str, Any]:
    return member.model_dump(mode="json", include=MEMBER, exclude_defaults=True)


def sidecar_json(
    *,
    target: Contrast,
    inputs: Sequence[InputRecord],
    weights: WeightsRecord,
    sampler: SamplerRecord,
    selection: str,
    software: Mapping[str, str],
    skull_stripped: bool,
    rule: str,
    hounsfield: Window = HOUNSFIELD,
    warnings: Sequence[str] = (),
    not_used: Mapping[str, str] | None = None,
    content: Content = "image",
    replaces: str | None = None,
    volumes: VolumesRecord | None = None,
    brightness: float | None = None,
) -> str:
    """The JSON beside one synthetic NIfTI; BIDS spelling, and `synthetic`, by which mrsynth knows its own files.

    rule        from the inputs' intensities to what the network sees: `Prepared.record["rule"]`
    hounsfield  the window of a synthetic CT
    not_used    images in the subject's folder that were not used, and why
    replaces    the scan of this contrast that is there, and was not read
    content     what the NIfTI holds: the image, or the mean or the spread of several samples
    volumes     of tumour regions, where the image was among what they were measured on
    brightness  as in `OutputRecord`
    """
    is_image = content not in MAPS
    what = {
        "image": f"Synthetic {target.label}",
        "mean": f"Mean of {sampler.samples} samples of the synthetic {target.label}",
        "spread": f"Standard deviation of {sampler.samples} samples of the synthetic {target.label}",
        "error": f"Absolute error to expect of the synthetic {target.label}",
    }[content]
    return (
        json.dumps(
            {
                "synthetic": True,
                "Synthesized": True,
                "Description": f"{what}, made by mrsynth from {', '.join(i.contrast.label for i in inputs)}.",
                "Content": content,
                "Estimator": sampler.words,
                "Target": target.value,
                **({"Replaces": replaces} if replaces else {}),
                **({"Sources": sources} if (sources := [i.uri for i in inputs if i.uri]) else {}),
                "Inputs": [{"contrast": i.contrast.value, "file": i.file, "sha256": i.sha256} for i in inputs],
                "Method": weights.method,
                "Weights": weights.model_dump(mode="json", include={"name", "sha256", "licence"}),
                **({"Members": [_named(member) for member in weights.members]} if weights.members else {}),
                "Sampler": {
                    **sampler.model_dump(mode="json", include={"mode", "name", "steps", "seed", "samples", "noise"}),
                    **sampler.model_dump(mode="json", include=IF_ASKED, exclude_defaults=True),
                },
                "Device": f"{sampler.device}, {sampler.precision}",
                "Software": dict(software),
                **({"Units": UNITS[target]} if target in UNITS else {}),
                "IntensityMapping": intensity_mapping(rule, target, hounsfield)
                if is_image
                else MAPPINGS[content].format(UNITS.get(target, RELATIVE)),
                **({"OverallBrightnessError": round(brightness, 1)} if brightness is not None else {}),
                "SkullStripped": skull_stripped,
                "SelectionReason": selection,
                **({"RegionVolumes": volumes.model_dump(mode="json")} if volumes and content == "image" else {}),
                "Warnings": list(warnings),
                "NotUsed": in_utf8(dict(not_used or {})),
                "Notices": list(notices_for([target])),
            },
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )
