"""The index of a batch: a row a subject, what needs looking at first, to sort, mark and take along."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from mrsynth.reports.elements import counted, render

FAR = 2.0  # robust deviations of the self-check below the batch's middle that make a subject stand out


def index_html(records: Sequence[Mapping[str, Any]], left_out: Sequence[str]) -> str:
    """One self-contained page; it links to the reports beside it and to nothing else.

    records   rows of a batch's journal: subject, status, reason, made, weights, score, warnings, seconds, thumbnail
    left_out  folders in which no subject was found, and why
    """
    rows = [dict(record, outlier=stands_out(record, records)) for record in records]
    rows.sort(key=lambda r: (RANK[r["status"]], not r["outlier"], -len(r["warnings"]), r["score"] or 0, r["subject"]))
    numbers = {status: sum(r["status"] == status for r in records) for status in RANK}
    said = [
        f"{counted(numbers['done'], 'subject')} done",
        f"{numbers['complete']} lacked nothing",
        f"{numbers['failed']} failed",
    ]
    return render("index.html", title="Batch of mrsynth", rows=rows, said=", ".join(said) + ".", left_out=left_out)


RANK = {"failed": 0, "done": 1, "complete": 2}


def stands_out(record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether its self-check is far below those of the others: by the median and the median distance from it."""
    scores = [r["score"] for r in records if r["score"] is not None]
    if record["score"] is None or len(scores) < 4:
        return False
    middle = median(scores)
    usual = median(abs(score - middle) for score in scores)
    return bool(record["score"] < middle - FAR * max(1.4826 * usual, 0.1))
