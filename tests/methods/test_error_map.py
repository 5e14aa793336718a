"""How far an image is likely to be wrong: what the features are, and what a network learns from mistakes."""

import numpy as np
import pytest
import torch

from mrsynth.contrasts import STANDARD
from mrsynth.methods.error_map import (
    LEAST,
    MODEST,
    WILD,
    ErrorMap,
    ErrorNetwork,
    Seen,
    feature_count,
    plane_features,
    smoothed,
    teach,
    within,
)

SHAPE = (20, 24, 3)


@pytest.fixture
def seen():
    random = np.random.default_rng(0)
    brain = np.zeros(SHAPE, bool)
    brain[3:17, 4:20, :2] = True
    images = np.where(brain, random.uniform(0.1, 1, (4, *SHAPE)), 0).astype(np.float32)
    made = np.where(brain, random.uniform(0.1, 1, SHAPE), 0).astype(np.float32)
    apart = np.where(brain, random.uniform(0, 0.1, SHAPE), 0).astype(np.float32)
    return Seen(made, apart, images, np.array([True, False, True, True]), 1, brain)


def changed(seen, **what):
    return Seen(**{**vars(seen), **what})


def test_smoothing_keeps_a_constant_and_spreads_a_point_by_its_width():
    plane = torch.zeros(1, 61, 61)
    plane[0, 30, 30] = 1
    spread = smoothed(plane, 3.0)[0]
    x = torch.arange(61) - 30.0

    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    assert float((spread.sum(1) * x**2).sum()) == pytest.approx(9, rel=0.03)  # cut off at three widths
    assert float(smoothed(torch.ones(1, 61, 61), 3.0)[0, 30, 30]) == pytest.approx(1, abs=1e-5)


def test_features_are_of_brain_voxels_in_order_and_finite(seen):
    features = plane_features(seen, 1)

    assert features.shape == (int(seen.brain[..., 1].sum()), feature_count(4))
    assert features.isfinite().all()
    assert np.array_equal(features[:, 8].numpy(), seen.made[..., 1][seen.brain[..., 1]])
    assert features[:, 0].exp().numpy() == pytest.approx(seen.disagreement[..., 1][seen.brain[..., 1]] + LEAST)


def test_what_is_missing_is_not_looked_at(seen):
    """The truth lies in the channel of the target when a subject has it: no feature may know it."""
    images = seen.images.copy()
    images[1] = np.random.default_rng(1).uniform(0, 1, SHAPE)

    assert torch.equal(plane_features(seen, 0), plane_features(changed(seen, images=images), 0))
    assert not torch.equal(plane_features(seen, 0), plane_features(changed(seen, target=2), 0))


def test_what_lies_outside_the_brain_is_not_looked_at(seen):
    def filled(image):
        return np.where(seen.brain, image, np.float32(0.7))

    other = changed(seen, made=filled(seen.made), disagreement=filled(seen.disagreement), images=filled(seen.images))

    assert torch.allclose(plane_features(seen, 0), plane_features(other, 0))


def test_the_map_lies_in_the_brain_and_within_what_can_be(seen):
    expected = ErrorMap(ErrorNetwork(4), STANDARD, {}).expected(seen)

    assert expected.shape == SHAPE and expected.dtype == np.float32
    assert not expected[~seen.brain].any()
    assert expected[seen.brain].min() >= np.float32(MODEST) and expected[seen.brain].max() <= WILD


def test_it_learns_where_errors_are_large_and_how_large_they_are_on_average():
    """Normal errors whose size depends on one feature: their mean absolute size is learnt, two sigma hold 95 %."""
    draw = torch.Generator().manual_seed(1)
    features = torch.rand(20000, feature_count(4), generator=draw)
    sigma = 0.02 + 0.1 * features[:, 3]
    errors = (sigma * torch.randn(20000, generator=draw)).abs()
    network = teach(features, errors, 4, steps=400)
    expected = network(features)
    low, high = features[:, 3] < 0.2, features[:, 3] > 0.8

    for part in (low, high):
        assert float(expected[part].mean()) == pytest.approx(float(errors[part].mean()), rel=0.1)
    assert within(errors.numpy(), expected.numpy()) == pytest.approx(0.954, abs=0.01)
    assert float(expected[high].mean()) > 2 * float(expected[low].mean())


def test_teaching_is_repeatable_and_leaves_the_random_state_alone():
    features, errors = torch.rand(100, feature_count(2)), torch.rand(100) / 10
    before = torch.get_rng_state()
    one, other = (teach(features, errors, 2, steps=3).state_dict() for _ in range(2))

    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], other[name]) for name in one)
