"""What is learned from, in which order: functions of the seed and the position in the run."""

import numpy as np
import pytest
import torch

from mrsynth.augmentation import AugmentationConfig
from mrsynth.examples import Examples, PositionSampler, Slab, TrainingConfig, collate
from mrsynth.methods.base import Batch, Method, MethodConfig

EVERYTHING = AugmentationConfig(affine=0.5, gamma=0.2, gain=0.1, bias_field=0.1)


class Reads(Method):
    """Only chooses what it would read."""

    Config = MethodConfig

    def __init__(self):
        super().__init__(MethodConfig(method="reads"))

    def objectives(self):
        return []

    def synthesise(self, images, available, **_):
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
    keys = [key for batch in PositionSampler(10, settings, 0) for key in batch]

    assert [position for position, _ in keys] == list(range(30))
    epochs = [[index for _, index in keys[i : i + 10]] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("length", [3, 7, 100])
def test_the_order_goes_on_where_it_was(length):
    settings = config(accumulation=2, batch_size=4)

    assert list(PositionSampler(length, settings, 0))[8:] == list(PositionSampler(length, settings, 4))


def test_processes_share_the_data():
    """What three processes see together is what one sees with three times the accumulation."""
    alone = list(PositionSampler(10, config(accumulation=6), 1))
    shared = [list(PositionSampler(10, config(accumulation=2), 1, process, 3)) for process in range(3)]

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
