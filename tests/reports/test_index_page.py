"""The index of a batch."""

import math

import pytest

from mrsynth.reports.index_page import PICTURES, far_below, index_html


def record(subject, status="done", **more):
    usual = {"reason": "", "made": ("t1ce",), "weights": "w", "score": 20.0, "warnings": (), "seconds": 3.0}
    return {"subject": subject, "status": status, "thumbnail": "", **usual, **more}


def order_of(page, *names):
    return sorted(names, key=lambda name: page.index(f'data-subject="{name}"'))


def test_what_needs_looking_at_stands_first():
    records = [record(f"s{n}", score=20.0 + 0.1 * n) for n in range(6)]
    records += [record("low", score=12.0), record("warned", warnings=("a", "b")), record("bad", "failed", score=None)]
    page = index_html(records, ["x: no scans"])

    assert order_of(page, "s0", "warned", "low", "bad") == ["bad", "low", "warned", "s0"]
    assert "8 subjects done, 0 lacked nothing, 1 failed." in page and "x: no scans" in page


def test_one_far_below_the_others_stands_out_and_of_few_nobody_does():
    """Distances from the median 20.0 are 0, 0.4, 0.2, 0.1, 5, so 0.2 is the usual one."""
    scores = [record(str(n), score=s) for n, s in enumerate((20.0, 20.4, 19.8, 20.1, 15.0))]

    assert far_below(scores) == pytest.approx(20.0 - 2 * 1.4826 * 0.2)
    assert far_below(scores[2:]) == -math.inf


def test_of_very_many_those_that_stand_first_have_a_picture():
    picture = "A" * 8
    records = [record(f"s{n:05d}", thumbnail=picture) for n in range(PICTURES + 5)]
    page = index_html([*records, record("zz", "failed", score=None, thumbnail=picture)], [])

    assert page.count(picture) == PICTURES and page.index('data-subject="zz"') < page.index(picture)


def test_names_and_reasons_are_escaped():
    page = index_html([record('<b>"x"', "failed", reason="<script>alert(1)</script>", score=None)], [])

    assert "<script>alert" not in page and '<b>"x"' not in page


def test_what_turns_letters_is_spelt_out():
    page = index_html([record("a\u202egnp.exe", "failed", reason="\x1b[2J", score=None)], ["b\u2066"])

    assert not {"\u202e", "\u2066", "\x1b"} & set(page) and r"a\u202egnp.exe" in page
