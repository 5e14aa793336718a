"""From a checkpoint's name to its file: the manifest, the weights in the package, and the user's own folders.

Three places are looked at, and the first that knows a name decides:

    the manifest             weights_manifest.yaml, with its files in mrsynth/weights/
    $MRSYNTH_WEIGHTS_DIR     folders, separated as in PATH; every *.safetensors in them is a checkpoint
    $MRSYNTH_HOME/weights    the same for one user

Nothing here loads torch or opens a socket.
"""

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from mrsynth.card import Card, ManifestEntry
from mrsynth.errors import WeightsError
from mrsynth.io.checkpoint import PICKLE_SUFFIXES, problems, read_header

PACKAGE = Path(__file__).resolve().parent.parent
MANIFEST = "weights_manifest.yaml"

log = logging.getLogger(__name__)


class Resolved(NamedTuple):
    """A checkpoint that was asked for: what is known of it, its file, and the SHA-256 of that file (hexadecimal)."""

    card: ManifestEntry | Card
    path: Path
    sha256: str


def manifest() -> list[ManifestEntry]:
    """The entries of the manifest in their order, from beside the package (a wheel) or else the repository root.

    Raises WeightsError when there is no manifest or when it is malformed, and names the entry and the key.
    """
    places = (PACKAGE / MANIFEST, PACKAGE.parent / MANIFEST)
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        raise WeightsError(f"No {MANIFEST}: looked for {places[0]} and {places[1]}. Install mrsynth again.")
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise WeightsError(f"Cannot read {path}: {error}. Correct it, or install mrsynth again.") from error
    if not isinstance(content, dict) or set(content) != {"weights"} or not isinstance(content["weights"], list):
        raise WeightsError(f"{path}: expected one key, 'weights', with a list. Correct it, or install mrsynth again.")
    entries: list[ManifestEntry] = []
    for number, fields in enumerate(content["weights"], start=1):
        entry = _entry(path, number, fields)
        if entry.name in {e.name for e in entries}:
            raise WeightsError(f"{path}, entry {number}: the name '{entry.name}' is taken. Names must be unique.")
        entries.append(entry)
    return entries


def available_entries() -> list[ManifestEntry]:
    """The manifest, then what lies in the user's folders by name of file; of two with one name the first stays.

    `file` of an entry from a folder is its absolute path. A file there that cannot be used, a second one of a name,
    and a folder that is not there, are logged as warnings: a foreign file must not stop everybody who shares a folder.
    Raises WeightsError as `manifest` does.
    """
    entries = {entry.name: entry for entry in manifest()}
    for folder in store_folders():
        if not folder.is_dir():
            log.warning("No folder of checkpoints at %s; check MRSYNTH_WEIGHTS_DIR and MRSYNTH_HOME.", folder)
            continue
        for path in sorted(folder.glob("*.safetensors")):
            try:
                card = read_header(path).card
            except WeightsError as error:
                log.warning("Left out: %s", error)
                continue
            if card.name in entries:
                log.warning("Left out: %s, because the name '%s' is taken; --weights PATH uses it.", path, card.name)
                continue
            entries[card.name] = _in_store(card, path)
    return list(entries.values())


def store_folders() -> list[Path]:
    """The folders of MRSYNTH_WEIGHTS_DIR, then `weights` in MRSYNTH_HOME if that is set and has it; absolute."""
    named = [Path(p).expanduser() for p in os.environ.get("MRSYNTH_WEIGHTS_DIR", "").split(os.pathsep) if p]
    home = os.environ.get("MRSYNTH_HOME")
    if home and (own := Path(home).expanduser() / "weights").is_dir():
        named.append(own)
    return list(dict.fromkeys(p.absolute() for p in named))


def locate(entry: ManifestEntry) -> Path:
    """The file of an entry, after its size and SHA-256 were found to be those of the manifest.

    Raises WeightsError when the file is missing, differs, or is not on this machine at all.
    """
    return _located(entry).path


def resolve(name_or_path: str) -> Resolved:
    """What `--weights` means: a name that `available_entries` knows, or the path of a .safetensors file.

    Raises WeightsError for an unknown name (and lists those known), and as `locate` and `read_header` do.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix == ".safetensors" or path.suffix.lower() in PICKLE_SUFFIXES or path.name != name_or_path:
        return Resolved(read_header(path).card, path.absolute(), sha256_of(path))
    entries = available_entries()
    entry = next((e for e in entries if e.name == name_or_path), None)
    if entry is not None:
        return _located(entry)
    if path.exists():
        return Resolved(read_header(path).card, path.absolute(), sha256_of(path))
    known = ", ".join(e.name for e in entries) or "none"
    raise WeightsError(
        f"No checkpoint is called '{name_or_path}'. Known: {known}. "
        "Give one of these, or the path of a .safetensors file."
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read as a stream. Raises WeightsError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"Cannot read {path}: {error.strerror}. Check the path and its permissions.") from error


def rows(entries: Iterable[ManifestEntry]) -> list[dict[str, str]]:
    """One row of text for each entry, as `weights list` shows them: name, method, makes, size, where, licence."""
    return [
        {
            "name": entry.name,
            "method": entry.method,
            "makes": entry.ability,
            "size": "" if entry.size is None else f"{entry.size / 1e6:.1f} MB",
            "where": _where(entry),
            "licence": entry.licence,
        }
        for entry in entries
    ]


def _entry(path: Path, number: int, fields: Any) -> ManifestEntry:
    where = f"{path}, entry {number}"
    if not isinstance(fields, dict):
        raise WeightsError(f"{where}: found a {type(fields).__name__}, expected keys and values.")
    where += f" ({fields['name']})" if "name" in fields else ""
    try:
        entry = ManifestEntry.model_validate(fields)
    except ValidationError as error:
        raise WeightsError(f"{where}: {problems(error)}. Correct it, or install mrsynth again.") from error
    if (entry.file is None) == (entry.repository is None):
        raise WeightsError(f"{where}: expected either the key 'file' or the key 'repository'.")
    needed = ("sha256", "size") if entry.file else ("pattern",)
    if absent := [key for key in needed if getattr(entry, key) is None]:
        raise WeightsError(f"{where}: the key '{absent[0]}' is missing.")
    return entry


def _in_store(card: Card, path: Path) -> ManifestEntry:
    """The entry of a file in a user's folder. It has no checksum: there is nothing to compare it with."""
    fields = {name: getattr(card, name) for name in Card.model_fields}
    return ManifestEntry(**fields, file=str(path), size=path.stat().st_size)


def _located(entry: ManifestEntry) -> Resolved:
    if entry.file is None:
        raise WeightsError(
            f"{entry.name} is not on this machine: it is published in {entry.repository}, and this version of mrsynth "
            "does not download. Choose a checkpoint that is here (`mrsynth weights list`), or put its .safetensors "
            "file into a folder named by MRSYNTH_WEIGHTS_DIR."
        )
    path = PACKAGE / "weights" / entry.file  # an absolute `file`, from a user's folder, stays what it is
    if not path.is_file():
        raise WeightsError(f"{entry.name}: expected its file at {path}, found none. {_repair(entry)}")
    size = path.stat().st_size
    if entry.size not in (None, size):
        raise WeightsError(f"{entry.name}: {path} has {size} bytes, expected {entry.size}. {_repair(entry)}")
    found = sha256_of(path)
    if entry.sha256 is not None and entry.sha256.lower() != found:
        raise WeightsError(
            f"{entry.name}: {path} is not the file it should be.\n"
            f"  sha256 found:    {found}\n  sha256 expected: {entry.sha256}\n{_repair(entry)}"
        )
    return Resolved(entry, path, found)


def _repair(entry: ManifestEntry) -> str:
    own = entry.file is not None and Path(entry.file).is_absolute()
    return "Copy the file there again." if own else "Install mrsynth again."


def _where(entry: ManifestEntry) -> str:
    if entry.file is None:
        return f"{entry.repository} (not on this machine)"
    return str(Path(entry.file).parent) if Path(entry.file).is_absolute() else "in the package"
