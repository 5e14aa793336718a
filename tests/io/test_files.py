"""Whole files or none."""

import errno
import os
import stat
from pathlib import Path

import pytest

from mrsynth.errors import OutputError
from mrsynth.io import files
from mrsynth.io.files import atomic, ensure_folder, write_bytes, write_text


def test_content_is_on_the_disk_before_its_name_and_its_name_at_the_end(tmp_path, monkeypatch):
    done, replace = [], os.replace

    def fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.pread(descriptor, 99, 0))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write_text(tmp_path / "a.txt", "content")
    assert done == [b"content", "rename", "folder"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSPC, errno.EIO])
def test_a_disk_that_cannot_take_it_leaves_what_was_there(tmp_path, monkeypatch, number):
    """Full or broken disks may say so only now; one that knows no fsync does no harm."""
    (tmp_path / "a.txt").write_text("before")

    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EINVAL:
        write_text(tmp_path / "a.txt", "after")
    else:
        with pytest.raises(OutputError, match="Cannot write"):
            write_text(tmp_path / "a.txt", "after")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "a.txt": "after" if number == errno.EINVAL else "before"
    }


def test_a_file_appears_whole_with_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    with atomic(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
        assert temporary.parent == tmp_path and temporary.name.endswith(".nii.gz") and temporary.name.startswith(".")
    plain = tmp_path / "plain"
    plain.touch()

    assert path.read_bytes() == b"half"
    assert path.stat().st_mode == plain.stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "plain"]


@pytest.mark.parametrize("fault", [ValueError("mine"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_fault_leaves_the_old_file_and_nothing_else(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")

    with pytest.raises(OutputError if isinstance(fault, OSError) else type(fault)), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise fault

    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.EACCES, "no permission"), (errno.EROFS, "read-only"), (errno.ENOSPC, "disk is full"), (errno.EIO, "error")],
)
def test_the_system_speaks_plainly(tmp_path: Path, code: int, words: str) -> None:
    path = tmp_path / "t1ce.nii.gz"
    with pytest.raises(OutputError, match=words) as caught, atomic(path):
        raise OSError(code, os.strerror(code))

    assert str(path) in str(caught.value) and not list(tmp_path.iterdir())


def test_a_rename_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    (path / "inside").mkdir(parents=True)

    with pytest.raises(OutputError, match="folder of that name"):
        write_bytes(path, b"data")
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder does not exist"):
        write_bytes(tmp_path / "none" / "a.json", b"data")


def test_text_is_utf8_with_its_own_newlines(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", "größe\n1\r\n")

    assert (tmp_path / "a.csv").read_bytes() == "größe\n1\r\n".encode()


def test_ensure_folder_makes_parents_and_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"

    assert ensure_folder(folder) == folder and ensure_folder(folder) == folder
    assert not list(folder.iterdir())


def test_ensure_folder_refuses_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OutputError, match="file of that name"):
        ensure_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        ensure_folder(tmp_path / "file" / "below")


def test_ensure_folder_really_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        ensure_folder(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
