"""The fast form of cWDM's network against the plain one: time, memory and deviation, with random weights.

usage: python runs/measure/speed_cwdm.py [--grid 112 112 80] [--rounds 3] [--width 64]

The grid is that of the wavelet coefficients: half the image. The two forms run in turn in one process, since seconds
of a shared machine compare only within minutes; the memory of the fast form is measured in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from mrsynth.methods.cwdm.fast import FastWaveletUNet
from mrsynth.methods.cwdm.kernels import clip_haar
from mrsynth.methods.cwdm.network import WaveletUNet, WaveletUNetConfig
from mrsynth.networks.wavelet import dwt, idwt

CHANNELS = 8  # of the noisy target; the conditions have three times as many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", type=int, nargs=3, default=[112, 112, 80])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--only-memory", action="store_true", help="run the fast form alone; what this script starts")
    args = parser.parse_args()

    if not args.only_memory:  # first, since a new process begins with the peak of the one that starts it
        size = ["--width", str(args.width), "--grid", *map(str, args.grid)]
        alone = subprocess.run([sys.executable, __file__, "--only-memory", *size], stdout=subprocess.PIPE, check=True)
        peak = json.loads(alone.stdout)["peak_gb"]
        print(f"peak memory of a process with the fast form and the plain weights: {peak:.2f} GB", flush=True)

    plain = random_network(args.width)
    x, conditions = torch.randn(1, 4 * CHANNELS, *args.grid).split([CHANNELS, 3 * CHANNELS], dim=1)
    level = torch.tensor([500])
    fast = FastWaveletUNet(plain)
    fast.condition(conditions, forwards=10)  # compiled, where kernels are
    if args.only_memory:
        fast(x, level)
        print(json.dumps({"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
        return

    print(f"{torch.get_num_threads()} threads, matrix units (AMX): {torch.cpu._is_amx_tile_supported()}")
    print(f"first call of the fast form, compiling included: {seconds(lambda: fast(x, level)):.1f} s", flush=True)
    joined = torch.cat([x, conditions], dim=1)
    with torch.no_grad():
        table(
            "network, fp32 plain and bf16 fast",
            *compare(lambda: plain(joined, level), lambda: fast(x, level), args.rounds),
        )
        table("clipping", *compare(lambda: clipped(x, 3.0), lambda: clip_haar(x, 3.0), args.rounds))


def random_network(width: int) -> WaveletUNet:
    """Official shapes at width 64; weights that keep the variance, none of them zero."""
    torch.manual_seed(0)
    network = WaveletUNet(WaveletUNetConfig(width=width, groups=width // 2)).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            parameter.normal_(1.0, 0.1)
        else:
            parameter.normal_(std=0.05)
    return network


def clipped(x_0: Tensor, low_scale: float) -> Tensor:
    """What `clip_haar` replaces."""
    scale = torch.tensor([low_scale] + [1.0] * 7)[:, None, None, None]
    return dwt(idwt(x_0 * scale).clamp(0, 1)) / scale


def compare(
    reference: Callable[[], Tensor], other: Callable[[], Tensor], rounds: int
) -> tuple[list[float], list[float], float]:
    """Seconds of both in turn, and the rms difference over the deviation of the reference."""
    expected, made = reference(), other()
    deviation = float((made - expected).square().mean().sqrt() / expected.std())
    del expected, made
    times = [(seconds(reference), seconds(other)) for _ in range(rounds)]
    return [a for a, _ in times], [b for _, b in times], deviation


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table(what: str, slow: list[float], quick: list[float], deviation: float) -> None:
    ratio = median(a / b for a, b in zip(slow, quick, strict=True))
    print(
        f"{what}: {median(slow):.3f} s and {median(quick):.3f} s, ratio {ratio:.2f} "
        f"(best {min(slow):.3f} and {min(quick):.3f}), deviation {deviation:.1e}",
        flush=True,
    )


if __name__ == "__main__":
    main()
