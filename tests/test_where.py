"""Where the error sits: shares of errors that were put where they are."""

import numpy as np
import pytest

from mrsynth.scores.protocols import Case
from runs.measure.where import TUMOUR, best_curve, shares

SHAPE = (40, 44, 36)


@pytest.fixture(scope="module")
def brain():
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return x**2 + y**2 + z**2 < 0.8


@pytest.fixture(scope="module")
def truth(brain):
    """Greys between 0 and 1 in the brain, the ends of the scale among them."""
    greys = np.random.default_rng(0).random(SHAPE)
    return np.where(brain, np.clip(greys, 0.001, 1), 0).astype(np.float32)


def case(truth, brain, error, labels=None):
    return Case(np.clip(truth + error, 0, 1).astype(np.float32), truth, brain, labels, TUMOUR)


def test_noise_sits_everywhere_alike(truth, brain):
    noise = 0.02 * np.random.default_rng(1).standard_normal(SHAPE)
    found = shares(case(truth, brain, noise))

    assert [found[name] for name in ("brightest 10 %", "darkest 10 %")] == pytest.approx([0.1, 0.1], abs=0.02)
    assert found["brightest 2 %"] == pytest.approx(0.02, abs=0.01) and abs(found["smooth"]) < 0.02
    assert abs(found["curve"]) < 0.02 and "tumour" not in found
    assert found["error"] == pytest.approx(4e-4, rel=0.1)


def test_an_error_in_a_tumour_sits_there(truth, brain):
    labels = np.zeros(SHAPE, np.int16)
    labels[18:24, 18:26, 14:20] = 1
    noise = 0.1 * np.random.default_rng(1).standard_normal(SHAPE)
    found = shares(case(truth, brain, np.where(labels > 0, noise, 0), labels))

    assert found["tumour"] > 0.98 and found["rim"] < 0.02
    assert found["tumour's voxels"] == pytest.approx(288 / brain.sum())


def test_shading_is_smooth_and_a_curve_of_greys_is_none_of_it(truth, brain):
    ramp = np.broadcast_to(np.linspace(-0.1, 0.1, SHAPE[1])[None, :, None], SHAPE)
    shaded = shares(case(truth, brain, ramp))
    bent = shares(Case(truth**2, truth, brain, None, TUMOUR))

    assert shaded["smooth"] > 0.5 and shaded["curve"] < 0.1
    assert bent["curve"] > 0.95 and bent["smooth"] < 0.1


def test_a_curve_is_the_mean_of_the_truth_at_each_grey():
    made = np.repeat(np.linspace(0, 1, 50), 20)
    truth = made**2 + np.tile([-0.1, 0.1], 500)

    assert np.allclose(best_curve(made, truth), made**2, atol=1e-6)
