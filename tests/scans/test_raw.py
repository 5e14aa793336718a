"""Scans on grids of their own come together on one; whole heads lose everything outside the brain."""

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.scans import raw
from mrsynth.scans.alignment import Registration, cannot_register
from mrsynth.scans.foreground import shows_air
from mrsynth.scans.raw import brought_together, dilated
from mrsynth.scans.volume import Volume

T1, T1CE, T2, FLAIR = Contrast.T1, Contrast.T1CE, Contrast.T2, Contrast.FLAIR


def volume(shape=(12, 10, 8), spacing=(2.0, 2.0, 3.0), seed=0):
    voxels = np.random.default_rng(seed).uniform(1, 100, shape).astype(np.float32)
    return Volume(voxels, np.diag([*spacing, 1.0]))


@pytest.fixture(autouse=True)
def no_heads(monkeypatch):
    """Volumes of this file are full of noise, and still no heads unless a test says so."""
    monkeypatch.setattr(raw, "shows_air", lambda *_: False)


@pytest.fixture
def planted(monkeypatch):
    """In place of the search: the transform is a shift of one voxel of 2 mm along the first axis."""
    calls = []
    shift = np.eye(4)
    shift[0, 3] = 2.0

    def register(fixed, moving, *, inside=None, start=None, check_mirror=True):
        calls.append((inside, start))
        return Registration(shift, 0.8, 0.4, 0.3, 0.95, 0.0, 2.0)

    monkeypatch.setattr(raw, "register", register)
    return calls


def test_scans_on_one_grid_are_left_as_they_are(planted):
    volumes = {T1: volume(), FLAIR: volume(seed=1)}
    done = brought_together("s", volumes)

    assert done.home is T1 and not done.registrations and not planted and not done.notes
    assert all(done.subject.volumes[c] is volumes[c] for c in volumes)


@pytest.mark.parametrize(
    ("there", "home"), [((T1, T1CE, T2), T1CE), ((T1, T2), T1), ((T2, FLAIR), FLAIR), ((T2, Contrast.PD), T2)]
)
def test_the_sharpest_usual_scan_keeps_its_grid(there, home, planted):
    volumes = {c: volume(shape=(12, 10, 8 + n)) for n, c in enumerate(there)}

    assert brought_together("s", volumes).home is home


def test_a_contrast_can_be_named(planted):
    volumes = {T1: volume(), T2: volume(shape=(12, 10, 9))}

    assert brought_together("s", volumes, onto=T2).home is T2
    with pytest.raises(InputError, match="reference-contrast flair is not there; there are T1, T2"):
        brought_together("s", volumes, onto=FLAIR)


def test_the_others_are_resampled_by_the_transform(planted):
    t1, t2 = volume(), volume(shape=(12, 10, 9), seed=1)
    done = brought_together("s", {T1: t1, T2: t2})
    moved = done.subject.volumes[T2]

    assert done.subject.volumes[T1] is t1 and moved.shape == t1.shape
    assert np.allclose(moved.voxels[:-1], t2.voxels[1:, :, :8], atol=1e-3)
    assert not moved.voxels[-1].any()
    assert "T2 was registered to T1: turned by 0.0 degrees, moved by 2.0 mm" in done.notes[0]


def test_a_ct_that_is_resampled_has_air_around_it_not_water(planted):
    voxels = np.random.default_rng(1).uniform(-1000, 1500, (12, 10, 9)).astype(np.float32)
    ct = Volume(voxels, volume().affine)
    moved = brought_together("s", {T1: volume(), Contrast.CT: ct}).subject.volumes[Contrast.CT]

    assert (moved.voxels[-1] == voxels.min()).all()


def test_a_ct_has_no_bias_field_to_be_corrected(monkeypatch):
    monkeypatch.setattr(raw, "corrected", lambda v, brain: Volume(v.voxels + 1, v.affine))
    volumes = {T1: volume(), Contrast.CT: volume(seed=1)}
    done = brought_together("s", volumes, n4=True).subject.volumes

    assert (done[T1].voxels == volumes[T1].voxels + 1).all() and done[Contrast.CT] is volumes[Contrast.CT]


def test_with_align_off_different_grids_are_refused(planted):
    with pytest.raises(InputError, match="T1 and T2 lie on different grids"):
        brought_together("s", {T1: volume(), T2: volume(shape=(12, 10, 9))}, align="off")
    assert not planted


def test_an_implausible_registration_is_refused_with_figures_unless_forced(monkeypatch):
    found = Registration(np.eye(4), 0.8, 0.4, 0.3, 0.2, 60.0, 2.0)
    monkeypatch.setattr(raw, "register", lambda *_, **__: found)
    volumes = {T1: volume(), T2: volume(shape=(12, 10, 9))}
    with pytest.raises(InputError, match=r"T2: only 20% of the head .*; a turn of 60 degrees .*\n.*--align force"):
        brought_together("s", volumes)

    assert "Doubtful: a turn of 60 degrees (at most 45)." in brought_together("s", volumes, align="force").notes


SHEARED = np.array([[2.0, 0.4, 0, 0], [0, 2.0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("thin", [(12, 10, 3), (1, 10, 8), (12, 10, 1)], ids=str)
@pytest.mark.parametrize("home", [T1, T2])
def test_too_few_slices_to_register_are_refused_by_name(planted, thin, home):
    with pytest.raises(InputError, match=r"T2 cannot be registered: it has .* voxels.* at least 4 .*leave T2 out"):
        brought_together("s", {T1: volume(), T2: volume(thin)}, align="force", onto=home)
    assert not planted


@pytest.mark.parametrize("home", [T1, T2])
def test_axes_that_are_not_at_right_angles_are_not_registered_as_if_they_were(planted, home):
    sheared = Volume(volume(seed=1).voxels, SHEARED)
    with pytest.raises(InputError, match=r"T2 cannot be registered: its axes are not at right angles \(up to"):
        brought_together("s", {T1: volume(), T2: sheared}, align="force", onto=home)

    alone = {T1: Volume(volume().voxels, SHEARED), T2: sheared}
    assert brought_together("s", alone).subject.volumes == alone, "on one grid nothing is to be registered"


def test_rounding_and_mirrored_axes_are_at_right_angles():
    """As quaternions in single precision, and affines written with three decimals, have them."""
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]])
    affine = np.eye(4)
    affine[:3, :3] = (turn * [0.9, 0.9, 1.2]).round(3)
    assert not cannot_register(Volume(np.zeros((256, 256, 160), np.float32), affine))


def test_a_single_slice_has_no_bias_field():
    with pytest.raises(InputError, match=r"--n4 needs at least 2 slices; found one in T1, T2"):
        brought_together("s", {T1: volume((12, 10, 1)), T2: volume((12, 10, 1), seed=1)}, n4=True)


@pytest.fixture
def heads(monkeypatch):
    monkeypatch.setattr(raw, "shows_the_head", lambda v: True)


def brain_of(found):
    def find(scan):
        found.append(scan)
        mask = np.zeros(scan.shape, bool)
        mask[4:8, 4:8, 3:6] = True
        return mask

    return find


def test_the_brain_is_found_in_the_t1_and_carried_over(planted, heads):
    found = []
    t1, flair = volume(shape=(12, 10, 9)), volume(seed=1)
    done = brought_together("s", {T1: t1, FLAIR: flair}, onto=FLAIR, find_brain=brain_of(found))
    mask = done.subject.mask.voxels > 0

    assert found == [t1] and done.stripped_on is T1
    assert not done.subject.volumes[FLAIR].voxels[~mask].any() and done.subject.volumes[FLAIR].voxels[mask].all()
    assert mask[3:7, 4:8, 3:6].all() and mask.sum() == 4 * 4 * 3
    first, second = planted
    assert first == (None, None) and second[0][mask].all() and second[0].sum() > mask.sum()  # again, in the brain


def test_brains_are_left_alone_and_masks_given_are_taken(planted, heads, monkeypatch):
    found = []
    given = Volume(np.ones((12, 10, 8), np.float32), volume().affine)
    done = brought_together("s", {T1: volume()}, find_brain=brain_of(found), mask=(given, T1))
    assert not found and done.stripped_on is None and done.subject.mask.voxels.all()

    monkeypatch.setattr(raw, "shows_the_head", lambda v: False)
    assert brought_together("s", {T1: volume()}, find_brain=brain_of(found)).subject.mask is None
    assert not found


def test_finding_the_brain_without_a_t1_is_doubted(planted, heads):
    done = brought_together("s", {T2: volume()}, find_brain=brain_of([]))

    assert any("had only the T2" in note for note in done.notes)


def test_dilation_is_in_millimetres():
    mask = np.zeros((15, 15, 9), bool)
    mask[7, 7, 4] = True
    wide = dilated(mask, volume(shape=mask.shape, spacing=(1.0, 2.0, 3.0)), 3.0)

    assert wide[4:11, 7, 4].all() and wide[:, 7, 4].sum() == 7  # 3 mm either way
    assert wide[7, :, 4].sum() == 3 and wide[7, 7, :].sum() == 3


def test_a_scan_that_comes_without_its_skull_tells_the_brain_of_the_others(monkeypatch):
    """The mask is what it shows; another such scan that is cut off, or as large as the head, tells nothing."""
    head = volume()
    inner = np.zeros(head.shape, np.float32)
    inner[3:9, 3:7, 2:6] = head.voxels[3:9, 3:7, 2:6]
    monkeypatch.setattr(raw, "shows_air", lambda contrast, _: contrast is T2)
    monkeypatch.setattr(raw, "head_volume", lambda v: float(np.prod(v.shape) * np.prod(v.spacing) / 1000))
    found = []
    done = brought_together("s", {T1: Volume(inner, head.affine), T2: head}, find_brain=brain_of(found))
    assert not found and done.stripped_on is T1 and "The T1 comes without its skull" in done.notes[0]
    assert np.array_equal(done.subject.volumes[T2].voxels != 0, inner != 0)

    cut = np.where(np.arange(12)[:, None, None] < 6, head.voxels, np.float32(0))
    for other in (cut, head.voxels):
        brought_together("s", {T1: Volume(other, head.affine), T2: head}, find_brain=brain_of(found))
    assert len(found) == 2


def test_noise_around_one_brain_does_not_have_the_others_stripped_again(make_subject, monkeypatch):
    """What resampling or coils leave around a stripped T2 fills its faces as air does; the T1 says what is brain."""
    scans = make_subject("s", shape=(40, 44, 32), contrasts=[T1, T2]).volumes
    brain = scans[T1].voxels != 0
    speckle = np.random.default_rng(0).uniform(1, 30, brain.shape).astype(np.float32)
    noisy = {T1: scans[T1], T2: Volume(np.where(brain, scans[T2].voxels, speckle), scans[T2].affine)}
    monkeypatch.setattr(raw, "shows_air", shows_air)
    found = []
    done = brought_together("s", noisy, find_brain=brain_of(found))
    assert not found and done.stripped_on is T1
    assert all(np.array_equal(v.voxels != 0, brain) for v in done.subject.volumes.values())
