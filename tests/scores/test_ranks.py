"""Who comes first: ranks made by hand, failures as losses, and draws whose shares are known."""

import numpy as np
import pytest

from mrsynth.scores.ranks import ranks
from mrsynth.scores.rows import Score

KIND = ("brain3d", "brain", "PSNR")


def column(values, method, **more):
    facts = {"dataset": "d", "pattern": "t1", "target": "t2", "protocol": KIND[0], "region": KIND[1], "metric": KIND[2]}
    return [Score(**facts | {"subject": f"s{i}", "method": method, "value": v} | more) for i, v in enumerate(values)]


def test_ranks_by_hand():
    """Ranks of a: 1, 2, 1.5; of b: 2, 1, 1.5; of c 3 each."""
    found = {
        r.method: r for r in ranks([*column([5, 1, 3], "a"), *column([4, 2, 3], "b"), *column([0, 0, 0], "c")], KIND)
    }

    assert [found[m].mean for m in "abc"] == [1.5, 1.5, 3]
    assert {r.first for r in found.values()} == {None}  # three persons


def test_a_failure_is_a_loss():
    """a has no score of the hard case and is better wherever it has one."""
    first, second = ranks([*column([30, 30, 30, np.nan], "a"), *column([20, 20, 20, 10], "b")], KIND)

    assert (first.method, first.mean, first.losses, first.cases) == ("a", 5 / 4, 1, 4)
    assert (second.mean, second.losses) == (7 / 4, 0)


def test_who_always_wins_comes_first_in_every_draw_and_equals_share():
    always, never = ranks(column(range(1, 9), "a") + column([0] * 8, "b"), KIND)
    even = ranks(column([1] * 8, "a") + column([1] * 8, "b"), KIND)

    assert (always.first, never.first) == (1, 0)
    assert [r.first for r in even] == [0.5, 0.5]


def test_the_share_of_first_places_is_that_of_the_binomial():
    """Of 7 persons a wins 4: a is first when a draw of 7 holds more of the 4 than of the 3."""
    from scipy.stats import binom

    found = {r.method: r.first for r in ranks(column([1] * 4 + [0] * 3, "a") + column([0] * 4 + [1] * 3, "b"), KIND)}

    assert found["a"] == pytest.approx(binom.sf(3, 7, 4 / 7), abs=0.03)
    assert found["a"] + found["b"] == pytest.approx(1)


def test_several_examinations_of_a_person_are_one_rank():
    a = [s.model_copy(update={"person": "p"}) for s in column([1, 1, 0], "a")]
    b = [s.model_copy(update={"person": "p"}) for s in column([0, 0, 1], "b")]
    first, second = ranks(a + b, KIND)

    assert (first.method, first.mean, first.persons, second.mean) == (
        "a",
        pytest.approx(4 / 3),
        1,
        pytest.approx(5 / 3),
    )


def test_only_what_all_tried_is_ranked():
    rows = [*column([1, 1], "a"), *column([0, 0], "b"), *column([9, 9], "b", pattern="flair")]

    assert [r.cases for r in ranks(rows, KIND)] == [2, 2]
    assert ranks(column([1], "a"), KIND) == []
    assert ranks(column([1], "a") + column([1], "b", target="flair"), KIND) == []
