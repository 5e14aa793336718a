"""The loop over one stage of several: what moves, how the rest runs, and what a method may do when a stage begins."""

import io
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from mrsynth.errors import Interrupted
from mrsynth.methods.base import Method, MethodConfig, Objective
from mrsynth.training.augmentation import AugmentationConfig
from mrsynth.training.batches import Slab, TrainingConfig
from mrsynth.training.loop import Callbacks, begin, train

pytestmark = pytest.mark.usefixtures("one_thread")


class Steps(Method):
    """Two blocks, trained one after the other; remembers how it was found."""

    Config = MethodConfig
    stages = ("first", "second")

    def __init__(self, asked=2):
        super().__init__(MethodConfig(method="steps"))
        self.first = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.idle = nn.Parameter(torch.tensor([-0.0, 1.0]))
        self.register_buffer("mean", torch.zeros(4))
        self.asked, self.entries, self.ways = asked, [], []

    def objectives(self, stage):
        part, decay = (self.first, 0.0) if stage == "first" else (self.second, 0.1)
        return [Objective(f"fit {stage}", list(part.parameters()), self.loss, (0.5, 0.8), decay)]

    def enter_stage(self, stage, batches):
        seen = [batch.images for batch in islice(batches, self.asked)]
        self.entries.append((stage, self.training, torch.is_grad_enabled(), float(torch.rand(()))))
        self.entries[-1] += (sum(len(images) for images in seen),)
        if seen:
            self.mean.copy_(torch.cat(seen).mean((0, 2, 3)))

    def loss(self, batch, generator):
        self.ways.append(tuple(part[2].training for part in (self.first, self.second)))
        return {"loss": (self.second(self.first(batch.images)) - 0.3).square().mean()}

    def fill_in(self, images, available, wish):
        return images


def slabs(count=7):
    random = np.random.default_rng(0)
    return [Slab(random.uniform(0, 1, (4, 1, 8, 8)).astype(np.float32), np.ones(4, bool)) for _ in range(count)]


SETTINGS = TrainingConfig(
    iterations=3, batch_size=2, precision="fp32", ema=0.5, log_every=1, augmentation=AugmentationConfig(flip=0)
)


def run(state, config=SETTINGS, stop=lambda: False):
    logs, states = {}, {}

    def save(state):
        buffer = io.BytesIO()
        torch.save(state.state_dict(), buffer)
        states[state.iteration] = buffer.getvalue()

    callbacks = Callbacks(lambda i, terms: logs.update({i: terms["loss"]}), save, lambda *_: None, stop)
    stopped = train(state, slabs(), config, callbacks, "cpu")
    return logs, states, stopped


def bytes_of(state, *beginnings):
    return {name: t.numpy().tobytes() for name, t in state.items() if name.startswith(beginnings)}


def copied(method):
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def test_only_what_the_stage_lists_moves_and_the_rest_runs_as_in_use():
    torch.manual_seed(0)
    method = Steps()
    before = copied(method)
    state = begin(method)
    run(state)
    between = copied(state.average)
    state.enter("second")
    run(state)
    after = copied(method)

    assert list(dict.fromkeys(method.ways)) == [(True, False), (False, True)]
    assert {n for n, p in method.named_parameters() if p.requires_grad} == {
        n for n, _ in method.named_parameters() if n.startswith("second")
    }
    assert bytes_of(between, "second.0", "second.1.w", "idle") == bytes_of(before, "second.0", "second.1.w", "idle")
    assert bytes_of(after, "first", "idle") == bytes_of(between, "first", "idle")
    assert bytes_of(copied(state.average), "first", "idle") == bytes_of(between, "first", "idle")
    assert not torch.equal(between["first.0.weight"], before["first.0.weight"])
    assert not torch.equal(after["second.0.weight"], between["second.0.weight"])
    assert int(between["second.1.num_batches_tracked"]) == 0 and int(after["first.1.num_batches_tracked"]) == 3


def test_a_stage_begins_on_the_averaged_weights():
    state = begin(Steps())
    run(state)
    assert not torch.equal(state.method.first[0].weight, state.average.first[0].weight)
    average = copied(state.average)
    state.enter("second")

    assert bytes_of(copied(state.method), "") == bytes_of(average, "")
    assert (state.stage, state.iteration) == ("second", 0)
    assert state.optimizers[0].state == {}


def test_a_method_is_told_once_that_a_stage_begins():
    """Before its first iteration, in use, without gradients, with random numbers that the seed decides."""
    seen = []
    for _ in range(2):
        method = Steps()
        state = begin(method)
        run(state)
        state.enter("second")
        torch.rand(len(seen))  # the history of the generator does not matter
        _, states, _ = run(state)
        seen.append(method.entries)

        fresh = Steps()
        resumed = begin(fresh)
        resumed.load_state_dict(torch.load(io.BytesIO(states[3]), weights_only=True))
        run(resumed, SETTINGS.model_copy(update={"iterations": 4}))
        assert fresh.entries == [] and torch.equal(fresh.mean, method.mean)

    assert seen[0] == seen[1]
    assert [entry[:3] + entry[4:] for entry in seen[0]] == [("first", False, False, 4), ("second", False, False, 4)]


@pytest.mark.parametrize("entered", [True, False])
def test_a_stage_that_was_taken_over_is_measured_anew_only_where_it_never_was(entered, monkeypatch):
    """Its weights were trained with what was measured then; a run that resumes before its first iteration knows it."""
    monkeypatch.setattr(Steps, "entered", lambda self, stage: entered)
    state = begin(Steps(), taken_over=frozenset({"second"}))
    run(state)
    state.enter("second")
    resumed = begin(Steps(), taken_over=frozenset({"second"}))
    resumed.load_state_dict(state.state_dict())
    for one in (state, resumed):
        with torch.no_grad():
            one.method.mean.fill_(5.0)
        run(one)

    assert [stage for stage, *_ in state.method.entries] == ["first"] + ([] if entered else ["second"])
    assert [stage for stage, *_ in resumed.method.entries] == ([] if entered else ["second"])
    assert (float(state.method.mean[0]) == float(resumed.method.mean[0]) == 5) == entered


def test_what_it_measures_then_is_in_the_average_too_and_it_may_see_all_data_once():
    method = Steps(asked=100)
    state = begin(method)
    run(state)
    images = np.stack([slab.images[:, 0] for slab in slabs()]) * 2 - 1

    assert method.entries[0][-1] == 8  # seven slices in four batches of two: one of them comes twice
    assert torch.equal(state.average.mean, method.mean)
    assert method.mean.numpy() == pytest.approx(images.mean((0, 2, 3)), abs=0.1)


def test_a_stop_is_heard_while_a_stage_looks_at_its_data_which_begins_anew_on_resuming():
    torch.manual_seed(0)
    method = Steps(asked=100)
    never = begin(method)
    fresh = Steps(asked=100)
    fresh.load_state_dict(method.state_dict())
    looked, saved = [], []
    stop = lambda: bool(looked.append(1)) or len(looked) == 2  # noqa: E731
    callbacks = Callbacks(lambda *_: None, lambda state: saved.append(state.state_dict()), lambda *_: None, stop)
    with pytest.raises(Interrupted, match="after 0 of 3 iterations of stage first; --resume goes on"):
        train(begin(fresh), slabs(), SETTINGS, callbacks, "cpu")
    assert len(looked) == 2 and fresh.ways == [] and fresh.entries == []

    resumed = begin(Steps(asked=100))
    (state,) = saved
    resumed.load_state_dict(state)
    assert run(resumed)[0] == run(never)[0]
    assert resumed.method.entries == method.entries


def test_objectives_choose_their_optimiser():
    state = begin(Steps())
    adam = state.optimizers[0]
    state.enter("second")
    decaying = state.optimizers[0]

    assert type(adam) is torch.optim.Adam and adam.defaults["betas"] == (0.5, 0.8)
    assert type(decaying) is torch.optim.AdamW and decaying.defaults["weight_decay"] == 0.1
    assert begin(Steps(), "second").stage == "second"


def test_weights_decay_by_what_the_objective_says():
    """With a gradient of zero AdamW shrinks a weight by rate times decay in every step."""

    class Still(Steps):
        def loss(self, batch, generator):
            return {"loss": sum((p * 0).sum() for p in self.second.parameters())}

    method = Still()
    state = begin(method, "second")
    before = method.second[0].weight.detach().clone()
    run(state, SETTINGS.model_copy(update={"learning_rate": 0.01}))

    assert torch.allclose(method.second[0].weight, before * (1 - 0.01 * 0.1) ** 3, rtol=1e-6)


def test_the_loop_says_whether_a_stop_came_at_the_very_end():
    assert run(begin(Steps(asked=0)))[2] is False
    asked = iter([False, False, True])
    assert run(begin(Steps(asked=0)), stop=lambda: next(asked))[2] is True


def test_a_state_of_a_stage_that_is_not_there_is_refused():
    state = begin(Steps())
    with pytest.raises(ValueError, match="'third' is none of first, second"):
        state.load_state_dict({**state.state_dict(), "stage": "third"})
