"""The cache of prepared subjects: exact enough, never stale, never half."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import OutputError
from mrsynth.io import cache, files
from mrsynth.io.cache import cached
from mrsynth.io.dataset import find_subject, load_subject
from mrsynth.preparation import PreparationConfig, prepare

CONFIG = PreparationConfig()


@pytest.fixture
def subject(tmp_path, write_subject_folder):
    """A folder with T1, T1ce, T2 and FLAIR, and a brain mask."""
    return write_subject_folder(tmp_path / "data", "sub-1", without=(Contrast.FLAIR,))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "cache"


def get(subject, store, contrasts=STANDARD, config=CONFIG):
    return cached(find_subject(subject), contrasts, config, store)


def age(path, seconds=-100):
    """Give a file another time, as an editor would."""
    stamp = path.stat().st_mtime_ns + seconds * 10**9
    os.utime(path, ns=(stamp, stamp))


def test_slices_are_those_of_preparation(subject, store):
    prepared = prepare(load_subject(subject), STANDARD, CONFIG)
    found = get(subject, store)

    assert found.name == "sub-1"
    assert found.present == (True, True, True, False)
    for k in (0, 7, prepared.images.shape[3] - 1):
        slab = found.slab(k, 0)
        assert slab.dtype == np.float32 and slab.shape == (4, 1, *prepared.images.shape[1:3])
        assert np.allclose(slab[:, 0], prepared.images[..., k], atol=1e-5)
        assert np.array_equal(slab[:, 0] == 0, prepared.images[..., k] < 0.5 / 65535)


def test_neighbours_come_in_order_and_are_zero_beyond_the_ends(subject, store):
    found = get(subject, store)
    depth = len(found.stored)

    assert np.array_equal(found.slab(5, 2), np.concatenate([found.slab(k, 0) for k in (5, 3, 4, 6, 7)], axis=1))
    assert not found.slab(0, 1)[:, 1].any()
    assert np.array_equal(found.slab(0, 1)[:, 2], found.slab(1, 0)[:, 0])
    assert not found.slab(depth - 1, 1)[:, 2].any()


def test_boxes_are_those_of_preparation(subject, store):
    prepared = prepare(load_subject(subject), STANDARD, CONFIG)
    found = get(subject, store)
    whole = found.box((0, 0, 0), found.shape)

    assert found.shape == prepared.images.shape[1:]
    assert whole.dtype == np.float32 and np.allclose(whole, prepared.images, atol=1e-5)
    assert np.array_equal(found.box((3, 5, 2), (8, 6, 4)), whole[:, 3:11, 5:11, 2:6])
    assert np.array_equal(found.box((0, 0, 7), (*found.shape[:2], 1)), np.moveaxis(found.slab(7, 0), 1, -1))


def test_a_box_is_zero_beyond_the_ends(subject, store):
    found = get(subject, store)
    i, j, k = found.shape
    whole = found.box((0, 0, 0), found.shape)
    box = found.box((i - 4, 2, k - 3), (8, 16, 16))

    assert box.shape == (4, 8, 16, 16)
    assert np.array_equal(box[:, :4, :, :3], whole[:, i - 4 :, 2:18, k - 3 :])
    assert not box[:, 4:].any() and not box[..., 3:].any()
    larger = found.box((0, 0, 0), (i + 2, j + 4, k + 6))
    assert np.array_equal(larger[:, :i, :j, :k], whole) and larger.sum() == pytest.approx(whole.sum())


def test_slices_worth_training_on_have_foreground(subject, store):
    found = get(subject, store)
    share = (found.stored > 0).any(1).mean((1, 2))

    assert found.slices == tuple(np.flatnonzero(share > 0.01))
    assert len(found.slices) > 0


def test_histograms_count_the_brain(subject, store):
    found = get(subject, store)
    prepared = prepare(load_subject(subject), STANDARD, CONFIG)

    assert np.shape(found.histograms) == (4, 64)
    for channel in range(3):
        expected, _ = np.histogram(prepared.images[channel][prepared.mask], bins=64, range=(0, 1))
        assert np.abs(found.histograms[channel] - expected / expected.sum()).sum() < 0.02  # voxels on a bin's edge
    assert found.histograms[3] == (1.0, *[0.0] * 63)


def test_files_are_mapped_and_none_stays_open(subject, store):
    found = get(subject, store)
    open_files = len(os.listdir("/proc/self/fd"))
    kept = [found.slab(k, 1) for k in found.slices] + [found.box((0, 0, 0), (8, 8, 8))]
    assert len(found.shape) == 3

    assert isinstance(found.stored, np.memmap)
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert kept


def test_a_subject_is_prepared_once(subject, store):
    """Damage done to the scans behind the back of their size and time goes unnoticed: they are not read again."""
    first = get(subject, store)
    scan = subject / "sub-1_t1.nii.gz"
    stamp = scan.stat()
    scan.write_bytes(b"\0" * stamp.st_size)
    os.utime(scan, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert get(subject, store) == first


def scan_changes(subject):
    age(subject / "sub-1_t2.nii.gz")


def mask_appears(subject):
    shutil.copy(subject / "sub-1_t1.nii.gz", subject / "sub-1_brain_mask.nii.gz")


def contrast_appears(subject):
    shutil.copy(subject / "sub-1_t2.nii.gz", subject / "sub-1_flair.nii.gz")


@pytest.mark.parametrize("change", [scan_changes, mask_appears, contrast_appears])
def test_it_is_prepared_again_when_a_file_changes(change, subject, store):
    first = get(subject, store)
    change(subject)

    assert get(subject, store).path != first.path


def test_it_is_prepared_again_when_the_mask_changes(subject, store):
    mask_appears(subject)
    first = get(subject, store)
    age(subject / "sub-1_brain_mask.nii.gz")

    assert get(subject, store).path != first.path


def test_it_is_prepared_again_in_another_way(subject, store):
    paths = {
        get(subject, store).path,
        get(subject, store, config=PreparationConfig(multiple=8)).path,
        get(subject, store, contrasts=STANDARD[::-1]).path,
        get(subject, store, contrasts=(Contrast.T1, Contrast.T2)).path,
    }

    assert len(paths) == 4


def test_other_contrasts_are_not_looked_at(subject, store):
    """Not even when they are broken."""
    first = get(subject, store)
    (subject / "sub-1_pd.nii.gz").write_bytes(b"nothing")

    assert get(subject, store) == first


def break_array(array: Path, header: Path):
    array.write_bytes(array.read_bytes()[:-100])


def lose_array(array: Path, header: Path):
    array.unlink()


def lose_header(array: Path, header: Path):
    header.unlink()
    array.write_bytes(b"half")


def break_header(array: Path, header: Path):
    header.write_text("{")


def old_header(array: Path, header: Path):
    header.write_text(json.dumps({"present": [True] * 4, "slices": [1]}))


@pytest.mark.parametrize("damage", [break_array, lose_array, lose_header, break_header, old_header])
def test_what_is_not_whole_is_made_again(damage, subject, store):
    first = get(subject, store)
    content = first.path.read_bytes()
    damage(first.path, first.path.with_suffix(".json"))

    assert get(subject, store) == first
    assert first.path.read_bytes() == content


@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_is_an_error_and_leaves_nothing_that_is_taken_for_whole(failing, subject, store, monkeypatch):
    writes = []
    replace = os.replace

    def full(source, target):
        writes.append(target)
        if len(writes) == failing:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        with pytest.raises(OutputError, match="disk is full"):
            get(subject, store)
    assert not list(store.glob("*.json")) and not list(store.glob(".*"))

    assert get(subject, store).slices


def test_the_format_is_part_of_the_name(subject, store, monkeypatch):
    first = get(subject, store)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)

    assert get(subject, store).path != first.path
