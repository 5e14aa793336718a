"""cWDM against numbers that upstream's own code gave (pfriedri/cwdm 1e4a1e5, tsereda/fast-cwdm 1d897fc; CPU, fp32).

Upstream counts its noise step by step and draws one more for the last, which it throws away; ours needs none there.
Largest deviations where this was written: network 5e-6, runs 2e-5, losses 1e-7, tables 2e-16.
"""

import math
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mrsynth.contrasts import STANDARD
from mrsynth.diffusion.samplers import SAMPLERS
from mrsynth.diffusion.schedules import levels, make_schedule
from mrsynth.methods.base import Batch
from mrsynth.methods.cwdm.method import Cwdm, CwdmConfig
from mrsynth.methods.cwdm.network import WaveletUNet, WaveletUNetConfig
from mrsynth.methods.cwdm.official import cwdm_official

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
UPSTREAM = dict(zip(STANDARD, ("t1n", "t1c", "t2w", "t2f"), strict=True))
FORWARD, RUN, LOSS = 1e-4, 1e-3, 1e-5

# Run -> what it changes in the official configuration, a chain of 1000 levels.
RUNS = {
    "respaced_10": {"steps": 10, "variance": "beta"},
    "respaced_ddim10": {"steps": 10, "spacing": "leading", "variance": "beta"},
    "fast_sampled10": {"T": 10, "schedule": "sampled"},
    "fast_direct25": {"T": 25, "schedule": "direct"},
}


@pytest.fixture(scope="module")
def golden(shared_data):
    file = shared_data / "upstream" / "cwdm" / "golden_small.safetensors"
    if not file.exists():
        pytest.skip(f"no golden tensors at {file}")
    return load_file(file)


@pytest.fixture(scope="module")
def official(golden):
    """The weights of the small model under upstream's names."""
    return {key.removeprefix("model."): tensor for key, tensor in golden.items() if key.startswith("model.")}


@pytest.fixture(scope="module")
def build(official):
    """build(**options) -> the small model as a method."""

    def make(target="t1", **options):
        method = Cwdm(CwdmConfig(target=target, network=WaveletUNetConfig(width=8, groups=4), **options)).eval()
        method.load_state_dict(cwdm_official(official), strict=True)
        return method

    return make


def deviation(one, other):
    assert one.shape == other.shape
    return float((one - other).detach().abs().max())


# The network ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "output"), [(731, "output.x0"), (0, "output.x0_t0")])
@torch.no_grad()
def test_the_network_on_a_grid_of_three_different_sides(level, output, build, golden):
    x = torch.cat([golden["input.x"], golden["input.cond"]], dim=1)

    assert deviation(build().network(x, torch.tensor([level])), golden[output]) < FORWARD


@torch.no_grad()
def test_the_embedding_of_the_level(build, golden):
    embed = build().network.embed_level

    assert deviation(embed.waves(golden["input.t"]), golden["output.temb_731"]) < 1e-5
    assert deviation(embed(golden["input.t"]), golden["output.emb_731"]) < 1e-5


@torch.no_grad()
def test_a_batch_of_two_levels(build, golden):
    assert deviation(build().network(golden["batch.input"], golden["batch.t"]), golden["batch.output"]) < FORWARD


# Sampling ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", STANDARD)
def test_conditions_are_encoded_alike(target, build, golden):
    images, available = volumes(golden, target)

    assert deviation(build(target).conditions(images, available), golden["samp.cond"]) < 1e-6


@pytest.mark.parametrize("run", ["anc1000_first5", "anc1000_last3", *RUNS])
def test_levels_and_tables(run, golden):
    """Upstream's tables run from the least noise to the most; they are those of the levels that are visited."""
    options = {"T": 1000, "schedule": "linear", **RUNS.get(run, {})}
    T = options["T"]
    schedule = make_schedule(options["schedule"], T)
    visited = levels(T, options.get("steps", T), options.get("spacing", "linspace"))
    abar = schedule.abar[visited[::-1]]
    betas = 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    steps = golden[f"{run}.t_model"].tolist()

    assert deviation(abar, golden[f"{run}.alphas_cumprod"]) < 1e-12
    assert deviation(betas, golden[f"{run}.betas"]) < 1e-12
    assert steps == (visited[-3:] if run.endswith("last3") else visited[: len(steps)])


@pytest.mark.parametrize("run", ["anc1000_first5", "anc1000_last3", "respaced_10", "fast_sampled10"])
@torch.no_grad()
def test_every_step_of_a_run(run, build, golden):
    """The sampler alone, with the method's network, clipping and schedule."""
    method = build(**RUNS.get(run, {}))
    visited = golden[f"{run}.t_model"].tolist()
    count = len(visited)
    seen, made = [], []

    def denoise(x_t, level):
        seen.append(x_t)
        if len(seen) > count:  # only asked what it would be given next
            return x_t
        network_input = torch.cat([x_t, golden["samp.cond"]], dim=1)
        made.append(method.clipped(method.network(network_input, torch.tensor([level]))))
        return made[-1]

    noise = iter(golden["samp.noise_steps"])
    start = golden.get(f"{run}.x_start", golden["samp.noise_init"])
    further = [visited[-1] - 1] if visited[-1] else []
    end = SAMPLERS["ddpm"](
        denoise, start, method.schedule, visited + further, lambda _: next(noise)[None], variance="beta"
    )
    x = torch.cat([*seen[1:], *([] if further else [end])])

    assert deviation(torch.cat(made), golden[f"{run}.pred_x0"]) < RUN
    assert deviation(x, golden[f"{run}.x"]) < RUN
    assert deviation(x[-1:], golden[f"{run}.final"]) < RUN
    assert deviation(method.decode(x[-1:]), golden[f"{run}.final_image"]) < RUN


@pytest.mark.parametrize(("run", "target"), list(zip(RUNS, STANDARD, strict=True)))
def test_a_whole_synthesis(run, target, build, golden):
    """From images to an image. Which contrast is the target is a matter of order only: the weights are the same."""
    images, available = volumes(golden, target)
    made = build(target, **RUNS[run]).synthesise(images, available, context=images[:, :, :0], noise=Replay(golden))

    channel = STANDARD.index(target)
    assert deviation((made[:, channel : channel + 1] + 1) / 2, golden[f"{run}.final_image"]) < RUN
    assert torch.equal(made[available], images[available])


@torch.no_grad()
def test_the_last_coefficients_are_those_of_the_last_image(build, golden):
    """So a final sample can be compared as coefficients too, for the runs of which no steps are stored."""
    for run in RUNS:
        assert deviation(build().encode(golden[f"{run}.final_image"]), golden[f"{run}.final"]) < 1e-6


class Replay:
    """The stored noise: of the start, then of each step."""

    def __init__(self, golden):
        self.noises = iter([golden["samp.noise_init"][0], *golden["samp.noise_steps"]])

    def __call__(self, like):
        assert like.shape == (1, 1, 8, 16, 16, 16)  # examples, targets, bands
        return next(self.noises)[None, None]


def volumes(golden, target):
    """(images, available): the three conditions in order, nothing in place of the target."""
    images = torch.full((1, 4, 32, 32, 32), torch.nan)
    available = torch.tensor([[c != target for c in STANDARD]])
    images[available] = golden["samp.cond_volumes"][0] * 2 - 1
    return images, available


# Training ------------------------------------------------------------------------------------------------------------


def batch_for(golden, target):
    images = golden["train.volumes"] * 2 - 1
    present = torch.ones(1, 4, dtype=torch.bool)
    return Batch(images, present, torch.tensor([[c != target for c in STANDARD]]), images[:, :, :0])


@pytest.mark.parametrize("target", STANDARD)
def test_training_losses(target, build, golden):
    method = build(target)
    outputs = []
    method.network.register_forward_hook(lambda *hooked: outputs.append(hooked[-1]))
    errors = method.band_errors(batch_for(golden, target), golden["train.t"], golden["train.noise_image"])
    name = f"train.{UPSTREAM[target]}"

    assert deviation(errors, golden[f"{name}.mse_wav"]) < LOSS
    assert deviation(errors.mean(), golden[f"{name}.loss"]) < LOSS
    if target == "t1":
        assert deviation(outputs[0], golden["train.t1n.model_output"]) < FORWARD


def test_gradients(build, golden, official):
    method = build("t1")
    method.band_errors(batch_for(golden, "t1"), golden["train.t"], golden["train.noise_image"]).mean().backward()
    ours = dict(zip(official, cwdm_official(official), strict=True))
    gradients = {key.removeprefix("train.t1n.grad."): g for key, g in golden.items() if ".grad." in key}

    assert len(gradients) == 5
    for key, expected in gradients.items():
        assert deviation(method.get_parameter(ours[key]).grad, expected) < 1e-4 * float(expected.abs().max()), key


# The official size ---------------------------------------------------------------------------------------------------


def official_names(network):
    """Our name -> the official one for a network of five levels with two blocks each, by counting."""
    inside = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embed": "emb_layers.1", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "skip": "skip_connection"}  # fmt: skip
    single = {"stem": "input_blocks.0.0", "head_norm": "out.0", "head": "out.2", "embed_level.mlp.0": "time_embed.0",
              "embed_level.mlp.2": "time_embed.2"}  # fmt: skip
    names = {}
    for name in network.state_dict():
        module, _, parameter = name.rpartition(".")
        if module not in single:
            part, number, layer = module.split(".")
            level, place = divmod(int(number), 4)  # on the way up: three blocks and one that doubles, level by level
            up = f"output_blocks.{3 * level + place}.0" if place < 3 else f"output_blocks.{3 * level + 2}.1"
            block = {"down": f"input_blocks.{int(number) + 1}.0", "middle": f"middle_block.{number}", "up": up}[part]
            names[name] = f"{block}.{inside[layer]}.{parameter}"
        else:
            names[name] = f"{single[module]}.{parameter}"
    return names


def by_formula(key, shape):
    """Weights that anyone can make anew from the name of the tensor."""
    r = np.random.RandomState(crc32(key.encode())).standard_normal(tuple(shape))
    if len(shape) == 1:
        r = 1 + 0.1 * r if key.endswith("weight") else 0.05 * r
    else:
        r = r / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(r.astype(np.float32))


def test_the_small_weights_are_the_formulas(official):
    """So that a wrong formula is told from a wrong network."""
    for key, tensor in official.items():
        assert torch.equal(by_formula(key, tensor.shape), tensor), key


def test_every_official_name_has_its_place(official):
    network = WaveletUNet(WaveletUNetConfig(width=8, groups=4))
    expected = {name: f"network.{ours}" for ours, name in official_names(network).items()}

    assert dict(zip(official, cwdm_official(official), strict=True)) == expected


@torch.no_grad()
def test_the_network_at_its_official_size():
    golden = load_file(GOLDEN / "golden_full_formula.safetensors")
    network = WaveletUNet(WaveletUNetConfig())
    names = official_names(network)
    network.load_state_dict({ours: by_formula(names[ours], t.shape) for ours, t in network.state_dict().items()})
    x = np.random.RandomState(2024).standard_normal((1, 32, 16, 32, 16)).astype(np.float32)

    assert torch.equal(torch.from_numpy(x.flatten()[:8]), golden["check.input_first8"])
    assert torch.equal(network.stem.weight.flatten()[:8], golden["check.input_blocks.0.0.weight_first8"])
    assert torch.equal(network.head.bias, golden["check.out.2.bias"])
    assert deviation(network(torch.from_numpy(x), golden["input.t"]), golden["output.x0"]) < FORWARD
