"""The one flat table of a benchmark: every report, mean and test is made from rows of this kind."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from pydantic import Field, ValidationError

from mrsynth.errors import InputError
from mrsynth.plain import Plain

SCHEMA = 1  # of a row; results of another schema are never mixed with ours

BASELINES = ("copy", "regression")  # methods without weights that run beside the others
REAL, LEFT_OUT = "real", "left-out"  # segmentation only: all inputs true; the missing contrasts left out


class ResultRow(Plain):
    """One score of one synthetic volume.

    split           the part of the data set the subject is of, and the hash of the split: `validation@1f3a90c2`
    method          a method, one of BASELINES, or REAL or LEFT_OUT in rows of a segmentation
    weights         the checkpoint's name; empty where there is none
    pattern         the available contrasts, as in `t1+t2+flair`
    target          the contrast made; in rows of a segmentation the pattern's missing contrasts, as in `t1ce+t2`
    protocol        fixes normalisation, region, data range, window and reduction: docs/protocols.md
    region          volume, brain, slices, tumour, healthy, WT, TC, ET
    metric          PSNR, PSNR_FIT, SSIM, MSE, MAE, NMSE, CONSISTENCY, DICE, HD95
    value           dB, fractions of the range, mm (HD95); may be infinite (PSNR of equal images)
    seconds         to make all that the pattern lacks, reading and scoring excluded
    peak_memory_mb  of the process (CPU) or the device, while that was done; None where it cannot be known
    """

    dataset: str
    split: str
    subject: str
    method: str
    weights: str = ""
    pattern: str
    target: str
    protocol: str
    region: str
    metric: str
    value: float
    seconds: float | None = Field(None, ge=0)
    peak_memory_mb: float | None = Field(None, ge=0)
    steps: int | None = None
    samples: int | None = None
    seed: int = 0


COLUMNS = tuple(ResultRow.model_fields)


def results_csv(rows: Iterable[ResultRow]) -> str:
    """The table as CSV with a header line; an unknown figure is an empty cell, floats keep every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(["" if value is None else value for value in row.model_dump().values()])
    return text.getvalue()


def read_results(text: str, where: str) -> list[ResultRow]:
    """Rows of a CSV; `where` names it in messages. Raises InputError for a table of another shape, with the line."""
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        found = ", ".join(reader.fieldnames or ()) or "nothing"
        raise InputError(
            f"{where}: expected a table of mrsynth benchmark with the columns {', '.join(COLUMNS)}; found {found}. "
            "It is of another version, or no such table: run the benchmark again."
        )
    rows = []
    for number, cells in enumerate(reader, start=2):
        try:
            rows.append(ResultRow.model_validate({name: _cell(name, text) for name, text in cells.items()}))
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"]))
            raise InputError(f"{where}, line {number}: {place}: {wrong['msg']}. The table is damaged.") from error
    return rows


def _cell(name: str, text: Any) -> Any:
    optional = ResultRow.model_fields[name].default is None
    return None if optional and text == "" else text
