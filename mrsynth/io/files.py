"""The one door through which results reach the disk: whole, or not at all."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mrsynth.errors import NotWritable, OutputError, UsageError

OUT = "choose another output folder with --out"
WHY = {  # {elsewhere}: what to do to write to another place
    errno.EACCES: "no permission to write there; {elsewhere} or change its permissions",
    errno.EPERM: "no permission to write there; {elsewhere} or change its permissions",
    errno.EROFS: "the file system is read-only; {elsewhere}",
    errno.ENOSPC: "the disk is full; free some space or {elsewhere}",
    errno.EDQUOT: "your disk quota is used up; free some space or {elsewhere}",
    errno.ENOENT: "the folder does not exist; create it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder; {elsewhere}",
    errno.EEXIST: "a file of that name is in the way; {elsewhere}",
    errno.EISDIR: "a folder of that name is in the way; remove or rename it",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
}
NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS}
NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS}


def path_of(what: str, given: object) -> Path:
    """A path that a program gave, `~` read as the home folder. Raises UsageError for what is none; `what` names it."""
    if not isinstance(given, str | os.PathLike) or not isinstance(name := os.fspath(given), str):
        raise UsageError(f"{what} is of type {type(given).__name__}; expected a path: str or Path.")
    if not name or "\0" in name:
        raise UsageError(f"{what} is {name!r}; expected a path.")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # of whose home nothing is known
        raise UsageError(f"{what} is {name!r}: there is no such user, so no home folder. Write it out.") from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same suffix; rename it to `path` if the block succeeds.

    The content is on the disk before the name is, and the name when this ends, in case the power fails then.
    Whatever ends the block early, the temporary file is removed and `path` is as it was before.
    Raises OutputError in place of an OSError.
    """
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    temporary = path.with_name(f".{secrets.token_hex(8)}{suffix}")
    try:
        temporary.touch(exist_ok=False)  # asks for the permission before the work is done
        yield temporary
        to_disk(temporary)
        os.replace(temporary, path)
        to_disk(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file. Raises OutputError, and then leaves what was there before."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file, newlines as given. Raises OutputError, and then leaves what was there before.

    A letter that is none, of a file name that is not in UTF-8, is written as `\\udcfc`: work is never lost to a name.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk. Raises OSError for a file that cannot be."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # Windows opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder and error.errno not in NO_FSYNC:  # some network drives cannot do it to a folder, and some at all
            raise
    finally:
        os.close(descriptor)


def ensure_folder(path: Path, elsewhere: str = OUT) -> Path:
    """Create a folder and its parents if need be, and make sure that a file can be written into it.

    elsewhere  how another folder is named, for the message
    Raises OutputError: better now than after the synthesis.
    """
    probe = path / f".{secrets.token_hex(8)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"mrsynth")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error, elsewhere) from error
    return path


def cannot_write(path: Path, error: OSError, elsewhere: str = OUT) -> OutputError:
    """What the system said of a place where something cannot be written, in the words of someone who has to mend it."""
    why = WHY.get(error.errno or 0, error.strerror or str(error)).replace("{elsewhere}", elsewhere)
    kind = NotWritable if error.errno in NOT_OURS else OutputError
    return kind(f"Cannot write {path}: {why}.")
