"""How far a synthetic image is likely to be wrong, voxel by voxel: a small second network that was taught by mistakes.

It sees what was made, how far the members of a committee are apart, the scans it was made from and where the brain
ends, each smoothed in the plane at a few widths, and expects the absolute error after the straight-line fit of
PSNR_FIT: what is left when brightness and contrast of the whole are set aside. How far those may be wrong is one number
beside the map (`ErrorMap.brightness`).

Taught on subjects that no member was trained on, by the likelihood of an exponential distribution, whose best guess is
the mean: log p + e / p (as Kendall & Gal 2017, eq. 8, with the Laplace distribution). Where errors are normal their
standard deviation is sqrt(pi / 2) of their mean size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mrsynth.contrasts import Contrast
from mrsynth.plain import Array, Mask

SIGMA = float(np.sqrt(np.pi / 2))  # of a normal distribution, in units of its mean absolute deviation: 1.2533
WIDTHS = (1.0, 3.0, 8.0)  # standard deviations of the smoothing, in pixels of the model's grid
LEAST = 0.01  # in u, what is added before logarithms
MODEST, WILD = 1e-3, 0.5  # no voxel is expected to be better or worse than this, in u
HIDDEN = 16


@dataclass(frozen=True)
class Seen:
    """What a synthetic contrast was made from, and how.

    made          (I, J, K), u in [0, 1]
    disagreement  (I, J, K), standard deviation of the members' images in u, by their weights
    images        (C, I, J, K), u in [0, 1], of the contrasts in order
    available     (C,) bool: which of them are scans
    target        which of them was made
    brain         (I, J, K) bool
    """

    made: Array
    disagreement: Array
    images: Array
    available: Mask
    target: int
    brain: Mask


class ErrorNetwork(nn.Module):
    """Features (N, F) of voxels to the expected absolute error (N,) in u: a perceptron with two hidden layers.

    channels  contrasts that the model knows
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        count = feature_count(channels)
        self.register_buffer("shift", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.layers = nn.Sequential(nn.Linear(count, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU())
        self.last = nn.Linear(HIDDEN, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, F) to (N,), in u."""
        logarithm: torch.Tensor = self.last(self.layers((features - self.shift) / self.scale))[:, 0]
        return logarithm.exp().clamp(MODEST, WILD)

    def calibrated(self, features: torch.Tensor) -> None:
        """Note mean and deviation of the features (N, F), so that the layers see them alike."""
        self.shift.copy_(features.mean(0))
        self.scale.copy_(features.std(0).clamp(min=1e-3))


@dataclass(frozen=True)
class ErrorMap:
    """A trained network, the contrasts it knows in the order of its channels, and how sure overall brightness is.

    brightness  target -> root mean square over subjects of the error of the brain mean, in u
    """

    network: ErrorNetwork
    contrasts: tuple[Contrast, ...]
    brightness: Mapping[Contrast, float]

    def expected(self, seen: Seen) -> Array:
        """(I, J, K) float32: the expected absolute error after the straight-line fit, in u; 0 outside the brain."""
        found = np.zeros(seen.brain.shape, np.float32)
        with torch.inference_mode():
            for k in np.flatnonzero(seen.brain.any(axis=(0, 1))):
                features = plane_features(seen, int(k))
                found[..., k][seen.brain[..., k]] = self.network(features).numpy()
        return found


def feature_count(channels: int) -> int:
    """How many features a voxel has."""
    return 17 + 6 * channels


def plane_features(seen: Seen, k: int) -> torch.Tensor:
    """(N, F) float32 of the N brain voxels of plane k, in the order of `plane[brain]`.

    On logarithmic scales, where mistakes are in proportion: the disagreement, as it is and smoothed; gradient and local
    deviation of what was made; mean and largest local deviation of the scans. As they are: what was made, smoothed, and
    how far it is from that; how much brain is around, and how many scans there are; which contrast it is; of each scan
    its value, two smoothed ones, its local deviation and whether it is there, 0 where it is not.
    """
    brain = torch.from_numpy(seen.brain[..., k])
    there = torch.from_numpy(seen.available).float()[:, None, None]
    scans = torch.from_numpy(np.ascontiguousarray(seen.images[..., k])) * there * brain  # (C, I, J)
    made, apart = torch.from_numpy(np.stack([seen.made[..., k], seen.disagreement[..., k]])) * brain
    images = torch.cat([made[None], scans])
    every = torch.cat([apart[None], images, images**2, brain[None].float()])
    levels = [smoothed(every, width) for width in WIDTHS]
    around = torch.stack([level[-1] for level in levels])
    near, middle, far = (level[:-1] / level[-1].clamp(min=1e-4) for level in levels)
    apart_at, made_at = ([level[place] for level in (near, middle, far)] for place in (0, 1))
    mean, square = middle[1:].chunk(2)  # (1 + C, I, J): of what was made, and of the scans
    deviation = (square - mean**2).clamp(min=0).sqrt()
    count = len(scans)
    told = there.expand_as(scans)
    steep = torch.stack(torch.gradient(made_at[0])).norm(dim=0)
    rough = torch.stack([deviation[1:].sum(0) / there.sum(), deviation[1:].amax(0)])
    proportions = torch.cat([torch.stack([apart, *apart_at, steep, deviation[0]]), rough])
    plain = torch.stack([made, *made_at[1:], (made - made_at[1]).abs(), made_at[1] - made_at[2]])
    what = torch.zeros_like(scans)
    what[seen.target] = 1
    features = torch.cat(
        [
            (proportions.clamp(min=0) + LEAST).log(),
            *(plain, around, told.mean(0, keepdim=True), what),
            *(scans, near[2 : 2 + count], far[2 : 2 + count], deviation[1:], told),
        ]
    )
    return features[:, brain].T.contiguous()


def smoothed(planes: torch.Tensor, width: float) -> torch.Tensor:
    """(N, I, J), each plane convolved with a normal density of this standard deviation in pixels, 0 beyond its edge."""
    reach = int(np.ceil(3 * width))
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(x**2) / (2 * width**2))
    kernel /= kernel.sum()
    rows = functional.conv2d(planes[:, None], kernel[None, None, :, None], padding=(reach, 0))
    return functional.conv2d(rows, kernel[None, None, None, :], padding=(0, reach))[:, 0]


def teach(
    features: torch.Tensor, errors: torch.Tensor, channels: int, *, steps: int = 1500, seed: int = 0
) -> ErrorNetwork:
    """A network that expects these errors: features (N, F), errors (N,) in u, of voxels drawn at random."""
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ErrorNetwork(channels)
    network.calibrated(features)
    network.last.bias.data.fill_(float(errors.mean().log()))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(len(features), (2048,), generator=draw)
        expected = network(features[rows])
        loss = (expected.log() + errors[rows] / expected).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def within(errors: Array, expected: Array, sigmas: float = 2.0) -> float:
    """Share of voxels whose absolute error is within so many standard deviations: of normal errors 95 % within two."""
    return float(np.mean(errors <= sigmas * SIGMA * expected))
