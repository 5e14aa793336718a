"""The commands of docs/training.md do what the page says."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from mrsynth.contrasts import Contrast

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
SMALL = ("training.batch_size=1", "training.log_every=1", "training.precision=fp32")
TINY = ("method.preset=tiny", "method.T=8", "method.steps=1", "method.sampler=ddim", "method.param=x0")

pytestmark = [pytest.mark.usefixtures("one_thread", "no_pictures"), pytest.mark.filterwarnings("default")]


def smaller(command):
    """The words of a command, with fewer iterations and, where a network is new, a small one."""
    words = shlex.split(re.sub(r"(training\.(?:iterations|validate_every)=)(\d)\d*", r"\1\2", command))[1:]
    more = (*SMALL, *(TINY if "--method" in words else ())) if words[0] == "train" and "--resume" not in words else ()
    return [*words, *(part for setting in more for part in ("--set", setting))]


def test_the_commands_of_the_page_run_in_order(
    run_cli, write_subject_folder, write_tiny_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mrsynth.io.store.manifest", list)
    (tmp_path / "weights").mkdir()
    write_tiny_checkpoint(tmp_path / "weights" / "fgc2f-ship.safetensors", "fgc2f-ship")
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(tmp_path / "weights"))
    for seed, name in enumerate(("sub-07", "sub-08", "sub-09")):
        write_subject_folder(tmp_path / "cohort", name, shape=(18, 24, 8), seed=seed)
    write_subject_folder(tmp_path / "patients", "sub-10", shape=(18, 24, 8), seed=5, without=(Contrast.T2,))
    assert len(COMMANDS) == 7
    for command in COMMANDS:
        status, _, err = run_cli(*smaller(command))
        assert status == 0, f"{command}\n{err}"
    for run in ("run", "tuned"):
        named = re.findall(r"^\| `([\w.]+)`", PAGE.split("## The keys of a run file")[0], flags=re.MULTILINE)
        assert len(named) == 7 and all((tmp_path / run / name.rstrip("/")).exists() for name in named)
    assert (tmp_path / "before" / "sub-10_t2.nii.gz").is_file() and (tmp_path / "after" / "sub-10_t2.nii.gz").is_file()


def test_the_script_for_a_cluster_is_a_script(tmp_path):
    (script,) = [text for kind, text in BLOCKS if kind == "slurm"]
    file = tmp_path / "job.sh"
    file.write_text(script)
    assert subprocess.run(["bash", "-n", file], check=False).returncode == 0
    assert "--resume" in script and "USR1" in script
