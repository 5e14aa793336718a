"""The scripts for cohorts in examples/, run as far as one machine can: SLURM is a script that starts a job at once."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrsynth.contrasts import Contrast

CHECKOUT = Path(__file__).resolve().parents[1]
SBATCH = """#!/usr/bin/env bash
# A job that starts at once, in the background; its number is that of its process. The script is gone afterwards.
script=${!#}
{ cat "$script"; printf '%s\n' "$@"; } >>"$JOBS"
bash -c "$(cat "$script")" >>"$JOBS.log" 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = '#!/usr/bin/env bash\nkill "$@" 2>/dev/null\n'


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, write_subject_folder):
    """p0 to p2 lack a T1ce; p1's T2 is cut off."""
    root = tmp_path_factory.mktemp("a cohort")
    for seed in range(3):
        write_subject_folder(root, f"p{seed}", seed=seed, without=[Contrast.T1CE], suffix=".nii")
    cut = root / "p1" / "p1_t2.nii"
    cut.write_bytes(cut.read_bytes()[:5000])
    return root


@pytest.fixture
def world(tmp_path):
    """An environment whose `mrsynth`, `sbatch` and `scancel` are scripts in a folder of their own."""
    scripts = {
        "mrsynth": f"#!/bin/sh\nexec '{sys.executable}' -c 'from mrsynth.cli.app import main; main()' \"$@\"\n",
        "sbatch": SBATCH,
        "scancel": SCANCEL,
    }
    home = tmp_path / "bin"
    home.mkdir()
    for name, text in scripts.items():
        (home / name).write_text(text)
        (home / name).chmod(0o755)
    path = f"{home}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    slurm = {name for name in os.environ if name.startswith("SLURM_")} | {"PARTS"}
    kept = {name: value for name, value in os.environ.items() if name not in slurm}
    return {**kept, "PATH": path, "PYTHONPATH": str(CHECKOUT), "JOBS": str(tmp_path / "jobs"), "OMP_NUM_THREADS": "1"}


def example(name, *words, python=sys.executable, **world):
    start = [python] if name.endswith(".py") else ["bash"]
    command = [*start, str(CHECKOUT / "examples" / name), *map(str, words)]
    return subprocess.run(command, env=world, capture_output=True, text=True)


def status_of(out):
    with (out / "summary.csv").open(newline="") as file:
        return {row["subject"]: row["status"] for row in csv.DictReader(file)}


WANTED = {"p0": "done", "p1": "failed", "p2": "done"}


@pytest.mark.parametrize(
    ("slurm", "part"),
    [
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}, ("4", "2")),
        ({"SLURM_ARRAY_TASK_ID": "17", "SLURM_ARRAY_TASK_COUNT": "1", "PARTS": "100"}, ("100", "17")),
    ],
)
def test_a_job_of_an_array_does_its_part(slurm, part, cohort, tmp_path, world):
    """Of what is run, as a script in the place of mrsynth tells it."""
    (tmp_path / "bin" / "mrsynth").write_text("#!/usr/bin/env bash\nprintf '%s|' \"$@\"\n")
    done = example("slurm_array.sh", cohort, "out folder", "--seed", 1, **world, **slurm, SLURM_CPUS_PER_TASK="3")

    wanted = (
        f"batch|{cohort}|--out|out folder|--num-parts|{part[0]}|--part-id|{part[1]}|--threads|3|--no-progress|--seed|1|"
    )
    assert done.stdout == wanted, done.stderr


def test_a_script_for_arrays_says_what_it_lacks(cohort, world):
    usage = example("slurm_array.sh", **world)
    assert usage.returncode == 2 and "usage: sbatch" in usage.stderr and "exit status" in usage.stderr

    alone = example("slurm_array.sh", cohort, "out", **world)
    assert alone.returncode == 1 and "submit this with sbatch --array" in alone.stderr


@pytest.mark.slow
def test_the_jobs_of_an_array_do_a_cohort(cohort, tmp_path, world, tiny_checkpoint):
    out, slurm = tmp_path / "out", {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2"}
    words = (cohort, out, "--weights", tiny_checkpoint, "--no-self-check")
    ends = [example("slurm_array.sh", *words, **world, **slurm, SLURM_ARRAY_TASK_ID=str(n)) for n in (0, 1)]

    assert sorted(end.returncode for end in ends) == [0, 3], [end.stderr for end in ends]
    assert status_of(out) == WANTED


@pytest.mark.slow
def test_jobs_of_slurm_are_workers(cohort, tmp_path, world, tiny_checkpoint):
    pytest.importorskip("dask_jobqueue")
    out = tmp_path / "out"
    words = ("--jobs", 1, "--cores", 1, "--interface", "lo", "--sbatch=--qos=low")
    environment = tmp_path / "an environment"
    environment.symlink_to(sys.prefix, target_is_directory=True)
    python = environment / Path(sys.executable).relative_to(sys.prefix)
    words = (cohort, out, *words, "--weights", tiny_checkpoint, "--no-self-check")
    done = example("slurm_dask.py", *words, python=str(python), **world)

    assert done.returncode == 3, done.stderr
    assert status_of(out) == WANTED
    jobs = (tmp_path / "jobs").read_text()
    assert "#SBATCH --qos=low" in jobs and "--nthreads 1" in jobs and "--lifetime 28500s" in jobs


@pytest.mark.slow
def test_the_loop_does_a_cohort(cohort, tmp_path, world, tiny_checkpoint):
    out = tmp_path / "out"
    words = ("complete_cohort.sh", cohort, out, "--weights", tiny_checkpoint, "--no-self-check")
    first, again = example(*words, **world), example(*words, **world)

    assert (first.returncode, again.returncode) == (3, 3), first.stderr
    lines = dict(line.split("\t") for line in (out / "status.tsv").read_text().splitlines())
    assert lines == {"p0": "done before", "p1": "failed: unusable input", "p2": "done before"}
    assert (out / "p0" / "report.json").exists()
