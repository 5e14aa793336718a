"""`mrsynth weights import`: from the weights that authors of cWDM or fast-cwdm publish to a checkpoint in the store."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.diffusion.schedules import make_schedule
from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.checkpoint import PICKLE_SUFFIXES, Checkpoint, read_header, write_checkpoint
from mrsynth.io.fetched import held, record, records
from mrsynth.io.pickles import read_state_dict
from mrsynth.io.store import available_entries, sha256_of, writable_store
from mrsynth.methods import method_class
from mrsynth.methods.cwdm.network import WaveletUNetConfig
from mrsynth.methods.cwdm.official import (
    STEM,
    cwdm_layout,
    cwdm_network,
    cwdm_official,
    differences,
    likely_cause,
)
from mrsynth.scans.preparation import CWDM_GRID, PreparationConfig

LEVELS = 1000  # of the official chain
STEPS = 10  # of them visited unless told otherwise: the whole chain takes hours on a CPU
GROUPS = 32  # of every official network; no shape tells it
CONTRASTS = {"t1n": Contrast.T1, "t1c": Contrast.T1CE, "t2w": Contrast.T2, "t2f": Contrast.FLAIR}
FAST_NAME = re.compile(r"brats_(t1n|t1c|t2w|t2f)_(?:BEST|(\d{6,}))_(sampled|direct)_(\d{1,6})\.\w+")
OFFICIAL_NAME = re.compile(r"brats_(\d{6,})\.\w+")
LIKE_A_FAST_NAME = re.compile(r"_BEST_|(?:sampled|direct)_\d", re.IGNORECASE)
PREPARATION = PreparationConfig(
    intensity="volume_quantiles", crop="full", grid=CWDM_GRID, multiple=32, depth_multiple=32
)


@dataclass(frozen=True)
class Origin:
    """What the name of a published file says of it.

    contrast    that it makes; None where the name holds none
    fast        from fast-cwdm, trained for a short chain
    levels      of the chain it was trained for, T
    iterations  of the training, 0 when the name does not tell
    """

    contrast: Contrast | None = None
    fast: bool = False
    schedule: Literal["linear", "sampled", "direct"] = "linear"
    levels: int = LEVELS
    iterations: int = 0

    def default_name(self, target: Contrast) -> str:
        """What the checkpoint is called unless the user says otherwise."""
        kind = f"fast-{self.schedule}-{self.levels}" if self.fast else "official"
        return f"cwdm-{kind}-{target.value}"


def import_checkpoint(
    file: Path,
    *,
    method: str,
    target: Contrast | None = None,
    name: str | None = None,
    licence: str = "not stated",
    card: ManifestEntry | None = None,
    groups: int | None = None,
) -> Path:
    """Convert foreign weights to a checkpoint NAME.safetensors in the user's store, and give its path.

    file     .pt of the official cWDM or of fast-cwdm, or the same tensors as safetensors; its name tells the schedule
    method   cwdm; other methods have no foreign weights
    target   the contrast the network makes; needed unless the file's name is one of fast-cwdm
    card     what is known of the file if it is a published one: its name, licence, training and sampling are kept
    groups   of every GroupNorm, where it is not 32 as in all official networks

    Raises UsageError when the request makes no sense or the name is taken, WeightsError when the file cannot be used,
    OutputError when the store cannot be written. The same file again changes nothing, unless mrsynth 0.1.0 imported it:
    that checkpoint is replaced, since it samples the official weights badly.
    """
    if method != "cwdm":
        method_class(method)  # raises for what is no method at all
        raise UsageError(
            f"Only cwdm has foreign weights that can be imported, not {method}. "
            "A checkpoint that mrsynth wrote needs no import: give its path to --weights."
        )
    origin = read_origin(file.name)
    target = choose_target(file.name, origin, target)
    name = plain_name(name or (card.name if card else origin.default_name(target)))
    path = writable_store() / f"{name}.safetensors"

    state = read_state_dict(file)
    network = network_of(file, state, groups)
    if card is None or card.name != name:
        refuse_taken_name(name, path, origin, target, network)
    config = {
        "method": method,
        "contrasts": [c.value for c in STANDARD],
        "target": target.value,
        "network": network.model_dump(mode="json"),
        "T": origin.levels,
        "schedule": origin.schedule,
        "sampler": sampler_of(origin),
        "spacing": "linspace",
    }
    own = card_of(file, name, origin, target, licence, card)
    content = Checkpoint(own, whole_config(file, config), PREPARATION.model_dump(mode="json"), cwdm_official(state))
    with held(path.parent, path.name):  # another import may have taken the name since it was looked at
        if not path.exists() or replaces(path, content):
            write_checkpoint(path, content, torch.float32)
            if (known := records(path.parent).get(name)) is not None:
                record(path.parent, name, known.model_copy(update={"stored_sha256": sha256_of(path)}))
        elif not holds(path, content):
            raise UsageError(
                f"{path} exists and is another checkpoint than {file} makes. Give this one another name with --name, "
                "or delete that file."
            )
    return path


# What the file's name and the user say -------------------------------------------------------------------------------


def read_origin(filename: str) -> Origin:
    """What the name of a file says of its weights. Raises UsageError for one that is almost a name of fast-cwdm."""
    if match := FAST_NAME.fullmatch(filename):
        contrast, iterations, schedule, levels = match.groups()
        kind: Literal["sampled", "direct"] = "direct" if schedule == "direct" else "sampled"
        return Origin(CONTRASTS[contrast], True, kind, int(levels), int(iterations or 0))
    if LIKE_A_FAST_NAME.search(filename):
        raise UsageError(
            f"The name {filename} is like those of fast-cwdm, but not one of them, so schedule and number of steps are "
            "not certain. Expected as in brats_t1c_BEST_sampled_10.pt or brats_t1c_000500_direct_100.pt; rename it."
        )
    match = OFFICIAL_NAME.fullmatch(filename)
    return Origin(iterations=int(match[1]) if match else 0)


def choose_target(filename: str, origin: Origin, wanted: Contrast | None) -> Contrast:
    """The contrast to make, from the request or the file's name. Raises UsageError without one, or with two."""
    found = wanted or origin.contrast
    if found is None:
        raise UsageError(
            f"The name {filename} does not tell which contrast the network makes, and nor do the weights. "
            f"Give --target, one of {', '.join(STANDARD)}, as the source of the file says."
        )
    if found not in STANDARD:
        raise UsageError(f"cWDM networks make one of {', '.join(STANDARD)}, not {found.value}. Give one as --target.")
    if origin.contrast not in (None, found):
        raise UsageError(
            f"--target is {found.value}, but {filename} says that the network makes {origin.contrast}. "
            "Leave out --target, or check that the file is the right one."
        )
    return found


def plain_name(name: str) -> str:
    """The same name, if it can be that of a file and be given to --weights. Raises UsageError."""
    suffix = Path(name).suffix.lower()
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name) or suffix in {*PICKLE_SUFFIXES, ".safetensors"}:
        raise UsageError(
            f"{name!r} cannot be the name of a checkpoint. Expected up to 100 letters, digits and . _ + -, with a "
            "letter or digit first, and without .safetensors or .pt at the end. Give another --name."
        )
    return name


def refuse_taken_name(name: str, path: Path, origin: Origin, target: Contrast, network: WaveletUNetConfig) -> None:
    """Raise UsageError when `name` stands for another file, or for a published network that this is not."""
    known = next((entry for entry in available_entries() if entry.name == name), None)
    if known is None:
        return
    if known.repository is None and known.file != str(path):
        raise UsageError(f"The name '{name}' is taken by another checkpoint ({known.ability}). Give another --name.")
    if known.repository is None:
        return
    why = ""
    if set(known.requires or ()) != {target}:
        why = f"that makes {known.ability}, this makes {target.value}"
    elif origin.fast:
        why = f"this is from fast-cwdm, for a chain of {origin.levels} levels"
    elif known.iterations and origin.iterations not in (0, known.iterations):
        why = f"that was trained for {known.iterations} iterations, this for {origin.iterations}"
    elif network != WaveletUNetConfig():
        why = f"this is of another size ({network.width} channels at its first level)"
    if why:  # else the manifest would speak for weights it does not know
        raise UsageError(
            f"The name '{name}' stands for a network published in {known.repository}: {why}. Give another --name."
        )


# What the file holds -------------------------------------------------------------------------------------------------


def network_of(file: Path, state: Mapping[str, Tensor], groups: int | None = None) -> WaveletUNetConfig:
    """The network whose state this is, to the last name and shape. Raises WeightsError that tells what differs."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    try:
        network = cwdm_network(shapes, GROUPS if groups is None else groups)
    except ValueError as error:
        channels = next(iter(shapes.get(STEM, ())), "some")
        if groups is not None:
            raise UsageError(f"{file}: a network of {channels} channels cannot have {groups} groups.") from error
        raise WeightsError(
            f"{file}: the first level has {channels} channels; expected that all levels have multiples of {GROUPS}, "
            "the groups of every norm in cWDM. How many groups it was trained with cannot be seen; if you know, give "
            "`groups` to mrsynth.tasks.checkpoints.importing.import_checkpoint."
        ) from error
    wrong = differences(shapes, cwdm_layout(network or WaveletUNetConfig()))
    if network is None or wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WeightsError(
            f"{file} does not fit the network of cWDM: {'; '.join(wrong[:3])}{more}. Probably {likely_cause(shapes)}. "
            "Expected the file of a network as the training of cWDM or fast-cwdm saves it; choose such a file."
        )
    if PREPARATION.multiple % (2 * network.multiple):
        raise WeightsError(
            f"{file}: the network has {len(network.multipliers)} levels, so that sides must be multiples of "
            f"{2 * network.multiple} voxels; expected at most 5 levels, for volumes of {CWDM_GRID} voxels as cWDM's. "
            "Choose another file."
        )
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise WeightsError(f"{file}: {key} is {tensor.dtype}, expected real numbers. Get the file again.")
        if not bool(tensor.to(torch.float32).isfinite().all()):
            raise WeightsError(
                f"{file}: {key} has values that are not finite in float32; expected a trained network. The training "
                "failed or the file is damaged: get it again, or choose an earlier one."
            )
    return network


def whole_config(file: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The method's configuration with every default. Raises WeightsError for one that no training can have had."""
    try:
        make_schedule(config["schedule"], config["T"])
    except UsageError as error:
        raise WeightsError(
            f"{file}: its name tells of {config['T']} levels of the schedule {config['schedule']}, with which no "
            f"network can be trained: {error} Check whether the file was renamed."
        ) from error
    return method_class("cwdm").Config.model_validate(config).model_dump(mode="json")


def sampler_of(origin: Origin) -> str:
    """The chain of fast-cwdm is walked whole, by ddpm; few of the official 1000 levels by ddim.

    ddpm with the official variance leaves noise of 0.34 in 10 of 1000 steps where the data vary by 0.05, ddim 0.016 of
    those 0.05 (tests/diffusion/test_samplers.py).
    """
    return "ddpm" if origin.fast else "ddim"


def card_of(
    file: Path, name: str, origin: Origin, target: Contrast, licence: str, listed: ManifestEntry | None
) -> Card:
    """What the checkpoint will say of itself."""
    steps = origin.levels if origin.fast else STEPS
    said: dict[str, Any] = {
        "licence": licence,
        "iterations": origin.iterations,
        "sampling": {"mode": "sample", "modes": ["sample"], "sampler": sampler_of(origin), "steps": steps},
    }
    if listed is not None:
        said |= {key: getattr(listed, key) for key in ("licence", "training_data", "iterations", "scores")}
        said["sampling"] = listed.sampling or said["sampling"]
    visited = said["sampling"].get("steps") or origin.levels
    few = f", of which {visited} are visited unless told otherwise" if visited != origin.levels else ""
    return Card(
        name=name,
        method="cwdm",
        contrasts=STANDARD,
        requires={target: tuple(c for c in STANDARD if c is not target)},
        note=f"Converted from {file.name} (sha256 {sha256_of(file)}), trained for {origin.levels} levels{few}.",
        **said,
    )


def holds(path: Path, content: Checkpoint) -> bool:
    """Whether a file is this checkpoint already; the note, which names the file it came from, may differ."""
    try:
        there = read_header(path)
    except WeightsError:
        return False
    if (there.config, there.preparation) != (content.config, content.preparation):
        return False
    same = there.card == content.card.model_copy(update={"note": there.card.note})
    return same and same_tensors(path, content)


def replaces(path: Path, content: Checkpoint) -> bool:
    """Whether a file is what mrsynth 0.1.0 made of the same weights for the same target."""
    try:
        there = read_header(path)
    except WeightsError:
        return False
    return there.format == 1 and there.card.requires == content.card.requires and same_tensors(path, content)


def same_tensors(path: Path, content: Checkpoint) -> bool:
    """Whether a file holds these tensors, in float32."""
    try:
        with safe_open(path, "pt") as file:
            same = set(file.keys()) == set(content.tensors)
            return same and all(torch.equal(file.get_tensor(k), t.float()) for k, t in content.tensors.items())
    except (SafetensorError, OSError):
        return False
