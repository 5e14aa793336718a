"""The cache of prepared subjects: exact enough, never stale, never half."""

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, OutputError
from mrsynth.io import cache, files
from mrsynth.io.cache import cached
from mrsynth.io.nifti import read_volume, write_volume
from mrsynth.io.subjects import find_subject, load_subject
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.volume import Volume

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
    scan = nib.load(subject / "sub-1_t2.nii.gz")
    voxels = np.asarray(scan.dataobj)
    nib.save(
        nib.Nifti1Image(np.where(voxels > 0, voxels.max() + 1 - voxels, 0), scan.affine), subject / "sub-1_flair.nii.gz"
    )


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


def facts_say(**changes):
    """Facts of the right length of file that are nonsense otherwise."""

    def damage(array: Path, header: Path):
        header.write_text(json.dumps({**json.loads(header.read_text()), **changes}))

    return damage


def another_array(array: Path, header: Path):
    """A header that claims another shape over as many bytes."""
    array.write_bytes(array.read_bytes().replace(b"'shape': (", b"'shape': (9"))


def no_header_of_an_array(array: Path, header: Path):
    array.write_bytes(array.read_bytes().replace(b"'shape': (", b"'shape': (("))


def facts_of_no_object(array: Path, header: Path):
    header.write_text("[1]")


def pipe(array: Path, header: Path):
    header.unlink()
    os.mkfifo(header)


@pytest.mark.parametrize(
    "damage",
    [
        *(
            break_array,
            lose_array,
            lose_header,
            break_header,
            old_header,
            another_array,
            no_header_of_an_array,
            facts_of_no_object,
            pipe,
        ),
        *(facts_say(present=[True]), facts_say(slices=[10**6]), facts_say(slices=["a"]), facts_say(bytes="1e999")),
        *(facts_say(histograms=[[0.5]] * 4), facts_say(hashes=["a"]), facts_say(histograms=None), facts_say(other=1)),
    ],
)
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


# Labels --------------------------------------------------------------------------------------------------------------


def write_labels(subject, labels):
    """A segmentation beside the scans."""
    t1 = read_volume(subject / "sub-1_t1.nii.gz")
    write_volume(subject / "sub-1_seg.nii.gz", Volume(labels.astype(np.float32), t1.affine))


@pytest.fixture
def labelled(subject):
    """The subject with its upper quarter of T1 intensities labelled 1 to 4, and T1 the label itself (times 100)."""
    t1 = read_volume(subject / "sub-1_t1.nii.gz")
    ranks = np.digitize(t1.voxels, np.quantile(t1.voxels, [0.75, 0.8, 0.85, 0.9]))
    labels = np.where(t1.voxels > 0, ranks, 0)
    values = 100 * labels + (t1.voxels > 0) * (1 + 1e-3 * t1.voxels / t1.voxels.max())  # more values than labels have
    write_volume(subject / "sub-1_t1.nii.gz", Volume(values.astype(np.float32), t1.affine))
    write_labels(subject, labels)
    return subject


def get_labelled(subject, store, config=CONFIG):
    return cached(find_subject(subject), STANDARD, config, store, labels=True)


@pytest.mark.parametrize("config", [CONFIG, PreparationConfig(axes="RAS", crop="full", multiple=8)])
def test_labels_lie_on_the_grid_of_the_images(config, labelled, store):
    """Whatever was turned, cropped and padded; T1 says everywhere what the label should be."""
    found = get_labelled(labelled, store, config)
    labels = np.stack([found.label_slice(k) for k in range(found.shape[2])], axis=-1)
    u = found.box((0, 0, 0), found.shape)[0]

    assert labels.dtype == np.int16 and labels.shape == found.shape
    assert sorted(np.unique(labels)) == [0, 1, 2, 3, 4]
    assert all(np.ptp(u[labels == value]) < 0.01 for value in range(1, 5))
    assert all(u[labels == v].mean() < u[labels == v + 1].mean() for v in range(4))
    assert np.array_equal(np.load(found.labels), labels.transpose(2, 0, 1)) and np.load(found.labels).dtype == np.uint8


def test_boxes_of_labels_are_zero_beyond_the_ends(labelled, store):
    found = get_labelled(labelled, store)
    i, _, k = found.shape
    whole = found.label_box((0, 0, 0), found.shape)
    box = found.label_box((i - 4, 2, k - 3), (8, 16, 16))

    assert np.array_equal(found.label_box((3, 5, 2), (8, 6, 4)), whole[3:11, 5:11, 2:6])
    assert np.array_equal(box[:4, :, :3], whole[i - 4 :, 2:18, k - 3 :])
    assert not box[4:].any() and not box[..., 3:].any()


def test_between_spacings_labels_stay_labels(subject, store):
    """Two halves, 1 and 4: no 2 or 3 between them, and the boundary where it was."""
    t1 = read_volume(subject / "sub-1_t1.nii.gz")
    labels = np.ones(t1.shape)
    labels[t1.shape[0] // 2 :] = 4
    write_labels(subject, labels)
    found = get_labelled(subject, store, PreparationConfig(spacing=0.7))
    made = found.label_box((0, 0, 0), found.shape)
    brain = found.box((0, 0, 0), found.shape).any(0)

    assert sorted(np.unique(made)) == [0, 1, 4] and not made[~brain].any()
    share = [float((made[brain] == value).mean()) for value in (1, 4)]
    prepared = prepare(load_subject(subject, segmentation=True), STANDARD, CONFIG)
    middle = prepared.grid.orientation.apply(labels)[prepared.grid.box][prepared.mask[prepared.grid.inside]]
    assert share == pytest.approx([float((middle == value).mean()) for value in (1, 4)], abs=0.03)


def test_labels_are_prepared_once_and_beside_the_same_images(labelled, store):
    """Neither the key nor the bytes of the images change; a segmentation that changes is prepared again, alone."""
    plain = get(labelled, store)
    content, stamp = plain.path.read_bytes(), plain.path.stat().st_mtime_ns
    found = get_labelled(labelled, store)

    assert plain.labels is None and (plain.label_slice(0) == -1).all()
    assert (plain.label_box((0, 0, 0), (3, 4, 5)) == np.full((3, 4, 5), -1)).all()
    assert (found.path, found.slices) == (plain.path, plain.slices)
    assert plain.path.read_bytes() == content and plain.path.stat().st_mtime_ns == stamp
    written = found.labels.stat().st_mtime_ns
    assert get_labelled(labelled, store) == found and found.labels.stat().st_mtime_ns == written

    write_labels(labelled, np.minimum(read_volume(labelled / "sub-1_seg.nii.gz").voxels, 1))
    age(labelled / "sub-1_seg.nii.gz", 100)
    again = get_labelled(labelled, store)
    assert again.labels != found.labels and again.path == found.path
    assert sorted(np.unique(np.load(again.labels))) == [0, 1]
    assert get(labelled, store) == plain


@pytest.mark.parametrize("damage", [break_array, lose_array, lose_header, another_array, facts_say(values=["a"])])
def test_labels_that_are_not_whole_are_made_again(damage, labelled, store):
    first = get_labelled(labelled, store)
    content = first.labels.read_bytes()
    damage(first.labels, first.labels.with_suffix(".json"))

    assert get_labelled(labelled, store) == first and first.labels.read_bytes() == content


def test_a_subject_without_a_segmentation_has_no_labels(subject, store):
    found = get_labelled(subject, store)

    assert found.labels is None and found == get(subject, store)


@pytest.mark.parametrize(("value", "named"), [(0.5, "0.5"), (300, "300"), (-1, "-1")])
def test_what_is_no_segmentation_is_refused(value, named, subject, store):
    shape = read_volume(subject / "sub-1_t1.nii.gz").shape
    labels = np.zeros(shape)
    labels[5:9, 5:9, 5:9] = value
    write_labels(subject, labels)

    with pytest.raises(InputError, match=rf"sub-1_seg\.nii\.gz.*whole numbers from 0 to 255; found {named}"):
        get_labelled(subject, store)
    assert get(subject, store).slices
