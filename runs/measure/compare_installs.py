"""Two installs of mrsynth, the same input files: are the voxels the same, bit for bit?

usage: python -m runs.measure.compare_installs PYTHON_A PYTHON_B SUBJECT_DIR [SUBJECT_DIR ...]
           [--weights FILE [FILE ...]] [--options="--steps 4 --seed 1"] [--threads 1] [--in-turn]

Each interpreter completes each subject with each checkpoint (`mrsynth complete --weights FILE`) in a process of its own
with the same number of threads; its own copy of what ships where no file is given. Every contrast of the checkpoint is
made in turn, from all others: SUBJECT_DIR should hold them all. With --in-turn one contrast a subject is: the first
of the first subject, the second of the second, after the last the first again. The outputs are compared voxel by
voxel, affine and data type included; status 1 if anything differs. Interpreters are those of virtual environments;
the checkout this script lies in is not imported.
"""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from safetensors import safe_open

from runs.measure.installs import environment, program, run, without

# What belongs to several samples, as 0.1.0 and as 0.2.0 call it
BESIDE = ("_std.nii.gz", "_spread.nii.gz", "_mean.nii.gz")
SHIPPED = """
import json, mrsynth, pathlib
folder = pathlib.Path(mrsynth.__file__).parent / "weights"
print(json.dumps([str(path) for path in sorted(folder.glob("*.safetensors"))]))
"""


def main() -> None:
    """One line per subject, checkpoint and target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", nargs=2, metavar="PYTHON", help="the interpreters of the two installs")
    parser.add_argument("subjects", nargs="+", type=Path, metavar="SUBJECT_DIR")
    parser.add_argument("--weights", nargs="+", type=Path, help="checkpoints that both read; else what each ships")
    parser.add_argument("--options", default="", help="further options of mrsynth complete, in one string")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--in-turn", action="store_true", help="one contrast a subject, the next for the next")
    args = parser.parse_args()

    variables = environment(args.threads)
    both = [weights_of(python, args.weights, variables) for python in args.python]
    print(*(f"{name}: {python}" for name, python in zip("AB", args.python, strict=True)), sep="\n")
    for name, own, other in (("A", both[0], both[1]), ("B", both[1], both[0])):
        if alone := sorted(own.keys() - other.keys()):
            print(f"only in {name}, not compared: {', '.join(alone)}")
    failed = False
    for number, subject in enumerate(args.subjects):
        for weights in [name for name in both[0] if name in both[1]]:
            targets = targets_of(both[0][weights])
            for target in [targets[number % len(targets)]] if args.in_turn else targets:
                with tempfile.TemporaryDirectory() as scratch:
                    inputs = without(subject, target, Path(scratch))
                    made = [
                        complete(python, inputs, files[weights], target, Path(scratch, name), args.options, variables)
                        for name, python, files in zip("AB", args.python, both, strict=True)
                    ]
                    verdict = difference(*made)
                failed |= verdict != "the same"
                print(f"{subject.name} {weights} {target}: {verdict}", flush=True)
    sys.exit(failed)


def weights_of(python: str, given: list[Path] | None, variables: dict[str, str]) -> dict[str, Path]:
    """Name -> file of what an install is to use."""
    if given:
        return {path.name: path.resolve() for path in given}
    paths = json.loads(run([str(Path(python).absolute()), "-c", SHIPPED], variables))
    return {Path(path).name: Path(path) for path in paths}


def targets_of(weights: Path) -> list[str]:
    """What a checkpoint makes, as its header says."""
    with safe_open(weights, "np") as file:
        card = json.loads(file.metadata()["mrsynth"])["card"]
    return list(card.get("requires") or card["contrasts"])


def complete(
    python: str, inputs: Path, weights: Path, target: str, out: Path, options: str, variables: dict[str, str]
) -> Path:
    """The NIfTI that an install makes."""
    command = [program(python), "complete", str(inputs), "--weights", str(weights), "--target", target]
    command += ["--out", str(out), "--device", "cpu", "--no-self-check", "--no-progress", "-q", *shlex.split(options)]
    run(command, variables)
    found = sorted(path for path in out.rglob(f"*{target}*.nii.gz") if not path.name.endswith(BESIDE))
    if len(found) != 1:
        raise SystemExit(f"{shlex.join(command)}\nmade {found}")
    return found[0]


def difference(a: Path, b: Path) -> str:
    """In words; `the same` when data type, affine and every voxel are."""
    first, second = nib.Nifti1Image.from_filename(a), nib.Nifti1Image.from_filename(b)
    x, y = np.asanyarray(first.dataobj), np.asanyarray(second.dataobj)
    if (x.dtype, x.shape) != (y.dtype, y.shape) or not np.array_equal(first.affine, second.affine):
        return f"other grids or types: {x.dtype} {x.shape}, {y.dtype} {y.shape}"
    if np.array_equal(x, y, equal_nan=True):
        return "the same"
    return f"{np.count_nonzero(x != y)} voxels of {x.size} differ, by {np.abs(x.astype(float) - y).max():.3g} at most"


if __name__ == "__main__":
    main()
