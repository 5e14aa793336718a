"""`mrsynth weights clear`: downloads leave this machine; what cannot be downloaded again stays."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mrsynth.errors import OutputError, UsageError
from mrsynth.io.fetched import records
from mrsynth.io.hub import snapshots
from mrsynth.io.store import manifest, store_folder
from mrsynth.texts import meant


def clear(names: Sequence[str], *, dry_run: bool = False) -> tuple[list[Path], int]:
    """Remove fetched checkpoints and the hub's copies of them; what was removed, and its size in bytes.

    names   only these; none for all
    What `fetched.yaml` says of them stays, so that another file under an old name is noticed.
    Raises UsageError for a name that was not fetched, OutputError when something cannot be removed.
    """
    store = store_folder()
    fetched = records(store)
    if unknown := [name for name in names if name not in fetched]:
        raise UsageError(
            f"{unknown[0]} was not fetched, so it could not be fetched again. Fetched: "
            f"{', '.join(fetched) or 'nothing'}.{meant(unknown[0], fetched.keys())}"
        )
    chosen = list(names) or list(fetched)
    copies = {e.repository for e in manifest() if e.name in chosen and e.repository}
    paths = [store / f"{name}.safetensors" for name in chosen] + [snapshots(r).parent for r in sorted(copies)]
    there = [path for path in paths if path.exists()]
    size = sum(file.stat().st_size for path in there for file in files_of(path))
    try:
        for path in [] if dry_run else there:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        raise OutputError(f"Cannot remove {error.filename}: {error.strerror}. Check who owns it.") from error
    return there, size


def files_of(path: Path) -> list[Path]:
    """The file, or every file in the folder that is no link."""
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
