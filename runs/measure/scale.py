"""What a hundred thousand subjects would take: measured on a few, extrapolated to many.

usage: python -m runs.measure.scale OUT [--subjects 4] [--threads 2] [--weights NAME]     measures: OUT/scale.json
       python -m runs.measure.scale --page SCALE.json [FIGURES.json]          writes the tables of docs/scale.md

FIGURES.json is of runs/measure/batch.py. Measured are, of `complete` on phantoms of full size with the checkpoint in
memory, processor seconds by stage, bytes read and written; of what one process does for all subjects: finding and
checking each, its line in the journal, the summary and index of many, and handing a task to dask. Processor seconds
depend little on what else the machine does; the wall time of a batch does, and is printed beside the load.
"""

import argparse
import json
import os
import pickle
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runs.measure.batch import processor

COUNT = 100_000
MACHINES = (1, 10, 100)
RECORDS = 5_000  # of which an index is made
TASKS = 500
COPIES = 100  # of a subject, by links, that are found and checked
PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", help="a checkpoint, instead of the one that is chosen")
    parser.add_argument("--page", type=Path, nargs="+")
    asked = parser.parse_args()
    if asked.page:
        scale, *batch = (json.loads(path.read_text(encoding="utf-8")) for path in asked.page)
        write_page(scale, batch[0] if batch else None)
        return 0
    figures = measure(asked.out, asked.subjects, asked.threads, asked.weights)
    (asked.out / "scale.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    return 0


def measure(out: Path, count: int, threads: int, weights: str | None) -> dict[str, Any]:
    """All figures."""
    import torch

    from mrsynth.contrasts import Contrast
    from mrsynth.io.nifti import read_geometry
    from mrsynth.tasks.phantom_subjects import PhantomOptions, make_phantoms

    torch.set_num_threads(threads)
    options = {"out": out / "full", "subjects": count, "without": (Contrast.T1CE,)}
    folders = make_phantoms(PhantomOptions.model_validate(options))
    shape = read_geometry(folders[0] / f"{folders[0].name}_t1.nii.gz").shape
    load = os.getloadavg()[0]
    figures: dict[str, Any] = {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "threads": threads}
    figures |= {"subjects": count, "shape": shape, **stages(folders, out, weights), **whole_batch(out, weights)}
    figures |= {
        "checking": checking(folders[0], out),
        "noting": noting(out),
        "summing_up": summing_up(out),
        **handing_out(folders[0], out),
    }
    return figures | {"load": [load, os.getloadavg()[0]]}


def stages(folders: list[Path], out: Path, weights: str | None) -> dict[str, Any]:
    """Processor seconds of each stage of a subject, and its bytes."""
    from mrsynth.tasks.batch.attempt import Models
    from mrsynth.tasks.complete.plan import CompleteOptions
    from mrsynth.tasks.complete.run import complete, plan
    from mrsynth.tasks.memory import peak_memory_mb

    models, spent = Models(), dict.fromkeys(("reading", "synthesising", "self-check", "writing"), 0.0)
    stage, since = "", 0.0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal stage, since
        now = time.process_time()
        if stage:
            spent[stage] += now - since
        stage, since = what if what in spent else "synthesising", now

    first = plan(CompleteOptions(folder=folders[0], out=out / "plan", weights=weights))
    assert first.checkpoint is not None
    models(first.checkpoint)
    made = [out / "alone" / folder.name for folder in folders]
    for folder, to in zip(folders, made, strict=True):
        complete(CompleteOptions(folder=folder, out=to, overwrite=True, weights=weights), tell, models=models)
        tell("reading", 0, 0)  # ends the last stage
        stage = ""
    return {
        "weights": first.checkpoint.card.name,
        "stages": {name: seconds / len(folders) for name, seconds in spent.items()},
        "read_bytes": sum(scan_bytes(folder) for folder in folders) / len(folders),
        "written_bytes": sum(path.stat().st_size for to in made for path in to.iterdir()) / len(folders),
        "report_bytes": sum((to / "report.html").stat().st_size for to in made) / len(folders),
        "peak_memory_mb": peak_memory_mb(),
    }


def scan_bytes(folder: Path) -> int:
    """Of the scans that are read."""
    return sum(p.stat().st_size for p in folder.glob("*.nii.gz") if not p.name.endswith("_seg.nii.gz"))


def whole_batch(out: Path, weights: str | None) -> dict[str, Any]:
    """Wall and processor seconds a subject of a batch, all included."""
    from mrsynth.tasks.batch.run import BatchOptions, batch

    shutil.rmtree(out / "batch", ignore_errors=True)
    wall, cpu = time.perf_counter(), time.process_time()
    done = batch(BatchOptions(root=out / "full", out=out / "batch", weights=weights))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    line = (out / "batch" / "journal.jsonl").stat().st_size / len(done.records)
    return {"batch_wall": wall / len(done.records), "batch_cpu": cpu / len(done.records), "journal_bytes": line}


def checking(folder: Path, out: Path) -> float:
    """Processor seconds to find a subject, choose its checkpoint and look at its headers."""
    from mrsynth.io.subjects import find_subjects
    from mrsynth.tasks.batch.journal import Journal
    from mrsynth.tasks.batch.run import BatchOptions, Work
    from mrsynth.tasks.batch.tree import Tree

    root, results = out / "many", out / "none"
    shutil.rmtree(root, ignore_errors=True)
    results.mkdir(exist_ok=True)
    for n in range(COPIES):
        (root / f"s{n:05d}").mkdir(parents=True)
        for path in folder.glob("*.nii.gz"):
            os.link(path, root / f"s{n:05d}" / path.name.replace(folder.name, f"s{n:05d}"))

    def look() -> None:
        work = Work(
            BatchOptions(root=root, out=results), Tree.of(root, results), Journal(results / "j.jsonl"), lambda _: None
        )
        work.check(find_subjects(root)[0])
        assert len(work.todo) == COPIES

    return cpu_of(look) / COPIES


def noting(out: Path) -> float:
    """Wall seconds for a line of a journal to be on this disk."""
    from mrsynth.tasks.batch.journal import Journal, Record

    journal = Journal(out / "lines.jsonl")
    record = Record(subject="s", status="done", thumbnail="A" * 10_000)
    began = time.perf_counter()
    for _ in range(100):
        journal.add(record)
    return (time.perf_counter() - began) / 100


def summing_up(out: Path) -> float:
    """Processor seconds a subject to read the journals again and write summary and index."""
    from mrsynth.tasks.batch.journal import Record, records_of
    from mrsynth.tasks.batch.run import write_summary
    from mrsynth.tasks.batch.tree import Tree

    line = max((out / "batch" / "journal.jsonl").read_bytes().splitlines(), key=len)
    usual = Record.model_validate_json(line)
    with tempfile.TemporaryDirectory(dir=out) as place:
        folder = Path(place)
        with (folder / "journal.jsonl").open("w", encoding="utf-8") as file:
            for n in range(RECORDS):
                record = usual.model_copy(update={"subject": f"s{n:06d}", "score": 20 + n % 7 / 10})
                file.write(record.model_dump_json(exclude_defaults=True) + "\n")
        seconds = cpu_of(lambda: write_summary(Tree(folder), records_of(folder)))
    return seconds / RECORDS


def handing_out(folder: Path, out: Path) -> dict[str, float]:
    """Processor seconds of command, scheduler and worker for a task of dask that does nothing; its bytes."""
    from distributed import LocalCluster

    from mrsynth.tasks.batch import cluster
    from mrsynth.tasks.batch.journal import Record
    from mrsynth.tasks.complete.plan import CompleteOptions
    from mrsynth.tasks.complete.run import plan

    request = CompleteOptions(folder=folder, out=out / "none" / "x")
    work = [(request, plan(request))] * TASKS
    nothing = Record(subject="s", status="done", thumbnail="A" * 10_000)
    cluster._attempt = lambda request, todo: nothing
    here = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        LocalCluster(processes=False, n_workers=1, threads_per_worker=2, memory_limit=0, **here) as made,
        cluster.workers_at(made.scheduler_address, None, 1) as workers,
    ):
        seconds = cpu_of(lambda: list(workers.records(work)))
    return {"handing_out": seconds / TASKS, "task_bytes": len(pickle.dumps(work[0]))}


def cpu_of(do: Callable[[], Any]) -> float:
    """Processor seconds of this process."""
    began = time.process_time()
    do()
    return time.process_time() - began


def write_page(scale: dict[str, Any], batch: dict[str, Any] | None) -> None:
    """Put the tables between their marks in docs/scale.md; those that were not measured stay."""
    text = PAGE.read_text(encoding="utf-8")
    tables = {"measured": measured(scale), "extrapolated": extrapolated(scale)}
    if batch is not None:
        tables["batch"] = of_batch(batch)
    for name, table in tables.items():
        mark = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", flags=re.DOTALL)
        text, found = mark.subn(table.replace("\\", r"\\"), text)
        assert found == 1, name
    PAGE.write_text(text, encoding="utf-8")


def measured(of: dict[str, Any]) -> str:
    """The first table."""
    s, total = of["stages"], sum(of["stages"].values())
    shape = " x ".join(map(str, of["shape"]))
    written = f"{mb(of['read_bytes'])}; {mb(of['written_bytes'])}, {mb(of['report_bytes'])}"
    line = f"{1000 * of['noting']:.1f} ms (wall), {of['journal_bytes'] / 1024:.0f} kB"
    task = f"{1000 * of['handing_out']:.1f} ms, {of['task_bytes'] / 1024:.1f} kB"
    rows = [
        ("reading three scans, finding the brain", f"{s['reading']:.1f} s"),
        ("preparing, and the network", f"{s['synthesising']:.1f} s"),
        ("self-check", f"{s['self-check']:.1f} s"),
        ("writing image, report and viewer", f"{s['writing']:.1f} s"),
        ("**together**", f"**{total:.1f} s**"),
        ("read; written, of which the report", written),
        ("memory of `complete`", f"{of['peak_memory_mb'] / 1024:.1f} GB"),
        ("finding and checking", f"{1000 * of['checking']:.1f} ms"),
        ("a line of the journal, on the disk", line),
        ("its share of summary and index", f"{1000 * of['summing_up']:.2f} ms"),
        ("handing a task to dask and taking its record", task),
    ]
    who = (
        f"{of['processor']}, {of['cores']} cores, {of['threads']} threads; {of['subjects']} phantom(s), {shape} voxels,"
    )
    busy = f"load of the machine {of['load'][0]:.1f} to {of['load'][1]:.1f}"
    whole = f"{of['batch_wall']:.1f} s a subject, {of['batch_cpu']:.1f} s of the processor, with all it does once"
    head = f"{who} without T1ce, made by {of['weights']}; {busy}. A batch took {whole}.\n\n"
    return head + "| of one subject | processor time |\n|---|---|\n" + "".join(f"| {a} | {b} |\n" for a, b in rows)


def extrapolated(of: dict[str, Any]) -> str:
    """The second table: a machine does cores / seconds subjects a second; one process checks and notes all."""
    each = sum(of["stages"].values()) / of["cores"]
    rows = []
    for machines in MACHINES:
        rate = machines / each  # subjects a second
        cells = [
            str(machines),
            hours(COUNT / rate),
            hours(COUNT * of["checking"]),
            f"{rate * (of['noting'] + of['handing_out']):.1%}",
            f"{rate * of['read_bytes'] / 1e6:.1f} and {rate * of['written_bytes'] / 1e6:.1f} MB/s",
            hours(COUNT * of["summing_up"]),
        ]
        rows.append(f"| {' | '.join(cells)} |\n")
    head = "| machines | completing | checking, before it | one command for all is busy | read, written | index |\n"
    results, journal = COUNT * of["written_bytes"] / 1e12, COUNT * of["journal_bytes"] / 1e9
    total = f"All results have {results:.1f} TB, and their journal {journal:.1f} GB."
    return f"{head}|---|---|---|---|---|---|\n{''.join(rows)}\n{total}\n"


def of_batch(of: dict[str, Any]) -> str:
    """The table of runs/measure/batch.py."""
    killed = of["killed"]
    once = f"{killed['done']} of {of['subjects'] - of['bad']} good ones done, {killed['done_more_than_once']} twice"
    rows = [
        ("`complete` in a loop, checkpoint in memory", f"{of['serial']['seconds']:.0f} s, {of['serial']['cpu']:.0f} s"),
        ("`batch`", f"{of['batch']['seconds']:.0f} s, {of['batch']['cpu']:.0f} s"),
        ("overhead of `batch`", f"{of['overhead']:+.1%}, {of['overhead_cpu']:+.1%}"),
        (
            "killed after a third and two thirds, resumed",
            f"{killed['seconds']:.0f} s; exit status {killed['ends'][-1]}",
        ),
        ("of that batch", f"{once}, {killed['files_touched_again']} finished files touched again"),
        ("`--workers 2`", f"{of['workers']['seconds']:.0f} s; exit status {of['workers']['ends'][-1]}"),
        ("differs from the loop, or is not as it should be", "; ".join(of["wrong"]) or "nothing"),
    ]
    size = " x ".join(map(str, of["size"]))
    what = f"{of['subjects']} phantoms of {size} voxels, {of['bad']} of them bad, by {of['weights']}"
    who = f"{of['processor']}, {of['cores']} cores, threads: {of['threads']}"
    load = f"load {min(of['load']):.1f} to {max(of['load']):.1f}"
    head = f"{what}. {who}; {load}.\n\n| | wall time, processor time |\n|---|---|\n"
    return head + "".join(f"| {a} | {b} |\n" for a, b in rows)


def mb(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e6:.1f} MB"


def hours(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


if __name__ == "__main__":
    sys.exit(main())
