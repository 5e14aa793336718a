"""What several test files do with folders, errors, headers and axes."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

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


def commands_in(page: Path) -> list[str]:
    """The commands that a page of Markdown shows in its blocks of bash, one a line."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def raising(error: BaseException | type[BaseException]) -> Callable[..., NoReturn]:
    """A function that takes anything and raises `error`."""

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    return fail


def moved_fields(one: Any, other: Any) -> list[str]:
    """The fields of the NIfTI header in which two images differ as to where their voxels lie; none if they agree."""
    return [field for field in GEOMETRY if not np.array_equal(one.header[field], other.header[field])]


def turned() -> NDArray[np.float64]:
    """A rotation (3, 3) by up to 25 degrees about each axis."""
    turn = np.eye(3)
    for axis, degrees in enumerate((12, -25, 18)):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        step = np.eye(3)
        i, j = [a for a in range(3) if a != axis]
        step[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
        turn = turn @ step
    return turn
