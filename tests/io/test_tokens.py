"""Files of tokens: back as they were, or refused by name."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from mrsynth.errors import InputError
from mrsynth.io.tokens import read_tokens, write_tokens
from mrsynth.text_tokens import TokenTable, prompt_key

PROMPTS = ["one", "two, with an umlaut ü"]


def table(encoder="small", length=5, sha256="ab" * 32):
    random = np.random.default_rng(0)
    made = {prompt_key(encoder, p, length): random.normal(size=(2 + i, 3)) for i, p in enumerate(PROMPTS)}
    return TokenTable(encoder, length, {key: value.astype(np.float16) for key, value in made.items()}, sha256)


@pytest.fixture
def file(tmp_path):
    write_tokens(tmp_path / "tokens.npz", table(), PROMPTS)
    return tmp_path / "tokens.npz"


def test_a_table_comes_back_as_it_was(file):
    found, made = read_tokens(file), table()

    assert (found.encoder, found.length, found.sha256) == ("small", 5, "ab" * 32)
    assert set(found.tokens) == set(made.tokens)
    for key, tokens in made.tokens.items():
        assert found.tokens[key].dtype == np.float16 and np.array_equal(found.tokens[key], tokens)
    assert [len(t) for t in found.lookup("small", PROMPTS, 5, 3)] == [2, 3]


def test_equal_tables_give_equal_bytes_and_the_sentences_can_be_read(file, tmp_path):
    write_tokens(tmp_path / "again.npz", table(), PROMPTS[::-1])

    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()
    with np.load(file) as archive:
        assert sorted(json.loads(str(archive["mrsynth"]))["prompts"].values()) == PROMPTS


def test_a_file_that_unpacks_into_more_than_it_is_is_refused(file, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f2', 'fortran_order': False, 'shape': (5000000, 2)}"
        archive.writestr("a.npy", header.ljust(127) + b"\n" + bytes(20_000_000))
    with pytest.raises(InputError, match="unpack into more than it is"):
        read_tokens(tmp_path / "bomb.npz")


def test_tokens_of_other_sentences_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="not those of the prompts"):
        write_tokens(tmp_path / "tokens.npz", table(), PROMPTS[:1])
    assert not list(tmp_path.iterdir())


def rewritten(file, header=None, **arrays):
    """The file with some of its header or arrays changed; an array of None is left out."""
    with np.load(file) as archive:
        held = {name: archive[name] for name in archive.files}
    content = json.loads(str(held["mrsynth"])) | (header or {})
    held = held | {"mrsynth": np.array(json.dumps(content))} | arrays
    np.savez(file, **{name: array for name, array in held.items() if array is not None})


KEY = prompt_key("small", "one", 5)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"header": {"encoder": "other"}}, r"2 of 2 sentences do not have the name that encoder \(other\)"),
        ({"header": {"length": 6}}, r"length \(6\)"),
        ({"header": {"prompts": {KEY: "three"}}}, "1 of 1 sentences do not have the name"),
        ({"header": {"format": 2}}, "has the tokens format 2; this mrsynth reads format 1"),
        ({"header": {"more": 1}}, "header is not one of tokens"),
        ({"header": {"length": "many"}}, "header is not one of tokens"),
        ({KEY: None}, "tokens of 1 sentences are missing, and 0 arrays"),
        ({"foreign": np.zeros(3)}, "0 sentences are missing, and 1 arrays belong to none"),
        ({KEY: np.zeros((2, 3))}, r"'one' are float64 of shape \(2, 3\), expected float16"),
        ({KEY: np.zeros(3, np.float16)}, r"float16 of shape \(3,\)"),
        ({"mrsynth": np.array("{")}, "header is not one of tokens"),
        ({"mrsynth": np.array("[1]")}, "header is not one of tokens"),
        ({"mrsynth": np.zeros(3)}, "npz of something else"),
        ({"mrsynth": None}, "npz of something else"),
    ],
    ids=str,
)
def test_what_was_changed_is_named(change, why, file):
    rewritten(file, **change)
    with pytest.raises(InputError, match=rf"tokens\.npz.*{why}") as error:
        read_tokens(file)
    assert error.value.exit_code == 4


class Evil:
    def __reduce__(self):
        return print, ("evil",)


CLAIMS = {  # what an array says of itself, of which thirty bytes are there
    "many numbers": {"descr": "<f2", "shape": (10**12, 5)},
    "large numbers": {"descr": [("a", "<f2", (10**9,))], "shape": (300_000, 5)},
    "no rows": {"descr": "<f2", "shape": (0, 2**63 - 1)},
    "long text": {"descr": "<U500000000", "shape": ()},
}


def harmed(whole, harm):
    buffer = io.BytesIO()
    if harm == "objects":
        np.savez(buffer, mrsynth=np.array([Evil()], dtype=object))
    elif harm == "npy":
        np.save(buffer, np.zeros(3))
    elif harm in CLAIMS:
        with zipfile.ZipFile(buffer, "w") as archive, archive.open("mrsynth.npy", "w") as array:
            np.lib.format.write_array_header_1_0(array, {"fortran_order": False, **CLAIMS[harm]})
            array.write(bytes(30))
    elif harm == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("readme.txt", "hello")
    else:
        middle = len(whole) // 2
        return {
            "empty": b"",
            "text": b"hello",
            "pickle": pickle.dumps(Evil()),
            "cut": whole[:middle],
            "flipped": whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
        }[harm]
    return buffer.getvalue()


@pytest.mark.parametrize("harm", ["empty", "text", "pickle", "cut", "flipped", "objects", "npy", "zip", *CLAIMS])
def test_what_is_no_file_of_tokens_is_named_and_not_run(harm, file, capsys):
    file.write_bytes(harmed(file.read_bytes(), harm))
    with pytest.raises(InputError, match=r"tokens\.npz.*embed-text"):
        read_tokens(file)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_not_there_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(InputError, match="Cannot read the tokens"):
            read_tokens(path)
