"""Signals that end a run: they only set a flag, so that what was learnt is saved first."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mrsynth.training.batches import STOPS


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 only set a flag; the value says whether it is set.

    One that is ignored already, as SIGHUP is under nohup, stays ignored.
    """
    received: list[int] = []
    heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in heard}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
