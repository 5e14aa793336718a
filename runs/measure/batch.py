"""Two hundred small phantoms, five of them bad: a batch that is killed twice, its overhead, and workers.

usage: python -m runs.measure.batch OUT [--subjects 200] [--threads 1]

OUT is made anew: `cohort`, and a folder for each run. The same subjects are completed
    serial    by `complete` in a loop, with the checkpoint in memory
    batch     by `mrsynth batch`, undisturbed
    killed    by `mrsynth batch`, killed (SIGKILL) after a third and after two thirds, and started again
    workers   by `mrsynth batch --workers 2`
Prints, and writes to OUT/figures.json, wall and processor seconds of each, the overhead of batch over the loop, and
whether: every good subject was done once, exit status and summary are right, and all voxels, headers and sidecars are
those of the loop. Ends with status 1 where something is not as it should be. A phantom stands for ten subjects, with
noise of their own, and its voxels are said to be of 1 mm.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

SIZE = (48, 56, 16)
WEIGHTS = "fgc2f-ship"  # one network, so that all else weighs most
SPACING = (3.5, 3.5, 8.0)
OF_ONE = 10  # subjects of one phantom
BAD = ("cut off", "no image", "claims too much", "empty", "a label map")
MOST = 0.10  # overhead


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", choices=("serial", "batch"), help=argparse.SUPPRESS)  # in a process of its own
    asked = parser.parse_args()
    if asked.run:
        print(json.dumps({"serial": serial, "batch": batch}[asked.run](asked.out, asked.threads)))
        return 0
    shutil.rmtree(asked.out, ignore_errors=True)
    bad = make_cohort(asked.out / "cohort", asked.subjects)
    figures: dict[str, Any] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": [os.getloadavg()[0]],
        "subjects": asked.subjects,
        "bad": len(bad),
        "size": SIZE,
        "weights": WEIGHTS,
        "threads": asked.threads,
    }
    for run in ("serial", "batch"):
        figures[run] = alone(asked.out, run, asked.threads)
        figures["load"].append(os.getloadavg()[0])
        print(run, figures[run], flush=True)
    figures["overhead"] = figures["batch"]["seconds"] / figures["serial"]["seconds"] - 1
    figures["overhead_cpu"] = figures["batch"]["cpu"] / figures["serial"]["cpu"] - 1
    figures["killed"] = killed(asked.out, asked.threads, asked.subjects)
    print("killed", figures["killed"], flush=True)
    figures["workers"] = workers(asked.out, asked.threads)
    figures["load"].append(os.getloadavg()[0])
    print("workers", figures["workers"], flush=True)
    wrong = [f"{run}: {what}" for run in ("batch", "killed", "workers") for what in not_right(asked.out, run, bad)]
    if figures["overhead"] > MOST:
        wrong.append(f"overhead {figures['overhead']:.1%}, at most {MOST:.0%} is right")
    figures["wrong"] = wrong
    (asked.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    wall, cpu = figures["overhead"], figures["overhead_cpu"]
    print(f"overhead of batch over the loop: {wall:+.1%} of its wall time, {cpu:+.1%} of its processor time")
    print("; ".join(wrong) or "all as it should be")
    return int(bool(wrong))


def make_cohort(root: Path, count: int) -> dict[str, str]:
    """Subjects without T1ce; which of them are bad, and how."""
    from mrsynth.contrasts import Contrast
    from mrsynth.io.nifti import read_volume, write_volume
    from mrsynth.scans.volume import Volume
    from mrsynth.tasks.phantom_subjects import PhantomOptions, make_phantoms

    cohort = {"subjects": -(-count // OF_ONE), "without": (Contrast.T1CE,), "shape": SIZE, "spacing": SPACING}
    phantoms = make_phantoms(PhantomOptions.model_validate({"out": root.parent / "phantoms", **cohort}))
    where = np.linspace(0, count - 1, len(BAD) + 2).astype(int)[1:-1]
    bad = {f"s{n:04d}": how for n, how in zip(where, BAD, strict=True)}
    for n in range(count):
        home = root / f"s{n:04d}"
        home.mkdir(parents=True)
        rng = np.random.default_rng(n)
        for contrast in ("t1", "t2", "flair"):
            source = phantoms[n // OF_ONE]
            voxels = read_volume(source / f"{source.name}_{contrast}.nii.gz").voxels
            noise = rng.normal(0, 0.02 * voxels.max(), voxels.shape).astype(np.float32)
            voxels = np.where(voxels > 0, np.maximum(voxels + noise, 1), 0).astype(np.float32)
            write_volume(home / f"{home.name}_{contrast}.nii.gz", Volume(voxels, np.diag([-1.0, -1.0, 1.0, 1.0])))
        spoil(home / f"{home.name}_t2.nii.gz", bad.get(home.name))
    return bad


def spoil(path: Path, how: str | None) -> None:
    """Make a scan a bad one."""
    import nibabel

    if how is None:
        return
    image: Any = nibabel.load(path)
    if how == "cut off":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "no image":
        path.write_text("this is no image\n")
    elif how == "claims too much":
        image.header["dim"][1:4] = 32767
        raw = path.with_suffix("")
        raw.write_bytes(image.header.binaryblock + bytes(4))
        path.unlink()
    else:
        voxels = np.zeros(image.shape, np.float32)
        if how == "a label map":
            voxels[10:30, 10:30, 4:12] = 2
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)


def serial(out: Path, threads: int) -> dict[str, float]:
    """`complete` in a loop, with manifest and checkpoint in memory; a bad subject costs what it costs."""
    import torch

    from mrsynth.errors import InputError
    from mrsynth.io.store import Stock
    from mrsynth.tasks.batch.attempt import Models
    from mrsynth.tasks.complete.plan import CompleteOptions
    from mrsynth.tasks.complete.run import complete, plan

    torch.set_num_threads(threads)
    models, stock = Models(), Stock()
    models(stock.resolve(WEIGHTS))
    began, cpu, done = time.perf_counter(), time.process_time(), 0
    for folder in sorted((out / "cohort").iterdir()):
        request = CompleteOptions(folder=folder, out=out / "serial" / folder.name, weights=WEIGHTS)
        try:
            complete(request, todo=plan(request, stock=stock), models=models)
            done += 1
        except InputError:
            continue
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "done": done}


def batch(out: Path, threads: int) -> dict[str, float]:
    """The task of `mrsynth batch`, from discovery to the index."""
    import torch

    from mrsynth.tasks.batch import run

    torch.set_num_threads(threads)
    began, cpu = time.perf_counter(), time.process_time()
    done = run.batch(run.BatchOptions(root=out / "cohort", out=out / "batch", weights=WEIGHTS))
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "done": sum(record.status == "done" for record in done.records.values()),
    }


def alone(out: Path, run: str, threads: int) -> dict[str, float]:
    """A run in a fresh process."""
    words = [sys.executable, __file__, str(out), "--run", run, "--threads", str(threads)]
    told = subprocess.run(words, env=environment(threads), capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return figures


def killed(out: Path, threads: int, count: int) -> dict[str, Any]:
    """Kill a batch twice, and let it end. Looks whether what was done before a kill is left as it was."""
    journal, touched, kills = out / "killed" / "journal.jsonl", 0, []
    before: dict[Path, int] = {}
    began = time.perf_counter()
    for share in (1 / 3, 2 / 3):
        process = subprocess.Popen(command(out, "killed", threads), env=environment(threads), stdout=subprocess.DEVNULL)
        while len(done_in(journal)) < share * count and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        kills.append(process.wait())
        touched += sum(path.stat().st_mtime_ns != when for path, when in before.items())
        names = done_in(journal)
        before = {path: path.stat().st_mtime_ns for name in names for path in (out / "killed" / name).iterdir()}
    last = subprocess.run(command(out, "killed", threads), env=environment(threads), stdout=subprocess.DEVNULL)
    touched += sum(path.stat().st_mtime_ns != when for path, when in before.items())
    times = Counter(done_in(journal))
    return {
        "ends": [*kills, last.returncode],
        "seconds": time.perf_counter() - began,
        "done": len(times),
        "done_more_than_once": sum(n > 1 for n in times.values()),
        "files_touched_again": touched,
    }


def done_in(journal: Path) -> list[str]:
    """The subjects that a journal calls done, as often as it does."""
    if not journal.exists():
        return []
    names = []
    for line in journal.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        names += [record["subject"]] * (record["status"] == "done")
    return names


def workers(out: Path, threads: int) -> dict[str, Any]:
    """By two workers of our own."""
    began = time.perf_counter()
    words = [*command(out, "workers", threads), "--workers", "2"]
    status = subprocess.run(words, env=environment(threads), stdout=subprocess.DEVNULL).returncode
    return {"ends": [status], "seconds": time.perf_counter() - began}


def command(out: Path, run: str, threads: int) -> list[str]:
    """`mrsynth batch` into a folder named after the run."""
    start = [sys.executable, "-c", "from mrsynth.cli.app import main; main()", "batch"]
    return [
        *start,
        str(out / "cohort"),
        "-o",
        str(out / run),
        "--weights",
        WEIGHTS,
        "--threads",
        str(threads),
        "--quiet",
    ]


def environment(threads: int) -> dict[str, str]:
    """As a user has it, with so many threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}


def not_right(out: Path, run: str, bad: dict[str, str]) -> list[str]:
    """What of a run is not as it should be."""
    with (out / run / "summary.csv").open(newline="", encoding="utf-8") as file:
        status = {row["subject"]: row["status"] for row in csv.DictReader(file)}
    names = sorted(path.name for path in (out / "cohort").iterdir())
    wanted = {name: "failed" if name in bad else "done" for name in names}
    wrong = [f"{name} is {status.get(name)}, not {how}" for name, how in wanted.items() if status.get(name) != how]
    figures = Counter(done_in(out / run / "journal.jsonl"))
    wrong += [f"{name} was done {n} times" for name, n in figures.items() if n != 1]
    wrong += [f"{name} differs from the loop's" for name in names if name not in bad and differs(out, run, name)]
    wrong += [f"{path} is left" for path in (out / run).rglob(".partial-*")]
    return wrong


def differs(out: Path, run: str, name: str) -> bool:
    """Whether voxels, header or sidecar are others than those of the loop."""
    import nibabel

    image, sidecar = f"{name}_t1ce.nii.gz", f"{name}_t1ce.json"
    one, other = ((out / r / name / sidecar).read_bytes() for r in ("serial", run))
    a, b = (nibabel.load(out / r / name / image) for r in ("serial", run))
    same: Any = np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))  # type: ignore[attr-defined]
    return one != other or a.header != b.header or not same


def processor() -> str:
    """Its name, and what of it decides the speed of a network."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = said.get("flags", "").split()
    kinds = [word for flag, word in (("avx512_vnni", "AVX-512 VNNI"), ("amx_bf16", "AMX")) if flag in flags]
    bf16 = "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "no bf16"
    return f"{said.get('model name', 'unknown')} ({', '.join([*kinds, bf16])})"


if __name__ == "__main__":
    sys.exit(main())
