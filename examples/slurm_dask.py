"""Complete a cohort by workers that are jobs of SLURM, started by dask-jobqueue.

usage: python examples/slurm_dask.py COHORT OUTPUT [--jobs 10] [--cores 4] [--memory 6GB] [--walltime 08:00:00]
           [--interface ib0] [--sbatch OPTION ...] [options of `mrsynth batch`]
       python examples/slurm_dask.py /data/scans /data/results --jobs 100 --sbatch=--partition=short --seed 1

Needs `pip install 'mrsynth[cluster]' dask-jobqueue`, and a machine that jobs can reach, as a login node, for the
scheduler and the command; it uses little of it. Folders must be the same there and in the jobs. A job is one worker: a
process whose network uses all its cores. Jobs end by themselves some minutes before their time is up, and what they had
in hand is given to others. Ctrl-C ends the jobs; the same command goes on.
exit status: that of `mrsynth batch`; 3: some subjects failed, the others are done
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import dask
from dask_jobqueue import SLURMCluster


def main() -> int:
    """Start the jobs, and a batch that uses them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("cohort", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--cores", type=int, default=4)
    parser.add_argument("--memory", default="6GB")
    parser.add_argument("--walltime", default="08:00:00")
    parser.add_argument("--interface", help="the network by which jobs reach this machine")
    parser.add_argument("--sbatch", action="append", default=[], help="an option for every job, as --sbatch=--qos=low")
    asked, options = parser.parse_known_args()
    hours, minutes, seconds = map(int, asked.walltime.split(":"))
    lifetime = max(60, 3600 * hours + 60 * minutes + seconds - 300)
    python = dask.config.get("jobqueue.slurm.python", None) or shlex.quote(sys.executable)  # in a line of a shell
    with SLURMCluster(
        cores=asked.cores,
        processes=1,
        memory=asked.memory,
        walltime=asked.walltime,
        interface=asked.interface,
        python=python,
        job_extra_directives=asked.sbatch,
        worker_extra_args=["--lifetime", f"{lifetime}s", "--lifetime-stagger", "60s"],
    ) as cluster:
        cluster.scale(jobs=asked.jobs)
        words = ["mrsynth", "batch", asked.cohort, "--out", asked.output, "--dask", cluster.scheduler_address]
        return subprocess.run([*words, *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
