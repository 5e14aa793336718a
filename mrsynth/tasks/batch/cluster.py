"""A batch on the workers of dask.distributed: one task a subject, and a journal that only this end writes.

Workers see the same files under the same paths, weights included, have the same version of mrsynth, and keep each
checkpoint once it is read. A task of a worker that dies is given to another. Only this module knows dask, and it is
imported only when workers are asked for.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from itertools import islice
from tempfile import TemporaryDirectory
from typing import Any

from mrsynth import __version__
from mrsynth.devices import limit_threads
from mrsynth.errors import MemoryExhausted, MrsynthError, UsageError
from mrsynth.tasks.batch.attempt import AT_ONCE, Models, attempt, failed
from mrsynth.tasks.batch.estimate import Estimate, estimate
from mrsynth.tasks.batch.journal import Record
from mrsynth.tasks.complete.plan import CompleteOptions, Plan

WAITING = 1000  # tasks that the scheduler knows of at once: enough for hundreds of workers, and few enough to hold
DIED = "{} workers died while they had it; most often because memory ran out."
PATIENCE = 10  # seconds for a scheduler to answer

# Of this process, where it is a worker.
MODELS, NETWORK, ROOM = Models(), threading.Lock(), threading.BoundedSemaphore(AT_ONCE)


class Workers:
    """Those of one scheduler, as long as a batch needs them.

    threads   of the processor for each network; None: as many as the worker was started with
    """

    def __init__(self, client: Any, threads: int | None):
        self.client, self.threads = client, threads
        self.address = client.scheduler.address
        self.name = f"mrsynth-{secrets.token_hex(4)}"

    def __len__(self) -> int:
        return len(self.client.scheduler_info(n_workers=-1)["workers"])

    def estimate(self, request: CompleteOptions, todo: Plan) -> Estimate:
        """As `estimate.estimate`, measured on one of them."""
        measured: Estimate = self._result(self._submit("estimate", on_worker, _estimate, request, todo))
        return measured

    def records(self, work: Sequence[tuple[CompleteOptions, Plan]]) -> Generator[Record]:
        """Complete subjects; a record each, in the order in which they end.

        A request replaces what mrsynth left in its folder: the task may have been on a worker that died after it had
        written all. Raises OutputError and WeightsError of a worker, and UsageError where workers cannot be used.
        """
        from distributed import KilledWorker, as_completed

        todo = iter(enumerate(work))
        plans: dict[str, Plan] = {}

        def more(count: int) -> list[Any]:
            futures = []
            for number, (request, plan) in islice(todo, count):
                again = request.model_copy(update={"overwrite": True})
                futures.append(self._submit(str(number), on_worker, _attempt, again, plan))
                plans[futures[-1].key] = plan
            return futures

        running = as_completed(more(WAITING))
        try:
            for future in running:
                name = plans.pop(future.key).files.name
                try:
                    yield self._result(future)
                except KilledWorker as error:
                    yield failed(name, MemoryExhausted(DIED.format(error.allowed_failures + 1)))
                future.release()
                running.update(more(1))
        finally:
            self.client.cancel(list(running.futures))

    def _submit(self, what: str, *call: Any) -> Any:
        return self.client.submit(*call, self.threads, __version__, key=f"{self.name}-{what}", pure=False)

    def _result(self, future: Any) -> Any:
        """What a task gave. Raises what concerns all others too, and KilledWorker where workers died of it."""
        try:
            return future.result()
        except (CancelledError, OSError) as error:
            raise MrsynthError(
                f"The scheduler at {self.address} is gone. What is done is done; the same command goes on."
            ) from error
        except ImportError as error:
            raise UsageError(
                f"A worker has no mrsynth that fits: {error}. Install version {__version__} where the workers run."
            ) from error


@contextmanager
def workers_at(address: str | None, count: int | None, threads: int | None) -> Iterator[Workers]:
    """Workers of the scheduler at an address, or so many of our own on this machine.

    A worker of our own that dies is started again, however long that takes on a busy machine.

    threads   of the processor for each; None: those a foreign worker was started with, and of our own an equal share
    Raises UsageError when dask is not installed, and when no scheduler answers.
    """
    try:
        from dask import config
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError("Workers need dask.distributed: pip install 'mrsynth[cluster]'") from error
    # dask says much, also while it closes
    quiet = logging.INFO if logging.getLogger().level <= logging.INFO else logging.CRITICAL
    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(quiet)
    with ExitStack() as stack:
        if address is None:
            assert count is not None
            threads = threads or max(1, cores() // count)
            stack.enter_context(config.set({"distributed.deploy.lost-worker-timeout": "1 day"}))
            scratch = stack.enter_context(TemporaryDirectory(prefix="mrsynth-", ignore_cleanup_errors=True))
            address = stack.enter_context(
                LocalCluster(
                    n_workers=count,
                    threads_per_worker=AT_ONCE,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    silence_logs=quiet,
                    memory_limit=0,  # what is too much is found out as without workers
                    local_directory=scratch,
                )
            ).scheduler_address
        try:
            client = stack.enter_context(Client(address, timeout=PATIENCE))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"--dask {address}: no scheduler answers there: {error}") from error
        yield Workers(client, threads)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_worker(
    do: Callable[[CompleteOptions, Plan], Any], request: CompleteOptions, todo: Plan, threads: int | None, version: str
) -> Any:
    """A task, in the worker's process: of AT_ONCE subjects one is sampled, whatever number of tasks it takes.

    Raises UsageError for another version than the one that asks.
    """
    from distributed import get_worker

    if version != __version__:
        raise UsageError(f"A worker has mrsynth {__version__}, expected {version}. Install one version everywhere.")
    with ROOM:
        limit_threads(threads or get_worker().state.nthreads)
        return do(request, todo)


def _attempt(request: CompleteOptions, todo: Plan) -> Record:
    return attempt(request, todo, MODELS, NETWORK, lambda *_: None)


def _estimate(request: CompleteOptions, todo: Plan) -> Estimate:
    with NETWORK:
        return estimate(request, todo, MODELS)
