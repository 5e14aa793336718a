#!/usr/bin/env bash
# Train every small variant of a method and print their scores beside each other.
# usage: bash runs/ablate.sh METHOD OUT      run files: runs/ablations/METHOD/*.yaml
# Phantoms: eight to train, four to judge. OUT/table is a run of `mrsynth benchmark`; small scale, one seed: differences of
# a few tenths of a dB mean nothing.
set -euo pipefail
method=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
[ -d "$out/train" ] || mrsynth phantom "$out/train" --subjects 8 --seed 100 --quiet
[ -d "$out/judge" ] || mrsynth phantom "$out/judge" --subjects 4 --seed 200 --quiet
weights=()
for file in "$here/ablations/$method"/*.yaml; do
    run=$out/$(basename "$file" .yaml)
    resume=(); [ -f "$run/state.pt" ] && resume=(--resume)
    mrsynth train --method "$method" --data "$out/train" --config "$file" --out "$run" --quiet "${resume[@]}"
    weights+=(--weights "$run/checkpoint.safetensors")
done
mrsynth benchmark --dataset folder --data "$out/judge" --part all --patterns all --protocol brain3d --no-baselines --no-pictures \
    "${weights[@]}" --out "$out/table" --resume
