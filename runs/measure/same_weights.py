"""A variant that differs in its sampling only: the weights of another, with this run file's configuration.

usage: python runs/measure/same_weights.py RUN_FILE CHECKPOINT OUT NAME

Nothing is trained. Writes OUT, a checkpoint called NAME. A run file of another network than CHECKPOINT is refused.
"""

import sys
from pathlib import Path

from mrsynth.io.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from mrsynth.io.files import ensure_folder
from mrsynth.methods import Method, build_method
from mrsynth.tasks.models import tensors_misfit
from mrsynth.tasks.train.cards import sampling_of
from mrsynth.tasks.train.config import read_run_file, run_text


def main() -> None:
    """Read both, join them, write."""
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    run_file, source, out = map(Path, sys.argv[1:4])
    theirs = read_checkpoint(source)
    config = read_run_file(run_file, run_text(run_file, {})["method"]["method"])
    method = build_method(config.method)
    assert isinstance(method, Method)
    if wrong := tensors_misfit(method, theirs.tensors):
        raise SystemExit(f"{run_file} describes another network than {source} holds: {'; '.join(wrong[:3])}")
    card = theirs.card.model_copy(update={"name": sys.argv[4], "sampling": sampling_of(method)})
    ensure_folder(out.parent)
    write_checkpoint(out, Checkpoint(card, config.method, theirs.preparation, theirs.tensors))


if __name__ == "__main__":
    main()
