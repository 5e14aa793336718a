"""A model card says what manifest, data sets and scores say, and nothing that is not so."""

import pytest

from mrsynth.card import AuthorsFigure, Card, Committee, DataSource, ManifestEntry, Member
from mrsynth.contrasts import STANDARD, pattern_name
from mrsynth.io.data_sources import data_facts, known_data
from mrsynth.io.store import manifest
from mrsynth.reports.model_card import card_facts, card_page, failures
from mrsynth.scores.rows import Score
from runs.measure.cards import CARDS, pages

T1, T1CE, T2, FLAIR = STANDARD
UPENN = DataSource(name="UPENN-GBM", licence="CC BY 4.0", citation="Bakas", subjects=4)
OTHER = DataSource(name="A | B", licence="CC0", citation="none", subjects=7)


def score(target, value, metric):
    pattern = pattern_name([c for c in STANDARD if c is not target])
    fields = {"region": "brain", "protocol": "brain3d", "subjects": 3}
    return Score(pattern=pattern, target=target, value=value, metric=metric, **fields)


def entry(**more):
    return ManifestEntry(
        name="a", method="fgc2f", contrasts=STANDARD, licence="X", training_data=(UPENN, OTHER), **more
    )


def test_what_is_known_of_the_data_is_told_and_the_rest_is_said_to_be_unknown():
    card = entry()
    page = card_page(card, known_data(card))

    assert "UPENN-GBM: adults with glioblastoma before surgery" in card_facts(card, known_data(card))["population"]
    assert "| UPENN-GBM | 4 | adults with glioblastoma before surgery |" in page
    assert "| A \\| B | 7 | not known | not known | not known | CC0 | none |" in page
    assert "It learnt from 11 subjects, which are few" in page


def test_a_card_of_one_target_compares_it_with_no_other():
    one = entry(scores=(score(T2, 16.0, "PSNR"), score(T2, 18.0, "PSNR_FIT")))

    assert {"Its T2 has 18.0 dB brain PSNR after a straight-line fit."} <= set(failures(one))
    assert {"Scale and offset cost 2.0 dB: judge brightness least."} <= set(failures(one))


def test_phantoms_are_no_subjects():
    phantoms = DataSource(name="mrsynth phantoms of our own", licence="CC0", citation="none", subjects=8)
    card = entry().model_copy(update={"training_data": (UPENN, phantoms)})

    (told,) = [text for text in failures(card) if "which are few" in text]
    assert told.startswith("It learnt from 4 subjects and 8 phantoms, which are few")


def test_failures_are_read_from_the_scores():
    values = {T1: (17.0, 20.0), T1CE: (18.0, 18.5), T2: (15.0, 16.0), FLAIR: (19.0, 19.5)}
    scores = [score(t, v, m) for t, pair in values.items() for v, m in zip(pair, ("PSNR", "PSNR_FIT"), strict=True)]
    told = " ".join(failures(entry(scores=tuple(scores))))

    assert "T2 is made worst: 16.0 dB" in told
    assert "Scale and offset cost 1.2 dB on average, most in T1 (3.0 dB)" in told
    assert "Nobody measured it" not in told and "Nobody measured it" in " ".join(failures(entry()))


def test_authors_figures_are_said_to_be_theirs():
    figure = AuthorsFigure(target=T1, metric="PSNR", value=29.74, protocol="whole volumes", source="their Table 1")
    page = card_page(entry(published=(figure,)), {})

    assert "no measurement of ours" in page and "| T1 | PSNR | 29.74 | whole volumes | their Table 1 |" in page


def test_a_committee_lists_its_members():
    rule = Committee(members=[Member(name="x", weight=2), Member(name="y")], brightness="x")
    page = card_page(entry(committee=rule), {})

    assert "| x | 2 |\n| y | 1 |" in page and "brightness of x" in page
    median = card_page(entry(committee=rule.model_copy(update={"brightness": "median"})), {})
    assert "All get the median brightness." in median


def test_a_card_from_a_file_has_a_page_too():
    page = card_page(Card(name="mine", method="fgc2f", contrasts=STANDARD, licence="X"), {})

    assert page.startswith("# mine\n") and "Not recorded." in page and "None of ours." in page


def test_every_data_set_of_the_manifest_is_known():
    for card in manifest():
        assert set(known_data(card)) == {source.name for source in card.training_data}
    assert all(len(facts.contrasts) > 1 for facts in data_facts()), "or nothing could be learnt from it"


@pytest.mark.parametrize("name", [*(f"{e.name}.md" for e in manifest()), "README.md"])
def test_the_pages_are_those_of_the_manifest(name):
    """Otherwise: python runs/measure/cards.py"""
    assert (CARDS / name).read_text(encoding="utf-8") == pages()[name]


def test_no_page_is_left_of_a_checkpoint_that_is_gone():
    assert {path.name for path in CARDS.glob("*.md")} == set(pages())
