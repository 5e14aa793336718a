"""Published cWDM weights fit our network to the last name and shape, and mean there what they meant."""

import json
import re
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mrsynth.methods.cwdm.network import WaveletUNet, WaveletUNetConfig
from mrsynth.methods.cwdm.official import (
    cwdm_for_target,
    cwdm_layout,
    cwdm_network,
    cwdm_official,
    differences,
    likely_cause,
)

OFFICIAL = WaveletUNetConfig()
CONFIGS = [
    OFFICIAL,
    WaveletUNetConfig(width=32, multipliers=(1, 2)),
    WaveletUNetConfig(width=64, multipliers=(1,), blocks=3),
    WaveletUNetConfig(width=8, multipliers=(2, 1, 3, 3), blocks=1, groups=4),
]


def meta(layout):
    return {key: torch.empty(shape, device="meta") for key, shape in layout.items()}


@pytest.fixture(scope="module")
def golden(shared_data):
    file = shared_data / "upstream" / "cwdm" / "state_dict_full.json"
    if not file.is_file():
        pytest.skip(f"no {file}")
    return json.loads(file.read_text())


def test_the_released_weights_have_exactly_our_names_and_shapes(golden):
    found = {key: tuple(shape) for key, shape in golden["state_dict"].items()}

    assert len(found) == 394
    assert found == cwdm_layout(OFFICIAL)
    assert cwdm_network(found) == OFFICIAL


@pytest.mark.parametrize("config", CONFIGS)
def test_every_tensor_gets_a_place_of_its_own(config):
    layout = cwdm_layout(config)
    with torch.device("meta"):
        ours = {f"network.{key}": tuple(t.shape) for key, t in WaveletUNet(config).state_dict().items()}

    assert {key: tuple(t.shape) for key, t in cwdm_official(meta(layout)).items()} == ours


@pytest.mark.parametrize("config", CONFIGS)
def test_shapes_tell_the_network(config):
    assert cwdm_network(cwdm_layout(config), config.groups) == config


def test_the_network_computes_what_the_official_one_did(shared_data):
    file = shared_data / "upstream" / "cwdm" / "golden_small.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file}")
    tensors = load_file(file)
    state = {key.removeprefix("model."): t for key, t in tensors.items() if key.startswith("model.")}
    network = WaveletUNet(cwdm_network({k: tuple(t.shape) for k, t in state.items()}, groups=4))
    network.load_state_dict({k.removeprefix("network."): t for k, t in cwdm_official(state).items()})

    with torch.no_grad():
        made = network(torch.cat([tensors["input.x"], tensors["input.cond"]], 1), tensors["input.t"])

    assert torch.allclose(made, tensors["output.x0"], atol=1e-4)


@pytest.mark.slow
def test_the_network_of_full_size_computes_what_the_official_one_did(shared_data):
    """Weights by a formula from their official names: a swap of two equal shapes would show."""
    file = shared_data / "upstream" / "cwdm" / "golden_full_formula.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file}")
    state = {key: by_formula(key, shape) for key, shape in cwdm_layout(OFFICIAL).items()}
    with torch.device("meta"):
        network = WaveletUNet(OFFICIAL)
    network.load_state_dict({k.removeprefix("network."): t for k, t in cwdm_official(state).items()}, assign=True)
    network.embed_level.frequencies = WaveletUNet(
        WaveletUNetConfig(width=64, multipliers=(1,), blocks=1)
    ).embed_level.frequencies
    x = torch.from_numpy(np.random.RandomState(2024).standard_normal((1, 32, 16, 32, 16)).astype(np.float32))

    with torch.no_grad():
        made = network(x, torch.tensor([500]))

    assert torch.allclose(made, load_file(file)["output.x0"], atol=1e-4)


def by_formula(key, shape):
    r = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    scaled = r / np.sqrt(np.prod(shape[1:]))
    if len(shape) == 1:
        scaled = 1 + 0.1 * r if key.endswith("weight") else 0.05 * r
    return torch.from_numpy(scaled.astype(np.float32))


@pytest.mark.parametrize(
    "key", ["input_blocks.3.1.in_layers.0.weight", "middle_block.2.in_layers.0.bias", "module.x", "x"]
)
def test_a_foreign_name_is_kept(key):
    """Also one that looks like a block at a place where there is none: it must not take the place of another."""
    assert list(cwdm_official({key: torch.zeros(1)})) == [key]


def test_differences_come_with_the_shapes_first():
    expected = {"a": (1,), "b": (2, 3), "c": (4,)}

    assert differences(expected, expected) == []
    assert differences({"z": (1,), "b": (3, 2), "a": (1,)}, expected) == [
        "b has shape (3, 2), expected (2, 3)",
        "c is missing",
        "z is unknown",
    ]


LAYOUT = cwdm_layout(CONFIGS[1])
WIDTH = 32


def altered(**shapes):
    return {**LAYOUT, **{key.replace("__", "."): shape for key, shape in shapes.items()}}


@pytest.mark.parametrize(
    ("shapes", "cause"),
    [
        (altered(middle_block__1__qkv__weight=(96, 32, 1)), "attention"),
        (altered(label_emb__weight=(10, 128)), "class labels"),
        (altered(out__2__weight=(16, WIDTH, 3, 3, 3)), "learn_sigma"),
        (altered(input_blocks__3__0__op__weight=(WIDTH, WIDTH, 3, 3, 3)), "resblock_updown"),
        (altered(input_blocks__1__0__emb_layers__1__bias=(2 * WIDTH,)), "use_scale_shift_norm"),
        (altered(output_blocks__0__0__in_layers__0__weight=(2 * WIDTH,)), "additive_skips"),
        ({key: shape[:-1] if len(shape) == 5 else shape for key, shape in LAYOUT.items()}, "two dimensions"),
        ({f"ema.{key}": shape for key, shape in LAYOUT.items()}, r"'ema\.'.*EMA"),
        ({f"model.{key}": shape for key, shape in LAYOUT.items()}, r"'model\.'"),
        ({f"network.{key}": shape for key, shape in LAYOUT.items()}, "--weights"),
        ({"conv1.weight": (64, 3, 7, 7)}, "no U-Net of cWDM"),
        ({}, "no U-Net of cWDM"),
        *(
            (altered(input_blocks__0__0__weight=(WIDTH, channels, 3, 3, 3)), said)
            for channels, said in ((16, r"1 condition\(s\)"), (24, "2 cond"), (40, "4 cond"), (33, "33 input channels"))
        ),
        (altered(out__0__weight=(7,)), "damaged"),
    ],
)
def test_a_misfit_has_a_likely_cause(shapes, cause):
    assert re.search(cause, likely_cause(shapes))


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"input_blocks.0.0.weight": (32, 32, 3, 3, 3)},
        altered(time_embed__0__weight=(0, 0)),
        altered(time_embed__0__weight=()),
        altered(input_blocks__4__0__out_layers__3__weight=(33, 32, 3, 3, 3)),
    ],
)
def test_shapes_that_tell_no_network(shapes):
    assert cwdm_network(shapes) is None


@pytest.mark.parametrize("target", range(4))
@pytest.mark.parametrize("input_skip", [False, True])
def test_a_network_for_any_target_becomes_one_for_a_single_target(target, input_skip):
    """It sees zeros for the target and is told which one it is; without either the other computes the same."""
    config = WaveletUNetConfig(width=8, multipliers=(1, 2), blocks=1, groups=4, input_skip=input_skip)
    torch.manual_seed(0)
    whole = WaveletUNet(config, 40, kinds=4)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, level, begin = torch.randn(2, 40, 4, 4, 4), torch.tensor([3, 700]), 8 * (1 + target)
    x[:, begin : begin + 8] = 0
    single = WaveletUNet(config)
    state = cwdm_for_target({f"network.{key}": t for key, t in whole.state_dict().items()}, target)
    single.load_state_dict({key.removeprefix("network."): t for key, t in state.items()})

    with torch.no_grad():
        expected = whole(x, level, torch.eye(4)[[target, target]])
        found = single(torch.cat([x[:, :begin], x[:, begin + 8 :]], 1), level)

    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.std() > 0.01
