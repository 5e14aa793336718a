#!/usr/bin/env bash
# What a few subjects of one's own bring: a network tuned on two people of a hospital it has not seen, judged on the third.
# usage: bash runs/measure/tuning.sh OUT PEOPLE ROOT [ROOT ...]
#
# PEOPLE  the folder ms_longitudinal: each person is judged once, by a network tuned on the scans of the two others
# ROOT    folders of subjects to train on before that: the scans of runs/corpus.yaml but PEOPLE
# OUT     receives OUT/base, OUT/tuned-PERSON, and OUT/judged-PERSON: benchmarks of both networks, each contrast from the two
#         others that are there. Prints means over the scans of all people, before and after
#
# 300 iterations of tuning at a rate of 1e-4, which falls. What is done stays; what was interrupted goes on.
set -euo pipefail
out=$1 people=$2 here=$(cd "$(dirname "$0")" && pwd)
shift 2
python=${PYTHON:-python3}
roots=()
for root in "$@"; do roots+=(--data "$root"); done
mkdir -p "$out"

[ -e "$out/base/finished" ] || {
    begin=(--config "$here/../tuning-base.yaml")
    [ -e "$out/base/state.pt" ] && begin=(--resume)
    mrsynth train --method fgc2f "${roots[@]}" "${begin[@]}" --out "$out/base" --no-progress
    touch "$out/base/finished"
}
persons=$(for scan in "$people"/*/; do basename "$scan"; done | sed 's/s[0-9]*$//' | sort -u)
for person in $persons; do
    mkdir -p "$out/own-$person" "$out/third-$person"
    for scan in "$people"/*/; do
        case $(basename "$scan") in
            "$person"*) ln -sfn "$(realpath "$scan")" "$out/third-$person/" ;;
            *) ln -sfn "$(realpath "$scan")" "$out/own-$person/" ;;
        esac
    done
    tuned=$out/tuned-$person
    if [ ! -e "$tuned/finished" ]; then
        begin=(--init "$out/base/checkpoint.safetensors" --set "name=tuned-$person" --set training.iterations=300
            --set training.learning_rate=1e-4 --set training.decay=cosine --set training.ema=0.99 --set training.workers=1
            --set training.save_every=100)
        [ -e "$tuned/state.pt" ] && begin=(--resume)
        mrsynth train --data "$out/own-$person" "${begin[@]}" --out "$tuned" --no-progress
        touch "$tuned/finished"
    fi
    mrsynth benchmark --dataset folder --data "$out/third-$person" --part all --protocol brain3d --no-baselines --no-pictures \
        --patterns t1+t2:flair,t1+flair:t2,t2+flair:t1 --weights "$out/base/checkpoint.safetensors" --weights "$tuned/checkpoint.safetensors" --out "$out/judged-$person" --resume --quiet
done
"$python" "$here/tuning_table.py" "$out"/judged-*/results.csv
