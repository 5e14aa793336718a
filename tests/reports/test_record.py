"""The report: schema, JSON and CSV, words, and a page that is well-formed and escapes what it shows."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from pydantic import ValidationError

from mrsynth.contrasts import T1CE_WARNING
from mrsynth.reports.record import (
    SYNTHETIC_NOTICE,
    OutputRecord,
    Report,
    SamplerRecord,
    WeightsRecord,
    metrics_csv,
    report_json,
    sidecar_json,
)
from mrsynth.reports.subject_page import SubjectPicture, report_html
from tests.reports.made_report import FLAIR, T1, T1CE, T2, made_input, made_report, rows

NASTY = "a <b> & \"c\" 'd'</td><script>x</script>"
PNG = b"\x89PNG\r\n\x1a\nnot a picture"


# Schema, JSON, CSV, sidecar ------------------------------------------------------------------------------------------


def test_json_is_plain_and_reads_back_the_same() -> None:
    report = made_report(scores=rows(T1, "t2", float("inf"), 1.0), warnings=("skull present",))
    text = report_json(report)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    assert Report.model_validate_json(text) == report


@pytest.mark.parametrize("broken", [{"schema_version": 2}, {"colour": "red"}, {"created": "2026-11-21T08:30:00"}])
def test_schema_rejects_what_it_does_not_know(broken: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        made_report(**broken)


def test_notices_follow_from_the_outputs() -> None:
    t1ce = OutputRecord(contrast=T1CE, file="t1ce.nii.gz", sidecar="t1ce.json", sha256="")

    assert made_report().notices == (SYNTHETIC_NOTICE,)
    assert made_report(outputs=(t1ce,), notices=("more",)).notices == (SYNTHETIC_NOTICE, T1CE_WARNING, "more")
    assert made_report(outputs=()).notices == ()


def test_csv_is_one_flat_table() -> None:
    table = list(csv.DictReader(io.StringIO(metrics_csv(made_report(subject="a,b")))))

    assert len(table) == 3
    assert table[0] == {
        "subject": "a,b",
        "pattern": "t2",
        "target": "t1",
        "method": "fgc2f",
        "region": "brain",
        "metric": "PSNR",
        "value": "21.3",
        "protocol": "brain2d",
        "kind": "self-check",
        "seconds": "3.25",
        "seed": "7",
    }


def test_sidecar_says_what_the_file_is() -> None:
    report = made_report()
    text = sidecar_json(
        rule="u = v / q",
        target=T1CE,
        inputs=report.inputs,
        weights=report.weights,
        sampler=report.sampler,
        selection=report.selection,
        software={"torch": "2.13.0"},
        skull_stripped=True,
        warnings=["low µ"],
    )
    sidecar = json.loads(text)

    assert sidecar["synthetic"] is True
    assert sidecar["Synthesized"] is True
    assert sidecar["Target"] == "t1ce"
    assert sidecar["Inputs"][0] == {"contrast": "t1", "file": "case_t1.nii.gz", "sha256": "ab" * 32}
    assert sidecar["Weights"] == {"name": "fgc2f-ship", "sha256": "cd" * 32, "licence": "Apache-2.0"}
    said = {"mode": "draws", "name": "ddim", "steps": 4, "seed": 7, "samples": 2, "noise": "v1: a generator"}
    assert sidecar["Sampler"] == said
    assert sidecar["SkullStripped"] is True
    assert T1CE_WARNING in sidecar["Notices"]
    assert "0 to 1000" in sidecar["IntensityMapping"] and "u = v / q" in sidecar["IntensityMapping"]
    assert "ContrastBolusIngredient" not in sidecar  # no agent was given
    assert "low µ" in text


# Page ----------------------------------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Tags that close in the order they opened, the text outside style, and every attribute."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_page_is_balanced_and_holds_what_was_asked_for() -> None:
    page = Outline(report_html(made_report(), {FLAIR: SubjectPicture(PNG)}))
    order = ["How far to trust it", "Pictures", "Scores", "Warnings", "Inputs and outputs", "How it was made"]
    headings = re.findall("|".join(order), page.text)

    assert page.open == []
    assert "SYNTHETIC" in page.text
    assert headings == [
        "How far to trust it",
        "Pictures",
        "Scores",
        "Warnings",
        "Inputs and outputs",
        "How it was made",
    ]
    assert ("src", "data:image/png;base64,iVBORw0KGgpub3QgYSBwaWN0dXJl") in page.attributes
    assert "quality: rough" in page.text  # validation says 19.8 dB, less than the self-check's 21.3
    assert "21.3" in page.text


def test_page_is_self_contained_and_without_scripts() -> None:
    page = Outline(report_html(made_report(), {FLAIR: SubjectPicture(PNG)}))
    links = [value or "" for name, value in page.attributes if name in {"src", "href"}]

    assert not {"script", "link", "iframe"} & set(page.tags)
    assert all(link.startswith(("data:", "#")) for link in links)


def test_every_text_from_outside_is_escaped() -> None:
    report = made_report(
        subject=NASTY,
        layout=NASTY,
        command=NASTY,
        options={NASTY: NASTY},
        inputs=(made_input(T1, NASTY), made_input(T2)),
        selection=NASTY,
        weights=WeightsRecord(name=NASTY, sha256=NASTY, licence=NASTY, method=NASTY),
        sampler=SamplerRecord(name=NASTY, steps=1, seed=0, precision=NASTY, device=NASTY),
        outputs=(
            OutputRecord(contrast=FLAIR, file=NASTY, mean_file=NASTY, spread_file=NASTY, sidecar=NASTY, sha256=NASTY),
        ),
        scores=rows(T1, "t2", 20.0, 0.8, protocol=NASTY),
        warnings=(NASTY,),
        notices=(NASTY,),
        preparation={"x": {NASTY: [NASTY]}},
        software={NASTY: NASTY},
        timings={NASTY: 1.0},
    )
    page = Outline(report_html(report, {FLAIR: SubjectPicture(PNG)}))

    assert page.open == []
    assert "script" not in page.tags
    assert "b" not in [name for name, _ in page.attributes]
    assert ("alt", "Synthetic FLAIR") in page.attributes
    assert page.text.count(NASTY) > 15


def test_page_without_outputs_or_scores_still_reads() -> None:
    page = Outline(report_html(made_report(outputs=(), scores=(), inputs=(made_input(T1),)), {}))

    assert page.open == []
    assert "Nothing was missing" in page.text
    assert "Nothing was measured" in page.text


def test_warnings_are_pointed_to_from_the_top() -> None:
    page = Outline(report_html(made_report(warnings=("spacing 5 mm", "skull present")), {}))

    assert "2 warnings below" in page.text
    assert ("href", "#warnings") in page.attributes
    assert ("id", "warnings") in page.attributes


def test_score_tables_have_one_line_per_comparison_and_the_first_only_what_matters() -> None:
    page = report_html(made_report(scores=rows(T1, "t2", 21.25, 0.86) + rows(T2, "t1", 19.5, 0.8)), {})
    first, everything = page[page.index("<h2>Scores") : page.index("<h2>Warnings")].split("<details>")

    assert first.count("<tr>") == everything.count("<tr>") == 3
    assert (first.count('<td class="number">'), everything.count('<td class="number">')) == (4, 6)
    assert "6 slices" in first and "after fit" not in first.split("</table>")[0]


def test_the_verdict_comes_first_and_what_must_be_said_of_a_contrast_stands_beside_it_and_its_picture() -> None:
    output = OutputRecord(contrast=T1CE, file="t1ce.nii.gz", sidecar="t1ce.json", sha256="0" * 64)
    text = Outline(report_html(made_report(outputs=(output,)), {T1CE: SubjectPicture(PNG)})).text
    verdict, pictures = text.index("quality:"), text.index("Pictures")

    assert text.index("How far to trust it") < verdict < text.index("Inferred from")
    assert text.count(T1CE_WARNING) == 2
    assert verdict < text.index(T1CE_WARNING) < pictures < text.rindex(T1CE_WARNING) < text.index("Scores")
