"""`mrsynth benchmark`: hide contrasts of complete subjects, make them by every method, and score what comes out.

A run folder holds
    results.csv       one row per score: mrsynth/scores/rows.py
    summary.json      means, intervals and tests
    report.md, .html  the same for people, with pictures and the published figures
    split.yaml        which subject is of which part
    benchmark.yaml    the settings; --resume refuses others
    pieces/           one file per finished piece of work
    phantoms/         the data set `phantom`
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from pydantic import Field

from mrsynth import __version__
from mrsynth.contrasts import Contrast
from mrsynth.devices import choose_device
from mrsynth.errors import InputError, MrsynthError, OutputError, UsageError
from mrsynth.io.catalogue import spec_of
from mrsynth.io.datasets import Dataset, open_dataset
from mrsynth.io.files import ensure_folder, write_text
from mrsynth.io.published_figures import read_published
from mrsynth.io.splits import Split, split_of, write_split
from mrsynth.io.subjects import SubjectFiles, load_subject
from mrsynth.plain import Progress
from mrsynth.reports.benchmark_page import BenchmarkRecord, headline, report_html, report_markdown, summary_json
from mrsynth.sampling import Sampling, mode_of
from mrsynth.scans.subject import Subject
from mrsynth.scores.baselines import Baseline, CopyBaseline, RegressionBaseline, sample_voxels
from mrsynth.scores.inference import require_scipy
from mrsynth.scores.protocols import PROTOCOLS, brasyn_dropped, measures
from mrsynth.scores.rows import BASELINES, LEFT_OUT, REAL, Score, results_csv
from mrsynth.scores.statistics import Question, question_among
from mrsynth.tasks.benchmark.contenders import BRASYN, Contender, Gap, checksum, contenders, dropped_gap, read_patterns
from mrsynth.tasks.benchmark.measuring import Job, Measurer
from mrsynth.tasks.benchmark.notes import about, label_of, shortfalls
from mrsynth.tasks.benchmark.people import people
from mrsynth.tasks.benchmark.pictures import chosen_cases, pictured
from mrsynth.tasks.benchmark.pieces import Piece, PieceStore
from mrsynth.tasks.benchmark.recording import check_record, keep
from mrsynth.tasks.benchmark.sharing import part_held, reports_held
from mrsynth.tasks.models import check_sampling
from mrsynth.tasks.phantom_subjects import PhantomOptions, make_phantoms
from mrsynth.tasks.privacy import Places
from mrsynth.texts import meant

log = logging.getLogger(__name__)

TRAINING_SUBJECTS = 32  # at most so many are read to fit the baselines
PHANTOMS, PHANTOM_TRAINING = 8, 4
PHANTOM_SHAPE, PHANTOM_SPACING = (96, 112, 16), (1.6, 1.6, 1.0)  # a slab of the whole head's width
NO_GAP = Gap((), ())


class BenchmarkOptions(Sampling):
    """The request of the command line; None leaves the choice to the checkpoint."""

    dataset: str
    out: Path
    data: Path | None = None
    methods: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    patterns: str = "one-missing"
    protocols: tuple[str, ...] = ("full3d", "brain3d")
    question: str | None = Field(None, description="the primary one, as brain3d:brain:PSNR_FIT; None: `question_among`")
    split: Path | None = Field(None, description="a file of subject ids by part; None: the rule of the data set")
    part: str = "test"
    limit: int | None = Field(None, gt=0)
    baselines: bool = True
    segmenter: str | None = None
    pictures: bool = True
    viewer: bool = True
    resume: bool = False
    record: bool = False
    num_parts: int = Field(1, gt=0)
    part_id: int = Field(0, ge=0)
    command: str = ""


@dataclass(frozen=True)
class Benchmark:
    """What a run left: its table, what could not be done, how many pieces of work are left, and what was recorded."""

    out: Path
    rows: tuple[Score, ...]
    record: BenchmarkRecord
    unfinished: int
    recorded: str | None = None

    @property
    def headline(self) -> str:
        """PSNR and SSIM as Markdown tables."""
        return headline(self.rows, self.record.contrasts)


def benchmark(options: BenchmarkOptions, progress: Progress | None = None) -> Benchmark:
    """Do what is not done yet, and write the report of all that is.

    Raises UsageError for a request that makes no sense, InputError when the data set cannot be used, WeightsError
    without a checkpoint, OutputError. What goes wrong with one subject is recorded, and the rest goes on. UsageError
    also when another benchmark is at work in the folder, or on the same part of it.
    """
    check_request(options)
    ensure_folder(options.out)
    with part_held(options.out, options.part_id, options.num_parts):
        return alone(options, progress)


def alone(options: BenchmarkOptions, progress: Progress | None) -> Benchmark:
    """What `benchmark` does, once no other run does it in the same folder."""
    competing = contenders(options.methods, options.weights, options.sampling)
    for card in (card for contender in competing for card in contender.checkpoints.values()):
        mode_of(card.sampling, options, card.name, card.method, card.planes)  # now, not as a failure of every subject
    say = progress or (lambda *_: None)
    dataset, split = opened(options, say)
    chosen = subjects_of(dataset, split, options)
    settings = {
        "dataset": options.dataset,
        "split": split.hash,
        "part": options.part,
        "device": choose_device(options.device),
        **options.model_dump(mode="json", include={*Sampling.model_fields, "protocols", "question"} - {"device"}),
        "segmenter": options.segmenter and Path(options.segmenter).name,
    }
    work = Work(dataset, split, options, competing)
    plans = {files.name: list(work.jobs(files)) for files in chosen}
    store = PieceStore(options.out, settings, resume=options.resume or options.num_parts > 1)  # nothing is refused now
    write_split(options.out / "split.yaml", split.parts)
    own = chosen[options.part_id :: options.num_parts]
    total, done = sum(len(plans[files.name]) for files in own), 0
    failures: list[str] = []
    failed: set[Piece] = set()
    for files in own:
        pending = [job for job in plans[files.name] if store.rows(job.piece) is None]
        done += len(plans[files.name]) - len(pending)
        if not pending:
            continue
        try:
            subject = load_subject(files, segmentation=True)
        except Exception as error:  # one subject that cannot be read is no reason to leave out the others
            failures.append(f"{files.name}: {error if isinstance(error, MrsynthError) else repr(error)}")
            failed |= {job.piece for job in pending}
            continue
        for job in pending:
            say(f"{files.name}, {job.piece.method} from {job.gap.pattern or 'all'}", done, total)
            try:
                store.finish(job.piece, work.measurer.rows(subject, job))
            except OutputError:  # a full disk is no fault of the piece
                raise
            except Exception as error:
                failures.append(f"{files.name}, {job.piece.method}, {job.gap.name}: {type(error).__name__}: {error}")
                failed.add(job.piece)
                log.info("a piece failed", exc_info=error)
            done += 1

    def found_now() -> tuple[list[Score], BenchmarkRecord, int]:
        return summed_up(store, work, chosen, plans, failures, failed)

    published = read_published()
    with reports_held(options.out):  # parts end at about the same time; the last reports all
        rows, record, unfinished = found_now()
        write_text(options.out / "results.csv", results_csv(rows))
        write_text(options.out / "summary.json", summary_json(record, rows))
        write_text(options.out / "report.md", report_markdown(record, rows, published))
    methods = [contender.label for contender in competing] if options.pictures else []
    worst_to_best = chosen_cases(rows, methods, options.protocols)
    files_of = {f.name: f for f in chosen}
    pictures = pictured(work.measurer, worst_to_best, files_of, plans, say, viewer=options.viewer)  # it takes a while
    with reports_held(options.out):
        rows, record, unfinished = found_now()
        write_text(options.out / "report.html", report_html(record, rows, published, pictures))
    sums = {card.name: checksum(key) for contender in competing for key, card in contender.checkpoints.items()}
    kept = keep(rows, work.measurer.labels, sums) if options.record and not unfinished else None
    return Benchmark(options.out, tuple(rows), record, unfinished, kept)


def summed_up(
    store: PieceStore,
    work: "Work",
    chosen: Sequence[SubjectFiles],
    plans: Mapping[str, Sequence[Job]],
    failures: Sequence[str],
    failed: set[Piece],
) -> tuple[list[Score], BenchmarkRecord, int]:
    """All that is finished now, by whichever part: rows, what the reports say of the run, and how much is left."""
    options, dataset, split = work.options, work.dataset, work.split
    finished = {f: [(job, store.rows(job.piece)) for job in jobs] for f, jobs in plans.items()}
    rows = [row for jobs in finished.values() for _, found in jobs for row in found or ()]
    unfinished = len({job.piece for jobs in finished.values() for job, found in jobs if found is None} - failed)
    notes = [
        *work.notes,
        *shortfalls(store, unfinished, options.part_id, options.num_parts),
        *about(dataset, split, chosen),
    ]
    places = Places(options.data or options.out, options.out)
    record = BenchmarkRecord(
        dataset=dataset.spec.name,
        title=dataset.spec.title,
        citation=dataset.spec.citation,
        split=label_of(split, options.part),
        contrasts=dataset.spec.contrasts,
        question=question_of(options),
        subjects=tuple(files.name for files in chosen),
        command=places.command(options.command),
        version=__version__,
        created=datetime.now(UTC),
        options=places.plain(options.model_dump(mode="json", exclude={"command"})),
        failures=tuple(map(places.text, (*dataset.problems, *failures))),
        unsupported=tuple(work.unsupported),
        notes=tuple(map(places.text, notes)),
    )
    return rows, record, unfinished


class Work:
    """All jobs of a benchmark, and what does them."""

    def __init__(self, dataset: Dataset, split: Split, options: BenchmarkOptions, competing: Sequence[Contender]):
        self.dataset, self.split, self.options, self.competing = dataset, split, options, competing
        self.contrasts = dataset.spec.contrasts
        self.notes: list[str] = []
        self.unsupported: list[str] = []
        self.training = [f for f in dataset.subjects if f.name in split.parts.get("train", ())]
        self.baselines = self._baselines_that_can_be()
        self.dropped = brasyn_dropped(dataset.cases or (files.name for files in dataset.subjects))
        segmenter = None
        if options.segmenter is not None:
            from mrsynth.tasks.benchmark.segmentation import open_segmenter

            segmenter = open_segmenter(options.segmenter, options.device)
        self.segmenter = segmenter
        self.measurer = Measurer(
            {"dataset": dataset.spec.name, "split": label_of(split, options.part)},
            options.sampling,
            options.protocols,
            dataset.spec.regions,
            cache(self._fitted),
            segmenter,
            people(dataset),
        )

    def jobs(self, files: SubjectFiles) -> Iterator[Job]:
        """What is to be done with a subject, in the order of the table."""
        segmented = self.segmenter is not None and files.segmentation is not None
        if segmented:
            yield Job(Piece(files.name, REAL, "all"), NO_GAP, {})
        for gap in self.gaps(files):
            some = False
            for contender in self.competing:
                assigned = contender.assign(gap)
                for target, reason in assigned.unsupported.items():
                    told = f"{contender.label} from {gap.pattern} to {target.value}: {reason}"
                    if told not in self.unsupported:
                        self.unsupported.append(told)
                if assigned.made:
                    some = True
                    yield Job(Piece(files.name, contender.label, self._named(gap, assigned.made)), gap, assigned.made)
            if not some:
                continue
            for name in self.baselines:
                yield Job(Piece(files.name, name, gap.name), gap, {})
            if segmented:
                yield Job(Piece(files.name, LEFT_OUT, gap.name), gap, {})

    def gaps(self, files: SubjectFiles) -> list[Gap]:
        """The gaps of --patterns that can be tried on a subject: it must have the truth."""
        if self.options.patterns == BRASYN:
            wanted = [dropped_gap(self.dropped[files.name], self.contrasts)]
        else:
            wanted = read_patterns(self.options.patterns, self.contrasts)
        there = set(files.files)
        possible = [c for c in wanted if {*c.available, *c.targets} <= there]
        if len(possible) < len(wanted):
            lacking = ", ".join(c.label for c in self.contrasts if c not in there)
            self.notes.append(
                f"{files.name} lacks {lacking}: {len(wanted) - len(possible)} of {len(wanted)} patterns left out."
            )
        return possible

    def _named(self, gap: Gap, made: Mapping[str, tuple[Contrast, ...]]) -> str:
        """The gap and the checkpoints: another checkpoint of the same name is another piece of work."""
        return f"{gap.name} {' '.join(checksum(name)[:16] for name in made)}"

    def _baselines_that_can_be(self) -> tuple[str, ...]:
        if not self.options.baselines:
            return ()
        if any(set(self.contrasts) <= set(files.files) for files in self.training):
            return BASELINES
        self.notes.append(
            "No baselines: the split has no training subjects with all contrasts to fit them on. Give --split FILE."
        )
        return ()

    def _readable(self, training: Sequence[SubjectFiles]) -> Iterator[Subject]:
        for files in training:
            try:
                yield load_subject(files)
            except InputError as error:
                self.notes.append(f"The baselines were fitted without {files.name}: {error}")

    def _fitted(self) -> Mapping[str, Baseline]:
        complete = [f for f in self.training if set(self.contrasts) <= set(f.files)][:TRAINING_SUBJECTS]
        sample = sample_voxels(self._readable(complete), self.contrasts)
        return {"copy": CopyBaseline(sample), "regression": RegressionBaseline(sample)}


def check_request(options: BenchmarkOptions) -> None:
    """Raise UsageError for what does not exist, before anything is read."""
    if not options.protocols:
        raise UsageError(f"--protocol is empty. Give one or more of {', '.join(PROTOCOLS)}.")
    for name in options.protocols:
        if name not in PROTOCOLS:
            hint = meant(name, PROTOCOLS.keys())
            raise UsageError(f"There is no protocol '{name}'. Give one or more of {', '.join(PROTOCOLS)}.{hint}")
    contrasts = spec_of(options.dataset).contrasts
    if options.patterns != BRASYN:
        read_patterns(options.patterns, contrasts)
    question_of(options)
    check_sampling(options)
    if options.record:
        check_record(options.dataset, options.protocols, options.sampling)
    if options.part_id >= options.num_parts:
        raise UsageError(f"--part-id {options.part_id}: expected 0 to {options.num_parts - 1}, as --num-parts says.")
    require_scipy()  # now, not when the report is written


def question_of(options: BenchmarkOptions) -> Question:
    """The primary question: what --question names, else the usual one among the protocols. Raises UsageError."""
    if options.question is None:
        return question_among(options.protocols)
    protocol, region, metric = (*options.question.split(":"), "", "")[:3]
    if protocol not in options.protocols or not metric or options.question.count(":") != 2:
        raise UsageError(
            f"--question {options.question}: expected PROTOCOL:REGION:METRIC with one of the protocols of the run "
            f"({', '.join(options.protocols)}), as in {':'.join(question_among(options.protocols))}."
        )
    able = measures(protocol, spec_of(options.dataset).regions)
    known = {(name.lower(), figure): name for name, figure in able}
    if (place := (region.lower(), metric.upper())) not in known:
        raise UsageError(
            f"--question {options.question}: {protocol} does not measure {region}:{metric} on {options.dataset}. It "
            f"measures {', '.join(map(':'.join, able))}."
        )
    return Question(protocol, known[place], metric.upper())


def opened(options: BenchmarkOptions, say: Progress) -> tuple[Dataset, Split]:
    """The data set and its split; phantoms are made if they are not there yet."""
    if options.dataset != "phantom":
        if options.data is None:
            raise UsageError(
                f"--dataset {options.dataset} needs --data ROOT; `--describe {options.dataset}` says more."
            )
        dataset = open_dataset(options.dataset, options.data)
        return dataset, split_of(dataset, options.split)
    if options.data is not None:
        raise UsageError("--dataset phantom is made on the spot. Leave --data out, or use --dataset folder.")
    root, count = options.out / "phantoms", PHANTOMS + PHANTOM_TRAINING
    if not (root / f"phantom-{count - 1:03d}").is_dir():
        wanted = PhantomOptions(out=root, subjects=count, shape=PHANTOM_SHAPE, spacing=PHANTOM_SPACING)
        make_phantoms(wanted, say)
    dataset = open_dataset("phantom", root)
    names = [files.name for files in dataset.subjects]
    parts = {"test": tuple(names[:PHANTOMS]), "train": tuple(names[PHANTOMS:])}
    return dataset, split_of(dataset, options.split) if options.split else Split(parts)


def subjects_of(dataset: Dataset, split: Split, options: BenchmarkOptions) -> list[SubjectFiles]:
    """The subjects to score on. Raises UsageError for a part that does not exist, InputError for an empty one."""
    names = [f.name for f in dataset.subjects] if options.part == "all" else split.parts.get(options.part)
    if names is None:
        hint = meant(options.part, (*split.parts, "all"))
        raise UsageError(f"The split has no part '{options.part}'. It has {', '.join((*split.parts, 'all'))}.{hint}")
    chosen = [files for files in dataset.subjects if files.name in set(names)]
    if not chosen:
        sizes = ", ".join(f"{part} {len(ids)}" for part, ids in split.parts.items())
        raise InputError(
            f"None of the {len(dataset.subjects)} subjects of {options.data or 'the data set'} is in the part "
            f"'{options.part}' (subjects by part: {sizes}). Give another --part, `--part all`, or a --split FILE."
        )
    return chosen[: options.limit]
