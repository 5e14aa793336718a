"""What a hub may answer. Its client makes file names of commits, ETags and paths, so each is checked before it does."""

import os
import re
from collections.abc import Iterator
from typing import Any

from mrsynth.errors import WeightsError

COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # SHA-1, or SHA-256
ETAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z_=+.-]{0,127}")  # what can only be one plain file name
SHA256 = re.compile(r"[0-9a-f]{64}")
LARGEST_FILE = 20 * 10**9  # bytes, of a file whose size was not announced
LARGEST_ANSWER = 32 * 10**6  # bytes, of what the hub says of a repository


def endpoint() -> str:
    """The address of the hub: HF_ENDPOINT, or Hugging Face."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_plain_path(name: Any) -> bool:
    """Whether this is the path of a file below a folder, and stays below it on every system."""
    if not isinstance(name, str) or not name.isprintable() or any(c in name for c in '\\:*?"<>|'):
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def untrusted(what: str, found: Any) -> WeightsError:
    """A server that says what no hub says: it may want to reach files that it has no business with."""
    return WeightsError(
        f"The server at {endpoint()} was not believed: {what} is {str(found)[:80]!r}, which no hub says. Nothing was "
        "downloaded. Check HF_ENDPOINT, and who runs that server."
    )


def check_answer(response: Any) -> None:
    """Raise WeightsError for an answer of which the client would make a path, or that may be larger than the memory.

    Called for each answer before the client sees it, those on the way to another address too.
    """
    commit = response.headers.get("x-repo-commit")
    if commit is not None and COMMIT.fullmatch(commit) is None:
        raise untrusted("the commit", commit)
    if response.request.method == "HEAD":
        for name in ("etag", "x-linked-etag"):
            etag = response.headers.get(name)
            if etag is not None and ETAG.fullmatch(etag.removeprefix("W/").strip('"')) is None:
                raise untrusted("the ETag", etag)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise untrusted("the content-encoding", response.headers["content-encoding"])
    if "/api/" in response.request.url.path or response.is_error:
        response.stream = bounded(response.stream, LARGEST_ANSWER)


def bounded(stream: Any, limit: int) -> Any:
    """The same stream of bytes; it raises WeightsError once it has given more than `limit`."""
    kind: Any = next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")  # of the HTTP library

    class Bounded(kind):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            seen = 0
            for part in stream:
                seen += len(part)
                if seen > limit:
                    raise untrusted("the length of the answer", f"more than {limit / 1e6:.0f} MB")
                yield part

        def close(self) -> None:
            stream.close()

    return Bounded()
