"""The command that reads mutated files: a few of its cases; `pytest -m slow` or `python -m tests.fuzz` for all."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_every_mutated_file_ends_in_a_result_or_a_documented_error(count):
    command = [sys.executable, "-m", "tests.fuzz", "--count", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} cases of seed 0, 0 undocumented ends, most memory" in done.stdout
