"""Commands that are killed at random moments: `python -m tests.kill --command complete --count 50`.

A command runs in its folder again and again, and is ended by KILL, TERM, HUP or INT at a random moment. After each,
what lies under a final name is opened: it must be whole. In the end it may finish, and must have made what an
undisturbed run made: the same voxels, weights and rows, times aside. Prints a line for each end, then how many kills
there were, what was found under final names that is not whole (nothing), and whether the results are equal; ends with
status 1 otherwise, and where a command still runs five minutes after its signal. An attempt takes as long as the
command does, seconds on a machine at rest and a minute on a busy one: the lines say that it goes on.
"""

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrsynth.contrasts import Contrast
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.io.nifti import read_volume
from mrsynth.io.reading import parse_json
from mrsynth.io.yaml_files import read_yaml
from tests.conftest import _write_subject_folder

PATIENCE = 300  # seconds until a command that was told to end counts as one that does not
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
TIMES = {"seconds", "peak_memory_mb", "cpu_seconds", "elapsed", "examples_per_second"}
RUN = """
name: small
licence: CC0
method: {method: fgc2f, preset: tiny, network: {multipliers: [1, 2], attention: [1]}, T: 8, sampler: ddim, steps: 2}
training: {iterations: 8, batch_size: 2, learning_rate: 1e-3, log_every: 1, validate_every: 4, save_every: 2}
data: {validation: [d], sources: [{name: made up, licence: CC0, citation: none, subjects: 3}]}
"""


def world(root: Path) -> None:
    """Four subjects, one without T1ce, a split, and a run file."""
    for seed, name in enumerate("abcd"):
        _write_subject_folder(root / "cohort", name, seed=seed)
    _write_subject_folder(root / "one", "p", without=[Contrast.T1CE])
    (root / "run.yaml").write_text(RUN)
    (root / "split.yaml").write_text("train: [a, b]\ntest: [c, d]\n")


def command(kind: str, root: Path, out: Path) -> list[str]:
    """What is run: `out` is where its results go, and what is there already decides how it goes on."""
    start = [sys.executable, "-c", "from mrsynth.cli.app import main; main()", kind]
    if kind == "train":
        resumed = ["--resume"] if (out / "state.pt").exists() else []
        return [*start, "--data", f"{root}/cohort", "--config", f"{root}/run.yaml", "--out", str(out), *resumed]
    weights = f"{root}/reference train/checkpoint.safetensors"
    if kind == "benchmark":
        data = ["--dataset", "folder", "--data", f"{root}/cohort", "--split", f"{root}/split.yaml", "--out", str(out)]
        return [*start, *data, "--weights", weights, "--no-pictures", "--no-baselines", "--resume"]
    again = ["--overwrite"] if any(out.glob("*.json")) else []
    return [*start, f"{root}/one/p", "--weights", weights, "--no-self-check", "--out", str(out), *again]


def not_whole(folder: Path) -> list[str]:
    """Files under final names that cannot be read to their end."""
    found = []
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith(".") for part in inside) or "tensorboard" in inside:
            continue
        try:
            check(path)
        except Exception as error:
            found.append(f"{path.name}: {error}")
    return found


def check(path: Path) -> None:
    """Raise whatever reading a file raises."""
    import numpy as np
    import torch

    readers: dict[str, Callable[[Path], Any]] = {
        ".gz": read_volume,
        ".json": lambda p: parse_json(p.read_bytes()),
        ".yaml": read_yaml,
        ".csv": rows_of,
        ".safetensors": read_checkpoint,
        ".pt": lambda p: torch.load(p, weights_only=False),
        ".npy": np.load,
        ".html": lambda p: p.read_text().rindex("</html>"),
    }
    if path.suffix in readers:
        readers[path.suffix](path)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table without the columns of time. Raises ValueError for a row that is cut off."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a row is cut off")
    return [{name: cell for name, cell in row.items() if name not in TIMES and "second" not in name} for row in rows]


def results(folder: Path) -> dict[str, Any]:
    """Voxels, weights and rows of a finished run, to be compared."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*")):
        if path.name.endswith(".nii.gz"):
            found[path.name] = read_volume(path).voxels.tobytes()
        elif path.suffix == ".csv":
            found[path.name] = rows_of(path)
        elif path.suffix == ".safetensors":
            found[path.name] = {name: t.numpy().tobytes() for name, t in read_checkpoint(path).tensors.items()}
    return found


def leftovers(folder: Path) -> list[str]:
    """What is hidden in a finished folder, or what is left of one that was not begun."""
    return [path.name for path in folder.glob(".*")]


def kill_often(kind: str, count: int, seed: int, root: Path) -> bool:
    """Kill a command `count` times and let it finish; whether all was as promised."""
    rng, quiet = random.Random(seed), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    reference, out = root / f"reference {kind}", root / f"killed {kind}"
    began = time.perf_counter()
    subprocess.run(command(kind, root, reference), check=True, **quiet)  # type: ignore[call-overload]
    usual = time.perf_counter() - began
    print(f"{kind}: takes {usual:.1f} s undisturbed", flush=True)
    ends: Counter[str] = Counter()
    broken: list[str] = []
    while sum(n for end, n in ends.items() if end != "finished") < count:
        process = subprocess.Popen(command(kind, root, out), **quiet)  # type: ignore[call-overload]
        how, after, began = rng.choice(SIGNALS), rng.uniform(0.2, 1.05) * usual, time.perf_counter()
        try:
            process.wait(after)
            end, after = "finished", time.perf_counter() - began
            usual = after  # a resumed run has less to do, and the first may have met a busier machine
        except subprocess.TimeoutExpired:
            process.send_signal(how)
            end, usual = how.name, 1.1 * usual  # not ever earlier, either
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                broken.append(f"still running {PATIENCE} s after {end}")
        ends[end] += 1
        found = not_whole(out) if out.exists() else []
        broken += found
        print(f"{kind}: {end} after {after:.1f} s; not whole: {found or 'nothing'}", flush=True)
        if kind != "complete" and finished(kind, out):
            shutil.rmtree(out)  # begin again, so that every stage of it is met
    last = subprocess.run(command(kind, root, out), capture_output=True, text=True)
    if last.returncode:
        print(f"{kind}: the last run ended with status {last.returncode}\n{last.stderr}", flush=True)
    equal = results(out) == results(reference) and bool(results(out))
    left = leftovers(out)
    told = ", ".join(f"{n} {end}" for end, n in sorted(ends.items()) if n)
    print(
        f"{kind}: {count} kills ({told}); under final names and not whole: {broken or 'nothing'}; hidden files left "
        f"after the last run: {left or 'none'}; resumed results equal an undisturbed run's: {'yes' if equal else 'NO'}",
        flush=True,
    )
    return equal and not broken and not left and not last.returncode


def finished(kind: str, out: Path) -> bool:
    """Whether there is nothing left to go on with."""
    if kind == "benchmark":
        return (out / "report.html").exists()
    return (out / "state.pt").exists() and len(rows_of(out / "losses.csv")) >= 8


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=("complete", "train", "benchmark", "all"), default="all")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    kinds = ("train", "complete", "benchmark") if chosen.command == "all" else (chosen.command,)
    os.environ.update(OMP_NUM_THREADS="1", MRSYNTH_WEIGHTS_DIR="")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world(root)
        if "train" not in kinds:  # the others need its weights
            subprocess.run(command("train", root, root / "reference train"), check=True, capture_output=True)
        fine = [kill_often(kind, chosen.count, chosen.seed, root) for kind in kinds]
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main())
