"""`mrsynth benchmark --record`: what was found decides from now on which checkpoint `complete` takes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import mean

from mrsynth.errors import UsageError
from mrsynth.io.own_scores import OwnBenchmark, OwnScores, record_benchmark
from mrsynth.preference import DECIDES
from mrsynth.sampling import Sampling
from mrsynth.scores.rows import Score

PROTOCOL = "brain3d"  # that of our own scores
MADE_UP = "phantom"


def check_record(dataset: str, protocols: Sequence[str], asked: Sampling) -> None:
    """Raise UsageError for a benchmark that says nothing of how checkpoints do when they are used."""
    if dataset == MADE_UP:
        raise UsageError("--record with --dataset phantom: phantoms are no patients, and would decide for patients.")
    if PROTOCOL not in protocols:
        raise UsageError(f"--record needs the protocol {PROTOCOL}, in which the scores of ours were measured.")
    changed = {
        "--mode": asked.mode,
        "--steps": asked.steps,
        "--sampler": asked.sampler,
        "--eta": asked.eta,
        "--variance": asked.variance,
        "--planes": asked.planes,
        "--cycle-spinning": asked.cycle_spinning or None,
        "--fast": asked.fast or None,
    }
    if given := [option for option, value in changed.items() if value is not None]:
        raise UsageError(
            f"--record with {' and '.join(given)}: what is recorded is how checkpoints do as they are used unless told "
            "otherwise. Leave one of the two out."
        )


def keep(rows: Sequence[Score], labels: Mapping[str, str], sums: Mapping[str, str]) -> str:
    """Keep the means over subjects of every checkpoint, pattern and target, and say so.

    rows     of one benchmark
    labels   its `dataset` and `split`
    sums     checkpoint -> SHA-256, hexadecimal; others are left out
    Raises UsageError when there is nothing to record, and what `record_benchmark` raises.
    """
    values: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if (row.protocol, row.region, row.metric) == (PROTOCOL, *DECIDES) and row.weights in sums:
            values[row.weights][row.pattern, row.target].append(row.value)
    if not values:
        raise UsageError("--record: this benchmark holds no score of a checkpoint.")
    region, metric = DECIDES
    means = {
        name: tuple(
            Score(
                pattern=pattern,
                target=target,
                protocol=PROTOCOL,
                region=region,
                metric=metric,
                value=round(mean(found), 3),
                subjects=len(found),
            )
            for (pattern, target), found in cases.items()
        )
        for name, cases in values.items()
    }
    checkpoints = {name: OwnScores(sha256=sums[name], scores=scores) for name, scores in means.items()}
    dataset = f"{labels['dataset']}, {labels['split']}"
    path = record_benchmark(OwnBenchmark(dataset=dataset, recorded=datetime.now(UTC), checkpoints=checkpoints))
    count = sum(map(len, means.values()))
    return f"Recorded {count} means in {path}: from now on they come first when `complete` chooses."
