"""One subject of a batch: completed, or the reason why not."""

import logging
import time
from contextlib import AbstractContextManager
from typing import Any

from mrsynth.devices import out_of_memory
from mrsynth.errors import Interrupted, MemoryExhausted, MrsynthError, OutputError, WeightsError
from mrsynth.io.store import Resolved
from mrsynth.plain import Progress
from mrsynth.tasks.batch.journal import Record
from mrsynth.tasks.batch.thumbnails import thumbnail
from mrsynth.tasks.complete.output import Saved
from mrsynth.tasks.complete.plan import CompleteOptions, Plan
from mrsynth.tasks.complete.run import complete
from mrsynth.tasks.models import build, load
from mrsynth.tasks.trained import Trained, TrainedMethod

log = logging.getLogger(__name__)

AT_ONCE = 2  # subjects in one process: one is read or written while the network works on the other
FOR_ALL = (OutputError, WeightsError, Interrupted)  # what would end every other subject too


class Models:
    """Trained methods by checkpoint, each read once. Asked under the lock of the network."""

    def __init__(self) -> None:
        self._built: dict[str, TrainedMethod] = {}
        self._trained: dict[tuple[str, str], Trained] = {}

    def __call__(self, found: Resolved) -> Trained:
        """What a located checkpoint is; a committee is located once, and its members are kept too."""
        key = found.card.name, found.sha256
        if key not in self._trained:
            self._trained[key] = load(found, self.network)
        return self._trained[key]

    def network(self, found: Resolved) -> TrainedMethod:
        """The method of a located checkpoint, one network."""
        if found.sha256 not in self._built:
            self._built[found.sha256] = build(found)
        return self._built[found.sha256]


def attempt(
    request: CompleteOptions, todo: Plan, models: Models, network: AbstractContextManager[Any], watch: Progress
) -> Record:
    """Complete one subject; whatever concerns it alone becomes a record that says so.

    network   held while the network works
    watch     hears how far it is; what it raises ends the attempt
    Raises OutputError and WeightsError, of which every other subject would die too, and Interrupted.
    """
    began, name = time.perf_counter(), todo.files.name
    try:
        _, saved = complete(request, watch, todo=todo, models=models, network=network)
    except FOR_ALL:
        raise
    except MrsynthError as error:
        return failed(name, error, time.perf_counter() - began)
    except Exception as error:
        log.info("%s failed unexpectedly", name, exc_info=True)
        kind, said = (MemoryExhausted, "Memory ran out") if out_of_memory(error) else (MrsynthError, "Unexpected")
        return failed(name, kind(f"{said}: {type(error).__name__}: {error}"), time.perf_counter() - began)
    assert saved is not None
    return record_of(name, saved, time.perf_counter() - began)


def failed(name: str, error: MrsynthError, seconds: float = 0.0) -> Record:
    """The record of a subject that could not be done."""
    return Record(subject=name, status="failed", reason=str(error), exit_code=error.exit_code, seconds=seconds)


def record_of(name: str, saved: Saved, seconds: float) -> Record:
    """What the journal keeps of a subject that was done."""
    report = saved.report
    checks = [s.value for s in report.scores if s.protocol == "brain2d" and s.metric == "PSNR"]
    return Record(
        subject=name,
        status="done",
        made=tuple(str(c) for c in saved.images),
        weights=report.weights.name,
        score=round(sum(checks) / len(checks), 2) if checks else None,
        warnings=tuple(report.warnings),
        seconds=round(seconds, 2),
        peak_memory_mb=report.peak_memory_mb,
        thumbnail=thumbnail(saved.images),
    )
