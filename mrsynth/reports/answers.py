"""What a benchmark answers: the one question named before it ran, and differences that only suggest the next one."""

from collections.abc import Sequence

from mrsynth.reports.elements import counted
from mrsynth.reports.plots import person_plot
from mrsynth.reports.sections import Notice, Paragraph, Passage, Picture
from mrsynth.reports.tables import HEADLINE, Results, label_of, named, rank_table, test_table
from mrsynth.scores.inference import FEW, least_p, persons_needed
from mrsynth.scores.ranks import ranks
from mrsynth.scores.rows import Score
from mrsynth.scores.statistics import ANY, PairedTest, Question, mean_of, paired_tests, person_of, warning_for


def worded(question: Question) -> str:
    """`PSNR after fit (dB), brain, protocol brain3d, over all that two methods both made`."""
    protocol, region, metric = question
    return f"{label_of(metric)}, {region}, protocol {protocol}, over all that two methods both made"


def primary_passages(results: Results, question: Question, *, plots: bool) -> list[Passage]:
    """The section on the one question whose answer is corrected: differences, ranks, and a line for each person."""
    if len(results.methods) < 2:
        return []
    own = [row for row in results.images if (row.protocol, row.region, row.metric) == question]
    family = [t for t in paired_tests(own, question) if t.primary]
    if not family:
        return [Notice(f"Not answered: {worded(question)} was not measured.")]
    passages: list[Passage] = [Paragraph(f"{worded(question)}.")]
    if warning := warning_for(max(t.n for t in family)):
        return [*passages, Notice(warning), *_table_of_ranks(results, question), *_picture(results, own, plots)]
    passages += [table for table in [test_table(family, "")] if table is not None]
    if shortage := _shortage(family):
        passages.append(Notice(shortage))
    text = (
        "First method minus second, each person averaged over all examinations, patterns and contrasts that both made, "
        "with the 95 % interval of the mean over persons. 'To be seen': the true difference that so many persons "
        "show in four of five studies. p: exact Wilcoxon signed-rank test over persons, two-sided, corrected by Holm "
        f"over the {counted(len(family), 'test')} of this table, all pairs of methods but two baselines. No p value "
        f"with fewer than {FEW} persons or where nothing differs."
    )
    return [*passages, Paragraph(text, small=True), *_table_of_ranks(results, question), *_picture(results, own, plots)]


def _picture(results: Results, own: Sequence[Score], plots: bool) -> list[Passage]:
    lines = _by_person(results, own) if plots else {}
    png = person_plot(lines, axis=label_of(own[0].metric)) if lines else None
    return [Picture("A line for each person: the mean over the cases that all methods have", png)] if png else []


def exploratory_passages(results: Results, question: Question) -> list[Passage]:
    """The section on all other differences, none of them corrected."""
    if len(results.methods) < 2:
        return []
    if warning := warning_for(results.persons):
        return [Notice(f"{warning} The differences are in summary.json.")]
    tests = [
        t for t in paired_tests([row for row in results.images if row.metric in HEADLINE], question) if not t.primary
    ]
    pooled = [t for t in tests if t.pattern == ANY]
    single = [t for t in tests if t.pattern != ANY and results.one_missing(t.pattern)]
    tables = [
        test_table(pooled, "Over everything that both methods made", folded=True),
        test_table(single, "One contrast missing", folded=True, page_only=True),
    ]
    passages: list[Passage] = [table for table in tables if table is not None]
    text = (
        "As above, but with p values that are not corrected for how many there are: of twenty such tests of methods "
        "that do not differ, one is below 0.05. They suggest what to ask next, and answer nothing."
    )
    return [*passages, Paragraph(text, small=True)] if passages else []


def _shortage(family: Sequence[PairedTest]) -> str | None:
    """Whether so few persons cannot reach significance once all tests of the family are corrected for."""
    needed, most = persons_needed(len(family)), max(t.n for t in family)
    if most >= needed:
        return None
    return (
        f"With {most} persons none of {len(family)} tests can fall below 0.05 after the correction: the least p is "
        f"{len(family) * least_p(most):.2g}. {needed} persons are needed, or fewer methods."
    )


def _table_of_ranks(results: Results, question: Question) -> list[Passage]:
    table = rank_table(ranks(results.images, question))
    if table is None:
        return []
    text = (
        "Ranks by the primary question within each case, 1 the best, averaged within a person and over persons, over "
        "the patterns and contrasts that all methods tried; a case without a score is the last rank. 'First in': how "
        "often the mean rank is the best when as many persons are drawn anew, with repetition."
    )
    return [table, Paragraph(text, small=True)]


def _by_person(results: Results, own: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Person -> method -> mean over the cases that all methods have; methods that did not try all are left out."""
    every = {(row.pattern, row.target) for row in own}
    whole = [m for m in results.methods if results.made_all(m, every)]
    values: dict[str, dict[str, list[float]]] = {}
    for row in results.ground.rows:
        if (row.protocol, row.region, row.metric) == (own[0].protocol, own[0].region, own[0].metric):
            values.setdefault(person_of(row), {}).setdefault(named(row.method), []).append(row.value)
    names = [named(m) for m in whole]
    return {p: {m: mean_of(by[m]) for m in names if m in by} for p, by in values.items()} if len(whole) > 1 else {}
