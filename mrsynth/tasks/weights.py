"""`mrsynth weights`: what checkpoints there are. Loads no torch."""

import yaml

from mrsynth.io.weights import available_entries, locate, resolve, rows


def listing() -> list[dict[str, str]]:
    """One row of text per known checkpoint."""
    return rows(available_entries())


def card_text(name_or_path: str) -> str:
    """The card of a checkpoint as YAML, with its file and SHA-256."""
    found = resolve(name_or_path)
    card = found.card.model_dump(mode="json", exclude={"intensity"}, exclude_none=True)
    return yaml.safe_dump({**card, "path": str(found.path), "sha256": found.sha256}, sort_keys=False, allow_unicode=True)


def verify() -> list[str]:
    """One line per checkpoint on this machine. Raises WeightsError at the first that is missing or changed."""
    return [f"{entry.name}: {locate(entry)} is whole" for entry in available_entries() if entry.file is not None]
