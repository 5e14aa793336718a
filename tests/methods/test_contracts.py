"""What every method promises, whatever its paper."""

import json
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mrsynth.contrasts import STANDARD, Contrast, patterns
from mrsynth.errors import MrsynthError, UsageError
from mrsynth.methods import METHODS, build_method, method_class, preset
from mrsynth.noise import SeededNoise

# A preset small enough to train here, in the manner of what ships: few steps, no division by a vanishing signal.
QUICK = {"fgc2f": {"param": "x0", "sampler": "ddim", "steps": 3}}
# Modes that own parameters or inputs of their own.
VARIANTS = {
    "fgc2f": {
        "plain": {},
        "eps": {"param": "eps"},
        "ancestral": {"sampler": "ddpm", "noise": "shared"},
        "soft": {"freq": {"mode": "soft"}},
        "learned": {"freq": {"select": "learned"}, "neighbours": 1},
        "literal": {"mask_embed": False, "neighbours": 2},
    }
}
SAMPLES = [
    pytest.param({**preset(name, "tiny"), **QUICK.get(name, {}), **options}, id=f"{name}-{variant}")
    for name in METHODS
    for variant, options in VARIANTS.get(name, {"plain": {}}).items()
]
every_variant = pytest.mark.parametrize("config", SAMPLES)
every_method = pytest.mark.parametrize("name", METHODS)

T1, T1CE, T2, FLAIR = STANDARD
MIXED = [(T1, T2), (FLAIR,), (T1, T1CE, FLAIR)]


def run(method, batch, rows=None, seed=0, **options):
    """Synthesise the given rows of a batch, each with the noise of its own slice."""
    rows = list(range(len(batch.images))) if rows is None else rows
    noise = SeededNoise(seed, "subject", method.contrasts, shared=method.shared_noise).slices(rows)
    return method.synthesise(
        batch.images[rows], batch.available[rows], context=batch.context[rows], noise=noise, **options
    )


def losses(method, batch, seed=0):
    return {o.name: o.loss(batch, torch.Generator().manual_seed(seed)) for o in method.objectives()}


@every_variant
def test_a_batch_of_three_is_three_batches_of_one(config, wake, make_batch):
    method = wake(config)
    batch = make_batch(MIXED, method.neighbours)
    together = run(method, batch)

    for b in range(3):
        assert torch.allclose(run(method, batch, [b]), together[b : b + 1], atol=1e-5)


@every_variant
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_image(config, wake, make_batch):
    method = wake(config)
    batch = make_batch(MIXED, method.neighbours)
    made, again, other = run(method, batch), run(wake(config), batch), run(method, batch, seed=1)

    assert made.numpy().tobytes() == again.numpy().tobytes()
    assert not torch.equal(made, other)


@every_variant
def test_randomness_is_an_argument(config, wake, make_batch):
    """The global generator is neither used nor moved."""
    method = wake(config)
    batch = make_batch(MIXED, method.neighbours)
    before = torch.get_rng_state()
    run(method, batch)
    losses(method, batch)

    assert torch.equal(torch.get_rng_state(), before)


@every_variant
def test_available_contrasts_come_back_bit_for_bit_and_the_rest_is_an_image(config, wake, make_batch):
    method = wake(config)
    batch = make_batch(MIXED, method.neighbours)
    given = {field.name: getattr(batch, field.name).clone() for field in fields(batch)}
    made = run(method, batch)

    assert torch.equal(made[batch.available], batch.images[batch.available])
    assert not torch.equal(made[~batch.available], batch.images[~batch.available])
    assert made.dtype == torch.float32 and made.shape == batch.images.shape and not made.requires_grad
    assert float(made.abs().max()) <= 1
    assert all(torch.equal(getattr(batch, name), value) for name, value in given.items())  # nothing written into


@every_variant
def test_nan_in_what_is_absent_changes_no_synthesis(config, wake, make_batch):
    method = wake(config)
    batch = make_batch(MIXED, method.neighbours)
    hidden = ~batch.available
    other = replace(
        batch,
        images=torch.where(hidden[..., None, None], torch.nan, batch.images),
        context=torch.where(hidden[..., None, None, None], torch.nan, batch.context),
    )

    assert torch.equal(run(method, other), run(method, batch))


@every_variant
def test_nan_in_what_is_absent_changes_no_loss_and_no_gradient(config, wake, make_batch):
    found = []
    for filling in (torch.nan, 7.0):
        method = wake(config)
        batch = make_batch([(T1,), (T2, T1), (T1CE,)], method.neighbours, present=(T1, T1CE, T2))
        assert bool(batch.images.isnan().any())
        terms = losses(
            method, replace(batch, images=batch.images.nan_to_num(filling), context=batch.context.nan_to_num(filling))
        )
        sum(t["loss"] for t in terms.values()).backward()
        found.append((terms, [p.grad for p in method.parameters()]))
    (terms, gradients), (other_terms, other_gradients) = found

    for name, values in terms.items():
        assert all(bool(v.isfinite()) and torch.equal(v, other_terms[name][k]) for k, v in values.items())
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


@every_variant
def test_every_trainable_parameter_is_optimised_and_receives_a_gradient(config, wake, make_batch):
    method = wake(config)
    batch = make_batch([(T1, T2, FLAIR), (T1, T1CE, T2), (FLAIR, T2), (T1, T1CE, FLAIR)] * 4, method.neighbours,
                       same_slice=True)  # fmt: skip
    optimised = {id(p) for objective in method.objectives() for p in objective.parameters}
    sum(terms["loss"] for terms in losses(method, batch).values()).backward()

    for name, parameter in method.named_parameters():
        assert parameter.requires_grad and id(parameter) in optimised, name
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all() and parameter.grad.any()), name


@every_variant
def test_configuration_and_weights_survive_json_and_a_state_dict(config, wake, make_batch):
    method = wake(config)
    batch = make_batch(MIXED, method.neighbours)
    stored = json.loads(json.dumps(method.config.model_dump(mode="json")))
    again = build_method(stored).eval()
    again.load_state_dict({name: tensor.clone() for name, tensor in method.state_dict().items()})

    assert again.config == method.config and again.config.model_dump(mode="json") == stored
    assert torch.equal(run(again, batch), run(method, batch))


@every_variant
def test_it_makes_what_it_says_it_supports(config, wake, make_batch):
    method = wake(config)
    for pattern in [STANDARD, *patterns(STANDARD), ()]:
        batch = make_batch([pattern], method.neighbours)
        targets = [c for c in Contrast if method.supports(pattern, c)]
        assert not set(targets) & set(pattern) and set(targets) <= set(method.contrasts)
        if targets:
            channels = [method.contrasts.index(c) for c in targets]
            made = run(method, batch, steps=1)[0, channels]
            assert bool(made.isfinite().all()) and not torch.equal(made, batch.images[0, channels])
        elif pattern == STANDARD:
            assert torch.equal(run(method, batch, steps=1), batch.images)
        else:
            with pytest.raises((MrsynthError, ValueError)):
                run(method, batch, steps=1)


@every_method
def test_contrasts_it_does_not_know_neither_help_nor_come_out(name):
    method = build_method(preset(name, "tiny"))
    target = next(c for c in method.contrasts if method.supports(set(STANDARD) - {c}, c))
    others = set(STANDARD) - {target}

    assert method.supports(others | {Contrast.CT}, target)
    assert not method.supports({Contrast.CT}, target)
    assert not method.supports(others, Contrast.CT)


@every_method
def test_training_patterns_leave_something_to_read_and_something_to_make(name):
    method, random = build_method(preset(name, "tiny")), np.random.default_rng(0)
    for flags in product([False, True], repeat=4):
        present = np.array(flags)
        for progress in (0.0, 0.2, 0.4, 1.0) if present.sum() > 1 else ():
            available = method.draw_available(present, progress, random)
            assert available.dtype == bool and available.any()
            assert not (available & ~present).any() and (present & ~available).any()


@every_method
def test_the_pattern_drawn_is_a_function_of_the_generator(name):
    method = build_method(preset(name, "tiny"))
    one, other = (
        [method.draw_available(np.ones(4, bool), 0.9, random) for _ in range(20)]
        for random in (np.random.default_rng(5), np.random.default_rng(5))
    )

    assert np.array_equal(one, other) and len({tuple(p) for p in one}) > 1


@every_method
def test_a_tiny_model_learns_one_slice(name, make_batch):
    """Loss below a third of where it began, and each contrast better than the constant mean of its brain."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = build_method({**preset(name, "tiny"), **QUICK.get(name, {})})
    batch = make_batch([[c for c in STANDARD if c is not target] for target in STANDARD], method.neighbours,
                       same_slice=True)  # fmt: skip
    optimisers = {o.name: torch.optim.Adam(o.parameters, lr=2e-3) for o in method.objectives()}

    def mean_loss():
        with torch.no_grad():
            return np.mean([sum(float(t["loss"]) for t in losses(method, batch, 1000 + i).values()) for i in range(4)])

    before = mean_loss()
    for step in range(120):
        for objective in method.objectives():
            optimisers[objective.name].zero_grad()
            objective.loss(batch, torch.Generator().manual_seed(step))["loss"].backward()
            optimisers[objective.name].step()
    after, made = mean_loss(), run(method.eval(), batch)
    brain = batch.images[0].amax(0) > -1

    assert after < before / 3
    for channel in range(4):
        truth = batch.images[channel, channel][brain]
        assert float((made[channel, channel][brain] - truth).square().mean()) < float(truth.var())


@every_method
def test_presets_are_valid_and_what_is_unknown_is_refused(name):
    assert {"tiny", "ship"} <= set(presets_of(name))
    for chosen in presets_of(name):
        config = method_class(name).Config.model_validate(preset(name, chosen))
        assert config.method == name and config.model_dump(mode="json")["method"] == name
    with pytest.raises(UsageError, match=r"no preset 'huge'.*tiny"):
        preset(name, "huge")
    with pytest.raises(ValidationError, match="learning_rate"):
        build_method({**preset(name, "tiny"), "learning_rate": 1})


def presets_of(name):
    module = __import__(METHODS[name].split(":")[0], fromlist=["PRESETS"])
    return module.PRESETS


def test_unknown_methods_are_refused_with_those_there_are():
    with pytest.raises(UsageError, match=r"'gan'.*fgc2f"):
        build_method({"method": "gan"})
    with pytest.raises(UsageError, match=r"no preset 'tiny'"):
        preset("gan", "tiny")
