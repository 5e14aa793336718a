"""Steps, samples and quality: brain scores of one missing contrast from the other three, on every N-th slice.

usage: python runs/steps.py CHECKPOINT SUBJECT_DIR [SUBJECT_DIR ...] [--every 8] [--sampler ddim] [--plans 1x1 2x4]

A plan is STEPSxSAMPLES. Prints a Markdown table: PSNR in the brain as it is and after a straight-line intensity fit,
means over the subjects and the four targets, and network calls per slice. It looks at fewer slices than
`runs/validate.sh`: compare rows of one table only.
"""

import argparse
from pathlib import Path
from statistics import mean

import numpy as np

from mrsynth.io.dataset import load_subject
from mrsynth.metrics import QUANTILES, score
from mrsynth.preparation import prepare
from mrsynth.synthesis import Sampling, synthesise_volume
from mrsynth.tasks.models import choose_precision, load_method


def main() -> None:
    """One row per plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("subjects", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--plans", nargs="+", default=["1x1", "2x1", "4x1", "2x4"])
    args = parser.parse_args()

    trained = load_method(args.checkpoint)
    contrasts = trained.card.contrasts
    loaded = [load_subject(folder) for folder in args.subjects]
    subjects = [(s, prepare(s, contrasts, trained.preparation)) for s in loaded]
    print("| steps | samples | network calls | psnr_brain | psnr_brain_fit | ssim_brain |\n|---|---|---|---|---|---|")
    for plan in args.plans:
        steps, samples = map(int, plan.split("x"))
        sampling = Sampling(args.sampler, steps, samples, precision=choose_precision("auto", "cpu"))
        figures = []
        for subject, prepared in subjects:
            slices = np.flatnonzero(prepared.mask.any(axis=(0, 1)))[:: args.every].tolist()
            for channel, target in enumerate(contrasts):
                flags = [c is not target for c in contrasts]
                made = synthesise_volume(
                    trained.method, prepared, subject.name, sampling, available=flags, slices=slices
                )
                low, high = np.quantile(subject.volumes[target].voxels, QUANTILES)
                truth = prepared.images[channel][..., slices] * prepared.scales[target]
                unit = np.clip((truth - low) / (high - low), 0, 1).astype(np.float32)
                rows = score(made.mean[channel][..., slices], unit, prepared.mask[..., slices], slices=True)
                figures.append({m.name: m.value for m in rows})
        columns = [mean(f[name] for f in figures) for name in ("psnr_brain", "psnr_brain_fit", "ssim_brain")]
        print(f"| {steps} | {samples} | {steps * samples} | {' | '.join(f'{c:.3f}' for c in columns)} |", flush=True)


if __name__ == "__main__":
    main()
