"""Teach the error map of a committee by the mistakes it makes on subjects that no member was trained on.

usage: python -m runs.measure.error_map OUT --teach FOLDER ... [--judge FOLDER ...] [--committee NAME] [--every 8]

Each FOLDER is a subject with all four contrasts. Each contrast is made from the three others, and in half of the
patterns of two and of one, on every eighth slice, and compared with what was hidden. OUT keeps the voxels drawn of each
subject (what is there is not made again), and receives errors.safetensors, for mrsynth/weights, and error-map.md, the
tables of docs/methods/error-map.md: first by cross-fitting (each subject judged by a network taught on the others),
then of the subjects to judge, which teach nothing.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrsynth import load_method, load_subject
from mrsynth.contrasts import STANDARD, Contrast, pattern_name
from mrsynth.methods.error_map import ErrorMap, ErrorNetwork, Seen, plane_features, teach, within
from mrsynth.plain import Array
from mrsynth.sampling import AXIAL, Sampling
from mrsynth.scans.subject import Subject
from mrsynth.tasks.error_maps import write_error_map
from mrsynth.tasks.trained import Trained, TrainedCommittee

DRAWN = 6000  # voxels of each volume
QUANTILE = 0.995  # u = 1 of the truth, as of what the networks were taught
FOLDS = 4
BINS = (0.2, 0.4, 0.6, 0.8)  # shares of the voxels, by what was expected of them


@dataclass(frozen=True)
class Voxels:
    """What was drawn of one volume: features (N, F), errors (N,) in u, and by how much its brain mean is off."""

    pattern: str
    target: Contrast
    features: torch.Tensor
    errors: torch.Tensor
    offset: float


@dataclass
class Recorder:
    """Stands in for an error map: keeps what one is shown."""

    seen: list[Seen] = field(default_factory=list)
    brightness: Mapping[Contrast, float] = field(default_factory=dict)

    def expected(self, seen: Seen) -> Array:
        """Nothing."""
        self.seen.append(seen)
        return np.zeros(seen.brain.shape, np.float32)


def main() -> None:
    """Collect, teach by cross-fitting and then on all, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teach", type=Path, nargs="+", required=True)
    parser.add_argument("--judge", type=Path, nargs="*", default=[])
    parser.add_argument("--committee", default="committee-ship")
    parser.add_argument("--every", type=int, default=8)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    trained = load_method(args.committee)
    assert isinstance(trained, TrainedCommittee), f"{args.committee} is no committee"
    trained = replace(trained, load=remembering(trained.load))
    taught = [drawn(args.out, folder, trained, args.every, turn) for turn, folder in enumerate(args.teach)]
    text = ["Cross-fitted: each subject by a network taught on the others.", ""]
    judged: list[tuple[Voxels, Array]] = []
    for fold in range(FOLDS):
        network = network_of([subject for n, subject in enumerate(taught) if n % FOLDS != fold])
        judged += [(v, expected(network, v)) for subject in taught[fold::FOLDS] for v in subject]
    text += table(judged)
    network = network_of(taught)
    if args.judge:
        others = [v for n, folder in enumerate(args.judge) for v in drawn(args.out, folder, trained, args.every, n)]
        text += [
            "",
            "Judged once, on subjects that taught nothing.",
            "",
            *table([(v, expected(network, v)) for v in others]),
        ]
    (args.out / "error-map.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))
    offsets: dict[Contrast, list[float]] = {}
    for v in (v for subject in taught for v in subject):
        offsets.setdefault(v.target, []).append(v.offset)
    brightness = {t: float(np.sqrt(np.mean(np.square(offsets[t])))) for t in STANDARD}
    write_error_map(args.out / "errors.safetensors", ErrorMap(network, trained.contrasts, brightness), trained.sha256)


def remembering(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, that builds each checkpoint once."""
    built: dict[Path, Any] = {}

    def kept(found: Any) -> Any:
        if found.path not in built:
            built[found.path] = load(found)
        return built[found.path]

    return kept


def drawn(out: Path, folder: Path, trained: TrainedCommittee, every: int, turn: int) -> list[Voxels]:
    """The voxels of one subject, from OUT or made now."""
    path = out / f"{folder.resolve().name}.pt"
    if not path.exists():
        subject = load_subject(folder)
        torch.save([vars(v) for v in compared(subject, trained, every, turn)], path)
    return [Voxels(**content) for content in torch.load(path, weights_only=False)]


def compared(subject: Subject, trained: TrainedCommittee, every: int, turn: int) -> list[Voxels]:
    """Every pattern of three contrasts, half of the others: what was made beside what was hidden."""
    found: list[Voxels] = []
    for given in [*combinations(STANDARD, 3), *combinations(STANDARD, 2), *combinations(STANDARD, 1)]:
        if len(given) < 3 and (sum(map(STANDARD.index, given)) + turn) % 2:
            continue
        hidden = [c for c in STANDARD if c not in given]
        rest = subject.without(*hidden)
        prepared = trained.prepare(rest)
        planes = np.flatnonzero(prepared.mask.any(axis=(0, 1)))
        recorder = Recorder()
        watched: Trained = replace(trained, errors=recorder)  # type: ignore[arg-type]
        how = trained.estimator(Sampling())
        slices = planes[every // 2 :: every].tolist()
        axial = all(member.planes == AXIAL for member in trained.rule.members)
        watched.synthesise(rest, prepared, how, targets=hidden, slices=slices if axial else None)
        for target, every_slice in zip(hidden, recorder.seen, strict=True):
            kept = np.isin(np.arange(prepared.mask.shape[-1]), slices)
            seen = replace(every_slice, brain=every_slice.brain & kept)
            truth = prepared.brought(subject.volumes[target].voxels)
            u = np.clip(truth / np.quantile(truth[prepared.mask], QUANTILE), 0, 1)
            found.append(voxels(seen, u, pattern_name(given), target))
    return found


def voxels(seen: Seen, truth: Array, pattern: str, target: Contrast) -> Voxels:
    """Some of the brain's voxels, at random."""
    made = seen.made[seen.brain].astype(np.float64)
    true = truth[seen.brain].astype(np.float64)
    slope, offset = np.polyfit(made, true, 1)
    errors = np.abs(max(slope, 0.0) * seen.made + offset - truth)
    planes = np.flatnonzero(seen.brain.any(axis=(0, 1)))
    features = torch.cat([plane_features(seen, int(k)) for k in planes])
    wrong = torch.from_numpy(np.concatenate([errors[..., k][seen.brain[..., k]] for k in planes])).float()
    rows = torch.randperm(len(wrong), generator=torch.Generator().manual_seed(0))[:DRAWN]
    return Voxels(pattern, target, features[rows], wrong[rows], float(made.mean() - true.mean()))


def network_of(subjects: Sequence[Sequence[Voxels]]) -> ErrorNetwork:
    """Taught on all voxels of these subjects."""
    every = [v for subject in subjects for v in subject]
    return teach(torch.cat([v.features for v in every]), torch.cat([v.errors for v in every]), len(STANDARD))


def expected(network: ErrorNetwork, of: Voxels) -> Array:
    """(N,) in u."""
    made: Array = network(of.features).numpy()
    return made


def table(judged: Sequence[tuple[Voxels, Array]]) -> list[str]:
    """By the number of contrasts given: coverage and rank correlation; then expected beside true error."""
    lines = [
        "| given | volumes | within two sigma | rank correlation, mean | least | brightness, u |",
        "|---|---|---|---|---|---|",
    ]
    for count in (3, 2, 1):
        some = [(v, e) for v, e in judged if v.pattern.count("+") + 1 == count]
        if not some:
            continue
        errors, wanted = np.concatenate([v.errors.numpy() for v, _ in some]), np.concatenate([e for _, e in some])
        ranks = [rank_correlation(v.errors.numpy(), e) for v, e in some]
        brightness = np.sqrt(np.mean([v.offset**2 for v, _ in some]))
        covered = within(errors, wanted)
        figures = (f"{100 * covered:.1f} %", f"{np.mean(ranks):.2f}", f"{min(ranks):.2f}", f"{brightness:.3f}")
        lines.append(line(count, len(some), *figures))
    errors, wanted = np.concatenate([v.errors.numpy() for v, _ in judged]), np.concatenate([e for _, e in judged])
    place = np.digitize(wanted, np.quantile(wanted, BINS))
    fifths = range(len(BINS) + 1)
    lines += [
        "",
        "| fifth of the voxels, by the error expected | expected, u | true, u | within two sigma |",
        "|---|---|---|---|",
    ]
    for n in fifths:
        here = place == n
        covered = within(errors[here], wanted[here])
        lines.append(line(n + 1, f"{wanted[here].mean():.4f}", f"{errors[here].mean():.4f}", f"{100 * covered:.1f} %"))
    return lines


def line(*cells: object) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman 1904: Pearson's correlation of the ranks."""
    first, second = (np.argsort(np.argsort(values)).astype(np.float64) for values in (one, other))
    return float(np.mean((first - first.mean()) * (second - second.mean())) / (first.std() * second.std()))


if __name__ == "__main__":
    main()
