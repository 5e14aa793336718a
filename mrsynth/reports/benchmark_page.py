"""The report of a benchmark: `summary.json`, `report.md` and the self-contained `report.html`. Text, no disk."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from mrsynth.contrasts import WARNINGS, Contrast, contrasts_in
from mrsynth.plain import Plain
from mrsynth.reports.answers import exploratory_passages, primary_passages, worded
from mrsynth.reports.elements import counted
from mrsynth.reports.plots import box_plot
from mrsynth.reports.published_figures import published_passages
from mrsynth.reports.sections import Bullets, Notice, Paragraph, Passage, Picture, Section, Table, as_html, as_markdown
from mrsynth.reports.tables import (
    CONSISTENCY,
    HEADLINE,
    SHARPNESS,
    Results,
    label_of,
    named,
    pattern_table,
    resource_table,
    score_table,
    segmentation_table,
)
from mrsynth.reports.verdict import verdict_passages
from mrsynth.reports.viewer import SubjectPicture
from mrsynth.scores.published_figures import PublishedFigures
from mrsynth.scores.ranks import ranks
from mrsynth.scores.rows import BASELINES, Score
from mrsynth.scores.statistics import (
    PRIMARY,
    Question,
    mean_of,
    paired_tests,
    person_of,
    summarise,
    warning_for,
)

SCHEMA_VERSION: Literal[1] = 1
OF_PHANTOMS = (
    "Phantoms are functions of three tissues: a voxel tells nearly all, and the baselines were fitted on phantoms of "
    "the same kind, while the networks were made for patients. Here a regression wins, and on scans it does not. This "
    "run shows that everything works, not which method is best."
)
HEADER = "mrsynth benchmark: synthetic images, not for diagnosis"


class BenchmarkRecord(Plain):
    """What was run, and what could not be.

    dataset, title   its name in `mrsynth benchmark --list`, and in words
    split            the part and the hash of the split: `validation@1f3a90c2`
    subjects         that were to be scored
    contrasts        of the data set; empty: those that the rows name
    question         the primary one: protocol, region and metric
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
    question: tuple[str, str, str] = PRIMARY
    command: str
    version: str = Field(description="of mrsynth")
    created: AwareDatetime
    options: dict[str, Any] = Field(default_factory=dict)
    failures: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def summary_json(record: BenchmarkRecord, rows: Sequence[Score]) -> str:
    """The record, every mean, rank and test. Infinite figures are the strings "Infinity" and "-Infinity"."""
    results = Results(rows, record.contrasts)
    question = Question(*record.question)
    content = {
        "schema_version": SCHEMA_VERSION,
        "record": record.model_dump(mode="json"),
        "persons": results.persons,
        "warning": warning_for(results.persons) if rows else None,
        "summaries": [s._asdict() for s in summarise(rows)],
        "equal_ground": {
            "summaries": [s._asdict() for s in summarise(results.ground.rows)],
            "no_score": dict(results.ground.lacking),
            "infinite": dict(results.ground.infinite),
        },
        "ranks": [rank._asdict() for rank in ranks(results.images, question)],
        "tests": [t._asdict() for t in paired_tests(rows, question)],
    }
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def report_markdown(record: BenchmarkRecord, rows: Sequence[Score], published: PublishedFigures) -> str:
    """The report for a terminal or a repository: without pictures, and without the longest tables."""
    return as_markdown(_title(record), _sections(record, Results(rows, record.contrasts), published, {}, plots=False))


def headline(rows: Sequence[Score], contrasts: Sequence[Contrast]) -> str:
    """PSNR and SSIM of every protocol, as Markdown for a terminal: the first thing to look at."""
    results = Results(rows, contrasts)
    tables = [score_table(results, p, HEADLINE, f"Protocol {p}") for p in results.protocols]
    warning = warning_for(results.persons) if rows else "There is no score: nothing was finished."
    passages: list[Passage] = [Notice(OF_PHANTOMS)] if any(row.dataset == "phantom" for row in rows) else []
    passages += [table for table in tables if table is not None]
    return as_markdown("Scores", [Section("Means over persons", [*passages, *([Notice(warning)] if warning else [])])])


def report_html(
    record: BenchmarkRecord, rows: Sequence[Score], published: PublishedFigures, pictures: Mapping[str, SubjectPicture]
) -> str:
    """The whole report in one file.

    pictures   caption -> montage and perhaps viewer, in the order shown: worst, median and best of each method
    """
    sections = _sections(record, Results(rows, record.contrasts), published, pictures, plots=True)
    return as_html(_title(record), HEADER, sections)


def _sections(
    record: BenchmarkRecord,
    results: Results,
    published: PublishedFigures,
    pictures: Mapping[str, SubjectPicture],
    *,
    plots: bool,
) -> list[Section]:
    sections = [
        Section("Verdict", _verdict(record, results)),
        Section("What was run", _run(record, results)),
        Section("Scores", _scores(results)),
        Section("The primary question", primary_passages(results, Question(*record.question), plots=plots)),
        Section("Other differences, exploratory", exploratory_passages(results, Question(*record.question))),
        Section("Distributions", _plots(results) if plots else []),
        Section("Pictures", _pictures(pictures)),
        Section("Segmentation with synthetic contrasts", _segmentation(results)),
        Section("Sharpness", _sharpness(results)),
        Section("Consistency from slice to slice", _consistency(results)),
        Section("Time and memory", [table] if (table := resource_table(results)) else []),
        Section(f"Failures ({len(record.failures)})", _failures(record.failures)),
        Section(f"Not supported ({len(record.unsupported)})", _unsupported(record.unsupported)),
        Section("Published figures, not comparable with ours", published_passages(record.dataset, results, published)),
    ]
    return [section for section in sections if section.passages]


# The sections, from top to bottom ------------------------------------------------------------------------------------


def _verdict(record: BenchmarkRecord, results: Results) -> list[Passage]:
    passages: list[Passage] = [Notice(OF_PHANTOMS)] if record.dataset == "phantom" else []
    if not results.rows:
        return [*passages, Notice("There is no score: nothing was finished.")]
    return [*passages, *verdict_passages(results, Question(*record.question))]


def _run(record: BenchmarkRecord, results: Results) -> list[Passage]:
    scored = {row.subject for row in results.rows}
    count = counted(len(record.subjects), "subject")
    facts: dict[str, str] = {
        "Data set": f"{record.title} ({record.dataset})",
        "Citation": record.citation,
        "Split": record.split,
        "Subjects": f"{count}, {len(scored)} with scores, of {counted(results.persons, 'person')}",
        "Primary question": worded(Question(*record.question)),
        "Contrasts": ", ".join(c.label for c in results.contrasts),
        "Methods": ", ".join(map(named, results.methods)),
        "Protocols": ", ".join(results.protocols),
        "mrsynth": f"{record.version}, {record.created.isoformat(timespec='seconds')}",
        "Command": record.command,
    }
    passages: list[Passage] = [Table([], [[name, fact] for name, fact in facts.items() if fact])]
    for contrast, text in WARNINGS.items():
        if contrast in results.made or any(contrast in contrasts_in(row.target) for row in results.segmentations):
            passages.append(Notice(text, grave=True))
    if results.rows and (warning := warning_for(results.persons)):
        passages.append(Notice(warning))
    passages += [Notice(note) for note in record.notes] if len(record.notes) <= 3 else [Bullets(record.notes)]
    if record.subjects:
        passages.append(Bullets(record.subjects, f"Subjects ({len(record.subjects)})"))
    if record.options:
        options = [[name, "" if value is None else str(value)] for name, value in record.options.items()]
        passages.append(Table(["Option", "Value"], options, "Options", folded=True, page_only=True))
    return passages


def _scores(results: Results) -> list[Passage]:
    passages: list[Passage] = []
    for protocol in results.protocols:
        shown = [m for m in results.metrics(protocol) if m in HEADLINE]
        others = [m for m in results.metrics(protocol) if m not in (*HEADLINE, *SHARPNESS, CONSISTENCY)]
        tables = [
            score_table(results, protocol, shown, f"Protocol {protocol}"),
            score_table(results, protocol, others, f"Protocol {protocol}, other metrics", folded=True, page_only=True),
        ]
        for metric in shown:
            tables += [pattern_table(results, protocol, region, metric) for region in results.regions(protocol, metric)]
        passages += [table for table in tables if table is not None]
    if not passages:
        return []
    interval = "in brackets the 95 % interval of the mean over persons (studentised bootstrap), from 6 persons on"
    if warning_for(results.persons):
        interval = "no intervals, since there are too few persons"
    patterns = ""
    if any(not results.one_missing(pattern) for pattern, _ in results.all_pairs):
        patterns = " 'Mean of all patterns' is given of the methods that made every pair of pattern and contrast."
    text = (
        f"Means over persons, {interval}; in bold the best mean of those beside it, be the difference ever so small. "
        "All figures of a column are over the same cases: those of which every method that tried them has a finite "
        "score. What a protocol does is in docs/protocols.md; figures of two protocols are not comparable."
        f"{patterns}"
    )
    return [*passages, *_left_out(results), Paragraph(text, small=True)]


def _left_out(results: Results) -> list[Passage]:
    """What the means leave out, for all methods alike."""
    items = [f"{n} figures of cases of which {named(m)} has no score" for m, n in results.ground.lacking.items()]
    items += [f"{n} figures that are infinite for {named(m)}" for m, n in results.ground.infinite.items()]
    if not items:
        return []
    return [
        Notice(f"Left out of these means, for all methods alike: {'; '.join(items)}. Ranks count no score as last.")
    ]


def _plots(results: Results) -> list[Passage]:
    passages: list[Passage] = []
    only = any(results.one_missing(pattern) for pattern, _ in results.all_pairs)
    what = "one contrast missing" if only else "mean over the patterns of each person"
    for protocol in results.protocols:
        for metric in (m for m in results.metrics(protocol) if m in HEADLINE):
            for region in results.regions(protocol, metric):
                groups = _groups(results, (protocol, region, metric), one_missing=only)
                png = box_plot(groups, axis=f"{label_of(metric)}, {region}", baselines=[named(b) for b in BASELINES])
                if png:
                    passages.append(Picture(f"{label_of(metric)}, {region}, protocol {protocol}; {what}", png))
    if not passages:
        return []
    text = (
        "One point per person, over the same cases as the tables. Box: quartiles and median; whiskers: the last point "
        "within 1.5 times the box. With fewer than 3 persons a line at the mean instead. Infinite values are not drawn."
    )
    return [*passages, Paragraph(text, small=True)]


def _groups(results: Results, place: tuple[str, str, str], *, one_missing: bool) -> dict[str, dict[str, list[float]]]:
    """Contrast -> method -> values, each the mean of one person."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in results.ground.rows:
        if (row.protocol, row.region, row.metric) == place and (results.one_missing(row.pattern) or not one_missing):
            values.setdefault((row.target, row.method), {}).setdefault(person_of(row), []).append(row.value)
    return {
        target.label: {
            named(method): [mean_of(scores) for scores in values[target.value, method].values()]
            for method in results.methods
            if (target.value, method) in values
        }
        for target in results.made
    }


def _pictures(pictures: Mapping[str, SubjectPicture]) -> list[Passage]:
    if not pictures:
        return []
    text = (
        "Worst, median and best synthesis of each method. Radiological convention: the patient's right is on the left. "
        "The red frame marks what is synthetic."
    )
    if len(viewers := [seen for seen in pictures.values() if seen.viewer]) not in (0, len(pictures)):
        text += f" {len(viewers)} of {len(pictures)} can be scrolled through; with more the page would be too large."
    return [*(Picture(caption, *seen) for caption, seen in pictures.items()), Paragraph(text, small=True)]


def _segmentation(results: Results) -> list[Passage]:
    table = segmentation_table(results)
    if table is None:
        return []
    text = (
        "The same segmentation network with every contrast real, with the missing ones left out, and with synthetic "
        "ones in their place, against the reference segmentation. Dice: 1 is perfect; HD95: smaller is better, and a "
        "structure that was missed, or invented, counts as the diagonal of the volume. Means over persons, with n "
        "where some lack a score."
    )
    return [table, Paragraph(text, small=True)]


def _sharpness(results: Results) -> list[Passage]:
    text = (
        "Gradients within slices after the straight-line fit, deep in the brain. Edges: their mean over that of the "
        "truth; below 1 the image is smoother, and best is 1. Correlation: whether they lie where the truth has them, "
        "so that noise does not pass for sharpness."
    )
    return _by_protocol(results, SHARPNESS, text)


def _consistency(results: Results) -> list[Passage]:
    text = (
        "How much more the error changes from slice to slice than within a slice: 1 is even and best, more is jumpy, "
        "less is smeared across slices; bold is who is nearest to 1, person by person. It says nothing of how large "
        "the error is. Compare only volumes of like spacing."
    )
    return _by_protocol(results, [CONSISTENCY], text)


def _by_protocol(results: Results, metrics: Sequence[str], text: str) -> list[Passage]:
    """A table of these metrics for each protocol that has them, and below them what they mean."""
    tables = [score_table(results, protocol, metrics, f"Protocol {protocol}") for protocol in results.protocols]
    passages: list[Passage] = [table for table in tables if table is not None]
    return [*passages, Paragraph(text, small=True)] if passages else []


def _failures(failures: Sequence[str]) -> list[Passage]:
    return [_by_reason(failures)] if failures else [Paragraph("None.")]


def _unsupported(unsupported: Sequence[str]) -> list[Passage]:
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
