"""The one door to transformers: a BERT and its vocabulary, from a folder, as an encoder of sentences.

Two kinds of folders are understood: a BERT as transformers writes it, and a checkpoint of open_clip whose text tower is
a BERT, such as BiomedCLIP's; of that only the text tower is read. Weights go through mrsynth's own reader of foreign
files, which runs no code in them, and nothing here opens a socket. transformers is imported inside functions: it takes
a while.
"""

import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.pickles import read_state_dict
from mrsynth.io.reading import read_json

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
VOCABULARY = ("tokenizer.json", "vocab.txt")
CONFIG, CLIP_CONFIG = "config.json", "open_clip_config.json"
ALSO = (CONFIG, CLIP_CONFIG, "tokenizer_config.json", "special_tokens_map.json")
PREFIXES = ("text.transformer.", "bert.", "")  # of the text tower of open_clip, of a BERT with a head, of a bare one
HEAD = 64  # channels per head of every published BERT; no shape tells it
# Text towers that open_clip builds by name: its checkpoints hold no sizes of them.
TOWERS: Mapping[str, Mapping[str, int]] = {
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract": {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}


def require_transformers() -> None:
    """Raise UsageError when the package is not installed."""
    if find_spec("transformers") is None:
        raise UsageError("Text encoders need transformers: pip install 'mrsynth[text]'")


def needed(files: Iterable[str]) -> list[str]:
    """Which of the files of a folder or repository make a text encoder; the first is that of the weights.

    Raises WeightsError when they make none.
    """
    there = set(files)
    weights = [name for name in WEIGHTS if name in there][:1]
    vocabulary = [name for name in VOCABULARY if name in there]
    if not weights or not vocabulary:
        lacking = " and ".join(
            f"no {' or '.join(names)}" for names, found in ((WEIGHTS, weights), (VOCABULARY, vocabulary)) if not found
        )
        seen = ", ".join(sorted(there)[:20]) or "nothing"
        raise WeightsError(
            f"There is {lacking}. Expected a BERT of transformers or a model of open_clip; seen: {seen}."
        )
    return [*weights, *vocabulary, *(name for name in ALSO if name in there)]


class TextEncoder:
    """A BERT in evaluation mode on the CPU, and its vocabulary.

    weights  the file that they were read from
    width    of a token
    longest  prompt that it takes, in tokens
    """

    def __init__(self, folder: Path):
        """Raises UsageError without transformers, WeightsError when the folder holds no encoder or a damaged one."""
        require_transformers()
        try:
            files = needed(p.name for p in folder.iterdir() if p.is_file())
        except WeightsError as error:
            raise WeightsError(f"{folder} holds no text encoder. {error}") from error
        except OSError as error:
            raise WeightsError(f"Cannot read the folder {folder}: {error.strerror}. Check the path.") from error
        self.weights = folder / files[0]
        tensors = tower(self.weights)
        sizes = sizes_of(self.weights, tensors)
        stated = stated_sizes(folder)
        refuse_other_sizes(self.weights, sizes, stated)
        self.model = build(self.weights, tensors, sizes, stated)
        self.tokenizer = vocabulary(folder, sizes["vocab_size"])
        self.width = sizes["hidden_size"]
        self.longest = min(sizes["max_position_embeddings"], context_length(folder) or sizes["max_position_embeddings"])

    def embed(self, prompt: str, length: int) -> tuple[NDArray[np.float16], int]:
        """The last hidden states (n, width) of a prompt cut to `length` tokens; and how many it has uncut.

        The marks for beginning and end count, and stay. There is no padding: a prompt is encoded by itself.
        Raises WeightsError when what comes out is not finite in half precision.
        """
        whole = len(self.tokenizer(prompt)["input_ids"])
        given = self.tokenizer(prompt, truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            states = self.model(**given).last_hidden_state[0]
        tokens: NDArray[np.float16] = states.to(torch.float16).numpy()
        if not np.isfinite(tokens).all():
            raise WeightsError(f"{self.weights}: what it makes of {prompt!r} is not finite. The file may be damaged.")
        return tokens, whole


# The weights ---------------------------------------------------------------------------------------------------------


def tower(file: Path) -> dict[str, Tensor]:
    """The tensors of the BERT in a file, by their names in a bare one. Raises WeightsError when there is none."""
    state = read_state_dict(file)
    place = next((p for p in PREFIXES if any(name.startswith(f"{p}embeddings.") for name in state)), None)
    if place is None:
        raise WeightsError(
            f"{file} holds no BERT: expected tensors whose names begin with "
            f"{', '.join(f'{p}embeddings.' for p in PREFIXES)}; found {', '.join(sorted(state)[:3])}, ... Choose "
            "another encoder."
        )
    found = {name.removeprefix(place): tensor for name, tensor in state.items() if name.startswith(place)}
    # as the first BERTs, which came from TensorFlow, call them
    renamed = {n.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor for n, tensor in found.items()}
    return renamed


def sizes_of(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """What the shapes tell of a BERT, by the names of its configuration. Raises WeightsError for missing tensors."""
    tables = {
        "vocab_size": "embeddings.word_embeddings.weight",
        "max_position_embeddings": "embeddings.position_embeddings.weight",
        "type_vocab_size": "embeddings.token_type_embeddings.weight",
        "intermediate_size": "encoder.layer.0.intermediate.dense.weight",
    }
    if lacking := [name for name in tables.values() if name not in tensors or tensors[name].dim() != 2]:
        raise _incomplete(file, lacking)
    layers = {int(part) for name in tensors if (part := name.removeprefix("encoder.layer.").split(".")[0]).isdigit()}
    sizes = {key: tensors[name].shape[0] for key, name in tables.items()}
    return {**sizes, "hidden_size": tensors[tables["vocab_size"]].shape[1], "num_hidden_layers": max(layers) + 1}


def stated_sizes(folder: Path) -> dict[str, Any]:
    """What the folder says of its BERT: its config.json, else what is known of the tower that open_clip names.

    Raises WeightsError for another kind of network.
    """
    config, clip = described_in(folder / CONFIG), described_in(folder / CLIP_CONFIG)
    if config.get("model_type") == "bert":
        if (kind := config.get("position_embedding_type", "absolute")) != "absolute":
            raise WeightsError(f"{folder / CONFIG}: a BERT with {kind} positions, expected absolute. Choose another.")
        return config
    if config and not clip:
        raise WeightsError(
            f"{folder / CONFIG} is of a network of the kind {config.get('model_type')!r}, expected 'bert'. Choose "
            "another encoder."
        )
    return dict(TOWERS.get(text_part(clip).get("hf_model_name", ""), {}))


def refuse_other_sizes(file: Path, sizes: Mapping[str, int], stated: Mapping[str, Any]) -> None:
    """Raise WeightsError unless the tensors have the sizes that are stated."""
    if wrong := [f"{key} is {n}, expected {stated[key]}" for key, n in sizes.items() if stated.get(key, n) != n]:
        raise WeightsError(
            f"{file} is not the network that its folder or its maker describes: {'; '.join(wrong)}. It is incomplete "
            "or another one; get it again."
        )


def build(file: Path, tensors: Mapping[str, Tensor], sizes: Mapping[str, int], stated: Mapping[str, Any]) -> Any:
    """The network with its weights. Raises WeightsError."""
    from transformers import BertConfig, BertModel

    heads = stated.get("num_attention_heads") or sizes["hidden_size"] // HEAD
    if not isinstance(heads, int) or heads < 1 or sizes["hidden_size"] % heads:
        raise WeightsError(
            f"{file}: {sizes['hidden_size']} channels cannot be divided into {heads} heads. Put the config.json that "
            "belongs to it beside it."
        )
    further = {key: stated[key] for key in ("hidden_act", "layer_norm_eps", "pad_token_id") if key in stated}
    config: dict[str, Any] = {**sizes, **further, "num_attention_heads": heads}
    try:
        model: Any = BertModel(BertConfig(**config), add_pooling_layer=False)
    except Exception as error:  # of whatever in there cannot work with a strange configuration
        raise WeightsError(f"{file.parent}: no BERT can be built as it describes: {error}") from error
    wanted = model.state_dict()
    if lacking := [name for name in wanted if name not in tensors]:
        raise _incomplete(file, lacking)
    for name, made in wanted.items():
        if made.shape != tensors[name].shape:
            raise WeightsError(
                f"{file}: {name} has the shape {tuple(tensors[name].shape)}, expected {tuple(made.shape)}. "
                "Get it again."
            )
        if not tensors[name].isfinite().all():
            raise WeightsError(f"{file}: {name} is not all finite numbers. The file is damaged; get it again.")
    model.load_state_dict({name: tensors[name].float() for name in wanted})
    return model.eval()


def _incomplete(file: Path, lacking: list[str]) -> WeightsError:
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return WeightsError(
        f"{file} is no whole BERT: {', '.join(lacking[:3])}{more} missing. It is incomplete or another network; get it "
        "again, or choose another encoder."
    )


# What lies beside them -----------------------------------------------------------------------------------------------


def vocabulary(folder: Path, rows: int) -> Any:
    """The tokenizer of a folder. Raises WeightsError when it cannot be read, or has more words than the network."""
    from transformers import BertTokenizer

    try:
        found = BertTokenizer.from_pretrained(os.fspath(folder), local_files_only=True)
    except Exception as error:  # a library in another language reads these files, and raises bare exceptions
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"The vocabulary in {folder} cannot be read: {reason}. Get the folder again.") from error
    if len(found) > rows or found.vocab_size < 2:
        raise WeightsError(
            f"The vocabulary in {folder} has {len(found)} words, but the network knows {rows}. Get the folder again."
        )
    return found


def context_length(folder: Path) -> int | None:
    """The longest text that open_clip gives to the encoder, where the folder says it."""
    length = text_part(described_in(folder / CLIP_CONFIG)).get("context_length")
    return length if isinstance(length, int) and length > 0 else None


def text_part(clip: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a configuration of open_clip says of the text tower."""
    model = clip.get("model_cfg", clip)
    found = model.get("text_cfg") if isinstance(model, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def described_in(file: Path) -> dict[str, Any]:
    """An object in JSON; empty when there is no such file. Raises WeightsError for anything else."""
    if not file.exists():
        return {}
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read: {error}. Get it again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file} holds a {type(content).__name__}, expected the description of a network.")
    return content
