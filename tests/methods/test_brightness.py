"""Brightness may weigh less than the rest of an image's error: of a line through the brain's values, and in losses."""

import numpy as np
import pytest
import torch

from mrsynth.contrasts import Contrast
from mrsynth.methods import build_method, preset
from mrsynth.methods.brightness import blended, brain_of, fitted

SLOPE, SHIFT = 0.6, 0.1  # of a prediction that is right but for its brightness
CONFIGS = {
    "fgc2f": {"param": "x0", "mean_share": 1.0},
    "dfbk": {"mean_share": 1.0},
    "cwdm": {"target": "flair", "mean_share": 1.0},
}


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def half(*shape):
    """The upper half is brain."""
    brain = torch.zeros(shape, dtype=torch.bool)
    brain[:, :, : shape[2] // 2] = True
    return brain


@pytest.mark.parametrize("space", [(8, 6), (8, 6, 4)])
def test_every_image_has_the_best_line_through_its_brain(space):
    made, truth, brain = noise(2, 3, *space), noise(2, 3, *space, seed=1), half(2, 1, *space)
    line = fitted(made, truth, brain)
    for b in range(2):
        inside = brain[b, 0]
        for c in range(3):
            wanted = np.polyval(np.polyfit(made[b, c][inside], truth[b, c][inside], 1), made[b, c][inside])
            assert line[b, c][inside].numpy() == pytest.approx(wanted)
            assert torch.equal(line[b, c][~inside], made[b, c][~inside])


@pytest.mark.parametrize("fill", [0.0, 0.3])
def test_an_image_without_contrast_is_moved_and_not_stretched(fill):
    made, truth, brain = torch.full((1, 1, 4, 4), fill), noise(1, 1, 4, 4).float(), half(1, 1, 4, 4)
    line = fitted(made, truth, brain)
    assert line[brain].numpy() == pytest.approx(float(truth[brain].mean()))


def test_where_there_is_no_brain_the_error_is_the_plain_one():
    made, truth, nothing = noise(1, 1, 4, 4), noise(1, 1, 4, 4, seed=1), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert torch.equal(blended(made, truth, nothing, 0.0), (made - truth).square().mean((2, 3)))


def test_weight_1_is_the_plain_error_and_weight_0_does_not_see_brightness():
    made, truth, brain = noise(1, 2, 8, 8), noise(1, 2, 8, 8, seed=1), half(1, 1, 8, 8)
    brighter = torch.where(brain, 0.5 * made + 0.3, made)

    assert torch.equal(blended(made, truth, brain, 1.0), (made - truth).square().mean((2, 3)))
    blind, other = (blended(x, truth, brain, 0.0) for x in (made, brighter))
    assert torch.allclose(blind, other) and bool((blind < blended(made, truth, brain, 1.0)).all())
    between = blended(made, truth, brain, 0.25)
    assert torch.allclose(between, 0.25 * blended(made, truth, brain, 1.0) + 0.75 * blind)


def test_the_gradient_is_that_of_the_least_error():
    """The line is taken as given; at the best one that changes nothing."""
    made, truth, brain = noise(1, 1, 6, 6).requires_grad_(), noise(1, 1, 6, 6, seed=1), half(1, 1, 6, 6)
    assert torch.autograd.gradcheck(lambda x: blended(x, truth, brain, 0.2), made)


def test_brain_is_where_any_contrast_that_is_there_is_brighter_than_nothing():
    images = torch.full((1, 3, 2, 2), -1.0)
    images[0, 0, 0, 0], images[0, 1, 0, 1], images[0, 2] = 0.2, -0.9, torch.nan
    assert brain_of(images, torch.tensor([[True, False, False]])).tolist() == [[[[True, False], [False, False]]]]
    assert brain_of(images, torch.tensor([[True, True, False]])).tolist() == [[[[True, True], [False, False]]]]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_loss_hardly_sees_a_brightness_that_weighs_nothing(name, batch_for, monkeypatch):
    """The output is the truth, darker in the brain: nothing else is wrong."""
    losses = {}
    for weight in (1.0, 0.5, 0.0):
        method = build_method(preset(name, "tiny") | CONFIGS[name] | {"brightness_weight": weight})
        batch = batch_for(method, [(Contrast.T1, Contrast.T1CE, Contrast.T2)])
        truth = torch.where(
            batch.present.reshape(*batch.present.shape, *[1] * (batch.images.dim() - 2)), batch.images, 0
        )
        brain = brain_of(batch.images, batch.present)
        darker = torch.where(brain, SLOPE * truth - SHIFT, truth)
        monkeypatch.setattr(method, "predict", answering(name, method, batch, darker))
        losses[weight] = float(method.loss(batch, torch.Generator().manual_seed(0))["loss"])

    assert losses[1.0] > 1e-3 and losses[0.0] < 1e-9
    assert losses[0.5] == pytest.approx(losses[1.0] / 2)


@pytest.mark.parametrize("pixel", ["l1", "l2"])
def test_the_structure_stage_hardly_sees_a_brightness_that_weighs_nothing(pixel, batch_for, monkeypatch):
    losses = {}
    for weight in (1.0, 0.5, 0.0):
        chosen = {"pixel": pixel, "w_freq": 0.0, "brightness_weight": weight}
        method = build_method(preset("msg-ldm", "tiny") | {"losses": chosen})
        batch = batch_for(method, [(Contrast.T1, Contrast.T1CE, Contrast.T2)])
        stage, brain = method.structure, brain_of(batch.images, batch.present)[:, 0]

        def darker(found, contrast, rows, codes, batch=batch, brain=brain):
            truth = batch.images[rows, contrast]
            return torch.where(brain[rows], SLOPE * truth - SHIFT, truth)

        monkeypatch.setattr(stage, "decoded", darker)
        losses[weight] = float(stage.loss(batch, torch.Generator().manual_seed(0))["image"])

    assert losses[1.0] > 1e-3 and losses[0.0] < 1e-6
    assert losses[0.5] == pytest.approx(losses[1.0] / 2, rel=1e-4)


@pytest.mark.parametrize("left_out", [{"w_rec": 0.0}, {"w_sa": 0.0}])
def test_a_weight_of_an_error_that_is_left_out_is_refused(left_out):
    with pytest.raises(Exception, match="brightness_weight is of an image error"):
        build_method(
            preset("msg-ldm", "tiny")
            | {"seg": "on", "structure": {"msse": False}, "losses": {"brightness_weight": 0.2, **left_out}}
        )


def answering(name, method, batch, images):
    """A network that gives these images, as each method has them."""
    rows = torch.arange(len(images))
    if name == "dfbk":
        return lambda x_t, level, given: images[rows, given.target][:, None]
    if name == "cwdm":
        return lambda *_: method.encode((images[:, method.contrasts.index(method.targets[0])][:, None] + 1) / 2)
    return lambda *_: images


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_weight_is_from_0_to_1(name, weight):
    with pytest.raises(Exception, match="brightness_weight"):
        build_method(preset(name, "tiny") | CONFIGS[name] | {"brightness_weight": weight})
    with pytest.raises(Exception, match="brightness_weight"):
        build_method(preset("msg-ldm", "tiny") | {"losses": {"brightness_weight": weight}})
