"""From a checkpoint's name to its file: the manifest, the weights in the package, and the user's own folders.

Three places are looked at, and the first that knows a name decides:

    the manifest             weights_manifest.yaml, with its files in mrsynth/weights/
    $MRSYNTH_WEIGHTS_DIR     folders, separated as in PATH; every *.safetensors in them is a checkpoint
    the store                $MRSYNTH_HOME/weights, else ~/.cache/mrsynth/weights: what was fetched or imported

A checkpoint that the manifest knows as published on a hub is at hand once NAME.safetensors lies in one of the folders.
`fetched.yaml` beside it says where it came from, with the SHA-256 of what was downloaded and of what was stored.

Nothing here loads torch or opens a socket.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from mrsynth.card import Card, Committee, ErrorFile, ManifestEntry
from mrsynth.errors import WeightsError
from mrsynth.io.checkpoint import PICKLE_SUFFIXES, Header, problems, read_header
from mrsynth.io.fetched import records
from mrsynth.io.files import ensure_folder
from mrsynth.io.yaml_files import read_own_yaml
from mrsynth.sampling import AXIAL
from mrsynth.texts import meant

PACKAGE = Path(__file__).resolve().parent.parent
MANIFEST = "weights_manifest.yaml"

log = logging.getLogger(__name__)


class Resolved(NamedTuple):
    """A checkpoint that was asked for: what is known of it, its file, and the SHA-256 of that file (hexadecimal).

    Of a committee the file is that of its leader: `located`.
    """

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
        content = read_own_yaml(path)
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
    return [_with_members(path, entry, entries) if entry.committee else entry for entry in entries]


def published_entry(name: str) -> ManifestEntry | None:
    """What the manifest says of a published checkpoint, whether or not it is at hand; None where it knows none."""
    return next((entry for entry in manifest() if entry.name == name and entry.repository is not None), None)


def available_entries() -> list[ManifestEntry]:
    """The manifest, then what lies in the user's folders by name of file; of two with one name the first stays.

    `file` of an entry from a folder is its absolute path, and so it is of a published one that was fetched. A file
    there that cannot be used, a second one of a name, and a folder that is not there, are logged as warnings: a foreign
    file must not stop everybody who shares a folder. Raises WeightsError as `manifest` does.
    """
    entries = {entry.name: entry for entry in manifest()}
    for folder in store_folders():
        if not folder.is_dir():
            log.warning("No folder of checkpoints at %s; check MRSYNTH_WEIGHTS_DIR and MRSYNTH_HOME.", folder)
            continue
        for path in sorted(folder.glob("*.safetensors")):
            try:
                header = read_header(path)
                card = header.card
                listed = entries.get(path.stem)
                if listed is not None and listed.file is None:
                    entries[path.stem] = as_at_hand(listed, header, path)
                    continue
            except WeightsError as error:
                log.warning("Left out: %s", error)
                continue
            if card.name in entries:
                log.warning("Left out: %s, because the name '%s' is taken; --weights PATH uses it.", path, card.name)
                continue
            entries[card.name] = _in_store(card, path)
    return list(entries.values())


def as_at_hand(entry: ManifestEntry, header: Header, path: Path) -> ManifestEntry:
    """A published entry once its file is `path`: the manifest's facts, the SHA-256 on record, the size as it is.

    One that mrsynth 0.1.0 converted is sampled as that did. Raises WeightsError as `require_kind` does, and when the
    record is malformed.
    """
    require_kind(entry, header.card, path)
    if header.format == 1:
        entry = entry.model_copy(update={"sampling": header.card.sampling})
    known = records(path.parent).get(entry.name)
    sha256 = known.stored_sha256 if known is not None else None
    return entry.model_copy(update={"file": str(path), "sha256": sha256, "size": path.stat().st_size})


def require_kind(entry: ManifestEntry, card: Card, path: Path) -> None:
    """Raise WeightsError unless the `card` in the file `path` is of the entry's method and contrasts."""
    if (card.method, card.contrasts) != (entry.method, entry.contrasts):
        raise WeightsError(
            f"{path}: found a checkpoint of {card.method} for {', '.join(card.contrasts)}, expected {entry.name}, of "
            f"{entry.method} for {', '.join(entry.contrasts)}. It is not used under this name; --weights PATH uses it."
        )


def store_folders() -> list[Path]:
    """The folders of MRSYNTH_WEIGHTS_DIR, then the store if it exists; absolute, each once."""
    named = [Path(p).expanduser() for p in os.environ.get("MRSYNTH_WEIGHTS_DIR", "").split(os.pathsep) if p]
    if (own := store_folder()).is_dir():
        named.append(own)
    return list(dict.fromkeys(p.absolute() for p in named))


def store_folder() -> Path:
    """Where fetched and imported checkpoints are kept; absolute. It need not exist.

    `weights` in MRSYNTH_HOME; without that `mrsynth/weights` in the user's cache, XDG_CACHE_HOME or ~/.cache.
    """
    if home := os.environ.get("MRSYNTH_HOME"):
        return Path(home).expanduser().absolute() / "weights"
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the XDG specification: a relative path there is to be ignored
        cache = Path(os.path.expanduser("~")).absolute() / ".cache"
    return cache / "mrsynth" / "weights"


def writable_store() -> Path:
    """The store, created if need be. Raises OutputError when nothing can be written there, and says what to do."""
    return ensure_folder(store_folder(), "keep checkpoints elsewhere (MRSYNTH_HOME names another folder)")


def members_of(entry: ManifestEntry, entries: Sequence[ManifestEntry] | None = None) -> list[ManifestEntry]:
    """The entries of a committee's members, in its order; none of any other entry. Raises WeightsError.

    entries   those of `manifest`, where they have been read already
    """
    if entry.committee is None:
        return []
    known = {e.name: e for e in (manifest() if entries is None else entries) if e.committee is None}
    if unknown := [member.name for member in entry.committee.members if member.name not in known]:
        raise WeightsError(f"{entry.name} is a committee of {unknown[0]}, which no entry of {MANIFEST} is called.")
    return [known[member.name] for member in entry.committee.members]


def locate(entry: ManifestEntry) -> Path:
    """The file of an entry, after its size and SHA-256 were found to be those of the manifest.

    Raises WeightsError when the file is missing, differs, or is not on this machine at all.
    """
    return located(entry).path


def located(entry: ManifestEntry, entries: Sequence[ManifestEntry] | None = None) -> Resolved:
    """The same, with the SHA-256 that was found; `entries` as in `members_of`.

    A committee has no file of its own: all its members are checked, and its error map; the path is that of its leader,
    and the SHA-256 that of a text with a line for each, SHA-256, weight and any other planes than the axial, and the
    brightness rule in the last.
    """
    if entry.committee is not None:
        found = [located(member) for member in members_of(entry, entries)]
        whole = _sum_of(entry.committee, [one.sha256 for one in found])
        error_map_file(entry)
        return Resolved(entry, found[entry.committee.leader].path, whole)
    if entry.file is None:
        raise WeightsError(
            f"{entry.name} is not on this machine: it is published in {entry.repository}. Run "
            f"`mrsynth weights fetch {entry.name}` (or give --fetch to `mrsynth complete`) to download it, or choose a "
            "checkpoint that is here (`mrsynth weights list`)."
        )
    return Resolved(entry, *_checked(entry, entry, "its file"))


def error_map_file(entry: ManifestEntry | Card) -> Path | None:
    """The error map of a committee, checked as `located` does; None where it has none."""
    if not isinstance(entry, ManifestEntry) or entry.error_map is None:
        return None
    return _checked(entry, entry.error_map, "its error map")[0]


def _checked(entry: ManifestEntry, file: ManifestEntry | ErrorFile, what: str) -> tuple[Path, str]:
    """The path of a file and its SHA-256. Raises WeightsError unless it is what the manifest says."""
    path = PACKAGE / "weights" / str(file.file)  # an absolute `file`, from a user's folder, stays what it is
    if not path.is_file():
        raise WeightsError(f"{entry.name}: expected {what} at {path}, found none. {_repair(entry)}")
    size = path.stat().st_size
    if file.size not in (None, size):
        raise WeightsError(f"{entry.name}: {path} has {size} bytes, expected {file.size}. {_repair(entry)}")
    digest = sha256_of(path)
    if file.sha256 is not None and file.sha256.lower() != digest:
        raise WeightsError(
            f"{entry.name}: {path} is not the file it should be.\n"
            f"  sha256 found:    {digest}\n  sha256 expected: {file.sha256}\n{_repair(entry)}"
        )
    return path, digest


def resolve(name_or_path: str, entries: Sequence[ManifestEntry] | None = None) -> Resolved:
    """What `--weights` means: a name that `available_entries` knows, or the path of a .safetensors file.

    entries   those of `available_entries`, where they have been read already

    Raises WeightsError for an unknown name (and lists those known), and as `locate` and `read_header` do.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix == ".safetensors" or path.suffix.lower() in PICKLE_SUFFIXES or path.name != name_or_path:
        return Resolved(read_header(path).card, path.absolute(), sha256_of(path))
    entries = available_entries() if entries is None else entries
    entry = next((e for e in entries if e.name == name_or_path), None)
    if entry is not None:
        return located(entry, entries)
    if path.exists():
        return Resolved(read_header(path).card, path.absolute(), sha256_of(path))
    known = ", ".join(e.name for e in entries) or "none"
    raise WeightsError(
        f"No checkpoint is called '{name_or_path}'. Known: {known}. "
        f"Give one of these, or the path of a .safetensors file.{meant(name_or_path, [e.name for e in entries])}"
    )


class Stock:
    """The checkpoints at hand, looked at once for many subjects: the manifest is read, and each file hashed, once."""

    def __init__(self) -> None:
        self.entries = available_entries()
        self._found: dict[str, Resolved] = {}

    def located(self, entry: ManifestEntry) -> Resolved:
        """As `located` does."""
        if entry.name not in self._found:
            self._found[entry.name] = located(entry, self.entries)
        return self._found[entry.name]

    def expected_sha256(self, entry: ManifestEntry) -> str:
        """The SHA-256 of `located` as far as it is on record; only a user's own file is read for it."""
        if entry.committee is not None:
            members = members_of(entry, self.entries)
            return _sum_of(entry.committee, [self.expected_sha256(member) for member in members])
        return entry.sha256.lower() if entry.sha256 is not None else self.located(entry).sha256

    def resolve(self, name_or_path: str) -> Resolved:
        """As `resolve` does."""
        if name_or_path not in self._found:
            self._found[name_or_path] = resolve(name_or_path, self.entries)
        return self._found[name_or_path]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read as a stream. Raises WeightsError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"Cannot read {path}: {error.strerror}. Check the path and its permissions.") from error


def rows(entries: Iterable[ManifestEntry]) -> list[dict[str, str]]:
    """One row of text for each entry, as `weights list` shows it: name, method, makes, size, where, licence."""
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


def _sum_of(committee: Committee, sums: Sequence[str]) -> str:
    lines = [
        " ".join([found, f"{member.weight:g}", *([] if member.planes == AXIAL else member.planes)])
        for found, member in zip(sums, committee.members, strict=True)
    ]
    return hashlib.sha256("\n".join([*lines, committee.brightness]).encode()).hexdigest()


def _entry(path: Path, number: int, fields: Any) -> ManifestEntry:
    where = f"{path}, entry {number}"
    if not isinstance(fields, dict):
        raise WeightsError(f"{where}: found a {type(fields).__name__}, expected keys and values.")
    where += f" ({fields['name']})" if "name" in fields else ""
    try:
        entry = ManifestEntry.model_validate(fields)
    except ValidationError as error:
        raise WeightsError(f"{where}: {problems(error)}. Correct it, or install mrsynth again.") from error
    if sum(given is not None for given in (entry.file, entry.repository, entry.committee)) != 1:
        raise WeightsError(f"{where}: expected either the key 'file' or the key 'repository', or 'committee'.")
    needed = () if entry.committee else ("sha256", "size") if entry.file else ("pattern",)
    if absent := [key for key in needed if getattr(entry, key) is None]:
        raise WeightsError(f"{where}: the key '{absent[0]}' is missing.")
    try:
        re.compile(entry.pattern or "")
    except re.error as error:
        raise WeightsError(
            f"{where}: the key 'pattern' is {entry.pattern!r}, expected a regular expression: {error}."
        ) from error
    return entry


def _with_members(path: Path, entry: ManifestEntry, entries: Sequence[ManifestEntry]) -> ManifestEntry:
    """A committee with what its members say: their training data, once each. Raises WeightsError for one that cannot be
    averaged: a file of its own, the same contrasts, a mean in one call and the planes it has there are asked of each.
    """
    members = members_of(entry, entries)
    planes = {one.name: set(one.planes) for one in (entry.committee.members if entry.committee else ())}
    for member in members:
        sound = member.file is not None and member.contrasts == entry.contrasts
        if not sound or "mean" not in member.sampling.get("modes", ()) or not planes[member.name] <= set(member.planes):
            raise WeightsError(
                f"{path}: {member.name} cannot be of the committee {entry.name}: expected a file, the contrasts "
                f"{', '.join(entry.contrasts)}, the mode mean and planes that it learnt. Correct it, or install "
                "mrsynth again."
            )
    every = sorted((s for member in members for s in member.training_data), key=lambda source: source.subjects)
    sources = {source.name: source for source in every}  # the most of each, since members share their subjects
    return entry.model_copy(update={"training_data": tuple(sources.values())})


def _in_store(card: Card, path: Path) -> ManifestEntry:
    """The entry of a file in a user's folder. It has no checksum: there is nothing to compare it with."""
    fields = {name: getattr(card, name) for name in Card.model_fields}
    return ManifestEntry(**fields, file=str(path), size=path.stat().st_size)


def _repair(entry: ManifestEntry) -> str:
    if entry.repository is not None:
        return f"Delete the file and run `mrsynth weights fetch {entry.name}`."
    own = entry.file is not None and Path(entry.file).is_absolute()
    return "Copy the file there again." if own else "Install mrsynth again."


def _where(entry: ManifestEntry) -> str:
    if entry.committee is not None:
        return f"Made of {len(entry.committee.members)} others"
    if entry.file is None:
        return f"{entry.repository} (not on this machine)"
    return str(Path(entry.file).parent) if Path(entry.file).is_absolute() else "In the package"
