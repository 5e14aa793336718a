"""Blocks against what they claim: identities at the start, and attention written out by hand."""

import math

import pytest
import torch
from torch import nn

from mrsynth.networks.blocks import LevelEmbedding, ResidualBlock, SelfAttention, Upsample, zeroed

pytestmark = pytest.mark.usefixtures("seeded")


def test_a_residual_block_begins_as_its_skip():
    x, embedding = torch.randn(2, 8, 6, 10), torch.randn(2, 12)
    same, wider = ResidualBlock(8, 8, 12, 4), ResidualBlock(8, 16, 12, 4)

    assert torch.equal(same(x, embedding), x)
    assert torch.equal(wider(x, embedding), wider.skip(x))


def test_a_residual_block_written_out():
    block, x, embedding = ResidualBlock(8, 16, 12, 4), torch.randn(2, 8, 6, 10), torch.randn(2, 12)
    nn.init.normal_(block.conv2.weight)
    nn.init.normal_(block.norm1.weight)

    def norm(h, layer):
        """Ho et al. 2020 use GroupNorm: mean 0 and variance 1 over a group's channels and pixels."""
        groups = h.reshape(2, 4, -1)
        scaled = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
        return scaled.reshape(h.shape) * layer.weight[:, None, None] + layer.bias[:, None, None]

    def silu(h):
        return h * torch.sigmoid(h)

    h = block.conv1(silu(norm(x, block.norm1))) + block.embed(silu(embedding))[:, :, None, None]
    h = block.conv2(silu(norm(h, block.norm2)))

    assert torch.allclose(block(x, embedding), block.skip(x) + h, atol=1e-4)


def test_dropout_acts_in_training_only():
    block, x, embedding = ResidualBlock(8, 8, 12, 4, dropout=0.5), torch.randn(2, 8, 6, 10), torch.randn(2, 12)
    nn.init.normal_(block.conv2.weight)

    assert not torch.equal(block(x, embedding), block(x, embedding))
    block.eval()
    assert torch.equal(block(x, embedding), block(x, embedding))


def test_attention_begins_as_the_identity():
    x = torch.randn(2, 16, 4, 5)

    assert torch.equal(SelfAttention(16, 8, 4)(x), x)


def test_attention_is_a_softmax_of_scaled_products_per_head():
    layer, x = SelfAttention(16, 8, 4), torch.randn(2, 16, 4, 5)
    nn.init.normal_(layer.out.weight)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).chunk(3, dim=1)  # (B, 16, HW) each, heads one after the other
    heads = []
    for first in (0, 8):
        rows = slice(first, first + 8)
        weights = torch.softmax(torch.einsum("bcn,bcm->bnm", q[:, rows], k[:, rows]) / math.sqrt(8), dim=-1)
        heads.append(torch.einsum("bnm,bcm->bcn", weights, v[:, rows]))
    expected = x + layer.out(torch.cat(heads, dim=1).reshape(x.shape))

    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_attention_does_not_know_where_a_pixel_lies():
    layer, x, order = SelfAttention(16, 8, 4), torch.randn(1, 16, 4, 5), torch.randperm(20)
    nn.init.normal_(layer.out.weight)

    assert torch.allclose(
        layer(x.flatten(2)[..., order].reshape(x.shape)).flatten(2), layer(x).flatten(2)[..., order], atol=1e-5
    )


def test_channels_must_fill_whole_heads():
    with pytest.raises(ValueError, match="16 channels do not split into heads of 12"):
        SelfAttention(16, 12, 4)


def test_upsampling_doubles_every_pixel_before_it_is_filtered():
    layer, x = Upsample(3, 3), torch.randn(2, 3, 4, 5)
    nn.init.dirac_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)

    assert torch.equal(layer(x), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def test_levels_are_embedded_as_sines_and_cosines_of_falling_frequencies():
    """Vaswani et al. 2017, section 3.5; the wavelengths run from 2 pi to 10,000 times that."""
    embed = LevelEmbedding(64, 64)
    embed.mlp = nn.Identity()
    rows = embed(torch.arange(200))

    for t, i in ((0, 0), (7, 5), (199, 31)):
        angle = t / 10_000 ** (i / 32)
        assert rows[t, [i, 32 + i]].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-4)
    assert float((torch.cdist(rows, rows) + 10 * torch.eye(200)).min()) > 0.5  # no two levels look alike


def test_cosines_can_come_first():
    """As in the code that most published diffusion models come from."""
    sines, cosines = LevelEmbedding(8, 4), LevelEmbedding(8, 4, cosines_first=True)
    levels = torch.tensor([0, 7, 999])

    assert torch.equal(cosines.waves(levels), sines.waves(levels).roll(4, dims=1))
    assert cosines.waves(levels)[0].tolist() == [1] * 4 + [0] * 4
    assert torch.equal(cosines(levels), cosines.mlp(cosines.waves(levels)))
    assert "frequencies" not in cosines.state_dict()


def test_an_embedding_has_an_even_number_of_dimensions():
    with pytest.raises(ValueError, match="even"):
        LevelEmbedding(7, 8)


def test_zeroed_keeps_the_layer_and_empties_it():
    layer = nn.Linear(3, 2)

    assert zeroed(layer) is layer
    assert not any(p.any() for p in layer.parameters())
