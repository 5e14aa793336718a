#!/usr/bin/env bash
# Install mrsynth with its weights into a folder of its own, for any user to run without a network and without writing there.
# usage: bash examples/containers/install.sh CHECKOUT PREFIX [cpu|cuda]
#
# PREFIX        becomes a virtual environment; PREFIX/bin has mrsynth, mrsynth-bids and brasyn
# PYTHON        the interpreter, 3.11 or newer; default python3
# TORCH_INDEX   where the CPU build of PyTorch lies; empty where the index that pip is set to has it
#
# The Dockerfile and the Apptainer definition beside this file do nothing else. Needs a network; what it installs does not.
set -euo pipefail

if [ $# -lt 2 ] || [ ! -f "$1/pyproject.toml" ]; then
    sed -n '2,9s/^# \?//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
checkout=$1 prefix=$2 variant=${3:-cpu}

torch=()
case $variant in
    cpu) index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
         [ -z "$index" ] || torch=(--extra-index-url "$index") ;;
    cuda) ;;                                      # the build for CUDA is what the usual index has for Linux
    *) echo "The variant is cpu or cuda, not $variant." >&2 && exit 2 ;;
esac

"${PYTHON:-python3}" -m venv "$prefix"
pip=("$prefix/bin/python" -m pip install --no-cache-dir --disable-pip-version-check -c "$checkout/constraints.txt")
"${pip[@]}" "${torch[@]}" torch
"${pip[@]}" "$checkout[strip]"                    # brain extraction brings its own two networks
install -m 755 "$checkout/examples/containers/brasyn.sh" "$prefix/bin/brasyn"
chmod -R a+rX "$prefix"

MRSYNTH_OFFLINE=1 "$prefix/bin/mrsynth" weights verify
