"""The noise of a slice belongs to that slice: nothing around it may change it."""

import pytest
import torch

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.diffusion.noise import SeededNoise

SOURCE = SeededNoise(7, "patient 1", STANDARD)


def draw(source, indices, calls=1, size=(16, 20), dtype=torch.float32):
    noise = source.slices(indices)
    like = torch.empty(len(indices), len(source.contrasts), *size, dtype=dtype)
    return torch.stack([noise(like) for _ in range(calls)])


def test_batches_of_any_size_and_order_give_every_slice_its_own_noise():
    together = draw(SOURCE, [3, 4, 5, 9], calls=3)

    for b, index in enumerate([3, 4, 5, 9]):
        assert torch.equal(draw(SOURCE, [index], calls=3)[:, 0], together[:, b])
    assert torch.equal(draw(SOURCE, [9, 3, 5, 4], calls=3)[:, [1, 3, 2, 0]], together)


def test_interleaved_batches_do_not_disturb_each_other():
    one, other, like = SOURCE.slices([1]), SOURCE.slices([2]), torch.empty(1, 4, 16, 20)
    first, _, second = one(like), other(like), one(like)

    assert torch.equal(torch.stack([first, second]), draw(SOURCE, [1], calls=2))


def test_a_contrast_keeps_its_noise_whatever_else_is_synthesised():
    alone = SeededNoise(7, "patient 1", [Contrast.FLAIR])

    assert torch.equal(draw(alone, [3, 4])[:, :, 0], draw(SOURCE, [3, 4])[:, :, STANDARD.index(Contrast.FLAIR)])


@pytest.mark.parametrize(
    "other",
    [
        SeededNoise(8, "patient 1", STANDARD),
        SeededNoise(7, "patient 2", STANDARD),
        SeededNoise(7, "patient 1", STANDARD, sample=1),
        SeededNoise(7, "patient 1", STANDARD, shared=True),
        SeededNoise(7, "patient 1", STANDARD[1:] + STANDARD[:1]),
    ],
    ids=["seed", "subject", "sample", "shared", "contrasts"],
)
def test_every_part_of_the_key_matters(other):
    difference = draw(SOURCE, [3, 4]) - draw(other, [3, 4])

    assert bool((difference != 0).flatten(3).any(-1).all())


def test_slices_contrasts_and_calls_are_independent():
    fields = draw(SOURCE, [3, 4, 5], calls=3, size=(64, 64)).reshape(3 * 3 * 4, -1)
    correlation = torch.corrcoef(fields) - torch.eye(36)

    assert float(correlation.abs().max()) < 0.08  # 5 standard errors


def test_it_is_standard_normal():
    x = draw(SOURCE, list(range(20)), size=(80, 80)).flatten()

    assert float(x.mean()) == pytest.approx(0, abs=0.006)
    assert float(x.std()) == pytest.approx(1, abs=0.005)
    assert float((x.abs() > 2).float().mean()) == pytest.approx(0.0455, abs=0.001)


def test_shared_noise_is_the_same_in_every_slice_but_new_in_every_call():
    x = draw(SeededNoise(7, "patient 1", STANDARD, shared=True), [3, 4, 77], calls=2)

    assert torch.equal(x[:, 0], x[:, 1]) and torch.equal(x[:, 0], x[:, 2])
    assert not torch.equal(x[0], x[1])


def test_a_volume_has_one_stream_per_contrast():
    noise, again, like = SOURCE.volume(), SOURCE.volume(), torch.empty(1, 4, 8, 10, 12)
    first = noise(like)

    assert first.shape == like.shape
    assert torch.equal(first, again(like)) and not torch.equal(first, noise(like))
    assert torch.equal(SeededNoise(7, "patient 1", [Contrast.T2]).volume()(like[:, :1])[:, 0], first[:, 2])


def test_noise_is_rounded_from_the_same_numbers_for_every_dtype():
    assert torch.equal(draw(SOURCE, [3], dtype=torch.bfloat16), draw(SOURCE, [3]).bfloat16())
    assert draw(SOURCE, [3], dtype=torch.float64).dtype == torch.float64


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(SOURCE, [3])

    assert torch.equal(torch.get_rng_state(), before)
