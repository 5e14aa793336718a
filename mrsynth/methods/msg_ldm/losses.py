"""What the stages of MSG-LDM minimise: tensors in, means out.

Everything is computed in float32 at least, also under autocast.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mrsynth.errors import InputError
from mrsynth.methods.brightness import blended

INITIAL_LOG_TEMPERATURE = math.log(1 / 0.07)
LARGEST_LOG_TEMPERATURE = math.log(100)
LARGEST_ADVERSARIAL_WEIGHT = 1e4
SMOOTH = 1e-5  # of the Dice ratio
SMALLEST_RANGE = 1e-3  # of a spectrum; only an image of zeros has less

Terms = dict[str, Tensor]  # of a loss, by name; "loss" is the one to descend


Pixel = Literal["l1", "l2"]
COSTS: Mapping[Pixel, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": torch.square}


def pixel_error(kind: Pixel, made: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute or squared error of each image: (N, ...) -> (N,)."""
    return COSTS[kind]((made.float() - truth.float()).flatten(1)).mean(1)


def anatomical_error(kind: Pixel, made: Tensor, truth: Tensor, brain: Tensor, weight: float) -> Tensor:
    """`pixel_error` of images (N, H, W), of which brightness in the brain (N, 1, H, W) has a weight: see `blended`."""
    return blended(made.float()[:, None], truth.float()[:, None], brain, weight, COSTS[kind])[:, 0]


# Spectra -------------------------------------------------------------------------------------------------------------


def dct2(x: Tensor) -> Tensor:
    """Orthonormal DCT-II along the last two axes; the energy stays the same."""
    rows, columns = (dct_matrix(n).to(x) for n in x.shape[-2:])
    return rows @ x @ columns.T


@lru_cache(maxsize=16)
def dct_matrix(n: int) -> Tensor:
    """D[k, i] = c_k cos(pi (2i + 1) k / 2n), c_0 = sqrt(1 / n), else sqrt(2 / n): (n, n) float64, orthogonal."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / (2 * n)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


def spectral_similarity(made: Tensor, truth: Tensor, form: Literal["log", "raw"]) -> Tensor:
    """SSIM of the magnitudes of the spectra of images (N, 1, H, W): (N,), 1 for equal images.

    log takes log(1 + magnitude), so that the few largest coefficients do not decide alone. Window 11 x 11, sigma 1.5,
    range that of the true spectrum (Wang et al. 2004, eq. 13).
    """
    from monai.metrics.regression import compute_ssim_and_cs

    with torch.autocast(made.device.type, enabled=False):
        found, wanted = dct2(made.float()).abs(), dct2(truth.float()).abs()
        if form == "log":
            found, wanted = found.log1p(), wanted.log1p()
        width = (wanted.amax((1, 2, 3)) - wanted.amin((1, 2, 3))).clamp(min=SMALLEST_RANGE)[:, None, None, None]
        similarity, _ = compute_ssim_and_cs(
            found / width, wanted / width, spatial_dims=2, data_range=1.0, kernel_size=(11, 11), kernel_sigma=(1.5, 1.5)
        )
        return similarity.flatten(1).mean(1)


# Styles --------------------------------------------------------------------------------------------------------------


def style_consistency(codes: Tensor, contrasts: Tensor, log_temperature: Tensor) -> Tensor:
    """Codes (N, D) of the same contrast (N,) should point the same way, and others not: a scalar.

    Binary cross-entropy of exp(tau) <s_i, s_j> over all pairs i != j, s of length 1, tau clamped to [0, log 100]. Fewer
    than two codes have no pair, and cost nothing.
    """
    n = len(codes)
    with torch.autocast(codes.device.type, enabled=False):
        s = F.normalize(codes.float(), dim=1)
        logits = log_temperature.float().clamp(0, LARGEST_LOG_TEMPERATURE).exp() * s @ s.T
        same = (contrasts[:, None] == contrasts[None]).float()
        others = ~torch.eye(n, dtype=torch.bool, device=codes.device)
        error = F.binary_cross_entropy_with_logits(logits, same, reduction="none")
        return error[others].sum() / max(n * (n - 1), 1)


# Regions -------------------------------------------------------------------------------------------------------------


def region_targets(labels: Tensor, regions: Mapping[str, Sequence[int]]) -> Tensor:
    """Overlapping maps (B, 1 + R, H, W) float32 of label values (B, H, W): background, then each region.

    Values below 0, where nothing is known, count as background. Raises InputError for values of no region.
    """
    known = {0, *(value for values in regions.values() for value in values)}
    found = {int(value) for value in labels.unique().tolist() if value >= 0}
    if strange := sorted(found - known):
        raise InputError(
            f"A segmentation holds the label values {strange}; expected {sorted(known)}. "
            "Say which values are which region with method.regions, or leave segmentations out with method.seg=off."
        )
    maps = [torch.isin(labels, torch.tensor(list(values), device=labels.device)) for values in regions.values()]
    return torch.stack([labels <= 0, *maps], 1).float()


def segmentation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """0.5 cross-entropy of all maps (B, 1 + R, H, W), plus 1 - Dice as the mean over the regions, background left out.

    Dice is over all pixels of the batch. An empty batch costs nothing.
    """
    if not len(logits):
        return logits.new_zeros(())
    entropy = F.binary_cross_entropy_with_logits(logits.float(), targets)
    p, y = logits[:, 1:].float().sigmoid(), targets[:, 1:]
    overlap, total = (p * y).sum((0, 2, 3)), (p + y).sum((0, 2, 3))
    return 0.5 * entropy + 1 - ((2 * overlap + SMOOTH) / (total + SMOOTH)).mean()


# Adversary -----------------------------------------------------------------------------------------------------------


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the logits of true and made patches: half the mean of [1 - real]+ and [1 + fake]+."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def adversarial_weight(error: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """|d error / d w| / (|d adversarial / d w| + 1e-4) at the last layer w, at most 1e4: Esser et al. 2021, eq. 7."""
    ours, theirs = (torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (error, adversarial))
    weight: Tensor = (ours / (theirs + 1e-4)).clamp(0, LARGEST_ADVERSARIAL_WEIGHT)
    return weight.detach()
