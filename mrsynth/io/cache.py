"""Prepared subjects on disk, memory-mapped, so that training reads single slices and never a whole cohort."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.io.dataset import SubjectFiles, load_subject
from mrsynth.io.files import ensure_folder, write_bytes, write_text
from mrsynth.preparation import PreparationConfig, Prepared, prepare

FORMAT = 2  # to be raised with any change of these files, or of the numbers that `prepare` gives
LEVELS = 65535  # u in [0, 1] is stored in 16 bits: an error of 1e-5 at half the memory
FOREGROUND = 0.01  # slices with less brain than this share of their area are not worth training on
BINS = 64


@dataclass(frozen=True)
class CachedSubject:
    """One prepared subject.

    path        a `.npy` file (K, C, I, J) uint16, u * 65535, background 0
    present     (C,) bool
    slices      indices along K with more than 1 % foreground
    histograms  (C, 64): share of the brain voxels in each of 64 bins of u over [0, 1]
    """

    name: str
    path: Path
    present: tuple[bool, ...]
    slices: tuple[int, ...]
    histograms: tuple[tuple[float, ...], ...]

    @property
    def stored(self) -> NDArray[np.uint16]:
        """The file, mapped anew each time (0.1 ms): a map kept open costs a file descriptor, a cohort all there are."""
        mapped: NDArray[np.uint16] = np.load(self.path, mmap_mode="r")
        return mapped

    def slab(self, index: int, neighbours: int) -> NDArray[np.float32]:
        """(C, 1 + 2 * neighbours, I, J) u: slice `index`, then its neighbours from the lowest to the highest.

        Zeros beyond the ends of the volume.
        """
        stored = self.stored
        offsets = [0, *(o for o in range(-neighbours, neighbours + 1) if o)]
        blank = np.zeros(stored.shape[1:], np.uint16)
        picked = [stored[index + o] if 0 <= index + o < len(stored) else blank for o in offsets]
        return np.stack(picked, axis=1).astype(np.float32) / np.float32(LEVELS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K) of the prepared images."""
        k, _, i, j = self.stored.shape
        return i, j, k

    def box(self, corner: Sequence[int], size: Sequence[int]) -> NDArray[np.float32]:
        """(C, *size) u: the box that begins at `corner` (i, j, k); zeros beyond the ends of the volume."""
        i, j, k = (slice(c, c + n) for c, n in zip(corner, size, strict=True))
        part = self.stored[k, :, i, j].transpose(1, 2, 3, 0)
        lacking = [(0, 0), *((0, n - m) for n, m in zip(size, part.shape[1:], strict=True))]
        return np.pad(part.astype(np.float32) / np.float32(LEVELS), lacking)


def cached(
    files: SubjectFiles, contrasts: Sequence[Contrast], preparation: PreparationConfig, folder: Path
) -> CachedSubject:
    """The prepared subject, made now unless the same files were already prepared in the same way.

    Files of other contrasts are not looked at. Raises InputError when a file cannot be used.
    """
    files = replace(files, files={c: files.files[c] for c in contrasts if c in files.files})
    array = folder / f"{files.name}-{_key(files, contrasts, preparation)}.npy"
    header = array.with_suffix(".json")
    known = _read(header, array)
    if known is None:
        ensure_folder(folder)
        known = _write(header, array, prepare(load_subject(files), contrasts, preparation))
    return CachedSubject(
        files.name,
        array,
        tuple(known["present"]),
        tuple(known["slices"]),
        tuple(tuple(histogram) for histogram in known["histograms"]),
    )


def _write(header: Path, array: Path, prepared: Prepared) -> dict[str, Any]:
    u = np.rint(prepared.images.transpose(3, 0, 1, 2) * LEVELS).astype(np.uint16)
    buffer = io.BytesIO()
    np.save(buffer, u)
    write_bytes(
        array, buffer.getvalue()
    )  # not through a map: on a full disk that would be a SIGBUS, here it is an error
    brain = u.any(axis=1)
    counts = [np.histogram(u[:, c][brain], bins=BINS, range=(0, LEVELS))[0] for c in range(u.shape[1])]
    facts: dict[str, Any] = {
        "bytes": buffer.tell(),
        "present": prepared.available.tolist(),
        "slices": np.flatnonzero(prepared.mask.mean(axis=(0, 1)) > FOREGROUND).tolist(),
        "histograms": [(count / max(count.sum(), 1)).tolist() for count in counts],
    }
    write_text(header, json.dumps(facts))  # last: its presence says that the array is whole
    return facts


def _read(header: Path, array: Path) -> dict[str, Any] | None:
    """What was written, or None when it is not there or not whole."""
    try:
        facts: dict[str, Any] = json.loads(header.read_text())
        return facts if array.stat().st_size == facts["bytes"] else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _key(files: SubjectFiles, contrasts: Sequence[Contrast], preparation: PreparationConfig) -> str:
    """Changes when a file, the list of contrasts or the preparation does."""
    named = {c.value: path for c, path in files.files.items()} | ({"mask": files.mask} if files.mask else {})
    stamps = [(name, str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for name, p in named.items()]
    text = json.dumps([FORMAT, sorted(stamps), list(contrasts), preparation.model_dump(mode="json")])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
