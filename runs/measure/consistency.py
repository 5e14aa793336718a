"""How even errors are from slice to slice, of the volumes that runs/measure/validate.sh made.

usage: python runs/measure/consistency.py DATA_ROOT NAME=OUT/made [NAME=OUT/made ...]

DATA_ROOT as for runs/measure/validate.sh. Prints a Markdown table: CONSISTENCY of protocol brain3d, means over the
subjects. 1: errors are as rough across slices as within them; more: slices jump.
"""

import sys
from pathlib import Path
from statistics import mean

import numpy as np

from mrsynth.contrasts import STANDARD
from mrsynth.io.nifti import read_volume
from mrsynth.io.subjects import find_subjects, load_subject
from mrsynth.scans.volume import Volume
from mrsynth.scores.protocols import PROTOCOLS
from mrsynth.tasks.benchmark.measuring import scored_case
from mrsynth.tasks.complete.completion import in_u


def main() -> None:
    """One row per model."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    archives = [folder for folder in sorted(Path(sys.argv[1]).iterdir()) if folder.is_dir()]
    subjects = {s.name: s for archive in archives for s in find_subjects(archive)[0]}
    columns = [c.label for c in STANDARD]
    print("| model | " + " | ".join([*columns, "mean"]) + " |\n|" + "---|" * (len(columns) + 2))
    for pair in sys.argv[2:]:
        name, _, made = pair.partition("=")
        means = []
        for target in STANDARD:
            files = sorted(Path(made).glob(f"*_{target}/*_{target}.nii.gz"))
            if not files:
                raise SystemExit(f"{made}: no volumes such as CASE_{target}/CASE_{target}.nii.gz")
            values = []
            for file in files:
                subject = load_subject(subjects[file.parent.name.removesuffix(f"_{target}")])
                volume = read_volume(file)
                made_u = in_u(target, volume.voxels).astype(np.float32)
                case = scored_case(subject, target, Volume(made_u, volume.affine), {})
                values += [value for _, metric, value in PROTOCOLS["brain3d"].measure(case) if metric == "CONSISTENCY"]
            means.append(mean(values))
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in [*means, mean(means)]) + " |", flush=True)


if __name__ == "__main__":
    main()
