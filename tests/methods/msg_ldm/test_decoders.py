"""What reads the structure map, against closed forms: AdaIN, style, image and region decoders."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mrsynth.methods.msg_ldm.decoders import (
    AdainBlock,
    Modulation,
    ReconstructionDecoder,
    SegmentationDecoder,
    StyleEncoder,
    adain,
    doubled,
)
from mrsynth.methods.msg_ldm.structure_map import StructureConfig

TINY = StructureConfig(widths=(8, 16, 32, 64), style_width=8, decoder_blocks=1)


pytestmark = pytest.mark.usefixtures("seeded")


def test_check_9_adain_of_a_constant_is_beta_and_of_others_has_the_wanted_moments():
    gamma, beta = torch.tensor([[2.0, -0.5]]), torch.tensor([[0.3, 1.0]])
    constant = adain(torch.full((1, 2, 5, 4), 7.0), gamma, beta)
    other = adain(torch.randn(1, 2, 50, 40) * 3 + 1, gamma, beta)

    assert torch.allclose(constant, beta[:, :, None, None].expand(-1, -1, 5, 4), atol=1e-3)
    assert torch.allclose(other.mean((2, 3)), beta, atol=1e-4)
    assert torch.allclose(other.std((2, 3)), gamma.abs(), atol=1e-3)


@pytest.mark.parametrize("style_dim", [8, 0])
def test_check_9_modulation_begins_as_scale_1_and_shift_0(style_dim):
    gamma, beta = Modulation(style_dim, 6)(torch.randn(3, style_dim))

    assert torch.equal(gamma, torch.ones(3, 6)) and torch.equal(beta, torch.zeros(3, 6))


def test_an_adain_block_written_out():
    block, x = AdainBlock(8, StructureConfig(norm="none")), torch.randn(2, 8, 6, 6)
    gamma, beta = torch.rand(2, 8), torch.randn(2, 8)

    def normed(h):
        scaled = (h - h.mean((2, 3), keepdim=True)) / (h.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        return gamma[:, :, None, None] * scaled + beta[:, :, None, None]

    h = F.leaky_relu(normed(F.leaky_relu(block.first[0](x), 0.01)), 0.01)
    expected = x + normed(F.leaky_relu(block.second[0](h), 0.01))

    assert torch.allclose(block(x, gamma, beta), expected, atol=1e-5)


@pytest.mark.parametrize("skips", [False, True])
def test_only_decoder_skips_let_finer_levels_into_the_image(skips):
    decoder = ReconstructionDecoder(TINY.model_copy(update={"decoder_skips": skips}))
    finer, structure, code = (
        [torch.randn(1, 8 << n, 32 >> n, 32 >> n) for n in range(3)],
        torch.randn(1, 64, 4, 4),
        torch.ones(1, 8),
    )
    image = decoder(structure, finer, code)
    other = decoder(structure, [torch.zeros_like(f) for f in finer], code)

    assert image.shape == (1, 1, 32, 32) and bool((image.abs() < 1).all())
    assert torch.equal(image, other) != skips


def test_style_changes_the_image_only_after_the_heads_have_learnt():
    decoder, structure = ReconstructionDecoder(TINY), torch.randn(1, 64, 4, 4)
    finer = [torch.randn(1, 8 << n, 32 >> n, 32 >> n) for n in range(3)]
    one, other = torch.randn(1, 8), torch.randn(1, 8)
    assert torch.equal(decoder(structure, finer, one), decoder(structure, finer, other))

    nn.init.normal_(decoder.modulation.scale_head.weight)
    assert not torch.equal(decoder(structure, finer, one), decoder(structure, finer, other))


def test_norms_erase_the_level_of_a_slice_and_none_keeps_it():
    """Why `norm=none` exists: with instance norms an image and a brighter copy of it have the same code."""
    image = torch.rand(1, 1, 32, 32)
    for normed, same in ((True, True), (False, False)):
        encoder = StyleEncoder(TINY.model_copy(update={"style_norm": normed})).eval()
        inner = encoder.layers[1:]  # behind the zero padding of the first convolution the level differs at the border
        features = encoder.layers[0](image)
        difference = (inner(3 * features) - inner(features)).abs().max() / inner(features).abs().max()
        assert bool(difference < 1e-2) == same


def test_doubling_keeps_a_slope_and_a_constant():
    """Bilinear: away from the border a ramp of step 1 becomes one of step 1/2 about the same middle."""
    ramp = torch.arange(8.0).expand(1, 1, 3, 8)
    finer = doubled(ramp)

    assert finer.shape == (1, 1, 6, 16)
    assert torch.allclose(finer[0, 0, 0, 1:-1], torch.arange(14) / 2 + 0.25)
    assert torch.equal(doubled(torch.full((1, 2, 3, 3), 7.0)), torch.full((1, 2, 6, 6), 7.0))


@pytest.mark.parametrize("fold", [1, 2])
def test_regions_are_decoded_at_the_size_of_the_image_from_every_level(fold):
    config = StructureConfig(widths=(8, 16, 32), fold=fold)
    decoder = SegmentationDecoder(config, 3).eval()
    features = [torch.randn(1, 8 << n, 16 >> n, 12 >> n) for n in range(3)]
    logits = decoder(features)

    assert logits.shape == (1, 3, 16 * fold, 12 * fold) and logits.dtype == torch.float32
    for level in range(3):
        changed = [torch.randn_like(f) if n == level else f for n, f in enumerate(features)]
        assert not torch.equal(decoder(changed), logits)


@pytest.mark.parametrize("head", ["tanh", "linear"])
def test_a_regression_has_zero_images_at_the_start(head):
    """The image decoder then adds nothing to the line that the draft begins as."""
    config = TINY.model_copy(update={"regression": True, "head": head})
    finer = [torch.randn(1, 8 << n, 32 >> n, 32 >> n) for n in range(3)]

    assert not ReconstructionDecoder(config)(torch.randn(1, 64, 4, 4), finer, torch.randn(1, 8)).any()
