"""Baselines on images whose best prediction is known."""

from dataclasses import replace

import numpy as np
import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.scores.baselines import CopyBaseline, RegressionBaseline, as_input, sample_voxels
from mrsynth.scores.metrics import psnr, to_unit

T1, T1CE, T2, FLAIR = STANDARD
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def made_up(name: str, seed: int, scale: float = 100.0) -> Subject:
    """T1ce is T1 with another scale, T2 its opposite, FLAIR has nothing to do with either."""
    random = np.random.default_rng(seed)
    inside = np.zeros((20, 22, 18), bool)
    inside[3:-3, 4:-4, 2:-2] = True
    t1 = random.uniform(0.1, 1, inside.shape)
    other = random.uniform(0.1, 1, inside.shape)
    images = {T1: t1, T1CE: 7 * t1, T2: 1.2 - t1, FLAIR: other}
    volumes = {c: Volume((scale * v * inside).astype(np.float32), AFFINE) for c, v in images.items()}
    return Subject(name, volumes)


@pytest.fixture(scope="module")
def sample():
    return sample_voxels([made_up("a", 1), made_up("b", 2, 900.0)], STANDARD)


def test_the_sample_counts_complete_subjects_only(sample):
    assert sample.subjects == 2
    none = sample_voxels([made_up("a", 1).without(T2)], STANDARD)
    assert none.subjects == 0
    assert all(v.size == 0 for v in none.sources.values())


def test_an_input_is_scaled_as_a_model_sees_it_and_a_truth_as_protocols_do(sample):
    first, second = made_up("a", 1), made_up("b", 2, 900.0)
    inside = first.foreground()
    for contrast in STANDARD:
        prepared = prepare(first, (contrast,), PreparationConfig(crop="full", multiple=1))
        np.testing.assert_allclose(as_input(first, contrast), prepared.images[0][prepared.mask], atol=1e-6)
        whole = [to_unit(s.volumes[contrast].voxels)[inside] for s in (first, second)]
        np.testing.assert_allclose(np.sort(sample.truths[contrast]), np.sort(np.concatenate(whole)), atol=1e-6)


def test_the_copy_is_the_nearest_contrast_unchanged(sample):
    copy = CopyBaseline(sample)
    assert copy.source((T1, T2, FLAIR), T1CE) is T1
    assert copy.source((T2, FLAIR), T1) is FLAIR, "opposite contrast is further than no relation at all"
    subject = made_up("c", 3).without(T1CE)
    made = copy.predict(subject, T1CE)
    np.testing.assert_array_equal(made.voxels[subject.foreground()], as_input(subject, T1))
    assert not made.voxels[~subject.foreground()].any()


def test_the_regression_finds_what_a_voxel_can_tell(sample):
    whole = made_up("c", 3, 33.0)
    regression = RegressionBaseline(sample)
    inside = whole.foreground()

    def error(target: Contrast, *given: Contrast) -> float:
        seen = whole.without(*(c for c in STANDARD if c not in given))
        made = regression.predict(seen, target).voxels
        assert 0 <= made.min() <= made.max() <= 1
        return psnr(made[inside], to_unit(whole.volumes[target].voxels)[inside])

    assert error(T2, T1) > 35, "a function of T1"
    assert error(T1, T2, FLAIR) > 35
    assert error(FLAIR, T1) < 15, "nothing to be learnt: about the spread of a uniform distribution"


def test_what_is_hidden_is_not_read(sample):
    whole = made_up("c", 3)
    other = replace(whole, volumes={**whole.volumes, T1CE: Volume(whole.volumes[T1CE].voxels * 0 + 5, AFFINE)})
    for baseline in (CopyBaseline(sample), RegressionBaseline(sample)):
        a, b = (baseline.predict(s.without(T1CE), T1CE).voxels for s in (whole, other))
        np.testing.assert_array_equal(a, b)
