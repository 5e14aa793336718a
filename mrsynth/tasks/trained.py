"""What makes images: one method with its trained weights, or a committee of several. `models` loads them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mrsynth.card import Card, Committee
from mrsynth.contrasts import Contrast
from mrsynth.devices import choose_device, choose_precision
from mrsynth.errors import UsageError
from mrsynth.io.store import Resolved
from mrsynth.methods.base import Method
from mrsynth.methods.committee import average, onto
from mrsynth.methods.error_map import ErrorMap, Seen
from mrsynth.plain import Array, Progress
from mrsynth.sampling import (
    AXIAL,
    DIRECT,
    EACH_ONE_CALL,
    FAST_STEPS,
    ONE_CALL,
    Crop,
    Draws,
    Estimator,
    Plane,
    Sampling,
    check_chain,
    fast_steps,
    mode_of,
)
from mrsynth.scans.preparation import PreparationConfig, Prepared, prepare
from mrsynth.scans.subject import Subject
from mrsynth.synthesis import Synthesis, synthesise_volume
from mrsynth.texts import meant

View = tuple[PreparationConfig, tuple[Contrast, ...]]  # how a member sees a subject, and what it does not read
NOT_OF_DIRECT = ("steps", "samples", "noise")  # one call of the decoders has none of them


@dataclass(frozen=True, eq=False)
class TrainedMethod:
    """A method with its trained weights, and all that the checkpoint says of itself.

    noise   the generator of its samples unless told otherwise: v1 of files of format 1, which sample as they did
    """

    method: Method
    card: Card
    preparation: PreparationConfig
    sha256: str
    noise: Draws = "v2"

    def __repr__(self) -> str:
        return f"<TrainedMethod {self.card.name}, {self.card.method}: {self.card.ability}>"

    @property
    def network(self) -> Any:
        """The bare network, for those who want to call it themselves."""
        return self.method.network

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """In the order of the channels."""
        return self.method.contrasts

    def estimator(self, asked: Sampling) -> Estimator:
        """What a request comes to: what it leaves open is the checkpoint's choice, else the method's.

        Raises UsageError for a mode that the weights cannot do or an option it does not have, for a device that is not
        there, and for a precision that does not exist.
        """
        said = {"modes": self.method.modes, **self.card.sampling}
        mode = mode_of(said, asked, self.card.name, self.card.method, self.card.planes)
        if asked.planes and self.method.dimensions == 3:
            raise UsageError(f"--planes: {self.card.name} makes whole volumes, not slices. Leave it out.")
        sampler, steps, samples = ONE_CALL, 1, 1
        if mode == "sample":
            own = said if "mode" in said else {}  # a card of 0.1.0 speaks of its draws
            usual = self.method.chain
            sampler = asked.sampler or own.get("sampler") or usual[0]
            steps = int(own.get("steps") or usual[1])
            steps = asked.steps or (min(steps, FAST_STEPS) if asked.fast else steps)
            samples = asked.samples or 1
        elif mode is None:
            sampler = asked.sampler or str(self._default("sampler") or "ddpm")
            steps = int(self._default("steps") or self._default("T") or 1)
            steps = asked.steps or (fast_steps(steps) if asked.fast else steps)
            samples = asked.samples or (1 if asked.fast else int(said.get("samples") or 1))
        if mode != "mean":
            check_chain(sampler, asked)
            self._check_chain(sampler, steps, asked)
        if sampler == DIRECT:
            steps, samples = 1, 1
        how = Estimator(
            sampler=sampler,
            steps=steps,
            samples=samples,
            mode=mode or "draws",
            noise=asked.noise or self.noise,
            eta=(self.method.eta if asked.eta is None else asked.eta) if sampler == "ddim" else None,
            variance=(asked.variance or self.method.variance_of(steps)) if sampler == "ddpm" else None,
            planes=asked.planes or AXIAL,
            cycle_spinning=asked.cycle_spinning,
        )
        return settled(asked, how)

    def prepare(self, subject: Subject, crop: Crop | None = None) -> Prepared:
        """A subject as the network sees it. Raises InputError."""
        return seen(subject, self.card, self.contrasts, self.preparation, crop)

    def synthesise(
        self,
        subject: Subject,
        prepared: Prepared,
        how: Estimator,
        *,
        targets: Collection[Contrast] | None = None,
        slices: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Synthesis:
        """Make what a subject lacks: at least the targets, None for all, on all slices or, where it can, only on these,
        which then are made as axial slices alone.

        prepared   by `prepare`, from the same subject
        """
        self.method.to(how.device).optimise(how.precision)
        only = slices if self.method.dimensions == 2 else None
        about = (self.method, prepared, subject.name, how)
        return synthesise_volume(*about, targets=targets, slices=only, progress=progress)

    def planes(self, how: Estimator, name: str) -> tuple[Plane, ...]:
        """Of the slices that the image is made from."""
        return how.planes

    def taking_part(self, available: Collection[Contrast], target: Contrast) -> tuple[Resolved, ...]:
        """The members of a committee that make a contrast; none of a single method."""
        return ()

    @property
    def brightness(self) -> Mapping[Contrast, float]:
        """How far overall brightness is likely to be wrong, in u, by contrast: not known of a single method."""
        return {}

    def cautions(self, how: Estimator) -> tuple[str, ...]:
        """What speaks against sampling so, in sentences for the user."""
        return self.method.cautions(how.sampler, how.steps, how.variance)

    def _check_chain(self, sampler: str, steps: int, asked: Sampling) -> None:
        """Raise UsageError for a sampler that the method does not have, and for options that it does not read."""
        if sampler not in self.method.samplers:
            raise UsageError(
                f"{self.card.name} has no sampler {sampler!r}; it has {', '.join(self.method.samplers)}. "
                f"Leave --sampler out.{meant(sampler, self.method.samplers)}"
            )
        if sampler == DIRECT:
            if given := [f"--{name}" for name in NOT_OF_DIRECT if getattr(asked, name) is not None]:
                raise UsageError(
                    f"{' and '.join(given)} with --sampler {DIRECT}, which is one call that draws nothing."
                )
        elif (levels := getattr(self.method.config, "T", None)) and steps > levels:
            raise UsageError(f"Cannot take {steps} sampling steps from a chain of {levels} levels; give 1 to {levels}.")

    def _default(self, name: str) -> Any:
        return self.card.sampling.get(name) or getattr(self.method.config, name, None)


@dataclass(frozen=True, eq=False)
class TrainedCommittee:
    """Several trained methods and the rule by which the mean of their images is made (mrsynth/methods/committee.py).

    members   their files, verified
    leader    the preparation of the member that leads: on its grid the images meet
    load      builds a checkpoint, or has it already; each is asked for when its turn comes, so that only one network
              need be in memory
    errors    says where the images are likely to be wrong, if the committee carries that
    """

    card: Card
    rule: Committee
    sha256: str
    members: tuple[Resolved, ...]
    leader: PreparationConfig
    load: Callable[[Resolved], TrainedMethod]
    errors: ErrorMap | None = None

    def __repr__(self) -> str:
        names = ", ".join(member.card.name for member in self.members)
        return f"<TrainedCommittee {self.card.name} of {names}: {self.card.ability}>"

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """In the order of the channels."""
        return self.card.contrasts

    def estimator(self, asked: Sampling) -> Estimator:
        """What a request comes to. Raises UsageError as a single method does, and for any mode but mean."""
        mode_of(self.card.sampling, asked, self.card.name, self.card.method)
        return settled(asked, Estimator(sampler=EACH_ONE_CALL, steps=1, mode="mean", planes=asked.planes or ()))

    def prepare(self, subject: Subject, crop: Crop | None = None) -> Prepared:
        """A subject as the leader sees it. Raises InputError."""
        return seen(subject, self.card, self.contrasts, self.leader, crop)

    def synthesise(
        self,
        subject: Subject,
        prepared: Prepared,
        how: Estimator,
        *,
        targets: Collection[Contrast] | None = None,
        slices: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Synthesis:
        """Make what a subject lacks by every member that can, one after the other, and average.

        Each member sees the subject as its training data were prepared, in the part of it that `prepared` shows. Errors
        are told where two members or more took part.
        """
        available = {c for c, there in zip(prepared.contrasts, prepared.available, strict=True) if there}
        wanted = [c for c in (self.contrasts if targets is None else targets) if c not in available]
        made: dict[Contrast, dict[str, Array]] = {target: {} for target in wanted}
        views: list[tuple[View, Prepared]] = [((self.leader, self.card.unlearnt), prepared)]
        for member in self.members:
            own_targets = [t for t in wanted if member in self.taking_part(available, t)]
            if not own_targets:
                continue
            trained = self.load(member)
            view = (trained.preparation, trained.card.unlearnt)
            own = next((known for kind, known in views if kind == view), None)
            if own is None:
                own = trained.prepare(subject, prepared.record["crop"])
                views.append((view, own))
            image = trained.synthesise(
                subject,
                own,
                replace(how, sampler=ONE_CALL, planes=self.planes(how, member.card.name)),
                targets=own_targets,
                slices=slices if same_planes(own, prepared) else None,
                progress=named(progress, member.card.name),
            ).image
            for target in own_targets:
                made[target][member.card.name] = onto(image[own.contrasts.index(target)], own, prepared)
        weights = {member.name: member.weight for member in self.rule.members}
        brain = prepared.mask.copy()
        if slices is not None:
            brain[..., np.setdiff1d(np.arange(brain.shape[-1]), slices)] = False
        image = prepared.images.copy()
        error = None if self.errors is None else np.zeros_like(image)
        for target, images in made.items():
            channel, each = prepared.contrasts.index(target), [weights[name] for name in images]
            image[channel], disagreement = average(images, each, self.rule.brightness, brain)
            if error is not None and self.errors is not None and len(images) > 1:
                error[channel] = self.errors.expected(
                    Seen(image[channel], disagreement, prepared.images, prepared.available, channel, brain)
                )
        return Synthesis(image, None, None, error)

    def planes(self, how: Estimator, name: str) -> tuple[Plane, ...]:
        """Of the slices that the image of a member, by its name, is made from."""
        return how.planes or next(member.planes for member in self.rule.members if member.name == name)

    def taking_part(self, available: Collection[Contrast], target: Contrast) -> tuple[Resolved, ...]:
        """The members that make a contrast from these: those that can."""
        return tuple(member for member in self.members if member.card.supports(frozenset(available), target))

    @property
    def brightness(self) -> Mapping[Contrast, float]:
        """How far overall brightness is likely to be wrong, in u, by contrast, where the committee carries that."""
        return {} if self.errors is None else self.errors.brightness

    def cautions(self, how: Estimator) -> tuple[str, ...]:
        """None: nothing is drawn."""
        return ()


Trained = TrainedMethod | TrainedCommittee


def settled(asked: Sampling, how: Estimator) -> Estimator:
    """An estimator with the seed, the device and the precision of a request. Raises UsageError."""
    device = choose_device(asked.device)
    return replace(
        how,
        seed=asked.seed,
        device=device,
        precision=choose_precision(asked.precision, device),
        batch_size=32 if device.startswith("cuda") else 8,
    )


def seen(
    subject: Subject, card: Card, contrasts: Sequence[Contrast], config: PreparationConfig, crop: Crop | None
) -> Prepared:
    """A subject prepared as the training data, without the contrasts that no training subject had. Raises InputError.

    crop   in place of that of the training data; None leaves it
    """
    if crop is not None:
        config = config.model_copy(update={"crop": crop})
    return prepare(subject.without(*card.unlearnt), contrasts, config)


def same_planes(one: Prepared, other: Prepared) -> bool:
    """Whether plane n of both is the same plane of the subject."""
    grids = [(p.grid.orientation, p.grid.resampling, p.record["box"][2], p.record["padding"][2]) for p in (one, other)]
    return grids[0] == grids[1]


def named(progress: Progress | None, name: str) -> Progress | None:
    """Progress that says whose it is."""
    return None if progress is None else lambda what, done, total: progress(f"{name}: {what}", done, total)
