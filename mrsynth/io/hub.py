"""The one door to a Hugging Face hub: from an entry of the manifest, or a repository's name, to what was published.

The hub is asked once what the repository holds; the files that are meant are then downloaded at that very commit,
into the cache that other programs use too. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean
to them, and are read when a download begins, not when Python does.

No token is sent, also not for somebody who is logged in: what the manifest names is public, and HF_ENDPOINT may be
anybody's server. No telemetry is sent either. huggingface_hub is imported inside functions: it takes a while.

A server is not believed. The client makes file names of its answers (commit, ETag, paths in the repository), so each is
checked before the client sees it; nothing outside the cache is written, read or deleted, and no answer is endless.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mrsynth.card import ManifestEntry
from mrsynth.errors import MrsynthError, WeightsError
from mrsynth.io.hub_answers import COMMIT, LARGEST_FILE, SHA256, check_answer, endpoint, is_plain_path, untrusted
from mrsynth.io.store import sha256_of
from mrsynth.plain import Progress

SUFFIXES = (".pt", ".safetensors")
MOST_RESTARTS = 5  # of a file from its first byte; the client alone would go on for ever
CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT}
FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Downloaded:
    """A file of a repository on this machine, in the cache of the hub's client.

    path      where it lies
    file      its path in the repository
    revision  the commit it was taken from
    sha256    of its bytes, hexadecimal
    size      in bytes
    """

    path: Path
    file: str
    revision: str
    sha256: str
    size: int


@dataclass(frozen=True)
class HubFile:
    """A file as the hub announces it; the SHA-256 is known for files in large-file storage."""

    file: str
    revision: str
    sha256: str | None
    size: int = LARGEST_FILE


def download(entry: ManifestEntry, progress: Progress | None = None) -> Downloaded:
    """The published file of an entry, downloaded unless the cache has that commit's; `progress` counts megabytes.

    With MRSYNTH_OFFLINE or HF_HUB_OFFLINE set no socket is opened, and only the cache is looked at.
    Raises WeightsError when the file cannot be had: no connection, no such repository or file, several files that
    match, a transfer that breaks off, bytes other than those announced. Nothing then lies under the file's name.
    """
    if offline():
        return from_cache(entry)
    repository = entry.repository or ""
    with explained(entry.name, repository, "run `mrsynth weights import`"):
        remote = look_up(entry)
        return obtain(entry.name, repository, remote, progress)


def download_files(
    repository: str, choose: Callable[[Iterable[str]], list[str]], then: str, progress: Progress | None = None
) -> Path:
    """The folder in the cache that holds some files of a repository, all of one commit; `progress` counts megabytes.

    choose  from the paths in the repository to those wanted; raises WeightsError when they are not all there
    then    what to do with files that were downloaded by other means, to end a sentence: "give the folder to ..."
    With MRSYNTH_OFFLINE or HF_HUB_OFFLINE set no socket is opened, and only the cache is looked at.
    Raises WeightsError as `download` does.
    """
    if offline():
        return folder_in_cache(repository, choose)
    name = repository.split("/")[-1]
    with explained(name, repository, then):
        info = described(name, repository)
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        wanted = [announced(info.sha, siblings[file]) for file in choose(siblings)]
        for remote in wanted:
            obtain(name, repository, remote, progress)
    return snapshots(repository) / str(info.sha)


def matching(entry: ManifestEntry, files: Iterable[str]) -> str:
    """The one checkpoint (.pt or .safetensors) among the paths of a repository that fits the entry's pattern.

    Raises WeightsError when none or several do, and says which files there are.
    """
    files = sorted(files)
    found = fitting(entry, files)
    if len(found) == 1:
        return found[0]
    seen = [f for f in files if is_checkpoint(f)] or files
    shown = ", ".join(seen[:20]) + (f" and {len(seen) - 20} more" if len(seen) > 20 else "")
    several = f"{len(found)} files can be meant ({', '.join(found)})" if found else "no file can be meant"
    raise WeightsError(
        f"{entry.name}: in {entry.repository} {several}; expected exactly one {' or '.join(SUFFIXES)} that matches "
        f"{entry.pattern!r}. Files seen: {shown or 'none'}. Download the right one yourself and run "
        f"`mrsynth weights import FILE --method {entry.method}`."
    )


def cache_folder() -> Path:
    """The folder the hub's client keeps downloads in: HF_HUB_CACHE, or `hub` in HF_HOME or in the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(user, "huggingface")
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(folder)).expanduser().absolute()


def offline() -> bool:
    """Whether the user has forbidden the network, with MRSYNTH_OFFLINE or HF_HUB_OFFLINE."""
    return bool(forbidden())


def forbidden() -> str:
    """The variable by which the user has forbidden the network; empty when there is none."""
    names = ("MRSYNTH_OFFLINE", "HF_HUB_OFFLINE")
    return next((name for name in names if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}), "")


def from_cache(entry: ManifestEntry) -> Downloaded:
    """The entry's file from the newest commit in the cache that has it. Raises WeightsError when none has."""
    for snapshot in newest_first(entry.repository or ""):
        files = files_below(snapshot)
        if fitting(entry, files):
            path = snapshot / matching(entry, files)
            return Downloaded(
                path, path.relative_to(snapshot).as_posix(), snapshot.name, sha256_of(path), path.stat().st_size
            )
    raise WeightsError(
        f"{entry.name} cannot be downloaded: {forbidden()} is set, and {cache_folder()} holds no file of "
        f"{entry.repository} for it. Unset {forbidden()}, or copy that cache from a machine that has it."
    )


def folder_in_cache(repository: str, choose: Callable[[Iterable[str]], list[str]]) -> Path:
    """The newest commit of a repository in the cache that holds what is wanted. Raises WeightsError when none does."""
    why: WeightsError | None = None
    for snapshot in newest_first(repository):
        try:
            choose(files_below(snapshot))
        except WeightsError as error:
            why = why or error
        else:
            return snapshot
    raise WeightsError(
        f"{repository} cannot be downloaded: {forbidden()} is set, and {cache_folder()} does not hold it"
        f"{f' whole. {why}' if why else '.'} Unset {forbidden()}, or copy that cache from a machine that has it."
    )


def snapshots(repository: str) -> Path:
    """The folder in the cache that has a folder for each commit of a repository."""
    return cache_folder() / "--".join(("models", *repository.split("/"))) / "snapshots"


def newest_first(repository: str) -> list[Path]:
    """The commits of a repository that are in the cache."""
    found = [p for p in snapshots(repository).glob("*") if p.is_dir()]
    return sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)


def files_below(folder: Path) -> list[str]:
    """The paths of all files below a folder, relative to it."""
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]


def fitting(entry: ManifestEntry, files: Iterable[str]) -> list[str]:
    """The checkpoints among the paths of a repository that fit the entry's pattern."""
    return [f for f in files if is_checkpoint(f) and re.search(entry.pattern or "", f, re.IGNORECASE)]


def is_checkpoint(file: str) -> bool:
    """Whether a path in a repository can be a checkpoint, by its suffix."""
    return PurePosixPath(file).suffix.lower() in SUFFIXES


def look_up(entry: ManifestEntry) -> HubFile:
    """What the hub has for an entry now. Raises WeightsError, or whatever the client raises."""
    info = described(entry.name, entry.repository or "")
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    return announced(info.sha, files[matching(entry, files)])


def announced(commit: str, sibling: Any) -> HubFile:
    """What the hub says of one file of a commit. Raises WeightsError when no hub would say that."""
    if not is_plain_path(sibling.rfilename):
        raise untrusted("the name of a file", sibling.rfilename)
    if sibling.lfs is not None and SHA256.fullmatch(str(sibling.lfs.sha256)) is None:
        raise untrusted("the SHA-256", sibling.lfs.sha256)
    size = LARGEST_FILE if sibling.size is None else int(sibling.size)
    return HubFile(sibling.rfilename, commit, None if sibling.lfs is None else sibling.lfs.sha256, size)


def described(what: str, repository: str) -> Any:
    """What the hub says of a repository now: `sha`, its commit, and `siblings`, its files.

    Raises WeightsError that begins with `what`, or whatever the client raises.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=endpoint(), token=False)
    try:
        info = api.model_info(repository, timeout=constants.HF_HUB_ETAG_TIMEOUT, files_metadata=True, token=False)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if getattr(error, "response", None) is not None:  # the client's name for HTTP 400 is a ValueError too
            raise
        raise WeightsError(
            f"{what} cannot be downloaded: what answers at {endpoint()} is no Hugging Face hub, or "
            f"{repository!r} is no repository's name ({type(error).__name__}). "
            "Check HF_ENDPOINT, and whether the network asks for a login."
        ) from error
    if info.sha is None:
        raise WeightsError(f"{what}: {repository} names no commit. Check HF_ENDPOINT ({endpoint()}).")
    if COMMIT.fullmatch(str(info.sha)) is None:
        raise untrusted("the commit", info.sha)
    return info


def transfer(what: str, repository: str, remote: HubFile, progress: Progress | None) -> Path:
    """Download one file into the cache, whole or not at all. Raises whatever the client raises."""
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            repository,
            remote.file,
            revision=remote.revision,
            cache_dir=cache_folder(),
            endpoint=endpoint(),
            token=False,
            tqdm_class=counter(f"downloading {what}, MB", progress, remote.size),
        )
    )


def obtain(what: str, repository: str, remote: HubFile, progress: Progress | None) -> Downloaded:
    """One file of a repository, in the cache, found to be the one that was announced.

    Raises WeightsError when it is not, or whatever the client raises. What came is then deleted; what lay in the cache
    before stays, and nothing outside the cache is touched.
    """
    cache = cache_folder().resolve()
    before = {blob.name for blob in (snapshots(repository).parent / "blobs").glob("*")}
    path = transfer(what, repository, remote, progress)
    content = path.resolve()
    if not content.is_relative_to(cache):
        raise WeightsError(
            f"{what}: {path} leads to {content}, outside the cache {cache}, so it was not used. Nothing was deleted. "
            "Remove that link, or set HF_HOME to another folder, and try again."
        )
    found = Downloaded(path, remote.file, remote.revision, sha256_of(path), path.stat().st_size)
    if remote.sha256 not in (None, found.sha256):
        path.unlink(missing_ok=True)  # else the cache would give the same bytes again
        if content.name not in before or content.name == remote.sha256:
            content.unlink(missing_ok=True)
        raise WeightsError(
            f"{what}: what came for {found.file} of {repository} is not what the hub announced.\n"
            f"  sha256 found:    {found.sha256}\n  sha256 expected: {remote.sha256}\nIt was deleted; try again."
        )
    return found


@contextmanager
def explained(what: str, repository: str, then: str) -> Iterator[None]:
    """Inside, the client is `private`, and its errors become WeightsErrors; `then` says how to go on without it."""
    try:
        with private():
            yield
    except (MrsynthError, MemoryError):
        raise
    except Exception as error:  # nothing in there is ours; and the client has changed its HTTP library twice
        raise WeightsError(
            f"{what} cannot be downloaded from {repository} at {endpoint()}: {reason(error, then)}"
        ) from error


@contextmanager
def private() -> Iterator[None]:
    """Inside, the client tells nobody about this machine, speaks plain HTTP, and sees checked answers only.

    Xet, its other protocol, is left aside: it brings its own network stack, with other time-outs and other errors.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import _http

    wanted = {"HF_HUB_DISABLE_TELEMETRY": True, "HF_HUB_DISABLE_XET": True}
    before = {name: getattr(constants, name) for name in wanted}
    usual = _http._GLOBAL_CLIENT_FACTORY  # the library gives no other way to put it back

    def watched() -> Any:
        client = usual()
        client.headers["Accept-Encoding"] = "identity"  # few bytes could unpack into many
        client.event_hooks = {**client.event_hooks, "response": [*client.event_hooks.get("response", ()), check_answer]}
        return client

    try:
        for name, value in wanted.items():
            setattr(constants, name, value)
        set_client_factory(watched)
        yield
    finally:
        set_client_factory(usual)
        for name, value in before.items():
            setattr(constants, name, value)


def counter(what: str, progress: Progress | None, size: int = LARGEST_FILE) -> type[Any]:
    """A class that stands in for the client's progress bar: it draws nothing, and tells `progress` of megabytes.

    size  of the file in bytes, as announced; a server that sends more is cut off
    """

    class Counter:
        def __init__(self, *, total: int | None = None, initial: int = 0, **_: Any):
            self.total, self.done, self.restarts = total or 0, initial, 0

        def __enter__(self) -> "Counter":
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def update(self, count: int) -> None:
            """`count` more bytes have come; a negative number gives up those that must come again."""
            self.restarts += count < 0
            if self.restarts > MOST_RESTARTS:
                raise ConnectionAbortedError(f"began again {self.restarts} times")
            self.done += count
            if self.done > size:
                raise untrusted("the length of a file", f"more than the {size} bytes announced")
            if progress is not None:
                total = max(1, round(self.total / 1e6))
                progress(what, min(total, round(self.done / 1e6)), total)

    return Counter


def reason(error: BaseException, then: str) -> str:
    """What went wrong and what to do, in words, from an exception of the client and those behind it.

    then  how to use a file that was downloaded in a browser
    """
    chain = [error]
    while (behind := chain[-1].__cause__ or chain[-1].__context__) is not None and behind not in chain:
        chain.append(behind)
    kinds = {kind.__name__ for e in chain for kind in type(e).__mro__}  # names: the classes differ between versions
    numbers = {e.errno for e in chain if isinstance(e, OSError)}
    answers = [answer for e in chain if (answer := getattr(e, "response", None)) is not None]
    if answers:
        return refusal(answers[0].status_code, kinds, then)
    if "OfflineModeIsEnabled" in kinds:
        return "huggingface_hub was started offline. Unset HF_HUB_OFFLINE and run again."
    if numbers & FULL:
        return f"the disk or your quota is full at {cache_folder()}. Free some space, or set HF_HOME to another folder."
    if kinds & {"Timeout", "TimeoutException", "TimeoutError"}:
        return "the server does not answer in time. Try again later; HF_HUB_DOWNLOAD_TIMEOUT (seconds) waits longer."
    if kinds & {"ConnectError", "ProxyError", "ConnectionRefusedError", "gaierror"}:
        return "there is no connection to it. Check the network, HTTPS_PROXY and HF_ENDPOINT, and try again."
    if "FileMetadataError" in kinds:
        return "the answer lacks the commit or the ETag of a hub's file. Check HF_ENDPOINT, and any proxy in between."
    if kinds & {"TransportError", "RequestException", "ConnectionError"} or "Consistency check" in str(error):
        return "the transfer broke off before the file was whole. Check the connection and run it again."
    if numbers & CANNOT_WRITE:
        return f"its cache {cache_folder()} cannot be written. Set HF_HOME to a folder where it can."
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no more is known'}."
    )


def refusal(status: int, kinds: set[str], then: str) -> str:
    """What an HTTP status means here, and what to do."""
    if status in (401, 403):
        return (
            f"it refuses access (HTTP {status}), which is also its answer for a repository that does not exist; "
            f"expected a public one. Download the file in a browser where you have access, and {then}."
        )
    if status == 404:
        missing = "the file was listed but is" if "EntryNotFoundError" in kinds else "the repository is"
        return f"{missing} not there (HTTP 404). It may have moved: look for a newer mrsynth, or try again later."
    if status == 429:
        return "it has had too many requests from here (HTTP 429). Wait some minutes and try again."
    return f"it answers with HTTP {status}, expected the file. Try again later."
