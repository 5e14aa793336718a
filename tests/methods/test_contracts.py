"""What every method promises, whatever its paper."""

import json
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mrsynth.contrasts import STANDARD, Contrast, patterns
from mrsynth.diffusion.noise import SeededNoise
from mrsynth.errors import MrsynthError, UsageError
from mrsynth.methods import METHODS, build_method, method_class, preset
from mrsynth.plain import Plain
from mrsynth.training.loop import train_only_what_is_listed

# A preset small enough to train here, in the manner of what ships: few steps, no division by a vanishing signal.
QUICK = {
    "fgc2f": {"param": "x0", "sampler": "ddim", "steps": 3},
    "cwdm": {"target": "any", "sampler": "ddim", "steps": 3},
    "msg-ldm": {
        "first_stage": {"kind": "identity"},
        "structure": {"widths": (8, 16, 16), "fold": 2, "style_width": 4, "decoder_blocks": 1, "decoder_kernel": 3},
        "network": {"width": 16, "multipliers": (1,), "blocks": 1, "groups": 8, "attention": ()},
        "losses": {"w_gan": 0.0, "w_freq": 0.0},
        "steps": 3,
    },
    "dfbk": {
        "network": {
            "width": 8,
            "multipliers": (1, 2),
            "blocks": 1,
            "groups": 4,
            "swin_levels": (1,),
            "swin_width": 16,
            "head_dim": 8,
            "input_skip": True,
        },
        "dfb": {"levels": (0,), "head_dim": 8},
        "kg": {"levels": (1,), "head_dim": 8, "width": 16, "count": 4},
        "steps": 2,
    },
}
# Norms over the 4 x 5 pixels of a coarse level, with random weights, multiply what two batch sizes round differently.
ROUNDING = {"msg-ldm": 2e-4}
LEARNT = {"width": 8, "multipliers": (1, 2), "fold": 2, "blocks": 1, "groups": 4, "attention": True}
# Modes that own parameters or inputs of their own.
VARIANTS = {
    "fgc2f": {
        "plain": {},
        "eps": {"param": "eps"},
        "ancestral": {"sampler": "ddpm", "noise": "shared"},
        "soft": {"freq": {"mode": "soft"}},
        "learned": {"freq": {"select": "learned"}, "neighbours": 1},
        "literal": {"mask_embed": False, "neighbours": 2},
    },
    "cwdm": {
        "one": {"target": "t1ce", "sampler": "ddpm", "variance": "posterior"},
        "any": {},
        "additive": {"target": "flair", "network": {"skips": "additive"}, "sampler": "ddpm"},
        "gated": {"network": {"input_skip": True}, "noisy_input": "signal", "weighting": "image", "level_bias": 2.0},
        "cosine": {"target": "t2", "schedule": "cosine", "T": 50, "spacing": "leading"},
        "direct": {"target": "t1", "schedule": "direct", "T": 25, "clip": False, "spacing": "trailing"},
        "db2": {"wavelet": "db2", "sampler": "dpm_solver_pp"},
    },
    "msg-ldm": {
        "plain": {},
        "vq": {
            "first_stage": {**LEARNT, "kind": "vq", "codes": 16},
            "param": "v",
            "eta": 1.0,
            "losses": {"w_gan": 0.5},
        },
        "kl": {"first_stage": {**LEARNT, "kind": "kl"}, "known": "concat", "neighbours": 1, "losses": {"w_kl": 0.1}},
        "replace": {"known": "replace", "sampler": "ddpm", "structure": {"hfib": "conv", "gate": "normed"}},
        "draft": {
            "first_stage": {**LEARNT, "kind": "kl", "bypass": True},
            "known": "draft",
            "losses": {"pixel": "l2"},
            "structure": {"norm": "none", "decoder_skips": True, "regression": True, "head": "linear"},
            "complete": False,
        },
        "former": {
            "structure": {"sigma": "means", "style_codes": "raw"},
            "prototypes": "running",
            "latent_scaling": "joint",
        },
        "coupled": {
            "structure": {"decouple": False, "hfib": "none", "msse": False, "norm": "group"},
            "sampler": "dpm_solver_pp",
        },
        "scalar": {
            "structure": {"sigma": "scalar", "fusion": "sum", "alpha": "fixed", "style_norm": True},
            "losses": {"w_freq": 1.0},
        },
    },
    "dfbk": {
        "plain": {},
        "pair": {
            "sources": "single",
            "unified": False,
            "source": "flair",
            "target": "t1ce",
            "kg": {"text": "none"},
            "weighted": True,
        },
        "stored": {"kg": {"text": "biomedclip", "fallback": True, "drop": 0.5}, "sources": "single", "neighbours": 1},
        "literal": {
            "dfb": {"residual": False, "subln": False},
            "kg": {"residual": False, "mode": "plain"},
            "chain": True,
            "inscale": "latent",
        },
        "bands": {
            "dfb": {"mode": "L"},
            "kg": {"mode": "H", "lambda_init": 0.5},
            "noise": "shared",
            "predict": "residual",
            "network": {"input_skip": False},
        },
        "divided": {
            "dfb": {"mode": "plain"},
            "kg": {"mode": "off"},
            "network": {"windows": "divide", "fold": 2, "slim_up": True, "up_blocks": 1},
            "neighbours": 1,
            "level_bias": 2.0,
        },
        "one": {"unified": False, "target": "flair", "dfb": {"mode": "off"}},
    },
}


def quick(name, **options):
    """The tiny preset of a method and what makes it quick, with these options on top of it."""
    chosen = {**preset(name, "tiny"), **QUICK.get(name, {})}
    inner = {
        key: {**chosen[key], **value}
        for key, value in options.items()
        if isinstance(value, dict) and isinstance(chosen.get(key), dict)
    }
    return {**chosen, **options, **inner}


SAMPLES = [
    pytest.param(quick(name, **options), id=f"{name}-{variant}")
    for name in METHODS
    for variant, options in VARIANTS.get(name, {"plain": {}}).items()
]
every_variant = pytest.mark.parametrize("config", SAMPLES)
every_method = pytest.mark.parametrize("name", METHODS)

T1, T1CE, T2, FLAIR = STANDARD
MIXED = [(T1, T2), (FLAIR,), (T1, T1CE, FLAIR)]
OTHERS = [tuple(c for c in STANDARD if c is not target) for target in STANDARD]


def usable(method, wanted):
    """These patterns; or as many of those that the method can use, if it cannot use them all."""
    can = [pattern for pattern in patterns() if any(method.supports(pattern, c) for c in STANDARD)]
    return wanted if set(wanted) <= set(can) else [can[i % len(can)] for i in range(len(wanted))]


def spread(flags, images):
    """Flags (B, C) that broadcast against images (B, C, ...)."""
    return flags.reshape(*flags.shape, *[1] * (images.dim() - 2))


def run(method, batch, rows=None, seed=0, **options):
    """Synthesise the given rows of a batch, each with the noise of its own slice."""
    rows = list(range(len(batch.images))) if rows is None else rows
    noise = SeededNoise(seed, "subject", method.targets, shared=method.shared_noise).slices(rows)
    return method.synthesise(
        batch.images[rows], batch.available[rows], context=batch.context[rows], noise=noise, **options
    )


def objectives_of(method):
    """Those of all stages; their names differ."""
    return [objective for stage in method.stages for objective in method.objectives(stage)]


def losses(method, batch, seed=0, stage=None):
    objectives = objectives_of(method) if stage is None else method.objectives(stage)
    return {o.name: o.loss(batch, torch.Generator().manual_seed(seed)) for o in objectives}


@every_variant
def test_a_batch_of_three_is_three_batches_of_one(config, wake, batch_for):
    method = wake(config)
    batch = batch_for(method, usable(method, MIXED))
    together = run(method, batch)

    for b in range(3):
        assert torch.allclose(run(method, batch, [b]), together[b : b + 1], atol=ROUNDING.get(config["method"], 1e-5))


@every_variant
def test_the_mean_is_one_call_that_draws_nothing(config, wake, batch_for):
    """Whatever the noise, the sampler and the steps of the configuration: a function of the inputs alone."""
    method = wake(config)
    if "mean" not in method.modes:
        assert config.get("param") == "eps" or config["method"] == "msg-ldm"
        pytest.skip("nothing is known of x_0 where the noise is predicted and there is none")
    batch = batch_for(method, usable(method, MIXED))
    calls = []
    made = run(method, batch, mode="mean", progress=lambda done, total: calls.append((done, total)))

    assert torch.equal(made, run(method, batch, mode="mean", seed=1, steps=2))
    targets = len(method.targets) if config["method"] == "dfbk" else 1  # whose contrasts have a chain each
    assert 1 <= len(calls) == calls[-1][1] <= targets
    for b in range(3):
        alone = run(method, batch, [b], mode="mean")
        assert torch.allclose(alone, made[b : b + 1], atol=ROUNDING.get(config["method"], 1e-5))


@every_method
def test_noise_between_the_steps_is_a_choice_of_the_request_and_of_the_configuration(name, wake, batch_for):
    """ddim with eta 1 is ddpm with the posterior's variance (Song et al. 2021, eq. 16)."""
    method = wake(quick(name))
    if "ddim" not in method.samplers:
        pytest.skip(f"{name} walks another chain")
    batch = batch_for(method, usable(method, MIXED))
    plain, none, all_of_it = (run(method, batch, sampler="ddim", steps=3, eta=eta) for eta in (None, 0.0, 1.0))
    posterior, beta = (run(method, batch, sampler="ddpm", steps=3, variance=v) for v in ("posterior", "beta"))

    assert torch.equal(plain, none) and not torch.equal(plain, all_of_it)
    assert torch.allclose(all_of_it, posterior, atol=1e-4) and not torch.allclose(posterior, beta, atol=1e-2)
    asked = run(method, batch, sampler="ddim", steps=3, eta=0.5)
    assert torch.equal(run(wake(quick(name, eta=0.5)), batch, sampler="ddim", steps=3), asked)
    assert not torch.equal(asked, plain) and not torch.equal(asked, all_of_it)


@every_variant
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_image(config, wake, batch_for):
    method = wake(config)
    batch = batch_for(method, usable(method, MIXED))
    made, again, other = run(method, batch), run(wake(config), batch), run(method, batch, seed=1)

    assert made.numpy().tobytes() == again.numpy().tobytes()
    assert not torch.equal(made, other)


@every_variant
def test_randomness_is_an_argument(config, wake, batch_for):
    """The global generator is neither used nor moved."""
    method = wake(config)
    batch = batch_for(method, usable(method, MIXED))
    before = torch.get_rng_state()
    run(method, batch)
    losses(method, batch)

    assert torch.equal(torch.get_rng_state(), before)


@every_variant
def test_available_contrasts_come_back_bit_for_bit_and_the_rest_is_an_image(config, wake, batch_for):
    method = wake(config)
    batch = batch_for(method, usable(method, MIXED))
    given = {f.name: getattr(batch, f.name).clone() for f in fields(batch) if getattr(batch, f.name) is not None}
    made = run(method, batch)

    assert torch.equal(made[batch.available], batch.images[batch.available])
    assert not torch.equal(made[~batch.available], batch.images[~batch.available])
    assert made.dtype == torch.float32 and made.shape == batch.images.shape and not made.requires_grad
    assert float(made.abs().max()) <= 1
    assert all(torch.equal(getattr(batch, name), value) for name, value in given.items())  # nothing written into


@every_variant
def test_nan_in_what_is_absent_changes_no_synthesis(config, wake, batch_for):
    method = wake(config)
    batch = batch_for(method, usable(method, MIXED))
    hidden = ~batch.available
    other = replace(
        batch,
        images=torch.where(spread(hidden, batch.images), torch.nan, batch.images),
        context=torch.where(spread(hidden, batch.context), torch.nan, batch.context),
    )

    assert torch.equal(run(method, other), run(method, batch))


@every_variant
def test_nan_in_what_is_absent_changes_no_loss_and_no_gradient(config, wake, batch_for):
    found = []
    for filling in (torch.nan, 7.0):
        method = wake(config)
        present = (T1, T1CE, T2) if method.learns_from((T1, T1CE, T2)) else STANDARD
        batch = batch_for(method, usable(method, [(T1,), (T2, T1), (T1CE,)]), present)
        assert bool(batch.images.isnan().any()) == (present != STANDARD)
        terms = losses(
            method, replace(batch, images=batch.images.nan_to_num(filling), context=batch.context.nan_to_num(filling))
        )
        sum(t["loss"] for t in terms.values()).backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in method.parameters()]
        found.append((terms, gradients))  # what belongs to an absent contrast alone may have none
    (terms, gradients), (other_terms, other_gradients) = found

    for name, values in terms.items():
        assert all(bool(v.isfinite()) and torch.equal(v, other_terms[name][k]) for k, v in values.items())
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


@every_variant
def test_every_trainable_parameter_is_optimised_and_receives_a_gradient(config, wake, batch_for):
    method = wake(config)
    several = [(T1, T2, FLAIR), (T1, T1CE, T2), (FLAIR, T2), (T1, T1CE, FLAIR)] * 4
    batch = batch_for(method, usable(method, several), same=True)
    optimised = {id(p) for objective in objectives_of(method) for p in objective.parameters}
    sum(terms["loss"] for terms in losses(method, batch).values()).backward()

    for name, parameter in method.named_parameters():
        assert parameter.requires_grad and id(parameter) in optimised, name
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all() and parameter.grad.any()), name


@every_variant
def test_configuration_and_weights_survive_json_and_a_state_dict(config, wake, batch_for):
    method = wake(config)
    batch = batch_for(method, usable(method, MIXED))
    stored = json.loads(json.dumps(method.config.model_dump(mode="json")))
    again = build_method(stored).eval()
    again.load_state_dict({name: tensor.clone() for name, tensor in method.state_dict().items()})

    assert again.config == method.config and again.config.model_dump(mode="json") == stored
    assert torch.equal(run(again, batch), run(method, batch))


@every_variant
def test_a_contrast_that_is_wanted_alone_is_the_same_as_among_others(config, wake, batch_for):
    method = wake(config)
    for pattern in usable(method, [(T1, T2), (FLAIR,)]):
        batch = batch_for(method, [pattern])
        everything = run(method, batch)
        for target in (c for c in method.targets if c not in pattern):
            alone, channel = run(method, batch, targets=[target]), method.contrasts.index(target)
            assert torch.equal(alone[:, channel], everything[:, channel])


@every_variant
def test_it_makes_what_it_says_it_supports(config, wake, batch_for):
    method = wake(config)
    for pattern in [STANDARD, *patterns(STANDARD), ()]:
        batch = batch_for(method, [pattern])
        targets = [c for c in Contrast if method.supports(pattern, c)]
        assert not set(targets) & set(pattern) and set(targets) <= set(method.contrasts)
        if targets:
            channels = [method.contrasts.index(c) for c in targets]
            made = run(method, batch, steps=1)[0, channels]
            assert bool(made.isfinite().all()) and not torch.equal(made, batch.images[0, channels])
        elif pattern == STANDARD and method.supports((T1,), T2):  # made for any subset, so also for nothing to make
            assert torch.equal(run(method, batch, steps=1), batch.images)
        else:
            with pytest.raises((MrsynthError, ValueError)):
                run(method, batch, steps=1)


@every_method
def test_contrasts_it_does_not_know_neither_help_nor_come_out(name):
    method = build_method(quick(name))
    target = next(c for c in method.contrasts if method.supports(set(STANDARD) - {c}, c))
    others = set(STANDARD) - {target}

    assert method.supports(others | {Contrast.CT}, target)
    assert not method.supports({Contrast.CT}, target)
    assert not method.supports(others, Contrast.CT)


@every_method
def test_training_patterns_leave_something_to_read_and_something_to_make(name):
    method, random = build_method(quick(name)), np.random.default_rng(0)
    for flags in product([False, True], repeat=4):
        present = np.array(flags)
        known = [c for c, there in zip(STANDARD, flags, strict=True) if there]
        for progress in (0.0, 0.2, 0.4, 1.0) if method.learns_from(known) else ():
            available = method.draw_available(present, progress, random)
            assert available.dtype == bool and available.any()
            assert not (available & ~present).any() and (present & ~available).any()


@every_method
def test_the_pattern_drawn_is_a_function_of_the_generator(name):
    method = build_method(quick(name))
    one, other = (
        [method.draw_available(np.ones(4, bool), 0.9, random) for _ in range(20)]
        for random in (np.random.default_rng(5), np.random.default_rng(5))
    )

    assert np.array_equal(one, other) and len({tuple(p) for p in one}) > 1


LEARNERS = [pytest.param(quick(name), id=name) for name in METHODS] + [
    pytest.param(quick("cwdm", target="t1ce"), id="cwdm-one")
]


@pytest.mark.parametrize("config", LEARNERS)
def test_a_tiny_model_learns_one_slice_or_box(config, batch_for):
    """Loss below a third of where it began, and each contrast better than the constant mean of its brain.

    Of several stages each begins where the one before it ended, and brings its own loss down. Learning ends as soon as
    that is reached, and after 120 steps at the latest. Of a slice a quarter of the brain is shown, soon learnt.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = build_method(config)
    wanted = [pattern for pattern, target in zip(OTHERS, STANDARD, strict=True) if target in method.targets]
    batch = batch_for(method, wanted, same=True)
    if method.dimensions == 2:
        shown = {name: getattr(batch, name)[..., :24, 8:32].contiguous() for name in ("images", "context")}
        batch = replace(batch, **shown)

    def mean_loss(stage):
        with torch.no_grad():
            found = [losses(method, batch, 1000 + i, stage).values() for i in range(4)]
            return np.mean([sum(float(terms["loss"]) for terms in every) for every in found])

    brain = batch.images[0].amax(0) > -1

    def better_than_the_mean():
        made = run(method.eval(), batch)
        for row, target in enumerate(method.targets):
            channel = STANDARD.index(target)
            truth = batch.images[row, channel][brain]
            if float((made[row, channel][brain] - truth).square().mean()) >= float(truth.var()):
                return False
        return True

    for stage in method.stages:
        with torch.no_grad():
            method.eval().enter_stage(stage, [batch])
        train_only_what_is_listed(method, stage)
        objectives = method.objectives(stage)
        optimisers = [torch.optim.Adam(o.parameters, lr=2e-3) for o in objectives]
        before, last = mean_loss(stage), stage == method.stages[-1]
        for step in range(120):
            for objective, optimiser in zip(objectives, optimisers, strict=True):
                optimiser.zero_grad()
                objective.loss(batch, torch.Generator().manual_seed(step))["loss"].backward()
                optimiser.step()
            if step % 10 == 9 and mean_loss(stage) < before / 3 and (not last or better_than_the_mean()):
                break
        assert mean_loss(stage) < (before / 3 if len(method.stages) == 1 else before)
    assert better_than_the_mean()


@every_method
def test_presets_are_valid_and_what_is_unknown_is_refused(name):
    assert {"tiny", "ship"} <= set(presets_of(name))
    needed = {"target": "t1ce"} if name == "cwdm" else {}
    for chosen in presets_of(name):
        config = method_class(name).Config.model_validate({**preset(name, chosen), **needed})
        assert config.method == name and config.model_dump(mode="json")["method"] == name
    with pytest.raises(UsageError, match=r"no preset 'huge'.*tiny"):
        preset(name, "huge")
    with pytest.raises(ValidationError, match="learning_rate"):
        build_method(quick(name, learning_rate=1))


def presets_of(name):
    module = __import__(METHODS[name].split(":")[0], fromlist=["PRESETS"])
    return module.PRESETS


def test_unknown_methods_are_refused_with_those_there_are():
    with pytest.raises(UsageError, match=r"'gan'.*fgc2f"):
        build_method({"method": "gan"})
    with pytest.raises(UsageError, match=r"'gan'.*fgc2f"):
        preset("gan", "tiny")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_part_that_is_given_one_option_keeps_the_method_s_defaults_of_the_others(name):
    """`--set method.kg.mode=H` without a preset left DFBK's attention without levels, and said nothing."""
    kind = method_class(name).Config
    needed = {"target": "t1"} if name == "cwdm" else {}
    usual = kind(method=name, **needed)
    parts = {n: f.default for n, f in kind.model_fields.items() if isinstance(f.default, Plain)}
    assert parts
    for part, default in parts.items():
        option = next(iter(type(default).model_fields))
        given = {part: {option: getattr(default, option)}}
        assert kind(method=name, **needed, **given) == usual, f"{part}.{option}"
