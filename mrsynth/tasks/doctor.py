"""`mrsynth doctor`: what this machine has of what mrsynth can use, as facts to paste into a report of a fault."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from mrsynth import __version__
from mrsynth.devices import choose_device, choose_precision
from mrsynth.errors import MrsynthError
from mrsynth.io.hub import offline
from mrsynth.io.store import store_folder
from mrsynth.tasks.checkpoints.run import verify

PACKAGES = ("torch", "numpy", "nibabel", "SimpleITK", "monai", "pydantic", "safetensors", "huggingface_hub")
EXTRAS = {
    "demo": ("nilearn",),
    "train": ("accelerate", "tensorboard"),
    "benchmark": ("scipy", "sklearn"),
    "cluster": ("dask", "distributed"),
    "text": ("transformers",),
    "strip": ("deepbet",),
}
VARIABLES = ("MRSYNTH_", "HF_HUB_", "HF_HOME", "OMP_", "MKL_NUM", "CUDA_VISIBLE")


@dataclass(frozen=True)
class Examination:
    """Facts by name, in order; and the exit status of the worst of them."""

    facts: dict[str, str]
    status: int


def examine() -> Examination:
    """Look at everything; opens no connection."""
    device, status = choose_device("auto"), 0
    try:
        weights = f"{len(verify())} checkpoints are what they should be"
    except MrsynthError as error:
        weights, status = str(error), error.exit_code
    facts = {
        "mrsynth": __version__,
        "Python": f"{sys.version.split()[0]} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch",
        "device": device_in_words(device),
        "bf16": "native" if choose_precision("auto", device) == "bf16" else "not native: auto computes in fp32",
        "compiler": next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), "none"),
        "packages": ", ".join(f"{name} {installed(name)}" for name in PACKAGES),
        "extras": "\n".join(f"{name}: {extra_in_words(modules)}" for name, modules in EXTRAS.items()),
        "store": store_in_words(),
        "weights": weights,
        "network": "forbidden (MRSYNTH_OFFLINE or HF_HUB_OFFLINE)" if offline() else "used by fetching commands only",
        "environment": "\n".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES))
        or "none",
    }
    return Examination(facts, status)


def device_in_words(device: str) -> str:
    """The device that `auto` takes, and how many there are of it."""
    if device != "cuda":
        return device
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"cuda: {', '.join(names)}"


def installed(package: str) -> str:
    """Its version; `missing` where it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def extra_in_words(modules: tuple[str, ...]) -> str:
    """Whether all packages of an extra are there."""
    lacking = [name for name in modules if find_spec(name) is None]
    return f"lacks {', '.join(lacking)}" if lacking else "installed"


def store_in_words() -> str:
    """Where checkpoints are kept, and whether that can be written."""
    folder = store_folder()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return f"{folder}{'' if os.access(there, os.W_OK) else ' (cannot be written)'}"
