"""`mrsynth batch`: every subject below a folder, each checkpoint loaded once, with a journal to go on from.

An output folder holds
    SUBJECT/          what `mrsynth complete` writes; of a BIDS data set its tree, sub-ID/ses-ID/anat/
    journal.jsonl     one line a subject, on the disk before the next is begun
    batch.json        the request, so that a resumption is of the same batch
    summary.csv       one row a subject
    index.html        the same to look at, what needs looking at first
"""

import csv
import io
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError, Interrupted, MemoryExhausted, MrsynthError, UsageError, WeightsError
from mrsynth.io.bids import DESCRIPTION
from mrsynth.io.files import ensure_folder, write_text
from mrsynth.io.locks import locked
from mrsynth.io.provenance import refuse_others
from mrsynth.io.reading import read_json
from mrsynth.io.store import Stock
from mrsynth.io.subjects import SubjectFiles, everything_below, find_subjects
from mrsynth.plain import Progress
from mrsynth.reports.index_page import index_html
from mrsynth.sampling import Sampling
from mrsynth.scores.rows import csv_text
from mrsynth.tasks.batch.attempt import AT_ONCE, Models, attempt, failed
from mrsynth.tasks.batch.estimate import Estimate, estimate, in_words
from mrsynth.tasks.batch.journal import PATTERN, Journal, Record, part_name, records_of
from mrsynth.tasks.batch.tree import Tree, of_participants, speaking_of
from mrsynth.tasks.complete.plan import CompleteOptions, Plan, SubjectOptions, header_problems
from mrsynth.tasks.complete.run import plan
from mrsynth.tasks.privacy import Places
from mrsynth.texts import visible

if TYPE_CHECKING:
    from mrsynth.tasks.batch.cluster import Workers

log = logging.getLogger(__name__)

OF_ANY = {"method", "fast", "align"}  # what the request of every batch says
LEFT_OUT = 5  # folders without a subject that are named while it runs
TRIES = 3  # subjects to estimate by, before there is no estimate


class BatchOptions(SubjectOptions):
    """The request of the command line; most of it goes to every subject as `complete` would take it."""

    root: Path
    out: Path | None = Field(None, description="None: `derivatives/mrsynth` of a BIDS data set, else `mrsynth`")
    participants: tuple[str, ...] = Field((), description="only these, all sessions of each")
    bids: bool = Field(False, description="the root must be a BIDS data set")
    only_summary: bool = Field(False, description="write summary.csv and index.html anew, and do nothing else")
    num_parts: int = Field(1, gt=0, description="the work is shared by so many runs")
    part_id: int = Field(0, ge=0, description="which of them this is, from 0")
    dask: str | None = Field(None, description="address of a scheduler whose workers do the subjects")
    workers: int | None = Field(None, gt=0, description="so many processes on this machine do them")
    threads: int | None = Field(None, gt=0, description="of the processor, for each worker")

    def of_subject(self, files: SubjectFiles, tree: Tree, redo: bool) -> CompleteOptions:
        """The request for one subject: of the targets those that it lacks."""
        shared = {key: getattr(self, key) for key in SubjectOptions.model_fields}
        shared["targets"] = self.lacked_by(files)
        place = {"folder": files.folder, "out": tree.out / tree.home(files.name)}
        dataset = None if tree.dataset is None else tree.dataset.root
        return CompleteOptions(**place, dataset=dataset, **{**shared, "overwrite": redo})

    def lacked_by(self, files: SubjectFiles) -> tuple[Contrast, ...]:
        """Of the targets that were named those that a subject lacks."""
        return tuple(c for c in self.targets if c not in files.files)

    def lasting(self) -> dict[str, Any]:
        """What must be the same when a batch goes on: everything that changes an image."""
        what = {"participants", "bids", "only_summary", "overwrite", "num_parts", "part_id", "viewer", "segment"}
        where = {"root", "out", "device", "dask", "workers", "threads"}
        return self.model_dump(mode="json", exclude=what | where)


@dataclass(frozen=True)
class Batch:
    """How a batch ended: a record for every subject that was ever tried, and why folders were left out.

    unusable   those of them that hold scans, which nobody can use as they are: two files of one contrast, a scan that
               is not there
    """

    out: Path
    records: Mapping[str, Record]
    left_out: tuple[str, ...]
    unusable: tuple[str, ...] = ()

    @property
    def failed(self) -> list[Record]:
        """Those that could not be done."""
        return [record for record in self.records.values() if record.status == "failed"]


def batch(
    options: BatchOptions, progress: Progress | None = None, say: Callable[[str], None] = lambda _: None
) -> Batch:
    """Complete every subject below the root that is not done yet; one that fails never stops the others.

    progress  hears of subjects
    say       hears a sentence now and then: what was found, what failed, how long the rest will take
    Raises InputError when there is no subject, UsageError for a request that no subject could be done with or that is
    not the one this batch was begun with, OutputError, and Interrupted when stopped: the journal is then up to date.
    """
    if options.dask is not None and options.workers is not None:
        raise UsageError("--dask names workers that are there, --workers N starts some: give one of them.")
    if options.part_id >= options.num_parts:
        raise UsageError(f"--part-id {options.part_id} of --num-parts {options.num_parts}: parts count from 0.")
    root = options.root.expanduser()
    tree = Tree.of(root, options.out and options.out.expanduser())
    out, places = tree.out, Places(root, tree.out)
    if options.bids and tree.dataset is None:
        raise InputError(f"{root} is no BIDS data set: it has no {DESCRIPTION} that states a BIDSVersion.")
    if options.only_summary:
        if not (records := records_of(out)):
            raise InputError(f"{out} holds no journal of a batch. Give --out the folder that a batch wrote into.")
        left_out = [places.text(line) for line in find_subjects(root)[1]] if root.is_dir() else []
        write_summary(tree, records, left_out)
        return Batch(out, records, tuple(left_out))
    found = everything_below(root)
    subjects, left_out = found.subjects, found.left_out
    if not subjects:
        raise InputError(f"{root} holds no subject: " + ("; ".join(left_out[:3]) or "no scans were found."))
    left_out = [places.text(line) for line in left_out]
    unusable = [places.text(line) for line in found.problems]
    if options.participants:
        unusable = speaking_of(options.participants, unusable)
    if left_out:  # of each the first line; a name may have any length
        named = "\n".join(f"  {line.splitlines()[0][:200]}" for line in left_out[:LEFT_OUT])
        more = f"\n  and {len(left_out) - LEFT_OUT} more" if len(left_out) > LEFT_OUT else ""
        say(f"Left out ({len(left_out)}, all of them in index.html):\n{named}{more}")
    own = of_participants(subjects, options.participants, left_out)[options.part_id :: options.num_parts]
    ensure_folder(out)
    resumed = same_batch(options, out, say)
    part = part_name(options.part_id, options.num_parts, options.participants)
    journal = Journal(out / f"journal{part}.jsonl")
    try:
        with locked(ensure_folder(out / f".part{part}")):
            work = Work(options, tree, journal, say, resumed)
            settled = work.check(own)  # a request that no subject can be done with leaves no batch behind
            same_batch(options, out, note=True)  # another part may have begun meanwhile
            tree.describe()
            try:
                for record in settled:
                    work.note(record)
                work.run(progress or (lambda *_: None))
            finally:
                records = records_of(out)
                write_summary(tree, records, left_out)
    except BlockingIOError as error:
        raise UsageError(f"Another run is at work on this part in {out}. Wait, or give another --out.") from error
    return Batch(out, records, tuple(left_out), tuple(unusable))


def write_summary(tree: Tree, records: Mapping[str, Record], left_out: Sequence[str] = ()) -> None:
    """Write summary.csv and index.html."""
    rows = [record.model_dump() | {"folder": tree.home(name).as_posix()} for name, record in records.items()]
    write_text(tree.out / "summary.csv", summary_csv(records))
    write_text(tree.out / "index.html", index_html(rows, left_out))


def same_batch(
    options: BatchOptions, out: Path, say: Callable[[str], None] = lambda _: None, *, note: bool = False
) -> bool:
    """Whether the folder holds this batch already; with `note` the request is written into it.

    Raises UsageError when it holds a batch of another request, or files of others, whatever `options.overwrite` says.
    """
    path = out / "batch.json"
    now, before, root = options.lasting(), request_in(path), options.root.expanduser().absolute()
    known_by = sha256(os.fsencode(root)).hexdigest()[:16]  # its name may be a person's
    there = before is not None
    begun = before.pop("root", None) if before else None
    if before is None:  # whatever lies there is of others, journals too, to which a line would be added
        names = ("batch.json", "summary.csv", "index.html", *sorted(journal.name for journal in out.glob(PATTERN)))
        refuse_others(out, names, lambda _: False)
    elif not options.overwrite and (changed := [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]):
        raise UsageError(
            f"{out} holds a batch that was begun with other options ({', '.join(changed)}). Give the same, another "
            "--out, or --overwrite to do everything again."
        )
    if begun not in (None, known_by):  # the same data may have been moved
        say(f"This batch was begun with another folder than {root}: subjects that were done there are not done again.")
    if note:
        write_text(path, json.dumps({**now, "root": known_by}, indent=2) + "\n")
    return there


def request_in(path: Path) -> dict[str, Any] | None:
    """The request of a batch that was noted in a file; None where there is none."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and set(content) >= OF_ANY else None


class Work:
    """The subjects of one run: checked first, then done."""

    def __init__(
        self, options: BatchOptions, tree: Tree, journal: Journal, say: Callable[[str], None], resumed: bool = False
    ):
        self.options, self.tree, self.journal, self.say, self.resumed = options, tree, journal, say, resumed
        self.todo: list[tuple[CompleteOptions, Plan]] = []
        self.models = Models()
        self.network = threading.Lock()  # one subject at a time is sampled; others are read or written meanwhile
        self.stopped = threading.Event()

    def check(self, subjects: list[SubjectFiles]) -> list[Record]:
        """Choose a checkpoint for each, look at headers and at options of sampling, before anything is made.

        Returns the records of those for whom nothing is to be done: complete, or refused. Raises UsageError or
        WeightsError for a request that is wrong for everyone; nothing is written either way.
        """
        before = records_of(self.tree.out)
        done = {name for name, record in before.items() if record.status == "done"}
        refused: dict[str, MrsynthError] = {}
        complete: list[Record] = []
        stock = Stock()
        for files in subjects:
            finished = files.name in done and (self.tree.out / self.tree.home(files.name) / "report.json").exists()
            if finished and not self.options.overwrite:
                continue
            # no word of a failure: what lies there is of this batch, killed before the journal knew
            own = self.resumed and (files.name in done or files.name not in before)
            if self.options.targets and not self.options.lacked_by(files):
                complete.append(Record(subject=files.name, status="complete"))
                continue
            request = self.options.of_subject(files, self.tree, redo=self.options.overwrite or own)
            try:
                self.tree.refuse_strangers(files)
                todo = plan(request, files, stock)
                if todo.selection is None:
                    complete.append(Record(subject=files.name, status="complete"))
                    continue
                if problems := header_problems(todo.files, request.align, request.onto):
                    raise InputError(" ".join(problems))
                if todo.checkpoint is not None and request.sampling != Sampling():
                    self.models(todo.checkpoint).estimator(request.sampling)  # raises for what it cannot do
            except MrsynthError as error:
                refused[files.name] = error
                continue
            self.todo.append((request, todo))
        wrong = [e for e in refused.values() if isinstance(e, UsageError | WeightsError)]
        done &= {files.name for files in subjects}
        if wrong and not self.todo and not done:
            raise wrong[0]  # the request is wrong, and so for everyone
        self.say(
            f"{len(subjects)} subjects: {len(self.todo)} to do, {len(done)} done before, "
            f"{len(refused)} that cannot be used."
        )
        return [*complete, *(failed(name, reason) for name, reason in refused.items())]

    def run(self, progress: Progress) -> None:
        """Do them. Raises Interrupted, and what would end every other subject too."""
        if not self.todo:
            return
        if self.options.dask is None and self.options.workers is None:
            self.foresee(lambda request, todo: estimate(request, todo, self.models))
            self.count(self.here(), progress, AT_ONCE)
            return
        from mrsynth.tasks.batch.cluster import workers_at

        with workers_at(self.options.dask, self.options.workers, self.options.threads) as workers:
            self.say(f"{len(workers)} workers.")
            self.foresee(workers.estimate, max(1, len(workers)))
            self.count(self.there(workers), progress, AT_ONCE * max(1, len(workers)))

    def foresee(self, measure: Callable[[CompleteOptions, Plan], Estimate], processes: int = 1) -> None:
        """Say what time and memory will be needed, by the first subject of which that can be known."""
        if len(self.todo) <= AT_ONCE * processes:
            return
        for request, todo in self.todo[:TRIES]:
            try:
                self.say(in_words(measure(request, todo), len(self.todo), processes))
                return
            except (InputError, MemoryExhausted):  # it is told when its turn comes
                continue
            except MrsynthError:
                raise
            except Exception:
                log.info("no estimate by %s", todo.files.name, exc_info=True)

    def count(self, done: Generator[None], progress: Progress, enough: int) -> None:
        """Go through subjects as they end, and after so many say how long the rest will take."""
        began, count = time.perf_counter(), len(self.todo)
        progress("subjects", 0, count)
        with closing(done):
            for number, _ in enumerate(done, 1):
                progress("subjects", number, count)
                if number == enough < count:
                    self.tell((time.perf_counter() - began) / number, count - number)

    def there(self, workers: "Workers") -> Generator[None]:
        """Let workers do them; yields when one has ended, and its record is in the journal."""
        with closing(workers.records(self.todo)) as records:
            for record in records:
                self.note(record)
                yield

    def here(self) -> Generator[None]:
        """Do them in threads of this process; yields when one has ended."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                for future in as_completed([pool.submit(self.one, request, todo) for request, todo in self.todo]):
                    yield future.result()
            finally:
                self.stopped.set()  # those at work end at the next call of their network, and clean up

    def tell(self, each: float, left: int) -> None:
        """After the first subjects: how long the rest will take, at so many seconds each."""
        self.say(f"{each:.0f} s a subject: about {each * left / 60:.0f} minutes for the rest.")

    def one(self, request: CompleteOptions, todo: Plan) -> None:
        """Do one subject and note how it went; what would end every other subject too ends the batch."""
        if self.stopped.is_set():
            return
        try:
            self.note(attempt(request, todo, self.models, self.network, self.still_wanted))
        except BaseException:
            if not self.stopped.is_set():  # else the batch has ended already, and this is only how its work stops
                self.stopped.set()
                raise

    def still_wanted(self, *_: Any) -> None:
        """Raise Interrupted when the batch has ended."""
        if self.stopped.is_set():
            raise Interrupted("Stopped; the same command goes on.")

    def note(self, record: Record) -> None:
        """Put a record into the journal, and say a failure; the journal names no folder above the root.

        Whatever a subject dies of while the batch is being stopped is no fault of its own.
        """
        if record.status == "failed":
            self.still_wanted()
            self.say(f"{record.subject}: {record.reason}")
            reason = Places(self.options.root.expanduser(), self.tree.out).text(record.reason)
            record = record.model_copy(update={"reason": reason})
        self.journal.add(record)


COLUMNS = ("subject", "status", "made", "weights", "score", "warnings", "seconds", "peak_memory_mb", "reason")


def summary_csv(records: Mapping[str, Record]) -> str:
    """One row a subject; several values in a cell are parted by semicolons."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for name in sorted(records):
        row = records[name].model_dump()
        row |= {"made": ";".join(row["made"]), "warnings": len(row["warnings"])}
        cells = {key: visible(row[key]) if isinstance(row[key], str) else row[key] for key in COLUMNS}
        writer.writerow({key: "" if cell is None else csv_text(cell) for key, cell in cells.items()})
    return text.getvalue()
