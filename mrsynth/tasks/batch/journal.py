"""What a batch has done so far, one JSON line a subject, each on the disk before the next subject is begun."""

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydantic import Field

from mrsynth.errors import UsageError
from mrsynth.io.files import cannot_write, to_disk
from mrsynth.io.reading import LONGEST_TEXT, Unfit, open_regular, parse_json
from mrsynth.plain import Plain

PATTERN = "journal*.jsonl"
LONGEST_JOURNAL = 8 * 2**30  # bytes: half a million subjects have less


class Record(Plain):
    """How one subject fared.

    status     done; complete: nothing was missing; failed
    reason     why it failed, in a sentence; empty otherwise
    made       contrasts that were made
    weights    the checkpoint's name
    score      mean of the self-check's PSNR in the brain, dB; None without one
    warnings   of its report
    seconds    from reading to the last file
    thumbnail  a small PNG of what was made, base64
    ended      when, in seconds since 1970
    """

    subject: str
    status: Literal["done", "complete", "failed"]
    reason: str = ""
    exit_code: int = 0
    made: tuple[str, ...] = ()
    weights: str = ""
    score: float | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = Field(0.0, ge=0)
    peak_memory_mb: float | None = None
    thumbnail: str = ""
    ended: float = 0.0


class Journal:
    """The journal of one part of a batch: a file that is only ever added to, by any thread of this process."""

    def __init__(self, path: Path):
        self.path = path
        self._alone = threading.Lock()

    def add(self, record: Record) -> None:
        """Write a line, and wait until it is on the disk. Raises OutputError."""
        record = record if record.ended else record.model_copy(update={"ended": round(time.time(), 3)})
        line = json.dumps(record.model_dump(exclude_defaults=True), ensure_ascii=True) + "\n"
        try:
            with self._alone, self.path.open("ab") as file:
                fresh = not file.tell()
                if not (fresh or self._ends_well()):
                    file.write(b"\n")  # a line that was cut off stays by itself
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            if fresh:
                to_disk(self.path.parent)
        except OSError as error:
            told = cannot_write(self.path, error)
            raise type(told)(f"{told} Nothing is lost: run again.") from error

    def _ends_well(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def part_name(part: int, parts: int, participants: Sequence[str] = ()) -> str:
    """What tells the journal and the lock of a run from those beside it: "" for all, `-03-of-10`, `-sub-01`."""
    share = "" if parts == 1 else f"-{part:0{len(str(parts))}d}-of-{parts}"
    if not participants:
        return share
    several = sorted(set(participants))
    plain = len(several) == 1 and re.fullmatch("[A-Za-z0-9_-]{1,64}", several[0])
    return f"-{several[0] if plain else sha256(repr(several).encode()).hexdigest()[:12]}{share}"


def records_of(out: Path) -> dict[str, Record]:
    """The newest record of every subject, over the journals of all parts; a line that was cut off is passed over.

    Raises UsageError for a journal that cannot be read.
    """
    found: dict[str, Record] = {}
    for path in sorted(out.glob(PATTERN)):
        try:
            for record in _lines(path):
                if record.subject not in found or found[record.subject].ended <= record.ended:
                    found[record.subject] = record
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}. Give another --out.") from error
    return found


def _lines(path: Path) -> Iterator[Record]:
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > LONGEST_JOURNAL:
            raise Unfit(path, f"it has more than {LONGEST_JOURNAL / 2**30:.3g} GiB, which no journal has")
        while line := file.readline(LONGEST_TEXT):
            with suppress(ValueError):  # pydantic's own reader refuses names that are not in UTF-8
                yield Record.model_validate(parse_json(line))
