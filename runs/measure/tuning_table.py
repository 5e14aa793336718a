"""What tuning brought, from the benchmarks that runs/measure/tuning.sh makes.

usage: python runs/measure/tuning_table.py FILE [FILE ...]

FILE is a results.csv of one person, in which the checkpoints are named tuning-base and tuned-PERSON. Prints a Markdown
table: for each contrast that was made the means over people of the means over their scans, before and after, and in how
many people it became better.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from mrsynth.scores.rows import read_results

FIGURES = ("PSNR", "PSNR_FIT", "SSIM")
BEFORE = "tuning-base"


def main() -> None:
    """Read, average, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    print("\n".join(table(parser.parse_args().files)))


def table(files: Sequence[Path]) -> list[str]:
    """The lines of the table."""
    values: dict[tuple[str, str], dict[Path, dict[bool, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for file in files:
        for row in read_results(file.read_text(encoding="utf-8"), str(file)):
            if (row.protocol, row.region) == ("brain3d", "brain") and row.metric in FIGURES:
                values[str(row.target), row.metric][file][row.weights == BEFORE].append(row.value)
    if not values:
        raise SystemExit(f"{', '.join(map(str, files))}: no figures of the brain in protocol brain3d.")
    lines = ["| contrast | figure | before | after | gain | people it helped |", "|---|---|---|---|---|---|"]
    for target in dict.fromkeys(target for target, _ in values):
        for figure in FIGURES:
            people = values[target, figure].values()
            before, after = ([mean(person[first]) for person in people] for first in (True, False))
            helped = sum(b < a for b, a in zip(before, after, strict=True))
            digits = 3 if figure == "SSIM" else 2
            cells = [
                f"{mean(before):.{digits}f}",
                f"{mean(after):.{digits}f}",
                f"{mean(after) - mean(before):+.{digits}f}",
            ]
            lines.append(f"| {target} | {figure} | {' | '.join(cells)} | {helped} of {len(before)} |")
    return lines


if __name__ == "__main__":
    main()
