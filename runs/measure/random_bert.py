"""A small BERT that has learnt nothing, as a text encoder for the control of the ablations of DFBK.

usage: python runs/measure/random_bert.py FOLDER

Two layers of width 64, random weights (seed 0), and a vocabulary of the words of all prompts: its tokens tell the
sentences apart and mean nothing. What it gains, a text encoder does not gain by its knowledge of medicine.
"""

import re
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from mrsynth.contrasts import STANDARD
from mrsynth.methods.dfbk.prompts import all_prompts


def main() -> None:
    """Write config.json, model.safetensors and vocab.txt."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({word for text in all_prompts(STANDARD) for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    sizes = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=128,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    BertModel(sizes).save_pretrained(folder)


if __name__ == "__main__":
    main()
