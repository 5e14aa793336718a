"""A disk that is full at any write, or read-only: an error that says so, nothing partial, and all as it was before."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mrsynth.io.splits import write_split
from tests.kill import leftovers, not_whole
from tests.tasks.train.runs import ONE_ITERATION

MAIN = "from mrsynth.cli.app import main; main()"
QUICK = ("--no-self-check", "--fast", "--precision", "fp32", "--no-progress")

pytestmark = [pytest.mark.usefixtures("no_pictures"), pytest.mark.filterwarnings("default")]


@pytest.fixture
def asked(tmp_path, write_subject_folder, write_series, only_tiny):
    """asked[command]: what is typed; results go to `out`."""
    shape = (18, 24, 8)
    for seed, name in enumerate("ab"):
        write_subject_folder(tmp_path / "whole", name, seed=seed, shape=shape)
        write_subject_folder(tmp_path / "lacking", name, seed=seed, shape=shape, without=["t1ce"])
    write_split(tmp_path / "split.yaml", {"train": ["a"], "test": ["b"]})
    (tmp_path / "run.yaml").write_text(ONE_ITERATION)
    for number, timing in ((1, ("t1_se_tra", 500, 10)), (2, ("t2_tse_tra", 5000, 100))):
        write_series(tmp_path / "dicom", number, *timing)
    out = tmp_path / "out"
    data = ("--dataset", "folder", "--data", tmp_path / "whole", "--split", tmp_path / "split.yaml")
    return {
        "complete": ("complete", tmp_path / "lacking" / "a", "-o", out, *QUICK),
        "batch": ("batch", tmp_path / "lacking", "-o", out, *QUICK),
        "benchmark": ("benchmark", *data, "--no-pictures", "--no-baselines", "--protocol", "brain3d", "-o", out),
        "train": ("train", "--data", tmp_path / "whole", "--config", tmp_path / "run.yaml", "--out", out),
        "dicom": ("dicom", tmp_path / "dicom", "-o", out, "--name", "P1"),
    }


EVERY = pytest.param(1, marks=pytest.mark.slow)


@pytest.mark.parametrize("step", [4, EVERY])
@pytest.mark.parametrize("command", ["complete", "dicom", "batch", "benchmark", "train"])
def test_a_disk_that_is_full_at_any_write(asked, run_cli, tmp_path, monkeypatch, command, step):
    """Of the contents that go to the disk each in turn, or every fourth, is the first that finds it full."""
    out, real, count = tmp_path / "out", os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal count
        count += not stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if count == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    failing, ends = 2, []
    while True:
        count = 0
        status, _, err = run_cli(*asked[command], *(["--resume"] if command == "benchmark" else []))
        ends.append(status)
        if status == 0:
            break
        assert status in (1, 3), err
        assert "disk is full" in " ".join(err.split()), err
        assert not_whole(out) == [] if out.exists() else True
        assert leftovers(out) == []
        failing += step
        if command == "train" and (out / "state.pt").exists():
            break
    assert len(ends) > 1


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("command", ["complete", "dicom", "batch", "benchmark", "train"])
def test_a_folder_where_nothing_can_be_written_is_found_before_the_work(
    asked, run_cli, tmp_path, monkeypatch, command, number
):
    """Root may write anywhere, so the system's refusal is made here: of every file that is opened for it."""
    out, opened, made, touch = tmp_path / "out", os.open, os.mkdir, Path.touch

    def refuse(path):
        if out in (Path(os.fsdecode(path)), *Path(os.fsdecode(path)).parents):
            raise OSError(number, os.strerror(number))

    def open_(path, flags, *more, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "mkdir", lambda path, *more, **options: (refuse(path), made(path, *more, **options))[1])
    monkeypatch.setattr(Path, "touch", lambda path, *more, **options: (refuse(path), touch(path, *more, **options))[1])
    monkeypatch.setattr("mrsynth.tasks.trained.synthesise_volume", None)
    monkeypatch.setattr("mrsynth.io.cache.prepare", None)
    status, _, err = run_cli(*asked[command])

    told = " ".join(err.split())
    assert status == 6 and "--out" in told and ("read-only" in told or "no permission" in told), err
    assert not out.exists()


def small_disk(size: str, place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run mrsynth where `place` is a disk of so many bytes that ends with the process; skip where nobody may mount."""
    mounted = f'mount -t tmpfs -o size={size} tmpfs "{place}" && exec "$@"'
    start = ("unshare", "--mount", "sh", "-c", mounted, "sh", sys.executable, "-c", MAIN)
    if os.geteuid() != 0 or subprocess.run(("unshare", "--mount", "true"), capture_output=True, check=False).returncode:
        pytest.skip("only root may mount")
    done = subprocess.run([*start, *map(str, words)], capture_output=True, text=True, check=False)
    if "mount:" in done.stderr:
        pytest.skip("no tmpfs can be mounted")
    return done


@pytest.mark.slow
@pytest.mark.parametrize("size", ["4k", "32k", "128k"])
@pytest.mark.parametrize("command", ["complete", "dicom", "batch", "benchmark", "train"])
def test_a_disk_that_is_really_full(asked, tmp_path, command, size):
    (tmp_path / "out").mkdir()
    done = small_disk(size, tmp_path / "out", *asked[command])
    assert done.returncode in (0, 1), done.stderr
    assert done.returncode == 0 or "disk is full" in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr and "Bus error" not in done.stderr


@pytest.mark.parametrize("how", ["bind", "refusal"])
def test_a_store_that_many_share_need_not_be_writable(asked, run_cli, tmp_path, monkeypatch, only_tiny, how):
    """Checkpoints in the store of another user: listed, used, and nothing is written there."""
    store = tmp_path / "home" / "weights"
    store.mkdir(parents=True)
    shutil.copy(only_tiny, store / "shared.safetensors")
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(store))
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "home"))
    opened = os.open

    def refuse(path, flags, *more, **options):
        if store in Path(os.fsdecode(path)).parents and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *more, **options)

    if how == "refusal":
        monkeypatch.setattr(os, "open", refuse)
    elif os.geteuid() != 0 or subprocess.run(["mount", "--bind", store, store], capture_output=True).returncode:
        pytest.skip("only root may mount")
    try:
        if how == "bind":
            subprocess.run(["mount", "-o", "remount,bind,ro", store], check=True)
        before = {p.name: p.read_bytes() for p in store.iterdir()}
        for words in (("weights", "list"), ("doctor",), asked["complete"], ("weights", "clear")):
            status, _, err = run_cli(*words)
            assert status == 0, err
        assert {p.name: p.read_bytes() for p in store.iterdir()} == before
    finally:
        if how == "bind":
            subprocess.run(["umount", store], check=True)
