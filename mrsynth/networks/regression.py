"""Every contrast from the available ones, voxel by voxel, by a straight line: where a network can begin."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mrsynth.contrasts import Contrast
from mrsynth.errors import UsageError

FITTED = 16  # batches with complete examples that a fit sees
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

    @property
    def fitted(self) -> bool:
        """Whether it is more than it began as."""
        return bool(self.weights.any())

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
    def fit(self, moments: Mapping[int, Tensor]) -> list[tuple[int, int]]:
        """Least squares, with a little ridge: each target from each pattern, on the examples that have all of these.

        moments   of examples that have the same contrasts, which are a binary number: the sum over their voxels of the
                  outer product of (u_1, .., u_M, 1) with itself, (M + 1, M + 1) float64, zeros for what they have not
        returns   (contrast, target) of those that are never seen together: that target cannot be made of it

        Where no example has a pattern and its target, the line is that of the most contrasts of it which some has.
        """
        contrasts = self.weights.shape[1]
        never = []
        for code in range(1, 2**contrasts):
            row = torch.zeros_like(self.weights[code])
            solved: dict[tuple[int, ...], Tensor] = {}  # most often one for all targets
            for target in range(contrasts):
                used, having = best_seen(code, target, moments)
                if not having:
                    if code.bit_count() == 1:
                        never.append((code.bit_length() - 1, target))
                    continue
                if having not in solved:
                    solved[having] = torch.stack([moments[have] for have in having]).sum(0)
                row[target] = line(solved[having], used)[target].to(row)
            self.weights[code] = row
        return never


def best_seen(code: int, target: int, moments: Mapping[int, Tensor]) -> tuple[int, tuple[int, ...]]:
    """The largest part of a pattern, of several the first, that some examples have together with a target; and which
    do, as keys of `moments`: none when there is no such part.
    """
    parts = sorted((part for part in range(code, 0, -1) if part & code == part), key=lambda part: -part.bit_count())
    for part in parts:
        wanted = part | 1 << target
        if having := tuple(have for have in moments if have & wanted == wanted):
            return part, having
    return code, ()


def line(moments: Tensor, code: int) -> Tensor:
    """(M, M + 1): every contrast as a line of those in `code` and a constant, zeros elsewhere."""
    contrasts = len(moments) - 1
    used = [j for j in range(contrasts) if code >> j & 1] + [contrasts]
    squares = moments.diagonal()[:-1]
    ridge = RIDGE * squares[squares > 0].mean()
    inner = moments[used][:, used] + ridge * torch.eye(len(used)).to(moments)
    row = moments.new_zeros(contrasts, contrasts + 1)
    row[:, used] = torch.linalg.solve(inner, moments[used][:, :contrasts]).T
    return row


def fit_regression(
    regression: VoxelRegression,
    batches: Iterable[tuple[Tensor, Tensor]],
    contrasts: Sequence[Contrast],
    targets: Sequence[Contrast] | None = None,
) -> None:
    """Fit it to the voxels inside the brain of images (B, M, H, W) in [-1, 1] that hold what is present (B, M).

    targets   that must be made of every other contrast; None for all

    It stops at FITTED batches with complete examples, which serve every pattern, and goes through all batches where
    there are fewer. Raises UsageError when a target is never seen together with another contrast.
    """
    codes = 2 ** torch.arange(len(contrasts))
    found: dict[int, list[Tensor]] = {}
    complete = 0
    for images, present in batches:
        for image, there in zip(images, present, strict=True):
            u = torch.where(there[:, None, None], (image + 1) / 2, 0.0)
            if bool((u > 0).any()):
                found.setdefault(int((there.cpu() * codes).sum()), []).append(moments_of(u[:, (u > 0).any(0)].T))
        complete += bool(present.all(1).any())
        if complete == FITTED:
            break
    never = regression.fit({code: torch.stack(moments).sum(0) for code, moments in found.items()})
    wanted = {contrasts.index(target) for target in (contrasts if targets is None else targets)}
    pairs = dict.fromkeys(frozenset(pair) for pair in never if pair[1] in wanted and len(set(pair)) == 2)
    if pairs:
        named = ", ".join(" and ".join(contrasts[c].label for c in sorted(pair)) for pair in list(pairs)[:4])
        raise UsageError(
            f"No training subject has both {named}{' and so on' if len(pairs) > 4 else ''}: one cannot be fitted to "
            "the other, and chains or drafts begin from such a line. Add subjects with both, leave a contrast out "
            "(`contrasts`), or begin otherwise (`begin: contrast` of dfbk, `structure.regression: false` of msg-ldm)."
        )


def moments_of(u: Tensor) -> Tensor:
    """Moments (M + 1, M + 1) float64 on the CPU of voxels (N, M), see `VoxelRegression.fit`."""
    terms = torch.cat([u, torch.ones_like(u[:, :1])], 1).cpu().double()  # there are devices without float64
    return terms.T @ terms
