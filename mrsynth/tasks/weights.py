"""`mrsynth weights`: what checkpoints there are. Loads no torch."""

import yaml

from mrsynth.errors import WeightsError
from mrsynth.io.weights import available_entries, locate, resolve, rows


def listing() -> list[str]:
    """A table of the known checkpoints, as lines of text."""
    known = rows(available_entries())
    if not known:
        return ["No checkpoint is known."]
    table = [list(known[0]), *(list(row.values()) for row in known)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in table]


def card_text(name_or_path: str) -> str:
    """The card of a checkpoint as YAML, with its file and SHA-256; of one that is only published, its entry."""
    elsewhere = {entry.name: entry for entry in available_entries() if entry.file is None}
    found = None if name_or_path in elsewhere else resolve(name_or_path)
    card = elsewhere[name_or_path] if found is None else found.card
    fields = card.model_dump(mode="json", exclude={"intensity"}, exclude_none=True)
    if found is not None:
        fields |= {"file": str(found.path), "sha256": found.sha256}
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def verify() -> list[str]:
    """One line per checkpoint on this machine. Raises WeightsError that tells of all that are missing or changed."""
    lines, problems = [], []
    for entry in available_entries():
        if entry.file is None:
            continue
        try:
            path = locate(entry)
        except WeightsError as error:
            problems.append(str(error))
        else:
            known = "is what it should be" if entry.sha256 else "is there; no SHA-256 is known to compare it with"
            lines.append(f"{entry.name}: {path} {known}")
    if problems:
        raise WeightsError("\n".join(problems))
    return lines
