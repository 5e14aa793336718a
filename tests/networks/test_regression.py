"""The voxel-wise regression is the least-squares line of every pattern, on the examples that have it."""

import numpy as np
import pytest
import torch

from mrsynth.contrasts import STANDARD
from mrsynth.errors import UsageError
from mrsynth.networks.regression import FITTED, VoxelRegression, fit_regression, moments_of

T1, T1CE, T2, FLAIR = range(4)
GENERATOR = torch.Generator().manual_seed(0)
TRUTH = torch.rand(24, 4, 6, 8, generator=GENERATOR) * 1.6 - 0.8


def having(*sets):
    """Present (B, 4), one set of contrasts per example."""
    return torch.tensor([[c in chosen for c in range(4)] for chosen in sets])


def fitted(present, images=TRUTH, **options):
    regression = VoxelRegression(4)
    shown = torch.where(present[:, :, None, None], images[: len(present)], torch.nan)
    fit_regression(regression, [(shown, present)], STANDARD, **options)
    return regression.weights.detach()


def line(examples, inputs, target):
    """The least-squares line by numpy on these examples, (inputs and constant)."""
    u = (TRUTH[examples].permute(0, 2, 3, 1).reshape(-1, 4).numpy() + 1) / 2
    found, *_ = np.linalg.lstsq(np.c_[u[:, inputs], np.ones(len(u))], u[:, target], rcond=None)
    return torch.from_numpy(found).float()


def row(weights, inputs, target):
    return weights[sum(1 << c for c in inputs), target, [*inputs, 4]]


ALL = (T1, T1CE, T2, FLAIR)


def test_each_pattern_is_fitted_on_the_examples_that_have_it_and_its_target():
    sets = [(T1, T1CE, T2)] * 4 + [(T1, T2, FLAIR)] * 4 + [(T1CE, FLAIR)] * 4
    weights = fitted(having(*sets))

    assert torch.allclose(row(weights, [T1, T1CE], T2), line(range(4), [T1, T1CE], T2), atol=2e-3)
    assert torch.allclose(row(weights, [T1, T2], FLAIR), line(range(4, 8), [T1, T2], FLAIR), atol=2e-3)
    assert torch.allclose(row(weights, [T1], T2), line(range(8), [T1], T2), atol=2e-3)
    assert torch.allclose(row(weights, [T1CE], FLAIR), line(range(8, 12), [T1CE], FLAIR), atol=2e-3)


def test_a_pattern_that_no_example_has_takes_the_line_of_the_largest_part_that_some_has():
    weights = fitted(having(*[(T1, T1CE, T2)] * 4, *[(T1, T2, FLAIR)] * 4, *[(T1CE, FLAIR)] * 4))
    part = weights[0b0101, FLAIR]  # T1 and T2, as T1, T1ce and T2 never lie beside FLAIR

    assert torch.equal(weights[0b0111, FLAIR], part) and part.any()
    assert all(bool(weights[code, target].any()) for code in range(1, 16) for target in range(4))


def test_a_cohort_without_a_complete_subject_no_longer_begins_from_black():
    pairs = [(a, b) for a in ALL for b in ALL if a < b]
    weights = fitted(having(*pairs))

    assert all(bool(weights[code, target].any()) for code in range(1, 16) for target in range(4))


def test_two_contrasts_that_are_never_seen_together_are_refused_where_one_is_to_be_made_of_the_other():
    present = having((T1, T2), (T1, FLAIR), (T1, T1CE))
    with pytest.raises(UsageError, match=r"has both T1ce and T2, T1ce and FLAIR, T2 and FLAIR:.*begin: contrast"):
        fitted(present)
    assert fitted(present, targets=(STANDARD[T1],))[0b0010, T1].any()


def test_empty_slices_and_none_at_all():
    with pytest.raises(UsageError, match="has both T1 and T1ce"):
        fitted(having(ALL), images=torch.full_like(TRUTH, -1.0))
    weights = fitted(having(ALL, ALL), images=torch.cat([torch.full_like(TRUTH[:1], -1.0), TRUTH[1:2]]))
    assert torch.allclose(row(weights, [T1, T2], FLAIR), line([1], [T1, T2], FLAIR), atol=2e-3)


def test_complete_examples_serve_every_pattern_so_that_sixteen_batches_of_them_are_enough():
    asked = []

    def batches():
        for number in range(100):
            asked.append(number)
            yield TRUTH[:2], having(ALL, (T1, T2))

    fit_regression(VoxelRegression(4), batches(), STANDARD)
    assert len(asked) == FITTED


def test_what_is_made_is_the_line_of_its_pattern_in_the_brain_and_nothing_outside():
    regression = VoxelRegression(4)
    with torch.no_grad():
        regression.weights[0b0101, FLAIR] = torch.tensor([2.0, 9.0, -1.0, 9.0, 0.5])
    u = torch.zeros(1, 4, 2, 2)
    u[0, T1, 0], u[0, T2, 0] = 0.3, 0.4  # the first row is brain, the second is not
    made = regression(u, having((T1, T2)))

    assert torch.allclose(made[0, FLAIR, 0], torch.full((2,), 2 * 0.3 - 0.4 + 0.5))
    assert not made[0, :, 1].any() and not made[0, :FLAIR].any()
    assert not regression(u, having((T1,))).any(), "another pattern, another line"


def test_what_is_not_available_is_not_read():
    regression = VoxelRegression(4)
    torch.nn.init.normal_(regression.weights)
    present = having((T1, T2))
    shown = torch.where(present[:, :, None, None], TRUTH[:1], torch.nan)
    made = regression.images(shown, present)

    assert torch.equal(made, regression.images(TRUTH[:1], present)) and made.isfinite().all()


def test_moments_are_sums_of_outer_products():
    u = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    assert moments_of(u).tolist() == [[10, 14, 4], [14, 20, 6], [4, 6, 2]]


def test_it_is_known_whether_it_was_fitted():
    regression = VoxelRegression(4)
    assert not regression.fitted
    fit_regression(regression, [(TRUTH, torch.ones(len(TRUTH), 4, dtype=torch.bool))], STANDARD)
    assert regression.fitted
