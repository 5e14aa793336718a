"""`mrsynth train` asked for what it cannot do, and which subjects it takes."""

import csv
import io
import os
import pickle
import shutil

import pytest
import torch
from pydantic import ValidationError

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError, MrsynthError, UsageError, WeightsError
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.methods import build_method
from mrsynth.tasks.train import run as task
from mrsynth.tasks.train.cohort import gather
from mrsynth.tasks.train.run import read_config, train
from mrsynth.tasks.train.sources import Slices
from mrsynth.training.batches import TrainingConfig
from mrsynth.training.loop import choose_device, processes

pytestmark = pytest.mark.usefixtures("one_thread")


# Refusals ------------------------------------------------------------------------------------------------------------


def test_there_must_be_a_run_to_resume_and_none_to_begin(train_options, finished_run, tmp_path):
    with pytest.raises(UsageError, match="no run to resume"):
        train(train_options(tmp_path / "none", resume=True))
    assert not (tmp_path / "none").exists()
    before = (finished_run / "state.pt").read_bytes()
    with pytest.raises(UsageError, match="already holds a run"):
        train(train_options(finished_run))
    assert (finished_run / "state.pt").read_bytes() == before


def test_another_configuration_is_another_run(train_options, finished_run):
    with pytest.raises(UsageError) as error:
        train(
            train_options(finished_run, resume=True, method__network__width=32, training__seed=5, training__workers=1)
        )

    assert "method.network.width: 16 in the run, 32 asked for" in str(error.value)
    assert "training.seed: 0 in the run, 5 asked for" in str(error.value)
    assert "workers" not in str(error.value)


def test_other_subjects_are_another_run(train_options, finished_run, training_data, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.copytree(training_data / "whole", tmp_path / "data" / "newcomer")
    for path in (tmp_path / "data" / "newcomer").iterdir():
        path.rename(path.with_name(path.name.replace("whole", "newcomer")))
    with pytest.raises(UsageError, match=r"training subjects.*Missing: none. New: 'newcomer': \d"):
        train(train_options(tmp_path / "run", resume=True, data=(training_data, tmp_path / "data")))


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "evil", "other", "list"])
def test_a_damaged_state_is_named(damage, train_options, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(finished_run / "config.yaml", out)
    whole = (finished_run / "state.pt").read_bytes()
    saved = torch.load(finished_run / "state.pt", weights_only=True)
    other, plain = io.BytesIO(), io.BytesIO()
    torch.save({**saved, "method": {}}, other)
    torch.save([1, 2], plain)
    (out / "state.pt").write_bytes(
        {
            "empty": b"",
            "text": b"hello",
            "cut": whole[: len(whole) // 2],
            "evil": pickle.dumps(Evil(), protocol=2),
            "other": other.getvalue(),
            "list": plain.getvalue(),
        }[damage]
    )
    with pytest.raises(WeightsError, match=r"state\.pt cannot be resumed from") as error:
        train(train_options(out, resume=True))
    assert error.value.exit_code == 5
    assert not (tmp_path / "evil").exists()


def test_a_run_without_its_configuration_is_not_resumed(train_options, finished_run, tmp_path):
    shutil.copy(finished_run / "state.pt", tmp_path)
    with pytest.raises(UsageError, match=r"config\.yaml"):
        train(train_options(tmp_path, resume=True))


def test_wrong_requests_write_nothing(train_options, tmp_path):
    for wrong in ({"device": "banana"}, {"training__itrations": 3}, {"config": tmp_path / "none.yaml"}):
        with pytest.raises(UsageError):
            train(train_options(tmp_path / "run", **wrong))
    assert not (tmp_path / "run").exists()


def test_missing_packages_are_named(train_options, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "find_spec", lambda name: None if name == "accelerate" else object())
    with pytest.raises(UsageError, match=r"needs accelerate: pip install 'mrsynth\[train\]'"):
        train(train_options(tmp_path))


@pytest.mark.parametrize(
    "options", [{"iteration": 3}, {"seed": -1}, {"ema": 1}, {"precision": "fp8"}, {"batch_size": 0}]
)
def test_a_config_refuses_what_makes_no_sense(options):
    with pytest.raises(ValidationError):
        TrainingConfig(**options)


@pytest.mark.parametrize("name", ["banana", "cpu:x", "cuda:99"])
def test_a_device_that_is_not_there_is_a_usage_error(name):
    with pytest.raises(UsageError, match=f"device .{name}."):
        choose_device(name)


def test_several_processes_that_do_not_see_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"2 processes.*--device cpu"):
        processes("auto")


# Data ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cohort(train_options, tmp_path):
    """cohort(*roots, **changes): the subjects found."""

    def find(*roots, **changes):
        wanted = train_options(tmp_path, **changes)
        config = read_config(wanted)
        method = build_method(config.method)
        return gather(roots or wanted.data, config, method, tmp_path / "cache", lambda *_: None)

    return find


def test_a_subject_can_count_several_times_and_overlapping_folders_count_once(cohort, training_data):
    found = cohort(training_data, training_data / "whole", training_data, data__repeat={"whole": 3})

    assert [s.name for s in found.training] == ["lacking", "whole", "whole", "whole"]
    assert len(Slices(found.training, 0)) == len(found.training[0].slices) + 3 * len(found.training[1].slices)


@pytest.mark.parametrize("part", ["validation", "exclude"])
def test_a_name_that_nobody_has_is_named(part, cohort):
    """A misspelt exclusion would train on what must not be trained on."""
    with pytest.raises(InputError, match=f"data.{part} names subjects that are not there: nobody"):
        cohort(**{f"data__{part}": ["judge", "nobody"]})
    with pytest.raises(InputError, match=r"data\.repeat"):
        cohort(data__repeat={"nobody": 2})


def test_without_training_data_it_says_what_it_found(cohort, train_options, training_data, tmp_path):
    with pytest.raises(
        InputError, match=r"(?s)Nothing to train on.*found 5 subjects, 3 of them for validation.*useless"
    ):
        cohort(data__validation=["judge", "whole", "lacking"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="Nothing to train on"):
        cohort(empty, data__validation=[], data__exclude=[])
    with pytest.raises(InputError):
        train(train_options(tmp_path / "run", data=(tmp_path / "nowhere",)))


def test_a_subject_that_cannot_be_read_is_named(cohort, training_data, tmp_path):
    shutil.copytree(training_data, tmp_path / "data")
    scan = tmp_path / "data" / "whole" / "whole_t2.nii.gz"
    scan.write_bytes(scan.read_bytes()[:200])
    with pytest.raises(MrsynthError, match="whole_t2"):
        cohort(tmp_path / "data")


def test_a_checkpoint_of_two_contrasts(train_options, tmp_path):
    """Methods need not know all four, and the others are not even read."""
    pair = [Contrast.T1.value, Contrast.T2.value]
    path = train(
        train_options(
            tmp_path,
            method__contrasts=pair,
            method__freq={"ranking": pair},
            training__iterations=1,
            training__accumulation=1,
        )
    )

    assert read_checkpoint(path).card.contrasts == (Contrast.T1, Contrast.T2)
    with (tmp_path / "validation.csv").open(newline="") as file:
        assert [(row["pattern"], row["target"]) for row in csv.DictReader(file)] == [("t1", "t2"), ("t2", "t1")]
