"""Weights that authors of cWDM published become checkpoints that do what those weights did; others are refused."""

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mrsynth
from mrsynth.card import DataSource, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import OutputError, UsageError, WeightsError
from mrsynth.io.checkpoint import read_header
from mrsynth.io.fetched import Fetched, record
from mrsynth.io.store import sha256_of, store_folder
from mrsynth.methods.cwdm.network import WaveletUNet, WaveletUNetConfig
from mrsynth.methods.cwdm.official import cwdm_layout, cwdm_official
from mrsynth.sampling import Sampling
from mrsynth.scans.preparation import CWDM_GRID, PreparationConfig
from mrsynth.tasks.checkpoints import importing
from mrsynth.tasks.checkpoints.importing import import_checkpoint

SMALL = WaveletUNetConfig(width=32, multipliers=(1, 2), blocks=1)
NAME = "brats_1200000.pt"
FAST = "brats_t1c_BEST_sampled_10.pt"
PUBLISHED = ManifestEntry(
    name="cwdm-official-t1ce",
    method="cwdm",
    contrasts=STANDARD,
    requires={Contrast.T1CE: (Contrast.T1, Contrast.T2, Contrast.FLAIR)},
    licence="MIT",
    sampling={"sampler": "ddim", "steps": 4},
    training_data=(DataSource(name="BraTS", licence="theirs", citation="2023", subjects=0),),
    iterations=1_200_000,
    repository="pfriedri/cwdm",
    pattern="t1c",
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A store of its own, and no checkpoint known but those in it."""
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MRSYNTH_WEIGHTS_DIR", raising=False)
    monkeypatch.setattr("mrsynth.io.store.manifest", list)
    return tmp_path / "home"


def official_state(config=SMALL, seed=0):
    """Seeded weights under the official names."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) / 8 for key, shape in cwdm_layout(config).items()}


STATE = official_state()


@pytest.fixture
def saved(tmp_path):
    """saved(state=STATE, name=NAME) -> path of a .pt with it."""

    def save(state=None, name=NAME):
        torch.save(STATE if state is None else state, tmp_path / name)
        return tmp_path / name

    return save


def imported(file, target=Contrast.T1CE, **options):
    return import_checkpoint(file, method="cwdm", target=target, **options)


def output_of(network):
    torch.manual_seed(1)
    with torch.no_grad():
        return network(torch.randn(2, 32, 4, 4, 2), torch.tensor([3, 731]))


def plain_network(state=STATE, config=SMALL):
    network = WaveletUNet(config)
    network.load_state_dict({k.removeprefix("network."): t for k, t in cwdm_official(state).items()})
    return network


# What becomes of it --------------------------------------------------------------------------------------------------


def test_an_official_file_becomes_a_checkpoint_known_by_name(saved):
    file = saved()
    path = imported(file)
    trained = mrsynth.load_method("cwdm-official-t1ce")

    assert path == store_folder() / "cwdm-official-t1ce.safetensors"
    assert torch.equal(output_of(trained.network), output_of(plain_network()))
    config = trained.method.config
    assert (config.T, config.schedule, config.variance, config.sampler) == (1000, "linear", "auto", "ddim")
    assert (config.steps, config.spacing, config.noisy_input, config.clip) == (None, "linspace", "as_is", True)
    assert (config.target, config.network, config.wavelet, config.low_scale) == (Contrast.T1CE, SMALL, "haar", 3.0)
    assert trained.preparation == PreparationConfig(
        axes="LPS",
        spacing=1.0,
        intensity="volume_quantiles",
        crop="full",
        grid=CWDM_GRID,
        multiple=32,
        depth_multiple=32,
    )
    card = trained.card
    assert (card.method, card.contrasts, card.licence, card.iterations) == ("cwdm", STANDARD, "not stated", 1_200_000)
    assert card.requires == {Contrast.T1CE: (Contrast.T1, Contrast.T2, Contrast.FLAIR)}
    usual = trained.estimator(Sampling())
    assert (usual.sampler, usual.steps, card.sampling["modes"]) == ("ddim", 10, ["sample"])
    assert card.note == (
        f"Converted from {NAME} (sha256 {sha256_of(file)}), trained for 1000 levels, of which 10 are visited unless "
        "told otherwise."
    )


@pytest.mark.parametrize(
    ("file", "name", "schedule", "levels", "iterations"),
    [
        ("brats_t1c_BEST_sampled_10.pt", "cwdm-fast-sampled-10-t1ce", "sampled", 10, 0),
        ("brats_t1c_BEST_direct_100.pt", "cwdm-fast-direct-100-t1ce", "direct", 100, 0),
        ("brats_t1c_000500_sampled_50.pt", "cwdm-fast-sampled-50-t1ce", "sampled", 50, 500),
        ("brats_t1c_005000_direct_1000.pt", "cwdm-fast-direct-1000-t1ce", "direct", 1000, 5000),
    ],
)
def test_the_name_of_a_fast_file_tells_its_schedule(saved, file, name, schedule, levels, iterations):
    """The network of a short chain counts its levels from 0 to N - 1, so T is N."""
    path = import_checkpoint(saved(name=file), method="cwdm")
    trained = mrsynth.load_method(name)

    assert path.stem == name
    config = trained.method.config
    assert (config.T, config.schedule, config.variance, config.sampler) == (levels, schedule, "auto", "ddpm")
    assert config.variance_of(levels) == "beta"  # all of them are visited
    assert (trained.estimator(Sampling()).steps, trained.card.sampling["steps"]) == (levels, levels)
    assert trained.card.iterations == iterations
    assert trained.card.note.endswith(f"trained for {levels} levels.")


def as_0_1_0_wrote_it(path):
    """The same checkpoint as mrsynth 0.1.0 imported it: format 1, ten ancestral steps with the variance beta."""
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["mrsynth"])
    config = {k: v for k, v in content["config"].items() if k not in ("solver_levels", "mean_share")}
    content |= {"format": 1, "config": config | {"sampler": "ddpm", "variance": "beta"}}
    content["card"]["sampling"] = {"sampler": "ddpm", "steps": 10}
    save_file(load_file(path), path, metadata={"mrsynth": json.dumps(content)})


def test_what_0_1_0_imported_keeps_its_sampler_and_says_how_to_import_it_anew(saved, caplog):
    path = imported(saved())
    fresh = read_header(path)
    as_0_1_0_wrote_it(path)

    trained = mrsynth.load_method("cwdm-official-t1ce")
    usual = trained.estimator(Sampling())
    assert (usual.sampler, usual.steps, trained.method.config.variance_of(10)) == ("ddpm", 10, "beta")
    command = f"mrsynth weights import {NAME} --method cwdm --target t1ce --name cwdm-official-t1ce"
    assert command in caplog.text and "10 of 1000 levels" in caplog.text
    caplog.clear()

    assert imported(saved()) == path and read_header(path) == fresh
    assert mrsynth.load_method("cwdm-official-t1ce").estimator(Sampling()).sampler == "ddim" and not caplog.text
    as_0_1_0_wrote_it(path)
    with pytest.raises(UsageError, match="is another checkpoint"):
        imported(saved(official_state(seed=1)))
    assert read_header(path).format == 1


@pytest.mark.parametrize(
    ("asked", "chain", "warned"),
    [
        ({}, ("ddim", 10, 0.0, None), False),
        ({"fast": True}, ("ddim", 10, 0.0, None), False),
        ({"eta": 1.0}, ("ddim", 10, 1.0, None), False),
        ({"sampler": "ddpm"}, ("ddpm", 10, None, "posterior"), False),
        ({"sampler": "ddpm", "steps": 1000}, ("ddpm", 1000, None, "beta"), False),
        ({"sampler": "ddpm", "variance": "beta"}, ("ddpm", 10, None, "beta"), True),
        ({"sampler": "ddpm", "variance": "beta", "steps": 1000}, ("ddpm", 1000, None, "beta"), False),
        ({"sampler": "dpm_solver_pp", "steps": 20}, ("dpm_solver_pp", 20, None, None), False),
    ],
    ids=str,
)
def test_the_official_weights_never_take_beta_for_few_steps_unless_asked_to(saved, asked, chain, warned):
    imported(saved())
    trained = mrsynth.load_method("cwdm-official-t1ce")
    how = trained.estimator(Sampling(device="cpu", **asked))

    assert (how.sampler, how.steps, how.eta, how.variance) == chain and how.mode == "sample"
    assert [("variance beta" in told and "--sampler ddim" in told) for told in trained.cautions(how)] == [True] * warned
    for refused in ({"mode": "mean"}, {"variance": "beta"}, {"sampler": "dpm_solver_pp", "eta": 0.5}):
        with pytest.raises(UsageError):
            trained.estimator(Sampling(device="cpu", **refused))


def test_a_published_network_that_0_1_0_converted_is_sampled_as_that_did(saved, monkeypatch, caplog):
    monkeypatch.setattr("mrsynth.io.store.manifest", lambda: [PUBLISHED])
    path = imported(saved(), card=PUBLISHED)
    fetched = Fetched(repository="r", file=NAME, revision="1", sha256="0", size=1, stored_sha256=sha256_of(path))
    record(path.parent, PUBLISHED.name, fetched)
    as_0_1_0_wrote_it(path)
    record(path.parent, PUBLISHED.name, fetched.model_copy(update={"stored_sha256": sha256_of(path)}))

    trained = mrsynth.load_method(PUBLISHED.name)
    usual = trained.estimator(Sampling())
    assert (usual.sampler, usual.steps, trained.card.licence) == ("ddpm", 10, "MIT")
    assert f"mrsynth weights fetch {PUBLISHED.name}" in caplog.text
    imported(saved(), card=PUBLISHED)
    assert mrsynth.load_method(PUBLISHED.name).estimator(Sampling()).steps == 4  # and the record follows


@pytest.mark.parametrize("name", [FAST, "brats_t1c_000500_direct_100.pt"])
def test_a_whole_short_chain_of_0_1_0_is_as_it_should_be(saved, name, caplog):
    path = import_checkpoint(saved(name=name), method="cwdm")
    as_0_1_0_wrote_it(path)
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["mrsynth"])
    content["card"]["sampling"]["steps"] = content["config"]["T"]
    save_file(load_file(path), path, metadata={"mrsynth": json.dumps(content)})

    assert mrsynth.load_method(path).method.config.variance == "beta"
    assert not caplog.text


@pytest.mark.parametrize(("token", "target"), list(zip(("t1n", "t1c", "t2w", "t2f"), STANDARD, strict=True)))
def test_the_name_of_a_fast_file_tells_the_target(saved, token, target):
    path = import_checkpoint(saved(name=f"brats_{token}_BEST_sampled_10.pt"), method="cwdm")

    assert path.stem == f"cwdm-fast-sampled-10-{target.value}"
    assert read_header(path).card.requires == {target: tuple(c for c in STANDARD if c is not target)}


def test_any_other_name_is_taken_as_official(saved):
    path = imported(saved(name="downloaded T1c weights.pt"))

    assert (path.stem, read_header(path).card.iterations) == ("cwdm-official-t1ce", 0)


def test_what_is_known_of_a_published_file_is_kept(saved, monkeypatch):
    monkeypatch.setattr("mrsynth.io.store.manifest", lambda: [PUBLISHED])
    path = imported(saved(), name=PUBLISHED.name, card=PUBLISHED)
    card = read_header(path).card

    assert (card.name, card.licence, card.training_data) == (PUBLISHED.name, "MIT", PUBLISHED.training_data)
    assert (card.iterations, card.sampling) == (1_200_000, {"sampler": "ddim", "steps": 4})
    assert "of which 4 are visited" in card.note


def test_a_name_and_a_licence_of_ones_own(saved):
    path = imported(saved(), name="ours_v1.2", licence="CC BY 4.0")

    assert path.name == "ours_v1.2.safetensors"
    assert mrsynth.load_method("ours_v1.2").card.licence == "CC BY 4.0"


def test_half_and_double_precision_become_single(saved):
    kinds = (torch.float16, torch.bfloat16, torch.float64)
    state = {key: t.to(kinds[i % 3]) for i, (key, t) in enumerate(STATE.items())}
    stored = load_file(imported(saved(state)))

    assert {t.dtype for t in stored.values()} == {torch.float32}
    assert all(torch.equal(stored[key], t.float()) for key, t in cwdm_official(state).items())


def test_safetensors_and_wrappers_give_the_same(saved, tmp_path):
    save_file(STATE, tmp_path / "brats_1200000.safetensors")
    wrapped = saved({"state_dict": {f"module.{key}": t for key, t in STATE.items()}}, "wrapped.pt")
    found = [load_file(imported(f, name=n)) for f, n in ((tmp_path / "brats_1200000.safetensors", "a"), (wrapped, "b"))]

    for tensors in found:
        assert all(torch.equal(tensors[key], t) for key, t in cwdm_official(STATE).items())


def test_the_same_again_changes_nothing(saved):
    path = imported(saved())
    before = path.stat()

    assert imported(saved()) == path
    assert imported(saved(name="brats_1200000.pth")) == path
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_equal_files_give_equal_bytes(saved, tmp_path, monkeypatch):
    first = imported(saved()).read_bytes()
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "elsewhere"))

    assert imported(saved()).read_bytes() == first


def test_the_golden_network_comes_through_the_whole_import(shared_data, tmp_path):
    """Eight channels in four groups, which no official file has: the one who knows must say so."""
    file = shared_data / "upstream" / "cwdm" / "golden_small.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file}")
    tensors = load_file(file)
    state = {key.removeprefix("model."): t for key, t in tensors.items() if key.startswith("model.")}
    torch.save(state, tmp_path / NAME)
    with pytest.raises(WeightsError, match=r"8 channels; expected .* multiples of 32.*give `groups`"):
        imported(tmp_path / NAME)
    with pytest.raises(UsageError, match="8 channels cannot have 3 groups"):
        imported(tmp_path / NAME, groups=3)

    trained = mrsynth.load_method(imported(tmp_path / NAME, groups=4))
    with torch.no_grad():
        made = trained.network(torch.cat([tensors["input.x"], tensors["input.cond"]], 1), tensors["input.t"])

    assert torch.allclose(made, tensors["output.x0"], atol=1e-4)


@pytest.mark.slow
def test_a_network_of_full_size(saved):
    """81.5 million parameters, as published."""
    state = official_state(WaveletUNetConfig())
    trained = mrsynth.load_method(imported(saved(state)))

    assert trained.method.config.network == WaveletUNetConfig()
    assert all(torch.equal(trained.method.state_dict()[key], t) for key, t in cwdm_official(state).items())


# What is refused -----------------------------------------------------------------------------------------------------


def refused(kind, said, file, home, **options):
    """Also: nothing is left behind."""
    before = sorted(home.rglob("*.safetensors"))
    with pytest.raises(kind, match=said):
        import_checkpoint(file, **{"method": "cwdm", "target": Contrast.T1CE} | options)
    assert sorted(home.rglob("*.safetensors")) == before


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (NAME, {"method": "fgc2f"}, "Only cwdm has foreign weights.*not fgc2f"),
        (NAME, {"method": "gan"}, "Unknown method 'gan'; there are fgc2f, cwdm"),
        (NAME, {"target": None}, r"brats_1200000\.pt does not tell.*--target, one of t1, t1ce, t2, flair"),
        (NAME, {"target": Contrast.PD}, "not pd"),
        (FAST, {"target": Contrast.T2}, "--target is t2, but .* makes t1ce"),
        ("brats_t1c_BEST_sampled_10 (1).pt", {}, "almost|not one of them.*rename"),
        ("brats_t1c_BEST_cosine_10.pt", {}, "not one of them"),
        ("my_direct_100.pt", {}, "not one of them"),
        *((NAME, {"name": name}, "cannot be the name") for name in ("a/b", "..", ".a", "a b", "a.pt", "a.SAFETENSORS")),
        *((NAME, {"name": name}, "cannot be the name") for name in ("a\\b", "a\nb", "-a", "a" * 101)),
    ],
)
def test_requests_that_make_no_sense(saved, home, name, options, said):
    refused(UsageError, said, saved(name=name), home, **options)


@pytest.mark.parametrize(
    "name", ["brats_t1c_BEST_direct_10.pt", "brats_t1c_BEST_sampled_0.pt", "brats_t1c_BEST_sampled_2000.pt"]
)
def test_chains_that_cannot_be(saved, home, name):
    refused(WeightsError, "its name tells of .* levels.*renamed", saved(name=name), home)


def without(key):
    return {k: t for k, t in STATE.items() if k != key}


def replaced(**tensors):
    return STATE | {key.replace("__", "."): t for key, t in tensors.items()}


CHANNELS = {n: torch.zeros(32, n, 3, 3, 3) for n in (16, 24, 40)}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (without("out.2.bias"), r"out\.2\.bias is missing\. Probably the file is damaged"),
        (replaced(extra=torch.zeros(1)), "extra is unknown"),
        (
            {k: t for k, t in STATE.items() if not k.startswith("middle_block.0")},
            r"middle_block\.0\.in_layers\.0\.weight is missing; middle_block.*; middle_block.*; and 7 more\. Probably",
        ),
        (
            replaced(middle_block__1__qkv__weight=torch.zeros(192, 64, 1)),
            r"middle_block\.1\.qkv\.weight is unknown\. Probably it has attention",
        ),
        *(
            (
                replaced(input_blocks__0__0__weight=t),
                rf"input_blocks\.0\.0\.weight has shape \(32, {n}, 3, 3, 3\), expected \(32, 32, .*Probably "
                rf"it was trained with {n // 8 - 1} cond",
            )
            for n, t in CHANNELS.items()
        ),
        ({f"ema.{k}": t for k, t in STATE.items()}, r"'ema\.' before the names"),
        ({"ema": STATE}, "under 'ema'"),
        ({"state": {0: {"exp_avg": torch.zeros(1)}}, "param_groups": [{"lr": 1e-5}]}, "optimizer"),
        (cwdm_official(STATE), "mrsynth's own"),
        ({"a": torch.zeros(2)}, r"time_embed\.0\.weight is missing.*and 392 more\. Probably it is no U-Net of cWDM"),
        (replaced(out__2__bias=torch.full((8,), torch.nan)), r"out\.2\.bias has values that are not finite"),
        (replaced(out__2__bias=torch.full((8,), 1e300, dtype=torch.float64)), r"out\.2\.bias .* not finite in float32"),
        (replaced(out__2__bias=torch.zeros(8, dtype=torch.int64)), r"out\.2\.bias is torch\.int64"),
        ([1, 2], "holds a list"),
    ],
)
def test_files_that_are_not_a_cwdm_network(saved, home, state, said):
    refused(WeightsError, said, saved(state), home)


def test_more_levels_than_the_grid_has_room_for(saved, home):
    config = WaveletUNetConfig(width=32, multipliers=(1,) * 6, blocks=1)
    state = {key: torch.zeros(shape) for key, shape in cwdm_layout(config).items()}

    refused(WeightsError, "6 levels.*multiples of 64", saved(state), home)


def test_a_checkpoint_of_mrsynth_needs_no_import(saved, home):
    refused(WeightsError, "already.*--weights", imported(saved()), home)


def test_a_missing_file(tmp_path, home):
    refused(WeightsError, "No file at", tmp_path / NAME, home)


def test_another_checkpoint_of_that_name_stays(saved, home):
    path = imported(saved())
    before = path.read_bytes()

    refused(UsageError, "another checkpoint.*--name", saved(official_state(seed=1)), home)
    refused(UsageError, "another checkpoint.*--name", saved(), home, licence="MIT")
    path.write_bytes(b"damaged")
    refused(UsageError, "another checkpoint.*--name, or delete", saved(), home)
    path.unlink()
    imported(saved())
    assert path.read_bytes() == before


def test_a_name_known_from_elsewhere(saved, home, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(tiny_checkpoint.parent))

    refused(UsageError, "'tiny' is taken", saved(), home, name="tiny")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (NAME, {"target": Contrast.T1, "name": PUBLISHED.name}, "that makes t1ce from .*, this makes t1"),
        (FAST, {"name": PUBLISHED.name}, "from fast-cwdm"),
        ("brats_000500.pt", {}, "1200000 iterations, this for 500"),
        (NAME, {}, r"another size \(32 channels"),
    ],
)
def test_the_manifest_does_not_speak_for_other_weights(saved, home, monkeypatch, name, options, said):
    """Under a published name the manifest's facts would be shown."""
    monkeypatch.setattr("mrsynth.io.store.manifest", lambda: [PUBLISHED])

    refused(UsageError, f"{said}.*another --name", saved(name=name), home, **options)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_store_that_cannot_be_written(saved, home):
    home.mkdir()
    home.chmod(0o500)

    refused(OutputError, "MRSYNTH_HOME", saved(), home)


def test_a_file_where_the_store_should_be(saved, home):
    home.write_text("")

    refused(OutputError, "MRSYNTH_HOME", saved(), home)


# Two at once ---------------------------------------------------------------------------------------------------------


def test_of_two_imports_of_different_files_under_one_name_one_is_refused(saved, home, monkeypatch):
    """Both have looked for the name before either writes; the second waits, and finds it taken."""
    files = [saved(official_state(seed=seed), f"{seed} {NAME}") for seed in (1, 2)]
    both, write = threading.Barrier(2), importing.write_checkpoint

    def slowly(*arguments):
        with suppress(threading.BrokenBarrierError):
            both.wait(0.3)  # gives the other every chance to come this far, too
        write(*arguments)

    def attempt(file):
        try:
            return import_checkpoint(file, method="cwdm", target=Contrast.T1CE, name="both")
        except UsageError as error:
            return error

    monkeypatch.setattr(importing, "write_checkpoint", slowly)
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(attempt, files))
    refused = [end for end in ends if isinstance(end, UsageError)]
    assert len(refused) == 1 and "exists and is another checkpoint" in str(refused[0])
    (path,) = [end for end in ends if not isinstance(end, UsageError)]
    assert read_header(path).card.name == "both" and [p.name for p in path.parent.iterdir()] == ["both.safetensors"]
