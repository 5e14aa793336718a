"""One way to look at volumes, shared by reports, viewer, benchmark, batch and training."""

import io

import numpy as np
import pytest
from PIL import Image

from mrsynth.scans.grid import Orientation
from mrsynth.scans.views import View, grey, plane, png, saying

RAS = np.diag([1.0, 2.0, 3.0, 1.0])


def read(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_view_turns_to_lps_and_shows_nothing_outside_the_foreground(make_subject):
    subject = make_subject(affine=RAS)
    u = np.random.default_rng(0).uniform(-1, 2, subject.reference.shape).astype(np.float32)
    view, inside = View.of(subject), subject.foreground()

    assert view.spacing == (1, 2, 3)
    np.testing.assert_array_equal(view.mask, inside[::-1, ::-1])
    np.testing.assert_array_equal(view.shown(u), np.where(inside, u.clip(0, 1), 0)[::-1, ::-1])


@pytest.mark.parametrize(
    ("axis", "first", "last"),
    [
        (2, (0, 0, 5), (9, 11, 5)),  # right anterior is top left of an axial plane, left posterior bottom right
        (1, (0, 5, 13), (9, 5, 0)),  # right superior of a coronal one
        (0, (5, 0, 13), (5, 11, 0)),  # anterior superior of a sagittal one
    ],
)
def test_planes_are_seen_as_radiologists_see_them(axis, first, last):
    volume = np.zeros((10, 12, 14))
    volume[first], volume[last] = 1, 2
    seen = plane(volume, axis, 5)

    assert (seen[0, 0], seen[-1, -1]) == (1, 2)


def test_greys_run_from_0_to_the_end_and_stop_there():
    assert grey(np.array([-1.0, 0.0, 0.1, 0.3, 0.4, 9.0]), 0.4).tolist() == [0, 0, 64, 191, 255, 255]


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_a_png_holds_its_pixels(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    np.testing.assert_array_equal(read(png(pixels[::-1])), pixels[::-1])


def test_a_png_says_its_texts_before_its_pixels():
    made = png(np.zeros((3, 5), np.uint8), {"Software": "mrsynth 0", "Title": "SYNTHETIC T2"})

    assert b"tEXtSoftware\0mrsynth 0" in made.partition(b"IDAT")[0]
    assert Image.open(io.BytesIO(made)).text == {"Software": "mrsynth 0", "Title": "SYNTHETIC T2"}


def test_a_png_that_is_told_to_say_more_is_what_it_would_have_been():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    texts = {"Software": "mrsynth 0", "Title": "SYNTHETIC T2", "Warning": "naïve – 日本"}

    assert saying(png(pixels), texts) == png(pixels, texts)


def test_a_view_of_nothing_shows_nothing():
    view = View(Orientation.between(RAS, "LPS"), np.zeros((4, 5, 6), bool), (1.0, 2.0, 3.0))

    assert not view.shown(np.ones((4, 5, 6), np.float32)).any()
