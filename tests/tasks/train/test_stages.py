"""Training in stages by one command: where each begins, what stays frozen, and stopping at any point."""

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError, Interrupted, UsageError, WeightsError
from mrsynth.io.checkpoint import read_checkpoint, read_header, write_checkpoint
from mrsynth.io.nifti import read_volume, write_volume
from mrsynth.methods import METHODS, build_method
from mrsynth.methods.base import Method, MethodConfig, Objective
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.scans.volume import Volume
from mrsynth.tasks.models import config_of, load_method
from mrsynth.tasks.train.config import merged
from mrsynth.tasks.train.judging import SynthesisJudge
from mrsynth.tasks.train.run import TrainOptions, train
from mrsynth.tasks.train.stages import take_over
from mrsynth.training.batches import Slab, TrainingConfig
from mrsynth.training.loop import Callbacks, begin
from mrsynth.training.loop import train as run_stages
from tests.tasks.train.runs import request_maker, stop_at, table

pytestmark = pytest.mark.usefixtures("one_thread", "ladder")

RUN_FILE = """
name: ladder
method: {method: ladder}
training:
  iterations: 5
  batch_size: 2
  learning_rate: 1e-2
  ema: 0.5
  precision: fp32
  log_every: 1
  save_every: 2
  validate_every: 2
  augmentation: {affine: 0.5}
stages:
  body: {iterations: 4, learning_rate: 2e-2, save_every: 3}
data: {validation: [judge]}
"""


class LadderConfig(MethodConfig):
    method: Literal["ladder"] = "ladder"
    width: int = 3
    head_width: int = 3
    careful: bool = False


class Ladder(Method):
    """A body copies the mean of what it may read, helped by an aid; then a head makes contrasts of the frozen body."""

    Config = LadderConfig
    stages = ("body", "head")
    judged_stages = ("head",)
    wants_labels = True
    modes = ("mean",)
    chain = ("direct", 1)

    def __init__(self, config):
        super().__init__(config)
        self.config = config
        self.needs_labels = config.careful
        width, wide = config.width, config.head_width
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.Dropout(0.2), nn.Conv2d(width, 1, 1)
        )
        self.aid = nn.Conv2d(1, 1, 1)
        self.head = nn.Sequential(nn.Conv2d(1, wide, 1), nn.Dropout(0.2), nn.Conv2d(wide, len(config.contrasts), 1))
        self.register_buffer("scale", torch.zeros(()))

    def seen(self, images, available):
        known = torch.where(available[:, :, None, None], images, 0.0)
        return known.sum(1, keepdim=True) / available.sum(1)[:, None, None, None]

    def objectives(self, stage):
        if stage == "body":
            return [Objective("copy", [*self.body.parameters(), *self.aid.parameters()], self.copy, betas=(0.5, 0.9))]
        return [Objective("make", list(self.head.parameters()), self.make, weight_decay=0.1)]

    def enter_stage(self, stage, batches):
        if stage == "head":
            first, second = (batch for _, batch in zip(range(2), batches, strict=False))
            both = [self.body(self.seen(batch.images, batch.available)) for batch in (first, second)]
            self.scale.copy_(torch.cat([made.flatten() for made in both]).std())

    def stage_tensors(self, stage):
        return ("body.", "aid.") if stage == "body" else ("head.", "scale")

    def training_only(self):
        return ("aid.",)

    def copy(self, batch, generator):
        seen = self.seen(batch.images, batch.available)
        made = self.body(seen)
        labelled = (batch.labels >= 0).all((1, 2)).float().mean()
        lesion = (self.aid(made)[:, 0].sigmoid() - batch.labels.clamp(0, 1)).square().mean()
        return {"loss": (made - seen).square().mean() + labelled * lesion, "labelled": labelled}

    def make(self, batch, generator):
        made = self.made(batch.images, batch.available)
        wanted = (batch.present & ~batch.available)[:, :, None, None]
        return {"loss": torch.where(wanted, made - batch.images, 0.0).square().mean()}

    def made(self, images, available):
        return self.head(self.body(self.seen(images, available)) / self.scale)

    def fill_in(self, images, available, wish):
        return torch.where(available[:, :, None, None], images, self.made(images, available).clamp(-1, 1))


PRESETS = {"base": {}}


@pytest.fixture(scope="module")
def ladder():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "ladder", f"{__name__}:Ladder")
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_subject_folder):
    """Two subjects that train, one of them with a segmentation; one that judges."""
    root = tmp_path_factory.mktemp("staged")
    for seed, name in enumerate(("labelled", "bare", "judge")):
        folder = write_subject_folder(root, name, shape=(18, 24, 8), seed=seed)
        if name == "labelled":
            t1 = read_volume(folder / f"{name}_t1.nii.gz")
            lesion = np.where(t1.voxels > np.quantile(t1.voxels, 0.9), 4, 0)
            write_volume(folder / f"{name}_seg.nii.gz", Volume(lesion.astype(np.float32), t1.affine))
    return root


@pytest.fixture(scope="module")
def options(data, tmp_path_factory):
    """options(out, **changes): the request."""
    return request_maker("ladder", data, tmp_path_factory.mktemp("config") / "ladder.yaml", RUN_FILE)


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def finished(ladder, options, steps, tmp_path_factory):
    """The folder of a run that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(options(out), lambda *step: steps.append(step))
    return out


def stopped_at(iteration, request):
    with pytest.raises(Interrupted) as error:
        train(request, stop_at(iteration))
    return str(error.value)


def saved(out):
    return torch.load(out / "state.pt", weights_only=True)


def tensors_of(state):
    if isinstance(state, torch.Tensor):
        return [state]
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in inner for tensor in tensors_of(value)]


def same(one, other):
    """Bit for bit, zeros with their sign."""
    one, other = tensors_of(one), tensors_of(other)
    return len(one) == len(other) > 0 and all(
        a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(one, other, strict=True)
    )


def parts(state, *beginnings):
    return {name: state[name] for name in sorted(state) if name.startswith(beginnings)}


# What a run leaves ---------------------------------------------------------------------------------------------------


def test_one_command_trains_all_stages(finished, steps):
    rows = table(finished / "losses.csv")

    assert [(row["iteration"], row["stage"]) for row in rows] == [
        *((str(i), "body") for i in range(1, 5)),
        *((str(i), "head") for i in range(5, 10)),
    ]
    assert [float(row["learning_rate"]) for row in rows] == [0.02] * 4 + [0.01] * 5
    assert {row["labelled"] for row in rows[:4]} <= {"0", "0.5", "1"} and all(row["labelled"] == "" for row in rows[4:])
    assert [step for step in steps if step[0].startswith("training") and "loss" not in step[0]] == [
        ("training body", 0, 9),
        ("training head", 4, 9),
    ]
    logged = [(what.split(",")[0], done, total) for what, done, total in steps if "loss" in what]
    assert logged == [("training body" if i < 5 else "training head", i, 9) for i in range(1, 10)]


def test_only_stages_that_synthesise_are_validated(finished, steps):
    rows = table(finished / "validation.csv")

    assert sorted({int(row["iteration"]) for row in rows}) == [6, 8, 9]
    assert sorted(p.name for p in (finished / "samples").iterdir()) == [f"00000{i}.png" for i in (6, 8, 9)]
    assert [step for step in steps if "validating" in step[0]] == [("validating head", i, 9) for i in (6, 8, 9)]


def test_tensorboard_keeps_the_losses_of_stages_apart(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train_body/loss")] == [1, 2, 3, 4]
    assert [e.step for e in events.Scalars("train_head/loss")] == [5, 6, 7, 8, 9]


def test_the_checkpoint_holds_what_synthesis_needs_and_nothing_more(finished):
    checkpoint = read_checkpoint(finished / "checkpoint.safetensors")
    state = saved(finished)

    assert checkpoint.card.iterations == 9 and checkpoint.card.note.startswith("Best on validation: iteration ")
    assert (state["stage"], state["iteration"]) == ("head", 5)
    assert set(state["average"]) - set(checkpoint.tensors) == {"aid.weight", "aid.bias"}
    assert all(torch.equal(state["average"][name], tensor) for name, tensor in checkpoint.tensors.items())
    trained = load_method(finished / "checkpoint.safetensors").method
    images, available = torch.rand(1, 4, 8, 8), torch.tensor([[True, True, False, False]])
    method = build_method({"method": "ladder"}).eval()
    method.load_state_dict(state["average"])
    options = {"context": images[:, :, None][:, :, :0], "noise": torch.randn_like}
    expected = method.synthesise(images, available, **options)
    assert torch.equal(trained.synthesise(images, available, **options), expected)
    assert not torch.equal(expected, images)


def test_subjects_with_labels_are_on_record(finished):
    assert yaml.safe_load((finished / "subjects.yaml").read_text())["labelled"] == ["labelled"]


# From one stage to the next ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def boundary(ladder, options, tmp_path_factory):
    """A run stopped when its first stage was finished, and what it said."""
    out = tmp_path_factory.mktemp("runs") / "boundary"
    return out, stopped_at(4, options(out))


def test_a_stop_at_the_end_of_a_stage_waits_for_no_other(boundary):
    out, said = boundary

    assert said == "Stopped after the stage body, which is finished; --resume goes on."
    assert (saved(out)["stage"], saved(out)["iteration"]) == ("body", 4)
    card = read_checkpoint(out / "checkpoint.safetensors").card
    assert card.note == "Unfinished training: finished body; not begun head." and card.iterations == 4


def test_the_next_stage_builds_on_the_averaged_weights_and_leaves_them_alone(boundary, finished):
    """Bit for bit: parameters, running statistics, in the weights and in their average."""
    first, last = saved(boundary[0]), saved(finished)
    made = ("body.", "aid.")

    assert not same(parts(first["method"], "body."), parts(first["average"], "body."))
    assert same(parts(last["method"], *made), parts(first["average"], *made))
    assert same(parts(last["average"], *made), parts(first["average"], *made))
    assert int(last["method"]["body.1.num_batches_tracked"]) == 4
    assert same(parts(first["method"], "head."), parts(first["average"], "head."))
    assert not same(parts(last["method"], "head."), parts(first["method"], "head."))


def test_what_a_stage_measures_when_it_begins_is_kept(boundary, finished):
    assert float(saved(boundary[0])["average"]["scale"]) == 0
    last = saved(finished)
    assert float(last["average"]["scale"]) == float(last["method"]["scale"]) > 0


@pytest.mark.parametrize("iteration", [2, 4, 5, 7])
def test_a_run_stopped_anywhere_and_resumed_is_one_that_never_stopped(iteration, options, finished, tmp_path):
    said = stopped_at(iteration, options(tmp_path))
    if iteration != 4:
        local, of, stage = (iteration, 4, "body") if iteration < 4 else (iteration - 4, 5, "head")
        assert said == f"Stopped after {local} of {of} iterations of stage {stage}; --resume goes on."
        note = read_checkpoint(tmp_path / "checkpoint.safetensors").card.note
        assert f"{stage} has {local} of {of} iterations" in note

    train(options(tmp_path, resume=True, config=None))

    assert same(saved(tmp_path), saved(finished))
    assert table(tmp_path / "losses.csv") == table(finished / "losses.csv")
    assert table(tmp_path / "validation.csv") == table(finished / "validation.csv")


def test_an_unfinished_checkpoint_says_so_when_it_is_used(boundary, caplog):
    with caplog.at_level(logging.WARNING):
        load_method(boundary[0] / "checkpoint.safetensors")

    assert "Unfinished training: finished body; not begun head." in caplog.text


# Stages that a checkpoint supplies -----------------------------------------------------------------------------------


def test_a_stage_with_an_init_is_not_trained(options, finished, tmp_path):
    """The head learns as it did on the same body."""
    seen = []
    given = str(finished / "checkpoint.safetensors")
    train(options(tmp_path, stages__body__init=given), lambda *step: seen.append(step))

    rows, before = table(tmp_path / "losses.csv"), table(finished / "losses.csv")[4:]
    assert [row["iteration"] for row in rows] == list("12345")
    assert [row["loss"] for row in rows] == [row["loss"] for row in before]
    assert same(
        parts(read_checkpoint(tmp_path / "checkpoint.safetensors").tensors, ""),
        parts(read_checkpoint(finished / "checkpoint.safetensors").tensors, ""),
    )
    assert {total for what, _, total in seen if what.startswith("training")} == {5}


def test_a_run_with_an_init_is_resumed_without_that_file(options, finished, tmp_path):
    given = tmp_path / "given.safetensors"
    shutil.copy(finished / "checkpoint.safetensors", given)
    stopped_at(3, options(tmp_path / "run", stages__body__init=str(given)))
    given.unlink()
    train(options(tmp_path / "run", resume=True, config=None))

    assert same(saved(tmp_path / "run")["average"]["head.0.weight"], saved(finished)["average"]["head.0.weight"])


@pytest.mark.parametrize("learnt", [("axial",), ("axial", "coronal"), ("axial", "coronal", "sagittal")])
def test_a_stage_that_is_supplied_knows_the_planes_of_its_checkpoint(learnt, options, finished, tmp_path):
    """Also when the run goes on without that file."""
    given, file = read_checkpoint(finished / "checkpoint.safetensors"), tmp_path / "given.safetensors"
    write_checkpoint(file, replace(given, card=given.card.model_copy(update={"planes": learnt})))
    asked = {"stages__body__init": str(file), "training__planes": ["axial", "coronal"]}
    common = tuple(plane for plane in ("axial", "coronal") if plane in learnt)

    stopped_at(3, options(tmp_path / "run", **asked))
    assert read_checkpoint(tmp_path / "run" / "checkpoint.safetensors").card.planes == common
    file.unlink()
    train(options(tmp_path / "run", resume=True, config=None))
    assert read_checkpoint(tmp_path / "run" / "checkpoint.safetensors").card.planes == common


def test_a_later_stage_can_be_supplied_too(options, finished, boundary, tmp_path):
    train(options(tmp_path, stages__head__init=str(finished / "checkpoint.safetensors")))

    made, given = (read_checkpoint(out / "checkpoint.safetensors").tensors for out in (tmp_path, finished))
    assert same(parts(made, "head.", "scale"), parts(given, "head.", "scale"))
    assert same(parts(made, "body."), parts(saved(boundary[0])["average"], "body."))
    assert read_checkpoint(tmp_path / "checkpoint.safetensors").card.iterations == 4


def test_a_stage_with_an_init_is_trained_on_where_that_is_said(options, finished, tmp_path):
    """From those weights: one iteration at no rate leaves them as they were; at a usual one it does not."""
    given = str(finished / "checkpoint.safetensors")
    before = read_checkpoint(finished / "checkpoint.safetensors").tensors["body.0.weight"]
    asked = {"stages__body__init": given, "stages__body__trained": True, "stages__body__iterations": 1}
    train(options(tmp_path / "still", **asked, stages__body__learning_rate=1e-30))
    train(options(tmp_path / "on", **asked))

    still, on = (read_checkpoint(tmp_path / name / "checkpoint.safetensors").tensors for name in ("still", "on"))
    assert torch.equal(still["body.0.weight"], before)
    assert not torch.equal(on["body.0.weight"], before)
    assert [row["stage"] for row in table(tmp_path / "on" / "losses.csv")] == ["body"] + ["head"] * 5


def test_a_checkpoint_of_another_network_supplies_no_stage(options, finished, tiny_checkpoint, tmp_path):
    given = str(finished / "checkpoint.safetensors")
    with pytest.raises(WeightsError, match=r"stages\.body\.init: .*body\.0\.weight has shape \(3, 1, 3, 3\)"):
        train(options(tmp_path, stages__body__init=given, method__width=4))
    with pytest.raises(WeightsError, match="method is fgc2f, here ladder"):
        train(options(tmp_path, stages__body__init=str(tiny_checkpoint)))
    with pytest.raises(WeightsError, match="nowhere"):
        train(options(tmp_path, stages__body__init="nowhere.safetensors"))
    assert list(tmp_path.iterdir()) == []


def test_only_the_tensors_of_the_stage_have_to_fit(options, finished, tmp_path):
    """The body of a network with another head will do; its head will not."""
    given = read_checkpoint(finished / "checkpoint.safetensors")
    config = {**given.config, "head_width": 5}
    tensors = {**build_method(config).saved_state(), **parts(given.tensors, "body.")}
    write_checkpoint(tmp_path / "given.safetensors", replace(given, config=config, tensors=tensors))

    init = str(tmp_path / "given.safetensors")
    train(options(tmp_path / "run", stages__body__init=init, stages__head__iterations=2))
    before = table(finished / "losses.csv")[4:6]
    assert [row["loss"] for row in table(tmp_path / "run" / "losses.csv")] == [row["loss"] for row in before]
    with pytest.raises(WeightsError, match=r"stages\.head\.init: .*head\.0\.weight has shape \(5, 1, 1, 1\)"):
        train(options(tmp_path / "other", stages__head__init=init))


def test_what_was_taken_over_is_not_measured_anew(options, finished, tmp_path):
    """Nor after a stop between the stages; a stage that begins anew still is."""
    given = str(finished / "checkpoint.safetensors")
    scale = float(read_checkpoint(given).tensors["scale"])
    for name, init in (
        ("whole", {"init": given}),
        ("stage", {"stages__head__init": given, "stages__head__trained": True}),
    ):
        stopped_at(4, options(tmp_path / name, **init))
        train(options(tmp_path / name, resume=True, config=None))
        assert float(saved(tmp_path / name)["method"]["scale"]) == scale
    train(options(tmp_path / "body", stages__body__init=given, stages__body__trained=True))
    assert float(saved(tmp_path / "body")["method"]["scale"]) != scale


@pytest.mark.parametrize(("name", "stage"), [("dfbk-ship", "all"), ("msg-ldm-ship", "structure")])
def test_a_regression_that_was_taken_over_stays_also_where_nobody_has_a_contrast(name, stage):
    file = Path(__file__).resolve().parents[2] / "golden" / f"old-{name}.safetensors"
    config, prepared = config_of(read_header(file)), PreparationConfig.model_validate(read_header(file).preparation)
    present = np.array([True, False, True, True])
    slab = Slab(np.random.default_rng(0).uniform(0, 1, (4, 3, 32, 32)).astype(np.float32), present)
    silent = Callbacks(lambda *_: None, lambda *_: None, lambda *_: None, lambda: False)
    training = TrainingConfig(iterations=1, batch_size=2, learning_rate=1e-9, precision="fp32")
    method = build_method(config)
    assert not method.entered(stage)
    with pytest.raises(UsageError, match="No training subject has both T1 and T1ce"):
        run_stages(begin(method, stage), [slab] * 2, training, silent, "cpu")

    take_over(method, str(file), prepared)
    before = read_checkpoint(file).tensors["regression.weights"]
    run_stages(begin(method, stage, frozenset({stage})), [slab] * 2, training, silent, "cpu")
    assert method.entered(stage)
    torch.testing.assert_close(method.state_dict()["regression.weights"], before, rtol=0, atol=1e-6)


def test_scales_of_latents_are_measured_once():
    file = Path(__file__).resolve().parents[2] / "golden" / "old-msg-ldm.safetensors"
    method = build_method(config_of(read_header(file)))
    assert not method.entered("diffusion") and method.entered("first_stage")
    method.diffusion.latent_scale.fill_(2.0)
    assert method.entered("diffusion")


# What did best -------------------------------------------------------------------------------------------------------


def test_stages_are_not_compared_with_one_another(options, tmp_path, monkeypatch):
    """What the first makes scores higher, and is something else."""

    def figures(self, average, stage, bf16, stopped):
        return [{"pattern": "t1", "target": "t2", "psnr_fit": 30.0 if stage == "body" else 20.0}], None

    monkeypatch.setattr(Ladder, "judged_stages", None)
    monkeypatch.setattr(SynthesisJudge, "figures", figures)
    stopped_at(3, options(tmp_path))
    assert read_header(tmp_path / "best.safetensors").card.iterations == 2
    train(options(tmp_path, resume=True))

    assert [row["iteration"] for row in table(tmp_path / "validation.csv")] == ["2", "4", "6", "8", "9"]
    assert read_header(tmp_path / "best.safetensors").card.iterations == 6
    note = read_header(tmp_path / "checkpoint.safetensors").card.note
    assert note == "Best on validation: iteration 6 (mean fitted brain PSNR 20.00 dB)."


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages__foot__iterations": 3}, r"stages\.foot: unknown stage; there are body, head"),
        ({"stages__body__iteration": 3}, r"stages\.body\.iteration: unknown key"),
        ({"stages__body__iterations": 0}, r"stages\.body\.iterations: .*greater than 0"),
        ({"stages__body__augmentation__flop": 0}, r"stages\.body\.augmentation\.flop: unknown key"),
        ({"stages__body__init": 3}, r"stages\.body\.init: expected the name or path"),
        ({"stages__body__init": "x", "stages__body__trained": "on"}, r"stages\.body\.trained: expected true or false"),
        ({"stages__body__trained": True}, r"stages\.body\.trained: expected true or false beside an init"),
        ({"stages__body": 3}, r"stages\.body: "),
        ({"stages__head__crop": [8, 8, 8]}, r"stages\.head\.crop is for methods that learn from volumes"),
        ({"stages__body__init": "a", "stages__head__init": "b"}, "nothing is left to train"),
    ],
)
def test_stages_that_make_no_sense_are_named(changes, message, options, tmp_path):
    with pytest.raises(UsageError, match=message):
        train(options(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_method_of_one_stage_has_no_other(tmp_path, data):
    with pytest.raises(UsageError, match=r"stages\.body: unknown stage; there are all"):
        train(TrainOptions("fgc2f", (data,), tmp_path, None, {"stages.body.iterations": 3}, device="cpu"))


def test_a_stage_that_is_over_keeps_its_iterations(options, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(UsageError, match="The stage body is over, with 4 iterations; 6 are asked for now"):
        train(options(tmp_path / "run", resume=True, stages__body__iterations=6))
    with pytest.raises(UsageError, match=r"5 iterations of stage head already; training.iterations asks for only 3"):
        train(options(tmp_path / "run", resume=True, training__iterations=3))
    with pytest.raises(UsageError, match=r"stages\.body\.learning_rate: 0\.02 in the run, 0\.5 asked for"):
        train(options(tmp_path / "run", resume=True, stages__body__learning_rate=0.5))


def test_the_last_stage_can_be_prolonged(options, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    train(options(tmp_path / "run", resume=True, stages__head__iterations=6, stages__head__log_every=2))

    assert [row["iteration"] for row in table(tmp_path / "run" / "losses.csv")] == [str(i) for i in range(1, 11)]
    assert read_checkpoint(tmp_path / "run" / "checkpoint.safetensors").card.iterations == 10


def test_a_segmentation_that_went_missing_makes_another_run(options, finished, data, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "labelled" / "labelled_seg.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"have a segmentation.*Then: labelled\. Now: none"):
        train(options(tmp_path / "run", resume=True, data=(tmp_path / "data",)))


def test_a_method_that_needs_labels_says_so_before_anything_is_trained(options, tmp_path, write_subject_folder):
    write_subject_folder(tmp_path / "data", "one", shape=(18, 24, 8), without=(Contrast.T2,))
    request = options(tmp_path / "out", data=(tmp_path / "data",), method__careful=True, data__validation=[])
    with pytest.raises(InputError, match=r"None of the 1 training subjects .* has a segmentation"):
        train(request)
    assert not (tmp_path / "out" / "state.pt").exists()


@pytest.mark.parametrize(
    ("stage", "key", "change"),
    [
        (None, "structure.style_codes", {"structure": {"style_codes": "unit"}}),
        ("structure", "structure.style_codes", {"structure": {"style_codes": "unit"}}),
        ("structure", "structure.head", {"structure": {"head": "linear"}}),
        (None, "structure.heads", {"structure": {"heads": 4}}),
        ("diffusion", "param", {"param": "v"}),
    ],
    ids=str,
)
def test_weights_that_would_mean_something_else_are_not_taken_over(stage, key, change):
    """Shapes agree, so that nothing else would notice."""
    file = Path(__file__).resolve().parents[2] / "golden" / "old-msg-ldm.safetensors"
    config = config_of(read_header(file))
    prepared = PreparationConfig.model_validate(read_header(file).preparation)
    same, other = build_method(config), build_method(merged(config, change))
    take_over(same, str(file), prepared, stage)

    with pytest.raises(WeightsError, match=re.escape(key)):
        take_over(other, str(file), prepared, stage)
    if stage == "structure":
        take_over(other, str(file), prepared, "diffusion")  # which does not depend on it
