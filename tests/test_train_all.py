"""runs/train_all.sh: the queue begins, goes on with and ends runs. A made-up `mrsynth` says how it was called."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

RUNS = Path(__file__).resolve().parents[1] / "runs"
QUEUE = RUNS / "train_all.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def train_all(tmp_path, *names, state=()):
    """The arguments of every `mrsynth` that the queue begins; `state` are runs that were interrupted."""
    called = tmp_path / "called"
    program = tmp_path / "bin" / "mrsynth"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\necho "$@" >>"{called}"\n')
    program.chmod(0o755)
    for name in state:
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "state.pt").touch()
    called.write_text("")
    for name in names:  # as `mrsynth train` would
        (tmp_path / "out" / name).mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["bash", str(QUEUE), str(tmp_path / "out"), "some data", "--", *names],
        env={**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        check=True,
        start_new_session=True,  # it lowers the priority of its whole session
    )
    return called.read_text().splitlines()


def test_a_run_begins_with_the_weights_of_the_one_that_its_file_names(tmp_path):
    crops, end = train_all(tmp_path, "cwdm-crops-t2", "cwdm-end-t2")

    assert "--init" not in crops and "--method cwdm --data some data --config" in crops
    assert f"--init {tmp_path}/out/cwdm-crops-t2/checkpoint.safetensors --out {tmp_path}/out/cwdm-end-t2" in end


def test_what_was_interrupted_goes_on_and_what_is_finished_stays(tmp_path):
    (call,) = train_all(tmp_path, "cwdm-end-t2", state=["cwdm-end-t2"])

    assert "--resume" in call and "--config" not in call and "--init" not in call
    assert (tmp_path / "out" / "cwdm-end-t2" / "finished").exists()
    assert train_all(tmp_path, "cwdm-end-t2") == []


def test_every_run_of_the_queue_has_its_file_and_comes_after_what_it_begins_with():
    line = re.search(r"^queue=(.*)$", QUEUE.read_text(), re.MULTILINE)
    assert line
    listed = subprocess.run(
        ["bash", "-c", f'{line[0]}; printf "%s\\n" "${{queue[@]}}"'], capture_output=True, text=True
    )
    queue = listed.stdout.split()

    for place, name in enumerate(queue):
        before = re.search(r"^# begins with: (\S+)$", (RUNS / f"{name}.yaml").read_text(), re.MULTILINE)
        assert before is None or before[1] in queue[:place]
    assert len(queue) == len(set(queue)) and any(name.startswith("cwdm-end") for name in queue)
