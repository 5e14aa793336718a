"""What a training run leaves for people: losses and scores as CSV and for TensorBoard, and pictures."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrsynth.errors import InputError
from mrsynth.io.files import ensure_folder, write_bytes, write_text
from mrsynth.io.reading import LONGEST_TABLE, read_bounded


class RunLog:
    """What a run leaves for people: losses and scores as CSV and for TensorBoard, and pictures.

    Rows of iterations after the one a run resumes from are dropped: they will come again. Raises InputError at once for
    a table that is damaged. Nothing is written before the first row is, so that of several processes only the one that
    is called writes. Iterations are those of the run, over all its stages.
    """

    def __init__(self, out: Path, iteration: int):
        self.out, self.iteration = out, iteration
        self.rows: dict[str, list[dict[str, str]]] = {}
        self.board: Any = None
        for name in ("losses.csv", "validation.csv"):
            self.known(name)  # now, not after the first hour

    def losses(self, iteration: int, terms: Mapping[str, float], stage: str = "") -> None:
        """One row of `losses.csv`; with the stage, where a method has several."""
        self.add("losses.csv", [{"iteration": iteration, **({"stage": stage} if stage else {}), **terms}])
        group = f"train_{stage}" if stage else "train"
        self.scalars(iteration, {f"{group}/{name}": value for name, value in terms.items()})

    def validation(self, iteration: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of `validation.csv`: words say what was scored, the first two of them where; numbers are its figures."""
        if not rows:
            return
        self.add("validation.csv", [{"iteration": iteration, **row} for row in rows])
        for metric in (name for name, value in rows[0].items() if isinstance(value, float)):
            values = {":".join(str(v) for v in list(row.values())[:2]): row[metric] for row in rows}
            self.scalars(iteration, {f"validation_{metric}/{name}": value for name, value in values.items()})
            self.scalars(iteration, {f"validation/{metric}": float(np.mean(list(values.values())))})

    def picture(self, iteration: int, png: bytes) -> None:
        """`samples/000500.png`."""
        write_bytes(ensure_folder(self.out / "samples") / f"{iteration:06d}.png", png)

    def add(self, name: str, new: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to a CSV file, which is written anew as a whole."""
        rows = self.known(name)
        rows += [{k: f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in row.items()} for row in new]
        text = io.StringIO()
        writer = csv.DictWriter(text, dict.fromkeys(k for row in rows for k in row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.out / name, text.getvalue())

    def known(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file. Raises InputError for one that is damaged."""
        if name not in self.rows:
            path = self.out / name
            self.rows[name] = read_table(path, self.iteration) if path.exists() else []
        return self.rows[name]

    def has(self, name: str, iteration: int) -> bool:
        """Whether a CSV file has rows of an iteration."""
        return any(int(row["iteration"]) == iteration for row in self.known(name))

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve of TensorBoard."""
        if self.board is None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(log_dir=str(self.out / "tensorboard"), purge_step=self.iteration + 1)
        for name, value in values.items():
            self.board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Let TensorBoard write what it holds back."""
        if self.board is not None:
            self.board.close()


def read_table(path: Path, last: int) -> list[dict[str, str]]:
    """The rows of a run's CSV up to an iteration. Raises InputError for one that is damaged, or longer than any is."""
    try:
        every = csv.DictReader(io.StringIO(read_bounded(path, LONGEST_TABLE).decode()))
        rows = [row for row in every if int(row["iteration"]) <= last]
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row has another number of cells than there are columns")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"{path} is damaged ({error}), so rows cannot be added to it. Move it away: --resume begins a new one."
        ) from error
    return rows
