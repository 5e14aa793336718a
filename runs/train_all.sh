#!/usr/bin/env bash
# Train what ships: start or resume the unfinished runs of a queue, one after the other, at the lowest priority.
# usage: bash runs/train_all.sh OUT ROOT [ROOT ...] [-- NAME ...]
#
# OUT    receives a run folder each: OUT/NAME; OUT/NAME/finished says that it is over
# ROOT   folders of subjects: the archives named in runs/corpus.yaml, and phantoms
# NAME   runs to train, by the names of their files in runs/; without any the whole queue below, in its order
#
# A run file with a line `# begins with: RUN` goes on from the averaged weights of OUT/RUN, which comes before it.
# SIGTERM or Ctrl-C stops the run that is going on after its iteration; the same command goes on with it. The state of
# other runs is left alone. `kill -STOP -- -PGID` pauses it all, `kill -CONT -- -PGID` goes on; PGID is in OUT/group.
# Paused time costs nothing: losses.csv counts the CPU seconds that were used.
set -euo pipefail
queue=(msg-ldm-fitted dfbk-{end,fitted} fgc2f-{planes,fitted,end} cwdm-{crops,end,long}-t1ce cwdm-{crops,end,fitted}-flair cwdm-{crops,end,fitted}-t2 cwdm-{crops,end,fitted}-t1)

out=$1
shift
roots=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    roots+=(--data "$1")
    shift
done
[ $# -gt 1 ] && shift && queue=("$@")
runs=$(dirname "${BASH_SOURCE[0]}")
mkdir -p "$out"
ps -o pgid= $$ | tr -d ' ' >"$out/group"
renice -n 19 $$ >/dev/null
echo 19 2>/dev/null >"/proc/$$/autogroup" || true # where every session of a terminal is weighed as one
export OMP_WAIT_POLICY=passive                     # threads that wait leave their core to others

for name in "${queue[@]}"; do
    [ -e "$out/$name/finished" ] && continue
    method=$(sed -n 's/^  method: *//p' "$runs/$name.yaml")
    begin=(--config "$runs/$name.yaml")
    before=$(sed -n 's/^# begins with: *//p' "$runs/$name.yaml")
    [ -n "$before" ] && begin+=(--init "$out/$before/checkpoint.safetensors")
    [ -e "$out/$name/state.pt" ] && begin=(--resume)
    mrsynth train --method "$method" "${roots[@]}" "${begin[@]}" --out "$out/$name" --no-progress &
    trained=$!
    trap 'kill -TERM $trained 2>/dev/null' TERM INT
    # a signal ends `wait` before the training has saved: wait again until it is gone
    while :; do
        status=0
        wait "$trained" || status=$?
        kill -0 "$trained" 2>/dev/null || break
    done
    trap - TERM INT
    [ "$status" = 0 ] || exit "$status"
    date -u +%FT%TZ >"$out/$name/finished"
done
