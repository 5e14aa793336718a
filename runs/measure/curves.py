"""What a run costs as the work grows: CPU seconds and peak memory by voxels, samples, steps and subjects, as tables.

usage: python -m runs.measure.curves [--voxels 64 128 192 256] [--samples 1 2 4 8 16] [--steps 1 2 5 10 25 50]
           [--subjects 1 2 5 10 25 50] [--side 96] [--weights fgc2f-ship] [--threads 1] [--out FILE.md]

Each row is one process: `mrsynth complete` of T1ce of a phantom without viewer, all of it, or `mrsynth batch` of
so many phantoms. Voxels are sides of a cube, and the other curves take cubes of --side. An option without numbers
leaves its curve out. The last column is what one more unit costs, from the row before: even where the cost grows in
proportion.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from runs.measure.installs import program
from runs.measure.speed import Cost, environment, processor, run, show

TARGET = "t1ce"


def main() -> None:
    """A table for every curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, nargs="*", default=[64, 128, 192, 256])
    parser.add_argument("--samples", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 2, 5, 10, 25, 50])
    parser.add_argument("--subjects", type=int, nargs="*", default=[1, 2, 5, 10, 25, 50])
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--weights", default="fgc2f-ship")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a Markdown file for what is printed")
    args = parser.parse_args()
    text: list[str] = []
    show(text, f"{args.weights}, {processor()}, {args.threads} thread{'s' * (args.threads > 1)}, one run each.")
    with tempfile.TemporaryDirectory() as scratch:
        curves = Curves(args, Path(scratch))
        sample = ["--mode", "sample"]
        of_voxels = ((n, n**3 / 1e6, curves.complete(n)) for n in args.voxels)
        table(text, "side of the cube, voxels", "million voxels", of_voxels)
        of_samples = ((n, n, curves.complete(args.side, *sample, "--samples", str(n))) for n in args.samples)
        table(text, f"samples, {args.side} voxels a side", "sample", of_samples)
        of_steps = ((n, n, curves.complete(args.side, *sample, "--steps", str(n))) for n in args.steps)
        table(text, f"steps of a sample, {args.side} voxels a side", "step", of_steps)
        of_subjects = ((n, n, curves.batch(n)) for n in args.subjects)
        table(text, f"subjects of a batch, {args.side} voxels a side", "subject", of_subjects)
    if args.out:
        args.out.write_text("\n".join(text) + "\n")


class Curves:
    """Commands on phantoms that are made when they are first asked for."""

    def __init__(self, args: argparse.Namespace, scratch: Path):
        self.args, self.scratch = args, scratch
        self.variables = environment(args, {}, path=True)

    def phantoms(self, side: int, count: int) -> Path:
        """A folder of so many phantoms without the target: cubes of `side` voxels of 1 mm, cut out of a head."""
        folder = self.scratch / f"{side}-{count}"
        if not folder.exists():
            options = ["--subjects", str(count), "--without", TARGET, "--shape", *[str(side)] * 3]
            run([*self.mrsynth("phantom"), str(folder), *options], self.variables)
        return folder

    def complete(self, side: int, *options: str) -> Cost:
        """One subject."""
        subject = next(self.phantoms(side, 1).iterdir())
        asked = ["complete", str(subject), "--target", TARGET, "--no-viewer", "--crop", "full"]
        return self.cost(*asked, *options)

    def batch(self, count: int) -> Cost:
        """So many subjects of one cohort."""
        folder = self.phantoms(self.args.side, count)
        return self.cost("batch", str(folder), "--no-viewer")

    def cost(self, *command: str) -> Cost:
        """Of one process."""
        out = Path(tempfile.mkdtemp(dir=self.scratch)) / "out"
        options = [
            "--strip",
            "off",
            "--weights",
            self.args.weights,
            "--out",
            str(out),
            "--device",
            "cpu",
            "--no-progress",
            "-q",
        ]
        return run([*self.mrsynth(*command), *options], self.variables)

    @staticmethod
    def mrsynth(*words: str) -> list[str]:
        """A command of this environment."""
        return [program(sys.executable), *words]


def table(text: list[str], what: str, unit: str, rows: Iterable[tuple[int, float, Cost]]) -> None:
    """One curve: its number, how many units that is, what it cost; nothing without a row."""
    before: tuple[float, Cost] | None = None
    for number, size, cost in rows:
        if before is None:
            show(text, "", f"| {what} | CPU s | MB | CPU s of one more {unit} |", "|---|---|---|---|")
        more = "" if before is None else f"{(cost.cpu - before[1].cpu) / (size - before[0]):.2f}"
        show(text, f"| {number} | {cost.cpu:.1f} | {cost.peak:.0f} | {more} |")
        before = size, cost


if __name__ == "__main__":
    main()
