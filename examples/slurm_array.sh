#!/usr/bin/env bash
#SBATCH --job-name=mrsynth
#SBATCH --array=0-9
#SBATCH --cpus-per-task=4
#SBATCH --mem=6G
#SBATCH --time=08:00:00
#SBATCH --requeue
# Complete a cohort as a job array of SLURM: each job does its part, and all write into one folder.
# usage: sbatch [--array=0-9 --cpus-per-task=4 ...] examples/slurm_array.sh COHORT OUTPUT [options of `mrsynth batch`]
#        sbatch --array=0-99 examples/slurm_array.sh /data/scans /data/results --seed 1
#
# There are as many parts as the array has jobs. A job that is stopped or requeued goes on where it was: submit the same
# array again, whole, to do what is missing. `mrsynth batch COHORT -o OUTPUT --only-summary` then writes summary.csv and
# index.html of all parts. Set PARTS to submit single jobs of a larger array: PARTS=100 sbatch --array=17 ...
# exit status: that of `mrsynth batch`; 3: some subjects failed, the others are done
set -euo pipefail

if [ $# -lt 2 ] || [ ! -d "$1" ]; then
    sed -n '8,15s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
cohort=$1 output=$2
shift 2
: "${SLURM_ARRAY_TASK_ID:?is not set: submit this with sbatch --array}"
if [ -n "${PARTS:-}" ]; then
    part=$SLURM_ARRAY_TASK_ID
else
    PARTS=$SLURM_ARRAY_TASK_COUNT part=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))
fi

exec mrsynth batch "$cohort" --out "$output" --num-parts "$PARTS" --part-id "$part" \
    --threads "${SLURM_CPUS_PER_TASK:-1}" --no-progress "$@"
