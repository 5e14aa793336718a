"""What the checkpoint of a run says of itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrsynth.card import Card
from mrsynth.contrasts import Contrast, patterns
from mrsynth.io.cache import CachedSubject
from mrsynth.methods.base import Method, Trainable
from mrsynth.sampling import AXIAL, Plane
from mrsynth.tasks.train.config import RunConfig


def card_of(
    config: RunConfig,
    method: Trainable,
    training: Sequence[CachedSubject],
    supplied: Mapping[str, Sequence[Plane]] | None = None,
) -> Card:
    """What the checkpoint will say of itself, with the intensity histograms of its training data.

    supplied   as `planes_of` has it
    """
    intensity: dict[Contrast, tuple[float, ...]] = {}
    for channel, contrast in enumerate(method.contrasts):
        having = [s.histograms[channel] for s in training if s.present[channel]]
        if having:
            intensity[contrast] = tuple(np.mean(having, axis=0).round(6).tolist())
    return Card(
        name=config.name,
        method=config.method["method"],
        contrasts=method.contrasts,
        requires=requirements(method) if isinstance(method, Method) else {},  # a segmenter makes no contrast
        licence=config.licence,
        subjects=counts(method.contrasts, training),
        sampling=sampling_of(method) if isinstance(method, Method) else {},
        planes=planes_of(config, method, supplied or {}),
        training_data=config.data.sources,
        intensity=intensity,
    )


def planes_of(config: RunConfig, method: Trainable, supplied: Mapping[str, Sequence[Plane]]) -> tuple[Plane, ...]:
    """The planes whose slices every stage learnt from.

    supplied   stage that is not trained -> planes of the card of the checkpoint that it comes from; where that is not
               known, axial ones
    """
    stages = [
        supplied.get(stage, AXIAL) if stage in config.given else config.training_of(stage).planes
        for stage in method.stages
    ]
    return tuple(plane for plane in stages[-1] if all(plane in planes for planes in stages))


def sampling_of(method: Method) -> dict[str, Any]:
    """What its card says of sampling: the modes, the default first, and the chain of mode sample if it has one."""
    sampler, steps = method.chain
    chain = {"sampler": sampler, "steps": steps} if "sample" in method.modes else {}
    return {"mode": method.modes[0], "modes": list(method.modes), **chain}


def counts(contrasts: Sequence[Contrast], training: Sequence[CachedSubject]) -> dict[Contrast, int]:
    """How many subjects have each contrast; one that counts several times is one."""
    once = {subject.name: subject for subject in training}.values()
    return {c: sum(subject.present[channel] for subject in once) for channel, c in enumerate(contrasts)}


def requirements(method: Method) -> dict[Contrast, tuple[Contrast, ...]] | None:
    """The inputs that each target needs: those of every pattern it can be made from. None when any subset will do."""
    cases = [(set(p), t) for p in patterns(method.contrasts) for t in method.contrasts if t not in p]
    if all(method.supports(given, t) for given, t in cases):
        return None
    able = {t: [given for given, target in cases if target is t and method.supports(given, t)] for t in method.targets}
    return {
        t: tuple(c for c in method.contrasts if all(c in given for given in sets)) for t, sets in able.items() if sets
    }
