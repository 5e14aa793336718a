"""Scores and pictures while training: against closed forms and an independent SSIM."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from mrsynth.contrasts import STANDARD, Contrast, pattern_name, patterns
from mrsynth.methods.base import Method, MethodConfig
from mrsynth.training.batches import Slab
from mrsynth.training.validation import (
    AT_ONCE,
    PER_SUBJECT,
    PER_VOLUME,
    ValidationSlices,
    as_slices,
    fill_in,
    fill_in_every_pattern,
    picture,
    score_patterns,
)

T1, T1CE, T2, FLAIR = STANDARD


class Fading(Method):
    """Fills a missing contrast with a copy of the first available one, made fainter: u -> gain * u."""

    Config = MethodConfig

    def __init__(self, gain=1.0, only=None):
        super().__init__(MethodConfig(method="fading"))
        self.gain = torch.nn.Parameter(torch.tensor(gain))
        self.only = only
        self.batches, self.noises, self.precisions = [], [], []

    def objectives(self, stage):
        return []

    def supports(self, available, target):
        return super().supports(available, target) and target in (self.only or STANDARD)

    def fill_in(self, images, available, wish):
        assert available.any(1).all()
        self.batches.append(len(images))
        self.noises.append(wish.noise(images))
        self.precisions.append((torch.eye(2) @ torch.eye(2)).dtype)
        first = available.int().argmax(1)
        source = images[torch.arange(len(images)), first][:, None]
        made = (source + 1) * self.gain - 1
        return torch.where(available[:, :, None, None], images, made)


def slab(size=(24, 32), without=(), seed=0, alike=False):
    """A brain with smooth contrasts; `alike` makes them all the same."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    brain = x**2 + y**2 < 0.8
    waves = [0.5 + 0.3 * np.sin(random.uniform(3, 6) * x + random.uniform(3, 6) * y) for _ in STANDARD]
    images = np.stack([np.where(brain, w, 0) for w in (waves[:1] * 4 if alike else waves)])[:, None]
    present = np.array([c not in without for c in STANDARD])
    return Slab(images.astype(np.float32), present)


def rows_of(method, slices):
    batch = slices.batch()
    made = dict(fill_in_every_pattern(method, batch))
    found: dict = {}
    for row in score_patterns(method, batch, made):
        found.setdefault((row.pattern, row.target), {})[row.metric] = row.value
    return found


def test_every_pattern_and_target_has_a_row():
    rows = rows_of(Fading(), ValidationSlices([slab(seed=i) for i in range(3)]))

    assert len(rows) == 28
    assert set(rows) == {(pattern_name(p), t.value) for p in patterns() for t in STANDARD if t not in p}


def test_a_perfect_method_scores_perfectly():
    rows = rows_of(Fading(), ValidationSlices([slab(alike=True)]))

    assert all(row["PSNR"] == float("inf") or row["PSNR"] > 120 for row in rows.values())
    assert all(row["SSIM"] == pytest.approx(1, abs=1e-6) for row in rows.values())


def test_scores_are_those_of_the_brain():
    """Against the definition of PSNR and against scikit-image's SSIM, slice by slice."""
    slabs = [slab(seed=i) for i in range(3)]
    row = rows_of(Fading(0.8), ValidationSlices(slabs))["t1", "t2"]

    made, truth = (np.stack([s.images[c, 0] for s in slabs]) for c in (0, 2))
    made = 0.8 * made
    brain = truth > 0
    assert row["PSNR"] == pytest.approx(-10 * np.log10(np.square(made - truth)[brain].mean()), abs=1e-3)
    padded = [np.pad(x, [(0, 0), (8, 8), (8, 8)]) for x in (made, truth, brain)]
    ssim = [
        structural_similarity(
            p, t, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )[1]
        for p, t in zip(*padded[:2], strict=True)
    ]
    assert row["SSIM"] == pytest.approx(np.stack(ssim)[padded[2]].mean(), abs=1e-4)


def test_slices_that_lack_a_contrast_count_where_they_can():
    complete, lacking = slab(seed=0), slab(seed=1, without=(T1CE,))
    method = Fading(0.9)
    both, alone = (rows_of(method, ValidationSlices(s)) for s in ([complete, lacking], [complete]))

    for key, row in both.items():
        if "t1ce" in (key[1], *key[0].split("+")):
            assert row == alone[key]
        else:
            assert row["PSNR"] != alone[key]["PSNR"]
    assert {"t1ce" in (t, *p.split("+")) for p, t in rows_of(method, ValidationSlices([lacking]))} == {False}


@pytest.mark.parametrize("nonsense", [float("nan"), 7.0])
def test_what_an_absent_contrast_holds_never_matters(nonsense):
    clean, dirty = slab(without=(T2,)), slab(without=(T2,))
    clean.images[2], dirty.images[2] = 0, nonsense
    results = [rows_of(Fading(0.9), ValidationSlices([s])) for s in (clean, dirty)]

    assert results[0] == results[1]
    assert results[0]


def test_only_what_the_method_supports_is_made():
    method = Fading(only=(FLAIR,))
    rows = rows_of(method, ValidationSlices([slab()]))

    assert {target for _, target in rows} == {"flair"}
    assert len(rows) == len(method.batches) == 7  # patterns without FLAIR


def test_many_slices_go_in_several_passes():
    slices = ValidationSlices([slab(seed=i) for i in range(AT_ONCE[2] + 3)])
    method = Fading(0.9)
    batch = slices.batch()
    made = fill_in(method, batch, (T1,))

    assert method.batches == [AT_ONCE[2], 3]
    assert torch.allclose(made[:, 2], 0.9 * (batch.images[:, 0] + 1) / 2, atol=1e-6)
    assert torch.allclose(made[:, 0], (batch.images[:, 0] + 1) / 2, atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_noise_is_the_same_every_time_and_shared_if_the_method_says_so(shared):
    method = Fading()
    method.shared_noise = shared
    batch = ValidationSlices([slab(), slab(seed=1)]).batch()
    for _ in range(2):
        fill_in(method, batch, (T1,))

    one, two = method.noises
    assert torch.equal(one, two)
    assert torch.equal(one[0], one[1]) == shared


@pytest.mark.parametrize(("bf16", "seen"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision(bf16, seen):
    method = Fading()
    fill_in(method, ValidationSlices([slab()]).batch(), (T1,), bf16)

    assert method.precisions == [seen]


def test_slices_are_spread_over_the_middle_of_each_subject():
    subjects = [[slab(seed=i) for i in range(n)] for n in (21, 1, 0, 11)]
    picked = ValidationSlices.of(subjects)

    assert len(picked) == 3 * PER_SUBJECT
    assert [s for s in picked.slabs[:3]] == [subjects[0][i] for i in (2, 10, 18)]
    assert [s for s in picked.slabs[6:]] == [subjects[3][i] for i in (1, 5, 9)]


def test_the_picture_shows_truth_beside_synthesis():
    """Rows are slices; the columns T1, made T1, T1ce, made T1ce, ...; the second axis of a slice runs down."""
    method = Fading(0.5)
    slices = ValidationSlices([slab(seed=0), slab(seed=1, without=(FLAIR,))])
    batch = slices.batch()
    made = dict(fill_in_every_pattern(method, batch))
    png = picture(method, batch, made)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=float) / 255

    h, w = batch.images.shape[-2:]
    assert pixels.shape == (2 * w, 8 * h)
    tiles = pixels.reshape(2, w, 8, h).transpose(0, 2, 3, 1)  # slice, column, H, W
    truth = slices.slabs[0].images[:, 0]
    for channel in range(4):
        first = truth[1 if channel == 0 else 0]  # what Fading copies: T1, and for T1 the T1ce
        assert np.allclose(tiles[0, 2 * channel], truth[channel], atol=0.01)
        assert np.allclose(tiles[0, 2 * channel + 1], 0.5 * first, atol=0.01)
    assert not tiles[1, 6].any()  # there is no FLAIR
    assert not tiles[1, 1].any()  # nor anything made of it
    assert tiles[1, 7].any()


def test_the_picture_leaves_black_what_cannot_be_made():
    method = Fading(only=(Contrast.T1,))
    batch = ValidationSlices([slab()]).batch()
    pixels = np.asarray(Image.open(io.BytesIO(picture(method, batch, dict(fill_in_every_pattern(method, batch))))))

    h = batch.images.shape[-2]
    assert pixels[:, h : 2 * h].any()
    assert not pixels[:, 3 * h : 4 * h].any()


# Volumes -------------------------------------------------------------------------------------------------------------


class FadingVolumes(Fading):
    """The same for whole volumes, from all the other contrasts only."""

    dimensions = 3

    def supports(self, available, target):
        return super().supports(available, target) and len(set(available) & set(STANDARD)) == 3

    def fill_in(self, images, available, wish):
        assert wish.context.shape == (*images.shape[:2], 0, *images.shape[2:])
        first = available.int().argmax(1)
        self.batches.append(len(images))
        self.noises.append(wish.noise(images))
        made = (images[torch.arange(len(images)), first][:, None] + 1) * self.gain - 1
        return torch.where(available[:, :, None, None, None], images, made)


def ball(size=(16, 24, 20), without=(), seed=0):
    """Slices of `slab`, larger in the middle, as one box."""
    z = np.linspace(-1, 1, size[2])
    flat = slab(size[:2], without, seed)
    u = flat.images[..., None] * (0.2 + 0.8 * (1 - z**2)).astype(np.float32)
    return Slab(u, flat.present)


@pytest.fixture
def whole():
    return ValidationSlices.whole([[ball()], [ball((12, 20, 16), seed=1)], []])


def test_volumes_of_different_sizes_are_one_batch(whole):
    batch = whole.batch()

    assert len(whole) == 2 and batch.images.shape == (2, 4, 16, 24, 20) and batch.context.shape == (2, 4, 0, 16, 24, 20)
    inner = torch.from_numpy(whole.slabs[1].images[:, 0]) * 2 - 1
    assert torch.equal(batch.images[1, :, 2:14, 2:22, 2:18], inner)


def test_only_patterns_of_one_missing_contrast_are_made_of_volumes(whole):
    method = FadingVolumes(0.9)
    rows = rows_of(method, whole)

    assert set(rows) == {(pattern_name(c for c in STANDARD if c is not t), t.value) for t in STANDARD}
    assert method.batches == [1] * 8  # four patterns, one volume at a time
    assert not torch.equal(method.noises[0], method.noises[1])


def test_scores_of_volumes_are_those_of_their_slices(whole):
    """Nine slices from a tenth to nine tenths of each volume, scored as slices are."""
    row = rows_of(FadingVolumes(0.8), whole)["t1+t2+flair", "t1ce"]
    batch = whole.batch()
    places = [round(float(p)) for p in np.linspace(0.1, 0.9, PER_VOLUME) * 19]
    slabs = [
        Slab(((batch.images[b, :, None, :, :, k] + 1) / 2).numpy(), np.ones(4, bool)) for b in (0, 1) for k in places
    ]
    expected = rows_of(Fading(0.8), ValidationSlices(slabs))["t1+t2+flair", "t1ce"]

    assert row["PSNR"] == pytest.approx(expected["PSNR"], abs=1e-4) and row["SSIM"] == pytest.approx(
        expected["SSIM"], abs=1e-5
    )


def test_a_volume_that_lacks_a_contrast_counts_where_it_can():
    lacking = ValidationSlices.whole([[ball()], [ball(seed=1, without=(T1CE,))]])
    alone = ValidationSlices.whole([[ball()]])
    both = rows_of(FadingVolumes(0.9), lacking)

    assert both == rows_of(FadingVolumes(0.9), alone)  # every pattern or target has T1ce
    assert rows_of(FadingVolumes(0.9), ValidationSlices.whole([[ball(without=(T1CE,))]])) == {}


def test_the_picture_shows_three_slices_of_each_volume(whole):
    method = FadingVolumes(0.5)
    batch = whole.batch()
    png = picture(method, batch, dict(fill_in_every_pattern(method, batch)))
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=float) / 255

    assert pixels.shape == (2 * PER_SUBJECT * 24, 8 * 16)
    tiles = pixels.reshape(2 * PER_SUBJECT, 24, 8, 16).transpose(0, 2, 3, 1)
    u = (batch.images + 1) / 2
    for volume in range(2):
        for place, k in enumerate((2, 10, 17)):  # 0.1, 0.5 and 0.9 of 19; halves go to the even
            row = tiles[PER_SUBJECT * volume + place]
            assert np.allclose(row[0], u[volume, 0, ..., k], atol=0.01)
            assert np.allclose(row[3], 0.5 * u[volume, 0, ..., k], atol=0.01)


def test_slices_of_slices_are_themselves():
    images = torch.rand(2, 4, 8, 6)

    assert as_slices(images, 5) is images
    volume = torch.rand(2, 4, 8, 6, 11)
    assert torch.equal(as_slices(volume, 3), volume[..., [1, 5, 9]].permute(0, 4, 1, 2, 3).flatten(0, 1))
