"""How far off registration and brain extraction are on real raw scans with known answers.

usage: python -m runs.measure.raw RAW ALIGNED [--reference t1ce]

RAW      folder of one patient, as the scanner wrote it: NAME_t1_raw.nii.gz ... and NAME_t1_brainmask.nii.gz ...
ALIGNED  the same patient's scans on one grid and stripped: registering each raw scan to its twin there gives the true
         transform between any two of them. The twin is itself a registration: its own uncertainty is estimated by
         registering each twin to the reference's twin, which should give no movement at all.

Prints Markdown: mean displacement inside the brain in mm, by the headers alone, after the first registration, and after
that inside the brain; Dice of the brain found in each contrast, and CPU seconds.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.nifti import read_volume
from mrsynth.plain import Doubles, Mask
from mrsynth.scans.alignment import displacement, register
from mrsynth.scans.raw import DILATION_MM, dilated
from mrsynth.scans.stripping import brain_by_deepbet
from mrsynth.scans.volume import Volume


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("aligned", type=Path)
    parser.add_argument("--reference", type=Contrast, default=Contrast.T1CE)
    args = parser.parse_args()
    raw = {c: read_volume(only(args.raw, f"*_{c}_raw.nii.gz")) for c in STANDARD}
    brains = {c: read_volume(only(args.raw, f"*_{c}_brainmask.nii.gz"), labels=True).voxels > 0 for c in STANDARD}
    twins = {c: read_volume(only(args.aligned, f"*_{c}.nii.gz")) for c in STANDARD}
    home = args.reference

    print("| contrast | Dice of the brain | CPU s |\n|---|---|---|")
    found: dict[Contrast, Mask] = {}
    for c in STANDARD:
        began = time.process_time()
        found[c] = brain_by_deepbet(raw[c])
        print(f"| {c.label} | {dice(found[c], brains[c]):.3f} | {time.process_time() - began:.1f} |", flush=True)

    to_twin = {c: register(stripped(raw[c], brains[c]), twins[c], check_mirror=False).transform for c in STANDARD}
    points = inside(raw[home], brains[home])
    wide = dilated(found[home], raw[home], DILATION_MM)
    print(f"\n| contrast onto {home.label} | headers | first | in the brain | twins apart | CPU s |")
    print("|---|---|---|---|---|---|")
    for c in (c for c in STANDARD if c is not home):
        true = np.linalg.inv(to_twin[c]) @ to_twin[home]
        began = time.process_time()
        first = register(raw[home], raw[c])
        second = register(raw[home], raw[c], inside=wide, start=first.transform, check_mirror=False)
        seconds = time.process_time() - began
        apart = register(twins[home], twins[c], check_mirror=False).transform
        figures = [displacement(t, true, points) for t in (np.eye(4), first.transform, second.transform)]
        figures.append(displacement(apart, np.eye(4), inside(twins[home], twins[home].voxels > 0)))
        print(f"| {c.label} | {' | '.join(f'{f:.2f}' for f in figures)} | {seconds:.0f} |", flush=True)


def only(folder: Path, pattern: str) -> Path:
    """The one file of that name."""
    (path,) = folder.glob(pattern)
    return path


def stripped(volume: Volume, brain: Mask) -> Volume:
    """The scan with nothing outside the brain."""
    return Volume(np.where(brain, volume.voxels, 0).astype(np.float32), volume.affine)


def inside(volume: Volume, brain: Mask) -> Doubles:
    """Some thousand points of the brain, (N, 3) in mm."""
    places = np.argwhere(brain)[::50]
    points: Doubles = (np.c_[places, np.ones(len(places))] @ volume.affine.T)[:, :3]
    return points


def dice(one: Mask, other: Mask) -> float:
    """2 |A and B| / (|A| + |B|)."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


if __name__ == "__main__":
    main()
