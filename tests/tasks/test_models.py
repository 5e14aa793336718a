"""From a checkpoint's file to a method that runs, and what is refused on the way."""

import json
import resource
import time

import pytest
import torch

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import WeightsError
from mrsynth.io.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from mrsynth.io.store import Resolved, sha256_of
from mrsynth.methods import build_method, preset
from mrsynth.sampling import Sampling
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.tasks import models
from mrsynth.tasks.models import build, load_method


@pytest.fixture
def rewritten(tiny_checkpoint, tmp_path):
    """rewritten(dtype, card={}, config={}, preparation={}, tensors={}) -> a copy of `tiny` with these changes."""

    def write(dtype=None, **changes):
        old = read_checkpoint(tiny_checkpoint)
        card = old.card.model_copy(update=changes.get("card", {}))
        rest = [{**getattr(old, part), **changes.get(part, {})} for part in ("config", "preparation", "tensors")]
        rest[-1] = {key: tensor for key, tensor in rest[-1].items() if tensor is not None}
        write_checkpoint(tmp_path / "changed.safetensors", Checkpoint(card, *rest), dtype)
        return tmp_path / "changed.safetensors"

    return write


def test_a_name_and_a_path_give_the_same_method(only_tiny):
    by_name, by_path = load_method("tiny"), load_method(only_tiny)

    assert by_name.sha256 == by_path.sha256 == sha256_of(only_tiny)
    assert by_name.card.contrasts == STANDARD and by_name.preparation.axes == "LPS"
    stored = read_checkpoint(only_tiny).tensors
    for method in (by_name.method, by_path.method):
        assert all(torch.equal(tensor, stored[key]) for key, tensor in method.state_dict().items())


def test_it_is_ready_to_use(only_tiny):
    trained = load_method("tiny")

    assert not trained.method.training
    assert not any(
        p.requires_grad or p.dtype != torch.float32 or p.device.type != "cpu" for p in trained.method.parameters()
    )
    assert trained.network is trained.method.network


def test_half_precision_on_disk_runs_in_float32(rewritten):
    assert {p.dtype for p in load_method(rewritten(torch.float16)).method.parameters()} == {torch.float32}


def test_the_checkpoint_decides_before_the_method(rewritten):
    """Sampler and steps: the card, then the method's configuration, then every level."""
    usual = load_method(rewritten()).estimator(Sampling())
    assert (usual.sampler, usual.steps) == ("ddim", 2)
    own = load_method(rewritten(card={"sampling": {}})).estimator(Sampling())
    assert (own.sampler, own.steps) == ("ddpm", 3)
    assert load_method(rewritten(card={"sampling": {}}, config={"steps": None})).estimator(Sampling()).steps == 8


def test_histograms_may_be_left_to_the_file(rewritten):
    usual = {Contrast.T1: (0.25, 0.75)}
    path = rewritten(card={"intensity": usual})
    fields = read_checkpoint(path).card.model_dump(exclude={"intensity"})
    entry = ManifestEntry(**fields, file=str(path))

    assert build(Resolved(entry, path, "0")).card.intensity == usual
    own = entry.model_copy(update={"intensity": {Contrast.T2: (1.0,)}})
    assert build(Resolved(own, path, "0")).card.intensity == {Contrast.T2: (1.0,)}


STEM = "network.stem.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensors": {STEM: None}}, f"missing {STEM}"),
        ({"tensors": {"network.extra": torch.zeros(1)}}, "unknown network.extra"),
        ({"tensors": {STEM: torch.zeros(1, 2, 3, 3)}}, rf"{STEM} has shape \(1, 2, 3, 3\), expected \(16, 13, 3, 3\)"),
        ({"tensors": {f"network.{i}": torch.zeros(1) for i in range(5)}}, "and 2 more"),
        ({"config": {"colour": "red"}}, "cannot use its configuration.*colour"),
        ({"config": {"method": "unheard-of"}}, "cannot use its configuration.*unheard-of"),
        ({"config": {"schedule": "linear"}}, "cannot use its configuration.*schedule"),
        ({"preparation": {"colour": "red"}}, "cannot use its configuration.*colour"),
        ({"preparation": {"multiple": 2}}, "padded to multiples of 2, expected of 4"),
        ({"card": {"contrasts": STANDARD[::-1]}}, "the card is of fgc2f for flair, t2, t1ce, t1, the network"),
        ({"card": {"method": "cwdm"}}, "the card is of cwdm"),
    ],
)
def test_what_does_not_fit_is_refused(rewritten, changes, message):
    with pytest.raises(WeightsError, match=f"(?s)changed.safetensors.*{message}"):
        load_method(rewritten(**changes))


def test_an_unknown_name_lists_those_known(only_tiny):
    with pytest.raises(WeightsError, match="No checkpoint is called 'huge'\\. Known: tiny"):
        load_method("huge")


# Networks for whole volumes ------------------------------------------------------------------------------------------


@pytest.fixture
def write_cwdm(tmp_path):
    """write_cwdm(target="t1ce", preparation={}, **card) -> path of a tiny cwdm checkpoint."""

    def write(target="t1ce", preparation=None, **card):
        method = build_method({**preset("cwdm", "tiny"), "target": target})
        prepared = PreparationConfig(**{"multiple": 32, "depth_multiple": 32} | (preparation or {}))
        said = {"name": "volumes", "contrasts": STANDARD, "licence": "CC0"} | card
        said.setdefault("requires", {t: tuple(c for c in STANDARD if c is not t) for t in method.targets})
        content = (method.config.model_dump(mode="json"), prepared.model_dump(mode="json"), method.state_dict())
        write_checkpoint(tmp_path / "volumes.safetensors", Checkpoint(Card(method="cwdm", **said), *content))
        return tmp_path / "volumes.safetensors"

    return write


def test_a_network_for_whole_volumes_is_ready_to_use(write_cwdm):
    trained = load_method(write_cwdm())

    assert (trained.method.dimensions, trained.method.targets) == (3, (Contrast.T1CE,))
    assert not trained.method.training and not any(p.requires_grad for p in trained.method.parameters())
    assert trained.card.ability == "t1ce from t1+t2+flair"
    assert trained.preparation.multiples == (32, 32, 32)
    usual = trained.estimator(Sampling())
    assert (usual.sampler, usual.steps, usual.samples) == ("ddpm", 10, 1)  # all levels of the chain
    own = load_method(write_cwdm(sampling={"sampler": "ddim", "steps": 2, "samples": 3})).estimator(Sampling())
    assert (own.sampler, own.steps, own.samples) == ("ddim", 2, 3)


def test_one_network_for_any_target_is_loaded_too(write_cwdm):
    trained = load_method(write_cwdm("any"))

    assert trained.method.targets == STANDARD
    for target in STANDARD:
        others = {c for c in STANDARD if c is not target}
        assert trained.card.supports(others, target) and trained.method.supports(others, target)
        assert not trained.card.supports(set(list(others)[1:]), target)


def test_the_grid_of_the_released_weights_is_read(write_cwdm):
    grid = {"crop": "full", "grid": (64, 96, 32), "intensity": "volume_quantiles"}
    preparation = load_method(write_cwdm(preparation=grid)).preparation

    assert (preparation.crop, preparation.grid, preparation.intensity) == ("full", (64, 96, 32), "volume_quantiles")


@pytest.mark.parametrize(
    ("preparation", "found"), [({"depth_multiple": 1}, 1), ({"multiple": 6}, 6), ({"depth_multiple": 2}, 2)], ids=str
)
def test_all_three_axes_of_a_volume_must_halve(write_cwdm, preparation, found):
    with pytest.raises(WeightsError, match=f"padded to multiples of {found}, expected of 4"):
        load_method(write_cwdm(preparation=preparation))


def test_tensors_for_another_target_fit_but_not_those_for_any(write_cwdm, tmp_path):
    """Networks for single targets are alike in shape; what says which is the configuration, never a file's name."""
    one, other = read_checkpoint(write_cwdm("t1ce")), read_checkpoint(write_cwdm("t2"))
    anything = read_checkpoint(write_cwdm("any"))
    path = tmp_path / "swapped.safetensors"

    write_checkpoint(path, Checkpoint(one.card, one.config, one.preparation, other.tensors))
    assert load_method(path).method.targets == (Contrast.T1CE,)
    write_checkpoint(path, Checkpoint(one.card, one.config, one.preparation, anything.tensors))
    with pytest.raises(WeightsError, match=r"unknown network\.embed_kind.*has shape"):
        load_method(path)


def test_models_is_where_the_api_comes_from():
    import mrsynth

    assert mrsynth.load_method is models.load_method


# Checkpoints that are not believed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_weights_that_are_not_finite_are_refused(tiny_checkpoint, rewritten, value, dtype):
    """One number of one tensor is enough; written as float32, since half precision is not written with such numbers."""
    weight = read_checkpoint(tiny_checkpoint).tensors[STEM].clone()
    weight[0, 0, 0, 0] = value
    path = rewritten(tensors={STEM: weight if dtype is None else weight.half()})
    with pytest.raises(WeightsError, match=f"1 of {weight.numel()} numbers of the tensor '{STEM}' are not finite"):
        load_method(path)


def test_tensors_of_more_axes_than_torch_works_with_are_refused(rewritten):
    path = rewritten()
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    end = len(content) - 8 - length
    header["x"] = {"dtype": "F32", "shape": [1] * 70 + [0], "data_offsets": [end, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(WeightsError, match="'x' has 71 axes"):
        load_method(path)


@pytest.mark.parametrize(
    "sampling",
    [
        *({"steps": v} for v in ("abc", 0, -1, 1.5, True, 10**12, [4], float("nan"))),
        *({"samples": v} for v in ("two", 0, 10**9)),
        *({"sampler": v} for v in ("rm -rf", 4, ["ddim"], {"a": 1})),
    ],
)
def test_ways_to_sample_that_there_are_not(rewritten, sampling):
    name = next(iter(sampling))
    with pytest.raises(WeightsError, match=rf"its way to sample has {name} |expected finite"):
        load_method(unsound(rewritten(), card={"sampling": sampling}))


@pytest.mark.parametrize(
    "config",
    [
        *({"T": v} for v in (10**12, 1e300, 0, -5, "many", None, [8], 65537)),
        {"steps": "abc"},
        {"contrasts": []},
        {"contrasts": ["t1", "t1"]},
        {"contrasts": ["t9"]},
        {"schedule": {"kind": "linear", "T": 3}},
        *({"network": {"width": v}} for v in (10**9, 30_000, 0, -1, 7)),
        *({"network": {"blocks": v}} for v in (60_000, 10**10)),
        {"network": {"multipliers": [1] * 200}},
        {"network": {"multipliers": []}},
        {"network": {"groups": 65536}},
        {"neighbours": 60_000},
        {"method": None},
    ],
)
def test_configurations_of_networks_that_nobody_has(rewritten, config):
    """Refused in words, before the memory is taken or the hours are spent."""
    began = time.perf_counter()
    with pytest.raises(WeightsError):
        load_method(unsound(rewritten(), config=config))
    assert time.perf_counter() - began < 10 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * 2**20


@pytest.mark.parametrize(
    "preparation",
    [
        *({"spacing": v} for v in (0, -1, 1e-9, 0.01, 50, 1e9, "x")),
        *({"multiple": v} for v in (0, 10**9, -8)),
        {"quantile": 7},
        {"axes": "XYZ"},
        {"axes": "LPSLPS"},
        {"grid": [10**6, 10**6, 10**6]},
    ],
)
def test_preparations_that_nobody_has(rewritten, preparation):
    with pytest.raises(WeightsError):
        load_method(unsound(rewritten(), preparation=preparation))


def unsound(path, **changes):
    """A checkpoint whose header says something else, whatever that is: mrsynth itself would not write it."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    said = json.loads(header["__metadata__"]["mrsynth"])
    for part, change in changes.items():
        for key, value in change.items():
            old = said[part].get(key)
            said[part][key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) and old else value
    header["__metadata__"]["mrsynth"] = json.dumps(said)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return path
