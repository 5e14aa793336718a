"""Variants of a method beside each other, from the results.csv that runs/measure/ablate.sh makes, one for each seed.

usage: python runs/measure/ablation_table.py RESULTS.csv [RESULTS.csv ...]

Prints a Markdown table. Checkpoints are named VARIANT-sSEED. A figure is the mean over seeds of the mean over subjects,
patterns and targets, in the brain; behind it stands the standard deviation over seeds, where there are several. The
last column is the difference of the PSNR from that of `full` with the same seed, with its standard deviation: what is
smaller than that says nothing.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from mrsynth.scores.rows import read_results

FIGURES = ("PSNR", "PSNR_FIT", "SSIM")
REFERENCE = "full"


def main() -> None:
    """Read, average, print."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    print("\n".join(table([Path(name) for name in sys.argv[1:]])))


def table(files: Sequence[Path]) -> list[str]:
    """The lines of the table."""
    values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for file in files:
        for row in read_results(file.read_text(encoding="utf-8"), str(file)):
            variant, _, seed = row.weights.rpartition("-s")
            if not re.fullmatch(r"\d+", seed):
                raise SystemExit(f"{file}: the checkpoint {row.weights!r} is not named VARIANT-sSEED.")
            if (row.protocol, row.region) == ("brain3d", "brain"):
                values[variant][seed][row.metric].append(row.value)
    refuse_unequal(values)
    lines = [f"| variant | seeds | {' | '.join(FIGURES)} | PSNR - {REFERENCE} |", "|---" * (3 + len(FIGURES)) + "|"]
    order = sorted(values, key=lambda variant: (variant != REFERENCE, variant))
    for variant in order:
        runs = values[variant]
        cells = [cell([mean(run[figure]) for run in runs.values()]) for figure in FIGURES]
        theirs = values.get(REFERENCE, {})
        changes = [mean(run["PSNR"]) - mean(theirs[seed]["PSNR"]) for seed, run in runs.items() if seed in theirs]
        change = cell(changes, "+") if changes and variant != REFERENCE else ""
        lines.append(f"| {variant} | {len(runs)} | {' | '.join(cells)} | {change} |")
    return lines


def refuse_unequal(values: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """Raise SystemExit where variants of one seed are means over different numbers of cases: some have failed."""
    for seed in sorted({seed for runs in values.values() for seed in runs}):
        cases = {variant: len(runs[seed]["PSNR"]) for variant, runs in values.items() if seed in runs}
        if len(set(cases.values())) > 1:
            raise SystemExit(f"seed {seed}: the variants do not have the same cases: {cases}")


def cell(means: list[float], sign: str = "") -> str:
    """One figure with its spread."""
    spread = f" ± {stdev(means):.3f}" if len(means) > 1 else ""
    return f"{mean(means):{sign}.3f}{spread}"


if __name__ == "__main__":
    main()
