"""Sampler, steps, samples and quality: brain scores of one missing contrast from the other three.

usage: python runs/measure/steps.py SUBJECT_DIR [SUBJECT_DIR ...] --weights NAME|PATH [NAME|PATH ...]
           [--samplers ddim ddpm] [--plans 1x1 2x4] [--every 8] [--slab K] [--precision fp32]

A plan is STEPSxSAMPLES, or `mean`, which no sampler is for; 10x1 of a checkpoint that names modes is what its mode
sample gives. Prints a Markdown table: PSNR in the brain as it is and after a straight-line intensity fit, SSIM, EDGE
and EDGE_R, means over the subjects and all that the checkpoints make, and the mean time of a volume. Scores are of
every N-th slice; a method of two dimensions makes only those. `runs/measure/validate.sh` scores whole volumes: compare
rows of one table only. --slab keeps the middle K planes of the third axis and throws the rest away, so that a thousand
steps are done within the hour.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import numpy as np

from mrsynth.contrasts import pattern_name
from mrsynth.devices import choose_precision
from mrsynth.io.subjects import load_subject
from mrsynth.sampling import Estimator, Sampling
from mrsynth.scans.preparation import prepare
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.scores.metrics import ends
from mrsynth.scores.protocols import Case, measure
from mrsynth.synthesis import synthesise_volume
from mrsynth.tasks.models import load_network
from mrsynth.tasks.trained import TrainedMethod

FIGURES = {"PSNR": "psnr_brain", "PSNR_FIT": "psnr_brain_fit", "SSIM": "ssim_brain", "EDGE": "edge", "EDGE_R": "edge_r"}

MEAN = "mean"


def main() -> None:
    """One row per sampler and plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", type=Path, nargs="+")
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--samplers", nargs="+", default=["ddim"])
    parser.add_argument("--plans", nargs="+", default=["1x1", "2x1", "4x1", "2x4"])
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--slab", type=int)
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()

    checkpoints = [load_network(name) for name in args.weights]
    precision = choose_precision(args.precision, "cpu")
    for trained in checkpoints:
        trained.method.optimise(precision)
    loaded = [slab_of(load_subject(folder), args.slab) for folder in args.subjects]
    print(f"| sampler | steps | samples | {' | '.join(FIGURES.values())} | seconds |")
    print("|---" * (len(FIGURES) + 4) + "|")
    for plan in args.plans:
        steps, samples = (1, 1) if plan == MEAN else map(int, plan.split("x"))
        for sampler in [MEAN] if plan == MEAN else args.samplers:
            hows = [(t, estimator(t, sampler, steps, samples, precision)) for t in checkpoints]
            rows = [r for t, how in hows for s in loaded for r in measured(t, s, how, args.every)]
            columns = [mean(row[name] for row in rows) for name in FIGURES]
            figures = " | ".join(f"{c:.3f}" for c in columns)
            seconds = mean(row["seconds"] for row in rows)
            print(f"| {sampler} | {steps} | {samples} | {figures} | {seconds:.1f} |", flush=True)


def estimator(trained: TrainedMethod, sampler: str, steps: int, samples: int, precision: str) -> Estimator:
    """Of a plan: as `complete` would have it, but for the mean of several draws."""
    if sampler == MEAN:
        return trained.estimator(Sampling(mode="mean", precision=precision))
    if samples == 1 and "sample" in trained.method.modes:
        return trained.estimator(Sampling(mode="sample", sampler=sampler, steps=steps, precision=precision))
    return Estimator(sampler, steps, samples, precision=precision)


def slab_of(subject: Subject, planes: int | None) -> Subject:
    """The middle of a subject along its third axis; all of it for None."""
    if planes is None:
        return subject
    start = (subject.reference.shape[2] - planes) // 2
    kept = {
        c: Volume(np.ascontiguousarray(v.voxels[..., start : start + planes]), v.affine)  # moved, but nobody asks where
        for c, v in subject.volumes.items()
    }
    return Subject(subject.name, kept)


def measured(trained: TrainedMethod, subject: Subject, sampling: Estimator, every: int) -> Iterator[dict[str, float]]:
    """Scores and seconds of each target."""
    contrasts = trained.card.contrasts
    prepared = prepare(subject, contrasts, trained.preparation)
    slices = np.flatnonzero(prepared.mask.any(axis=(0, 1)))[::every].tolist()
    only = slices if trained.method.dimensions == 2 else None
    for target in trained.method.targets:
        flags = [c is not target for c in contrasts]
        began = time.perf_counter()
        made = synthesise_volume(trained.method, prepared, subject.name, sampling, available=flags, slices=only)
        seconds = time.perf_counter() - began
        channel = contrasts.index(target)
        voxels = subject.volumes[target].voxels
        case = Case(
            prediction=made.image[channel][..., slices],
            truth=prepared.brought(voxels)[..., slices],
            mask=prepared.mask[..., slices],
            window=ends(voxels),
        )
        rows = measure(case, ["brain2d"], pattern=pattern_name(set(contrasts) - {target}), target=target)
        yield {**{row.metric: row.value for row in rows}, "seconds": seconds}


if __name__ == "__main__":
    main()
