"""The report: schema, JSON and CSV, words, and a page that is well-formed and escapes what it shows."""

import csv
import io
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mrsynth.card import Card, DataSource
from mrsynth.contrasts import T1CE_WARNING, Contrast, spelled
from mrsynth.reports.record import (
    SYNTHETIC_NOTICE,
    InputRecord,
    OutputRecord,
    Report,
    SamplerRecord,
    WeightsRecord,
    metrics_csv,
    report_json,
    sidecar_json,
)
from mrsynth.reports.subject_page import SubjectPicture, report_html
from mrsynth.reports.trust import RATINGS, assess, expected_quality, rate
from mrsynth.scores.rows import Score

T1, T1CE, T2, FLAIR = Contrast.T1, Contrast.T1CE, Contrast.T2, Contrast.FLAIR
NASTY = "a <b> & \"c\" 'd'</td><script>x</script>"
PNG = b"\x89PNG\r\n\x1a\nnot a picture"


def made_input(contrast: Contrast, file: str = "") -> InputRecord:
    return InputRecord(
        contrast=contrast,
        file=file or f"case_{contrast}.nii.gz",
        sha256="ab" * 32,
        shape=(240, 240, 155),
        spacing=(1.0, 1.0, 1.0),
        axes="LPS",
    )


def rows(
    target: Contrast, pattern: str, psnr: float, ssim: float, fit: float | None = None, **more: Any
) -> tuple[Score, ...]:
    more = {"kind": "self-check", "slices": (60, 70, 80, 90, 100, 110), "protocol": "brain2d"} | more
    figures: dict[str, float] = {"PSNR": psnr, "SSIM": ssim, "PSNR_FIT": psnr if fit is None else fit}
    return tuple(
        Score(target=target, pattern=pattern, region="brain", metric=metric, value=value, **more)
        for metric, value in figures.items()
    )


def made_report(**changes: Any) -> Report:
    card = Card(
        name="fgc2f-ship",
        method="fgc2f",
        contrasts=(T1, T1CE, T2, FLAIR),
        licence="Apache-2.0",
        training_data=(DataSource(name="open_ms_data", licence="CC BY 4.0", citation="Lesjak 2017", subjects=1),),
        scores=(
            Score(
                pattern="t1+t2", target=FLAIR, region="brain", metric="PSNR", value=19.8, subjects=3, protocol="brain3d"
            ),
        ),
    )
    fields: dict[str, Any] = {
        "version": "0.1.0",
        "created": datetime(2026, 11, 21, 8, 30, tzinfo=UTC),
        "subject": "ms19",
        "layout": "BraTS 2021",
        "options": {"steps": 4, "target": ["flair"]},
        "inputs": (made_input(T1), made_input(T2)),
        "selection": "the only checkpoint that makes FLAIR from T1 and T2",
        "weights": WeightsRecord.of(card, "cd" * 32),
        "sampler": SamplerRecord(name="ddim", steps=4, seed=7, samples=2, precision="fp32", device="cpu"),
        "outputs": (
            OutputRecord(contrast=FLAIR, file="ms19_flair.nii.gz", sidecar="ms19_flair.json", sha256="ef" * 32),
        ),
        "scores": rows(T1, "t2", 21.3, 0.86, seconds=3.25),
        "timings": {"read": 1.5, "synthesise": 60.0},
    }
    return Report(**fields | changes)


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
    assert sidecar["Sampler"] == {"mode": "draws", "name": "ddim", "steps": 4, "seed": 7, "samples": 2}
    assert sidecar["SkullStripped"] is True
    assert T1CE_WARNING in sidecar["Notices"]
    assert "0 to 1000" in sidecar["IntensityMapping"] and "u = v / q" in sidecar["IntensityMapping"]
    assert "ContrastBolusIngredient" not in sidecar  # no agent was given
    assert "low µ" in text


# Words ---------------------------------------------------------------------------------------------------------------


def statement(
    found: Sequence[Score],
    target: Contrast,
    validation: Sequence[Score] = (),
    available: Sequence[Contrast] = (T1, T2),
) -> str:
    """What is said of `target`, made from `available`, after these figures."""
    weights = made_report().weights.model_copy(update={"scores": tuple(validation)})
    inputs = tuple(made_input(contrast) for contrast in available)
    return assess(made_report(scores=tuple(found), weights=weights, inputs=inputs), target).text


def test_the_example_of_the_self_check() -> None:
    said = statement(rows(T1, "t2+flair", 21.3, 0.86), FLAIR, available=(T1, T2))

    assert said.startswith(
        "On this subject, hiding T1 and remaking it from T2+FLAIR gave a brain PSNR of 21.3 dB and SSIM 0.86 on "
        "6 slices: anatomy is usually right; absolute intensity and small lesions are not to be relied on"
    )
    assert "FLAIR itself cannot be checked, since no true FLAIR exists" in said


def test_a_picture_turned_over_is_not_said_to_need_another_window() -> None:
    """The fit gains more than 2 dB in both; only the second is a matter of brightness and contrast."""
    turned, dim = (statement([*rows(T1, "t2", 8.0, 0.1, 14.0), *slope_row(slope)], FLAIR) for slope in (-0.8, 0.4))

    assert "dark where the truth is bright" in turned and "display window corrects" not in turned.replace(
        "no display", ""
    )
    assert "which a display window corrects" in dim


def slope_row(value: float) -> tuple[Score, ...]:
    (row, *_) = rows(T1, "t2", 8.0, 0.1)
    return (row.model_copy(update={"metric": "SLOPE", "value": value}),)


def test_a_single_contrast_cannot_be_self_checked_and_validation_speaks() -> None:
    scores = [
        Score(pattern="t1", target=FLAIR, region="brain", metric="PSNR", value=18.0, subjects=3, protocol="brain3d"),
        Score(pattern="t1+t2", target=FLAIR, region="brain", metric="PSNR", value=25.0, subjects=3, protocol="brain3d"),
        Score(pattern="t1", target=T2, region="brain", metric="PSNR", value=26.0, subjects=3, protocol="brain3d"),
    ]
    said = statement([], FLAIR, validation=scores, available=(T1,))

    assert "T1 is the only contrast" in said
    assert "3 other subjects" in said
    assert "18.0 dB" in said
    assert "25.0" not in said
    assert "26.0" not in said


def test_nothing_known_is_said_to_be_nothing_known() -> None:
    assert "unknown" in statement([], FLAIR, available=(T1, T2))


def test_a_reference_silences_the_guesses() -> None:
    both = rows(FLAIR, "t1+t2", 24.0, 0.9, kind="reference", slices=()) + rows(T1, "t2", 12.0, 0.2)
    said = statement(both, FLAIR, available=(T1, T2))

    assert said.startswith("Against the true FLAIR: a brain PSNR of 24.0 dB and SSIM 0.90.")
    assert "hiding" not in said
    assert "cannot be checked" not in said


def test_a_reference_of_another_contrast_is_no_reference() -> None:
    said = statement(rows(T2, "t1", 30.0, 0.95, kind="reference", slices=()), FLAIR, available=(T1,))

    assert "Against the true" not in said


def test_brightness_is_told_from_anatomy() -> None:
    assert "brightness" in statement(rows(T1, "t2", 20.5, 0.97, fit=28.0), FLAIR, available=(T1, T2))
    assert "brightness" not in statement(rows(T1, "t2", 20.5, 0.97, fit=21.0), FLAIR, available=(T1, T2))


def test_the_verdict_follows_the_worst_figure() -> None:
    mixed = rows(T1, "t2", 27.0, 0.95) + rows(T2, "t1", 15.0, 0.95)
    verdict = assess(made_report(scores=mixed), FLAIR)

    assert verdict.rating is RATINGS[-1]


def test_ratings_rise_with_psnr_and_with_ssim() -> None:
    by_psnr = [RATINGS.index(rate(p)) for p in np.arange(5, 40, 0.5)]
    by_ssim = [RATINGS.index(rate(40, s)) for s in np.arange(0, 1, 0.02)]

    for order in (by_psnr, by_ssim):
        assert order == sorted(order, reverse=True)
        assert set(order) == set(range(len(RATINGS)))


def test_expected_quality_states_the_error_psnr_means() -> None:
    assert "about 10 % of the range" in expected_quality(20.0)
    assert "about 0 % of the range" in expected_quality(float("inf"))


def test_patterns_are_spelled_as_radiologists_do() -> None:
    assert spelled("t1+t1ce+flair") == spelled([T1, T1CE, FLAIR]) == "T1+T1ce+FLAIR"


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
