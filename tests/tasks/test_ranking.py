"""Contrasts in the order of their low-frequency content."""

from itertools import pairwise

import numpy as np
import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.io.nifti import write_volume
from mrsynth.io.subjects import load_subject
from mrsynth.scans.volume import Volume
from mrsynth.tasks.ranking import rank_contrasts

FINENESS = {Contrast.T1: 0.1, Contrast.T2: 0.2, Contrast.FLAIR: 0.4, Contrast.T1CE: 0.8}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two subjects: constants in an ellipsoid plus pixel noise, more of it from T1 to T1ce; the second lacks the T2.

    A lonely voxel lies in a slice of its own, far above the rest.
    """
    root = tmp_path_factory.mktemp("cohort")
    shape, rng = (40, 44, 14), np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    brain = sum(x**2 for x in axes) < 0.7
    brain[..., -1] = False
    brain[20, 20, -1] = True
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    for name, contrasts in (("p1", STANDARD), ("p2", [c for c in STANDARD if c is not Contrast.T2])):
        (root / name).mkdir()
        for c in contrasts:
            voxels = np.where(brain, 100 * (1 + FINENESS[c] * rng.uniform(-1, 1, shape)), 0).astype(np.float32)
            write_volume(root / name / f"{name}_{c}.nii.gz", Volume(voxels, affine))
    return root


def test_order_and_numbers_of_subjects(cohort):
    seen = []
    rows = rank_contrasts([cohort], lambda *step: seen.append(step))

    assert [(row.contrast, row.subjects) for row in rows] == [("t1", 2), ("t2", 1), ("flair", 2), ("t1ce", 2)]
    assert all(0 < low.share < high.share < 1 for high, low in pairwise(rows))
    assert seen == [("measuring p1", 0, 2), ("measuring p2", 1, 2), ("measured", 2, 2)]


def test_a_share_is_that_of_the_slices_with_brain(cohort):
    """By hand, on the one subject with a T2: crop to the brain, pad to a multiple of 16, clip at 99.5 %, transform."""
    voxels = load_subject(cohort / "p1").volumes[Contrast.T2].voxels
    brain = voxels != 0
    box = tuple(slice(*(np.flatnonzero(brain.any(axis=axes))[[0, -1]] + (0, 1))) for axes in ((1, 2), (0, 2)))
    u = np.clip(voxels[box] / np.quantile(voxels[brain], 0.995), 0, 1)
    u = np.pad(u, [(0, -n % 16) for n in u.shape[:2]] + [(0, 0)])[..., brain.sum(axis=(0, 1)) > 1]
    energy = np.abs(np.fft.fft2(u, axes=(0, 1))) ** 2
    low = np.hypot(np.fft.fftfreq(u.shape[0])[:, None], np.fft.fftfreq(u.shape[1])) <= 0.054
    shares = energy[low].sum(axis=0) / energy.sum(axis=(0, 1))

    row = next(row for row in rank_contrasts([cohort / "p1"]) if row.contrast is Contrast.T2)

    assert row.share == pytest.approx(float(shares.mean()), abs=1e-5)


def test_several_folders_count_together(cohort):
    assert rank_contrasts([cohort / "p1", cohort / "p2"]) == rank_contrasts([cohort])


def test_without_subjects_the_message_names_the_folder(tmp_path):
    with pytest.raises(InputError, match="no subject below"):
        rank_contrasts([tmp_path])
