"""What tests of training runs ask for, how they stop a run, and how they read its tables."""

import csv
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrsynth.plain import Progress
from mrsynth.tasks.train.run import TrainOptions

MakeOptions = Callable[..., TrainOptions]
CLOCKS = ("seconds_per_iteration", "cpu_seconds")
ONE_ITERATION = """
name: small
method: {method: fgc2f, preset: tiny, network: {width: 8, groups: 4, multipliers: [1, 2], attention: []}, T: 8,
         sampler: ddim, steps: 1}
training: {iterations: 1, batch_size: 1, learning_rate: 1e-3, log_every: 1, save_every: 1, validate_every: 1,
           precision: fp32}
"""


def request_maker(method: str, data: Path, file: Path, text: str) -> MakeOptions:
    """options(out, **changes): the request of a run of `method` with the run file `text`; `a__b` sets the key a.b."""
    file.write_text(text, encoding="utf-8")

    def make(out: Path, **changes: Any) -> TrainOptions:
        overrides = {k.replace("__", "."): changes.pop(k) for k in list(changes) if "__" in k}
        return replace(TrainOptions(method, (data,), out, file, overrides, device="cpu"), **changes)

    return make


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a table of a run, without what clocks say."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]


def losses(out: Path) -> list[dict[str, str]]:
    """The rows of a run's losses.csv, without what clocks say."""
    return table(out / "losses.csv")


def stop_when(text: str, iteration: int | None = None, number: int = signal.SIGTERM) -> Progress:
    """A progress callback that has the process signalled in what begins with `text`, at `iteration` if given."""

    def progress(what: str, done: int, total: int) -> None:
        if what.startswith(text) and iteration in (None, done):
            os.kill(os.getpid(), number)

    return progress


def stop_at(iteration: int) -> Progress:
    """A progress callback that has the process signalled when so many iterations of the run are logged."""
    return stop_when("training", iteration)
