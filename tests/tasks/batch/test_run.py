"""`mrsynth batch` through the command line, on small made-up subjects, some of them bad."""

import csv
import json
import shutil
import threading

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError, Interrupted, MemoryExhausted, OutputError, UsageError
from mrsynth.io import store
from mrsynth.io.nifti import read_volume, write_volume
from mrsynth.io.subjects import find_subject, load_subject
from mrsynth.scans.preparation import prepare
from mrsynth.tasks.batch import attempt
from mrsynth.tasks.batch import estimate as estimating
from mrsynth.tasks.batch import run as task
from mrsynth.tasks.batch.attempt import Models
from mrsynth.tasks.batch.estimate import Estimate, estimate, in_words
from mrsynth.tasks.batch.journal import Journal, Record, records_of
from mrsynth.tasks.batch.run import BatchOptions, summary_csv
from mrsynth.tasks.batch.tree import Tree
from mrsynth.tasks.complete.plan import CompleteOptions
from mrsynth.tasks.complete.run import load_method, plan

T1, T1CE, T2, FLAIR = Contrast.T1, Contrast.T1CE, Contrast.T2, Contrast.FLAIR


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, brain_volumes):
    """p1 and p2 lack a T1ce, p3 lacks nothing, p4's T2 is cut off."""
    root = tmp_path_factory.mktemp("a cohort")
    volumes = brain_volumes((32, 40, 16))
    for name, contrasts in {"p1": (T1, T2, FLAIR), "p2": (T1, T2), "p3": tuple(volumes), "p4": (T1, T2)}.items():
        (root / name).mkdir()
        for contrast in contrasts:
            write_volume(root / name / f"{name}_{contrast}.nii", volumes[contrast])
    cut = root / "p4" / "p4_t2.nii"
    cut.write_bytes(cut.read_bytes()[:5000])
    return root


def run(run_cli, cohort, out, *options):
    return run_cli("batch", cohort, "-o", out, "--fast", "--no-self-check", "--no-progress", *options)


def rows_of(out):
    with (out / "summary.csv").open(newline="") as file:
        return {row["subject"]: row for row in csv.DictReader(file)}


def test_everyone_is_tried_the_bad_one_is_named_and_the_same_command_goes_on(cohort, tmp_path, run_cli):
    out = tmp_path / "out"
    status, printed, err = run(run_cli, cohort, out)
    assert status == 3, err
    rows = rows_of(out)

    assert {name: row["status"] for name, row in rows.items()} == {
        "p1": "done", "p2": "done", "p3": "complete", "p4": "failed",
    }  # fmt: skip
    assert rows["p1"]["made"] == "t1ce" and rows["p2"]["made"] == "t1ce;flair"
    assert "p4_t2.nii" in rows["p4"]["reason"] and str(cohort) not in (out / "summary.csv").read_text()
    assert "p4_t2.nii" in printed + err
    page = (out / "index.html").read_text()
    assert page.index('data-subject="p4"') < page.index('data-subject="p1"')
    assert '<a href="p1/report.html#pictures"><img' in page
    assert 'id="pictures"' in (out / "p1" / "report.html").read_text()
    assert 'href="p1/report.html"' in page and page.count("data:image/png") == 2

    assert run_cli("complete", cohort / "p1", "-o", tmp_path / "one", "--fast", "--no-self-check")[0] == 0
    alone, batched = (read_volume(folder / "p1_t1ce.nii.gz").voxels for folder in (tmp_path / "one", out / "p1"))
    assert np.array_equal(alone, batched)

    before = (out / "p1" / "report.json").stat().st_mtime_ns
    status, printed, err = run(run_cli, cohort, out)
    assert status == 3 and "0 to do, 2 done before, 1 that cannot be used" in printed + err
    assert (out / "p1" / "report.json").stat().st_mtime_ns == before


@pytest.fixture
def stand_in(monkeypatch, written):
    """In place of `complete`: notes the subject, and raises what is planted for it."""
    calls, planted = [], {}

    def complete(request, progress, *, todo, models, network):
        calls.append(todo.files.name)
        if error := planted.get(todo.files.name):
            raise error
        todo.out.mkdir(parents=True, exist_ok=True)
        (todo.out / "report.json").write_text('{"schema_version": 1, "weights": {}, "outputs": []}')
        return todo, written

    monkeypatch.setattr(attempt, "complete", complete)
    monkeypatch.setattr(attempt, "record_of", lambda name, *_: Record(subject=name, status="done", seconds=1.0))
    return calls, planted


@pytest.fixture
def written():
    return object()


def options(cohort, out, **more):
    return BatchOptions(root=cohort, out=out, fast=True, self_check=False, **more)


def test_a_batch_that_was_stopped_does_each_subject_once(cohort, tmp_path, stand_in):
    calls, planted = stand_in
    planted["p2"] = Interrupted("stopped")
    with pytest.raises(Interrupted):
        task.batch(options(cohort, tmp_path))
    del planted["p2"]
    done = task.batch(options(cohort, tmp_path))

    assert sorted(calls) == ["p1", "p2", "p2"]
    assert {name: record.status for name, record in done.records.items()}["p2"] == "done"
    assert (tmp_path / "index.html").exists()


def test_results_that_the_journal_does_not_know_are_made_again(cohort, tmp_path, stand_in, monkeypatch):
    calls, _ = stand_in
    with monkeypatch.context() as killed, pytest.raises(Interrupted):
        killed.setattr(attempt, "record_of", planted_kill)
        task.batch(options(cohort, tmp_path))
    written = {path.parent.name for path in tmp_path.glob("*/report.json")}
    assert written and not written & set(records_of(tmp_path))
    first = list(calls)
    done = task.batch(options(cohort, tmp_path))

    assert {"p1", "p2"} == {name for name, record in done.records.items() if record.status == "done"}
    assert sorted(calls[len(first) :]) == ["p1", "p2"]


def planted_kill(*_):
    raise Interrupted("between the last rename and the journal")


def test_results_of_others_are_not_replaced_whenever_it_is_asked(cohort, tmp_path, stand_in):
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "report.json").write_text('{"schema_version": 1, "weights": {}, "outputs": []}')
    for _ in range(2):
        failed = {record.subject: record.reason for record in task.batch(options(cohort, tmp_path)).failed}
        assert "already holds report.json" in failed["p1"]
    assert stand_in[0] == ["p2"]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (InputError("p1: the scans are of two people"), 4, "p1: the scans are of two people"),
        (UsageError("another run writes to p1"), 2, "another run writes to p1"),
        (MemoryExhausted("p1 is too large"), 6, "p1 is too large"),
        (MemoryError("Unable to allocate 8 TiB"), 6, "Memory ran out: MemoryError: Unable to allocate 8 TiB"),
        (ZeroDivisionError("nobody foresaw it"), 1, "Unexpected: ZeroDivisionError: nobody foresaw it"),
    ],
)
def test_one_subject_that_fails_does_not_stop_the_others(error, status, reason, cohort, tmp_path, stand_in):
    calls, planted = stand_in
    planted["p1"] = error
    done = task.batch(options(cohort, tmp_path))

    assert sorted(calls) == ["p1", "p2"] and {r.subject for r in done.failed} == {"p1", "p4"}
    assert (done.records["p1"].exit_code, done.records["p1"].reason) == (status, reason)
    task.batch(options(cohort, tmp_path))
    assert sorted(calls) == ["p1", "p1", "p2"]  # what failed is tried again


def test_how_long_the_rest_will_take_is_said_once(cohort, tmp_path, stand_in, monkeypatch):
    heard = []
    monkeypatch.setattr(task, "AT_ONCE", 1)
    task.batch(options(cohort, tmp_path), say=heard.append)

    assert sum("for the rest" in text for text in heard) == 1


def test_the_manifest_is_read_and_a_checkpoint_hashed_once_for_all_subjects(cohort, tmp_path, stand_in, monkeypatch):
    seen = []
    for name in ("manifest", "sha256_of"):
        do = getattr(store, name)
        monkeypatch.setattr(store, name, lambda *args, do=do, name=name: (seen.append(name), do(*args))[1])
    task.batch(options(cohort, tmp_path))

    assert sorted(stand_in[0]) == ["p1", "p2"] and seen == ["manifest", "sha256_of"]


def test_a_committee_is_located_and_each_of_its_networks_read_once(monkeypatch):
    found = store.resolve("committee-ship")
    hashed, do, models = [], store.sha256_of, Models()
    monkeypatch.setattr(store, "sha256_of", lambda path: (hashed.append(path), do(path))[1])
    one = models(found)

    assert models(found) is one and len(hashed) == len(set(hashed)) == len(one.members) > 1
    assert one.load(one.members[0]) is models.network(one.members[0])


def test_what_would_end_every_subject_is_what_the_batch_ends_with(cohort, tmp_path, stand_in):
    _, planted = stand_in
    planted["p1"] = planted["p2"] = OutputError("the disk is full")
    with pytest.raises(OutputError, match="the disk is full"):
        task.batch(options(cohort, tmp_path))
    assert "p1" not in records_of(tmp_path)


def test_parts_share_the_work(cohort, tmp_path, stand_in):
    calls, _ = stand_in
    for part in (0, 1):
        done = task.batch(options(cohort, tmp_path, num_parts=2, part_id=part))

    assert sorted(calls) == ["p1", "p2"] and set(done.records) == {"p1", "p2", "p3", "p4"}
    assert sorted(p.name for p in tmp_path.glob("journal*")) == ["journal-0-of-2.jsonl", "journal-1-of-2.jsonl"]


def test_overwrite_does_it_again(cohort, tmp_path, stand_in):
    calls, _ = stand_in
    task.batch(options(cohort, tmp_path))
    task.batch(options(cohort, tmp_path, overwrite=True))

    assert sorted(calls) == ["p1", "p1", "p2", "p2"]


def test_other_options_are_another_batch(cohort, tmp_path, stand_in, run_cli):
    task.batch(options(cohort, tmp_path))
    status, _, err = run(run_cli, cohort, tmp_path, "--seed", "7")

    assert status == 2 and "begun with other options (seed)" in err


def test_an_option_that_there_was_not_yet_is_one_that_was_not_given(cohort, tmp_path, stand_in):
    task.batch(options(cohort, tmp_path))
    request = tmp_path / "batch.json"
    known = json.loads(request.read_text())
    request.write_text(json.dumps({key: value for key, value in known.items() if value is not None}))

    task.batch(options(cohort, tmp_path))
    assert json.loads(request.read_text()) == known


def test_a_batch_may_change_its_mind_about_the_viewer(cohort, tmp_path, stand_in):
    asked = options(cohort, tmp_path, viewer=False)
    task.batch(asked)
    task.batch(options(cohort, tmp_path))

    tree = Tree.of(cohort, tmp_path)
    assert not asked.of_subject(find_subject(cohort / "p1"), tree, redo=False).viewer


def test_where_and_by_how_many_it_is_done_makes_no_other_batch():
    here = BatchOptions(root="a", out="b")
    there = BatchOptions(
        root="c", out="d", dask="tcp://h:1", workers=2, threads=3, device="cpu", num_parts=4, part_id=1, overwrite=True
    )

    assert here.lasting() == there.lasting() != BatchOptions(root="a", seed=1).lasting()


def test_names_are_read_in_any_letter_case(cohort, tmp_path, stand_in, run_cli):
    names = ["--method", "FGC2F", "--mode", "SAMPLE", "--sampler", "DDIM", "--precision", "FP32", "--device", "CPU"]
    status, _, err = run(run_cli, cohort, tmp_path, *names)

    assert status == 3 and sorted(stand_in[0]) == ["p1", "p2"], err


def test_of_the_targets_each_subject_gets_those_that_it_lacks(cohort, tmp_path, monkeypatch):
    """One that lacks none of them is complete, and no failure."""
    asked = {}

    def complete(*_, todo, **__):
        asked[todo.files.name] = todo.targets
        raise InputError("enough is known")

    monkeypatch.setattr(attempt, "complete", complete)
    done = task.batch(options(cohort, tmp_path, targets=(T1CE, FLAIR)))
    assert asked == {"p1": (T1CE,), "p2": (T1CE, FLAIR)}
    assert done.records["p3"].status == "complete" and "p3" not in {record.subject for record in done.failed}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--part-id", "1"], 2, "parts count from 0"),
        (["--weights", "no-such"], 5, "no-such"),
        (["--method", "no-such"], 2, "no-such"),
        (["--mode", "mean", "--steps", "4"], 2, "--steps"),
        (["--mode", "sample", "--steps", "100000"], 2, "100000 sampling steps"),
        (["--mode", "sample", "--sampler", "direct"], 2, "no sampler 'direct'"),
        (["--participants", "nobody"], 2, "nobody"),
        (["--strip", "no-such"], 2, "no-such"),
    ],
)
def test_a_request_that_is_wrong_for_everyone_ends_at_once(
    arguments, status, message, cohort, tmp_path, stand_in, run_cli
):
    """And leaves no batch behind: the request put right is no other one than the folder was begun with."""
    ended, _, err = run(run_cli, cohort, tmp_path, *arguments)

    assert ended == status and message in err
    assert not [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert run(run_cli, cohort, tmp_path)[0] == 3, "as without the mistake before"


@pytest.mark.parametrize("request_kept", ["{", "[]", '{"seed": ' + "[" * 1000 + "]" * 1000 + "}"])
def test_a_damaged_request_is_not_passed_over(request_kept, cohort, tmp_path, stand_in):
    (tmp_path / "batch.json").write_text(request_kept)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"holds batch\.json, which mrsynth did not write"):
            task.batch(options(cohort, tmp_path, overwrite=overwrite))
    assert (tmp_path / "batch.json").read_text() == request_kept and not stand_in[0]


def test_folders_that_are_left_out_are_said_and_not_only_in_the_index(cohort, tmp_path, stand_in):
    shutil.copytree(cohort / "p1", tmp_path / "in" / "p1")
    shutil.copytree(cohort / "p2", tmp_path / "in" / "p2")
    shutil.copy(tmp_path / "in" / "p2" / "p2_t1.nii", tmp_path / "in" / "p2" / "p2_t1w.nii")
    (tmp_path / "in" / "notes").mkdir()
    shutil.copy(tmp_path / "in" / "p1" / "p1_t1.nii", tmp_path / "in" / "notes" / "figure.nii")
    said: list[str] = []
    done = task.batch(options(tmp_path / "in", tmp_path / "out"), say=said.append)

    assert stand_in[0] == ["p1"] and "Left out (2, " in said[0] and "p2: 2 files could be the T1" in said[0]
    (line,) = done.unusable  # a folder without any scan is no subject that failed
    assert "p2: 2 files could be the T1" in line
    again = task.batch(options(tmp_path / "in", tmp_path / "out", participants=["p1"]))
    assert not again.unusable
    task.batch(options(tmp_path / "in", tmp_path / "out", only_summary=True))
    assert "2 files could be the T1" in (tmp_path / "out" / "index.html").read_text()


def test_a_subject_that_cannot_be_used_ends_the_command_with_3(cohort, tmp_path, stand_in, run_cli):
    shutil.copytree(cohort / "p1", tmp_path / "in" / "p1")
    shutil.copytree(cohort / "p2", tmp_path / "in" / "p2")
    shutil.copy(tmp_path / "in" / "p2" / "p2_t1.nii", tmp_path / "in" / "p2" / "p2_t1w.nii")
    status, printed, err = run(run_cli, tmp_path / "in", tmp_path / "out")

    assert status == 3 and "1 with scans that cannot be used as they are" in printed + err


def test_a_batch_that_goes_on_with_another_root_says_so(cohort, tmp_path, stand_in):
    said: list[str] = []
    task.batch(options(cohort, tmp_path / "out"), say=said.append)
    task.batch(options(cohort, tmp_path / "out"), say=said.append)
    assert not any("another folder" in line for line in said)

    other = shutil.copytree(cohort, tmp_path / "other")
    task.batch(options(other, tmp_path / "out"), say=said.append)
    assert any(f"was begun with another folder than {other}" in line for line in said)


@pytest.mark.parametrize("name", ["Index.html", "summary.csv", "journal-x.jsonl", "batch.json"])
def test_a_subject_that_is_called_as_a_file_of_the_batch_fails_and_the_rest_is_done(name, cohort, tmp_path, stand_in):
    shutil.copytree(cohort / "p1", tmp_path / "in" / "p1")
    shutil.copytree(cohort / "p1", tmp_path / "in" / name)
    for path in (tmp_path / "in" / name).iterdir():
        path.rename(path.with_name(path.name.replace("p1", name)))
    done = task.batch(options(tmp_path / "in", tmp_path / "out"))

    assert stand_in[0] == ["p1"] and [record.subject for record in done.failed] == [name]
    assert (tmp_path / "out" / "summary.csv").is_file()


def test_grids_that_complete_refuses_are_told_before_any_sampling(cohort, tmp_path, stand_in, brain_volumes):
    root = tmp_path / "in"
    shutil.copytree(cohort / "p1", root / "p1")
    (root / "p5").mkdir()
    for contrast, shape in ((T1, (32, 40, 16)), (T2, (28, 36, 12))):
        write_volume(root / "p5" / f"p5_{contrast}.nii", brain_volumes(shape)[contrast])
    done = task.batch(options(root, tmp_path / "out", align="off"))

    assert stand_in[0] == ["p1"] and [record.subject for record in done.failed] == ["p5"]


def test_a_folder_without_subjects_says_so(tmp_path, run_cli):
    (tmp_path / "in").mkdir()
    status, _, err = run(run_cli, tmp_path / "in", tmp_path / "out")

    assert status == 4 and "holds no subject" in err


def test_the_newest_record_counts_and_a_line_cut_off_is_passed_over(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add(Record(subject="a", status="failed", reason="x"))
    with journal.path.open("ab") as file:
        file.write(b'{"subject": "b", "sta')
    journal.add(Record(subject="a", status="done"))

    assert {name: r.status for name, r in records_of(tmp_path).items()} == {"a": "done"}
    assert len(journal.path.read_bytes().splitlines()) == 3


def test_a_name_that_is_not_in_utf8_is_remembered(tmp_path):
    record = Record(subject="M\udcfcller", status="done", made=("t1ce", "t2"), score=20.5, ended=1.0)
    Journal(tmp_path / "journal.jsonl").add(record)

    assert records_of(tmp_path) == {"M\udcfcller": record}


def test_a_journal_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"journal\.jsonl cannot be read: Is a directory"):
        records_of(tmp_path)


def test_a_journal_is_read_within_bounds(tmp_path, monkeypatch):
    """Of a line without an end no more than LONGEST_TEXT is held, and a file no journal can be is not begun."""
    journal = Journal(tmp_path / "journal.jsonl")
    monkeypatch.setattr("mrsynth.tasks.batch.journal.LONGEST_TEXT", 1000)
    journal.path.write_bytes(b"[" * 5000 + b"\n" + b'{"subject": ' + b"[" * 900 + b"]" * 900 + b"}\n")
    journal.add(Record(subject="a", status="done"))
    assert set(records_of(tmp_path)) == {"a"}

    with journal.path.open("r+b") as file:
        file.truncate(9 * 2**30)  # takes no room: it is sparse
    with pytest.raises(UsageError, match="more than 8 GiB"):
        records_of(tmp_path)


def test_a_reason_that_looks_like_a_formula_is_harmless():
    text = summary_csv({"=1+1": Record(subject="=1+1", status="failed", reason="@x")})

    assert text.splitlines()[1].startswith("'=1+1,failed") and text.rstrip().endswith("'@x")


def test_the_request_is_kept(cohort, tmp_path, stand_in):
    task.batch(options(cohort, tmp_path, seed=3))

    assert json.loads((tmp_path / "batch.json").read_text())["seed"] == 3


def test_time_and_memory_are_told_before_the_first_subject_and_nothing_is_written_for_it(cohort, tmp_path, run_cli):
    each = Estimate(reading=2.0, network=3.0, writing=5.0, memory_mb=2048.0)
    assert each.seconds == 5.0 and Estimate(1.0, 9.0, 1.0, None).seconds == 9.0, "the network works on one at a time"
    assert in_words(each, 7200, 2) == "Estimated for 7200: about 5.0 hours at 5 s a subject, 2.0 GB of memory each."

    files = find_subject(cohort / "p2")
    request = CompleteOptions(folder=files.folder, out=tmp_path / "p2")
    found = estimate(request, plan(request, files), Models())
    assert 0 < found.seconds < 60 and 100 < (found.memory_mb or 1000) < 10_000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method, draws", [("fgc2f", 1), ("cwdm", 1), ("fgc2f", 3)])
def test_an_estimate_is_of_all_draws_of_all_slices_or_of_the_whole_volume(
    method, draws, cohort, tmp_path, monkeypatch, write_tiny_checkpoint
):
    """With a clock by which every voxel that the network makes takes a microsecond."""
    clock = [0.0]
    monkeypatch.setattr(estimating.time, "perf_counter", lambda: clock[0])
    voxels_of = {
        "synthesise_volume": lambda args, more: args[1].mask[..., more["slices"]].size,
        "synthesise_whole": lambda args, more: args[1][0].numel(),
    }
    for name, places in voxels_of.items():
        do = getattr(estimating, name)

        def timed(*args, do=do, places=places, **more):
            clock[0] += places(args, more) * 1e-6
            return do(*args, **more)

        monkeypatch.setattr(estimating, name, timed)
    monkeypatch.setattr(estimating, "SIDE", 32)
    drawn = {"sampler": "ddim", "steps": 2, "samples": draws}  # as files of 0.1.0 say it, which name no mode
    weights = str(write_tiny_checkpoint(tmp_path / "drawn.safetensors", sampling=drawn)) if draws > 1 else None
    request = CompleteOptions(folder=cohort / "p1", out=tmp_path, method=method, weights=weights, self_check=False)
    todo = plan(request)
    found = estimate(request, todo, Models())

    trained = load_method(weights or todo.selection.entry.name)
    prepared = prepare(load_subject(cohort / "p1"), trained.method.contrasts, trained.preparation)
    mask = prepared.mask
    voxels = mask[..., mask.any(axis=(0, 1))].size if method == "fgc2f" else mask.size
    assert found.network == pytest.approx(draws * voxels * 1e-6) and found.reading == 0


def test_one_subject_is_read_while_the_network_has_another_and_no_third_is_begun(tmp_path, monkeypatch, brain_volumes):
    root, t1 = tmp_path / "in", brain_volumes((32, 40, 16))[T1]
    for name in "klmnop":
        (root / name).mkdir(parents=True)
        write_volume(root / name / f"{name}_t1.nii", t1)
    both, count = threading.Barrier(2), threading.Lock()
    inside, most, sampled = [], [], []

    def complete(request, progress, *, todo, models, network):
        with count:
            inside.append(todo.files.name)
            most.append(len(inside))
        both.wait(60)  # breaks, and fails the subject, if there is never another
        with network:
            sampled.append(todo.files.name)
            assert len(sampled) == 1
            sampled.pop()
        with count:
            inside.remove(todo.files.name)
        return todo, object()

    monkeypatch.setattr(attempt, "complete", complete)
    monkeypatch.setattr(attempt, "record_of", lambda name, *_: Record(subject=name, status="done"))
    monkeypatch.setattr(task, "TRIES", 0)
    done = task.batch(options(root, tmp_path / "out"))

    assert {record.status for record in done.records.values()} == {"done"} and len(done.records) == 6
    assert max(most) == 2
