"""Figures that others have published: what a row says, and which rows concern a benchmark of ours.

They are shown beside our results in a table of their own and never compared by the program.
"""

from collections.abc import Iterable
from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from mrsynth.plain import Plain

Seen = Literal["abstract", "paper_text", "secondary", "aggregator", "code"]

IN_THE_PAPER: dict[Seen, str] = {"abstract": "in the paper's abstract", "paper_text": "in the paper's text"}
UNVERIFIED = "secondary, unverified"
MEANS = ("any", "mean", "unknown")  # targets that are no single contrast
THREE = "any three"  # inputs of a figure over all contrasts, each left out in turn


class Source(Plain):
    """A paper, or the place where its figures were read; no address where there is no public one."""

    title: str
    address: str = ""


class Conduct(Plain):
    """How the figures of a paper were made, as far as known.

    nearest   the protocol of ours that comes nearest, if one is near; it is never the same
    text      range, region, window and where this is known from
    """

    text: str
    nearest: str | None = None


class PublishedRow(Plain):
    """One published figure; `mrsynth/scores/published_results.yaml` explains the fields.

    dataset    as in `mrsynth benchmark --list`; release: the same in words
    inputs     as in `t1+t2`; 'any three'; 'unknown'
    target     a contrast; 'mean', 'any', 'unknown'
    metric     PSNR (dB), SSIM, MSE, MAE, NMSE, DICE (0 to 1), SECONDS
    per        of SECONDS: what took them; hardware: on what
    segmented  of DICE: what was segmented, and by what
    value      the figure, or the lower end of a range whose other end is `upper`
    deviation  the standard deviation printed with it
    """

    method: str
    paper: str
    via: str | None = None
    dataset: str
    release: str
    split: str = ""
    inputs: str
    target: str
    metric: str
    value: float
    upper: float | None = None
    deviation: float | None = Field(None, ge=0)
    per: Literal["", "slice", "volume"] = ""
    hardware: str = ""
    segmented: str = ""
    region: str = ""
    table: str = ""
    seen: Seen
    protocol: str | None = None
    note: str = ""

    @model_validator(mode="after")
    def _says_of_what(self) -> Self:
        if (self.metric == "SECONDS") != bool(self.per and self.hardware) or (self.metric == "DICE") != bool(
            self.segmented
        ):
            raise ValueError(f"{self.method}: SECONDS say per what and on what hardware, DICE what was segmented")
        return self

    @property
    def circumstances(self) -> str:
        """What a time or a Dice cannot be read without, in words; empty for other figures."""
        if self.metric == "SECONDS":
            return f"seconds a {self.per}, hardware: {self.hardware}"
        return f"segmented: {self.segmented}" if self.metric == "DICE" else ""

    @property
    def how_seen(self) -> str:
        """In words; 'secondary, unverified' unless it was read in the paper itself."""
        return IN_THE_PAPER.get(self.seen, UNVERIFIED)


class PublishedFigures(Plain):
    """The whole collection. `protocols` and `sources` are what the rows name; `remarks` concern all of them."""

    schema_version: Literal[1]
    collected: date
    protocols: dict[str, Conduct]
    remarks: tuple[str, ...]
    sources: dict[str, Source]
    rows: tuple[PublishedRow, ...]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for row in self.rows:
            for key, known in ((row.paper, self.sources), (row.via, self.sources), (row.protocol, self.protocols)):
                if key is not None and key not in known:
                    raise ValueError(f"'{key}' of a row of {row.method} is explained nowhere")
        return self

    def family(self, dataset: str) -> tuple[PublishedRow, ...]:
        """The rows on data sets of the same family: any BraTS for `brats21`. None for `phantom` and `folder`."""
        return tuple(row for row in self.rows if _family(row.dataset) == _family(dataset))

    def concerning(self, dataset: str, pairs: Iterable[tuple[str, str]]) -> tuple[PublishedRow, ...]:
        """Of the family's rows those that made the same contrast from the same ones.

        pairs   (pattern, target) as in result rows: ("t1+t2+flair", "t1ce")

        Figures over all dropped contrasts concern whoever made something from three; those that do not say what was
        made from what concern everybody. Rows on the very same data set come first, then the order of the collection.
        """
        wanted = set(pairs)
        three = any(pattern.count("+") == 2 for pattern, _ in wanted)
        chosen = [
            row
            for row in self.family(dataset)
            if (row.inputs, row.target) in wanted
            or (row.inputs == THREE and row.target in MEANS and three)
            or (row.inputs == "unknown" and row.target == "unknown" and wanted)
        ]
        return tuple(sorted(chosen, key=lambda row: row.dataset != dataset))


def _family(dataset: str) -> str:
    return dataset.rstrip("0123456789")
