"""What several test files do with folders, errors, memory, headers and axes."""

import re
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.scans.volume import Volume

GEOMETRY = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)

# How four vendors name and time the series of an examination: description, TR, TE, TI in ms, agent, contrast.
VENDORS: dict[str, list[tuple[str, float, float, float | None, str, Contrast]]] = {
    "siemens": [
        ("t1_mprage_sag_p2_iso", 2300, 2.9, 900, "", Contrast.T1),
        ("t1_mprage_sag_p2_iso_KM", 2300, 2.9, 900, "Gadovist", Contrast.T1CE),
        ("t2_tse_tra", 6000, 100, None, "", Contrast.T2),
        ("t2_tirm_tra_dark-fluid", 9000, 85, 2500, "", Contrast.FLAIR),
    ],
    "ge": [
        ("Ax T1 FSPGR", 8.2, 3.2, 450, "", Contrast.T1),
        ("Ax T1 FSPGR +C", 8.2, 3.2, 450, "", Contrast.T1CE),
        ("Ax T2 FRFSE", 4500, 102, None, "", Contrast.T2),
        ("Ax T2 FLAIR", 9500, 120, 2300, "", Contrast.FLAIR),
    ],
    "philips": [
        ("T1W_3D_TFE", 7.6, 3.5, None, "", Contrast.T1),
        ("T1W_3D_TFE", 7.6, 3.5, None, "DOTAREM", Contrast.T1CE),
        ("T2W_TSE", 3000, 80, None, "", Contrast.T2),
        ("FLAIR_longTR", 11000, 125, 2800, "", Contrast.FLAIR),
    ],
    "timing alone": [
        ("sequence a", 500, 10, None, "", Contrast.T1),
        ("sequence b", 500, 10, None, "yes", Contrast.T1CE),
        ("sequence c", 5200, 95, None, "", Contrast.T2),
        ("sequence d", 9000, 110, 2500, "", Contrast.FLAIR),
    ],
}


def content(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, with the bytes of each file."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def changed(volume: Volume, voxels: NDArray[Any]) -> Volume:
    """Other voxels in the same place."""
    return Volume(voxels.astype(np.float32), volume.affine)


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


@contextmanager
def at_most(most: float) -> Iterator[None]:
    """No more memory of Python's is taken inside than so many bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


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
