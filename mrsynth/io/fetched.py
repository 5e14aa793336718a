"""Where the checkpoints of a folder came from: `fetched.yaml` beside them, and the lock under which it is written."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from pydantic import ValidationError

from mrsynth.errors import OutputError, WeightsError
from mrsynth.io.checkpoint import problems
from mrsynth.io.files import write_text
from mrsynth.io.locks import locked
from mrsynth.io.yaml_files import read_yaml
from mrsynth.plain import Plain

RECORDS = "fetched.yaml"
PLAIN_NAME = re.compile(r"\w[\w.+-]{0,200}")  # of a checkpoint on record: it becomes that of a file
PATIENCE = 600  # seconds to wait for another process that writes a checkpoint: large ones take a while


class Fetched(Plain):
    """Where a checkpoint in the store came from.

    sha256, size   of the file as it was downloaded, hexadecimal and in bytes; a later fetch must find the same
    stored_sha256  of NAME.safetensors, which differs from it after a conversion
    """

    repository: str
    file: str
    revision: str
    sha256: str
    size: int
    stored_sha256: str


def records(folder: Path) -> dict[str, Fetched]:
    """What `fetched.yaml` in a folder of checkpoints says, by name; empty without one. Raises WeightsError."""
    path = folder / RECORDS
    try:
        content = read_yaml(path) or {}
        found = {str(name): Fetched.model_validate(fields) for name, fields in dict(content).items()}
        if (wrong := next((name for name in found if not PLAIN_NAME.fullmatch(name)), None)) is None:
            return found
        wrong = f"{wrong!r} is no name of a checkpoint"
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        wrong = problems(error)
    except (OSError, TypeError, ValueError) as error:
        wrong = str(error)
    raise WeightsError(f"Cannot use {path}: {wrong}. Correct it, or delete it and what was fetched beside it.")


def record(folder: Path, name: str, fetched: Fetched) -> None:
    """Note in a folder's `fetched.yaml` where NAME.safetensors came from, beside what others note there.

    Raises WeightsError or OutputError.
    """
    with held(folder, RECORDS):
        everything = {**records(folder), name: fetched}
        plain = {key: everything[key].model_dump() for key in sorted(everything)}
        write_text(folder / RECORDS, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


@contextmanager
def held(folder: Path, file: str) -> Iterator[None]:
    """Inside, no other process changes this file of a folder of checkpoints. Raises OutputError when one will not end.

    Temporary files of other names are not swept: others may be writing them.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, patience=PATIENCE, sweep=False, name=f".{file}.lock"))
        except BlockingIOError as error:
            raise OutputError(
                f"Another mrsynth has been writing {folder / file} for {PATIENCE} s. Wait until it has ended, and try "
                "again."
            ) from error
        yield
