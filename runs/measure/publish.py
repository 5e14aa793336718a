"""Put a trained checkpoint into the package, with its scores on the validation subjects.

usage: python runs/measure/publish.py RUN/checkpoint.safetensors RUN_FILE DATA_ROOT
           [--steps N] [--note TEXT] [--rows FILE | --measure]

Writes mrsynth/weights/<name>.safetensors (float16) and its entry in weights_manifest.yaml. The scores are those of the
default output on the subject's own grid (protocol brain3d), means over the validation subjects of the run file: with
--measure brain PSNR in every pattern, measured now; with --rows what `runs/measure/validate.sh` found, one contrast
missing.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml

from mrsynth.card import Card, DataSource
from mrsynth.contrasts import Contrast, pattern_name, patterns
from mrsynth.io.checkpoint import read_checkpoint, write_checkpoint
from mrsynth.io.store import sha256_of
from mrsynth.io.subjects import SubjectFiles, find_subjects, load_subject
from mrsynth.scans.subject import Subject
from mrsynth.scores.metrics import psnr, to_unit
from mrsynth.scores.rows import Score
from mrsynth.tasks.complete.completion import SCALE
from mrsynth.tasks.complete.run import complete_subject
from mrsynth.tasks.models import load_network
from mrsynth.tasks.train.config import run_text
from mrsynth.tasks.trained import TrainedMethod

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "weights_manifest.yaml"


def main() -> None:
    """Read, score, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("run_file", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, help="of mode sample by default; the run file's if not given")
    parser.add_argument("--note", default="")
    parser.add_argument("--rows", type=Path, help="scores.json of runs/measure/validate.sh")
    parser.add_argument("--measure", action="store_true", help="score every pattern now; takes a quarter of an hour")
    args = parser.parse_args()

    run = run_text(args.run_file, {})
    checkpoint = read_checkpoint(args.checkpoint)
    steps = {"steps": args.steps} if args.steps else {}
    sampling = {**checkpoint.card.sampling, **steps}
    card = checkpoint.card.model_copy(
        update={
            "licence": run["licence"],
            "run_file": args.run_file.resolve().relative_to(ROOT).as_posix(),
            "training_data": tuple(DataSource.model_validate(s) for s in run["data"]["sources"]),
            "sampling": sampling,
            "note": args.note,
        }
    )
    weights = ROOT / "mrsynth" / "weights" / f"{card.name}.safetensors"
    write_checkpoint(weights, replace(checkpoint, card=card), torch.float16)
    if args.rows:
        card = card.model_copy(update={"scores": from_rows(json.loads(args.rows.read_text()), card)})
    if args.measure:  # as shipped: after rounding to float16
        subjects = [load_subject(s) for s in found(args.data, run["data"]["validation"])]
        card = card.model_copy(update={"scores": scores(load_network(weights), subjects)})
    write_checkpoint(weights, replace(checkpoint, card=card), torch.float16)
    enter(card, weights)


def found(data: Path, names: list[str]) -> list[SubjectFiles]:
    """The subjects of these names below the archives in `data`."""
    everything = [s for archive in sorted(data.iterdir()) if archive.is_dir() for s in find_subjects(archive)[0]]
    chosen = [s for s in everything if s.name in names]
    if {s.name for s in chosen} != set(names):
        raise SystemExit(f"expected {names} below {data}, found {[s.name for s in chosen]}")
    return chosen


def from_rows(rows: list[dict[str, Any]], card: Card) -> tuple[Score, ...]:
    """The rows of the voxel regression script, each target made from the other contrasts."""
    return tuple(
        Score(
            pattern=pattern_name(set(card.contrasts) - {target}),
            target=target,
            region="brain",
            metric=metric,
            value=round(mean(r[column] for r in rows if r["target"] == target), 3),
            subjects=sum(r["target"] == target for r in rows),
            protocol="brain3d",
        )
        for target in card.requires or card.contrasts
        for column, metric in (("psnr_brain", "PSNR"), ("psnr_brain_fit", "PSNR_FIT"))
    )


def scores(trained: TrainedMethod, subjects: list[Subject]) -> tuple[Score, ...]:
    """Mean brain PSNR of every pattern and target."""
    values: dict[tuple[str, Contrast], list[float]] = defaultdict(list)
    for subject in subjects:
        mask = subject.foreground()
        truth = {c: to_unit(v.voxels) for c, v in subject.volumes.items()}
        for pattern in patterns(trained.card.contrasts):
            hidden = [c for c in trained.card.contrasts if c not in pattern]
            if not all(trained.card.supports(set(pattern), target) for target in hidden):
                continue
            made = complete_subject(subject.without(*hidden), trained)
            for target in hidden:
                value = psnr(made.volumes[target].voxels[mask] / SCALE, truth[target][mask])
                values[pattern_name(pattern), target].append(value)
                print(subject.name, pattern_name(pattern), target, f"{value:.3f}", flush=True)
    return tuple(
        Score(
            pattern=pattern,
            target=target,
            region="brain",
            metric="PSNR",
            value=round(mean(each), 3),
            subjects=len(each),
            protocol="brain3d",
        )
        for (pattern, target), each in values.items()
    )


def enter(card: Card, weights: Path) -> None:
    """Put the card into the manifest, in place of an older entry of the same name."""
    entries = [e for e in yaml.safe_load(MANIFEST.read_text())["weights"] if e["name"] != card.name]
    entry = card.model_dump(mode="json", exclude={"intensity"}, exclude_none=True)
    entry |= {"file": weights.name, "sha256": sha256_of(weights), "size": weights.stat().st_size}
    entries = sorted([*entries, entry], key=lambda e: "repository" in e)  # first what is in the package
    write_manifest(entries)


def write_manifest(entries: list[dict[str, Any]]) -> None:
    """These entries, below what the manifest says of itself at its head."""
    head = "".join(line for line in MANIFEST.read_text().splitlines(keepends=True) if line.startswith("#"))
    text = yaml.safe_dump({"weights": entries}, sort_keys=False, allow_unicode=True, width=120)
    MANIFEST.write_text(head + text)


if __name__ == "__main__":
    main()
