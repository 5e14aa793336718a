"""Who competes, for which gaps, and what is said of what nobody can make."""

import pytest

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast, patterns
from mrsynth.errors import UsageError, WeightsError
from mrsynth.scores.rows import Score
from mrsynth.tasks.benchmark import contenders as task
from mrsynth.tasks.benchmark.contenders import Contender, Gap, contenders, dropped_gap, read_patterns

T1, T1CE, T2, FLAIR = STANDARD


def unified(name="any", contrasts=STANDARD, method="fgc2f"):
    return Card(name=name, method=method, contrasts=contrasts, licence="x")


def single(target, name=None, value=None):
    inputs = tuple(c for c in STANDARD if c is not target)
    scores = [] if value is None else [(("+".join(inputs)), value)]
    return Card(
        name=name or f"cwdm-{target}",
        method="cwdm",
        contrasts=STANDARD,
        requires={target: inputs},
        licence="x",
        scores=tuple(
            Score(pattern=p, target=target, region="brain", metric="PSNR", value=v, subjects=3, protocol="p")
            for p, v in scores
        ),
    )


def contender(*cards):
    return Contender("line", {f"file of {card.name}": card for card in cards})


def gap(available, targets=None):
    return Gap(tuple(available), tuple(targets or (c for c in STANDARD if c not in available)))


# Patterns ------------------------------------------------------------------------------------------------------------


def test_all_patterns_and_those_with_one_missing():
    every = read_patterns("all", STANDARD)
    assert [c.available for c in every] == patterns()
    assert all(set(c.available) | set(c.targets) == set(STANDARD) for c in every)
    assert [c.targets for c in read_patterns("one-missing", STANDARD)] == [(FLAIR,), (T2,), (T1CE,), (T1,)]
    assert [c.name for c in read_patterns("one-missing", (T1, T2))] == ["t1:t2", "t2:t1"]


def test_named_patterns_keep_the_order_of_the_data_set_and_come_once():
    asked = "t2+t1:t1ce, T1 : flair+t2,t1+t2:t1ce"
    assert read_patterns(asked, STANDARD) == [Gap((T1, T2), (T1CE,)), Gap((T1,), (T2, FLAIR))]
    assert read_patterns("t1+t2", STANDARD) == [Gap((T1, T2), (T1CE, FLAIR))]
    assert [c.name for c in read_patterns(asked, STANDARD)] == ["t1+t2:t1ce", "t1:t2+flair"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("t3", "expected one-missing, all, brasyn"),
        ("t1:t1", "T1 is both given and to be made"),
        ("t1+t1ce+t2+flair", "leave at least one"),
        ("", "expected one-missing"),
        ("pd:t1", "no PD; it has t1, t1ce, t2, flair"),
        ("t1:", "expected one-missing"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(text, part):
    with pytest.raises(UsageError, match="--patterns") as error:
        read_patterns(text, STANDARD)
    assert part in str(error.value)


def test_brasyn_drops_one_contrast():
    assert dropped_gap(T2, STANDARD) == Gap((T1, T1CE, FLAIR), (T2,))


# Plans ---------------------------------------------------------------------------------------------------------------


def test_a_unified_checkpoint_makes_all_targets_in_one_run():
    for available in patterns():
        plan = contender(unified()).assign(gap(available))
        assert plan.made == {"file of any": gap(available).targets}
        assert not plan.unsupported


def test_single_target_checkpoints_share_the_work_and_leave_the_rest():
    line = contender(*map(single, STANDARD))
    assert line.assign(gap((T1, T2, FLAIR))).made == {"file of cwdm-t1ce": (T1CE,)}
    plan = line.assign(gap((T1, T2)))
    assert not plan.made
    assert set(plan.unsupported) == {T1CE, FLAIR}
    assert "makes t1ce from t1+t2" in plan.unsupported[T1CE]


def test_what_can_be_made_is_made():
    """A data set with a contrast that the checkpoint has never heard of."""
    plan = contender(unified()).assign(Gap((T1,), (T2, Contrast.PD)))
    assert plan.made == {"file of any": (T2,)}
    assert set(plan.unsupported) == {Contrast.PD}


def test_each_target_goes_to_the_checkpoint_that_measured_best():
    two = contender(single(T1, "worse", 20.0), single(T1, "better", 21.0))
    assert two.assign(gap((T1CE, T2, FLAIR))).made == {"file of better": (T1,)}


def test_plans_that_need_two_checkpoints():
    a, b = unified("a", (T1, T2)), unified("b", (T1, FLAIR))
    assert contender(a, b).assign(Gap((T1,), (T2, FLAIR))).made == {"file of a": (T2,), "file of b": (FLAIR,)}


# Lines ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def known(monkeypatch):
    """A machine with fgc2f-ship, the four cwdm-ship, and one that is only published."""
    cards = [unified("fgc2f-ship"), *(single(t) for t in STANDARD)]
    entries = [ManifestEntry(**card.model_dump(), file="f") for card in cards]
    entries.append(ManifestEntry(**single(T1, "official").model_dump(), repository="a/b"))
    monkeypatch.setattr(task, "available_entries", lambda: entries)
    return {card.name: card for card in cards}


def test_without_a_word_every_method_at_hand_competes(known):
    lines = contenders((), ())
    assert [line.label for line in lines] == ["fgc2f", "cwdm"]
    assert set(lines[1].checkpoints) == {f"cwdm-{t}" for t in STANDARD}, "what is only published is not at hand"


def test_a_named_method(known):
    assert [line.label for line in contenders(("cwdm",), ())] == ["cwdm"]
    with pytest.raises(UsageError, match="no method 'gan'"):
        contenders(("gan",), ())


def test_a_method_without_weights_is_an_error_when_named(known, monkeypatch):
    monkeypatch.setattr(task, "available_entries", lambda: [])
    with pytest.raises(WeightsError, match="No checkpoint of any method"):
        contenders((), ())
    with pytest.raises(WeightsError, match="No checkpoint of fgc2f"):
        contenders(("fgc2f",), ())


def named_weights(monkeypatch, *cards):
    class Found:
        def __init__(self, card):
            self.card = card

    monkeypatch.setattr(task, "resolve", lambda name: Found(next(c for c in cards if c.name == name)))
    return [card.name for card in cards]


def test_rival_checkpoints_of_one_method_are_lines_of_their_own(monkeypatch):
    names = named_weights(monkeypatch, unified("old"), unified("new"))
    assert [line.label for line in contenders((), names)] == ["old", "new"]


def test_rivals_of_one_name_are_told_apart_by_how_they_were_given(monkeypatch):
    class Found:
        card = unified("same")

    monkeypatch.setattr(task, "resolve", lambda name: Found())
    assert [line.label for line in contenders((), ["a.safetensors", "b.safetensors"])] == [
        "a.safetensors",
        "b.safetensors",
    ]


def test_checkpoints_of_one_name_that_complement_one_another_are_not_confused():
    line = Contender("cwdm", {f"file of {t}": single(t, "same") for t in STANDARD})
    assert line.assign(gap((T1, T2, FLAIR))).made == {"file of t1ce": (T1CE,)}


def test_checkpoints_that_complement_one_another_are_one_line(monkeypatch):
    names = named_weights(monkeypatch, *map(single, STANDARD), unified("u"))
    lines = contenders((), names)
    assert {line.label: len(line.checkpoints) for line in lines} == {"fgc2f": 1, "cwdm": 4}


def test_a_method_that_none_of_the_weights_is_of(monkeypatch):
    with pytest.raises(UsageError, match="None of the weights given is of cwdm"):
        contenders(("cwdm",), named_weights(monkeypatch, unified("u")))
