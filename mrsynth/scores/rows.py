"""One figure and what it is of: the row of every table, whether of a benchmark, a report, a card or a training."""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mrsynth.contrasts import Contrast, contrasts_in
from mrsynth.errors import InputError
from mrsynth.plain import Plain

SCHEMA = 2  # of a benchmark's rows; results of another schema are never mixed with ours

BASELINES = ("copy", "regression")  # methods without weights that run beside the others
REAL, LEFT_OUT = "real", "left-out"  # segmentation only: all inputs true; the missing contrasts left out

_BEFORE = re.compile(r"([a-z]+)(_brain)?(_fit)?")  # how 0.1.0 spelt a metric in cards: psnr, psnr_brain, psnr_brain_fit

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would work out


class Score(Plain):
    """One figure of one synthetic volume, or the mean over several.

    pattern         the available contrasts, as in `t1+t2+flair`
    target          the contrast made; in rows of a segmentation the pattern's missing contrasts, as in `t1ce+t2`
    protocol        fixes normalisation, region, data range, window and reduction: docs/protocols.md
    region          volume, brain, slices, tumour, healthy, WT, TC, ET
    metric          PSNR, PSNR_FIT, SSIM, MSE, MAE, NMSE, CONSISTENCY, SLOPE, EDGE, EDGE_R, DICE, HD95
    value           dB, fractions of the range, mm (HD95); may be infinite (PSNR of equal images)

    dataset         as in `mrsynth benchmark --list`
    split           the part of the data set the subject is of, and the hash of the split: `validation@1f3a90c2`
    subject         one examination
    person          who was examined, once or several times; of the data set `folder` with a mark of the files, since
                    two folders may give their subjects the same names
    subjects        how many the value is the mean of
    method          a method, one of BASELINES, or REAL or LEFT_OUT in rows of a segmentation
    weights         the checkpoint's name; empty where there is none; of a committee's self-check those that took part
    mode            mean, sample or draws (docs/modes.md); empty where nothing was synthesised
    kind            of a report: against a true image the program did not see, or against an input that was hidden
    slices          the slices compared, in the model grid; empty for the whole volume
    seconds         to make all that the pattern lacks, reading and scoring excluded
    peak_memory_mb  of the process (CPU) or the device, while that was done; None where it cannot be known

    Written out, what is as by default is left out. Metrics as cards of 0.1.0 spell them (`psnr_brain_fit`) are read.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    pattern: str
    target: str
    protocol: str
    region: str
    metric: str
    value: float
    dataset: str = ""
    split: str = ""
    subject: str = ""
    person: str = ""
    subjects: int = Field(1, gt=0)
    method: str = ""
    weights: str = ""
    mode: Literal["", "mean", "sample", "draws"] = ""
    kind: Literal["", "reference", "self-check"] = ""
    slices: tuple[int, ...] = ()
    seconds: float | None = Field(None, ge=0)
    peak_memory_mb: float | None = Field(None, ge=0)
    steps: int | None = None
    samples: int | None = None
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _spelt_before(cls, data: Any) -> Any:
        match = _BEFORE.fullmatch(str(data.get("metric"))) if isinstance(data, dict) else None
        if match is None:
            return data
        region = "brain" if match[2] else "volume"
        return {"region": region, **data, "metric": (match[1] + (match[3] or "")).upper()}

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {name: value for name, value in handler(self).items() if getattr(self, name) != fields[name].default}

    @property
    def made(self) -> Contrast:
        """The target of an image score, as a contrast."""
        return Contrast(self.target)

    @property
    def given(self) -> tuple[Contrast, ...]:
        """The contrasts of the pattern."""
        return contrasts_in(self.pattern)


COLUMNS = (  # of results.csv
    *("dataset", "split", "subject", "person", "method", "weights", "mode", "pattern", "target", "protocol"),
    *("region", "metric", "value", "seconds", "peak_memory_mb", "steps", "samples", "seed"),
)


def results_csv(rows: Iterable[Score]) -> str:
    """The table as CSV with a header line; an unknown figure is an empty cell, floats keep every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = [getattr(row, name) for name in COLUMNS]
        writer.writerow(["" if value is None else csv_text(value) for value in values])
    return text.getvalue()


def csv_text(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text that begins as one does gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in FORMULA else value


def read_results(text: str, where: str) -> list[Score]:
    """Rows of a CSV; `where` names it in messages. Raises InputError for a table of another shape, with the line."""
    reader = csv.DictReader(io.StringIO(text))
    rows = []
    try:
        if tuple(reader.fieldnames or ()) != COLUMNS:
            found = ", ".join(reader.fieldnames or ()) or "nothing"
            raise InputError(
                f"{where}: expected a table of mrsynth benchmark with the columns {', '.join(COLUMNS)}; found "
                f"{found[:200]}. It is of another version, or no such table: run the benchmark again."
            )
        for cells in reader:
            if None in cells or None in cells.values():
                raise csv.Error("another number of cells than columns")
            rows.append(Score.model_validate({name: _cell(name, text) for name, text in cells.items()}))
    except (ValidationError, csv.Error) as error:
        wrong = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise InputError(f"{where}, line {reader.line_num or 1}: {wrong}. The table is damaged.") from error
    return rows


def _cell(name: str, text: Any) -> Any:
    if (
        isinstance(text, str)
        and text[:1] == "'"
        and text[1:2] in FORMULA
        and Score.model_fields[name].annotation is str
    ):
        text = text[1:]
    optional = Score.model_fields[name].default is None
    return None if optional and text == "" else text
