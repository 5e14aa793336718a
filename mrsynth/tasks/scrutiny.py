"""What a checkpoint says of itself is looked at before memory or time is spent on it: anybody can write one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from mrsynth.card import Card
from mrsynth.errors import WeightsError
from mrsynth.io.pickles import MOST_AXES
from mrsynth.methods import sampler_names

LARGEST_SETTING = 65536  # of a configuration: channels, steps of a chain, codes
MOST_STEPS, MOST_SAMPLES = 10_000, 1000
ROOM = 2**26  # numbers that a network may have beyond those in its file, for what only training needs
MOST_TENSORS = 5_000  # of a network; the official cWDM has some hundreds
MAKERS = {
    *(torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn),
    *(torch.linspace, torch.arange, torch.eye, torch.randperm),
}


def check_settings(where: Path, settings: Mapping[str, Any], key: str = "") -> None:
    """Raise WeightsError for a configuration with a number that no network has."""
    for name, value in settings.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, Mapping):
                check_settings(where, number, f"{key}{name}.")
            elif isinstance(number, (int, float)) and not abs(number) <= LARGEST_SETTING:
                raise WeightsError(
                    f"{where}: {key}{name} is {number:g} in its configuration, expected at most {LARGEST_SETTING}. The "
                    "file was changed or damaged; get it again."
                )


def check_card(where: Path, card: Card) -> None:
    """Raise WeightsError for a way to sample that there is not."""
    for name, most in (("steps", MOST_STEPS), ("samples", MOST_SAMPLES)):
        value = card.sampling.get(name)
        if value is not None and not (type(value) is int and 0 < value <= most):
            raise _nonsense(where, name, value, f"a whole number from 1 to {most}")
    known = sampler_names()
    if (sampler := card.sampling.get("sampler")) is not None and sampler not in known:
        raise _nonsense(where, "sampler", sampler, f"one of {', '.join(known)}")


def check_finite(where: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise WeightsError for weights that are not finite: whatever they make would be none either.

    Nor can there be tensors of more axes than torch works with.
    """
    for name, tensor in tensors.items():
        if tensor.dim() > MOST_AXES:
            raise WeightsError(f"{where}: the tensor '{name}' has {tensor.dim()} axes, which none of a network has.")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise WeightsError(
                f"{where}: {bad} of {tensor.numel()} numbers of the tensor '{name}' are not finite. The training "
                "diverged, or the file is damaged; use another checkpoint."
            )


@contextmanager
def no_larger_than(where: Path, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside, a network is built; WeightsError once it takes much more memory than its weights in the file do."""
    with _Budget(where, 4 * sum(tensor.numel() for tensor in tensors.values()) + ROOM):
        yield


class _Budget(TorchFunctionMode):
    """Counts the numbers of the tensors that are made, before they are."""

    def __init__(self, where: Path, numbers: int):
        super().__init__()
        self.where, self.left, self.tensors = where, numbers, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS:
            self.left -= _numbers(func, args, kwargs)
            self.tensors += 1
            if self.left < 0 or self.tensors > MOST_TENSORS:
                raise WeightsError(
                    f"{self.where}: the network that its configuration describes is much larger than the weights in "
                    "the file. It was changed or damaged; get it again."
                )
        return func(*args, **kwargs)


def _numbers(func: Any, args: Any, kwargs: Mapping[str, Any]) -> int:
    """How many numbers the tensor of such a call has, or more."""
    if func is torch.linspace:
        return int(kwargs.get("steps", args[2] if len(args) > 2 else 0))
    if func in (torch.arange, torch.randperm):
        return int(max((abs(a) for a in args if isinstance(a, (int, float))), default=0))
    sizes = kwargs.get("size", args)
    if sizes and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    count = 1
    for size in sizes:
        count *= int(size) if isinstance(size, (int, float)) else 1
    return count


def _nonsense(where: Path, name: str, value: Any, expected: str) -> WeightsError:
    return WeightsError(
        f"{where}: its way to sample has {name} {value!r:.80}, expected {expected}. The file was changed or made by "
        "another version; get it again."
    )
