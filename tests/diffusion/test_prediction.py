"""What a network predicts and x_0 are two sides of one equation."""

import pytest
import torch

from mrsynth.diffusion.prediction import noised, to_x0, training_target

KINDS = ("eps", "x0", "v")


@pytest.fixture
def clean_and_noise():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 2, 5, 4, generator=generator) * 2 - 1, torch.randn(3, 2, 5, 4, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("abar", [0.999, 0.5, 0.01])
def test_a_perfect_prediction_gives_x0_back(kind, abar, clean_and_noise):
    x_0, eps = clean_and_noise
    x_t = noised(x_0, eps, abar)

    assert torch.allclose(to_x0(kind, training_target(kind, x_0, eps, abar), x_t, abar), x_0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_level_per_image_equals_each_image_alone(kind, clean_and_noise):
    x_0, eps = clean_and_noise
    abar = torch.tensor([0.9, 0.4, 0.02], dtype=torch.float64)
    column = abar[:, None, None, None]
    together = (
        noised(x_0, eps, column),
        training_target(kind, x_0, eps, column),
        to_x0(kind, eps, x_0, column),
    )

    for b, a in enumerate(abar.tolist()):
        one, e = x_0[b : b + 1], eps[b : b + 1]
        alone = (noised(one, e, a), training_target(kind, one, e, a), to_x0(kind, e, one, a))
        for batch, single in zip(together, alone, strict=True):
            assert torch.allclose(batch[b : b + 1], single, atol=1e-5)


def test_noising_and_v_are_one_rotation(clean_and_noise):
    """(x_t, v) is (x_0, eps) turned by an angle, so it keeps the length: Salimans & Ho 2022, appendix D."""
    x_0, eps = clean_and_noise
    x_t, v = noised(x_0, eps, 0.3), training_target("v", x_0, eps, 0.3)

    assert torch.allclose(x_t**2 + v**2, x_0**2 + eps**2, atol=1e-5)
    assert torch.equal(training_target("eps", x_0, eps, 0.3), eps)
    assert torch.equal(training_target("x0", x_0, eps, 0.3), x_0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("abar", [0.3, torch.full((3, 1, 1, 1), 0.3, dtype=torch.float64)], ids=["float", "tensor"])
def test_images_keep_their_dtype(kind, abar, clean_and_noise):
    x_0, eps = (x.bfloat16() for x in clean_and_noise)

    for result in (
        noised(x_0, eps, abar),
        training_target(kind, x_0, eps, abar),
        to_x0(kind, eps, x_0, abar),
    ):
        assert result.dtype == torch.bfloat16


def test_levels_next_to_the_data_keep_their_noise():
    """1 - abar is taken in float64: in float32 it would be 0 here."""
    abar = torch.tensor(1 - 1e-9, dtype=torch.float64)

    assert float(noised(torch.zeros(1), torch.ones(1), abar)) == pytest.approx(1e-9**0.5, rel=1e-4)
