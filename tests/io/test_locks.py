"""One process at a time in a folder, whatever becomes of the processes."""

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from mrsynth.errors import OutputError
from mrsynth.io import locks
from mrsynth.io.locks import LOCK, locked

HOLD = (
    "import sys; from pathlib import Path; from mrsynth.io.locks import locked\n"
    "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def test_a_folder_is_held_by_one_and_free_afterwards(tmp_path):
    with locked(tmp_path), pytest.raises(BlockingIOError), locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path) as known:
        assert known


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(tmp_path, how):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    (tmp_path / ".partial-0123456789abcdef").mkdir()
    with pytest.raises(BlockingIOError), locked(tmp_path):
        pass
    assert (tmp_path / ".partial-0123456789abcdef").exists(), "another run's live folder"
    holder.send_signal(how)
    holder.communicate()
    with locked(tmp_path):
        assert not (tmp_path / ".partial-0123456789abcdef").exists()


def test_many_take_turns(tmp_path):
    """Each adds one to a number that it read before; removing the lock file lets no two in at once."""
    (tmp_path / "number").write_text("0")

    def add(_):
        with locked(tmp_path, patience=20):
            (tmp_path / "number").write_text(str(int((tmp_path / "number").read_text()) + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert (tmp_path / "number").read_text() == "40" and not (tmp_path / LOCK).exists()


def test_where_there_are_no_locks_work_goes_on_and_nothing_is_swept(tmp_path, monkeypatch):
    def unknown(_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_lock", unknown)
    (tmp_path / ".0123456789abcdef").write_bytes(b"")
    with locked(tmp_path) as known:
        assert not known
    assert [p.name for p in tmp_path.iterdir()] == [".0123456789abcdef"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(OutputError, match="folder does not exist"), locked(tmp_path / "nowhere"):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / LOCK).symlink_to(tmp_path / "made")
    with pytest.raises(OutputError, match="Cannot write"), locked(tmp_path):
        pass
    assert not os.path.lexists(tmp_path / "made")
