"""Warnings about inputs unlike the training data: there when they should be, and only then."""

from dataclasses import replace

import numpy as np
import pytest

from mrsynth.card import Card
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.cache import cached
from mrsynth.io.subjects import find_subject, load_subject
from mrsynth.scans.familiarity import has_skull, histogram_distance, intensity_histogram, unfamiliar
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume

SHAPE = (32, 36, 24)
# millimetres that make the ellipsoid of `make_subject` a brain of 1.4 litres, and a head of 4
BRAIN, HEAD = np.cbrt([1.4e6 / 8016, 4e6 / 8016])
SAME_SPACING = PreparationConfig(spacing_tolerance=100)  # the warnings do not depend on the grid; this is quicker


def grid(*spacing):
    return np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])


def with_voxels(subject, **changed):
    volumes = {Contrast(c): Volume(v.astype(np.float32), subject.reference.affine) for c, v in changed.items()}
    return replace(subject, volumes={**subject.volumes, **volumes})


@pytest.fixture(scope="module")
def brain(make_subject):
    """1.4 litres; most of T1 is bright and most of T2 dark, as in life."""
    subject = make_subject(shape=SHAPE, affine=grid(BRAIN, BRAIN, BRAIN))
    assert 1.3e6 < subject.foreground().sum() * BRAIN**3 < 1.5e6
    t1, t2 = (subject.volumes[c].voxels / subject.volumes[c].voxels.max() for c in (Contrast.T1, Contrast.T2))
    return with_voxels(subject, t1=t1**0.4, t2=t2**3)


@pytest.fixture(scope="module")
def card(brain):
    """Of a checkpoint trained on the very images of `brain`."""
    prepared = prepare(brain, STANDARD, SAME_SPACING)
    return Card(
        name="x",
        method="fgc2f",
        contrasts=STANDARD,
        licence="",
        intensity={c: tuple(intensity_histogram(prepared, c, 64)) for c in STANDARD},
    )


@pytest.fixture
def warnings(card, monkeypatch):
    monkeypatch.setattr("mrsynth.scans.familiarity.THICK_SLICES_MM", 9.0)  # the voxels of these small heads are large

    def of(subject):
        return unfamiliar(subject, prepare(subject, STANDARD, SAME_SPACING), card)

    return of


def test_an_ordinary_brain_gives_no_warning(warnings, brain):
    assert warnings(brain) == []
    assert not has_skull(brain)


def moved(subject, *spacing):
    return Subject(subject.name, {c: Volume(v.voxels, grid(*spacing)) for c, v in subject.volumes.items()})


def test_a_foreground_larger_than_a_brain_is_told(warnings, brain):
    head = moved(brain, HEAD, HEAD, HEAD)

    (warning,) = warnings(head)
    assert "4.0 litres" in warning and "is the skull still there" in warning and "SynthStrip" in warning
    assert has_skull(head)


def test_a_brain_mask_takes_the_skull_away(brain):
    head = moved(brain, HEAD, HEAD, HEAD)
    inner = np.zeros(SHAPE, np.float32)
    inner[7:-7, 8:-8, 6:-6] = 1

    assert not has_skull(replace(head, mask=Volume(inner, head.reference.affine)))


def test_a_part_of_a_brain_is_told(warnings, brain):
    (warning,) = warnings(moved(brain, 3, 3, 3))

    assert "0.22 litres, less than a whole brain" in warning


def test_thick_slices_are_told(card, make_subject):
    subject = make_subject(shape=(32, 36, 10), affine=grid(5.5, 5.5, 2.5))
    thick = make_subject(shape=(32, 36, 10), affine=grid(1.0, 1.0, 5.0))

    def told(subject):
        return [w for w in unfamiliar(subject, prepare(subject, STANDARD, SAME_SPACING), card) if "thick slices" in w]

    assert "5.5 x 5.5 x 2.5 mm" in told(subject)[0] and "1 x 1 x 5 mm" in told(thick)[0]
    assert told(make_subject(shape=SHAPE, affine=grid(2.4, 2.4, 2.4))) == []


def test_another_contrast_than_the_name_says_is_told(warnings, brain):
    swapped = with_voxels(brain, t1=brain.volumes[Contrast.T2].voxels[::-1, ::-1])  # not turned it would be refused

    (warning,) = [told for told in warnings(swapped) if "does not lie on" not in told]
    assert "T1 are spread unlike" in warning and "not the contrast it is taken for" in " ".join(warning.split())


def test_an_inverted_image_is_told(warnings, brain):
    t2 = brain.volumes[Contrast.T2].voxels
    (warning,) = warnings(with_voxels(brain, t2=np.where(t2 > 0, t2.max() + 0.01 - t2, 0)))

    assert "T2 are spread unlike" in warning


def test_units_do_not_matter(warnings, brain):
    assert warnings(with_voxels(brain, t1=brain.volumes[Contrast.T1].voxels * 37.5)) == []


def test_a_card_without_histograms_judges_no_intensities(card, brain):
    prepared = prepare(brain, STANDARD, SAME_SPACING)
    inverted = replace(prepared, images=np.where(prepared.mask, 1 - prepared.images, 0))

    told = unfamiliar(brain, inverted, card.model_copy(update={"intensity": {}}))
    assert not any("spread unlike" in w for w in told)
    assert sum("spread unlike" in w for w in unfamiliar(brain, inverted, card)) >= 2


@pytest.mark.parametrize("without", [[], [Contrast.T1, Contrast.FLAIR]])
def test_it_is_the_histogram_that_training_writes_into_the_card(write_subject_folder, tmp_path, monkeypatch, without):
    """Also where the subject lacks contrasts, and where one contrast is zero inside the brain of another."""
    files = find_subject(write_subject_folder(tmp_path, "p1", without=without))
    subject = load_subject(files)
    t2 = subject.volumes[Contrast.T2]
    t2.voxels[:, : t2.shape[1] // 2] = 0
    subject = Subject(subject.name, {**subject.volumes, Contrast.T2: t2})
    monkeypatch.setattr("mrsynth.io.cache.load_subject", lambda files, **__: subject)
    stored = cached(files, STANDARD, PreparationConfig(), tmp_path / "cache")
    prepared = prepare(subject, STANDARD, PreparationConfig())

    for channel, contrast in enumerate(STANDARD):
        if contrast in subject.volumes:
            ours = intensity_histogram(prepared, contrast, len(stored.histograms[channel]))
            # 16 bits on disk move a voxel that lies on the border of two bins, as many of these whole numbers do
            assert histogram_distance(ours, stored.histograms[channel]) < 3e-4
            assert ours[0] == pytest.approx(stored.histograms[channel][0]) and ours.sum() == pytest.approx(1)


def test_distance_of_known_histograms():
    ends = np.zeros(64)
    ends[0] = 5
    other = ends[::-1]

    assert histogram_distance(ends, ends * 7) == 0
    assert histogram_distance(ends, other) == pytest.approx(63 / 64)  # all the mass moves 63 bins of 1/64
    assert histogram_distance(np.eye(64)[20], np.eye(64)[23]) == pytest.approx(3 / 64)
    assert histogram_distance(ends, other) == histogram_distance(other, ends)
