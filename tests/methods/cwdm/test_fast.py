"""The fast form of the 3-D U-Net is the plain one: same weights, same numbers."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mrsynth.devices import choose_precision
from mrsynth.methods.cwdm import convolution, kernels
from mrsynth.methods.cwdm import fast as wavelet_fast
from mrsynth.methods.cwdm.convolution import DOUBLES, FOURS, AlongDepth, Convolution, How, Source
from mrsynth.methods.cwdm.fast import FastWaveletUNet, affine
from mrsynth.methods.cwdm.kernels import IN_PLACE, PLAIN, Kernels, clip_haar
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
WAYS: list[tuple[How, torch.dtype]] = [
    ("directly", torch.float32),
    ("squares", torch.float32),
    ("fours", torch.float32),
    ("directly", torch.bfloat16),
    ("squares", torch.bfloat16),
]
# where a processor has no bfloat16 of its own it takes ten times as long
SLOW = () if choose_precision("auto", "cpu") == "bf16" else (pytest.mark.slow,)
IN_TIME = [pytest.param(*way, marks=SLOW if way[1] == torch.bfloat16 else ()) for way in WAYS]


@pytest.fixture
def as_if_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the ways of compiled kernels with those that are not: compiling takes longer than all these networks."""
    monkeypatch.setattr(kernels, "SMALL", 0)
    monkeypatch.setattr(kernels, "compiled", lambda device: Kernels._make(PLAIN))
    monkeypatch.setattr(wavelet_fast, "REPAYS", 0)


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


@pytest.mark.parametrize(("how", "dtype"), WAYS, ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.usefixtures("as_if_compiled")
def test_equals_the_plain_network(
    config: dict[str, object], how: How, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a grid without equal sides, two samples at different levels."""
    plain = network(**config)
    ways_taken = []
    real = Convolution._in_squares
    monkeypatch.setattr(Convolution, "_in_squares", lambda *a: ways_taken.append("squares") or real(*a))
    x, conditions = torch.randn(2, 12, 8, 12, 20).split([4, 8], dim=1)
    level = torch.tensor([3, 700])

    fast = FastWaveletUNet(plain, dtype, how)
    fast.condition(conditions)
    made = fast(x, level)

    assert made.dtype == torch.float32
    assert set(ways_taken) == {"squares"} & {how}
    assert deviation(made, plain(torch.cat([x, conditions], 1), level)) < TOLERANCE[dtype]


@pytest.mark.parametrize(("how", "dtype"), IN_TIME, ids=str)
@pytest.mark.usefixtures("as_if_compiled")
def test_equals_the_published_network(shared_data: Path, how: How, dtype: torch.dtype) -> None:
    """Outputs of the official code, for its own topology with narrow levels."""
    golden = load_file(shared_data / "upstream" / "cwdm" / "golden_small.safetensors")
    state = cwdm_official({k.removeprefix("model."): v for k, v in golden.items() if k.startswith("model.")})
    plain = WaveletUNet(WaveletUNetConfig(width=8, groups=4))
    plain.load_state_dict({k.removeprefix("network."): v for k, v in state.items()})
    fast = FastWaveletUNet(plain, dtype, how)

    fast.condition(golden["input.cond"])
    one, zero = (fast(golden["input.x"], t) for t in (golden["input.t"], torch.tensor([0])))
    fast.condition(golden["batch.input"][:, 8:])
    two = fast(golden["batch.input"][:, :8], golden["batch.t"])

    made = {"output.x0": one, "output.x0_t0": zero, "batch.output": two}
    assert {name for name, y in made.items() if deviation(y, golden[name]) > TOLERANCE[dtype]} == set()


def test_a_network_for_any_target_has_no_fast_form() -> None:
    with pytest.raises(AssertionError, match="for one target"):
        FastWaveletUNet(WaveletUNet(WaveletUNetConfig(width=8, multipliers=(1,), groups=4), 12, 3, 4))


@pytest.mark.parametrize("how", ["squares", "fours"])
def test_any_slab_gives_the_same(how: How, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of few planes, of more with a remainder, and all at once."""
    plain = network(**CONFIGS["two levels"])
    x, level = torch.randn(1, 12, 10, 4, 6), torch.tensor([5])
    plane = 4 * 6 * 48 * 4
    for fitting in (2, 4, 8, 100):
        monkeypatch.setattr(convolution, "SLAB_BYTES", fitting * plane)
        assert deviation(FastWaveletUNet(plain, torch.float32, how)(x, level), plain(x, level)) < 1e-5


@pytest.mark.parametrize(("form", "window"), [(FOURS, 6), (DOUBLES, 3)], ids=["four planes", "doubled plane"])
def test_points_along_depth_are_the_convolution(form: AlongDepth, window: int) -> None:
    """In closed form: the matrix from a window to its results is that of the taps, for each of three taps alone."""
    to, taps, back = (torch.tensor(m, dtype=torch.float64) for m in form)
    for tap in range(3):
        made = back @ torch.diag(taps[:, tap]) @ to
        expected = torch.zeros_like(made)
        for result in range(len(made)):
            at = result + tap if form is FOURS else 1 + (result + tap - 1) // 2  # of the doubled: the plane it repeats
            expected[result, at] = 1
        torch.testing.assert_close(made, expected)
    assert to.shape[1] == window
    assert (back[:, 1] == 1).all(), "a bias of the second product is one of every result"


@pytest.mark.parametrize("doubling", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8, 11])
def test_fours_are_exact_at_any_depth(depth: int, doubling: bool) -> None:
    """With a last tile that is not whole, and added to what is there, bias included."""
    torch.manual_seed(1)
    weight, bias = torch.randn(5, 3, 3, 3, 3), torch.randn(5)
    x = torch.randn(depth, 6, 7, 3)
    doubled = x[None].permute(0, 4, 1, 2, 3)
    if doubling:
        doubled = torch.nn.functional.interpolate(doubled, scale_factor=2, mode="nearest")
    expected = torch.nn.functional.conv3d(doubled, weight, bias, padding=1)[0].permute(1, 2, 3, 0)
    out = torch.randn(expected.shape)
    before = out.clone()

    sums = Convolution(weight, torch.float32, "fours", doubling)([Source(x)], out, bias)

    torch.testing.assert_close(out, before + expected, atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(
        sums, torch.stack([out.sum((0, 1, 2)), out.square().sum((0, 1, 2))]), atol=1e-3, rtol=1e-5
    )


def test_kernels_in_place_are_the_others() -> None:
    """Those of float32 on a processor, which is where they are taken."""
    torch.manual_seed(2)
    x, y, scale, shift = torch.randn(4, 6, 8, 5), torch.randn(4, 6, 8, 5), torch.randn(5), torch.randn(5)
    assert kernels.kernels(x) is IN_PLACE
    assert kernels.kernels(x.bfloat16()) is PLAIN
    rows = x.flatten(1, 2)
    for bias in (None, shift):
        stored = []
        for made in (IN_PLACE, PLAIN):
            out = y.clone().flatten(0, 1)
            stored.append([*made.store(x.flatten(0, 1), bias, out), out])
            made.activate(rows, scale, shift, activated := torch.empty_like(rows))
            stored[-1] += [activated, *made.activate_halved(x, scale, shift)]
        torch.testing.assert_close(*stored)


def test_compiles_where_all_forwards_repay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five forwards of the official size, in one go or one by one; never in float32."""
    seen = []
    monkeypatch.setattr(kernels, "SMALL", 0)
    monkeypatch.setattr(kernels, "compiled", lambda device: seen.append(device) or PLAIN)
    plain = network(**CONFIGS["one level"])
    x = torch.randn(1, 12, 2, 2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        fast = FastWaveletUNet(plain, dtype)
        for forwards, repays in ((4, False), (1, dtype == torch.bfloat16)):
            monkeypatch.setattr(wavelet_fast, "REPAYS", 5 * 8 * 8)  # five of 8 voxels of 8 channels
            fast.condition(x[:, 4:], forwards)
            seen.clear()
            fast(x[:, :4], torch.tensor([1]))
            assert bool(seen) == repays


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


@pytest.mark.parametrize("how", ["directly", "squares", "fours"])
def test_sums_are_those_of_the_output(how: How) -> None:
    """A norm that rests on them equals the norm of the output, also with an offset on every channel."""
    torch.manual_seed(0)
    out = torch.empty(6, 4, 5, 8)
    sums = Convolution(torch.randn(8, 3, 3, 3, 3), torch.float32, how)([Source(torch.randn(6, 4, 5, 3))], out)
    torch.testing.assert_close(sums, torch.stack([out.sum((0, 1, 2)), out.square().sum((0, 1, 2))]))

    norm, offset = torch.nn.GroupNorm(2, 8), torch.randn(8)
    scale, shift = affine(norm, sums, 6 * 4 * 5, offset)
    expected = norm((out + offset).permute(3, 0, 1, 2)[None])[0].permute(1, 2, 3, 0)
    torch.testing.assert_close(out * scale + shift, expected)


def stepwise(x_0: Tensor, low_scale: float) -> Tensor:
    scale = torch.tensor([low_scale] + [1.0] * 7)[:, None, None, None]
    return dwt(idwt(x_0 * scale).clamp(0, 1)) / scale


def test_clipping_is_clipping_of_the_image() -> None:
    torch.manual_seed(0)
    x_0 = torch.randn(2, 8, 4, 6, 10)

    with torch.autocast("cpu", torch.bfloat16):  # as synthesis in bf16 runs
        clipped = clip_haar(x_0, 3.0)

    torch.testing.assert_close(clipped, stepwise(x_0, 3.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(clip_haar(clipped, 3.0), clipped, atol=1e-6, rtol=0)  # nothing is left to clip


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
        with caplog.at_level(logging.INFO, "mrsynth.methods.cwdm.kernels"), kernels.compiling(True):
            chosen = [kernels.kernels(torch.zeros(1, dtype=torch.bfloat16)) for _ in range(3)]
    finally:
        kernels.compiled.cache_clear()

    assert chosen == [PLAIN] * 3
    assert len(tries) == len(PLAIN)
    assert len(caplog.records) == 1
    assert (reason or "RuntimeError") in caplog.text


@pytest.mark.slow
def test_compiled_kernels_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks through compiled kernels, as large ones use them. Skips where nothing can be compiled."""
    if kernels.compiled("cpu") is PLAIN:
        pytest.skip("no compiler")
    monkeypatch.setattr(kernels, "SMALL", 0)
    monkeypatch.setattr(wavelet_fast, "REPAYS", 0)
    plain = network(**CONFIGS["two levels"])
    for grid in ((8, 12, 20), (4, 6, 8)):
        x, level = torch.randn(1, 12, *grid), torch.tensor([3])
        conditions = x[:, 4:]
        ways: tuple[How, How] = ("directly", "squares")
        for how in ways:
            fast = FastWaveletUNet(plain, torch.bfloat16, how)
            fast.condition(conditions)
            assert fast.work >= wavelet_fast.REPAYS, "compiled from the first forward on"
            assert deviation(fast(x[:, :4], level), plain(x, level)) < TOLERANCE[torch.bfloat16]
