"""What reads the structure map of MSG-LDM, and the style it leaves out: style encoder, image and region decoders."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrsynth.methods.msg_ldm.structure_map import Norm, StructureConfig, convolution, norm_of, unit
from mrsynth.networks.blocks import zeroed

EPSILON = 1e-5  # under the square root of AdaIN's variance


class StyleEncoder(nn.Module):
    """The style code of one contrast: forward(image (B, 1, H, W)) -> (B, style_dim)."""

    def __init__(self, config: StructureConfig):
        super().__init__()
        w = config.style_width
        norm: Norm = "instance" if config.style_norm else "none"
        layers: list[nn.Module] = [unit(1, w, 7, 1, norm)]
        for inputs, outputs in ((w, 2 * w), (2 * w, 4 * w), (4 * w, 4 * w), (4 * w, 4 * w)):
            layers.append(unit(inputs, outputs, 4, 2, norm))
        self.layers = nn.Sequential(*layers)
        self.code = nn.Linear(4 * w, config.style_dim)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.code(self.layers(image).mean((2, 3)))
        return out


def adain(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """gamma (x - mean) / std + beta per example and channel: Huang and Belongie 2017, eq. 8. gamma, beta (B, C).

    A constant feature map becomes beta.
    """
    normed = F.instance_norm(x, eps=EPSILON)
    return gamma[:, :, None, None].to(x.dtype) * normed + beta[:, :, None, None].to(x.dtype)


class AdainBlock(nn.Module):
    """Unit, AdaIN, LeakyReLU, Unit, AdaIN, plus the input."""

    def __init__(self, channels: int, config: StructureConfig):
        super().__init__()
        self.first = unit(channels, channels, 3, 1, config.norm)
        self.second = unit(channels, channels, 3, 1, config.norm)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        h = F.leaky_relu(adain(self.first(x), gamma, beta), 0.01)
        return x + adain(self.second(h), gamma, beta)


class Modulation(nn.Module):
    """Scale and shift of AdaIN: forward(code (B, style_dim)) -> gamma (B, C), beta (B, C); 1 and 0 at the start.

    Without a style (style_dim 0) both are learnt numbers.
    """

    def __init__(self, style_dim: int, channels: int):
        super().__init__()
        self.hidden: nn.Module | None = None
        if style_dim:
            layers = [nn.Linear(style_dim, channels), nn.LeakyReLU(0.01), nn.Linear(channels, channels)]
            self.hidden = nn.Sequential(*layers, nn.LeakyReLU(0.01))
            self.scale_head = zeroed(nn.Linear(channels, channels))
            self.shift_head = zeroed(nn.Linear(channels, channels))
        else:
            self.scale, self.shift = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        if self.hidden is None:
            return 1 + self.scale.expand(len(code), -1), self.shift.expand(len(code), -1)
        h = self.hidden(code)
        return 1 + self.scale_head(h), self.shift_head(h)


class ReconstructionDecoder(nn.Module):
    """One contrast's image from the structure map and a style code.

    forward(F_s (B, C_L, h, w), finer [F_1 .. F_(L-1)], code (B, style_dim)) -> image (B, 1, H, W)
    """

    def __init__(self, config: StructureConfig):
        super().__init__()
        self.config = config
        widths, kernel = config.widths, config.decoder_kernel
        self.modulation = Modulation(config.style_dim if config.decouple else 0, widths[-1])
        self.blocks = nn.ModuleList(AdainBlock(widths[-1], config) for _ in range(config.decoder_blocks))
        self.rises = nn.ModuleList()
        for level in range(len(widths) - 2, -1, -1):
            inputs = widths[level + 1] + (widths[level] if config.decoder_skips else 0)
            self.rises.append(
                nn.Sequential(
                    convolution(inputs, widths[level], kernel, 1, config.norm),
                    norm_of(config.norm, widths[level]),
                    nn.LeakyReLU(0.01),
                )
            )
        self.head = nn.Conv2d(widths[0], config.fold**2, 7, padding=3)
        if config.regression:  # whose images come out at the start
            zeroed(self.head)

    def forward(self, structure: Tensor, finer: list[Tensor], code: Tensor) -> Tensor:
        gamma, beta = self.modulation(code)
        h = structure
        for block in self.blocks:
            h = block(h, gamma, beta)
        for rise, skip in zip(self.rises, reversed(finer), strict=True):
            h = doubled(h)
            h = rise(torch.cat([h, skip.to(h.dtype)], 1) if self.config.decoder_skips else h)
        image = F.pixel_shuffle(self.head(h), self.config.fold).float()
        return image.tanh() if self.config.head == "tanh" else image


class SegmentationDecoder(nn.Module):
    """Logits of overlapping regions from all levels: forward([F_1 .. F_L]) -> (B, regions, H, W), plain logits."""

    def __init__(self, config: StructureConfig, regions: int):
        super().__init__()
        self.fold = config.fold
        widths, norm = config.widths, config.norm
        self.rises, self.joins = nn.ModuleList(), nn.ModuleList()
        for level in range(len(widths) - 2, -1, -1):
            width = widths[level]
            self.rises.append(unit(widths[level + 1], width, 3, 1, norm))
            self.joins.append(nn.Sequential(unit(2 * width, width, 3, 1, norm), unit(width, width, 1, 1, norm)))
        self.head = nn.Conv2d(widths[0], regions * config.fold**2, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        h = features[-1]
        for rise, join, finer in zip(self.rises, self.joins, reversed(features[:-1]), strict=True):
            h = join(torch.cat([rise(doubled(h)), finer], 1))
        return F.pixel_shuffle(self.head(h), self.fold).float()


def doubled(x: Tensor) -> Tensor:
    """Twice as many pixels per axis, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
