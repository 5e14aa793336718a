"""Put a trained checkpoint into the package, with its scores on the validation subjects.

usage: python -m runs.measure.publish RUN/checkpoint.safetensors RUN_FILE [--name NAME] [--note TEXT] [--steps N]
           [--sampler NAME] [--rows FILE]

Writes mrsynth/weights/NAME.safetensors (float16) and its entry in weights_manifest.yaml, in place of one of that name,
whose cost stays. The scores are those of the default output on the subject's own grid (protocol brain3d), means over
the subjects in FILE: the results.csv of `mrsynth benchmark`, in as many patterns as it was asked for, or the
scores.json of `runs/measure/validate.sh`. Without --rows there are none; to score what ships, rounded to float16,
publish first without, measure, and publish again.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml

from mrsynth.card import Card, DataSource
from mrsynth.contrasts import pattern_name
from mrsynth.io.checkpoint import read_checkpoint, write_checkpoint
from mrsynth.io.store import sha256_of
from mrsynth.sampling import AXIAL
from mrsynth.scores.rows import Score, read_results
from mrsynth.tasks.train.config import run_text

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "weights_manifest.yaml"
MOST_CALLS = 100  # of a network for a sample, unless the user asks for more
METRICS = {"psnr_brain": "PSNR", "psnr_brain_fit": "PSNR_FIT"}  # as the voxel regression script calls them


def main() -> None:
    """Read, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("run_file", type=Path)
    parser.add_argument("--name", help="the run's if not given")
    parser.add_argument("--note", default="")
    parser.add_argument("--steps", type=int, help="of mode sample by default; the run file's if not given")
    parser.add_argument("--sampler", help="likewise")
    parser.add_argument("--rows", type=Path)
    args = parser.parse_args()

    run = run_text(args.run_file, {})
    checkpoint = read_checkpoint(args.checkpoint)
    chain = {key: value for key, value in (("sampler", args.sampler), ("steps", args.steps)) if value}
    card = checkpoint.card.model_copy(
        update={
            "name": args.name or checkpoint.card.name,
            "licence": run["licence"],
            "run_file": args.run_file.resolve().relative_to(ROOT).as_posix(),
            "training_data": tuple(DataSource.model_validate(s) for s in run["data"]["sources"]),
            "sampling": {**checkpoint.card.sampling, **chain},
            "note": args.note,
        }
    )
    if card.sampling.get("steps", 1) > MOST_CALLS:
        parser.error(f"a sample of {card.name} would take {card.sampling['steps']} calls; give --sampler and --steps")
    if args.rows:
        card = card.model_copy(update={"scores": scores_in(args.rows, card)})
    weights = ROOT / "mrsynth" / "weights" / f"{card.name}.safetensors"
    write_checkpoint(weights, replace(checkpoint, card=card), torch.float16)
    enter(card, weights)


def scores_in(file: Path, card: Card) -> tuple[Score, ...]:
    """Means over subjects: of a benchmark (CSV) the rows of this checkpoint, else all rows of `validate.sh`."""
    if file.suffix != ".csv":
        return from_rows(json.loads(file.read_text()), card)
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in read_results(file.read_text(encoding="utf-8"), str(file)):
        if (row.weights, row.protocol, row.region) == (
            card.name,
            "brain3d",
            "brain",
        ) and row.metric in METRICS.values():
            values[row.pattern, row.target, row.metric].append(row.value)
    if not values:
        raise SystemExit(f"{file} has no row of {card.name} in protocol brain3d.")
    return tuple(averaged(*key, each) for key, each in values.items())


def averaged(pattern: str, target: str, metric: str, values: Sequence[float]) -> Score:
    """The mean of one figure."""
    return Score(
        pattern=pattern,
        target=target,
        region="brain",
        metric=metric,
        value=round(mean(values), 4),
        subjects=len(values),
        protocol="brain3d",
    )


def from_rows(rows: list[dict[str, Any]], card: Card) -> tuple[Score, ...]:
    """The rows of the voxel regression script, each target made from the other contrasts."""
    return tuple(
        averaged(
            pattern_name(set(card.contrasts) - {target}),
            target,
            metric,
            [r[column] for r in rows if r["target"] == target],
        )
        for target in card.requires or card.contrasts
        for column, metric in METRICS.items()
    )


def enter(card: Card, weights: Path) -> None:
    """Put the card into the manifest, in place of an older entry of the same name."""
    entries = yaml.safe_load(MANIFEST.read_text())["weights"]
    place = next((i for i, e in enumerate(entries) if e["name"] == card.name), len(entries))
    former = entries[place] if place < len(entries) else {}
    entry = card.model_dump(mode="json", exclude={"intensity"}, exclude_none=True)
    if card.planes == AXIAL:
        del entry["planes"]
    entry |= {"file": weights.name, "sha256": sha256_of(weights), "size": weights.stat().st_size}
    entry |= {key: former[key] for key in ("cpu_seconds",) if key in former and key not in entry}
    entries[place : place + 1] = [entry]
    entries = sorted(entries, key=lambda e: "repository" in e)  # first what is in the package
    write_manifest(entries)


def write_manifest(entries: list[dict[str, Any]]) -> None:
    """These entries, below what the manifest says of itself at its head."""
    head = "".join(line for line in MANIFEST.read_text().splitlines(keepends=True) if line.startswith("#"))
    text = yaml.safe_dump({"weights": entries}, sort_keys=False, allow_unicode=True, width=120)
    MANIFEST.write_text(head + text)


if __name__ == "__main__":
    main()
