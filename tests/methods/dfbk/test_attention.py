"""Attention on sub-bands: the transform, differential attention, and what a text can and cannot change."""

import math

import pytest
import torch

from mrsynth.methods.dfbk.attention import (
    BandAttention,
    BandAttentionConfig,
    DifferentialAttention,
    merge,
    split,
)

C, D = 32, 16  # channels and the width of a head


def values(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def build():
    """build(mode, tokens=0, depth=0, awake=True, **config): seeded attention whose ways out are not zero."""

    def made(mode="LH", tokens=0, depth=0, awake=True, **config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = BandAttention(BandAttentionConfig(mode=mode, head_dim=D, **config), C, 8, depth, tokens)
            for part in (module.low, module.high):
                if part is not None and awake:
                    torch.nn.init.normal_(part.out.weight, std=0.3)
        return module.requires_grad_(False)

    return made


# Check 1: the transform -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_split_and_merge_are_exact_inverses_and_keep_the_energy(dtype, tolerance):
    z = values(2, 3, 12, 10, dtype=dtype)
    low, high = split(z)

    assert low.shape == (2, 3, 6, 5) and high.shape == (2, 9, 6, 5)
    assert float((merge(low, high) - z).abs().max()) <= tolerance
    assert float(low.square().sum() + high.square().sum()) == pytest.approx(float(z.square().sum()), rel=1e-6)


def test_merge_is_the_adjoint_of_split():
    z = values(1, 2, 8, 6, dtype=torch.float64)
    a, b = values(1, 2, 4, 3, seed=1, dtype=torch.float64), values(1, 6, 4, 3, seed=2, dtype=torch.float64)
    low, high = split(z)

    assert float((low * a).sum() + (high * b).sum()) == pytest.approx(float((z * merge(a, b)).sum()), rel=1e-12)


def test_a_constant_is_all_low_and_each_band_has_its_place():
    low, high = split(torch.ones(1, 2, 4, 4))

    assert torch.allclose(low, torch.full_like(low, 2.0)) and not high.any()
    a, b, c, d = values(4).tolist()
    low, high = split(torch.tensor([[[[a, b], [c, d]]]]))
    expected = [(a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2]  # LH, HL, HH
    assert float(low) == pytest.approx((a + b + c + d) / 2, abs=1e-6)
    assert high.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_the_high_bands_come_band_by_band_then_channel_by_channel():
    z = values(1, 3, 4, 4)
    _, high = split(z)
    for channel in range(3):
        _, own = split(z[:, channel : channel + 1])
        assert torch.equal(high[:, channel::3], own)


@pytest.mark.parametrize("size", [(7, 10), (6, 9), (5, 5), (1, 3)])
def test_odd_sizes_survive_padding_and_cropping(size, build):
    z = values(2, C, *size)
    low, high = split(z)

    assert torch.allclose(merge(low, high)[..., : size[0], : size[1]], z, atol=1e-6)
    assert build(awake=False)(z).shape == z.shape
    assert torch.allclose(build(awake=False)(z), z, atol=1e-6)


def test_an_odd_border_is_reflected():
    z = torch.arange(5.0)[None, None, None].expand(1, 1, 2, 5)
    low, high = split(z)

    assert low[0, 0, 0].tolist() == pytest.approx([1, 5, 7])  # the last from 4 and 3
    assert high[0, 0, 0].tolist() == pytest.approx([-1, -1, 1])


# Check 6: differential attention --------------------------------------------------------------------------------------


@pytest.fixture
def differential():
    """differential(lambda_init=0.3, zero=False): with subln off, so that its maps can be read off."""

    def made(lambda_init=0.3, zero=False, subln=False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            module = DifferentialAttention(BandAttentionConfig(head_dim=D, subln=subln), C, 8, lambda_init)
        with torch.no_grad():
            for vector in module.lambdas:
                vector.mul_(0 if zero else 1)
        return module

    return made


def heads_of(seed, count=4, width=D // 2, positions=12):
    return values(2, count, positions, width, seed=seed)


def test_rows_of_the_difference_of_the_maps_sum_to_one_minus_lambda(differential):
    module = differential()
    made = module.attend(heads_of(0), heads_of(1), torch.ones(2, 2, 12, D))

    assert torch.allclose(made, torch.full_like(made, float(1 - module.balance().detach())), atol=1e-6)


def test_lambda_is_its_constant_when_its_vectors_are_zero_and_near_it_at_first(differential):
    assert float(differential(0.471, zero=True).balance().detach()) == pytest.approx(0.471, abs=1e-7)
    found = []
    for seed in range(400):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = DifferentialAttention(BandAttentionConfig(), C, 8, 0.2)
        found.append(float(module.balance().detach()) - 0.2)
    found = torch.tensor(found)

    assert float(found.abs().max()) < 0.4
    assert float(found.std()) == pytest.approx(0.06, abs=0.01)  # two products of 16 pairs with spread 0.01


def test_lambda_starts_at_the_schedule_of_the_depth_or_at_a_number():
    starts = [BandAttentionConfig().start(depth) for depth in range(4)]

    assert starts == pytest.approx([0.200, 0.356, 0.471, 0.556], abs=5e-4)
    assert BandAttentionConfig(lambda_init=0.7).start(2) == 0.7


def plain(q, k, v):
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def test_without_lambda_it_is_plain_attention_of_the_first_map(differential):
    q, k, v = heads_of(0), heads_of(1), heads_of(2, 2, D)
    made = differential(0.0, zero=True).attend(q, k, v)

    assert torch.allclose(made, plain(q[:, ::2], k[:, ::2], v), atol=1e-6)


def test_two_equal_maps_leave_one_minus_lambda_of_one(differential):
    q, k, v = (heads_of(0, 2).repeat_interleave(2, 1), heads_of(1, 2).repeat_interleave(2, 1), heads_of(2, 2, D))
    module = differential()

    assert torch.allclose(module.attend(q, k, v), (1 - module.balance()) * plain(q[:, ::2], k[:, ::2], v), atol=1e-6)


def test_it_is_the_difference_of_two_attentions(differential):
    q, k, v = heads_of(0), heads_of(1), heads_of(2, 2, D)
    module = differential()
    expected = plain(q[:, ::2], k[:, ::2], v) - module.balance() * plain(q[:, 1::2], k[:, 1::2], v)

    assert torch.allclose(module.attend(q, k, v), expected, atol=1e-6)


def test_each_head_is_normalised_and_scaled_where_that_is_on(differential):
    q, k, v = heads_of(0), heads_of(1), heads_of(2, 2, D)
    bare, normed = differential(0.3).attend(q, k, v), differential(0.3, subln=True).attend(q, k, v)
    size = (bare.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    assert torch.allclose(normed, 0.7 * bare / size, atol=1e-5)


def test_gradients_reach_all_four_vectors(differential):
    module = differential(subln=True)
    (module.attend(heads_of(0), heads_of(1), heads_of(2, 2, D)) * heads_of(3, 2, D)).sum().backward()

    assert all(bool(vector.grad.any()) for vector in module.lambdas)


# The whole block ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "H", "LH", "plain"])
@pytest.mark.parametrize("tokens", [0, 6])
def test_a_residual_block_starts_as_the_identity(mode, tokens, build):
    z, text = values(2, C, 8, 6), values(2, 5, tokens or 1)
    made = (
        build(mode, tokens, awake=False)(z, text, torch.ones(2, 5, dtype=torch.bool))
        if tokens
        else build(mode, awake=False)(z)
    )

    assert torch.equal(made, z)


@pytest.mark.parametrize("residual", [True, False])
def test_a_band_that_does_not_attend_passes_unchanged(residual, build):
    z = values(2, C, 8, 6)
    low, high = split(z)
    for mode, same, other in (("L", 1, 0), ("H", 0, 1)):
        bands = split(build(mode, residual=residual)(z))
        assert torch.allclose(bands[same], (low, high)[same], atol=1e-5)
        assert not torch.allclose(bands[other], (low, high)[other], atol=0.01)


def test_low_and_high_together_are_their_sum(build):
    """The residual form adds a change to each band, and the bands do not see one another."""
    z = values(2, C, 8, 6)
    both = build("LH")
    low, high = build("L"), build("H")
    low.low.load_state_dict(both.low.state_dict())
    high.high.load_state_dict(both.high.state_dict())

    assert torch.allclose(both(z) - z, (low(z) - z) + (high(z) - z), atol=1e-5)


def test_the_literal_form_replaces_the_bands(build):
    z = values(2, C, 8, 6)
    module = build("LH", residual=False)
    low, high = split(z)

    assert torch.allclose(module(z), merge(module.low(low), module.high(high)), atol=1e-6)
    assert isinstance(module.low.norm, torch.nn.Identity)


def test_low_band_attention_is_attention_over_all_its_positions(build):
    module = build("L")
    z, _ = split(values(1, C, 4, 6))
    tokens = module.low.norm(z).flatten(2).transpose(1, 2)
    q, k, v = (part.unflatten(-1, (C // D, D)).transpose(1, 2) for part in module.low.from_map(tokens).chunk(3, -1))
    expected = module.low.out(plain(q, k, v).transpose(1, 2).flatten(2)).transpose(1, 2).reshape(z.shape)

    assert torch.allclose(module.low(z), expected, atol=1e-5)


# Check 8: the text ----------------------------------------------------------------------------------------------------

MODES_WITH_TEXT = pytest.mark.parametrize("mode", ["LH", "L", "H", "plain"])


@MODES_WITH_TEXT
def test_padded_tokens_change_nothing_whatever_they_hold(mode, build):
    module, z, text = build(mode, 6), values(2, C, 8, 6), values(2, 5, 6, seed=1)
    valid = torch.ones(2, 5, dtype=torch.bool)
    longer = torch.cat([text, 100 * values(2, 3, 6, seed=2)], 1)
    mask = torch.cat([valid, torch.zeros(2, 3, dtype=torch.bool)], 1)

    assert torch.allclose(module(z, longer, mask), module(z, text, valid), atol=1e-5)
    assert not torch.allclose(module(z, longer, torch.ones_like(mask)), module(z, text, valid), atol=1e-3)


@MODES_WITH_TEXT
def test_the_order_of_the_tokens_does_not_matter_but_their_values_do(mode, build):
    module, z, text = build(mode, 6), values(2, C, 8, 6), values(2, 5, 6, seed=1)
    valid = torch.tensor([[True, True, True, False, True]] * 2)
    order = torch.tensor([4, 2, 0, 3, 1])

    assert torch.allclose(module(z, text[:, order], valid[:, order]), module(z, text, valid), atol=1e-5)
    assert not torch.allclose(module(z, values(2, 5, 6, seed=3), valid), module(z, text, valid), atol=1e-3)


def test_a_single_token_changes_the_low_band_alike_everywhere(build):
    module, z, text = build("L", 6), values(2, C, 8, 6), values(2, 1, 6, seed=1)
    change = split(module(z, text, torch.ones(2, 1, dtype=torch.bool)))[0] - split(z)[0]

    assert torch.allclose(change, change[..., :1, :1].expand_as(change), atol=1e-5)
    assert float(change.abs().max()) > 0.1
