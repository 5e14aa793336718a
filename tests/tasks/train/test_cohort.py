"""What of a cohort is learned from: boxes that cover its volumes, and subjects that a method can use."""

import logging
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import yaml

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.io.cache import cached
from mrsynth.io.subjects import find_subject
from mrsynth.methods import build_method, preset
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.tasks.train.cards import card_of, requirements
from mrsynth.tasks.train.cohort import enough_for, gather
from mrsynth.tasks.train.config import read_run_file
from mrsynth.tasks.train.sources import Boxes, Slices, corners, examples_of, spread
from mrsynth.training.batches import Examples, TrainingConfig, collate

T1, T1CE, T2, FLAIR = STANDARD


@dataclass(frozen=True)
class Volume:
    """A prepared subject in memory: (K, C, I, J), as the cache holds it."""

    stored: np.ndarray
    present: tuple[bool, ...] = (True,) * 4

    @property
    def shape(self):
        k, _, i, j = self.stored.shape
        return i, j, k

    def box(self, corner, size):
        """Zeros beyond the ends."""
        i, j, k = (slice(c, c + n) for c, n in zip(corner, size, strict=True))
        part = self.stored[k, :, i, j].transpose(1, 2, 3, 0)
        return np.pad(part, [(0, 0), *((0, n - m) for n, m in zip(size, part.shape[1:], strict=True))]).astype(
            np.float32
        )


def volume(shape, brain=None):
    """Ones in the brain, a box given as three slices; everywhere if it is not given."""
    stored = np.zeros((shape[2], 4, *shape[:2]), np.uint16)
    i, j, k = brain or (slice(None),) * 3
    stored[k, :, i, j] = 1
    return Volume(stored)


# Corners -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 16, 32, 50])
@pytest.mark.parametrize("whole", [1, 15, 16, 17, 31, 48, 64, 155, 240])
def test_boxes_cover_an_axis_and_overlap_by_half(whole, size):
    begins = corners(whole, size)

    assert begins[0] == 0 and begins[-1] == max(whole - size, 0)
    assert all(isinstance(b, int) for b in begins)
    assert all(0 < later - earlier <= (size + 1) // 2 for earlier, later in pairwise(begins))
    assert len(begins) == len(set(begins)) <= 1 + 2 * max(whole - size, 0) / size + 1


def test_corners_by_hand():
    assert corners(64, 32) == [0, 16, 32]
    assert corners(24, 16) == [0, 8] and corners(16, 16) == [0] and corners(5, 16) == [0]


# Boxes ---------------------------------------------------------------------------------------------------------------


def test_boxes_cover_the_volume():
    subject = volume((40, 24, 18))
    boxes = Boxes([subject], (16, 16, 8))
    seen = np.zeros(subject.shape, int)
    for s, corner, size in boxes.places:
        assert s == 0 and size == (16, 16, 8)
        seen[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] += 1

    assert seen.min() >= 1
    assert len(boxes) == 4 * 2 * 4


def test_a_box_is_cut_where_it_says():
    stored = np.arange(18 * 4 * 40 * 24, dtype=np.uint16).reshape(18, 4, 40, 24)
    boxes = Boxes([Volume(np.maximum(stored, 1), (True, True, False, True))], (16, 16, 8))
    _, (i, j, k), _ = boxes.places[-1]
    slab = boxes[len(boxes) - 1]

    assert (i, j, k) == (24, 8, 10)
    assert slab.images.shape == (4, 1, 16, 16, 8) and slab.images.dtype == np.float32
    expected = np.maximum(stored, 1)[k : k + 8, :, i : i + 16, j : j + 16].transpose(1, 2, 3, 0)
    assert np.array_equal(slab.images[:, 0], expected)
    assert slab.present.tolist() == [True, True, False, True]


def test_boxes_without_brain_are_left_out():
    """A tenth of a box is enough; brain in any contrast counts."""
    boxes = Boxes([volume((64, 16, 16), (slice(0, 18), slice(None), slice(None)))], (16, 16, 16))

    assert [corner[0] for _, corner, _ in boxes.places] == [0, 8, 16]  # of 0, 8, ... 48: 16 to 18 is an eighth
    nothing = volume((64, 16, 16), (slice(0, 0),) * 3)
    assert len(Boxes([nothing], (16, 16, 16))) == 0


@pytest.mark.parametrize("side", [2, 4, 6])
def test_small_boxes_are_not_lost_between_the_voxels_that_are_looked_at(side):
    boxes = Boxes([volume((10, 10, 10))], (side,) * 3)

    assert len(boxes) == len(corners(10, side)) ** 3


def test_a_volume_smaller_than_the_box_is_padded_with_zeros():
    boxes = Boxes([volume((10, 20, 5))], (16, 16, 8))

    assert [corner for _, corner, _ in boxes.places] == [(0, 0, 0), (0, 4, 0)]
    images = boxes[0].images
    assert images.shape == (4, 1, 16, 16, 8)
    assert images[:, :, :10, :, :5].all() and images.sum() == 4 * 10 * 16 * 5


def test_without_a_size_every_volume_is_a_box():
    subjects = [volume((10, 20, 5)), volume((12, 8, 7))]
    boxes = Boxes(subjects, None)

    assert len(boxes) == 2
    assert [boxes[i].images.shape for i in range(2)] == [(4, 1, 10, 20, 5), (4, 1, 12, 8, 7)]
    assert boxes[1].images.all()


def test_the_method_decides_between_slices_and_boxes():
    fgc2f, cwdm = (build_method(tiny(name)) for name in ("fgc2f", "cwdm"))

    assert isinstance(examples_of([], fgc2f), Slices) and isinstance(examples_of([], cwdm), Boxes)
    assert len(examples_of([volume((32, 16, 16))], cwdm, (16, 16, 16))) == 3
    assert len(examples_of([volume((32, 16, 16))], cwdm)) == 1


def test_so_many_slices_of_each_subject_lie_evenly_over_its_brain():
    assert spread(range(10, 20), 2) == [12, 17]
    assert spread(range(10, 20), 5) == [11, 13, 15, 17, 19]
    assert spread([3, 4], 9) == spread([3, 4], None) == [3, 4]
    for count in range(1, 30):
        chosen = spread(range(30), count)
        gaps = np.diff(chosen)
        assert len(chosen) == count and (gaps > 0).all() and np.ptp([*gaps, gaps[0]] if count > 1 else [1]) <= 1


def test_boxes_of_prepared_files(tmp_path, write_subject_folder):
    files = find_subject(write_subject_folder(tmp_path, "one", shape=(20, 24, 12)))
    subject = cached(files, STANDARD, PreparationConfig(multiple=8, depth_multiple=4), tmp_path / "cache")
    boxes = Boxes([subject, subject], (8, 8, 8))

    assert {s for s, _, _ in boxes.places} == {0, 1} and len(boxes) >= 16
    assert all((boxes[i].images > 0).any(0).mean() > 0.02 for i in range(len(boxes)))
    whole = examples_of([subject], build_method(tiny("cwdm")))
    assert whole[0].images.shape == (4, 1, *subject.shape)
    assert np.array_equal(whole[0].images[:, 0, ..., 5], subject.slab(5, 0)[:, 0])


# Labels --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path, write_subject_folder):
    """Two prepared subjects, of which the first has a segmentation."""
    folders = [write_subject_folder(tmp_path, name, shape=(20, 24, 12), segmentation=name == "one") for name in WHO]
    config = PreparationConfig(multiple=8, depth_multiple=4)
    return [cached(find_subject(f), STANDARD, config, tmp_path / "cache", labels=True) for f in folders]


WHO = ("one", "two")


def wanting(name):
    method = build_method(tiny(name))
    method.wants_labels = True
    return method


def test_slices_come_with_labels_and_with_none_known_for_who_has_none(mixed):
    source = examples_of(mixed, wanting("fgc2f"))
    labelled = [source[i].labels for i, (s, *_) in enumerate(source.places) if s == 0]
    bare = [source[i].labels for i, (s, *_) in enumerate(source.places) if s == 1]

    assert {value for labels in labelled for value in np.unique(labels)} == {0, 1, 2, 4}
    assert len(bare) > 4 and all((labels == -1).all() for labels in bare)
    assert all(source[i].labels.shape == source[i].images.shape[2:] for i in range(len(source)))
    batch = collate([Examples(source, wanting("fgc2f"), TrainingConfig())[p, p] for p in range(len(source))])
    assert [bool((labels < 0).all()) for labels in batch.labels] == [s == 1 for s, *_ in source.places]


def test_boxes_come_with_labels(mixed):
    source = examples_of(mixed, wanting("cwdm"), (8, 8, 8))
    for i, (s, corner, size) in enumerate(source.places):
        assert np.array_equal(source[i].labels, mixed[s].label_box(corner, size))
    whole = examples_of(mixed, wanting("cwdm"))
    assert whole[0].labels.shape == mixed[0].shape and (whole[1].labels == -1).all()


def test_labels_come_only_where_somebody_has_them_and_somebody_wants_them(mixed):
    assert examples_of(mixed, build_method(tiny("fgc2f")))[0].labels is None
    assert examples_of(mixed[1:], wanting("fgc2f"))[0].labels is None
    assert examples_of(mixed[1:], wanting("cwdm"))[0].labels is None


# Which subjects ------------------------------------------------------------------------------------------------------


def tiny(name, **options):
    return {**preset(name, "tiny"), **({"target": "t1ce"} if name == "cwdm" else {}), **options}


@pytest.fixture
def cohort(training_data, tmp_path):
    """cohort(method, **method options) of the five subjects, of which `judge` validates and `secret` is excluded."""

    def find(name="cwdm", judges=("judge",), **options):
        data = {"data.validation": list(judges), "data.exclude": ["secret"]}
        config = read_run_file(None, name, {"method": tiny(name, **options), **data})
        return gather((training_data,), config, build_method(config.method), tmp_path / "cache", lambda *_: None)

    return find


def test_subjects_that_lack_a_contrast_are_left_out_counted_and_named(cohort, caplog):
    with caplog.at_level(logging.WARNING):
        found = cohort()

    assert [s.name for s in found.training] == ["whole"] and [s.name for s in found.validation] == ["judge"]
    assert any(m.startswith("3 of what was found do not train:") for m in caplog.messages)
    reasons = dict(line.split(": ", 1) for line in found.left_out)
    assert reasons["lacking"] == "t1, t2, flair of t1, t1ce, t2, flair is not enough to learn from"
    assert reasons["useless"] == "t1 of t1, t1ce, t2, flair is not enough to learn from"
    assert reasons["secret"] == "excluded by the configuration"
    assert yaml.safe_load(yaml.safe_dump(found.listing()))["left out"] == found.left_out


def test_a_method_of_three_contrasts_learns_from_those_that_have_them(cohort):
    found = cohort(target="t2", contrasts=["t1", "t2", "flair"])

    assert [s.name for s in found.training] == ["lacking", "whole"]


def test_nothing_to_train_on_says_what_it_takes(cohort):
    with pytest.raises(InputError, match=r"(?s)with all of t1, t2, pd; found 5 subjects.*useless: t1 of"):
        cohort(judges=(), target="t1", contrasts=["t1", "t2", "pd"])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("fgc2f", {}, "at least 2 of t1, t1ce, t2, flair"),
        ("cwdm", {}, "all of t1, t1ce, t2, flair"),
        ("dfbk", {"unified": False, "source": "t2", "target": "flair"}, "t2 and flair"),
        (
            *("dfbk", {"unified": False, "target": "flair", "contrasts": ["t1", "t2", "flair"]}),
            "t1 and flair or t2 and flair",
        ),
    ],
)
def test_the_fewest_contrasts_that_a_subject_needs(name, options, said):
    assert enough_for(build_method(tiny(name, **options))) == said


def test_the_card_says_what_each_target_needs():
    others = {t: tuple(c for c in STANDARD if c is not t) for t in STANDARD}

    assert requirements(build_method(tiny("fgc2f"))) is None
    assert requirements(build_method(tiny("cwdm"))) == {T1CE: others[T1CE]}
    assert requirements(build_method(tiny("cwdm", target="any"))) == others
    pair = {"sources": "single", "unified": False, "source": "flair", "target": "t2"}
    assert requirements(build_method(tiny("dfbk", **pair))) == {T2: (FLAIR,)}
    assert requirements(build_method(tiny("dfbk", unified=False, target="t2"))) == {T2: ()}, "any of the others"


def test_the_card_of_a_run(cohort):
    found = cohort()
    config = read_run_file(None, "cwdm", {"method": tiny("cwdm", sampler="ddim", steps=3), "name": "boxes"})
    card = card_of(config, build_method(config.method), found.training)

    assert (card.name, card.method) == ("boxes", "cwdm")
    assert card.sampling == {"mode": "sample", "modes": ["sample", "mean"], "sampler": "ddim", "steps": 3}
    assert card.requires == {T1CE: (T1, T2, FLAIR)} and card.contrasts == STANDARD
    assert card.supports({T1, T2, FLAIR}, T1CE) and not card.supports({T1, T2}, T1CE)
    assert card.ability == "t1ce from t1+t2+flair"
    assert set(card.intensity) == set(STANDARD) and Contrast.PD not in card.intensity
