"""A second device in a machine that has none: tensors that say they lie on `meta` and keep their numbers on the CPU.

`meta` alone computes nothing, and lets a tensor of the CPU pass in indexing, copies and products of matrices. Here
every operation is computed with the numbers of the CPU, and what CUDA refuses is refused: operands of two devices (but
for a number of the CPU, of no dimension, in arithmetic; an index of the CPU; and copies), and a generator of the CPU.
So is what Apple's GPUs refuse: numbers of float64.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
THERE = torch.device("meta")
COPIES = (aten._to_copy, aten.copy_)
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
FILLS = (aten.fill_, aten.masked_fill, aten.masked_fill_)
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)
FROM_DATA = (torch.tensor, torch.as_tensor, Tensor.new_tensor)


class Elsewhere(Tensor):
    """A tensor of the second device."""

    inner: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=THERE,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While it is on, what is asked for on the second device is made there."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and what skips it costs more than most operations

    def __enter__(self) -> Self:
        self.numbers = Numbers()
        self.numbers.__enter__()
        self.former = torch.autocast, torch.inference_mode
        # neither is there for such tensors: all is computed in the precision it has, and inference as without gradients
        torch.autocast, torch.inference_mode = autocast, torch.no_grad
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch.autocast, torch.inference_mode = self.former
        self.numbers.__exit__(*raised)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Numbers(TorchFunctionMode):
    """What no dispatch mode sees: numbers and lists of Python on their way to the second device, and from it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.tolist and isinstance(args[0], Elsewhere):
            return args[0].inner.tolist()
        if func in INDEXING and isinstance(args[0], Elsewhere):
            key = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(torch.tensor(k) if isinstance(k, list) else k for k in key), *args[2:])
        if func in FROM_DATA:
            place = kwargs.pop("device", None)
            if func is Tensor.new_tensor:
                place = args[0].device if place is None else place
                kwargs, args, func = {"dtype": args[0].dtype, **kwargs}, args[1:], torch.tensor
            return func(*args, **kwargs).to(place)
        return func(*args, **kwargs)


def autocast(kind: str, *args: Any, **kwargs: Any) -> Any:
    """As torch.autocast; of the second device it does nothing."""
    return nullcontext() if kind == THERE.type else torch.amp.autocast(kind, *args, **kwargs)


def computed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An operation, on the device of its operands or the one that it names. Raises RuntimeError as CUDA would."""
    operands = list(leaves((*args, *kwargs.values())))
    there = [x for x in operands if isinstance(x, Elsewhere)]
    here = [x for x in operands if isinstance(x, Tensor) and not isinstance(x, Elsewhere)]
    packet = func.overloadpacket
    if packet in INDEXED and isinstance(args[0], Elsewhere):
        here = list(leaves(args[2:3]))
    written_here = bool(here) and args[0] is here[0] and packet.__name__.endswith("_")
    if (torch.Tag.pointwise in func.tags or packet in INDEXED or packet in FILLS) and not written_here:
        here = [x for x in here if x.dim()]
    if there and any(not isinstance(x, Elsewhere) for x in here) and packet not in COPIES:
        raise RuntimeError(f"{func} of operands on two devices")
    on_device = bool(there)
    if kwargs.get("device") is not None:
        on_device = torch.device(kwargs["device"]) == THERE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif packet is aten.copy_:
        on_device = isinstance(args[0], Elsewhere)
    if on_device and any(isinstance(x, torch.Generator) for x in operands):
        raise RuntimeError(f"{func} on the second device with a generator of the CPU")
    out = func(*inner(args), **{name: inner(value) for name, value in kwargs.items()})

    def back(x: Any) -> Any:
        if on_device and isinstance(x, Tensor) and x.dtype == torch.float64:
            raise RuntimeError(f"{func} makes float64 on the second device")
        if isinstance(x, (list, tuple)):
            return type(x)(map(back, x))
        same = next((w for w in there if w.inner is x), None)  # of what was done in place
        return same if same is not None else Elsewhere(x) if on_device and isinstance(x, Tensor) else x

    return back(out)


def leaves(values: Iterable[Any]) -> Iterator[Any]:
    """All that lists and tuples hold, at any depth."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from leaves(value)
        else:
            yield value


def inner(value: Any) -> Any:
    """The numbers of what lies on the second device, in the same lists and tuples."""
    if isinstance(value, Elsewhere):
        return value.inner
    return type(value)(map(inner, value)) if isinstance(value, (list, tuple)) else value
