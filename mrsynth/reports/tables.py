"""The tables of a benchmark report, from its rows."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from mrsynth.contrasts import Contrast, contrasts_in, pattern_name, spelled
from mrsynth.reports.elements import Cell, Number
from mrsynth.reports.sections import Table
from mrsynth.scores.ranks import Rank
from mrsynth.scores.rows import BASELINES, LEFT_OUT, REAL, Score
from mrsynth.scores.statistics import (
    ANY,
    BEST_AT_ONE,
    PairedTest,
    Summary,
    equal_ground,
    examination_of,
    person_of,
    summarise,
)


class Print(NamedTuple):
    """How a metric is called and printed."""

    label: str
    digits: str


METRICS = {
    "PSNR": Print("PSNR (dB)", ".2f"),
    "PSNR_FIT": Print("PSNR after fit (dB)", ".2f"),
    "SSIM": Print("SSIM", ".3f"),
    "MSE": Print("MSE", ".2g"),
    "MAE": Print("MAE", ".2g"),
    "NMSE": Print("NMSE", ".2g"),
    "CONSISTENCY": Print("slice consistency", ".2f"),
    "SLOPE": Print("slope of the fit", ".2f"),
    "EDGE": Print("edges, of the truth's", ".2f"),
    "EDGE_R": Print("correlation of edges", ".2f"),
    "DICE": Print("Dice", ".3f"),
    "HD95": Print("HD95 (mm)", ".1f"),
}
HEADLINE = ("PSNR", "PSNR_FIT", "SSIM")
SHARPNESS = ("EDGE", "EDGE_R")
OF_SEGMENTATION = ("DICE", "HD95")
CONSISTENCY = "CONSISTENCY"


class Results:
    """The rows of one benchmark, and what the tables ask of them.

    images, segmentations   the rows that compare images, and those of a segmentation
    contrasts               of the data set: a pattern that lacks one of them is a one-missing pattern
    methods                 of the images, those that compete first, then the baselines
    ground                  the image rows on which the methods can be compared, and what is not among them
    """

    def __init__(self, rows: Sequence[Score], contrasts: Sequence[Contrast] = ()):
        """Without `contrasts` they are all that the image rows name."""
        self.rows = list(rows)
        self.images = [row for row in rows if row.metric not in OF_SEGMENTATION]
        self.segmentations = [row for row in rows if row.metric in OF_SEGMENTATION]
        named = {c for row in self.images for c in (*row.given, row.made)} | set(contrasts)
        self.contrasts = tuple(c for c in Contrast if c in named)
        self.methods = _baselines_last(dict.fromkeys(row.method for row in self.images))
        self.persons = len({person_of(row) for row in rows})
        self.protocols = list(dict.fromkeys(row.protocol for row in self.images))
        self.ground = equal_ground(self.images)
        self._of = {_place(s): s for s in summarise([*self.ground.rows, *self.segmentations])}
        few_missing = [row for row in self.ground.rows if self.one_missing(row.pattern)]
        self._means = {_place(s): s for s in summarise(few_missing) if (s.pattern, s.target) == (ANY, ANY)}
        self.pairs: dict[str, set[tuple[str, str]]] = {}
        for row in self.images:
            self.pairs.setdefault(row.method, set()).add((row.pattern, row.target))

    def made_all(self, method: str, pairs: Iterable[tuple[str, str]]) -> bool:
        """Whether a method tried all of these, so that its mean over them compares with that of others."""
        return set(pairs) <= self.pairs[method]

    def one_missing(self, pattern: str) -> bool:
        """Whether the pattern lacks exactly one contrast of the data set."""
        return len(contrasts_in(pattern)) == len(self.contrasts) - 1

    @property
    def made(self) -> list[Contrast]:
        """The contrasts that were made."""
        return [c for c in self.contrasts if any(row.target == c for row in self.images)]

    @property
    def all_pairs(self) -> list[tuple[str, str]]:
        """Every (pattern, target) with an image score, in the order of the tables."""
        return _ordered({pair for pairs in self.pairs.values() for pair in pairs})

    def of(self, method: str, pattern: str, target: str, protocol: str, region: str, metric: str) -> Summary | None:
        """One summary, if there is one; `pattern` and `target` may be ANY."""
        return self._of.get((method, pattern, target, protocol, region, metric))

    def one_missing_mean(self, method: str, protocol: str, region: str, metric: str) -> Summary | None:
        """The mean over the one-missing patterns."""
        return self._means.get((method, ANY, ANY, protocol, region, metric))

    def regions(self, protocol: str, metric: str) -> list[str]:
        """In the order of the rows."""
        wanted = (protocol, metric)
        return list(dict.fromkeys(row.region for row in self.images if (row.protocol, row.metric) == wanted))

    def metrics(self, protocol: str) -> list[str]:
        """What a protocol measured of images."""
        there = {row.metric for row in self.images if row.protocol == protocol}
        return [name for name in METRICS if name in there] + sorted(there - METRICS.keys())


# Scores --------------------------------------------------------------------------------------------------------------


def score_table(results: Results, protocol: str, metrics: Iterable[str], title: str, **layout: bool) -> Table | None:
    """Methods by contrasts made, one line per region, metric and method; None when there is nothing to show.

    Columns: each contrast with only that one missing, their mean, and the mean over all patterns and contrasts. Where
    no pattern lacks only one contrast: each contrast as the mean over the patterns. A mean over several patterns or
    contrasts is given only of methods that made all of them, and every figure only over what all methods have.
    """
    single = [t for t in results.made if any(results.one_missing(p) and q == t for p, q in results.all_pairs)]
    beyond = any(not results.one_missing(pattern) for pattern, _ in results.all_pairs)
    head = ["Region", "Metric", "Method"]
    if single:
        head += [*(f"{t.label} from the others" for t in single), "mean of these"]
    if beyond:
        head += [*([] if single else [f"{t.label}, any pattern" for t in results.made]), "mean of all patterns"]
        head += ["pairs made"]
    lines: list[list[Cell]] = []
    for metric in metrics:
        for region in results.regions(protocol, metric):
            columns = [
                _columns(results, method, (protocol, region, metric), single, beyond) for method in results.methods
            ]
            for method, cells in zip(results.methods, _marked(columns, metric, results), strict=True):
                if any(cell is not None for cell in cells):
                    made = f"{len(results.pairs[method])} of {len(results.all_pairs)}"
                    lines.append([region, label_of(metric), named(method), *cells, *([Number(made)] if beyond else [])])
    return Table(head, lines, title, **layout) if lines else None


def pattern_table(results: Results, protocol: str, region: str, metric: str) -> Table | None:
    """Every pair of pattern and contrast by methods: which is best for which gap. None if no pattern lacks two."""
    pairs = results.all_pairs
    if all(results.one_missing(pattern) for pattern, _ in pairs):
        return None
    lines: list[list[Cell]] = []
    for pattern, target in pairs:
        given = [[results.of(method, pattern, target, protocol, region, metric)] for method in results.methods]
        cells = [cell for (cell,) in _marked(given, metric, results)]
        if any(cell is not None for cell in cells):
            lines.append([spelled(target), spelled(pattern), *cells])
    title = f"{label_of(metric)}, {region}, protocol {protocol}, by pattern"
    head = ["Made", "from", *map(named, results.methods)]
    return Table(head, lines, title, folded=True, page_only=metric != "PSNR") if lines else None


def _columns(
    results: Results, method: str, place: tuple[str, str, str], single: Sequence[Contrast], beyond: bool
) -> list[Summary | None]:
    every = results.all_pairs
    alone = [(pattern_name(c for c in results.contrasts if c is not t), t.value) for t in single]
    cells: list[Summary | None] = []
    if single:
        cells += [results.of(method, *pair, *place) for pair in alone]
        cells.append(results.one_missing_mean(method, *place) if results.made_all(method, alone) else None)
    elif beyond:
        for t in results.made:
            all_of_it = results.made_all(method, [pair for pair in every if pair[1] == t])
            cells.append(results.of(method, ANY, t.value, *place) if all_of_it else None)
    if beyond:
        cells.append(results.of(method, ANY, ANY, *place) if results.made_all(method, every) else None)
    return cells


def _marked(lines: Sequence[Sequence[Summary | None]], metric: str, results: Results) -> list[list[Cell]]:
    """Printed cells, the best of each column marked where two are there: all are over the same cases."""
    printed: list[list[Cell]] = [[score(cell, metric, results.persons) for cell in line] for line in lines]
    for column in range(len(lines[0]) if lines else 0):
        racing = {i: cell for i, line in enumerate(lines) if (cell := line[column]) is not None}
        if len(racing) > 1:
            best = max(cell.goodness for cell in racing.values())
            for i, cell in racing.items():
                shown = printed[i][column]
                if cell.goodness == best and isinstance(shown, Number):
                    printed[i][column] = shown._replace(best=True)
    return printed


# Tests, resources, segmentation --------------------------------------------------------------------------------------


def test_table(tests: Sequence[PairedTest], title: str, **layout: bool) -> Table | None:
    """Differences between two methods with interval, the least that could have been seen, and the p value.

    Of the primary question the p value is the corrected one; of all others it is exploratory.
    """
    lines: list[list[Cell]] = []
    for t in tests:
        what = "all that both made" if t.pattern == ANY else f"{spelled(t.target)} from {spelled(t.pattern)}"
        lines.append(
            [
                *(t.protocol, t.region, compared(t.metric), what),
                f"{named(t.method_a)} - {named(t.method_b)}",
                Number(str(t.n)),
                *evidence(t),
            ]
        )
    head = ["Protocol", "Region", "Metric", "What", "Difference", "Persons", "mean [95 %]", "To be seen", p_head(tests)]
    return Table(head, lines, title, **layout) if lines else None


def rank_table(ranked: Sequence[Rank]) -> Table | None:
    """Who comes first, how often over persons drawn anew, and with how many losses for want of a score."""
    if not ranked:
        return None
    lines: list[list[Cell]] = [
        [
            named(rank.method),
            Number(f"{rank.mean:.2f}"),
            Number("" if rank.first is None else f"{rank.first:.0%}"),
            Number(f"{rank.losses} of {rank.cases}"),
            Number(str(rank.persons)),
        ]
        for rank in ranked
    ]
    return Table(["Method", "Mean rank", "First in", "No score, last rank", "Persons"], lines, "Ranks")


def resource_table(results: Results) -> Table | None:
    """Checkpoints, settings, time and memory per method."""
    lines: list[list[Cell]] = []
    for method in results.methods:
        own = [row for row in results.images if row.method == method]
        runs: dict[tuple[str, str], tuple[float, set[str]]] = {}
        for row in own:
            if row.seconds is not None:
                runs.setdefault((examination_of(row), row.pattern), (row.seconds, set()))[1].add(row.target)
        each = [seconds / len(targets) for seconds, targets in runs.values()]
        memory = [row.peak_memory_mb for row in own if row.peak_memory_mb is not None]
        volumes = {(examination_of(row), row.pattern, row.target) for row in own}
        spread = f"{median(each):.3g} [{min(each):.3g}, {max(each):.3g}]" if each else "not known"
        lines.append(
            [
                named(method),
                ", ".join(dict.fromkeys(row.weights for row in own if row.weights)),
                *(Number(_values(getattr(row, name) for row in own)) for name in ("steps", "samples", "seed")),
                Number(str(len(volumes))),
                Number(spread),
                Number(f"{max(memory):.0f}" if memory else "not known"),
            ]
        )
    head = ["Method", "Checkpoints", "Steps", "Samples", "Seed", "Volumes", "Seconds per volume, median [range]"]
    return Table([*head, "Peak memory (MB)"], lines) if lines else None


def segmentation_table(results: Results) -> Table | None:
    """Dice and HD95 side by side: all inputs real, the missing contrasts left out, and each method's in their place."""
    rows = results.segmentations
    competing = _baselines_last(dict.fromkeys(r.method for r in rows if r.method not in (REAL, LEFT_OUT)))
    columns = [*(name for name in (REAL, LEFT_OUT) if any(row.method == name for row in rows)), *competing]
    cases = _ordered({(row.pattern, row.target) for row in rows if row.method != REAL})
    kinds = list(dict.fromkeys((row.protocol, row.region, row.metric) for row in rows))
    lines: list[list[Cell]] = []
    for pattern, target in cases or [(ANY, ANY)]:
        for metric in OF_SEGMENTATION:
            for kind in [kind for kind in kinds if kind[2] == metric]:
                exact = {name: results.of(name, pattern, target, *kind) for name in columns}
                if REAL in exact:  # needs no pattern: every contrast is real
                    exact[REAL] = exact[REAL] or results.of(REAL, ANY, ANY, *kind)
                made = "nothing" if target == ANY else spelled(target)
                seen = "all" if pattern == ANY else spelled(pattern)
                n = max((cell.n for cell in exact.values() if cell), default=0)
                cells = [score(exact[name], metric, n) for name in columns]
                lines.append([made, seen, kind[1], label_of(metric), Number(str(n)), *cells])
    names = {REAL: "all real", LEFT_OUT: "left out"}
    head = ["Missing", "Given", "Region", "Metric", "n", *(names.get(c, f"made by {named(c)}") for c in columns)]
    return Table(head, lines) if lines else None


# Cells ---------------------------------------------------------------------------------------------------------------


def score(summary: Summary | None, metric: str, persons: int) -> Cell:
    """`27.31 [26.10, 28.52]`: an interval from 6 persons on; how many it rests on where that is not `persons`."""
    if summary is None:
        return None
    digits = digits_of(metric)
    text = "infinite" if np.isinf(summary.mean) else format(summary.mean, digits)
    text += in_brackets(summary.low, summary.high, digits)
    if not np.isfinite(summary.mean):
        return Number(text)
    left_out = f"; {summary.infinite} infinite left out" if summary.infinite else ""
    if summary.counted != persons or left_out:
        text += f" (n = {summary.counted}{left_out})"
    return Number(text)


def evidence(test: PairedTest) -> list[Cell]:
    """Of two methods: the difference, the least that could have been seen, and the p value that counts."""
    digits = digits_of(test.metric)
    return [
        Number(difference(test, digits)),
        Number("" if test.detectable is None else format(test.detectable, digits)),
        Number(p_text(test.p_holm if test.primary else test.p_value)),
    ]


def p_head(tests: Iterable[PairedTest]) -> str:
    """Which p value it is that stands below."""
    return "p (Holm)" if any(test.primary for test in tests) else "p, exploratory"


def difference(test: PairedTest, digits: str) -> str:
    """`+0.52 [0.10, 0.94]`, and on how many persons it rests where some scores are infinite."""
    text = signed(test.mean_difference, digits) + in_brackets(test.low, test.high, digits)
    return text + (f" (n = {test.counted}; {test.infinite} infinite left out)" if test.infinite else "")


def compared(metric: str) -> str:
    """What a difference is of: of a metric that is best at 1 its distance from that."""
    return f"{label_of(metric)}, distance from 1" if metric in BEST_AT_ONE else label_of(metric)


def named(method: str) -> str:
    """The method, and whether it is a baseline."""
    return f"{method} (baseline)" if method in BASELINES else method


def label_of(metric: str) -> str:
    """As in a head: `PSNR (dB)`."""
    return METRICS[metric].label if metric in METRICS else metric


def digits_of(metric: str) -> str:
    """How it is printed: `.2f`."""
    return METRICS[metric].digits if metric in METRICS else ".4g"


def in_brackets(low: float | None, high: float | None, digits: str) -> str:
    """` [26.10, 28.52]`, to be put behind a mean; empty without one."""
    return "" if low is None or high is None else f" [{low:{digits}}, {high:{digits}}]"


def signed(value: float | None, digits: str) -> str:
    """A difference with its sign; None where it is infinite."""
    return "infinite" if value is None else f"{value:+{digits}}"


def p_text(p: float | None) -> str:
    """Three digits; empty where there is no test."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _place(s: Summary) -> tuple[str, ...]:
    return (s.method, s.pattern, s.target, s.protocol, s.region, s.metric)


def _ordered(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """More contrasts given first, then by what was made, then by what was given."""
    order = list(Contrast)

    def place(pair: tuple[str, str]) -> tuple[int, list[int], list[int]]:
        given, made = ([order.index(c) for c in contrasts_in(names)] for names in pair)
        return -len(given), made, given

    return sorted(pairs, key=place)


def _baselines_last(methods: Mapping[str, None]) -> list[str]:
    return [m for m in methods if m not in BASELINES] + [m for m in BASELINES if m in methods]


def _values(found: Iterable[int | None]) -> str:
    return ", ".join(str(value) for value in dict.fromkeys(found) if value is not None)
