"""Where a network runs, in what precision, and whether memory ran out: one answer for every command."""

import ctypes
import sys
from typing import Any

import torch

from mrsynth.errors import MrsynthError, UsageError
from mrsynth.texts import meant

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
BLOCK, KEPT = 2**25, 2**27  # bytes: of one request that is mapped by itself; of freed memory that is kept


def choose_device(wanted: str) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`, in any letter case. Raises UsageError when it is not there."""
    wanted = wanted.lower()
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
        hint = meant(kind, ("auto", "cpu", "cuda", "mps"))
        raise UsageError(f"Unknown device '{wanted}'. Give auto, cpu, cuda, cuda:N or mps.{hint}")
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
        hint = meant(wanted, ("auto", "fp32", "bf16"))
        raise UsageError(f"Unknown precision '{wanted}'. Give auto, fp32 or bf16.{hint}")
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private: False where torch has them no more
    native = device == "cpu" and any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return "bf16" if native else "fp32"


def limit_threads(count: int) -> None:
    """Let torch use so many processor threads, from now on."""
    torch.set_num_threads(count)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for what it needs next: on glibc; elsewhere nothing happens.

    glibc gives the end of its heap back at once, and a network asks for it again in its next layer, to be cleared page
    by page: measured on dfbk, 0.7 of 11 CPU seconds a volume. Volumes are above BLOCK and still go back at once.
    """
    mallopt = of_glibc("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, BLOCK)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the CPU or on a device."""
    if isinstance(error, MrsynthError):
        return False
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    signs = ("not enough memory", "allocate memory", "out of memory", "alloc_failed")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)


def release_cache(device: str) -> None:
    """Give back what is kept of a device's memory for later, so that another request can be met from it."""
    trim = of_glibc("malloc_trim")
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif trim is not None:
        trim(ctypes.c_size_t(0))


def of_glibc(name: str) -> Any:
    """A function of the C library, where this is Linux and has it; or None."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
