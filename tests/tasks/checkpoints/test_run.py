"""Fetching into the store, with the hub replaced by files on this disk; the hub itself is in tests/io/test_hub.py."""

import errno
import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from safetensors.torch import save_file

import mrsynth.io.store as weights
from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import NotWritable, OutputError, WeightsError
from mrsynth.io import hub
from mrsynth.io.checkpoint import Checkpoint, Header, read_header, write_checkpoint
from mrsynth.io.own_scores import OwnBenchmark, record_benchmark
from mrsynth.io.store import writable_store
from mrsynth.preference import is_at_hand
from mrsynth.scores.rows import Score
from mrsynth.tasks.checkpoints.run import at_hand, card_text, fetch, listing, verify

SCORE = Score(
    pattern="t1+t2+flair", target="t1ce", region="brain", metric="PSNR", value=20.0, subjects=3, protocol="brain3d"
)
BENCHMARK = OwnBenchmark(dataset="folder", recorded=datetime.now(UTC), checkpoints={})
ENTRY = ManifestEntry(
    name="official",
    method="cwdm",
    contrasts=STANDARD,
    requires={Contrast.T1CE: (Contrast.T1, Contrast.T2, Contrast.FLAIR)},
    licence="MIT",
    sampling={"sampler": "ddpm", "steps": 10},
    scores=(SCORE,),
    repository="authors/published",
    pattern="t1ce",
)


def checkpoint(path, name="theirs", method="cwdm", value=1.0):
    card = Card(name=name, method=method, contrasts=STANDARD, licence="CC0")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, Checkpoint(card, {}, {}, {"a": torch.full((300,), value)}))
    return path


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The store, not yet there, in a world whose manifest has one published checkpoint."""
    monkeypatch.setattr(weights, "manifest", lambda: [ENTRY])
    monkeypatch.delenv("MRSYNTH_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """published(path): this is what the hub now gives; the downloads are listed in published.asked."""

    def publish(path):
        def download(entry, progress=None):
            publish.asked.append(entry.name)
            data = path.read_bytes()
            return hub.Downloaded(path, path.name, f"{len(publish.asked):040}", sha256(data).hexdigest(), len(data))

        monkeypatch.setattr(hub, "download", download)

    publish.asked = []
    return publish


@pytest.fixture
def importing(monkeypatch):
    """The conversion replaced by one that writes a checkpoint into the store; its requests are listed."""
    requests = []

    def import_checkpoint(file, **options):
        requests.append((file, options))
        return checkpoint(weights.store_folder() / f"{options['name']}.safetensors", options["name"])

    module = ModuleType("mrsynth.tasks.checkpoints.importing")
    module.import_checkpoint = import_checkpoint
    monkeypatch.setitem(sys.modules, "mrsynth.tasks.checkpoints.importing", module)
    return requests


def test_a_checkpoint_of_mrsynth_is_copied_and_then_at_hand(store, published, tmp_path):
    """With the facts of the manifest, not those of the file; and once only."""
    file = checkpoint(tmp_path / "t1ce.safetensors")
    published(file)
    assert at_hand("official") is None

    path = fetch("official")
    assert path == store / "official.safetensors" and path.read_bytes() == file.read_bytes()
    (entry,) = weights.available_entries()
    assert is_at_hand(entry) and entry.file == str(path) and entry.size == path.stat().st_size
    assert entry.model_copy(update={"file": None, "sha256": None, "size": None}) == ENTRY
    assert weights.resolve("official") == (entry, path, sha256(file.read_bytes()).hexdigest())
    assert fetch("official") == at_hand("official") == path and published.asked == ["official"]
    assert sorted(p.name for p in store.iterdir()) == ["fetched.yaml", "official.safetensors"]


def test_what_0_1_0_converted_is_fetched_and_converted_anew(store, published, importing, monkeypatch, tmp_path):
    (tmp_path / "t1ce.pt").write_bytes(b"a pickle")
    published(tmp_path / "t1ce.pt")
    path = fetch("official")
    header = read_header(path)
    note = f"Converted from t1ce.pt (sha256 {'0' * 64}), trained for 1000 levels."
    card = header.card.model_copy(update={"note": note, "sampling": {"sampler": "ddpm", "steps": 10}})
    old = Header(card, {"sampler": "ddpm", "variance": "beta", "T": 1000}, {}, format=1)
    monkeypatch.setattr("mrsynth.tasks.checkpoints.run.read_header", lambda _: old)

    assert fetch("official") == path and len(importing) == 2
    monkeypatch.undo()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_foreign_checkpoint_is_converted_and_both_hashes_recorded(store, published, importing, tmp_path, suffix):
    file = tmp_path / f"net_t1ce{suffix}"
    file.write_bytes(b"a pickle")
    published(file)

    path = fetch("official")
    ((converted, options),) = importing
    assert converted == file
    assert options == {
        **{"method": "cwdm", "target": Contrast.T1CE, "name": "official", "licence": "MIT", "card": ENTRY},
    }
    assert yaml.safe_load((store / "fetched.yaml").read_text()) == {
        "official": {
            **{"repository": "authors/published", "file": file.name, "revision": f"{1:040}"},
            **{"sha256": sha256(b"a pickle").hexdigest(), "size": 8, "stored_sha256": weights.sha256_of(path)},
        }
    }
    assert verify() == [f"official: {path} is what it should be"]


def test_a_changed_copy_is_found_and_can_be_fetched_again(store, published, tmp_path):
    published(checkpoint(tmp_path / "t1ce.safetensors"))
    path = fetch("official")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    advice = r"(?s)is not the file it should be.*Delete the file and run `mrsynth weights fetch official`"
    for ask in (verify, lambda: fetch("official"), lambda: weights.resolve("official")):
        with pytest.raises(WeightsError, match=advice):
            ask()
    path.unlink()
    assert fetch("official") == path and verify()


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"sha256": "0" * 64}, r"is not the file this version.*\n  sha256 found:    [0-9a-f]{64}\n.*expected: 0{64}\n"),
        ({"size": 3}, r"has 8 bytes, expected 3\. It was not used"),
    ],
)
def test_the_manifest_has_the_first_word(store, published, importing, tmp_path, monkeypatch, known, said):
    (tmp_path / "t1ce.pt").write_bytes(b"a pickle")
    published(tmp_path / "t1ce.pt")
    monkeypatch.setattr(weights, "manifest", lambda: [ENTRY.model_copy(update=known)])

    with pytest.raises(WeightsError, match=said):
        fetch("official")
    assert importing == [] and list(store.iterdir()) == []


def test_a_file_that_changed_since_is_accepted_only_on_purpose(store, published, tmp_path):
    first, second = (checkpoint(tmp_path / f"{n}.safetensors", value=n) for n in (1.0, 2.0))
    published(first)
    path = fetch("official")
    path.unlink()
    published(second)

    with pytest.raises(WeightsError, match=r"(?s)is not the file fetched before \(commit 0+\).*delete the entry"):
        fetch("official")
    assert not path.exists()
    (store / "fetched.yaml").write_text("{}")
    assert fetch("official").read_bytes() == second.read_bytes()


def test_a_checkpoint_of_another_method_is_not_stored(store, published, tmp_path):
    published(checkpoint(tmp_path / "t1ce.safetensors", method="fgc2f"))

    with pytest.raises(WeightsError, match=r"found a checkpoint of fgc2f for .*expected official, of cwdm"):
        fetch("official")
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_the_conversion_refuses_is_not_stored(store, published, tmp_path, suffix):
    """By the real conversion: tensors that are no network of cWDM."""
    file = tmp_path / f"t1ce{suffix}"
    tensors = {"a": torch.zeros(3)}
    torch.save(tensors, file) if suffix == ".pt" else save_file(tensors, file)
    published(file)

    with pytest.raises(WeightsError, match="does not fit the network of cWDM"):
        fetch("official")
    assert list(store.iterdir()) == [] and at_hand("official") is None


def test_a_record_that_cannot_be_read_costs_no_download(store, published, tmp_path):
    published(checkpoint(tmp_path / "t1ce.safetensors"))
    store.mkdir(parents=True)
    for text in ("official: 3", "[1, 2]", "{", "official: {sha256: 0}"):
        (store / "fetched.yaml").write_text(text)
        with pytest.raises(WeightsError, match=r"(?s)Cannot use .*fetched\.yaml: .*Correct it, or delete it"):
            fetch("official")
    assert published.asked == []


def test_a_store_that_cannot_be_written(store, published, tmp_path):
    store.parent.write_text("a file in its place")
    with pytest.raises(OutputError, match=rf"Cannot write {store}: .*MRSYNTH_HOME names another folder"):
        fetch("official")
    assert published.asked == []


@pytest.mark.parametrize("write", [writable_store, lambda: record_benchmark(BENCHMARK)], ids=["store", "scores"])
def test_a_store_without_permission_is_status_6_and_names_its_own_way_out(store, monkeypatch, write):
    def refuse(path, content):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(NotWritable, match=r"read-only; .*MRSYNTH_HOME names another folder") as caught:
        write()
    assert caught.value.exit_code == 6 and "--out" not in str(caught.value)


def test_an_unknown_name_lists_those_known(store):
    for ask in (at_hand, fetch):
        with pytest.raises(WeightsError, match=r"No checkpoint is called 'offical'\. Known: official\."):
            ask("offical")


def test_what_is_not_here_is_listed_and_shown_without_asking_anybody(store, monkeypatch):
    monkeypatch.setattr("socket.socket", None)

    header, where, row, advice = filter(None, listing())
    assert header.split() == ["name", "method", "size", "licence", "makes"]
    assert where == "authors/published (not on this machine):" and row.startswith("official ")
    assert advice == "Not on this machine: `mrsynth weights fetch NAME` gets it."
    shown = yaml.safe_load(card_text("official"))
    assert (shown["repository"], shown["pattern"], shown["sampling"]["steps"]) == ("authors/published", "t1ce", 10)
    assert verify() == []


def test_planes_are_shown_where_they_are_more_than_the_axial():
    shown = {name: yaml.safe_load(card_text(name)) for name in ("cwdm-ship-t1", "committee-ship", "fgc2f-ship")}

    assert "planes" not in shown["cwdm-ship-t1"] and "planes" not in shown["committee-ship"]
    assert shown["fgc2f-ship"]["planes"] == ["axial", "coronal", "sagittal"]


def test_what_is_here_is_listed_where_it_is(store, published, tmp_path):
    published(checkpoint(tmp_path / "t1ce.safetensors"))
    path = fetch("official")

    _, where, row = filter(None, listing())
    assert where == f"{store}:" and row.startswith("official ")
    shown = yaml.safe_load(card_text("official"))
    assert (shown["file"], shown["sha256"]) == (str(path), weights.sha256_of(path))
    assert read_header(path).card.name == "theirs"  # of the file; the name to ask for is the manifest's


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_list_of_what_is_shipped_fits_a_terminal(width):
    """And says the same in each: what stands in one cell is wrapped within its column."""
    lines, wide = listing(width), listing(1000)
    assert max(map(len, lines)) <= width and {line.split("  ")[0] for line in lines} >= {"fgc2f-ship", "committee-ship"}
    assert sorted(" ".join(lines).split()) == sorted(" ".join(wide).split())
