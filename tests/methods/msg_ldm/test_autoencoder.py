"""The first stage: codebook, kinds, sizes; and the discriminator beside it."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mrsynth.methods.msg_ldm.autoencoder import Autoencoder, AutoencoderConfig, Codebook
from mrsynth.methods.msg_ldm.discriminator import DiscriminatorConfig, PatchDiscriminator

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4}


pytestmark = pytest.mark.usefixtures("seeded")


def build(**options):
    return Autoencoder(AutoencoderConfig(**{**SMALL, **options}))


def images(n=2, side=16):
    return torch.rand(n, 1, side, side) * 2 - 1


def seed():
    return torch.Generator().manual_seed(0)


# Check 11 ------------------------------------------------------------------------------------------------------------


def test_check_11_the_gradient_passes_straight_through_the_codebook():
    model = build(kind="vq", codes=32, attention=False)  # which begins as the identity
    made, _ = model.reconstruct(images(), seed())
    made.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.parameters())
    assert model.codebook.codes.grad is None  # which only its own loss moves

    codebook, z = Codebook(16, 4, 0.25), torch.randn(1, 4, 3, 3, requires_grad=True)
    given = torch.randn(1, 4, 3, 3)
    codebook(z).latents.backward(given)
    assert torch.equal(z.grad, given)


def test_check_11_looking_up_a_code_twice_changes_nothing():
    codebook, z = Codebook(16, 4, 0.25), torch.randn(2, 4, 5, 3)
    nn.init.normal_(codebook.codes)
    once = codebook(z).latents
    nearest = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 4), codebook.codes).argmin(1)

    assert torch.allclose(once.permute(0, 2, 3, 1).reshape(-1, 4), codebook.codes[nearest], atol=1e-6)
    assert torch.allclose(codebook(once.detach()).latents, once, atol=1e-6)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds that is made within it."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.most = max([self.most, *(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor))])
        return made


def test_looking_up_codes_takes_the_memory_of_one_image_however_many_there_are():
    codebook, z = Codebook(500, 4, 0.25), torch.randn(6, 4, 5, 3)
    with Largest() as watched:
        codebook(z)
    assert watched.most == 5 * 3 * 500


def test_the_codebooks_loss_written_out():
    codebook, z = Codebook(16, 4, 0.25), torch.randn(2, 4, 5, 3, requires_grad=True)
    found = codebook(z)
    distance = (found.latents - z).detach().square().mean()
    found.loss.backward()

    assert float(found.loss.detach()) == pytest.approx(1.25 * float(distance), rel=1e-5)
    pull = 0.25 * 2 * (z - found.latents).detach() / z.numel()  # only the commitment moves the latents
    assert torch.allclose(z.grad, pull, atol=1e-7)


@pytest.mark.parametrize("factor", [2, 8])
def test_check_11_identity_is_exactly_invertible_and_has_nothing_to_learn(factor):
    model = Autoencoder(AutoencoderConfig(kind="identity", multipliers=(1,) * factor.bit_length(), fold=1))
    x = images(3, 32)
    z = model.encode(x)

    assert model.config.factor == factor and z.shape == (3, factor**2, 32 // factor, 32 // factor)
    assert torch.equal(model.decode(z), x) and not list(model.parameters())
    assert torch.equal(model.reconstruct(x, seed())[0], x)


# Kinds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"kind": "vq", "codes": 8}, {"kind": "kl"}, {"kind": "kl", "bypass": True}], ids=str
)
def test_images_return_from_latents_of_the_promised_size(options):
    model, x = build(fold=2, **options), images(3, 24)
    z = model.encode(x)

    assert model.config.factor == 4 and z.shape == (3, 4, 6, 6) and model.decode(z).shape == x.shape


def test_sampled_latents_are_quantised_before_they_are_decoded():
    model, z = build(kind="vq", codes=4), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.allclose(model.decode(z), model.decode(model.codebook(z).latents), atol=1e-5)
        assert not torch.allclose(model.decode(z), model.decoded(z), atol=1e-3)


def test_kl_latents_are_drawn_around_their_mean_and_pay_for_their_distance_from_normal():
    model, x = build(kind="kl"), images()
    mean, log_variance = model.encoder(x).chunk(2, 1)
    made, price = model.reconstruct(x, seed())
    drawn = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=seed())
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()

    assert torch.equal(model.encode(x), mean)
    assert torch.allclose(made, model.decode(drawn), atol=1e-5)
    assert float(price.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_the_bypass_is_linear_and_added():
    """With the rest of both halves silenced, what remains is a linear map of the image."""
    model = build(kind="kl", bypass=True)
    for layer in (model.encoder.to_latent, model.decoder.head):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for layer in (model.encoder.bypass, model.decoder.bypass):
        nn.init.zeros_(layer.bias)
    a, b = images(1), images(1)
    with torch.no_grad():
        through = [model.decode(model.encode(x)) for x in (a, b, 2 * a - b)]

    assert float(through[0].std()) > 0.01
    assert torch.allclose(through[2], 2 * through[0] - through[1], atol=1e-5)


@pytest.mark.parametrize("options", [{"kind": "kl", "bypass": True}, {"kind": "vq", "codes": 32}], ids=str)
def test_it_learns_to_return_an_image(options):
    model, x = build(**options), images(1)
    x = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4, mode="bilinear")  # something that fits into its latents
    optimiser, errors = torch.optim.Adam(model.parameters(), lr=5e-3), []
    for step in range(120):
        made, price = model.reconstruct(x, torch.Generator().manual_seed(step))
        error = (made - x).square().mean()
        weight = 1.0 if options["kind"] == "vq" else 1e-6
        optimiser.zero_grad()
        (error + weight * price).backward()
        optimiser.step()
        errors.append(float(error.detach()))

    assert errors[-1] < errors[0] / 10 and errors[-1] < float(x.var()) / 3


# Sizes ---------------------------------------------------------------------------------------------------------------


def test_check_4_the_first_stage_has_the_size_of_the_public_code():
    with torch.device("meta"):
        model = Autoencoder(AutoencoderConfig())
        z = model.encode(torch.empty(1, 1, 192, 192))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder)]

    assert tuple(z.shape) == (1, 4, 24, 24) and model.codebook.codes.shape == (8192, 4)
    assert [round(size / 1e6, 1) for size in sizes] == [23.1, 34.0]


def test_sizes_that_cannot_be_built_are_refused():
    with pytest.raises(ValidationError, match="width 10 is no multiple of 4"):
        AutoencoderConfig(width=10, groups=4, multipliers=(1, 2))
    with pytest.raises(ValidationError, match="multipliers"):
        AutoencoderConfig(multipliers=())


# Discriminator -------------------------------------------------------------------------------------------------------


def test_a_patch_logit_sees_its_patch_and_nothing_else():
    """Three strided layers and two more of 4 x 4 see 70 x 70 pixels: Isola et al. 2017, appendix 6.1."""
    model, x = PatchDiscriminator(DiscriminatorConfig(width=8)).eval(), torch.zeros(1, 1, 128, 128, requires_grad=True)
    logits = model(x)
    assert logits.shape == (1, 1, 14, 14)

    logits[0, 0, 7, 7].backward()
    rows = x.grad[0, 0].any(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70
