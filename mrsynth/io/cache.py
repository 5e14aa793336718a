"""Prepared subjects on disk, memory-mapped, so that training reads single slices and never a whole cohort."""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.io.files import ensure_folder, write_bytes, write_text
from mrsynth.io.reading import open_regular, read_json
from mrsynth.io.subjects import SubjectFiles, load_subject
from mrsynth.plain import Plain
from mrsynth.sampling import Plane
from mrsynth.scans.planes import ORDER, cut
from mrsynth.scans.preparation import PreparationConfig, Prepared, prepare

FORMAT = 2  # to be raised with any change of these files, or of the numbers that `prepare` gives
LEVELS = 65535  # u in [0, 1] is stored in 16 bits: an error of 1e-5 at half the memory
FOREGROUND = 0.01  # slices with less brain than this share of their area are not worth training on
BINS = 64
UNFIT = (OSError, ValueError, SyntaxError, TokenError)  # the last two from the header of an array
LONGEST_HEADER = 4096  # bytes, of an array's file
LARGEST_LABEL = 255  # of a segmentation: stored in 8 bits


@dataclass(frozen=True)
class CachedSubject:
    """One prepared subject.

    path        a `.npy` file (K, C, I, J) uint16, u * 65535, background 0
    present     (C,) bool
    slices      indices along K with more than 1 % foreground
    histograms  (C, 64): share of the brain voxels in each of 64 bins of u over [0, 1]
    labels      a `.npy` file (K, I, J) uint8, the values of the segmentation; None if there is none or nobody asked
    values      those that its segmentation file holds
    hashes      (C,) of the prepared voxels of each contrast, hexadecimal; "" where it is not present
    """

    name: str
    path: Path
    present: tuple[bool, ...]
    slices: tuple[int, ...]
    histograms: tuple[tuple[float, ...], ...]
    labels: Path | None = None
    values: tuple[int, ...] = ()
    hashes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes when what is learnt from does: a prepared image, or the segmentation."""
        drawn = hashlib.blake2b(self.labels.read_bytes(), digest_size=8).hexdigest() if self.labels else ""
        return hashlib.blake2b("/".join((*self.hashes, drawn)).encode(), digest_size=8).hexdigest()

    @property
    def stored(self) -> NDArray[np.uint16]:
        """The file, mapped anew each time (0.1 ms): a map kept open costs a file descriptor, a cohort all there are."""
        mapped: NDArray[np.uint16] = np.load(self.path, mmap_mode="r")
        return mapped

    def slab(self, index: int, neighbours: int, plane: Plane = "axial") -> NDArray[np.float32]:
        """(C, 1 + 2 * neighbours, H, W) u: slice `index` of a plane, then its neighbours, the lowest first.

        Axial: (H, W) is (I, J), and `index` counts along K. Zeros beyond the ends of the volume.
        """
        stored = self.volumes(plane).transpose(3, 0, 1, 2)
        offsets = [0, *(o for o in range(-neighbours, neighbours + 1) if o)]
        blank = np.zeros(stored.shape[1:], np.uint16)
        picked = [stored[index + o] if 0 <= index + o < len(stored) else blank for o in offsets]
        return np.stack(picked, axis=1).astype(np.float32) / np.float32(LEVELS)

    def volumes(self, plane: Plane = "axial") -> NDArray[np.uint16]:
        """The file as (C, H, W, slices) of a plane, still on disk."""
        return cut(self.stored.transpose(1, 2, 3, 0), plane)

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

    def label_slice(self, index: int, plane: Plane = "axial") -> NDArray[np.int16]:
        """(H, W): the values of the segmentation in slice `index` of a plane; -1 everywhere if there is none."""
        corner, size = [0, 0, 0], list(self.shape)
        across = ORDER[plane][2]
        corner[across], size[across] = index, 1
        return cut(self.label_box(corner, size), plane)[..., 0]

    def label_box(self, corner: Sequence[int], size: Sequence[int]) -> NDArray[np.int16]:
        """(*size): the values of the segmentation in the box of `box`, 0 beyond the ends; all -1 if there is none."""
        if self.labels is None:
            return np.full(tuple(size), -1, np.int16)
        i, j, k = (slice(c, c + n) for c, n in zip(corner, size, strict=True))
        part = np.load(self.labels, mmap_mode="r")[k, i, j].transpose(1, 2, 0)
        return np.pad(part.astype(np.int16), [(0, n - m) for n, m in zip(size, part.shape, strict=True)])


def cached(
    files: SubjectFiles,
    contrasts: Sequence[Contrast],
    preparation: PreparationConfig,
    folder: Path,
    labels: bool = False,
) -> CachedSubject:
    """The prepared subject, made now unless the same files were already prepared in the same way.

    labels   whether to prepare its segmentation too, if it has one; the images are the same files either way
    Files of other contrasts are not looked at. Raises InputError when a file cannot be used.
    """
    files = replace(files, files={c: files.files[c] for c in contrasts if c in files.files})
    array = folder / f"{files.name}-{_key(files, contrasts, preparation)}.npy"
    segmentation = files.segmentation if labels else None
    drawn = None if segmentation is None else folder / f"{array.stem}-labels-{_label_key(segmentation)}.npy"
    known, labelled = _known(array), None if drawn is None else _known_labels(drawn)
    if known is not None and known.hashes is None:  # as mrsynth 0.1.0 wrote it
        known = known.model_copy(update={"hashes": _hashes(np.load(array, mmap_mode="r"), known.present)})
        write_text(array.with_suffix(".json"), known.model_dump_json())
    values = None if labelled is None else labelled.values
    if known is None or (drawn is not None and values is None):
        ensure_folder(folder)
        subject = load_subject(files, segmentation=drawn is not None)
        prepared = prepare(subject, contrasts, preparation)
        if known is None:
            known = _write(array, prepared)
        if drawn is not None and subject.segmentation is not None:
            values = _write_labels(drawn, prepared, _whole_numbers(segmentation, subject.segmentation.voxels))
    return CachedSubject(
        files.name,
        array,
        known.present,
        known.slices,
        known.histograms,
        drawn,
        tuple(values or ()),
        known.hashes or (),
    )


def _write(array: Path, prepared: Prepared) -> "_Images":
    u = np.rint(prepared.images.transpose(3, 0, 1, 2) * LEVELS).astype(np.uint16)
    brain = u.any(axis=1)
    counts = [np.histogram(u[:, c][brain], bins=BINS, range=(0, LEVELS))[0] for c in range(u.shape[1])]
    facts: dict[str, Any] = {
        "hashes": _hashes(u, prepared.available),
        "present": prepared.available.tolist(),
        "slices": np.flatnonzero(prepared.mask.mean(axis=(0, 1)) > FOREGROUND).tolist(),
        "histograms": [(count / max(count.sum(), 1)).tolist() for count in counts],
    }
    return _Images.model_validate(_save(array, u, facts))


def _hashes(u: NDArray[np.uint16], present: Iterable[bool]) -> tuple[str, ...]:
    """Of each channel of (K, C, I, J): of its shape and voxels."""
    shape = repr((u.shape[0], *u.shape[2:])).encode()
    each = (shape + np.ascontiguousarray(u[:, c]).tobytes() if there else b"" for c, there in enumerate(present))
    return tuple(hashlib.blake2b(content, digest_size=8).hexdigest() if content else "" for content in each)


def _write_labels(array: Path, prepared: Prepared, labels: NDArray[np.uint8]) -> tuple[int, ...]:
    """The segmentation on the model's grid, 0 outside the foreground; returns the values of the file.

    Between spacings every voxel takes the value with the largest share in it; without resampling, its own.
    """
    grid = prepared.grid
    turned = grid.orientation.apply(labels)
    whole, values = turned, np.unique(turned).tolist()
    if grid.resampling.needed:
        whole = np.zeros(grid.resampling.new_shape, np.uint8)
        largest = np.zeros(whole.shape, np.float32)
        for value in values:
            share = grid.resampling.forward((turned == value).astype(np.float32))
            whole[share > largest] = value
            largest = np.maximum(largest, share)
    placed = np.zeros(prepared.mask.shape, np.uint8)
    placed[grid.inside] = whole[grid.box]
    _save(array, np.where(prepared.mask, placed, 0).astype(np.uint8).transpose(2, 0, 1), {"values": values})
    return tuple(int(value) for value in values)


def _whole_numbers(file: Path | None, voxels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The values of a segmentation. Raises InputError for what is none."""
    labels = np.clip(voxels, 0, LARGEST_LABEL).astype(np.uint8)
    if (wrong := labels != voxels).any():
        raise InputError(
            f"{file}: a segmentation holds whole numbers from 0 to {LARGEST_LABEL}; found "
            f"{', '.join(f'{v:g}' for v in np.unique(voxels[wrong])[:3])}. Give the labels themselves, not "
            "probabilities, or move the file elsewhere to train without it."
        )
    return labels


class _Images(Plain):
    """What lies beside prepared images: the length of their file, and what `CachedSubject` says of them."""

    bytes: int
    present: tuple[bool, ...]
    slices: tuple[int, ...]
    histograms: tuple[tuple[float, ...], ...]
    hashes: tuple[str, ...] | None = None


class _Labels(Plain):
    """What lies beside a prepared segmentation: the length of its file, and the values it holds."""

    bytes: int
    values: tuple[int, ...]


def _save(array: Path, values: NDArray[Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Write an array and, beside it, how long its file is and the facts about it; these are returned."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_bytes(
        array, buffer.getvalue()
    )  # not through a map: on a full disk that would be a SIGBUS, here it is an error
    # last: its presence says that the array is whole
    facts = {"bytes": buffer.tell(), **facts}
    write_text(array.with_suffix(".json"), json.dumps(facts))
    return facts


def _known(array: Path) -> _Images | None:
    """What was written about prepared images; None when they are not there, not whole, or not what is said of them."""
    try:
        facts = _Images.model_validate(read_json(array.with_suffix(".json")))
        count, (planes, channels) = len(facts.present), _shape(array, np.dtype(np.uint16), 4, facts.bytes)[:2]
    except UNFIT:
        return None
    each = [facts.histograms, facts.present, *([] if facts.hashes is None else [facts.hashes])]
    fit = all(len(one) == count == channels for one in each) and {len(h) for h in facts.histograms} <= {BINS}
    return facts if fit and all(0 <= k < planes for k in facts.slices) else None


def _known_labels(array: Path) -> _Labels | None:
    """The same of a prepared segmentation."""
    try:
        facts = _Labels.model_validate(read_json(array.with_suffix(".json")))
        _shape(array, np.dtype(np.uint8), 3, facts.bytes)
    except UNFIT:
        return None
    return facts


def _shape(array: Path, dtype: np.dtype[Any], axes: int, size: int) -> tuple[int, ...]:
    """The shape of an array in a file, by its header. Raises OSError, and ValueError unless all is as expected."""
    with open_regular(array) as file:
        header: Any = np.lib.format
        if header.read_magic(file) != (1, 0):
            raise ValueError("another format of arrays")
        shape, fortran, kind = header.read_array_header_1_0(file, max_header_size=LONGEST_HEADER)
        promised = file.tell() + math.prod(shape) * dtype.itemsize
    if fortran or kind != dtype or len(shape) != axes or not promised == size == array.stat().st_size:
        raise ValueError(f"{shape} of {kind} in {size} bytes")
    return tuple(shape)


def _key(files: SubjectFiles, contrasts: Sequence[Contrast], preparation: PreparationConfig) -> str:
    """Changes when a file, the list of contrasts or the preparation does."""
    named = {c.value: path for c, path in files.files.items()} | ({"mask": files.mask} if files.mask else {})
    named |= {f"mask {i}": path for i, path in enumerate(files.masks)}
    stamps = sorted((name, *_stamp(path)) for name, path in named.items())
    deciding = preparation.model_dump(mode="json", exclude=None if Contrast.CT in contrasts else {"hounsfield"})
    text = json.dumps([FORMAT, stamps, list(contrasts), deciding])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def _label_key(file: Path) -> str:
    """Changes when a segmentation does; what it is prepared like is in the name of the images it lies beside."""
    return hashlib.sha256(json.dumps([FORMAT, *_stamp(file)]).encode()).hexdigest()[:8]


def _stamp(file: Path) -> tuple[str, int, int]:
    """Where a file is, how large, and from when."""
    return str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns
