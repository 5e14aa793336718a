#!/usr/bin/env bash
# The BraSyn challenge: of every subject below INPUT three contrasts are there, and the fourth goes to OUTPUT.
# usage: brasyn [INPUT [OUTPUT [options of `mrsynth batch`]]]      default /input and /output
#
# INPUT    one folder a subject, BraTS-GLI-00001-000/BraTS-GLI-00001-000-{t1n,t1c,t2w,t2f}.nii.gz; or the folder of one
# OUTPUT   receives BraTS-GLI-00001-000-t1c.nii.gz and so on, all in one folder
# exit status: 0 all made; 2 something of that name was there; 3 some could not be made, the others are there; otherwise as
# of `mrsynth batch`
set -euo pipefail

input=${1:-/input} output=${2:-/output}
shift $(($# < 2 ? $# : 2))
work=$output/.brasyn                              # on the disk of the results; a run that was killed goes on from it

mrsynth batch "$input" --out "$work" --no-self-check --no-viewer --no-progress --quiet "$@" >/dev/null &
child=$!
trap 'kill "$child"; wait "$child" || true; exit 130' INT TERM
status=0
wait "$child" || status=$?
trap - INT TERM
case $status in
    0) ;;
    3) grep ',failed,' "$work/summary.csv" >&2 ;;
    *) exit "$status" ;;
esac

for image in "$work"/*/*-{t1n,t1c,t2w,t2f}.nii.gz; do
    target=$output/${image##*/}
    if [ -e "$target" ]; then
        echo "$target was there before; the new one stays in $work." >&2
        status=2
    elif [ -e "$image" ]; then                    # else a pattern that nothing matched
        mv "$image" "$target"
    fi
done
[ "$status" -eq 2 ] || rm -rf "$work"
exit "$status"
