"""Official cWDM with random weights: a volume in a process of its own, and how far it lies from the plain one.

usage: python runs/measure/official_volume.py FORM FILE.safetensors STEPS       for runs/measure/speed.py --official

FORM is plain; fast-fp32, the fast network with float32 values; or auto, what mrsynth takes on this processor: the
same, or bfloat16 values where it multiplies them. plain comes first, since the others are compared with
plain.safetensors beside FILE. FILE receives the volume, and FILE with the ending .json the relative L2 deviation and
which network it was.
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
    precision = choose_precision("auto", "cpu") if form == "auto" else "fp32"
    if form == "fast-fp32":
        method.quicken(torch.float32)
    elif form == "auto":
        method.optimise(precision)
    network = f"{'plain' if method.denoises_plainly else 'fast'} network, {precision}"
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
    file.with_suffix(".json").write_text(json.dumps({"deviation": deviation, "network": network}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
