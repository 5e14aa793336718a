"""Trained methods and committees, from their checkpoints."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import patterns
from mrsynth.devices import choose_device, choose_precision
from mrsynth.errors import UsageError, WeightsError
from mrsynth.io.checkpoint import Checkpoint, Header, read_checkpoint, read_header
from mrsynth.io.files import path_of
from mrsynth.io.store import Resolved, located, members_of, resolve
from mrsynth.methods import build_method, config_of_format_1, sampler_names
from mrsynth.methods.base import Method
from mrsynth.sampling import Sampling
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.tasks.checkpoints.former import import_again, outdated
from mrsynth.tasks.error_maps import error_map_of
from mrsynth.tasks.scrutiny import check_card, check_finite, check_settings, no_larger_than
from mrsynth.tasks.trained import Trained, TrainedCommittee, TrainedMethod
from mrsynth.texts import meant

log = logging.getLogger(__name__)


def check_sampling(asked: Sampling) -> None:
    """Raise UsageError for a sampler that no method knows, a device that is not there, or an unknown precision."""
    if asked.sampler is not None and asked.sampler not in sampler_names():
        hint = meant(asked.sampler, sampler_names())
        raise UsageError(f"There is no sampler '{asked.sampler}'. Give one of {', '.join(sampler_names())}.{hint}")
    choose_precision(asked.precision, choose_device(asked.device))


def load_method(name_or_path: str | Path) -> Trained:
    """A trained method by its name in the manifest or by the path of a .safetensors file, on the CPU in float32; or a
    committee of several, by its name.

    Raises WeightsError when the checkpoint is unknown, damaged, or does not fit the network it names; UsageError for
    what is neither a name nor a path.
    """
    path_of("The name or path of a checkpoint", name_or_path)
    return load(resolve(str(name_or_path)))  # `./x` is a path, `x` a name


def load_network(name_or_path: str | Path) -> TrainedMethod:
    """The same where one network is wanted. Raises UsageError for a committee."""
    found = load_method(name_or_path)
    if isinstance(found, TrainedCommittee):
        names = ", ".join(member.card.name for member in found.members)
        raise UsageError(f"{name_or_path} is a committee of several networks; give one of them: {names}.")
    return found


def load(found: Resolved, models: Callable[[Resolved], TrainedMethod] | None = None) -> Trained:
    """What a located checkpoint is. Raises WeightsError.

    models   builds one network, or has it already; None for `build`
    """
    models = models or build
    entry = found.card
    if not isinstance(entry, ManifestEntry) or entry.committee is None:
        return models(found)
    members = tuple(located(member) for member in members_of(entry))
    first = read_header(members[entry.committee.leader].path)
    return TrainedCommittee(
        card=with_histograms(entry, first),
        rule=entry.committee,
        sha256=found.sha256,
        members=members,
        leader=preparation_of(first),
        load=models,
        errors=error_map_of(found),
    )


def build(found: Resolved) -> TrainedMethod:
    """The method of a located checkpoint, one network. Raises WeightsError."""
    checkpoint = read_checkpoint(found.path)
    check_finite(found.path, checkpoint.tensors)
    check_card(found.path, found.card)
    check_settings(found.path, {**checkpoint.config, "preparation": checkpoint.preparation})
    try:
        with no_larger_than(found.path, checkpoint.tensors):
            method = build_method(config_of(checkpoint))
        preparation = preparation_of(checkpoint)
        if checkpoint.format == 1:
            checkpoint = replace(checkpoint, tensors=method.tensors_of_format_1(checkpoint.tensors))
    except (ValueError, UsageError, TypeError, LookupError, ArithmeticError, RuntimeError, AssertionError) as error:
        # the last five of networks that cannot be built: nobody foresees every nonsense in a configuration
        raise WeightsError(
            f"{found.path} was written by {checkpoint.written_by}; this version of mrsynth cannot use its "
            f"configuration: {error} Use the version that wrote it, or train it again."
        ) from error
    if wrong := misfits(method, preparation, found.card, checkpoint):
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WeightsError(
            f"{found.path}: the weights do not fit the {found.card.method} network that its header describes: "
            f"{'; '.join(wrong[:3])}{more}. The file was changed or made by another version; get it again."
        )
    if checkpoint.card.note.startswith("Unfinished"):  # as a training of several stages says of itself on the way
        log.warning("%s: %s What it makes may be worth nothing.", found.path, checkpoint.card.note)
    if outdated(checkpoint):
        log.warning(
            "%s: as mrsynth 0.1.0 converted it, it visits %d of %d levels by ddpm with the variance of the whole "
            "chain, which leaves noise in the image. `%s` converts it anew.",
            found.path,
            checkpoint.card.sampling["steps"],
            checkpoint.config["T"],
            import_again(checkpoint, found.path),
        )
    method.load_state_dict({**method.state_dict(), **checkpoint.tensors})  # it may lack what only training needs
    method.eval().requires_grad_(False)
    card = with_histograms(found.card, checkpoint)
    return TrainedMethod(method, card, preparation, found.sha256, "v1" if checkpoint.format == 1 else "v2")


def with_histograms(card: Card, header: Header) -> Card:
    """A card with the long histograms of intensities, which the manifest may leave to the file."""
    return card.model_copy(update={"intensity": card.intensity or header.card.intensity})


def config_of(header: Header) -> dict[str, Any]:
    """A method's configuration as this version means it. Raises UsageError or ValueError for what it cannot mean."""
    return config_of_format_1(header.config) if header.format == 1 else header.config


def preparation_of(header: Header) -> PreparationConfig:
    """The preparation of a checkpoint as this version means it. Raises ValueError for what it cannot mean."""
    said = header.preparation
    return PreparationConfig.model_validate(PreparationConfig.from_format_1(said) if header.format == 1 else said)


def misfits(method: Method, preparation: PreparationConfig, card: Card, checkpoint: Checkpoint) -> list[str]:
    """What keeps a method from using a checkpoint, in words."""
    wrong = []
    if card.contrasts != method.contrasts or card.method != checkpoint.config["method"]:
        wrong.append(
            f"the card is of {card.method} for {', '.join(card.contrasts)}, the network of "
            f"{checkpoint.config['method']} for {', '.join(method.contrasts)}"
        )
    cases = [(set(p), t) for p in patterns(method.contrasts) for t in method.contrasts]
    if any(card.supports(given, t) and not method.supports(given, t) for given, t in cases if t not in given):
        wrong.append("the card promises what this network cannot make")
    sides = preparation.multiples[: method.dimensions]
    if bad := [side for side in sides if side % method.multiple]:
        wrong.append(f"images are padded to multiples of {bad[0]}, expected of {method.multiple}")
    return wrong + tensors_misfit(method, checkpoint.tensors)


def tensors_misfit(method: Method, given: Mapping[str, torch.Tensor], beginnings: tuple[str, ...] = ("",)) -> list[str]:
    """What keeps these tensors from being the state of the method, in words; they may lack what only training needs.

    beginnings   of the names that matter: a part of the state
    """
    expected = {key: tensor for key, tensor in method.state_dict().items() if key.startswith(beginnings)}
    return differing(expected, given, method.training_only())


def differing(
    expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], spared: tuple[str, ...] = ()
) -> list[str]:
    """What keeps tensors from being those expected, by names and shapes, in words.

    spared   beginnings of names that may be missing
    """
    wrong = [f"missing {key}" for key in expected if key not in given and not key.startswith(spared)]
    wrong += [f"unknown {key}" for key in given if key not in expected]
    return wrong + [
        f"{key} has shape {tuple(given[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in given and given[key].shape != expected[key].shape
    ]
