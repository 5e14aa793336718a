"""The wavelet transform: orthonormal, inverted by its transpose, and that of upstream and of PyWavelets."""

from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from safetensors.torch import load_file

from mrsynth.errors import UsageError
from mrsynth.networks.wavelet import dwt, filters, idwt

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "golden_dwt.safetensors"
BANDS = ("LLL", "LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH")
SIZES = {2: (16, 20), 3: (16, 14, 18)}

every_wavelet = pytest.mark.parametrize("wavelet", ["haar", "db2", "sym4", "db7"])
every_dimension = pytest.mark.parametrize("dimensions", [2, 3])


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_bands_of_upstream():
    golden = load_file(GOLDEN)
    bands = dwt(golden["volume"])

    expected = torch.cat([golden[name] for name in BANDS], dim=1)
    assert bands.shape == expected.shape and float((bands - expected).abs().max()) < 1e-6
    assert float((idwt(expected) - golden["recon"]).abs().max()) < 1e-6
    assert float((idwt(bands) - golden["volume"]).abs().max()) < 1e-6


@every_wavelet
@every_dimension
def test_the_inverse_undoes_it(wavelet, dimensions):
    x = noise(2, 3, *SIZES[dimensions])
    bands = dwt(x, wavelet)

    assert bands.shape == (2, 3 * 2**dimensions, *(n // 2 for n in SIZES[dimensions]))
    assert torch.allclose(idwt(bands, wavelet), x, atol=1e-10)
    assert torch.allclose(dwt(idwt(bands, wavelet), wavelet), bands, atol=1e-10)
    single = dwt(x.float(), wavelet)
    assert single.dtype == torch.float32 and torch.allclose(idwt(single, wavelet), x.float(), atol=1e-5)


@every_wavelet
def test_the_inverse_undoes_it_where_the_filter_is_longer_than_the_axis(wavelet):
    x = noise(1, 1, 2, 4, 6)

    assert torch.allclose(idwt(dwt(x, wavelet), wavelet), x, atol=1e-10)


@every_wavelet
@every_dimension
def test_it_is_orthonormal(wavelet, dimensions):
    """Products keep their value, so squared errors keep their sum and white noise stays white."""
    size = (4, 6, 4)[:dimensions]
    count = int(np.prod(size))
    units = torch.eye(count, dtype=torch.float64).reshape(count, 1, *size)
    matrix = dwt(units, wavelet).flatten(1)

    assert torch.allclose(matrix @ matrix.T, torch.eye(count, dtype=torch.float64), atol=1e-10)


@every_wavelet
def test_white_noise_stays_white(wavelet):
    x = noise(1, 1, 32, 32, 32)
    bands = dwt(x, wavelet)[0].flatten(1)

    assert float(bands.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-10)
    covariance = bands @ bands.T / bands.shape[1]
    assert float((covariance - torch.eye(8)).abs().max()) < 6 * (2 / bands.shape[1]) ** 0.5


@every_wavelet
@every_dimension
def test_it_is_the_periodization_mode_of_pywavelets(wavelet, dimensions):
    """Bands have the same order and sign. Theirs are centred: they begin length / 2 - 1 samples before ours do."""
    x = noise(1, 1, *SIZES[dimensions])
    theirs = pywt.dwtn(x[0, 0].numpy(), wavelet, mode="periodization")
    before = pywt.Wavelet(wavelet).dec_len // 2 - 1
    ours = dwt(x.roll([before] * dimensions, list(range(2, 2 + dimensions))), wavelet)[0]

    assert list(theirs) == sorted(theirs, key=lambda name: name.translate(str.maketrans("ad", "01")))
    assert np.allclose(ours.numpy(), np.stack(list(theirs.values())), atol=1e-10)


@pytest.mark.parametrize("axis", range(3))
def test_bands_are_numbered_with_the_first_axis_as_the_most_significant_digit(axis):
    """A ramp along one axis has its mean in LLL and its slope in the one band that is high along that axis."""
    sizes = (4, 6, 8)
    view = [-1 if a == axis else 1 for a in range(3)]
    ramp = torch.arange(sizes[axis], dtype=torch.float64).reshape(view).expand(sizes)[None, None]
    bands = dwt(ramp)[0]

    high = 4 >> axis
    assert BANDS[high] == "".join("H" if a == axis else "L" for a in range(3))
    assert sorted(int(b) for b in bands.abs().amax((1, 2, 3)).nonzero()) == [0, high]
    # first minus second: a rising ramp has a negative slope; sqrt 2 for each of the other axes
    assert torch.allclose(bands[high], torch.tensor(-(0.5**0.5) * 2, dtype=torch.float64))
    means = (2 * torch.arange(sizes[axis] // 2, dtype=torch.float64) + 0.5) * 2**1.5
    assert torch.allclose(bands[0], means.reshape(view).expand(bands[0].shape))


@every_dimension
def test_channels_and_examples_do_not_mix(dimensions):
    x = noise(2, 3, *SIZES[dimensions])
    together, n = dwt(x, "db2"), 2**dimensions

    for b in range(2):
        for c in range(3):
            alone = dwt(x[b : b + 1, c : c + 1], "db2")[0]
            assert torch.equal(together[b, n * c : n * (c + 1)], alone)


@every_wavelet
def test_the_gradient_of_one_is_the_other(wavelet):
    """The inverse is the transpose: what autograd makes of the transform."""
    x, bands = noise(1, 2, 8, 4, 6).requires_grad_(), noise(1, 16, 4, 2, 3, seed=1)
    (dwt(x, wavelet) * bands).sum().backward()

    assert torch.allclose(x.grad, idwt(bands, wavelet), atol=1e-10)


@pytest.mark.parametrize("size", [(3, 4), (4, 4, 5), (1, 2, 2)])
def test_odd_sizes_are_refused(size):
    with pytest.raises(ValueError, match="must be even"):
        dwt(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bior2.2", "not orthogonal"),
        ("rbio3.1", "not orthogonal"),
        ("dmey", "not orthogonal"),
        ("morl", "'morl'"),
        ("", "''"),
        ("hare", "'hare'"),
    ],
)
def test_filters_that_cannot_serve_are_refused_with_some_that_can(name, message):
    with pytest.raises(UsageError, match=f"{message}.*haar"):
        filters(name)


def test_a_filter_that_is_taken_is_orthonormal_to_the_last_digit():
    """PyWavelets calls dmey orthogonal, but what it undoes is off by half a per cent."""
    x = noise(1, 1, 8, 2)
    taken = [name for name in pywt.wavelist(kind="discrete") if pywt.Wavelet(name).orthogonal and name != "dmey"]

    assert len(taken) > 70
    assert all(torch.allclose(idwt(dwt(x, name), name), x, atol=1e-6) for name in taken)
