"""DFBK: what its paper claims, and that every switch of the configuration does what it says."""

import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mrsynth.contrasts import STANDARD, Contrast, pattern_name, patterns
from mrsynth.diffusion.noise import SeededNoise
from mrsynth.diffusion.residual_shift import residual_shift, shifted
from mrsynth.diffusion.schedules import draw_levels
from mrsynth.errors import UsageError
from mrsynth.methods import build_method, preset
from mrsynth.methods.base import Batch
from mrsynth.methods.dfbk import DfbkConfig, TokenTable, prompt_key
from mrsynth.methods.dfbk.config import STORED
from mrsynth.methods.dfbk.method import part_of
from mrsynth.methods.dfbk.prompts import prompt

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods" / "dfbk.md"
T1, T1CE, T2, FLAIR = STANDARD
TABLE = """
t1: t1ce<t1 t2<t1 flair<t1 | t1ce: t1<t1ce t2<t1ce flair<t1ce | t2: t1<t2 t1ce<t2 flair<t2
flair: t1<flair t1ce<flair t2<flair | t1+t1ce: t2<t1 flair<t1 | t1+t2: t1ce<t1 flair<t2 | t1+flair: t1ce<t1 t2<flair
t1ce+t2: t1<t1ce flair<t2 | t1ce+flair: t1<t1ce t2<flair | t2+flair: t1<flair t1ce<flair | t1+t1ce+t2: flair<t2
t1+t1ce+flair: t2<flair | t1+t2+flair: t1ce<t1 | t1ce+t2+flair: t1<t1ce
"""  # available: target<anchor ...
CASES = [
    (row.split(":")[0].strip(), *case.split("<"))
    for row in TABLE.replace("\n", "|").split("|")
    if row.strip()
    for case in row.split(":")[1].split()
]
NETWORK = {
    "width": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "groups": 4,
    "swin_levels": (1,),
    "swin_width": 8,
    "head_dim": 4,
}

UNREAD = {"order": "input_first", "encoder": "other", "length": 9, "drop": 0.2, "fallback": True}


def config(**options):
    """A network of a few thousand parameters; options for dfb, kg and network are laid on top of its own."""
    base = {
        "method": "dfbk",
        "network": NETWORK,
        "dfb": {"levels": (0,), "head_dim": 8},
        "kg": {"levels": (1,), "head_dim": 8, "width": 12, "count": 3},
    }
    if options.get("kg", {}).get("text") in STORED:
        base["kg"] |= {"length": 7, "encoder": "small", "drop": 0.5}
    inner = {k: {**base[k], **v} for k, v in options.items() if isinstance(v, dict) and k in base}
    return {**base, **options, **inner}


def flags(*names):
    return torch.tensor([[c.value in name.split("+") for c in STANDARD] for name in names])


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def batch_of(*names, size=(16, 24), neighbours=0, seed=0):
    n = len(names)
    return Batch(
        images(n, 4, *size, seed=seed),
        torch.ones(n, 4, dtype=torch.bool),
        flags(*names),
        images(n, 4, 2 * neighbours, *size, seed=seed + 1),
    )


def noise_for(method, batch, seed=0):
    return SeededNoise(seed, "subject", method.targets, shared=method.shared_noise).slices(range(len(batch.images)))


def run(method, batch, seed=0, **options):
    return method.synthesise(
        batch.images, batch.available, context=batch.context, noise=noise_for(method, batch, seed), **options
    )


def loss_of(method, batch, seed=0):
    with torch.no_grad():
        return float(method.loss(batch, torch.Generator().manual_seed(seed))["loss"])


def forbidden(like):
    raise AssertionError("no noise is drawn")


class Watcher:
    """What a network was shown, call by call: input, level, target, tokens, valid."""

    def __init__(self, method):
        self.calls = []
        method.network.register_forward_pre_hook(lambda network, arguments: self.calls.append(arguments))

    def inputs(self):
        return [call[0] for call in self.calls]


def tokens_of(method, encoder="small", length=7, width=12, seed=0):
    """A table as an encoder would make it, of the prompts of a method; prompts differ in length."""
    random = np.random.default_rng(seed)
    return TokenTable(
        encoder,
        length,
        {
            prompt_key(encoder, text, length): random.normal(size=(2 + i % (length - 1), width)).astype(np.float16)
            for i, text in enumerate(method.text.prompts)
        },
    )


# Check 5: what the network is shown -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "scale"), [("pixel", 6.94), ("latent", 2.2182), ("none", 1.0)])
def test_the_noisy_image_is_divided_by_its_scale_and_the_source_is_not(rule, scale, wake):
    method, batch = wake(config(inscale=rule)), batch_of("t1+t2+flair")
    watcher = Watcher(method)
    run(method, batch)
    first = watcher.inputs()[0]
    field = noise_for(method, batch)(batch.images)[:, 1:2]  # of t1ce

    assert [int(call[1][0]) for call in watcher.calls] == [3, 2, 1, 0]
    assert torch.equal(first[:, 1:2], batch.images[:, :1])
    assert torch.allclose(first[:, :1] * scale, batch.images[:, :1] + 1.98 * field, atol=1e-3)


def test_the_channels_are_the_noisy_image_the_source_all_contrasts_and_which_are_there(wake):
    method, batch = wake(config(neighbours=1)), batch_of("t1ce+flair", neighbours=1)
    watcher = Watcher(method)
    run(method, batch, steps=1)
    for shown, target, anchor in zip(watcher.inputs(), (0, 2), (1, 3), strict=True):
        there = [False, True, False, True]
        assert shown.shape[1] == 2 + 4 + 4 + 8
        assert torch.equal(shown[:, 1], batch.images[:, anchor]) and not there[target]
        for c in range(4):
            assert torch.equal(shown[:, 2 + c], batch.images[:, c] * there[c])
            assert bool((shown[:, 6 + c] == there[c]).all())
            assert torch.equal(shown[:, 10 + 2 * c : 12 + 2 * c], batch.context[:, c] * there[c])


def test_from_a_single_source_the_network_sees_nothing_else(wake):
    method, batch = wake(config(sources="single", neighbours=1)), batch_of("t1+t2+flair", neighbours=1)
    watcher = Watcher(method)
    run(method, batch, steps=1)
    (shown,) = watcher.inputs()
    others = replace(batch, available=flags("t1"))

    assert torch.equal(shown[:, 1:], torch.cat([batch.images[:, :1], batch.context[:, 0]], 1))
    assert torch.equal(run(method, batch)[:, 1], run(method, others)[:, 1])
    assert len(method.config.pairs()) == 12


def test_the_loss_is_that_of_the_marginal_at_the_level_that_was_drawn(wake):
    """Recomputed from the definitions, with the network's own answers."""
    method, batch = wake(config()), batch_of("t1+t2+flair", "t1+t1ce+flair", "t1ce+t2+flair")
    watcher, answers = Watcher(method), []
    method.network.register_forward_hook(lambda network, arguments, output: answers.append(output))
    found = loss_of(method, batch)
    shown, level, target, *_ = watcher.calls[0]
    truth, y_0 = (batch.images[torch.arange(3), c][:, None] for c in ([1, 2, 0], [0, 3, 1]))
    eta = method.schedule.eta[level][:, None, None, None].float()
    x_t = shown[:, :1] * method.scales[level][:, None, None, None].float()
    eps = (x_t - shifted(truth, y_0, torch.zeros_like(truth), eta, 2.0)) / (2 * eta.sqrt())

    assert target.tolist() == [1, 2, 0]
    assert abs(float(eps.mean())) < 0.1 and float(eps.std()) == pytest.approx(1, abs=0.06)
    assert found == pytest.approx(float((answers[0] - truth).square().mean()), rel=1e-6)


def test_training_draws_every_missing_contrast_and_every_level_alike(wake):
    method, batch = wake(config()), batch_of(*["t1"] * 600, size=(2, 2))
    watcher = Watcher(method)
    loss_of(method, batch)
    _, level, target, *_ = watcher.calls[0]

    assert torch.bincount(target, minlength=4)[1:].tolist() == pytest.approx([200] * 3, abs=50)
    assert int((target == 0).sum()) == 0
    assert torch.bincount(level).tolist() == pytest.approx([150] * 4, abs=45)


def test_weighted_losses_are_larger_by_the_weight_of_the_level(wake):
    batch, seen = batch_of("t1+t2+flair"), set()
    plain, weighted = wake(config()), wake(config(weighted=True))
    for seed in range(12):
        watcher = Watcher(plain)
        ratio = loss_of(weighted, batch, seed) / loss_of(plain, batch, seed)
        level = int(watcher.calls[0][1])
        seen.add(level)
        assert ratio == pytest.approx(float(plain.schedule.loss_weights()[level]), rel=1e-5)
    assert seen == {0, 1, 2, 3}


def test_a_share_of_the_training_sees_what_sampling_would_show_it(wake):
    """Its input is that of a chain over the last level and its own, with the same noise."""
    method, given_up = wake(config(own_share=1.0)), batch_of(*["t1+t2+flair"] * 6)
    watcher = Watcher(method)
    loss_of(method, given_up)
    first, (seen, level, *_) = watcher.calls
    below = (level < 3).nonzero()[:, 0]
    assert 0 < len(below) < 6 and (first[1] == 3).all() and len(first[0]) == len(below)

    generator = torch.Generator().manual_seed(0)  # the draws of `loss`, in their order
    torch.rand((6, 4), generator=generator)
    draw_levels(4, 6, 1.0, generator)
    torch.randn((6, 1, 16, 24), generator=generator), torch.rand(6, generator=generator)
    torch.rand(6, generator=generator)
    start, step = (torch.randn((6, 1, 16, 24), generator=generator) for _ in range(2))
    target = torch.full((6,), 1)
    for row in below.tolist():
        given = part_of(
            method.conditions(given_up.images, given_up.available, given_up.context, target), torch.arange(6) == row
        )
        shown = []

        def denoise(x_t, t, given=given, shown=shown):
            shown.append(x_t)
            return method.predict(x_t, torch.tensor([t]), given).clamp(-1, 1).detach()

        fields = iter((start[row : row + 1], step[row : row + 1]))
        chain = [3, int(level[row])]
        residual_shift(denoise, given.y_0, method.schedule, chain, lambda like, f=fields: next(f))
        scaled = shown[1] / method.scales[level[row]].float()
        assert torch.allclose(seen[row, :1], scaled[0], atol=1e-5)


def test_a_share_of_the_training_learns_what_mode_mean_asks(wake):
    method, batch = wake(config(mean_share=1.0)), batch_of("t1+t2+flair", "t1")
    watcher = Watcher(method)
    loss_of(method, batch)
    method.synthesise(batch.images[:1], batch.available[:1], context=batch.context[:1], noise=forbidden, mode="mean")
    (learnt, level, *_), (asked, *_) = watcher.calls

    assert (level == 3).all() and torch.equal(learnt[0, 0], asked[0, 0])
    assert torch.allclose(learnt[:, 0], learnt[:, 1] / 6.94, atol=1e-3)  # y_0, scaled as x_t is
    assert method.modes == ("mean",) and wake(config(mean_share=0.5)).modes == ("mean", "sample")
    assert loss_of(wake(config(mean_share=1e-9)), batch) == loss_of(wake(config()), batch)


def test_nothing_is_estimated_for_what_learns_the_mean(wake):
    method = wake(config(own_share=1.0, mean_share=1.0))
    watcher = Watcher(method)
    loss_of(method, batch_of(*["t1+t2+flair"] * 6))
    [(learnt, level, *_)] = watcher.calls

    assert len(learnt) == 6 and (level == 3).all()


def test_without_a_share_of_its_own_nothing_is_drawn_for_it(wake):
    batch = batch_of("t1+t2+flair", "t1")
    losses = [loss_of(wake(config(own_share=share)), batch) for share in (0.0, 1e-9)]

    assert losses[0] == losses[1]


def test_the_residual_is_added_to_the_source():
    """Untrained networks return zeros: the source itself, or mid-grey."""
    batch = batch_of("t1+t2+flair")

    assert torch.equal(run(build_method(config(predict="residual")), batch)[:, 1], batch.images[:, 0])
    assert not run(build_method(config()), batch)[:, 1].any()


# Check 7: the text starts as nothing (the network's own tests hold the rest) ------------------------------------------


def test_before_training_the_text_changes_nothing_and_afterwards_it_does(wake):
    batch = batch_of("t1+t2+flair")
    method = build_method(config()).eval()
    torch.nn.init.normal_(method.network.head.weight)
    before = run(method, batch)
    with torch.no_grad():
        method.text.learned.normal_(std=5)
    assert torch.equal(run(method, batch), before)

    method = wake(config())
    before = run(method, batch)
    with torch.no_grad():
        method.text.learned.normal_(std=5)
    assert not torch.allclose(run(method, batch), before, atol=1e-3)


# Check 10: masks and anchors ------------------------------------------------------------------------------------------


def test_there_are_28_cases():
    assert len(CASES) == 28 == len(set(CASES))
    assert {case[0] for case in CASES} == {pattern_name(p) for p in patterns()}


@pytest.mark.parametrize(("available", "target", "anchor"), CASES)
def test_each_chain_begins_from_the_contrast_of_the_table(available, target, anchor, wake):
    method = wake(config())
    chosen = method.anchors(flags(available), torch.tensor([STANDARD.index(Contrast(target))]))

    assert STANDARD[int(chosen)] == anchor


@pytest.mark.parametrize("pattern", [pattern_name(p) for p in patterns()])
def test_what_is_missing_can_hold_anything(pattern, wake):
    method, batch = wake(config(neighbours=1)), batch_of(pattern, pattern, neighbours=1)
    hidden = ~batch.available[:, :, None, None]
    garbage = replace(
        batch,
        images=torch.where(hidden, torch.nan, batch.images),
        context=torch.where(hidden[..., None], torch.inf, batch.context),
    )

    assert torch.equal(run(method, garbage), run(method, batch))


def test_the_text_is_that_of_what_is_read_and_made(wake):
    method, batch = wake(config()), batch_of("t1+flair")
    watcher = Watcher(method)
    run(method, batch, steps=1)
    pairs = method.config.pairs()

    assert len(pairs) == 28 and len(set(method.text.prompts)) == 28
    for call, target in zip(watcher.calls, (T1CE, T2), strict=True):
        number = pairs.index(((T1, FLAIR), target))
        assert torch.equal(call[3][0], method.text.learned[number])


# Anchors, chains and pairs --------------------------------------------------------------------------------------------


def test_anchors_can_be_given_and_other_contrasts_have_some():
    given = build_method(config(anchors={"t2": ("t1ce",)}))
    assert given.config.anchor_order(T2) == (T1CE, T1, FLAIR)
    other = build_method(config(contrasts=("ct", "mr")))
    assert other.config.anchor_order(Contrast.CT) == (Contrast.MR,) and other.supports({Contrast.MR}, Contrast.CT)
    mixed = build_method(config(contrasts=("dwi", "flair", "t1", "t2")))
    assert mixed.config.anchor_order(FLAIR) == (T2, T1, Contrast.DWI)


@pytest.mark.parametrize(("sources", "used"), [("multi", [0, 2, 3]), ("single", [0])])
def test_chains_can_begin_from_the_least_squares_line_of_what_is_seen(sources, used, wake):
    """Untrained, the network then returns that line; training does not move it."""
    method = build_method(config(begin="regression", predict="residual", sources=sources)).eval()
    batch = batch_of("t1+t2+flair", "t1+t2+flair")
    with torch.no_grad():
        method.enter_stage("all", [batch])
    made = run(method, batch)[:, 1]

    u = (batch.images.permute(0, 2, 3, 1).reshape(-1, 4).numpy() + 1) / 2
    inputs = np.c_[u[:, used], np.ones(len(u))]
    line, *_ = np.linalg.lstsq(inputs, u[:, 1], rcond=None)
    assert torch.allclose(made, torch.from_numpy(inputs @ line).float().reshape(made.shape) * 2 - 1, atol=2e-3)
    (objective,) = method.objectives("all")
    assert all(p is not method.regression.weights for p in objective.parameters)


def test_shares_decide_how_many_contrasts_are_missing():
    method, random = build_method(config(shares=(0.7, 0.3, 0.0))), np.random.default_rng(0)
    drawn = [4 - method.draw_available(np.ones(4, bool), 0.0, random).sum() for _ in range(600)]
    assert np.allclose(np.bincount(drawn, minlength=4) / 600, [0, 0.7, 0.3, 0], atol=0.06)


def test_in_a_chain_a_contrast_that_was_made_is_read_for_the_next(wake):
    alone, chained = wake(config()), wake(config(chain=True))
    batch = batch_of("t1")
    watcher = Watcher(chained)
    made, other = run(chained, batch, steps=1), run(alone, batch, steps=1)
    second, third = watcher.inputs()[1:]

    assert torch.equal(made[:, 1], other[:, 1]) and not torch.equal(made[:, 2], other[:, 2])
    assert torch.equal(second[:, 2 + 1], made[:, 1])
    assert torch.equal(third[:, 1], made[:, 2])  # flair begins from the t2 that was made


def test_the_network_is_not_called_for_a_contrast_that_nobody_wants(wake):
    for chain, asked, calls in ((False, T2, 1), (True, T1CE, 1), (True, T2, 2), (False, T1, 0)):
        method = wake(config(chain=chain))
        watcher = Watcher(method)
        made = run(method, batch_of("t1"), steps=1, targets=[asked])

        assert len(watcher.calls) == calls
        assert not made[:, 3].any()  # flair, the last, stays grey


def test_every_contrast_has_its_own_chain_and_its_own_noise(wake):
    """What else is missing does not matter, as long as the same is read."""
    method = wake(config(sources="single"))
    made, fewer = run(method, batch_of("t1")), run(method, batch_of("t1+t1ce"))

    assert torch.equal(made[:, 2], fewer[:, 2])
    watcher = Watcher(method)
    run(method, replace(batch_of("t1"), images=torch.full((1, 4, 16, 24), 0.5)), steps=1)
    starts = [shown[:, 0] for shown in watcher.inputs()]
    assert not torch.allclose(starts[0], starts[1], atol=0.1)


@pytest.mark.parametrize(("steps", "visited"), [(None, [3, 2, 1, 0]), (2, [3, 1]), (1, [3])])
def test_fewer_steps_visit_some_of_the_levels(steps, visited, wake):
    method, told = wake(config()), []
    watcher = Watcher(method)
    run(method, batch_of("t1+t2", "flair"), steps=steps, progress=lambda done, total: told.append((done, total)))

    assert [int(call[1][0]) for call in watcher.calls] == visited * 4  # all four are missing somewhere
    assert [len(call[0]) for call in watcher.calls[:: len(visited)]] == [1, 2, 1, 1]
    assert told == [(n + 1, 4 * len(visited)) for n in range(4 * len(visited))]


def test_a_network_for_one_pair_is_the_papers(wake):
    method = wake(config(unified=False, source="t1", target="t2", sources="single"))
    batch = batch_of("t1", "t1+flair")
    made = run(method, batch)

    assert method.targets == (T2,) and method.network.embed_target is None
    assert method.supports({T1, FLAIR}, T2) and not method.supports({FLAIR}, T2) and not method.supports({T1}, FLAIR)
    assert method.learns_from({T1, T2}) and not method.learns_from({T2, FLAIR})
    assert torch.isfinite(made).all() and not made[:, 1].any()  # a contrast it does not make stays mid-grey
    random, present = np.random.default_rng(0), np.ones(4, bool)
    for _ in range(20):
        available = method.draw_available(present, 0.5, random)
        assert available[0] and not available[2]
    for wrong in ("flair", "t1+t2"):
        with pytest.raises(ValueError, match="t2"):
            run(method, batch_of(wrong))


def test_other_samplers_and_more_steps_than_levels_are_refused(wake):
    with pytest.raises(UsageError, match=r"residual_shift only, not with ddim"):
        run(wake(config()), batch_of("t1"), sampler="ddim")
    with pytest.raises(UsageError, match=r"5 sampling steps from a chain of 4"):
        run(wake(config()), batch_of("t1"), steps=5)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"target": "t2"}, "are for unified=false"),
        ({"unified": False}, "needs a target"),
        ({"unified": False, "target": "t2", "source": "t2"}, "both t2"),
        ({"unified": False, "target": "ct"}, "ct is none of the contrasts"),
        ({"unified": False, "target": "t2", "chain": True}, "only one"),
        ({"chain": True, "neighbours": 1}, "chain with neighbours"),
        ({"anchors": {"t2": ("t2",)}}, "anchors of t2"),
        ({"contrasts": ("t1",)}, "at least two contrasts"),
        ({"steps": 5}, "5 sampling steps from 4 levels"),
        ({"m": 3.0}, "has to rise|must rise"),
        ({"T": 1}, "greater than 1"),
        ({"dfb": {"levels": (1,)}}, r"levels \[1\] have both"),
        ({"kg": {"levels": (2,)}}, "kg.levels"),
        ({"kg": {"head_dim": 32}}, "heads of 32"),
        ({"kg": {"text": "same", "fallback": True, "drop": 0.0}}, "kg.fallback needs kg.drop"),
        *(
            ({"kg": {"text": text, name: value}}, rf"kg.{name} without effect: kg.text={text} reads no stored tokens")
            for text in ("learned", "none")
            for name, value in UNREAD.items()
        ),
        ({"kg": {"levels": (), "text": "none"}}, "kg.text without effect: kg.levels is empty"),
        ({"kg": {"levels": (), "encoder": "other"}}, "kg.encoder without effect: kg.levels is empty"),
        ({"kg": {"fallback": True, "length": 9}}, r"kg.length and kg.fallback without effect"),
        ({"kg": {"text": "biomedclip", "drop": 0.0}}, r"kg.count without effect: kg.drop=0 leaves no learnt tokens"),
        ({"kg": {"swap": True, "text": "none"}}, "kg.swap with kg.text=none"),
        ({"kg": {"swap": True}, "sources": "single"}, "no pair to exchange with"),
        ({"kg": {"swap": True, "mode": "off"}}, "kg.swap without effect"),
        ({"kg": {"swap": True, "levels": ()}}, "kg.swap without effect"),
        ({"anchors": {"t2": ("t1",)}, "begin": "regression"}, "anchors without effect: .* regression"),
        ({"anchors": {"t2": ("t1",)}, "unified": False, "target": "t2", "source": "t1"}, "anchors without effect"),
        ({"dfb": {"mode": "L", "subln": False}}, "subln without effect: mode L"),
        ({"kg": {"mode": "plain", "subln": False, "lambda_init": 0.5}}, "subln and lambda_init without effect"),
        ({"shares": (-1, 1, 1)}, "greater than or equal to 0"),
        ({"shares": (0, 0, 0)}, "one above 0"),
        ({"network": {"multipliers": (1, -1)}}, "greater than 0"),
        ({"contrasts": ()}, "at least two contrasts"),
        ({"own_share": 1.5}, "own_share"),
        ({"lpips": 1.0}, "lpips"),
    ],
    ids=str,
)
def test_configurations_that_make_no_sense_are_refused(options, why):
    with pytest.raises(ValidationError, match=why):
        DfbkConfig.model_validate(config(**options))


def test_what_had_no_effect_in_a_file_of_0_1_0_is_as_if_it_had_not_been_set():
    bands = {"mode": "L", "subln": False, "lambda_init": 0.5}
    whole = {"dfb": bands, "kg": {**bands, "mode": "H"}, "anchors": {"t2": ["t1"]}, "begin": "regression"}
    old = DfbkConfig.from_format_1(config(**whole))

    assert (old["dfb"]["subln"], old["dfb"]["lambda_init"], old["anchors"]) == (True, "schedule", {})
    assert (old["kg"]["subln"], old["kg"]["lambda_init"]) == (False, 0.5)
    assert DfbkConfig.from_format_1(config(**{**whole, "sources": "single"}))["anchors"] == {"t2": ["t1"]}
    DfbkConfig.model_validate(old)


# Check 11: the text of an encoder -------------------------------------------------------------------------------------


def test_prompts_tell_the_source_and_the_target():
    assert prompt((FLAIR, T1), T1CE) == (
        "Axial brain MRI. Output: T1-weighted after gadolinium, enhancing lesion and vessels bright. Input: "
        "T1-weighted, white matter brighter than grey matter, fluid dark; FLAIR, T2-weighted with fluid suppressed, "
        "oedema bright."
    )
    assert prompt((Contrast.MR,), Contrast.CT).startswith("Axial brain CT and MRI. Output: comp")
    assert len({prompt((a,), b) for a in Contrast for b in Contrast}) == 64


@pytest.fixture
def no_encoder(monkeypatch):
    """As on a machine without the packages that make tokens."""
    for name in ("open_clip", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("text", ["biomedclip", "shuffled", "same", "learned", "none"])
def test_every_text_trains_and_runs_without_the_packages_that_make_tokens(text, wake, no_encoder):
    method, batch = wake(config(kg={"text": text})), batch_of("t1+t2", "flair")
    if method.config.kg.stored:
        method.give_tokens(tokens_of(method))

    assert bool(run(method, batch).isfinite().all()) and loss_of(method, batch) > 0


def test_each_pair_reads_its_own_tokens_and_no_padding(wake):
    method = wake(config(kg={"text": "biomedclip"}))
    table = tokens_of(method)
    method.give_tokens(table)
    watcher = Watcher(method)
    run(method, batch_of("t1+flair", "t1+flair"), steps=1)
    number = method.config.pairs().index(((T1, FLAIR), T1CE))
    expected = table.tokens[prompt_key("small", prompt((T1, FLAIR), T1CE), 7)]
    _, _, _, tokens, valid = watcher.calls[0]

    assert int(valid.sum()) == 2 * len(expected) == 2 * (2 + number % 6)
    assert torch.equal(tokens[0][valid[0]], torch.from_numpy(expected).float())


def test_shuffled_text_is_that_of_another_target(wake):
    right, wrong = wake(config(kg={"text": "biomedclip"})), wake(config(kg={"text": "shuffled"}))
    told = dict(zip(right.config.pairs(), wrong.text.prompts, strict=True))

    assert sorted(right.text.prompts) == sorted(wrong.text.prompts)
    for (sources, target), text in told.items():
        assert text != prompt(sources, target)
        assert prompt((), target).split(" Input: ")[0] not in text
    single = wake(config(kg={"text": "shuffled"}, unified=False, source="t1", target="t2", sources="single"))
    assert single.text.prompts == [prompt((T1CE,), FLAIR)]


def test_the_same_sentence_serves_every_pair(wake):
    method = wake(config(kg={"text": "same"}))
    method.give_tokens(tokens_of(method))
    tokens, valid = method.text(torch.arange(28))

    assert set(method.text.prompts) == {prompt(*method.config.pairs()[0])}
    assert torch.equal(tokens, tokens[:1].expand_as(tokens)) and torch.equal(valid, valid[:1].expand_as(valid))
    own = wake(config(kg={"text": "biomedclip"}))
    own.give_tokens(tokens_of(own))
    assert not torch.equal(own.text(torch.arange(28))[0][0], own.text(torch.arange(28))[0][1])


@pytest.mark.parametrize("text", ["biomedclip", "learned"])
def test_a_swap_at_test_time_reads_the_text_of_another_target_and_leaves_training_alone(text, wake):
    plain, swapped = wake(config(kg={"text": text})), wake(config(kg={"text": text, "swap": True}))
    for method in (plain, swapped):
        if method.config.kg.stored:
            method.give_tokens(tokens_of(method))
    assert plain.state_dict().keys() == swapped.state_dict().keys()
    pairs, every = plain.config.pairs(), torch.arange(28)

    following = {T1: T1CE, T1CE: T2, T2: FLAIR, FLAIR: T1}
    for number, (sources, target) in enumerate(pairs):
        other = {following[c] for c in sources}, following[target]
        place = next(i for i, (s, t) in enumerate(pairs) if (set(s), t) == other)
        assert torch.equal(swapped.text(every)[0][number], plain.text(every)[0][place])
        assert pairs[place].target is not target
    batch = batch_of("t1+t2", "flair")
    assert not torch.allclose(run(plain, batch), run(swapped, batch), atol=1e-4)
    assert loss_of(plain.train(), batch) == loss_of(swapped.train(), batch)


def test_the_sentence_names_the_output_first_and_the_order_of_0_1_0_can_be_had(wake):
    first = wake(config(kg={"text": "biomedclip"})).text.prompts
    former = wake(config(kg={"text": "biomedclip", "order": "input_first"})).text.prompts

    assert all(a.index("Output:") < a.index("Input:") for a in first)
    assert all(a.index("Input:") < a.index("Output:") for a in former)
    assert all(sorted(a.split()) == sorted(b.split()) for a, b in zip(first, former, strict=True))


def test_a_file_of_format_1_may_set_what_only_stored_tokens_need():
    for text, levels, length in (("learned", (1,), 64), ("biomedclip", (1,), 9), ("biomedclip", (), 64)):
        given = {**UNREAD, "text": text, "levels": levels}
        assert DfbkConfig.model_validate(DfbkConfig.from_format_1(config(kg=given))).kg.length == length

    counted = {"text": "biomedclip", "levels": (1,), "drop": 0.0, "count": 9}  # of learnt tokens that are never read
    assert DfbkConfig.model_validate(DfbkConfig.from_format_1(config(kg=counted))).kg.count == 16


def test_the_control_without_text_reads_the_same_for_every_pair(wake):
    method = wake(config(kg={"text": "none"}))
    watcher = Watcher(method)
    run(method, batch_of("t1"), steps=1)

    assert all(torch.equal(call[3], watcher.calls[0][3]) and bool(call[4].all()) for call in watcher.calls)


def test_part_of_the_training_reads_learnt_tokens_in_place_of_stored_ones(wake):
    method = wake(config(kg={"text": "biomedclip", "drop": 0.25}))
    method.give_tokens(tokens_of(method))
    watcher = Watcher(method)
    loss_of(method, batch_of(*["t1+t2+flair"] * 400, size=(2, 2)))
    _, _, _, tokens, valid = watcher.calls[0]
    learnt = valid[:, 7:].all(1)

    assert int(learnt.sum()) == pytest.approx(100, abs=35)
    assert not (valid[:, :7].any(1) & learnt).any() and (valid[:, :7].any(1) | learnt).all()
    assert torch.equal(tokens[0, 7:], method.text.common)


def test_without_tokens_it_says_how_to_make_them_or_falls_back_where_that_is_allowed(wake):
    batch = batch_of("t1+t2+flair")
    for act in (run, loss_of):
        with pytest.raises(UsageError, match=r"give_tokens.*kg.text=learned.*kg.fallback"):
            act(wake(config(kg={"text": "biomedclip"})), batch)
    method = wake(config(kg={"text": "biomedclip", "fallback": True}))
    watcher = Watcher(method)
    run(method, batch, steps=1)

    assert watcher.calls[0][4].tolist() == [[False] * 7 + [True] * 3]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"encoder": "other"}, r"made by the encoder other, expected small \(kg.encoder\)"),
        ({"length": 9}, r"cut to 9 tokens, expected 7 \(kg.length\)"),
        ({"width": 5}, r"shape \(2, 5\), expected up to 7 of width 12"),
    ],
    ids=str,
)
def test_tokens_of_another_encoder_length_or_width_are_refused(change, why, wake):
    method = wake(config(kg={"text": "biomedclip"}))

    with pytest.raises(UsageError, match=why):
        method.give_tokens(tokens_of(method, **change))
    assert not method.text.complete


def test_tokens_of_other_prompts_or_that_lie_about_their_encoder_are_refused(wake):
    method = wake(config(kg={"text": "biomedclip"}))
    lacking = tokens_of(method)
    fewer = dict(list(lacking.tokens.items())[1:])
    with pytest.raises(UsageError, match=r"1 of 28 prompts are not among them, such as 'Axial"):
        method.give_tokens(replace(lacking, tokens=fewer))
    with pytest.raises(UsageError, match=r"28 of 28 prompts"):  # the keys tell, not the name
        method.give_tokens(replace(tokens_of(method, encoder="other"), encoder="small"))
    broken = {key: np.full_like(value, np.nan) for key, value in lacking.tokens.items()}
    with pytest.raises(UsageError, match="not all finite"):
        method.give_tokens(replace(lacking, tokens=broken))
    for options, why in (({"text": "learned"}, "reads no stored tokens"), ({"mode": "off"}, "guidance is off")):
        with pytest.raises(UsageError, match=why):
            wake(config(kg=options)).give_tokens(lacking)


def test_a_checkpoint_carries_its_tokens_and_takes_no_others(wake):
    method, batch = wake(config(kg={"text": "biomedclip"})), batch_of("t1+t2+flair")
    table = tokens_of(method)
    method.give_tokens(table)
    # as a file holds them: halves are read back as float32
    stored = {k: v.half().float() if v.dtype == torch.float16 else v.clone() for k, v in method.state_dict().items()}
    again = build_method(config(kg={"text": "biomedclip"})).eval()
    again.load_state_dict(stored)

    assert again.text.tokens.dtype == torch.float16 and bool(again.text.identity.any())
    assert torch.equal(run(again, batch), run(method, batch))
    again.give_tokens(table)  # the same once more
    with pytest.raises(UsageError, match="trained with other tokens"):
        again.give_tokens(tokens_of(method, seed=1))
    shuffled = build_method(config(kg={"text": "shuffled"}))
    shuffled.load_state_dict(stored)
    with pytest.raises(UsageError, match="trained with other tokens"):
        shuffled.give_tokens(table)


# Check 12, presets and the page ---------------------------------------------------------------------------------------


def test_the_tiny_preset_makes_all_28_cases_in_time_and_alike_for_one_seed(wake):
    """Four steps each at 64 x 64; 30 seconds on two processors are allowed, of which this test has one."""
    method = wake(preset("dfbk", "tiny"))
    names = [pattern_name(p) for p in patterns()]
    began = time.process_time()
    batch = batch_of(*names, size=(64, 64))
    made = run(method, batch)
    seconds = time.process_time() - began
    few = replace(batch, images=batch.images[:3], available=batch.available[:3], context=batch.context[:3])

    assert seconds < 30
    assert int((made != batch.images).flatten(2).any(2).sum()) == 28
    assert torch.equal(run(method, few), run(method, few)) and torch.allclose(run(method, few), made[:3], atol=1e-4)


def test_the_ship_preset_fits_into_eight_megabytes():
    with torch.device("meta"):
        method = build_method(preset("dfbk", "ship"))
    size = sum(2 * tensor.numel() for tensor in method.saved_state().values())

    assert 6_000_000 < size < 8_000_000
    assert method.multiple == 16 and method.config.kg.text == "learned"


def test_presets_and_their_sizes_are_those_of_the_page():
    page = PAGE.read_text(encoding="utf-8")
    for name in ("paper", "small", "tiny", "ship"):
        with torch.device("meta"):
            method = build_method(preset("dfbk", name))
        count = sum(p.numel() for p in method.parameters())
        assert re.search(rf"^\| `{name}` \|.*\| {count:,} \| {method.multiple} \|$", page, re.MULTILINE), (name, count)


def test_every_option_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    inner = {"network", "dfb", "kg"}
    for key in set(DfbkConfig.model_fields) - inner - {"method"}:
        assert f"`{key}`" in page, key
    for group in inner:
        for key in DfbkConfig.model_fields[group].annotation.model_fields:
            assert f"`{group}.{key}`" in page or f"`{key}`" in page, f"{group}.{key}"
