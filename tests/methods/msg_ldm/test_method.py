"""MSG-LDM: what its paper claims that its networks alone cannot show, and what every switch does."""

import copy
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mrsynth.contrasts import STANDARD, Contrast, patterns
from mrsynth.diffusion.noise import SeededNoise
from mrsynth.diffusion.prediction import noised
from mrsynth.diffusion.samplers import SAMPLERS, levels_of
from mrsynth.diffusion.schedules import levels, make_schedule
from mrsynth.errors import InputError, UsageError
from mrsynth.methods import build_method, config_of_format_1, preset
from mrsynth.methods.base import Batch
from mrsynth.methods.msg_ldm import PRESETS, MsgLdmConfig, losses
from mrsynth.methods.msg_ldm.latent_diffusion import Spread
from mrsynth.methods.msg_ldm.structure import seen_in_training
from mrsynth.networks.frequency import low_pass
from mrsynth.training.batches import Slab, TrainingConfig
from mrsynth.training.loop import Callbacks, begin, train, train_only_what_is_listed
from mrsynth.training.validation import fill_in_every_pattern

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods" / "msg-ldm.md"
T1, T1CE, T2, FLAIR = STANDARD
REGIONS = {"WT": (1, 2, 3, 4), "TC": (1, 3, 4), "ET": (3, 4)}
SMALL = {
    "first_stage": {"kind": "identity", "multipliers": (1, 1, 1)},
    "structure": {"widths": (8, 16), "fold": 2, "style_width": 4, "decoder_blocks": 1},
    "network": {"width": 16, "multipliers": (1,), "blocks": 1, "groups": 8, "attention": ()},
    "losses": {"w_gan": 0.0, "w_freq": 0.0},
    "seg": "off",
    "regions": REGIONS,
    "T": 50,
    "schedule": "cosine",
    "param": "x0",
    "steps": 3,
}


def small(**options):
    inner = {k: {**SMALL[k], **v} for k, v in options.items() if isinstance(SMALL.get(k), dict) and k != "regions"}
    return {"method": "msg-ldm", **SMALL, **options, **inner}


def flags(*patterns_, contrasts=STANDARD):
    return torch.tensor([[c in pattern for c in contrasts] for pattern in patterns_])


def noise_for(model, n, seed=0):
    return SeededNoise(seed, "subject", model.targets).slices(range(n))


def batch_of(b=4, side=16, contrasts=STANDARD, seed=0, labels=None, present=None):
    """Smooth slices (b, C, side, side); all but the b-th contrast of example b are available."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(b, len(contrasts), side // 4, side // 4, generator=random) * 2 - 1
    images = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    available = torch.ones(b, len(contrasts), dtype=torch.bool)
    available[range(b), [i % len(contrasts) for i in range(b)]] = False
    known = torch.ones_like(available) if present is None else present
    context = torch.empty(b, len(contrasts), 0, side, side)
    return Batch(images, known, available & known, context, labels)


def structure_terms(model, batch, seed=0):
    return model.objectives("structure")[0].loss(batch, torch.Generator().manual_seed(seed))


def synthesise(model, batch, **options):
    noise = noise_for(model, len(batch.images))
    return model.synthesise(batch.images, batch.available, context=batch.context, noise=noise, **options)


# Check 3 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", ["none", "concat", "replace", "draft"])
def test_check_3_what_is_missing_leaves_structure_latents_and_output_bit_identical(known, wake):
    model, batch = wake(small(known=known)), batch_of()
    found = {}
    for filling in (0.0, 1e6, torch.nan):
        images = torch.where(batch.available[:, :, None, None], batch.images, filling)
        structures = model.structure(images, batch.context, batch.available)
        made = synthesise(model, replace(batch, images=images))
        found[filling] = [*structures.levels, structures.map, made]

    for other in list(found.values())[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0.0], other, strict=True))


def test_check_3_which_contrasts_are_available_changes_the_structure_map(wake):
    model, batch = wake(small()), batch_of(1)
    all_four = model.structure(batch.images, batch.context, flags(STANDARD)).map
    for missing in STANDARD:
        others = flags([c for c in STANDARD if c is not missing])
        three = model.structure(batch.images, batch.context, others).map
        assert not torch.allclose(three, all_four, atol=1e-3)


# Check 4 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("known", "inputs"), [("none", 272), ("concat", 292), ("replace", 272), ("draft", 292)])
def test_check_4_input_of_the_diffusion_network(known, inputs):
    with torch.random.fork_rng(devices=[]):
        structure = {"widths": (8, 16, 32, 256), "decouple": False, "msse": False, "decoder_blocks": 1}
        first = {"width": 8, "groups": 8, "blocks": 1}
        model = build_method({"method": "msg-ldm", "structure": structure, "first_stage": first, "known": known})
    network = model.network

    assert network.stem.in_channels == inputs and network.head.out_channels == 16 and model.multiple == 32
    if known == "none":  # the size of the public code's, 13.4 M
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(13.4, abs=0.05)


def test_check_4_sizes_of_the_paper():
    config = MsgLdmConfig.model_validate(preset("msg-ldm", "paper"))

    assert config.first_stage.factor == config.structure.factor == 8 and config.multiple == 32
    assert config.T == 1000 and config.param == "eps" and config.known == "none" and config.steps == 50


# Check 5 -------------------------------------------------------------------------------------------------------------


def permuted(model, order):
    """A model of the same weights whose contrasts stand in another order: new j is old order[j]."""
    contrasts = [model.contrasts[j] for j in order]
    other = build_method({**model.config.model_dump(), "contrasts": contrasts}).eval()
    weights = {}
    for name, tensor in model.state_dict().items():
        head, *rest = name.split(".")
        if head in ("reconstructors", "styles") or name.startswith("structure.encoders."):
            place = 1 if head != "structure" else 2
            parts = name.split(".")
            parts[place] = str(order.index(int(parts[place])))
            weights[".".join(parts)] = tensor
            continue
        along = {"prototypes": (0,), "prototype_counts": (0,)}.get(head, ())
        if name.startswith("structure.fusions."):
            along = (0, 1) if "logits.weight" in name else (0,) if "logits.bias" in name else (1,)
            alike = name.endswith("fuse.0.bias") or ("fuse" in name and model.config.structure.fusion == "sum")
            along = () if alike else along
        if name.startswith("network.stem.weight"):
            along = (1,)
        if rest and head == "network" and rest[0] == "head":
            along = (0,)
        for axis in along:
            size = tensor.shape[axis]
            joint = 4 * model.config.first_stage.channels if head == "network" else size
            blocks = torch.arange(joint).reshape(4, -1)[list(order)].flatten()
            tensor = tensor.index_select(axis, torch.cat([blocks, torch.arange(joint, size)]))
        weights[name] = tensor
    other.load_state_dict(weights)
    return other


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_check_5_contrasts_in_another_order_give_the_same_images(fusion, wake):
    model, batch, order = wake(small(structure={"norm": "none", "fusion": fusion})), batch_of(), [2, 0, 3, 1]
    torch.nn.init.normal_(model.structure.prototypes, generator=torch.Generator().manual_seed(1))
    other = permuted(model, order)
    turned = Batch(*(getattr(batch, name)[:, order] for name in ("images", "present", "available", "context")))

    assert other.contrasts == (T2, T1, FLAIR, T1CE) == other.config.contrasts
    for options in ({}, {"sampler": "direct"}):
        expected = synthesise(model, batch, **options)[:, order]
        assert torch.allclose(synthesise(other, turned, **options), expected, atol=1e-4)
        assert not torch.allclose(synthesise(model, turned, **options), expected, atol=1e-2)


# Check 6 -------------------------------------------------------------------------------------------------------------


def test_check_6_codes_that_cluster_by_contrast_cost_less_than_random_ones():
    tau, kinds = torch.tensor(losses.INITIAL_LOG_TEMPERATURE), torch.arange(4).repeat(6)
    clusters = torch.eye(8)[kinds] + 0.05 * torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    random = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))

    good, bad = losses.style_consistency(clusters, kinds, tau), losses.style_consistency(random, kinds, tau)
    assert float(good) < float(bad) / 2
    assert float(losses.style_consistency(3 * clusters, kinds, tau)) == pytest.approx(float(good), rel=1e-5)


def test_check_6_the_diagonal_does_not_count_and_one_code_costs_nothing():
    tau, codes = torch.tensor(1.0), torch.nn.functional.normalize(torch.randn(2, 8), dim=1)
    logit = math.e * float(codes[0] @ codes[1])
    alike = losses.style_consistency(codes, torch.tensor([0, 0]), tau)
    different = losses.style_consistency(codes, torch.tensor([0, 1]), tau)

    assert float(alike) == pytest.approx(math.log1p(math.exp(-logit)), rel=1e-4)
    assert float(different) == pytest.approx(math.log1p(math.exp(logit)), rel=1e-4)
    assert float(losses.style_consistency(codes[:1], torch.tensor([0]), tau)) == 0


def test_check_6_the_temperature_is_clamped_and_learnt(wake):
    codes, kinds = torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 2, 2])
    for beyond, limit in ((-5.0, 0.0), (50.0, math.log(100))):
        beyond, limit = torch.tensor(beyond), torch.tensor(limit)
        found, wanted = (losses.style_consistency(codes, kinds, tau) for tau in (beyond, limit))
        assert torch.equal(found, wanted)

    model = wake(small())
    assert float(model.structure.log_temperature.detach()) == pytest.approx(math.log(1 / 0.07))
    assert any(p is model.structure.log_temperature for p in model.objectives("structure")[0].parameters)
    structure_terms(model, batch_of(1))["loss"].backward()  # one example: no pair of the same contrast
    assert bool(model.structure.log_temperature.grad.isfinite()) and bool(model.structure.log_temperature.grad != 0)


# Check 7 -------------------------------------------------------------------------------------------------------------


def test_check_7_the_cosine_transform_is_orthonormal():
    x = torch.randn(2, 1, 12, 20, dtype=torch.float64)
    spectrum = losses.dct2(x)
    rows, columns = losses.dct_matrix(12), losses.dct_matrix(20)

    assert torch.allclose(rows @ rows.T, torch.eye(12, dtype=torch.float64), atol=1e-12)
    assert float(spectrum.square().sum()) == pytest.approx(float(x.square().sum()))
    assert torch.allclose(rows.T @ spectrum @ columns, x)
    constant = losses.dct2(torch.ones(1, 1, 12, 20))
    assert float(constant[0, 0, 0, 0]) == pytest.approx(math.sqrt(240)) and float(constant.abs().sum()) < 15.6


def test_check_7_only_the_log_form_sees_a_blur(brain_volumes):
    volume = brain_volumes((192, 192, 8))[T1].voxels[:, :, 4]
    texture = np.random.default_rng(0).normal(0, 0.03, volume.shape) * (volume > 0)
    image = torch.from_numpy(2 * np.clip(volume / volume.max() + texture, 0, 1) - 1).float()[None, None]
    blurred = low_pass(image, 3.0, 21)
    for form in ("log", "raw"):
        assert float(losses.spectral_similarity(image, image, form)) == pytest.approx(1, abs=1e-5)
    assert float(losses.spectral_similarity(blurred, image, "log")) < 0.8
    assert float(losses.spectral_similarity(blurred, image, "raw")) > 0.98


# Check 8 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enhancing", [3, 4])
def test_check_8_both_conventions_name_the_enhancing_part(enhancing):
    labels = torch.tensor([[[0, 1, 2, enhancing, -1]]])
    background, whole, core, et = losses.region_targets(labels, REGIONS)[0, :, 0].bool()

    assert et.tolist() == [False, False, False, True, False]
    assert core.tolist() == [False, True, False, True, False]
    assert whole.tolist() == [False, True, True, True, False]
    assert background.tolist() == [True, False, False, False, True]
    assert bool((et <= core).all() and (core <= whole).all())


def test_check_8_other_values_are_named():
    with pytest.raises(InputError, match=r"values \[7, 9\]; expected \[0, 1, 2, 3, 4\].*method.seg=off"):
        losses.region_targets(torch.tensor([[[0, 7, 9, 1]]]), REGIONS)
    assert losses.region_targets(torch.tensor([[[0, 7]]]), {"lesion": (7,)})[0, 1, 0].tolist() == [0, 1]


def test_check_8_segmentations_are_optional(wake):
    model = wake(small(seg="auto", complete=False))
    labels = torch.zeros(4, 16, 16, dtype=torch.long)
    labels[:, 4:8, 4:8] = 4
    some = torch.where(torch.tensor([True, False, True, False])[:, None, None], labels, -1)
    features = model.structure(batch_of().images, batch_of().context, batch_of().available).levels
    terms = {name: structure_terms(model, batch_of(labels=x)) for name, x in (("all", labels), ("some", some))}
    terms |= {
        "none": structure_terms(model, batch_of()),
        "all -1": structure_terms(model, batch_of(labels=-1 + 0 * labels)),
    }

    assert model.wants_labels and all(bool(t["loss"].isfinite()) for t in terms.values())
    assert float(terms["none"]["regions"]) == float(terms["all -1"]["regions"]) == 0
    two = [level[::2] for level in features]
    expected = losses.segmentation_loss(model.structure.segmenter(two), losses.region_targets(labels[::2], REGIONS))
    assert float(terms["some"]["regions"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_check_8_segmentations_can_be_demanded(wake):
    model = wake(small(seg="on"))
    features = model.structure(batch_of().images, batch_of().context, batch_of().available).levels
    labels = torch.full((4, 16, 16), -1)
    labels[0] = 0

    for missing, given in ((4, None), (3, labels)):
        with pytest.raises(InputError, match=f"seg is on, but {missing} of 4 .* no segmentation.*auto or off"):
            model.structure.region_loss(features, batch_of(labels=given))


def test_check_8_without_regions_nothing_is_learnt_from_segmentations(wake):
    """0.1.0 took those of BraTS, whatever the file."""
    model = wake(small(seg="auto", regions=None))
    assert MsgLdmConfig().regions is None and not model.wants_labels and model.structure.segmenter is None
    with pytest.raises(ValueError, match="not said which values"):
        build_method(small(seg="on", regions=None))


def test_dice_of_the_regions_is_written_out():
    targets = losses.region_targets(torch.tensor([[[0, 1, 2, 4]], [[0, 0, 2, 2]]]), REGIONS)
    logits = torch.randn(2, 4, 1, 4)
    p = torch.sigmoid(logits)
    entropy = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    dice = [2 * (p[:, r] * targets[:, r]).sum() / (p[:, r] + targets[:, r]).sum() for r in (1, 2, 3)]
    perfect = losses.segmentation_loss(40 * (2 * targets - 1), targets)

    assert float(losses.segmentation_loss(logits, targets)) == pytest.approx(
        float(entropy / 2 + 1 - sum(dice) / 3), rel=1e-4
    )
    assert float(perfect) == pytest.approx(0, abs=1e-5)


# Check 10 ------------------------------------------------------------------------------------------------------------


def test_check_10_the_schedule_of_the_public_code():
    abar = make_schedule("sqrt_linear", 1000).abar
    betas = 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])

    assert float(betas[0]) == pytest.approx(0.0015) and float(betas[-1]) == pytest.approx(0.0195)
    assert bool((abar.diff() < 0).all()) and float(abar[-1]) == pytest.approx(1.4e-4, rel=0.05)
    assert bool((betas.sqrt().diff(n=2).abs() < 1e-12).all())


def test_check_10_an_oracle_of_the_noise_leads_ddim_back_to_the_latents():
    schedule, z = make_schedule("sqrt_linear", 1000), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    start = noised(z, torch.randn(2, 4, 3, 3, dtype=torch.float64), float(schedule.abar[-1]))

    def denoise(x_t, level):
        abar = float(schedule.abar[level])
        eps = (x_t - math.sqrt(abar) * z) / math.sqrt(1 - abar)
        return (x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)

    assert torch.allclose(SAMPLERS["ddim"](denoise, start, schedule, levels(1000, 50), None), z, atol=1e-8)


def test_check_10_without_eta_only_the_first_draw_is_random(wake):
    batch = batch_of(1)
    draws = {}
    for eta in (0.0, 1.0):
        model, drawn = wake(small(eta=eta)), []
        source = noise_for(model, 1)
        model.synthesise(
            batch.images,
            batch.available,
            context=batch.context,
            noise=lambda like, drawn=drawn, source=source: drawn.append(1) or source(like),
        )
        draws[eta] = len(drawn)

    assert draws == {0.0: 1, 1.0: 3}


# Check 12 ------------------------------------------------------------------------------------------------------------


def test_check_12_the_number_of_missing_contrasts_is_uniform_from_0_to_3():
    model, random = build_method(small()), np.random.default_rng(0)
    drawn = torch.tensor(np.stack([model.draw_available(np.ones(4, bool), 0.5, random) for _ in range(20_000)]))
    batch = Batch(torch.zeros(20_000, 4, 1, 1), torch.ones_like(drawn), drawn, torch.zeros(20_000, 4, 0, 1, 1))
    seen = seen_in_training(batch, True, torch.Generator().manual_seed(0))
    counts = Counter((~seen).sum(1).tolist())
    which = Counter(tuple(row) for row in seen.tolist() if sum(row) == 2)

    assert set(counts) == {0, 1, 2, 3} and all(abs(n - 5000) < 4 * math.sqrt(5000 * 0.75) for n in counts.values())
    assert len(which) == 6 and max(which.values()) < 1.25 * min(which.values())
    assert torch.equal(seen_in_training(batch, False, torch.Generator()), drawn)


def test_check_12_of_an_incomplete_example_only_its_own_contrasts_are_seen():
    model, random = build_method(small()), np.random.default_rng(0)
    present = np.array([True, False, True, True])
    drawn = torch.tensor(np.stack([model.draw_available(present, 0.5, random) for _ in range(3000)]))
    known = torch.tensor(present).expand(3000, 4)
    batch = Batch(torch.zeros(3000, 4, 1, 1), known, drawn, torch.zeros(3000, 4, 0, 1, 1))
    counts = Counter((known & ~seen_in_training(batch, True, torch.Generator().manual_seed(0))).sum(1).tolist())

    assert set(counts) == {0, 1, 2} and all(abs(n - 1000) < 4 * math.sqrt(1000 * 2 / 3) for n in counts.values())


@pytest.mark.parametrize("shares", [(0.65, 0.2, 0.15), (0.0, 1.0, 0.0)])
@pytest.mark.parametrize("lacking", [0, 1])
def test_numbers_of_missing_contrasts_have_their_shares(shares, lacking):
    model, random = build_method({**small(), "shares": shares}), np.random.default_rng(0)
    present = np.arange(4) >= lacking
    drawn = np.stack([model.draw_available(present, 0.5, random) for _ in range(4000)])
    wanted = np.array(shares[: 3 - lacking]) / sum(shares[: 3 - lacking])

    assert not drawn[:, ~present].any()
    counts = (present & ~drawn).sum(1)
    assert [(counts == k + 1).mean() for k in range(3 - lacking)] == pytest.approx(wanted, abs=0.04)


def test_check_12_all_14_patterns_on_the_tiny_preset_fill_in_only_what_is_missing(wake):
    model = wake({**preset("msg-ldm", "tiny"), "steps": 2})
    batch = replace(batch_of(1, 64), present=flags(STANDARD))
    assert model.multiple == 32 and model.diffusion.first_stage.latents(batch.images, batch.present).shape == (
        1,
        4,
        4,
        8,
        8,
    )

    together = Batch(
        *(getattr(batch, n).expand(14, *getattr(batch, n).shape[1:]) for n in ("images", "present")),
        flags(*patterns()),
        batch.context.expand(14, -1, -1, -1, -1),
    )
    made = synthesise(model, together)
    assert torch.equal(made[together.available], together.images[together.available])
    changed = (made != together.images).flatten(2).any(2)
    assert torch.equal(changed, ~together.available) and float(made.abs().max()) <= 1


def test_check_12_the_direct_path_needs_no_diffusion_model(wake):
    whole, direct = wake(small()), wake(small(decode="direct"))
    assert direct.diffusion is None and direct.stages == ("structure",)
    assert not [name for name in direct.state_dict() if name.startswith(("network", "first_stage", "latent"))]

    direct.load_state_dict({name: whole.state_dict()[name] for name in direct.state_dict()})
    batch = batch_of()
    assert torch.equal(synthesise(direct, batch), synthesise(whole, batch, sampler="direct"))
    assert not torch.equal(synthesise(direct, batch), synthesise(whole, batch))


# Check 13 ------------------------------------------------------------------------------------------------------------


def test_check_13_each_stage_moves_its_own_part_alone():
    learnt = {"kind": "kl", "width": 8, "multipliers": (1, 2), "fold": 2, "blocks": 1, "groups": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"losses": {"w_gan": 1.0}, "discriminator": {"width": 8}, "structure": {"dropout": 0.5}}
        model = build_method(small(first_stage=learnt, **options))
    assert model.stages == ("first_stage", "structure", "diffusion")
    owners = {name: [s for s in model.stages if name.startswith(model.stage_tensors(s))] for name in model.state_dict()}
    assert all(len(stages) == 1 for stages in owners.values())

    state = begin(model)
    named = {n: p for n, p in model.state_dict(keep_vars=True).items() if isinstance(p, torch.nn.Parameter)}
    for stage in model.stages:
        state.enter(stage)
        train_only_what_is_listed(model, stage)
        model.zero_grad()
        before = {name: p.detach().clone() for name, p in named.items()}
        optimisers = [torch.optim.Adam(o.parameters, lr=1e-2) for o in model.objectives(stage)]
        for step in range(2):
            for objective, optimiser in zip(model.objectives(stage), optimisers, strict=True):
                optimiser.zero_grad()
                objective.loss(batch_of(2, 32), torch.Generator().manual_seed(step))["loss"].backward()
                optimiser.step()
        moved = {owners[name][0] for name, p in named.items() if not torch.equal(p, before[name])}
        assert moved == {stage}
        assert {owners[name][0] for name, p in named.items() if p.grad is not None} == {stage}
        dropouts = [m.training for m in model.structure.modules() if isinstance(m, torch.nn.Dropout) and m.p]
        assert len(dropouts) > 0 and set(dropouts) == {stage == "structure"}


# What is known of the latents ----------------------------------------------------------------------------------------


def test_replaced_latents_stand_at_the_noise_of_every_level(wake, monkeypatch):
    model, batch = wake(small(known="replace", steps=4)), batch_of()
    model.diffusion.latent_scale.fill_(1.7)
    seen = {}
    original = model.diffusion.predict

    def listen(x_t, level, condition):
        seen[int(level[0])] = x_t.clone()
        return original(x_t, level, condition)

    monkeypatch.setattr(model.diffusion, "predict", listen)
    synthesise(model, batch)
    z = 1.7 * model.diffusion.first_stage.latents(batch.images, batch.available)
    eps = noise_for(model, 4)(torch.empty(4, 4, 16, 4, 4))

    assert sorted(seen, reverse=True) == levels(50, 4)
    for level, x_t in seen.items():
        expected = noised(z, eps, float(model.diffusion.schedule.abar[level]))
        assert torch.allclose(x_t[batch.available], expected[batch.available], atol=1e-4)


def test_a_draft_that_diffusion_does_not_change_is_the_direct_image(wake):
    model, batch = wake(small(known="draft")), batch_of()
    torch.nn.init.zeros_(model.network.head.weight)
    torch.nn.init.zeros_(model.network.head.bias)

    assert torch.allclose(synthesise(model, batch), synthesise(model, batch, sampler="direct"), atol=1e-6)


def test_a_draft_whose_difference_is_known_becomes_the_truth(wake, monkeypatch):
    """With latents that lose nothing and an oracle of the difference, the image is exact."""
    model, batch = wake(small(known="draft")), batch_of()
    model.diffusion.difference_scale.fill_(0.6)
    truth = model.diffusion.first_stage.latents(batch.images, batch.present)
    found = model.structure(batch.images, batch.context, batch.available)
    known = model.diffusion.known_latents(
        batch.images, batch.available, model.structure.direct(found, ~batch.available)
    )
    monkeypatch.setattr(model.diffusion, "predict", lambda x_t, level, condition: 0.6 * (truth - known))

    assert torch.allclose(synthesise(model, batch), batch.images, atol=1e-5)


@pytest.mark.parametrize("scaling", ["channel", "joint"])
@pytest.mark.parametrize("known", ["none", "draft"])
def test_what_is_diffused_has_variance_1_once_measured(known, scaling, wake):
    model, batches = wake(small(known=known, latent_scaling=scaling)), [batch_of(seed=seed) for seed in range(3)]
    assert bool((model.diffusion.scale() == 1).all() and (model.diffusion.diffused_scale() == 1).all())
    for stage in ("first_stage", "structure"):
        model.enter_stage(stage, iter(batches))
        assert bool((model.diffusion.scale() == 1).all())
    model.enter_stage("diffusion", iter(batches))
    values, places = [], []
    for batch in batches:
        with torch.no_grad():
            x_0, _ = model.diffusion.diffused(model.structure, batch, batch.available)
        values.append(x_0)
        places.append(model.diffusion.judged(batch, batch.available))
    values, places = torch.cat(values), torch.cat(places)
    if scaling == "joint":
        assert float(values[places].std()) == pytest.approx(1, abs=1e-3)
    else:
        own = torch.stack([values[places[:, j], j].transpose(0, 1).flatten(1).std(1, correction=0) for j in range(4)])
        assert torch.allclose(own, torch.ones(4, 16), atol=5e-3)
    before = [model.diffusion.scale().clone(), model.diffusion.diffused_scale().clone()]
    model.enter_stage("diffusion", iter(batches))  # what was measured before does not enter
    after = [model.diffusion.scale(), model.diffusion.diffused_scale()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_channel_that_holds_nothing_is_not_blown_up_and_one_never_seen_is_left():
    spread = Spread()
    values = torch.randn(6, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[:, :, 2] *= 1e-9
    spread.add(values, torch.tensor([[True, False]] * 6))
    scale = spread.scale(torch.zeros(2, 3, 1, 1))[:, :, 0, 0]
    joint = float(values[:, 0].std(correction=0))

    assert torch.allclose(scale[0, :2], 1 / values[:, 0, :2].transpose(0, 1).flatten(1).std(1, correction=0), rtol=1e-3)
    assert float(scale[0, 2]) == pytest.approx(100 / joint, rel=1e-6) and not scale[1].any()
    assert float(spread.scale(torch.zeros(()))) == pytest.approx(1 / joint, rel=1e-6)
    assert not Spread().scale(torch.zeros(2, 3, 1, 1)).any()


def test_the_diffusion_loss_is_over_what_is_asked_for(wake):
    """Everything with a known truth; where the network is told the available ones, the rest."""
    for known, expected in (("none", (True, True)), ("concat", (True, False))):
        model, batch = wake(small(known=known, complete=False)), batch_of()
        found = model.diffusion.judged(batch, batch.available)
        assert (bool(found[~batch.available].all()), bool(found[batch.available].any())) == expected


def test_examples_of_the_mean_start_from_zeros_at_the_last_level(wake, monkeypatch):
    """Then nothing is drawn, and what is learnt is what mode mean calls."""
    model, batch = wake(small(complete=False, mean_share=1.0)), batch_of()
    heard, original = [], model.diffusion.predict

    def listen(x_t, level, condition):
        heard.append((bool(x_t.any()), level.tolist()))
        return original(x_t, level, condition)

    monkeypatch.setattr(model.diffusion, "predict", listen)
    (objective,) = model.objectives("diffusion")
    found = [float(objective.loss(batch, torch.Generator().manual_seed(seed))["loss"].detach()) for seed in range(3)]
    synthesise(model, batch, mode="mean")

    assert found[0] == found[1] == found[2] and heard == [(False, [49] * 4)] * 4
    assert model.modes == ("mean",)


@pytest.mark.parametrize("param", ["eps", "x0"])
def test_the_mean_is_the_structure_networks_own_image_where_the_configuration_says_so(wake, monkeypatch, param):
    """As it is of a file of 0.1.0, whose diffusion was not trained for it: and diffusion, whatever it predicts, is not
    asked.
    """
    model, batch = wake(small(mean_by="direct", param=param)), batch_of()
    expected = synthesise(model, batch, sampler="direct")
    monkeypatch.setattr(model.diffusion, "predict", None)

    assert torch.equal(synthesise(model, batch, mode="mean"), expected)
    assert model.modes == ("sample", "mean")
    assert wake(small(mean_by="diffusion", param=param)).modes == (("sample",) if param == "eps" else model.modes)
    with pytest.raises(ValueError, match="mean_share without effect"):
        wake(small(mean_by="direct", param="x0", mean_share=0.5))
    assert MsgLdmConfig.model_validate(MsgLdmConfig.from_format_1({})).mean_by == "direct"


def test_some_examples_of_the_mean_leave_the_others_as_they_were(wake):
    plain, shared = (wake(small(complete=False, mean_share=share)) for share in (0.0, 1e-9))
    losses_ = [
        model.objectives("diffusion")[0].loss(batch_of(), torch.Generator().manual_seed(0)) for model in (plain, shared)
    ]

    assert torch.equal(losses_[0]["loss"], losses_[1]["loss"]) and shared.modes[0] == "mean"


def test_dpm_solver_visits_levels_even_in_log_snr_unless_told_otherwise(wake, monkeypatch):
    visited = {}
    for choice in ("log_snr", "spacing"):
        model, batch = wake(small(sampler="dpm_solver_pp", steps=4, solver_levels=choice)), batch_of(1)
        original, seen = model.diffusion.predict, []
        monkeypatch.setattr(
            model.diffusion, "predict", lambda x, t, c, o=original, seen=seen: seen.append(int(t[0])) or o(x, t, c)
        )
        synthesise(model, batch)
        visited[choice] = seen

    assert visited["spacing"] == levels(50, 4)
    assert visited["log_snr"] == levels_of("dpm_solver_pp", model.diffusion.schedule, 4) != visited["spacing"]


# Regression ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [(FLAIR,), (T1, T2)], ids=str)
def test_image_decoders_begin_at_the_least_squares_line_of_the_available_contrasts(missing):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_method(small(structure={"regression": True, "head": "linear"})).eval()
    batches = [batch_of(seed=seed) for seed in range(3)]
    with torch.no_grad():
        model.enter_stage("structure", iter(batches))
    batch = replace(batches[0], available=flags([c for c in STANDARD if c not in missing]).expand(4, -1))
    made = synthesise(model, batch, sampler="direct")

    u = np.concatenate([(b.images.permute(0, 2, 3, 1).reshape(-1, 4).numpy() + 1) / 2 for b in batches])
    used, wanted = ([STANDARD.index(c) for c in STANDARD if (c in missing) == flag] for flag in (False, True))
    inputs = np.c_[u[:, used], np.ones(len(u))]
    lines, *_ = np.linalg.lstsq(inputs, u[:, wanted], rcond=None)
    expected = torch.from_numpy(inputs[: 4 * 256] @ lines).float().reshape(4, 16, 16, -1).permute(0, 3, 1, 2)
    assert torch.allclose(made[:, wanted], (2 * expected - 1).clamp(-1, 1), atol=2e-3)


def test_the_regression_is_fitted_inside_the_brain(wake):
    """Background and what stands in absent channels, NaN too, change nothing; background comes out as background."""
    options = {"structure": {"regression": True, "head": "linear"}}
    batch = batch_of()
    present = flags(STANDARD, STANDARD, STANDARD, (T1, FLAIR))
    whole = replace(batch, present=present, images=torch.where(torch.arange(16)[:, None] < 5, -1.0, batch.images))
    whole.images[3, 1:3] = torch.nan
    part = replace(whole, images=whole.images.nan_to_num(7.0)[..., 5:, :], context=batch.context[..., 5:, :])
    fitted = []
    for given in (whole, part):
        model = wake(small(**options))
        with torch.no_grad():
            model.enter_stage("structure", [given])
        fitted.append(model.structure.regression.weights.detach())
    u = torch.where(present[:3, :, None, None], (whole.images[:3] + 1) / 2, 0.0)

    assert torch.allclose(*fitted, atol=1e-5) and float(fitted[0].abs().max()) > 0.1
    assert not model.structure.regression(u, present[:3])[:, :, :5].any()


# Style ---------------------------------------------------------------------------------------------------------------


def test_prototypes_are_running_means_of_what_is_present(wake):
    model = wake(small(prototype_decay=0.5, prototypes="running"))
    present = torch.tensor([[True, True, False, True], [True, False, False, True]])
    first, second, third = (torch.randn(2, 4, 8) for _ in range(3))
    for codes in (first, second, third):
        model.structure.remember(codes, present)

    mean = (first[:, 0].mean(0) + second[:, 0].mean(0)) / 2  # the first ones count alike, then the decay holds
    assert torch.allclose(model.structure.prototypes[0], mean / 2 + third[:, 0].mean(0) / 2, atol=1e-6)
    assert torch.equal(model.structure.prototypes[2], torch.zeros(8))


def test_running_prototypes_move_only_while_the_structure_network_is_trained(wake):
    model, batch = wake(small(prototypes="running")), batch_of()
    structure_terms(model, batch)
    assert not model.structure.prototypes.any()
    structure_terms(model.train(), batch)
    assert bool(model.structure.prototypes.abs().sum(1).all())


def test_with_prototypes_alone_the_true_image_of_a_missing_contrast_is_only_a_target(wake):
    """Otherwise its style leaks into its own reconstruction."""
    found = {}
    for share in (0.0, 1.0):
        options = {
            "prototype": share,
            "prototypes": "running",
            "complete": False,
            "losses": {"w_sc": 0.0, "w_available": 0.0},
        }
        model, batch = wake(small(**options)), batch_of()
        structure_terms(model, batch)["loss"].backward()
        found[share] = [p.grad is not None and bool(p.grad.any()) for p in model.structure.styles.parameters()]

    assert all(found[0.0]) and not any(found[1.0])


@pytest.mark.parametrize("prototypes", ["learned", "running"])
def test_the_norm_of_what_modulates_cannot_drift(prototypes, wake):
    """Whatever length style encoders and prototypes give their codes, the images are the same."""
    model, batch = wake(small(prototypes=prototypes, prototype=0.5, structure={"norm": "group"})), batch_of()
    structure_terms(model.train(), batch)
    heard = []
    for decoder in model.structure.reconstructors:
        decoder.modulation.register_forward_pre_hook(lambda block, inputs: heard.append(inputs[0].detach()))
    found = []
    for factor in (1.0, 1e3):
        with torch.no_grad():
            model.structure.prototypes.mul_(factor)
            for encoder in model.structure.styles:
                encoder.code.weight.mul_(factor)
                encoder.code.bias.mul_(factor)
        frozen = copy.deepcopy(model).eval()
        found.append(
            [float(structure_terms(frozen, batch)["loss"].detach()), synthesise(frozen, batch, sampler="direct")]
        )

    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4) and torch.allclose(found[0][1], found[1][1], atol=1e-5)
    lengths = torch.cat([codes.norm(dim=1) for codes in heard])
    assert len(lengths) > 20 and torch.allclose(lengths, torch.tensor(math.sqrt(8)), rtol=1e-4)


def test_prototypes_stay_bounded_however_codes_grow(wake):
    model = wake(small(prototypes="running"))
    with torch.no_grad():
        for step in range(20):
            for encoder in model.structure.styles:
                encoder.code.weight.mul_(3)
            structure_terms(model.train(), batch_of(seed=step))

    assert float(model.structure.prototypes.norm(dim=1).max()) <= math.sqrt(8) + 1e-4


@pytest.mark.parametrize("options", [{}, {"prototypes": "running", "structure": {"style_codes": "raw"}}], ids=str)
def test_a_step_at_rate_0_from_a_checkpoint_changes_nothing(options, wake, tmp_path):
    """0.1.0 did not save what its prototypes go on from: the first step replaced them by what random encoders said."""
    before, batch = wake(small(**options)), batch_of()
    if options:  # as 0.1.0 left it: trained prototypes, and nothing of what made them
        before.structure.prototypes.normal_(generator=torch.Generator().manual_seed(0))
    saved = {n: t for n, t in before.saved_state().items() if not (options and n.startswith(before.training_only()))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        model = build_method(before.config.model_dump())
    model.load_state_dict({**model.state_dict(), **saved})
    state = begin(model, "structure")
    slabs = [Slab((row[:, None].numpy() + 1) / 2, np.ones(4, bool)) for row in batch.images]
    config = TrainingConfig(iterations=1, batch_size=4, learning_rate=1e-30, warmup=0, precision="fp32")
    train(state, slabs, config, Callbacks(lambda *_: None, lambda *_: None, lambda *_: None, lambda: False), "cpu")

    assert state.iteration == 1
    for options in ({}, {"sampler": "direct"}):
        assert torch.equal(synthesise(state.average, batch, **options), synthesise(before, batch, **options))


def test_the_count_of_a_prototype_fits_into_half_precision(wake):
    model, present = wake(small(prototypes="running", prototype_decay=0.5)), torch.ones(1, 4, dtype=torch.bool)
    for _ in range(5):
        model.structure.remember(torch.ones(1, 4, 8), present)

    assert model.structure.prototype_counts.tolist() == [2, 2, 2, 2]


def test_without_the_structure_aware_loss_there_are_no_image_decoders(wake):
    """L_sa is image error and spectra: without it segmentations alone train the structure map."""
    labels = torch.zeros(4, 16, 16, dtype=torch.long)
    labels[:, 4:8, 4:8] = 1
    batch = batch_of(labels=labels)
    model = wake(small(losses={"w_sa": 0.0, "w_freq": 1.0}, seg="on", structure={"msse": False}))
    terms = structure_terms(model, batch)
    terms["loss"].backward()
    names = {name.split(".")[0] for name in model.state_dict()}

    assert not {"reconstructors", "prototypes", "regression"} & names and {"styles", "segmenter"} <= names
    assert float(terms["image"]) == float(terms["frequency"]) == 0 and float(terms["regions"].detach()) > 0
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.objectives("structure")[0].parameters)
    assert model.judged_stages == ("diffusion",) and bool(synthesise(model, batch).isfinite().all())
    with pytest.raises(UsageError, match="no image decoders"):
        synthesise(model, batch, sampler="direct")


def test_the_spectra_that_0_1_0_called_w_sa_keep_their_weight():
    old = {"method": "msg-ldm", "losses": {"w_rec": 10.0, "w_sa": 0.0}, "structure": {"sigma": "adaptive"}}
    config = MsgLdmConfig.model_validate(config_of_format_1(old))

    assert (config.losses.w_sa, config.losses.w_rec, config.losses.w_freq) == (1.0, 10.0, 0.0) and config.decodes
    assert (config.structure.sigma, config.structure.fusion) == ("means", "concat")
    assert (
        MsgLdmConfig().structure.fusion
        == "sum"
        == MsgLdmConfig.model_validate(preset("msg-ldm", "paper")).structure.fusion
    )


def test_available_contrasts_weigh_as_much_as_told(wake):
    models = {w: wake(small(complete=False, losses={"w_available": w})) for w in (0.0, 0.5, 1.0)}
    terms = {w: structure_terms(model, batch_of()) for w, model in models.items()}
    image = {w: float(t["image"].detach()) for w, t in terms.items()}
    # with weight 0 the mean is over the missing alone, one row in four
    assert image[0.5] == pytest.approx((image[1.0] + image[0.0] / 4) / 2, rel=1e-5)


def test_every_weight_of_the_structure_stage_counts(wake):
    weights = {"w_rec": 2.0, "w_freq": 3.0, "w_seg": 4.0, "w_sc": 5.0, "w_kl": 6.0}
    labels = torch.zeros(4, 16, 16, dtype=torch.long)
    labels[:, :8] = 1
    terms = structure_terms(wake(small(seg="auto", losses=weights)), batch_of(labels=labels))
    names = {"image": 2.0, "frequency": 3.0, "regions": 4.0, "consistency": 5.0, "pull": 6.0}
    parts = {name: float(terms[name].detach()) for name in names}

    assert all(parts.values()) and set(terms) == {"loss", *names}
    assert float(terms["loss"].detach()) == pytest.approx(sum(w * parts[n] for n, w in names.items()), rel=1e-5)


# First stage ---------------------------------------------------------------------------------------------------------


def test_the_adversarial_weight_balances_gradients_at_the_last_layer():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    error, adversarial = (3 * w).sum(), (0.5 * w).sum()

    assert float(losses.adversarial_weight(error, adversarial, w)) == pytest.approx(6, rel=1e-3)
    assert float(losses.adversarial_weight(1e9 * error, adversarial, w)) == 1e4
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert float(losses.discriminator_loss(real, fake)) == pytest.approx(0.5 * (0.25 + 0.5))


def test_the_first_stage_learns_from_contrasts_that_are_present(wake):
    learnt = {"kind": "kl", "width": 8, "multipliers": (1, 2), "fold": 2, "blocks": 1, "groups": 4}
    model = wake(small(first_stage=learnt))
    present = torch.tensor([[False, True, False, False]] * 4)
    batch = batch_of(present=present)
    images = torch.where(present[:, :, None, None], batch.images, torch.nan)
    terms = model.objectives("first_stage")[0].loss(replace(batch, images=images), torch.Generator().manual_seed(0))
    made = model.diffusion.first_stage.reconstruct(batch.images, present)

    assert bool(terms["loss"].isfinite())
    assert float(terms["psnr"]) == pytest.approx(
        float(10 * torch.log10(4 / (made[:, 1] - batch.images[:, 1]).square().mean())), abs=1.5
    )  # which draws the latents around their mean
    assert not made[:, [0, 2, 3]].any()


# Bad input, other data -----------------------------------------------------------------------------------------------


def test_a_slice_without_foreground_gives_finite_losses_and_images(wake):
    labels = torch.zeros(2, 16, 16, dtype=torch.long)
    model = wake(small(losses={"w_freq": 1.0}, seg="auto"))
    batch = replace(batch_of(2, labels=labels), images=torch.full((2, 4, 16, 16), -1.0))
    for stage in model.stages:
        for objective in model.objectives(stage):
            objective.loss(batch, torch.Generator().manual_seed(0))["loss"].backward()

    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    assert bool(synthesise(model, batch).isfinite().all())


def test_slices_must_fit_and_something_must_be_there(wake):
    model = wake(small())
    batch = batch_of(1)
    with pytest.raises(ValueError, match=r"\(18, 16\) is no multiple of 4"):
        synthesise(model, replace(batch, images=torch.zeros(1, 4, 18, 16), context=torch.empty(1, 4, 0, 18, 16)))
    with pytest.raises(ValueError, match="at least one contrast"):
        synthesise(model, replace(batch, available=torch.zeros(1, 4, dtype=torch.bool)))


@pytest.mark.parametrize("contrasts", [(T1, FLAIR), (T1, T2, Contrast.PD)], ids=str)
def test_any_number_of_contrasts(contrasts, wake):
    model = wake(small(contrasts=contrasts, known="draft", seg="auto", regions={"lesion": (1,)}))
    batch = batch_of(2, contrasts=contrasts)
    batch = replace(batch, labels=(batch.images[:, 0] > 0.5).long())
    model.enter_stage("diffusion", [batch])
    for stage in model.stages:
        for objective in model.objectives(stage):
            assert bool(objective.loss(batch, torch.Generator().manual_seed(0))["loss"].isfinite())
    made = synthesise(model, batch)

    assert torch.equal(made[batch.available], batch.images[batch.available])
    assert model.supports([T1], contrasts[-1]) and not model.supports([T1], T1CE)


def test_what_0_1_0_left_out_is_not_needed_to_synthesise_but_is_saved(wake):
    model, batch = wake(small(seg="auto", losses={"w_gan": 1.0}, prototypes="running")), batch_of()
    model.structure.prototypes.normal_(generator=torch.Generator().manual_seed(0))
    saved, again = model.saved_state(), build_method(model.config.model_dump()).eval()
    spared = {name: tensor for name, tensor in saved.items() if name.startswith(model.training_only())}
    again.load_state_dict({**again.state_dict(), **{n: t for n, t in saved.items() if n not in spared}})

    assert set(saved) == set(model.state_dict())
    assert {name.split(".")[0] for name in spared} == {"styles", "segmenter", "log_temperature", "prototype_counts"}
    for options in ({}, {"sampler": "direct"}):
        assert torch.equal(synthesise(again, batch, **options), synthesise(model, batch, **options))


def test_while_the_structure_stage_is_trained_the_direct_image_is_judged(wake):
    model, batch = wake(small()), batch_of()
    made = dict(fill_in_every_pattern(model, batch, sampler=model.judged_by("structure")))
    pattern = (T1, T1CE, T2)
    direct = synthesise(model, replace(batch, available=flags(pattern).expand(4, -1)), sampler="direct")

    assert model.judged_stages == ("structure", "diffusion") and model.judged_by("diffusion") is None
    assert torch.allclose(made[pattern], torch.where((batch.images > -1).any(1, keepdim=True), (direct + 1) / 2, 0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrasts": ["t1"]}, "at least two contrasts"),
        ({"steps": 60}, "60 sampling steps from 50 levels"),
        ({"regions": {}, "seg": "auto"}, "each needs values"),
        ({"regions": {"WT": (0, 1)}, "seg": "on"}, "all above 0"),
        ({"seg": "on", "losses": {"w_seg": 0}}, "would learn nothing"),
        ({"structure": {"decouple": False}, "losses": {"w_kl": 1}}, "there are none"),
        ({"mean_share": 0.5, "param": "eps"}, "eps is undefined"),
        ({"prototype": 0.0}, "nothing to learn prototypes from"),
        ({"losses": {"w_sa": 0}}, "does not go with seg other than on, structure.msse"),
        ({"losses": {"w_sa": 0}, "seg": "on", "known": "draft"}, "does not go with known: draft"),
        ({"losses": {"w_sa": 0}, "seg": "on", "decode": "direct"}, "does not go with decode: direct"),
        ({"losses": {"w_rec": 0, "w_freq": 0}}, "nothing trains the image decoders"),
        ({"losses": {"w_available": 0, "w_sc": 0}, "seg": "off"}, "w_available 0 with complete: true leaves nothing"),
        ({"losses": {"w_available": 0}, "structure": {"decouple": False}}, "leaves nothing to learn from"),
        ({"structure": {"widths": (0, 0)}}, "greater than 0"),
        ({"first_stage": {"multipliers": (1, -1)}}, "greater than 0"),
        ({"contrasts": ["t1", "t2", "t1"]}, "each named once"),
        ({"known": "guess"}, "known"),
        ({"structure": {"regression": True}}, "needs structure.head linear"),
    ],
    ids=str,
)
def test_options_that_contradict_one_another_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        MsgLdmConfig.model_validate(small(**options))


def test_the_shipped_preset_is_small_enough_and_as_its_page_says():
    """At most 10 MB in half precision, of what is needed to synthesise."""
    model = build_method(preset("msg-ldm", "ship"))
    needed = sum(tensor.numel() for tensor in model.saved_state().values())
    page = PAGE.read_text(encoding="utf-8")

    assert 2 * needed < 10e6 and 32 % model.multiple == 0
    assert f"| {sum(p.numel() for p in model.parameters()):,} | {needed:,} |" in page
    assert all(f"| `{name}` |" in page for name in PRESETS)
