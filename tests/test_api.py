"""The Python that the README shows runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

import mrsynth
from mrsynth.contrasts import STANDARD, Contrast

CHECKOUT = Path(__file__).resolve().parents[1]


def shown() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    return block


def checkpoint_shown() -> str:
    return re.search(r'load_method\("([^"]+)"\)', shown()).group(1)


def test_the_readme_runs(write_subject_folder, write_tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """In a folder with a subject, and with a small checkpoint of the name it uses."""
    write_subject_folder(tmp_path, "subject_dir", without=[Contrast.T1CE, Contrast.FLAIR])
    (tmp_path / "weights").mkdir()
    write_tiny_checkpoint(tmp_path / "weights" / "x.safetensors", checkpoint_shown())
    monkeypatch.setattr("mrsynth.io.store.manifest", list)
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)

    names = {}
    exec(compile(shown(), "README.md", "exec"), names)

    completion, subject = names["completion"], names["subject"]
    assert set(completion.volumes) == {Contrast.T1CE, Contrast.FLAIR}
    assert set(completion.prepared.scales) == {Contrast.T1, Contrast.T2}
    for volume in completion.volumes.values():
        assert volume.shape == subject.reference.shape and np.array_equal(volume.affine, subject.reference.affine)
        assert volume.voxels.min() >= 0 and 0 < volume.voxels.max() <= 1000
    assert "t1ce" in capsys.readouterr().out
    assert not (tmp_path / "subject_dir" / "mrsynth").exists()  # in memory only


def test_the_checkpoint_it_names_ships():
    from mrsynth.io.store import manifest

    embedded = {entry.name: entry for entry in manifest() if entry.file is not None}
    if not embedded:
        pytest.skip("no checkpoint is in the package yet")
    assert embedded[checkpoint_shown()].contrasts == STANDARD


def test_public_names():
    assert sorted(mrsynth.__all__) == [
        *("Completion", "Sampling", "Subject"),
        *("complete_subject", "load_method", "load_subject"),
    ]
    for name in mrsynth.__all__:
        assert getattr(mrsynth, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'synthesize'"):
        _ = mrsynth.synthesize
