"""The training corpus as it travels: brain boxes in 8 bits, packed, in parts; and unpacked, as folders of subjects.

usage: python -m runs.gpu.corpus pack PARTS ROOT [ROOT ...] [--part-mb 25] [--exclude NAME ...]
       python -m runs.gpu.corpus unpack PARTS OUT

Every contrast is brought to 1 mm and LPS, cut to the box of its brain and stored as round(255 u), u as a model sees it
(99.5 % quantile of the brain = 1), never 0 where it was not 0: an error of at most 0.2 % of the range, 0.4 % in the
darkest voxels. What `mrsynth train` makes of the unpacked images is then the same u, since their own 99.5 % quantile is
255. Those whom runs/corpus.yaml leaves out, the validation subjects among them, never travel.
"""

import argparse
import tarfile
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import yaml

from mrsynth.contrasts import STANDARD
from mrsynth.io.files import ensure_folder
from mrsynth.io.nifti import write_volume
from mrsynth.io.subjects import find_subjects, load_subject
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from runs.gpu.parts import join, split

RUNS = Path(__file__).resolve().parents[1]
NAME = "corpus.tar.xz"
BOX = PreparationConfig(multiple=1)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # 1 mm
PART_MB = 25.0


def pack(parts: Path, roots: Sequence[Path], part_mb: float = PART_MB, exclude: Collection[str] = ()) -> list[Path]:
    """Every subject with two contrasts or more below the roots, in parts. Raises InputError for one of no use."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "corpus"
        for root in roots:
            for files in find_subjects(root)[0]:
                if files.name not in exclude and len(set(files.files) & set(STANDARD)) > 1:
                    write_boxes(load_subject(files), place / files.name)
        packed = Path(folder) / NAME
        with tarfile.open(packed, "w:xz") as archive:
            for file in sorted(place.rglob("*.nii")):
                archive.add(file, str(file.relative_to(place)))
        return split(packed, parts, part_mb)


def write_boxes(subject: Subject, folder: Path) -> None:
    """One file of whole numbers from 0 to 255 for each contrast that the subject has."""
    ensure_folder(folder)
    prepared = prepare(subject, STANDARD, BOX)
    for contrast, image, there in zip(STANDARD, prepared.images, prepared.available, strict=True):
        if there:
            stored = np.maximum(np.rint(255 * image), image > 0).astype(np.float32)
            write_volume(folder / f"{subject.name}_{contrast}.nii", Volume(stored, LPS), whole=True)


def unpack(parts: Path, out: Path) -> list[Path]:
    """The folders of the subjects, below `out`. Raises InputError where parts are missing or damaged."""
    ensure_folder(out)
    with tempfile.TemporaryDirectory() as folder:
        packed = join(parts, NAME, Path(folder) / NAME)
        with tarfile.open(packed) as archive:
            archive.extractall(out, filter="data")
    return sorted(path for path in out.iterdir() if path.is_dir())


def left_out() -> list[str]:
    """Whom runs/corpus.yaml excludes."""
    return [str(name) for name in yaml.safe_load((RUNS / "corpus.yaml").read_text())["data"]["exclude"]]


def main() -> None:
    """Pack or unpack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("parts", type=Path)
    packing.add_argument("roots", type=Path, nargs="+")
    packing.add_argument("--part-mb", type=float, default=PART_MB)
    packing.add_argument("--exclude", nargs="*", help="in place of those of runs/corpus.yaml")
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("parts", type=Path)
    unpacking.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.command == "unpack":
        print(f"{len(unpack(args.parts, args.out))} subjects in {args.out}")
        return
    exclude = left_out() if args.exclude is None else args.exclude
    written = pack(args.parts, args.roots, args.part_mb, exclude)
    print(f"{len(written)} parts in {args.parts}, {sum(p.stat().st_size for p in written) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
