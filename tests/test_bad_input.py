"""What cannot be used is refused in words: what was found, what was expected, what to do. Nothing is left behind."""

import gzip
import io
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mrsynth.card import ManifestEntry
from mrsynth.contrasts import Contrast
from mrsynth.io.checkpoint import read_header
from tests.helpers import content

pytestmark = pytest.mark.usefixtures("only_tiny", "no_pictures")


@pytest.fixture
def folder(write_subject_folder, tmp_path):
    return write_subject_folder(tmp_path / "cohort", "p1", without=[Contrast.T1CE, Contrast.FLAIR], shape=(16, 20, 10))


# Ways to spoil a subject with T1 and T2 ------------------------------------------------------------------------------


def scan(folder, contrast="t1"):
    return folder / f"p1_{contrast}.nii.gz"


def emptied(folder):
    for path in folder.iterdir():
        path.unlink()


def only(*names):
    def change(folder):
        emptied(folder)
        for name in names:
            (folder / name).write_bytes(b"something")

    return change


def cut(folder):
    scan(folder).write_bytes(scan(folder).read_bytes()[:-500])


def bytes_of(data, name="p1_t1.nii.gz"):
    def change(folder):
        scan(folder).unlink()
        (folder / name).write_bytes(data)

    return change


def voxels(function):
    """T1 with other voxels: function(voxels, inside) -> voxels."""

    def change(folder):
        image = nib.load(scan(folder))
        data = image.get_fdata(dtype=np.float32)
        nib.save(nib.Nifti1Image(function(data.copy(), data != 0), image.affine), scan(folder))

    return change


def with_one(value):
    def function(data, _):
        data[8, 10, 5] = value
        return data

    return voxels(function)


def header(**fields):
    """T1 with fields of its NIfTI header overwritten in the file."""

    def change(folder):
        raw = bytearray(gzip.decompress(scan(folder).read_bytes()))
        head = nib.Nifti1Header(bytes(raw[:348]), check=False)
        for name, value in fields.items():
            head[name] = value
        raw[:348] = head.binaryblock
        scan(folder).write_bytes(gzip.compress(raw))

    return change


def moved(folder):
    image = nib.load(scan(folder, "t2"))
    affine = image.affine.copy()
    affine[0, 3] += 1
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), scan(folder, "t2"))


def cropped(folder):
    image = nib.load(scan(folder, "t2"))
    nib.save(image.slicer[:, :, 1:], scan(folder, "t2"))


def twice(folder):
    shutil.copy(scan(folder), folder / "mprage.nii.gz")


def dangling(folder):
    scan(folder).unlink()
    scan(folder).symlink_to("/nowhere/t1.nii.gz")


def other_grid_mask(folder):
    image = nib.load(scan(folder, "t2"))
    nib.save(image.slicer[1:], folder / "p1_brainmask.nii.gz")


RGB = np.zeros((16, 20, 10), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
FLAT = {f"srow_{x}": np.zeros(4) for x in "xyz"}
TWO_ALIKE = {"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0], "srow_z": [0, 0, 1, 0]}
MICROMETRES = {"srow_x": [1000, 0, 0, 0], "srow_y": [0, 1000, 0, 0], "srow_z": [0, 0, 1000, 0]}

# name -> (what is done to the subject, what the message says)
BAD = {
    "empty folder": (emptied, "holds no scan in NIfTI format .*Found nothing at all.* Give the folder"),
    "no contrast": (
        only("p1_seg.nii.gz", "brain.nii.gz"),
        "no contrast recognised in brain.nii.gz, p1_seg.nii.gz.*Expected names",
    ),
    "DICOM": (only("IM0001.dcm"), "Found IM0001.dcm.*is none, or damaged.*dcm2niix"),
    "two for one": (twice, "2 files could be the T1:.*mprage.nii.gz.*p1_t1.nii.gz.*--t1 FILE"),
    "dangling link": (dangling, "p1_t1.nii.gz is a link to a file that is not there"),
    "truncated": (cut, "p1_t1.nii.gz is truncated or damaged.*Copy or export it again"),
    "not gzip": (bytes_of(b"not gzip at all"), "p1_t1.nii.gz: the name ends in .gz but the file is not gzip.*Rename"),
    "gzip of nothing": (bytes_of(gzip.compress(b"")), "p1_t1.nii.gz.*Copy or export it again|export it again"),
    "not NIfTI": (
        bytes_of(b"x" * 1000, "p1_t1.nii"),
        "p1_t1.nii cannot be read as NIfTI: it does not begin as one.*xport it again",
    ),
    "no bytes": (bytes_of(b""), "p1_t1.nii.gz is empty .0 bytes"),
    "4-D": (voxels(lambda v, _: np.stack([v, v], -1)), "p1_t1.nii.gz has 4 axes .16x20x10x2.; expected three"),
    "2-D": (voxels(lambda v, _: v[..., 4]), "p1_t1.nii.gz has 2 axes .16x20.; expected three"),
    "RGB": (
        lambda folder: nib.save(nib.Nifti1Image(RGB, np.eye(4)), scan(folder)),
        r"p1_t1.nii.gz is a colour .RGB. image; expected grey values. Convert",
    ),
    "complex": (
        lambda folder: nib.save(nib.Nifti1Image(np.ones((16, 20, 10), np.complex64), np.eye(4)), scan(folder)),
        "holds complex64 voxels; expected",
    ),
    "NaN": (with_one(np.nan), "p1_t1.nii.gz: 1 voxels are NaN and 0 infinite.*Expected finite.*Set them to 0"),
    "infinity": (with_one(np.inf), "p1_t1.nii.gz: 0 voxels are NaN and 1 infinite"),
    "constant": (
        voxels(lambda v, _: np.full_like(v, 7)),
        "p1_t1.nii.gz: every voxel is 7. Expected an image of a brain",
    ),
    "all zero": (voxels(lambda v, _: np.zeros_like(v)), "p1_t1.nii.gz: every voxel is 0"),
    "a mask": (voxels(lambda v, inside: inside.astype(np.float32)), "p1_t1.nii.gz has only the values 0, 1: a mask"),
    "labels of many tissues": (
        voxels(lambda v, inside: np.where(inside, np.arange(v.size).reshape(v.shape) % 7, 0).astype(np.float32)),
        "p1_t1.nii.gz has only the values 0, 1, 2, 3, 4, 5, 6: a mask or a segmentation",
    ),
    "negative background": (
        voxels(lambda v, inside: np.where(inside, v, -1024)),
        "T1 background is -1024; mrsynth expects exactly 0.*Set the background to 0",
    ),
    "z-scored": (
        voxels(lambda v, inside: np.where(inside, (v - v[inside].mean()) / v[inside].std(), 0)),
        "T1 has large negative intensities.*expects a magnitude image.*before intensity normalisation",
    ),
    "zero affine": (
        header(sform_code=1, **FLAT),
        "p1_t1.nii.gz: the affine is zero along at least one axis.*Expected one",
    ),
    "singular affine": (
        header(sform_code=1, **TWO_ALIKE),
        "p1_t1.nii.gz: the affine is singular.*Export the image again",
    ),
    "affine of NaN": (header(sform_code=1, srow_x=[np.nan] * 4), "p1_t1.nii.gz: the affine is not finite"),
    "moved": (moved, "T1 and T2 lie on different grids.*affine.*affine.*resample them first"),
    "cropped": (cropped, "T1 and T2 lie on different grids.*16x20x10.*16x20x9"),
    "mask elsewhere": (other_grid_mask, "p1_t1.nii.gz and p1_brainmask.nii.gz lie on different grids"),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_input(run_cli, folder, name):
    spoil, said = BAD[name]
    spoil(folder)
    before = content(folder)

    as_they_lie = ("--align", "off") if name in ("moved", "cropped") else ()  # else they are brought together
    status, out, err = run_cli("complete", folder, "--precision", "fp32", *as_they_lie)
    assert (status, out) == (4, "")
    assert re.search(said, err, flags=re.DOTALL), err
    assert err.startswith("Error: ") and "Traceback" not in err
    assert content(folder) == before


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_head_of_many_metres(run_cli, folder):
    """Units gone wrong: what would be filled with terabytes of millimetres is refused."""
    for path in folder.iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([1000.0, 1000.0, 1000.0, 1.0])), path)

    status, _, err = run_cli("complete", folder)
    said = " ".join(err.split())
    assert status == 4 and "p1_t1.nii.gz is 20 m long" in said
    assert "expected a head, at most" in said and "in another unit" in said
    assert not (folder / "mrsynth").exists()


def test_no_such_folder_and_a_file(run_cli, folder):
    for path, said in ((folder / "absent", "there is no such folder"), (scan(folder), "is a file. Give the folder")):
        for command in ("complete", "inspect"):
            status, _, err = run_cli(command, path)
            assert status == 4 and said in err


def test_several_subjects_in_one_folder(run_cli, write_subject_folder, tmp_path):
    for name in ("p01", "p02"):
        for path in write_subject_folder(tmp_path / "made", name, without=[Contrast.T1CE]).iterdir():
            shutil.copy(path, tmp_path)

    status, _, err = run_cli("complete", tmp_path)
    assert status == 4 and "holds the scans of 2 subjects: p01, p02" in " ".join(err.split())


@pytest.mark.parametrize("what", ["scan", "folder"])
def test_no_permission_to_read(run_cli, folder, monkeypatch, what):
    """The tests may run as root, who may read everything: the system's refusal is made here."""
    opened, scandir = os.open, os.scandir

    def refuse_open(path, *arguments, **options):
        if path == scan(folder):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    def refuse_scandir(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    if what == "scan":
        monkeypatch.setattr(os, "open", refuse_open)
    else:
        monkeypatch.setattr(os, "scandir", refuse_scandir)
    status, _, err = run_cli("complete", folder)
    assert status == 4 and re.search("(Change|Check) its permissions", err)
    monkeypatch.undo()
    assert not (folder / "mrsynth").exists()


@pytest.mark.parametrize("name", ["empty folder", "truncated", "NaN"])
def test_an_unusable_reference(run_cli, folder, write_subject_folder, tmp_path, name):
    truth = write_subject_folder(tmp_path / "truth", "p1", without=[Contrast.T1, Contrast.T2], shape=(16, 20, 10))
    (truth / "p1_t1ce.nii.gz").rename(truth / "p1_t1.nii.gz")  # as the spoilers expect it
    BAD[name][0](truth)
    if (truth / "p1_t1.nii.gz").exists():
        (truth / "p1_t1.nii.gz").rename(truth / "p1_t1ce.nii.gz")

    status, _, err = run_cli("complete", folder, "--reference", truth)
    assert status == 4 and str(truth) in err
    assert not (folder / "mrsynth").exists()


def test_a_reference_that_does_not_fit(run_cli, folder, write_subject_folder, tmp_path):
    status, _, err = run_cli("complete", folder, "--reference", folder)
    assert status == 4 and "holds none of the contrasts to be made (T1ce, FLAIR); found T1, T2" in " ".join(err.split())

    other = write_subject_folder(tmp_path / "truth", "p1", shape=(16, 20, 12))
    status, _, err = run_cli("complete", folder, "--reference", other)
    assert status == 4 and "the reference does not lie on the grid of p1" in err
    assert "16x20x12" in err and "16x20x10" in err and "Resample it" in err


# Weights -------------------------------------------------------------------------------------------------------------


def known(monkeypatch, path, **fields):
    """Make the manifest list one file."""
    card = {name: getattr(read_header(path).card, name) for name in ("name", "method", "contrasts", "licence")}
    entry = ManifestEntry(**{**card, "file": str(path), **fields})
    monkeypatch.setattr("mrsynth.io.store.manifest", lambda: [entry])


def test_a_checkpoint_that_is_not_what_the_manifest_says(run_cli, folder, only_tiny, monkeypatch):
    known(monkeypatch, only_tiny, sha256="0" * 64, size=only_tiny.stat().st_size)
    for command in (["complete", folder], ["weights", "verify"]):
        status, _, err = run_cli(*command)
        assert status == 5 and "sha256 found:" in err and f"sha256 expected: {'0' * 64}" in err

    known(monkeypatch, only_tiny, size=17)
    assert "bytes, expected 17" in run_cli("complete", folder)[2]
    known(monkeypatch, only_tiny, file=str(only_tiny.with_name("gone.safetensors")))
    status, _, err = run_cli("complete", folder)
    assert status == 5 and "found none" in err
    assert not (folder / "mrsynth").exists()


def changed_header(source, target, change):
    """A copy of a checkpoint with the JSON in its header changed: change(content) edits it in place."""
    raw = source.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    outer = json.loads(raw[8 : 8 + length])
    content = json.loads(outer["__metadata__"]["mrsynth"])
    change(content)
    outer["__metadata__"]["mrsynth"] = json.dumps(content)
    text = json.dumps(outer).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.update(colour="red"), "missing or unknown: colour"),
        (lambda content: content["card"].update(colour="red"), "key 'colour'"),
        (lambda content: content["config"].update(colour="red"), "cannot use its configuration.*colour"),
        (lambda content: content["config"]["network"].update(width=32), "do not fit the fgc2f network.*expected"),
        (lambda content: content.update(format=9), "has checkpoint format 9; this mrsynth reads the formats 1, 2"),
    ],
    ids=["header", "card", "configuration", "network", "format"],
)
def test_a_checkpoint_with_unknown_keys(run_cli, folder, only_tiny, tmp_path, change, said):
    path = tmp_path / "changed.safetensors"
    changed_header(only_tiny, path, change)

    status, out, err = run_cli("complete", folder, "--weights", path)
    assert (status, out) == (5, "") and re.search(said, err, flags=re.DOTALL), err
    assert str(path) in err and "Traceback" not in err
    assert not (folder / "mrsynth").exists()


def saved_by_torch():
    file = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("weights.pt", saved_by_torch(), "is a pickle .*only safetensors is read"),
        ("weights.safetensors", saved_by_torch(), "is a pickle .*only safetensors is read"),
        ("weights.pkl", pickle.dumps({"a": 1}), "is a pickle .*only safetensors is read"),
        ("weights.safetensors", b"", "is an empty file"),
        ("weights.safetensors", b"\x90" + bytes(7) + b"{" + b" " * 30, "is truncated: 39 bytes found"),
        ("weights.safetensors", b"hello, world", "is not a safetensors file"),
        ("folder.safetensors", None, "is a folder, expected a .safetensors file"),
        ("absent.safetensors", ..., "No checkpoint at"),
    ],
)
def test_weights_of_another_kind(run_cli, folder, tmp_path, name, data, said):
    path = tmp_path / name
    if data is None:
        path.mkdir()
    elif data is not ...:
        path.write_bytes(data)

    status, out, err = run_cli("complete", folder, "--weights", path)
    assert (status, out) == (5, "") and re.search(said, " ".join(err.split())), err
    assert not (folder / "mrsynth").exists()


def test_a_name_nobody_knows(run_cli, folder):
    status, _, err = run_cli("complete", folder, "--weights", "huge")
    assert status == 5 and "No checkpoint is called 'huge'. Known: tiny." in err
