"""The mean of several methods' images, against closed forms."""

import numpy as np
import pytest

from mrsynth.card import MEDIAN
from mrsynth.contrasts import STANDARD
from mrsynth.methods.committee import average, onto, to_level
from mrsynth.scans.preparation import PreparationConfig, prepare

SHAPE = (6, 7, 5)


@pytest.fixture
def brain():
    mask = np.zeros(SHAPE, bool)
    mask[1:5, 1:6, :4] = True
    return mask


def image(mask, seed, mean=0.4, deviation=0.08):
    """Noise whose mean and standard deviation within the mask are exactly these."""
    noise = np.random.default_rng(seed).uniform(-1, 1, SHAPE)
    noise = (noise - noise[mask].mean()) / noise[mask].std()
    return np.where(mask, mean + deviation * noise, 0).astype(np.float32)


def level(voxels):
    return voxels.mean(), voxels.std()


def test_a_line_brings_mean_and_deviation_exactly(brain):
    voxels = image(brain, 1)[brain].astype(float)
    moved = to_level(voxels, level(voxels), (0.5, 0.04))

    assert level(moved) == pytest.approx((0.5, 0.04))
    assert np.corrcoef(moved, voxels)[0, 1] == pytest.approx(1)


def test_one_grey_keeps_its_want_of_contrast():
    assert (to_level(np.full(9, 0.2), (0.2, 0.0), (0.5, 0.1)) == 0.5).all()


@pytest.mark.parametrize(
    ("brightness", "expected"), [("b", (0.5, 0.1)), (MEDIAN, (0.4, 0.08)), ("absent", (0.4, 0.05))]
)
def test_images_that_differ_by_a_line_only_give_that_line_at_the_common_brightness(brain, brightness, expected):
    shape = image(brain, 2, 0, 1)
    given = {"a": (0.4, 0.05), "b": (0.5, 0.1), "c": (0.3, 0.08)}
    images = {name: np.where(brain, m + s * shape, 0).astype(np.float32) for name, (m, s) in given.items()}
    made, _ = average(images, [1, 2, 3], brightness, brain)

    assert made[brain] == pytest.approx(expected[0] + expected[1] * shape[brain], abs=1e-6)
    assert made.dtype == np.float32 and not made[~brain].any()


def test_errors_that_are_not_shared_shrink_as_the_square_root_of_the_members(brain):
    """N images of one truth with independent errors of one size: the mean has 1/N of their squared error."""
    brain[...] = True
    truth = image(brain, 3)
    members = {str(n): truth + image(brain, 10 + n, 0, 0.02) for n in range(4)}
    made, _ = average(members, [1] * 4, "0", brain)
    fit = np.polyfit(made[brain], truth[brain], 1)

    assert np.square(np.polyval(fit, made[brain]) - truth[brain]).mean() == pytest.approx(0.02**2 / 4, rel=0.25)


def test_a_weight_is_a_share(brain):
    one, other = image(brain, 4), image(brain, 5)
    made, _ = average({"a": one, "b": other}, [3, 1], "a", brain)

    assert made[brain] == pytest.approx((3 * one[brain] + other[brain]) / 4, abs=1e-6)  # their levels are equal
    assert np.array_equal(made, average({"a": one, "b": other}, [6, 2], "a", brain)[0])


def test_brightness_of_a_member_that_does_not_lead_changes_nothing(brain):
    one, other = image(brain, 6), image(brain, 7)
    brighter = np.where(brain, 1.7 * other + 0.05, 0).astype(np.float32)

    assert average({"a": one, "b": brighter}, [1, 1], "a", brain)[0] == pytest.approx(
        average({"a": one, "b": other}, [1, 1], "a", brain)[0], abs=1e-6
    )


def test_one_alone_is_left_as_it_is(brain):
    alone = image(brain, 8)

    assert average({"a": alone}, [2], MEDIAN, brain)[0] == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("other", [{"multiple": 8, "depth_multiple": 4}, {"crop": "full"}])
def test_between_grids_that_differ_in_crop_and_padding_every_voxel_of_the_brain_comes_over(make_subject, other):
    subject = make_subject(shape=(19, 23, 9))
    own = prepare(subject, STANDARD, PreparationConfig(**other))
    home = prepare(subject, STANDARD, PreparationConfig(multiple=1))
    moved = [onto(image, own, home) for image in own.images]

    assert own.mask.shape != home.mask.shape
    assert np.array_equal(moved, home.images)


def test_between_other_axes_the_way_is_by_the_subjects_own_grid(make_subject):
    subject = make_subject(shape=(19, 23, 9))
    own = prepare(subject, STANDARD, PreparationConfig(axes="RAS", multiple=4))
    home = prepare(subject, STANDARD, PreparationConfig(axes="LPS"))

    assert np.array_equal(onto(own.images[2], own, home), home.images[2])


def test_members_disagree_by_their_weighted_deviation_once_they_have_one_brightness(brain):
    """Two members +-d about their mean disagree by d; weighed 3 to 1 by d sqrt(3) / 2; a line apart, not at all."""
    shape, other = image(brain, 2, 0, 1), image(brain, 5, 0, 1)
    one = np.where(brain, 0.4 + 0.05 * shape, 0).astype(np.float32)
    line = np.where(brain, 0.6 + 0.1 * shape, 0).astype(np.float32)
    two = np.where(brain, 0.4 + 0.05 * other, 0).astype(np.float32)
    apart = np.abs(one - two)[brain]

    assert average({"a": one, "b": line}, [1, 1], "a", brain)[1] == pytest.approx(0, abs=1e-6)
    assert average({"a": one, "b": two}, [1, 1], "a", brain)[1][brain] == pytest.approx(apart / 2, abs=1e-6)
    assert average({"a": one, "b": two}, [3, 1], "a", brain)[1][brain] == pytest.approx(
        apart * np.sqrt(3) / 4, abs=1e-6
    )
    assert not average({"a": one, "b": two}, [1, 1], "a", brain)[1][~brain].any()
