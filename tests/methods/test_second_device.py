"""Every method on a device that is not the CPU, without one."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mrsynth.card import Card, Committee, Member
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.io.store import Resolved
from mrsynth.sampling import EACH_ONE_CALL, ONE_CALL, Estimator
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.tasks.trained import TrainedCommittee, TrainedMethod
from mrsynth.training import loop
from mrsynth.training.batches import TrainingConfig
from mrsynth.training.loop import Callbacks, begin, train
from tests.methods.second_device import THERE, SecondDevice
from tests.methods.test_contracts import MIXED, SAMPLES, quick, usable

# one variant of each method in the usual run; all of a method that is not named here
USUAL = {"fgc2f": "fgc2f-learned", "cwdm": "cwdm-gated", "msg-ldm": "msg-ldm-kl", "dfbk": "dfbk-pair"}
VARIANTS = [
    p if USUAL.get(p.values[0]["method"], p.id) == p.id else pytest.param(*p.values, id=p.id, marks=pytest.mark.slow)
    for p in SAMPLES
]


def both():
    """The same numbers (3, 3) on both devices, there and here."""
    here = torch.eye(3) + 1
    return here.to(THERE), here


def into(target, key, value):
    target[key] = value


# each mixes the devices once: with a GPU, torch refuses it
FAULTS = {
    "arithmetic": lambda there, here: there + here,
    "arithmetic of the CPU, with a number of the device": lambda there, here: here * there.sum(),
    "in place": lambda there, here: there.mul_(here),
    "in place, on the CPU": lambda there, here: here[0, 0].add_(there[0, 0]),
    "comparison": lambda there, here: there > here,
    "where": lambda there, here: torch.where(here > 1, there, there),
    "cat": lambda there, here: torch.cat([there, here]),
    "stack of numbers": lambda there, here: torch.stack([there[0, 0], here[0, 0]]),
    "product of matrices": lambda there, here: there @ here,
    "linear layer left behind": lambda there, here: F.linear(there, here),
    "convolution": lambda there, here: F.conv2d(there[None, None], here[None, None]),
    "norm": lambda there, here: F.layer_norm(there, (3,), here[0]),
    "attention": lambda there, here: F.scaled_dot_product_attention(there[None], here[None], here[None]),
    "embedding": lambda there, here: F.embedding(here[0].long(), there),
    "reading at an index of the device": lambda there, here: here[there.long() - 1],
    "reading at a mask of the device": lambda there, here: here[there > 1],
    "writing at an index": lambda there, here: into(there, torch.tensor([0]), here[:1]),
    "writing at an index of the device": lambda there, here: into(here, there[0].long() - 1, 0.0),
    "gather": lambda there, here: there.gather(1, here.long() - 1),
    "interpolation on a grid": lambda there, here: F.grid_sample(
        there[None, None], here[None, :, None, :2], align_corners=True
    ),
    "loss": lambda there, here: F.mse_loss(there, here),
    "generator of the CPU": lambda there, here: torch.rand(3, generator=torch.Generator(), device=there.device),
    "float64": lambda there, here: here.double().to(THERE),
    "numpy": lambda there, here: there.numpy(),
    "a tensor made of numbers": lambda there, here: there + torch.tensor([1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_operands_of_two_devices_are_refused(fault):
    with SecondDevice(), pytest.raises((RuntimeError, TypeError)):
        fault(*both())


def test_what_a_gpu_allows_is_computed_with_the_numbers_of_the_cpu():
    with SecondDevice():
        there, here = both()
        number = here[0, 1]
        made = [
            (there + number, here + number),  # of no dimension: a number
            (torch.where(there > 1, there, number), torch.where(here > 1, here, number)),
            (there[torch.tensor([2, 0])], here[[2, 0]]),  # an index may lie on the CPU
            (there[[2, 0]][:, here[0] > 1], here[[2, 0]][:, here[0] > 1]),
            (there @ torch.tensor([1.0, 2.0, 3.0], device=THERE), here @ torch.tensor([1.0, 2.0, 3.0])),
            (there.new_tensor([1, 2]), here.new_tensor([1, 2])),
            (torch.zeros(3, 3, device=THERE).copy_(here), here),
        ]
        there[:, [0, 2]] = number
        there.masked_fill_(there == 2, number * 3)

        assert there.device == THERE and there.tolist() == [[1, 1, 1], [1, 3, 1], [1, 1, 1]]
        assert all(x.device == THERE and y.device.type == "cpu" for x, y in made)
        assert all(torch.equal(x.cpu(), y) for x, y in made)


def trained(method, stage, batch, device):
    """One iteration of a stage, by the loop that trains: the state, and the terms that it tells."""
    logs = []

    @contextmanager
    def feed(*_, **__):
        yield iter([batch])

    tell = Callbacks(lambda _, terms: logs.append(terms), lambda _: None, lambda *_: None, lambda: False)
    config = TrainingConfig(iterations=1, batch_size=len(batch.images), precision="fp32", log_every=1)
    for part in method.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # drawn in the order of memory, which each device chooses for itself
    state = begin(method, stage)
    train(state, [batch], config, tell, device, feed)
    return state, {key: value for key, value in logs[0].items() if "seconds" not in key}


@pytest.mark.parametrize("config", VARIANTS)
def test_a_training_step_on_another_device_is_that_of_the_cpu(config, wake, batch_for, monkeypatch):
    monkeypatch.setattr(loop, "choose_device", str)  # which knows no meta
    for stage in wake(config).stages:
        method = wake(config)
        batch = batch_for(method, usable(method, MIXED))
        on_cpu, expected = trained(wake(config), stage, batch, "cpu")
        with SecondDevice():
            state, terms = trained(method, stage, batch, THERE.type)
            found = {name: tensor.cpu() for name, tensor in state.average.named_parameters()}

        assert next(method.parameters()).device == THERE
        # of several objectives the later ones see what the step of the first left
        assert terms == pytest.approx(expected, rel=1e-4 if len(method.objectives(stage)) == 1 else 0.05)
        # Adam's first step is the rate times the sign of a gradient, which rounding decides where it is nearly 0
        torch.testing.assert_close(
            found, dict(on_cpu.average.named_parameters()), atol=2.1 * terms["learning_rate"], rtol=1e-4
        )


@pytest.fixture(scope="module")
def subject(make_subject):
    return make_subject("s", shape=(16, 20, 10))


def as_trained(config, method):
    card = Card(name=config["method"], method=config["method"], contrasts=STANDARD, licence="CC0")
    return TrainedMethod(method, card, PreparationConfig(depth_multiple=method.multiple), "")


def image_of(trained, subject, how):
    """What is made on two slices, or on the whole volume; and its spread where there are samples."""
    made = trained.synthesise(subject, trained.prepare(subject), how, slices=[4, 5])
    return np.stack([x for x in (made.image, made.mean, made.spread) if x is not None])


@pytest.mark.parametrize("config", VARIANTS)
def test_synthesis_on_another_device_gives_the_image_of_the_cpu(config, wake, subject):
    method = wake(config)
    subject = subject.without(next(c for c in STANDARD[::-1] if method.supports(set(STANDARD) - {c}, c)))
    sample = Estimator(method.chain[0], 2, samples=2, mode="sample", noise="v2")
    ways = [sample, Estimator(ONE_CALL, 1, mode="mean")][: 1 + ("mean" in method.modes)]
    expected = [image_of(as_trained(config, method), subject, how) for how in ways]
    with SecondDevice():
        for how, image in zip(ways, expected, strict=True):
            there = image_of(as_trained(config, method), subject, replace(how, device=THERE.type))
            np.testing.assert_allclose(there, image, atol=1e-5)

    assert next(method.parameters()).device == THERE


def test_a_committee_on_another_device_gives_the_image_of_the_cpu(wake, subject):
    subject = subject.without(Contrast.T1CE)
    configs = [quick("fgc2f"), quick("cwdm")]
    members = [as_trained(config, wake(config)) for config in configs]
    files = {m.card.name: m for m in members}
    rule = Committee(members=[Member(name=name) for name in files], brightness="median")
    several = TrainedCommittee(
        members[0].card,
        rule,
        "",
        tuple(Resolved(m.card, None, "") for m in members),
        members[0].preparation,
        lambda member: files[member.card.name],
    )
    how = Estimator(EACH_ONE_CALL, 1, mode="mean")
    expected = image_of(several, subject, how)
    with SecondDevice():
        np.testing.assert_allclose(image_of(several, subject, replace(how, device=THERE.type)), expected, atol=1e-5)

    assert all(next(m.method.parameters()).device == THERE for m in members)
