"""One row type: what is written reads back, and what an older version wrote is understood."""

import csv
import io
import json
from typing import Any

import pytest

from mrsynth.card import Card
from mrsynth.contrasts import Contrast, contrasts_in, pattern_name, patterns, spelled
from mrsynth.scores.protocols import PROTOCOLS
from mrsynth.scores.rows import FORMULA, Score, read_results, results_csv

PLAIN: dict[str, Any] = {
    "pattern": "t1+t2", "target": "flair", "protocol": "brain3d", "region": "brain", "metric": "PSNR", "value": 20.5,
}  # fmt: skip


@pytest.mark.parametrize("value", [20.5, float("inf"), -1e-300])
def test_a_row_comes_back_from_json_and_says_nothing_that_is_by_default(value: float) -> None:
    row = Score(**PLAIN | {"value": value, "slices": (3, 5), "kind": "self-check"})
    text = row.model_dump_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    assert Score.model_validate_json(text) == row
    assert json.loads(text).keys() == PLAIN.keys() | {"slices", "kind"}


@pytest.mark.parametrize(
    ("old", "region", "metric"),
    [
        ("psnr", "volume", "PSNR"),
        ("psnr_brain", "brain", "PSNR"),
        ("psnr_brain_fit", "brain", "PSNR_FIT"),
        ("ssim_brain", "brain", "SSIM"),
    ],
)
def test_the_metrics_of_cards_of_0_1_0_are_understood(old: str, region: str, metric: str) -> None:
    score = {"pattern": "t1+t2", "target": "t1ce", "metric": old, "value": 19.5, "subjects": 3, "protocol": "brain3d"}
    card = Card.model_validate({"name": "x", "method": "m", "contrasts": [], "licence": "l", "scores": [score]})

    assert (card.scores[0].region, card.scores[0].metric, card.scores[0].subjects) == (region, metric, 3)
    assert Card.model_validate_json(card.model_dump_json()) == card


def test_a_pattern_and_its_contrasts_are_two_spellings_of_one_thing() -> None:
    for pattern in [(), *patterns(tuple(Contrast))]:
        assert contrasts_in(pattern_name(pattern)) == pattern
    with pytest.raises(ValueError, match="t3"):
        contrasts_in("t1+t3")
    assert spelled("t1+t1ce+flair") == spelled((Contrast.T1, Contrast.T1CE, Contrast.FLAIR)) == "T1+T1ce+FLAIR"
    assert spelled("any") == "any"


def test_every_protocol_has_its_own_name() -> None:
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tx", "sub-01", "it's", 'a,b\n"c'])
def test_no_spreadsheet_takes_a_name_for_a_formula_and_it_reads_back(name: str) -> None:
    rows = [Score(**PLAIN | {"subject": name, "method": name, "value": -3.5})]
    text = results_csv(rows)

    cells = next(csv.DictReader(io.StringIO(text)))
    assert cells["subject"][:1] not in FORMULA and cells["method"][:1] not in FORMULA and cells["value"] == "-3.5"
    back = read_results(text, "here")
    assert (back[0].subject, back[0].method, back[0].value) == (name, name, -3.5)
