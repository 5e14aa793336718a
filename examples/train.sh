#!/usr/bin/env bash
# Train FgC2F-UDiff on a folder of subjects, or go on with a run that was stopped.
# usage: bash examples/train.sh DATA RUN [CONFIG.yaml]
#
# DATA    holds one folder per subject (the layouts are in docs/data.md); subjects that lack a contrast take part too
# RUN     receives checkpoints, losses, validation scores and pictures; when a state was saved there, training resumes
# CONFIG  settings of the run; without it, the defaults
#
# SIGTERM, which a scheduler sends before it ends a job, saves the state and ends the run with status 130; starting this
# script again with the same arguments goes on from there, with the same losses as if it had never stopped.
# Needs the extra: pip install -c constraints.txt '.[train]'
set -euo pipefail

if [ $# -lt 2 ] || [ $# -gt 3 ] || [ ! -d "$1" ]; then
    sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
data=$1 run=$2
options=(--method fgc2f --data "$data" --out "$run")
[ $# -eq 3 ] && options+=(--config "$3")
[ -e "$run/state.pt" ] && options+=(--resume)

exec mrsynth train "${options[@]}"
