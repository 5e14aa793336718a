"""What a benchmark has finished, one small file per piece of work, so that a run can stop, go on, and be shared out."""

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mrsynth.errors import UsageError
from mrsynth.io.files import ensure_folder, write_text
from mrsynth.io.provenance import refuse_others
from mrsynth.io.reading import read_json
from mrsynth.io.yaml_files import read_yaml
from mrsynth.scores.rows import SCHEMA, Score

SETTINGS = "benchmark.yaml"
PIECES = "pieces"
WRITTEN = ("results.csv", "summary.json", "report.md", "report.html", "split.yaml")  # beside these two

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """One piece of work: what `method` makes of one subject."""

    subject: str
    method: str
    gap: str

    @property
    def filename(self) -> str:
        """Readable, and unlike that of any other piece, whatever the subject is called."""
        text = json.dumps([self.subject, self.method, self.gap])
        plain = re.sub(r"[^A-Za-z0-9.+-]+", "-", f"{self.subject}_{self.method}_{self.gap}")[:80]
        return f"{plain}_{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:10]}.json"


class PieceStore:
    """The finished pieces of work of a run folder.

    settings   everything that decides a score; a run folder holds results of one setting only
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, resume: bool):
        """Raises UsageError when the folder holds a benchmark of other settings, one that is not to be resumed, or
        files of others.
        """
        self.folder, self.outdated = out / PIECES, 0
        file = out / SETTINGS
        if file.exists():
            if not resume:
                raise UsageError(f"{out} already holds a benchmark. Give --resume to go on with it, or another --out.")
            before = _settings_in(file)
            if not isinstance(before, dict):
                raise UsageError(f"{file} is damaged. Give another --out.")
            if before.pop("schema", None) == SCHEMA:
                _refuse_others(before, settings, out)
        else:
            refuse_others(out, WRITTEN, lambda _: False)
        ensure_folder(self.folder)
        write_text(file, yaml.safe_dump({"schema": SCHEMA, **settings}, sort_keys=False, allow_unicode=True))

    def rows(self, piece: Piece) -> list[Score] | None:
        """What a finished piece gave; None when it is still to be done, or must be done again."""
        path = self.folder / piece.filename
        try:
            content = read_json(path)
            if content["schema"] == SCHEMA:
                return [Score.model_validate(row) for row in content["rows"]]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, ValidationError) as error:
            log.warning("%s cannot be read (%s); that piece is done again.", path, str(error).splitlines()[0])
            return None
        self.outdated += 1
        return None

    def finish(self, piece: Piece, rows: list[Score]) -> None:
        """Keep what a piece gave. Raises OutputError."""
        content = {"schema": SCHEMA, "rows": [_as_json(row) for row in rows]}
        write_text(self.folder / piece.filename, json.dumps(content, indent=0))


def _settings_in(file: Path) -> Any:
    try:
        return read_yaml(file)
    except (OSError, ValueError):
        return None


def _refuse_others(before: Mapping[str, Any], settings: Mapping[str, Any], out: Path) -> None:
    plain = yaml.safe_load(yaml.safe_dump(dict(settings)))
    wrong = [key for key in {**before, **plain} if before.get(key) != plain.get(key)]
    if wrong:
        told = "; ".join(f"{key} was {before.get(key)}, now {plain.get(key)}" for key in wrong[:3])
        raise UsageError(f"{out} holds a benchmark of other settings: {told}. Repeat those, or give another --out.")


def _as_json(row: Score) -> dict[str, Any]:
    """Plain JSON, which knows no infinity."""
    return {**row.model_dump(), "value": row.value if math.isfinite(row.value) else str(row.value)}
