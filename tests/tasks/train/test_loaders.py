"""Processes that load examples: little shared memory, one that is killed, one that hangs, and signals meanwhile."""

import os
import signal
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from mrsynth.errors import Interrupted, MemoryExhausted
from mrsynth.methods import build_method, preset
from mrsynth.training.batches import LoaderLost, Slab, TrainingConfig, as_lost_loader, example_batches
from mrsynth.training.loop import Callbacks, begin, train

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Source:
    """Slices of noise; `act(index)` happens before each, in the process that loads it."""

    act: object = None
    images: np.ndarray = field(default_factory=lambda: np.random.default_rng(0).random((4, 1, 16, 16), np.float32))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if self.act is not None:
            self.act(index)
        return Slab(self.images, np.ones(4, bool))


@pytest.fixture
def method():
    torch.manual_seed(0)
    options = preset("fgc2f", "tiny") | {"param": "x0", "T": 8}
    return build_method(
        options | {"network": {"width": 8, "groups": 4, "multipliers": [1], "blocks": 1, "attention": []}}
    )


def config(**changes):
    return TrainingConfig(**{"iterations": 40, "batch_size": 1, "workers": 1, "precision": "fp32", **changes})


def callbacks(saved, stop=lambda: False, log=lambda *_: None):
    return Callbacks(log, lambda state: saved.append(state.iteration), lambda *_: None, stop)


def test_batches_come_from_a_worker_as_from_none_and_without_shared_memory(method, monkeypatch):
    """No tensor crosses: what would put one into /dev/shm is not there."""
    from multiprocessing.reduction import ForkingPickler

    with example_batches(method, 0, Source(), config(workers=0, iterations=3)) as batches:
        alone = list(batches)

    def refuse(tensor):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(ForkingPickler._extra_reducers, torch.Tensor, refuse)
    with example_batches(method, 0, Source(), config(iterations=3)) as batches:
        loaded = list(batches)

    assert len(alone) == len(loaded) == 3
    for one, other in zip(alone, loaded, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.available, other.available)
        assert one.context.shape == other.context.shape and one.labels is other.labels is None


def test_a_loader_that_is_killed_ends_the_run_after_saving(method, tmp_path):
    """As the kernel does when memory runs out."""
    flag = tmp_path / "kill"

    def act(index):
        if flag.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    saved = []
    log = lambda iteration, _: flag.touch() if iteration == 3 else None  # noqa: E731
    with pytest.raises(MemoryExhausted, match=r"memory ran out.*/dev/shm.*workers to 0.*--resume goes on") as error:
        train(begin(method), Source(act), config(log_every=1), callbacks(saved, log=log), "cpu")
    assert error.value.exit_code == 6
    assert len(saved) == 1 and saved[0] >= 3 and f"Saved after {saved[0]} of 40" in str(error.value)


def test_signals_are_heard_while_waiting_for_data(method, monkeypatch):
    monkeypatch.setattr(
        "torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2
    )  # torch waits so long for a lost loader

    def hang(index):
        time.sleep(600)

    saved, asked = [], []
    began = time.monotonic()
    with pytest.raises(Interrupted, match="after 0 of 40"):
        train(begin(method), Source(hang), config(), callbacks(saved, lambda: bool(asked.append(1)) or True), "cpu")
    assert time.monotonic() - began < 30
    assert saved == [0]


def test_what_the_system_says_of_a_small_shared_memory_is_named():
    with pytest.raises(LoaderLost, match=r"/dev/shm.*training\.workers to 0"), as_lost_loader():
        raise OSError(28, "No space left on device")
    with pytest.raises(RuntimeError, match="timed out"), as_lost_loader():
        raise RuntimeError("DataLoader timed out after 2 seconds")
