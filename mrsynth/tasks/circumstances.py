"""What decides a choice beside the checkpoints: the request, what the user's own benchmarks found, the machine."""

import os

from mrsynth.errors import WeightsError
from mrsynth.io.own_scores import own_benchmarks
from mrsynth.io.store import Stock
from mrsynth.preference import Circumstances, Recorded, is_at_hand
from mrsynth.sampling import Sampling


def circumstances(asked: Sampling, stock: Stock) -> Circumstances:
    """For one choice among what is in stock. Loads no torch."""
    return Circumstances(asked, recorded(stock), processors_for(asked.device))


def recorded(stock: Stock) -> tuple[Recorded, ...]:
    """What was recorded of the files that lie there now, the latest benchmark first."""
    benchmarks = own_benchmarks()
    named = {name for benchmark in benchmarks for name in benchmark.checkpoints}
    sums: dict[str, str] = {}
    for entry in (e for e in stock.entries if e.name in named and is_at_hand(e)):
        try:
            sums[entry.name] = stock.expected_sha256(entry)
        except WeightsError:  # of a file that cannot be read: whoever uses it will hear of that
            continue
    return tuple(
        Recorded(b.dataset, {n: own.scores for n, own in b.checkpoints.items() if own.sha256 == sums.get(n)})
        for b in benchmarks
    )


def processors_for(device: str) -> int | None:
    """How many processors to reckon with; None where the device asked for is none of them."""
    if device not in ("auto", "cpu"):
        return None
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1
