"""Every contrast from the available ones, voxel by voxel, by a straight line: where a network can begin."""

from collections.abc import Iterable
from itertools import islice
from typing import cast

import torch
from torch import Tensor, nn

FITTED = 16  # batches that a fit sees
RIDGE = 1e-4  # of the mean square of the inputs: keeps a regression on nearly equal contrasts finite


class VoxelRegression(nn.Module):
    """forward(u (B, M, H, W) in [0, 1], available (B, M)) -> (B, M, H, W): all contrasts, each pattern by its own line.

    What is not available must be 0 in `u`. Where all of `u` is 0, outside the brain, so is the result. Begins as 0
    everywhere; `fit` sets it, training may move it.
    """

    codes: Tensor

    def __init__(self, contrasts: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2**contrasts, contrasts, contrasts + 1))  # the last is the constant
        self.register_buffer("codes", 2 ** torch.arange(contrasts), persistent=False)

    def forward(self, u: Tensor, available: Tensor) -> Tensor:
        weights = self.weights[(available * self.codes).sum(1)]
        with torch.autocast(u.device.type, enabled=False):  # sums of large terms that nearly cancel
            made = torch.einsum("bij,bjhw->bihw", weights[:, :, :-1], u) + weights[:, :, -1, None, None]
        return torch.where((u > 0).any(1, keepdim=True), made, 0.0)

    def images(self, images: Tensor, available: Tensor) -> Tensor:
        """The same of and as images (B, M, H, W) in [-1, 1], about; whatever is not available is not read."""
        u = torch.where(available[:, :, None, None], (images + 1) / 2, 0.0)
        return 2 * cast(Tensor, self(u, available)) - 1

    @torch.no_grad()
    def fit(self, moments: Tensor) -> None:
        """Least squares, with a little ridge, for every pattern.

        moments   (M + 1, M + 1) float64: sum over voxels of the outer product of (u_1, .., u_M, 1) with itself
        """
        contrasts = len(moments) - 1
        ridge = RIDGE * moments.diagonal()[:-1].mean()
        for code in range(1, 2**contrasts):
            used = [j for j in range(contrasts) if code >> j & 1] + [contrasts]
            inner = moments[used][:, used]
            lines = torch.linalg.solve(inner + ridge * torch.eye(len(used)).to(inner), moments[used][:, :contrasts])
            row = torch.zeros_like(self.weights[code])
            row[:, used] = lines.T.to(row)
            self.weights[code] = row


def fit_regression(regression: VoxelRegression, images: Iterable[Tensor]) -> None:
    """Fit it to the voxels inside the brain in the first FITTED batches of complete examples (B, M, H, W) in [-1, 1].

    Without any it stays as it is.
    """
    moments = [moments_of(u[:, (u > 0).any(0)].T) for batch in islice(images, FITTED) for u in (batch + 1) / 2]
    if moments:
        regression.fit(torch.stack(moments).sum(0))


def moments_of(u: Tensor) -> Tensor:
    """Moments (M + 1, M + 1) float64 of voxels (N, M), see `VoxelRegression.fit`."""
    terms = torch.cat([u, torch.ones_like(u[:, :1])], 1).double()
    return terms.T @ terms
