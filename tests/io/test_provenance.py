"""What mrsynth wrote is known from what others wrote."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from mrsynth.io.nifti import write_volume
from mrsynth.io.provenance import description, is_ours, says_synthetic
from mrsynth.io.store import sha256_of
from mrsynth.scans.views import png
from mrsynth.scans.volume import Volume
from mrsynth.tasks.complete.output import DESCRIPTION

TEXT = DESCRIPTION.format("T1ce", "0.1.0", "fgc2f-ship")


@pytest.fixture
def volume():
    return Volume(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_an_image_is_known_by_its_header(tmp_path, volume, suffix):
    for name, text in (("ours", TEXT), ("theirs", "TE=2.3;Time=101500"), ("none", "")):
        write_volume(tmp_path / f"{name}{suffix}", volume, description=text)
        assert is_ours(tmp_path / f"{name}{suffix}") == says_synthetic(tmp_path / f"{name}{suffix}") == (name == "ours")
    assert description(tmp_path / f"theirs{suffix}") == "TE=2.3;Time=101500"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_of_either_kind_and_byte_order(tmp_path, volume, kind, order):
    image = kind(volume.voxels, volume.affine, kind.header_class(endianness=order))
    image.header["descrip"] = TEXT.encode()[:79]
    image.to_filename(tmp_path / "a.nii.gz")
    assert says_synthetic(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("key", ["Software", "SoftwareVersions"], ids=["now", "0.1.0"])
def test_or_by_its_sidecar_in_any_encoding(tmp_path, volume, key):
    """What another program says is synthetic is not ours."""
    sidecar = {"synthetic": True, key: {"mrsynth": "0"}}
    write_volume(tmp_path / "a.nii.gz", volume)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "a.json").write_text(json.dumps(sidecar | {"name": "é"}, ensure_ascii=False), encoding)
        assert is_ours(tmp_path / "a.nii.gz") and is_ours(tmp_path / "a.json")
    for text in (
        '{"synthetic": true}',
        '{"synthetic": true, "Software": {"other": "1"}}',
        '{"synthetic": "no"}',
        '{"EchoTime": 1}',
        "[]",
        "{",
        "[" * 100_000,
    ):
        (tmp_path / "a.json").write_text(text)
        assert not is_ours(tmp_path / "a.nii.gz") and not is_ours(tmp_path / "a.json")


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"\x5c\x01\0\0" + bytes(300), gzip.compress(bytes(10), mtime=0)])
def test_what_cannot_be_read_is_somebody_elses(tmp_path, data):
    (tmp_path / "a.nii.gz").write_bytes(data)
    assert not is_ours(tmp_path / "a.nii.gz") and description(tmp_path / "a.nii.gz") == ""


def test_a_picture_is_known_by_what_it_says_and_not_by_its_name(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8)
    texts = {"ours": {"Software": "mrsynth 0.2.0"}, "theirs": {"Software": "mrs"}, "about": {"Title": "mrsynth "}}
    for name, said in texts.items():
        (tmp_path / f"{name}.png").write_bytes(png(pixels, said))
        assert is_ours(tmp_path / f"{name}.png") == (name == "ours")
    (tmp_path / "text.png").write_bytes(b"tEXtSoftware\0mrsynth 0.2.0")
    assert not is_ours(tmp_path / "text.png")


def test_a_sidecar_that_is_left_over_makes_no_scan_ours(tmp_path, volume):
    """The true T1ce came later, into the place of the synthetic one: by its header, or by the report beside it."""
    sidecar = {"synthetic": True, "SoftwareVersions": {"mrsynth": "0.2.0"}}
    (tmp_path / "a.json").write_text(json.dumps(sidecar))
    write_volume(tmp_path / "a.nii.gz", volume, description="TE=2.3;Time=101500")
    assert not is_ours(tmp_path / "a.nii.gz")
    write_volume(tmp_path / "a.nii.gz", volume)
    for recorded, ours in ((sha256_of(tmp_path / "a.nii.gz"), True), ("00" * 32, False)):
        report = {"outputs": [{"file": "b.nii.gz", "sha256": ""}, {"file": "a.nii.gz", "sha256": recorded}, 3]}
        (tmp_path / "report.json").write_text(json.dumps(report))
        assert is_ours(tmp_path / "a.nii.gz") == ours


def test_what_other_programs_call_synthetic_is_theirs(tmp_path):
    (tmp_path / "a.json").write_text('{"synthetic": true, "SoftwareVersions": {"SynthSeg": "2"}}')
    (tmp_path / "report.html").write_text("<html>how we used mrsynth</html>")
    (tmp_path / "mrsynth.log").write_text("my notes on mrsynth\n")
    assert not any(is_ours(path) for path in tmp_path.iterdir())
