"""Files that say who trains, who validates and who tests."""

from pathlib import Path

import pytest

from mrsynth.errors import InputError
from mrsynth.io.splits import read_split, write_split


def test_split_round_trip(tmp_path: Path) -> None:
    split = {"train": ["b", "01477", "é"], "validation": ["a", "1e5"]}

    write_split(tmp_path / "split.yaml", split)

    assert read_split(tmp_path / "split.yaml") == split


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [a, b]\nvalidation: [c, a]", "a is in train and again in validation"),
        ("train: [a, b, a]", "a is in train and again in train"),
        ("train: [01477]", "in quotes"),
        ("train: a", "expected lists"),
        ("[a, b]", "expected lists"),
        ("", "expected lists"),
        ("train: [", "cannot be read as YAML"),
        ("train: [\x01]", "cannot be read as YAML"),
    ],
)
def test_unusable_splits(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.yaml").write_text(text)

    with pytest.raises(InputError, match=message):
        read_split(tmp_path / "split.yaml")


def test_absent_and_wrong_splits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_split(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="again in validation"):
        write_split(tmp_path / "split.yaml", {"train": ["a"], "validation": ["a"]})
    assert not list(tmp_path.iterdir())
