"""What differs by header only is the same grid, or is named; it is never registered."""

import itertools

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.scans import raw
from mrsynth.scans.headers import Forms, exactly_on
from mrsynth.scans.raw import brought_together
from mrsynth.scans.volume import Volume

T1, T2, FLAIR = Contrast.T1, Contrast.T2, Contrast.FLAIR
SHAPE = (12, 10, 8)


def rotation(degrees):
    a, b, c = np.deg2rad(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return z @ y @ x


def affine(degrees=(0, 0, 0), spacing=(-1.0, -1.0, 2.0), origin=(31.5, 39.5, -23.5)):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees) @ np.diag(spacing)
    matrix[:3, 3] = origin
    return matrix


def volume(matrix=None, seed=0, shape=SHAPE):
    voxels = np.random.default_rng(seed).uniform(1, 100, shape).astype(np.float32)
    return Volume(voxels, affine() if matrix is None else matrix)


@pytest.fixture(autouse=True)
def never_registered(monkeypatch):
    def register(*_, **__):
        raise AssertionError("registered")

    monkeypatch.setattr(raw, "register", register)
    monkeypatch.setattr(raw, "shows_air", lambda *_: False)  # the volumes are noise up to their faces


def reordered(own, order, flips):
    """The same places in another order of axes: axis n is axis order[n], reversed where flips[n]."""
    voxels, matrix = own.voxels.transpose(order), own.affine[:, [*order, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip:
            voxels = np.flip(voxels, axis)
            matrix[:, 3] += (voxels.shape[axis] - 1) * matrix[:, axis]
            matrix[:, axis] *= -1
    return Volume(voxels, matrix)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (18, -0.4, 0.1), (40, 44, -37)])
def test_each_of_the_48_orders_of_axes_is_brought_back_exactly(degrees):
    own = volume(affine(degrees))
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            other = reordered(own, order, flips)
            back = exactly_on(other, own)
            assert np.array_equal(back.voxels, own.voxels) and np.allclose(back.affine, own.affine, atol=1e-9)


def test_a_subject_with_one_scan_in_another_order_gives_the_voxels_it_gives_otherwise():
    t1, flair = volume(), volume(seed=1)
    done = brought_together("s", {T1: t1, FLAIR: reordered(flair, (1, 2, 0), (True, False, True))}, align="off")

    assert done.home is T1 and not done.registrations
    assert np.array_equal(done.subject.volumes[FLAIR].voxels, flair.voxels)
    assert done.notes == ("FLAIR is stored in another order of axes (ASR) and was turned to LPS, exactly.",)


def test_masks_and_segmentations_in_another_order_are_brought_over_too():
    t1, labels = volume(), volume(seed=2)
    stored = reordered(labels, (2, 0, 1), (False, True, False))
    done = brought_together("s", {T1: t1}, mask=(stored, T1), segmentation=stored)

    assert np.array_equal(done.subject.segmentation.voxels, labels.voxels)
    assert np.array_equal(done.subject.mask.voxels, labels.voxels > 0)


def rounded_text(matrix, decimals):
    return np.round(matrix, decimals)


def as_quaternion(matrix, turn):
    """Turned about the first voxel, as the lost digits of a quaternion turn it."""
    moved = matrix.copy()
    moved[:3, :3] = rotation((0, 0, np.rad2deg(turn))) @ matrix[:3, :3]
    return moved


HEAD = (240, 240, 155)


@pytest.mark.parametrize(
    ("other", "shape", "same"),
    [
        (lambda m: as_quaternion(m, 7.8e-4), (64, 80, 48), True),  # 0.08 mm at the last corner
        (lambda m: as_quaternion(m, 7.8e-4), HEAD, True),  # 0.26 mm: the same header of a whole head
        (lambda m: as_quaternion(m, 3e-3), HEAD, False),
        (lambda m: rounded_text(m, 6), HEAD, True),
        (lambda m: rounded_text(m, 4), HEAD, True),
        (lambda m: rounded_text(m, 3), HEAD, True),
        (lambda m: m + np.outer([1, 0, 0, 0], [0, 0, 0, 0.09]), HEAD, True),
        (lambda m: m + np.outer([1, 0, 0, 0], [0, 0, 0, 0.25]), HEAD, False),  # a quarter of a voxel is a move
        (lambda m: m @ np.diag([1.01, 1, 1, 1]), HEAD, False),
    ],
)
def test_places_a_small_fraction_of_a_voxel_apart_are_the_same(other, shape, same):
    matrix = affine((7.3, -2.1, 3.7), (-1.0, -1.0, 1.0))
    own, again = (Volume(np.broadcast_to(np.float32(0), shape), m) for m in (matrix, other(matrix)))

    assert (exactly_on(again, own) is not None) is same


def test_other_shapes_and_other_places_are_not_the_same():
    assert exactly_on(volume(shape=(12, 10, 9)), volume()) is None
    assert exactly_on(volume(affine((0, 0, 8))), volume()) is None
    assert exactly_on(volume(affine(spacing=(1.0, -1.0, 2.0))), volume()) is None  # mirrored where it stands


MOVED = affine((8, 0, 0), origin=(34.5, 51.5, -23.5))
NO_FORM = Forms(None, None)
BOTH = Forms(affine(), MOVED)


@pytest.mark.parametrize("align", ["auto", "off"])
@pytest.mark.parametrize(
    ("loser", "forms", "matrix", "said"),
    [
        (T1, Forms(None, MOVED), MOVED, "has lost its sform"),
        (FLAIR, Forms(None, MOVED), MOVED, "has lost its sform"),
        (FLAIR, NO_FORM, np.diag([-1.0, 1.0, 2.0, 1.0]), "does not say where it lies"),
    ],
)
def test_a_lost_form_is_named_with_the_lossless_remedy(align, loser, forms, matrix, said):
    volumes = {c: volume(matrix if c is loser else affine(), seed) for seed, c in enumerate((T1, T2, FLAIR))}
    all_forms = {c: forms if c is loser else BOTH for c in volumes}
    keeper = T2 if loser is T1 else T1
    with pytest.raises(InputError, match=f"{loser.label} {said}") as refusal:
        brought_together("s", volumes, align=align, forms=all_forms, places={c: f"/x/{c}.nii" for c in volumes})
    assert f"fslcpgeom /x/{keeper}.nii /x/{loser}.nii" in str(refusal.value)
    assert str(refusal.value).count("fslcpgeom") == 1


@pytest.mark.parametrize("loser", [T1, FLAIR])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (-1.0, -1.0, 2.0)])  # nibabel's, and ITK's
def test_an_affine_that_no_scanner_gives_is_a_lost_header(loser, spacing):
    lost, places = affine(spacing=spacing, origin=(0, 0, 0)), {c: f"/x/{c}.nii" for c in (T1, T2)}
    volumes = {c: volume(lost if c is loser else affine(), seed) for seed, c in enumerate((T1, T2, FLAIR))}
    forms = {c: Forms(v.affine, None) for c, v in volumes.items()}
    with pytest.raises(InputError, match=f"{loser.label} begins at 0.*fslcpgeom"):
        brought_together("s", volumes, forms=forms)
    with pytest.raises(AssertionError, match="registered"):  # not by its size alone: it has another shape
        other = {T1: volume(), T2: volume(lost, shape=(12, 10, 9))}
        brought_together("s", other, forms={c: Forms(v.affine, None) for c, v in other.items()})
    everywhere = {c: volume(lost, seed) for seed, c in enumerate(places)}
    brought_together("s", everywhere, forms={c: Forms(lost, None) for c in everywhere}, places=places)


@pytest.mark.parametrize("loser", [T1, FLAIR])
def test_a_scan_that_does_not_say_where_it_lies_is_not_turned(loser):
    """A header without codes stands for an affine that is made up: axes LAS, the middle of the image at 0."""
    middle = (np.array(SHAPE) - 1) / 2
    own, made_up = (affine(spacing=s, origin=-np.array(s) * middle) for s in ((-1.0, -1.0, 2.0), (-1.0, 1.0, 2.0)))
    volumes = {c: volume(made_up if c is loser else own, seed) for seed, c in enumerate((T1, T2, FLAIR))}
    with pytest.raises(InputError, match=f"{loser.label} does not say where it lies.*fslcpgeom"):
        brought_together("s", volumes, forms={c: NO_FORM if c is loser else BOTH for c in volumes})
    both = {c: volume(made_up, seed) for seed, c in enumerate((T1, T2))}
    assert brought_together("s", both, forms=dict.fromkeys(both, NO_FORM)).subject.volumes.keys() == {T1, T2}


def test_what_lies_elsewhere_with_both_forms_or_by_force_is_registered():
    """A program that aligns scans moves the sform alone: then it is the sform that is right."""
    volumes = {T1: volume(), FLAIR: volume(MOVED, 1)}
    with pytest.raises(AssertionError, match="registered"):
        brought_together("s", volumes, forms={T1: Forms(affine(), affine()), FLAIR: Forms(MOVED, affine())})
    with pytest.raises(AssertionError, match="registered"):
        brought_together("s", volumes, align="force", forms={T1: BOTH, FLAIR: Forms(None, MOVED)})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (volume(shape=(12, 10, 9)), "12x10x8 and 12x10x9 voxels"),
        (volume(affine(spacing=(-1.0, -1.0, 3.0))), "voxels of 1 x 1 x 2 and 1 x 1 x 3 mm"),
        (volume(affine(origin=(31.5, 42.5, -23.5))), "equal in size, with their middles 3 mm apart, LPS and LPS"),
    ],
)
def test_with_align_off_the_cause_is_told(other, said):
    with pytest.raises(InputError, match=f"T1 and T2 lie on different grids: {said}"):
        brought_together("s", {T1: volume(), T2: other}, align="off")
