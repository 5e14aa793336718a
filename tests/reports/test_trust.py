"""How far to trust an image: ratings that follow the figures, and words that say where these come from."""

from collections.abc import Sequence

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.reports.trust import RATINGS, assess, expected_quality, rate
from mrsynth.scores.rows import Score
from tests.reports.made_report import FLAIR, T1, T1CE, T2, made_input, made_report, rows


def statement(
    found: Sequence[Score],
    target: Contrast,
    validation: Sequence[Score] = (),
    available: Sequence[Contrast] = (T1, T2),
) -> str:
    """What is said of `target`, made from `available`, after these figures."""
    weights = made_report().weights.model_copy(update={"scores": tuple(validation)})
    inputs = tuple(made_input(contrast) for contrast in available)
    return assess(made_report(scores=tuple(found), weights=weights, inputs=inputs), target).text


def test_the_example_of_the_self_check() -> None:
    said = statement(rows(T1, "t2+flair", 21.3, 0.86), FLAIR, available=(T1, T2))

    assert said.startswith(
        "On this subject, hiding T1 and remaking it from T2+FLAIR gave a brain PSNR of 21.3 dB and SSIM 0.86 on "
        "6 slices: anatomy is usually right; absolute intensity and small lesions are not to be relied on"
    )
    assert "FLAIR itself cannot be checked, since no true FLAIR exists" in said


def test_a_picture_turned_over_is_not_said_to_need_another_window() -> None:
    """The fit gains more than 2 dB in both; only the second is a matter of brightness and contrast."""
    turned, dim = (statement([*rows(T1, "t2", 8.0, 0.1, 14.0), *slope_row(slope)], FLAIR) for slope in (-0.8, 0.4))

    assert "dark where the truth is bright" in turned and "display window corrects" not in turned.replace(
        "no display", ""
    )
    assert "which a display window corrects" in dim


def slope_row(value: float) -> tuple[Score, ...]:
    (row, *_) = rows(T1, "t2", 8.0, 0.1)
    return (row.model_copy(update={"metric": "SLOPE", "value": value}),)


def test_a_single_contrast_cannot_be_self_checked_and_validation_speaks() -> None:
    scores = [
        Score(pattern="t1", target=FLAIR, region="brain", metric="PSNR", value=18.0, subjects=3, protocol="brain3d"),
        Score(pattern="t1+t2", target=FLAIR, region="brain", metric="PSNR", value=25.0, subjects=3, protocol="brain3d"),
        Score(pattern="t1", target=T2, region="brain", metric="PSNR", value=26.0, subjects=3, protocol="brain3d"),
    ]
    said = statement([], FLAIR, validation=scores, available=(T1,))

    assert "T1 is the only contrast" in said
    assert "3 other subjects" in said
    assert "18.0 dB" in said
    assert "25.0" not in said
    assert "26.0" not in said


def test_nothing_known_is_said_to_be_nothing_known() -> None:
    assert "unknown" in statement([], FLAIR, available=(T1, T2))


def test_a_reference_silences_the_guesses() -> None:
    both = rows(FLAIR, "t1+t2", 24.0, 0.9, kind="reference", slices=()) + rows(T1, "t2", 12.0, 0.2)
    said = statement(both, FLAIR, available=(T1, T2))

    assert said.startswith("Against the true FLAIR: a brain PSNR of 24.0 dB and SSIM 0.90.")
    assert "hiding" not in said
    assert "cannot be checked" not in said


def test_a_reference_of_another_contrast_is_no_reference() -> None:
    said = statement(rows(T2, "t1", 30.0, 0.95, kind="reference", slices=()), FLAIR, available=(T1,))

    assert "Against the true" not in said


def test_brightness_is_told_from_anatomy() -> None:
    assert "brightness" in statement(rows(T1, "t2", 20.5, 0.97, fit=28.0), FLAIR, available=(T1, T2))
    assert "brightness" not in statement(rows(T1, "t2", 20.5, 0.97, fit=21.0), FLAIR, available=(T1, T2))


def test_the_verdict_follows_the_worst_figure() -> None:
    mixed = rows(T1, "t2", 27.0, 0.95) + rows(T2, "t1", 15.0, 0.95)
    verdict = assess(made_report(scores=mixed), FLAIR)

    assert verdict.rating is RATINGS[-1]


def test_ratings_rise_with_psnr_and_with_ssim() -> None:
    by_psnr = [RATINGS.index(rate(p)) for p in np.arange(5, 40, 0.5)]
    by_ssim = [RATINGS.index(rate(40, s)) for s in np.arange(0, 1, 0.02)]

    for order in (by_psnr, by_ssim):
        assert order == sorted(order, reverse=True)
        assert set(order) == set(range(len(RATINGS)))


def test_expected_quality_states_the_error_psnr_means() -> None:
    assert "about 10 % of the range" in expected_quality(20.0)
    assert "about 0 % of the range" in expected_quality(float("inf"))


@pytest.mark.parametrize("rating", RATINGS[:-1], ids=lambda rating: rating.name)
def test_a_rating_needs_both_of_its_limits(rating) -> None:
    worse = RATINGS[RATINGS.index(rating) + 1]

    assert rate(rating.psnr, rating.ssim) is rating is rate(rating.psnr)
    assert rate(rating.psnr - 0.01, rating.ssim) is worse is rate(rating.psnr, rating.ssim - 0.001)


def test_a_checkpoint_that_makes_only_one_contrast_says_why_its_inputs_cannot_be_remade() -> None:
    weights = made_report().weights.model_copy(update={"scores": (), "requires": {T1CE: (T1, T2, FLAIR)}})
    inputs = tuple(made_input(contrast) for contrast in (T1, T2, FLAIR))
    verdict = assess(made_report(scores=(), weights=weights, inputs=inputs), T1CE)

    assert "this checkpoint makes only T1ce, so none of its inputs can be remade" in verdict.text
    assert verdict.rating is None


def test_validation_counts_only_with_exactly_these_inputs() -> None:
    """made_report's checkpoint was validated with T1 and T2 at 19.8 dB: rough, and not known from T1 alone."""
    both, one = (made_report(scores=(), inputs=tuple(map(made_input, given))) for given in ((T1, T2), (T1,)))

    assert assess(both, FLAIR).rating is rate(19.8) and "19.8 dB" in assess(both, FLAIR).text
    assert assess(one, FLAIR).rating is None and "unknown" in assess(one, FLAIR).text


@pytest.mark.parametrize(
    "scored, mode, counts",
    [
        ("mean", "mean", True),
        ("mean", "sample", False),
        ("", "sample", True),
        ("sample", "mean", False),
        ("draws", "mean", True),
        ("draws", "sample", False),
    ],
)
def test_validation_of_another_mode_is_told_and_rates_nothing(scored: str, mode: str, counts: bool) -> None:
    """A sample has more error than the mean that was measured, by several dB."""
    usual = made_report()
    weights = usual.weights.model_copy(update={"mode": scored})
    sampler = usual.sampler.model_copy(update={"mode": mode})
    said = assess(made_report(scores=(), weights=weights, sampler=sampler), FLAIR)

    assert (said.rating is not None) == counts == ("19.8 dB" in said.text)
    assert (f"in validation is of mode {scored}, not of a {mode} as this is" in said.text) != counts
