"""Two intensity rules, and the images that neither can use."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.scans.intensity import IntensityRule, volume_quantile_unit
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "golden_preprocess.npz"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SMALL = PreparationConfig(multiple=4)
VOLUME = PreparationConfig(multiple=4, crop="full", depth_multiple=32, intensity="volume_quantiles")
MakeSubject = Callable[..., Subject]


def head(shape: tuple[int, int, int] = (17, 14, 11)) -> NDArray[np.float32]:
    """An ellipsoid of random intensities on zero."""
    inside = sum(x**2 for x in np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")) < 0.6
    return np.where(inside, np.random.default_rng(0).uniform(50, 900, shape), 0).astype(np.float32)


def one(voxels: NDArray[np.generic], mask: NDArray[np.bool_] | None = None, spacing: float = 1) -> Subject:
    affine = LPS @ np.diag([1, 1, spacing, 1])
    brain = None if mask is None else Volume(mask.astype(np.float32), affine)
    return Subject("patient", {Contrast.FLAIR: Volume(voxels.astype(np.float32), affine)}, mask=brain)


# The brain's quantile -------------------------------------------------------------------------------------------------


def test_scale_is_the_percentile_over_the_union_of_what_is_available(make_subject: MakeSubject) -> None:
    s = make_subject(contrasts=[Contrast.T1, Contrast.FLAIR])
    s.volumes[Contrast.T1].voxels[:, :9] = 0
    foreground = (s.volumes[Contrast.T1].voxels != 0) | (s.volumes[Contrast.FLAIR].voxels != 0)
    prepared = prepare(s, STANDARD, SMALL)

    for contrast in s.available:
        expected = np.quantile(s.volumes[contrast].voxels[foreground], 0.995)
        assert prepared.scales[contrast] == pytest.approx(expected, rel=1e-6)
    assert prepared.mask.sum() == foreground.sum()
    assert set(prepared.scales) == {Contrast.T1, Contrast.FLAIR}
    assert set(prepared.record["offsets"].values()) == {0.0}


def test_the_default_rule_in_four_lines() -> None:
    """Every bit of what existing checkpoints were trained on, written out."""
    voxels = head()
    prepared = prepare(one(voxels), [Contrast.FLAIR], PreparationConfig())
    box = voxels[tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(voxels))]
    u = np.clip(box / np.float32(np.quantile(voxels[voxels != 0], 0.995)), 0, 1)
    padding = [((16 - n) // 2, 16 - n - (16 - n) // 2) for n in u.shape[:2]]

    assert prepared.images.tobytes() == np.pad(u, [*padding, (0, 0)]).tobytes()


def test_a_few_negative_voxels_are_clipped() -> None:
    voxels = head()
    voxels[8, 6, 5] = -3
    prepared = prepare(one(voxels), STANDARD, SMALL)

    assert prepared.images.min() == 0 and prepared.mask.sum() == (voxels != 0).sum()


# The whole volume's quantiles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["a", "b"])
def test_volume_quantiles_are_those_of_the_released_weights(case: str) -> None:
    with np.load(GOLDEN) as golden:
        voxels, expected, (low, high) = (golden[f"{case}_{key}"] for key in ("in", "out", "quantiles"))
    unit, offset, scale = volume_quantile_unit(voxels)

    assert unit.dtype == np.float64
    np.testing.assert_allclose(unit, expected, rtol=0, atol=1e-12)
    assert [offset, offset + scale] == pytest.approx([low, high], abs=1e-9)
    np.testing.assert_allclose(unit * scale + offset, np.clip(voxels, low, high), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", ["a", "b"])
def test_a_model_sees_the_released_rule_with_its_background_and_zeros_in_the_padding(case: str) -> None:
    """In case b, with negative voxels, the background of the volume is above 0 and the padding is not."""
    with np.load(GOLDEN) as golden:
        voxels, expected = golden[f"{case}_in"], golden[f"{case}_out_f32"]
    prepared = prepare(one(voxels), [Contrast.T1, Contrast.FLAIR], VOLUME)
    corner = expected[0, 0, 0]

    np.testing.assert_array_equal(prepared.images[1], np.pad(expected, prepared.record["padding"]))
    assert (corner == 0) == (case == "a") and not prepared.images[0].any()
    assert prepared.scales[Contrast.FLAIR] * corner + prepared.record["offsets"]["flair"] == pytest.approx(0, abs=1e-4)
    assert "whole volume" in prepared.record["rule"]
    np.testing.assert_array_equal(
        prepared.restore(prepared.images[1]).voxels, np.where(voxels != 0, expected, np.float32(0))
    )


def test_volume_quantiles_are_taken_before_the_crop() -> None:
    """The same brain in a larger field of view has another scale: that is the rule, odd as it is."""
    narrow, wide = (one(np.pad(head(), pad)) for pad in (0, 20))
    brain = VOLUME.model_copy(update={"crop": "brain"})
    scales = [prepare(s, STANDARD, c).scales[Contrast.FLAIR] for s in (narrow, wide) for c in (VOLUME, brain)]

    assert scales[0] == scales[1] > scales[2] == scales[3]


def test_voxels_outside_a_given_brain_mask_count_as_background() -> None:
    """An image with its skull and a brain mask is the skull-stripped image the rule was made for."""
    voxels = head()
    mask = np.zeros(voxels.shape, bool)
    mask[4:13, 4:10, 3:8] = voxels[4:13, 4:10, 3:8] != 0
    prepared, stripped = (prepare(s, STANDARD, VOLUME) for s in (one(voxels, mask), one(voxels * mask)))

    np.testing.assert_array_equal(prepared.images, stripped.images)
    assert prepared.scales == stripped.scales


def test_the_foreground_is_that_of_all_contrasts_together(make_subject: MakeSubject) -> None:
    s = make_subject(contrasts=[Contrast.T1, Contrast.FLAIR])
    s.volumes[Contrast.T1].voxels[:, :9] = 0
    s.volumes[Contrast.FLAIR].voxels[:9] = 0
    prepared = prepare(s, STANDARD, VOLUME)

    np.testing.assert_array_equal(prepared.restore(np.ones_like(prepared.images[0])).voxels, s.foreground())


@pytest.mark.parametrize("negative", [False, True])
def test_resampling_leaves_background_and_edge_as_the_rule_gives_them(negative: bool) -> None:
    """A ball of one intensity with a brighter half keeps two levels on a flat background between thick slices."""
    grid = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in (40, 40, 15)], indexing="ij")
    ball = np.hypot(np.hypot(grid[0], grid[1]), 3 * grid[2]) < 16
    voxels = np.where(ball, np.where(grid[0] > 0, 800, 400), 0)
    if negative:
        voxels[12:14, 18:22, 5:10] = -80
    prepared = prepare(one(voxels, spacing=3), [Contrast.FLAIR], VOLUME)
    image, truth = prepared.images[0], (voxels - voxels.min()) / np.ptp(voxels)
    padding = zip(prepared.record["padding"], image.shape, strict=True)
    i, j, k = (slice(before, n - after) for (before, after), n in padding)

    np.testing.assert_allclose(image[i, j, k][~prepared.mask[i, j, k]], truth[0, 0, 0], atol=1e-6)
    usual = image[prepared.mask & (np.indices(image.shape)[0] > image.shape[0] // 2 + 1)]
    np.testing.assert_allclose(usual, 1, atol=1e-6)
    back = prepared.restore(image).voxels
    assert not back[~(voxels != 0)].any() and np.abs(back - truth)[voxels != 0].mean() < 0.02


# What no rule can use -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 7, -3.5])
def test_a_constant_volume_has_no_quantiles_to_stretch(value: float) -> None:
    with pytest.raises(InputError, match=rf"^p: T2 is {value:g} in all .* expected .* leave it out"):
        volume_quantile_unit(np.full((5, 6, 7), value), "p: T2")


def test_a_speck_is_clipped_to_a_constant_volume() -> None:
    voxels = np.zeros((20, 20, 20))
    voxels[3, 3, 3:5] = 50, 60

    assert "patient: FLAIR is 0 in all of its volume" in refusal(voxels, rule="volume_quantiles")


def refusal(
    voxels: NDArray[np.generic], mask: NDArray[np.bool_] | None = None, rule: IntensityRule = "brain_quantile"
) -> str:
    with pytest.raises(InputError) as caught:
        prepare(one(voxels, mask), STANDARD, PreparationConfig(multiple=4, intensity=rule))
    return str(caught.value)


@pytest.mark.parametrize("rule", ["brain_quantile", "volume_quantiles"])
def test_images_that_neither_rule_can_use_are_refused(rule: IntensityRule) -> None:
    inside = head() != 0
    message = refusal(np.where(inside, head(), -1024), rule=rule)

    assert "patient" in message and "FLAIR" in message and "-1024" in message and "Set the background to 0" in message
    z_scored = np.where(inside, (head() - head()[inside].mean()) / head()[inside].std(), 0)
    assert "z-scoring" in refusal(z_scored, rule=rule)
    assert "every voxel of the foreground" in refusal(inside * 7.0, rule=rule)
    assert "every voxel of FLAIR is 0" in refusal(head() * 0, rule=rule)
    assert "no voxel in common" in refusal(head(), ~inside, rule)


def test_a_percentile_that_is_not_positive_is_refused() -> None:
    """T1 fills the brain; FLAIR has one voxel, so its percentile is zero."""
    speck = np.zeros_like(head())
    speck[8, 6, 5] = 100
    s = Subject("p", {Contrast.T1: Volume(head(), LPS), Contrast.FLAIR: Volume(speck, LPS)})

    with pytest.raises(InputError, match=r"99\.5th percentile of FLAIR .* is 0"):
        prepare(s, STANDARD, SMALL)
