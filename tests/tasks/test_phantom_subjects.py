"""Phantoms on disk: made from nilearn's maps without importing nilearn."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from pydantic import ValidationError

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import UsageError
from mrsynth.io.nifti import read_volume
from mrsynth.phantom.brain import phantom
from mrsynth.tasks import phantom_subjects as task
from mrsynth.tasks.phantom_subjects import PhantomOptions, make_phantoms, mni152

needs_nilearn = pytest.mark.skipif(find_spec("nilearn") is None, reason="nilearn is not installed")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> PhantomOptions:
    return PhantomOptions(out=tmp_path_factory.mktemp("phantoms"), subjects=2, seed=7, spacing=(6, 6, 6))


@pytest.fixture(scope="module")
def folders(options):
    return make_phantoms(options)


@needs_nilearn
def test_files_have_brats_names_and_hold_the_phantom(options, folders):
    assert [f.name for f in folders] == ["phantom-000", "phantom-001"]
    assert {p.name for p in folders[1].iterdir()} == {f"phantom-001_{x}.nii.gz" for x in (*STANDARD, "seg")}
    subject = phantom(mni152(), options.of_subject(1))
    assert options.of_subject(1).seed == 8
    for suffix, volume in [*subject.volumes.items(), ("seg", subject.segmentation)]:
        stored = read_volume(folders[1] / f"phantom-001_{suffix}.nii.gz")
        assert np.array_equal(stored.voxels, volume.voxels)
        assert np.allclose(stored.affine, volume.affine)


@needs_nilearn
def test_the_template_is_a_head(folders):
    tissues = mni152()
    total = tissues.gm + tissues.wm + tissues.csf
    assert total.dtype == np.float32
    assert np.allclose(total[total > 0], 1, atol=1e-6)
    millilitres = [m.sum() / 1000 for m in (tissues.gm, tissues.wm, tissues.csf)]
    assert 800 < millilitres[0] < 1200 and 500 < millilitres[1] < 800 and 100 < millilitres[2] < 400
    t1 = read_volume(folders[0] / "phantom-000_t1.nii.gz")
    assert 1300 < (t1.voxels > 0).sum() * np.prod(t1.spacing) / 1000 < 2400


@needs_nilearn
def test_contrasts_can_be_left_out(tmp_path, coarse_head):
    asked = PhantomOptions(out=tmp_path, spacing=(8, 8, 8), without=(Contrast.T1CE,), lesion="none")
    seen = []
    (folder,) = make_phantoms(asked, lambda *step: seen.append(step))
    assert {p.name for p in folder.iterdir()} == {f"phantom-000_{x}.nii.gz" for x in ("t1", "t2", "flair")}
    assert seen == [("phantoms", 0, 1), ("phantoms", 1, 1)]

    (folder / "phantom-000_t1ce.nii.gz").write_bytes(b"")
    with pytest.raises(UsageError, match="already there"):
        make_phantoms(asked)


def test_something_must_be_left(tmp_path):
    with pytest.raises(UsageError, match="at least one"):
        make_phantoms(PhantomOptions(out=tmp_path, without=STANDARD))
    with pytest.raises(UsageError, match="--without ct,pd: no phantom has that; there are t1, t1ce, t2, flair"):
        make_phantoms(PhantomOptions(out=tmp_path, without=(Contrast.CT, Contrast.T1, Contrast.PD)))
    with pytest.raises(ValidationError, match="less than or equal to 10000"):
        PhantomOptions(out=tmp_path, subjects=10**9)


def test_without_nilearn_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "find_spec", lambda name: None)
    monkeypatch.setattr(task, "mni152", mni152.__wrapped__)  # past the cache
    with pytest.raises(UsageError, match=r"pip install 'mrsynth\[demo\]'"):
        make_phantoms(PhantomOptions(out=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@needs_nilearn
def test_neither_nilearn_nor_torch_is_imported():
    use = "from mrsynth.tasks.phantom_subjects import mni152; mni152()"
    code = f"import sys; {use}; print({{'nilearn', 'torch'}} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
