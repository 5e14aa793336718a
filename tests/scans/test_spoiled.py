"""Hints at spoiled scans: what was broken on purpose is seen, and a whole scan is left in peace."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.io.subjects import find_subject, load_subject
from mrsynth.scans.spoiled import predicted_share, signs_of_damage, unlike_the_others
from mrsynth.scans.volume import Volume


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


def test_what_a_regression_predicts_is_its_share_of_the_variance():
    rng = np.random.default_rng(0)
    a, b, noise = rng.random((3, 20_000))
    assert predicted_share(a * b + a**3, np.stack([a, b])) == pytest.approx(1, abs=1e-9)
    assert predicted_share(noise, np.stack([a, b])) == pytest.approx(0, abs=0.01)
    assert predicted_share(a + noise, np.stack([a, b])) == pytest.approx(0.5, abs=0.02)  # equal variances
    assert predicted_share(np.ones(100), rng.random((2, 100))) == 1
    by_heart = [predicted_share(rng.random(100), rng.random((2, 100))) for _ in range(20)]
    assert np.mean(by_heart) < 0, "it is counted where it was not fitted"


@pytest.mark.parametrize("spoil", ["noise", "mirrored", "nothing"])
def test_a_contrast_that_the_others_do_not_predict_is_named_with_by_how_much(make_subject, spoil):
    subject = make_subject(shape=(40, 48, 32), without=[Contrast.FLAIR])
    t2 = subject.volumes[Contrast.T2]
    brain = t2.voxels != 0
    noise = np.random.default_rng(0).permutation(t2.voxels[brain])
    voxels = {"nothing": t2.voxels, "mirrored": t2.voxels[::-1].copy(), "noise": t2.voxels.copy()}[spoil]
    if spoil == "noise":
        voxels[brain] = noise
    signs = signs_of_damage(replace(subject, volumes={**subject.volumes, Contrast.T2: Volume(voxels, t2.affine)}))

    assert set(signs) == (set() if spoil == "nothing" else {Contrast.T2})
    if signs:
        assert re.fullmatch(r"the others predict [0-9]% of its variation, usually 24% or more", signs[Contrast.T2][-1])


@pytest.mark.real_data
def test_no_real_subject_is_called_unlike_itself(shared_data):
    folder = shared_data / "data" / "ms_longitudinal" / "msl12s1"
    if not folder.is_dir():
        pytest.skip("not unpacked")
    subject = load_subject(find_subject(folder))
    assert unlike_the_others(subject, subject.foreground()) == {}
