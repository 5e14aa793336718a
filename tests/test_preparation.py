"""Onto the model's grid and back: nothing mirrored, nothing moved, one intensity rule."""

import json
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes, apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray
from pydantic import ValidationError

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.grid import axis_code
from mrsynth.preparation import PreparationConfig, prepare
from mrsynth.subject import Subject
from mrsynth.volume import Volume

CODES = ["".join(letters) for axes in permutations(("LR", "PA", "IS")) for letters in product(*axes)]
SMALL = PreparationConfig(multiple=4)


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
    turn = np.eye(3)
    for axis, degrees in enumerate((12, -25, 18)):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        step = np.eye(3)
        i, j = [a for a in range(3) if a != axis]
        step[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
        turn = turn @ step
    affine = lps(spacing)
    affine[:3, :3] = turn @ affine[:3, :3]
    return affine


def own_u(s: Subject, contrast: Contrast, scale: float) -> NDArray[np.float32]:
    return np.clip(s.volumes[contrast].voxels / np.float32(scale), 0, 1)


@pytest.mark.parametrize("affine", [lps(), tilted()], ids=["straight", "oblique"])
@pytest.mark.parametrize("code", CODES)
def test_any_orientation_gives_the_same_model_image_and_returns_bit_for_bit(
    code: str, affine: NDArray[np.float64]
) -> None:
    """Were an axis mirrored or swapped, the model would see another image than from LPS."""
    expected = prepare(subject(Contrast.T1, Contrast.T2, affine=affine), STANDARD, SMALL)
    s = subject(Contrast.T1, Contrast.T2, code=code, affine=affine)
    prepared = prepare(s, STANDARD, SMALL)

    np.testing.assert_array_equal(prepared.images, expected.images)
    np.testing.assert_array_equal(prepared.mask, expected.mask)
    assert prepared.record["axes"] == {"from": code, "to": "LPS"} and not prepared.record["resampled"]
    for contrast in s.available:
        back = prepared.restore(prepared.images[STANDARD.index(contrast)])
        np.testing.assert_array_equal(back.voxels, own_u(s, contrast, prepared.scales[contrast]))
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
    np.testing.assert_array_equal(
        prepared.restore(prepared.images[0]).voxels, own_u(s, Contrast.T1, prepared.scales[Contrast.T1])
    )


@pytest.mark.parametrize("code", CODES)
def test_axis_code_agrees_with_nibabel(code: str) -> None:
    affine = stored_as(code, Volume(head(), tilted((0.5, 1, 4)))).affine

    assert axis_code(affine) == code == "".join(aff2axcodes(affine))


def test_left_stays_left() -> None:
    """One bright voxel 10 mm to the left, 4 to the back, 3 up, lands at the far end of each LPS axis."""
    voxels = np.ones((21, 9, 7), np.float32)
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
    np.testing.assert_array_equal(
        prepared.restore(prepared.images[0]).voxels, own_u(s, Contrast.T1, prepared.scales[Contrast.T1])
    )


def smooth(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Volume:
    """A ball of 30 mm radius around the origin, with intensities that vary linearly in space."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    return Volume(np.where(x**2 + y**2 + z**2 < 30**2, 500 + 5 * x - 4 * y + 3 * z, 0).astype(np.float32), affine)


def centred(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    affine = affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@pytest.mark.parametrize("code", ["LPS", "RAS", "SAL", "IPR"])
@pytest.mark.parametrize("make", [lps, tilted])
@pytest.mark.parametrize(
    ("spacing", "shape"),
    [((0.5, 0.5, 0.5), (140, 140, 140)), ((0.9, 0.8, 5), (80, 90, 16)), ((2, 1, 3), (36, 72, 24))],
)
def test_resampling_keeps_intensities_in_their_place_and_returns_to_the_own_grid(
    code: str, make: object, spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    """A linear ramp survives linear interpolation; its edges must not be dimmed by the background."""
    affine = centred(make(spacing), shape)  # type: ignore[operator]
    s = Subject("patient", {Contrast.T1: stored_as(code, smooth(shape, affine))})
    prepared = prepare(s, STANDARD, PreparationConfig(multiple=8))
    scale, mask = prepared.scales[Contrast.T1], prepared.mask
    back = prepared.restore(prepared.images[0])
    truth = own_u(s, Contrast.T1, scale)
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
    own = own_u(s, Contrast.T1, prepared.scales[Contrast.T1])
    (i, j, k) = [slice(*b) for b in prepared.record["box"]]
    slices = [n for n in range(k.start, k.stop) if n % 3 == 1]

    assert len(slices) > 3
    for n in slices:
        inside = prepared.mask[:, :, n - k.start]
        np.testing.assert_allclose(
            prepared.images[0, :, :, n - k.start][inside], own[i, j, n // 3][inside], rtol=1e-5, atol=1e-6
        )


def test_scale_is_the_percentile_over_the_union_of_what_is_available() -> None:
    s = subject(Contrast.T1, Contrast.FLAIR)
    s.volumes[Contrast.T1].voxels[:, :5] = 0
    foreground = (s.volumes[Contrast.T1].voxels != 0) | (s.volumes[Contrast.FLAIR].voxels != 0)
    prepared = prepare(s, STANDARD, SMALL)

    for contrast in s.available:
        expected = np.quantile(s.volumes[contrast].voxels[foreground], 0.995)
        assert prepared.scales[contrast] == pytest.approx(expected, rel=1e-6)
    assert prepared.mask.sum() == foreground.sum()
    assert set(prepared.scales) == {Contrast.T1, Contrast.FLAIR}


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


@pytest.mark.parametrize("multiple", [1, 8, 16, 32])
def test_the_first_two_axes_are_padded_centrally_and_the_slices_are_the_box(multiple: int) -> None:
    s = subject(Contrast.T1)
    prepared = prepare(s, STANDARD, PreparationConfig(multiple=multiple))
    sizes = [int(np.ptp(i)) + 1 for i in np.nonzero(s.reference.voxels)]

    assert [n % multiple for n in prepared.mask.shape[:2]] == [0, 0]
    assert prepared.mask.shape[2] == sizes[2]
    for (before, after), n, size in zip(prepared.record["padding"], prepared.mask.shape, sizes, strict=True):
        assert before + after == n - size < multiple and after - before in (0, 1)


def test_restore_ignores_what_a_model_paints_outside_the_foreground() -> None:
    s = subject(Contrast.T1, code="RSA")
    prepared = prepare(s, STANDARD, SMALL)
    painted = np.where(prepared.mask, np.float32(0.25), np.float32(np.nan))

    np.testing.assert_array_equal(prepared.restore(painted).voxels, np.float32(0.25) * s.foreground())
    with pytest.raises(ValueError, match="shape"):
        prepared.restore(painted[1:])


def test_the_record_survives_json() -> None:
    prepared = prepare(subject(Contrast.T1, affine=lps((1, 1, 2))), STANDARD, SMALL)
    record = json.loads(json.dumps(prepared.record))

    assert record == prepared.record
    assert record["resampled"] and record["scales"]["t1"] == prepared.scales[Contrast.T1]


def test_a_few_negative_voxels_are_clipped() -> None:
    s = subject(Contrast.T1)
    s.reference.voxels[8, 6, 5] = -3
    prepared = prepare(s, STANDARD, SMALL)

    assert prepared.images.min() == 0 and prepared.mask.sum() == s.foreground().sum()


def bad(voxels: NDArray[np.float32], mask: NDArray[np.float32] | None = None) -> str:
    volume = Volume(voxels.astype(np.float32), lps())
    s = Subject("patient", {Contrast.FLAIR: volume}, mask=None if mask is None else Volume(mask, lps()))
    with pytest.raises(InputError) as caught:
        prepare(s, STANDARD, SMALL)
    return str(caught.value)


def test_negative_background_is_named() -> None:
    message = bad(np.where(head() == 0, -1024, head()))

    assert "patient" in message and "FLAIR" in message and "-1024" in message and "Set the background to 0" in message


def test_z_scored_intensities_are_refused() -> None:
    inside = head() != 0
    assert "z-scoring" in bad(np.where(inside, (head() - head()[inside].mean()) / head()[inside].std(), 0))


def test_constant_empty_and_nearly_empty_images_are_refused() -> None:
    assert "every voxel of the foreground" in bad((head() != 0) * 7.0)
    assert "every voxel of FLAIR is 0" in bad(head() * 0)
    assert "no voxel in common" in bad(head(), (head() == 0).astype(np.float32))


def test_a_percentile_that_is_not_positive_is_refused() -> None:
    """T1 fills the brain; FLAIR has one voxel, so its percentile is zero."""
    speck = np.zeros_like(head())
    speck[8, 6, 5] = 100
    s = Subject("p", {Contrast.T1: Volume(head(), lps()), Contrast.FLAIR: Volume(speck, lps())})

    with pytest.raises(InputError, match=r"99\.5th percentile of FLAIR .* is 0"):
        prepare(s, STANDARD, SMALL)


@pytest.mark.parametrize("spacing", [0.001, 0.0, float("nan"), 100.0])
def test_spacings_that_are_no_millimetres_of_a_head_are_refused(spacing: float) -> None:
    s = Subject("p", {Contrast.T1: Volume(head(), np.diag([spacing, 1, 1, 1]))})

    with pytest.raises(InputError, match="affine and its units"):
        prepare(s, STANDARD, SMALL)


def test_none_of_the_models_contrasts() -> None:
    with pytest.raises(InputError, match="none of the contrasts"):
        prepare(subject(Contrast.PD), STANDARD, SMALL)


@pytest.mark.parametrize("axes", ["LP", "LPSS", "LRS", "lps", "XYZ", "LPP", ""])
def test_axes_must_be_one_of_the_48(axes: str) -> None:
    with pytest.raises(ValidationError, match="expected one letter"):
        PreparationConfig(axes=axes)


def test_all_48_codes_are_accepted() -> None:
    assert len({PreparationConfig(axes=code).axes for code in CODES}) == 48
