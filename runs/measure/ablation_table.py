"""Variants of a method beside each other, from the results.csv that runs/measure/ablate.sh makes, one for each seed.

usage: python runs/measure/ablation_table.py [--means] FILE [FILE ...]

FILE is a results.csv, whose checkpoints are named VARIANT-sSEED, or what --means printed of such files. Prints a
Markdown table. A figure is the mean over seeds of the mean over subjects, patterns and targets, in the brain; behind it
stands the standard deviation over seeds, where there are several. The last column is the difference of the PSNR from
that of `full` with the same seed, with its standard deviation: what is smaller than that says nothing. --means prints
the means of each seed instead, as CSV: what runs/results keeps.
"""

import argparse
import csv
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from mrsynth.scores.rows import read_results

FIGURES = ("PSNR", "PSNR_FIT", "SSIM")
COLUMNS = ["variant", "seed", "cases", *FIGURES]
REFERENCE = "full"
Means = dict[str, dict[str, dict[str, float]]]  # variant -> seed -> figure -> mean, and cases: of how many


def main() -> None:
    """Read, average, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--means", action="store_true", help="print the means of each seed, as CSV")
    args = parser.parse_args()
    if not args.means:
        print("\n".join(table(args.files)))
        return
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    for variant, runs in means_in(args.files).items():
        for seed, run in sorted(runs.items()):
            out.writerow([variant, seed, int(run["cases"]), *(f"{run[figure]:.4f}" for figure in FIGURES)])


def means_in(files: Sequence[Path]) -> Means:
    """The means of every variant and seed.

    Raises SystemExit for a seed that is there twice, and where variants of one seed have other cases.
    """
    found: Means = defaultdict(dict)
    for file in files:
        text = file.read_text(encoding="utf-8")
        made = kept_means(text) if text.startswith(",".join(COLUMNS)) else means_of_rows(text, file)
        for variant, runs in made.items():
            if twice := found[variant].keys() & runs.keys():
                raise SystemExit(f"{file}: {variant} with seed {min(twice)} is in another of these files too.")
            found[variant].update(runs)
    refuse_unequal(found)
    return {variant: found[variant] for variant in sorted(found, key=lambda name: (name != REFERENCE, name))}


def kept_means(text: str) -> Means:
    """What --means printed."""
    found: Means = defaultdict(dict)
    for row in csv.DictReader(text.splitlines()):
        found[row["variant"]][row["seed"]] = {name: float(row[name]) for name in ("cases", *FIGURES)}
    return found


def means_of_rows(text: str, file: Path) -> Means:
    """Of the results.csv of a benchmark."""
    values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in read_results(text, str(file)):
        variant, _, seed = row.weights.rpartition("-s")
        if not re.fullmatch(r"\d+", seed):
            raise SystemExit(f"{file}: the checkpoint {row.weights!r} is not named VARIANT-sSEED.")
        if (row.protocol, row.region) == ("brain3d", "brain"):
            values[variant][seed][row.metric].append(row.value)
    return {
        variant: {
            seed: {"cases": len(run["PSNR"]), **{figure: mean(run[figure]) for figure in FIGURES}}
            for seed, run in runs.items()
        }
        for variant, runs in values.items()
    }


def table(files: Sequence[Path]) -> list[str]:
    """The lines of the table."""
    values = means_in(files)
    lines = [f"| variant | seeds | {' | '.join(FIGURES)} | PSNR - {REFERENCE} |", "|---" * (3 + len(FIGURES)) + "|"]
    theirs = values.get(REFERENCE, {})
    for variant, runs in values.items():
        cells = [cell([run[figure] for run in runs.values()]) for figure in FIGURES]
        changes = [run["PSNR"] - theirs[seed]["PSNR"] for seed, run in runs.items() if seed in theirs]
        change = cell(changes, "+") if changes and variant != REFERENCE else ""
        lines.append(f"| {variant} | {len(runs)} | {' | '.join(cells)} | {change} |")
    return lines


def refuse_unequal(values: Means) -> None:
    """Raise SystemExit where variants of one seed are means over different numbers of cases: some have failed."""
    for seed in sorted({seed for runs in values.values() for seed in runs}):
        cases = {variant: int(runs[seed]["cases"]) for variant, runs in values.items() if seed in runs}
        if len(set(cases.values())) > 1:
            raise SystemExit(f"seed {seed}: the variants do not have the same cases: {cases}")


def cell(means: list[float], sign: str = "") -> str:
    """One figure with its spread."""
    spread = f" ± {stdev(means):.3f}" if len(means) > 1 else ""
    return f"{mean(means):{sign}.3f}{spread}"


if __name__ == "__main__":
    main()
