"""Opening a segmenter: our own, a MONAI bundle, or a TorchScript file.

    kind             given as                    reads                                            gives
    own              builtin, a RUN folder, or   what its header says                             logits
                     a .safetensors file
    MONAI bundle     a folder with               all at 1 mm, whole volume; channels and regions  logits
                     configs/metadata.json       as metadata.json states them, else BRATS_BUNDLE
    TorchScript      a .ts or .pt file           as a bundle; channels and regions as an extra    logits
                     (torch.jit.save)            file `mrsynth.json` in it states them, else      or probabilities
                                                 t1, t1ce, t2, flair and WT, TC, ET

Every kind sees each contrast with mean 0 and deviation 1 over its own non-zero voxels. Nothing in a bundle is run but
the constructor of a network of MONAI; a TorchScript file is a program, so open only those whose origin you trust.
"""

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.devices import choose_device
from mrsynth.errors import WeightsError
from mrsynth.io.checkpoint import problems, read_checkpoint
from mrsynth.io.pickles import read_state_dict
from mrsynth.io.reading import read_json
from mrsynth.io.store import PACKAGE, store_folder
from mrsynth.io.vocabulary import contrast_in_name
from mrsynth.plain import Plain
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.segmenter.network import KIND, Reading, Segmenter, SegmenterConfig, build_network
from mrsynth.tasks.models import differing, preparation_of

SHIPPED = PACKAGE / "weights" / KIND / "builtin.safetensors"
STATED = "mrsynth.json"  # the extra file of a TorchScript archive
LEAST_MULTIPLE = 16  # of the sides of a foreign network's input
PROBE = 64  # voxels along each side of what a foreign network is tried with

# What MONAI's brats_mri_segmentation takes and gives, for bundles whose metadata does not say.
BRATS_BUNDLE: tuple[tuple[Contrast, ...], tuple[str, ...]] = (
    (Contrast.T1CE, Contrast.T1, Contrast.T2, Contrast.FLAIR),
    ("TC", "WT", "ET"),
)
REGION_WORDS = {"WT": ("wt", "whole"), "TC": ("tc", "core"), "ET": ("et", "enhanc")}


class Stated(Plain):
    """What a TorchScript file may say of itself in `mrsynth.json`."""

    contrasts: tuple[Contrast, ...] = STANDARD
    regions: tuple[str, ...] = ("WT", "TC", "ET")
    output: str = "logits"
    multiple: int = LEAST_MULTIPLE


def open_segmenter(what: str | Path, device: str = "auto") -> Segmenter:
    """The segmenter that `builtin`, a RUN folder, a .safetensors file, a bundle folder or a TorchScript file means.

    builtin  $MRSYNTH_HOME/segmenter.safetensors (without MRSYNTH_HOME: mrsynth/segmenter.safetensors in the user's
             cache), else the one in the package
    device   auto, cpu, cuda, cuda:N or mps
    Raises WeightsError for what is missing, damaged or of another kind, UsageError for a device that is not there.
    """
    place = choose_device(device)
    if str(what) == "builtin":
        return _moved(_own(_builtin()), place)
    path = Path(what).expanduser()
    if (path / "configs" / "metadata.json").is_file():
        return _moved(_bundle(path), place)
    if (path / "checkpoint.safetensors").is_file():
        return _moved(_own(path / "checkpoint.safetensors"), place)
    if path.suffix == ".safetensors":
        return _moved(_own(path), place)
    if path.suffix.lower() in (".ts", ".pt") and not path.is_dir():
        return _moved(_torchscript(path), place)
    found = "a folder with neither" if path.is_dir() else "a file of another kind" if path.exists() else "nothing"
    raise WeightsError(
        f"{path}: expected `builtin`, a MONAI bundle (a folder with configs/metadata.json), the RUN folder of "
        f"`mrsynth train --segmenter` (with checkpoint.safetensors), or a .safetensors, .ts or .pt file; found {found}."
    )


def _moved(segmenter: Segmenter, device: str) -> Segmenter:
    network = segmenter.network.to(device).eval()
    return Segmenter(segmenter.name, network, segmenter.reading, device)


def _tried(where: Path, name: str, network: nn.Module, reading: Reading) -> Segmenter:
    """A foreign network once it has been seen to take and give what it should: better now than among the subjects."""
    side = math.lcm(PROBE, reading.preparation.multiple)
    expected = (1, len(reading.regions), side, side, side)
    try:
        with torch.no_grad():
            out = network.eval()(torch.zeros(1, len(reading.contrasts), side, side, side))
        found = str(tuple(out.shape)) if isinstance(out, torch.Tensor) else f"a {type(out).__name__}"
    except Exception as error:  # whatever a strange network stumbles over
        found = f"the error {(str(error) or type(error).__name__).strip().splitlines()[-1]}"
    if found != str(expected):
        raise WeightsError(
            f"{where}: given {', '.join(reading.contrasts)} of {side}x{side}x{side} voxels, the network gave {found}; "
            f"expected {expected}, a channel each for {', '.join(reading.regions)}. "
            "It takes or finds something else than is stated (or assumed) of it."
        )
    return Segmenter(name, network, reading)


# Our own -------------------------------------------------------------------------------------------------------------


def _builtin() -> Path:
    own = store_folder().parent / f"{KIND}.safetensors"
    for path in (own, SHIPPED):
        if path.is_file():
            return path
    raise WeightsError(
        f"There is no built-in segmenter, neither at {own} nor in the package. Train one with `mrsynth train "
        "--segmenter --data ROOT --out RUN`, and give RUN (or copy its checkpoint.safetensors there)."
    )


def _own(path: Path) -> Segmenter:
    """A checkpoint that `mrsynth train --segmenter` wrote. Raises WeightsError."""
    checkpoint = read_checkpoint(path)
    if checkpoint.card.method != KIND:
        raise WeightsError(
            f"{path} is a checkpoint of {checkpoint.card.method}, which makes contrasts; expected a segmenter. "
            "`mrsynth train --segmenter` makes one."
        )
    described = {key: value for key, value in checkpoint.config.items() if key != "method"}
    try:
        config = SegmenterConfig.model_validate(
            SegmenterConfig.from_format_1(described) if checkpoint.format == 1 else described
        )
        preparation = preparation_of(checkpoint)
    except ValidationError as error:
        raise WeightsError(
            f"{path}: this version of mrsynth cannot use its configuration: {problems(error)}. "
            "Use the version that wrote it, or train it again."
        ) from error
    network = build_network(config)
    if wrong := _misfit(network, checkpoint.tensors):
        raise WeightsError(f"{path}: the weights do not fit the network of its header: {wrong}. Get it again.")
    network.load_state_dict(checkpoint.tensors)
    names = tuple(region.name for region in config.regions)
    reading = Reading(contrasts=config.contrasts, regions=names, availability=True, preparation=preparation)
    return Segmenter(checkpoint.card.name, network, reading)


def _misfit(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> str:
    """What keeps tensors from being a network's state, in words; empty when nothing does."""
    wrong = differing(network.state_dict(), tensors)
    return "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")


# A MONAI bundle ------------------------------------------------------------------------------------------------------


def _bundle(folder: Path) -> Segmenter:
    """A bundle: its network from configs/inference.json, its weights from models/model.pt. Raises WeightsError."""
    metadata, content = _json(folder / "configs" / "metadata.json"), _json(folder / "configs" / "inference.json")
    contrasts, regions, multiple = _channels(folder, metadata)
    network = _network(folder / "configs" / "inference.json", content)
    tensors = read_state_dict(folder / "models" / "model.pt")
    if wrong := _misfit(network, tensors):
        raise WeightsError(
            f"{folder}: models/model.pt does not fit the network of configs/inference.json: {wrong}. Get it again."
        )
    network.load_state_dict(tensors)
    return _tried(folder, folder.resolve().name, network, _foreign(contrasts, regions, multiple))


def _foreign(
    contrasts: tuple[Contrast, ...], regions: tuple[str, ...], multiple: int, output: Any = "logits"
) -> Reading:
    """How a network of others reads: at 1 mm, the whole volume, as large as a BraTS file is, nothing clipped above."""
    preparation = PreparationConfig(quantile=1.0, crop="full", multiple=multiple, depth_multiple=multiple)
    return Reading(contrasts=contrasts, regions=regions, output=output, preparation=preparation)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise WeightsError(f"Cannot read {path} of this MONAI bundle: {error}. Get the bundle again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: found a {type(content).__name__}, expected keys and values. Get the bundle again.")
    return content


def _channels(folder: Path, metadata: Mapping[str, Any]) -> tuple[tuple[Contrast, ...], tuple[str, ...], int]:
    """Contrasts and regions in the order of the channels, and the multiple that its sides must have."""
    form = _at(metadata, "network_data_format")
    image, pred = _at(form, "inputs", "image"), _at(form, "outputs", "pred")
    contrasts, regions = BRATS_BUNDLE
    where = f"{folder}: configs/metadata.json"
    if names := _in_order(where, _at(image, "channel_def")):
        contrasts = tuple(c for name in names if (c := contrast_in_name(name)) is not None)
        if len(set(contrasts)) < len(names):
            raise WeightsError(
                f"{where} names the input channels {', '.join(names)}; expected different contrasts, such as T1c, T1, "
                "T2, FLAIR. This bundle is for other images; use another."
            )
    if names := _in_order(where, _at(pred, "channel_def")):
        regions = tuple(r for name in names if (r := _region(name)) is not None)
        if len(set(regions)) < len(names):
            raise WeightsError(
                f"{where} names the output channels {', '.join(names)}; expected overlapping regions, one channel "
                "each: Whole tumor, Tumor core, Enhancing tumor. This bundle finds something else; use another."
            )
    for which, count, own in (("image", image, contrasts), ("pred", pred, regions)):
        if count.get("num_channels", len(own)) != len(own):
            raise WeightsError(
                f"{where}: '{which}' has {count['num_channels']} channels, but {', '.join(own)} are {len(own)}. State "
                "them in its channel_def."
            )
    sides = [re.fullmatch(r"\s*(\d+)\s*\*\s*n\s*", str(side)) for side in image.get("spatial_shape", ())]
    return contrasts, regions, math.lcm(LEAST_MULTIPLE, *(int(side[1]) for side in sides if side and int(side[1])))


def _at(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The mapping at a path of keys; an empty one where there is none."""
    for key in keys:
        content = content.get(key, {}) if isinstance(content, Mapping) else {}
    return dict(content) if isinstance(content, Mapping) else {}


def _in_order(where: str, channels: Mapping[str, Any]) -> list[str]:
    """{"1": "T1", "0": "T1c"} as ["T1c", "T1"]."""
    if set(channels) != {str(n) for n in range(len(channels))}:
        raise WeightsError(f"{where}: channel_def has the keys {', '.join(channels)}, expected 0, 1, 2, ...")
    return [str(channels[str(n)]) for n in range(len(channels))]


def _region(name: str) -> str | None:
    """WT, TC or ET for `Whole tumor`, `Tumor core`, `Enhancing tumor` and the like; None when no or two words fit."""
    words = re.findall(r"[a-z]+", name.lower())
    fits = [
        region
        for region, (short, long) in REGION_WORDS.items()
        if any(word == short or word.startswith(long) for word in words)
    ]
    negated = any(word in ("non", "not", "without") for word in words)
    return fits[0] if len(fits) == 1 and not negated else None


def _network(file: Path, content: Mapping[str, Any]) -> nn.Module:
    """The network that a bundle's configuration describes, by MONAI's ConfigParser. Raises WeightsError.

    Only a component that is plain data throughout is handed to the parser: no expressions ($...), no macros (%...),
    references only to plain data, and every target a network, block or layer in monai.networks. MONAI would run the
    rest.
    """
    described = next((content[k] for k in ("network_def", "network") if isinstance(content.get(k), Mapping)), None)
    if described is None or "_target_" not in described:
        raise WeightsError(
            f"{file}: expected the key 'network_def' with a '_target_' such as SegResNet; found the keys "
            f"{', '.join(map(str, content)) or 'none'}. This bundle's network cannot be built from plain data; export "
            "it as TorchScript and give that file."
        )
    from monai.bundle import ConfigParser

    plain = _plain(file, described, content, "network_def")
    try:
        network = ConfigParser({"network_def": plain}).get_parsed_content("network_def")
    except Exception as error:  # whatever a constructor makes of strange arguments
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{file}: MONAI cannot build its network: {reason} Get the bundle again.") from error
    if not isinstance(network, nn.Module):
        raise WeightsError(f"{file}: network_def is a {type(network).__name__}, expected a network.")
    return network


def _plain(file: Path, value: Any, content: Mapping[str, Any], place: str, depth: int = 0) -> Any:
    """A part of a bundle's configuration with its references replaced, once it is known to run nothing."""
    if depth > 20:
        raise WeightsError(f"{file}: the references at {place} go round in a circle. Get the bundle again.")
    if isinstance(value, Mapping):
        if "_target_" in value:
            value = {**value, "_target_": _target(file, value["_target_"], place)}
        for key in value:
            # other keys with underscores are orders to the parser; `pretrained` would download
            if str(key).startswith(("_", "pretrained")) and key not in ("_target_", "_desc_"):
                raise WeightsError(f"{file}: {place} has the key {key}, which is not allowed here. {REFUSED}")
        return {
            k: v if k == "_target_" else _plain(file, v, content, f"{place}.{k}", depth + 1) for k, v in value.items()
        }
    if isinstance(value, list):
        return [_plain(file, v, content, f"{place}.{n}", depth + 1) for n, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    if value.startswith("@") and value[1:] in content:
        return _plain(file, content[value[1:]], content, place, depth + 1)
    if re.search(r"[$%@]", value):
        raise WeightsError(f"{file}: {place} is {value!r}, which would have to be run. {REFUSED}")
    return value


REFUSED = "Only plain data and networks of MONAI are opened; export the network as TorchScript and give that file."


def _target(file: Path, target: Any, place: str) -> str:
    """The full name of a class in monai.networks; a bare name is looked for among MONAI's networks."""
    from importlib import import_module

    full = target if "." in str(target) else f"monai.networks.nets.{target}"
    home, _, name = str(full).rpartition(".")
    found = None
    if home.startswith("monai.networks."):
        try:
            found = getattr(import_module(home), name, None)
        except ImportError:
            found = None
    if not (
        isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith("monai.networks.")
    ):
        raise WeightsError(f"{file}: {place} asks for {target!r}, expected a class of monai.networks. {REFUSED}")
    return str(full)


# TorchScript ---------------------------------------------------------------------------------------------------------


def _torchscript(path: Path) -> Segmenter:
    """A scripted or traced network, (1, C, I, J, K) -> (1, R, I, J, K). Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"No file at {path}. Expected a TorchScript file (torch.jit.save); check the path.")
    extra = {STATED: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather have torch.export
            network = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError, OSError) as error:
        raise WeightsError(
            f"{path} is no TorchScript file, or is damaged. Expected what torch.jit.save(torch.jit.script(network), "
            "FILE) writes; weights alone (a state_dict) need the MONAI bundle they belong to."
        ) from error
    try:
        stated = Stated.model_validate_json(extra[STATED] or "{}")
        reading = _foreign(stated.contrasts, stated.regions, stated.multiple, stated.output)
    except ValidationError as error:
        raise WeightsError(f"{path}: {STATED} in it is not understood: {problems(error)}. Correct it.") from error
    return _tried(path, path.stem, network, reading)
