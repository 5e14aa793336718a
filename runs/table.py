"""Markdown table of brain scores: the baseline beside one or more models.

usage: python runs/table.py NAME=rows.json [NAME=rows.json ...]      rows as the voxel regression script writes them
The regression's file holds two models; NAME picks "gbm" or "linear" there, otherwise all rows of the file are taken.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

TARGETS = ["t1", "t1ce", "t2", "flair"]
FIGURES = ["psnr_brain", "psnr_brain_fit", "psnr", "ssim"]


def rows_of(argument: str) -> tuple[str, list[dict]]:
    """The rows of one NAME=FILE."""
    name, _, path = argument.partition("=")
    rows = json.loads(Path(path).read_text())
    return name, [r for r in rows if r["model"] == name] or rows


def main() -> None:
    """Print the table: one row per model and target, then the mean over all cases and targets."""
    print(f"| model | target | {' | '.join(FIGURES)} |\n|---|---|{'---|' * len(FIGURES)}")
    for name, rows in map(rows_of, sys.argv[1:]):
        by_target = defaultdict(list)
        for row in rows:
            by_target[row["target"]].append(row)
        for target in TARGETS:
            print_row(name, target, by_target[target])
        print_row(name, f"**mean of {len(rows)}**", rows)


def print_row(name: str, target: str, rows: list[dict]) -> None:
    """One line of the table."""
    print(f"| {name} | {target} | {' | '.join(f'{mean(r[f] for r in rows):.3f}' for f in FIGURES)} |")


if __name__ == "__main__":
    main()
