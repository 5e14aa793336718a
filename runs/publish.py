"""Score a trained checkpoint on the validation subjects in every pattern, and put it into the package.

usage: python runs/publish.py RUN/checkpoint.safetensors RUN_FILE DATA_ROOT [--steps N] [--note TEXT]

Writes mrsynth/weights/<name>.safetensors (float16) and its entry in weights_manifest.yaml. The scores are brain PSNR of
the default output on the subject's own grid (protocol brain3d), mean over the validation subjects of the run file.
"""

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
import yaml

from mrsynth.card import Card, DataSource, Score
from mrsynth.contrasts import Contrast, pattern_name, patterns
from mrsynth.io.checkpoint import read_checkpoint, write_checkpoint
from mrsynth.io.dataset import find_subjects, load_subject
from mrsynth.io.weights import sha256_of
from mrsynth.metrics import psnr, to_unit
from mrsynth.subject import Subject
from mrsynth.tasks.complete import SCALE, complete_subject
from mrsynth.tasks.models import TrainedMethod, load_method

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Read, score, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("run_file", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, help="sampling steps by default; the run file's if not given")
    parser.add_argument("--note", default="")
    args = parser.parse_args()

    run = yaml.safe_load(args.run_file.read_text())
    checkpoint = read_checkpoint(args.checkpoint)
    sampling = {**checkpoint.card.sampling, **({"steps": args.steps} if args.steps else {})}
    card = checkpoint.card.model_copy(
        update={
            "name": run["name"],
            "licence": run["licence"],
            "run_file": args.run_file.resolve().relative_to(ROOT).as_posix(),
            "training_data": tuple(DataSource.model_validate(s) for s in run["data"]["sources"]),
            "sampling": sampling,
            "note": args.note,
        }
    )
    weights = ROOT / "mrsynth" / "weights" / f"{card.name}.safetensors"
    write_checkpoint(weights, replace(checkpoint, card=card), torch.float16)
    # scored as shipped: after rounding to float16
    trained = load_method(weights)
    subjects = [load_subject(s) for s in found(args.data, run["data"]["validation"])]
    card = card.model_copy(update={"scores": scores(trained, subjects)})
    write_checkpoint(weights, replace(checkpoint, card=card), torch.float16)
    enter(card, weights)


def found(data: Path, names: list[str]) -> list:
    """The subjects of these names below the archives in `data`."""
    everything = [s for archive in sorted(data.iterdir()) if archive.is_dir() for s in find_subjects(archive)[0]]
    chosen = [s for s in everything if s.name in names]
    if {s.name for s in chosen} != set(names):
        raise SystemExit(f"expected {names} below {data}, found {[s.name for s in chosen]}")
    return chosen


def scores(trained: TrainedMethod, subjects: list[Subject]) -> tuple[Score, ...]:
    """Mean brain PSNR of every pattern and target."""
    values: dict[tuple[str, Contrast], list[float]] = defaultdict(list)
    for subject in subjects:
        mask = subject.foreground()
        truth = {c: to_unit(v.voxels) for c, v in subject.volumes.items()}
        for pattern in patterns(trained.card.contrasts):
            hidden = [c for c in trained.card.contrasts if c not in pattern]
            made = complete_subject(subject.without(*hidden), trained)
            for target in hidden:
                value = psnr(made.volumes[target].voxels[mask] / SCALE, truth[target][mask])
                values[pattern_name(pattern), target].append(value)
                print(subject.name, pattern_name(pattern), target, f"{value:.3f}", flush=True)
    return tuple(
        Score(
            pattern=pattern,
            target=target,
            metric="psnr_brain",
            value=round(mean(each), 3),
            subjects=len(each),
            protocol="brain3d",
        )
        for (pattern, target), each in values.items()
    )


def enter(card: Card, weights: Path) -> None:
    """Put the card into the manifest, in place of an older entry of the same name."""
    manifest = ROOT / "weights_manifest.yaml"
    comment = "".join(line for line in manifest.read_text().splitlines(keepends=True) if line.startswith("#"))
    entries = [e for e in yaml.safe_load(manifest.read_text())["weights"] if e["name"] != card.name]
    entry = card.model_dump(mode="json", exclude={"intensity"}, exclude_none=True)
    entry |= {"file": weights.name, "sha256": sha256_of(weights), "size": weights.stat().st_size}
    text = yaml.safe_dump({"weights": [*entries, entry]}, sort_keys=False, allow_unicode=True, width=120)
    manifest.write_text(comment + text)


if __name__ == "__main__":
    main()
