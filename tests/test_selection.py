"""Which checkpoint is chosen, and what is said about it, over the cases that can occur."""

import pytest

from mrsynth.card import AuthorsFigure, Card, Committee, DataSource, ManifestEntry, Member
from mrsynth.contrasts import STANDARD, Contrast, pattern_name, patterns
from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.store import manifest
from mrsynth.preference import Circumstances, Recorded, measured
from mrsynth.sampling import Sampling
from mrsynth.scores.rows import Score
from mrsynth.selection import Selection, named, select

T1, T1CE, T2, FLAIR = STANDARD
THREE = (T1, T2, FLAIR)  # all but T1ce


def score(value, available=THREE, target=T1CE, region="brain", metric="PSNR", subjects=3):
    return Score(
        pattern=pattern_name(available), target=target, protocol="v1", region=region, metric=metric, value=value,
        subjects=subjects,
    )  # fmt: skip


def unified(name="fgc2f-ship", *scores, method="fgc2f", contrasts=STANDARD, file="f"):
    return ManifestEntry(name=name, method=method, contrasts=contrasts, licence="x", scores=scores, file=file)


def cwdm(target, *scores, name=None, file="f"):
    inputs = tuple(c for c in STANDARD if c is not target)
    return ManifestEntry(
        name=name or f"cwdm-{target}", method="cwdm", contrasts=STANDARD, requires={target: inputs},
        licence="x", scores=scores, file=file, repository=None if file else "pfriedri/cwdm",
    )  # fmt: skip


CWDM = [cwdm(target) for target in STANDARD]


def test_unmeasured_one_missing_takes_its_own_network_and_the_rest_the_unified():
    """All 14 patterns, every missing contrast wanted."""
    for entries in ([unified(), *CWDM], [*CWDM, unified()]):
        for available in patterns():
            targets = [c for c in STANDARD if c not in available]
            chosen = select(entries, available, targets).entry.name
            assert chosen == (f"cwdm-{targets[0]}" if len(targets) == 1 else "fgc2f-ship")


@pytest.mark.parametrize(
    ("a", "b", "chosen"),
    [
        ([score(20)], [score(21)], "cwdm-t1ce"),
        ([score(21)], [score(20)], "a"),
        ([score(5)], [], "a"),  # measured before unmeasured
        ([], [score(5)], "cwdm-t1ce"),
        ([score(40, target=T2)], [score(5)], "cwdm-t1ce"),  # another target's score does not count
        ([score(40, available=(T1,))], [score(5)], "cwdm-t1ce"),  # nor another pattern's
        ([score(40, region="volume")], [score(5)], "cwdm-t1ce"),  # nor another metric's
        ([], [], "cwdm-t1ce"),
    ],
)
def test_scores_decide(a, b, chosen):
    for entries in ([unified("a", *a), cwdm(T1CE, *b)], [cwdm(T1CE, *b), unified("a", *a)]):
        assert select(entries, THREE, [T1CE]).entry.name == chosen


def test_several_targets_are_judged_by_their_mean():
    available = (T1, T2)
    a = unified("a", score(20, available), score(26, available, FLAIR, subjects=2))  # 23
    b = unified("b", score(24, available), score(20, available, FLAIR))  # 22
    partly = unified("c", score(50, available))  # never measured on FLAIR
    chosen = select([partly, b, a], available, [FLAIR, T1CE])

    assert chosen.entry is a
    assert chosen.reason == (
        "a: makes t1ce and flair from t1+t2 with a mean of 23.0 dB brain PSNR on 2 validation subjects, "
        "the best of those measured (2 of 3 checkpoints at hand)."
    )


def test_each_target_alone_may_get_another_checkpoint():
    available = (T1, T2)
    a, b = unified("a", score(20, available), score(26, available, FLAIR)), unified("b", score(24, available))

    assert [select([a, b], available, [target]).entry.name for target in (T1CE, FLAIR)] == ["b", "a"]


def test_ties_keep_the_order_given():
    one, two = unified("one"), unified("two")

    assert select([one, two], [T1], [T2]).entry is one
    assert select([two, one], [T1], [T2]).entry is two
    a, b = unified("a", score(20)), cwdm(T1CE, score(20))
    assert select([a, b], THREE, [T1CE]).entry is a
    assert select([b, a], THREE, [T1CE]).entry is b


def test_contrasts_unknown_to_the_checkpoint_do_not_hide_its_scores():
    entry = unified("a", score(20))

    assert measured(entry, [*THREE, Contrast.PD], [T1CE]).value == 20
    assert "from t1+t2+flair with 20.0 dB" in select([entry], [*THREE, Contrast.PD], [T1CE]).reason


@pytest.mark.parametrize(
    ("entries", "available", "targets", "method", "reason"),
    [
        (
            [unified("fgc2f-ship", score(21.34)), cwdm(T1CE, score(20))], THREE, [T1CE], "auto",
            "fgc2f-ship: makes t1ce from t1+t2+flair with 21.3 dB brain PSNR on 3 validation subjects, "
            "the best of 2 checkpoints at hand.",
        ),
        (
            [unified("fgc2f-ship", score(21.34, subjects=1)), cwdm(T1CE, score(25))], THREE, [T1CE], "fgc2f",
            "fgc2f-ship: makes t1ce from t1+t2+flair with 21.3 dB brain PSNR on 1 validation subject, "
            "the only fgc2f checkpoint at hand that can.",
        ),
        (
            [unified()], [T1], [T1CE, T2, FLAIR], "auto",
            "fgc2f-ship: makes t1ce, t2 and flair from t1, the only checkpoint at hand that can; "
            "no score was measured for this case.",
        ),
        (
            [unified(), *CWDM], THREE, [T1CE], "auto",
            "cwdm-t1ce: makes t1ce from t1+t2+flair, chosen of 2 checkpoints at hand because it is made for just this "
            "contrast; no score was measured for this case.",
        ),
        (
            [unified(), unified("other")], [T1], [T2], "auto",
            "fgc2f-ship: makes t2 from t1, chosen of 2 checkpoints at hand because it is made for any set of missing "
            "contrasts; no score was measured for this case.",
        ),
    ],
)  # fmt: skip
def test_the_reason_is_one_plain_sentence(entries, available, targets, method, reason):
    assert select(entries, available, targets, method).reason == reason


def test_the_method_asked_for_is_taken_though_another_scores_better():
    entries = [unified("a", score(20)), cwdm(T1CE, score(30))]

    assert select(entries, THREE, [T1CE], "fgc2f").entry.name == "a"


@pytest.mark.parametrize("method", ["auto", "fgc2f", "nonsense"])
def test_a_target_already_present_is_refused_first(method):
    with pytest.raises(UsageError, match=r"t1 is already present \(found: t1, t2\).*: t1ce, flair\."):
        select([unified()], [T2, T1], [T1, T1CE], method)
    with pytest.raises(UsageError, match="t1 and t2 are already present"):
        select([unified()], [T2, T1], [T2, T1], method)
    with pytest.raises(UsageError, match="t1 is already present"):
        named(unified(), [T1], [T1])


def test_no_target_is_our_mistake():
    with pytest.raises(ValueError, match="at least one target"):
        select([unified()], [T1], [])


def test_an_unknown_method_lists_those_known():
    with pytest.raises(UsageError, match=r"no method 'gan'\. Known: cwdm, fgc2f; auto"):
        select([unified(), *CWDM], [T1], [T2], "gan")
    with pytest.raises(UsageError, match=r"Known: dfbk, fgc2f; auto"):
        select([], [T1], [T2], "gan", methods=["fgc2f", "dfbk"])


def test_a_method_that_cannot_do_this_says_what_it_can_and_who_else():
    with pytest.raises(UsageError) as caught:
        select([unified(), CWDM[1]], [T1, T2], [T1CE, FLAIR], "cwdm")
    assert str(caught.value) == (
        "cwdm cannot make t1ce and flair from t1+t2. Its checkpoints at hand: cwdm-t1ce (cwdm: t1ce from t1+t2+flair). "
        "Others at hand that can: fgc2f-ship (fgc2f: any of t1, t1ce, t2, flair from one or more of the others)."
    )
    with pytest.raises(UsageError, match="No other checkpoint at hand can either"):
        select([CWDM[1]], [T1, T2], [T1CE, FLAIR], "cwdm")


def test_a_known_method_without_checkpoints_is_about_weights():
    with pytest.raises(WeightsError, match=r"No checkpoint of dfbk is at hand.*Others at hand that can: fgc2f-ship"):
        select([unified()], [T1], [T2], "dfbk", methods=["dfbk", "fgc2f"])


def test_nothing_at_hand_is_about_weights():
    for method in ("auto", "fgc2f"):
        with pytest.raises(WeightsError, match="No checkpoint is at hand to make t2 from t1"):
            select([], [T1], [T2], method)
    with pytest.raises(WeightsError, match=r"No checkpoint at hand makes pd from t1\. At hand: fgc2f-ship"):
        select([unified()], [T1], [Contrast.PD])


def test_what_is_only_published_is_never_chosen_but_mentioned():
    published = cwdm(T1CE, score(40), file=None)

    assert select([published, unified()], THREE, [T1CE]).entry.name == "fgc2f-ship"
    with pytest.raises(WeightsError, match="Published, and downloaded with --fetch: cwdm-t1ce"):
        select([published], THREE, [T1CE])
    with pytest.raises(WeightsError, match=r"No checkpoint of cwdm is at hand.*downloaded with --fetch: cwdm-t1ce"):
        select([published, unified()], THREE, [T1CE], "cwdm")


def test_a_card_read_from_a_file_is_at_hand():
    card = Card(name="mine", method="fgc2f", contrasts=STANDARD, licence="x")

    assert select([card], [T1], [T2]).entry is card


def test_a_named_checkpoint_is_taken_or_refused():
    entry = unified("mine", score(19.96))

    assert named(entry, THREE, [T1CE]) == Selection(
        entry,
        "mine: makes t1ce from t1+t2+flair with 20.0 dB brain PSNR on 3 validation subjects, as asked for by name.",
    )
    with pytest.raises(UsageError, match=r"cwdm-t1ce cannot make t2 from t1\. It makes t1ce from t1\+t2\+flair\."):
        named(CWDM[1], [T1], [T2])
    with pytest.raises(UsageError, match="mine is a checkpoint of fgc2f, not of cwdm"):
        named(entry, THREE, [T1CE], "cwdm")


# Weights that may be downloaded --------------------------------------------------------------------------------------

FAR = [cwdm(target, score(40, [c for c in STANDARD if c is not target], target), file=None) for target in STANDARD]


@pytest.mark.parametrize(("method", "kind"), [("auto", ""), ("cwdm", "cwdm ")])
def test_with_nothing_at_hand_a_published_one_is_chosen_and_is_to_be_downloaded(method, kind):
    chosen = select(FAR, THREE, [T1CE], method, downloads=True)

    assert chosen.entry is FAR[1]
    assert chosen.reason == (
        "cwdm-t1ce: makes t1ce from t1+t2+flair with 40.0 dB brain PSNR on 3 validation subjects, "
        f"to be downloaded because no {kind}checkpoint at hand can."
    )


def test_what_is_at_hand_is_taken_before_any_download():
    """Even if what is published scored better, or is made for just this contrast."""
    for mine in (unified("mine", score(5)), unified("mine"), cwdm(T1CE, score(5), name="mine")):
        for entries in ([mine, *FAR], [*FAR, mine]):
            chosen = select(entries, THREE, [T1CE], downloads=True)
            assert chosen == select(entries, THREE, [T1CE])
            assert chosen.entry is mine and "the only checkpoint at hand that can" in chosen.reason


def test_a_method_that_is_only_published_is_downloaded_though_another_is_at_hand():
    assert select([unified(), *FAR], THREE, [T1CE], "cwdm", downloads=True).entry is FAR[1]
    assert select([unified(), *FAR], THREE, [T1CE], "fgc2f", downloads=True).entry.name == "fgc2f-ship"
    mine = cwdm(T2, name="mine")  # of the method, but for another contrast
    assert select([mine, *FAR], THREE, [T1CE], "cwdm", downloads=True).entry is FAR[1]


def test_of_the_published_the_best_measured_is_downloaded():
    better, unmeasured = cwdm(T1CE, score(41), name="better", file=None), cwdm(T1CE, name="unmeasured", file=None)
    chosen = select([unmeasured, FAR[1], better], THREE, [T1CE], downloads=True)

    assert chosen.entry is better and "to be downloaded" in chosen.reason


def test_a_download_that_would_not_help_is_not_chosen():
    with pytest.raises(WeightsError, match=r"No checkpoint is at hand to make t1ce and t2 from t1\+flair"):
        select(FAR, [T1, FLAIR], [T1CE, T2], downloads=True)
    with pytest.raises(WeightsError, match="No checkpoint is at hand"):
        select(FAR, THREE, [T1CE], "fgc2f", methods=["fgc2f"], downloads=True)
    with pytest.raises(UsageError, match="no method 'gan'"):
        select(FAR, THREE, [T1CE], "gan", downloads=True)


@pytest.mark.parametrize("downloads", [False, True])
@pytest.mark.parametrize(("own", "error"), [(CWDM, UsageError), (FAR, WeightsError)], ids=["at hand", "published"])
def test_two_missing_contrasts_asked_of_cwdm_name_who_can(own, error, downloads):
    with pytest.raises(error, match=r"t1ce and flair from t1\+t2.*Others at hand that can: fgc2f-ship \(fgc2f: any of"):
        select([unified(), *own], [T1, T2], [T1CE, FLAIR], "cwdm", downloads=downloads)


@pytest.mark.parametrize("value", [1e9, float("inf"), float("nan"), -3, 0, 50, 99])
def test_a_score_that_no_checkpoint_can_have_is_no_measurement(value):
    boasting = unified("boasting", score(value))
    assert measured(boasting, THREE, [T1CE]) is None
    for entries in ([boasting, unified("a", score(20))], [unified("a", score(20)), boasting]):
        chosen = select(entries, THREE, [T1CE])
        assert chosen.entry.name == "a" and "1 of 2" in chosen.reason
    assert measured(unified("crowd", score(20, subjects=10**9)), THREE, [T1CE]) is None


@pytest.mark.parametrize(
    ("entry", "claimed"),
    [
        (unified("ours", score(20)), False),
        (unified("ours", score(20)).model_copy(update={"file": "/x/ours.safetensors", "repository": "a/b"}), False),
        (unified("theirs", score(20), file="/x/theirs.safetensors"), True),
        (Card(name="theirs", method="m", contrasts=STANDARD, licence="x", scores=(score(20),)), True),
    ],
)
def test_the_reason_says_whose_claim_a_score_is(entry, claimed):
    assert ("(as the checkpoint itself claims)" in select([entry], THREE, [T1CE]).reason) == claimed


# The order of kinds --------------------------------------------------------------------------------------------------


def fetched(target, *scores, **more):
    """A published checkpoint that was fetched."""
    entry = cwdm(target, *scores, name=f"official-{target}", file=f"/store/official-{target}.safetensors")
    data = [DataSource(name="d", licence="l", citation="c", subjects=1251)]
    return entry.model_copy(update={"repository": "pfriedri/cwdm", "training_data": tuple(data)} | more)


def committee(**more):
    rule = Committee(members=[Member(name="fgc2f-ship"), Member(name="cwdm-t1ce")])
    sampling = {"mode": "mean", "modes": ["mean"]}
    return ManifestEntry(
        name="committee", method="committee", contrasts=STANDARD, licence="x", committee=rule, sampling=sampling, **more
    )


def mine(name="mine", *scores):
    return unified(name, *scores, file=f"/store/{name}.safetensors")


def recorded(dataset="folder", **values):
    return Recorded(dataset, {name: (score(value, subjects=7),) for name, value in values.items()})


ALL = [unified("ours", score(18)), *CWDM, committee(), fetched(T1CE), mine("mine", score(30))]


def test_published_comes_before_the_committee_and_that_before_ours():
    entries = list(ALL)
    order = []
    while entries:
        chosen = select(entries, THREE, [T1CE]).entry
        order.append(chosen.name)
        entries.remove(chosen)
        entries = [e for e in entries if e.supports(set(THREE), T1CE)]

    assert order == ["official-t1ce", "committee", "ours", "cwdm-t1ce", "mine"]


def test_a_file_of_the_users_without_a_record_is_named_and_not_chosen():
    chosen = select(ALL, THREE, [T1CE])

    assert any(hint.startswith("mine is a file of yours without a recorded score") for hint in chosen.hints)
    assert select([mine(), committee()], THREE, [T1CE]).entry.name == "committee"
    alone = select([mine()], THREE, [T1CE])
    assert alone.entry.name == "mine" and not alone.hints


def test_the_users_own_benchmark_decides_first():
    given = Circumstances(recorded=(recorded(mine=17.0, committee=16.5),))
    chosen = select(ALL, THREE, [T1CE], given=given)

    assert chosen.entry.name == "mine"
    assert chosen.reason == (
        "mine: makes t1ce from t1+t2+flair with 17.0 dB brain PSNR on 7 subjects of your own benchmark (folder), the "
        "best of those recorded there (2 of 5 checkpoints at hand)."
    )


def test_scores_of_two_benchmarks_are_never_compared():
    """The latest that says something of the case counts, however low its figures are."""
    latest, before = recorded("new", ours=10.0), recorded("old", mine=25.0, ours=24.0)

    assert select(ALL, THREE, [T1CE], given=Circumstances(recorded=(latest, before))).entry.name == "ours"
    assert select(ALL, THREE, [T1CE], given=Circumstances(recorded=(before, latest))).entry.name == "mine"
    elsewhere = Recorded("other pattern", {"mine": (score(25.0, (T1,)),)})
    assert select(ALL, THREE, [T1CE], given=Circumstances(recorded=(elsewhere,))).entry.name == "official-t1ce"


@pytest.mark.parametrize("value", [1e9, float("nan"), float("inf"), -1.0])
def test_a_record_that_cannot_be_is_ignored(value):
    given = Circumstances(recorded=(recorded(mine=value),))

    assert select(ALL, THREE, [T1CE], given=given).entry.name == "official-t1ce"


def test_fast_takes_a_small_one_and_says_what_was_passed_over():
    chosen = select(ALL, THREE, [T1CE], given=Circumstances(asked=Sampling(fast=True)))

    assert chosen.entry.name == "ours"
    assert "official-t1ce was passed over, since --fast asks for a small one" in chosen.reason
    only = select([committee()], THREE, [T1CE], given=Circumstances(asked=Sampling(fast=True)))
    assert only.entry.name == "committee"  # rather than nothing


@pytest.mark.parametrize(
    ("processors", "asked", "name"),
    [
        (1, {}, "committee"),
        (2, {}, "official-t1ce"),
        (2, {"steps": 40}, "committee"),
        (2, {"samples": 2}, "committee"),
        (None, {"steps": 400}, "official-t1ce"),
    ],
)
def test_what_takes_more_than_ten_minutes_is_passed_over(processors, asked, name):
    """1,000 s of processor time for a sample in 10 steps; the committee 100. Steps and samples are of mode sample."""
    slow = fetched(T1CE, cpu_seconds=1000, sampling={"mode": "sample", "modes": ["sample"], "steps": 10})
    both = committee(cpu_seconds=100).model_copy(update={"sampling": {}})
    given = Circumstances(asked=Sampling(**asked), processors=processors)
    chosen = select([unified("ours"), both, slow], THREE, [T1CE], given=given)

    assert chosen.entry.name == name
    assert ("would take about" in chosen.reason) == (name == "committee")
    if name == "committee":
        assert f"(about {100 / processors:.0f} " in chosen.reason or "minutes here)" in chosen.reason


@pytest.mark.parametrize(
    ("own", "asked", "seconds"),
    [
        ({"mode": "mean", "steps": 50}, {}, 10),
        ({"mode": "mean", "steps": 50}, {"mode": "sample"}, 500),
        ({"mode": "mean", "steps": 50}, {"mode": "sample", "steps": 5, "samples": 2}, 100),
        ({"mode": "mean"}, {"mode": "sample", "steps": 5}, 50),
        ({"mode": "sample", "steps": 50}, {}, 10),
        ({"mode": "sample", "steps": 50}, {"steps": 5}, 1),
        ({}, {}, 10),
    ],
)
def test_a_sample_costs_as_many_calls_as_it_has_steps(own, asked, seconds):
    """The manifest knows what a brain costs in the checkpoint's own mode: one call where that is the mean."""
    card = unified("ours").model_copy(update={"sampling": own, "cpu_seconds": 10.0})

    assert Circumstances(asked=Sampling(**asked), processors=1).seconds(card) == pytest.approx(seconds)


def test_a_sample_of_what_ships_is_made_in_a_hundred_calls_at_most():
    """Not in the thousand of a chain that a run file leaves at all its levels, which take a quarter of an hour."""
    assert {e.name: e.sampling["steps"] for e in manifest() if e.file and e.sampling["steps"] > 100} == {}


def test_samples_are_asked_of_those_that_draw():
    entries = [unified("ours"), committee()]

    assert select(entries, THREE, [T1CE]).entry.name == "committee"
    for asked in (Sampling(mode="sample"), Sampling(steps=5), Sampling(sampler="ddim"), Sampling(samples=3)):
        assert select(entries, THREE, [T1CE], given=Circumstances(asked=asked)).entry.name == "ours"
    only_draws = fetched(T1CE, sampling={"mode": "sample", "modes": ["sample"]})
    asked = Circumstances(asked=Sampling(mode="mean"))
    assert select([*entries, only_draws], THREE, [T1CE], given=asked).entry.name == "committee"


@pytest.mark.parametrize(
    "own, asked, told",
    [
        ("mean", "sample", True),
        ("sample", "mean", True),
        ("mean", "mean", False),
        ("sample", None, False),
        (None, "mean", False),
        (None, "sample", True),
    ],
)
def test_a_score_of_one_mode_is_none_of_the_other(own, asked, told):
    """Of mean and sample one errs more; the mean of short chains, which files of 0.1.0 give, is close to the mean."""
    card = unified("ours", score(18.9)).model_copy(update={"sampling": {"mode": own} if own else {}})
    request = Sampling(mode=asked)
    reasons = (
        select([card], THREE, [T1CE], given=Circumstances(asked=request)).reason,
        named(card, THREE, [T1CE], asked=request).reason,
    )

    for reason in reasons:
        assert "18.9 dB" in reason
        assert (f"in mode {own or 'draws'}, not in this one" in reason) == told


def test_what_its_authors_say_is_said_to_be_theirs():
    figure = AuthorsFigure(target=T1CE, metric="PSNR", value=27.31, protocol="whole volumes", source="their paper")
    reason = select([fetched(T1CE, published=(figure,)), unified()], THREE, [T1CE]).reason

    assert "made for this case and published by its authors, trained on 1,251 subjects" in reason
    assert "its authors state PSNR 27.31 (whole volumes; their paper), which is no measurement of ours" in reason


def test_a_better_one_that_is_only_published_is_told_of_but_not_taken():
    far = FAR[1].model_copy(update={"training_data": fetched(T1CE).training_data})
    chosen = select([unified(), committee(), far], THREE, [T1CE])

    assert chosen.entry.name == "committee"
    assert chosen.hints == (
        "cwdm-t1ce is published for this case, trained on 1,251 subjects, and is not on this machine: "
        "`mrsynth weights fetch cwdm-t1ce` gets it. Nothing is downloaded unasked.",
    )
    assert select([unified(), far], THREE, [T1CE], "fgc2f").hints == ()
    assert select([unified(), fetched(T1CE), far], THREE, [T1CE]).hints == ()  # one as good is there
    given = Circumstances(recorded=(recorded(**{"fgc2f-ship": 20.0}),))
    assert select([unified(), far], THREE, [T1CE], given=given).hints == ()
    assert select([unified(), far], THREE, [T1CE], given=Circumstances(asked=Sampling(fast=True))).hints == ()


def test_what_ships_is_a_committee_by_default_and_one_network_with_fast():
    entries = manifest()
    for available in patterns():
        for target in set(STANDARD) - set(available):
            assert select(entries, available, [target]).entry.method == "committee"
            fast = select(entries, available, [target], given=Circumstances(asked=Sampling(fast=True)))
            assert fast.entry.file is not None
