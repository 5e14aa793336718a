#!/usr/bin/env bash
# Score the default output of `mrsynth complete` on the validation subjects: each of the four contrasts from the other three.
# usage: bash runs/measure/validate.sh DATA_ROOT BASELINE_TOOL OUT [options of mrsynth complete]
#
# DATA_ROOT       holds ms_mni/ms19, glioma_brats/BraTS-GLI-00027-000 and glioma_brats/BraTS2021_01478
# BASELINE_TOOL   the voxel regression script; its --predictions mode scores the volumes
# OUT             receives OUT/made/<case>_<target>/ and OUT/scores.json; copied to runs/results/NAME.json it is a row of the tables
set -euo pipefail
data=$1 tool=$2 out=$3
shift 3
python=${PYTHON:-python3}
cases=(ms_mni/ms19 glioma_brats/BraTS-GLI-00027-000 glioma_brats/BraTS2021_01478)

mkdir -p "$out"
for case in "${cases[@]}"; do
    name=$(basename "$case")
    for target in t1 t1ce t2 flair; do
        inputs="$out/inputs/${name}_$target/$name"
        mkdir -p "$inputs"
        for contrast in t1 t1ce t2 flair; do
            [ "$contrast" = "$target" ] || ln -sf "$(realpath "$data/$case/${name}_$contrast.nii.gz")" "$inputs/"
        done
        mrsynth complete "$inputs" -o "$out/made/${name}_$target" --no-self-check --no-progress -q --overwrite "$@"
    done
done
"$python" "$tool" "$data" --validation "${cases[@]##*/}" --predictions "$out/made" -o "$out/scores.json"
