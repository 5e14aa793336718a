"""What the members of a committee are worth, alone and together: how its weights and planes are settled.

usage: python -m runs.measure.members OUT ROOT [ROOT ...] --member LABEL=CHECKPOINT[+CHECKPOINT ...][:PLANE,...]
           [--member ...] [--rule W,W,... ...] [--subjects NAME ...] [--brightness LABEL|median] [--precision fp32]

ROOT         folders of subjects; read are --subjects, by default those that draw the curves in runs/corpus.yaml
--member     name or path of a checkpoint, or of several that share the contrasts out among them; PLANE is axial if not
             given. The first leads: on its grid the images meet, and unless told otherwise all take its brightness
--rule       weights of the members, in their order; 0 leaves one out. Each member alone is shown anyway
OUT          keeps what was made, OUT/LABEL/SUBJECT-TARGET.npy, u on the grid of the first member, and makes none of it
             again: another checkpoint needs another LABEL, another first member another OUT

Each contrast from the others that are there, whole volumes in mode mean. Prints a Markdown table: brain PSNR / after
the fit by contrast, means over the subjects, then the mean of all with SSIM, EDGE and EDGE_R.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import yaml

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.subjects import find_subjects, load_subject
from mrsynth.methods.committee import average, onto
from mrsynth.plain import Array
from mrsynth.sampling import AXIAL, Plane, Sampling
from mrsynth.scans.preparation import Prepared
from mrsynth.scans.subject import Subject
from mrsynth.scores.protocols import PROTOCOLS, scored_case
from mrsynth.tasks.models import load_network
from mrsynth.tasks.trained import TrainedMethod

CORPUS = Path(__file__).resolve().parents[1] / "corpus.yaml"
FIGURES = ("PSNR", "PSNR_FIT", "SSIM", "EDGE", "EDGE_R")
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Member:
    """Networks that share the contrasts out among them, and the planes whose slices they make."""

    label: str
    networks: tuple[TrainedMethod, ...]
    planes: tuple[Plane, ...]

    @classmethod
    def of(cls, text: str) -> "Member":
        """From LABEL=CHECKPOINT[+CHECKPOINT ...][:PLANE,...]."""
        label, _, rest = text.partition("=")
        checkpoints, _, planes = rest.partition(":")
        networks = tuple(load_network(name) for name in checkpoints.split("+"))
        return cls(label, networks, tuple(planes.split(",")) if planes else AXIAL)  # type: ignore[arg-type]

    def network(self, given: frozenset[Contrast], target: Contrast) -> TrainedMethod | None:
        """That which makes a contrast from these; None if none does."""
        return next((network for network in self.networks if network.card.supports(given, target)), None)


def main() -> None:
    """Make what is not there yet, average, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--member", action="append", required=True)
    parser.add_argument("--rule", action="append", default=[])
    parser.add_argument("--subjects", nargs="+", default=yaml.safe_load(CORPUS.read_text())["data"]["validation"])
    parser.add_argument("--brightness")
    parser.add_argument("--precision", default="fp32")
    args = parser.parse_args()

    members = [Member.of(text) for text in args.member]
    alone = [[float(n == m) for m in range(len(members))] for n in range(len(members))]
    rules = [*alone, *([float(w) for w in rule.split(",")] for rule in args.rule)]
    found = {s.name: s for root in args.roots for s in find_subjects(root)[0]}
    figures: list[dict[Contrast, list[Figures]]] = [{} for _ in rules]
    for name in args.subjects:
        subject = load_subject(found[name])
        for target in (c for c in STANDARD if c in subject.volumes):
            rest = subject.without(target)
            home = members[0].networks[0].prepare(rest)
            images = {m.label: made(m, subject, rest, home, target, args.out, args.precision) for m in members}
            for rule, kept in zip(rules, figures, strict=True):
                weights = {m.label: w for m, w in zip(members, rule, strict=True) if w}
                chosen = {label: image for label, image in images.items() if image is not None and label in weights}
                if chosen:
                    each = [weights[label] for label in chosen]
                    image = average(chosen, each, args.brightness or members[0].label, home.mask)[0]
                    kept.setdefault(target, []).append(scores(subject, home, image, target))
            print(f"{name}, {target.label}: {len(images)} images", file=sys.stderr, flush=True)
    names = [member.label for member in members]
    columns = [*(c.label for c in STANDARD), "mean", *FIGURES[2:]]
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for rule, kept in zip(rules, figures, strict=True):
        print(f"| {named(names, rule)} | {' | '.join(cells(kept))} |", flush=True)


def made(
    member: Member, subject: Subject, rest: Subject, home: Prepared, target: Contrast, out: Path, precision: str
) -> Array | None:
    """What a member makes of one contrast, (I, J, K) u on the grid of `home`, once; None if it cannot."""
    network = member.network(frozenset(rest.volumes), target)
    if network is None:
        return None
    file = out / member.label / f"{subject.name}-{target}.npy"
    if not file.exists():
        own = network.prepare(rest, home.record["crop"])
        how = network.estimator(
            Sampling(mode="mean", precision=precision, planes=None if member.planes == AXIAL else member.planes)
        )
        image = network.synthesise(rest, own, how, targets=[target]).image[own.contrasts.index(target)]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, onto(image, own, home))
    kept: Array = np.load(file)
    return kept


def scores(subject: Subject, home: Prepared, image: Array, target: Contrast) -> Figures:
    """Of one image on the grid of `home`, on the subject's own grid."""
    case = scored_case(subject, target, home.restore(image).voxels)
    return {metric: value for region, metric, value in PROTOCOLS["brain3d"].measure(case) if region == "brain"}


def named(names: Sequence[str], rule: Sequence[float]) -> str:
    """Who takes part, by which weights."""
    part = [(name, weight) for name, weight in zip(names, rule, strict=True) if weight]
    return part[0][0] if len(part) == 1 else ", ".join(f"{name} {weight:g}" for name, weight in part)


def cells(kept: Mapping[Contrast, Sequence[Figures]]) -> Iterator[str]:
    """A row of the table."""
    for target in STANDARD:
        of_target = kept.get(target, ())
        yield " / ".join(f"{mean(f[m] for f in of_target):.2f}" for m in FIGURES[:2]) if of_target else ""
    every = [figures for of_target in kept.values() for figures in of_target]
    yield " / ".join(f"{mean(f[m] for f in every):.2f}" for m in FIGURES[:2])
    for metric in FIGURES[2:]:
        yield f"{mean(f[metric] for f in every):.3f}"


if __name__ == "__main__":
    main()
