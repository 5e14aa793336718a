"""The U-Net: its sizes, its start at zero, and the fold as a change of view and nothing else."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from mrsynth.methods import preset
from mrsynth.networks.blocks import folded
from mrsynth.networks.unet import UNet, UNetConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "fgc2f.md"
SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "attention": (1,), "head_dim": 8}
LEVEL = torch.tensor([3, 150])


@pytest.fixture
def wake_network():
    """wake_network(inputs, outputs, conditions, **config): seeded, with no layer left at zero."""

    def woken(inputs=3, outputs=2, conditions=0, **config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = UNet(UNetConfig(**{**SMALL, **config}), inputs, outputs, conditions)
            for parameter in network.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
        return network.requires_grad_(False)

    return woken


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "config",
    [{}, {"fold": 2}, {"slim_up": True}, {"input_skip": True}, {"blocks": 2, "up_blocks": 1}, {"attention": ()}],
    ids=str,
)
def test_untrained_it_returns_zeros_of_the_right_shape(config):
    network = UNet(UNetConfig(**{**SMALL, **config}), 3, 2)
    out = network(images(2, 3, 12, 20), LEVEL)

    assert out.shape == (2, 2, 12, 20)
    assert not out.any()


def test_folding_is_a_change_of_view():
    """The weights of a folded network give the same from a plain one that is shown folded images."""
    by_fold = UNet(UNetConfig(**SMALL, fold=2), 3, 2)
    plain = UNet(UNetConfig(**SMALL), 3 * 4, 2 * 4)
    torch.nn.init.normal_(by_fold.head.weight)
    plain.load_state_dict(by_fold.state_dict())
    x = images(2, 3, 16, 24)
    expected = F.pixel_shuffle(plain(F.pixel_unshuffle(x, 2), LEVEL), 2)

    assert expected.std() > 0.1
    assert torch.allclose(by_fold(x, LEVEL), expected, atol=1e-5)


def test_examples_of_a_batch_do_not_mix(wake_network):
    network, x, a = wake_network(conditions=4), images(2, 3, 12, 20), torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]])
    both = network(x, LEVEL, a)

    for b in range(2):
        assert torch.allclose(network(x[b : b + 1], LEVEL[b : b + 1], a[b : b + 1]), both[b : b + 1], atol=1e-5)


def test_image_level_and_condition_all_matter(wake_network):
    network, x, a = wake_network(conditions=4), images(2, 3, 12, 20), torch.eye(4)[:2]
    out = network(x, LEVEL, a)

    assert not torch.allclose(network(x.flip(0), LEVEL, a), out, atol=1e-3)
    assert not torch.allclose(network(x, LEVEL.flip(0), a), out, atol=1e-3)
    assert not torch.allclose(network(x, LEVEL, a.flip(0)), out, atol=1e-3)


def test_a_condition_is_one_linear_layer_on_the_level_embedding(wake_network):
    network = wake_network(conditions=4)
    network.embed_condition.weight.zero_()
    without = wake_network()
    without.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("embed_condition")})
    without.embed_level.mlp[2].bias += network.embed_condition.bias
    x = images(2, 3, 12, 20)

    assert torch.allclose(network(x, LEVEL, torch.ones(2, 4)), without(x, LEVEL), atol=1e-5)


def test_attention_reaches_across_the_whole_slice(wake_network):
    """A far corner changes the opposite one through attention, and cannot without (GroupNorm apart)."""
    x = images(1, 3, 64, 64)
    changed = x.clone()
    changed[..., :4, :4] += 1

    def reach(attention):
        network = wake_network(multipliers=(1, 1), attention=attention)
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda h: h  # statistics of the whole slice would tell of the corner
        return float((network(changed, LEVEL[:1]) - network(x, LEVEL[:1]))[..., -4:, -4:].abs().max())

    assert reach((1,)) > 0
    assert reach(()) == 0


@pytest.mark.parametrize("fold", [1, 2])
def test_the_input_skip_is_one_convolution_of_the_gated_input(fold, wake_network):
    """Each input channel has a gate around 1, a linear function of the embedding."""
    with_skip, without = (wake_network(conditions=4, fold=fold, input_skip=skip) for skip in (True, False))
    without.load_state_dict({k: v for k, v in with_skip.state_dict().items() if not k.startswith("input_")})
    x, a = images(2, 3, 16, 24), torch.eye(4)[:2]
    embedding = with_skip.embed_level(LEVEL) + with_skip.embed_condition(a)
    gated = x * (1 + with_skip.input_gate(F.silu(embedding)))[:, :, None, None]
    added = F.pixel_shuffle(with_skip.input_head(F.pixel_unshuffle(gated, fold)), fold)

    assert added.std() > 0.1
    assert torch.allclose(with_skip(x, LEVEL, a), without(x, LEVEL, a) + added, atol=1e-4)


def test_slim_up_sampling_narrows_on_the_way():
    sizes = {"width": 8, "multipliers": (1, 2, 4), "blocks": 1, "groups": 4, "attention": (), "up_blocks": 1}
    shapes = {
        slim: [
            tuple(stage.resample.conv.weight.shape[:2])
            for stage in UNet(UNetConfig(**sizes, slim_up=slim), 3, 2).up[:2]
        ]
        for slim in (False, True)
    }

    assert shapes == {False: [(32, 32), (16, 16)], True: [(16, 32), (8, 16)]}


def test_slices_must_fit_the_levels(wake_network):
    network = wake_network(fold=2)

    assert network.config.multiple == 4
    with pytest.raises(ValueError, match=r"\(16, 18\) is no multiple of 4"):
        network(images(1, 3, 16, 18), LEVEL[:1])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"groups": 3}, "width 8 is no multiple of 3 groups"),
        ({"attention": (2,)}, "not all among the 2 levels"),
        ({"attention": (-1,)}, "not all among the 2 levels"),
        ({"head_dim": 12}, "width 16 does not split into attention heads of 12"),
        ({"attention": (0,), "head_dim": 16}, "width 8 does not split into attention heads of 16"),
        ({"up_blocks": 3}, "at most blocks"),
        ({"depth": 3}, "depth"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_built_are_refused(config, message):
    with pytest.raises(ValidationError, match=message):
        UNetConfig(**{**SMALL, **config})


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("tiny", 281_508), ("small", 5_347_396), ("base", 25_307_972), ("large", 76_701_060), ("ship", 3_102_061)],
)
def test_presets_have_the_sizes_their_page_states(name, parameters):
    chosen = preset("fgc2f", name)
    with torch.device("meta"):  # counts without memory
        network = UNet(UNetConfig(**chosen.get("network", {})), 5 + 8 * chosen.get("neighbours", 0), 4, 4)

    assert sum(p.numel() for p in network.parameters()) == parameters
    assert f"{parameters:,}" in PAGE.read_text(encoding="utf-8")


def test_names_and_shapes_of_the_shipped_network_stay_as_they_are():
    """Checkpoints hold these names, and resumed optimisers count on this order: a change here orphans both."""
    chosen = preset("fgc2f", "ship")
    with torch.device("meta"):
        network = UNet(UNetConfig(**chosen["network"]), 13, 4, 4)
    text = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in network.state_dict().items())

    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "766e6d6a32d721e4"


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_folding_is_that_of_torch_with_the_channels_last(fold):
    x = torch.randn(2, 5, 6 * fold, 4 * fold)
    made = folded(x, fold)
    assert torch.equal(made, F.pixel_unshuffle(x, fold))
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_without_gradients_work_is_done_in_place_and_gives_the_same(wake_network):
    network = wake_network(fold=2)
    x = torch.randn(2, 3, 16, 16)
    kept = x.clone()
    with torch.no_grad():
        made = network(x, LEVEL)
    assert torch.equal(made, network(x, LEVEL).detach()) and torch.equal(x, kept)
