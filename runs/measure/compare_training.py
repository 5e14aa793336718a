"""Two installs of mrsynth, the same subjects: does an undisturbed training give the same losses and the same weights?

usage: python -m runs.measure.compare_training PYTHON_A PYTHON_B DATA [--methods fgc2f cwdm ...] [--iterations 6]
           [--options="--set training.seed=1"] [--options-b="--set method.seg=off"] [--threads 1]

Each interpreter trains each method's preset tiny in fp32 without loader workers, and what --options adds, in a process
of its own with the same number of threads. Compared are the losses in losses.csv, and the averaged weights in
checkpoint.safetensors: a SHA-256 over names and bytes of the tensors that both files hold, because the headers of two
versions differ. Status 1 if anything differs. Interpreters are those of virtual environments with the extra `train`.
"""

import argparse
import csv
import hashlib
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from runs.measure.installs import environment, program, run

METHODS = ("fgc2f", "cwdm", "msg-ldm", "dfbk")
USUAL = {
    "training.precision": "fp32",
    "training.workers": 0,
    "training.batch_size": 2,
    "training.log_every": 1,
    "training.validate_every": 10**6,
    "preparation.multiple": 16,
    "method.preset": "tiny",
}
OF_METHOD = {"cwdm": {"method.target": "t2", "preparation.depth_multiple": 16}}
TIMES = {"seconds_per_iteration", "cpu_seconds"}


def main() -> None:
    """Two lines per method: losses and weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", nargs=2, metavar="PYTHON", help="the interpreters of the two installs")
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder of subjects")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--options", default="", help="further options of mrsynth train for both, in one string")
    parser.add_argument(
        "--options-b", default="", help="and for the second only: what the first does without being told"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    more = (args.options, f"{args.options} {args.options_b}")
    print(*(f"{name}: {python} {said}" for name, python, said in zip("AB", args.python, more, strict=True)), sep="\n")
    failed = False
    for method in args.methods:
        with tempfile.TemporaryDirectory() as scratch:
            both = [Path(scratch, name) for name in "AB"]
            for python, out, said in zip(args.python, both, more, strict=True):
                train(python, method, args.data.resolve(), out, args.iterations, said, args.threads)
            verdicts = {"losses": losses_differ(*both), "weights": weights_differ(*both)}
        for what, verdict in verdicts.items():
            print(f"{method} {what}: {verdict}", flush=True)
            failed |= not verdict.startswith("the same")
    sys.exit(failed)


def train(python: str, method: str, data: Path, out: Path, iterations: int, said: str, threads: int) -> None:
    """One training, to its end."""
    settings = USUAL | {"training.iterations": iterations} | OF_METHOD.get(method, {})
    command = [program(python), "train", "--method", method, "--data", str(data), "--out", str(out)]
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command += ["--device", "cpu", "--no-progress", *shlex.split(said)]
    run(command, environment(threads))


def losses_differ(a: Path, b: Path) -> str:
    """Whether the two tables hold the same figures, as printed (six digits)."""
    one, other = (table(out / "losses.csv") for out in (a, b))
    if one == other:
        return f"the same in {len(one)} rows"
    if [list(row) for row in one] != [list(row) for row in other]:
        return "other columns or rows"
    gaps = [
        abs(float(x[key]) - float(y[key])) / max(abs(float(x[key])), 1e-12)
        for x, y in zip(one, other, strict=True)
        for key in x
        if key != "stage" and x[key] != y[key]
    ]
    return f"{len(gaps)} figures differ, by {max(gaps, default=0):.2g} of their size at most"


def table(path: Path) -> list[dict[str, str]]:
    """The rows without what they took."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def weights_differ(a: Path, b: Path) -> str:
    """Whether the tensors that both files hold are the same, byte for byte."""
    one, other = (load_file(out / "checkpoint.safetensors") for out in (a, b))
    both = sorted(one.keys() & other.keys())
    alone = f", {len(one.keys() ^ other.keys())} more in one of the files" if one.keys() != other.keys() else ""
    sums = [hashlib.sha256() for _ in "AB"]
    for name in both:
        for total, tensors in zip(sums, (one, other), strict=True):
            total.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    first, second = (total.hexdigest()[:16] for total in sums)
    if first == second:
        return f"the same in {len(both)} tensors, SHA-256 {first}{alone}"
    wrong = [n for n in both if one[n].shape != other[n].shape or not np.array_equal(one[n], other[n])]
    alike = [n for n in wrong if one[n].shape == other[n].shape]
    gap = max((float(np.abs(one[n].astype(np.float64) - other[n]).max()) for n in alike), default=0)
    return f"{len(wrong)} of {len(both)} tensors differ, by {gap:.2g} at most{alone}"


if __name__ == "__main__":
    main()
