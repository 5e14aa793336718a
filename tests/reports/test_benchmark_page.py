"""The report of a benchmark: known tables, well-formed self-contained pages, nothing of ours beside a published row."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from mrsynth.contrasts import STANDARD, T1CE_WARNING
from mrsynth.reports.benchmark_page import BenchmarkRecord, headline, report_html, report_markdown, summary_json
from mrsynth.reports.sections import plain
from mrsynth.reports.tables import Results, score_table
from mrsynth.reports.viewer import SubjectPicture
from mrsynth.scores.published_figures import Conduct, PublishedFigures, PublishedRow, Source
from tests.reports.benchmark_figures import NASTY, column, every_pattern, texts

PNG = b"\x89PNG\r\n\x1a\nnot a picture"
PICTURE = {"worst": SubjectPicture(PNG)}


def record(**more) -> BenchmarkRecord:
    fields = {
        "dataset": "brats21",
        "title": "BraTS 2021",
        "citation": "Baid et al. 2021",
        "split": "test@0000000a",
        "subjects": ("s00", "s01"),
        "contrasts": STANDARD,
        "command": "mrsynth benchmark --dataset brats21",
        "version": "0.1.0",
        "question": ("full3d", "volume", "PSNR"),
        "created": datetime(2026, 11, 21, tzinfo=UTC),
    }
    return BenchmarkRecord(**fields | more)


def published(**more) -> PublishedFigures:
    row = {"method": "RivalNet", "paper": "p", "dataset": "brats20", "release": "BraTS 2020", "inputs": "t1+t2+flair"}
    row |= {"target": "t1ce", "metric": "PSNR", "value": 31.875, "seen": "secondary"}
    return PublishedFigures(
        schema_version=1,
        collected="2026-11-20",
        protocols={"theirs": Conduct(text="slices of 192"), "code": Conduct(text="as in the code", nearest="cwdm")},
        remarks=("compare nothing",),
        sources={"p": Source(title="A paper", address="https://example.org/p")},
        rows=(PublishedRow(**row | more), PublishedRow(**row | {"inputs": "pd", "target": "t2", "value": 12.125})),
    )


class Page(HTMLParser):
    """Tags that close in the order they opened; the cells of every table; every attribute."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[str]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag in ("td", "th"):
            self.tables[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1] += data

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _, _ in self.attributes}


def test_the_best_mean_is_that_over_the_cases_that_all_solved():
    """cwdm fails the hard one, and has the higher mean of its own cases."""
    rows = column([31, 31, 10]) + column([30, 30], method="cwdm")
    ours, cwdm = texts(score_table(Results(rows, STANDARD), "full3d", ["PSNR"], ""))
    text = report_markdown(record(), rows, published())

    assert (ours[3], cwdm[3]) == ("*31.00 (n = 2)", "30.00 (n = 2)")
    assert "1 figures of cases of which cwdm has no score" in text
    assert "| cwdm | 2.00 |  | 1 of 3 | 3 |" in text


# Reports -------------------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_complete_and_needs_nothing_from_outside():
    rows = every_pattern() + column([1.2, 1.1], metric="CONSISTENCY")
    rows += column([0.5, 0.6], metric="DICE", protocol="segmentation", region="WT")
    text = report_html(
        record(failures=("s09: torn",), unsupported=("cwdm from t1",)),
        rows,
        published(),
        PICTURE,
    )
    page = Page(text)

    assert T1CE_WARNING in page.text
    assert "n = 2 persons: too few for intervals and tests" in page.text
    for heading in (
        "Verdict",
        "What was run",
        "Scores",
        "The primary question",
        "Other differences, exploratory",
        "Distributions",
        "Pictures",
        "Segmentation",
        "Consistency from slice to slice",
        "Time and memory",
        "Failures (1)",
        "Not supported (1)",
        "Published figures",
    ):
        assert f"<h2>{heading}" in text
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert len(sources) == 4  # two box plots, a line for each person and a montage
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in text and "@import" not in text


@pytest.mark.parametrize("place", ["title", "citation", "command", "split"])
def test_hostile_texts_stay_text(place):
    rows = column([20, 21], method=NASTY, weights=NASTY) + column([20, 21], region=NASTY)
    nasty = record(**{place: NASTY}, notes=(NASTY,), failures=(NASTY,), unsupported=(NASTY,), options={NASTY: NASTY})
    page = Page(report_html(nasty, rows, published(method=NASTY, note=NASTY), {NASTY: SubjectPicture(PNG)}))
    text = report_markdown(nasty, rows, published(method=NASTY, note=NASTY))

    assert "script" not in page.tags
    assert page.text.count("<script>x</script>") >= 6
    assert "<script" not in text and not re.search(r"(?<!\\)\]\(", text)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert tables
    for block in blocks:  # a bar in a name makes no column
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_markdown_escapes_marks_and_nothing_else():
    assert plain("< 0.001 [1.2, 3.4] BraTS_01 a & b") == "< 0.001 [1.2, 3.4] BraTS_01 a & b"
    assert plain("*b* |c| `d` _e_\n[f](g) <h> &lt;") == r"\*b\* \|c\| \`d\` \_e\_ [f\](g) &lt;h> &amp;lt;"


def test_nothing_of_ours_stands_beside_a_published_figure():
    rows = every_pattern()
    page = Page(report_html(record(), rows, published(), {}))
    text = report_markdown(record(), rows, published())
    mine = {"fgc2f", "cwdm", "copy (baseline)", "regression (baseline)"}

    tables = page.tables + [re.split(r" ?\| ?", block) for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    theirs = [table for table in tables if "RivalNet" in table]
    assert len(theirs) == 2  # one in the page, one in the Markdown
    for table in theirs:
        assert not mine & set(table)
        assert "31.875" in table and "secondary, unverified" in table and "unknown" in table
    assert "12.125" not in page.text  # other inputs, another contrast


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"protocol": "theirs"}, "theirs: differs from all of ours"),
        ({"protocol": "code"}, "code: not one of ours; nearest is cwdm"),
        ({}, "unknown"),
    ],
)
def test_the_protocol_of_a_published_figure_is_set_against_ours(row, said):
    page = Page(report_html(record(), column([20, 21]), published(**row), {}))
    (table,) = [table for table in page.tables if "RivalNet" in table]

    assert any(said in cell for cell in table)


def test_two_figures_of_one_metric_never_share_a_cell():
    collection = published()
    row = collection.rows[0]
    twice = collection.model_copy(update={"rows": (row, row.model_copy(update={"value": 29.5}))})
    text = report_markdown(record(), column([20, 21]), twice)

    assert "| 31.875 |" in text and "| 29.5 |" in text


def test_seconds_say_of_what_and_on_what_and_dice_what_was_segmented():
    seconds = published(metric="SECONDS", value=2.5, per="slice", hardware="one A100")
    text = report_markdown(record(), column([20, 21]), seconds)

    assert "seconds a slice, hardware: one A100" in text
    for metric in ("SECONDS", "DICE"):
        with pytest.raises(ValueError, match="SECONDS say per what"):
            published(metric=metric, value=0.5)


def test_the_collection_of_the_package_can_be_shown():
    from mrsynth.io.published_figures import read_published

    text = report_markdown(record(), column([20, 21]), read_published())
    (table,) = re.findall(r"^\| Published method.*\n(?:^\|.*\n)+", text, re.MULTILINE)

    assert "| FgC2F-UDiff | BraTS 2021 | 5 folds, 7:1:2 | T1ce | T1+T2+FLAIR | 28.52 ± 1.38 | 0.942 ± 0.011 |" in table
    assert "26.8 |" in table and "in the paper's abstract" in table
    assert "MPAD" not in table  # on another family of data sets
    assert "more published figures on this family of data sets: other inputs or contrasts." in text


def test_the_terminal_says_first_why_a_regression_wins_on_phantoms():
    lines = headline(column([20, 21], dataset="phantom"), STANDARD).splitlines()

    assert lines[:4] == ["# Scores", "", "## Means over persons", ""] and "Here a regression wins" in lines[4]
    assert "regression wins" not in headline(column([20, 21]), STANDARD)


def test_the_first_line_on_phantoms_says_why_a_regression_wins_there():
    text = report_markdown(record(dataset="phantom"), column([20, 21], dataset="phantom"), published())

    assert text.split("## Verdict")[1].strip().startswith("> **Phantoms are functions of three tissues")
    assert "Phantoms are" not in report_markdown(record(), column([20, 21]), published())


def test_data_sets_without_published_figures_say_so():
    rows = column([20, 21], dataset="phantom")

    assert "None are known for the data set 'phantom'." in report_markdown(record(dataset="phantom"), rows, published())


def test_tests_are_shown_from_six_subjects_on():
    rows = column(np.arange(8) + 21) + column(np.arange(8) + 20.5, method="cwdm")
    text = report_markdown(record(), rows, published())

    assert "too few" not in text
    line = "| full3d | volume | PSNR (dB) | all that both made | fgc2f - cwdm | 8 | +0.50 [0.50, 0.50] | 0.00 | 0.008 |"
    assert line in text
    assert text.index("## The primary question") < text.index(line) < text.index("## Other differences, exploratory")
    assert "p (Holm)" in text


def test_too_few_persons_for_so_many_tests_are_told():
    """Six methods are 15 tests: with eight persons none can fall below 0.05."""
    rows = [r for i in range(6) for r in column(np.arange(8) + i, method=f"m{i}")]
    text = report_markdown(record(question=("full3d", "volume", "PSNR")), rows, published())

    assert (
        "With 8 persons none of 15 tests can fall below 0.05 after the correction: the least p is 0.12. 10 persons"
        in text
    )


def test_a_question_that_was_not_measured_is_said_to_be_unanswered():
    text = report_markdown(
        record(question=("cwdm", "volume", "PSNR")), column([1] * 6) + column([2] * 6, method="x"), published()
    )

    assert "Not answered: PSNR (dB), volume, protocol cwdm" in text


def test_a_run_with_failures_only_is_still_a_report():
    """No row, no picture: what failed is what there is to say."""
    nothing = record(failures=("s00: torn", "s01: torn"))
    page = Page(report_html(nothing, [], published(), {}))

    assert "nothing was finished" in page.text
    assert "torn (2): s00; s01" in page.text
    assert "Failures (2)" in report_markdown(nothing, [], published())
    assert json.loads(summary_json(nothing, []))["summaries"] == []


def test_one_subject_has_a_report_without_intervals():
    text = report_markdown(record(), column([20]) + column([21], method="cwdm"), published())

    assert "n = 1: there is no interval and no test" in text
    assert re.search(r"\| cwdm \| \*\*21\.00\*\* \|", text)


def test_a_t1ce_is_warned_of_only_where_one_was_made():
    assert T1CE_WARNING in report_markdown(record(), column([20]), published())
    other = column([20], target="flair", pattern="t1+t1ce+t2")
    assert T1CE_WARNING not in report_markdown(record(), other, published())
    both = column([0.5], metric="DICE", protocol="segmentation", pattern="t1+t2", target="t1ce+flair")
    assert T1CE_WARNING in report_markdown(record(), both, published())


def test_summary_is_plain_json_with_every_mean_and_test():
    rows = column([20, 30, np.inf]) + column([np.inf] * 3, method="cwdm")
    text = summary_json(record(options={"x": float("nan")}), rows)
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    assert content["schema_version"] == 1
    assert content["warning"].startswith("n = 3 persons: too few")
    assert {s["low"] for s in content["summaries"]} == {None}  # none below six persons, here either
    assert BenchmarkRecord.model_validate(content["record"] | {"options": {}}) == record()
    assert content["record"]["options"] == {"x": None}
    one = next(s for s in content["summaries"] if (s["method"], s["pattern"]) == ("fgc2f", "t1+t2+flair"))
    assert (one["mean"], one["best"], one["infinite"], one["n"]) == (25, "Infinity", 1, 3)
    assert content["tests"][0]["method_b"] == "cwdm"


def test_the_plots_drop_nobody_whom_the_tables_keep():
    """One infinite case of two: the table keeps the person by the other, and 0.1.0 drew none of him."""
    from mrsynth.reports.benchmark_page import _groups

    rows = [*column([20, 30]), *column([np.inf], pattern="t1"), *column([25, 31], method="cwdm")]
    results = Results(rows, STANDARD)
    groups = _groups(results, ("full3d", "volume", "PSNR"), one_missing=False)

    assert len(groups["T1ce"]["fgc2f"]) == 2 and np.isfinite(groups["T1ce"]["fgc2f"]).all()
