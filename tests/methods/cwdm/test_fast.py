"""The fast form of the 3-D U-Net is the plain one: same weights, same numbers."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mrsynth.methods.cwdm import fast as wavelet_fast
from mrsynth.methods.cwdm import kernels
from mrsynth.methods.cwdm.fast import Convolution, FastWaveletUNet, Source, affine
from mrsynth.methods.cwdm.kernels import PLAIN, SOURCES, clip_haar
from mrsynth.methods.cwdm.network import WaveletUNet, WaveletUNetConfig
from mrsynth.methods.cwdm.official import cwdm_official
from mrsynth.networks.wavelet import dwt, idwt

CONFIGS = {
    "two levels": {"width": 16, "multipliers": (1, 2), "groups": 8},
    "groups across the border of h and skip": {"width": 24, "multipliers": (1, 2), "blocks": 1, "groups": 4},
    "one block": {"width": 16, "multipliers": (1, 2, 2), "blocks": 1, "groups": 8},
    "one level": {"width": 8, "multipliers": (1,), "groups": 4},
    "additive": {"width": 16, "multipliers": (1, 2, 3), "groups": 8, "skips": "additive"},
    "as shipped": {"width": 16, "multipliers": (1, 1, 2), "groups": 8, "skips": "additive", "input_skip": True},
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}  # rms, in standard deviations of the output


@pytest.fixture(autouse=True)
def without_compiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than all these networks."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(kernels, "SMALL", 1 << 60)


def network(inputs: int = 12, outputs: int = 3, **config: object) -> WaveletUNet:
    """With weights that are not zero anywhere, and norms that do something."""
    torch.manual_seed(7)
    made = WaveletUNet(WaveletUNetConfig.model_validate(config), inputs, outputs)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
            parameter.copy_(torch.randn_like(parameter) * fan_in**-0.5 + ("norm" in name and name.endswith("weight")))
    return made.requires_grad_(False)


def deviation(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).square().mean().sqrt() / expected.std())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_equals_the_plain_network(config: dict[str, object], points: bool, dtype: torch.dtype) -> None:
    """On a grid without equal sides, two samples at different levels."""
    plain = network(**config)
    x, conditions = torch.randn(2, 12, 8, 12, 20).split([4, 8], dim=1)
    level = torch.tensor([3, 700])

    fast = FastWaveletUNet(plain, dtype, points)
    fast.condition(conditions)
    made = fast(x, level)

    assert made.dtype == torch.float32
    assert deviation(made, plain(torch.cat([x, conditions], 1), level)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("points", [False, True])
def test_equals_the_published_network(shared_data: Path, points: bool, dtype: torch.dtype) -> None:
    """Outputs of the official code, for its own topology with narrow levels."""
    golden = load_file(shared_data / "upstream" / "cwdm" / "golden_small.safetensors")
    state = cwdm_official({k.removeprefix("model."): v for k, v in golden.items() if k.startswith("model.")})
    plain = WaveletUNet(WaveletUNetConfig(width=8, groups=4))
    plain.load_state_dict({k.removeprefix("network."): v for k, v in state.items()})
    fast = FastWaveletUNet(plain, dtype, points)

    fast.condition(golden["input.cond"])
    one, zero = (fast(golden["input.x"], t) for t in (golden["input.t"], torch.tensor([0])))
    fast.condition(golden["batch.input"][:, 8:])
    two = fast(golden["batch.input"][:, :8], golden["batch.t"])

    made = {"output.x0": one, "output.x0_t0": zero, "batch.output": two}
    assert {name for name, y in made.items() if deviation(y, golden[name]) > TOLERANCE[dtype]} == set()


def test_any_slab_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of two planes, of four with a remainder, and all at once."""
    plain = network(**CONFIGS["two levels"])
    x, level = torch.randn(1, 12, 10, 4, 6), torch.tensor([5])
    plane = 4 * 6 * 48 * 4
    for fitting in (2, 4, 100):
        monkeypatch.setattr(wavelet_fast, "SLAB_BYTES", fitting * plane)
        assert deviation(FastWaveletUNet(plain, torch.float32, True)(x, level), plain(x, level)) < 1e-5


def test_works_without_conditions_and_keeps_them_over_steps() -> None:
    plain = network(**CONFIGS["one block"])
    fast = FastWaveletUNet(plain, torch.float32)
    x = torch.randn(3, 1, 12, 4, 8, 8)

    assert deviation(fast(x[0], torch.tensor([9])), plain(x[0], torch.tensor([9]))) < 1e-5
    fast.condition(x[0, :, 5:])
    for step in (2, 1, 0):
        level = torch.tensor([step])
        joined = torch.cat([x[step, :, :5], x[0, :, 5:]], 1)
        assert deviation(fast(x[step, :, :5], level), plain(joined, level)) < 1e-5


def test_refuses_what_does_not_fit() -> None:
    fast = FastWaveletUNet(network(**CONFIGS["two levels"]))

    with pytest.raises(ValueError, match="multiple of 2"):
        fast(torch.randn(1, 12, 8, 7, 8), torch.tensor([1]))
    fast.condition(torch.randn(1, 8, 8, 8, 8))
    with pytest.raises(ValueError, match="must be"):
        fast(torch.randn(1, 4, 8, 8, 6), torch.tensor([1]))
    with pytest.raises(ValueError, match="must be"):
        fast(torch.randn(1, 12, 8, 8, 8), torch.tensor([1]))


def test_the_plain_network_and_the_result_are_left_to_their_owners() -> None:
    """Weights stay as they are, later training does not reach the copy, and a result may be changed in place."""
    plain = network(**CONFIGS["two levels"])
    before = {name: weight.clone() for name, weight in plain.state_dict().items()}
    x, level = torch.randn(1, 12, 8, 8, 8), torch.tensor([1])
    fast = FastWaveletUNet(plain, torch.float32)

    first = fast(x, level)
    assert all(torch.equal(weight, before[name]) for name, weight in plain.state_dict().items())
    for parameter in plain.parameters():
        parameter.add_(1)
    second = fast(x, level)
    assert torch.equal(first, second)
    assert torch.equal(first.mul_(2), 2 * second)


@pytest.mark.parametrize("points", [False, True])
def test_sums_are_those_of_the_output(points: bool) -> None:
    """A norm that rests on them equals the norm of the output, also with an offset on every channel."""
    torch.manual_seed(0)
    out = torch.empty(6, 4, 5, 8)
    sums = Convolution(torch.randn(8, 3, 3, 3, 3), torch.float32, points)([Source(torch.randn(6, 4, 5, 3))], out)
    torch.testing.assert_close(sums, torch.stack([out.sum((0, 1, 2)), out.square().sum((0, 1, 2))]))

    norm, offset = torch.nn.GroupNorm(2, 8), torch.randn(8)
    scale, shift = affine(norm, sums, 6 * 4 * 5, offset)
    expected = norm((out + offset).permute(3, 0, 1, 2)[None])[0].permute(1, 2, 3, 0)
    torch.testing.assert_close(out * scale + shift, expected)


def stepwise(x_0: Tensor, low_scale: float) -> Tensor:
    scale = torch.tensor([low_scale] + [1.0] * 7)[:, None, None, None]
    return dwt(idwt(x_0 * scale).clamp(0, 1)) / scale


@pytest.mark.parametrize("function", [clip_haar, SOURCES.clip_haar], ids=["as called", "as compiled"])
def test_clipping_is_clipping_of_the_image(function: Callable[[Tensor, float], Tensor]) -> None:
    torch.manual_seed(0)
    x_0 = torch.randn(2, 8, 4, 6, 10)

    clipped = function(x_0, 3.0)

    torch.testing.assert_close(clipped, stepwise(x_0, 3.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(function(clipped, 3.0), clipped, atol=1e-6, rtol=0)  # nothing is left to clip


@pytest.mark.parametrize("reason", ["no compiler", ""])
def test_without_a_compiler_the_same_work_is_done_step_by_step(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(reason)

    tries = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: tries.append(function) or fails)
    monkeypatch.setattr(kernels, "SMALL", 0)
    kernels.compiled.cache_clear()
    try:
        with caplog.at_level(logging.INFO, "mrsynth.methods.cwdm.kernels"):
            chosen = [kernels.kernels(torch.zeros(1)) for _ in range(3)]
    finally:
        kernels.compiled.cache_clear()

    assert chosen == [PLAIN] * 3
    assert len(tries) == len(SOURCES)
    assert len(caplog.records) == 1
    assert (reason or "RuntimeError") in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_compiled_kernels_give_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks through compiled kernels, as large ones use them. Skips where nothing can be compiled."""
    if kernels.compiled("cpu") is PLAIN:
        pytest.skip("no compiler")
    monkeypatch.setattr(kernels, "SMALL", 0)
    plain = network(**CONFIGS["two levels"])
    for grid in ((8, 12, 20), (4, 6, 8)):
        x, level = torch.randn(1, 12, *grid), torch.tensor([3])
        for points in (False, True):
            made = FastWaveletUNet(plain, dtype, points)(x, level)
            assert deviation(made, plain(x, level)) < TOLERANCE[dtype]
    x_0 = torch.randn(2, 8, 4, 6, 10)
    torch.testing.assert_close(clip_haar(x_0, 3.0), stepwise(x_0, 3.0), atol=1e-6, rtol=0)
