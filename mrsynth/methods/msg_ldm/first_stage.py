"""The first stage of MSG-LDM: an autoencoder of slices and its adversary, with what they minimise."""

import torch
from torch import Tensor, nn

from mrsynth.methods.base import Batch, Objective
from mrsynth.methods.msg_ldm.autoencoder import Autoencoder
from mrsynth.methods.msg_ldm.config import MsgLdmConfig
from mrsynth.methods.msg_ldm.discriminator import PatchDiscriminator
from mrsynth.methods.msg_ldm.losses import Terms, adversarial_weight, discriminator_loss, pixel_error


class FirstStage(nn.Module):
    """Images of all contrasts to latents and back; one autoencoder for all of them.

    Latents of a batch are (B, C, c, h, w): contrasts, channels of one contrast's latents, their grid; not scaled.
    """

    def __init__(self, config: MsgLdmConfig):
        super().__init__()
        self.losses, self.betas = config.losses, config.betas
        self.factor, self.channels = config.first_stage.factor, config.first_stage.channels
        self.autoencoder = Autoencoder(config.first_stage)
        adversarial = config.losses.w_gan and config.first_stage.kind != "identity"
        self.discriminator = PatchDiscriminator(config.discriminator) if adversarial else None

    def latents(self, images: Tensor, wanted: Tensor) -> Tensor:
        """Latents of the contrasts of images (B, C, H, W) that are wanted (B, C); zeros elsewhere."""
        h, w = (side // self.factor for side in images.shape[-2:])
        found = images.new_zeros(*wanted.shape, self.channels, h, w)
        if bool(wanted.any()):
            found[wanted] = self.autoencoder.encode(images[wanted][:, None])
        return found

    def images_of(self, latents: Tensor, wanted: Tensor, size: tuple[int, int]) -> Tensor:
        """Images (B, C, H, W) of the latents of the contrasts that are wanted; zeros elsewhere. Not bounded."""
        made = latents.new_zeros(*wanted.shape, *size)
        if bool(wanted.any()):
            made[wanted] = self.autoencoder.decode(latents[wanted])[:, 0]
        return made

    @torch.no_grad()
    def reconstruct(self, images: Tensor, wanted: Tensor) -> Tensor:
        """Images there and back, in [-1, 1]: the most that diffusion of their latents can reach."""
        return self.images_of(self.latents(images, wanted), wanted, (images.shape[-2], images.shape[-1])).clamp(-1, 1)

    def objectives(self) -> list[Objective]:
        """To encode and decode; and with an adversary its own."""
        found = [Objective("encode", list(self.autoencoder.parameters()), self.loss, self.betas)]
        if (adversary := self.discriminator) is not None:

            def loss(batch: Batch, generator: torch.Generator) -> Terms:
                return self.adversary_loss(adversary, batch, generator)

            found.append(Objective("discriminate", list(adversary.parameters()), loss, self.betas))
        return found

    def loss(self, batch: Batch, generator: torch.Generator) -> Terms:
        """Image error of one contrast of each example through the bottleneck, price of its latents, adversarial loss.

        Also tells the PSNR of the batch in dB, range 2, background included.
        """
        losses = self.losses
        images = one_contrast(batch, generator)
        made, price = self.autoencoder.reconstruct(images, generator)
        error = pixel_error(losses.pixel, made, images).mean()
        terms = {"loss": error + losses.w_latent * price, "image": error, "latents": price}
        if self.discriminator is not None:
            adversarial = -self.discriminator(made).float().mean()
            # without gradients, as when a loss is only looked at, there is nothing to weigh
            graph = torch.is_grad_enabled() and made.requires_grad
            weight = adversarial_weight(error, adversarial, self.autoencoder.last_layer) if graph else 1.0
            terms |= {"loss": terms["loss"] + losses.w_gan * weight * adversarial, "adversarial": adversarial}
        mse = pixel_error("l2", made.detach(), images).mean().clamp(min=1e-12)
        return {**terms, "psnr": 10 * torch.log10(4 / mse)}

    def adversary_loss(self, adversary: PatchDiscriminator, batch: Batch, generator: torch.Generator) -> Terms:
        """Hinge loss of the discriminator between slices and their reconstructions."""
        images = one_contrast(batch, generator)
        with torch.no_grad():
            made, _ = self.autoencoder.reconstruct(images, generator)
        return {"loss": discriminator_loss(adversary(images), adversary(made))}


def one_contrast(batch: Batch, generator: torch.Generator) -> Tensor:
    """A slice (B, 1, H, W) of each example: any of the contrasts whose truth is known."""
    chosen = torch.multinomial(batch.present.float().cpu(), 1, generator=generator)[:, 0].to(batch.images.device)
    rows = torch.arange(len(chosen), device=chosen.device)
    return batch.images[rows, chosen][:, None]
