"""Where the error sits that is left after the straight-line fit, of the volumes that runs/measure/validate.sh made.

usage: python -m runs.measure.where DATA_ROOT OUT/made

DATA_ROOT as for runs/measure/validate.sh. Prints a Markdown table for each contrast, means over the subjects: PSNR_FIT,
and shares of the squared error in the brain,
  rim              within 3 voxels of where the brain ends
  brightest, darkest  the 2 % and the 10 % of voxels that are so in the true scan, which say where a look-alike is not
  smooth           what a Gaussian of 10 voxels leaves of the error: shading, not anatomy
  curve            what the best curve from the image's greys to the truth's would take away beyond the straight line
  tumour           inside the tumour's mask, where the subject has one; in brackets its share of the brain
Then, of the subjects in which something that enhances is marked (labels as in BraTS 2021), PSNR in parts of the brain,
before the fit and after that of the whole brain.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from mrsynth.contrasts import STANDARD
from mrsynth.plain import Doubles, Mask
from mrsynth.scores.protocols import Case
from runs.measure.made import made_cases

RIM = 3  # voxels
SMOOTH = 10.0  # voxels
LEVELS = 50  # greys of the curve
TUMOUR = {"tumour": frozenset(range(1, 256))}
REGIONS = {
    "whole tumour": frozenset({1, 2, 4}),
    "core": frozenset({1, 4}),
    "what enhances": frozenset({4}),
}
COLUMNS = ("rim", "brightest 2 %", "brightest 10 %", "darkest 10 %", "smooth", "curve", "tumour", "tumour's voxels")


def main() -> None:
    """One row per contrast."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print("| | dB | " + " | ".join(COLUMNS[:-1]) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for target in STANDARD:
        cases = [case for _, case in made_cases(Path(sys.argv[1]), Path(sys.argv[2]), target, TUMOUR)]
        found = [shares(case) for case in cases]
        cells = [f"{100 * mean(f[name] for f in found):.0f} %" for name in COLUMNS[:-2]]
        tumours = [(f["tumour"], f["tumour's voxels"]) for f in found if "tumour" in f]
        cells.append(
            "{:.0f} % ({:.0f} %)".format(*(100 * mean(column) for column in zip(*tumours, strict=True)))
            if tumours
            else ""
        )
        decibels = mean(-10 * np.log10(f["error"]) for f in found)
        print(f"| {target.label} | {decibels:.2f} | {' | '.join(cells)} |", flush=True)
    print(f"\n| | brain | {' | '.join(REGIONS)} | without tumour |\n|{'---|' * (len(REGIONS) + 3)}")
    for target in STANDARD:
        cases = [case for _, case in made_cases(Path(sys.argv[1]), Path(sys.argv[2]), target, REGIONS)]
        marked = [parts(case) for case in cases if case.region("what enhances").any()]
        print(f"| {target.label} | {' | '.join(map(decibels_of, zip(*marked, strict=True)))} |", flush=True)


def parts(case: Case) -> list[tuple[float, float]]:
    """Mean squared error before and after the fit: of the brain, each region, and the brain without a tumour."""
    truth = case.y[case.mask].astype(np.float64)
    before, after = ((image - truth) ** 2 for image in (case.p[case.mask], case.fit.voxels))
    inside = [case.region(name)[case.mask] for name in REGIONS]
    masks = [np.ones_like(inside[0]), *inside, ~inside[0]]
    return [(float(before[mask].mean()), float(after[mask].mean())) for mask in masks]


def decibels_of(errors: Sequence[tuple[float, float]]) -> str:
    """Means over subjects, as a cell."""
    return " / ".join(f"{mean(-10 * np.log10(error) for error in column):.2f}" for column in zip(*errors, strict=True))


def shares(case: Case) -> Mapping[str, float]:
    """By column, of one volume; `error` is the mean squared error after the fit, u squared."""
    brain, truth = case.mask, case.y[case.mask].astype(np.float64)
    made = case.fit.voxels.astype(np.float64)
    error = made - truth
    squares = error**2

    def share(where: Mask) -> float:
        return float(squares[where].sum() / squares.sum())

    depth = distance_transform_edt(np.pad(brain, 1))[1:-1, 1:-1, 1:-1][brain]
    dark, bright, brightest = np.quantile(truth, (0.1, 0.9, 0.98))
    found = {
        "error": float(squares.mean()),
        "rim": share(depth <= RIM),
        "brightest 2 %": share(truth > brightest),
        "brightest 10 %": share(truth > bright),
        "darkest 10 %": share(truth < dark),
        "smooth": 1 - float(((error - shading(error, brain)) ** 2).sum() / squares.sum()),
        "curve": 1 - float(((truth - best_curve(made, truth)) ** 2).sum() / squares.sum()),
    }
    tumour = case.region("tumour")
    if tumour.any():
        found |= {"tumour": share(tumour[brain]), "tumour's voxels": float(tumour[brain].mean())}
    return found


def shading(error: Doubles, brain: Mask) -> Doubles:
    """What changes slowly of an error (N,) in the brain (I, J, K): its mean around each voxel, by a Gaussian."""
    volume = np.zeros(brain.shape)
    volume[brain] = error
    weight = gaussian_filter(brain.astype(np.float64), SMOOTH)
    smooth: Doubles = (gaussian_filter(volume, SMOOTH) / np.maximum(weight, 1e-6))[brain]
    return smooth


def best_curve(made: Doubles, truth: Doubles) -> Doubles:
    """The truth (N,) as the greys (N,) of the image tell it: pieces of line between the means of like greys."""
    level = np.searchsorted(np.quantile(made, np.linspace(0, 1, LEVELS + 1)[1:-1]), made)
    count = np.bincount(level, minlength=LEVELS)
    greys, truths = (np.bincount(level, values, LEVELS)[count > 0] / count[count > 0] for values in (made, truth))
    curve: Doubles = np.interp(made, greys, truths)
    return curve


if __name__ == "__main__":
    main()
