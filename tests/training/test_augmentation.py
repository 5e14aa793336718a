"""What augmentation may and may not change."""

from itertools import permutations

import numpy as np
import pytest
import torch
from monai.transforms import RandAffine, RandBiasField

from mrsynth.training.augmentation import (
    AugmentationConfig,
    augment_geometry,
    augment_intensity,
    augment_labelled,
    bent,
    bias_field,
    blurred,
    deformation,
)

ALL = AugmentationConfig(flip=0.5, affine=1, elastic=3, curve=1, blur=1, gamma=0.3, gain=0.2, bias_field=0.3)
NOTHING = AugmentationConfig(flip=0)


def stack(count=6, size=(40, 48)):
    """Ellipses of different intensities on background 0."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    brain = (x + 0.1) ** 2 + 1.5 * (y - 0.2) ** 2 < 0.5
    return torch.from_numpy(np.stack([brain * (0.3 + 0.1 * i) for i in range(count)]).astype(np.float32))


def random(seed=0):
    return np.random.default_rng(seed)


def channels(*values):
    return np.array(values)


def both(images, config, seed):
    """Geometry, then the intensities of three contrasts with two images each."""
    generator = random(seed)
    moved = augment_geometry(images, config, generator)
    return augment_intensity(moved, channels(0, 0, 1, 1, 2, 2), config, generator)


def test_the_generator_decides_and_nothing_else():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  MONAI's transforms have a global generator to fall back on
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    results = [both(stack(), ALL, seed) for seed in (5, 5, 6)]

    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_nothing_asked_changes_nothing():
    assert torch.equal(both(stack(), NOTHING, 0), stack())


@pytest.mark.parametrize("seed", range(4))
def test_results_are_plain_tensors_in_range_on_the_same_background(seed):
    images = stack()
    moved = augment_geometry(images, ALL, random(seed))
    changed = augment_intensity(moved, channels(0, 0, 1, 1, 2, 2), ALL, random(seed))

    for result in (moved, changed):
        assert type(result) is torch.Tensor  # not MONAI's, which slows down all that follows
        assert result.shape == images.shape and result.dtype == torch.float32 and result.is_contiguous()
    assert changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed == 0, moved == 0)


@pytest.mark.parametrize("seed", range(4))
def test_geometry_moves_all_images_alike(seed):
    images = stack()
    moved = augment_geometry(images, ALL, random(seed))

    assert torch.allclose(
        moved / 0.3, (moved[:1] / images[:1].max()) * (images.amax((1, 2)) / 0.3)[:, None, None], atol=1e-5
    )
    assert not torch.equal(moved, images)
    area = (moved[0] > 0.15).sum() / (images[0] > 0.15).sum()
    assert 0.85 < area < 1.15


def test_a_flip_turns_left_and_right():
    flipped = augment_geometry(stack(), AugmentationConfig(flip=1), random())

    assert torch.equal(flipped, stack().flip(1))


def test_images_marked_minus_one_are_left_alone():
    """The truth keeps its intensities."""
    images = stack()
    changed = augment_intensity(images, channels(0, -1, 1, -1, 2, -1), ALL, random())

    assert torch.equal(changed[1::2], images[1::2])
    assert not torch.isclose(changed[::2], images[::2]).flatten(1).all(1).any()
    assert torch.equal(images, stack())  # not in place


def test_images_of_one_contrast_change_alike_and_contrasts_differently():
    images = stack()[:1].repeat(4, 1, 1)
    changed = augment_intensity(images, channels(0, 0, 1, 1), ALL, random())

    assert torch.equal(changed[0], changed[1]) and torch.equal(changed[2], changed[3])
    assert not torch.allclose(changed[0], changed[2])


def test_gain_and_gamma_stay_within_their_limits():
    images = stack()[:1] / 0.3 * 0.5
    factors, powers = [], []
    for seed in range(200):
        one = augment_intensity(images, channels(0), AugmentationConfig(gain=0.2), random(seed))
        factors.append(float(one.max()) / 0.5)
        two = augment_intensity(images, channels(0), AugmentationConfig(gamma=0.25), random(seed))
        powers.append(np.log(float(two.max())) / np.log(0.5))

    assert 0.8 <= min(factors) < 0.82 and 1.18 < max(factors) <= 1.2
    assert 0.8 <= min(powers) < 0.82 and 1.22 < max(powers) <= 1.25


def test_a_bias_field_is_the_exponential_of_a_cubic():
    """So its logarithm has no fourth difference along either axis."""
    images = torch.full((1, 40, 48), 0.4)
    changed = augment_intensity(images, channels(0), AugmentationConfig(bias_field=0.05), random(1))[0]

    logarithm = changed.double().log()
    assert logarithm.std() > 0.01
    assert max(float(logarithm.diff(n=4, dim=d).abs().max()) for d in (0, 1)) < 1e-5


@pytest.mark.parametrize("size", [(40, 48), (20, 24, 16)])
def test_a_deformation_moves_no_voxel_further_than_asked_and_neighbours_nearly_alike(size):
    moves = deformation(size, 3.0, random(2))[0].movedim(-1, 0).flip(0)  # by axis
    voxels = moves * torch.tensor([(n - 1) / 2 for n in size]).view(-1, *[1] * len(size))

    assert voxels.square().sum(0).max().sqrt() == pytest.approx(3, rel=1e-4)
    assert max(float(voxels.diff(dim=axis + 1).abs().max()) for axis in range(len(size))) < 1.5
    for axis, n in enumerate(size):  # nothing that an affine transform does: no shift, no slope along any axis
        x = torch.linspace(-1, 1, n).view([-1 if a == axis else 1 for a in range(len(size))])
        assert abs(float((voxels[axis] * x).mean())) < 0.3 * float(voxels[axis].std())


def test_a_deformation_bends_a_line():
    """A straight edge is none any more, and as many voxels lie beyond it as before, nearly."""
    edge = (torch.arange(48) < 24).float().expand(1, 40, 48)
    config = AugmentationConfig(flip=0, elastic=4)
    crossings = augment_geometry(edge, config, random(1))[0].sum(1)

    assert 1 < float(crossings.max() - crossings.min()) <= 8 and abs(float(crossings.mean()) - 24) < 2


def test_a_curve_rises_keeps_black_and_white_and_bends_as_far_as_asked():
    ramp = torch.linspace(0, 1, 1001)
    for seed in range(20):
        made = augment_intensity(ramp.view(1, 1, -1), channels(0), AugmentationConfig(curve=1), random(seed))[0, 0]
        slopes = made.diff() * 1000
        assert made[0] == 0 and made[-1] == pytest.approx(1) and float(slopes.min()) > 0
        assert 1.05 < float(slopes.max() / slopes.min()) <= 4 * 1.01
    assert torch.allclose(bent(ramp, np.full(8, 3.0)), ramp, atol=1e-6)


@pytest.mark.parametrize("size", [(21, 25), (15, 17, 13)])
def test_blur_is_a_gaussian_along_each_axis(size):
    point = torch.full((1, *size), 0.1)
    middle = tuple(n // 2 for n in size)
    point[(0, *middle)] = 0.9
    sigmas = [0.5, 1.5, 1.0][: len(size)]
    made = blurred(point, sigmas)[0] - 0.1

    assert float(made.sum()) == pytest.approx(0.8, rel=1e-3)
    for axis, sigma in enumerate(sigmas):
        profile = made.sum([a for a in range(len(size)) if a != axis]) / 0.8
        x = torch.arange(size[axis]) - middle[axis]
        assert float((profile * x**2).sum()) == pytest.approx(sigma**2, rel=0.15)


def test_blur_neither_leaves_the_brain_nor_darkens_its_rim():
    images = stack(1)
    made = blurred(images, [2.0, 2.0])

    assert torch.allclose(made, images, atol=1e-5)


# Volumes -------------------------------------------------------------------------------------------------------------


def volumes(count=6, size=(20, 24, 16)):
    """Ellipsoids of different intensities on background 0."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    brain = (x + 0.1) ** 2 + 1.5 * (y - 0.2) ** 2 + 2 * (z - 0.1) ** 2 < 0.6
    return torch.from_numpy(np.stack([brain * (0.3 + 0.1 * i) for i in range(count)]).astype(np.float32))


def test_of_volumes_too_the_generator_decides():
    one, again, other = (both(volumes(), ALL, seed) for seed in (5, 5, 6))

    assert torch.equal(one, again) and not torch.equal(one, other)
    assert type(one) is torch.Tensor and one.shape == volumes().shape and one.is_contiguous()
    assert torch.equal(both(volumes(), NOTHING, 0), volumes())


@pytest.mark.parametrize("seed", range(4))
def test_geometry_moves_all_contrasts_of_a_volume_alike(seed):
    moved = augment_geometry(volumes(), ALL, random(seed))

    assert all(torch.allclose(moved[i] / (0.3 + 0.1 * i), moved[0] / 0.3, atol=1e-5) for i in range(6))
    assert 0.7 < (moved[0] > 0.15).sum() / (volumes()[0] > 0.15).sum() < 1.35  # 1.08 cubed, and rounding


def test_a_flip_of_a_volume_turns_left_and_right():
    assert torch.equal(augment_geometry(volumes(), AugmentationConfig(flip=1), random()), volumes().flip(1))


@pytest.mark.parametrize("axis", range(3))
def test_volumes_are_scaled_along_each_axis(axis):
    """Of a box without rotation only the extents change, each by its own factor."""
    box = torch.zeros(1, 40, 40, 40)
    box[:, 10:30, 10:30, 10:30] = 1
    changes = AugmentationConfig(flip=0, affine=1, rotation=0, scaling=0.3)
    others = [d for d in (1, 2, 3) if d != axis + 1]
    widths = [
        float(augment_geometry(box, changes, random(s))[0].amax([d - 1 for d in others]).sum()) for s in range(12)
    ]

    assert max(widths) - min(widths) > 6
    assert all(20 / 1.3 - 1 <= w <= 20 / 0.7 + 1 for w in widths)


@pytest.mark.parametrize(("along", "across"), list(permutations(range(3), 2)))
def test_volumes_are_turned_about_each_axis(along, across):
    """A rod along one axis leans towards each of the others."""
    where = [slice(15, 17)] * 3
    where[along] = slice(4, 28)
    rod = torch.zeros(1, 32, 32, 32)
    rod[(0, *where)] = 1
    turns = AugmentationConfig(flip=0, affine=1, rotation=0.4, scaling=0)
    profiles = [augment_geometry(rod, turns, random(s))[0].amax([along, 3 - along - across]) for s in range(8)]

    assert max(int((profile > 0.3).sum()) for profile in profiles) >= 6


@pytest.mark.parametrize("seed", range(3))
def test_slices_are_moved_by_one_rotation_and_one_factor(seed):
    """As they always were: volumes must not move what methods of slices learn from."""
    changes = AugmentationConfig(flip=0, affine=1)
    generator = random(seed)
    generator.random(2)
    transform = RandAffine(
        prob=1.0, rotate_range=changes.rotation, scale_range=changes.scaling, mode="bilinear", padding_mode="zeros"
    )
    transform.set_random_state(seed=int(generator.integers(2**31)))

    moved = augment_geometry(stack(), changes, random(seed))

    assert torch.allclose(moved, torch.as_tensor(transform(stack())), atol=1e-4)


def test_intensities_of_volumes_change_contrast_by_contrast():
    changed = augment_intensity(volumes()[:1].repeat(4, 1, 1, 1), channels(0, 0, 1, -1), ALL, random())

    assert torch.equal(changed[0], changed[1]) and torch.equal(changed[3], volumes()[0])
    assert not torch.allclose(changed[0], changed[2], atol=0.01)
    assert not changed[volumes()[:1].repeat(4, 1, 1, 1) == 0].any()  # background stays


def test_the_bias_field_of_a_volume_is_smooth_in_three_dimensions():
    flat = torch.full((1, 20, 24, 16), 0.4)
    logarithm = augment_intensity(flat, channels(0), AugmentationConfig(bias_field=0.05), random(1))[0].double().log()

    assert all(float(logarithm.diff(dim=d).abs().max()) > 1e-4 for d in range(3))
    assert max(float(logarithm.diff(n=4, dim=d).abs().max()) for d in range(3)) < 1e-5


# Labels --------------------------------------------------------------------------------------------------------------


def blocks(*size):
    """int64: large blocks with the labels 1, 2 and 4 on 0, none of them symmetric."""
    labels = torch.zeros(size, dtype=torch.long)
    i, j = size[0], size[1]
    labels[i // 8 : i // 2, j // 4 : j // 2] = 1
    labels[i // 2 : 5 * i // 8, j // 4 : 3 * j // 4] = 2
    labels[i // 4 : i // 2, j // 2 : 3 * j // 4] = 4
    return labels


@pytest.mark.parametrize("size", [(40, 48), (24, 32, 16)])
@pytest.mark.parametrize("seed", range(6))
def test_labels_move_with_the_images(size, seed):
    """The images are one for each label, 1 where it is: moved along, each shows the share of its label in a voxel."""
    labels = blocks(*size)
    values = torch.tensor([0, 1, 2, 4])
    images = torch.stack([(labels == value).float() for value in values])
    shares, turned = augment_labelled(images, labels, AugmentationConfig(flip=0.5, affine=0.7), random(seed))

    assert turned.dtype == torch.long and turned.shape == labels.shape
    assert turned.unique().tolist() == values.tolist()
    chosen = torch.stack([turned == value for value in values])
    assert float(shares[1:][chosen[1:]].min()) > 0.99 * 0.5 ** len(size)  # of the nearest of 2 or 4 or 8 voxels
    certain = shares > 0.999
    assert bool(chosen[certain].all()) and float(certain.any(0).float().mean()) > 0.6


def test_there_are_flips_and_turns_among_those_seeds():
    labels, flip = blocks(40, 48), AugmentationConfig(flip=0.5)
    turned = [augment_labelled(labels[None] / 4, labels, ALL, random(seed))[1] for seed in range(6)]
    flipped = [augment_labelled(labels[None] / 4, labels, flip, random(seed))[1] for seed in range(6)]

    assert sum(not (torch.equal(t, labels) or torch.equal(t, labels.flip(0))) for t in turned) >= 4
    assert {torch.equal(f, labels) for f in flipped} == {True, False}
    assert all(torch.equal(f, labels) or torch.equal(f, labels.flip(0)) for f in flipped)


@pytest.mark.parametrize("seed", range(4))
def test_labels_change_nothing_for_the_images(seed):
    """Neither what becomes of them nor what the generator gives afterwards."""
    one, other = random(seed), random(seed)
    moved, _ = augment_labelled(stack(), blocks(40, 48), ALL, one)

    assert torch.equal(moved, augment_geometry(stack(), ALL, other))
    assert one.random() == other.random()


def test_where_there_are_no_labels_none_come_in_from_outside():
    none = torch.full((40, 48), -1)
    moved, turned = augment_labelled(stack(), none, ALL, random())

    assert torch.equal(turned, none) and torch.equal(moved, augment_geometry(stack(), ALL, random()))


# MONAI's, by which 0.1.0 did it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(40, 47), (20, 24, 16)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_turning_is_what_monai_makes_of_the_same_draws(size, seed, mode):
    generator = random(seed)
    generator.random(2)
    axes = 1 if len(size) == 2 else 3
    theirs = RandAffine(prob=1, rotate_range=[0.4] * axes, scale_range=[0.2] * axes, padding_mode="zeros")
    theirs.set_random_state(seed=int(generator.integers(2**31)))
    config = AugmentationConfig(flip=0, affine=1, rotation=0.4, scaling=0.2)
    images = torch.rand(2, *size, generator=torch.Generator().manual_seed(seed))
    labels = (images[0] * 4).long()
    moved, turned = augment_labelled(images, labels, config, random(seed))

    if mode == "bilinear":
        assert torch.allclose(moved, torch.as_tensor(theirs(images, mode=mode)), atol=1e-4)
    else:
        expected = torch.as_tensor(theirs(labels[None].float(), mode=mode)).long()[0]
        assert (turned != expected).float().mean() < 0.002  # half way between two voxels rounding decides


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(40, 47), (20, 24, 16)])
def test_a_bias_field_is_what_monai_makes_of_the_same_draws(size, seed):
    theirs = RandBiasField(prob=1, degree=3, coeff_range=(-0.3, 0.3))
    theirs.set_random_state(seed=seed)

    assert torch.allclose(bias_field(size, 0.3, seed), torch.as_tensor(theirs(torch.ones(1, *size)))[0], rtol=1e-5)
