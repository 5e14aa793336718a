"""Names lead to files, and only to the very files the manifest vouches for."""

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import yaml

import mrsynth.io.store as weights
from mrsynth.card import Card
from mrsynth.contrasts import STANDARD
from mrsynth.errors import WeightsError
from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
from mrsynth.io.fetched import RECORDS, Fetched, record, records
from mrsynth.io.store import available_entries

FIELDS = {"method": "fgc2f", "contrasts": ["t1", "t1ce", "t2", "flair"], "licence": "Apache-2.0"}
HUB = FIELDS | {"name": "official", "method": "cwdm", "repository": "pfriedri/cwdm", "pattern": "t1ce"}


def checkpoint(path, name, method="fgc2f"):
    card = Card(name=name, method=method, contrasts=STANDARD, licence="Apache-2.0")
    write_checkpoint(path, Checkpoint(card, {}, {}, {"a": torch.arange(100.0)}))
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package folder in a repository, with one embedded checkpoint `ship` and one that is only on a hub."""
    folder = tmp_path / "repository" / "mrsynth"
    (folder / "weights").mkdir(parents=True)
    file = checkpoint(folder / "weights" / "ship.safetensors", "ship")
    ship = {"file": file.name, "sha256": sha256(file.read_bytes()).hexdigest(), "size": file.stat().st_size}
    write_manifest(folder.parent, FIELDS | ship | {"name": "ship"}, HUB)
    monkeypatch.setattr(weights, "PACKAGE", folder)
    monkeypatch.delenv("MRSYNTH_WEIGHTS_DIR", raising=False)
    monkeypatch.delenv("MRSYNTH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def write_manifest(folder, *entries):
    (folder / "weights_manifest.yaml").write_text(yaml.safe_dump({"weights": list(entries)}))


def names(entries):
    return [entry.name for entry in entries]


def test_the_real_manifest_is_sound():
    """Every embedded file is there and is what the manifest says."""
    for entry in weights.manifest():
        if entry.file is not None:
            assert weights.locate(entry).is_file()


def test_members_are_asked_for_planes_that_they_learnt():
    known = {entry.name: entry for entry in weights.manifest()}
    members = [m for entry in known.values() if entry.committee for m in entry.committee.members]

    assert members and all(set(member.planes) <= set(known[member.name].planes) for member in members)


def test_the_manifest_beside_the_package_comes_first(package):
    assert names(weights.manifest()) == ["ship", "official"]
    write_manifest(package)
    assert weights.manifest() == []


def test_a_missing_manifest_names_both_places(package):
    (package.parent / "weights_manifest.yaml").unlink()
    with pytest.raises(WeightsError, match=r"mrsynth/weights_manifest\.yaml and .*repository/weights_manifest\.yaml"):
        weights.manifest()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (FIELDS, "entry 2: key 'name': field required"),
        (HUB | {"licence": None}, r"entry 2 \(official\): key 'licence'"),
        (HUB | {"colour": "red"}, r"entry 2 \(official\): key 'colour': extra inputs"),
        (HUB | {"name": "ship"}, "entry 2: the name 'ship' is taken"),
        (HUB | {"file": "x"}, r"entry 2 \(official\): expected either the key 'file' or the key 'repository'"),
        (FIELDS | {"name": "x"}, "either the key 'file' or the key 'repository'"),
        (FIELDS | {"name": "x", "file": "x", "size": 3}, "the key 'sha256' is missing"),
        (FIELDS | {"name": "x", "file": "x", "sha256": "0"}, "the key 'size' is missing"),
        (FIELDS | {"name": "x", "repository": "x"}, "the key 'pattern' is missing"),
        (HUB | {"pattern": "*.pt"}, r"the key 'pattern' is '\*\.pt', expected a regular expression: nothing to repeat"),
        ("ship", "entry 2: found a str, expected keys and values"),
    ],
)
def test_a_malformed_entry_is_named(package, entry, message):
    write_manifest(package, HUB | {"name": "ship"}, entry)
    with pytest.raises(WeightsError, match=message):
        weights.manifest()


@pytest.mark.parametrize("text", ["", "weights:", "weights: {}", "[1]", "weights: []\nmore: 1", "weights: [", "\x00"])
def test_a_malformed_manifest_is_refused(package, text):
    (package / "weights_manifest.yaml").write_text(text)
    with pytest.raises(WeightsError, match=r"weights_manifest\.yaml"):
        weights.manifest()


def test_locate_gives_the_verified_file(package):
    assert weights.locate(weights.manifest()[0]) == package / "weights" / "ship.safetensors"


def test_one_changed_bit_is_found(package):
    path = package / "weights" / "ship.safetensors"
    expected = weights.sha256_of(path)
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)

    with pytest.raises(WeightsError, match=rf"(?s){sha256(data).hexdigest()}.*{expected}.*Install mrsynth again"):
        weights.locate(weights.manifest()[0])
    with pytest.raises(WeightsError, match="not the file it should be"):
        weights.resolve("ship")


def test_a_missing_or_short_file_is_found(package):
    path = package / "weights" / "ship.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=rf"{size - 1} bytes, expected {size}.*Install mrsynth again"):
        weights.locate(weights.manifest()[0])
    path.unlink()
    with pytest.raises(WeightsError, match=r"expected its file at .*ship\.safetensors, found none"):
        weights.locate(weights.manifest()[0])


def test_a_published_checkpoint_is_not_pretended_to_be_here(package):
    with pytest.raises(
        WeightsError,
        match=r"official is not on this machine: it is published in pfriedri/cwdm\. Run `mrsynth weights fetch ",
    ):
        weights.resolve("official")


def test_sha256_of_known_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")

    assert weights.sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")
    with pytest.raises(WeightsError, match="Cannot read"):
        weights.sha256_of(tmp_path / "b")


def test_resolve_takes_names_and_paths(package, tmp_path, monkeypatch):
    own = checkpoint(tmp_path / "own.safetensors", "mine")
    monkeypatch.chdir(tmp_path)

    card, path, digest = weights.resolve("ship")
    assert (card.name, path) == ("ship", package / "weights" / "ship.safetensors")
    assert digest == weights.sha256_of(path)
    for spelling in (str(own), "own.safetensors", "./own.safetensors"):
        card, path, digest = weights.resolve(spelling)
        assert (card.name, path, digest) == ("mine", own, weights.sha256_of(own))


def test_a_path_needs_no_manifest(package, tmp_path):
    (package.parent / "weights_manifest.yaml").unlink()

    assert weights.resolve(str(checkpoint(tmp_path / "own.safetensors", "mine"))).card.name == "mine"


def test_resolve_refuses_with_reasons(package, tmp_path):
    with pytest.raises(WeightsError, match=r"No checkpoint is called 'shp'\. Known: ship, official\."):
        weights.resolve("shp")
    with pytest.raises(WeightsError, match="No checkpoint at"):
        weights.resolve(str(tmp_path / "none.safetensors"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="pickle can run code"):
        weights.resolve(str(tmp_path / "model.pt"))


def test_user_folders_add_checkpoints_after_the_manifest(package, tmp_path, monkeypatch, caplog):
    one, two, home = tmp_path / "one", tmp_path / "two", tmp_path / "home"
    for folder in (one, two, home / "weights"):
        folder.mkdir(parents=True)
    checkpoint(one / "b.safetensors", "b")
    checkpoint(one / "a.safetensors", "a")
    checkpoint(two / "a.safetensors", "a")
    checkpoint(two / "ship.safetensors", "ship")
    (two / "broken.safetensors").write_bytes(b"1234")
    (two / "readme.txt").write_text("not looked at")
    checkpoint(home / "weights" / "c.safetensors", "c")
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", f"{one}:{two}:{tmp_path / 'nowhere'}")
    monkeypatch.setenv("MRSYNTH_HOME", str(home))

    with caplog.at_level(logging.WARNING):
        entries = weights.available_entries()
    assert names(entries) == ["ship", "official", "a", "b", "c"]
    assert weights.locate(entries[2]) == one / "a.safetensors"
    assert weights.resolve("c").sha256 == weights.sha256_of(home / "weights" / "c.safetensors")
    assert weights.locate(entries[0]) == package / "weights" / "ship.safetensors"
    warned = caplog.text
    assert "two/a.safetensors, because the name 'a' is taken" in warned
    assert "two/ship.safetensors, because the name 'ship' is taken" in warned
    assert "broken.safetensors is truncated" in warned
    assert "nowhere" in warned
    (one / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"expected its file at .*Copy the file there again"):
        weights.locate(entries[3])


def test_the_store_is_in_the_home_of_mrsynth_or_else_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("MRSYNTH_HOME", "~/own")
    assert weights.store_folder() == tmp_path / "own" / "weights"
    monkeypatch.delenv("MRSYNTH_HOME")
    assert weights.store_folder() == tmp_path / "c" / "mrsynth" / "weights"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert weights.store_folder() == tmp_path / ".cache" / "mrsynth" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.store_folder() == tmp_path / ".cache" / "mrsynth" / "weights"
    assert not (tmp_path / ".cache").exists()


def test_the_store_is_looked_at_last(package, tmp_path, monkeypatch):
    one = tmp_path / "one"
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(one))
    assert weights.store_folders() == [one]
    for folder in (one, weights.store_folder()):
        folder.mkdir(parents=True)
    checkpoint(one / "a.safetensors", "a")
    checkpoint(weights.store_folder() / "b.safetensors", "b")

    assert weights.store_folders() == [one, tmp_path / "cache" / "mrsynth" / "weights"]
    assert names(weights.available_entries()) == ["ship", "official", "a", "b"]


def test_a_published_checkpoint_is_at_hand_once_its_file_is_in_a_folder(package, tmp_path, monkeypatch, caplog):
    """With or without a record of where it came from; whatever name the file has for itself."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(folder))
    path = checkpoint(folder / "official.safetensors", "theirs", method="cwdm")

    entry = weights.available_entries()[1]
    assert (entry.name, entry.file, entry.sha256, entry.repository) == ("official", str(path), None, "pfriedri/cwdm")
    assert weights.resolve("official").path == weights.locate(entry) == path
    fetched = Fetched(
        repository="a/b", file="x.pt", revision="0", sha256="1", size=2, stored_sha256=weights.sha256_of(path)
    )
    record(folder, "official", fetched)
    record(folder, "another", fetched)
    assert records(folder) == {"another": fetched, "official": fetched}
    assert weights.available_entries()[1].sha256 == weights.sha256_of(path) and not caplog.records

    checkpoint(path, "theirs", method="fgc2f")
    assert weights.available_entries()[1].file is None
    assert "found a checkpoint of fgc2f for t1, t1ce, t2, flair, expected official, of cwdm" in caplog.text


def test_a_broken_record_stops_nobody_from_listing(package, tmp_path, caplog):
    checkpoint(weights.writable_store() / "official.safetensors", "official", method="cwdm")
    (weights.store_folder() / "fetched.yaml").write_text("official: [")

    assert names(weights.available_entries()) == ["ship", "official"]
    assert "fetched.yaml" in caplog.text


def test_rows_tell_where_each_checkpoint_is(package, tmp_path, monkeypatch):
    folder = tmp_path / "store"
    folder.mkdir()
    checkpoint(folder / "mine.safetensors", "mine")
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(folder))
    ship, official, mine = weights.rows(weights.available_entries())

    assert ship["where"] == "In the package"
    assert ship["makes"] == "any of t1, t1ce, t2, flair from one or more of the others"
    assert official["where"] == "pfriedri/cwdm (not on this machine)"
    assert official["size"] == ""
    assert mine["where"] == str(folder)


@pytest.mark.parametrize("module", ["mrsynth.io.store", "mrsynth.io.checkpoint", "mrsynth.selection"])
def test_listing_and_choosing_load_no_torch(tmp_path, module):
    """Nor numpy, nor the safetensors package; reading a header included."""
    path = checkpoint(tmp_path / "a.safetensors", "a")
    program = (
        f"import sys, {module}\n"
        "from mrsynth.io.store import available_entries, resolve, rows\n"
        f"rows(available_entries()); resolve({str(path)!r})\n"
        "sys.exit(', '.join({'torch', 'numpy', 'safetensors', 'huggingface_hub'} & set(sys.modules)) or 0)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_what_two_processes_note_at_once_is_all_kept(tmp_path):
    fetched = Fetched(repository="a/b", file="f", revision="r", sha256="0" * 64, size=1, stored_sha256="1" * 64)

    def note(who):
        for number in range(15):
            record(tmp_path, f"{who}-{number}", fetched)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(note, "ab"))
    assert len(records(tmp_path)) == 30 and [p.name for p in tmp_path.iterdir()] == [RECORDS]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: os.mkfifo(path), "it is a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes((9 * 10**7).to_bytes(8, "little") + b'{"a": 1}'), "damaged"),
        (lambda path: path.write_bytes(b'\x09\0\0\0\0\0\0\0{"a":1e9}'), "not a safetensors file"),
    ],
)
def test_what_cannot_be_used_in_a_shared_folder_is_named_and_stops_nobody(
    package, tmp_path, monkeypatch, caplog, harm, said
):
    folder = tmp_path / "shared"
    folder.mkdir()
    checkpoint(folder / "good.safetensors", "good")
    harm(folder / "bad.safetensors")
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(folder))
    assert "good" in names(available_entries()) and "bad" not in names(available_entries())
    assert "Left out" in caplog.text and "bad.safetensors" in caplog.text and said in caplog.text
