"""Prepared subjects on disk, memory-mapped, so that training reads single slices and never a whole cohort."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.io.dataset import SubjectFiles, load_subject
from mrsynth.io.files import atomic, ensure_folder, write_text
from mrsynth.preparation import PreparationConfig, prepare

LEVELS = 65535  # u in [0, 1] is stored in 16 bits: an error of 1e-5 at half the memory
FOREGROUND = 0.01  # slices with less brain than this share of their area are not worth training on
BINS = 64


@dataclass(frozen=True)
class CachedSubject:
    """One prepared subject.

    path     a `.npy` file (K, C, I, J) uint16, u * 65535, background 0
    present  (C,) bool
    slices   indices along K with more than 1 % foreground
    """

    name: str
    path: Path
    present: tuple[bool, ...]
    slices: tuple[int, ...]

    @cached_property
    def stored(self) -> NDArray[np.uint16]:
        """The mapped file."""
        mapped: NDArray[np.uint16] = np.load(self.path, mmap_mode="r")
        return mapped

    def slab(self, index: int, neighbours: int) -> NDArray[np.float32]:
        """(C, 1 + 2 * neighbours, I, J) u: slice `index`, then those below (nearest last) and above; zeros beyond the end."""
        depth = len(self.stored)
        around = [o for o in range(-neighbours, neighbours + 1) if o]
        rows = [index, *(index + o for o in around)]
        blank = np.zeros(self.stored.shape[1:], np.uint16)
        picked = np.stack([self.stored[r] if 0 <= r < depth else blank for r in rows], axis=1)
        return picked.astype(np.float32) / LEVELS

    def histogram(self, channel: int) -> NDArray[np.float64]:
        """Share of the brain voxels in each of 64 bins of u over [0, 1]; the brain is where any contrast is not 0."""
        brain = self.stored[:].any(axis=1)
        counts, _ = np.histogram(self.stored[:, channel][brain], bins=BINS, range=(0, LEVELS))
        return counts / max(counts.sum(), 1)


def cached(
    files: SubjectFiles, contrasts: tuple[Contrast, ...], preparation: PreparationConfig, folder: Path
) -> CachedSubject:
    """The prepared subject, made now unless the same files were already prepared in the same way."""
    key = _key(files, contrasts, preparation)
    array, header = folder / f"{files.name}-{key}.npy", folder / f"{files.name}-{key}.json"
    if not header.exists():
        ensure_folder(folder)
        prepared = prepare(load_subject(files), contrasts, preparation)
        with atomic(array) as temporary:
            u = np.rint(prepared.images.transpose(3, 0, 1, 2) * LEVELS).astype(np.uint16)
            target = open_memmap(temporary, mode="w+", dtype=np.uint16, shape=u.shape)
            target[:] = u
            target.flush()
        share = prepared.mask.mean(axis=(0, 1))
        facts = {
            "present": prepared.available.tolist(),
            "slices": np.flatnonzero(share > FOREGROUND).tolist(),
        }
        write_text(header, json.dumps(facts))  # last: its presence says that the array is whole
    facts = json.loads(header.read_text())
    return CachedSubject(files.name, array, tuple(facts["present"]), tuple(facts["slices"]))


def _key(files: SubjectFiles, contrasts: tuple[Contrast, ...], preparation: PreparationConfig) -> str:
    """Changes when a file, the list of contrasts or the preparation does."""
    stamps = [(c.value, str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for c, p in files.files.items()]
    text = json.dumps([sorted(stamps), [c.value for c in contrasts], preparation.model_dump(mode="json")])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
