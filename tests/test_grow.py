"""The larger network that a training goes on with makes what the smaller one made."""

import pytest
import torch

from mrsynth.methods.base import Batch
from mrsynth.methods.cwdm.fast import FastWaveletUNet
from mrsynth.methods.cwdm.method import Cwdm, CwdmConfig
from mrsynth.methods.fgc2f import FgC2F, FgC2FConfig
from mrsynth.tasks.models import load_network
from runs.grow import deepened, grown, predicting_v

NEIGHBOURS = 3


def small(neighbours=1, blocks=1, T=10, param="x0", **network):
    """With weights that are nowhere zero."""
    torch.manual_seed(0)
    size = {"width": 8, "multipliers": (1, 2), "groups": 4, "head_dim": 8, "fold": 2, "attention": (1,), "up_blocks": 1}
    network = {**size, "input_skip": True, "blocks": blocks, **network}
    config = FgC2FConfig(network=network, neighbours=neighbours, T=T, param=param)
    method = FgC2F(config).eval()
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return method


def image_of(method, given=(True, False, True, True)):
    """What it makes of slices in whose context every offset and contrast differs."""
    x = torch.rand(2, 4, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    around = torch.rand(2, 4, 2 * NEIGHBOURS, 32, 48, generator=torch.Generator().manual_seed(2)) * 2 - 1
    first = NEIGHBOURS - method.neighbours
    around = around[:, :, first : first + 2 * method.neighbours]
    available = torch.tensor([given] * 2)
    with torch.inference_mode():
        batch = Batch(x, available, available, around)
        return method.predict(torch.zeros_like(x), torch.full((2,), 9), batch, method.guidance(x, available))


@pytest.mark.parametrize("had", [0, 1, 2])
@pytest.mark.parametrize("neighbours", [2, 3])
@pytest.mark.parametrize("options", [{}, {"slim_up": True}, {"input_skip": False, "fold": 1}, {"attention": ()}])
def test_a_larger_network_makes_the_same(had, neighbours, options):
    smaller = small(had, **options)
    larger = grown(smaller, blocks=3, neighbours=neighbours).eval()
    assert (larger.neighbours, larger.config.network.blocks) == (neighbours, 3)
    assert sum(p.numel() for p in larger.parameters()) > sum(p.numel() for p in smaller.parameters())
    for given in ((True, False, True, True), (False, False, True, False)):
        assert torch.allclose(image_of(larger, given), image_of(smaller, given), atol=1e-6)


def test_what_is_new_learns():
    larger = grown(small(), blocks=2, neighbours=2)
    images, around = torch.rand(2, 4, 32, 48), torch.rand(2, 4, 4, 32, 48)
    available = torch.tensor([[True, False, True, True]] * 2)
    batch = Batch(images, torch.ones_like(available), available, around)
    larger.loss(batch, torch.Generator().manual_seed(0))["loss"].backward()
    block = larger.network.down[0].blocks[1]
    assert block.conv2.weight.abs().max() == 0 < block.conv2.weight.grad.abs().max()
    outermost = 4 + 1  # the lowest slice of the first contrast
    of_it = slice(outermost * 4, outermost * 4 + 4)
    stem = larger.network.stem.weight
    assert stem[:, of_it].abs().max() == 0 < stem.grad[:, of_it].abs().max()


def test_the_shipped_one_can_grow():
    shipped = load_network("fgc2f-ship").method
    larger = grown(shipped, blocks=shipped.config.network.blocks + 1).eval()
    assert torch.allclose(image_of(larger), image_of(shipped), atol=1e-5)


@pytest.mark.parametrize("less", [{"blocks": 1}, {"neighbours": 0}])
def test_it_does_not_shrink(less):
    with pytest.raises(ValueError, match="does not shrink"):
        grown(small(1, blocks=2), **less)


def test_where_the_way_up_takes_more_there_are_no_more_blocks():
    with pytest.raises(ValueError, match="up_blocks 1, found 2"):
        grown(small(up_blocks=None), blocks=2)


@pytest.mark.parametrize("input_skip", [True, False])
def test_a_network_that_predicts_v_makes_the_same_mean(input_skip):
    method = small(input_skip=input_skip, T=200)
    other = predicting_v(method).eval()
    x, available = torch.rand(2, 4, 16, 24) * 2 - 1, torch.tensor([[True, False, True, True]] * 2)
    context = torch.rand(2, 4, 2, 16, 24)
    with torch.inference_mode():
        one, two = (m.synthesise(x, available, context=context, noise=None, mode="mean") for m in (method, other))
    assert (other.config.param, method.config.param) == ("v", "x0")
    assert torch.allclose(one, two, atol=1e-3) and not torch.equal(one, x)


def test_what_predicts_something_else_stays():
    with pytest.raises(ValueError, match="predicts eps, expected x0"):
        predicting_v(small(param="eps"))


def wavelet(further=(), **network):
    """A cWDM with weights that are nowhere zero."""
    torch.manual_seed(0)
    network = {"width": 8, "multipliers": (1, 2, 2), "blocks": 1, "groups": 4, "further": further, **network}
    method = Cwdm(CwdmConfig(target="flair", network=network)).eval()
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return method


@pytest.mark.parametrize("had", [(), (0, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("options", [{"skips": "additive", "input_skip": True}, {"blocks": 2}])
def test_a_deeper_wavelet_network_makes_the_same(had, options):
    smaller = wavelet(had, **options)
    larger = deepened(smaller, (1, 2, 3)).eval()
    x, level = torch.rand(2, 32, 8, 8, 12), torch.tensor([3, 7])
    assert len(larger.network.down) == len(smaller.network.down) + 6 - sum(had)
    with torch.inference_mode():
        assert torch.allclose(larger.network(x, level), smaller.network(x, level), atol=1e-5)


@pytest.mark.parametrize("skips", ["concat", "additive"])
def test_a_deeper_wavelet_network_has_its_fast_form(skips):
    network = wavelet((1, 2, 1), skips=skips).network
    x, level = torch.rand(1, 32, 8, 8, 12), torch.tensor([3])
    fast = FastWaveletUNet(network, torch.float32)
    fast.condition(x[:, 8:])
    with torch.inference_mode():
        assert torch.allclose(fast(x[:, :8], level), network(x, level), rtol=1e-4, atol=1e-3)


def test_what_is_new_in_a_wavelet_network_learns():
    network = deepened(wavelet(), (1, 0, 1)).network
    network(torch.rand(1, 32, 8, 8, 8), torch.tensor([3])).square().mean().backward()
    new = [block for block in network.down if block.refines]
    assert len(new) == 2 and all(block.conv2.weight.grad.abs().max() > 0 for block in new)


def test_a_wavelet_network_does_not_shrink():
    with pytest.raises(ValueError, match="does not shrink"):
        deepened(wavelet((1, 1, 1)), (1, 0, 1))
    with pytest.raises(ValueError, match="a number for each of 3 levels"):
        deepened(wavelet(), (1, 1))
