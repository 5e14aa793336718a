#!/usr/bin/env bash
# Complete every subject folder of a cohort, one after another, and say at the end how each one fared.
# usage: bash examples/complete_cohort.sh COHORT OUTPUT [options of `mrsynth complete`]
#        bash examples/complete_cohort.sh scans results --fast --seed 1
#
# OUTPUT receives one folder per subject and status.tsv. A subject that is done (its folder holds report.json) is left
# alone, so that an interrupted run can simply be started again.
# exit status: 0 all done; 3 some subjects failed, the others are done; otherwise the status that stopped the run
set -euo pipefail

if [ $# -lt 2 ] || [ ! -d "$1" ]; then
    sed -n '2,8s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
cohort=${1%/} output=${2%/}
shift 2
mkdir -p "$output"
: >"$output/status.tsv"

failed=0
for folder in "$cohort"/*/; do
    [ -d "$folder" ] || continue
    name=$(basename "$folder")
    if [ -e "$output/$name/report.json" ]; then
        printf '%s\t%s\n' "$name" "done before" >>"$output/status.tsv"
        continue
    fi

    status=0
    mrsynth complete "$folder" --out "$output/$name" --no-progress "$@" || status=$?
    case $status in
        0) meaning="done, or nothing missing" ;;
        1) meaning="failed: unexpected error, or the result could not be written" ;;
        4) meaning="failed: unusable input" ;;
        6) meaning="failed: out of memory" ;;
        2) meaning="stopped: usage" ;;                # the options are wrong, and so for every other subject
        5) meaning="stopped: weights" ;;              # missing or damaged: the same for every other subject
        130) meaning="stopped: interrupted" ;;
        *) meaning="stopped: status $status" ;;       # a signal, for one
    esac
    printf '%s\t%s\n' "$name" "$meaning" >>"$output/status.tsv"
    case $meaning in
        failed*) failed=$((failed + 1)) ;;
        stopped*) echo "$name: $meaning" >&2 && exit "$status" ;;
    esac
done

cat "$output/status.tsv"
if [ "$failed" -gt 0 ]; then
    echo "$failed failed; the messages are above." >&2
    exit 3
fi
