"""Small files of others: whatever they are, they are read in bounded time and memory, or refused."""

import json
import os
import time

import pytest
import yaml

from mrsynth.io.reading import DEEPEST, Unfit, parse_json, read_bounded, read_json
from mrsynth.io.yaml_files import LONGEST_YAML, parse_yaml, read_yaml
from tests.helpers import at_most


def bomb(levels=30, width=9):
    """Lists of aliases of lists of aliases: a few hundred bytes that stand for width ** levels entries."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels=30):
    """The same with merge keys."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


HOSTILE_YAML = {
    "bomb": bomb(),
    "bomb of keys": "\n".join(
        ["k: &k0 {x: y}"] + [f"k{i}: &k{i} {{a: *k{i - 1}, b: *k{i - 1}}}" for i in range(1, 40)]
    ),
    "merges": merges(),
    "cycle": "&a [*a]",
    "cycle of keys": "&a {x: *a}",
    "deep": "[" * 20_000,
    "deep and whole": "[" * 400 + "]" * 400,
    "deep block": "\n".join(" " * i + f"k{i}:" for i in range(200)),
    "long": "a: 1\n" * (LONGEST_YAML // 4),
    "object": "!!python/object/apply:os.system ['true']",
    "unknown tag": "!x 1",
    "no date": "a: 2001-99-99",
    "unhashable key": "? [a]\n: 1",
    "bytes": b"\xff\xfe\xfa",
    "control": "a: \x00",
    "digits": "a: " + "9" * 5000,
    "digits of another base": "a: 0x" + "f" * 500_000,
    "minutes": "a: 1" + ":59" * 100_000,
    "two documents": "--- a\n--- b",
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_hostile_yaml_ends_soon_and_as_one_error(name):
    began = time.process_time()
    with at_most(300e6), pytest.raises(ValueError, match=r"."):
        parse_yaml(HOSTILE_YAML[name])
    assert time.process_time() - began < 15  # half a megabyte in one word alone takes PyYAML 2 to 5, by machine


def test_what_people_write_is_read_as_before():
    text = "base: &b {lr: 1.0e-4, steps: [1, 2]}\nother: *b\nmerged:\n  <<: *b\n  lr: 2\nname: é\nno: no\nempty:\n"
    assert parse_yaml(text) == parse_yaml(text.encode()) == yaml.safe_load(text)
    assert parse_yaml("") is None and parse_yaml("a: 1".encode("utf-16")) == {"a": 1}
    nested = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    assert parse_json(nested) == yaml.safe_load(nested) == parse_yaml(nested)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500, '{"a":' * 200 + "1" + "}" * 200]
)
def test_deep_json_is_refused(text):
    with pytest.raises(ValueError, match="levels deep"):
        parse_json(text)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_finite_are_refused_where_asked(number):
    with pytest.raises(ValueError, match="expected finite"):
        parse_json(f'{{"a": [{number}]}}', finite=True)
    parse_json(f'{{"a": [{number}]}}')


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_in_any_encoding_of_unicode(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"näme": 1}, ensure_ascii=False), encoding)
    assert read_json(path) == {"näme": 1}
    path.write_bytes("{}".encode("utf-16")[:-1])
    with pytest.raises(ValueError, match=r"."):
        read_json(path)


def test_only_files_are_read_and_only_so_much_of_them(tmp_path):
    """A pipe that nobody writes to would be waited for; a device never ends; a size in a header is no promise."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "link", "endless"):
        for read in (read_bounded, read_json, read_yaml):
            with pytest.raises(Unfit, match=r"it is a (pipe|device), expected a file"):
                read(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        read_bounded(tmp_path)
    (tmp_path / "long").touch()
    os.truncate(tmp_path / "long", 10**12)  # sparse: a terabyte that takes no room
    with pytest.raises(Unfit, match=r"^it has more than 16 MiB"):
        read_json(tmp_path / "long")
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none")
