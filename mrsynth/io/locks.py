"""One run at a time in a folder, and what killed runs left there is swept away.

A lock is held by the system on behalf of the process, so that it ends with it, however it ends. Where the file system
knows no locks, as some network drives do not, work goes on without one, and nothing is swept.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mrsynth.io.files import cannot_write

LOCK = ".mrsynth.lock"
LEFTOVER = re.compile(r"\.(partial-)?[0-9a-f]{16}(\.[A-Za-z0-9]{1,12}){0,2}")  # what `files` and `complete` write into
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
POLL = 0.05  # seconds between two attempts


@contextmanager
def locked(folder: Path, *, patience: float = 0, sweep: bool = True, name: str = LOCK) -> Iterator[bool]:
    """Hold a folder that exists alone; yields whether the file system knows locks.

    patience  how long to wait for another process that holds it, in seconds
    sweep     remove what killed runs left directly in it
    name      of the lock, where a folder has several
    Raises BlockingIOError when another process holds it still, OutputError when the folder cannot be written.
    """
    path = folder / name
    try:
        held = _acquired(path, time.monotonic() + patience)
    except BlockingIOError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    if held is None:
        yield False
        return
    try:
        if sweep:
            sweep_leftovers(folder)
        yield True
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: whoever opened it meanwhile sees that it is gone, and begins again
        os.close(held)


def sweep_leftovers(folder: Path) -> list[str]:
    """Remove temporary files and folders of runs that are dead, directly in `folder`; their names. Locks must be held.

    Only names of the form that mrsynth gives, and nothing that is a link.
    """
    swept = []
    for path in folder.iterdir():
        if LEFTOVER.fullmatch(path.name) is None or path.is_symlink():
            continue
        with suppress(OSError):
            if path.is_dir():
                if not path.name.startswith(".partial-"):
                    continue
                shutil.rmtree(path)
            else:
                path.unlink()
            swept.append(path.name)
    return swept


def _acquired(path: Path, deadline: float) -> int | None:
    """A file descriptor that holds the lock; None where there are no locks. Raises BlockingIOError, OSError."""
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(held)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(held)):
                    return held
            os.close(held)  # its last holder has removed it between our opening and locking it
            continue
        except BlockingIOError:
            os.close(held)
            if time.monotonic() >= deadline:
                raise
        except OSError as error:
            os.close(held)
            if error.errno in NO_LOCKS:
                with suppress(OSError):
                    path.unlink()
                return None
            raise
        time.sleep(POLL)


def _lock(descriptor: int) -> None:
    """Lock a file without waiting. Raises BlockingIOError when it is taken, OSError when there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError(*error.args) from error
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
