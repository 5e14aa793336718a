"""Contrasts that do not lie on one another, though their headers say so."""

from types import SimpleNamespace

import numpy as np
import pytest

from mrsynth.contrasts import STANDARD
from mrsynth.scans.agreement import WAYS, elsewhere, information, misplaced, moved

T1, T1CE, T2, FLAIR = STANDARD
SHAPE = (48, 56, 40)  # coarse blocks of 4 mm at once: no averaging


@pytest.fixture(scope="module")
def head():
    """An ellipsoid with structures in it, no two of them alike, off the middle of the volume."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(float)
    brain = (((grid.T - (22, 27, 19)) / (15, 19, 13)) ** 2).sum(-1).T < 1
    random = np.random.default_rng(0)
    structures = sum(
        random.uniform(0.3, 1) * np.exp(-((grid.T - random.uniform((8, 10, 7), (36, 44, 31))) ** 2).sum(-1).T / 18)
        for _ in range(60)
    )
    return np.where(brain, 0.1 + structures / structures.max(), 0).astype(np.float32)


def prepared(axes="LPS", **images):
    """As `prepare` gives it, of images (I, J, K) by contrast; 4 mm."""
    whole = np.stack([images.get(c.value, np.zeros(SHAPE, np.float32)) for c in STANDARD])
    return SimpleNamespace(
        contrasts=STANDARD,
        images=whole,
        available=np.array([c.value in images for c in STANDARD]),
        mask=(whole > 0).any(axis=0),
        record={"spacing_mm": {"to": [4.0, 4.0, 4.0]}, "axes": {"to": axes}},
    )


def as_t2(image):
    """Another contrast of the same head: darker where this is brighter, and not in proportion."""
    return np.where(image > 0, 1.3 - image**2, 0).astype(np.float32)


def test_what_lies_where_it_should_is_not_spoken_of(head):
    assert misplaced(prepared(t1=head, t2=as_t2(head), flair=head**3)) == []


@pytest.mark.parametrize("side", [9, 10])
@pytest.mark.parametrize(("begin", "end"), [(1, 5), (2, 7), (4, 8)])
def test_a_mirrored_image_is_laid_on_its_home_to_the_voxel(side, begin, end):
    """Wherever in the grid it lies: mirrored back it is what it was."""
    image, shown = np.zeros((side,) * 3, np.intp), np.zeros((side,) * 3, bool)
    image[(slice(begin, end),) * 3] = np.random.default_rng(0).integers(1, 16, (end - begin,) * 3)
    shown[(slice(begin, end),) * 3] = True
    for axis, (words, _, _) in enumerate(WAYS):
        ways = elsewhere(np.flip(image, axis), np.flip(shown, axis), shown, [4.0] * 3)
        laid, seen = next(there for there, way in ways if way == words)
        assert np.array_equal(laid, image) and np.array_equal(seen, shown)


@pytest.mark.parametrize(
    ("done", "told"),
    [
        (lambda v: v[::-1], "mirrored left to right"),
        (lambda v: v[:, ::-1], "mirrored front to back"),
        (lambda v: v[..., ::-1], "turned upside down"),
        (lambda v: np.roll(v, 3, 0), "towards the patient's right"),
        (lambda v: np.roll(v, -3, 0), "towards the patient's left"),
        (lambda v: np.roll(v, 3, 1), "towards the front"),
        (lambda v: np.roll(v, -3, 1), "towards the back"),
        (lambda v: np.roll(v, 3, 2), "towards the feet"),
        (lambda v: np.roll(v, -3, 2), "towards the top"),
    ],
)
def test_what_was_mirrored_or_moved_is_named_with_the_way_back(head, done, told):
    (sentence,) = misplaced(prepared(t1=head, t2=done(as_t2(head)), flair=head**3))

    assert sentence.startswith("T2 does not lie on T1") and told in sentence


def test_a_head_that_is_its_own_mirror_image_is_not_suspected(head):
    whole = head + head[::-1]

    assert misplaced(prepared(t1=whole, t2=as_t2(whole)[::-1])) == []


def test_where_nothing_can_be_told_nothing_is_said(head):
    noise, other = np.random.default_rng(1).uniform(0.1, 1, (2, *SHAPE)).astype(np.float32)
    few = np.zeros(SHAPE, np.float32)
    few[:5, :5, :5] = 1

    assert misplaced(prepared(t1=head)) == []
    assert misplaced(prepared(t1=noise, t2=other)) == []
    assert misplaced(prepared(t1=head, t2=few)) == []
    assert misplaced(prepared("RAS", t1=head, t2=as_t2(head)[::-1])) == []


def test_information_of_a_function_is_the_entropy_and_of_strangers_none():
    random = np.random.default_rng(0)
    one, other = random.integers(16, size=(2, 40, 40, 40))
    everywhere = np.ones(one.shape, bool)

    assert information(one, everywhere, 15 - one, everywhere) == pytest.approx(np.log(16), abs=0.01)
    assert information(one, everywhere, other, everywhere) == pytest.approx(0, abs=0.01)


def test_what_moves_out_is_lost_and_what_comes_in_is_nothing():
    row = np.arange(1, 6).reshape(5, 1, 1)

    assert moved(row, 2, 0).ravel().tolist() == [0, 0, 1, 2, 3]
    assert moved(row, -1, 0).ravel().tolist() == [2, 3, 4, 5, 0]
    assert not moved(row, 7, 0).any()
