"""`mrsynth train` from folders to a checkpoint: what it leaves, how it stops, how it goes on."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mrsynth.contrasts import STANDARD
from mrsynth.errors import Interrupted, OutputError, UsageError
from mrsynth.io import files
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.methods import build_method
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.tasks.train.run import train
from tests.tasks.train.runs import losses, stop_when, table

CHECKOUT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.usefixtures("one_thread")


def contents(state):
    """All the tensors of a state.pt."""
    if isinstance(state, Path):
        state = torch.load(state / "state.pt", weights_only=True)
    if isinstance(state, torch.Tensor):
        return [state]
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [tensor for value in inner for tensor in contents(value)]


def same_state(one, other):
    one, other = contents(one), contents(other)
    return len(one) == len(other) > 50 and all(map(torch.equal, one, other))


# What a run leaves ---------------------------------------------------------------------------------------------------


def test_the_checkpoint_can_be_used(finished_run):
    checkpoint = read_checkpoint(finished_run / "checkpoint.safetensors")
    method = build_method(checkpoint.config)
    method.load_state_dict(checkpoint.tensors, strict=True)

    card = checkpoint.card
    assert (card.name, card.method, card.licence, card.iterations) == ("small", "fgc2f", "CC0", 6)
    assert card.sampling == {"mode": "sample", "modes": ["sample", "mean"], "sampler": "ddim", "steps": 2}
    assert [source.name for source in card.training_data] == ["made up"]
    assert PreparationConfig.model_validate(checkpoint.preparation) == PreparationConfig()
    assert set(card.intensity) == set(STANDARD)
    assert all(sum(shares) == pytest.approx(1, abs=1e-4) for shares in card.intensity.values())
    average = torch.load(finished_run / "state.pt", weights_only=True)["average"]
    assert all(torch.equal(average[name], tensor) for name, tensor in checkpoint.tensors.items())


def test_subjects_are_used_as_the_run_file_says(finished_run):
    """The one without T1ce trains: its loss knows no T1ce, its histogram neither."""
    subjects = yaml.safe_load((finished_run / "subjects.yaml").read_text())

    assert [name for entry in subjects["training"] for name in entry] == ["lacking", "whole"]
    assert [name for entry in subjects["validation"] for name in entry] == ["judge"]
    assert all(5 <= n <= 8 for part in ("training", "validation") for e in subjects[part] for n in e.values())
    assert [reason.split(":")[0] for reason in subjects["left out"]] == ["secret", "useless"]


def test_figures_are_in_tables_and_in_tensorboard(finished_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = losses(finished_run)
    assert [int(row["iteration"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    scores = table(finished_run / "validation.csv")
    assert list(scores[0]) == ["iteration", "pattern", "target", "region", "protocol", "psnr", "psnr_fit", "ssim"]
    assert [row["iteration"] for row in scores] == ["3"] * 28 + ["6"] * 28
    assert all(0 < float(row["psnr"]) < 60 and -1 < float(row["ssim"]) <= 1 for row in scores)

    events = EventAccumulator(str(finished_run / "tensorboard"))
    events.Reload()
    curve = {e.step: e.value for e in events.Scalars("train/loss")}
    assert curve == pytest.approx({int(row["iteration"]): float(row["loss"]) for row in rows}, rel=1e-4)
    last = [float(row["psnr"]) for row in scores[28:]]
    assert events.Scalars("validation/psnr")[-1].value == pytest.approx(np.mean(last), rel=1e-4)
    assert len([tag for tag in events.Tags()["scalars"] if tag.startswith("validation_ssim/")]) == 28


def test_pictures_show_the_validation_slices(finished_run):
    assert sorted(p.name for p in (finished_run / "samples").iterdir()) == ["000003.png", "000006.png"]
    with Image.open(finished_run / "samples" / "000006.png") as image:
        assert image.size == (8 * 16, 3 * 32)


def test_progress_tells_what_and_how_much(finished_run, train_steps):
    assert train_steps[:3] == [(f"preparing {name}", i, 3) for i, name in enumerate(("judge", "lacking", "whole"))]
    assert train_steps[3] == ("training", 0, 6)
    training = [(done, total) for what, done, total in train_steps if what.startswith("training, loss 0.")]
    assert training == [(i, 6) for i in range(1, 7)]
    assert [done for what, done, _ in train_steps if what == "validating"] == [3, 6]


def test_nothing_temporary_stays(finished_run):
    assert list(finished_run.rglob(".*")) == []


# Stopping and going on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_and_resume_goes_on_exactly(number, train_options, finished_run, tmp_path):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="3 of 6") as error:
        train(train_options(tmp_path), stop_when("training", 3, number))
    assert error.value.exit_code == 130
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert read_checkpoint(tmp_path / "checkpoint.safetensors").card.iterations == 3

    train(train_options(tmp_path, resume=True, training__workers=1))

    assert same_state(tmp_path, finished_run)
    assert losses(tmp_path) == losses(finished_run)
    assert table(tmp_path / "validation.csv") == table(finished_run / "validation.csv")


def test_a_run_that_was_killed_leaves_no_row_twice(train_options, finished_run, tmp_path):
    """Rows written after the last save come again when the run is resumed from there."""
    with pytest.raises(Interrupted):
        train(train_options(tmp_path), stop_when("training", 3))
    with (tmp_path / "losses.csv").open("a") as file:
        file.write("5,9.9,9.9,9.9\n6,9.9,9.9,9.9\n")

    train(train_options(tmp_path, resume=True))

    assert losses(tmp_path) == losses(finished_run)


def test_resume_needs_no_run_file(train_options, finished_run, tmp_path):
    with pytest.raises(Interrupted):
        train(train_options(tmp_path), stop_when("training", 1))
    train(train_options(tmp_path, resume=True, config=None))

    assert same_state(tmp_path, finished_run)


def test_a_finished_run_can_be_prolonged(train_options, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    train(train_options(tmp_path / "run", resume=True, training__iterations=7))

    assert read_checkpoint(tmp_path / "run" / "checkpoint.safetensors").card.iterations == 7
    assert [row["iteration"] for row in losses(tmp_path / "run")] == list("1234567")
    with pytest.raises(UsageError, match="7 iterations already"):
        train(train_options(tmp_path / "run", resume=True))


def test_a_signal_while_preparing_ends_at_once(train_options, finished_run, tmp_path):
    with pytest.raises(Interrupted, match="1 of 3 subjects"):
        train(train_options(tmp_path), stop_when("preparing", 0))
    assert not (tmp_path / "state.pt").exists()
    train(train_options(tmp_path))

    assert same_state(tmp_path, finished_run)


def test_a_signal_while_validating_is_not_kept_waiting_and_resume_makes_up_for_it(
    train_options, finished_run, tmp_path
):
    with pytest.raises(Interrupted, match="3 of 6"):
        train(train_options(tmp_path), stop_when("validating", 3))

    assert not (tmp_path / "validation.csv").exists()
    train(train_options(tmp_path, resume=True))
    assert table(tmp_path / "validation.csv") == table(finished_run / "validation.csv")


def test_a_full_disk_leaves_the_last_state(train_options, tmp_path, monkeypatch):
    rename = os.replace

    def full(source, target):
        if Path(target).name == "state.pt" and Path(target).exists():
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OutputError, match=r"state\.pt: the disk is full"):
        train(train_options(tmp_path))
    assert torch.load(tmp_path / "state.pt", weights_only=True)["iteration"] == 2


SCRIPT = """
import sys
from pathlib import Path
import torch
from mrsynth.errors import MrsynthError
from mrsynth.tasks.train.run import TrainOptions, train
torch.set_num_threads(1)
data, out, file, iterations, workers = sys.argv[1:]
options = TrainOptions("fgc2f", (Path(data),), Path(out), Path(file),
                       {"training.iterations": int(iterations), "training.workers": int(workers)}, device="cpu")
try:
    train(options, lambda *step: print(*step, flush=True))
except MrsynthError as error:
    sys.exit(error.exit_code)
"""


def script(options, iterations, workers, *launcher):
    code = options.out.parent / "script.py"
    code.write_text(SCRIPT)
    settings = (options.data[0], options.out, options.config, iterations, workers)
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(code), *map(str, settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_run_saves_and_ends(train_options, tmp_path):
    with script(train_options(tmp_path / "run"), 10**6, 1) as process:
        for line in process.stdout:
            if line.startswith("training, loss") and " 3 " in line:
                os.killpg(process.pid, signal.SIGTERM)
                break
        process.stdout.read()
        assert process.wait(60) == 130
    with pytest.raises(ProcessLookupError):  # no loader is left
        os.killpg(process.pid, 0)
    iteration = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["iteration"]
    assert iteration == read_checkpoint(tmp_path / "run" / "checkpoint.safetensors").card.iterations >= 3


@pytest.mark.slow
def test_two_processes_make_one_run(train_options, finished_run, tmp_path):
    """Only the main process writes, gradients are shared, and the result depends on both."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    with script(train_options(tmp_path / "run"), 6, 0, *launcher) as process:
        lines = process.stdout.read().splitlines()
        assert process.wait(60) == 0
    assert [line.split()[3] for line in lines if line.startswith("training, loss")] == list("123456")
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    assert [row["iteration"] for row in losses(tmp_path / "run")] == list("123456")
    assert not same_state(tmp_path / "run", finished_run)
