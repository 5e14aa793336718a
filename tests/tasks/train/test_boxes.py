"""`mrsynth train` of a method that learns from volumes: boxes, resuming, and beginning with other weights."""

import logging

import pytest
import torch
import yaml
from PIL import Image

from mrsynth.contrasts import STANDARD
from mrsynth.errors import InputError, Interrupted, UsageError, WeightsError
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.methods import build_method
from mrsynth.methods.cwdm.official import cwdm_for_target
from mrsynth.tasks.train import sources
from mrsynth.tasks.train.run import fresh_method, read_config, train
from mrsynth.tasks.train.stages import take_over
from tests.tasks.train.runs import losses, stop_at, table

T1, T1CE, T2, FLAIR = STANDARD

pytestmark = pytest.mark.usefixtures("one_thread")


def average(out):
    return torch.load(out / "state.pt", weights_only=True)["average"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What a run leaves ---------------------------------------------------------------------------------------------------


def test_the_checkpoint_says_what_it_needs_and_can_be_used(finished_boxes):
    checkpoint = read_checkpoint(finished_boxes / "checkpoint.safetensors")
    build_method(checkpoint.config).load_state_dict(checkpoint.tensors, strict=True)

    card = checkpoint.card
    assert (card.name, card.method, card.iterations) == ("boxes", "cwdm", 6)
    assert card.requires == {t: tuple(c for c in STANDARD if c is not t) for t in STANDARD}
    assert card.sampling == {"mode": "sample", "modes": ["sample", "mean"], "sampler": "ddim", "steps": 2}
    assert same(average(finished_boxes), checkpoint.tensors)


def test_rows_and_pictures_of_volumes(finished_boxes):
    scores = table(finished_boxes / "validation.csv")

    expected = [("t1+t1ce+t2", "flair"), ("t1+t1ce+flair", "t2"), ("t1+t2+flair", "t1ce"), ("t1ce+t2+flair", "t1")]
    assert [(row["iteration"], row["pattern"], row["target"]) for row in scores] == [
        (iteration, *pair) for iteration in "36" for pair in expected
    ]
    assert all(0 < float(row["psnr"]) < 60 and -1 < float(row["ssim"]) <= 1 for row in scores)
    assert len({row["loss"] for row in losses(finished_boxes)}) == 6
    with Image.open(finished_boxes / "samples" / "000006.png") as image:
        assert (image.size[0] % 8, image.size[1] % 3) == (0, 0)


def test_subjects_that_lack_a_contrast_are_left_out_with_a_count(finished_boxes, box_options, tmp_path, caplog):
    subjects = yaml.safe_load((finished_boxes / "subjects.yaml").read_text())

    assert [name for entry in subjects["training"] for name in entry] == ["whole"]
    assert [name for entry in subjects["validation"] for name in entry] == ["judge"]
    assert [line.split(":")[0] for line in subjects["left out"]] == ["secret", "lacking", "useless"]
    with caplog.at_level(logging.WARNING):
        train(box_options(tmp_path, training__iterations=1, data__validation=[]))
    (said,) = [m for m in caplog.messages if "do not train" in m]
    assert said.startswith("3 of what was found do not train:") and "lacking: t1, t2, flair of" in said
    assert not (tmp_path / "validation.csv").exists()


def test_boxes_without_brain_are_told(box_options, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "EMPTY", 1.0)
    with pytest.raises(InputError, match=r"nothing to learn from in boxes of training\.crop \(16, 16, 8\)"):
        train(box_options(tmp_path))


# Going on, and beginning with other weights --------------------------------------------------------------------------


def test_a_run_stopped_and_resumed_is_one_that_never_stopped(box_options, finished_boxes, tmp_path):
    with pytest.raises(Interrupted, match="3 of 6"):
        train(box_options(tmp_path), stop_at(3))
    torch.manual_seed(99)
    train(box_options(tmp_path, resume=True))

    assert losses(tmp_path) == losses(finished_boxes)
    assert same(average(tmp_path), average(finished_boxes))
    assert table(tmp_path / "validation.csv") == table(finished_boxes / "validation.csv")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whole_volumes_train_too(precision, box_options, tmp_path):
    train(box_options(tmp_path, training__crop=None, training__iterations=1, training__precision=precision))

    assert 0 < float(losses(tmp_path)[0]["loss"]) < 10


def test_another_crop_is_another_run(box_options, finished_boxes):
    with pytest.raises(UsageError, match=r"training\.crop"):
        train(box_options(finished_boxes, resume=True, training__crop=[8, 8, 8]))


def test_a_run_begins_with_the_weights_it_is_given(box_options, finished_boxes, tmp_path, monkeypatch):
    """Of a network for any target what is needed for its own; nothing has been learned yet at iteration 0."""
    begun = []

    def watching(state, *_):
        begun.append({name: t.clone() for name, t in state.average.state_dict().items()})
        assert state.iteration == 0 and same(begun[0], state.method.state_dict())
        raise Interrupted

    monkeypatch.setattr("mrsynth.tasks.train.work.train", watching)
    init = str(finished_boxes / "checkpoint.safetensors")
    with pytest.raises(Interrupted):
        train(box_options(tmp_path / "one", init=init, method__target="t2"))
    given = read_checkpoint(finished_boxes / "checkpoint.safetensors").tensors

    assert same(begun[0], cwdm_for_target(given, STANDARD.index(T2)))
    assert yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())["init"] == init


def test_the_same_network_takes_the_weights_as_they_are(box_options, finished_boxes, tmp_path):
    wanted = box_options(tmp_path, init=str(finished_boxes / "checkpoint.safetensors"))
    method = fresh_method(read_config(wanted))
    before = {name: t.clone() for name, t in method.state_dict().items()}
    take_over(method, wanted.init, read_config(wanted).preparation)

    assert same(dict(method.state_dict()), average(finished_boxes)) and not same(before, average(finished_boxes))


def test_init_and_resume_go_together(box_options, finished_boxes, tmp_path):
    """Resumed, a run goes on from its own state, whatever has become of the weights it began with."""
    init = tmp_path / "start.safetensors"
    init.write_bytes((finished_boxes / "checkpoint.safetensors").read_bytes())
    wanted = {"init": str(init), "method__target": "t1", "data__validation": []}
    train(box_options(tmp_path / "whole", **wanted))
    with pytest.raises(Interrupted):
        train(box_options(tmp_path / "run", **wanted), stop_at(2))
    init.unlink()
    train(box_options(tmp_path / "run", **wanted, resume=True))

    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    with pytest.raises(UsageError, match="init"):
        train(box_options(tmp_path / "run", **{**wanted, "init": "other"}, resume=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method__network": {"width": 16}}, r"another network.*has shape"),
        ({"method__network": {"skips": "additive"}}, "another network"),
        ({"method__network": {"multipliers": [1, 2, 2]}}, "another network.*missing"),
        ({"init": "nobody"}, "nobody"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changes, message, box_options, finished_boxes, tmp_path):
    wanted = {"init": str(finished_boxes / "checkpoint.safetensors"), **changes}
    with pytest.raises(WeightsError, match=f"(?s){message}"):
        train(box_options(tmp_path / "run", **wanted))
    assert not (tmp_path / "run").exists()


def test_weights_of_another_method_are_refused(box_options, tiny_checkpoint, tmp_path):
    with pytest.raises(WeightsError, match="another network"):
        train(box_options(tmp_path / "run", init=str(tiny_checkpoint)))


# Refusals ------------------------------------------------------------------------------------------------------------


def test_slices_have_no_crop(train_options, tmp_path):
    with pytest.raises(UsageError, match=r"training\.crop is for methods that learn from volumes"):
        train(train_options(tmp_path / "run", training__crop=[16, 16, 16]))


def test_volumes_are_not_learnt_by_slices(box_options, tmp_path):
    with pytest.raises(UsageError, match=r"training\.slices is for methods that learn from slices"):
        train(box_options(tmp_path / "run", training__slices=3))


@pytest.mark.parametrize("crop", [[16, 16, 6], [18, 16, 8]])
def test_a_crop_that_does_not_divide_is_refused(crop, box_options, tmp_path):
    with pytest.raises(UsageError, match=r"training\.crop.*multiple of 4"):
        train(box_options(tmp_path / "run", training__crop=crop))


@pytest.mark.parametrize(("key", "side"), [("multiple", 6), ("depth_multiple", 1)])
def test_volumes_that_do_not_divide_are_refused(key, side, box_options, tmp_path):
    with pytest.raises(UsageError, match=rf"preparation\.{key} is {side}.*multiples of 4"):
        train(box_options(tmp_path / "run", **{f"preparation__{key}": side}))


def test_a_run_needs_a_target(box_options, tmp_path):
    wanted = box_options(tmp_path / "run", config=None)
    with pytest.raises(UsageError, match=r"method\.target"):
        train(wanted)
