"""Official cWDM with random weights: a volume in a process of its own, and how far it lies from the plain one.

usage: python runs/measure/official_volume.py FORM FILE.safetensors STEPS       for runs/measure/speed.py --official

FORM is plain, fast-fp32 or fast-auto; plain comes first, since the others are compared with plain.safetensors beside
FILE. FILE receives the volume, and FILE with the ending .json the relative L2 deviation and the precision.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mrsynth.devices import choose_precision
from mrsynth.diffusion.noise import SeededNoise
from mrsynth.methods.cwdm.method import Cwdm, CwdmConfig

GRID = (224, 224, 160)


def main(form: str, file: Path, steps: int) -> None:
    """Make it."""
    torch.manual_seed(0)
    method = Cwdm(CwdmConfig(target="t1ce"))
    for name, parameter in method.network.named_parameters():  # keep the variance, none zero
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.05)
    method.eval().requires_grad_(False)
    precision = "fp32" if form != "fast-auto" else choose_precision("auto", "cpu")
    if form != "plain":
        method.optimise(precision)
    images = torch.rand(1, len(method.contrasts), *GRID) * 2 - 1
    available = torch.tensor([[c not in method.targets for c in method.contrasts]])
    made = method.synthesise(
        images,
        available,
        context=torch.empty(1, len(method.contrasts), 0, *GRID),
        noise=SeededNoise(0, "random", method.targets).volume(),
        steps=steps,
    )
    image = (made[:, ~available[0]] + 1) / 2
    save_file({"image": image.contiguous()}, file)
    plain = load_file(file.with_name("plain.safetensors"))["image"]
    deviation = float((image - plain).norm() / plain.norm())
    file.with_suffix(".json").write_text(json.dumps({"deviation": deviation, "precision": precision}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
