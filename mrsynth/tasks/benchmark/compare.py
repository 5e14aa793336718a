"""`mrsynth compare RUN_A RUN_B`: two benchmarks, score by score on the subjects they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrsynth.contrasts import spelled
from mrsynth.errors import InputError, UsageError
from mrsynth.io.files import write_text
from mrsynth.reports.elements import Cell, Number
from mrsynth.reports.sections import Block, Bullets, Notice, Paragraph, Section, Table, as_markdown
from mrsynth.reports.tables import HEADLINE, METRICS, Print, interval, label_of, p_text, signed
from mrsynth.scores.rows import BASELINES, LEFT_OUT, REAL, Score, read_results
from mrsynth.scores.statistics import ANY, FEW, PairedTest, paired_tests, warning_for

RESULTS = "results.csv"
NO_COMPETITOR = (*BASELINES, REAL, LEFT_OUT)
EXPLAINED = (
    "Means over the subjects in both. Difference: B minus A, paired by subject, with its 95 % bootstrap interval (from "
    "6 subjects on). p: Wilcoxon signed-rank test, two-sided. p (Holm): corrected within one protocol, region, metric "
    "and pair of methods, the lines over everything apart. Infinite values are left out of means and differences, and "
    "counted."
)


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
                     and target are over all that both runs made of a subject
    notes            whatever makes this less than a comparison of like with like
    subjects         with a score in both
    only_a, only_b   subjects that one run has alone
    """

    name_a: str
    name_b: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    subjects: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def text(self) -> str:
        """As Markdown, what is over everything first."""
        counts = (
            f"Subjects in both: {len(self.subjects)}; only in A: {len(self.only_a)}; only in B: {len(self.only_b)}."
        )
        blocks: list[Block] = [Paragraph(f"A: {self.name_a}"), Paragraph(f"B: {self.name_b}"), Paragraph(counts)]
        if warning := warning_for(len(self.subjects)):
            blocks.append(Notice(warning))
        if self.notes:
            blocks.append(Bullets(self.notes))
        single = [line for line in self.lines if line.test.pattern != ANY]
        pooled = [line for line in self.lines if line.test.pattern == ANY]
        sections = [
            Section("What was compared", blocks),
            Section("Over everything that both have", [_table(pooled), Paragraph(EXPLAINED)]),
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
        lines += [Line(method_a, method_b, test) for test in paired_tests([*second, *first])]
    if not lines:
        raise InputError(
            f"{run_a} and {run_b} have no score in common: nothing was measured on the same subject, pattern, "
            f"contrast, protocol, region and metric.\n{_held(run_a, a)}\n{_held(run_b, b)}"
        )
    in_a, in_b = ({row.subject for row in rows} for rows in (a, b))
    return Comparison(
        name_a=str(run_a),
        name_b=str(run_b),
        lines=tuple(sorted(lines, key=_place)),
        notes=tuple(_notes(a, b, pairs)),
        subjects=tuple(sorted(in_a & in_b)),
        only_a=tuple(sorted(in_a - in_b)),
        only_b=tuple(sorted(in_b - in_a)),
    )


def write(comparison: Comparison, path: Path) -> None:
    """Write the text of a comparison. Raises OutputError."""
    write_text(path, comparison.text())


# Reading and matching ------------------------------------------------------------------------------------------------


def _read(run: Path) -> list[Score]:
    file = run / RESULTS if run.is_dir() else run
    try:
        rows = read_results(file.read_text(encoding="utf-8"), str(file))
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
    return f"{run} holds methods {methods}; protocols {protocols}; subjects {_some(subjects)}."


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
    for method_a, method_b in pairs:
        if method_a != method_b:
            notes.append(f"Different methods: {method_a} in A against {method_b} in B.")
        for what in ("weights", "steps", "samples"):
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
        t = line.test
        digits = METRICS.get(t.metric, Print("", ".4g")).digits
        method = line.method_a if line.method_a == line.method_b else f"{line.method_a} / {line.method_b}"
        what = "everything" if t.pattern == ANY else f"{spelled(t.target)} from {spelled(t.pattern)}"
        shown = signed(t.mean_difference, digits)
        if t.n >= FEW:
            shown += interval(t.low, t.high, digits)
        if t.infinite:
            shown += f" (without {t.infinite} infinite)"
        rows.append(
            [
                *(method, t.protocol, t.region, label_of(t.metric), what),
                Number(str(t.n)),
                *(Number("infinite" if mean is None else format(mean, digits)) for mean in (t.mean_b, t.mean_a)),
                Number(shown),
                *(Number(p_text(p)) for p in (t.p_value, t.p_holm)),
            ]
        )
    head = ["Method", "Protocol", "Region", "Metric", "What", "n", "A", "B", "B - A [95 %]", "p", "p (Holm)"]
    return Table(head, rows)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
