"""Variants of a method beside each other, from the results.csv that runs/measure/ablate.sh makes.

usage: python runs/measure/ablation_table.py OUT/table/results.csv

Prints a Markdown table. Checkpoints are named VARIANT-sSEED. A figure is the mean over seeds of the mean over subjects,
patterns and targets, in the brain; behind it stands the standard deviation over seeds, where there are several.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from mrsynth.scores.rows import read_results

FIGURES = ("PSNR", "PSNR_FIT", "SSIM")


def main() -> None:
    """Read, average, print."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    rows = read_results(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[1])
    values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        if (row.protocol, row.region) == ("brain3d", "brain"):
            values[re.sub(r"-s\d+$", "", row.weights)][row.weights][row.metric].append(row.value)
    print("| variant | seeds | " + " | ".join(FIGURES) + " |")
    print("|---" * (2 + len(FIGURES)) + "|")
    for variant, runs in values.items():
        cells = [cell([mean(run[figure]) for run in runs.values()]) for figure in FIGURES]
        print(f"| {variant} | {len(runs)} | {' | '.join(cells)} |")


def cell(means: list[float]) -> str:
    """One figure with its spread."""
    spread = f" ± {stdev(means):.3f}" if len(means) > 1 else ""
    return f"{mean(means):.3f}{spread}"


if __name__ == "__main__":
    main()
