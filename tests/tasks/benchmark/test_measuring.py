"""One piece of a benchmark: what is made from what is left, what is scored, and in which axes."""

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.sampling import Sampling
from mrsynth.scans.volume import Volume
from mrsynth.scores.rows import LEFT_OUT, REAL
from mrsynth.tasks.benchmark.contenders import Gap
from mrsynth.tasks.benchmark.measuring import Job, Measurer
from mrsynth.tasks.benchmark.pieces import Piece

T1, T1CE, T2, FLAIR = Contrast.T1, Contrast.T1CE, Contrast.T2, Contrast.FLAIR
GAP = Gap((T1, T1CE), (T2, FLAIR))
WT = {"WT": frozenset({1, 2, 4})}


class Constant:
    """A baseline that makes 0.5 everywhere in the brain, and remembers what it was fitted for and shown."""

    def __init__(self):
        self.fitted, self.shown = [], []

    def fit(self, available, target):
        self.fitted.append((available, target))

    def predict(self, subject, target):
        self.shown.append(subject.available)
        return Volume(np.where(subject.foreground(), np.float32(0.5), np.float32(0)), subject.reference.affine)


class Copies:
    """A segmenter of two regions that says 'inside' wherever its T2 is bright, and everywhere without one."""

    contrasts, regions = (T1, T2), ("WT", "XX")

    def segment(self, volumes):
        self.seen = volumes
        inside = volumes[T2].voxels > 400 if T2 in volumes else np.ones(volumes[T1].shape, bool)
        return dict.fromkeys(self.regions, inside)


@pytest.fixture
def subject(make_subject):
    return make_subject("c", segmentation=True)


def measurer(baseline, segmenter=None, regions=None):
    return Measurer(
        {"dataset": "d", "split": "s"},
        Sampling(seed=3),
        ["full3d"],
        regions or {},
        lambda: {"copy": baseline},
        segmenter,
        {"c": "person 7"},
    )


def job(method, gap=GAP):
    return Job(Piece("c", method, gap.name), gap, {})


def test_a_baseline_sees_only_what_the_gap_leaves_and_every_row_says_where_it_is_from(subject):
    baseline = Constant()
    rows = measurer(baseline).rows(subject, job("copy"))

    assert baseline.shown == [(T1, T1CE)] * 2
    assert baseline.fitted == [((T1, T1CE), T2), ((T1, T1CE), FLAIR)]
    assert {(r.dataset, r.split, r.subject, r.person, r.method) for r in rows} == {("d", "s", "c", "person 7", "copy")}
    assert {(r.pattern, r.target, r.protocol, r.seed, r.weights) for r in rows} == {
        ("t1+t1ce", target, "full3d", 3, "") for target in ("t2", "flair")
    }


def test_a_score_is_that_of_the_protocol_for_the_volume_that_was_made(subject):
    """full3d's MSE by hand: the truth by its 0.1 and 99.9 % quantiles, over the whole volume."""
    rows = measurer(Constant()).rows(subject, job("copy"))
    truth = subject.volumes[T2].voxels
    low, high = np.quantile(truth, (0.001, 0.999))
    made = np.where(subject.foreground(), 0.5, 0)
    expected = np.mean((np.clip((truth - low) / (high - low), 0, 1) - made) ** 2)
    (found,) = (r.value for r in rows if (r.target, r.region, r.metric) == (T2, "volume", "MSE"))

    assert found == pytest.approx(expected, rel=1e-5)


def test_a_segmentation_sees_synthetic_contrasts_in_file_units_and_only_known_regions_are_scored(subject):
    segmenter = Copies()
    rows = measurer(Constant(), segmenter, WT).rows(subject, job("copy", Gap((T1, T1CE), (T2,))))
    dice = [r for r in rows if r.metric == "DICE"]

    assert float(segmenter.seen[T2].voxels.max()) == 500, "u of 0.5 is 500 in a file"
    assert [(r.region, r.protocol, r.target) for r in dice] == [("WT", "segmentation", "t2")]
    truth, found = subject.segmentation.voxels > 0, subject.foreground()
    assert dice[0].value == pytest.approx(2 * (truth & found).sum() / (truth.sum() + found.sum()))


def test_the_controls_are_segmented_from_all_true_contrasts_and_from_what_is_left(subject):
    segmenter = Copies()
    measure = measurer(Constant(), segmenter, WT)
    assert {r.metric for r in measure.rows(subject, job(REAL))} == {"DICE", "HD95"}
    assert set(segmenter.seen) == {T1, T1CE, T2, FLAIR}

    measure.rows(subject, job(LEFT_OUT))
    assert set(segmenter.seen) == {T1, T1CE}
    assert measurer(Constant()).rows(subject, job(REAL)) == [], "without a segmenter there is nothing to do"


def test_a_picture_has_a_column_for_each_input_what_was_made_the_truth_and_the_difference(subject, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "mrsynth.tasks.benchmark.measuring.montage", lambda panels, mask, **more: drawn.extend(panels) or b"png"
    )
    assert measurer(Constant()).picture(subject, job("copy"), T2, viewer=False) == (b"png", None)
    assert [(p.title, p.kind) for p in drawn] == [
        ("T1", "input"),
        ("T1ce", "input"),
        ("synthetic T2", "synthetic"),
        ("true T2", "reference"),
        ("difference", "difference"),
    ]
    made, true, off = (p.voxels for p in drawn[2:])
    np.testing.assert_allclose(off, np.abs(made - true), atol=1e-6)
