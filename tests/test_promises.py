"""docs/trust.md promises nothing without a test: each line names one, and what it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    line
    for line in (ROOT / "docs" / "trust.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| promise")
]
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py"))}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:60])
def test_each_promise_names_tests_that_there_are(row):
    promise, held = (cell.strip() for cell in row.strip("| ").rsplit(" | ", 1))
    names = re.findall(r"`(test_[a-z0-9_*]+)`", held)
    places = re.findall(r"`(tests/[\w/]+(?:\.py)?/?)`", held)
    modules = re.findall(r"`python -m (tests\.\w+)", held)

    assert promise and (names or places or modules)
    for place in places:
        assert (ROOT / place).exists(), place
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for name in names:
        pattern = re.compile(rf"def {name.replace('*', '.*')}\(")
        assert any(pattern.search(text) for text in SOURCES.values()), name


def test_the_page_has_promises():
    assert len(ROWS) > 30
