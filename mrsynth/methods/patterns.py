"""Which contrasts a training example may read: the patterns there are, and one of them drawn with given shares."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from mrsynth.contrasts import Contrast, patterns

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def not_all_nothing(shares: tuple[float, float, float]) -> tuple[float, float, float]:
    """The same. Raises ValueError where every share is 0."""
    if not any(shares):
        raise ValueError("should have one above 0")
    return shares


Shares = Annotated[tuple[Share, Share, Share], AfterValidator(not_all_nothing)]  # of 1, 2, and 3 or more missing


def legal_patterns(present: NDArray[np.bool_], contrasts: Sequence[Contrast]) -> list[NDArray[np.bool_]]:
    """The distinct patterns of availability that leave something to read and something with a known truth to make."""
    seen: dict[tuple[bool, ...], NDArray[np.bool_]] = {}
    for pattern in patterns(contrasts):
        available = np.array([c in pattern for c in contrasts]) & present
        if available.any() and (present & ~available).any():
            seen.setdefault(tuple(available.tolist()), available)
    return list(seen.values())


def draw_pattern(
    legal: Sequence[NDArray[np.bool_]],
    present: NDArray[np.bool_],
    shares: Sequence[float] | None,
    random: np.random.Generator,
) -> NDArray[np.bool_]:
    """One of the legal patterns of a subject, with the probabilities of `pattern_weights`."""
    missing = np.array([int((present & ~pattern).sum()) for pattern in legal])
    return legal[random.choice(len(legal), p=pattern_weights(shares, missing))]


def pattern_weights(shares: Sequence[float] | None, missing: NDArray[np.int_]) -> NDArray[np.float64]:
    """Probability of each legal pattern.

    shares   of the examples with one, two, and three or more missing contrasts; None for all patterns alike
    missing  how many contrasts each pattern leaves missing
    A subject may lack contrasts itself: the numbers it cannot have are left out, and where that is all of them the
    patterns with the fewest missing contrasts are taken.
    """
    weights = np.ones(len(missing))
    if shares is not None:
        kind = np.minimum(missing, 3)  # three and more are one kind, however many numbers of contrasts are in it
        wanted = np.array([shares[k - 1] / (kind == k).sum() for k in kind])
        weights = wanted if wanted.any() else (missing == missing.min()).astype(float)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities
