"""GroupNorm's own backward pass says what PyTorch's does."""

import pytest
import torch
from torch import nn

from mrsynth.networks.norm import LAYOUTS, GroupNorm, gains

SHAPES = [(2, 8, 6, 10), (1, 12, 4, 6, 10), (3, 4, 5, 7), (1, 8, 1, 1)]


def gradients(norm, x, upstream):
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = norm(x)
    return out, *torch.autograd.grad(out, (x, norm.weight, norm.bias), upstream)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [True, False])  # of the gradient that comes in: layouts may differ
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_gradients_are_those_of_float32_up_to_rounding(shape, last, offset):
    generator = torch.Generator().manual_seed(0)
    layout = LAYOUTS[len(shape)]
    x, upstream = (torch.randn(shape, generator=generator).bfloat16() for _ in range(2))
    x = (x + offset).contiguous(memory_format=layout)
    upstream = upstream.contiguous(memory_format=layout) if last else upstream
    own = GroupNorm(4, shape[1])
    nn.init.normal_(own.weight, 1, 0.3, generator=generator)
    plain = nn.GroupNorm(4, shape[1])
    plain.load_state_dict(own.state_dict())

    out, *found = gradients(own, x, upstream)
    _, *wanted = gradients(plain, x.float(), upstream.float())
    assert torch.equal(out, plain(x)) and out.is_contiguous(memory_format=layout)
    assert [g.dtype for g in found] == [torch.bfloat16, torch.float32, torch.float32]
    for own_gradient, right in zip(found, wanted, strict=True):
        assert (own_gradient.float() - right).norm() <= 0.02 * right.norm() + 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [True, False])
def test_it_is_used_where_it_is_quicker(dtype, last):
    x = (
        torch.randn(2, 8, 6, 4)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    )
    assert gains(x) == (dtype == torch.bfloat16 and last)
    out = GroupNorm(4, 8)(x.requires_grad_())
    assert (type(out.grad_fn).__name__ == "_NormedBackward") == gains(x)


def test_a_network_trains_with_it_as_with_the_plain_one():
    """Two convolutions in autocast: the gradient that comes to the first has the same direction."""
    found = []
    for norm in (GroupNorm, nn.GroupNorm):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm(4, 8), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1))
        net = net.to(memory_format=torch.channels_last)
        x = torch.randn(2, 3, 16, 12).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(x).square().mean()
        loss.backward()
        found.append(net[0].weight.grad.flatten())
    assert torch.cosine_similarity(*found, 0) > 0.999
