"""`mrsynth.log` beside the results: what was done when, and every warning on the way."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from mrsynth.plain import Progress
from mrsynth.texts import visible


class RunLog(logging.Handler):
    """Lines with the time (UTC), from progress and from what the package logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.stage = ""
        self.thread = threading.get_ident()  # of several subjects at once each has its own

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what this thread logged."""
        if record.thread == self.thread:
            self.note(record.getMessage(), record.levelname)

    def note(self, text: str, level: str = "INFO") -> None:
        """Keep a line."""
        said = visible(text).replace("\n", "\n  ")  # no name of a file may begin a line
        self.lines.append(f"{datetime.now(UTC).isoformat(timespec='seconds')} {level} {said}")

    def watching(self, progress: Progress | None) -> Progress:
        """The same progress, of which every new stage is kept too."""

        def tell(what: str, done: int, total: int) -> None:
            if what != self.stage:
                self.stage = what
                self.note(what)
            if progress is not None:
                progress(what, done, total)

        return tell

    @property
    def text(self) -> str:
        """The file."""
        return "\n".join(self.lines) + "\n"


@contextmanager
def run_log(*first: str) -> Iterator[RunLog]:
    """A log that listens to the package until the block ends; `first` are its first lines."""
    log, package = RunLog(), logging.getLogger("mrsynth")
    for line in first:
        log.note(line)
    package.addHandler(log)
    try:
        yield log
    finally:
        package.removeHandler(log)
