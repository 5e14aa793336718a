#!/usr/bin/env bash
# Train the small variants of a paper's ablations and print their scores beside each other, with their spread over seeds.
# usage: [HOURS=H] bash runs/measure/ablate.sh METHOD|all OUT [SEED ...]
#
# METHOD  fgc2f, cwdm, msg-ldm or dfbk: variants runs/ablations/METHOD/*.yaml; all: the four of them, one after the other
# SEED    1 if none is given. Every variant is trained with the first before any is with the second; those that are no
#         row of a paper (`# Control ...` in their run file) with seed 1 alone
# HOURS   CPU hours that all of it may take, counted over calls: once they are spent no further run is begun, those that are
#         done are still scored, and the tables say how many seeds each variant has
#
# Measured on one core: fgc2f 60 CPU seconds to train a variant and 30 to judge it; cwdm 60 to train (32 channels 140), and
# one for each step of the chain to judge.
#
# Phantoms of 4 mm: eight to train, two to judge. Images are samples (`--mode sample`), made by the chains that the run
# files name. OUT/METHOD holds a run folder for each variant and seed, a run of `mrsynth benchmark` for each seed, and
# table.md, which is also printed. What is done stays; what was interrupted goes on.
# A run file with a line `# weights: VARIANT` differs in its sampling only and takes the weights of that variant; one with
# `# tokens: ENCODER` reads the tokens of random_bert.py or, where it is installed, of minilm.py.
set -euo pipefail
methods=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
shift 2
[ "$methods" != all ] || methods="fgc2f cwdm msg-ldm dfbk"
[ $# -gt 0 ] || set -- 1
python=${PYTHON:-python3}
export OMP_WAIT_POLICY=passive
mkdir -p "$out"
before=$(cat "$out/cpu_seconds" 2>/dev/null || echo 0)

spent() { # CPU seconds of this call's commands and of earlier calls; `times` would count nothing in a subshell
    times >"$out/.times"
    tail -1 "$out/.times" | sed 's/[ms]/ /g' | awk -v before="$before" '{print int(before + 60 * $1 + $2 + 60 * $3 + $4)}' >"$out/cpu_seconds"
}

affordable() {
    spent
    [ -z "${HOURS:-}" ] && return 0
    awk -v s="$(cat "$out/cpu_seconds")" -v h="$HOURS" 'BEGIN {exit !(s < 3600 * h)}'
}

finish() { # variant and seed: train, resume, or take the weights of another
    local file=$1 seed=$2 variant from run
    variant=$(basename "$file" .yaml) run=$out/$method/$(basename "$file" .yaml)-s$seed
    from=$(sed -n 's/^# weights: *//p' "$file")
    if [ -n "$from" ]; then
        finish "$(dirname "$file")/$from.yaml" "$seed"
        "$python" "$here/same_weights.py" "$file" "$out/$method/$from-s$seed/checkpoint.safetensors" \
            "$run/checkpoint.safetensors" "$variant-s$seed"
    elif [ ! -e "$run/finished" ]; then
        local options=(--quiet)
        if [ -e "$run/state.pt" ]; then options+=(--resume); fi
        tokens=$(sed -n 's/^# tokens: *//p' "$file")
        if [ -n "$tokens" ]; then options+=(--tokens "$out/tokens-$tokens.npz"); fi
        mrsynth train --method "$method" --data "$out/train" --config "$file" --set "training.seed=$seed" \
            --set "name=$variant-s$seed" --out "$run" "${options[@]}"
    fi
    touch "$run/finished"
}

[ -d "$out/train" ] || mrsynth phantom "$out/train" --subjects 8 --seed 100 --spacing 4 4 4 --quiet
[ -d "$out/judge" ] || mrsynth phantom "$out/judge" --subjects 2 --seed 200 --spacing 4 4 4 --quiet

skipped() { # a run file with a line `# tokens: ENCODER` reads tokens that are made here once, where the encoder can be had
    local name folder
    name=$(sed -n 's/^# tokens: *//p' "$1")
    [ -n "$name" ] && [ ! -e "$out/tokens-$name.npz" ] || return 1
    case $name in
        random-bert)
            folder=$out/random-bert
            "$python" "$here/random_bert.py" "$folder"
            ;;
        minilm) folder=$("$python" "$here/minilm.py") || return 0 ;;
        *) echo "$1: unknown encoder $name" >&2 && exit 2 ;;
    esac
    mrsynth weights embed-text --encoder "$folder" --encoder-name "$name" --length 96 --out "$out/tokens-$name.npz" --quiet
    return 1
}

for seed in "$@"; do
    for method in $methods; do
        weights=() variants=$here/../ablations/$method
        for file in "$variants/full.yaml" "$variants"/[!f]*.yaml "$variants"/f[!u]*.yaml; do # what the others are beside first
            [ -e "$file" ] || continue
            if [ "$seed" != 1 ] && grep -q '^# Control' "$file"; then continue; fi
            if skipped "$file"; then continue; fi
            checkpoint=$out/$method/$(basename "$file" .yaml)-s$seed/checkpoint.safetensors
            if [ ! -e "$(dirname "$checkpoint")/finished" ]; then
                if ! affordable; then
                    echo "left out, for $HOURS CPU hours are spent: $method, $(basename "$file" .yaml), seed $seed" >&2
                    continue
                fi
                finish "$file" "$seed"
            fi
            weights+=(--weights "$checkpoint")
        done
        [ ${#weights[@]} -gt 0 ] || continue
        mrsynth benchmark --dataset folder --data "$out/judge" --part all --protocol brain3d --no-baselines --no-pictures --mode sample \
            "${weights[@]}" --out "$out/$method/seed-$seed" --resume --quiet
    done
done
spent
for method in $methods; do
    results=("$out/$method"/seed-*/results.csv)
    [ -e "${results[0]}" ] || continue
    echo "$method"
    "$python" "$here/ablation_table.py" "${results[@]}" | tee "$out/$method/table.md"
done
echo "CPU seconds in all: $(cat "$out/cpu_seconds")"
