"""Trained methods: reading a checkpoint, and the device and precision it runs with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from mrsynth.card import Card
from mrsynth.errors import MrsynthError, UsageError, WeightsError
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.io.weights import Resolved, resolve
from mrsynth.methods import build_method
from mrsynth.methods.base import Method
from mrsynth.preparation import PreparationConfig


@dataclass(frozen=True)
class TrainedMethod:
    """A method with its trained weights, and all that the checkpoint says of itself."""

    method: Method
    card: Card
    preparation: PreparationConfig
    sha256: str

    @property
    def network(self) -> Any:
        """The bare network, for those who want to call it themselves."""
        return self.method.network


def load_method(name_or_path: str | Path) -> TrainedMethod:
    """A trained method by its name in the manifest or by the path of a .safetensors file, on the CPU in float32.

    Raises WeightsError when the checkpoint is unknown, damaged, or does not fit the network it names.
    """
    return build(resolve(str(name_or_path)))


def build(found: Resolved) -> TrainedMethod:
    """The method of a located checkpoint."""
    checkpoint = read_checkpoint(found.path)
    try:
        method = build_method(checkpoint.config)
        preparation = PreparationConfig.model_validate(checkpoint.preparation)
    except (ValidationError, UsageError) as error:
        raise WeightsError(
            f"{found.path}: this version of mrsynth cannot use its configuration: {error} "
            "Use the version that wrote it, or train it again."
        ) from error
    expected, given = method.state_dict(), checkpoint.tensors
    wrong = [f"missing {k}" for k in expected if k not in given] + [f"unknown {k}" for k in given if k not in expected]
    wrong += [
        f"{k} has shape {tuple(given[k].shape)}, expected {tuple(expected[k].shape)}"
        for k in expected
        if k in given and given[k].shape != expected[k].shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WeightsError(
            f"{found.path}: the weights do not fit a {checkpoint.card.method} network of the size in its header: "
            f"{'; '.join(wrong[:3])}{more}. The file was changed or made by another version; get it again."
        )
    method.load_state_dict(given)
    method.eval().requires_grad_(False)
    return TrainedMethod(method, found.card, preparation, found.sha256)


def choose_device(wanted: str) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` as torch spells it. Raises UsageError when it is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
        raise UsageError(f"Unknown device '{wanted}'. Give auto, cpu, cuda, cuda:N or mps.")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(number or 0) >= there:
        seen = f"{there} CUDA device(s)" if kind == "cuda" else f"no {kind.upper()} device"
        raise UsageError(f"The device '{wanted}' is not there: torch sees {seen}. Use --device auto.")
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """`bf16` where the hardware multiplies it natively, else `fp32`; or what was asked for."""
    if wanted in ("fp32", "bf16"):
        return wanted
    if wanted != "auto":
        raise UsageError(f"Unknown precision '{wanted}'. Give auto, fp32 or bf16.")
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() or getattr(
        torch.cpu, "_is_amx_tile_supported", bool
    )()
    return "bf16" if device == "cpu" and native else "fp32"


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the CPU or on a device."""
    if isinstance(error, MrsynthError):
        return False
    text = str(error).lower()
    allocation = "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (isinstance(error, RuntimeError) and allocation)
