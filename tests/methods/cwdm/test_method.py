"""What only cWDM claims: one target from all the others, in the wavelet domain, clipped as an image at every step."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.diffusion.noise import SeededNoise
from mrsynth.diffusion.schedules import levels
from mrsynth.errors import UsageError
from mrsynth.methods import build_method, preset
from mrsynth.methods.cwdm.method import Cwdm, CwdmConfig
from mrsynth.methods.cwdm.official import cwdm_for_target

T1, T1CE, T2, FLAIR = STANDARD
OTHERS = {target: tuple(c for c in STANDARD if c is not target) for target in STANDARD}


def tiny(target="t1ce", **options):
    network = {**preset("cwdm", "tiny")["network"], **options.pop("network", {})}
    return {**preset("cwdm", "tiny"), "target": target, **options, "network": network}


def run(method, batch, seed=0, rows=None, **options):
    rows = list(range(len(batch.images))) if rows is None else rows
    noise = SeededNoise(seed, "subject", method.targets).slices(rows)
    return method.synthesise(
        batch.images[rows], batch.available[rows], context=batch.context[rows], noise=noise, **options
    )


def outputs_of(method):
    """A list that will hold what the network returns."""
    outputs = []
    method.network.register_forward_hook(lambda *hooked: outputs.append(hooked[-1]))
    return outputs


# Configuration -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "target"),
        ({"target": "pd"}, "target pd is none of the contrasts"),
        ({"target": "all"}, "target"),
        ({"target": "t1", "contrasts": ("t1",)}, "at least two contrasts"),
        ({"target": "t1", "T": 10, "schedule": "sampled", "steps": 11}, "11 sampling steps from 10 levels"),
        ({"target": "t1", "steps": 0}, "steps"),
        ({"target": "t1", "low_scale": 0}, "low_scale"),
        ({"target": "t1", "level_bias": 0.5}, "level_bias"),
        ({"target": "t1", "variance": "learned"}, "variance"),
        ({"target": "t1", "schedule": "linear_scaled"}, "schedule"),
        ({"target": "t1", "network": {"width": 48}}, "no multiple of 32 groups"),
        ({"target": "t1", "network": {"multipliers": (1, -1)}}, "greater than 0"),
        ({"target": "t1", "learning_rate": 1e-5}, "learning_rate"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        CwdmConfig(**options)


@pytest.mark.parametrize("wavelet", ["bior2.2", "mexican"])
def test_a_wavelet_that_cannot_serve_is_refused(wavelet):
    with pytest.raises((UsageError, ValidationError), match="haar, db2"):
        CwdmConfig(target="t1", wavelet=wavelet)


@pytest.mark.parametrize("T", [10, 20])
def test_a_schedule_that_does_not_fit_its_length_is_refused(T):
    with pytest.raises(UsageError, match="more than 20 levels"):
        build_method(tiny(schedule="direct", T=T))
    with pytest.raises(UsageError, match="of the signal at its last level"):
        build_method(tiny(schedule="linear", T=T))


# What it makes from what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "order"),
    [("t1", (T1CE, T2, FLAIR)), ("t1ce", (T1, T2, FLAIR)), ("t2", (T1, T1CE, FLAIR)), ("flair", (T1, T1CE, T2))],
)
def test_conditions_come_in_the_order_of_the_released_weights(target, order, make_boxes):
    """t1n, t1c, t2w, t2f with the target left out: SPEC, section 3."""
    method = build_method(tiny(target))
    batch = make_boxes([order])

    expected = [method.encode((batch.images[:, [STANDARD.index(c)]] + 1) / 2) for c in order]
    assert method.config.conditions == order and method.targets == (Contrast(target),)
    assert torch.equal(method.conditions(batch.images, batch.available), torch.cat(expected, dim=1))
    truth = method.truth(batch)
    assert torch.equal(truth[:, 0], (batch.images[:, STANDARD.index(target)] + 1) / 2)


def test_a_network_for_any_target_sees_zeros_in_its_place(make_boxes):
    method = build_method(tiny("any"))
    batch = make_boxes([OTHERS[T2], OTHERS[T1]])
    seen = method.conditions(batch.images, batch.available).unflatten(1, (4, 8))

    assert method.config.conditions == method.targets == STANDARD
    assert not seen[0, 2].any() and not seen[1, 0].any()
    assert all(seen[0, c].any() for c in (0, 1, 3)) and all(seen[1, c].any() for c in (1, 2, 3))


def test_supports_and_learns_from():
    one, every = build_method(tiny("t2")), build_method(tiny("any"))

    assert one.supports(OTHERS[T2], T2) and one.supports({*OTHERS[T2], Contrast.PD}, T2)
    assert not one.supports(OTHERS[T1], T1)  # another target
    assert not one.supports(OTHERS[T2][1:], T2) and not one.supports(STANDARD, T2) and not one.supports((), T2)
    assert all(every.supports(OTHERS[t], t) for t in STANDARD) and not every.supports(OTHERS[T1], T2)
    assert one.learns_from(STANDARD) and one.learns_from([*STANDARD, Contrast.PD])
    assert not one.learns_from(OTHERS[T1]) and not one.learns_from(OTHERS[T2])


def test_learning_the_mean_shows_the_last_level_and_zeros_in_place_of_noise(make_boxes):
    method, batch = build_method({**tiny("t2"), "mean_share": 1.0}), make_boxes([OTHERS[T2]])
    seen = []
    method.network.register_forward_hook(lambda network, given, _: seen.append(given))
    with torch.no_grad():
        losses = [float(method.loss(batch, torch.Generator().manual_seed(seed))["loss"]) for seed in (0, 1)]

    assert losses[0] == losses[1]
    assert seen[0][1].tolist() == [method.config.T - 1]
    assert not seen[0][0][:, :8].any() and seen[0][0][:, 8:].any()


@pytest.mark.parametrize(
    ("target", "available"),
    [("t1", (T2, FLAIR)), ("t1", OTHERS[T2]), ("t1", STANDARD), ("any", (T2, FLAIR)), ("any", ()), ("any", STANDARD)],
)
def test_all_but_what_it_makes_must_be_there(target, available, make_boxes):
    method = build_method(tiny(target))
    batch = make_boxes([OTHERS[T1], available])
    with pytest.raises(ValueError, match="from all the others" if available else "at least one contrast"):
        run(method, batch)


def test_unknown_samplers_are_refused(make_boxes):
    with pytest.raises(UsageError, match=r"'heun'.*ddpm, ddim"):
        run(build_method(tiny()), make_boxes([OTHERS[T1CE]]), sampler="heun")


@pytest.mark.parametrize("skips", ["concat", "additive"])
@pytest.mark.parametrize("target", STANDARD)
def test_a_network_for_any_target_becomes_one_for_a_single_target(target, skips, wake, make_boxes):
    """That computes exactly the same: to the last digits of float64, so that rounding does not hide a difference."""
    network = {"skips": skips, "input_skip": skips == "additive"}
    method, special = wake(tiny("any", network=network)).double(), build_method(tiny(target, network=network)).double()
    special.load_state_dict(cwdm_for_target(method.state_dict(), STANDARD.index(target)), strict=True)
    batch, level = make_boxes([OTHERS[target]] * 2), torch.tensor([0, 7])
    x_t = torch.randn(2, 8, 8, 8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = (
        m.network(torch.cat([x_t, m.conditions(batch.images.double(), batch.available)], 1), level, kind)
        for m, kind in ((special, None), (method, (~batch.available).double()))
    )

    assert torch.allclose(one, other, atol=1e-12)
    assert torch.allclose(run(special.float(), batch, steps=2), run(method.float(), batch, steps=2), atol=1e-5)


# Wavelet domain ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_coefficients_of_an_image_span_alike_and_decode_to_it(wavelet, make_boxes):
    method = build_method(tiny(wavelet=wavelet))
    u = (make_boxes([OTHERS[T1]]).images + 1) / 2
    coefficients = method.encode(u)

    assert coefficients.shape == (1, 32, 8, 8, 4)
    assert torch.allclose(method.decode(coefficients), u, atol=1e-6)
    full = build_method(tiny(low_scale=1.0)).encode(torch.ones(1, 1, 2, 2, 2)).flatten()
    assert full.tolist() == pytest.approx([8**0.5] + [0] * 7, abs=1e-6)
    assert float(method.encode(torch.ones(1, 1, 8, 8, 8)).max()) == pytest.approx(8**0.5 / 3, abs=1e-6)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_clipping_is_to_the_range_of_images(wavelet):
    method = build_method(tiny(wavelet=wavelet))
    wild = torch.randn(1, 8, 8, 8, 4, generator=torch.Generator().manual_seed(0))
    tame = method.clipped(wild)

    assert not torch.allclose(tame, wild, atol=0.1)
    assert torch.allclose(method.decode(tame), method.decode(wild).clamp(0, 1), atol=1e-6)
    assert torch.allclose(method.clipped(tame), tame, atol=1e-6)


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_image_weighting_is_the_squared_error_of_the_image(wavelet, wake, make_boxes):
    """(9 m0 + m1 + ... + m7) / 8 with m the errors of the bands as stored: SPEC, section 6."""
    bands, image = (wake(tiny(wavelet=wavelet, weighting=weighting)) for weighting in ("bands", "image"))
    batch, level = make_boxes([OTHERS[T1CE]] * 2), torch.tensor([2, 9])
    noise = torch.randn(2, 1, *batch.images.shape[2:], generator=torch.Generator().manual_seed(0))
    outputs = outputs_of(image)
    stored, weighted = (method.band_errors(batch, level, noise).detach() for method in (bands, image))

    assert torch.allclose(weighted, stored * torch.tensor([9.0] + [1.0] * 7))
    squared = (image.decode(outputs[0]) - image.truth(batch)).square().mean()
    assert float(weighted.mean()) == pytest.approx(float(squared.detach()), rel=1e-5)


def test_the_loss_is_the_mean_over_bands_at_drawn_levels(wake, make_boxes):
    method, batch = wake(tiny()), make_boxes([OTHERS[T1CE]] * 2)
    generator = torch.Generator().manual_seed(3)
    level = (10 * (1 - torch.rand(2, generator=generator, dtype=torch.float64))).ceil().long() - 1
    noise = torch.randn(2, 1, *batch.images.shape[2:], generator=generator)
    loss = method.loss(batch, torch.Generator().manual_seed(3))

    assert torch.equal(loss["loss"], method.band_errors(batch, level, noise).mean())


@pytest.mark.parametrize("bias", [1.0, 2.0])
def test_a_level_bias_favours_noise(bias, make_boxes, monkeypatch):
    """P(t < k) = (1 - P(r^bias < 1 - k / T)) = 1 - (1 - k / T)^(1 / bias)."""
    method, drawn = build_method(tiny(level_bias=bias)), []
    monkeypatch.setattr(method, "band_errors", lambda batch, level, *_: drawn.append(level) or torch.zeros(8))
    batch = make_boxes([OTHERS[T1CE]] * 8)
    for seed in range(500):
        method.loss(batch, torch.Generator().manual_seed(seed))
    level = torch.cat(drawn)

    assert level.min() == 0 and level.max() == 9 and level.dtype == torch.int64
    for k in range(1, 10):
        expected = 1 - (1 - k / 10) ** (1 / bias)
        assert float((level < k).double().mean()) == pytest.approx(expected, abs=0.03)


def test_the_target_is_drawn_evenly():
    random, full = np.random.default_rng(0), np.ones(4, bool)
    one, every = build_method(tiny("flair")), build_method(tiny("any"))
    drawn = np.array([every.draw_available(full, 0.5, random) for _ in range(400)])

    assert all(one.draw_available(full, p, random).tolist() == [True, True, True, False] for p in (0, 0.5, 1))
    assert (drawn.sum(1) == 3).all()
    assert np.abs((~drawn).mean(0) - 0.25).max() < 0.08


# Sampling ------------------------------------------------------------------------------------------------------------


def test_both_variances_are_used_and_only_by_ancestral_steps(wake, make_boxes):
    beta, posterior = (wake(tiny(variance=variance)) for variance in ("beta", "posterior"))
    batch = make_boxes([OTHERS[T1CE]])

    assert not torch.allclose(run(beta, batch), run(posterior, batch), atol=1e-3)
    assert torch.equal(run(beta, batch, steps=1), run(posterior, batch, steps=1))  # the last step has no noise
    assert torch.equal(run(beta, batch, sampler="ddim"), run(posterior, batch, sampler="ddim"))


@pytest.mark.parametrize("clip", [True, False])
def test_predictions_are_clipped_at_every_step_or_at_the_end(clip, wake, make_boxes, monkeypatch):
    method, batch, calls = wake(tiny(clip=clip)), make_boxes([OTHERS[T1CE]]), []
    clipped = method.clipped
    monkeypatch.setattr(method, "clipped", lambda x_0: calls.append(x_0) or clipped(x_0))
    outputs = outputs_of(method)
    made = run(method, batch)[:, 1]

    assert len(outputs) == 10 and len(calls) == (10 if clip else 0)
    assert made.min() >= -1 and made.max() <= 1
    last = method.decode(outputs[-1])[:, 0]
    assert torch.allclose(made, last.clamp(0, 1) * 2 - 1, atol=1e-6)
    assert float((last - last.clamp(0, 1)).abs().max()) > 0.05  # there was something to clip


def test_clipping_matters(wake, make_boxes):
    one, other = (run(wake(tiny(clip=clip)), make_boxes([OTHERS[T1CE]])) for clip in (True, False))

    assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "asked", "visited"),
    [
        ({}, {}, list(range(9, -1, -1))),
        ({}, {"steps": 4}, [9, 6, 3, 0]),
        ({"steps": 4, "spacing": "trailing"}, {}, levels(10, 4)),
        ({"steps": 4, "spacing": "leading"}, {"steps": 2}, [5, 0]),
        ({"sampler": "ddim"}, {"steps": 1}, [9]),
        ({"noisy_input": "signal"}, {"steps": 3, "sampler": "dpm_solver_pp"}, [9, 3, 0]),
        ({"solver_levels": "spacing"}, {"steps": 3, "sampler": "dpm_solver_pp"}, [9, 4, 0]),
    ],
)
def test_levels_visited_and_progress(options, asked, visited, wake, make_boxes):
    method, batch, seen, told = wake(tiny(**options)), make_boxes([OTHERS[T1CE]] * 2), [], []
    method.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    run(method, batch, progress=lambda *step: told.append(step), **asked)

    assert [level.tolist() for level in seen] == [[t, t] for t in visited]
    assert told == [(i + 1, len(visited)) for i in range(len(visited))]


def test_ancestral_steps_have_the_variance_of_their_number(wake, make_boxes, caplog):
    """The official beta belongs to the whole chain; fewer steps take the posterior's, unless told."""
    batch = make_boxes([OTHERS[T1CE]])
    auto, beta, posterior = (wake(tiny(variance=variance)) for variance in ("auto", "beta", "posterior"))

    assert torch.equal(run(auto, batch), run(beta, batch))
    assert torch.equal(run(auto, batch, steps=4), run(posterior, batch, steps=4))
    assert not torch.equal(run(auto, batch, steps=4), run(beta, batch, steps=4))
    (caution,) = beta.cautions("ddpm", 4)
    assert "4 of 10 steps" in caution and "--sampler ddim" in caution and "--steps 10" in caution
    assert not beta.cautions("ddpm", 10) and not beta.cautions("ddim", 4)
    assert not auto.cautions("ddpm", 4) and not posterior.cautions("ddpm", 4)


@pytest.mark.parametrize(
    ("old", "variance"),
    [
        ({"sampler": "ddpm", "variance": "beta"}, "beta"),
        ({"sampler": "ddim", "variance": "beta"}, "auto"),  # the default, of no effect on its images
        ({"sampler": "ddim", "variance": "posterior"}, "posterior"),
    ],
)
def test_files_of_0_1_0_that_sample_by_ddpm_keep_beta(old, variance):
    assert CwdmConfig.from_format_1({"target": "t1", **old})["variance"] == variance


def test_the_network_may_see_the_noise_no_stronger_than_the_signal(wake, make_boxes):
    method, batch, seen = wake(tiny(noisy_input="signal")), make_boxes([OTHERS[T1CE]]), []
    method.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run(method, batch, steps=1)

    noise = SeededNoise(0, "subject", (T1CE,)).slices([0])(torch.empty(1, 1, 8, 8, 8, 4))
    assert torch.allclose(seen[0][:, :8], noise[:, 0] * float(method.schedule.abar[9]) ** 0.5, atol=1e-6)
    assert torch.equal(seen[0][:, 8:], method.conditions(batch.images, batch.available))


def test_every_target_has_its_own_noise(wake, make_boxes):
    """Whatever else is made beside it, and by whichever network."""
    method, batch, seen = wake(tiny("any")), make_boxes([OTHERS[FLAIR], OTHERS[T1], OTHERS[FLAIR]]), []
    method.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :8]))
    run(method, batch, steps=1)

    for row, target in enumerate((FLAIR, T1, FLAIR)):
        stream = SeededNoise(0, "subject", (target,)).slices([row])
        assert torch.equal(seen[0][row], stream(torch.empty(1, 1, 8, 8, 8, 4))[0, 0])


@pytest.mark.parametrize("side", [18, 6])
def test_sides_must_divide(side, make_boxes):
    method = build_method(tiny(network={"multipliers": (1, 2, 2)}))
    box = torch.zeros(1, 4, 16, side, 8)

    assert method.multiple == 8 and method.dimensions == 3
    with pytest.raises(ValueError, match="multiple of 4"):
        method.synthesise(box, torch.tensor([[True, False, True, True]]), context=box[:, :, :0], noise=torch.randn_like)


@pytest.mark.parametrize(
    ("width", "target", "precision", "dtype"),
    [
        (64, "t1ce", "fp32", torch.float32),
        (64, "t1ce", "bf16", torch.bfloat16),
        (32, "t1ce", "fp32", None),
        (32, "t1ce", "bf16", torch.bfloat16),
        (64, "any", "fp32", None),
        (64, "any", "bf16", None),
    ],
)
def test_takes_the_fast_network_where_that_pays(
    width: int, target: str, precision: str, dtype: torch.dtype | None
) -> None:
    """In float32 the official width does; narrower ones keep their voxels, and any target has no fast form."""
    network = {"width": width, "multipliers": (1,), "blocks": 1, "groups": 8}
    method = Cwdm(CwdmConfig.model_validate({"target": target, "network": network}))

    method.optimise(precision)

    assert method.denoises_plainly == (dtype is None)
    assert (method._fast.dtype if method._fast else None) == dtype
