"""The phantom: signals known by hand, anatomy that keeps its volume, and one seed that decides everything."""

import numpy as np
import pytest
from pydantic import ValidationError

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import UsageError
from mrsynth.phantom.brain import (
    PhantomConfig,
    Tissues,
    bias_field,
    cropped,
    individual,
    phantom,
    rotation,
    smooth_field,
    spline,
    target_grid,
    trilinear,
    warped,
    with_lesion,
)
from mrsynth.phantom.tissues import (
    CORE,
    CSF,
    GM,
    OEDEMA,
    RIM,
    TISSUES,
    WM,
    inversion_recovery,
    rician,
    spin_echo,
    spoiled_gradient_echo,
    tissue_signals,
)

LN2 = np.log(2)
SPACING = 4.0
RADIUS = 68.0  # of the spherical brain below, mm


@pytest.fixture(scope="module")
def spheres() -> Tissues:
    """A spherical brain: ventricle to 12 mm, white matter to 52, grey matter to 62, fluid to 68; 4 mm voxels, RAS."""
    x = (np.arange(40) - 19.5) * SPACING
    r = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    layers = [(r > 52) & (r <= 62), (r > 12) & (r <= 52), (r <= 12) | (r > 62) & (r <= RADIUS)]
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = x[0]
    return Tissues(*(layer.astype(np.float32) for layer in layers), affine=affine)


def config(**changes):
    return PhantomConfig(**{"spacing": (SPACING,) * 3, **changes})


@pytest.fixture(scope="module")
def glioma(spheres):
    """Without bias and noise, so that each voxel shows its tissues alone."""
    return phantom(spheres, config(seed=5, bias=0, noise=0))


# Signal equations


def test_spin_echo_recovers_half_after_t1_ln2_and_keeps_half_after_t2_ln2():
    assert spin_echo(0.8, 1000.0, 100.0, tr=1000 * LN2, te=100 * LN2) == pytest.approx(0.8 / 4)
    assert spin_echo(np.array([0.8]), np.array([1000.0]), np.array([100.0]), tr=1e9, te=0)[0] == pytest.approx(0.8)


def test_spoiled_gradient_echo_at_the_ernst_angle():
    """cos a = E1 gives the largest signal, PD sqrt((1 - E1) / (1 + E1)); E1 = 1/2 at 60 degrees: 0.57735."""
    tr = 1000 * LN2
    at = {a: spoiled_gradient_echo(1.0, 1000.0, 50.0, tr=tr, te=0, flip=np.deg2rad(a)) for a in (55, 60, 65)}
    assert at[60] == pytest.approx(1 / np.sqrt(3))
    assert at[60] == max(at.values())
    late = spoiled_gradient_echo(1.0, 1000.0, 50.0, tr=tr, te=50, flip=np.deg2rad(60))
    assert late == pytest.approx(at[60] / np.e)


def test_inversion_recovery_crosses_zero_at_t1_ln2_and_is_a_magnitude():
    assert inversion_recovery(1.0, 1000.0, 100.0, tr=1e9, te=0, ti=1000 * LN2) == pytest.approx(0, abs=1e-12)
    assert inversion_recovery(1.0, 1000.0, 100.0, tr=1e9, te=100, ti=0) == pytest.approx(1 / np.e)
    short = inversion_recovery(1.0, 1000.0, 100.0, tr=3000, te=0, ti=1000)
    assert short == pytest.approx(1 - 2 * np.exp(-1) + np.exp(-3))


@pytest.mark.parametrize("seed", range(20))
def test_contrasts_order_tissues_as_in_a_clinic(seed):
    signals = {c: dict(zip(TISSUES, s, strict=True)) for c, s in tissue_signals(np.random.default_rng(seed)).items()}
    assert tuple(signals) == STANDARD
    t1, t1ce, t2, flair = signals.values()

    assert t1[WM] > t1[GM] > t1[CORE] > t1[CSF]
    assert t1[WM] > t1[OEDEMA]
    assert t2[CSF] > t2[CORE] > t2[OEDEMA] > t2[GM] > t2[WM]
    assert flair[OEDEMA] > flair[RIM] > flair[WM]
    assert flair[OEDEMA] > flair[GM] > flair[WM] > 5 * flair[CSF]
    assert max(t1ce, key=t1ce.__getitem__) is RIM
    assert t1ce[RIM] > 1.2 * t1ce[WM]
    assert max(TISSUES, key=lambda tissue: t1ce[tissue] / t1[tissue]) is RIM


def test_the_agent_shortens_t1_as_was_measured():
    """Noeth et al. 2020: 838 +- 210 ms in enhancing tumour, 123 +- 74 in oedema, 32 +- 35 elsewhere."""
    lost = {t: t.t1 - 1 / (1 / t.t1 + 4e-3 * t.agent) for t in TISSUES}
    assert lost[RIM] == pytest.approx(838, abs=20)
    assert lost[OEDEMA] == pytest.approx(123, abs=10)
    assert lost[WM] == pytest.approx(32, abs=10)
    assert lost[GM] == pytest.approx(32, abs=10)


def test_rician_noise_has_the_moments_of_rice():
    """Without signal the mean is sigma sqrt(pi/2); with any, E[M^2] = A^2 + 2 sigma^2."""
    shape, sigma = (60, 60, 60), 7.0
    empty = rician(np.zeros(shape, np.float32), sigma, np.random.default_rng(0)).astype(float)
    assert empty.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.01)
    filled = rician(np.full(shape, 20, np.float32), sigma, np.random.default_rng(1)).astype(float)
    assert (filled**2).mean() == pytest.approx(20**2 + 2 * sigma**2, rel=0.01)


# Images


def test_images_are_whole_numbers_with_an_empty_background(glioma):
    brain = glioma.foreground()
    assert 0.1 < brain.mean() < 0.6
    for volume in glioma.volumes.values():
        assert volume.voxels.dtype == np.float32
        assert np.array_equal(volume.voxels != 0, brain), "one skull-stripping for all contrasts"
        assert np.array_equal(volume.voxels, np.rint(volume.voxels))
        assert 300 < volume.voxels.max() <= 32767
    assert not glioma.segmentation.voxels[~brain].any()


def test_labels_mean_what_brats_means(glioma):
    labels = glioma.segmentation.voxels
    assert set(np.unique(labels)) == {0, 1, 2, 4}
    mean = {c: {n: v.voxels[labels == n].mean() for n in (1, 2, 4)} for c, v in glioma.volumes.items()}
    healthy = {c: np.median(v.voxels[glioma.foreground() & (labels == 0)]) for c, v in glioma.volumes.items()}
    gain = {n: mean[Contrast.T1CE][n] / mean[Contrast.T1][n] for n in (1, 2, 4)}

    assert mean[Contrast.T1CE][4] > max(mean[Contrast.T1CE][1], mean[Contrast.T1CE][2])
    assert gain[4] > 1.1 * max(gain[1], gain[2])
    assert mean[Contrast.FLAIR][2] > 1.2 * healthy[Contrast.FLAIR]
    assert mean[Contrast.T1][1] < mean[Contrast.T1][4]
    assert mean[Contrast.T2][1] > mean[Contrast.T2][4] > healthy[Contrast.T2]


def test_the_core_lies_inside_the_rim(glioma):
    labels = glioma.segmentation.voxels
    core = np.argwhere(labels == 1)
    neighbours = np.concatenate([core + step for step in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])])
    touching = labels[tuple(neighbours.T)]
    assert np.isin(touching, (1, 4)).mean() > 0.9


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_head(spheres):
    first, again, other = (phantom(spheres, config(seed=seed)) for seed in (1, 1, 2))
    for c in STANDARD:
        assert first.volumes[c].voxels.tobytes() == again.volumes[c].voxels.tobytes()
        assert not np.array_equal(first.volumes[c].voxels, other.volumes[c].voxels)
    a, b = first.foreground(), other.foreground()
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert 0.85 < dice < 0.99, "two people, not one, and both with a head"


def test_without_the_lesion_it_is_the_same_head(spheres, glioma):
    healthy = phantom(spheres, config(seed=5, bias=0, noise=0, lesion="none"))
    assert healthy.segmentation is None
    assert np.array_equal(healthy.foreground(), glioma.foreground())
    changed = healthy.volumes[Contrast.FLAIR].voxels != glioma.volumes[Contrast.FLAIR].voxels
    assert 0 < changed.mean() < 0.1


def test_plaques_are_many_and_small(spheres):
    subject = phantom(spheres, config(seed=3, spacing=(2, 2, 2), lesion="ms"))
    labels = subject.segmentation.voxels
    assert set(np.unique(labels)) <= {0, 2, 4}
    assert 0 < (labels > 0).sum() < 0.05 * subject.foreground().sum()
    spread = np.argwhere(labels > 0).std(axis=0) * 2
    assert (spread > 8).all(), "scattered over the white matter, unlike one tumour"


def test_noise_has_the_asked_strength(spheres):
    """The streams are separate, so the same scan with and without noise differs by the noise alone."""
    clean, noisy = (phantom(spheres, config(seed=8, bias=0, noise=n, lesion="none")) for n in (0, 0.05))
    for c in STANDARD:
        a, b = clean.volumes[c].voxels, noisy.volumes[c].voxels
        values, counts = np.unique(a[a > 0], return_counts=True)
        white = values[counts.argmax()]  # white matter fills most of the sphere, and is constant
        assert (b[a == white] - white).std() == pytest.approx(0.05 * white, rel=0.05)


def test_bias_spans_what_was_asked_for():
    brain = np.ones((40, 40, 40), bool)
    brain[:5] = False
    fields = [bias_field(brain, np.diag([4.0, 4, 4, 1]), 0.3, np.random.default_rng(seed)) for seed in (0, 1)]
    for field in fields:
        assert field[brain].min() == pytest.approx(0.85)
        assert field[brain].max() == pytest.approx(1.15)
        assert np.abs(np.diff(field, axis=0)).max() < 0.05, "smooth"
    assert not np.allclose(*fields)


# Geometry


@pytest.mark.parametrize("spacing", [(6.0, 6.0, 6.0), (3.0, 3.0, 9.0), (5.0, 3.5, 7.0)])
def test_any_spacing_keeps_the_volume_of_the_brain(spheres, spacing):
    truth = phantom(spheres, config(seed=4))
    subject = phantom(spheres, config(seed=4, spacing=spacing))
    assert subject.reference.spacing == pytest.approx(spacing)
    millilitres = [s.foreground().sum() * np.prod(s.reference.spacing) for s in (truth, subject)]
    assert millilitres[1] == pytest.approx(millilitres[0], rel=0.04)


def test_shape_and_axes_are_those_asked_for(spheres):
    asked = {"seed": 4, "shape": (50, 44, 36), "deformation_mm": 0, "noise": 0, "bias": 0}
    lps = phantom(spheres, config(**asked, axes="LPS")).volumes[Contrast.T2]
    ras = phantom(spheres, config(**asked, axes="RAS")).volumes[Contrast.T2]
    sla = phantom(spheres, config(**{**asked, "shape": (36, 50, 44)}, axes="SLA")).volumes[Contrast.T2]

    assert lps.shape == (50, 44, 36)
    assert np.array_equal(np.sign(lps.affine[:3, :3].round(6)), np.diag([-1, -1, 1]))
    assert np.abs(lps.voxels[::-1, ::-1] - ras.voxels).max() <= 1
    assert np.abs(np.moveaxis(sla.voxels, 0, 2)[:, ::-1] - lps.voxels).max() <= 1
    for volume in (lps, ras, sla):
        centre = np.argwhere(volume.voxels > 0).mean(axis=0)
        assert np.abs(volume.affine[:3, :3] @ centre + volume.affine[:3, 3]).max() < 6


def test_warping_conserves_each_tissue(spheres):
    maps = individual(cropped(spheres), np.random.default_rng(0))
    source = cropped(spheres).affine
    target = np.diag([8.0, 8.0, 8.0, 1.0])
    target[:3, 3] = -88
    result = warped(maps, source, target, (23, 23, 23), 4.0, np.random.default_rng(1))
    total = result.sum(axis=-1)

    assert np.allclose(total[total > 0], 1, atol=1e-5)
    share = [m.sum(axis=(0, 1, 2)) / m.sum() for m in (maps, result)]
    assert share[1] == pytest.approx(share[0], abs=0.02)


def test_a_lesion_only_replaces(spheres):
    small = cropped(spheres)
    healthy = individual(small, np.random.default_rng(0))
    for kind in ("glioma", "ms"):
        ill = with_lesion(healthy, small.affine, kind, np.random.default_rng(2))
        assert np.allclose(ill.sum(axis=-1), healthy.sum(axis=-1), atol=1e-5)
        assert ill.min() >= -1e-6
        assert (ill[..., :3] <= healthy + 1e-6).all()
        assert ill[..., 3:].sum() > 0


def test_trilinear_is_exact_for_linear_images_and_empty_outside():
    i, j, k = np.indices((5, 6, 7)).astype(np.float32)
    points = np.random.default_rng(0).uniform(0, [4, 5, 6], (50, 3))
    points = np.vstack([points, [[4, 5, 6]]])
    values = trilinear(np.stack([i + 2 * j - k, k], axis=-1), points)
    assert values[:, 0] == pytest.approx(points @ [1, 2, -1], abs=1e-4)
    assert values[:, 1] == pytest.approx(points[:, 2], abs=1e-5)
    assert not trilinear(np.ones((3, 3, 3, 1), np.float32), np.array([[-0.1, 1, 1], [1, 1, 2.1]])).any()


def test_splines_sum_to_one_and_rotations_keep_lengths():
    assert spline(37, 4.3).sum(axis=1) == pytest.approx(np.ones(37))
    turn = rotation(np.array([10.0, 20, 30]))
    assert turn @ turn.T == pytest.approx(np.eye(3))
    assert np.linalg.det(turn) == pytest.approx(1)
    for degrees in np.diag([10.0, 20, 30]):
        assert rotation(degrees) @ degrees == pytest.approx(degrees), "an axis stays where it is"
    x, y, z = (rotation(90 * axis) for axis in np.eye(3))
    i, j, k = np.eye(3)
    assert np.allclose([x @ j, y @ i, z @ i], [k, k, j]), "from the earlier axis to the later"
    assert rotation(np.array([90.0, 90, 90])) == pytest.approx(z @ y @ x), "about x first, about z last"
    field = smooth_field(np.random.default_rng(0), (30, 30, 30), np.array([6, 6, 6]))
    assert (field.mean(), field.std()) == pytest.approx((0, 1), abs=1e-4)


# What cannot be made


@pytest.mark.parametrize(
    "wrong",
    [
        *({"axes": "LPX"}, {"axes": "LRS"}, {"spacing": (1, 0, 1)}, {"lesion": "stroke"}, {"spaceing": 1}),
        *({name: value} for name in ("noise", "bias", "deformation_mm") for value in (-1, np.inf, np.nan, 1e9)),
        *({"spacing": (1, value, 1)} for value in (np.inf, np.nan)),
        {"shape": (40_000, 1, 1)},
    ],
)
def test_a_wrong_configuration_is_refused(wrong):
    with pytest.raises(ValidationError):
        PhantomConfig(**wrong)


@pytest.mark.parametrize(
    "asked",
    [
        *({"spacing": (mm, mm, mm)} for mm in (0.01, 1e5, 1e-90, 1e90)),
        {"shape": (30_000, 30_000, 2)},
        {"shape": (30, 30, 30), "spacing": (300, 300, 300)},
    ],
)
def test_a_grid_that_would_never_be_filled_is_refused_at_once(spheres, asked):
    with pytest.raises(UsageError, match=r"samples of the tissue maps, expected at most .* Give a --spacing"):
        target_grid(spheres, config(**asked))


def test_impossible_phantoms_say_why(spheres):
    nothing = np.zeros_like(spheres.gm)
    with pytest.raises(UsageError, match="empty"):
        phantom(Tissues(nothing, nothing, nothing, spheres.affine), config())
    with pytest.raises(UsageError, match="no white matter"):
        phantom(Tissues(spheres.gm, nothing, spheres.csf, spheres.affine), config())
    with pytest.raises(UsageError, match="use a finer one"):
        phantom(spheres, config(spacing=(300, 300, 300), lesion="none"))
