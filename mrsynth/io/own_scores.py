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

from mrsynth.io.checkpoint import problems
from mrsynth.io.fetched import held
from mrsynth.io.files import ensure_folder, write_text
from mrsynth.io.store import store_folder
from mrsynth.io.yaml_files import read_yaml
from mrsynth.plain import Plain
from mrsynth.scores.rows import Score

FILE = "scores.yaml"
MOST = 100  # benchmarks kept

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
    path = own_scores_file()
    try:
        return OwnFile.model_validate(read_yaml(path) or {}).benchmarks
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        wrong = problems(error)
    except (OSError, TypeError, ValueError) as error:
        wrong = str(error)
    log.warning("Your own scores in %s are not used: %s. Correct the file, or delete it.", path, wrong)
    return ()


def record_benchmark(benchmark: OwnBenchmark) -> Path:
    """Add a benchmark in the first place, in place of an earlier one of its data set. Raises OutputError."""
    path = own_scores_file()
    ensure_folder(path.parent, "keep your scores elsewhere (MRSYNTH_HOME names another folder)")
    with held(path.parent, FILE):
        others = [b for b in own_benchmarks() if b.dataset != benchmark.dataset]
        kept = OwnFile(benchmarks=tuple([benchmark, *others][:MOST]))
        write_text(path, yaml.safe_dump(kept.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return path
