"""What is brain and what is background, contrast by contrast, and what is said where they disagree."""

import numpy as np
import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.scans.foreground import background_of, differences, shown, shown_by_each, shows_air
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.volume import Volume
from tests.helpers import changed

T1, T1CE, T2, FLAIR = STANDARD


def told_of(volumes):
    return differences(shown_by_each(volumes))


def inside(volume):
    return volume.voxels != 0


@pytest.mark.parametrize("contrast", STANDARD)
def test_an_image_that_is_exactly_0_outside_shows_all_that_is_not(volumes, contrast):
    """Also the darkest voxel beside the brightest, and a voxel a thousand times as bright as any other."""
    voxels = volumes[contrast].voxels.copy()
    i, j, k = (axis[0] for axis in voxels.nonzero())
    voxels[i, j, k] = 1
    voxels[20, 22, 16] = 1000 * voxels.max()
    assert np.array_equal(shown(contrast, changed(volumes[contrast], voxels)), voxels != 0)


@pytest.mark.parametrize("sign", ["positive", "both"])
@pytest.mark.parametrize("share", [1.0, 0.5], ids=["everywhere", "clipped to 0 in half"])
@pytest.mark.parametrize("size", [1e-7, 1e-5, 1e-4])
def test_dust_of_resampling_is_background(volumes, size, share, sign):
    rng = np.random.default_rng(0)
    brain = volumes[FLAIR].voxels
    dust = rng.standard_normal(brain.shape) * size * brain.max() * (rng.random(brain.shape) < share)
    dusty = changed(volumes[FLAIR], np.where(brain != 0, brain, np.abs(dust) if sign == "positive" else dust))
    assert np.array_equal(shown(FLAIR, dusty), brain != 0)

    clean = prepare_of(volumes, [T1, T2, FLAIR])
    assert np.array_equal(prepare_of({**volumes, FLAIR: dusty}, [T1, T2, FLAIR]).mask, clean.mask)


def prepare_of(volumes, contrasts, mask=None):
    from mrsynth.scans.subject import Subject

    return prepare(Subject("s", {c: volumes[c] for c in contrasts}, mask=mask), STANDARD, PreparationConfig())


@pytest.mark.parametrize("value", [12, 3, -5])
def test_a_background_that_is_not_0_is_refused_unless_a_mask_says_what_is_outside(volumes, value):
    voxels = np.where(inside(volumes[T2]), volumes[T2].voxels, value)
    filled = {**volumes, T2: changed(volumes[T2], voxels)}
    assert background_of(filled[T2]) == value and background_of(volumes[T2]) == 0
    with pytest.raises(InputError, match=f"T2 background is {value}; mrsynth expects exactly 0"):
        prepare_of(filled, [T1, T2])
    if value > 0:
        mask = changed(volumes[T1], inside(volumes[T1]))
        assert np.array_equal(prepare_of(filled, [T1, T2], mask).mask, prepare_of(volumes, [T1, T2]).mask)


def test_contrasts_that_agree_are_not_spoken_of(volumes):
    assert told_of(volumes) == [] and told_of({T1: volumes[T1]}) == []
    edge = changed(
        volumes[T2], np.where(np.random.default_rng(0).random(volumes[T2].shape) < 0.01, 0, volumes[T2].voxels)
    )
    assert told_of({**volumes, T2: edge}) == []


def test_partial_coverage_is_told_with_its_share(volumes):
    voxels = volumes[FLAIR].voxels.copy()
    brain = inside(volumes[T1])
    last = np.flatnonzero(brain.any(axis=(0, 1)))[-8:]
    voxels[..., last] = 0
    share = brain[..., last].sum() / brain.sum()
    (told,) = told_of({**volumes, FLAIR: changed(volumes[FLAIR], voxels)})
    assert told.startswith(f"FLAIR lacks {share:.0%} of the brain that the other contrasts show")


def test_one_contrast_with_its_skull_is_told(volumes):
    grown = np.where(inside(volumes[T1]), volumes[T1].voxels, 300)
    grown[0], grown[:, 0], grown[..., 0] = 0, 0, 0
    (told,) = told_of({c: v for c, v in volumes.items() if c is not T1} | {T1: changed(volumes[T1], grown)})
    factor = (grown != 0).sum() / inside(volumes[T2]).sum()
    assert told.startswith(f"The foreground of T1 is {factor:.2f} times that of T1ce, T2, FLAIR")


def test_a_contrast_that_covers_a_part_makes_no_other_look_larger(volumes):
    part = np.where(np.arange(volumes[T2].shape[2]) < volumes[T2].shape[2] // 2, volumes[T2].voxels, 0)
    (told,) = told_of({T1: volumes[T1], FLAIR: volumes[FLAIR], T2: changed(volumes[T2], part)})
    assert told.startswith("T2 lacks ")


def test_air_around_a_head_is_told_from_the_empty_faces_around_a_brain() -> None:
    noise = np.abs(np.random.default_rng(0).standard_normal((20, 22, 18))).astype(np.float32) + np.float32(1)
    i, j, k = (np.linspace(-1, 1, n) for n in noise.shape)
    ball = i[:, None, None] ** 2 + j[None, :, None] ** 2 + k[None, None, :] ** 2 <= 1
    brain = np.where(ball, noise * 100, np.float32(0)).astype(np.float32)  # cut out as tightly as can be
    slab = brain[:, :, 8:11]
    head = np.where(ball, brain, noise).astype(np.float32)
    flat = np.where(ball, brain, np.float32(12)).astype(np.float32)

    def shows(voxels: np.ndarray, contrast: Contrast = Contrast.T1) -> bool:
        return shows_air(contrast, Volume(voxels, np.eye(4)))

    assert shows(head) and shows(head[:, :, 8:11])
    assert not any(shows(voxels) for voxels in (brain, slab, flat)) and not shows(head, Contrast.CT)
