"""The index of a batch: a row a subject, what needs looking at first, to sort, mark and take along."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from mrsynth.reports.elements import counted, render

PICTURES = 2000  # on one page, of those that stand first: a browser shows no more of them quickly
FAR = 2.0  # robust deviations of the self-check below the batch's middle that make a subject stand out


def index_html(records: Sequence[Mapping[str, Any]], left_out: Sequence[str]) -> str:
    """One self-contained page; it links to the reports beside it and to nothing else.

    records   rows of a batch's journal: subject, status, reason, made, weights, score, warnings, seconds, thumbnail;
              and the folder of its report, where that is not the subject's name
    left_out  folders in which no subject was found, and why
    Of more than PICTURES subjects those that stand first are shown with their picture.
    """
    low = far_below(records)
    rows = [dict(record, outlier=record["score"] is not None and record["score"] < low) for record in records]
    rows.sort(key=lambda r: (RANK[r["status"]], not r["outlier"], -len(r["warnings"]), r["score"] or 0, r["subject"]))
    for row in rows[PICTURES:]:
        row["thumbnail"] = ""
    numbers = {status: sum(r["status"] == status for r in records) for status in RANK}
    said = [
        f"{counted(numbers['done'], 'subject')} done",
        f"{numbers['complete']} lacked nothing",
        f"{numbers['failed']} failed",
    ]
    return render("index.html", title="Batch of mrsynth", rows=rows, said=", ".join(said) + ".", left_out=left_out)


RANK = {"failed": 0, "done": 1, "complete": 2}


def far_below(records: Sequence[Mapping[str, Any]]) -> float:
    """The self-check below which one stands out: FAR times the usual distance from the median; of few nobody does."""
    scores = [r["score"] for r in records if r["score"] is not None]
    if len(scores) < 4:
        return -math.inf
    middle = median(scores)
    usual = median(abs(score - middle) for score in scores)
    return float(middle - FAR * max(1.4826 * usual, 0.1))
