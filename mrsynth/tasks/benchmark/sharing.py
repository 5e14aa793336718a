"""Several processes in one run folder: each part once, and its reports by one at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mrsynth.errors import UsageError
from mrsynth.io.locks import LOCK, locked

PATIENCE = 600  # seconds to wait for another part that writes the reports


@contextmanager
def part_held(out: Path, part: int, parts: int) -> Iterator[None]:
    """Inside, nobody else does this part of the work. Raises UsageError when another process does.

    What killed runs left is swept by a run that has the folder to itself.
    """
    whole = parts == 1
    with ExitStack() as stack:
        try:
            name = LOCK if whole else f".part-{part + 1}-of-{parts}.lock"
            stack.enter_context(locked(out, sweep=whole, name=name))
        except BlockingIOError:
            raise UsageError(
                f"Another benchmark is at work in {out}. Wait until it ends, or give another --out."
            ) from None
        yield


@contextmanager
def reports_held(out: Path) -> Iterator[None]:
    """Inside, no other part writes the reports. Raises UsageError when one does not end."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out, patience=PATIENCE, sweep=False, name=".reports.lock"))
        except BlockingIOError:
            raise UsageError(f"Another part has been writing to {out} for {PATIENCE} s. Try again.") from None
        yield
