"""What the user's own benchmarks found, in `scores.yaml` beside the store of checkpoints.

    benchmarks: [{dataset, recorded, checkpoints: {NAME: {sha256, scores: [...]}}}]

One entry for each data set and part of it, the latest first; recording the same again replaces the former. A score
counts for the very file it was measured with.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import AwareDatetime, ValidationError

from mrsynth.errors import InputError
from mrsynth.io.checkpoint import problems
from mrsynth.io.fetched import held
from mrsynth.io.files import ensure_folder, write_text
from mrsynth.io.store import store_folder
from mrsynth.io.yaml_files import LONGEST_YAML, read_yaml
from mrsynth.plain import Plain
from mrsynth.scores.rows import Score

FILE = "scores.yaml"

log = logging.getLogger(__name__)


class OwnScores(Plain):
    """Of one checkpoint: the SHA-256 of its file (hexadecimal), and means over subjects."""

    sha256: str
    scores: tuple[Score, ...]


class OwnBenchmark(Plain):
    """One benchmark: its data set and part in words, when it was recorded, and checkpoints by name."""

    dataset: str
    recorded: AwareDatetime
    checkpoints: Mapping[str, OwnScores]


class OwnFile(Plain):
    """The whole file."""

    benchmarks: tuple[OwnBenchmark, ...] = ()


def own_scores_file() -> Path:
    """Where they are kept; it need not exist."""
    return store_folder().parent / FILE


def own_benchmarks() -> Sequence[OwnBenchmark]:
    """All that was recorded, the latest first. A file that cannot be used is logged as a warning and counts as none."""
    try:
        return _read(own_scores_file())
    except InputError as error:
        log.warning("%s", error)
        return ()


def record_benchmark(benchmark: OwnBenchmark) -> Path:
    """Add a benchmark in the first place, in place of an earlier one of its data set; the last go where it grows long.

    Raises OutputError, and InputError for a file that cannot be used: it is not replaced, since it may be mended.
    """
    path = own_scores_file()
    ensure_folder(path.parent, "keep your scores elsewhere (MRSYNTH_HOME names another folder)")
    with held(path.parent, FILE):
        kept = [benchmark, *(b for b in _read(path) if b.dataset != benchmark.dataset)]
        while len(text := _text(kept)) > LONGEST_YAML:
            kept.pop()
        write_text(path, text)
    return path


def _read(path: Path) -> Sequence[OwnBenchmark]:
    try:
        return OwnFile.model_validate(read_yaml(path) or {}).benchmarks
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        wrong = problems(error)
    except (OSError, TypeError, ValueError) as error:
        wrong = str(error)
    raise InputError(f"Your own scores in {path} are not used: {wrong}. Correct the file, or delete it.")


def _text(benchmarks: Sequence[OwnBenchmark]) -> str:
    """As it is written: in ASCII, so that a letter is a byte."""
    return yaml.safe_dump(OwnFile(benchmarks=tuple(benchmarks)).model_dump(mode="json"), sort_keys=False)
