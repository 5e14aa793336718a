"""What mrsynth costs beside version 0.1.0: CPU seconds and peak memory of whole processes, one contrast of a subject.

usage: python -m runs.measure.speed PYTHON_OLD [SUBJECT_DIR] [--new PYTHON] [--target t1ce] [--rounds 3] [--threads 1]
           [--set plain avx2] [--only fgc2f ...] [--out FILE.md]
       python -m runs.measure.speed --official [--steps 10] [--rounds 1]

PYTHON_OLD is the interpreter of an environment with mrsynth 0.1.0, PYTHON (this one) of one with what is judged, to
which PYTHONPATH, if it is set, belongs too. SUBJECT_DIR holds four contrasts of 240x240x155 voxels; without it a
phantom is made and brought to that grid. Of each the target is hidden. A row is one command, start, reading, sampling,
self-check, writing and report included: user and system seconds of the process and of the compilers that it starts.
Old and new take turns, and the least of the rounds counts: with one thread and a passive wait these seconds hardly
depend on what else the machine does. `plain` takes the processor as it is; `avx2` allows AVX2 alone, in fp32. What
0.1.0 has not, the viewer, is left out by --no-viewer where the ratio is judged, and a row of its own says what it adds.

--official measures something else, without 0.1.0: cWDM's official network with random weights, all steps of a volume
on the full grid of 224x224x160, plain and fast, each in a process of its own, and how far the two volumes lie apart.
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from runs.measure import installs
from runs.measure.installs import program, without

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
SETS: dict[str, tuple[dict[str, str], list[str]]] = {"plain": ({}, []), "avx2": (AVX2, ["--precision", "fp32"])}
OFFICIAL = Path(__file__).with_name("official_volume.py")
OFFICIAL_BAR, DEVIATION_BAR = 1.5, 0.015
SAME = 0.03  # two runs of one command differ by so much
SHAPE = (240, 240, 155)


@dataclass(frozen=True)
class Row:
    """One comparison: options of `complete` for each install; other commands as a whole, for the new one alone.

    bar     the largest ratio of CPU seconds allowed, new to old
    within  the label of the row whose new seconds must not be passed
    most    seconds allowed
    beyond  labels of rows whose seconds together are allowed on top of that
    memory  MB allowed at the peak
    """

    label: str
    old: str | None
    new: str
    bar: float | None = None
    within: str | None = None
    most: float | None = None
    beyond: tuple[str, ...] = ()
    memory: float = 1200.0


MEMBERS = ("fgc2f", "dfbk", "cwdm")  # rows of those that make a committee
LATER = "--no-viewer"  # leaves out what 0.1.0 has not
ROWS = (
    Row("fgc2f", "--method fgc2f", "--method fgc2f", 0.41),
    Row("fgc2f --fast", "--method fgc2f --fast", "--method fgc2f --fast", 0.85, "fgc2f"),
    Row("dfbk", "--method dfbk", "--method dfbk", 0.33),
    Row("dfbk --fast", "--method dfbk --fast", "--method dfbk --fast", 0.85, "dfbk"),
    Row("cwdm", "--method cwdm", "--method cwdm", 1.0),
    Row("cwdm --fast", "--method cwdm --fast", "--method cwdm --fast", 0.85, "cwdm"),
    Row("msg-ldm, old --fast", "--method msg-ldm --fast", "--method msg-ldm", 0.5),
    Row("msg-ldm --fast", "--method msg-ldm --fast", "--method msg-ldm --fast", 0.85, "msg-ldm, old --fast"),
    Row("fgc2f with viewer", None, "--method fgc2f", most=5.0, beyond=("fgc2f",)),
    Row("committee with viewer", None, "--method committee", most=5.0, beyond=MEMBERS, memory=1600.0),
    Row("--help", None, "--help", most=0.3),
    Row("inspect", None, "inspect SUBJECT", most=0.5),
)


@dataclass(frozen=True)
class Cost:
    """Of one process and what it started: CPU seconds, user and system; MB at the peak; seconds of a clock."""

    cpu: float = math.inf
    peak: float = math.inf
    wall: float = math.inf

    def least(self, other: "Cost") -> "Cost":
        """The least of each."""
        return Cost(min(self.cpu, other.cpu), min(self.peak, other.peak), min(self.wall, other.wall))


def main() -> None:
    """A table, row by row; status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", nargs="?", metavar="PYTHON_OLD")
    parser.add_argument("subject", nargs="?", type=Path, metavar="SUBJECT_DIR")
    parser.add_argument("--new", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--target", default="t1ce")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--only", nargs="+", default=[], help="rows whose label begins with one of these")
    parser.add_argument("--out", type=Path, help="a Markdown file for what is printed")
    parser.add_argument("--official", action="store_true")
    parser.add_argument("--steps", type=int, default=10, help="of --official")
    args = parser.parse_args()
    if not args.official and args.old is None:
        parser.error("give PYTHON_OLD, the interpreter of an environment with mrsynth 0.1.0, or --official")

    text = [
        f"{processor()}, {args.threads} thread{'s' * (args.threads > 1)} a process, "
        f"least of {rounds_of(args)} round{'s' * (rounds_of(args) > 1)}."
    ]
    print(text[0], flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        missed = official(args, Path(scratch), text) if args.official else beside(args, Path(scratch), text)
    if args.out:
        args.out.write_text("\n".join(text) + "\n")
    sys.exit(missed)


def rounds_of(args: argparse.Namespace) -> int:
    """How often everything is run."""
    return args.rounds or (1 if args.official else 3)


def beside(args: argparse.Namespace, scratch: Path, text: list[str]) -> bool:
    """Both installs, row by row. Whether a bar was missed."""
    subject = args.subject or phantom(args, scratch)
    inputs = without(subject, args.target, scratch)
    missed = False
    for name in args.set:
        variables, options = SETS[name]
        head = (
            f"{name}: {' '.join([*(f'{k}={v}' for k, v in variables.items()), *options]) or 'the processor as it is'}"
        )
        show(
            text,
            "",
            f"### {head}",
            "",
            "| without viewer | 0.1.0, CPU s | new, CPU s | ratio | bar | MB, old and new | |",
            "|" + "---|" * 7,
        )
        found: dict[str, Cost] = {}
        for row in (r for r in ROWS if not args.only or r.label.startswith(tuple(args.only))):
            old, new = Cost(), Cost()
            for _ in range(rounds_of(args)):
                if row.old is not None:
                    command = completion(args.old, inputs, args.target, row.old, scratch)
                    old = old.least(run([*command, *options], environment(args, variables, path=False)))
                if row.new.startswith("--method"):
                    asked = row.new if row.old is None else f"{row.new} {LATER}"
                    command = [*completion(args.new, inputs, args.target, asked, scratch), *options]
                else:
                    command = [program(args.new), *(str(inputs) if w == "SUBJECT" else w for w in row.new.split())]
                new = new.least(run(command, environment(args, variables, path=True)))
            found[row.label] = new
            line, bad = verdict(row, old, new, found)
            show(text, line)
            missed |= bad
    return missed


def verdict(row: Row, old: Cost, new: Cost, found: dict[str, Cost]) -> tuple[str, bool]:
    """The line of a table, and whether it misses a bar."""
    faults, bars = [], []
    ratio = new.cpu / old.cpu if row.old is not None else None
    if row.bar is not None and ratio is not None:
        bars.append(f"<= {row.bar:g}")
        faults += ["ratio"] if ratio > row.bar else []
    if row.within in found:
        bars.append(f"<= {row.within.split(',')[0]}")
        faults += ["slower than the default"] if new.cpu > (1 + SAME) * found[row.within].cpu else []
    if row.most is not None and found.keys() >= set(row.beyond):
        allowed = row.most + sum(found[label].cpu for label in row.beyond)
        parts = [*(label.split(",")[0] for label in row.beyond), f"{row.most:g} s"]
        bars.append(f"<= {' + '.join(parts)}")
        faults += ["too slow"] if min(new.cpu, new.wall) > allowed else []
    bars.append(f"<= {row.memory:g} MB")
    faults += ["memory"] if new.peak > row.memory else []
    before = (
        (f"{old.cpu:.2f}", f"{ratio:.3f}", f"{old.peak:.0f}, {new.peak:.0f}") if ratio else ("", "", f"{new.peak:.0f}")
    )
    cells = [row.label, before[0], f"{new.cpu:.2f}", before[1], ", ".join(bars), before[2]]
    return f"| {' | '.join(cells)} | {'**missed: ' + ', '.join(faults) + '**' if faults else 'held'} |", bool(faults)


def show(text: list[str], *lines: str) -> None:
    """Print, and keep for the file."""
    text += lines
    print(*lines, sep="\n", flush=True)


def environment(args: argparse.Namespace, variables: dict[str, str], *, path: bool) -> dict[str, str]:
    """That of a run; PYTHONPATH for the new install alone. Bytecode is kept, or one of the two would compile anew."""
    dropped = {"PYTHONDONTWRITEBYTECODE", *(() if path else ("PYTHONPATH",))}
    return installs.environment(args.threads, dropped) | {"OMP_WAIT_POLICY": "passive"} | variables


def completion(python: str, inputs: Path, target: str, options: str, scratch: Path) -> list[str]:
    """`mrsynth complete` on the CPU, into a folder that may hold earlier results."""
    out = scratch / "out"
    command = [program(python), "complete", str(inputs), "--target", target, *options.split()]
    return [*command, "--out", str(out), "--overwrite", "--device", "cpu", "--no-progress", "-q"]


def run(command: list[str], variables: dict[str, str]) -> Cost:
    """A process to its end. Leaves the script when it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as heard:
        files = [(os.POSIX_SPAWN_DUP2, heard.fileno(), 1), (os.POSIX_SPAWN_DUP2, heard.fileno(), 2)]
        _, status, used = os.wait4(os.posix_spawn(command[0], command, variables, file_actions=files), 0)
        if status:
            heard.seek(0)
            raise SystemExit(
                f"{' '.join(command)}\nended with {status}\n{heard.read().decode(errors='replace')[-2000:]}"
            )
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, time.perf_counter() - began)


def processor() -> str:
    """What the machine calls its processor, with what matters of its instructions."""
    try:
        said = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in said.split("\n\n")[0].splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in fields.items()}
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    return f"{facts.get('model name')} ({' '.join(f for f in known if f in facts.get('flags', '').split())})"


def phantom(args: argparse.Namespace, scratch: Path) -> Path:
    """A phantom on a grid of 240x240x155. Seed 0 makes a brain of 1.9 litres: from 2 on it would pass for a head."""
    shape = [str(n) for n in SHAPE]
    command = [program(args.new), "phantom", str(scratch / "made"), "--seed", "0", "--shape", *shape]
    run(command, environment(args, {}, path=True))
    return next((scratch / "made").iterdir())


# Official cWDM -------------------------------------------------------------------------------------------------------


def official(args: argparse.Namespace, scratch: Path, text: list[str]) -> bool:
    """Plain fp32 against the fast forms. Whether a bar was missed."""
    show(text, "", f"### cWDM, official shape, random weights, {args.steps} steps on 224x224x160", "")
    show(text, "| form | CPU s | of plain fp32 | MB | relative L2 deviation of the volume | |", "|" + "---|" * 6)
    costs: dict[str, Cost] = {}
    missed = False
    for form in ("plain", "fast-fp32", "auto"):
        file = scratch / f"{form}.safetensors"
        command = [args.new, str(OFFICIAL), form, str(file), str(args.steps)]
        costs[form] = Cost()
        for _ in range(rounds_of(args)):
            costs[form] = costs[form].least(run(command, environment(args, {}, path=True)))
        away = json.loads(file.with_suffix(".json").read_text())
        gain = costs["plain"].cpu / costs[form].cpu
        bad = form == "fast-fp32" and (gain < OFFICIAL_BAR or away["deviation"] > DEVIATION_BAR)
        missed |= bad
        show(
            text,
            f"| {form} ({away['network']}) | {costs[form].cpu:.1f} | {gain:.2f} times | {costs[form].peak:.0f} | "
            f"{away['deviation']:.2e} | {'**missed**' if bad else ''} |",
        )
    return missed


if __name__ == "__main__":
    main()
