"""The most memory held while something was done: of the GPU it ran on, else of this process."""

import sys
from pathlib import Path

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak_memory(device: str = "cpu") -> None:
    """Begin to measure anew, where the system can: on Linux, and on a CUDA device."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        CLEAR.write_text("5")  # the peak of resident memory
    except OSError:
        return


def peak_memory_mb(device: str = "cpu") -> float | None:
    """The most since `reset_peak_memory`; of the whole life of the process where the system tells no more; or None."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        return _of_the_whole_life()


def _of_the_whole_life() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
