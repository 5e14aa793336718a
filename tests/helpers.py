"""What several test files do with folders, errors and headers."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

GEOMETRY = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)


def content(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, with the bytes of each file."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def touch(folder: Path, names: str | Iterable[str]) -> Path:
    """Empty files, .nii.gz where the name has no ending: for what is told by names only."""
    for name in names.split() if isinstance(names, str) else names:
        path = folder / (name if "." in Path(name).name else f"{name}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def raising(error: BaseException | type[BaseException]) -> Callable[..., NoReturn]:
    """A function that takes anything and raises `error`."""

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    return fail


def moved_fields(one: Any, other: Any) -> list[str]:
    """The fields of the NIfTI header in which two images differ as to where their voxels lie; none if they agree."""
    return [field for field in GEOMETRY if not np.array_equal(one.header[field], other.header[field])]
