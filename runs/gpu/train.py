"""Train one method on a large GPU, for so many minutes, and go on where it was stopped.

usage: python -m runs.gpu.train RUN_FILE DATA OUT [--minutes N] [--device cuda] [--set KEY=VALUE ...]
           [--results FOLDER] [--results-mb N] [--no-state]

DATA       folders of subjects: what `python -m runs.gpu.corpus unpack` wrote; phantoms may lie there, too
OUT        the run folder of `mrsynth train`; where it holds a run, that goes on
--minutes  after so long everything is saved and the command ends with status 0; the same command goes on
--results  receives what is worth bringing back: the averaged weights in fp16, the figures, the configuration, and, in
           parts of --results-mb, the state to go on from. A state that lies there is taken where OUT holds none

The corpus is held on the device, a byte a voxel, and batches are augmented there (runs/gpu/feed.py). Everything else is
`mrsynth train`, so the checkpoint is one like any other.
"""

import argparse
import os
import shutil
import signal
import threading
from pathlib import Path

import torch

from mrsynth.devices import choose_device
from mrsynth.errors import Interrupted, UsageError
from mrsynth.io.checkpoint import read_checkpoint, write_checkpoint
from mrsynth.io.files import ensure_folder
from mrsynth.tasks.train.config import value_of
from mrsynth.tasks.train.run import TrainOptions, train
from runs.gpu.feed import DeviceFeed
from runs.gpu.parts import join, split

STATE = "state.pt"
KEPT = ("config.yaml", "subjects.yaml", "losses.csv", "validation.csv")
RESULTS_MB = 25.0


def train_for(options: TrainOptions, minutes: float | None) -> bool:
    """Train with the corpus on the device; whether the run is over. Saves and ends after so many minutes."""
    timer = None
    if minutes is not None:
        timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))  # as a scheduler would
        timer.daemon = True
        timer.start()
    try:
        train(options, lambda what, done, of: None, feed=DeviceFeed(choose_device(options.device)))
    except Interrupted:
        return False
    finally:
        if timer is not None:
            timer.cancel()
    return True


def bring_back(out: Path, results: Path, limit_mb: float, *, state: bool = True) -> list[Path]:
    """Put what is worth keeping into a folder; the paths of the files there."""
    ensure_folder(results)
    written = []
    for name in ("checkpoint.safetensors", "best.safetensors"):
        if (out / name).exists():
            write_checkpoint(results / name, read_checkpoint(out / name), torch.float16)
            written.append(results / name)
    for name in KEPT:
        if (out / name).exists():
            written.append(Path(shutil.copyfile(out / name, results / name)))
    if state and (out / STATE).exists():
        written += split(out / STATE, results, limit_mb)
    return written


def take_up(out: Path, results: Path) -> None:
    """A run that was brought back goes on in `out`, unless there is one already."""
    if (results / f"{STATE}.parts").exists() and not (out / STATE).exists():
        ensure_folder(out)
        join(results, STATE, out / STATE)
        for name in (*KEPT, "checkpoint.safetensors", "best.safetensors"):
            if (results / name).exists():
                shutil.copyfile(results / name, out / name)


def main() -> None:
    """Begin or go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--results-mb", type=float, default=RESULTS_MB)
    parser.add_argument("--no-state", action="store_true")
    args = parser.parse_args()
    if args.results is not None:
        take_up(args.out, args.results)
    if wrong := [setting for setting in args.settings if "=" not in setting]:
        raise UsageError(f"--set {wrong[0]}: expected KEY=VALUE, as in training.batch_size=64.")
    pairs = [setting.split("=", 1) for setting in args.settings]
    options = TrainOptions(
        method=None,
        data=(args.data,),
        out=args.out,
        config=args.run_file,
        overrides={key: value_of(value) for key, value in pairs},
        resume=(args.out / STATE).exists(),
        device=args.device,
    )
    over = train_for(options, args.minutes)
    if args.results is not None:
        for path in bring_back(args.out, args.results, args.results_mb, state=not args.no_state):
            print(path)
    print("finished" if over else "stopped; the same command goes on")


if __name__ == "__main__":
    main()
