"""Two contrasts that are one image, or made from one another, are told from two scans of one head."""

import numpy as np
import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.scans.foreground import shown_by_each
from mrsynth.scans.likeness import MADE, left_within_blocks, made_from_another, same_image
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.subject import Subject
from tests.helpers import changed

T1, T1CE, T2, FLAIR = STANDARD


def told_of(volumes):
    return made_from_another(volumes, shown_by_each(volumes))


@pytest.mark.parametrize("factor", [1, 2.5, 1e-3])
@pytest.mark.parametrize("rounded", [False, True])
def test_two_contrasts_that_are_one_image_are_refused(volumes, factor, rounded):
    copy = volumes[T1].voxels * np.float32(factor)
    copy = np.rint(copy) if rounded and factor >= 1 else copy
    twice = {**volumes, T1CE: changed(volumes[T1], copy)}
    with pytest.raises(InputError, match="T1 and T1ce are the same image, up to a factor"):
        prepare(Subject("s", {c: twice[c] for c in (T1, T1CE, T2)}), STANDARD, PreparationConfig())


def test_different_contrasts_are_never_one_image(volumes, brain_volumes):
    others = brain_volumes(shape=(40, 44, 32), contrasts=list(Contrast))
    for one in others:
        for other in others:
            assert same_image(others[one].voxels, others[other].voxels) == (one is other)
    noisy = volumes[T1].voxels * np.random.default_rng(0).normal(1, 0.05, volumes[T1].shape)
    assert not same_image(volumes[T1].voxels, noisy.astype(np.float32))
    assert not same_image(volumes[T1].voxels, np.zeros_like(volumes[T1].voxels))


SAME = {
    "negative": lambda v: -v,
    "brighter": lambda v: np.where(v > 0, v + 50, 0),
    "brighter, and other units": lambda v: np.where(v > 0, 0.37 * v + 900, 0),
    "a part": lambda v: np.where(np.arange(v.shape[2]) < v.shape[2] // 2, v, 0),
    "eight bits": lambda v: np.rint(v / v.max() * 255),
    "mirrored": lambda v: v[::-1],
    "upside down": lambda v: v[:, :, ::-1],
    "a voxel on": lambda v: np.roll(v, 1, 1),
    "a voxel back": lambda v: np.roll(v, -1, 2),
}


@pytest.mark.parametrize("how", SAME)
def test_one_image_stays_one_however_it_was_stored_again(volumes, how):
    changed_copy = np.ascontiguousarray(SAME[how](volumes[T1].voxels), np.float32)
    assert same_image(volumes[T1].voxels, changed_copy) and same_image(changed_copy, volumes[T1].voxels)
    assert not same_image(volumes[FLAIR].voxels, changed_copy)


@pytest.fixture
def noisy(volumes):
    """Two scans: each with noise of its own, as far from 0 as noise is from the darkest tissue."""
    rng = np.random.default_rng(1)
    return {
        c: changed(v, np.where(v.voxels > 0, v.voxels * (1 + 0.03 * rng.standard_normal(v.shape)) + 1, 0))
        for c, v in volumes.items()
    }


def field(shape):
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return 1 + 0.3 * i - 0.2 * j * k


MADE_FROM = {
    "gamma": lambda v: 900 * (v / 900) ** 0.7,
    "strong gamma": lambda v: 900 * (v / 900) ** 2,
    "bias field": lambda v: v * field(v.shape),
    "logarithm": lambda v: np.log1p(v),
    "clipped, eight bits": lambda v: np.rint(np.minimum(v / 900, 1) * 255),
    "bias field, gamma, a painted rim": lambda v: np.where(field(v.shape) > 1.35, 4 * v, v**1.2 * field(v.shape)),
}


@pytest.mark.parametrize("how", MADE_FROM)
@pytest.mark.parametrize("pair", [(T1, T1CE), (T1CE, T1), (T2, FLAIR)])
def test_an_image_made_from_another_with_other_greys_is_told(noisy, how, pair):
    one, other = pair
    scaled = noisy[one].voxels * (1000 / noisy[one].voxels.max())
    made = changed(noisy[one], np.where(scaled > 0, MADE_FROM[how](scaled), 0))
    (told,) = told_of({**{c: v for c, v in noisy.items() if c is not other}, other: made})
    assert all(c.label in told for c in pair) and "the same image with other greys" in told


def test_two_scans_of_one_head_are_not_spoken_of(noisy, volumes):
    """Nor two smooth images without any noise, of which each is a function of the other, nor one too small."""
    assert told_of(noisy) == told_of(volumes) == []
    few = {c: changed(v, v.voxels * (np.arange(32) < 6)) for c, v in noisy.items()}
    assert told_of({T1: few[T1], T1CE: few[T1]}) == []


def test_the_share_that_is_left_is_that_of_noise(volumes):
    """Of b = a + n, with a and n white and of variances 1 and v, a line on a leaves v / (1 + v)."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((60, 60, 60)).astype(np.float32) + 100
    everywhere = np.ones(a.shape, bool)
    for v in (0.01, 0.1, 1):
        b = a + np.float32(np.sqrt(v)) * rng.standard_normal(a.shape).astype(np.float32)
        assert left_within_blocks(a, b, everywhere) == pytest.approx(v / (1 + v), rel=0.05)
    assert left_within_blocks(a, -a, everywhere) == 1 and left_within_blocks(a, np.zeros_like(a), everywhere) == 1
    assert left_within_blocks(a, a, everywhere & (np.arange(60) < 8)) < MADE


@pytest.mark.real_data
def test_real_scans_are_not_hit_and_a_copy_of_one_is(shared_data):
    """T1 and T1ce of a subject whose two are more alike than any others but those of one."""
    from mrsynth.io.nifti import read_volume

    ms07 = shared_data / "data" / "ms_mni" / "ms07"
    t1, t1ce = (read_volume(ms07 / f"ms07_{c}.nii.gz") for c in (T1, T1CE))
    assert told_of({T1: t1, T1CE: t1ce}) == []
    assert len(told_of({T1: t1, T1CE: changed(t1, np.maximum(t1.voxels, 0) ** 1.2)})) == 1
