"""A larger FgC2F-UDiff or cWDM, or an FgC2F-UDiff that predicts v, that makes what a checkpoint makes: a start for
training it on.

usage: python -m runs.grow CHECKPOINT OUT [--blocks N] [--neighbours N] [--param v]
       python -m runs.grow CHECKPOINT OUT --further N,N,...

CHECKPOINT     name or path of a checkpoint of fgc2f, or of cwdm
--blocks       of fgc2f: residual blocks per level on the way down
--neighbours   of fgc2f: slices below and above that the network reads
--param        v: what the network of fgc2f predicts, of a checkpoint that predicts x_0. At the last level, where the
               mean is made, v is -x_0 to five digits, so that only the output's sign changes; below it has to learn
--further      of cwdm: more blocks on the way down, level by level (`network.further`)
OUT            receives the new checkpoint, its folder being made where it is missing; its card is that of the old

What is new adds nothing yet: the last convolution of every new block and attention is zero (Goyal et al. 2017, section
5.1), and so are the weights of new input channels. `--init OUT` and a run file with these sizes train it on.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
from mrsynth.methods.base import Method
from mrsynth.methods.cwdm.method import Cwdm, CwdmConfig
from mrsynth.methods.cwdm.network import ResidualBlock3d, WaveletUNet
from mrsynth.methods.fgc2f import FgC2F, FgC2FConfig
from mrsynth.tasks.models import load_network

BY_CHANNEL = ("network.stem.weight", "network.input_head.weight")  # (out, channels x fold^2, 3, 3)
OUTPUT = ("network.head.", "network.input_head.")
DOWN = re.compile(r"^network\.down\.\d+\.")
GATE = ("network.input_gate.weight", "network.input_gate.bias")  # (channels, ...)


def main() -> None:
    """Build the larger network, fill it, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--neighbours", type=int)
    parser.add_argument("--param", choices=("v",))
    parser.add_argument("--further", type=lambda text: tuple(map(int, text.split(","))))
    args = parser.parse_args()
    found = load_network(args.checkpoint)
    options = {"fgc2f": ("blocks", "neighbours", "param"), "cwdm": ("further",)}
    asked = {name for name in sum(options.values(), ()) if getattr(args, name) is not None}
    if not asked or not asked <= set(options.get(found.card.method, ())):
        parser.error(f"{args.checkpoint} is a checkpoint of {found.card.method}; it can grow by {options}")
    try:
        larger = larger_than(found.method, args)
    except ValueError as error:
        parser.error(str(error))
    config, preparation = larger.config.model_dump(mode="json"), found.preparation.model_dump(mode="json")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(args.out, Checkpoint(found.card, config, preparation, larger.saved_state()))


def larger_than(method: Method, args: argparse.Namespace) -> Cwdm | FgC2F:
    """What the command line asks for."""
    if isinstance(method, Cwdm):
        return deepened(method, args.further)
    assert isinstance(method, FgC2F)
    larger = grown(method, args.blocks, args.neighbours)
    return predicting_v(larger) if args.param else larger


def deepened(method: Cwdm, further: Sequence[int]) -> Cwdm:
    """The same function in a network of more blocks on the way down. Raises ValueError for fewer than there are."""
    had, config = method.config.network, method.config.model_dump()
    if any(more < less for more, less in zip(further, had.further, strict=False)):
        raise ValueError(f"a network of {had.further} further blocks does not shrink")
    larger = Cwdm(CwdmConfig.model_validate({**config, "network": {**had.model_dump(), "further": further}}))
    at = {place: i for i, place in enumerate(places(larger.network))}
    moved = {f"network.down.{i}.": f"network.down.{at[place]}." for i, place in enumerate(places(method.network))}
    state = larger.state_dict()
    for name, tensor in method.state_dict().items():
        state[DOWN.sub(lambda block: moved[block[0]], name)] = tensor
    larger.load_state_dict(state)
    return larger


def places(network: WaveletUNet) -> list[tuple[int, str, bool, int]]:
    """Where each block on the way down stands: its level, what it does there, and how many such come before it."""
    found: list[tuple[int, str, bool, int]] = []
    level = 0
    for block in cast("Sequence[ResidualBlock3d]", network.down):
        kind = (level, block.resample, block.refines)
        found.append((*kind, sum(place[:3] == kind for place in found)))
        level += block.resample == "halve"
    return found


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
