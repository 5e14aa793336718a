"""Heads and brains told apart; the brain found by deepbet, or by a program on PATH."""

import os
from importlib.util import find_spec

import numpy as np
import pytest

from mrsynth.errors import InputError, UsageError
from mrsynth.io.nifti import read_volume, write_volume
from mrsynth.scans.stripping import brain_by_deepbet, brain_by_program, head_volume, shows_the_head
from mrsynth.scans.volume import Volume

needs_deepbet = pytest.mark.skipif(find_spec("deepbet") is None, reason="needs the extra strip")


def ball(radius, spacing=(2.0, 2.0, 2.0), background=0.0, hole=0.0, seed=0):
    """A ball of `radius` mm, with air noise around it and perhaps a hole in it."""
    shape = tuple(int(220 / s) for s in spacing)
    places = np.stack(
        np.meshgrid(*(s * (np.arange(n) - n / 2) for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    )
    r = np.sqrt((places**2).sum(0))
    voxels = np.where((r < radius) & (r >= hole), 500.0, 0.0)
    voxels += background * np.abs(np.random.default_rng(seed).normal(size=shape))
    return Volume(voxels.astype(np.float32), np.diag([*spacing, 1.0]))


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.0, 5.0), (4.0, 4.0, 4.0)])
@pytest.mark.parametrize("background", [0.0, 12.0])
def test_the_volume_is_that_of_the_largest_thing(spacing, background):
    assert head_volume(ball(70, spacing, background)) == pytest.approx(
        4 / 3 * np.pi * 7**3, rel=0.12
    )  # pits of coarse voxels are filled too


def test_holes_count_and_specks_do_not():
    scan = ball(70, hole=40)
    scan.voxels[:5, :5, :5] = 500

    assert head_volume(scan) == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.03)


def test_a_brain_is_none_but_a_head_is_a_head():
    assert not shows_the_head(ball(81)) and shows_the_head(ball(85))  # the largest phantom, the smallest head
    assert head_volume(Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))) == 0


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "head"),
    [
        ("raw_unaligned/TCGA-FG-6692/TCGA-FG-6692_t1_raw.nii.gz", True),
        ("raw_unaligned/TCGA-FG-6692/TCGA-FG-6692_t2_raw.nii.gz", True),
        ("glioma_brats/BraTS2021_00006/BraTS2021_00006_t1.nii.gz", False),
        ("ms_longitudinal/msl12s2/msl12s2_flair.nii.gz", False),
    ],
)
def test_real_heads_and_brains(file, head, shared_data):
    assert shows_the_head(read_volume(shared_data / "data" / file)) is head


@needs_deepbet
@pytest.mark.slow
@pytest.mark.real_data
def test_deepbet_finds_the_brain_of_a_raw_scan(shared_data):
    folder = shared_data / "data" / "raw_unaligned" / "TCGA-FG-6692"
    found = brain_by_deepbet(read_volume(folder / "TCGA-FG-6692_t1_raw.nii.gz"))
    true = read_volume(folder / "TCGA-FG-6692_t1_brainmask.nii.gz", labels=True).voxels > 0

    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.96


def test_without_deepbet_the_ways_out_are_named(monkeypatch):
    monkeypatch.setattr("mrsynth.scans.stripping.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"mrsynth\[strip\].*--mask FILE.*hd-bet, mri_synthstrip"):
        brain_by_deepbet(ball(90))


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_program_on_path_is_asked(tmp_path, monkeypatch):
    """The stand-in copies a mask that lies beside it to where it was told."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    mask = ball(60)
    write_volume(tmp_path / "mask.nii.gz", mask)
    program(tmp_path, "mri_synthstrip", f'[ -e "$2" ] && /bin/cp "{tmp_path}/mask.nii.gz" "$4"')
    found = brain_by_program("mri_synthstrip", ball(90), write_volume, read_volume)

    assert np.array_equal(found, mask.voxels > 0)


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("bet9000", "", UsageError, "give auto, off, or one of hd-bet, mri_synthstrip"),
        ("hd-bet", None, UsageError, "no program of that name on PATH"),
        ("hd-bet", "echo out of memory >&2; exit 3", InputError, "status 3 and no mask: out of memory"),
        ("hd-bet", "exit 0", InputError, "status 0 and no mask"),
    ],
)
def test_a_program_that_fails_is_named(name, text, error, message, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    if text is not None:
        program(tmp_path, name, text)
    with pytest.raises(error, match=message):
        brain_by_program(name, ball(60), write_volume, read_volume)
