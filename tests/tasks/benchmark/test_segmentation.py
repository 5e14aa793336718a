"""Opening segmenters of every kind, and what is refused."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from mrsynth.card import Card
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from mrsynth.io.subjects import load_subject
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.segmenter.network import REGIONS, SegmenterConfig, build_network, dice_and_hd95
from mrsynth.tasks.benchmark import segmentation as task
from mrsynth.tasks.benchmark.segmentation import SHIPPED, open_segmenter
from mrsynth.tasks.models import load_method

BUNDLE_ORDER = (Contrast.T1CE, Contrast.T1, Contrast.T2, Contrast.FLAIR)
NETWORK = {"_target_": "SegResNet", "spatial_dims": 3, "init_filters": 8, "in_channels": 4, "out_channels": 3}
NETWORK |= {"blocks_down": [1, 1], "blocks_up": [1], "dropout_prob": 0.2}

pytestmark = pytest.mark.usefixtures("one_thread")


# Our own -------------------------------------------------------------------------------------------------------------


def write_own(path, name="small", method="segmenter", config=None, **changes):
    """A segmenter of random weights, with two levels at 1 mm."""
    torch.manual_seed(0)
    own = SegmenterConfig(blocks_down=(1, 1))
    described = own.model_dump(mode="json") if config is None else config
    preparation = PreparationConfig(multiple=8, depth_multiple=8).model_dump(mode="json")
    card = Card(name=name, method=method, contrasts=STANDARD, requires={}, licence="CC0")
    tensors = {**build_network(own).state_dict(), **changes}
    write_checkpoint(path, Checkpoint(card, {"method": method, **described}, preparation, tensors))
    return path


def same(one, other):
    return set(one) == set(other) and all((one[region] == other[region]).all() for region in one)


def test_our_own_is_read_from_a_file_a_run_folder_and_the_users_home(tmp_path, monkeypatch, brain_volumes):
    run = tmp_path / "run"
    run.mkdir()
    write_own(run / "checkpoint.safetensors")
    volumes = brain_volumes()
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path))
    write_own(tmp_path / "segmenter.safetensors", "mine")
    opened = [open_segmenter(what, "cpu") for what in (run, run / "checkpoint.safetensors", "builtin")]
    first, *others = [segmenter.segment(volumes) for segmenter in opened]

    assert [segmenter.name for segmenter in opened] == ["small", "small", "mine"]
    assert opened[0].contrasts == STANDARD and opened[0].regions == tuple(first) == ("WT", "TC", "ET")
    assert all(same(first, other) for other in others)
    assert any(0 < mask.sum() < mask.size for mask in first.values())


def test_leaving_a_contrast_out_is_not_giving_zeros(tmp_path, brain_volumes):
    """The net is told what is missing: with maps that say otherwise it answers otherwise."""
    segmenter = open_segmenter(write_own(tmp_path / "own.safetensors"), "cpu")
    volumes = brain_volumes()
    without = segmenter.segment({c: v for c, v in volumes.items() if c is not Contrast.FLAIR})

    assert not same(segmenter.segment(volumes), without)


def test_without_a_builtin_one_the_way_to_make_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(task, "SHIPPED", tmp_path / "none.safetensors")

    with pytest.raises(WeightsError, match=r"mrsynth train --segmenter --data ROOT --out RUN"):
        open_segmenter("builtin", "cpu")


def test_a_method_is_no_segmenter_and_a_segmenter_no_method(tmp_path, tiny_checkpoint):
    with pytest.raises(WeightsError, match="is a checkpoint of fgc2f, which makes contrasts; expected a segmenter"):
        open_segmenter(tiny_checkpoint, "cpu")
    own = write_own(tmp_path / "own.safetensors")
    assert not any(read_checkpoint(own).card.supports({Contrast.T1}, target) for target in STANDARD)
    with pytest.raises(WeightsError, match="segmenter"):
        load_method(own)


def test_damage_to_our_own_is_named(tmp_path):
    with pytest.raises(WeightsError, match="key 'filters': input should"):
        open_segmenter(write_own(tmp_path / "a.safetensors", config={"filters": "many"}), "cpu")
    wrong = write_own(tmp_path / "b.safetensors", **{"convInit.conv.weight": torch.zeros(8, 4, 3, 3, 3)})
    with pytest.raises(WeightsError, match=r"convInit.conv.weight has shape \(8, 4, 3, 3, 3\), expected \(8, 8, 3"):
        open_segmenter(wrong, "cpu")
    (tmp_path / "c.safetensors").write_bytes(wrong.read_bytes()[:-9])
    with pytest.raises(WeightsError, match="truncated"):
        open_segmenter(tmp_path / "c.safetensors", "cpu")


def test_what_is_no_segmenter_is_refused_with_what_would_be(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    for what, found in ((tmp_path, "a folder with neither"), ("readme.txt", "another kind"), ("gone", "nothing")):
        with pytest.raises(WeightsError, match=rf"expected `builtin`, a MONAI bundle .*found .*{found}"):
            open_segmenter(tmp_path / what, "cpu")
    with pytest.raises(UsageError, match="Unknown device"):
        open_segmenter(tmp_path, "quantum")


def test_the_shipped_one_is_small_and_says_where_it_is_from():
    card = read_checkpoint(SHIPPED).card

    assert SHIPPED.stat().st_size < 1_000_000
    assert (card.method, card.run_file, card.licence) == ("segmenter", "runs/segmenter.yaml", "Apache-2.0")
    assert card.iterations > 0 and all(source.citation for source in card.training_data)
    assert open_segmenter("builtin", "cpu").regions == ("WT", "TC", "ET")


@pytest.mark.real_data
def test_the_shipped_one_finds_a_tumour_it_was_not_trained_on(shared_data):
    subject = load_subject(shared_data / "data" / "glioma_brats" / "BraTS2021_01478", segmentation=True)
    found = open_segmenter("builtin", "cpu").segment(subject.volumes)
    whole = np.isin(subject.segmentation.voxels, REGIONS[0].labels)

    assert dice_and_hd95(found["WT"], whole, (1, 1, 1))[0] > 0.65


# A MONAI bundle ------------------------------------------------------------------------------------------------------


def metadata(contrasts=("T1c", "T1", "T2", "FLAIR"), regions=("Tumor core", "Whole tumor", "Enhancing tumor")):
    """The parts of a bundle's metadata.json that say what its channels are, in the form MONAI gives them."""
    numbered = [{str(n): name for n, name in enumerate(names)} for names in (contrasts, regions)]
    image = {"num_channels": len(contrasts), "spatial_shape": ["8*n", "8*n", "8*n"], "channel_def": numbered[0]}
    pred = {"num_channels": len(regions), "channel_def": numbered[1]}
    return {"network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}}


def write_bundle(folder, stated=None, inference=None, weights=None):
    from monai.networks.nets import SegResNet

    torch.manual_seed(1)
    network = SegResNet(**{k: v for k, v in NETWORK.items() if k != "_target_"}).eval()
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata() if stated is None else stated))
    described = {"imports": ["$import os"], "network_def": NETWORK, "network": "$@network_def.to('cpu')"}
    (folder / "configs" / "inference.json").write_text(json.dumps(described if inference is None else inference))
    torch.save(network.state_dict() if weights is None else weights, folder / "models" / "model.pt")
    return network


def by_hand(network, volumes, order, regions):
    """Normalise, pad to multiples of 16, run, threshold: with MONAI's transforms on the files' own intensities."""
    from monai.transforms import DivisiblePad, NormalizeIntensity

    stack = torch.from_numpy(np.stack([volumes[c].voxels for c in order]))
    pad = DivisiblePad(16)
    padded = pad(NormalizeIntensity(nonzero=True, channel_wise=True)(stack))
    with torch.no_grad():
        chance = network(torch.as_tensor(padded)[None].float().as_subclass(torch.Tensor)).sigmoid()[0]
    corner = [(new - old) // 2 for old, new in zip(stack.shape[1:], chance.shape[1:], strict=True)]
    inside = tuple(slice(c, c + n) for c, n in zip(corner, stack.shape[1:], strict=True))
    brain = (stack != 0).any(0).numpy()
    return {r: (p[inside].numpy() > 0.5) & brain for r, p in zip(regions, chance, strict=True)}


def agree(ours, theirs):
    """But for voxels on the threshold: float32 sums in another order."""
    return all((ours[region] != theirs[region]).mean() < 1e-3 for region in theirs)


def test_a_bundle_reads_and_answers_as_by_hand_with_monai(tmp_path, brain_volumes):
    network = write_bundle(tmp_path / "tumours")
    volumes = brain_volumes()
    segmenter = open_segmenter(tmp_path / "tumours", "cpu")
    found = segmenter.segment(volumes)
    theirs = by_hand(network, volumes, BUNDLE_ORDER, ("TC", "WT", "ET"))

    assert (segmenter.name, segmenter.contrasts) == ("tumours", BUNDLE_ORDER)
    assert agree(found, theirs) and any(0.01 < mask.mean() < 0.99 for mask in theirs.values())


def test_the_metadata_of_a_bundle_decide_what_its_channels_are(tmp_path, brain_volumes):
    names, regions = ("FLAIR", "T2w", "T1", "T1Gd"), ("ET", "whole tumour", "TC")
    network = write_bundle(tmp_path / "other", metadata(names, regions))
    volumes = brain_volumes()
    order = (Contrast.FLAIR, Contrast.T2, Contrast.T1, Contrast.T1CE)
    segmenter = open_segmenter(tmp_path / "other", "cpu")
    theirs = by_hand(network, volumes, order, ("ET", "WT", "TC"))

    assert (segmenter.contrasts, segmenter.regions) == (order, ("ET", "WT", "TC"))
    assert agree(segmenter.segment(volumes), theirs)
    assert not agree(by_hand(network, volumes, BUNDLE_ORDER, ("ET", "WT", "TC")), theirs)


def test_a_bundle_that_states_no_channels_is_read_as_monais_own(tmp_path):
    write_bundle(tmp_path / "silent", {"version": "0.1.0"})
    segmenter = open_segmenter(tmp_path / "silent", "cpu")

    assert (segmenter.contrasts, segmenter.regions) == (BUNDLE_ORDER, ("TC", "WT", "ET"))


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (metadata(("T1c", "T1", "T2", "ADC map")), "different contrasts"),
        (metadata(("T1c", "T1", "T1", "FLAIR")), "different contrasts"),
        (metadata(regions=("background", "Whole tumor", "Tumor core")), "overlapping regions"),
        (metadata(regions=("non-enhancing", "Whole tumor", "Tumor core")), "overlapping regions"),
        (metadata(regions=("WT", "TC")), "the network gave .1, 3, 64, 64, 64.; expected .1, 2, 64"),
        (metadata(("T1c", "T1", "T2")), "the network gave the error"),
        ({"network_data_format": {"inputs": {"image": {"channel_def": {"1": "T1"}}}}}, "expected 0, 1, 2"),
        ({"network_data_format": {"outputs": {"pred": {"num_channels": 4}}}}, "'pred' has 4 channels, but TC, WT, ET"),
        ([], "found a list"),
    ],
)
def test_a_bundle_for_something_else_is_refused(tmp_path, stated, message):
    write_bundle(tmp_path / "odd", stated)

    with pytest.raises(WeightsError, match=message):
        open_segmenter(tmp_path / "odd", "cpu")


@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "monai.utils.run_cmd", "cmd_list": ["touch", "MARK"]},
        {"_target_": "os.system", "command": "touch MARK"},
        {"_target_": "pathlib.Path.touch", "self": "MARK"},
        {"_target_": "monai.networks.nets.segresnet.torch.nn.Linear", "in_features": 1, "out_features": 1},
        {**NETWORK, "_target_": 5},
        {**NETWORK, "in_channels": "$open('MARK', 'w').close() or 4"},
        {**NETWORK, "in_channels": "%MARK::key"},
        {**NETWORK, "in_channels": "@channels"},
        {**NETWORK, "in_channels": "@circle"},
        {**NETWORK, "_mode_": "debug"},
        {**NETWORK, "_requires_": ["$open('MARK', 'w').close()"]},
        {**NETWORK, "pretrained": True},
        {**NETWORK, "norm": {"_target_": "builtins.open", "file": "MARK", "mode": "w"}},
        "$open('MARK', 'w').close()",
    ],
)
def test_nothing_in_a_bundle_is_run_but_a_network_of_monai(tmp_path, network):
    mark = tmp_path / "mark"
    content = {"channels": "$open('MARK', 'w').close() or 4", "circle": "@circle", "network_def": network}
    write_bundle(tmp_path / "evil", inference=json.loads(json.dumps(content).replace("MARK", str(mark))))

    with pytest.raises(WeightsError, match=r"expected a class|would have to be run|not allowed|circle|plain data"):
        open_segmenter(tmp_path / "evil", "cpu")
    assert not mark.exists()


def test_references_to_plain_data_and_full_names_are_followed(tmp_path):
    network = {**NETWORK, "_target_": "monai.networks.nets.SegResNet", "in_channels": "@channels", "_desc_": "a net"}
    write_bundle(tmp_path / "fine", inference={"channels": 4, "network": network})

    assert open_segmenter(tmp_path / "fine", "cpu").contrasts == BUNDLE_ORDER


@pytest.mark.parametrize(
    ("inference", "weights", "message"),
    [
        (None, {"a": torch.zeros(1)}, "models/model.pt does not fit .*missing convInit"),
        (None, {"a": print}, "may run code"),
        ({"network_def": {**NETWORK, "depth": 3}}, None, "MONAI cannot build its network"),
        ({"network": "$@network_def"}, None, "expected the key 'network_def'"),
        ([], None, "found a list"),
    ],
)
def test_a_bundle_that_does_not_hold_together_is_refused(tmp_path, inference, weights, message):
    write_bundle(tmp_path / "odd", inference=inference, weights=weights)

    with pytest.raises(WeightsError, match=message):
        open_segmenter(tmp_path / "odd", "cpu")


def test_a_bundle_without_its_files_is_refused(tmp_path):
    write_bundle(tmp_path / "half")
    (tmp_path / "half" / "models" / "model.pt").unlink()
    with pytest.raises(WeightsError, match=r"No file at .*model\.pt"):
        open_segmenter(tmp_path / "half", "cpu")
    (tmp_path / "half" / "configs" / "inference.json").write_text("{")
    with pytest.raises(WeightsError, match=r"Cannot read .*inference\.json"):
        open_segmenter(tmp_path / "half", "cpu")


# TorchScript ---------------------------------------------------------------------------------------------------------


class Pick(nn.Module):
    """Gives input channels 3, 0 and 1 as its three regions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, [3, 0, 1]]


def write_script(path, stated=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather have torch.export
        scripted = torch.jit.script(Pick().eval())
        torch.jit.save(scripted, str(path), _extra_files={} if stated is None else {"mrsynth.json": json.dumps(stated)})
    return path


def above_mean(volumes, contrast):
    voxels = volumes[contrast].voxels
    return (voxels > voxels[voxels > 0].mean()) & (voxels > 0)


def test_a_torchscript_file_reads_t1_t1ce_t2_flair_and_gives_wt_tc_et(tmp_path, brain_volumes):
    segmenter = open_segmenter(write_script(tmp_path / "net.ts"), "cpu")
    volumes = brain_volumes()
    found = segmenter.segment(volumes)

    assert (segmenter.name, segmenter.contrasts, tuple(found)) == ("net", STANDARD, ("WT", "TC", "ET"))
    for region, contrast in (("WT", Contrast.FLAIR), ("TC", Contrast.T1), ("ET", Contrast.T1CE)):
        assert (found[region] == above_mean(volumes, contrast)).all()


def test_a_torchscript_file_may_say_what_its_channels_are(tmp_path, brain_volumes):
    stated = {"contrasts": ["flair", "t1", "t2", "t1ce"], "regions": ["ET", "WT", "TC"], "multiple": 8}
    segmenter = open_segmenter(write_script(tmp_path / "net.pt", stated), "cpu")
    volumes = brain_volumes()

    assert (segmenter.segment(volumes)["ET"] == above_mean(volumes, Contrast.T1CE)).all()
    assert segmenter.reading.preparation.multiple == 8


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"contrasts": ["t1", "t9"]}, "mrsynth.json in it is not understood"),
        ({"output": "votes"}, "mrsynth.json in it is not understood"),
        ({"orders": []}, "key 'orders'"),
        ({"contrasts": ["t1"]}, "the network gave the error"),
        ({"regions": ["WT"]}, "expected .1, 1, 64, 64, 64."),
    ],
)
def test_a_torchscript_file_that_says_something_else_is_refused(tmp_path, stated, message):
    with pytest.raises(WeightsError, match=message):
        open_segmenter(write_script(tmp_path / "net.ts", stated), "cpu")


def test_what_is_no_torchscript_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="is no TorchScript file"):
        open_segmenter(tmp_path / "weights.pt", "cpu")
    with pytest.raises(WeightsError, match="No file at"):
        open_segmenter(tmp_path / "gone.ts", "cpu")
