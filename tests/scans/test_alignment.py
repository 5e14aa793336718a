"""Registration of made-up heads with planted shifts and turns."""

import math

import numpy as np
import pytest

from mrsynth.scans.alignment import Registration, displacement, mirror, overlap_of, register, resampled
from mrsynth.scans.volume import Volume

SHAPE = (40, 48, 32)
SPACING = np.array([4.0, 4.0, 4.5])


def turned(degrees, axis, shift, about=(0.0, 0.0, 0.0)):
    """A rigid transform: a turn about an axis through a point, then a shift in mm."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    matrix[:3, 3] = np.array(about) + shift - matrix[:3, :3] @ np.array(about)
    return matrix


def points_of(shape, affine):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).astype(float)
    return index @ affine[:3, :3].T + affine[:3, 3]


RANDOM = np.random.default_rng(5)
WAVES = [(RANDOM.normal(size=3) / 11, RANDOM.uniform(0, 6)) for _ in range(12)]


def head(points, contrast):
    """A head as a function of place (mm): skull, and a brain folded of white and grey matter and fluid."""
    x, y, z = np.moveaxis(points, -1, 0)
    skull, brain = (
        1 / (1 + np.exp((np.sqrt((x / a) ** 2 + (y / (1.2 * a)) ** 2 + (z / b) ** 2) - 1) * 14))
        for a, b in ((70, 62), (60, 54))
    )
    folds = sum(np.sin(points @ way + phase) for way, phase in WAVES) / 2
    white, fluid = 1 / (1 + np.exp(-4 * (folds - 0.4))), 1 / (1 + np.exp(4 * (folds + 1.0)))
    bone, grey, bright, dark = {"t1": (0.4, 0.5, 0.5, -0.4), "t2": (0.2, 0.6, -0.25, 0.5)}[contrast]
    return bone * (skull - brain) + brain * (grey + bright * white + dark * fluid)


def scan(contrast, moved=None, shape=SHAPE, spacing=SPACING):
    """The head seen on a grid; `moved` maps points of the head to points of the scan."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.array(spacing) * (np.array(shape) - 1) / 2
    places = points_of(shape, affine)
    if moved is not None:
        back = np.linalg.inv(moved)
        places = places @ back[:3, :3].T + back[:3, 3]
    return Volume((1000 * head(places, contrast)).astype(np.float32), affine)


def slices_of(volume, thickness):
    """Planes of a scan averaged to slices of so many."""
    i, j, k = volume.shape
    affine = volume.affine @ np.diag([1, 1, thickness, 1.0])
    affine[:3, 3] += volume.affine[:3, 2] * (thickness - 1) / 2
    return Volume(volume.voxels.reshape(i, j, k // thickness, thickness).mean(axis=3), affine)


POINTS = np.argwhere(np.ones((5, 5, 5))) * 25.0 - 50


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(turned(0, (0, 0, 1), (6, -9, 4)), id="shifted", marks=pytest.mark.slow),
        pytest.param(turned(9, (1, 0.4, 0.2), (3, 8, -12)), id="turned"),
    ],
)
def test_a_planted_transform_between_two_contrasts_is_found(planted):
    found = register(scan("t1"), scan("t2", planted), check_mirror=False)

    assert displacement(found.transform, planted, POINTS) < 0.5
    assert displacement(np.eye(4), planted, POINTS) > 8
    assert found.information > found.before
    assert found.doubts() == []


@pytest.mark.slow
@pytest.mark.parametrize(("thickness", "bar"), [(1, 0.5), (5, 1.0)])
@pytest.mark.parametrize(
    "planted",
    [turned(0, (0, 0, 1), (6, -9, 4)), turned(11, (1, 0.4, 0.2), (3, 8, -12)), turned(6, (0, 1, 1), (2, 0, 7))],
)
def test_scans_of_a_scanner_are_found_to_below_a_slice(planted, thickness, bar):
    """Voxels of 1 x 1 x 1 mm, and slices of 5 mm, each the mean of what it shows."""
    one, other = (
        slices_of(scan(c, p, (144, 176, 120), (1, 1, 1)), thickness) for c, p in (("t1", None), ("t2", planted))
    )
    found = register(one, other, check_mirror=False)

    assert displacement(found.transform, planted, POINTS) < bar
    assert found.doubts() == []


@pytest.mark.slow
def test_the_same_registration_on_every_run():
    one, other = (register(scan("t1"), scan("t2", turned(4, (0, 0, 1), (5, 0, 0))), check_mirror=False) for _ in "ab")

    assert np.array_equal(one.transform, other.transform)


def test_resampling_brings_the_scan_onto_the_other():
    planted = turned(7, (0.2, 1, 0.1), (4, -6, 9))
    fixed = scan("t1")
    back = resampled(scan("t1", planted), fixed, planted)
    inside = (slice(10, -10),) * 3

    assert back.shape == fixed.shape and np.array_equal(back.affine, fixed.affine)
    assert np.abs(back.voxels[inside] - fixed.voxels[inside]).mean() < 25  # of 1000: two interpolations' worth


def test_labels_keep_their_values():
    labels = Volume(np.round(scan("t2").voxels / 300).astype(np.float32), scan("t2").affine)
    moved = resampled(labels, labels, turned(11, (0, 0, 1), (3.3, 1.7, 0)), nearest=True)

    assert set(np.unique(moved.voxels)) <= set(np.unique(labels.voxels))


@pytest.mark.slow
def test_a_mirrored_scan_is_doubted():
    """A mirror image agrees with a lopsided head better mirrored back."""
    found = register(scan("t1"), mirror(scan("t2", turned(3, (0, 0, 1), (2, 2, 0)))))

    assert any("mirror image" in doubt for doubt in found.doubts())


@pytest.mark.slow
def test_a_true_scan_is_not_taken_for_a_mirrored_one():
    found = register(scan("t1"), scan("t2", turned(5, (0, 1, 0), (2, 6, 3))))

    assert found.doubts() == []


def test_overlap_is_the_share_that_both_scans_show():
    whole, half = scan("t1"), scan("t1", shape=(40, 48, 16))
    low = Volume(whole.voxels[:, :, :16], whole.affine)

    assert overlap_of(whole, whole, np.eye(4)) == 1.0
    assert overlap_of(whole, low, np.eye(4)) == 1.0  # the smaller lies within the larger
    assert overlap_of(whole, half, turned(0, (0, 0, 1), (0, 0, 4.5 * 24))) < 0.7
    assert overlap_of(whole, whole, turned(0, (0, 0, 1), (500, 0, 0))) == 0.0


@pytest.mark.parametrize(
    ("figures", "doubt"),
    [
        ({"information": 0.001, "mirrored": 0.0}, "mutual information 0.001"),
        ({"overlap": 0.2}, "only 20% of the head"),
        ({"angle": 80.0}, "a turn of 80 degrees"),
        ({"shift": 200.0}, "a shift of 200 mm"),
        ({"mirrored": 0.9}, "left and right may be exchanged"),
    ],
)
def test_doubts_have_numbers(figures, doubt):
    plausible = {"information": 0.5, "before": 0.2, "mirrored": 0.3, "overlap": 0.95, "angle": 5.0, "shift": 8.0}
    assert Registration(np.eye(4), **plausible).doubts() == []
    (found,) = Registration(np.eye(4), **{**plausible, **figures}).doubts()

    assert doubt in found
