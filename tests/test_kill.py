"""The command that kills others at random moments; `pytest -m slow`, or `python -m tests.kill` for fifty of each."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kill import KINDS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("command", KINDS)
def test_nothing_partial_is_left_and_a_resume_comes_to_the_same(command):
    arguments = [sys.executable, "-m", "tests.kill", "--command", command, "--count", "5"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    *each, last = done.stdout.splitlines()
    assert len(each) > 5 and last.startswith(f"{command}: 5 kills") and "equal an undisturbed run's: yes" in last
