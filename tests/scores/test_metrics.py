"""Metrics against known answers and against scikit-image."""

import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsynth.plain import Array, Mask
from mrsynth.scores.metrics import (
    consistency,
    edges,
    ends,
    eroded,
    line_fit,
    mae,
    mse,
    nmse,
    psnr,
    ssim_map,
    to_unit,
)
from mrsynth.scores.protocols import Case, measure

structural_similarity = import_module("skimage.metrics").structural_similarity  # scikit-image has no types
peak_signal_noise_ratio = import_module("skimage.metrics").peak_signal_noise_ratio


def head(shape: tuple[int, int, int] = (40, 44, 36), noise: float = 0.1, seed: int = 0) -> tuple[Array, Array, Mask]:
    """An off-centre ellipsoid with texture: (prediction, truth, mask), zero outside the mask."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radii = [((x - c) / r) ** 2 for x, c, r in zip(grid, (0.1, 0.0, -0.1), (0.6, 0.7, 0.5), strict=True)]
    mask = np.sum(radii, axis=0) < 1
    truth = mask * (0.5 + 0.3 * np.sin(9 * grid[0]) * np.cos(7 * grid[1] + 3 * grid[2]))
    prediction = mask * np.clip(truth + noise * rng.standard_normal(shape), 0, 1)
    return prediction.astype(np.float32), truth.astype(np.float32), mask


def score(p: Array, y: Array, mask: Mask, *, slices: bool = False) -> dict[tuple[str, str], float]:
    """The figures of the whole and of the brain, for a truth that is in [0, 1] already."""
    names = ["full2d", "brain2d"] if slices else ["full3d", "brain3d"]
    rows = measure(Case(p, y, mask, window=(0.0, 1.0)), names, pattern="t1", target="t2")
    return {(row.region, row.metric): row.value for row in rows}


def test_ssim_agrees_with_scikit_image_in_3d() -> None:
    p, y, mask = head()
    oracle, full = structural_similarity(
        p, y, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    scores = score(p, y, mask)

    assert scores["volume", "SSIM"] == pytest.approx(oracle, abs=1e-4)
    assert scores["brain", "SSIM"] == pytest.approx(float(full[mask].mean()), abs=1e-4)


def test_ssim_of_slices_is_the_mean_of_scikit_images_2d_ssim() -> None:
    p, y, mask = head()
    picks = [9, 14, 15, 20]
    options = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    oracle = np.mean([structural_similarity(p[:, :, k], y[:, :, k], **options) for k in picks])
    figures = score(p[:, :, picks], y[:, :, picks], mask[:, :, picks], slices=True)

    assert figures["volume", "SSIM"] == pytest.approx(oracle, abs=1e-4)


def test_box_and_slabs_and_single_axes_give_monais_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI convolves everything with all 1331 weights, in single precision: hence the tolerance."""
    import torch
    from monai.metrics.regression import compute_ssim_and_cs

    p, y, _ = head((30, 34, 41))
    x, t = (torch.from_numpy(np.pad(v, 5))[None, None] for v in (p, y))
    whole, _ = compute_ssim_and_cs(x, t, spatial_dims=3, kernel_size=(11,) * 3, kernel_sigma=(1.5,) * 3)
    ours = ssim_map(p, y)
    np.testing.assert_allclose(ours, whole[0, 0].numpy(), atol=1e-4)

    monkeypatch.setattr("mrsynth.scores.metrics.SLAB", 5)
    np.testing.assert_allclose(ssim_map(p, y), ours, atol=1e-7)


@pytest.mark.parametrize("contrast", [1.0, 0.02])
def test_the_map_is_scikit_images_to_the_last_digit_even_where_images_are_flat(contrast: float) -> None:
    p, y, _ = head((24, 26, 22))
    p, y = ((1 - contrast + contrast * v).astype(np.float32) for v in (p, y))
    options = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    inside = (slice(5, -5),) * 3  # scikit-image reflects at the edge, we see background there
    _, full = structural_similarity(p.astype(np.float64), y.astype(np.float64), full=True, **options)

    np.testing.assert_allclose(ssim_map(p, y)[inside], full[inside], atol=1e-6)


def test_known_answers_for_a_constant_error() -> None:
    """Off by 0.1 in a brain that fills a quarter: 20 dB there, 6.02 dB more over the volume; a fit forgives it."""
    mask = np.zeros((16, 16, 16), bool)
    mask[:8, :8] = True
    truth = np.where(mask, np.linspace(0.2, 0.7, 16)[None, None, :], 0).astype(np.float32)
    scores = score((truth + 0.1).astype(np.float32), truth, mask)

    assert scores["brain", "PSNR"] == pytest.approx(20.0, abs=1e-3)
    assert scores["volume", "PSNR"] == pytest.approx(20.0 + 10 * np.log10(4), abs=1e-3)
    assert scores["brain", "MSE"] == pytest.approx(0.01, abs=1e-6)
    assert scores["brain", "MAE"] == pytest.approx(0.1, abs=1e-6)
    assert scores["volume", "MAE"] == pytest.approx(0.025, abs=1e-6)
    assert scores["brain", "PSNR_FIT"] > 100


def test_perfect_prediction() -> None:
    _, y, mask = head((20, 20, 20))
    scores = score(y, y, mask)

    assert scores["volume", "PSNR"] == scores["brain", "PSNR"] == float("inf")
    assert scores["volume", "SSIM"] == scores["brain", "SSIM"] == pytest.approx(1.0)
    assert scores["volume", "MSE"] == scores["brain", "MAE"] == 0


def test_line_fit_agrees_with_the_protocols_polyfit() -> None:
    p, y, mask = head()
    p = p**2
    slope, offset = np.polyfit(p[mask].astype("float64"), y[mask].astype("float64"), 1)
    oracle = -10 * np.log10(np.mean((np.clip(slope * p[mask] + offset, 0, 1) - y[mask]) ** 2))

    assert score(p, y, mask)["brain", "PSNR_FIT"] == pytest.approx(oracle, abs=1e-4)


def test_a_constant_prediction_has_a_fit_the_mean() -> None:
    _, y, mask = head((20, 20, 20))
    scores = score(np.full_like(y, 0.3), y, mask)

    assert scores["brain", "PSNR_FIT"] == pytest.approx(-10 * np.log10(y[mask].astype(np.float64).var()), abs=1e-3)


def test_what_lies_outside_the_mask_changes_nothing() -> None:
    p, y, mask = head((24, 24, 24))
    dirty = score(np.where(mask, p, np.nan), np.where(mask, y, 7), mask)

    assert dirty == score(p, y, mask)


@given(scale=st.floats(0.5, 2000), shift=st.floats(-100, 100))
@settings(max_examples=20, deadline=None)
def test_to_unit_forgets_scale_and_offset(scale: float, shift: float) -> None:
    truth = np.random.default_rng(3).gamma(2.0, 1.0, (12, 13, 14))
    unit = to_unit(truth.astype(np.float32))

    np.testing.assert_allclose(to_unit((scale * truth + shift).astype(np.float32)), unit, atol=2e-3)
    assert (unit.min(), unit.max()) == (0, 1)


def test_to_unit_of_a_constant_volume_is_zero() -> None:
    assert not to_unit(np.full((4, 4, 4), 5, np.float32)).any()


def test_range_only_names_the_unit() -> None:
    p, y, _ = head((20, 22, 24))

    assert psnr(255 * p, 255 * y, 255) == pytest.approx(psnr(p, y), abs=1e-4)
    np.testing.assert_allclose(ssim_map(255 * p, 255 * y, data_range=255), ssim_map(p, y), atol=1e-5)


def test_thin_volumes_are_scored_whole() -> None:
    p, y, mask = head((20, 22, 7))

    assert 0 < score(p, y, mask)["volume", "SSIM"] < 1


def test_slices_do_not_see_each_other() -> None:
    p, y, mask = head()
    order = np.random.default_rng(1).permutation(p.shape[2])
    shuffled = score(p[:, :, order], y[:, :, order], mask[:, :, order], slices=True)

    assert shuffled["brain", "SSIM"] == pytest.approx(score(p, y, mask, slices=True)["brain", "SSIM"], abs=1e-6)


@pytest.mark.parametrize("mask_shape", [(8, 8, 8), (8, 8, 9)])
def test_empty_or_misshapen_masks_are_refused(mask_shape: tuple[int, int, int]) -> None:
    image = np.zeros((8, 8, 8), np.float32)
    with pytest.raises(ValueError, match="mask"):
        score(image, image, np.zeros(mask_shape, bool))


def test_psnr_of_a_tenth_is_20_db() -> None:
    assert psnr(np.full(9, 0.6, np.float32), np.full(9, 0.5, np.float32)) == pytest.approx(20, abs=1e-4)


def test_importing_metrics_loads_neither_torch_nor_monai() -> None:
    code = "import sys, mrsynth.scores.metrics; sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_psnr_agrees_with_scikit_image() -> None:
    p, y, _ = head()

    assert psnr(p, y) == pytest.approx(peak_signal_noise_ratio(y, p, data_range=1.0), abs=1e-6)
    assert psnr(p[:, :, 14], y[:, :, 14]) == pytest.approx(
        peak_signal_noise_ratio(y[:, :, 14], p[:, :, 14], data_range=1.0), abs=1e-6
    )


def test_psnr_of_what_is_no_number_is_none_either() -> None:
    assert np.isnan(psnr(np.full(3, np.nan, np.float32), np.zeros(3, np.float32)))


def test_errors_worked_out_by_hand() -> None:
    """Errors 0.5, -0.25 and 0 of a truth of 0.5, 0.5 and 1."""
    truth = np.array([0.5, 0.5, 1.0], np.float32)
    made = np.array([1.0, 0.25, 1.0], np.float32)

    assert mse(made, truth) == pytest.approx(0.3125 / 3)
    assert mae(made, truth) == pytest.approx(0.25)
    assert nmse(made, truth) == pytest.approx(0.3125 / 1.5)
    assert nmse(3 * made, 3 * truth) == pytest.approx(nmse(made, truth))
    assert nmse(0 * made, truth) == 1


def test_nmse_of_an_empty_truth() -> None:
    zero = np.zeros(3, np.float32)

    assert nmse(zero, zero) == 0
    assert nmse(zero + 1, zero) == float("inf")
    assert np.isnan(nmse(zero, zero + np.float32("nan"))) and np.isnan(nmse(zero + np.float32("nan"), zero))
    assert np.isnan(nmse(zero + np.float32("nan"), zero + 1))


def errors(within: float, between: float, shape: tuple[int, int, int] = (24, 24, 400), seed: int = 0) -> Array:
    """White noise in every voxel and an offset in every slice, with these deviations."""
    rng = np.random.default_rng(seed)
    offsets = between * rng.standard_normal(shape[2])
    return (within * rng.standard_normal(shape) + offsets).astype(np.float32)


@pytest.mark.parametrize(("within", "between"), [(0.1, 0.0), (0.1, 0.1), (0.05, 0.2), (0.2, 0.05)])
def test_consistency_of_noise_and_of_offsets_is_the_closed_form(within: float, between: float) -> None:
    e = errors(within, between)
    found = consistency(e, np.zeros_like(e), np.ones(e.shape, bool))

    assert found == pytest.approx(np.sqrt(1 + between**2 / within**2), rel=0.05)  # 400 slices are few


def test_consistency_of_a_perfect_prediction_and_of_a_constant_error_is_1() -> None:
    truth = np.random.default_rng(0).random((12, 13, 14), dtype=np.float32)
    mask = np.ones(truth.shape, bool)

    assert consistency(truth, truth, mask) == 1
    assert consistency(truth + np.float32(0.1), truth, mask) == pytest.approx(1, abs=1e-5)


def test_consistency_worked_out_by_hand() -> None:
    """Steps of 0.1 along I, 0.2 along J, 0.3 along K: as many along I as along J."""
    i, j, k = np.indices((4, 4, 5))
    e = (0.1 * i + 0.2 * j + 0.3 * k).astype(np.float32)
    mask = np.ones(e.shape, bool)

    assert consistency(e, 0 * e, mask) == pytest.approx(np.sqrt(0.09 / 0.025), rel=1e-4)
    assert consistency(e.transpose(1, 0, 2), 0 * e.transpose(1, 0, 2), mask) == pytest.approx(np.sqrt(3.6), rel=1e-4)
    assert consistency(e[:, :, ::-1], 0 * e, mask) == pytest.approx(np.sqrt(3.6), rel=1e-4)


def test_offsets_alone_are_as_inconsistent_as_the_smallest_visible_change_allows() -> None:
    e = np.zeros((5, 5, 2), np.float32)
    e[:, :, 1] = 0.1

    assert consistency(e, 0 * e, np.ones(e.shape, bool)) == pytest.approx(0.1 / 1e-4, rel=1e-3)


def test_slices_made_one_by_one_are_less_consistent_than_the_same_slices_in_order() -> None:
    smooth = np.sin(np.linspace(0, 6, 60)).astype(np.float32) * np.ones((8, 8, 1), np.float32) + errors(
        0.02, 0, (8, 8, 60)
    )
    mask = np.ones(smooth.shape, bool)
    order = np.random.default_rng(1).permutation(60)
    whole, shuffled = (consistency(e, 0 * smooth, mask) for e in (smooth, smooth[:, :, order]))

    assert whole is not None and shuffled is not None
    assert shuffled > 3 * whole


def test_consistency_looks_only_at_neighbours_that_are_both_in_the_mask() -> None:
    e = errors(0.1, 0.1, (16, 16, 20))
    mask = np.zeros(e.shape, bool)
    mask[3:12, 4:15, 5:16] = True
    inside = e[3:12, 4:15, 5:16]
    expected = consistency(inside, 0 * inside, np.ones(inside.shape, bool))

    assert consistency(np.where(mask, e, 100), 0 * e, mask) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(8, 8, 1), (1, 1, 8)])
def test_without_neighbours_there_is_no_consistency(shape: tuple[int, int, int]) -> None:
    e = np.zeros(shape, np.float32)

    assert consistency(e, e, np.ones(shape, bool)) is None


def test_a_picture_turned_over_is_not_fitted_back() -> None:
    """0.1.0 gave an inverted image 34.2 dB; the best line that does not fall is the mean of the truth."""
    _, y, mask = head()
    truth = y[mask]
    turned = line_fit(1 - truth, truth)
    upright = line_fit(0.2 + 0.5 * truth, truth)

    assert turned.slope == pytest.approx(-1, abs=1e-5)
    np.testing.assert_allclose(turned.voxels, truth.mean(dtype=np.float64), atol=1e-6)
    assert psnr(turned.voxels, truth) == pytest.approx(-10 * np.log10(truth.astype(np.float64).var()), abs=1e-3)
    assert upright.slope == pytest.approx(2, abs=1e-4)
    np.testing.assert_allclose(upright.voxels, truth, atol=1e-5)


def test_ends_are_what_to_unit_brings_to_0_and_1() -> None:
    truth = np.random.default_rng(3).gamma(2.0, 1.0, (12, 13, 14)).astype(np.float32)

    np.testing.assert_array_equal(to_unit(truth), to_unit(truth, ends(truth)))


# Sharpness -----------------------------------------------------------------------------------------------------------


def box(*shape: int) -> Mask:
    return np.ones(shape, bool)


def test_edges_of_equal_images_are_alike_and_a_scaled_one_has_its_share() -> None:
    truth = np.random.default_rng(0).random((16, 17, 15), dtype=np.float32)

    assert edges(truth, truth, box(16, 17, 15)) == pytest.approx((1, 1))
    assert edges(0.3 * truth + 0.2, truth, box(16, 17, 15)) == pytest.approx((0.3, 1), abs=1e-5)


def test_edges_of_waves_are_the_closed_form() -> None:
    """Central differences of sin(w i) are sin(w) cos(w i): the ratio of two waves of equal height is that of sin(w)."""
    i = np.arange(3 + 360 + 3)[:, None, None] * np.ones((1, 9, 9))
    slow, fast = (np.sin(2 * np.pi * i / period).astype(np.float32) for period in (36, 12))
    found = edges(slow, fast, box(366, 9, 9))

    assert found is not None
    assert found.ratio == pytest.approx(np.sin(2 * np.pi / 36) / np.sin(2 * np.pi / 12) * 0.977, abs=0.03)
    slopes = edges(2 * i.astype(np.float32), i.astype(np.float32), box(366, 9, 9))
    assert slopes is not None and (slopes.ratio, slopes.correlation) == (
        2,
        None,
    )  # the truth has one gradient everywhere


def test_noise_is_sharp_and_does_not_correlate_and_blur_is_neither() -> None:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    truth = gaussian_filter(rng.standard_normal((48, 48, 24)), 1.0).astype(np.float32)
    other = gaussian_filter(rng.standard_normal((48, 48, 24)), 1.0).astype(np.float32)
    blurred = gaussian_filter(truth, 1.0)
    noise, blur = edges(other, truth, box(48, 48, 24)), edges(blurred, truth, box(48, 48, 24))

    assert noise is not None and blur is not None and noise.correlation is not None and blur.correlation is not None
    assert noise.ratio == pytest.approx(1, abs=0.05) and abs(noise.correlation) < 0.05
    assert blur.ratio < 0.6 and blur.correlation > 0.5


def test_changes_across_slices_and_at_the_rim_are_no_edges() -> None:
    truth = np.random.default_rng(2).random((20, 20, 20), dtype=np.float32)
    mask = box(20, 20, 20)
    steps = truth + np.arange(20, dtype=np.float32)[None, None, :]
    framed = truth.copy()
    framed[:2], framed[-2:] = 9, 9

    assert edges(steps, truth, mask) == pytest.approx((1, 1), abs=1e-4)
    assert edges(framed, truth, mask) == pytest.approx((1, 1))


def test_erosion_takes_three_voxels_off_every_face() -> None:
    mask = np.zeros((20, 18, 16), bool)
    mask[2:18, 3:15, :] = True

    assert np.argwhere(eroded(mask)).min(0).tolist() == [5, 6, 3]
    assert np.argwhere(eroded(mask)).max(0).tolist() == [14, 11, 12]
    flat = eroded(mask, axes=(0, 1))
    assert flat[:, :, 0].sum() == flat.sum() / 16 == 10 * 6
    assert not eroded(box(6, 9, 9)).any()
    from scipy.ndimage import binary_erosion

    blob = np.random.default_rng(0).random((14, 15, 16)) < 0.97
    np.testing.assert_array_equal(eroded(blob), binary_erosion(blob, iterations=3))


def test_without_a_deep_voxel_or_an_edge_there_is_no_sharpness() -> None:
    flat = np.full((12, 12, 12), 0.5, np.float32)

    assert edges(flat, flat, box(12, 12, 12)) is None
    assert edges(flat[:5], flat[:5], box(5, 12, 12)) is None
    truth = np.random.default_rng(0).random((12, 12, 12), dtype=np.float32)
    assert edges(flat, truth, box(12, 12, 12)) == (0, 0)
