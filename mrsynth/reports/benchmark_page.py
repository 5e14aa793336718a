"""The report of a benchmark: `summary.json`, `report.md` and the self-contained `report.html`. Text, no disk."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from mrsynth.contrasts import WARNINGS, Contrast, contrasts_in
from mrsynth.plain import Plain
from mrsynth.reports.elements import counted
from mrsynth.reports.plots import box_plot
from mrsynth.reports.published import published_blocks
from mrsynth.reports.sections import Block, Bullets, Notice, Paragraph, Picture, Section, Table, as_html, as_markdown
from mrsynth.reports.tables import (
    CONSISTENCY,
    HEADLINE,
    Results,
    label_of,
    named,
    pattern_table,
    resource_table,
    score_table,
    segmentation_table,
    test_table,
)
from mrsynth.scores.published_figures import Published
from mrsynth.scores.rows import BASELINES, Score
from mrsynth.scores.statistics import ANY, paired_tests, summarise, warning_for

SCHEMA_VERSION: Literal[1] = 1
HEADER = "mrsynth benchmark: synthetic images, not for diagnosis"


class BenchmarkRecord(Plain):
    """What was run, and what could not be.

    dataset, title   its name in `mrsynth benchmark --list`, and in words
    split            the part and the hash of the split: `validation@1f3a90c2`
    subjects         that were to be scored
    contrasts        of the data set; empty: those that the rows name
    failures         one per subject or piece of work that failed: `WHAT: why`
    unsupported      one per method, pattern and target that was not tried: `WHAT: why`
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    dataset: str
    title: str
    citation: str
    split: str
    subjects: tuple[str, ...]
    contrasts: tuple[Contrast, ...] = ()
    command: str
    version: str = Field(description="of mrsynth")
    created: AwareDatetime
    options: dict[str, Any] = Field(default_factory=dict)
    failures: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def summary_json(record: BenchmarkRecord, rows: Sequence[Score]) -> str:
    """The record, every mean and every test. Infinite figures are the strings "Infinity" and "-Infinity"."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "record": record.model_dump(mode="json"),
        "warning": warning_for(len({row.subject for row in rows})) if rows else None,
        "summaries": [s._asdict() for s in summarise(rows)],
        "tests": [t._asdict() for t in paired_tests(rows)],
    }
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def report_markdown(record: BenchmarkRecord, rows: Sequence[Score], published: Published) -> str:
    """The report for a terminal or a repository: without pictures, and without the longest tables."""
    return as_markdown(_title(record), _sections(record, Results(rows, record.contrasts), published, {}, plots=False))


def headline(rows: Sequence[Score], contrasts: Sequence[Contrast]) -> str:
    """PSNR and SSIM of every protocol, as Markdown for a terminal: the first thing to look at."""
    results = Results(rows, contrasts)
    tables = [score_table(results, p, HEADLINE, f"Protocol {p}") for p in results.protocols]
    warning = warning_for(results.subjects) if rows else "There is no score: nothing was finished."
    blocks: list[Block] = [table for table in tables if table is not None]
    return as_markdown("Scores", [Section("Means over subjects", [*blocks, *([Notice(warning)] if warning else [])])])


def report_html(
    record: BenchmarkRecord, rows: Sequence[Score], published: Published, pictures: Mapping[str, bytes]
) -> str:
    """The whole report in one file.

    pictures   caption -> PNG, in the order shown: worst, median and best of each method
    """
    sections = _sections(record, Results(rows, record.contrasts), published, pictures, plots=True)
    return as_html(_title(record), HEADER, sections)


def _sections(
    record: BenchmarkRecord, results: Results, published: Published, pictures: Mapping[str, bytes], *, plots: bool
) -> list[Section]:
    sections = [
        Section("What was run", _run(record, results)),
        Section("Scores", _scores(results)),
        Section("Tests between methods", _tests(results)),
        Section("Distributions", _plots(results) if plots else []),
        Section("Pictures", _pictures(pictures)),
        Section("Segmentation with synthetic contrasts", _segmentation(results)),
        Section("Consistency from slice to slice", _consistency(results)),
        Section("Time and memory", [table] if (table := resource_table(results)) else []),
        Section(f"Failures ({len(record.failures)})", _failures(record.failures)),
        Section(f"Not supported ({len(record.unsupported)})", _unsupported(record.unsupported)),
        Section("Published figures, not comparable with ours", published_blocks(record.dataset, results, published)),
    ]
    return [section for section in sections if section.blocks]


# The sections, from top to bottom ------------------------------------------------------------------------------------


def _run(record: BenchmarkRecord, results: Results) -> list[Block]:
    scored = {row.subject for row in results.rows}
    count = counted(len(record.subjects), "subject")
    facts: dict[str, str] = {
        "Data set": f"{record.title} ({record.dataset})",
        "Citation": record.citation,
        "Split": record.split,
        "Subjects": f"{count}, {len(scored)} with scores",
        "Contrasts": ", ".join(c.label for c in results.contrasts),
        "Methods": ", ".join(map(named, results.methods)),
        "Protocols": ", ".join(results.protocols),
        "mrsynth": f"{record.version}, {record.created.isoformat(timespec='seconds')}",
        "Command": record.command,
    }
    blocks: list[Block] = [Table([], [[name, fact] for name, fact in facts.items() if fact])]
    for contrast, text in WARNINGS.items():
        if contrast in results.made or any(contrast in contrasts_in(row.target) for row in results.segmentations):
            blocks.append(Notice(text, grave=True))
    if not results.rows:
        blocks.append(Notice("There is no score: nothing was finished."))
    elif warning := warning_for(results.subjects):
        blocks.append(Notice(warning))
    blocks += [Notice(note) for note in record.notes] if len(record.notes) <= 3 else [Bullets(record.notes)]
    if record.subjects:
        blocks.append(Bullets(record.subjects, f"Subjects ({len(record.subjects)})"))
    if record.options:
        options = [[name, "" if value is None else str(value)] for name, value in record.options.items()]
        blocks.append(Table(["Option", "Value"], options, "Options", folded=True, page_only=True))
    return blocks


def _scores(results: Results) -> list[Block]:
    blocks: list[Block] = []
    for protocol in results.protocols:
        shown = [m for m in results.metrics(protocol) if m in HEADLINE]
        others = [m for m in results.metrics(protocol) if m not in (*HEADLINE, CONSISTENCY)]
        tables = [
            score_table(results, protocol, shown, f"Protocol {protocol}"),
            score_table(results, protocol, others, f"Protocol {protocol}, other metrics", folded=True, page_only=True),
        ]
        for metric in shown:
            tables += [pattern_table(results, protocol, region, metric) for region in results.regions(protocol, metric)]
        blocks += [table for table in tables if table is not None]
    if not blocks:
        return []
    interval = "in brackets the 95 % bootstrap interval of the mean over subjects, from 6 subjects on"
    if warning_for(results.subjects):
        interval = "no intervals, since there are too few subjects (summary.json has them all the same)"
    patterns = ""
    if any(not results.one_missing(pattern) for pattern, _ in results.all_pairs):
        patterns = (
            " 'Mean of all patterns' averages each subject over whatever the method made of it: methods that made "
            "different pairs of pattern and contrast cannot be compared there, only in the tests."
        )
    text = (
        f"Means over subjects, {interval}; in bold the best mean of those beside it, be the difference ever so small. "
        "What a protocol does is in docs/protocols.md; figures of two protocols are not comparable. Infinite values "
        f"are left out of means and counted.{patterns}"
    )
    return [*blocks, Paragraph(text, small=True)]


def _tests(results: Results) -> list[Block]:
    if len(results.methods) < 2:
        return []
    if warning := warning_for(results.subjects):
        return [Notice(f"{warning} None are shown; the differences are in summary.json.")]
    tests = paired_tests([row for row in results.images if row.metric in HEADLINE])
    pooled = [t for t in tests if t.pattern == ANY]
    single = [t for t in tests if t.pattern != ANY and results.one_missing(t.pattern)]
    tables = [
        test_table(pooled, "Over everything that both methods made"),
        test_table(single, "One contrast missing", folded=True, page_only=True),
    ]
    blocks: list[Block] = [table for table in tables if table is not None]
    text = (
        "First method minus second, paired by subject, with the 95 % bootstrap interval of the mean difference; "
        "Wilcoxon signed-rank test, two-sided. Over everything: each subject is averaged over the pairs of pattern and "
        "contrast that both made of it. p (Holm) is corrected within one protocol, region and metric: over the tests "
        "of all patterns, and apart from them over those of this kind. No p value with fewer than 6 common subjects or "
        "when all differences are zero."
    )
    return [*blocks, Paragraph(text, small=True)] if blocks else []


def _plots(results: Results) -> list[Block]:
    blocks: list[Block] = []
    only = any(results.one_missing(pattern) for pattern, _ in results.all_pairs)
    what = "one contrast missing" if only else "mean over the patterns of each subject"
    for protocol in results.protocols:
        for metric in (m for m in results.metrics(protocol) if m in HEADLINE):
            for region in results.regions(protocol, metric):
                groups = _groups(results, (protocol, region, metric), one_missing=only)
                png = box_plot(groups, axis=f"{label_of(metric)}, {region}", baselines=[named(b) for b in BASELINES])
                if png:
                    blocks.append(Picture(f"{label_of(metric)}, {region}, protocol {protocol}; {what}", png))
    if not blocks:
        return []
    text = (
        "One point per subject. Box: quartiles and median; whiskers: the last point within 1.5 times the box. With "
        "fewer than 6 subjects a line at the mean instead. Infinite values are not drawn."
    )
    return [*blocks, Paragraph(text, small=True)]


def _groups(results: Results, place: tuple[str, str, str], *, one_missing: bool) -> dict[str, dict[str, list[float]]]:
    """Contrast -> method -> values, each the mean of one subject."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in results.images:
        if (row.protocol, row.region, row.metric) == place and (results.one_missing(row.pattern) or not one_missing):
            values.setdefault((row.target, row.method), {}).setdefault(row.subject, []).append(row.value)
    return {
        target.label: {
            named(method): [sum(scores) / len(scores) for scores in values[target.value, method].values()]
            for method in results.methods
            if (target.value, method) in values
        }
        for target in results.made
    }


def _pictures(pictures: Mapping[str, bytes]) -> list[Block]:
    if not pictures:
        return []
    text = (
        "Worst, median and best synthesis of each method. Radiological convention: the patient's right is on the left. "
        "The red frame marks what is synthetic."
    )
    return [*(Picture(caption, png) for caption, png in pictures.items()), Paragraph(text, small=True)]


def _segmentation(results: Results) -> list[Block]:
    table = segmentation_table(results)
    if table is None:
        return []
    text = (
        "The same segmentation network with every contrast real, with the missing ones left out, and with synthetic "
        "ones in their place, against the reference segmentation. Dice: 1 is perfect; HD95: smaller is better, and "
        "infinite values (a structure that was missed) are left out of means and counted, which flatters them."
    )
    return [table, Paragraph(text, small=True)]


def _consistency(results: Results) -> list[Block]:
    tables = [score_table(results, protocol, [CONSISTENCY], f"Protocol {protocol}") for protocol in results.protocols]
    blocks: list[Block] = [table for table in tables if table is not None]
    text = (
        "How much more the error changes from slice to slice than within a slice: 1 is even, more is jumpy, less is "
        "smeared across slices. It says nothing of how large the error is. Compare only volumes of like spacing."
    )
    return [*blocks, Paragraph(text, small=True)] if blocks else []


def _failures(failures: Sequence[str]) -> list[Block]:
    return [_by_reason(failures)] if failures else [Paragraph("None.")]


def _unsupported(unsupported: Sequence[str]) -> list[Block]:
    if not unsupported:
        return []
    return [Paragraph("Not tried, because no checkpoint at hand can make it:"), _by_reason(unsupported)]


def _by_reason(lines: Sequence[str]) -> Bullets:
    """`WHAT: why` gathered: those with one reason on one line, with their number."""
    reasons: dict[str, list[str]] = {}
    for line in lines:
        what, _, why = line.partition(": ")
        reasons.setdefault(why, []).append(what)
    items = []
    for why, all_of_it in reasons.items():
        if why and len(all_of_it) > 1:
            items.append(f"{why} ({len(all_of_it)}): {'; '.join(all_of_it)}")
        else:
            items += [f"{one}: {why}" if why else one for one in all_of_it]
    return Bullets(items)


def _plain(value: Any) -> Any:
    """As JSON can hold it: infinite figures as words, not-a-number as nothing."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _title(record: BenchmarkRecord) -> str:
    return f"Benchmark on {record.title}"
