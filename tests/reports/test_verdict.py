"""The verdict of a benchmark: who is first, by how much, and no more certainty than there is."""

import numpy as np
import pytest

from mrsynth.reports.sections import Paragraph, Table
from mrsynth.reports.tables import Results
from mrsynth.reports.verdict import verdict_passages
from mrsynth.scores.statistics import Question
from tests.reports.benchmark_figures import column, every_pattern, texts

PSNR, SHARP = Question("full3d", "volume", "PSNR"), Question("full3d", "volume", "EDGE")


def said(rows, question=PSNR):
    passages = verdict_passages(Results(rows), question)
    return passages[0].text, [texts(passage) for passage in passages if isinstance(passage, Table)]


def test_the_better_method_is_named_with_its_lead_and_what_chance_could_do():
    better, worse = column(np.arange(8) + 21.0), column(np.arange(8) + 20.5, method="cwdm")
    sentence, (table,) = said(worse + better)

    assert sentence.startswith(
        "fgc2f is best over all patterns and contrasts, PSNR (dB) 24.50, ahead of cwdm by +0.50 [0.50, 0.50]."
    )
    assert "How sure: beyond chance (p 0.008 after correction); it is ahead in 8 of 8 persons." in sentence
    assert table == [["T1ce", "T1+T2+FLAIR", "fgc2f", "+0.50 [0.50, 0.50]", "cwdm", "ahead in 8 of 8; p 0.008"]]


def test_what_differs_by_chance_is_said_to():
    noise = np.random.default_rng(0).normal(0, 1, 8)
    sentence, _ = said(column(20 + noise - noise.mean() + 0.01) + column([20.0] * 8, method="cwdm"))

    assert "this may be chance (p" in sentence


def test_with_few_persons_wins_are_counted_and_nothing_is_tested():
    sentence, (table,) = said(column([21.0, 20.0, 23.0]) + column([20.0, 20.5, 20.0], method="regression"))

    assert "3 persons are too few for a test; it is ahead in 2 of 3." in sentence and "p " not in sentence
    assert table[0][3:] == ["+1.17", "regression (baseline)", "ahead in 2 of 3, too few for a test"]
    sentence, _ = said(column([21.0]) + column([22.0], method="regression"))
    assert "No network is better than this baseline." in sentence and "1 person is too few" in sentence


@pytest.mark.parametrize(("good", "bad"), [(0.95, 0.7), (1.1, 1.5)])
def test_of_a_metric_that_is_best_at_one_the_nearer_is_ahead(good, bad):
    rows = column([good] * 3, metric="EDGE") + column([bad] * 3, metric="EDGE", method="cwdm")
    _, (table,) = said(rows, SHARP)

    assert table[0][2] == "fgc2f" and float(table[0][3]) == pytest.approx(
        abs(np.log(bad) - np.log(good)) if bad > 1 else np.log(good / bad), abs=0.01
    )


def test_the_lead_is_of_the_same_cases_as_the_means():
    """Of eight persons a is behind b, of the four that all three methods have it is ahead."""
    a, b = [30.0] * 4 + [10.0] * 4, [29.0] * 4 + [20.0] * 4
    rows = column(a) + column(b, method="cwdm") + column([5.0] * 4, method="dfbk")
    sentence, (table,) = said(rows)

    assert "fgc2f is best" in sentence and "ahead of cwdm by +1.00" in sentence and "4 of 4" in sentence
    assert table[0][3].startswith("+1.00")


def test_the_lead_over_everything_is_of_methods_that_made_everything():
    """cwdm makes four patterns of fourteen: it can lead those and not the whole."""
    rows = [r if r.method != "cwdm" else r.model_copy(update={"value": 99.0}) for r in every_pattern()]
    sentence, (single, every) = said(rows)

    assert sentence.split(" ")[0] in ("copy", "fgc2f", "regression")
    assert len(single) == 4 and {row[2] for row in single} == {"cwdm"}
    assert len(every) == 28


def test_alone_or_not_measured_there_is_no_verdict():
    for rows, question in ((column([1.0]), PSNR), (column([1.0]) + column([2.0], method="x"), SHARP)):
        (passage,) = verdict_passages(Results(rows), question)
        assert isinstance(passage, Paragraph) and (
            "nothing to compare" in passage.text or "not measured" in passage.text
        )
