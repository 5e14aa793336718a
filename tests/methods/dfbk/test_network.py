"""The Swin U-Net: sizes, its start, where attention sits, and any size of slice."""

import pytest
import torch
from pydantic import ValidationError

from mrsynth.methods.dfbk.attention import BandAttention, BandAttentionConfig
from mrsynth.methods.dfbk.network import SwinUNet, SwinUNetConfig

SMALL = {
    "width": 8,
    "multipliers": (1, 1, 2),
    "blocks": 1,
    "groups": 4,
    "swin_levels": (1, 2),
    "swin_width": 8,
    "head_dim": 4,
    "window": 4,
}
DFB = BandAttentionConfig(levels=(1,), head_dim=8)
KG = BandAttentionConfig(levels=(2,), head_dim=8)
OFF = BandAttentionConfig(mode="off", levels=(1,))
LEVEL, TARGET = torch.tensor([0, 3]), torch.tensor([1, 0])
TOKENS, VALID = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(9)), torch.ones(2, 5, dtype=torch.bool)


@pytest.fixture
def build():
    """build(dfb, kg, bands=True, **config): seeded, with nothing at zero; bands=False leaves the sub-bands' alone."""

    def made(dfb=DFB, kg=KG, bands=True, **config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = SwinUNet(SwinUNetConfig(**{**SMALL, **config}), 3, 1, targets=2, dfb=dfb, kg=kg, token_width=6)
            asleep = [id(p) for m in network.modules() if isinstance(m, BandAttention) for p in m.parameters()]
            for parameter in network.parameters():
                if not parameter.any() and (bands or id(parameter) not in asleep):
                    torch.nn.init.normal_(parameter, std=0.2)
        return network.requires_grad_(False)

    return made


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def call(network, x, tokens=TOKENS, valid=VALID):
    return network(x, LEVEL, TARGET, tokens, valid)


@pytest.mark.parametrize(
    "config", [{}, {"fold": 2}, {"slim_up": True}, {"input_skip": True}, {"up_blocks": 1}], ids=str
)
def test_untrained_it_returns_zeros_of_the_right_shape(config):
    network = SwinUNet(SwinUNetConfig(**{**SMALL, **config}), 3, 1, targets=2, dfb=DFB, kg=KG, token_width=6)
    out = call(network, images(2, 3, 24, 16))

    assert out.shape == (2, 1, 24, 16) and not out.any()


# Check 7: attention on sub-bands starts as nothing --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["LH", "L", "H", "plain"])
def test_at_the_start_the_network_is_the_one_without_attention_on_bands(mode, build):
    with_bands = build(
        DFB.model_copy(update={"mode": mode}), KG.model_copy(update={"mode": mode}), bands=False, input_skip=True
    )
    without = build(OFF, OFF, input_skip=True)
    shared = {k: v for k, v in with_bands.state_dict().items() if k in without.state_dict()}
    without.load_state_dict(shared)
    x = images(2, 3, 24, 16)

    assert len(with_bands.state_dict()) > len(shared)
    assert torch.equal(call(with_bands, x), without(x, LEVEL, TARGET))
    assert bool(without(x, LEVEL, TARGET).any())


def test_at_the_start_no_text_changes_anything_and_later_any_does(build):
    x, other = images(2, 3, 24, 16), 5 * TOKENS.flip(1) + 1
    asleep, awake = build(bands=False), build()

    assert torch.equal(call(asleep, x), call(asleep, x, other))
    assert not torch.allclose(call(awake, x), call(awake, x, other), atol=1e-4)


def test_attention_sits_where_the_configuration_says(build):
    network = build(
        DFB.model_copy(update={"levels": (0, 1)}), KG.model_copy(update={"levels": (2,), "lambda_init": "schedule"})
    )
    reading = [m.reads_text if isinstance(m, BandAttention) else None for m in network.bands]  # from the deepest level

    assert reading == [True, False, False]
    assert network.middle_guidance.reads_text
    # in the order they are executed; guidance begins in the bottleneck
    starts = [network.middle_guidance.high, *(band.high for band in network.bands)]
    assert [round(high.lambda_init, 3) for high in starts] == [0.2, 0.356, 0.2, 0.356]


def test_guidance_above_the_deepest_level_leaves_the_bottleneck_alone(build):
    network = build(OFF, KG.model_copy(update={"levels": (1,)}))

    assert not isinstance(network.middle_guidance, BandAttention)
    assert [isinstance(m, BandAttention) for m in network.bands] == [False, True, False]


# Check 9: any size ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", ["pad", "divide"])
def test_any_size_that_halves_evenly_runs_and_windows_see_the_same_where_they_divide(windows, build):
    network, other = build(windows=windows), build(windows="pad" if windows == "divide" else "divide")
    for size in ((16, 16), (20, 36), (12, 44), (4, 8), (52, 28)):
        assert call(network, images(2, 3, *size)).shape == (2, 1, *size)
    x = images(2, 3, 32, 16)

    assert torch.allclose(call(network, x), call(other, x), atol=1e-5)
    with pytest.raises(ValueError, match="no multiple of 4"):
        call(network, images(2, 3, 18, 16))


def test_the_backbone_of_the_paper_has_its_size():
    """About 190 million, without attention on bands."""
    with torch.device("meta"):
        network = SwinUNet(SwinUNetConfig(), 2, 1)
    count = sum(p.numel() for p in network.parameters())

    assert count == pytest.approx(190e6, rel=0.02)


def test_target_and_level_are_told(build):
    network, x = build(), images(1, 3, 16, 16)
    tokens = (TOKENS[:1], VALID[:1])
    made = [
        network(x, torch.tensor([level]), torch.tensor([target]), *tokens) for level, target in ((0, 0), (1, 0), (0, 1))
    ]

    assert not torch.allclose(made[0], made[1], atol=1e-3) and not torch.allclose(made[0], made[2], atol=1e-3)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"width": 10}, "no multiple of 4 groups"),
        ({"swin_levels": (3,)}, "not all among the 3 levels"),
        ({"head_dim": 3}, "heads of 3"),
        ({"up_blocks": 3}, "at most blocks"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_built_are_refused(config, why):
    with pytest.raises(ValidationError, match=why):
        SwinUNetConfig(**{**SMALL, **config})


@pytest.mark.parametrize(
    ("dfb", "kg", "why"),
    [
        ({"levels": (2,)}, {"levels": (2,)}, r"levels \[2\] have both"),
        ({"levels": (3,)}, {}, "dfb.levels"),
        ({}, {"levels": (0,), "head_dim": 16}, "kg: 8 channels at level 0 do not split into heads of 16"),
    ],
    ids=str,
)
def test_attention_on_bands_that_cannot_be_placed_is_refused(dfb, kg, why):
    with pytest.raises(ValueError, match=why):
        SwinUNet(SwinUNetConfig(**SMALL), 3, 1, dfb=DFB.model_copy(update=dfb), kg=KG.model_copy(update=kg))
