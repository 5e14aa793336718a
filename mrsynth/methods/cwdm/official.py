"""Names and layouts of published weights, turned into ours: dictionaries of tensors in, dictionaries of tensors out.

Also what a foreign dictionary of tensors is: which cWDM network its shapes describe, and where it is none, why not.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor

from mrsynth.methods.cwdm.network import ResidualBlock3d, WaveletUNet, WaveletUNetConfig

Shape = tuple[int, ...]

BANDS = 8
CONDITIONS = 3
STEM = "input_blocks.0.0.weight"
INSIDE_A_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "embed",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
}
SINGLE = {
    "time_embed.0": "embed_level.mlp.0",
    "time_embed.2": "embed_level.mlp.2",
    "input_blocks.0.0": "stem",
    "out.0": "head_norm",
    "out.2": "head",
}
BLOCK = re.compile(
    r"(?:(?P<down>input_blocks)\.(?P<i>[1-9]\d*)\.0|(?P<middle>middle_block)\.(?P<m>[01])"
    r"|output_blocks\.(?P<j>\d+)\.(?P<doubles>[01]))\.(?P<inner>[a-z_]+(?:\.\d+)?)$"
)


def cwdm_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of cWDM's official U-Net under the names of `methods.cwdm.network`, with `network.` in front.

    state   what the official training saves: `input_blocks.i.0`, `middle_block.i`, `output_blocks.j.0`, and
            `output_blocks.j.1` where the block ends with an up-sampling; see the table in docs/methods/cwdm.md
    A name that does not belong to that network keeps its name, so that a strict load can report it.
    """
    doubling = _doubling(state)
    return {_ours(key, doubling): tensor for key, tensor in state.items()}


def cwdm_layout(config: WaveletUNetConfig) -> dict[str, Shape]:
    """The official names and shapes of all tensors of a single-target network, in our order.

    The inverse of the names of `cwdm_official`. Takes no memory, whatever the size of the network.
    """
    with torch.device("meta"):
        network = WaveletUNet(config, BANDS * (1 + CONDITIONS), BANDS)
    blocks = {f"down.{i}": f"input_blocks.{i + 1}.0" for i in range(len(network.down))}
    blocks |= {f"middle.{i}": f"middle_block.{i}" for i in range(len(network.middle))}
    last = -1  # the official U-Net numbers an up-sampling with the block before it
    for i, block in enumerate(cast(Iterable[ResidualBlock3d], network.up)):
        doubles = block.resample == "double"
        last += not doubles
        blocks[f"up.{i}"] = f"output_blocks.{last}.{int(doubles)}"
    theirs = {ours: name for name, ours in SINGLE.items()}
    for place, block_name in blocks.items():
        theirs |= {f"{place}.{ours}": f"{block_name}.{name}" for name, ours in INSIDE_A_BLOCK.items()}
    shapes = {key.rpartition("."): tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    return {f"{theirs[module]}.{parameter}": shape for (module, _, parameter), shape in shapes.items()}


def cwdm_network(shapes: Mapping[str, Shape], groups: int = 32) -> WaveletUNetConfig | None:
    """The network that the names and shapes of an official state describe, None when they describe none.

    Only what is needed is looked at; compare with `cwdm_layout` of the result. No shape tells the number of groups.
    Raises ValueError when the channels are no multiples of `groups`.
    """
    doubling = _doubling(shapes)
    levels = len(doubling) + 1
    blocks = len({m["j"] for m in map(BLOCK.match, map(_module, shapes)) if m and m["j"]}) // levels - 1
    firsts = [f"input_blocks.{1 + level * (blocks + 1)}.0.out_layers.3.weight" for level in range(levels)]
    embedding = shapes.get("time_embed.0.weight", ())
    if blocks < 1 or len(embedding) != 2 or any(len(shapes.get(key, ())) != 5 for key in firsts):
        return None
    width, widths = embedding[1], [shapes[key][0] for key in firsts]
    if width < 1 or any(w < 1 or w % width for w in widths):
        return None
    return WaveletUNetConfig(width=width, multipliers=tuple(w // width for w in widths), blocks=blocks, groups=groups)


def differences(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """What keeps tensors of these names and shapes from being those expected, in words; shapes that differ first."""
    wrong = [
        f"{key} has shape {found[key]}, expected {expected[key]}"
        for key in expected
        if key in found and found[key] != expected[key]
    ]
    wrong += [f"{key} is missing" for key in expected if key not in found]
    return wrong + [f"{key} is unknown" for key in found if key not in expected]


def likely_cause(shapes: Mapping[str, Shape]) -> str:
    """Why a state may not be that of a cWDM network, as a clause: `it has attention layers`."""
    stem = shapes.get(STEM, ())
    head = shapes.get("out.2.weight", ())
    if shapes and all(key.startswith("network.") for key in shapes):
        return "its tensors have the names of mrsynth's own networks; a whole checkpoint of mrsynth goes to --weights"
    if not stem and (inside := [key for key in shapes if key.endswith(f".{STEM}")]):
        prefix = inside[0].removesuffix(STEM)
        more = "; of an averaged copy (EMA) and the network itself one must be chosen" if "ema" in prefix else ""
        return f"a wrapper put '{prefix}' before the names{more}"
    if not stem:
        return "it is no U-Net of cWDM at all"
    if any(".qkv." in key or ".proj_out." in key for key in shapes):
        return "it has attention layers, which no released cWDM network has"
    if len(stem) == 4:
        return "it is a network for two dimensions"
    if len(stem) == 5 and stem[1] != BANDS * (1 + CONDITIONS):
        given = stem[1] / BANDS - 1
        seen = f"{given:g} condition(s)" if given >= 0 and given.is_integer() else f"{stem[1]} input channels"
        return f"it was trained with {seen}, where cWDM has {CONDITIONS} and thus {BANDS * (1 + CONDITIONS)} channels"
    if "label_emb.weight" in shapes:
        return "it was trained with class labels"
    if head and head[0] == 2 * BANDS:
        return "it predicts its variance too (learn_sigma)"
    embedded, width = (shapes.get(f"input_blocks.1.0.{k}", ()) for k in ("emb_layers.1.bias", "out_layers.0.bias"))
    if embedded and width and embedded[0] == 2 * width[0]:
        return "it scales and shifts its norms by the level (use_scale_shift_norm)"
    if any(re.search(r"\.(op|conv)\.(weight|bias)$", key) for key in shapes):
        return "it changes resolution between its blocks, not inside them (resblock_updown off)"
    up, middle = (
        shapes.get(k, ()) for k in ("output_blocks.0.0.in_layers.0.weight", "middle_block.1.out_layers.0.weight")
    )
    if up and up == middle:
        return "it adds its skip connections instead of concatenating them (additive_skips)"
    return "the file is damaged or of another version of cWDM"


def cwdm_for_target(state: Mapping[str, Tensor], target: int) -> dict[str, Tensor]:
    """The state of a cWDM network for any target as that of one for a single target, which computes the same.

    target   the place of the target among the contrasts. Its inputs were zero: they are cut off. What told the network
             which target to make goes into a bias
    """
    first = BANDS * (1 + target)  # after the noisy coefficients
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("network.embed_kind.")}
    for name, axis in {"stem.weight": 1, "input_head.weight": 1, "input_gate.weight": 0, "input_gate.bias": 0}.items():
        if (key := f"network.{name}") in kept:
            before, _, after = kept[key].tensor_split([first, first + BANDS], dim=axis)
            kept[key] = torch.cat([before, after], dim=axis)
    bias = "network.embed_level.mlp.2.bias"
    kept[bias] = kept[bias] + state["network.embed_kind.weight"][:, target] + state["network.embed_kind.bias"]
    return kept


def _doubling(names: Iterable[str]) -> Collection[int]:
    """The numbers of the official output blocks that end with an up-sampling."""
    return {int(m["j"]) for m in map(BLOCK.match, map(_module, names)) if m and m["doubles"] == "1"}


def _ours(key: str, doubling: Collection[int]) -> str:
    module, _, parameter = key.rpartition(".")
    if module in SINGLE:
        return f"network.{SINGLE[module]}.{parameter}"
    match = BLOCK.match(module)
    if match is None or match["inner"] not in INSIDE_A_BLOCK:
        return key
    if match["down"]:
        place = f"down.{int(match['i']) - 1}"
    elif match["middle"]:
        place = f"middle.{match['m']}"
    else:  # ours counts the up-sampling blocks too
        number = int(match["j"])
        place = f"up.{number + sum(j < number for j in doubling) + int(match['doubles'])}"
    return f"network.{place}.{INSIDE_A_BLOCK[match['inner']]}.{parameter}"


def _module(key: str) -> str:
    return key.rpartition(".")[0]
