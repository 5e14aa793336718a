"""Hints at spoiled scans: what was broken on purpose is seen, and a whole scan is left in peace."""

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.scans.spoiled import signs_of_damage


@pytest.fixture
def subject(make_subject):
    """FLAIR is left out: that of the made-up brains is cut off at its top."""
    return make_subject(without=[Contrast.FLAIR])


def test_a_whole_subject_shows_nothing(subject):
    assert signs_of_damage(subject) == {}


@pytest.mark.parametrize(("axis", "name"), [(0, "first"), (1, "second"), (2, "third")])
@pytest.mark.parametrize("value", [0.0, 123.0])
def test_slices_that_hold_one_value_are_told_with_their_place(subject, axis, name, value):
    planes = (
        np.moveaxis(array, axis, 0)[9:12] for array in (subject.volumes[Contrast.T2].voxels, subject.foreground())
    )
    voxels, brain = planes
    voxels[brain] = value

    assert signs_of_damage(subject) == {Contrast.T2: [f"slices 9 to 11 along its {name} axis hold one value only"]}


def test_a_range_that_was_cut_off_is_told_with_its_share(subject):
    voxels, brain = subject.volumes[Contrast.T1].voxels, subject.foreground()
    np.minimum(voxels, np.quantile(voxels[brain], 0.9), out=voxels)

    share = float((voxels[brain] == voxels[brain].max()).mean())
    assert share > 0.09
    assert signs_of_damage(subject) == {Contrast.T1: [f"{share:.1%} of the brain have exactly the highest value"]}
