"""What any synthesis must beat: the best of the available contrasts taken as it is, and a regression voxel by voxel.

Both are fitted on training subjects, never on those they are scored on. The regression is gradient
boosting from the same voxel of the available contrasts to the voxel of the missing one, brought to [0, 1] as the
protocols bring the truth.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast, pattern_name
from mrsynth.errors import UsageError
from mrsynth.plain import Array
from mrsynth.scans.hounsfield import to_window, window_of
from mrsynth.scans.intensity import brain_quantile
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.scores.metrics import to_unit

QUANTILE = PreparationConfig().quantile  # of the foreground becomes 1, as for every model of ours
VOXELS = 25_000  # of a training subject
ROUNDS = 150  # of boosting


@dataclass(frozen=True, eq=False)
class VoxelSample:
    """Voxels of training subjects, the same places in every contrast.

    sources   contrast -> (N,) float32, u in [0, 1] as a model sees an input
    truths    contrast -> (N,) float32, [0, 1] as a protocol scales the truth
    subjects  how many subjects they are from
    """

    sources: dict[Contrast, Array]
    truths: dict[Contrast, Array]
    subjects: int


def sample_voxels(subjects: Iterable[Subject], contrasts: Sequence[Contrast], seed: int = 0) -> VoxelSample:
    """Draw foreground voxels of the subjects that have all the contrasts; empty when there is none."""
    random = np.random.default_rng(seed)
    sources: dict[Contrast, list[Array]] = {c: [] for c in contrasts}
    truths: dict[Contrast, list[Array]] = {c: [] for c in contrasts}
    count = 0
    for subject in subjects:
        if not set(contrasts) <= set(subject.volumes):
            continue
        count += 1
        foreground = subject.foreground()
        inside = int(foreground.sum())
        chosen = np.sort(random.choice(inside, min(VOXELS, inside), replace=False))
        for contrast in contrasts:
            sources[contrast].append(as_input(subject, contrast)[chosen])
            truths[contrast].append(to_unit(subject.volumes[contrast].voxels, window_of(contrast))[foreground][chosen])
    joined = [{c: np.concatenate(v) if v else np.empty(0, np.float32) for c, v in d.items()} for d in (sources, truths)]
    return VoxelSample(joined[0], joined[1], count)


class CopyBaseline:
    """The available contrast that lay nearest to the missing one in the training subjects, unchanged."""

    name = "copy"

    def __init__(self, sample: VoxelSample):
        self.sample = sample
        self.nearest: dict[tuple[str, Contrast], Contrast] = {}

    def fit(self, available: Sequence[Contrast], target: Contrast) -> None:
        """Be ready for this case."""
        self.source(available, target)

    def predict(self, subject: Subject, target: Contrast) -> Volume:
        """u in [0, 1] on the subject's grid, 0 outside its foreground. The subject must lack the target."""
        return placed(subject, as_input(subject, self.source(subject.available, target)))

    def source(self, available: Sequence[Contrast], target: Contrast) -> Contrast:
        """The contrast with the least mean squared distance to the target."""
        known = [c for c in available if c in self.sample.sources]
        key = pattern_name(known), target
        if key not in self.nearest:
            truth = self.sample.truths[target]
            self.nearest[key] = min(known, key=lambda c: float(np.square(self.sample.sources[c] - truth).mean()))
        return self.nearest[key]


class RegressionBaseline:
    """Gradient boosting from the voxel of the available contrasts to that of the missing one; fitted when first asked.

    Raises UsageError when scikit-learn is not installed.
    """

    name = "regression"

    def __init__(self, sample: VoxelSample):
        self.sample = sample
        self.models: dict[tuple[str, Contrast], Any] = {}
        try:
            import sklearn  # noqa: F401
        except ImportError as error:
            raise UsageError(
                "The regression baseline needs scikit-learn: pip install 'mrsynth[benchmark]', or --no-baselines."
            ) from error

    def fit(self, available: Sequence[Contrast], target: Contrast) -> None:
        """Be ready for this case: takes seconds, once."""
        self._model([c for c in available if c in self.sample.sources], target)

    def predict(self, subject: Subject, target: Contrast) -> Volume:
        """u in [0, 1] on the subject's grid, 0 outside its foreground. The subject must lack the target."""
        known = [c for c in subject.available if c in self.sample.sources]
        features = np.stack([as_input(subject, c) for c in known], axis=1)
        return placed(subject, np.clip(self._model(known, target).predict(features), 0, 1))

    def _model(self, known: Sequence[Contrast], target: Contrast) -> Any:
        key = pattern_name(known), target
        if key not in self.models:
            from sklearn.ensemble import HistGradientBoostingRegressor

            features = np.stack([self.sample.sources[c] for c in known], axis=1)
            model = HistGradientBoostingRegressor(max_iter=ROUNDS, random_state=0)
            self.models[key] = model.fit(features, self.sample.truths[target])
        return self.models[key]


Baseline = CopyBaseline | RegressionBaseline


def as_input(subject: Subject, contrast: Contrast) -> Array:
    """The foreground voxels of a contrast, (N,) u in [0, 1]."""
    inside = subject.volumes[contrast].voxels[subject.foreground()]
    if window := window_of(contrast):
        return to_window(inside, window)
    u: Array = np.clip(inside / np.float32(brain_quantile(subject.name, contrast, inside, QUANTILE)), 0, 1)
    return u


def placed(subject: Subject, inside: NDArray[Any]) -> Volume:
    """Foreground voxels (N,) back in their places."""
    voxels = np.zeros(subject.reference.shape, np.float32)
    voxels[subject.foreground()] = inside
    return Volume(voxels, subject.reference.affine)
