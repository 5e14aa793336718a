"""Checkpoints that mrsynth 0.1.0 made of published weights and that would be made otherwise today. Loads no torch."""

import re
from pathlib import Path

from mrsynth.io.checkpoint import Header
from mrsynth.io.fetched import records

CONVERTED = re.compile(r"Converted from (?P<file>.+) \(sha256 [0-9a-f]{64}\)")  # in the note of a card


def outdated(header: Header) -> bool:
    """Whether it samples published weights in few steps with a variance that belongs to the whole chain."""
    config, steps = header.config, header.card.sampling.get("steps")
    beta = (config.get("sampler"), config.get("variance")) == ("ddpm", "beta")
    few = steps is not None and steps < config.get("T", 0)
    return header.format == 1 and beta and few and CONVERTED.match(header.card.note) is not None


def import_again(header: Header, path: Path) -> str:
    """The command that makes it anew: fetching what was fetched, else importing the file it came from."""
    if path.stem in records(path.parent):
        return f"mrsynth weights fetch {path.stem}"
    match = CONVERTED.match(header.card.note)
    file = match["file"] if match else "FILE"
    quoted = f"'{file}'" if re.search(r"[^\w.+-]", file) else file
    target = next(iter(header.card.requires or ()), "TARGET")
    return f"mrsynth weights import {quoted} --method {header.card.method} --target {target} --name {path.stem}"
