"""How even errors are from slice to slice, of the volumes that runs/measure/validate.sh made.

usage: python -m runs.measure.consistency DATA_ROOT NAME=OUT/made [NAME=OUT/made ...]

DATA_ROOT as for runs/measure/validate.sh. Prints a Markdown table: CONSISTENCY of protocol brain3d, means over the
subjects. 1: errors are as rough across slices as within them; more: slices jump.
"""

import sys
from pathlib import Path
from statistics import mean

from mrsynth.contrasts import STANDARD
from mrsynth.scores.protocols import PROTOCOLS
from runs.measure.made import made_cases


def main() -> None:
    """One row per model."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    columns = [c.label for c in STANDARD]
    print("| model | " + " | ".join([*columns, "mean"]) + " |\n|" + "---|" * (len(columns) + 2))
    for pair in sys.argv[2:]:
        name, _, made = pair.partition("=")
        means = []
        for target in STANDARD:
            cases = [case for _, case in made_cases(Path(sys.argv[1]), Path(made), target)]
            figures = [figure for case in cases for figure in PROTOCOLS["brain3d"].measure(case)]
            means.append(mean(value for _, metric, value in figures if metric == "CONSISTENCY"))
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in [*means, mean(means)]) + " |", flush=True)


if __name__ == "__main__":
    main()
