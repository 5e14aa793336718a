#!/usr/bin/env bash
# From nothing to a completed subject with weights of your own: phantoms, training, completion.
# usage: bash runs/first_run.sh METHOD OUT      METHOD has a run file runs/METHOD-phantom.yaml
set -euo pipefail
method=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
mrsynth phantom "$out/cohort" --subjects 4 --seed 100 --quiet
mrsynth phantom "$out/new" --subjects 1 --seed 7 --without t1ce --quiet
mrsynth train --method "$method" --data "$out/cohort" --config "$here/$method-phantom.yaml" --out "$out/run"
mrsynth complete "$out/new/phantom-000" --weights "$out/run/checkpoint.safetensors" --out "$out/completed"
