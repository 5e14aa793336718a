"""Files of mrsynth 0.1.0 (checkpoint format 1) give the voxels they gave then, or say which version they are of.

tests/golden/old-*.safetensors were written at commit 83c8583, with random weights and small networks. What 0.1.0 made
of `phantom()` with them is in old_checkpoints.npz: every second slice of the missing contrasts, in fp32, at the
sampler, the steps and the number of samples that the files name; of the samples it holds the mean.
"""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import save

from mrsynth.card import Card
from mrsynth.contrasts import STANDARD
from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.checkpoint import Checkpoint, read_checkpoint, read_header, write_checkpoint
from mrsynth.methods import METHODS, method_class
from mrsynth.plain import Plain
from mrsynth.sampling import Estimator, Sampling
from mrsynth.scans.preparation import PreparationConfig, prepare
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume
from mrsynth.synthesis import synthesise_volume
from mrsynth.tasks.models import config_of, load_method, preparation_of
from mrsynth.tasks.train.config import read_run_file

GOLDEN = Path(__file__).resolve().parent / "golden"
OLD = {path.stem.removeprefix("old-"): path for path in sorted(GOLDEN.glob("old-*.safetensors"))}
T1, T1CE, T2, FLAIR = STANDARD
APART = {"msg-ldm-ship": 2e-3}  # 0.0012 in one voxel, between an Intel Xeon with AVX-512 and an AMD EPYC with AVX2


def phantom(shape=(24, 28, 10)):
    """A ball with waves in it: the subject of the goldens."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = i**2 + j**2 + k**2 < 0.95
    volumes = {}
    for n, contrast in enumerate(STANDARD):
        wave = 400 + 150 * np.cos((3 + n) * i + n) * np.cos((4 - n) * j) + 60 * n * k + 90 * np.sin(7 * i * j + n)
        volumes[contrast] = Volume(np.where(inside, wave, 0).astype(np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]))
    return volumes


def test_there_is_a_file_of_every_method():
    assert {read_header(path).card.method for path in OLD.values()} == set(METHODS)
    assert all(read_header(path).format == 1 for path in OLD.values())


@pytest.mark.parametrize("name", OLD)
def test_a_file_of_0_1_0_gives_its_former_voxels(name):
    trained = load_method(OLD[name])
    given = (T1, T2, FLAIR) if trained.card.method == "cwdm" else (T1, T2)
    volumes = phantom()
    prepared = prepare(Subject("old", {c: volumes[c] for c in given}), STANDARD, trained.preparation)
    own = trained.card.sampling
    made = synthesise_volume(
        trained.method, prepared, "old", Estimator(own["sampler"], own["steps"], own["samples"], seed=7)
    )

    with np.load(GOLDEN / "old_checkpoints.npz") as golden:
        expected = golden[name]
    found = made.image[~prepared.available][..., 1::2]
    assert expected.std() > 0.2
    np.testing.assert_allclose(found, expected, atol=APART.get(name, 1e-3))  # processors differ; u of 1 is white


@pytest.mark.parametrize("name", OLD)
def test_every_key_that_0_1_0_did_not_have_says_what_was_done_then(name):
    """Whoever adds a key to a configuration names it in FORMER, so that old files keep their meaning."""
    header = read_header(OLD[name])
    config = method_class(header.card.method).Config

    assert unnamed(config, header.config) == []
    assert unnamed(PreparationConfig, header.preparation) == []
    config.model_validate(config_of(header))
    assert preparation_of(header).axes == "LPS"


def unnamed(kind, data, place=""):
    """Keys of a Plain class, at every depth, that neither the data nor FORMER hold."""
    known = kind.from_format_1(data)
    missing = [place + key for key in kind.model_fields if key not in known]
    for key, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Plain) and key in known:
            inner = known[key]
            missing += unnamed(field.annotation, inner if isinstance(inner, dict) else dict(inner), f"{place}{key}.")
    return missing


def test_a_key_that_old_files_lack_has_its_former_value_in_them_alone(tmp_path, monkeypatch):
    config = method_class("fgc2f").Config
    old = read_checkpoint(OLD["fgc2f"])
    assert "loss" not in old.config
    monkeypatch.setattr(config, "FORMER", {**config.FORMER, "loss": "charbonnier", "T": 7})

    assert config_of(old)["loss"] == "charbonnier"
    assert config_of(old)["T"] == 200  # what a file says holds
    write_checkpoint(tmp_path / "new.safetensors", Checkpoint(old.card, old.config, old.preparation, old.tensors))
    assert "loss" not in config_of(read_header(tmp_path / "new.safetensors"))


def test_former_keys_are_laid_under_every_depth(monkeypatch):
    class Inner(Plain):
        FORMER: ClassVar = {"a": "then"}
        a: str = "now"

    class Outer(Plain):
        FORMER: ClassVar = {"b": 1}
        inner: Inner = Inner()
        b: int = 2
        c: int = 3

    assert Outer.from_format_1({"inner": {}, "c": 5}) == {"inner": {"a": "then"}, "b": 1, "c": 5}
    assert Outer.model_validate(Outer.from_format_1({})) == Outer(b=1)


def test_a_file_that_cannot_be_used_any_more_is_refused_by_its_version(tmp_path, monkeypatch):
    def refuse(data):
        raise ValueError("its fine stage is gone")

    monkeypatch.setattr(method_class("fgc2f").Config, "from_format_1", refuse)
    with pytest.raises(WeightsError, match=r"mrsynth 0\.1\.0 \(format 1\).*its fine stage is gone") as error:
        load_method(OLD["fgc2f"])
    assert error.value.exit_code == 5


def test_their_samples_keep_the_generator_of_then_unless_the_other_is_asked_for():
    trained = load_method(next(iter(OLD.values())))

    assert trained.estimator(Sampling(mode="sample")).noise == "v1"
    assert trained.estimator(Sampling(mode="sample", noise="v2")).noise == "v2"


@pytest.mark.parametrize("found", [0, 3, "1", True, None])
def test_other_formats_are_refused_with_their_number(tmp_path, found):
    path = tmp_path / "a.safetensors"
    with safe_open(OLD["fgc2f"], "pt") as file:
        content = json.loads(file.metadata()["mrsynth"])
        key = next(iter(file.keys()))
        tensor = file.get_tensor(key)
    path.write_bytes(save({key: tensor}, metadata={"mrsynth": json.dumps({**content, "format": found})}))

    with pytest.raises(WeightsError, match=f"format {found!r}; this mrsynth reads the formats 1, 2"):
        read_header(path)


def test_what_is_written_now_is_format_2(tmp_path):
    card = Card(name="a", method="fgc2f", contrasts=STANDARD, licence="none")
    write_checkpoint(tmp_path / "a.safetensors", Checkpoint(card, {}, {}, read_checkpoint(OLD["fgc2f"]).tensors))

    assert read_header(tmp_path / "a.safetensors").format == 2


def test_a_run_that_0_1_0_began_keeps_what_its_keys_meant(tmp_path, monkeypatch):
    config = method_class("fgc2f").Config
    monkeypatch.setattr(config, "FORMER", {**config.FORMER, "loss": "charbonnier"})
    plain = read_run_file(None, "fgc2f").plain()
    assert plain.pop("format") == 2
    del plain["method"]["loss"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain))

    assert read_run_file(path, "fgc2f", begun=True).method["loss"] == "charbonnier"
    assert read_run_file(path, "fgc2f").method["loss"] == "mse"  # a new run with that file
    path.write_text(yaml.safe_dump({"format": 2, **plain}))
    assert read_run_file(path, "fgc2f", begun=True).method["loss"] == "mse"


def test_a_run_that_cannot_go_on_says_so(tmp_path, monkeypatch):
    plain = read_run_file(None, "fgc2f").plain()
    del plain["format"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))

    def refuse(data):
        raise ValueError("its fine stage is gone")

    monkeypatch.setattr(method_class("fgc2f").Config, "from_format_1", refuse)
    with pytest.raises(UsageError, match=r"mrsynth 0\.1\.0 began, .* its fine stage is gone .*--init"):
        read_run_file(tmp_path / "config.yaml", "fgc2f", begun=True)
