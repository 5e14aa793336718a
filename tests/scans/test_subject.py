"""A subject holds its volumes to one grid."""

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume


def volume(value: float = 1.0, shift: float = 0.0, shape: tuple[int, int, int] = (4, 4, 4)) -> Volume:
    affine = np.eye(4)
    affine[0, 3] = shift
    return Volume(np.full(shape, value, np.float32), affine)


def test_different_grids_are_refused_with_both_names_and_both_affines() -> None:
    with pytest.raises(InputError) as caught:
        Subject("patient", {Contrast.T1: volume(), Contrast.FLAIR: volume(shift=7.5)})

    message = str(caught.value)
    assert "patient" in message and "T1" in message and "FLAIR" in message
    assert "[1 0 0 0;" in message and "[1 0 0 7.5;" in message


@pytest.mark.parametrize("part", ["segmentation", "mask"])
def test_segmentation_and_mask_must_share_the_grid(part: str) -> None:
    with pytest.raises(InputError, match="different grids"):
        Subject("patient", {Contrast.T1: volume()}, **{part: volume(shape=(4, 4, 5))})


def test_no_contrast_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="no contrast at all"):
        Subject("patient", {})


def test_available_missing_and_reference_follow_canonical_order_not_that_of_the_files() -> None:
    flair, t1 = volume(2), volume(3)
    subject = Subject("patient", {Contrast.FLAIR: flair, Contrast.T1: t1})

    assert subject.available == (Contrast.T1, Contrast.FLAIR)
    assert subject.missing() == (Contrast.T1CE, Contrast.T2)
    assert subject.reference is t1


def test_foreground_is_the_union_of_the_contrasts_inside_the_mask() -> None:
    t1, t2, mask = volume(0), volume(0), volume(1)
    t1.voxels[0, 0, 0] = t2.voxels[1, 1, 1] = t2.voxels[2, 2, 2] = 5
    mask.voxels[2, 2, 2] = 0

    both = {Contrast.T1: t1, Contrast.T2: t2}
    assert np.argwhere(Subject("patient", both).foreground()).tolist() == [[0] * 3, [1] * 3, [2] * 3]
    assert np.argwhere(Subject("patient", both, mask=mask).foreground()).tolist() == [[0] * 3, [1] * 3]


def test_hiding_a_contrast_keeps_the_rest_and_the_original() -> None:
    subject = Subject("patient", {Contrast.T1: volume(), Contrast.T2: volume()}, mask=volume())
    hidden = subject.without(Contrast.T2)

    assert hidden.available == (Contrast.T1,) and hidden.mask is subject.mask
    assert subject.available == (Contrast.T1, Contrast.T2)
