"""Where networks run: devices and precisions that are there, and errors that mean that memory ran out."""

import mmap
import subprocess
import sys

import pytest
import torch

from mrsynth.devices import choose_device, choose_precision, out_of_memory
from mrsynth.errors import MemoryExhausted, UsageError
from mrsynth.methods.base import carried
from mrsynth.tasks.memory import peak_memory_mb, reset_peak_memory


def machine(monkeypatch, cuda=0, mps=False, bf16=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        ({}, "auto", "cpu"),
        ({"cuda": 1}, "auto", "cuda"),
        ({"mps": True}, "auto", "mps"),
        ({"cuda": 2}, "cuda:1", "cuda:1"),
        ({"cuda": 2}, "CUDA:1", "cuda:1"),
        ({"cuda": 1}, "cpu", "cpu"),
    ],
)
def test_devices(monkeypatch, there, wanted, chosen):
    machine(monkeypatch, **there)

    assert choose_device(wanted) == chosen


@pytest.mark.parametrize("wanted", ["cuda", "cuda:1", "mps", "tpu", "cuda:x", "cpu:1", ""])
def test_devices_that_are_not_there(monkeypatch, wanted):
    machine(monkeypatch, cuda=1 if wanted == "cuda:1" else 0)

    with pytest.raises(UsageError, match="device"):
        choose_device(wanted)


@pytest.mark.parametrize(
    ("there", "wanted", "device", "chosen"),
    [
        ({"bf16": True}, "auto", "cpu", "bf16"),
        ({"bf16": False}, "auto", "cpu", "fp32"),
        ({"bf16": True, "cuda": 1}, "auto", "cuda", "bf16"),
        ({"bf16": False, "cuda": 1}, "auto", "cuda:0", "fp32"),
        ({"bf16": True, "mps": True}, "auto", "mps", "fp32"),
        ({"bf16": True}, "fp32", "cpu", "fp32"),
        ({"bf16": False}, "bf16", "cpu", "bf16"),
    ],
)
def test_precision(monkeypatch, there, wanted, device, chosen):
    machine(monkeypatch, **there)

    assert choose_precision(wanted, device) == chosen


def test_an_unknown_precision():
    with pytest.raises(UsageError, match="Unknown precision 'fp8'"):
        choose_precision("fp8", "cpu")


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("The size of tensor a (3) must match"), False),
        (ValueError("out of memory"), False),
        (MemoryExhausted("out of memory"), False),
    ],
)
def test_out_of_memory(error, answer):
    assert out_of_memory(error) is answer


class Watched:
    """Stands in for a tensor on the CPU and says how it was copied."""

    device = torch.device("cpu")

    def __init__(self, pinned=False):
        self.pinned = pinned

    def pin_memory(self):
        return Watched(pinned=True)

    def to(self, device, non_blocking=False):
        return str(device), self.pinned, non_blocking


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda", "cuda:1"])
def test_copies_to_a_gpu_are_from_pinned_memory_and_waited_for_by_nobody(device):
    gpu = device.startswith("cuda")

    assert carried(Watched(), device) == carried(Watched(), torch.device(device)) == (device, gpu, gpu)


def test_what_is_there_stays():
    tensor = torch.ones(2)

    assert carried(tensor, "cpu") is tensor


def test_the_peak_of_memory_is_that_since_it_was_asked_to_begin_anew():
    reset_peak_memory()
    with mmap.mmap(-1, 100 * 2**20) as big:  # of the system itself, which gets it back at once
        big.write(bytes(len(big)))
        after_big = peak_memory_mb()
    reset_peak_memory()

    assert 50 < peak_memory_mb() < after_big - 50


AFTERWARDS = """
import mmap
from pathlib import Path
import numpy as np
from mrsynth.devices import keep_freed_memory
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 1e6
before = resident()
if {kept}:
    keep_freed_memory()
layers = [np.ones(3_750_000) for _ in range(3)]  # 30 MB each: else mapped one by one, and given back
del layers
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc of glibc")
@pytest.mark.parametrize("kept", [True, False])
def test_memory_that_was_freed_is_kept_for_the_next_layer(kept):
    """In a process of its own: what another test has freed would be used first."""
    done = subprocess.run([sys.executable, "-c", AFTERWARDS.format(kept=kept)], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert (float(done.stdout) > 80) is kept
