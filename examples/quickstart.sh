#!/usr/bin/env bash
# From nothing to a report: install mrsynth, make a demo subject without T1ce, synthesise the T1ce.
# usage: bash examples/quickstart.sh [OUTPUT_FOLDER]
#
# OUTPUT_FOLDER   receives "demo cohort", made anew each time; default scratch/quickstart in the checkout
# MRSYNTH_VENV    the virtual environment to make and use; default .venv in the checkout
# PYTHON          the interpreter to make it with, 3.11 or newer; default python3
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${MRSYNTH_VENV:-$checkout/.venv}
out=${1:-$checkout/scratch/quickstart}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python is older than 3.11; set PYTHON to a newer interpreter." >&2
    exit 2
}

echo "Installing into $venv. The first time this downloads PyTorch."
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$checkout/constraints.txt" "$checkout[demo]"

# The space in the folder's name is on purpose: paths with spaces have to work.
cohort="$out/demo cohort"
rm -rf "$cohort"
mkdir -p "$out"
"$venv/bin/mrsynth" phantom "$cohort" --subjects 1 --seed 7 --without t1ce

for subject in "$cohort"/*/; do
    subject=${subject%/}
    "$venv/bin/mrsynth" complete "$subject"
    echo
    echo "The report: $subject/mrsynth/report.html"
done
