"""`mrsynth compare RUN_A RUN_B`: two benchmarks, score by score on the people they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mrsynth.contrasts import spelled
from mrsynth.errors import InputError, UsageError
from mrsynth.io.files import write_text
from mrsynth.io.folders import few
from mrsynth.io.reading import LONGEST_TABLE, read_bounded
from mrsynth.reports.elements import Cell, Number, counted
from mrsynth.reports.sections import Bullets, Notice, Paragraph, Passage, Section, Table, as_markdown
from mrsynth.reports.tables import HEADLINE, compared, digits_of, evidence, p_head
from mrsynth.scores.rows import BASELINES, LEFT_OUT, REAL, Score, read_results
from mrsynth.scores.statistics import (
    ANY,
    PairedTest,
    Question,
    corrected,
    examination_of,
    paired_tests,
    person_of,
    question_among,
    warning_for,
)

RESULTS = "results.csv"
NO_COMPETITOR = (*BASELINES, REAL, LEFT_OUT)
EXPLAINED = (
    "Means over the persons in both, each averaged over the examinations that both have. Difference: B minus A, with "
    "its 95 % interval over persons (Student's t, from 6 persons on). To be seen: the true difference "
    "that so many persons show in four of five studies. p: exact Wilcoxon signed-rank test, two-sided."
)
CORRECTED = "The primary question. p (Holm): corrected over the pairs of methods that compete."
EXPLORATORY = "All other questions are exploratory: their p values are not corrected for how many there are."


@dataclass(frozen=True)
class Line:
    """One comparison.

    method_a, method_b   the methods of the two runs; the same one, unless each run has only one competitor
    test                 B minus A: its `method_a` is that of run B
    """

    method_a: str
    method_b: str
    test: PairedTest


@dataclass(frozen=True)
class Comparison:
    """What two runs say of each other.

    lines            one per pair of methods, pattern, target, protocol, region and metric; those with ANY as pattern
                     and target are over all that both runs made of a person
    notes            whatever makes this less than a comparison of like with like
    subjects         with a score in both, and how many persons they are
    only_a, only_b   subjects that one run has alone
    """

    name_a: str
    name_b: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    subjects: tuple[str, ...]
    persons: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def text(self) -> str:
        """As Markdown, what is over everything first."""
        counts = (
            f"Subjects in both: {len(self.subjects)}, of {counted(self.persons, 'person')}; only in A: "
            f"{len(self.only_a)}; only in B: {len(self.only_b)}."
        )
        passages: list[Passage] = [Paragraph(f"A: {self.name_a}"), Paragraph(f"B: {self.name_b}"), Paragraph(counts)]
        if warning := warning_for(self.persons):
            passages.append(Notice(warning))
        if self.notes:
            passages.append(Bullets(self.notes))
        primary = [line for line in self.lines if line.test.primary]
        pooled = [line for line in self.lines if line.test.pattern == ANY and not line.test.primary]
        single = [line for line in self.lines if line.test.pattern != ANY]
        sections = [
            Section("What was compared", passages),
            *([Section("The primary question", [_table(primary), Paragraph(CORRECTED)])] if primary else []),
            Section("Over everything that both have", [_table(pooled), Paragraph(EXPLAINED), Paragraph(EXPLORATORY)]),
            Section("By pattern and contrast", [_table(single)]),
        ]
        return as_markdown("Comparison of two benchmarks", sections)


def compare(run_a: Path, run_b: Path) -> Comparison:
    """Compare two run folders, or their `results.csv`.

    Rows match on subject, pattern, target, protocol, region, metric and method. Two runs without a common competitor
    that have one each (a method that is no baseline) are compared by these.
    Raises InputError when a table is missing, of another version or empty, or when no row of one matches one of the
    other; UsageError when there is no telling which methods to compare.
    """
    a, b = _read(run_a), _read(run_b)
    pairs = _pairs_of_methods(run_a, a, run_b, b)
    lines: list[Line] = []
    for method_a, method_b in pairs:
        first = [row.model_copy(update={"method": "A"}) for row in a if row.method == method_a]
        second = [row.model_copy(update={"method": "B"}) for row in b if row.method == method_b]
        tests = paired_tests([*second, *first], None)
        lines += [Line(method_a, method_b, test) for test in tests]
    if not lines:
        raise InputError(
            f"{run_a} and {run_b} have no score in common: nothing was measured on the same subject, pattern, "
            f"contrast, protocol, region and metric.\n{_held(run_a, a)}\n{_held(run_b, b)}"
        )
    in_a, in_b = ({examination_of(row): row for row in rows} for rows in (a, b))
    both = [in_a[key] for key in in_a if key in in_b]
    return Comparison(
        name_a=str(run_a),
        name_b=str(run_b),
        lines=tuple(sorted(_answered(lines, _question(a, b)), key=_place)),
        notes=tuple(_notes(a, b, pairs)),
        subjects=tuple(sorted(row.subject for row in both)),
        persons=len({person_of(row) for row in both}),
        only_a=tuple(sorted(row.subject for key, row in in_a.items() if key not in in_b)),
        only_b=tuple(sorted(row.subject for key, row in in_b.items() if key not in in_a)),
    )


def _question(a: Sequence[Score], b: Sequence[Score]) -> Question | None:
    """The primary one, by the protocols of images that both have."""
    images = [{row.protocol: 0 for row in rows if row.method not in (REAL, LEFT_OUT)} for rows in (a, b)]
    common = [protocol for protocol in images[0] if protocol in images[1]]
    return question_among(common) if common else None


def _answered(lines: Sequence[Line], question: Question | None) -> list[Line]:
    """The lines with those of the primary question corrected as one family; baselines compete with nobody."""
    family = [i for i, line in enumerate(lines) if line.method_a not in NO_COMPETITOR]
    done = list(lines)
    for i, test in zip(family, corrected([lines[i].test for i in family], question), strict=True):
        done[i] = replace(lines[i], test=test)
    return done


def write(comparison: Comparison, path: Path) -> None:
    """Write the text of a comparison. Raises OutputError."""
    write_text(path, comparison.text())


# Reading and matching ------------------------------------------------------------------------------------------------


def _read(run: Path) -> list[Score]:
    file = run / RESULTS if run.is_dir() else run
    try:
        rows = read_results(read_bounded(file, LONGEST_TABLE).decode(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Cannot read {file}: {error}. Expected the folder of a `mrsynth benchmark`, or its {RESULTS}."
        ) from error
    if not rows:
        raise InputError(f"{file} holds no score: nothing was finished in that run. Go on with it by --resume.")
    return rows


def _pairs_of_methods(run_a: Path, a: Sequence[Score], run_b: Path, b: Sequence[Score]) -> list[tuple[str, str]]:
    """Common methods with themselves; without a common competitor, the only one of each run, and what is common."""
    in_a, in_b = (list(dict.fromkeys(row.method for row in rows)) for rows in (a, b))
    own_a, own_b = ([method for method in methods if method not in NO_COMPETITOR] for methods in (in_a, in_b))
    common = [(method, method) for method in in_a if method in in_b]
    if any(method in own_b for method in own_a) or (common and not own_a and not own_b):
        return common
    if len(own_a) == len(own_b) == 1:
        return [(own_a[0], own_b[0]), *common]
    raise UsageError(
        "There is no telling which methods to compare: the runs share none, and do not have exactly one each.\n"
        f"{_held(run_a, a)}\n{_held(run_b, b)}"
    )


def _held(run: Path, rows: Sequence[Score]) -> str:
    methods, protocols = (
        ", ".join(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("method", "protocol")
    )
    subjects = sorted({row.subject for row in rows})
    return f"{run} holds methods {methods}; protocols {protocols}; subjects {few(subjects, 4)}."


def _notes(a: Sequence[Score], b: Sequence[Score], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """What differs between the rows that are compared; for splits only the hash counts, which follows the @."""
    notes = []
    values: dict[str, Callable[[Score], str]] = {
        "data sets": lambda row: row.dataset,
        "splits (hash)": lambda row: row.split.split("@")[-1],
        "seeds": lambda row: str(row.seed),
        "protocols": lambda row: row.protocol,
    }
    for what, value in values.items():
        in_a, in_b = (list(dict.fromkeys(value(row) for row in rows)) for rows in (a, b))
        if set(in_a) != set(in_b):
            more = "; only common ones were compared" if what == "protocols" else ""
            notes.append(f"Different {what}: A {', '.join(in_a)}; B {', '.join(in_b)}{more}.")
    alike = {row.subject for row in a} & {row.subject for row in b}
    people = [{row.subject: person_of(row) for row in rows} for rows in (a, b)]
    if others := sorted(name for name in alike if people[0][name] != people[1][name]):
        notes.append(f"Of the same name, but other people or other files, so not compared: {few(others, 4)}.")
    for method_a, method_b in pairs:
        if method_a != method_b:
            notes.append(f"Different methods: {method_a} in A against {method_b} in B.")
        for what in ("weights", "mode", "steps", "samples"):
            in_a, in_b = _settings(a, method_a, what), _settings(b, method_b, what)
            if in_a != in_b and in_a and in_b:
                notes.append(f"Different {what} of {method_b}: A {', '.join(in_a)}; B {', '.join(in_b)}.")
    for name, rows, used in (("A", a, {m for m, _ in pairs}), ("B", b, {m for _, m in pairs})):
        if others := [method for method in dict.fromkeys(row.method for row in rows) if method not in used]:
            notes.append(f"Not compared, only in {name}: {', '.join(others)}.")
    return notes


def _settings(rows: Sequence[Score], method: str, what: str) -> list[str]:
    found = {getattr(row, what) for row in rows if row.method == method}
    return sorted(str(value) for value in found if value not in (None, ""))


# The table -----------------------------------------------------------------------------------------------------------


def _place(line: Line) -> tuple[bool, int]:
    """The metrics of headlines first; beyond that the order of the rows stays."""
    return line.test.metric not in HEADLINE, HEADLINE.index(line.test.metric) if line.test.metric in HEADLINE else 0


def _table(lines: Sequence[Line]) -> Table:
    rows: list[list[Cell]] = []
    for line in lines:
        t, digits = line.test, digits_of(line.test.metric)
        method = line.method_a if line.method_a == line.method_b else f"{line.method_a} / {line.method_b}"
        what = "everything" if t.pattern == ANY else f"{spelled(t.target)} from {spelled(t.pattern)}"
        rows.append(
            [
                *(method, t.protocol, t.region, compared(t.metric), what),
                Number(str(t.n)),
                *(Number("infinite" if mean is None else format(mean, digits)) for mean in (t.mean_b, t.mean_a)),
                *evidence(t),
            ]
        )
    p = p_head(line.test for line in lines)
    head = ["Method", "Protocol", "Region", "Metric", "What", "Persons", "A", "B", "B - A [95 %]", "To be seen", p]
    return Table(head, rows)
