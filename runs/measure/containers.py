"""Follow examples/containers/Dockerfile without a builder: its files, its steps, its settings, in a folder of its own.

usage: python -m runs.measure.containers FOLDER [brasyn INPUT OUTPUT]       any program of the image, with its arguments

FOLDER must not exist; it becomes the image: /src, /opt/mrsynth and /tmp of the file are folders in it. Then the program
(`mrsynth weights verify` where none is given) runs as in the container, with the image's settings and no others. As
root on Linux also as a user without a name or a home, without a network, with nothing to write to but OUTPUT (the last
argument) and /tmp. Takes what pip takes. TORCH_INDEX may be set empty, as examples/containers/install.sh explains.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CONTAINERS = CHECKOUT / "examples" / "containers"
PLACES = ("/src", "/opt/mrsynth", "/tmp")  # of the image
NOBODY = "54321"  # a user that has no name


@dataclass(frozen=True)
class Recipe:
    """What a Dockerfile or an Apptainer definition says.

    base      the image that it begins with
    copies    path in the checkout -> path in the image
    runs      commands, in order
    settings  of the environment
    programs  what the image may be asked to run, with its arguments
    """

    base: str
    copies: Mapping[str, str]
    runs: Sequence[str]
    settings: Mapping[str, str]
    programs: Sequence[Sequence[str]]


def dockerfile(path: Path = CONTAINERS / "Dockerfile", **arguments: str) -> Recipe:
    """All stages of the Dockerfile, as one recipe; arguments as of --build-arg."""
    from dockerfile_parse import DockerfileParser

    with path.open("rb") as file:
        lines = DockerfileParser(fileobj=file).structure
    given, base, runs, programs = dict(arguments), "", [], []
    copies: dict[str, str] = {}
    settings: dict[str, str] = {}
    for line in lines:
        word, value = line["instruction"], str(line["value"])
        value = re.sub(r"\$\{(\w+)\}", lambda m: given[m[1]], value)
        if word == "ARG":
            name, _, default = value.partition("=")
            given.setdefault(name, default)
        elif word == "FROM":
            base = base or value.split()[0]
        elif word == "COPY" and not value.startswith("--from"):
            *sources, target = value.split()
            copies |= {s: target.rstrip("/") + ("" if (CHECKOUT / s).is_dir() else f"/{Path(s).name}") for s in sources}
        elif word == "RUN":
            runs.append(value)
        elif word == "ENV":
            settings |= dict(item.split("=", 1) for item in shlex.split(value))
        elif word in ("ENTRYPOINT", "CMD"):
            programs.append(json.loads(value))
    return Recipe(base, copies, runs, settings, programs)


def apptainer(path: Path = CONTAINERS / "mrsynth.def", **arguments: str) -> Recipe:
    """The Apptainer definition; arguments as of --build-arg."""
    sections: dict[str, list[str]] = {"": []}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("%"):
            sections[line[1:].strip()] = []
        elif line.strip() and not line.startswith("#"):
            list(sections.values())[-1].append(line.strip())
    given = dict(item.split("=", 1) for item in sections["arguments"]) | arguments

    def filled(line: str) -> str:
        return re.sub(r"\{\{ (\w+) \}\}", lambda m: given[m[1]], line)

    head = dict(filled(line).split(": ", 1) for line in sections[""])
    programs = [lines[-1] for name, lines in sections.items() if name.split()[0:1] in (["runscript"], ["apprun"])]
    return Recipe(
        base=head["From"],
        copies=dict(line.split() for line in sections["files"]),
        runs=[filled(line) for line in sections["post"]],
        settings=dict(line.removeprefix("export ").split("=", 1) for line in sections["environment"]),
        programs=[shlex.split(line)[1:2] for line in programs],
    )


def build(recipe: Recipe, folder: Path) -> None:
    """Copy and run what the recipe says; places of the image are folders below this one."""
    folder.mkdir(parents=True)
    (folder / "tmp").mkdir(mode=0o777)
    (folder / "tmp").chmod(0o777)
    for source, target in recipe.copies.items():
        place = Path(placed(target, folder))
        place.parent.mkdir(parents=True, exist_ok=True)
        if (CHECKOUT / source).is_dir():
            shutil.copytree(CHECKOUT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(CHECKOUT / source, place)
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for command in recipe.runs:
        subprocess.run(["sh", "-euc", placed(command, folder)], cwd=folder, env=plain, check=True)
    shutil.rmtree(folder / "src")  # no part of the image


def run_in(recipe: Recipe, folder: Path, words: Sequence[str], writable: Sequence[Path] = ()) -> int:
    """Run a program of the image as the container would; its exit status.

    writable   folders that are mounted to be written to
    """
    settings = {name: placed(value, folder) for name, value in recipe.settings.items()}
    command = ["env", "-i", *(f"{name}={value}" for name, value in settings.items()), *words]
    if may_confine():
        there = [str(path.resolve()) for path in (*writable, folder / "tmp")]
        inside = [f"mount --bind {shlex.quote(p)} {shlex.quote(p)}" for p in there]
        inside += [*opened(folder), "mount -o remount,ro,bind /", "cd /"]
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
        command = [
            "unshare",
            "--mount",
            "--net",
            "sh",
            "-euc",
            "; ".join([*inside, f"exec {shlex.join(user + command)}"]),
        ]
    return subprocess.run(command, check=False).returncode


def opened(folder: Path) -> list[str]:
    """Mounts by which others may use an interpreter that lies in somebody's home, and see nothing else of that."""
    base = (folder / "opt/mrsynth/bin/python").resolve().parents[1]
    closed = next((place for place in reversed(base.parents) if not place.stat().st_mode & 1), None)
    if closed is None:
        return []
    (folder / "python").mkdir(exist_ok=True)
    kept, home, place = (shlex.quote(str(path)) for path in (folder.resolve() / "python", closed, base))
    hide = f"mount -t tmpfs -o mode=755 none {home}"
    return [f"mount --bind {place} {kept}", hide, f"mkdir -p {place}", f"mount --bind {kept} {place}"]


def may_confine() -> bool:
    """Whether this machine lets us take the network and the disk away from a program."""
    if os.name != "posix" or os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "mount"))):
        return False
    asked = ["unshare", "--mount", "--net", "mount", "-o", "remount,ro,bind", "/"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def placed(text: str, folder: Path) -> str:
    """Text with the places of the image below a folder."""
    return re.sub(rf"(?<![\w./])({'|'.join(PLACES)})(?![\w.])", lambda m: f"{folder.resolve()}{m[1]}", text)


def main() -> None:
    """Build, then run."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder, words = Path(sys.argv[1]), sys.argv[2:] or ["mrsynth", "weights", "verify"]
    recipe = dockerfile()
    build(recipe, folder)
    print(f"confined: {may_confine()}", flush=True)
    out = Path(words[-1])
    sys.exit(run_in(recipe, folder, words, [out] if len(words) > 1 and out.is_dir() else []))


if __name__ == "__main__":
    main()
