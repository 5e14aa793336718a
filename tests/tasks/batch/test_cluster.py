"""A batch on workers of dask.distributed: the same files as without, whatever dies on the way."""

import multiprocessing
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from mrsynth.contrasts import Contrast
from mrsynth.errors import OutputError, UsageError
from mrsynth.io.nifti import read_volume
from mrsynth.tasks.batch import cluster
from mrsynth.tasks.batch import run as task
from mrsynth.tasks.batch.journal import Record, records_of
from mrsynth.tasks.batch.run import BatchOptions
from tests.helpers import moved_fields, raising

pytestmark = pytest.mark.usefixtures("one_thread")  # workers in this process set torch's threads, for all tests after

SIX = tuple(f"s{n}" for n in range(6))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, write_subject_folder):
    """Six subjects without T1ce; of s4 a scan is cut off."""
    root = tmp_path_factory.mktemp("a cohort")
    for seed, name in enumerate(SIX):
        write_subject_folder(root, name, seed=seed, without=[Contrast.T1CE], suffix=".nii")
    cut = root / "s4" / "s4_t2.nii"
    cut.write_bytes(cut.read_bytes()[:5000])
    return root


@pytest.fixture(scope="module")
def alone(cohort, tmp_path_factory, tiny_checkpoint):
    """What the batch makes without workers."""
    out = tmp_path_factory.mktemp("alone")
    task.batch(options(cohort, out, tiny_checkpoint))
    return out


def options(cohort, out, weights, **more):
    return BatchOptions(root=cohort, out=out, weights=str(weights), self_check=False, **more)


@contextmanager
def scheduler():
    """Of others, with one worker, in this process."""
    from distributed import LocalCluster

    here = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    before = torch.get_num_threads()  # a worker sets them for its process, which is ours
    with LocalCluster(processes=False, n_workers=1, threads_per_worker=2, memory_limit=0, **here) as made:
        yield made
    torch.set_num_threads(before)


def same_results(out, other):
    """Voxels, headers and sidecars are equal; how many images were compared."""
    import nibabel

    images = sorted(path.relative_to(out) for path in out.glob("*/*.nii.gz"))
    assert images == sorted(path.relative_to(other) for path in other.glob("*/*.nii.gz"))
    for image in images:
        assert np.array_equal(read_volume(out / image).voxels, read_volume(other / image).voxels)
        one, two = nibabel.load(out / image), nibabel.load(other / image)
        assert moved_fields(one, two) == [] and one.header == two.header
        sidecar = str(image).replace(".nii.gz", ".json")
        assert (out / sidecar).read_bytes() == (other / sidecar).read_bytes()
    return len(images)


def test_workers_make_what_one_process_makes_and_the_journal_stays_here(cohort, alone, tmp_path, tiny_checkpoint):
    heard = []
    with scheduler() as made:
        asked = options(cohort, tmp_path, tiny_checkpoint, dask=made.scheduler_address, threads=1)
        done = task.batch(asked, say=heard.append)

    assert same_results(tmp_path, alone) == 5
    assert [record.subject for record in done.failed] == ["s4"] and str(cohort) not in done.failed[0].reason
    assert len((tmp_path / "journal.jsonl").read_bytes().splitlines()) == 6
    assert "1 workers." in heard and any(text.startswith("Estimated for 5") for text in heard)


@pytest.mark.slow
def test_a_worker_that_is_killed_half_way_loses_nothing(cohort, alone, tmp_path, tiny_checkpoint):
    killed = []

    def half_way(what, done, total):
        if done == 2 and not killed:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    done = task.batch(options(cohort, tmp_path, tiny_checkpoint, workers=2, threads=1), half_way)

    assert killed and same_results(tmp_path, alone) == 5
    assert {name: record.status for name, record in done.records.items() if name != "s4"} == dict.fromkeys(
        (name for name in SIX if name != "s4"), "done"
    )
    assert not [path for path in tmp_path.rglob(".*") if path.name.startswith(".partial-")]


@pytest.mark.slow
def test_workers_of_our_own_end_with_the_command(cohort, alone, tmp_path, tiny_checkpoint):
    words = ["batch", cohort, "-o", tmp_path, "--weights", tiny_checkpoint, "--no-self-check", "--workers", "2"]
    start = [sys.executable, "-c", "from mrsynth.cli.app import main; main()"]
    ended = subprocess.run(
        [*start, *map(str, words), "--threads", "1"], capture_output=True, text=True, start_new_session=True
    )

    assert ended.returncode == 3 and ended.stderr == "" and "2 workers." in ended.stdout
    assert same_results(tmp_path, alone) == 5


@pytest.mark.slow
def test_a_subject_that_kills_its_workers_is_a_failure_and_the_rest_goes_on(
    cohort, tmp_path, tiny_checkpoint, monkeypatch
):
    def deadly(request, todo):
        if todo.files.name == "s1":
            os._exit(9)
        return Record(subject=todo.files.name, status="done")

    monkeypatch.setattr(cluster, "_attempt", deadly)
    monkeypatch.setattr(task, "TRIES", 0)
    done = task.batch(options(cohort, tmp_path, tiny_checkpoint, workers=1))

    assert {record.subject for record in done.failed} == {"s1", "s4"} and len(done.records) == 6
    assert done.records["s1"].exit_code == 6 and "4 workers died while they had it" in done.records["s1"].reason


def test_what_ends_every_subject_ends_the_batch(cohort, tmp_path, tiny_checkpoint, monkeypatch):
    def full(request, todo):
        raise OutputError("the disk is full")

    monkeypatch.setattr(cluster, "_attempt", full)
    with (
        scheduler() as made,
        pytest.raises(OutputError, match="the disk is full"),
    ):
        task.batch(options(cohort, tmp_path, tiny_checkpoint, dask=made.scheduler_address))
    assert set(records_of(tmp_path)) == {"s4"}, "which was refused before"


def test_another_version_on_the_workers_is_refused():
    with pytest.raises(UsageError, match=r"expected 9\.9\. Install one version everywhere"):
        cluster.on_worker(raising(AssertionError), None, None, 1, "9.9")


def test_a_scheduler_that_does_not_answer_is_named(cohort, tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.2)
    for address in ("tcp://127.0.0.1:9", "no address", "nonsense://a:1"):
        with pytest.raises(UsageError, match=f"--dask {address}: no scheduler answers"):
            task.batch(options(cohort, tmp_path, tiny_checkpoint, dask=address))


def test_workers_there_and_workers_here_are_not_asked_for_at_once(cohort, tmp_path, run_cli):
    status, _, err = run_cli("batch", cohort, "-o", tmp_path, "--dask", "tcp://127.0.0.1:9", "--workers", "2")

    assert status == 2 and "give one of them" in err


def test_dask_is_not_imported_unless_it_is_asked_for():
    """Not even by the module that knows it."""
    look = "import sys, mrsynth.cli.app, mrsynth.tasks.batch.cluster; print({'dask', 'distributed'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "set()"
