"""A checkpoint comes back as it was written, and whatever is not one is refused in words."""

import json
import os
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import OutputError, WeightsError
from mrsynth.io.checkpoint import LONGEST_HEADER, Checkpoint, read_checkpoint, read_header, write_checkpoint
from mrsynth.scores.rows import Score

SCORE = Score(
    pattern="t1+t2+flair",
    target=Contrast.T1CE,
    region="brain",
    metric="PSNR",
    value=21.3,
    subjects=3,
    protocol="3 of shared/data",
)
CARD = Card(
    name="tiny",
    method="fgc2f",
    contrasts=STANDARD,
    requires={Contrast.T1CE: (Contrast.T1, Contrast.T2, Contrast.FLAIR)},
    licence="Apache-2.0",
    sampling={"sampler": "ddim", "steps": 4},
    scores=(SCORE,),
    intensity={Contrast.T1: (0.25, 0.75)},
    note="für Tests",
)
TENSORS = {
    "conv.weight": torch.linspace(-3, 3, 24).reshape(2, 3, 4).transpose(0, 2),  # not contiguous
    "steps": torch.arange(5),
    "mask": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
}
CHECKPOINT = Checkpoint(CARD, {"channels": [8, 16], "rate": 0.5}, {"axes": "LPS", "spacing": 1.0}, TENSORS)


def rewritten(path, change):
    """A safetensors file whose mrsynth header is `change`d; change takes and gives the parsed JSON, or gives text."""
    content = json.loads(
        json.dumps({"format": 1, "card": CARD.model_dump(mode="json"), "config": {}, "preparation": {}})
    )
    changed = change(content)
    text = changed if isinstance(changed, str) else json.dumps(changed)
    path.write_bytes(save({"a": torch.zeros(3)}, metadata={"mrsynth": text}))
    return path


# A header that is not believed ---------------------------------------------------------------------------------------


def test_a_header_with_numbers_that_are_not_finite_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, CHECKPOINT)
    for number in ("1e999", "NaN", "-Infinity"):
        said = lambda content: json.dumps(content).replace("21.3", number)  # noqa: B023, E731
        with pytest.raises(WeightsError, match="expected finite ones"):
            read_header(rewritten(path, said))


@pytest.mark.parametrize("name", ["", "a\x1b[2J", "a\nb", "\ud800", "x" * 201, "a\u202eb"])
@pytest.mark.parametrize("key", ["name", "method"])
def test_names_that_would_do_something_to_a_terminal_are_refused(tmp_path, key, name):
    with pytest.raises(WeightsError, match=f"key '{key}': .*printable"):
        read_header(
            rewritten(tmp_path / "a.safetensors", lambda content: content["card"].update({key: name}) or content)
        )


@pytest.mark.parametrize("histogram", [[], [-1, 2], ["a"]])
def test_histograms_that_are_none_are_refused(tmp_path, histogram):
    def change(content):
        content["card"]["intensity"] = {"t1": histogram}
        return content

    with pytest.raises(WeightsError, match="key 'intensity"):
        read_header(rewritten(tmp_path / "a.safetensors", change))


def test_a_header_too_long_or_too_deep_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "a.safetensors"
    length = LONGEST_HEADER + 1
    path.write_bytes(length.to_bytes(8, "little") + b"{" + b" " * length)
    with pytest.raises(WeightsError, match=f"its header has {length} bytes, expected at most"):
        read_header(path)
    path.write_bytes((2**62).to_bytes(8, "little") + b'{"a": 1}')
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_header(path)
    deep = b'{"a":' * 50_000
    path.write_bytes(len(deep).to_bytes(8, "little") + deep)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_header(path)
    with pytest.raises(WeightsError, match="levels deep"):
        read_header(rewritten(path, lambda _: "[" * 50_000))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="it is a pipe, expected a file"):
        read_header(tmp_path / "a.safetensors")


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, CHECKPOINT)
    back = read_checkpoint(path)

    assert (back.card, back.config, back.preparation) == (CARD, CHECKPOINT.config, CHECKPOINT.preparation)
    assert back.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)
    header = read_header(path)
    assert (header.card, header.config, header.preparation) == (back.card, back.config, back.preparation)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_the_file_is_float32_in_memory(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, CHECKPOINT, dtype)
    back = read_checkpoint(path).tensors

    assert torch.equal(back["conv.weight"], TENSORS["conv.weight"].to(dtype).float())
    assert back["conv.weight"].dtype == back["scalar"].dtype == torch.float32
    assert back["steps"].dtype == torch.int64
    assert back["mask"].dtype == torch.bool
    assert torch.equal(back["steps"], TENSORS["steps"])


def test_equal_content_gives_equal_bytes(tmp_path):
    write_checkpoint(tmp_path / "a.safetensors", CHECKPOINT)
    backwards = Checkpoint(
        CARD,
        dict(reversed(CHECKPOINT.config.items())),
        dict(reversed(CHECKPOINT.preparation.items())),
        dict(reversed(TENSORS.items())),
    )
    write_checkpoint(tmp_path / "b.safetensors", backwards)

    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_manifest_entry_is_written_as_a_card(tmp_path):
    path = tmp_path / "a.safetensors"
    entry = ManifestEntry(**dict(CARD), file="x.safetensors", sha256="0" * 64, size=1)
    write_checkpoint(path, replace(CHECKPOINT, card=entry))

    assert read_header(path).card == CARD


def test_tied_tensors_are_written_twice(tmp_path):
    tied = torch.ones(4)
    write_checkpoint(tmp_path / "a.safetensors", replace(CHECKPOINT, tensors={"a": tied, "b": tied}))

    assert torch.equal(read_checkpoint(tmp_path / "a.safetensors").tensors["b"], tied)


def test_a_value_that_float16_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(WeightsError, match=r"'a'.*float16.*1e\+05.*float32"):
        write_checkpoint(path, replace(CHECKPOINT, tensors={"a": torch.tensor([1.0, 1e5])}), torch.float16)

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, CHECKPOINT)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_checkpoint(path, replace(CHECKPOINT, config={}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Boom:
    """Unpickling this fails the test."""

    def __reduce__(self):
        return pytest.fail, ("the pickle was opened",)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_unopened(tmp_path, name, zipped):
    path = tmp_path / name
    if zipped:
        torch.save(Boom(), path)
    else:
        path.write_bytes(pickle.dumps(Boom()))

    for read in (read_header, read_checkpoint):
        with pytest.raises(WeightsError, match=r"pickle can run code when opened; only safetensors is read"):
            read(path)


def test_a_header_that_begins_like_a_pickle_is_read(tmp_path):
    """A header of 640 bytes begins with 0x80 0x02, as pickles do."""
    path = tmp_path / "a.safetensors"
    for n in range(700):
        write_checkpoint(path, replace(CHECKPOINT, tensors={"a": torch.zeros(1)}, card=Card(
            name="a", method="m", contrasts=STANDARD, licence="x", note="a" * n)))  # fmt: skip
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no name gave a header of 640 bytes")

    assert read_header(path).card.method == "m"


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, CHECKPOINT)
    whole = path.read_bytes()
    for length in (1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=rf"truncated: {length} bytes found, at least \d+ expected"):
            read_header(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(WeightsError, match=f"{len(whole) + 1} bytes, expected {len(whole)}"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"\xff" * 7 + b"\x7f{" + b" " * 50, "not a safetensors file"),  # a header of 9 exabytes
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        ((20).to_bytes(8, "little") + b"{not json, not at al}", "not a safetensors file"),
        ((20).to_bytes(8, "little") + b'{"a": {"shape": []}}', "not a safetensors file"),
        ((12).to_bytes(8, "little") + b'{"a":[1, 2]}', "not a safetensors file"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)

    for read in (read_header, read_checkpoint):
        with pytest.raises(WeightsError, match=message):
            read(path)


def test_foreign_safetensors_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(save({"a": torch.zeros(1)}, metadata=metadata))
        with pytest.raises(WeightsError, match=r"not a checkpoint of mrsynth.*lacks the key 'mrsynth'"):
            read_header(path)


def test_a_checkpoint_without_tensors_is_refused(tmp_path):
    write_checkpoint(tmp_path / "a.safetensors", replace(CHECKPOINT, tensors={}))
    with pytest.raises(WeightsError, match="holds no tensor"):
        read_header(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c, None),
        (lambda c: c | {"format": 9}, "has checkpoint format 9; this mrsynth reads the formats 1, 2.*Update"),
        (lambda c: [], "format None"),
        (lambda c: c | {"extra": 1}, "missing or unknown: extra"),
        (lambda c: {k: c[k] for k in c if k != "config"}, "missing or unknown: config"),
        (lambda c: c | {"config": [1]}, "'config' in its header is a list, expected a mapping"),
        (lambda c: c | {"card": c["card"] | {"colour": "red"}}, "key 'colour': extra inputs are not permitted"),
        (lambda c: c | {"card": c["card"] | {"contrasts": ["t1", "t9"]}}, r"key 'contrasts\.1'"),
        (lambda c: c | {"card": None}, "the card in its header"),
        (lambda c: "{", "no JSON"),
        (lambda c: "[" * 100_000, "no JSON"),
    ],
)
def test_headers_are_checked_to_the_key(tmp_path, change, message):
    path = rewritten(tmp_path / "a.safetensors", change)
    if message is None:
        assert read_header(path).card == CARD
        return
    with pytest.raises(WeightsError, match=message):
        read_header(path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"No checkpoint at .*none\.safetensors"):
        read_header(tmp_path / "none.safetensors")
    write_checkpoint(tmp_path / "inside.safetensors", CHECKPOINT)
    with pytest.raises(WeightsError, match=r"is a folder.*In it: inside\.safetensors"):
        read_header(tmp_path)
