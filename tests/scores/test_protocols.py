"""Protocols against scikit-image, hand-made numbers and the script of the BraSyn organisers."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.plain import Array
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.scores.metrics import to_unit
from mrsynth.scores.protocols import BRASYN_ORDER, PROTOCOLS, Case, brasyn_dropped, scored_case

Table = dict[tuple[str, str], float]

skimage: Any = import_module("skimage.metrics")  # scikit-image has no types
legacy: Any = np.random  # the global generator, which the organisers of BraSyn seed
SSIM = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
REGIONS = {"WT": frozenset({1, 2, 4}), "TC": frozenset({1, 4}), "ET": frozenset({4})}
SHAPE = (40, 44, 36)
INFINITE = float("inf")


def make_case(shape: tuple[int, int, int] = SHAPE, noise: float = 0.1, seed: int = 0, **changes: Any) -> Case:
    """An off-centre ellipsoid with texture, a tumour with all labels, and a noisy prediction of it."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radii = [((x - c) / r) ** 2 for x, c, r in zip(grid, (0.1, 0.0, -0.1), (0.6, 0.7, 0.5), strict=True)]
    mask = np.sum(radii, axis=0) < 1
    truth = (900 * mask * (0.6 + 0.3 * np.sin(9 * grid[0]) * np.cos(7 * grid[1] + 3 * grid[2]))).astype(np.float32)
    prediction = mask * np.clip(to_unit(truth) + noise * rng.standard_normal(shape), 0, 1)
    labels = np.zeros(shape, np.int16)
    lesion = np.sum([(x - 0.2) ** 2 for x in grid], axis=0)
    for value, reach in ((2, 0.12), (1, 0.06), (4, 0.03)):
        labels[mask & (lesion < reach)] = value
    return replace(Case(prediction.astype(np.float32), truth, mask, labels, REGIONS), **changes)


def table(name: str, case: Case) -> Table:
    figures = PROTOCOLS[name].measure(case)
    found = {(region, metric): value for region, metric, value in figures}
    assert len(found) == len(figures), "a figure twice"
    return found


def unit(case: Case) -> Array:
    """The truth in [0, 1], by its definition."""
    low, high = np.quantile(case.truth.astype(np.float64), (0.001, 0.999))
    scaled: Array = ((np.clip(case.truth, low, high) - low) / (high - low) * case.mask).astype(np.float32)
    return scaled


def test_protocols_find_the_axial_slices_whatever_the_axes_of_the_file(make_subject: Callable[..., Subject]) -> None:
    """The same subject stored as axial and as coronal planes."""
    subject = make_subject("c", segmentation=True)
    assert subject.segmentation is not None

    def turned(volume: Volume) -> Volume:
        affine = volume.affine[:, [0, 2, 1, 3]].copy()  # I, K, J
        return Volume(np.ascontiguousarray(volume.voxels.transpose(0, 2, 1)), affine)

    other = Subject("c", {c: turned(v) for c, v in subject.volumes.items()}, turned(subject.segmentation))
    a, b = (scored_case(s, Contrast.T2, s.volumes[Contrast.T1].voxels, REGIONS) for s in (subject, other))
    for name in ("prediction", "truth", "mask", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.truth.shape == subject.reference.shape


# full3d, brain3d -----------------------------------------------------------------------------------------------------


def test_the_figures_that_full3d_and_brain3d_give() -> None:
    case = make_case(labels=None)

    assert {m for _, m in table("full3d", case)} == {"PSNR", "SSIM", "MSE", "MAE", "NMSE"}
    assert {m for _, m in table("brain3d", case)} == {
        *("PSNR", "PSNR_FIT", "SSIM", "MSE", "MAE", "NMSE", "CONSISTENCY", "SLOPE", "EDGE", "EDGE_R")
    }


def test_full3d_and_brain3d_agree_with_scikit_image() -> None:
    case = make_case()
    p, y, inside = case.prediction, unit(case), case.mask
    ssim, full = skimage.structural_similarity(p, y, full=True, **SSIM)
    whole, brain = table("full3d", case), table("brain3d", case)

    assert whole["volume", "PSNR"] == pytest.approx(skimage.peak_signal_noise_ratio(y, p, data_range=1), abs=1e-5)
    assert whole["volume", "SSIM"] == pytest.approx(ssim, abs=1e-6)
    assert whole["volume", "NMSE"] == pytest.approx(skimage.normalized_root_mse(y, p) ** 2, rel=1e-5)
    assert brain["brain", "PSNR"] == pytest.approx(
        skimage.peak_signal_noise_ratio(y[inside], p[inside], data_range=1), abs=1e-5
    )
    assert brain["brain", "SSIM"] == pytest.approx(full[inside].mean(), abs=1e-6)
    assert brain["brain", "NMSE"] == pytest.approx(((p - y)[inside] ** 2).sum() / (y[inside] ** 2).sum(), rel=1e-5)


@pytest.mark.parametrize("region", REGIONS)
def test_tumour_regions_are_scored_inside_alone(region: str) -> None:
    """Off by 0.1 in the enhancing tumour, by 0.2 in the rest of the core, by 0.3 in the oedema, by 0 elsewhere."""
    case = make_case(noise=0)
    assert case.labels is not None
    off = np.select([case.labels == 4, case.labels == 1, case.labels == 2], [0.1, 0.2, 0.3], 0)
    found = table("brain3d", replace(case, prediction=(to_unit(case.truth) - off).astype(np.float32)))
    errors = off[np.isin(case.labels, sorted(REGIONS[region]))]

    assert found[region, "MSE"] == pytest.approx((errors**2).mean(), rel=1e-4)
    assert found[region, "MAE"] == pytest.approx(errors.mean(), rel=1e-4)
    assert found[region, "PSNR"] == pytest.approx(-10 * np.log10((errors**2).mean()), abs=1e-3)


def test_without_labels_there_are_no_tumour_regions() -> None:
    assert {region for region, _ in table("brain3d", make_case(labels=None))} == {"brain"}


def test_a_region_without_a_voxel_has_no_row() -> None:
    case = make_case()
    assert case.labels is not None
    unenhanced = replace(case, labels=np.where(case.labels == 4, 0, case.labels).astype(np.int16))

    assert {region for region, _ in table("brain3d", unenhanced)} == {"brain", "WT", "TC"}


def test_regions_follow_the_labels_of_the_data_set() -> None:
    case = make_case()
    assert case.labels is not None
    newer = np.where(case.labels == 4, 3, case.labels).astype(np.int16)
    names = {"WT": frozenset({1, 2, 3}), "TC": frozenset({1, 3}), "ET": frozenset({3})}

    assert table("brain3d", replace(case, labels=newer, regions=names)) == table("brain3d", case)


def test_slices_made_apart_are_less_consistent() -> None:
    case = make_case(noise=0.02)
    offsets = 0.1 * np.random.default_rng(2).standard_normal(SHAPE[2])
    jumpy = replace(case, prediction=(case.prediction + offsets).astype(np.float32))

    assert table("brain3d", case)["brain", "CONSISTENCY"] == pytest.approx(1, abs=0.05)
    assert table("brain3d", jumpy)["brain", "CONSISTENCY"] > 3


# slice2d -------------------------------------------------------------------------------------------------------------


def test_slice2d_is_the_mean_over_slices_of_scikit_images_figures() -> None:
    case = make_case()
    p, y = case.prediction, unit(case)
    kept = [k for k in range(SHAPE[2]) if case.mask[:, :, k].sum() > 0.01 * SHAPE[0] * SHAPE[1]]
    assert 0 < len(kept) < SHAPE[2]
    ssim = [skimage.structural_similarity(p[:, :, k], y[:, :, k], **SSIM) for k in kept]
    psnr = [skimage.peak_signal_noise_ratio(y[:, :, k], p[:, :, k], data_range=1) for k in kept]
    mae = [np.abs(p[:, :, k] - y[:, :, k]).mean() for k in kept]
    found = table("slice2d", case)

    assert found["slices", "SSIM"] == pytest.approx(np.mean(ssim), abs=1e-6)
    assert found["slices", "PSNR"] == pytest.approx(np.mean(psnr), abs=1e-5)
    assert found["slices", "MSE"] == pytest.approx(
        np.mean([skimage.mean_squared_error(p[..., k], y[..., k]) for k in kept])
    )
    assert found["slices", "MAE"] == pytest.approx(np.mean(mae), rel=1e-5)


@pytest.mark.parametrize(("voxels", "counts"), [(4, False), (5, True)])
def test_slices_with_one_per_cent_of_foreground_do_not_count(voxels: int, counts: bool) -> None:
    """Slices of 20x20: 4 voxels are one per cent. The error is in that slice alone."""
    mask = np.zeros((20, 20, 4), bool)
    mask[2:18, 2:18, 0] = True
    mask[0, :voxels, 3] = True
    truth = np.where(mask, np.linspace(100, 200, mask.size).reshape(mask.shape), 0).astype(np.float32)
    prediction = to_unit(truth)
    prediction[0, :voxels, 3] = 0
    found = table("slice2d", Case(prediction, truth, mask))

    assert (found["slices", "MSE"] > 0) is counts


def test_no_slice_with_enough_foreground_gives_no_row() -> None:
    mask = np.zeros((30, 30, 6), bool)
    mask[10:12, 10:12, :] = True

    assert table("slice2d", Case(mask.astype(np.float32), 7 * mask.astype(np.float32), mask)) == {}


def test_the_order_of_slices_matters_to_volumes_and_not_to_slices() -> None:
    case = make_case()
    order = np.random.default_rng(0).permutation(SHAPE[2])
    turned = Case(*(v[:, :, order] for v in (case.prediction, case.truth, case.mask)))

    assert table("slice2d", turned)["slices", "SSIM"] == pytest.approx(
        table("slice2d", case)["slices", "SSIM"], abs=1e-9
    )
    assert table("full3d", turned)["volume", "SSIM"] != pytest.approx(table("full3d", case)["volume", "SSIM"], abs=1e-3)


# brasyn --------------------------------------------------------------------------------------------------------------


def test_brasyn_is_the_script_of_the_organisers() -> None:
    """Own percentiles for each image, masked by the tumour and by its complement, SSIM of the whole masked volumes."""
    case = make_case()
    assert case.labels is not None

    def own(image: Array) -> Array:
        low, high = np.percentile(image, (0.5, 99.5))
        low = max(low, 0)
        return (np.clip(image, low, high) - low) / (high - low)

    p, y = own(case.prediction), own(case.truth * case.mask)
    found = table("brasyn", case)

    assert found.keys() == {("tumour", "SSIM"), ("healthy", "SSIM")}
    for part, kept in (("tumour", case.labels > 0), ("healthy", case.labels == 0)):
        a, b = p * kept, y * kept
        span = max(np.ptp(a), np.ptp(b))
        oracle = skimage.structural_similarity(a, b, **SSIM | {"data_range": span})
        assert found[part, "SSIM"] == pytest.approx(oracle, abs=1e-6)


def test_brasyn_forgives_the_scale_of_the_prediction() -> None:
    case = make_case()

    assert table("brasyn", replace(case, prediction=case.prediction * np.float32(0.4))) == pytest.approx(
        table("brasyn", case), abs=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"labels": None}, set()),
        ({"regions": {}}, set()),
        ({"regions": {"lesion": frozenset({1})}}, set()),
        ({"labels": np.zeros(SHAPE, np.int16)}, {"healthy"}),
        ({}, {"healthy", "tumour"}),
    ],
)
def test_brasyn_gives_the_parts_that_can_be_known(changes: dict[str, Any], parts: set[str]) -> None:
    assert {region for region, _ in table("brasyn", make_case(**changes))} == parts


def test_brasyn_drops_what_numpys_legacy_generator_says() -> None:
    """The organisers' way: seed the global generator, sort the cases, draw one of four for each."""
    names = [f"BraTS-GLI-{n:05d}-000" for n in (3, 40, 7, 21, 100, 5, 6, 8, 9, 10, 11, 12)]
    state = legacy.get_state()
    try:
        legacy.seed(123456)
        together = legacy.randint(0, 4, size=len(names))
        legacy.seed(123456)
        singly = [legacy.randint(0, 4) for _ in names]
    finally:
        legacy.set_state(state)
    order = [Contrast.T1CE, Contrast.T1, Contrast.FLAIR, Contrast.T2]  # t1c, t1n, t2f, t2w

    assert list(together) == singly == [1, 2, 2, 1, 0, 3, 3, 3, 3, 0, 3, 0]
    assert brasyn_dropped(names) == {name: order[pick] for name, pick in zip(sorted(names), singly, strict=True)}
    assert tuple(order) == BRASYN_ORDER


def test_brasyn_asks_for_no_order_and_leaves_the_global_generator_alone() -> None:
    names = ["c", "a", "b", "a"]
    before = legacy.get_state()[1].copy()

    assert brasyn_dropped(names) == brasyn_dropped(iter(["a", "b", "c"]))
    assert brasyn_dropped(names) == {"a": Contrast.T1, "b": Contrast.FLAIR, "c": Contrast.FLAIR}
    assert brasyn_dropped([]) == {}
    np.testing.assert_array_equal(legacy.get_state()[1], before)


# cwdm ----------------------------------------------------------------------------------------------------------------


def placed(shape: tuple[int, int, int], brain: tuple[slice, slice, slice], error: float = 0.2) -> Case:
    """A brain of texture in a box of a volume, and a prediction that is too high by `error` in all of it."""
    rng = np.random.default_rng(5)
    mask = np.zeros(shape, bool)
    mask[brain] = True
    truth = np.zeros(shape, np.float32)
    truth[brain] = 300 + 100 * rng.random(truth[brain].shape)
    return Case(np.where(mask, to_unit(truth) + np.float32(error), 0).astype(np.float32), truth, mask)


@pytest.mark.parametrize(
    ("shape", "brain", "voxels"),
    [
        ((240, 240, 155), np.s_[100:130, 90:120, 60:90], 224 * 224 * 160),
        ((240, 240, 155), np.s_[0:30, 210:240, 125:155], 224 * 224 * 160),  # the published crop would cut it
        ((60, 64, 48), np.s_[10:40, 20:50, 10:40], 224 * 224 * 160),
        ((30, 30, 260), np.s_[5:20, 5:20, 20:220], 224 * 224 * 224),  # 200 slices do not fit into 160
        ((230, 20, 20), np.s_[0:226, 4:18, 2:16], 256 * 224 * 160),
    ],
)
def test_cwdm_counts_every_voxel_of_its_grid_and_cuts_no_brain(
    shape: tuple[int, int, int], brain: tuple[slice, slice, slice], voxels: int
) -> None:
    case = placed(shape, brain)
    found = table("cwdm", case)
    mse = 0.2**2 * case.mask.sum() / voxels

    assert found["volume", "MSE"] == pytest.approx(mse, rel=1e-4)
    assert found["volume", "PSNR"] == pytest.approx(-10 * np.log10(mse), abs=1e-3)
    assert found.keys() == {("volume", metric) for metric in ("PSNR", "SSIM", "MSE")}


def test_the_published_crop_takes_planes_off_the_first_axes_and_adds_some_to_the_third() -> None:
    """SSIM by scikit-image around the brain; everywhere else in the interior of 224x224x160 both are zero, so it is 1.

    The brain begins at the plane where the crop does: 5 planes of its grid see no whole window and do not count.
    """
    case = placed((240, 240, 155), np.s_[8:28, 100:120, 125:155])
    grid = [np.pad(v[8:232, 8:232], ((0, 0), (0, 0), (0, 5))) for v in (case.prediction, unit(case))]
    box = np.s_[0:35, 80:125, 105:160]  # ends 5 voxels after its last voxel that is not 1
    _, full = skimage.structural_similarity(*(v[box] for v in grid), full=True, **SSIM)
    inside = full[5:30, 5:40, 5:50]
    interior = 214 * 214 * 150

    assert table("cwdm", case)["volume", "SSIM"] == pytest.approx(
        (inside.sum() + interior - inside.size) / interior, abs=1e-7
    )


def test_cwdm_sets_low_predictions_to_zero_and_leaves_the_truth() -> None:
    shape = (24, 24, 24)
    truth = np.zeros(shape, np.float32)
    truth[4:20, 4:20, 4:20] = 1000
    truth[4, 4:8, 4], truth[5, 4:8, 4] = 10, 30
    prediction = to_unit(truth)
    prediction[4, 4:8, 4], prediction[5, 4:8, 4] = 0.04, 0.05  # the first becomes 0, the second stays
    expected = (4 * 0.01**2 + 4 * 0.02**2) / (224 * 224 * 160)

    assert table("cwdm", Case(prediction, truth, truth > 0))["volume", "MSE"] == pytest.approx(expected, rel=1e-4)


# What holds for all --------------------------------------------------------------------------------------------------


def quick_case(**changes: Any) -> Case:
    return make_case((26, 24, 22), **changes)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_mirror_changes_nothing(name: str) -> None:
    case = quick_case()
    before = table(name, case)
    for axis in range(3):
        p, y, mask, labels = (np.flip(v, axis) for v in (case.prediction, case.truth, case.mask, case.labels))
        assert table(name, Case(p, y, mask, labels, REGIONS)) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_is_predicted_or_labelled_outside_the_mask_changes_nothing(name: str) -> None:
    case = quick_case()
    dirty = np.where(case.mask, case.prediction, np.nan).astype(np.float32)
    labels = np.where(case.mask, case.labels, 4).astype(np.int16)

    assert table(name, replace(case, prediction=dirty, labels=labels)) == table(name, case)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_unit_of_the_truth_changes_nothing(name: str) -> None:
    case = quick_case()

    assert table(name, replace(case, truth=case.truth * 37)) == pytest.approx(table(name, case), rel=1e-4)


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "brasyn"])
def test_the_prediction_is_not_scaled_to_fit(name: str) -> None:
    case = quick_case()
    worse = table(name, replace(case, prediction=case.prediction / 2))
    key = next(key for key in worse if key[1] == "MSE")

    assert worse[key] > 2 * table(name, case)[key]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_equal_images_are_perfect(name: str) -> None:
    """The truth has no values between 0 and 0.04, which `cwdm` would take for background in the prediction alone."""
    case = quick_case()
    truth = np.where(case.mask, np.maximum(case.truth, 100), 0).astype(np.float32)
    perfect = {"PSNR": INFINITE, "PSNR_FIT": INFINITE, "SSIM": 1, "CONSISTENCY": 1, "MSE": 0, "MAE": 0, "NMSE": 0}
    perfect |= {"SLOPE": 1, "EDGE": 1, "EDGE_R": 1}
    found = table(name, replace(case, prediction=to_unit(truth), truth=truth))

    assert {m: v for (_, m), v in found.items() if m != "PSNR_FIT"} == pytest.approx(
        {m: perfect[m] for _, m in found if m != "PSNR_FIT"}, abs=1e-6
    )
    assert found.get(("brain", "PSNR_FIT"), INFINITE) > 120  # a fitted line is right to the last digit but one


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_constant_truth_is_scored(name: str) -> None:
    """Everywhere the same, it counts as 0: nothing to divide an error by."""
    shape = (14, 14, 12)
    flat = Case(np.full(shape, 0.25, np.float32), np.full(shape, 5, np.float32), np.ones(shape, bool))
    found = table(name, flat)

    assert not any(np.isnan(value) for value in found.values())
    assert found.get(("volume", "NMSE"), INFINITE) == INFINITE
    if name in ("full3d", "brain3d"):
        assert found["volume" if name == "full3d" else "brain", "MAE"] == 0.25


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("shape", [(16, 18, 1), (5, 6, 4), (1, 1, 1)])
def test_small_volumes_and_single_slices_are_scored(name: str, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    truth = (100 + rng.random(shape)).astype(np.float32)
    found = table(name, Case(rng.random(shape, dtype=np.float32), truth, np.ones(shape, bool)))

    assert (found or name == "brasyn") and not any(np.isnan(value) for value in found.values())
    if shape[2] == 1:
        assert ("brain", "CONSISTENCY") not in found
    assert all(value < 1 for (_, metric), value in found.items() if metric == "SSIM")


def test_case_computes_what_is_shared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One map in three dimensions, one more for the grid of cwdm, two for the parts of brasyn, one of slices."""
    import mrsynth.scores.protocols as protocols

    made: list[bool] = []

    def counted(real: Callable[..., Array]) -> Callable[..., Array]:
        def ssim_map(*images: Array, **named: Any) -> Array:
            made.append(named.get("slices", False))
            return real(*images, **named)

        return ssim_map

    monkeypatch.setattr(protocols, "ssim_map", counted(protocols.ssim_map))
    case = quick_case()
    for protocol in PROTOCOLS.values():
        protocol.measure(case)

    assert sorted(made) == [False] * 4 + [True]


def test_measuring_leaves_its_input_alone() -> None:
    case = quick_case()
    before = [v.copy() for v in (case.prediction, case.truth, case.mask)]
    for protocol in PROTOCOLS.values():
        protocol.measure(case)

    for array, copy in zip((case.prediction, case.truth, case.mask), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": np.zeros((3, 3, 3), np.float32)},
        {"labels": np.zeros((3, 3, 3), np.int16)},
        {"mask": np.zeros(SHAPE, bool)},
    ],
)
def test_misshapen_and_empty_cases_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"one shape|empty"):
        make_case(**changes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prediction_that_is_not_finite_is_named(value: float) -> None:
    case = make_case()
    broken = case.prediction.copy()
    broken[tuple(np.argwhere(case.mask)[0])] = value
    with pytest.raises(InputError, match="1 voxels of the synthetic volume are NaN or infinite"):
        replace(case, prediction=broken)


def test_every_protocol_has_its_row_in_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]

    assert [row.split("`")[1] for row in rows] == list(PROTOCOLS)
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())


def test_importing_protocols_loads_neither_torch_nor_monai() -> None:
    code = "import sys, mrsynth.scores.protocols; sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.real_data
def test_a_glioma_copied_from_its_t1_is_scored_as_by_hand(shared_data: Path) -> None:
    folder = shared_data / "data" / "glioma_brats" / "BraTS2021_01478"
    names = ("t1", "t1ce", "t2", "flair", "seg")
    box = (slice(50, 200), slice(30, 220), slice(30, 110))  # the tumour, most of the brain, and air
    images = {n: nib.load(folder / f"{folder.name}_{n}.nii.gz").get_fdata(dtype=np.float32)[box] for n in names}
    labels = images.pop("seg").astype(np.int16)
    mask = np.any([v != 0 for v in images.values()], axis=0)
    case = Case(to_unit(images["t1"]), images["t1ce"], mask, labels, REGIONS)
    p, y = case.prediction * mask, unit(case)
    found = {name: table(name, case) for name in PROTOCOLS}

    def decibels(inside: Any) -> float:
        return float(-10 * np.log10(np.square(p[inside] - y[inside], dtype=np.float64).mean()))

    assert found["full3d"]["volume", "PSNR"] == pytest.approx(decibels(...), abs=1e-3)
    assert found["brain3d"]["brain", "PSNR"] == pytest.approx(decibels(mask), abs=1e-3)
    assert found["brain3d"]["ET", "PSNR"] == pytest.approx(decibels(labels == 4), abs=1e-3)
    # the same error on 224x224x160 voxels, but for what is as dark as 0.04
    gain = 10 * np.log10(224 * 224 * 160 / p.size)
    assert found["cwdm"]["volume", "PSNR"] == pytest.approx(decibels(...) + gain, abs=0.1)
    assert found["brasyn"]["healthy", "SSIM"] > found["full3d"]["volume", "SSIM"]
    assert 0.5 < found["brain3d"]["brain", "CONSISTENCY"] < 2
