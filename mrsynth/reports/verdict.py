"""What a benchmark comes to: which method for which pattern, by how much, and how sure that is."""

from collections.abc import Sequence
from typing import NamedTuple

from mrsynth.contrasts import spelled
from mrsynth.reports.answers import worded
from mrsynth.reports.elements import Cell, Number, counted
from mrsynth.reports.sections import Paragraph, Passage, Table
from mrsynth.reports.tables import Results, compared, digits_of, in_brackets, named, p_text
from mrsynth.scores.inference import ALARM, FEW
from mrsynth.scores.rows import BASELINES
from mrsynth.scores.statistics import ANY, PairedTest, Question, Summary, goodness, mean_of, paired_tests, person_of


class Lead(NamedTuple):
    """The best mean of a pattern and target, and the next.

    ahead      difference of their means over persons, with its interval from FEW persons on: positive, the better
    wins       persons of whom the first is better, of so many
    p          corrected over everything, else exploratory; None with too few persons, and of two baselines
    """

    pattern: str
    target: str
    first: Summary
    second: Summary
    ahead: float | None
    low: float | None
    high: float | None
    wins: int
    persons: int
    p: float | None


def verdict_passages(results: Results, question: Question) -> list[Passage]:
    """One sentence on everything, then a line for each pattern and contrast; by the primary question."""
    own = [row for row in results.images if (row.protocol, row.region, row.metric) == question]
    if not own or len(results.methods) < 2:
        return [
            Paragraph("One method alone: there is nothing to compare." if own else "The question was not measured.")
        ]
    shared = [row for row in results.ground.rows if (row.protocol, row.region, row.metric) == question]
    tests = paired_tests(shared, question)  # as the means: a pair's own common cases may order it the other way
    every = _lead(results, question, tests, ANY, ANY)
    places = [_lead(results, question, tests, *pair) for pair in results.all_pairs]
    leads = [lead for lead in places if lead is not None]
    single = [lead for lead in leads if results.one_missing(lead.pattern)]
    passages: list[Passage] = [Paragraph(_sentence(every, question))] if every else []
    for shown, title, folded in (
        (single or leads, "", False),
        ([] if len(single) in (0, len(leads)) else leads, "Every pattern", True),
    ):
        if shown:
            head = ["Missing", "given", "best", "ahead by", "of", "how sure"]
            passages.append(Table(head, [_row(lead, question) for lead in shown], title, folded, page_only=folded))
    text = (
        f"By the primary question: {worded(question)}. Means over persons, of the cases that all methods have; the "
        "differences of single patterns are exploratory."
    )
    return [*passages, Paragraph(text, small=True)] if passages else [Paragraph("No case was made by two methods.")]


def _lead(results: Results, question: Question, tests: Sequence[PairedTest], pattern: str, target: str) -> Lead | None:
    """None where there are not two methods with a score; over everything, of those that made everything."""
    racing = [m for m in results.methods if pattern != ANY or results.made_all(m, results.all_pairs)]
    found = [s for m in racing if (s := results.of(m, pattern, target, *question)) is not None]
    if len(found) < 2:
        return None
    first, second = sorted(found, key=lambda s: s.goodness, reverse=True)[:2]
    pair = {first.method, second.method}
    test = next(
        (t for t in tests if (t.pattern, t.target) == (pattern, target) and {t.method_a, t.method_b} == pair), None
    )
    by: dict[str, dict[str, list[float]]] = {}
    for row in results.ground.rows:
        if pattern != ANY and (row.pattern, row.target) != (pattern, target):
            continue
        if row.method in pair and (row.protocol, row.region, row.metric) == question:
            by.setdefault(person_of(row), {}).setdefault(row.method, []).append(goodness(row.metric, row.value))
    both = [(mean_of(v[first.method]), mean_of(v[second.method])) for v in by.values() if len(v) == 2]
    wins = sum(a > b for a, b in both)
    ahead, low, high = _ahead(test, first.method, question.metric)
    p = None if test is None else test.p_holm if pattern == ANY else test.p_value
    return Lead(pattern, target, first, second, ahead, low, high, wins, len(both), p)


def _ahead(test: PairedTest | None, first: str, metric: str) -> tuple[float | None, float | None, float | None]:
    """The difference of a test, with its interval, turned so that it says by how much `first` is better."""
    if test is None or test.mean_difference is None:
        return None, None, None
    sign = (1 if goodness(metric, 2.0) > goodness(metric, 1.0) else -1) * (1 if test.method_a == first else -1)
    if test.low is None or test.high is None:
        return sign * test.mean_difference, None, None
    low, high = sorted((sign * test.low, sign * test.high))
    return sign * test.mean_difference, low, high


def _sentence(lead: Lead, question: Question) -> str:
    """`fgc2f is best over everything, 18.71, ahead of cwdm by +0.30 [0.10, 0.50]. ...`"""
    digits = digits_of(question.metric)
    first = named(lead.first.method)
    said = f"{first} is best over all patterns and contrasts, {compared(question.metric)} {lead.first.mean:{digits}}"
    said += f", ahead of {named(lead.second.method)} by {_by(lead, digits)}."
    if lead.first.method in BASELINES:
        said += " No network is better than this baseline."
    if lead.persons < FEW:
        few = f"{counted(lead.persons, 'person')} {'is' if lead.persons == 1 else 'are'} too few for a test"
        return f"{said} How sure: {few}; it is ahead in {lead.wins} of {lead.persons}."
    p = "no p value" if lead.p is None else f"p {p_text(lead.p)} after correction"
    sure = "beyond chance" if lead.p is not None and lead.p < ALARM else "this may be chance"
    return f"{said} How sure: {sure} ({p}); it is ahead in {lead.wins} of {lead.persons} persons."


def _row(lead: Lead, question: Question) -> list[Cell]:
    sure = f"ahead in {lead.wins} of {lead.persons}"
    sure += ", too few for a test" if lead.persons < FEW else f"; p {p_text(lead.p)}" if lead.p is not None else ""
    return [
        spelled(lead.target),
        spelled(lead.pattern),
        named(lead.first.method),
        Number(_by(lead, digits_of(question.metric))),
        named(lead.second.method),
        sure,
    ]


def _by(lead: Lead, digits: str) -> str:
    if lead.ahead is None:
        return "an infinite difference"
    return f"{lead.ahead:+{digits}}{in_brackets(lead.low, lead.high, digits)}"
