"""Segmentation: what a network is shown, regions, the way back to the subject's grid, Dice and HD95."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, UsageError
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.volume import Volume
from mrsynth.segmenter.learner import SegmenterLearner
from mrsynth.segmenter.network import (
    REGIONS,
    Reading,
    Segmenter,
    SegmenterConfig,
    build_network,
    dice_and_hd95,
    network_input,
    refuse_other_labels,
)

RAS = np.diag([1.0, 1.0, 1.0, 1.0])


def cuboid(shape: Sequence[int], corner: Sequence[int], size: Sequence[int]):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] = True
    return mask


# Dice and HD95 -------------------------------------------------------------------------------------------------------


def test_a_shifted_cube_has_the_dice_and_distance_of_its_shift():
    """4 of 10 planes beyond the other cube's face: more than 5 % of the surface is as far off as it can be."""
    truth = cuboid((30, 24, 24), (4, 6, 6), (10, 10, 10))
    moved = cuboid((30, 24, 24), (8, 6, 6), (10, 10, 10))

    assert dice_and_hd95(moved, truth, (2.0, 1.0, 1.0)) == pytest.approx((0.6, 8.0), abs=1e-6)
    assert dice_and_hd95(truth, truth, (2.0, 1.0, 1.0)) == (1.0, 0.0)


def test_hd95_is_the_greater_percentile_of_all_distances_between_surfaces():
    """An implementation by all pairs of voxels, on masks at the edge of the volume too."""
    from scipy.ndimage import binary_erosion
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    spacing = (1.0, 0.8, 3.0)
    for _ in range(4):
        smooth = [np.cumsum(rng.normal(size=(14, 12, 9)), axis=axis) for axis in range(3)]
        a, b = sum(smooth) > 1.5, np.roll(sum(smooth), 2, axis=0) > 0.5
        surfaces = [np.argwhere(m & ~binary_erosion(m, border_value=0)) * np.array(spacing) for m in (a, b)]
        pairs = cdist(*surfaces)
        expected = max(np.percentile(pairs.min(axis=axis), 95) for axis in (0, 1))
        dice, distance = dice_and_hd95(a, b, spacing)

        assert distance == pytest.approx(expected, rel=1e-5)
        assert dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), rel=1e-6)


def test_empty_masks_have_figures_too():
    nothing, something = np.zeros((6, 8, 5), dtype=bool), cuboid((6, 8, 5), (1, 1, 1), (2, 2, 2))
    diagonal = float(np.sqrt(6**2 + 16**2 + 15**2))

    assert dice_and_hd95(nothing, nothing, (1, 2, 3)) == (1.0, 0.0)
    assert dice_and_hd95(nothing, something, (1, 2, 3)) == (0.0, pytest.approx(diagonal))
    assert dice_and_hd95(something, nothing, (1, 2, 3)) == (0.0, pytest.approx(diagonal))


def test_hd95_without_scipy_says_what_to_install(monkeypatch):
    monkeypatch.setattr("mrsynth.segmenter.network.find_spec", lambda _: None)
    some = cuboid((4, 4, 4), (1, 1, 1), (2, 2, 2))

    with pytest.raises(UsageError, match=r"pip install 'mrsynth\[benchmark\]'"):
        dice_and_hd95(some, some, (1, 1, 1))


# What a network is shown ---------------------------------------------------------------------------------------------


def test_contrasts_are_normalised_as_monai_does_over_non_zero_voxels(make_subject):
    from monai.transforms import NormalizeIntensity

    prepared = prepare(make_subject(), STANDARD, PreparationConfig())
    ours = network_input(torch.from_numpy(prepared.images)[None], torch.ones(1, 4, dtype=torch.bool), maps=False)
    theirs = NormalizeIntensity(nonzero=True, channel_wise=True)(torch.from_numpy(prepared.images.copy()))

    assert torch.allclose(ours[0], torch.as_tensor(theirs), atol=1e-4)


def test_an_absent_contrast_is_zero_whatever_its_channel_holds():
    images = torch.rand(2, 3, 4, 5, 6)
    available = torch.tensor([[True, False, True], [True, True, True]])
    spoiled = torch.where(available[:, :, None, None, None], images, torch.nan)
    seen = network_input(spoiled, available, maps=True)

    assert torch.equal(seen, network_input(images, available, maps=True))
    assert not seen[0, 1].any() and torch.equal(seen[:, 3:].amax((2, 3, 4)).bool(), available)
    assert torch.equal(seen[:, 3:].amin((2, 3, 4)).bool(), available)


def test_the_scale_of_a_contrast_does_not_matter():
    images = torch.rand(1, 2, 6, 6, 6) * (torch.rand(1, 1, 6, 6, 6) > 0.4)
    everything = torch.ones(1, 2, dtype=torch.bool)
    scaled = images * torch.tensor([0.1, 3.0])[None, :, None, None, None]

    assert torch.allclose(
        network_input(images, everything, maps=False), network_input(scaled, everything, maps=False), atol=1e-5
    )


def test_the_net_reads_each_contrast_twice_and_gives_one_channel_per_region():
    config = SegmenterConfig(contrasts=(Contrast.T2, Contrast.FLAIR), regions=REGIONS[:1], blocks_down=(1, 1))
    out = build_network(config)(torch.zeros(1, 4, 8, 6, 4))

    assert (config.multiple, tuple(out.shape)) == (2, (1, 1, 8, 6, 4))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"filters": 12}, "multiple of 8"),
        ({"regions": [{"name": "WT", "labels": []}]}, "at least 1 item"),
        ({"regions": 2 * [{"name": "WT", "labels": [1]}]}, "expected different names"),
        ({"width": 3}, "width"),
    ],
)
def test_a_net_that_cannot_be_built_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SegmenterConfig.model_validate(wrong)


# Regions -------------------------------------------------------------------------------------------------------------


def test_old_and_new_brats_labels_give_the_same_regions():
    regions = SegmenterLearner(SegmenterConfig()).regions
    old = torch.tensor([[[[0, 1, 2, 4]]]])
    new = torch.where(old == 4, 3, old)
    whole, core, enhancing = regions(old)[0] > 0

    assert whole.tolist() == [[[False, True, True, True]]]
    assert core.tolist() == [[[False, True, False, True]]]
    assert enhancing.tolist() == [[[False, False, False, True]]]
    assert torch.equal(regions(new), regions(old))


@pytest.mark.parametrize("label", [7, 0.5, -1])
def test_a_label_that_no_region_knows_is_named(label):
    labels = np.zeros((2, 2, 2), dtype=np.float32)
    labels[0, 0, 0] = label

    with pytest.raises(InputError, match=rf"lesions\.nii: found the labels {label}, which belong to no region"):
        refuse_other_labels(np.unique(labels).tolist(), REGIONS, "lesions.nii")


# Segmenting ----------------------------------------------------------------------------------------------------------


class Bright(nn.Module):
    """Region 0 is where the first contrast lies above its mean, region 1 where the second does."""

    def forward(self, x):
        return x[:, :2]


class Told(nn.Module):
    """As many regions as contrasts: everywhere where a contrast is said to be there."""

    def forward(self, x):
        return x[:, x.shape[1] // 2 :] - 0.5


def segmenter(network, contrasts, regions, **reading):
    preparation = reading.pop("preparation", PreparationConfig(quantile=1.0))
    told = Reading(contrasts=contrasts, regions=regions, preparation=preparation, **reading)
    return Segmenter("made up", network.eval(), told)


@pytest.mark.parametrize("affine", [RAS, np.diag([-1.0, -1.0, 1.0, 1.0])])
def test_regions_come_back_on_the_subjects_own_grid(brain_volumes, affine):
    volumes = brain_volumes(affine=affine)
    pair = segmenter(Bright(), (Contrast.T2, Contrast.T1), ("A", "B"))
    found = pair.segment(volumes)

    assert (pair.contrasts, pair.regions, tuple(found)) == ((Contrast.T2, Contrast.T1), ("A", "B"), ("A", "B"))
    for region, contrast in (("A", Contrast.T2), ("B", Contrast.T1)):
        voxels = volumes[contrast].voxels
        assert found[region].dtype == bool
        assert (found[region] == ((voxels > voxels[voxels > 0].mean()) & (voxels > 0))).all()


def test_regions_found_at_another_spacing_come_back_too(brain_volumes):
    volumes = brain_volumes(shape=(60, 70, 50))
    coarse = segmenter(Bright(), (Contrast.T2, Contrast.T1), ("A", "B"), preparation=PreparationConfig(spacing=2.0))
    voxels = volumes[Contrast.T2].voxels
    truth = (voxels > voxels[voxels > 0].mean()) & (voxels > 0)

    assert dice_and_hd95(coarse.segment(volumes)["A"], truth, (1, 1, 1))[0] > 0.9


def test_probabilities_are_taken_as_they_are(brain_volumes):
    """A probability of 0.4 is no; a logit of 0.4 would be yes."""

    class Constant(nn.Module):
        def forward(self, x):
            return torch.full_like(x[:, :1], 0.4)

    volumes = brain_volumes()
    for output, expected in (("probabilities", False), ("logits", True)):
        found = segmenter(Constant(), (Contrast.T1,), ("A",), output=output).segment(volumes)["A"]
        assert found[volumes[Contrast.T1].voxels > 0].all() == expected
        assert not found[volumes[Contrast.T1].voxels == 0].any()


def test_a_contrast_that_is_not_given_is_left_out_and_others_are_not_looked_at(brain_volumes):
    volumes = brain_volumes(contrasts=(Contrast.T1, Contrast.FLAIR, Contrast.PD))
    brain = volumes[Contrast.T1].voxels > 0
    elsewhere = Volume(np.ones((3, 3, 3), dtype=np.float32), RAS)
    told = segmenter(Told(), (Contrast.T1, Contrast.T2, Contrast.FLAIR), ("A", "B", "C"), availability=True)
    found = told.segment(volumes | {Contrast.PD: elsewhere})

    assert [found[region][brain].mean() for region in "ABC"] == [1, 0, 1]


def test_nothing_to_segment_is_refused(brain_volumes):
    pair = segmenter(Bright(), (Contrast.T2, Contrast.T1), ("A", "B"))

    with pytest.raises(InputError, match="made up reads T2, T1; found PD"):
        pair.segment(brain_volumes(contrasts=(Contrast.PD,)))
    mixed = brain_volumes() | {Contrast.T2: Volume(np.ones((3, 3, 3), dtype=np.float32), RAS)}
    with pytest.raises(InputError, match="different grids"):
        pair.segment(mixed)
