"""What is learned from, in which order: functions of the seed and the position in the run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrsynth.methods.base import Batch, Method, MethodConfig
from mrsynth.training.augmentation import AugmentationConfig
from mrsynth.training.batches import WINDOW, Examples, PositionSampler, Slab, TrainingConfig, collate

EVERYTHING = AugmentationConfig(affine=0.5, gamma=0.2, gain=0.1, bias_field=0.1)


class Reads(Method):
    """Only chooses what it would read."""

    Config = MethodConfig

    def __init__(self):
        super().__init__(MethodConfig(method="reads"))

    def objectives(self, stage):
        return []

    def fill_in(self, images, available, wish):
        return images


def slabs(count=10, neighbours=0, size=16):
    """Slices of noise with a background."""
    random = np.random.default_rng(0)
    made = [random.uniform(0.2, 1, (4, 1 + 2 * neighbours, size, size)).astype(np.float32) for _ in range(count)]
    for images in made:
        images[..., :2] = 0
    return [Slab(images, np.ones(4, bool)) for images in made]


def boxes(*sizes):
    """Boxes of noise with a background, in which a second contrast is half the first, and so on."""
    random = np.random.default_rng(0)
    made = []
    for size in sizes:
        u = random.uniform(0.2, 1, size).astype(np.float32)
        u[:2] = 0
        made.append(Slab(np.stack([u, u / 2, u / 4, u / 8])[:, None], np.ones(4, bool)))
    return made


def config(**options):
    usual = {"iterations": 6, "batch_size": 4, "augmentation": AugmentationConfig(flip=0)}
    return TrainingConfig(**{**usual, **options})


def alike(count):
    """Sizes of as many slices, all the same."""
    return [(16, 16)] * count


def mixed(count):
    """Sizes of as many slices, by turns of three planes."""
    return [((16, 24), (16, 16), (24, 16))[index % 3] for index in range(count)]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_an_example_depends_on_its_position_alone():
    settings = config(augmentation=EVERYTHING)
    source = slabs(neighbours=1)
    examples = Examples(source, Reads(), settings)
    other = Examples(source, Reads(), settings)

    first = [examples[p, 3] for p in range(5)]
    for p in (4, 0, 2):
        assert same(other[p, 3], first[p])
    assert not torch.equal(first[0]["images"], first[1]["images"])
    assert type(first[0]["images"]) is torch.Tensor


def test_an_example_has_the_slice_and_its_neighbours():
    source = slabs(neighbours=1)
    example = Examples(source, Reads(), config())[0, 2]

    assert torch.equal(example["images"], torch.from_numpy(source[2].images[:, 0]) * 2 - 1)
    assert torch.equal(example["context"], torch.from_numpy(source[2].images[:, 1:]) * 2 - 1)
    assert example["available"].any() and not example["available"].all()


def test_every_epoch_is_another_permutation():
    settings = config(iterations=15, batch_size=2)
    keys = [key for batch in PositionSampler(alike(10), settings, 0) for key in batch]

    assert [position for position, _ in keys] == list(range(30))
    epochs = [[index for _, index in keys[i : i + 10]] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("length", [3, 7, 100])
@pytest.mark.parametrize("sizes", [alike, mixed])
def test_the_order_goes_on_where_it_was(sizes, length):
    settings = config(accumulation=2, batch_size=4, iterations=20)

    assert list(PositionSampler(sizes(length), settings, 0))[18:] == list(PositionSampler(sizes(length), settings, 9))


def test_slices_of_like_size_come_together():
    settings = config(iterations=2 * WINDOW)
    batches, others = (list(PositionSampler(sizes(500), settings, 0)) for sizes in (mixed, alike))
    for first in (0, WINDOW):
        part, as_drawn = batches[first : first + WINDOW], others[first : first + WINDOW]
        assert sorted(key for batch in part for key in batch) == sorted(key for batch in as_drawn for key in batch)
        planes = [{index % 3 for _, index in batch} for batch in part]
        assert sum(len(found) > 1 for found in planes) <= 2  # where one size ends and the next begins
        assert [min(found) for found in planes] != sorted(min(found) for found in planes)  # by turns


@pytest.mark.parametrize("count", [10, 36, 70])
def test_one_pass_sees_every_example(count):
    """Also where it ends within a window, as what is measured before a stage does."""
    settings = config(iterations=-(-count // 4))
    keys = [key for batch in PositionSampler(mixed(count), settings, 0) for key in batch]
    assert {index for _, index in keys} == set(range(count)) and len({position for position, _ in keys}) == len(keys)


def test_batches_of_one_stay_in_their_order():
    settings = config(batch_size=1, iterations=20)
    assert list(PositionSampler(mixed(9), settings, 0)) == list(PositionSampler(alike(9), settings, 0))


def test_processes_share_the_data():
    """What three processes see together is what one sees with three times the accumulation."""
    alone = list(PositionSampler(mixed(10), config(accumulation=6), 1))
    shared = [list(PositionSampler(mixed(10), config(accumulation=2), 1, process, 3)) for process in range(3)]

    assert [batch for group in zip(*shared, strict=True) for batch in group] == alone


def test_slices_of_different_sizes_are_padded_with_background():
    settings = config()
    small, large = (Examples(slabs(1, size=size), Reads(), settings)[0, 0] for size in (16, 24))
    batch = collate([small, large])

    assert isinstance(batch.to("cpu"), Batch)
    assert batch.images.shape == (2, 4, 24, 24)
    assert torch.equal(batch.images[0, :, 4:20, 4:20], small["images"])
    assert batch.images[0].sum() == pytest.approx(float(small["images"].sum()) - 4 * (24**2 - 16**2), rel=1e-5)


# Boxes ---------------------------------------------------------------------------------------------------------------


def test_an_example_of_a_box_has_no_neighbours():
    source = boxes((8, 12, 6))
    example = Examples(source, Reads(), config())[0, 0]

    assert torch.equal(example["images"], torch.from_numpy(source[0].images[:, 0]) * 2 - 1)
    assert example["context"].shape == (4, 0, 8, 12, 6)


def test_a_box_depends_on_its_position_alone():
    settings = config(augmentation=EVERYTHING)
    one, other = (Examples(boxes((8, 12, 6)), Reads(), settings) for _ in range(2))
    first = [one[p, 0] for p in range(4)]

    assert all(same(other[p, 0], first[p]) for p in (3, 1))
    assert not torch.equal(first[0]["images"], first[1]["images"])
    assert type(first[0]["images"]) is torch.Tensor


def test_geometry_moves_all_contrasts_of_a_box_alike():
    settings = config(augmentation=AugmentationConfig(flip=0.5, affine=1))
    u = (Examples(boxes((12, 16, 8)), Reads(), settings)[1, 0]["images"] + 1) / 2

    assert all(torch.allclose(u[c] * 2**c, u[0], atol=1e-5) for c in range(4))
    assert not torch.allclose(u, torch.from_numpy(boxes((12, 16, 8))[0].images[:, 0]), atol=0.05)


def test_boxes_of_different_sizes_are_padded_with_background_on_every_side():
    """Also where one is larger along one axis and smaller along another."""
    examples = Examples(boxes((8, 12, 6), (10, 8, 9)), Reads(), config())
    one, two = examples[0, 0], examples[1, 1]
    batch = collate([one, two])

    assert batch.images.shape == (2, 4, 10, 12, 9) and batch.context.shape == (2, 4, 0, 10, 12, 9)
    assert torch.equal(batch.images[0, :, 1:9, :, 1:7], one["images"])
    assert torch.equal(batch.images[1, :, :, 2:10], two["images"])
    for row, example in enumerate((one, two)):
        added = 4 * 10 * 12 * 9 - example["images"].numel()
        assert int((batch.images[row] == -1).sum()) == int((example["images"] == -1).sum()) + added
    assert batch.present.all() and torch.equal(batch.available[1], two["available"])


@pytest.mark.parametrize("crop", [(16, 16, 0), (16, 16), (16, -8, 8), "16x16x8"])
def test_a_crop_is_three_sides(crop):
    with pytest.raises(ValueError, match="crop"):
        config(crop=crop)


# Labels --------------------------------------------------------------------------------------------------------------


def labelled(slab, labelled=True):
    """The slab whose labels are 0 to 5, and encoded in the images as u = label / 5; or -1, where it has none."""
    shape = slab.images.shape[2:]
    labels = np.zeros(shape, np.int16)
    labels[tuple(slice(n // 4, n // 2) for n in shape)] = 2
    labels[tuple(slice(n // 2, 3 * n // 4) for n in shape)] = 5
    images = np.broadcast_to(labels / np.float32(5), slab.images.shape).astype(np.float32)
    return replace(slab, images=images, labels=labels if labelled else np.full(shape, -1, np.int16))


@pytest.mark.parametrize("source", [slabs(1, neighbours=1, size=32), boxes((16, 24, 12))], ids=["slices", "boxes"])
def test_labels_of_an_example_lie_where_its_image_says(source):
    examples = Examples([labelled(source[0])], Reads(), config(augmentation=AugmentationConfig(affine=0.7)))
    moved = 0
    for position in range(6):
        example = examples[position, 0]
        values, labels = (example["images"][0] + 1) / 2 * 5, example["labels"]
        assert labels.dtype == torch.int64 and labels.shape == example["images"].shape[1:]
        assert float(((values - labels).abs() < 0.01).float().mean()) > 0.6  # not so at edges, where images are blurred
        assert (
            float((values - labels).abs().max()) < 5 * (1 - 0.5 ** labels.dim()) + 0.01
        )  # of the nearest of the voxels
        assert {2, 5} <= set(labels.unique().tolist()) <= {0, 2, 5}
        moved += not np.array_equal(labels, labelled(source[0]).labels)
    assert moved > 1


def test_without_labels_an_example_has_none():
    batch = collate([Examples(slabs(1), Reads(), config())[0, 0]])

    assert batch.labels is None and batch.to("cpu").labels is None


@pytest.mark.parametrize("source", [slabs, lambda count, size: boxes(*[(size, size, 6)] * count)], ids=["2d", "3d"])
def test_labels_are_padded_with_background_and_what_is_not_known_stays_unknown(source):
    small, large = source(2, size=16), source(1, size=24)
    slabs_ = [labelled(small[0]), labelled(small[1], False), labelled(large[0])]
    examples = Examples(slabs_, Reads(), config(augmentation=AugmentationConfig(affine=1)))
    batch = collate([examples[i, i] for i in range(3)]).to("cpu")

    assert batch.labels.dtype == torch.int64 and batch.labels.shape == (3, *batch.images.shape[2:])
    assert torch.equal(batch.labels[0, 4:20, 4:20], examples[0, 0]["labels"])
    assert int((batch.labels[0] > 0).sum()) == int((examples[0, 0]["labels"] > 0).sum()) > 0
    assert int(batch.labels[0].min()) == 0
    assert bool((batch.labels[1] == -1).all())
    assert torch.equal(batch.labels[2], examples[2, 2]["labels"])


def test_labels_change_no_image_and_no_choice():
    source = slabs(1, neighbours=1, size=32)
    settings = config(augmentation=EVERYTHING)
    plain = Examples([replace(labelled(source[0]), labels=None)], Reads(), settings)[3, 0]
    other = Examples([labelled(source[0])], Reads(), settings)[3, 0]
    other.pop("labels")

    assert same(plain, other)
