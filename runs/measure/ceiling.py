"""What the first stage of MSG-LDM loses: every contrast of some subjects through it and back.

usage: python runs/measure/ceiling.py NAME|PATH SUBJECT_DIR [SUBJECT_DIR ...]

Prints a Markdown table: brain PSNR (dB, protocol brain3d, on the prepared grid) of the reconstruction, mean over the
subjects. No diffusion of these latents can do better, whatever it is told.
"""

import argparse
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from mrsynth.io.subjects import load_subject
from mrsynth.methods.msg_ldm import MsgLdm
from mrsynth.scans.preparation import prepare
from mrsynth.scores.metrics import psnr
from mrsynth.tasks.models import load_network

AT_ONCE = 16  # slices


def main() -> None:
    """One column per contrast."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("subjects", type=Path, nargs="+")
    args = parser.parse_args()
    trained = load_network(args.weights)
    diffusion = trained.method.diffusion if isinstance(trained.method, MsgLdm) else None
    if diffusion is None:
        raise SystemExit(f"{args.weights} has no first stage")
    contrasts = trained.card.contrasts
    found: dict[str, list[float]] = {c.label: [] for c in contrasts}
    for folder in args.subjects:
        prepared = prepare(load_subject(folder), contrasts, trained.preparation)
        images = torch.from_numpy(2 * np.moveaxis(prepared.images, 3, 0) - 1).float()  # slices first
        everything = torch.ones(AT_ONCE, len(contrasts), dtype=torch.bool)
        made = torch.cat(
            [diffusion.first_stage.reconstruct(part, everything[: len(part)]) for part in images.split(AT_ONCE)]
        )
        unit = ((made.numpy() + 1) / 2).transpose(1, 2, 3, 0)
        for channel, contrast in enumerate(contrasts):
            found[contrast.label].append(psnr(unit[channel][prepared.mask], prepared.images[channel][prepared.mask]))
    print("| " + " | ".join(found) + " | mean |\n|" + "---|" * (len(found) + 1))
    means = [mean(values) for values in found.values()]
    print("| " + " | ".join(f"{value:.2f}" for value in [*means, mean(means)]) + " |")


if __name__ == "__main__":
    main()
