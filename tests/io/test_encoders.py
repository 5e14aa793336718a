"""Text encoders from folders: what comes out, from which files, and which folders are refused."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.encoders import TOWERS, TextEncoder, needed

pytest.importorskip("transformers", reason="transformers is not installed; the extra text has it")

TEXT = "Axial brain MRI. Input: T1-weighted, fluid dark."
WORDS = "axial brain mri . input : t1 - weighted , fluid dark ."
PIECES = ["[CLS]", *WORDS.split(" "), "[SEP]"]


@pytest.fixture(scope="module")
def plain(write_bert, tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert") / "plain")


@pytest.fixture(scope="module")
def clip(write_bert, tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert") / "clip", "open_clip")


# What comes out ------------------------------------------------------------------------------------------------------


def test_tokens_are_the_last_hidden_states_without_the_padding(plain):
    """Against a padded batch, as one would encode many sentences at once."""
    encoder = TextEncoder(plain)
    ids = encoder.tokenizer.convert_tokens_to_ids(PIECES)
    padded = torch.tensor([[*ids, *[0] * 6], [2, 3, *[0] * (len(ids) + 4)]])
    with torch.no_grad():
        states = encoder.model(input_ids=padded, attention_mask=(padded > 0).long()).last_hidden_state
    tokens, whole = encoder.embed(TEXT, 64)

    assert encoder.tokenizer.unk_token_id not in ids
    assert (tokens.shape, tokens.dtype, whole) == ((15, 64), np.float16, 15)
    np.testing.assert_allclose(tokens, states[0, :15].numpy(), rtol=1e-3, atol=1e-3)
    assert np.abs(tokens[3] - tokens[4]).max() > 0.1


def test_a_long_sentence_is_cut_and_still_ends(plain):
    encoder = TextEncoder(plain)
    tokens, whole = encoder.embed(TEXT, 9)
    same, _ = encoder.embed("Axial brain MRI. Input: T1", 9)

    assert whole == 15 and np.array_equal(tokens, same)
    assert np.array_equal(encoder.embed(TEXT, 15)[0], encoder.embed(TEXT, 64)[0])


def test_the_text_tower_of_an_open_clip_model_gives_the_same_tokens(plain, clip):
    ours, theirs = TextEncoder(plain), TextEncoder(clip)

    assert np.array_equal(ours.embed(TEXT, 64)[0], theirs.embed(TEXT, 64)[0])
    assert (ours.weights.name, ours.width, ours.longest) == ("model.safetensors", 64, 128)
    assert (theirs.weights.name, theirs.width, theirs.longest) == ("open_clip_pytorch_model.bin", 64, 100)


def test_a_bert_with_a_head_and_old_names_in_half_precision(write_bert, plain, tmp_path):
    def rename(state):
        for name in list(state):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            state[f"bert.{old}"] = state.pop(name).half()
        state["cls.predictions.bias"] = torch.zeros(3)

    tokens, _ = TextEncoder(write_bert(tmp_path / "old", change=rename)).embed(TEXT, 64)
    np.testing.assert_allclose(tokens, TextEncoder(plain).embed(TEXT, 64)[0], atol=0.02)


def test_heads_come_from_the_configuration_or_have_64_channels(write_bert, plain, tmp_path):
    tokens, _ = TextEncoder(plain).embed(TEXT, 64)
    (folder := write_bert(tmp_path / "two", num_attention_heads=2)).joinpath("tokenizer_config.json").write_text("{}")
    two, _ = TextEncoder(folder).embed(TEXT, 64)
    clip = write_bert(tmp_path / "clip", "open_clip", hidden_size=128, num_attention_heads=2)
    written = write_bert(tmp_path / "wide", hidden_size=128, num_attention_heads=2)

    assert np.abs(tokens - two).max() > 0.01
    assert np.array_equal(TextEncoder(clip).embed(TEXT, 64)[0], TextEncoder(written).embed(TEXT, 64)[0])
    with pytest.raises(WeightsError, match=r"48 channels cannot be divided into 0 heads\. Put the config\.json"):
        TextEncoder(write_bert(tmp_path / "narrow", "open_clip", hidden_size=48))


def test_safetensors_go_before_pickles_and_open_clip_before_a_bert():
    files = ["vocab.txt", "pytorch_model.bin", "model.safetensors", "README.md", "config.json"]

    assert needed(files) == ["model.safetensors", "vocab.txt", "config.json"]
    assert needed([*files, "open_clip_pytorch_model.bin"])[0] == "open_clip_pytorch_model.bin"
    assert needed(["tokenizer.json", "pytorch_model.bin"]) == ["pytorch_model.bin", "tokenizer.json"]


# What is refused -----------------------------------------------------------------------------------------------------


def test_folders_without_an_encoder_are_named(plain, tmp_path):
    with pytest.raises(WeightsError, match=r"holds no text encoder\. There is no open_clip.*and no tokenizer.*nothing"):
        TextEncoder(tmp_path)
    with pytest.raises(WeightsError, match="Cannot read the folder"):
        TextEncoder(tmp_path / "none")
    (tmp_path / "vocab.txt").write_text("a\n")
    with pytest.raises(WeightsError, match=r"There is no open_clip_model\.safetensors.*seen: vocab\.txt"):
        TextEncoder(tmp_path)


LAYER = "encoder.layer.1.output.dense.weight"


def drop(*parts):
    def change(state):
        for name in [n for n in state if any(part in n for part in parts)]:
            del state[name]

    return change


def put(name, tensor):
    return lambda state: state.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (drop("layer.1.attention"), r"no whole BERT: encoder\.layer\.1\.attention\.self\.query\.weight.*and 7 more"),
        (drop("layer.1."), r"num_hidden_layers is 1, expected 2"),
        (drop("word_embeddings"), r"no whole BERT: embeddings\.word_embeddings\.weight missing"),
        (drop("embeddings."), r"holds no BERT: expected tensors whose names begin with text\.transformer\.emb"),
        (put(LAYER, torch.zeros(3, 3)), r"output\.dense\.weight has the shape \(3, 3\), expected \(64, 32\)"),
        (put(LAYER, torch.full((64, 32), torch.nan)), "not all finite numbers"),
        (put(LAYER, torch.full((64, 32), 1e38)), "not finite"),
    ],
    ids=["part", "layer", "words", "all", "shape", "nan", "huge"],
)
def test_weights_that_are_no_whole_bert_are_named(change, why, write_bert, tmp_path):
    with pytest.raises(WeightsError, match=f"(?s)model.safetensors.*{why}"):
        TextEncoder(write_bert(tmp_path / "bert", change=change)).embed(TEXT, 64)


def test_a_tower_that_is_known_by_name_must_be_whole(write_bert, tmp_path):
    """The checkpoint of open_clip holds no sizes: half of the layers would make a BERT too."""
    folder = write_bert(tmp_path / "clip", "open_clip")
    (name,) = TOWERS
    clip = {"model_cfg": {"text_cfg": {"hf_model_name": name}}}
    (folder / "open_clip_config.json").write_text(json.dumps(clip))
    with pytest.raises(WeightsError, match=r"vocab_size is \d+, expected 30522.*num_hidden_layers is 2, expected 12"):
        TextEncoder(folder)


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def test_no_code_in_a_file_of_weights_is_run(write_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_bert(tmp_path / "clip", "open_clip")
    (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(WeightsError, match=r"open_clip_pytorch_model\.bin"):
        TextEncoder(folder)
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("config.json", '{"model_type": "roberta"}', "kind 'roberta', expected 'bert'"),
        ("config.json", '{"model_type": "bert", "position_embedding_type": "relative_key"}', "relative_key positions"),
        ("config.json", "{", r"config\.json cannot be read"),
        ("config.json", "[]", "holds a list"),
        ("config.json", '{"model_type": "bert", "hidden_size": 32}', "hidden_size is 64, expected 32"),
        ("config.json", '{"model_type": "bert", "hidden_act": "banana"}', "no BERT can be built"),
        ("config.json", '{"model_type": "bert", "num_attention_heads": 7}', "64 channels cannot be divided into 7"),
        ("tokenizer.json", "{", "vocabulary in .* cannot be read"),
        ("vocab.txt", "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(99))]), "has 104 words"),
    ],
)
def test_files_beside_the_weights_that_do_not_fit_are_named(file, text, why, write_bert, tmp_path):
    folder = write_bert(tmp_path / "bert")
    (folder / file).write_text(text)
    with pytest.raises(WeightsError, match=why):
        TextEncoder(folder)


def test_without_transformers_the_extra_is_named(plain, monkeypatch):
    monkeypatch.setattr("mrsynth.io.encoders.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'mrsynth\[text\]'"):
        TextEncoder(plain)
