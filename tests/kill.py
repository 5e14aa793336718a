"""Commands that are killed at random moments: `python -m tests.kill --command complete --count 50`.

A command runs in its folder again and again, and is ended by KILL, TERM, HUP or INT at a random moment. After each,
what lies under a final name is opened: it must be whole. Whenever one comes to its end, it must have made what an
undisturbed run made: the same voxels, weights and rows, times aside; then all begins anew. Prints a line for each end,
then how many kills there were, what was found under final names that is not whole (nothing), and whether the results
are equal; ends with status 1 otherwise, and where a command still runs five minutes after its signal.

Each command runs in a process that is forked from this one, which has imported everything, so that a kill strikes the
work and not the start of Python. `fetch` has a hub of its own on loopback.
"""

import argparse
import csv
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.io.locks import LEFTOVER, LOCK
from mrsynth.io.nifti import read_volume
from mrsynth.io.reading import parse_json
from mrsynth.io.yaml_files import read_yaml
from tests.conftest import _write_subject_folder

KINDS = ("complete", "train", "benchmark", "fetch", "batch")
PATIENCE = 300  # seconds until a command that was told to end counts as one that does not
LATE = 0.3  # of the kills come near the end, where results are moved into place
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
TIMES = {"seconds", "peak_memory_mb", "cpu_seconds", "elapsed", "examples_per_second"}
PUBLISHED = "models/cwdm_T1n_best.safetensors"
SHAPE = (18, 24, 8)
FORKING = multiprocessing.get_context("fork")
RUN = """
name: small
licence: CC0
method: {method: fgc2f, preset: tiny, network: {multipliers: [1, 2], attention: [1]}, T: 8, sampler: ddim, steps: 2}
training: {iterations: 8, batch_size: 2, learning_rate: 1e-3, log_every: 1, validate_every: 4, save_every: 2}
data: {validation: [d], sources: [{name: made up, licence: CC0, citation: none, subjects: 3}]}
"""


def world(root: Path) -> None:
    """Four subjects, three that lack T1ce, a split, and a run file."""
    for seed, name in enumerate("abcd"):
        _write_subject_folder(root / "cohort", name, seed=seed, shape=SHAPE)
    for seed, name in enumerate("pqr"):
        _write_subject_folder(root / "lacking", name, seed=seed, without=[Contrast.T1CE], shape=SHAPE)
    (root / "run.yaml").write_text(RUN)
    (root / "split.yaml").write_text("train: [a, b]\ntest: [c, d]\n")


def words(kind: str, root: Path, out: Path) -> list[str]:
    """What is typed: `out` is where its results go, and what is there already decides how it goes on."""
    weights = ["--weights", f"{root}/weights/checkpoint.safetensors"]
    if kind == "train":
        resumed = ["--resume"] if (out / "state.pt").exists() else []
        return ["train", "--data", f"{root}/cohort", "--config", f"{root}/run.yaml", "--out", str(out), *resumed]
    if kind == "benchmark":
        data = ["--dataset", "folder", "--data", f"{root}/cohort", "--split", f"{root}/split.yaml", "--out", str(out)]
        return ["benchmark", *data, *weights, "--no-pictures", "--no-baselines", "--resume"]
    if kind == "fetch":
        return ["weights", "fetch", "official"]
    if kind == "batch":
        return ["batch", f"{root}/lacking", *weights, "--no-self-check", "--out", str(out)]
    again = ["--overwrite"] if any(out.glob("*.json")) else []
    return ["complete", f"{root}/lacking/p", *weights, "--no-self-check", "--out", str(out), *again]


def run(kind: str, root: Path, out: Path) -> None:
    """Run a command in this process, which was forked for it, and end it; what it prints goes into a file."""
    with open(root / "printed.txt", "wb") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    if kind == "fetch":
        import mrsynth.io.store
        from tests.io.test_hub import ENTRY

        mrsynth.io.store.manifest = lambda: [ENTRY]
        os.environ.update(MRSYNTH_HOME=str(out), HF_HOME=str(out / "hf"), HF_ENDPOINT=(root / "hub").read_text())
    from mrsynth.cli.app import main

    main(words(kind, root, out))


def begun(kind: str, root: Path, out: Path) -> Any:
    """A process that runs a command."""
    process = FORKING.Process(target=run, args=(kind, root, out))
    process.start()
    return process


def hub(root: Path) -> None:
    """Serve a checkpoint on loopback, slowly; the address is written into a file."""
    from mrsynth.card import Card
    from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
    from tests.io.test_hub import Hub

    file = root / "published.safetensors"
    card = Card(name="theirs", method="cwdm", contrasts=STANDARD, licence="CC0")
    write_checkpoint(file, Checkpoint(card, {}, {}, {"a": torch.arange(60_000.0)}))
    server = Hub()
    server.handle_error = lambda *_: None  # whoever asked was killed
    server.files, server.slow = {PUBLISHED: file.read_bytes()}, True
    (root / "hub.part").write_text(server.address)
    (root / "hub.part").rename(root / "hub")
    server.serve_forever()


def not_whole(folder: Path) -> list[str]:
    """Files under final names that cannot be read to their end."""
    found = []
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith(".") for part in inside) or "tensorboard" in inside:
            continue
        if "blobs" in inside and len(path.name) == 64 and sha256(path.read_bytes()).hexdigest() != path.name:
            found.append(f"{path.name} of the hub's cache")
        try:
            check(path)
        except Exception as error:
            found.append(f"{path.name}: {error}")
    return found


def check(path: Path) -> None:
    """Raise whatever reading a file raises."""
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
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in path.parts) or name.startswith(("cache/", "hf/")):
            continue
        if name.endswith(".nii.gz"):
            found[name] = read_volume(path).voxels.tobytes()
        elif path.suffix == ".csv":
            found[name] = rows_of(path)
        elif path.suffix == ".safetensors":
            found[name] = {name: t.numpy().tobytes() for name, t in read_checkpoint(path).tensors.items()}
        elif path.name == "fetched.yaml":
            found[name] = read_yaml(path)
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files and locks in a finished folder."""
    return [p.name for p in folder.rglob(".*") if LEFTOVER.fullmatch(p.name) or p.name.endswith((LOCK, ".lock"))]


def kill_often(kind: str, count: int, seed: int, root: Path) -> bool:
    """Kill a command `count` times, and let it finish; whether all was as promised."""
    rng = random.Random(f"{kind} {seed}")
    reference, out = root / f"reference {kind}", root / f"killed {kind}"
    usual = undisturbed(kind, root, reference)
    print(f"{kind}: takes {usual:.1f} s undisturbed", flush=True)
    expected = results(reference)
    ends: Counter[str] = Counter()
    broken: list[str] = []
    compared = 0
    while True:
        done = sum(ends.values()) - ends["finished"] >= count  # then it may finish
        process, began = begun(kind, root, out), time.perf_counter()
        after = usual * (rng.uniform(0.8, 1.02) if rng.random() < LATE else rng.uniform(0.02, 1.02))
        process.join(None if done else after)
        if process.exitcode is None:
            how = rng.choice(SIGNALS)
            os.kill(process.pid, how)
            process.join(PATIENCE)
            if process.exitcode is None:
                process.kill()
                broken.append(f"still running {PATIENCE} s after {how.name}")
            end, usual = how.name, 1.03 * usual  # a busy machine may have become busier
        else:
            end, after = "finished", time.perf_counter() - began
            usual = max(after, 0.5 * usual)  # what resumes has less to do
            if process.exitcode:
                broken.append(f"status {process.exitcode}: {(root / 'printed.txt').read_text()[-2000:]}")
        ends[end] += 1
        found = not_whole(out) if out.exists() else []
        broken += found
        print(f"{kind}: {end} after {after:.1f} s; not whole: {found or 'nothing'}", flush=True)
        if end == "finished":
            compared += 1
            if results(out) != expected:
                broken.append("other results than an undisturbed run's")
            broken += [f"left: {name}" for name in leftovers(out)]
            shutil.rmtree(out)  # begin again, so that every stage of it is met
            if done:
                break
    told = ", ".join(f"{n} {end}" for end, n in sorted(ends.items()))
    print(
        f"{kind}: {sum(ends.values()) - ends['finished']} kills ({told}); under final names and not whole, left or "
        f"other than it should be: {broken or 'nothing'}; results equal an undisturbed run's: "
        f"{'yes' if compared and not broken else 'NO'} ({compared} compared)",
        flush=True,
    )
    return compared > 0 and not broken


def undisturbed(kind: str, root: Path, out: Path) -> float:
    """Run a command to its end; the seconds that it took. Raises RuntimeError when it fails."""
    began, process = time.perf_counter(), begun(kind, root, out)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{kind} ended with status {process.exitcode}: {(root / 'printed.txt').read_text()}")
    return time.perf_counter() - began


def warm() -> None:
    """Import what the commands import, so that processes that are forked need not."""
    import accelerate  # noqa: F401
    import torch.utils.tensorboard

    import mrsynth.cli.app
    import mrsynth.tasks.batch.run
    import mrsynth.tasks.benchmark.run
    import mrsynth.tasks.checkpoints.run
    import mrsynth.tasks.complete.run
    import mrsynth.tasks.train.run  # noqa: F401

    torch.set_num_threads(1)  # no thread is begun before the fork


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=(*KINDS, "all"), default="all")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    kinds = KINDS if chosen.command == "all" else (chosen.command,)
    os.environ.update(OMP_NUM_THREADS="1", MRSYNTH_WEIGHTS_DIR="", HF_HUB_DISABLE_PROGRESS_BARS="1")
    os.environ.pop("HF_HUB_OFFLINE", None)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["MRSYNTH_HOME"] = str(root / "home")
        world(root)
        warm()
        undisturbed("train", root, root / "weights")  # the others need its weights
        server = FORKING.Process(target=hub, args=(root,), daemon=True)
        if "fetch" in kinds:
            server.start()
            while not (root / "hub").exists() and server.is_alive():
                time.sleep(0.05)
        fine = [kill_often(kind, chosen.count, chosen.seed, root) for kind in kinds]
        if server.is_alive():
            server.kill()
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main())
