"""The U-Net of cWDM: its official size, how it is joined, and what it says it does."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from mrsynth.methods.cwdm.network import (
    ResidualBlock3d,
    WaveletUNet,
    WaveletUNetConfig,
    check_grid,
    halved,
    joined,
    resampled,
)

SMALL = {"width": 8, "multipliers": (1, 2, 2), "blocks": 1, "groups": 4}


pytestmark = pytest.mark.usefixtures("seeded")


def small(in_channels=16, **options):
    """A network in which nothing is zero."""
    network = WaveletUNet(WaveletUNetConfig(**SMALL, **options), in_channels)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network.eval()


def test_the_official_size():
    with torch.device("meta"):
        network = WaveletUNet(WaveletUNetConfig())

    assert sum(p.numel() for p in network.parameters()) == 81_511_048
    assert len(network.state_dict()) == 394
    assert network.config.multiple == 16
    assert (len(network.down), len(network.middle), len(network.up)) == (14, 2, 19)


def test_additive_skips_need_fewer_weights():
    """A third fewer at the official size: no block on the way up reads more channels than it is given."""
    with torch.device("meta"):
        concat, additive = (WaveletUNet(WaveletUNetConfig(skips=skips)) for skips in ("concat", "additive"))

    count = {id(net): sum(p.numel() for p in net.parameters()) for net in (concat, additive)}
    assert count[id(additive)] < 0.75 * count[id(concat)]
    assert all(block.norm1.num_channels <= 4 * 64 for block in additive.up)


@pytest.mark.parametrize("skips", ["concat", "additive"])
def test_an_untrained_network_returns_zero_and_blocks_return_their_skips(skips):
    network = WaveletUNet(WaveletUNetConfig(**SMALL, skips=skips), 16)
    x = torch.randn(2, 16, 4, 8, 12)

    assert not network(x, torch.tensor([3, 7])).any()
    block = ResidualBlock3d(8, 8, 12, 4, "halve")
    h = torch.randn(1, 8, 4, 2, 6)
    assert torch.equal(block(h, torch.randn(1, 12)), halved(h))


@pytest.mark.parametrize("skips", ["concat", "additive"])
@torch.no_grad()
def test_every_example_is_alone(skips):
    network, x, level = small(skips=skips), torch.randn(3, 16, 4, 8, 12), torch.tensor([0, 5, 900])
    together = network(x, level)

    assert together.shape == (3, 8, 4, 8, 12)
    for b in range(3):
        assert torch.allclose(network(x[b : b + 1], level[b : b + 1]), together[b : b + 1], atol=1e-5)
    assert not torch.allclose(network(x, level.flip(0)), together, atol=1e-3)  # the level is heard


@pytest.mark.parametrize("skips", ["concat", "additive"])
@torch.no_grad()
def test_every_skip_is_taken_up_once_and_in_reverse(skips, monkeypatch):
    network, sizes = small(skips=skips), []

    def watching(h, skip, how):
        sizes.append((tuple(h.shape[2:]), tuple(skip.shape[1:])))
        assert how == skips
        return joined(h, skip, how)

    monkeypatch.setattr("mrsynth.methods.cwdm.network.joined", watching)
    network(torch.randn(1, 16, 4, 8, 8), torch.tensor([1]))

    assert [skip[1:] for _, skip in sizes] == [h for h, _ in sizes]
    # stem, block, halving | block, halving | block, from the end
    assert [skip[0] for _, skip in sizes] == [16, 16, 16, 8, 8, 8]
    assert [skip[1] for _, skip in sizes] == [1, 1, 2, 2, 4, 4]


@torch.no_grad()
def test_an_input_skip_adds_a_filtered_input_gated_by_the_level():
    network, x, level = small(input_skip=True), torch.randn(1, 16, 4, 4, 8), torch.tensor([7])
    plain = small()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("input_")})
    gate = 1 + network.input_gate(F.silu(network.embed_level(level)))

    expected = plain(x, level) + network.input_head(x * gate[:, :, None, None, None])
    assert torch.allclose(network(x, level), expected, atol=1e-5)
    fresh = WaveletUNet(WaveletUNetConfig(**SMALL, input_skip=True), 16)
    assert not fresh(x, level).any()  # begins at zero too


@torch.no_grad()
def test_a_kind_is_added_to_the_embedding_of_the_level():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = WaveletUNet(WaveletUNetConfig(**SMALL), 16, kinds=3).eval()
        nn.init.normal_(network.head.weight)
        for block in (*network.down, *network.middle, *network.up):
            nn.init.normal_(block.conv2.weight, std=0.1)
    x, level = torch.randn(2, 16, 4, 4, 8), torch.tensor([7, 7])
    one, two = (network(x, level, kind.expand(2, -1)) for kind in torch.eye(3)[:2, None].unbind(0))

    assert not torch.allclose(one, two, atol=1e-3)
    mixed = network(x, level, torch.tensor([[1, 0, 0], [0, 1, 0]]).bool())
    assert torch.allclose(mixed, torch.stack([one[0], two[1]]), atol=1e-5)


def test_additive_skips_keep_the_variance():
    h, skip = torch.randn(1, 8, 16, 16, 16), 3 + torch.randn(1, 8, 16, 16, 16)
    added = joined(h, skip, "additive")

    assert torch.allclose(added, (h + skip) / math.sqrt(2))
    assert float(added.var()) == pytest.approx(1, rel=0.02)
    assert torch.equal(joined(h, skip, "concat"), torch.cat([h, skip], 1))


@pytest.mark.parametrize("size", [(2, 4, 8), (4, 6, 4), (4, 4, 5)])
def test_a_grid_that_does_not_divide_is_refused(size):
    with pytest.raises(ValueError, match=rf"grid of \({size[0]}, {size[1]}, {size[2]}\).*multiple of 4"):
        small()(torch.zeros(1, 16, *size), torch.tensor([0]))
    check_grid(torch.zeros(1, 16, 4, 8, 12), WaveletUNetConfig(**SMALL))


def test_one_level_takes_any_grid():
    config = WaveletUNetConfig(**{**SMALL, "multipliers": (1,)})

    assert config.multiple == 1
    assert WaveletUNet(config, 16)(torch.zeros(1, 16, 3, 5, 7), torch.tensor([0])).shape == (1, 8, 3, 5, 7)


def test_halving_is_a_mean_and_doubling_repeats():
    x = torch.randn(2, 3, 4, 6, 8)

    assert torch.allclose(halved(x), F.avg_pool3d(x, 2), atol=1e-6)
    assert torch.equal(resampled(x, "halve"), halved(x))
    assert torch.allclose(halved(resampled(x, "double")), x, atol=1e-6)
    assert resampled(x, "keep") is x


@pytest.mark.parametrize("resample", ["keep", "halve", "double"])
@torch.no_grad()
def test_a_residual_block_written_out(resample):
    block, x, embedding = ResidualBlock3d(8, 16, 12, 4, resample), torch.randn(2, 8, 4, 6, 2), torch.randn(2, 12)
    for layer in (block.conv2, block.norm1, block.norm2):
        nn.init.normal_(layer.weight)

    def silu(h):
        return h * torch.sigmoid(h)

    def norm(h, layer):
        groups = h.reshape(2, 4, -1)
        scaled = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
        return scaled.reshape(h.shape) * layer.weight[:, None, None, None] + layer.bias[:, None, None, None]

    change = {"keep": lambda h: h, "halve": lambda h: F.avg_pool3d(h, 2), "double": nn.Upsample(scale_factor=2)}[
        resample
    ]
    h = block.conv1(change(silu(norm(x, block.norm1)))) + block.embed(silu(embedding))[:, :, None, None, None]
    expected = block.skip(change(x)) + block.conv2(silu(norm(h, block.norm2)))

    assert torch.allclose(block(x, embedding), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 7, "groups": 7}, "even"),
        ({"width": 48}, "48 is no multiple of 32 groups"),
        ({"width": 8, "groups": 8, "multipliers": ()}, "at least 1"),
        ({"blocks": 0}, "greater than 0"),
        ({"skips": "none"}, "concat"),
        ({"attention": (1,)}, "Extra inputs"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        WaveletUNetConfig(**options)
