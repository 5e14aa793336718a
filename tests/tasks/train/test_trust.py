"""A training run one can trust, through the command line: nothing left out, nothing lost, nothing silent."""

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
import yaml

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError
from mrsynth.io.checkpoint import read_checkpoint, read_header
from mrsynth.io.locks import locked
from mrsynth.tasks.train import log
from mrsynth.tasks.train.config import read_run_file
from mrsynth.tasks.train.log import RunLog
from mrsynth.tasks.train.run import BEGIN

CHECKOUT = Path(__file__).resolve().parents[3]
RUN_FILE = """
name: small
method:
  method: fgc2f
  preset: tiny
  network: {width: 8, groups: 4, multipliers: [1, 2], attention: []}
  param: x0
  T: 8
  sampler: ddim
  steps: 1
training: {iterations: 2, batch_size: 2, learning_rate: 1e-3, log_every: 1, save_every: 1, validate_every: 2,
           precision: fp32}
"""
SHAPE = (18, 24, 8)
MAIN = "from mrsynth.cli.app import main; main()"

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("default")]


@pytest.fixture
def train(run_cli, tmp_path, caplog):
    """train(data, *options, config=RUN_FILE) -> (status, stdout, stderr in one line) of `mrsynth train`."""

    def call(data, *options, config=RUN_FILE, out=None, method=("--method", "fgc2f")):
        file = tmp_path / "run.yaml"
        given = []
        if config is not None:
            file.write_text(config)
            given = ["--config", file]
        roots = [data] if isinstance(data, Path) else data
        named = [part for root in roots for part in ("--data", root)]
        target = ("--out", out or tmp_path / "run")
        caplog.clear()
        status, stdout, stderr = run_cli("train", *method, *named, *target, *given, "--device", "cpu", *options)
        return status, stdout, " ".join(f"{caplog.text} {stderr}".split())  # pytest keeps what is logged for itself

    return call


@pytest.fixture
def cohort(write_subject_folder, tmp_path):
    """cohort(*names, without=...) -> a folder of subjects called so."""

    def make(*names, folder="data", **options):
        for name in names:
            seed = sum(map(ord, name))
            write_subject_folder(tmp_path / folder, name, shape=SHAPE, seed=seed, **options)
        return tmp_path / folder

    return make


def table(file):
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def rewrite(file, change):
    image = nib.load(file)
    voxels = change(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), image.affine), file)


# 1 Cards -------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_lists_what_it_learnt_and_complete_refuses_the_rest(train, cohort, run_cli, tmp_path):
    data = cohort("p1", "p2", without=(Contrast.T1CE,))
    status, _, err = train(data)
    card = read_header(tmp_path / "run" / "checkpoint.safetensors").card
    assert status == 0 and "No training subject has T1ce" in err
    assert card.subjects == {"t1": 2, "t1ce": 0, "t2": 2, "flair": 2}
    assert card.learnt == (Contrast.T1, Contrast.T2, Contrast.FLAIR)
    assert not card.supports({Contrast.T1, Contrast.T2}, Contrast.T1CE)
    assert not card.supports({Contrast.T1CE}, Contrast.T2)

    weights = ("--weights", tmp_path / "run" / "checkpoint.safetensors", "--no-self-check", "--device", "cpu")
    status, _, err = run_cli("complete", data / "p1", *weights, "--target", "t1ce")
    assert status == 2 and "trained without any t1ce" in " ".join(err.split())
    assert not (data / "p1" / "mrsynth").exists()


def test_a_contrast_that_was_never_seen_is_not_read(train, cohort, run_cli, tmp_path, no_pictures):
    """The T2 made is the same whatever lies in the T1ce that the network never saw."""
    data = cohort("p1", "p2", without=(Contrast.T1CE,))
    assert train(data)[0] == 0
    patients = cohort("new", folder="patients", without=(Contrast.T2,))
    made = []
    for number in range(2):
        out = tmp_path / f"made{number}"
        weights = ("--weights", tmp_path / "run" / "checkpoint.safetensors", "--no-self-check", "--device", "cpu")
        status, _, err = run_cli("complete", patients / "new", *weights, "--target", "t2", "--out", out, "-v")
        assert status == 0, err
        made.append(np.asarray(nib.load(out / "new_t2.nii.gz").dataobj))
        rewrite(patients / "new" / "new_t1ce.nii.gz", lambda v: v[::-1] * 3 % 997 * (v != 0) + (v != 0))
    assert np.array_equal(*made)


# 2 Left out ----------------------------------------------------------------------------------------------------------


def spoil_three(data):
    shutil.copy(data / "p2" / "p2_flair.nii.gz", data / "p2" / "flair_again.nii.gz")
    (data / "p3" / "p3_t1.nii.gz").unlink()
    (data / "p3" / "p3_t1.nii.gz").symlink_to(data / "gone.nii.gz")
    for number, file in enumerate(sorted((data / "p4").iterdir())):
        file.rename(file.with_name(f"scan{number}.nii.gz"))


def test_who_is_left_out_is_said_and_too_few_are_refused(train, cohort, tmp_path):
    data = cohort("p1", "p2", "p3", "p4")
    spoil_three(data)
    status, _, err = train(data)
    assert status == 4 and "Only 1 of 4 subjects" in err and "--min-subjects 1" in err
    assert all(name in err for name in ("p2", "p3", "scan0"))
    assert not (tmp_path / "run" / "state.pt").exists()

    status, _, err = train(data, "--min-subjects", 1)
    listing = yaml.safe_load((tmp_path / "run" / "subjects.yaml").read_text())
    assert status == 0 and "flair_again" in err
    assert len(listing["left out"]) == 3
    assert train(data, "--min-subjects", 2, out=tmp_path / "other")[0] == 4


def test_subjects_excluded_on_purpose_are_not_counted_as_lost(train, cohort):
    data = cohort("p1", "p2", "p3", "p4")
    assert train(data, "--set", "data.exclude=[p2, p3, p4]")[0] == 0


def test_files_that_are_not_used_are_no_subjects_lost(train, cohort, tmp_path):
    """A release of one person with further files: each reason is told, and none is counted as a person left out."""
    made, home = cohort("p1") / "p1", tmp_path / "wmh" / "training" / "Utrecht" / "0"
    for place in ("orig/T1", "orig/FLAIR", "orig/3DT1", "pre/T1", "pre/FLAIR", "pre/3DT1"):
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / f"p1_{place.split('/')[1].lower().removeprefix('3d')}.nii.gz", home / f"{place}.nii.gz")
    status, _, err = train(tmp_path / "wmh")
    listing = yaml.safe_load((tmp_path / "run" / "subjects.yaml").read_text())
    assert status == 0 and "orig holds" in err
    assert len(listing["left out"]) == 2 and len(listing["training"]) == 1


# 3 Label maps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["p1_flair_GT", "p1_flair_manual", "p1_flair_consensus", "p1_flair_pred", "p1_FLAIR_WMH"]
)
def test_a_drawing_on_a_scan_is_no_scan(name, train, cohort, tmp_path):
    data = cohort("p1", "p2")
    rewrite(data / "p1" / "p1_flair.nii.gz", lambda v: (v > np.median(v[v > 0])) * 1)
    (data / "p1" / "p1_flair.nii.gz").rename(data / "p1" / f"p1_{name}.nii.gz")
    assert train(data)[0] == 0
    assert read_header(tmp_path / "run" / "checkpoint.safetensors").card.subjects["flair"] == 1


def test_an_image_of_a_few_values_is_refused_whatever_its_name(train, cohort, run_cli):
    data = cohort("p1", "p2")
    rewrite(data / "p1" / "p1_flair.nii.gz", lambda v: (v > np.median(v[v > 0])) * 1)
    status, _, err = train(data)
    assert status == 4 and "p1_flair.nii.gz has only the values 0, 1: a mask or a segmentation" in err
    (data / "p1" / "p1_t2.nii.gz").unlink()
    status, _, err = run_cli("complete", data / "p1")
    assert status == 4 and "has only the values 0, 1" in " ".join(err.split())


# 4 One person --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judge", "other"),
    [
        ("BraTS-GLI-00005-101", "BraTS-GLI-00005-100"),
        ("BraTS2021_00027", "BraTS-GLI-00027-000"),
        ("UPENN-GBM-00134_11", "UPENN-GBM-00134_21"),
    ],
)
def test_a_person_is_on_one_side_only(judge, other, train, cohort):
    data = cohort(judge, other, "p1")
    status, _, err = train(data, "--set", f"data.validation=[{judge}]")
    assert status == 4 and f"{other} in training and {judge} in validation are one patient" in err


def test_sessions_of_a_person_are_on_one_side(train, write_subject_folder, tmp_path):
    for name in ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"):
        write_subject_folder(tmp_path / "data", name, "bids", shape=SHAPE, seed=len(name) + int(name[-1]))
    status, _, err = train(tmp_path / "data", "--set", "data.validation=[sub-01_ses-2]")
    assert status == 4 and "one patient" in err


def test_a_copy_under_another_name_is_the_same_person(train, cohort, write_subject_folder, tmp_path):
    """Also one that was scaled, and of which only one contrast is the same."""
    data = cohort("p1", "p2")
    write_subject_folder(tmp_path / "data", "copy", shape=SHAPE, seed=5)
    scan = nib.load(data / "p1" / "p1_t2.nii.gz")
    for contrast in STANDARD:
        source = nib.load(data / "p1" / f"p1_{contrast}.nii.gz")
        factor = 2 if contrast is Contrast.T2 else 1
        voxels = np.asarray(source.dataobj) * factor
        if contrast is not Contrast.T2:
            voxels = voxels[:, ::-1] + (voxels[:, ::-1] > 0)
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), scan.affine), data / "copy" / f"copy_{contrast}.nii.gz")
    status, _, err = train(data, "--set", "data.validation=[copy]")
    assert status == 4 and "The same image under two names" in err and "p1" in err


# 5 Two runs in one folder --------------------------------------------------------------------------------------------


def test_a_second_run_in_a_folder_is_refused_and_a_killed_one_leaves_no_lock(train, cohort, tmp_path):
    data = cohort("p1", "p2")
    command = endless(data, tmp_path)
    with started(command) as first:
        wait_for(lambda: (tmp_path / "run" / "state.pt").exists(), first)
        status, _, err = train(data, "--resume", config=None)
        assert status == 2 and "Another training is at work" in err
        first.kill()
        first.wait(60)
    done = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["iteration"]
    (tmp_path / "run" / f".{'a' * 16}.pt").write_bytes(b"left by a save that was killed")
    status, _, err = train(data, "--resume", "--set", f"training.iterations={done + 1}", config=None)
    assert status == 0, err
    assert list((tmp_path / "run").rglob(".*")) == []


def test_of_two_runs_that_begin_in_one_folder_the_later_is_refused(train, cohort, tmp_path):
    """As two tasks of one job array: there is no state yet, but a lock."""
    data = cohort("p1", "p2")
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        status, _, err = train(data)
    assert status == 2 and "Another training is at work" in err
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert train(data)[0] == 0


def started(command, **environment):
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def endless(data, folder, *options):
    """The command of a run that ends only when it is made to."""
    (folder / "endless.yaml").write_text(RUN_FILE)
    given = ("--method", "fgc2f", "--config", folder / "endless.yaml", "--data", data, "--out", folder / "run")
    more = ("--device", "cpu", "--set", "training.iterations=100000", *options)
    return [sys.executable, "-c", MAIN, "train", *map(str, (*given, *more))]


def wait_for(seen, process, seconds=120):
    end = time.monotonic() + seconds
    while not seen():
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.05)


# 6 Loaders -----------------------------------------------------------------------------------------------------------


def loaders_of(process):
    return [child for child in psutil.Process(process.pid).children() if "mrsynth.cli.app" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_a_loader_that_is_killed_leaves_a_run_that_goes_on(train, cohort, tmp_path):
    data = cohort("p1", "p2")
    state = tmp_path / "run" / "state.pt"
    with started(endless(data, tmp_path, "--set", "training.workers=1", "--set", "training.save_every=7")) as first:
        wait_for(state.exists, first)
        (loader,) = loaders_of(first)
        loader.kill()
        status, said = first.wait(120), " ".join(first.stderr.read().split())
    done = torch.load(state, weights_only=True)["iteration"]
    assert status == 6 and "memory" in said and "workers to 0" in said
    assert f"Saved after {done} of 100000 iterations; --resume goes on" in said
    status, _, err = train(data, "--resume", "--set", f"training.iterations={done + 1}", config=None)
    assert status == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_heard_while_a_loader_hangs(number, cohort, tmp_path):
    """As one does that waits for a file server."""
    with started(endless(cohort("p1", "p2"), tmp_path, "--set", "training.workers=1")) as first:
        wait_for((tmp_path / "run" / "state.pt").exists, first)
        (loader,) = loaders_of(first)
        loader.suspend()
        first.send_signal(number)
        status, said = first.wait(60), " ".join(first.stderr.read().split())
    assert status == 130 and "--resume goes on" in said
    assert not loader.is_running()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "status"), [("64m", 0), ("128k", 0), ("4k", 6)])
def test_a_small_shared_memory_is_enough_or_named(size, status, cohort, tmp_path):
    """As in Docker, which gives 64 MB: in a mount namespace of its own."""
    small = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c", small, "sh"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    run = endless(cohort("p1", "p2"), tmp_path, "--set", "training.workers=1")
    run[run.index("training.iterations=100000")] = "training.iterations=3"
    with started([*alone, *run]) as process:
        ended, said = process.wait(120), " ".join(process.stderr.read().split())
    assert ended == status, said
    if status:
        assert "/dev/shm" in said and "training.workers to 0" in said
    else:
        assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["iteration"] == 3


# 7 and 8 -------------------------------------------------------------------------------------------------------------


def test_a_folder_without_a_state_is_no_run(train, cohort, tmp_path):
    """As a stop during preparation leaves it."""
    data = cohort("p1", "p2")
    (tmp_path / "run" / "cache").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(BEGIN + "name: of a run that was stopped while preparing\n")
    assert train(data)[0] == 0


@pytest.mark.slow
def test_the_script_goes_on_after_a_stop_at_any_stage(cohort, tmp_path):
    """While preparing, while training, and when there is nothing left to do."""
    data, out = cohort("p1", "p2", "p3", "p4", "p5", "p6"), tmp_path / "a run"
    file, tools = tmp_path / "run.yaml", tmp_path / "bin"
    file.write_text(RUN_FILE.replace("iterations: 2", "iterations: 40"))
    tools.mkdir()
    (tools / "mrsynth").write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{MAIN}' \"$@\"\n")
    (tools / "mrsynth").chmod(0o755)

    def stopped_at(stage):
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", str(CHECKOUT / "examples" / "train.sh"), str(data), str(out), str(file)]
        with started(command, PATH=path) as process:
            said = ""
            for line in process.stderr:
                said += line
                if stage and line.startswith(stage):
                    process.terminate()
                    stage = None
            return process.wait(120), said

    status, said = stopped_at("preparing p1")
    assert status == 130 and "Stopped after preparing" in said
    assert out.is_dir() and not (out / "state.pt").exists()
    status, said = stopped_at("training")
    assert status == 130 and "--resume goes on" in said
    assert (out / "state.pt").exists()
    for _ in range(2):
        status, said = stopped_at(None)
        assert status == 0, said
        assert torch.load(out / "state.pt", weights_only=True)["iteration"] == 40


@pytest.mark.parametrize(
    "twice",
    ["data: {exclude: [p1]}\ndata: {validation: [p2]}", "training:\n  iterations: 1\n  iterations: 2"],
)
def test_a_key_twice_in_a_run_file_is_refused_with_its_line(twice, train, cohort):
    status, _, err = train(cohort("p1", "p2"), config="name: x\n" + twice)
    assert status == 2 and "is there again in line" in err


def test_a_setting_twice_is_refused(train, cohort):
    status, _, err = train(cohort("p1"), "--set", "training.seed=1", "--set", "training.seed=2")
    assert status == 2 and "training.seed is given twice" in err


# 9 and 10 ------------------------------------------------------------------------------------------------------------


def test_all_bad_files_are_listed_at_once_and_the_remedy_works(train, cohort, tmp_path):
    data = cohort("p1", "p2", "p3", "p4")
    for name in ("p2", "p3"):
        scan = data / name / f"{name}_t2.nii.gz"
        scan.write_bytes(scan.read_bytes()[:200])
    status, _, err = train(data, "--set", "data.exclude=[p4]")
    assert status == 4 and "2 of 3 subjects cannot be read" in err
    assert "p2_t2" in err and "p3_t2" in err and "data.exclude=[p4, p2, p3]" in err
    assert train(data, "--set", "data.exclude=[p4, p2, p3]")[0] == 0


def test_the_remedy_works_for_judges_and_for_names_that_look_like_numbers(train, cohort):
    data = cohort("p1", "p2", "p3", "007", "1e3", "no")
    for name in ("p3", "007", "no"):
        scan = data / name / f"{name}_t2.nii.gz"
        scan.write_bytes(scan.read_bytes()[:200])
    judges = ("--set", "data.validation=[p3, '1e3']")
    status, _, err = train(data, *judges)
    remedy = shlex.split(re.search(r"train without them: ((--set '[^']*' ?)+)", err)[1])
    assert status == 4 and len(remedy) == 4
    status, _, err = train(data, *remedy)
    assert status == 0, err


def test_a_validation_subject_that_cannot_be_used_is_refused(train, cohort, tmp_path):
    data = cohort("p1", "p2")
    cohort("lacking", without=(Contrast.T1CE,))
    cwdm = "method: {method: cwdm, preset: tiny, target: t1ce}\npreparation: {multiple: 8, depth_multiple: 8}\n"
    method = ("--method", "cwdm")
    status, _, err = train(data, "--set", "data.validation=[lacking]", config=cwdm, method=method)
    assert status == 4 and "data.validation names subjects that cannot be used" in err and "lacking" in err
    status, _, err = train(data, "--set", "data.validation=[p2]", "--set", "data.exclude=[p2]")
    assert status == 4 and "p2: in data.validation and in data.exclude" in err


def test_one_name_below_two_roots_is_refused(train, cohort):
    one, other = cohort("p1", "p2"), cohort("p1", folder="more", without=(Contrast.T1,))
    status, _, err = train([one, other])
    assert status == 4 and "Two subjects are named p1" in err


# 11 Changed data -----------------------------------------------------------------------------------------------------


def test_data_that_changed_is_refused_on_resuming_or_accepted_and_recorded(train, cohort, tmp_path):
    data = cohort("p1", "p2")
    assert train(data)[0] == 0
    longer = ("--resume", "--set", "training.iterations=3")
    shutil.copytree(data, tmp_path / "touched")
    assert train(tmp_path / "touched", *longer, config=None)[0] == 0  # moved, not changed
    rewrite(data / "p2" / "p2_t2.nii.gz", lambda v: np.where(v > 0, v.max() + 1 - v, 0))
    more = ("--resume", "--set", "training.iterations=4")
    status, _, err = train(data, *more, config=None)
    assert status == 2 and "segmentations of p2 are not those" in err
    status, _, err = train(data, *more, "--accept-changed-data", config=None)
    assert status == 0 and "p2" in err
    assert yaml.safe_load((tmp_path / "run" / "subjects.yaml").read_text())["changed"] == ["p2"]


def test_a_contrast_that_is_gone_is_noticed(train, cohort):
    data = cohort("p1", "p2")
    assert train(data)[0] == 0
    (data / "p2" / "p2_t1ce.nii.gz").unlink()
    status, _, err = train(data, "--resume", "--set", "training.iterations=3", config=None)
    assert status == 2 and "p2" in err


@pytest.mark.parametrize("damage", ["1,cut off\n", "later,1\n", "\0", "x" * 2**18, "\udcff"])
@pytest.mark.parametrize("name", ["losses.csv", "validation.csv"])
def test_a_damaged_table_is_told_before_anything_is_learnt(name, damage, tmp_path):
    file = tmp_path / name
    file.write_text("iteration,loss,rate\n1,0.5,0.1\n" + damage, errors="surrogateescape")
    with pytest.raises(InputError, match=rf"{name} is damaged.*Move it away: --resume begins a new one"):
        RunLog(tmp_path, 1)


def test_a_table_longer_than_any_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "LONGEST_TABLE", 20)
    (tmp_path / "losses.csv").write_text("iteration,loss\n1,0.5\n")
    with pytest.raises(InputError, match="MiB, which no such file has"):
        RunLog(tmp_path, 1)


# 12 Init -------------------------------------------------------------------------------------------------------------


def test_init_alone_takes_method_and_configuration(train, cohort, tmp_path):
    data = cohort("p1", "p2")
    assert train(data)[0] == 0
    first = tmp_path / "run" / "checkpoint.safetensors"
    few = ("--set", "training.iterations=1", "--set", "training.learning_rate=1e-9", "--set", "training.batch_size=2")
    status, _, err = train(data, "--init", first, *few, config=None, method=(), out=tmp_path / "tuned")
    assert status == 0, err
    old, new = read_checkpoint(first), read_checkpoint(tmp_path / "tuned" / "checkpoint.safetensors")
    assert (new.config, new.preparation) == (old.config, old.preparation)
    assert all(torch.allclose(new.tensors[name], tensor, atol=1e-6) for name, tensor in old.tensors.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("method.param=eps", "param is x0, here eps"),
        ("method.T=9", "T is 8, here 9"),
        ("preparation.quantile=0.9", "preparation.quantile is 0.995, here 0.9"),
    ],
)
def test_init_from_weights_of_another_meaning_is_refused(change, said, train, cohort, tmp_path):
    data = cohort("p1", "p2")
    first = tmp_path / "run" / "checkpoint.safetensors"
    assert train(data)[0] == 0
    status, _, err = train(data, "--init", first, "--set", change, out=tmp_path / "other")
    assert status == 5 and said in err
    assert not (tmp_path / "other" / "state.pt").exists()


# 13 Curves -----------------------------------------------------------------------------------------------------------


def test_validation_names_what_it_measured_and_the_best_is_kept(train, cohort, tmp_path):
    data = cohort("p1", "p2", "judge")
    often = ("--set", "training.validate_every=1", "--set", "training.iterations=4")
    assert train(data, "--set", "data.validation=[judge]", *often)[0] == 0
    rows = table(tmp_path / "run" / "validation.csv")
    assert {(row["region"], row["protocol"]) for row in rows} == {("brain", "brain2d")}
    mean = {n: np.mean([float(r["psnr_fit"]) for r in rows if r["iteration"] == str(n)]) for n in range(1, 5)}
    best = max(mean, key=mean.get)
    last, kept = (read_header(tmp_path / "run" / f"{name}.safetensors").card for name in ("checkpoint", "best"))
    assert (last.iterations, kept.iterations) == (4, best)
    assert last.note == f"Best on validation: iteration {best} (mean fitted brain PSNR {mean[best]:.2f} dB)."


# 14 Untidy -----------------------------------------------------------------------------------------------------------


def test_another_length_is_said(train, cohort):
    data = cohort("p1", "p2")
    assert train(data, "--set", "training.decay=cosine")[0] == 0
    status, _, err = train(data, "--resume", "--set", "training.iterations=4", config=None)
    assert status == 0 and "4 iterations are asked for instead of 2" in err and "the learning rate goes on at" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_what_a_scheduler_sends_saves(number, train, cohort, tmp_path, monkeypatch):
    from mrsynth.cli import train as command

    def send(quiet):
        def progress(what, done, total):
            if what.startswith("training, ") and done == 1:
                os.kill(os.getpid(), number)

        return progress

    monkeypatch.setattr(command, "lines", send)
    status, _, err = train(cohort("p1", "p2"))
    assert status == 130 and "Stopped after 1 of 2 iterations; --resume goes on" in err
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["iteration"] == 1


def test_the_log_of_a_job_is_not_empty(train, cohort):
    _, _, err = train(cohort("p1", "p2"))
    assert "training, loss 0." in err and "2 of 2" in err and "preparing p1: 0 of 2" in err
    assert train(cohort("p1"), "--quiet", "--resume")[2] == ""


def test_paths_are_read_from_where_they_stand(train, cohort, tmp_path, monkeypatch):
    data = cohort("p1", "p2")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train(data, out="~/first")[0] == 0
    assert (tmp_path / "first" / "checkpoint.safetensors").is_file()
    status, _, err = train(data, config=RUN_FILE + "init: first/checkpoint.safetensors\n")
    assert status == 0, err


def test_an_empty_mapping_can_be_given(train, cohort, tmp_path):
    data = cohort("p1", "p2")
    assert train(data, "--set", "data.repeat={}", config=RUN_FILE + "data: {repeat: {p1: 3}}\n")[0] == 0
    listing = yaml.safe_load((tmp_path / "run" / "subjects.yaml").read_text())
    assert [name for entry in listing["training"] for name in entry] == ["p1", "p2"]


@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR", "LOCAL_RANK"])
def test_what_a_launcher_left_behind_is_named(name, train, cohort, monkeypatch):
    monkeypatch.setenv(name, "0")
    status, _, err = train(cohort("p1", "p2"))
    assert status == 2 and f"{name}=0" in err


def test_an_unknown_method_says_so(train, cohort):
    status, _, err = train(cohort("p1"), "--set", "method.preset=tiny", config=None, method=("--method", "banana"))
    assert status == 2 and "Unknown method 'banana'" in err


def test_the_precision_is_settled_once(train, cohort, tmp_path):
    data = cohort("p1", "p2")
    assert read_run_file(None, "fgc2f").training.precision == "auto"
    assert train(data, "--set", "training.precision=auto")[0] == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    settled = config["training"]["precision"]
    assert settled in ("fp32", "bf16")
    config["training"]["precision"] = "fp32" if settled == "bf16" else "bf16"  # as begun on another machine
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    longer = ("--resume", "--set", "training.iterations=3", "--set", "training.precision=auto")
    assert train(data, *longer)[0] == 0
    again = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert again["training"]["precision"] == config["training"]["precision"]
