"""The plots of a benchmark are pictures of what they are given, and none where there is nothing to draw."""

from io import BytesIO

import numpy as np
from PIL import Image

from mrsynth.reports.plots import COLOURS, GREYS, box_plot, person_plot
from tests.reports.benchmark_figures import NASTY


def test_a_plot_is_a_picture_and_nothing_is_none():
    groups = {"T1": {"m": list(range(10)), NASTY: [3.0, np.inf]}, "T2": {"m": [np.inf]}, "FLAIR": {}}
    image = Image.open(BytesIO(box_plot(groups, axis="PSNR $(dB)$", baselines=["m"])))

    assert image.format == "PNG" and 600 < image.width <= 1300
    assert len(image.convert("RGB").getcolors(100_000)) > 20
    assert box_plot({"T1": {"m": [np.inf]}}, axis="PSNR") is None
    assert box_plot({}, axis="PSNR") is None


def test_a_line_for_each_person_needs_two_methods():
    lines = {f"p{i}": {"a": 20.0 + i, NASTY: 21.0} for i in range(8)}
    image = Image.open(BytesIO(person_plot(lines, axis="PSNR (dB)")))

    assert image.format == "PNG" and 600 < image.width <= 1300
    assert person_plot({"p": {"a": 1.0}}, axis="x") is None
    assert person_plot({"p": {"a": 1.0, "b": np.inf}}, axis="x") is None


def colours(png):
    """The saturated colours of a picture, as their nearest of COLOURS and GREYS: those that fill at least 20 pixels."""
    image = np.asarray(Image.open(BytesIO(png)).convert("RGB")).reshape(-1, 3)
    named = {c: np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (*COLOURS, *GREYS)}
    return {c for c, rgb in named.items() if (np.abs(image.astype(int) - rgb).max(1) == 0).sum() >= 20}


def test_methods_are_coloured_and_baselines_grey_in_every_group():
    groups = {"T1": {"ours": [1.0, 2, 3], "copy": [1.0, 1, 2]}, "T2": {"copy": [2.0, 2, 3]}}

    assert colours(box_plot(groups, axis="PSNR", baselines=["copy"])) == {COLOURS[0], GREYS[0]}
    assert colours(box_plot(groups, axis="PSNR")) == {COLOURS[0], COLOURS[1]}


def test_the_same_scores_give_the_same_picture():
    groups = {"T1": {"m": [3.0, 1.0, 2.0] * 4}}
    turned = {"T1": {"m": [1.0, 2.0, 3.0] * 4}}

    assert box_plot(groups, axis="SSIM") == box_plot(turned, axis="SSIM"), "the order of the persons is not drawn"
    assert box_plot(groups, axis="SSIM") != box_plot({"T1": {"m": [3.0, 1.0, 2.5] * 4}}, axis="SSIM")


def test_who_lacks_a_method_has_no_line():
    whole = {f"p{i}": {"a": 20.0 + i, "b": 21.0 + i} for i in range(3)}

    assert person_plot(whole | {"q": {"a": 40.0}}, axis="PSNR") == person_plot(whole, axis="PSNR")


def box_of(png):
    """How many pixels have the first colour mixed with white, as a box has."""
    image = np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)
    colour = np.array([int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)])
    mixed = np.rint(0.28 * colour + 0.72 * 255)
    return int((np.abs(image - mixed).max(2) <= 2).sum())


def test_three_persons_have_a_box_and_two_have_none():
    assert box_of(box_plot({"T1": {"m": [1.0, 2.0, 4.0]}}, axis="PSNR")) > 500
    assert box_of(box_plot({"T1": {"m": [1.0, 4.0]}}, axis="PSNR")) == 0


def test_long_names_are_broken_and_do_not_overlap(monkeypatch):
    """Of the texts below the axis and in the legend no two boxes meet."""
    import matplotlib.figure

    figures = []
    make = matplotlib.figure.Figure.__init__
    monkeypatch.setattr(
        matplotlib.figure.Figure, "__init__", lambda self, *a, **k: figures.append(self) or make(self, *a, **k)
    )
    names = [f"a method with a long name, number {n}" for n in range(5)]
    person_plot({f"p{i}": {name: float(i + n) for n, name in enumerate(names)} for i in range(3)}, axis="PSNR")
    box_plot({"T1": {name: [1.0, 2.0, 3.0] for name in names}}, axis="PSNR")
    for figure, texts in (
        (figures[0], figures[0].axes[0].get_xticklabels()),
        (figures[1], figures[1].legends[0].get_texts()),
    ):
        boxes = [text.get_window_extent() for text in texts]
        assert len(boxes) == 5
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
