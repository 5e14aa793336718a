"""A discriminator of patches, for the adversarial loss of an autoencoder: Isola et al. 2017, section 3.2.2."""

from pydantic import Field
from torch import Tensor, nn

from mrsynth.plain import Plain


class DiscriminatorConfig(Plain):
    """Size of the discriminator."""

    width: int = Field(64, gt=0, description="channels of the first layer")
    layers: int = Field(3, gt=0, description="strided convolutions, each doubling the channels up to eightfold")


class PatchDiscriminator(nn.Module):
    """forward(images (N, in, H, W)) -> (N, 1, h, w): one logit per overlapping patch, high where it looks real.

    Convolutions of 4 x 4; BatchNorm and LeakyReLU(0.2) after all but the first and the last.
    """

    def __init__(self, config: DiscriminatorConfig, in_channels: int = 1):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, config.width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        current = config.width
        for layer in range(1, config.layers + 1):
            width = config.width * min(2**layer, 8)
            stride = 2 if layer < config.layers else 1
            layers += [
                nn.Conv2d(current, width, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2),
            ]
            current = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(current, 1, 4, stride=1, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images)
        return out
