"""The training loop: exact resume, data order, accumulation, averaging, and what cannot poison it."""

import copy
import io
import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mrsynth.errors import Interrupted, MrsynthError
from mrsynth.methods import build_method, preset
from mrsynth.methods.base import Method, MethodConfig, Objective
from mrsynth.training.augmentation import AugmentationConfig
from mrsynth.training.batches import Slab, TrainingConfig
from mrsynth.training.loop import Callbacks, begin, learning_rate, train

NO_CHANGES = AugmentationConfig(flip=0)
EVERYTHING = AugmentationConfig(affine=0.5, gamma=0.2, gain=0.1, bias_field=0.1)


pytestmark = pytest.mark.usefixtures("one_thread")


def slabs(count=10, neighbours=0, size=16, absent=None, seed=0):
    """Slices of noise with a background; every third lacks the second contrast, and holds `absent` there."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        images = random.uniform(0.2, 1, (4, 1 + 2 * neighbours, size, size)).astype(np.float32)
        images[..., :2] = 0
        present = np.array([True, absent is None or i % 3 > 0, True, True])
        images[~present] = absent or 0
        made.append(Slab(images, present))
    return made


class Straight(Method):
    """Makes every contrast as gain * mean of the available ones + offset. Its loss draws no random number."""

    Config = MethodConfig

    def __init__(self, config=MethodConfig(method="straight"), blow_up_at=None, rows=1):  # noqa: B008
        super().__init__(config)
        self.gain = nn.Parameter(torch.full((rows, 4), 0.5))
        self.offset = nn.Parameter(torch.zeros(rows, 4))
        self.register_buffer("seen", torch.zeros(()))
        self.blow_up_at = blow_up_at
        self.precisions = []

    def loss_of(self, row):
        def loss(batch, generator):
            self.seen += 1
            self.precisions.append((self.gain @ self.gain.T).dtype)
            known = torch.where(batch.available[:, :, None, None], batch.images, 0.0)
            mean = known.sum(1, keepdim=True) / batch.available.sum(1)[:, None, None, None]
            made = self.gain[row][:, None, None] * mean + self.offset[row][:, None, None]
            wanted = (batch.present & ~batch.available)[:, :, None, None]
            error = torch.where(wanted, made - batch.images, 0.0).square().mean((1, 2, 3)).mean()
            return {"loss": error * (torch.inf if self.seen == self.blow_up_at else 1), "twice": 2 * error}

        return loss

    def objectives(self, stage):
        if len(self.gain) == 1:
            return [Objective("straight", [self.gain, self.offset], self.loss_of(0))]
        return [Objective("gains", [self.gain], self.loss_of(0)), Objective("offsets", [self.offset], self.loss_of(1))]

    def fill_in(self, images, available, wish):
        return images


class Diary:
    """Callbacks that remember; asks to stop at one iteration."""

    def __init__(self, stop_at=None):
        self.logs, self.saved, self.validated, self.stop_at = {}, [], [], stop_at
        self.states = {}
        self.asked = 0

    def log(self, iteration, terms):
        self.logs[iteration] = {k: v for k, v in terms.items() if k not in ("seconds_per_iteration", "cpu_seconds")}

    def save(self, state):
        buffer = io.BytesIO()
        torch.save(state.state_dict(), buffer)
        self.states[state.iteration] = buffer.getvalue()
        self.saved.append(state.iteration)

    def validate(self, average, iteration):
        self.validated.append(iteration)

    def stop(self):
        self.asked += 1
        return self.asked == self.stop_at

    def callbacks(self):
        return Callbacks(self.log, self.save, self.validate, self.stop)


def config(**options):
    """Six iterations of four slices, logged one by one."""
    usual = {"iterations": 6, "batch_size": 4, "learning_rate": 0.01, "log_every": 1, "precision": "fp32", "ema": 0.9}
    return TrainingConfig(**{**usual, "augmentation": NO_CHANGES, **options})


def run(method, source, settings, diary=None, state=None):
    """Train from the start or from a saved state; returns the state and the diary."""
    diary = diary or Diary()
    fresh = begin(method)
    if state is not None:
        fresh.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
    train(fresh, source, settings, diary.callbacks(), "cpu")
    return fresh, diary


def fgc2f(seed=0, **options):
    torch.manual_seed(seed)
    network = {"multipliers": (1, 2), "attention": (1,), **options.pop("network", {})}
    return build_method(
        {**preset("fgc2f", "tiny"), "network": {**preset("fgc2f", "tiny")["network"], **network}, **options}
    )


def same(one, other):
    """Whether two nested states are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


# Resuming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accumulation", "workers", "later"), [(1, 0, 0), (2, 0, 0), (2, 1, 1), (1, 0, 1)])
def test_a_run_stopped_and_resumed_is_one_that_never_stopped(accumulation, workers, later):
    """Bit for bit: losses, weights, averages, optimiser; with everything random that there is, dropout included."""
    settings = config(
        accumulation=accumulation,
        batch_size=2,
        decay="cosine",
        warmup=2,
        precision="bf16",
        augmentation=EVERYTHING,
        workers=workers,
    )
    source = slabs(7, neighbours=1, absent=0.5)

    def fresh():
        return fgc2f(neighbours=1, network={"dropout": 0.2})

    whole, diary = run(fresh(), source, settings)
    stopped = Diary(stop_at=3)
    with pytest.raises(Interrupted, match="3 of 6") as error:
        run(fresh(), source, settings, stopped)
    torch.manual_seed(99)  # the history of the generators must not matter
    resumed, rest = run(fresh(), source, settings.model_copy(update={"workers": later}), state=stopped.states[3])

    assert error.value.exit_code == 130
    assert stopped.logs | rest.logs == diary.logs
    assert sorted(diary.logs) == [1, 2, 3, 4, 5, 6]
    assert same(resumed.state_dict(), whole.state_dict())
    assert len({terms["loss"] for terms in diary.logs.values()}) == 6


def test_workers_change_nothing():
    source = slabs()
    states = [
        run(fgc2f(), source, config(augmentation=EVERYTHING, workers=workers))[0].state_dict() for workers in (0, 2)
    ]

    assert same(*states)


def test_the_saved_state_is_plain_data():
    state, diary = run(Straight(), slabs(), config())

    saved = torch.load(io.BytesIO(diary.states[6]), weights_only=True)
    assert sorted(saved) == ["average", "iteration", "method", "optimizers"]
    assert same(saved, state.state_dict())


def test_a_finished_run_has_nothing_left_to_do():
    _, diary = run(Straight(), slabs(), config())
    _, again = run(Straight(), slabs(), config(), state=diary.states[6])

    assert again.logs == {} and again.saved == [] and again.validated == [6]


# What happens when ---------------------------------------------------------------------------------------------------


def test_callbacks_come_when_due_and_at_the_end():
    _, diary = run(Straight(), slabs(), config(iterations=7, log_every=2, save_every=3, validate_every=4))

    assert list(diary.logs) == [2, 4, 6, 7]
    assert diary.saved == [3, 6, 7]
    assert diary.validated == [4, 7]


@pytest.mark.parametrize("save_every", [1, 4, 100])
def test_a_stop_saves_once(save_every):
    diary = Diary(stop_at=4)
    with pytest.raises(Interrupted):
        run(Straight(), slabs(), config(save_every=save_every), diary)

    assert diary.saved == [*list(range(save_every, 4, save_every)), 4]


def test_a_validation_that_a_stop_may_have_cut_short_comes_again():
    settings = config(validate_every=4)
    diary = Diary(stop_at=4)
    with pytest.raises(Interrupted):
        run(Straight(), slabs(), settings, diary)
    _, rest = run(Straight(), slabs(), settings, state=diary.states[4])

    assert (diary.validated, rest.validated) == ([4], [4, 6])


def test_a_stop_at_the_last_iteration_is_the_end():
    _, diary = run(Straight(), slabs(), config(), Diary(stop_at=6))

    assert diary.saved == [6]


def test_a_signal_to_the_workers_does_not_end_them():
    """`scancel` and Ctrl-C signal every process of a group; losing a worker would end the run before it is saved."""

    class Signalling(Diary):
        def log(self, iteration, terms):
            super().log(iteration, terms)
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGTERM)
                os.kill(worker.pid, signal.SIGINT)

    _, diary = run(Straight(), slabs(), config(workers=1, iterations=20), Signalling())

    assert len(diary.logs) == 20
    assert multiprocessing.active_children() == []


def test_workers_are_gone_after_a_stop():
    with pytest.raises(Interrupted):
        run(Straight(), slabs(), config(workers=2), Diary(stop_at=2))

    assert multiprocessing.active_children() == []


def test_divergence_is_an_error_and_saves_nothing():
    method, diary = Straight(blow_up_at=3), Diary()
    with pytest.raises(MrsynthError, match=r"diverged at iteration 3.*learning_rate"):
        run(method, slabs(), config(save_every=2), diary)

    assert diary.saved == [2]
    assert method.gain.isfinite().all()


# Numbers -------------------------------------------------------------------------------------------------------------


def test_two_batches_of_four_are_one_batch_of_eight():
    """Same slices, same choices, same gradient, up to rounding; `draw_available` follows the same progress."""
    source = slabs(11)
    one, diary = run(Straight(), source, config(batch_size=8))
    two, halves = run(Straight(), source, config(batch_size=4, accumulation=2))

    assert torch.allclose(one.method.gain, two.method.gain, atol=1e-6)
    assert torch.allclose(one.average.offset, two.average.offset, atol=1e-6)
    for iteration, terms in diary.logs.items():
        assert halves.logs[iteration] == pytest.approx(terms, rel=1e-4)
    four, _ = run(Straight(), source, config(batch_size=4))
    assert not torch.allclose(one.method.gain, four.method.gain, atol=1e-6)


def test_gradients_are_clipped():
    method = Straight()
    settings = config(iterations=1, clip=1e-3)
    run(method, slabs(), settings)

    norm = torch.cat([p.grad.flatten() for p in (method.gain, method.offset)]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_the_average_is_the_recursion_and_takes_buffers_as_they_are():
    method, weights = Straight(), []

    class Watching(Diary):
        def log(self, iteration, terms):
            weights.append(method.gain.detach().clone())

    start = method.gain.detach().clone()
    state, _ = run(method, slabs(), config(ema=0.5), Watching())

    expected = start
    for iteration, gain in enumerate(weights, 1):
        decay = min(0.5, (1 + iteration) / (10 + iteration))
        expected = decay * expected + (1 - decay) * gain
    assert torch.allclose(state.average.gain, expected, atol=1e-6)
    assert not torch.allclose(state.average.gain, weights[-1], atol=1e-4)
    assert state.average.seen == state.method.seen == 6
    assert not state.average.training and not state.average.gain.requires_grad


def test_learning_rates():
    settings = config(iterations=100, learning_rate=1.0, warmup=4, decay="cosine")

    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[:3] == pytest.approx([0.25, 0.5, 0.75], rel=0.01)
    assert rates[50] == pytest.approx(0.505)
    assert rates[-1] == pytest.approx(0.01, abs=0.001)
    assert [learning_rate(step, config(learning_rate=1.0)) for step in (0, 99)] == [1.0, 1.0]
    published = config(iterations=100, learning_rate=5e-5, final_learning_rate=2e-5, decay="cosine")
    assert [learning_rate(step, published) for step in (0, 50, 100)] == pytest.approx([5e-5, 3.5e-5, 2e-5])
    with pytest.raises(ValueError, match="final_learning_rate needs decay cosine"):
        config(final_learning_rate=2e-5)
    _, diary = run(Straight(), slabs(), config(decay="cosine", warmup=2))
    assert [t["learning_rate"] for t in diary.logs.values()] == [
        learning_rate(step, config(decay="cosine", warmup=2)) for step in range(6)
    ]


@pytest.mark.parametrize(
    ("precision", "seen"), [("bf16", torch.bfloat16), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_is_that_of_the_run_whatever_ran_before(precision, seen):
    method = Straight()
    run(method, slabs(), config(precision=precision))

    assert set(method.precisions) == {seen}
    assert method.gain.dtype == torch.float32


def test_every_objective_has_its_own_optimiser_and_terms():
    method = Straight(rows=2)
    start = copy.deepcopy(method)
    state, diary = run(method, slabs(), config())

    assert len(state.optimizers) == 2
    moved = lambda name: (getattr(method, name) - getattr(start, name)).abs().sum(1) > 0  # noqa: E731
    assert moved("gain").tolist() == [True, False]  # of each loss only what its objective lists
    assert moved("offset").tolist() == [False, True]
    terms = diary.logs[1]
    assert terms["loss"] == pytest.approx(terms["gains_loss"] + terms["offsets_loss"])


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), 9.0])
def test_what_an_absent_contrast_holds_never_matters(nonsense):
    """Slices that lack a contrast train too, on what they have."""
    settings = config(augmentation=EVERYTHING, iterations=3)
    source = [slabs(9, neighbours=1, absent=value) for value in (0.0, nonsense)]
    source[0] = [replace(slab, present=other.present) for slab, other in zip(*source, strict=True)]

    states = [run(fgc2f(neighbours=1), s, settings)[0].state_dict() for s in source]

    assert same(*states)
    assert all(t.isfinite().all() for t in states[1]["average"].values())


def test_a_tiny_network_learns():
    source = slabs(1)
    source[0].images[1:] = source[0].images[:1]  # every contrast is the first one: easy
    _, diary = run(fgc2f(param="x0"), source, config(iterations=60, learning_rate=3e-3))

    losses = [terms["loss"] for terms in diary.logs.values()]
    assert np.mean(losses[-5:]) < losses[0] / 3


def test_progress_ends_at_one():
    class Watching(Straight):
        def draw_available(self, present, progress, random):
            seen.append(progress)
            return super().draw_available(present, progress, random)

    seen = []
    run(Watching(), slabs(), config(accumulation=2))
    assert np.allclose(seen, np.arange(48) / 48)
