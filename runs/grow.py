"""A larger FgC2F-UDiff, or one that predicts v, that makes what a checkpoint makes: a start for training it on.

usage: python -m runs.grow CHECKPOINT OUT [--blocks N] [--neighbours N] [--param v]

CHECKPOINT     name or path of a checkpoint of fgc2f
--blocks       residual blocks per level on the way down
--neighbours   slices below and above that the network reads
--param        v: what the network predicts, of a checkpoint that predicts x_0. At the last level, where the mean is
               made, v is -x_0 to five digits, so that only the sign of the output changes; below it has to learn
OUT            receives the new checkpoint; its card is that of the old

What is new adds nothing yet: the last convolution of every new block and attention is zero (Goyal et al. 2017, section
5.1), and so are the weights of new input channels. `--init OUT` and a run file with these sizes train it on.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
from mrsynth.methods.fgc2f import FgC2F, FgC2FConfig
from mrsynth.tasks.models import load_network

BY_CHANNEL = ("network.stem.weight", "network.input_head.weight")  # (out, channels x fold^2, 3, 3)
OUTPUT = ("network.head.", "network.input_head.")
GATE = ("network.input_gate.weight", "network.input_gate.bias")  # (channels, ...)


def main() -> None:
    """Build the larger network, fill it, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--neighbours", type=int)
    parser.add_argument("--param", choices=("v",))
    args = parser.parse_args()
    found = load_network(args.checkpoint)
    if not isinstance(found.method, FgC2F):
        parser.error(f"{args.checkpoint} is a checkpoint of {found.card.method}, not of fgc2f")
    try:
        larger = grown(found.method, args.blocks, args.neighbours)
        larger = predicting_v(larger) if args.param else larger
    except ValueError as error:
        parser.error(str(error))
    config, preparation = (said.model_dump(mode="json") for said in (larger.config, found.preparation))
    write_checkpoint(args.out, Checkpoint(found.card, config, preparation, larger.saved_state()))


def grown(method: FgC2F, blocks: int | None = None, neighbours: int | None = None) -> FgC2F:
    """The same function in a network of more residual blocks on the way down and more neighbouring slices.

    Raises ValueError for fewer of either than there are, and for more blocks where the way up takes more from a level
    than what the last of them made (`up_blocks`): what was its second input would be its third.
    """
    config, had, n = method.config, method.config.network.blocks, method.neighbours
    blocks, neighbours = had if blocks is None else blocks, n if neighbours is None else neighbours
    if blocks < had or neighbours < n:
        raise ValueError(f"a network of {had} blocks and {n} neighbours does not shrink")
    if blocks > had and config.network.ascending > 1:
        raise ValueError(f"more blocks need up_blocks 1, found {config.network.ascending}")
    network = {"blocks": blocks, "up_blocks": config.network.ascending}
    larger = FgC2F(changed(config, network={**config.network.model_dump(), **network}, neighbours=neighbours))
    state, places = larger.state_dict(), input_channels(len(method.contrasts), n, neighbours)
    pixels = config.network.fold**2
    folded = [place * pixels + pixel for place in places for pixel in range(pixels)]
    for name, tensor in method.state_dict().items():
        if name in BY_CHANNEL:
            state[name] = torch.zeros_like(state[name]).index_copy(1, torch.tensor(folded), tensor)
        elif name in GATE:
            state[name] = torch.zeros_like(state[name]).index_copy(0, torch.tensor(places), tensor)
        else:
            state[name] = tensor
    larger.load_state_dict(state)
    return larger


def predicting_v(method: FgC2F) -> FgC2F:
    """The same mean from a network that predicts v. Raises ValueError for one that does not predict x_0."""
    if method.config.param != "x0":
        raise ValueError(f"a network that predicts {method.config.param}, expected x0")
    other, state = FgC2F(changed(method.config, param="v")), method.state_dict()
    other.load_state_dict({name: -tensor if name.startswith(OUTPUT) else tensor for name, tensor in state.items()})
    return other


def changed(config: FgC2FConfig, **options: Any) -> FgC2FConfig:
    """A configuration with other options, checked as any."""
    return FgC2FConfig.model_validate({**config.model_dump(), **options})


def input_channels(contrasts: int, had: int, neighbours: int) -> list[int]:
    """Where each input channel of `had` neighbours lies among those of `neighbours`.

    Contrasts and guidance come first, then for each contrast the slices from the lowest to the highest.
    """
    kept = [*range(neighbours - had, neighbours + had)]  # the offsets in between: nearer slices
    return [*range(contrasts + 1), *(contrasts + 1 + 2 * neighbours * c + k for c in range(contrasts) for k in kept)]


if __name__ == "__main__":
    main()
