"""The Gaussian filter against scipy, and the identities that the guidance images rest on."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from mrsynth.errors import UsageError
from mrsynth.networks.frequency import gaussian_kernel, high_pass, low_frequency_share, low_pass


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_kernel_sums_to_1_is_symmetric_and_separable():
    kernel = gaussian_kernel(3.5, 21, dtype=torch.float64)
    i = torch.arange(-10, 11, dtype=torch.float64)
    square = torch.exp(-(i[:, None] ** 2 + i**2) / (2 * 3.5**2))

    assert float(kernel.sum()) == pytest.approx(1)
    assert torch.equal(kernel, kernel.flip(0))
    assert torch.allclose(torch.outer(kernel, kernel), square / square.sum(), atol=1e-12)


@pytest.mark.parametrize("sigma", [0.0, 1e-9, 1e-6, torch.tensor(0.0)])
def test_without_width_the_kernel_is_a_delta(sigma):
    x = images(2, 3, 24, 30)

    assert torch.equal(gaussian_kernel(sigma, 5), torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))
    assert torch.equal(low_pass(x, sigma, 21), x)
    assert not high_pass(x, sigma, 21).any()


@pytest.mark.parametrize("size", [0, -3, 4])
def test_kernels_without_a_middle_are_refused(size):
    with pytest.raises(UsageError, match="odd"):
        gaussian_kernel(1.0, size)


def test_low_pass_equals_scipy_up_to_the_border():
    x = images(2, 3, 40, 33)
    expected = ndimage.gaussian_filter(x.double().numpy(), 3.5, axes=(2, 3), radius=10, mode="mirror")

    assert np.allclose(low_pass(x, 3.5, 21).numpy(), expected, atol=1e-5)


def test_low_and_high_add_up_to_the_image():
    x = images(2, 4, 64, 48)

    assert torch.allclose(low_pass(x, 3.5, 21) + high_pass(x, 3.5, 21), x, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 32, 40), (1, 2, 8, 40), (1, 2, 40, 10), (2, 1, 3, 3), (1, 1, 1, 1)])
def test_constants_pass_including_borders_and_small_images(shape):
    x = torch.full(shape, -1.0)

    assert torch.allclose(low_pass(x, 3.5, 21), x, atol=1e-6)
    assert torch.allclose(high_pass(x, 3.5, 21), torch.zeros(shape), atol=1e-6)


def test_white_noise_keeps_a_150th_of_its_variance():
    """The sum of the squared weights: about 1 / (4 pi sigma^2) = 0.0065, a little more for the cut tails."""
    kernel = gaussian_kernel(3.5, 21, dtype=torch.float64)
    smooth = low_pass(images(1, 4, 512, 512), 3.5, 21)[..., 10:-10, 10:-10]

    assert float((kernel**2).sum() ** 2) == pytest.approx(0.0066, abs=1e-4)
    assert float(smooth.var()) == pytest.approx(0.0066, rel=0.05)


def test_images_and_channels_do_not_mix():
    x = images(3, 2, 32, 32)

    assert torch.allclose(low_pass(x, 2.0, 13)[1:2, 1:], low_pass(x[1:2, 1:], 2.0, 13), atol=1e-6)


def test_sigma_learns():
    sigma = torch.tensor(3.5, requires_grad=True)
    x = images(1, 1, 32, 32)
    high_pass(x, sigma, 21).square().mean().backward()
    step = 1e-2
    finite = (high_pass(x, 3.5 + step, 21).square().mean() - high_pass(x, 3.5 - step, 21).square().mean()) / (2 * step)

    assert float(sigma.grad) == pytest.approx(float(finite), rel=0.02)


def test_half_precision_is_filtered_in_full():
    x = images(1, 2, 32, 32).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = low_pass(x, 3.5, 21)

    assert low.dtype == torch.bfloat16
    assert torch.equal(low, low_pass(x.float(), 3.5, 21).bfloat16())


@pytest.mark.parametrize(("cycles", "share"), [(3, 1.0), (12, 0.0)])
def test_a_wave_lies_on_one_side_of_the_cutoff(cycles, share):
    """3 and 12 cycles over 100 pixels are 0.03 and 0.12 cycles per pixel."""
    wave = torch.sin(2 * torch.pi * cycles * torch.arange(100) / 100).expand(80, 100)

    assert float(low_frequency_share(wave)) == pytest.approx(share, abs=1e-6)


def test_shares_are_per_image_and_zero_for_nothing():
    waves = torch.sin(2 * torch.pi * torch.tensor([3.0, 12.0])[:, None] * torch.arange(100) / 100)
    x = torch.stack([waves[0], waves[1], waves.sum(0), torch.zeros(100)])[None, :, None].expand(2, 4, 80, 100)

    assert torch.allclose(low_frequency_share(x), torch.tensor([1.0, 0.0, 0.5, 0.0]).expand(2, 4), atol=1e-5)


def test_a_smoothed_image_has_the_share_that_its_filter_leaves():
    """The spectrum of smoothed white noise is the squared transfer function of the kernel."""
    transfer = np.abs(np.fft.fft(gaussian_kernel(3.5, 21).numpy(), 256)) ** 2
    power, f = np.outer(transfer, transfer), np.fft.fftfreq(256)
    expected = power[np.hypot(f[:, None], f) <= 0.054].sum() / power.sum()
    noise = images(1, 8, 256, 256)
    periodic = torch.nn.functional.pad(noise, (10, 10, 10, 10), mode="circular")  # else the wrapped border leaks
    smooth = low_pass(periodic, 3.5, 21)[..., 10:-10, 10:-10]

    assert float(low_frequency_share(smooth).mean()) == pytest.approx(expected, abs=0.01)
    assert float(low_frequency_share(noise).mean()) == pytest.approx(np.pi * 0.054**2, rel=0.05)
    assert float(low_frequency_share(high_pass(noise, 3.5, 21)).max()) < 0.005
