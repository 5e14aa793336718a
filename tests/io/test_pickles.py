"""Tensors are read from foreign files; whatever else a file holds is refused in words and never run."""

import argparse
import os
import pickle
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from mrsynth.card import Card
from mrsynth.contrasts import STANDARD
from mrsynth.errors import WeightsError
from mrsynth.io import pickles
from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
from mrsynth.io.pickles import read_state_dict

STATE = {
    "a.weight": torch.linspace(-1, 1, 24).reshape(2, 3, 4).transpose(0, 1),
    "a.bias": torch.arange(3.0).half(),
    "n": torch.tensor(7),
}


@pytest.fixture
def saved(tmp_path):
    """saved(content, name="x.pt", **options) -> path of what torch.save makes of it."""

    def save(content, name="x.pt", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


def same(found, expected=STATE):
    return list(found) == list(expected) and all(
        torch.equal(found[key], t) and found[key].dtype == t.dtype for key, t in expected.items()
    )


@pytest.mark.parametrize("new", [True, False])
def test_what_torch_saved_is_read(saved, new):
    assert same(read_state_dict(saved(OrderedDict(STATE), _use_new_zipfile_serialization=new)))


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_tensors_from_safetensors_are_read(tmp_path, name):
    save_file({key: t.contiguous() for key, t in STATE.items()}, tmp_path / name)
    found = read_state_dict(tmp_path / name)

    assert same({key: found[key] for key in STATE})


def test_an_archive_that_unpacks_into_more_than_it_is_is_not_opened(saved, tmp_path, monkeypatch):
    """data.pkl of zeros, deflated; the same bytes as two parts; a list of tensors longer than any."""
    path = saved(STATE)
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data + bytes(10_000_000) if name.endswith("data.pkl") else data)
    with pytest.raises(WeightsError, match=r"would unpack into more than \d+ bytes"):
        read_state_dict(tmp_path / "bomb.pt")
    monkeypatch.setattr(pickles, "LONGEST_PROGRAM", 100)
    with pytest.raises(WeightsError, match="list of tensors is longer than 100 bytes"):
        read_state_dict(path)


def test_a_header_that_claims_much_and_a_pipe_are_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes((90_000_000).to_bytes(8, "little") + b'{"a": 1}')
    with pytest.raises(WeightsError, match="its header claims more than"):
        read_state_dict(tmp_path / "a.safetensors")
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(WeightsError, match="it is a pipe, expected a file"):
        read_state_dict(tmp_path / "pipe.pt")


def test_a_pickle_called_safetensors_is_refused(saved):
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_state_dict(saved(STATE, "x.safetensors"))


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "epoch": 3, "hyper": {"lr": 1e-4}},
        {"model": STATE, "optimizer": {"state": {}, "param_groups": []}},
        {f"module.{key}": t for key, t in STATE.items()},
        {"state_dict": {f"module.{key}": t for key, t in STATE.items()}},
        {key: torch.nn.Parameter(t, requires_grad=False) for key, t in STATE.items()},
    ],
)
def test_known_wrappers_are_taken_off(saved, content):
    found = read_state_dict(saved(content))

    assert same(found)
    assert {type(t) for t in found.values()} == {torch.Tensor}


def test_a_prefix_of_only_some_names_stays(saved):
    mixed = {"module.a": torch.zeros(1), "b": torch.zeros(1)}

    assert list(read_state_dict(saved(mixed))) == ["module.a", "b"]


class Evil:
    def __reduce__(self):
        return os.mkdir, (f"{os.environ['EVIL_FOLDER']}/ran",)


@pytest.mark.parametrize("how", ["zip", "old"])
def test_code_in_a_file_never_runs(tmp_path, monkeypatch, how):
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path))
    path = tmp_path / "evil.pt"
    torch.save({"a": torch.zeros(2), "b": Evil()}, path, _use_new_zipfile_serialization=how == "zip")

    with pytest.raises(WeightsError, match=r"mkdir, which may run code.*not opened\. Expected.*Ask"):
        read_state_dict(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_bare_pickle_never_runs(tmp_path, monkeypatch, protocol):
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path))
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"a": Evil()}, protocol))

    with pytest.raises(WeightsError, match=r"evil\.pt") as refused:
        read_state_dict(tmp_path / "evil.pt")
    assert "weights_only" not in str(refused.value)  # torch's advice to let it run
    assert not (tmp_path / "ran").exists()


def test_harmless_classes_are_refused_too(saved):
    content = {"state_dict": STATE, "args": argparse.Namespace(lr=1)}

    with pytest.raises(WeightsError, match=r"argparse\.Namespace"):
        read_state_dict(saved(content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
        ({}, "holds no tensor"),
        ({"a": torch.zeros(1), "step": 3}, "holds a int under 'step'"),
        ({1: torch.zeros(1)}, "holds a Tensor under 1"),
        ({"state": {0: {"exp_avg": torch.zeros(1)}}, "param_groups": [{"lr": 1.0}]}, "optimizer.*begin with opt"),
        ({"ema": STATE}, "under 'ema', and it cannot be known"),
        ({"model": STATE, "ema": STATE}, "under 'model', 'ema', and it cannot be known"),
        ({"model": STATE, "a": torch.zeros(1)}, "under 'model', and it cannot be known"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is sparse"),
        ({"a": torch.empty(2, device="meta")}, "'a' has no data"),
        ({"a": torch.zeros(1).expand(1 << 40)}, "'a' claims 1099511627776 numbers"),
    ],
)
def test_other_content_is_refused(saved, content, said):
    with pytest.raises(WeightsError, match=said) as refused:
        read_state_dict(saved(content))
    assert "Expected" in str(refused.value)


def test_every_truncation_is_refused(saved, tmp_path):
    for new in (True, False):
        whole = saved(STATE, _use_new_zipfile_serialization=new).read_bytes()
        for length in range(1, len(whole) - 1, 37 if new else 11):
            (tmp_path / "cut.pt").write_bytes(whole[:length])
            with pytest.raises(WeightsError, match=r"cut\.pt"):
                read_state_dict(tmp_path / "cut.pt")


def test_a_truncated_safetensors_file_is_refused(tmp_path):
    save_file({"a": torch.zeros(100)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for length in (9, 40, len(whole) - 1):
        (tmp_path / "a.safetensors").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            read_state_dict(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is an empty file"),
        (b"hello, world, this is no checkpoint", "cannot be read as weights"),
        (bytes(1000), "cannot be read as weights"),
        (pickle.dumps({"a": 1}), "cannot be read as weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"\n<!DOCTYPE html><html>sign in</html>", "web page"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, data, said):
    (tmp_path / "x.pt").write_bytes(data)

    with pytest.raises(WeightsError, match=said):
        read_state_dict(tmp_path / "x.pt")


def test_other_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("letter.txt", "hello")

    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_state_dict(tmp_path / "x.pt")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(WeightsError, match=r"No file at .*check the path"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="is a folder"):
        read_state_dict(tmp_path)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_forbidden_file_is_said(saved):
    path = saved(STATE)
    path.chmod(0)

    with pytest.raises(WeightsError, match="Check its permissions"):
        read_state_dict(path)


def test_a_checkpoint_of_mrsynth_is_sent_to_weights(tmp_path):
    card = Card(name="a", method="cwdm", contrasts=STANDARD, licence="CC0")
    write_checkpoint(tmp_path / "a.safetensors", Checkpoint(card, {}, {}, {"a": torch.zeros(2)}))

    with pytest.raises(WeightsError, match=r"already.*--weights .*a\.safetensors"):
        read_state_dict(tmp_path / "a.safetensors")


def test_a_drive_without_memory_mapping_is_read(saved, monkeypatch):
    path, load = saved(STATE), torch.load

    def fussy(*arguments, mmap=False, **options):
        if mmap:
            raise RuntimeError("unable to mmap 100 bytes from file <x.pt>: No such device (19)")
        return load(*arguments, mmap=mmap, **options)

    monkeypatch.setattr(torch, "load", fussy)

    assert same(read_state_dict(path))
