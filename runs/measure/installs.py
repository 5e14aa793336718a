"""Installs of mrsynth in other environments: their command, with what it runs, and a subject without its target."""

import os
import shlex
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path


def program(python: str) -> str:
    """The command `mrsynth` of an interpreter's environment; the module behind it may have another name in another."""
    return str(Path(python).absolute().parent / "mrsynth")


def environment(threads: int, dropped: Collection[str] = ("PYTHONPATH",)) -> dict[str, str]:
    """Ours without what is dropped, with so many threads. PYTHONPATH would lead every install to the same modules."""
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))


def run(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """What a command printed, run where no checkout lies. Leaves the script when it fails."""
    done = subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\nstatus {done.returncode}\n{done.stderr}")
    return done.stdout


def without(subject: Path, target: str, scratch: Path) -> Path:
    """A folder of links to the subject's files, less those of the target and segmentations."""
    folder = scratch / "inputs" / subject.name
    folder.mkdir(parents=True)
    for path in subject.iterdir():
        if path.is_file() and not path.name.split(".")[0].endswith((f"_{target}", "seg")):
            (folder / path.name).symlink_to(path.resolve())
    return folder
