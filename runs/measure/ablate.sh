#!/usr/bin/env bash
# Train every small variant of a method and print their scores beside each other, with their spread over seeds.
# usage: bash runs/measure/ablate.sh METHOD OUT [SEED ...]      variants: runs/ablations/METHOD/*.yaml; seed 1 if none is given
#
# Phantoms: eight to train, two to judge. OUT/table is a run of `mrsynth benchmark`, OUT/table.md what this prints. What
# is already trained under OUT stays; what was interrupted goes on.
set -euo pipefail
method=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
shift 2
[ $# -gt 0 ] || set -- 1
[ -d "$out/train" ] || mrsynth phantom "$out/train" --subjects 8 --seed 100 --quiet
[ -d "$out/judge" ] || mrsynth phantom "$out/judge" --subjects 2 --seed 200 --quiet
if [ "$method" = dfbk ] && [ ! -f "$out/tokens.npz" ]; then  # two controls read the tokens of an encoder
    "${PYTHON:-python3}" "$here/random_bert.py" "$out/random-bert"
    mrsynth weights embed-text --encoder "$out/random-bert" --encoder-name random-bert --length 96 --out "$out/tokens.npz" --quiet
fi
weights=()
for file in "$here/../ablations/$method"/*.yaml; do
    for seed in "$@"; do
        name=$(basename "$file" .yaml)-s$seed run=$out/$(basename "$file" .yaml)-s$seed
        options=(--quiet)
        if [ -f "$run/state.pt" ]; then options+=(--resume); fi
        if grep -q random-bert "$file"; then options+=(--tokens "$out/tokens.npz"); fi
        mrsynth train --method "$method" --data "$out/train" --config "$file" --set "training.seed=$seed" --set "name=$name" \
            --out "$run" "${options[@]}"
        weights+=(--weights "$run/checkpoint.safetensors")
    done
done
mrsynth benchmark --dataset folder --data "$out/judge" --part all --protocol brain3d --no-baselines --no-pictures \
    "${weights[@]}" --out "$out/table" --resume
"${PYTHON:-python3}" "$here/ablation_table.py" "$out/table/results.csv" | tee "$out/table.md"
