"""What is learned from, in which order: functions of the seed and the position in the run."""

import numpy as np
import pytest
import torch

from mrsynth.augmentation import AugmentationConfig
from mrsynth.methods.base import Batch, Method, MethodConfig
from mrsynth.training import Examples, PositionSampler, Slab, TrainingConfig, collate

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
