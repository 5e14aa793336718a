#!/usr/bin/env bash
# Start-up time, wall time and peak memory of the command line on this machine.
# usage: bash runs/measure/speed_cli.sh SUBJECT_DIR      a subject of 240x240x155 voxels that lacks one contrast
set -euo pipefail
subject=$1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

measure() { # LABEL COMMAND...: seconds and the largest resident set of the command
    local label=$1
    shift
    python3 - "$label" "$@" <<'PY'
import resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL).returncode
seconds = time.perf_counter() - began
megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"{sys.argv[1]:28} {seconds:8.2f} s {megabytes:8.0f} MB   exit {code}", flush=True)
PY
}

measure "warm-up" mrsynth --help
measure "mrsynth --help" mrsynth --help
measure "mrsynth inspect" mrsynth inspect "$subject"
measure "mrsynth complete --fast" mrsynth complete "$subject" --fast -o "$out/fast" --no-progress
measure "mrsynth complete" mrsynth complete "$subject" -o "$out/default" --no-progress
