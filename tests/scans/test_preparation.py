"""Onto the model's grid and back: nothing mirrored, nothing moved, one intensity rule."""

import json
from itertools import permutations, product
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray
from pydantic import ValidationError

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.scans.preparation import BRATS_SHAPE, CWDM_GRID, PreparationConfig, Prepared, fit_to_grid, prepare
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from tests.helpers import at_most, turned

CODES = ["".join(letters) for axes in permutations(("LR", "PA", "IS")) for letters in product(*axes)]
SMALL = PreparationConfig(multiple=4)
DEEP = PreparationConfig(multiple=32, depth_multiple=32)
FULL = PreparationConfig(crop="full", multiple=4, depth_multiple=32)
GRID = PreparationConfig(crop="full", grid=(16, 8, 12), multiple=4, depth_multiple=4)  # crops, overflows, pads
CONFIGS = {
    **{"brain": SMALL, "deep": DEEP, "full": FULL, "grid": GRID},
    "cwdm": GRID.model_copy(update={"intensity": "volume_quantiles"}),
}
CWDM = PreparationConfig(
    crop="full", grid=CWDM_GRID, multiple=32, depth_multiple=32, intensity="volume_quantiles"
)  # what the released weights were trained with


def head(shape: tuple[int, int, int] = (17, 14, 11), contrast: int = 0, seed: int = 0) -> NDArray[np.float32]:
    """An ellipsoid of random intensities on zero, without any symmetry."""
    rng = np.random.default_rng([seed, contrast])
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum((x - shift) ** 2 for x, shift in zip(axes, (0.1, -0.1, 0.2), strict=True)) < 0.6
    return np.where(inside, rng.uniform(50, 900, shape), 0).astype(np.float32)


def lps(spacing: tuple[float, float, float] = (1, 1, 1)) -> NDArray[np.float64]:
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = 90, 120, -70
    return affine


def stored_as(code: str, volume: Volume) -> Volume:
    """The same image in space with its array axes along `code`, by nibabel's own arithmetic."""
    turn = ornt_transform(nib.io_orientation(volume.affine), axcodes2ornt(code))
    affine = volume.affine @ inv_ornt_aff(turn, volume.shape)
    return Volume(np.ascontiguousarray(apply_orientation(volume.voxels, turn)), affine)


def subject(*contrasts: Contrast, code: str = "LPS", affine: NDArray[np.float64] | None = None) -> Subject:
    affine = lps() if affine is None else affine
    volumes = {c: stored_as(code, Volume(head(contrast=list(Contrast).index(c)), affine)) for c in contrasts}
    return Subject("patient", volumes)


def tilted(spacing: tuple[float, float, float] = (1, 1, 1)) -> NDArray[np.float64]:
    """LPS turned by up to 25 degrees about each axis."""
    affine = lps(spacing)
    affine[:3, :3] = turned() @ affine[:3, :3]
    return affine


def own_u(s: Subject, contrast: Contrast, prepared: Prepared) -> NDArray[np.float32]:
    """What the rule makes of a contrast, on its own grid."""
    voxels = s.volumes[contrast].voxels
    if "whole volume" in prepared.record["rule"]:
        return volume_rule(voxels)
    return np.clip(voxels / np.float32(prepared.scales[contrast]), 0, 1)


def volume_rule(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    clipped = np.clip(voxels.astype(float), *np.quantile(voxels.astype(float), [0.001, 0.999]))
    return ((clipped - clipped.min()) / (clipped.max() - clipped.min())).astype(np.float32)


@pytest.mark.parametrize("affine", [lps(), tilted()], ids=["straight", "oblique"])
@pytest.mark.parametrize(
    ("name", "code"), [*product(["brain"], CODES), *product(["deep", "full", "grid", "cwdm"], ["RAS", "SRA", "IPR"])]
)
def test_any_orientation_gives_the_same_model_image_and_returns_bit_for_bit(
    name: str, code: str, affine: NDArray[np.float64]
) -> None:
    """Were an axis mirrored or swapped, the model would see another image than from LPS."""
    config = CONFIGS[name]
    expected = prepare(subject(Contrast.T1, Contrast.T2, affine=affine), STANDARD, config)
    s = subject(Contrast.T1, Contrast.T2, code=code, affine=affine)
    prepared = prepare(s, STANDARD, config)

    np.testing.assert_array_equal(prepared.images, expected.images)
    np.testing.assert_array_equal(prepared.mask, expected.mask)
    assert prepared.record["axes"] == {"from": code, "to": "LPS"} and not prepared.record["resampled"]
    for contrast in s.available:
        back = prepared.restore(prepared.images[STANDARD.index(contrast)])
        np.testing.assert_array_equal(back.voxels, own_u(s, contrast, prepared))
        np.testing.assert_array_equal(back.affine, s.reference.affine)


@pytest.mark.parametrize("axes", CODES)
def test_the_model_may_ask_for_any_axes(axes: str) -> None:
    s = subject(Contrast.T1)
    prepared = prepare(s, STANDARD, PreparationConfig(axes=axes, multiple=1))
    turned = stored_as(axes, s.reference)
    box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(turned.voxels))

    np.testing.assert_array_equal(
        prepared.images[0], np.clip(turned.voxels[box] / np.float32(prepared.scales[Contrast.T1]), 0, 1)
    )
    np.testing.assert_array_equal(prepared.restore(prepared.images[0]).voxels, own_u(s, Contrast.T1, prepared))


def test_left_stays_left() -> None:
    """One bright voxel 10 mm to the left, 4 to the back, 3 up, lands at the far end of each LPS axis."""
    voxels = np.random.default_rng(0).uniform(1, 2, (21, 9, 7)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, 3] = -10, -4, -3
    voxels[0, 0, 6] = 9  # RAS millimetres (-10, -4, 3)
    config = PreparationConfig(multiple=1, quantile=1)
    image = prepare(Subject("p", {Contrast.T1: Volume(voxels, affine)}), STANDARD, config).images

    assert np.argwhere(image[0] == image[0].max()).tolist() == [[20, 8, 6]]


def test_slightly_different_spacing_is_left_alone() -> None:
    s = subject(Contrast.T1, affine=lps((0.96, 1.04, 1.05)))
    prepared = prepare(s, STANDARD, SMALL)

    assert not prepared.record["resampled"]
    np.testing.assert_array_equal(prepared.restore(prepared.images[0]).voxels, own_u(s, Contrast.T1, prepared))


def smooth(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Volume:
    """A ball of 30 mm radius around the origin, with intensities that vary linearly in space."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    return Volume(np.where(x**2 + y**2 + z**2 < 30**2, 500 + 5 * x - 4 * y + 3 * z, 0).astype(np.float32), affine)


def centred(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    affine = affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@pytest.mark.parametrize(
    ("spacing", "shape", "code", "make"),
    [
        ((0.5, 0.5, 0.5), (140, 140, 140), "SAL", tilted),
        *(((0.9, 0.8, 5), (80, 90, 16), code, make) for code in ("RAS", "IPR") for make in (lps, tilted)),
        *(((2, 1, 3), (36, 72, 24), code, make) for code in ("LPS", "SAL", "IPR") for make in (lps, tilted)),
    ],
)
def test_resampling_keeps_intensities_in_their_place_and_returns_to_the_own_grid(
    spacing: tuple[float, float, float], shape: tuple[int, int, int], code: str, make: object
) -> None:
    """A linear ramp survives linear interpolation; its edges must not be dimmed by the background."""
    affine = centred(make(spacing), shape)  # type: ignore[operator]
    s = Subject("patient", {Contrast.T1: stored_as(code, smooth(shape, affine))})
    prepared = prepare(s, STANDARD, PreparationConfig(multiple=8))
    scale, mask = prepared.scales[Contrast.T1], prepared.mask
    back = prepared.restore(prepared.images[0])
    truth = own_u(s, Contrast.T1, prepared)
    inside = s.foreground()

    assert prepared.record["resampled"] and prepared.record["spacing_mm"]["to"] == [1, 1, 1]
    assert back.shape == s.reference.shape and back.affine is s.reference.affine
    assert not back.voxels[~inside].any() and back.voxels.min() >= 0 and back.voxels.max() <= 1
    assert (back.voxels[inside] == 0).mean() < 1e-3
    assert np.abs(back.voxels - truth)[inside].mean() < 0.004
    assert np.quantile(np.abs(back.voxels - truth)[inside], 0.99) < 0.03
    ball = 4 / 3 * np.pi * 30**3
    assert mask.sum() == pytest.approx(ball, rel=0.05)
    # the centre of the ball is the centre of the model's box, and its intensity is that of the ramp there
    middle = np.argwhere(mask).mean(axis=0)
    i, j, k = np.round(middle).astype(int)
    assert prepared.images[0, i, j, k] * scale == pytest.approx(500, abs=10)
    if make is lps:  # left, posterior, superior: -x, -y, z
        steps = [np.diff(prepared.images[0, i - 9 : i + 9, j, k]), np.diff(prepared.images[0, i, j - 9 : j + 9, k])]
        steps.append(np.diff(prepared.images[0, i, j, k - 9 : k + 9]))
        assert [step.mean() * scale for step in steps] == pytest.approx([-5, 4, 3], abs=0.05)


def test_only_the_axes_that_are_off_are_resampled() -> None:
    """1 x 1 x 3 mm: every third slice of the model is one of the subject's own slices, untouched."""
    s = subject(Contrast.T1, affine=lps((1, 1, 3)))
    prepared = prepare(s, STANDARD, PreparationConfig(multiple=1))
    own = own_u(s, Contrast.T1, prepared)
    (i, j, k) = [slice(*b) for b in prepared.record["box"]]
    slices = [n for n in range(k.start, k.stop) if n % 3 == 1]

    assert len(slices) > 3
    for n in slices:
        inside = prepared.mask[:, :, n - k.start]
        np.testing.assert_allclose(
            prepared.images[0, :, :, n - k.start][inside], own[i, j, n // 3][inside], rtol=1e-5, atol=1e-6
        )


def test_images_follow_the_contrasts_asked_for_and_absent_ones_are_zero() -> None:
    order = (Contrast.FLAIR, Contrast.T2, Contrast.T1)
    prepared = prepare(subject(Contrast.T1, Contrast.FLAIR, Contrast.PD), order, SMALL)

    assert prepared.available.tolist() == [True, False, True] and prepared.contrasts == order
    assert not prepared.images[1].any() and prepared.images[0].any() and prepared.images[2].any()
    assert prepared.images.dtype == np.float32 and prepared.images.flags.c_contiguous
    assert prepared.images.min() == 0 and prepared.images.max() == 1
    assert not prepared.images[:, ~prepared.mask].any()
    assert Contrast.PD not in prepared.scales


def test_the_brain_mask_bounds_the_foreground() -> None:
    s = subject(Contrast.T1)
    mask = np.zeros_like(s.reference.voxels)
    mask[5:12, 4:9, 3:8] = 1
    s = Subject("patient", s.volumes, mask=Volume(mask, s.reference.affine))
    prepared = prepare(s, STANDARD, PreparationConfig(multiple=1))

    assert prepared.mask.shape == (7, 5, 5)
    back = prepared.restore(np.ones_like(prepared.images[0]))
    np.testing.assert_array_equal(back.voxels, s.foreground())


@pytest.mark.parametrize("depth", [1, 8, 32])
@pytest.mark.parametrize("multiple", [1, 8, 16, 32])
@pytest.mark.parametrize("crop", ["brain", "full"])
def test_axes_are_padded_centrally_to_their_multiples(crop: str, multiple: int, depth: int) -> None:
    s = subject(Contrast.T1)
    prepared = prepare(s, STANDARD, PreparationConfig(crop=crop, multiple=multiple, depth_multiple=depth))
    full = [(0, n) for n in s.reference.shape]
    box = full if crop == "full" else [(i.min(), i.max() + 1) for i in np.nonzero(s.reference.voxels)]
    padding = prepared.record["padding"]

    assert prepared.record["crop"] == crop and prepared.record["grid"] is None
    for (before, after), n, (i, j), m in zip(padding, prepared.mask.shape, box, [multiple] * 2 + [depth], strict=True):
        assert n % m == 0 and before + after == n - (j - i) < m and after - before in (0, 1)
    own = own_u(s, Contrast.T1, prepared)[tuple(slice(i, j) for i, j in box)]
    np.testing.assert_array_equal(prepared.images[0], np.pad(own, padding))  # whole, and nothing else


def test_a_configuration_stored_before_the_new_keys_means_what_it_meant() -> None:
    stored = {"axes": "LPS", "spacing": 1.0, "spacing_tolerance": 0.05, "quantile": 0.995, "multiple": 4}

    assert PreparationConfig.model_validate(stored) == SMALL
    assert PreparationConfig.model_validate_json(CWDM.model_dump_json()) == CWDM


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grid": (16, 16, 16)}, "expected crop full"),
        ({"grid": (16, 24, 16), "crop": "full"}, "expected multiples of"),
        ({"grid": (16, 16, 20), "crop": "full", "depth_multiple": 16}, "expected multiples of"),
        ({"grid": (16, 0, 16), "crop": "full"}, "greater than 0"),
    ],
)
def test_grids_that_mean_nothing_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PreparationConfig(**wrong)


def in_box(shape: tuple[int, int, int], *box: tuple[int, int]) -> NDArray[np.float32]:
    voxels = np.zeros(shape, np.float32)
    inside = tuple(slice(*b) for b in box)
    voxels[inside] = np.random.default_rng(0).integers(1, 2000, voxels[inside].shape)
    return voxels


def test_a_brats_volume_comes_to_the_grid_of_the_released_weights() -> None:
    """8 planes less at both ends of axes 1 and 2, 5 zero planes at the end of axis 3, whatever the file's axes."""
    voxels = in_box(BRATS_SHAPE, (8, 160), (50, 232), (0, 140))  # touches the crop, far from the middle
    s = Subject("p", {Contrast.T1: stored_as("SRA", Volume(voxels, lps()))})
    prepared = prepare(s, STANDARD, CWDM)

    np.testing.assert_array_equal(prepared.images[0, :, :, :155], volume_rule(voxels)[8:-8, 8:-8])
    assert not prepared.images[0, :, :, 155:].any() and prepared.mask.shape == (224, 224, 160)
    assert prepared.record["grid"] == [224, 224, 160] and prepared.record["padding"] == [[0, 0], [0, 0], [0, 5]]
    np.testing.assert_array_equal(prepared.restore(prepared.images[0]).voxels, own_u(s, Contrast.T1, prepared))
    brain = prepare(s, STANDARD, CWDM.model_copy(update={"crop": "brain"}))  # as a caller short of memory asks for it
    assert brain.mask.shape == (160, 192, 160) and brain.record["grid"] is None


@pytest.mark.parametrize(
    ("shape", "brain", "expected"),
    [  # per axis: what is kept, planes before, planes after
        ((240, 240, 155), [(30, 210), (8, 232), (0, 155)], [(8, 232, 0, 0), (8, 232, 0, 0), (0, 155, 0, 5)]),
        ((240, 240, 155), [(4, 184), (20, 220), (5, 145)], [(0, 224, 0, 0), (8, 232, 0, 0), (0, 155, 5, 0)]),
        ((240, 240, 155), [(3, 233), (20, 220), (5, 155)], [(0, 240, 10, 6), (8, 232, 0, 0), (0, 155, 0, 5)]),
        ((182, 218, 182), [(10, 172), (4, 214), (2, 152)], [(0, 182, 21, 21), (0, 218, 3, 3), (0, 160, 0, 0)]),
        ((256, 256, 256), [(3, 253), (90, 250), (70, 240)], [(0, 256, 0, 0), (32, 256, 0, 0), (59, 251, 0, 0)]),
        ((300, 100, 161), [(299, 300), (0, 1), (0, 161)], [(76, 300, 0, 0), (0, 100, 111, 13), (0, 161, 15, 16)]),
    ],
)
def test_fit_to_the_grid_of_the_released_weights(
    shape: tuple[int, int, int], brain: list[tuple[int, int]], expected: list[tuple[int, int, int, int]]
) -> None:
    box = tuple(slice(*b) for b in brain)
    placements = fit_to_grid(shape, box, CWDM_GRID, (32, 32, 32))  # type: ignore[arg-type]

    assert [(p.kept.start, p.kept.stop, p.before, p.after) for p in placements] == expected


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, slice, int, int]:
    size = draw(st.integers(1, 300))
    start = draw(st.integers(0, size - 1))
    multiple = draw(st.sampled_from([1, 8, 32]))
    return size, slice(start, draw(st.integers(start + 1, size))), multiple * draw(st.integers(1, 7)), multiple


@given(st.tuples(axes(), axes(), axes()))
def test_a_grid_never_cuts_the_brain_and_centres_it_as_well_as_the_volume_allows(drawn: tuple) -> None:
    shape, brain, grid, multiples = zip(*drawn, strict=True)
    for p, (size, box, side, multiple) in zip(fit_to_grid(shape, brain, grid, multiples), drawn, strict=True):
        length, kept = box.stop - box.start, p.kept.stop - p.kept.start
        assert 0 <= p.kept.start <= box.start and box.stop <= p.kept.stop <= size
        reached = p.before + kept + p.after
        assert reached == side if length <= side else reached % multiple == 0 and reached - length < multiple
        assert kept == min(size, reached)  # cropped or padded, never both
        first, last = sorted((0, size - reached))
        off = {start: abs(box.start + box.stop - 2 * start - reached) for start in range(first, last + 1)}
        assert off[p.kept.start - p.before] == min(off.values())


def test_restore_ignores_what_a_model_paints_outside_the_foreground() -> None:
    s = subject(Contrast.T1, code="RSA")
    prepared = prepare(s, STANDARD, SMALL)
    painted = np.where(prepared.mask, np.float32(0.25), np.float32(np.nan))

    np.testing.assert_array_equal(prepared.restore(painted).voxels, np.float32(0.25) * s.foreground())
    with pytest.raises(ValueError, match="shape"):
        prepared.restore(painted[1:])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 1.0, 1.2)])
def test_another_image_is_brought_to_the_models_grid_as_the_inputs_are(spacing: tuple[float, float, float]) -> None:
    """An input brought so, and divided by its scale, is that input; nothing above u = 1 is lost."""
    prepared = prepare(s := subject(*STANDARD, affine=lps(spacing)), STANDARD, PreparationConfig(quantile=0.9))
    for channel, contrast in enumerate(STANDARD):
        u = prepared.brought(s.volumes[contrast].voxels) / np.float32(prepared.scales[contrast])

        np.testing.assert_allclose(np.clip(u, 0, 1), prepared.images[channel], atol=1e-6)
        assert u.max() > 1.01


def test_the_record_survives_json() -> None:
    prepared = prepare(subject(Contrast.T1, affine=lps((1, 1, 2))), STANDARD, SMALL)
    record = json.loads(json.dumps(prepared.record))

    assert record == prepared.record
    assert record["resampled"] and record["scales"]["t1"] == prepared.scales[Contrast.T1]


@pytest.mark.parametrize("spacing", [0.001, 0.0, float("nan"), 100.0])
def test_spacings_that_are_no_millimetres_of_a_head_are_refused(spacing: float) -> None:
    s = Subject("p", {Contrast.T1: Volume(head(), np.diag([spacing, 1, 1, 1]))})

    with pytest.raises(InputError, match="affine and its units"):
        prepare(s, STANDARD, SMALL)


@pytest.mark.parametrize(
    "asked",
    [{"spacing": 0.05}, {"multiple": 60_000}, {"crop": "full", "multiple": 1, "grid": (9000, 9000, 9000)}],
    ids=str,
)
def test_a_grid_larger_than_any_image_is_refused_before_memory_is_taken(asked: dict[str, Any]) -> None:
    with at_most(100e6), pytest.raises(InputError, match="more than 268435456"):
        prepare(subject(Contrast.T1, affine=lps((8, 8, 8))), STANDARD, PreparationConfig(**asked))


def test_none_of_the_models_contrasts() -> None:
    with pytest.raises(InputError, match="none of the contrasts"):
        prepare(subject(Contrast.PD), STANDARD, SMALL)


@pytest.mark.parametrize("axes", ["LP", "LPSS", "LRS", "lps", "XYZ", "LPP", ""])
def test_axes_must_be_one_of_the_48(axes: str) -> None:
    with pytest.raises(ValidationError, match="expected one letter"):
        PreparationConfig(axes=axes)


def test_all_48_codes_are_accepted() -> None:
    assert len({PreparationConfig(axes=code).axes for code in CODES}) == 48
