"""Slices of other planes than the axial: learnt from as they lie in the volume, and averaged where the mean is made."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrsynth.card import Card
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import UsageError
from mrsynth.io.cache import cached
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.io.subjects import find_subject
from mrsynth.methods import build_method, preset
from mrsynth.methods.base import Method, MethodConfig
from mrsynth.preference import has_mode
from mrsynth.sampling import Estimator, Sampling
from mrsynth.scans.planes import cannot_be_cut, cut, padded
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.synthesis import synthesise_volume
from mrsynth.tasks.models import load_network
from mrsynth.tasks.train.cards import planes_of
from mrsynth.tasks.train.config import RunConfig
from mrsynth.tasks.train.run import fresh_method, read_config, train
from mrsynth.tasks.train.sources import examples_of
from mrsynth.training.augmentation import AugmentationConfig
from mrsynth.training.batches import Examples, TrainingConfig

PLANES = ("axial", "coronal", "sagittal")
ACROSS = {"axial": 2, "coronal": 1, "sagittal": 0}
MEAN = Estimator("one call", 1, mode="mean", planes=PLANES)


@pytest.mark.parametrize("plane", PLANES)
def test_slices_of_a_plane_are_those_of_the_volume(plane):
    volume = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    slices = cut(volume, plane)

    assert all(
        np.array_equal(slices[..., n], volume.take(n, 1 + ACROSS[plane]))
        for n in range(volume.shape[1 + ACROSS[plane]])
    )
    assert np.shares_memory(slices, volume)


def test_rows_and_columns_are_filled_up_behind_and_nothing_else_is():
    slices = np.ones((2, 5, 8, 3))
    whole = padded(slices, 4, 1)

    assert whole.shape == (2, 8, 8, 3)
    assert np.array_equal(whole[:, :5], slices) and not whole[:, 5:].any()
    assert padded(slices[:, :4], 4, 1).shape == (2, 4, 8, 3)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "RAI"])
def test_planes_have_their_names_where_the_axes_come_in_their_order(axes):
    assert not cannot_be_cut(PreparationConfig(axes=axes), PLANES)


def test_planes_of_axes_in_another_order_are_refused():
    turned = PreparationConfig(axes="SAR")

    assert "axes SAR" in cannot_be_cut(turned, ("coronal",))
    assert not cannot_be_cut(turned, ("axial",)), "what was always done"


@pytest.mark.parametrize("axes", ["PSL", "ARS", "SLP"])
def test_a_flip_that_would_mirror_front_to_back_or_upside_down_is_refused(axes):
    run = {"method": {"method": "fgc2f", **preset("fgc2f", "tiny")}, "preparation": {"axes": axes}}
    with pytest.raises(UsageError, match=rf"training\.augmentation\.flip .*axes {axes} that is not left-right"):
        fresh_method(RunConfig.model_validate(run))

    fresh_method(RunConfig.model_validate({**run, "training": {"augmentation": {"flip": 0}}}))
    fresh_method(RunConfig.model_validate({**run, "preparation": {"axes": "RAS"}}))


# What is learnt from -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subject(tmp_path_factory, write_subject_folder):
    folder = tmp_path_factory.mktemp("planes")
    files = find_subject(write_subject_folder(folder, "one", shape=(20, 26, 11), segmentation=True))
    return cached(files, STANDARD, PreparationConfig(multiple=4), folder / "cache", labels=True)


@pytest.fixture
def method():
    method = build_method({**preset("fgc2f", "tiny"), "neighbours": 1})
    method.wants_labels = True
    return method


@pytest.mark.parametrize("plane", PLANES)
def test_examples_are_slices_with_their_neighbours_and_labels(plane, subject, method):
    across = ACROSS[plane]
    whole = subject.box((0, 0, 0), subject.shape)
    labels = subject.label_box((0, 0, 0), subject.shape)
    source = examples_of([subject], method, planes=[plane])

    assert len(source) > 5 and method.neighbours == 1
    for index, (_, named, n) in enumerate(source.places):
        slab = source[index]
        h, w = whole.take(n, 1 + across).shape[1:]
        offsets = [0, *range(-method.neighbours, 0), *range(1, method.neighbours + 1)]
        for place, at in enumerate(n + o for o in offsets):
            truth = whole.take(at, 1 + across) if 0 <= at < whole.shape[1 + across] else np.zeros((4, h, w))
            assert np.allclose(slab.images[:, place, :h, :w], truth, atol=1e-6)
        assert (
            np.array_equal(slab.labels[:h, :w], labels.take(n, across)) and slab.labels.shape == slab.images.shape[2:]
        )
        assert all(side % method.multiple == 0 for side in slab.images.shape[2:])
        assert (named, slab.across) == (plane, plane == "sagittal")
        assert source.sizes[index] == slab.images.shape[2:], "what batches are put together by"


def test_nothing_is_known_of_any_pixel_where_there_is_no_segmentation(subject, method):
    bare = replace(subject, name="bare", labels=None)
    source = examples_of([subject, bare], method, planes=["coronal"])
    sides = {source[i].labels.shape[1] for i in range(len(source))}

    assert sides != {subject.shape[2]}, "there is something to fill up"
    for index, (s, *_) in enumerate(source.places):
        assert bool((source[index].labels < 0).all()) == (s == 1) and (s == 1 or source[index].labels.min() == 0)


def test_every_plane_gives_its_share(subject, method):
    source = examples_of([subject], method, slices=3, planes=PLANES)

    assert [plane for _, plane, _ in source.places] == [plane for plane in PLANES for _ in range(3)]
    assert len(examples_of([subject], method)) == len(subject.slices), "axial alone unless told"


@pytest.mark.parametrize(("plane", "mirror"), [("coronal", 0), ("sagittal", None)])
def test_heads_are_mirrored_from_left_to_right_in_every_plane(plane, mirror, subject, method):
    source = examples_of([subject], method, planes=[plane])
    always = TrainingConfig(augmentation=AugmentationConfig(flip=1))
    never = TrainingConfig(augmentation=AugmentationConfig(flip=0))
    mirrored, plain = (Examples(source, method, config)[0, len(source) // 2] for config in (always, never))

    if mirror is None:  # left and right lie across a sagittal slice
        assert torch.equal(mirrored["images"], plain["images"])
        assert torch.equal(mirrored["context"], plain["context"].flip(1)) and plain["context"].shape[1] == 2
        assert not torch.equal(mirrored["context"], plain["context"])
    else:
        assert torch.equal(mirrored["images"], plain["images"].flip(1))
        assert torch.equal(mirrored["context"], plain["context"].flip(2))


# What is made --------------------------------------------------------------------------------------------------------


class Blur(Method):
    """Makes the means of the slice's rows and columns, which differ from plane to plane."""

    neighbours = 1
    multiple = 8

    def __init__(self):
        super().__init__(MethodConfig(method="blur"))
        self.sides = set()

    def objectives(self, stage):
        return []

    def fill_in(self, images, available, wish):
        self.sides.add(images.shape[2:])
        seen = torch.where(available[:, :, None, None], images, 0.0).sum(1, keepdim=True) / 4
        return (seen.mean(2, keepdim=True) + seen.mean(3, keepdim=True)).expand_as(images) / 2


@pytest.fixture(scope="module")
def prepared(make_subject):
    subject = make_subject("s", shape=(24, 28, 10), without=[Contrast.T1CE, Contrast.FLAIR])
    return prepare(subject, STANDARD, PreparationConfig(multiple=8))


def test_the_mean_of_the_planes_is_made(prepared):
    method = Blur()
    made = synthesise_volume(method, prepared, "s", MEAN).image
    apart = [by_hand(method, prepared, plane) for plane in PLANES]

    assert np.abs(apart[0] - apart[1])[:, prepared.mask].max() > 0.01, "they differ"
    for channel, there in enumerate(prepared.available):
        wanted = prepared.images[channel] if there else np.where(prepared.mask, np.mean(apart, axis=0)[channel], 0)
        assert np.allclose(made[channel], wanted, atol=1e-6)
    assert all(side % 8 == 0 for sides in method.sides for side in sides)


def by_hand(method, prepared, plane):
    """The volume turned so that its axial slices are those of the plane, made, and turned back."""
    order, back = {
        "axial": ((0, 1, 2), (1, 2, 3)),
        "coronal": ((0, 2, 1), (1, 3, 2)),
        "sagittal": ((1, 2, 0), (3, 1, 2)),
    }[plane]
    mask = prepared.mask.transpose(order)
    ends = [(0, -mask.shape[0] % 8), (0, -mask.shape[1] % 8), (0, 0)]
    images = np.pad(prepared.images.transpose(0, *(1 + axis for axis in order)), [(0, 0), *ends])
    turned = replace(prepared, images=images, mask=np.pad(mask, ends))
    made = synthesise_volume(method, turned, "s", replace(MEAN, planes=("axial",))).image
    i, j, k = prepared.mask.shape
    return made.transpose(0, *back)[:, :i, :j, :k]


def test_a_few_slices_are_axial(prepared):
    method = Blur()
    few = synthesise_volume(method, prepared, "s", MEAN, slices=[4]).image
    axial = synthesise_volume(method, prepared, "s", replace(MEAN, planes=("axial",))).image

    assert np.array_equal(few[1, ..., 4], axial[1, ..., 4])


def test_progress_reaches_its_end_once(prepared):
    heard = []
    synthesise_volume(Blur(), prepared, "s", MEAN, progress=lambda _, done, total: heard.append(done / total))

    assert heard == sorted(heard) and heard[-1] == 1 and heard.count(1) == 1


# A run, from file to image -------------------------------------------------------------------------------------------


def test_a_checkpoint_names_the_planes_it_learnt_from_and_uses_them(train_options, tmp_path):
    file = train(train_options(tmp_path / "run", training__planes=["axial", "coronal"]))
    network = load_network(str(file))

    assert read_checkpoint(file).card.planes == ("axial", "coronal")
    both = network.estimator(Sampling(mode="mean", planes=("axial", "coronal")))
    assert both.planes == ("axial", "coronal") and "axial and coronal slices apart" in both.words
    assert network.estimator(Sampling(mode="mean")).planes == ("axial",), "three times the time is asked for"
    with pytest.raises(UsageError, match=r"--planes sagittal: .* learnt from axial and coronal slices"):
        network.estimator(Sampling(mode="mean", planes=("axial", "sagittal")))
    with pytest.raises(UsageError, match="a mean of samples is no sample"):
        network.estimator(Sampling(mode="sample", planes=("axial",)))

    options = train_options(tmp_path / "tuned", training__planes=None)
    tuned = read_config(replace(options, config=None, method=None, init=str(file), overrides={}))
    assert tuned.training.planes == ("axial", "coronal"), "who tunes it keeps them"


@pytest.mark.parametrize("planes", [[], ["coronal"], ["axial", "axial"], ["oblique"]])
def test_planes_are_known_and_named_once_and_axial_is_among_them(planes, train_options, tmp_path):
    """For the axial slices are what is validated, checked and sampled."""
    with pytest.raises(UsageError, match=r"training\.planes"):
        train(train_options(tmp_path / "run", training__planes=planes))


@pytest.mark.parametrize(
    ("stages", "supplied", "known"),
    [
        ({}, {}, PLANES),
        ({"first_stage": {"planes": ["axial"]}}, {}, ("axial",)),
        ({"structure": {"planes": ["axial", "sagittal"]}}, {}, ("axial", "sagittal")),
        ({"first_stage": {"init": "x"}}, {"first_stage": PLANES}, PLANES),
        ({"first_stage": {"init": "x"}}, {"first_stage": ("axial", "coronal")}, ("axial", "coronal")),
        ({"first_stage": {"init": "x"}}, {}, ("axial",)),
        ({"first_stage": {"init": "x", "trained": True}}, {}, PLANES),
    ],
)
def test_a_method_of_stages_knows_the_planes_that_all_of_them_saw(stages, supplied, known):
    config = RunConfig(
        method={**preset("msg-ldm", "tiny"), "method": "msg-ldm"}, training=TrainingConfig(planes=PLANES), stages=stages
    )

    assert planes_of(config, build_method(config.method), supplied) == known


def test_a_checkpoint_that_learnt_the_planes_is_chosen_where_they_are_asked_for():
    learnt = Card(name="x", method="fgc2f", contrasts=STANDARD, licence="CC0", planes=("axial", "coronal"))

    assert has_mode(learnt, Sampling(planes=("coronal",))) and has_mode(learnt, Sampling())
    assert not has_mode(learnt, Sampling(planes=("coronal", "sagittal")))


def test_volumes_are_not_made_by_planes(box_options, tmp_path):
    network = load_network(str(train(box_options(tmp_path / "run"))))
    with pytest.raises(UsageError, match="boxes makes whole volumes, not slices"):
        network.estimator(Sampling(mode="mean", planes=("axial",)))


def test_methods_of_volumes_have_no_planes(box_options, tmp_path):
    with pytest.raises(UsageError, match=r"training\.planes is for methods that learn from slices"):
        train(box_options(tmp_path / "run", training__planes=["axial", "coronal"]))
