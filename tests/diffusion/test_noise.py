"""The noise of a slice belongs to that slice: nothing around it may change it."""

import pytest
import torch

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.diffusion.noise import MASK, SeededNoise, philox

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


# v2 -----------------------------------------------------------------------------------------------------------------

COUNTED = SeededNoise(7, "patient 1", STANDARD, version="v2")


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MASK,) * 4, (MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers_of_its_authors(counter, key, words):
    made = philox(tuple(torch.tensor([c]) for c in counter), tuple(torch.tensor([k]) for k in key))

    assert tuple(int(word) for word in made) == words


def test_counted_noise_belongs_to_its_slice_contrast_and_call():
    together = draw(COUNTED, [3, 4, 5, 9], calls=3)

    for b, index in enumerate([3, 4, 5, 9]):
        assert torch.equal(draw(COUNTED, [index], calls=3)[:, 0], together[:, b])
    alone = SeededNoise(7, "patient 1", [Contrast.FLAIR], version="v2")
    assert torch.equal(draw(alone, [3, 4])[:, :, 0], together[:1, :2, STANDARD.index(Contrast.FLAIR)])
    flat = draw(COUNTED, [3, 4, 5], calls=3, size=(64, 64)).reshape(36, -1)
    assert float((torch.corrcoef(flat) - torch.eye(36)).abs().max()) < 0.08  # 5 standard errors


def test_counted_noise_is_standard_normal():
    x = draw(COUNTED, [0], size=(500, 500)).flatten().double()
    probabilities = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)

    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert float((x**power).mean()) == pytest.approx(moment, abs=0.05)
    expected = torch.special.ndtri(probabilities)
    torch.testing.assert_close(x.quantile(probabilities), expected, atol=0.01, rtol=0)
    assert 4 < float(x.abs().max()) < 6


def test_counted_noise_does_not_depend_on_the_pieces_it_is_made_in(monkeypatch):
    whole = draw(COUNTED, [3, 4], calls=2, size=(9, 11))
    monkeypatch.setattr("mrsynth.diffusion.noise.PIECE", 8)

    assert torch.equal(draw(COUNTED, [3, 4], calls=2, size=(9, 11)), whole)


def test_counted_noise_is_made_on_the_device_of_the_argument():
    made = COUNTED.slices([3])(torch.empty(1, 4, 8, 8, device="meta"))

    assert made.device.type == "meta" and made.shape == (1, 4, 8, 8)
