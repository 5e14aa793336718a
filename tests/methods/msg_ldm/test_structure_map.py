"""The structure network against closed forms: sharpening, gates and attention."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from mrsynth.methods.msg_ldm.decoders import ReconstructionDecoder, SegmentationDecoder, StyleEncoder
from mrsynth.methods.msg_ldm.structure_map import (
    SIGMAS,
    Hfib,
    Mmsf,
    Msse,
    StructureConfig,
    StructureEncoder,
    StructureMap,
    gaussian,
    high_frequencies,
    spread_and_roughness,
    wide_high_frequencies,
)

PAPER = StructureConfig()
TINY = StructureConfig(widths=(8, 16, 32, 64), style_width=8, decoder_blocks=1)


pytestmark = pytest.mark.usefixtures("seeded")


def count(module):
    return sum(p.numel() for p in module.parameters())


# Check 1: HFIB -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_check_1_the_gaussian_is_the_normalised_3_x_3_one_and_sums_to_1(sigma):
    delta = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    delta[0, 0, 3, 3] = 1
    kernel = (delta - high_frequencies(delta, torch.tensor(sigma, dtype=torch.float64)))[0, 0]
    i = np.arange(-1, 2)
    expected = np.exp(-0.5 * (i[:, None] ** 2 + i[None] ** 2) / sigma**2)

    assert float(kernel.sum()) == pytest.approx(1)
    assert np.allclose(kernel[2:5, 2:5], expected / expected.sum(), atol=1e-12)


def test_check_1_each_example_has_its_own_width():
    x = torch.randn(2, 3, 8, 9)
    both = high_frequencies(x, torch.tensor([0.5, 2.0]))

    for b, sigma in enumerate((0.5, 2.0)):
        assert torch.allclose(both[b], high_frequencies(x[b : b + 1], torch.tensor(sigma))[0])


def test_check_1_a_width_of_a_tenth_makes_the_residual_form_the_identity():
    block, x = Hfib(4, "residual", "scalar"), torch.randn(2, 4, 9, 7)
    nn.init.constant_(block.scalar, 0.1)

    assert torch.equal(block(x, x), x)


@pytest.mark.parametrize("sigma", ["adaptive", "scalar", "means"])
def test_check_1_a_constant_has_no_high_frequencies_even_at_the_borders(sigma):
    x = torch.full((1, 4, 6, 5), 0.7)

    assert torch.equal(Hfib(4, "residual", sigma)(x, x), x)


@pytest.mark.parametrize("form", ["residual", "conv"])
def test_check_1_the_former_adaptive_form_begins_as_scalar(form):
    means, scalar, x = Hfib(4, form, "means"), Hfib(4, form, "scalar"), torch.randn(2, 4, 9, 7)
    scalar.load_state_dict(means.state_dict(), strict=False)

    assert torch.allclose(means.sigma(x, x), torch.ones(2))
    assert torch.allclose(means(x, x), scalar(x, x), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.5])
def test_the_wide_gaussian_is_the_normalised_7_x_7_one_with_replicated_borders(sigma):
    delta = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    delta[0, 0, 7, 7] = 1
    kernel = (delta - wide_high_frequencies(delta, torch.tensor([sigma], dtype=torch.float64)))[0, 0]
    i = np.arange(-3, 4)
    expected = np.exp(-0.5 * (i[:, None] ** 2 + i[None] ** 2) / sigma**2)
    assert np.allclose(kernel[4:11, 4:11], expected / expected.sum(), atol=1e-12)

    x, sigmas = torch.randn(2, 3, 5, 4), torch.tensor([0.5, 1.5])
    padded = F.pad(x, (9,) * 4, mode="replicate")
    assert torch.allclose(
        wide_high_frequencies(x, sigmas), wide_high_frequencies(padded, sigmas)[..., 9:14, 9:13], atol=1e-6
    )


def test_two_different_inputs_get_clearly_different_kernels():
    """From the first iteration on. Of 0.1.0's the weights beside the centre differed by 0.009 at most."""
    texture = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    smooth = F.interpolate(texture[..., :4, :4], scale_factor=16, mode="bilinear")
    encoder = StructureEncoder(TINY, 1).eval()
    widths = []
    for sharpener in encoder.sharpeners:
        sharpener.register_forward_pre_hook(lambda block, inputs: widths.append(block.sigma(*inputs)))
    with torch.no_grad():
        encoder(torch.cat([texture, smooth]))
    centres = [gaussian(sigma)[:, 3] for sigma in widths]

    assert len(centres) == 4 and all(bool((SIGMAS[0] < s).all() and (s < SIGMAS[1]).all()) for s in widths)
    assert float(centres[0][0] - centres[0][1]) > 0.2  # white noise is left sharper than a smooth image
    differences = [float(centre[0] - centre[1]) for centre in centres]
    assert min(differences[:3]) > 0.05 and differences[3] > 0.02  # 8 x 8 pixels of an untrained network are all noise


def test_the_width_of_the_gaussian_is_bounded_whatever_is_learnt():
    block, x = Hfib(4, "residual", "adaptive"), torch.randn(2, 4, 9, 7)
    for extreme in (-1e4, 1e4):
        nn.init.constant_(block.read.bias, extreme)
        assert (
            float(block.sigma(x, x).detach().min()) >= SIGMAS[0]
            and float(block.sigma(x, x).detach().max()) <= SIGMAS[1]
        )


def test_spread_and_roughness_have_their_closed_forms():
    noise = 3 * torch.randn(1, 2, 256, 256)
    spread, rough = spread_and_roughness(noise)[0].split(2)
    assert torch.allclose(spread, torch.full((2,), math.log(3)), atol=0.02)
    assert torch.allclose(rough, torch.full((2,), math.log(2) / 2), atol=0.02)

    ramp = torch.arange(100.0).expand(1, 1, 100, 100)  # differences of 1 along one axis; variance (100^2 - 1) / 12
    expected = [math.log(9999 / 12) / 2, math.log(0.99 / 2 / (9999 / 12)) / 2]
    assert torch.allclose(spread_and_roughness(ramp)[0], torch.tensor(expected), atol=1e-4)
    assert bool(spread_and_roughness(torch.zeros(1, 2, 4, 4)).isfinite().all())
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    spread_and_roughness(x).sum().backward()
    assert bool(x.grad.isfinite().all())


def test_a_negative_width_is_clamped():
    block = Hfib(4, "residual", "scalar")
    nn.init.constant_(block.scalar, -3.0)

    ones = torch.ones(1, 4, 2, 2)

    assert float(block.sigma(ones, ones).detach()) == pytest.approx(1e-3)


# Check 2: gates ------------------------------------------------------------------------------------------------------


def test_check_2_plain_gates_can_close_and_normed_gates_cannot():
    """The fault of the public code: a norm and an activation before the sigmoid keep each gate above 0.48."""
    plain, normed = (Mmsf(4, 8, StructureConfig(gate=gate)) for gate in ("plain", "normed"))
    structures = torch.randn(3, 4, 8, 10, 12)
    gates = plain.gates(structures)
    assert gates.shape == (3, 4, 10, 12) and bool((gates > 0).all() and (gates < 1).all())

    nn.init.constant_(plain.logits.bias, -5)
    assert bool((plain.gates(structures) < 0.1).all())
    assert bool((normed.gates(structures) > 0.48).all())


def test_fusion_written_out():
    structures = torch.randn(2, 3, 8, 6, 6)
    for fusion in ("concat", "sum"):
        block = Mmsf(3, 8, StructureConfig(fusion=fusion, norm="none"))
        gated = torch.sigmoid(block.logits(structures.flatten(1, 2)))[:, :, None] * structures
        inputs = gated.flatten(1, 2) if fusion == "concat" else gated.sum(1)

        assert torch.allclose(block(structures), F.leaky_relu(block.fuse[0](inputs), 0.01))


# Check 4: shapes and sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [192, 64])
def test_check_4_shapes_of_the_paper(side):
    with torch.device("meta"):  # shapes without the work
        encoder, msse = StructureEncoder(PAPER, 1), Msse(PAPER)
        fusions = [Mmsf(4, width, PAPER) for width in PAPER.widths]
        levels = encoder(torch.empty(2, 1, side, side))
        fused = [fusion(s[:, None].expand(-1, 4, -1, -1, -1)) for fusion, s in zip(fusions, levels, strict=True)]
        structure = msse(fused)
        image = ReconstructionDecoder(PAPER)(structure, fused[:-1], torch.empty(2, 8))
        regions = SegmentationDecoder(PAPER, 4)(fused)

    assert [tuple(f.shape) for f in fused] == [(2, 32 << n, side >> n, side >> n) for n in range(4)]
    assert structure.shape == fused[-1].shape
    assert image.shape == (2, 1, side, side) and regions.shape == (2, 4, side, side)


def test_check_4_without_alpha_the_coarsest_level_comes_out():
    msse = Msse(TINY)
    features = [torch.randn(2, 8 << n, 32 >> n, 24 >> n) for n in range(4)]
    assert not torch.equal(msse(features), features[-1])

    nn.init.zeros_(msse.alpha)
    assert torch.equal(msse(features), features[-1])


def test_cross_attention_written_out():
    msse = Msse(TINY)
    features = [torch.randn(1, 8 << n, 16 >> n, 16 >> n) for n in range(4)]
    source = sum(
        F.interpolate(lateral(f), (2, 2), mode="bilinear", antialias=True)  # the two commute
        for lateral, f in zip(msse.lateral, features[:-1], strict=True)
    )
    normed = F.layer_norm(features[-1].permute(0, 2, 3, 1), (64,)).permute(0, 3, 1, 2)
    q, k, v = (
        layer(x).reshape(4, 16, 4) for layer, x in ((msse.query, normed), (msse.key, source), (msse.value, source))
    )
    weights = torch.softmax(torch.einsum("hdq,hdk->hqk", q, k) / math.sqrt(16), -1)
    attended = torch.einsum("hqk,hdk->hdq", weights, v).reshape(1, 64, 2, 2)

    assert torch.allclose(msse(features), features[-1] + 0.5 * msse.out(attended), atol=1e-5)


def test_sizes_are_those_of_the_public_code():
    """Specification, section 3: structure encoder 3.5 M, style encoder 0.69 M, decoder 6.0 M."""
    code = StructureConfig(hfib="conv", sigma="scalar", gate="normed", alpha="fixed")
    with torch.device("meta"):
        sizes = [count(StructureEncoder(code, 1)), count(StyleEncoder(code)), count(ReconstructionDecoder(code))]

    assert [round(size / 1e6, 2) for size in sizes] == [3.52, 0.69, 6.0]


# Structure map -------------------------------------------------------------------------------------------------------


def test_an_encoder_of_an_absent_contrast_gets_no_gradient_and_changes_nothing():
    model, images = StructureMap(TINY, 3).eval(), torch.randn(2, 3, 1, 16, 16)
    available = torch.tensor([[True, False, True], [True, False, False]])
    features, structure = model(images, available)
    images[:, 1] = torch.nan
    again, same = model(images, available)
    structure.sum().backward()

    assert torch.equal(structure, same) and all(torch.equal(a, b) for a, b in zip(features, again, strict=True))
    assert all(p.grad is None for p in model.encoders[1].parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.encoders[2].parameters())


def test_one_encoder_for_all_reads_zeros_for_what_is_absent():
    config = StructureConfig(widths=(8, 16), decouple=False, msse=False)
    model, images = StructureMap(config, 3).eval(), torch.randn(2, 3, 1, 16, 16)
    available = torch.tensor([[True, False, True], [True, False, False]])
    features, structure = model(images, available)
    seen = (images * available[:, :, None, None, None])[:, :, 0]

    assert len(model.encoders) == 1 and not hasattr(model, "fusions")
    assert torch.equal(structure, features[-1])
    assert all(torch.allclose(a, b) for a, b in zip(features, model.encoders[0](seen), strict=True))


def test_fold_gives_the_same_grid_with_one_level_less():
    plain, folded = StructureConfig(widths=(8, 16, 32)), StructureConfig(widths=(8, 16), fold=2)
    images, available = torch.randn(1, 2, 3, 16, 24), torch.ones(1, 2, dtype=torch.bool)

    assert plain.factor == folded.factor == 4
    for config, channels in ((plain, 32), (folded, 16)):
        _, structure = StructureMap(config, 2, slices=3)(images, available)
        assert structure.shape == (1, channels, 4, 6)


def test_without_norms_the_signal_neither_dies_nor_grows():
    """The usual first weights would leave a hundredth of it at the end of four levels."""
    config = TINY.model_copy(update={"norm": "none", "hfib": "none"})
    with torch.no_grad():
        levels = StructureEncoder(config, 4).eval()(torch.randn(4, 4, 64, 64))

    assert all(0.3 < float(level.square().mean().sqrt()) < 10 for level in levels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (8, 18)}, "width 18 does not split into 4 heads"),
        ({"decoder_kernel": 4}, "decoder_kernel 4"),
        ({"widths": (4, 8), "norm": "group"}, "multiples of 8"),
        ({"widths": (8,)}, "widths"),
        ({"levels": 3}, "levels"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_built_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        StructureConfig(**options)
