"""`mrsynth weights`: what checkpoints there are, and fetching published ones. Listing and checking load no torch."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from mrsynth.card import Card, ManifestEntry
from mrsynth.errors import WeightsError
from mrsynth.io import hub
from mrsynth.io.checkpoint import read_header
from mrsynth.io.data_sources import known_data
from mrsynth.io.fetched import RECORDS, Fetched, held, record, records
from mrsynth.io.files import atomic
from mrsynth.io.store import (
    Resolved,
    available_entries,
    error_map_file,
    locate,
    members_of,
    published_entry,
    require_kind,
    resolve,
    rows,
    sha256_of,
    writable_store,
)
from mrsynth.plain import Progress
from mrsynth.preference import is_at_hand
from mrsynth.reports.model_card import card_facts, card_page
from mrsynth.sampling import AXIAL, default_in_words
from mrsynth.tasks.checkpoints.former import outdated
from mrsynth.texts import meant

NARROWEST = 24  # characters for what a checkpoint makes, however narrow the terminal


def listing(width: int = 100) -> list[str]:
    """The known checkpoints as lines of text, under where they are; a last line says how to get those only published.

    width   characters of a line, which nothing but a long name or licence exceeds: what a checkpoint makes is wrapped
    """
    entries = available_entries()
    known = rows(entries)
    if not known:
        return ["No checkpoint is known."]
    columns = ("name", "method", "size", "licence")
    widths = {column: max(len(row[column]) for row in [*known, {c: c for c in columns}]) for column in columns}
    left = sum(widths.values()) + 2 * len(columns)

    def table(row: Mapping[str, str]) -> Iterator[str]:
        told = "  ".join(row[column].ljust(widths[column]) for column in columns)
        for i, part in enumerate(wrap(row["makes"], max(width - left, NARROWEST))):
            yield f"{told if i == 0 else ' ' * (left - 2)}  {part}"

    lines = list(table({column: column for column in (*columns, "makes")}))
    for where in dict.fromkeys(row["where"] for row in known):
        lines += ["", f"{where}:"]
        lines += [line for row in known if row["where"] == where for line in table(row)]
    if not all(is_at_hand(entry) for entry in entries):
        lines += ["", "Not on this machine: `mrsynth weights fetch NAME` gets it."]
    return lines


def facts() -> list[dict[str, Any]]:
    """The known checkpoints for programs: their cards without histograms and scores, and whether they are here."""
    left_out = {"intensity", "scores", "training_data"}
    return [
        {**entry.model_dump(mode="json", exclude=left_out, exclude_none=True), "at_hand": is_at_hand(entry)}
        for entry in available_entries()
    ]


def card_text(name_or_path: str) -> str:
    """The card of a checkpoint as YAML, with its file and SHA-256; of one that is only published, its entry."""
    return yaml.safe_dump(card_fields(name_or_path), sort_keys=False, allow_unicode=True)


def card_markdown(name_or_path: str) -> str:
    """The model card of a checkpoint as a page of Markdown."""
    card, _ = known_card(name_or_path)
    return card_page(card, known_data(card))


def known_card(name_or_path: str) -> tuple[Card, Resolved | None]:
    """The card of a checkpoint, and where it is on this machine; None of one only published. Raises WeightsError."""
    elsewhere = {entry.name: entry for entry in available_entries() if not is_at_hand(entry)}
    if name_or_path in elsewhere:
        return elsewhere[name_or_path], None
    found = resolve(name_or_path)
    return found.card, found


def card_fields(name_or_path: str) -> dict[str, Any]:
    """What `card_text` says, as plain data."""
    card, found = known_card(name_or_path)
    fields = card.model_dump(mode="json", exclude={"intensity"}, exclude_none=True)
    if card.planes == AXIAL:  # of whole volumes, of a committee, and of slices as usual
        del fields["planes"]
    if card.method == "committee":  # its members were trained, not it
        del fields["iterations"]
    fields["images"] = default_in_words(card.sampling)
    fields |= card_facts(card, known_data(card))
    if isinstance(card, ManifestEntry) and card.committee is not None:
        known = {"name", "licence", "sha256"}
        fields["members"] = [
            {**member.model_dump(include=known), "file": str(locate(member))} for member in members_of(card)
        ]
    elif found is not None:
        fields["file"] = str(found.path)
    if found is not None:
        fields["sha256"] = found.sha256
    return fields


def verify() -> list[str]:
    """One line per checkpoint on this machine. Raises WeightsError that tells of all that are missing or changed."""
    lines, problems = [], []
    for entry in available_entries():
        if entry.file is None and entry.error_map is None:  # on a hub; a committee's members are checked themselves
            continue
        try:
            path = error_map_file(entry) or locate(entry)
        except WeightsError as error:
            problems.append(str(error))
        else:
            known = (
                "is what it should be"
                if entry.sha256 or entry.error_map
                else "is there; no SHA-256 is known to compare it with"
            )
            lines.append(f"{entry.name}: {path} {known}")
    if problems:
        raise WeightsError("\n".join(problems))
    return lines


def at_hand(name: str) -> Path | None:
    """The verified file of a checkpoint on this machine; None when it is only published.

    Raises WeightsError when no checkpoint has this name, or when its file is damaged.
    """
    entry = known_entry(name)
    return locate(entry) if is_at_hand(entry) else None


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Bring a published checkpoint into the store, as NAME.safetensors, and give its path; `progress` counts megabytes.

    One that is on this machine already is left as it is and nothing is downloaded, unless mrsynth 0.1.0 converted it:
    then it is made anew. What is downloaded must have the
    SHA-256 of the manifest, and that of the first time it was fetched, which `fetched.yaml` in the store records.
    Raises WeightsError when it cannot be had or is another file, OutputError when the store cannot be written.
    """
    if (path := at_hand(name)) is not None and not outdated(read_header(path)):
        return path
    entry = published_entry(name) or known_entry(name)
    store = writable_store()
    with held(store, f"{name}.fetch"):
        if (path := at_hand(name)) is not None and not outdated(read_header(path)):
            return path  # another process was fetching it, too
        earlier = records(store).get(name)  # before the download: a record that cannot be read must not cost one
        downloaded = hub.download(entry, progress)
        check(entry, downloaded, earlier, store)
        path = stored(entry, downloaded, store)
        facts = {key: getattr(downloaded, key) for key in ("file", "revision", "sha256", "size")}
        record(store, name, Fetched(repository=entry.repository or "", stored_sha256=sha256_of(path), **facts))
        return path


def known_entry(name: str) -> ManifestEntry:
    """The entry of a name. Raises WeightsError that lists those known."""
    entries = {entry.name: entry for entry in available_entries()}
    if name not in entries:
        raise WeightsError(
            f"No checkpoint is called '{name}'. Known: {', '.join(entries) or 'none'}. A file of your own needs no "
            f"fetching: give its path to --weights, or run `mrsynth weights import`.{meant(name, entries.keys())}"
        )
    return entries[name]


def check(entry: ManifestEntry, downloaded: hub.Downloaded, earlier: Fetched | None, store: Path) -> None:
    """Raise WeightsError unless a download is the file of the manifest, and that of the first time."""
    what = f"{entry.name}: {downloaded.file} of {entry.repository} (commit {downloaded.revision[:12]})"
    if entry.sha256 is not None and entry.sha256.lower() != downloaded.sha256:
        raise WeightsError(
            f"{what} is not the file this version of mrsynth knows.\n  sha256 found:    {downloaded.sha256}\n"
            f"  sha256 expected: {entry.sha256}\nIt was not used. Look for a newer mrsynth."
        )
    if entry.size not in (None, downloaded.size):
        raise WeightsError(
            f"{what} has {downloaded.size} bytes, expected {entry.size}. It was not used. Look for a newer mrsynth."
        )
    if earlier is not None and earlier.sha256 != downloaded.sha256:
        raise WeightsError(
            f"{what} is not the file fetched before (commit {earlier.revision[:12]}).\n"
            f"  sha256 found:    {downloaded.sha256}\n  sha256 expected: {earlier.sha256}\nIt was not used. "
            f"If you know why it changed and want it, delete the entry '{entry.name}' in {store / RECORDS} and fetch "
            "again."
        )


def stored(entry: ManifestEntry, downloaded: hub.Downloaded, store: Path) -> Path:
    """A download as NAME.safetensors in the store: copied if mrsynth wrote it, else converted.

    Raises WeightsError when it is of another kind than the entry, or of none; OutputError.
    """
    if downloaded.path.suffix != ".safetensors":
        return converted(entry, downloaded)
    try:
        card = read_header(downloaded.path).card
    except WeightsError:  # tensors of the authors' own
        return converted(entry, downloaded)
    require_kind(entry, card, downloaded.path)
    path = store / f"{entry.name}.safetensors"
    with atomic(path) as temporary:
        shutil.copyfile(downloaded.path, temporary)
    return path


def converted(entry: ManifestEntry, downloaded: hub.Downloaded) -> Path:
    """A checkpoint as its authors published it, converted into the store. Raises WeightsError or OutputError."""
    from mrsynth.tasks.checkpoints.importing import import_checkpoint  # loads torch

    targets = list(entry.requires or ())
    return import_checkpoint(
        downloaded.path,
        method=entry.method,
        target=targets[0] if len(targets) == 1 else None,
        name=entry.name,
        licence=entry.licence,
        card=entry,
    )
