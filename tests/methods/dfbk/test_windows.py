"""Windowed attention against attention over the whole map with everything outside the window forbidden."""

import pytest
import torch

from mrsynth.methods.dfbk.windows import WindowAttention, cut, strangers

C, D = 8, 4


def layer(window=4, shifted=False, rule="pad"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = WindowAttention(C, D, window, shifted, rule)
        torch.nn.init.normal_(made.bias)
    return made.requires_grad_(False)


def image(*size, seed=0):
    return torch.randn(2, C, *size, generator=torch.Generator().manual_seed(seed))


def expected(module, x):
    """The same by one attention over all positions: a pair meets when both lie in the same shifted window."""
    h, w = x.shape[-2:]
    y, z = (cut(size, module.window, module.shifted, module.rule) for size in (h, w))
    rows, columns = (axis.flatten() for axis in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    numbers = [torch.floor((p - a.shift) / a.window) for p, a in ((rows, y), (columns, z))]
    meet = (numbers[0][:, None] == numbers[0]) & (numbers[1][:, None] == numbers[1])
    reach = module.window - 1
    apart = [(p[:, None] - p).clamp(-reach, reach) + reach for p in (rows, columns)]
    bias = module.bias[apart[0] * (2 * module.window - 1) + apart[1]].permute(2, 0, 1)
    tokens = module.qkv(x.flatten(2).transpose(1, 2))
    q, k, v = (part.unflatten(-1, (C // D, D)).transpose(1, 2) for part in tokens.chunk(3, -1))
    scores = q @ k.transpose(-1, -2) / D**0.5 + bias
    made = scores.masked_fill(~meet, -torch.inf).softmax(-1) @ v
    return module.out(made.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("rule", ["pad", "divide"])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (9, 6), (4, 4), (3, 10), (5, 7), (1, 1)])
def test_it_is_attention_inside_windows_at_any_size(size, shifted, rule):
    module, x = layer(shifted=shifted, rule=rule), image(*size)

    assert torch.allclose(module(x), expected(module, x), atol=1e-5)


def test_what_is_outside_the_window_does_not_matter_and_the_shift_moves_the_window():
    x = image(8, 8)
    far = x.clone()
    far[..., 4:] += 1

    assert torch.allclose(layer()(x)[..., :4], layer()(far)[..., :4], atol=1e-6)
    assert not torch.allclose(layer(shifted=True)(x)[..., 2:4], layer(shifted=True)(far)[..., 2:4], atol=1e-3)
    assert torch.allclose(layer(shifted=True)(x)[..., :2], layer(shifted=True)(far)[..., :2], atol=1e-6)


# Check 9: the window rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "window", "found"),
    [(192, 8, [8, 8, 8, 8, 6, 6]), (224, 14, [14, 14, 14, 14, 14])],
)
def test_windows_are_the_largest_divisors_of_each_level(size, window, found):
    cuts = [cut(size >> level, window, True, "divide") for level in range(len(found))]

    assert [a.window for a in cuts] == found
    assert all(a.padded == a.size for a in cuts)
    assert [a.shift for a in cuts] == [w // 2 if size >> level > w else 0 for level, w in enumerate(found)]


def test_with_a_fixed_window_levels_are_filled_up_to_whole_windows():
    assert [cut(192 >> level, 8, True, "pad") for level in range(6)] == [
        (192, 8, 4, 192),
        (96, 8, 4, 96),
        (48, 8, 4, 48),
        (24, 8, 4, 24),
        (12, 8, 4, 16),
        (6, 6, 0, 6),
    ]
    assert cut(13, 8, False, "divide").window == 1  # why the fixed window is the default


def test_both_rules_are_one_where_sizes_divide():
    for shifted in (False, True):
        x = image(8, 12)
        assert torch.equal(layer(shifted=shifted)(x), layer(shifted=shifted, rule="divide")(x))


def test_no_pair_is_a_stranger_to_itself():
    apart = strangers(cut(9, 4, True, "pad"), cut(6, 4, True, "pad"), torch.device("cpu"))

    assert apart.shape == (6, 16, 16) and not apart.diagonal(dim1=1, dim2=2).any()


def test_what_is_remembered_from_inference_can_be_trained_with():
    module, x = layer(shifted=True).requires_grad_(True), image(11, 13)
    with torch.inference_mode():
        made = module(x)
    module(x).sum().backward()

    assert torch.allclose(module(x).detach(), made) and bool(module.bias.grad.any())
