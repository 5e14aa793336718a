"""From scans as the scanner wrote them, each on its own grid and with the whole head, to a subject on one grid."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.plain import Mask
from mrsynth.scans.alignment import Registration, cannot_register, register, resampled
from mrsynth.scans.bias import corrected
from mrsynth.scans.foreground import LARGER, shown, shows_air
from mrsynth.scans.headers import Forms, brought_over, check_grids, exactly_on
from mrsynth.scans.stripping import head_volume, shows_the_head
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import Volume, same_grid

Align = Literal["auto", "off", "force"]

# Which contrast the others are brought onto where grids differ: the one that is usually sharpest in three dimensions.
ONTO = (Contrast.T1CE, Contrast.T1, Contrast.FLAIR, Contrast.T2)
STRIPPED_ON = (Contrast.T1, Contrast.T1CE, Contrast.FLAIR, Contrast.T2)  # deepbet was trained on T1
CUT_OFF = 0.1  # of a face of the grid that a brain with nothing around it may fill
DILATION_MM = 8.0  # of the brain, for the second registration

WHOLE_HEAD = (
    "The scans show the whole head, and so do the pictures of the report: a face can be rebuilt from them. Do not "
    "share it."
)

FindBrain = Callable[[Volume], Mask]


@dataclass(frozen=True, eq=False)
class Raw:
    """A subject on one grid, and what was done to bring it there.

    home           the contrast whose own grid that is
    registrations  of the other contrasts, where grids differed: points of `home` -> points of the contrast's own scan
    stripped_on    the contrast in which the brain was found; None where nothing was stripped
    notes          what a person should know, in sentences
    """

    subject: Subject
    home: Contrast
    registrations: Mapping[Contrast, Registration] = field(default_factory=dict)
    stripped_on: Contrast | None = None
    notes: tuple[str, ...] = ()


def brought_together(
    name: str,
    volumes: Mapping[Contrast, Volume],
    *,
    align: Align = "auto",
    onto: Contrast | None = None,
    find_brain: FindBrain | None = None,
    mask: tuple[Volume, Contrast] | None = None,
    segmentation: Volume | None = None,
    places: Mapping[Contrast, str] | None = None,
    forms: Mapping[Contrast, Forms] | None = None,
    n4: bool = False,
) -> Raw:
    """A subject on the grid of one of its scans, and of its brain alone where whole heads came in.

    align         auto: scans on different grids are registered, and refused where that looks implausible; force: taken
                  all the same; off: different grids are refused
    onto          the contrast that keeps its grid; None: on one grid the first, else the first of ONTO
    find_brain    (scan) -> mask on its grid, for whole heads without a mask; None leaves heads as they are, and so does
                  a CT among the scans, whose checkpoints know heads
    mask          a brain mask, and the contrast on whose grid it lies
    segmentation  labels on the grid of `onto`
    places        where each scan comes from, for messages
    forms         what the file of each says of its places
    n4            correct the slow brightness changes of every scan but a CT, which has none: `scans.bias.corrected`
    Grids that differ by header only are no matter of registration: see `scans.headers`.
    Raises InputError for grids that differ with align off, for a header that lost where its voxels lie, for what cannot
    be registered, and for an implausible registration, with its figures.
    """
    home = home_of(name, volumes, onto)
    volumes, turned = brought_over(volumes, home, forms)
    check_grids(name, volumes, home, align, forms, places)
    whole = [c for c, v in volumes.items() if shows_air(c, v) or shows_the_head(v)]
    head = Contrast.CT not in volumes and bool(whole)
    fixed = volumes[home]
    apart = {c: v for c, v in volumes.items() if not same_grid(v, fixed)}
    _refuse_what_cannot_be_registered(name, home, fixed, apart)
    found = {c: register(fixed, v) for c, v in apart.items()}
    bare = _without_skull(volumes, whole) if head and find_brain else None
    brain, stripped_on = _brain(volumes, home, found, find_brain if head else None, mask, bare)
    if brain is not None and apart:
        inside = dilated(brain, fixed, DILATION_MM)
        for c, volume in apart.items():
            again = register(fixed, volume, inside=inside, start=found[c].transform, check_mirror=False)
            found[c] = replace(
                again, before=found[c].before, mirrored=found[c].mirrored, information=found[c].information
            )
    _refuse_doubts(name, home, found, align)
    air = {c: float(v.voxels.min()) if c is Contrast.CT else 0.0 for c, v in apart.items()}  # 0 is water in a CT
    moved = {
        c: resampled(v, fixed, found[c].transform, outside=air[c]) if c in found else v for c, v in volumes.items()
    }
    if head and brain is not None:  # a scalp would pull every scale that is taken from the whole scan
        moved = {c: Volume(np.where(brain, v.voxels, np.float32(0)), v.affine) for c, v in moved.items()}
    if n4:
        if flat := [c.label for c, v in moved.items() if c is not Contrast.CT and min(v.shape) < 2]:
            raise InputError(f"{name}: --n4 needs at least 2 slices; found one in {', '.join(flat)}. Leave --n4 out.")
        moved = {c: v if c is Contrast.CT else corrected(v, brain) for c, v in moved.items()}
    brain_volume = None if brain is None else Volume(brain.astype(np.float32), fixed.affine)
    if segmentation is not None:
        segmentation = exactly_on(segmentation, fixed) or segmentation
    subject = Subject(name, moved, segmentation, brain_volume)
    notes = turned + _notes(home, found, stripped_on, mask is not None, bare is not None)
    if head and brain is None:
        notes.append(WHOLE_HEAD)
    return Raw(subject, home, found, stripped_on, tuple(notes))


def dilated(mask: Mask, like: Volume, millimetres: float) -> Mask:
    """The mask and everything within so many millimetres of it."""
    import SimpleITK

    sitk: Any = SimpleITK
    image = sitk.GetImageFromArray(np.ascontiguousarray(mask.T).astype(np.uint8))
    image.SetSpacing(like.spacing)
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    wide: Mask = np.ascontiguousarray(sitk.GetArrayFromImage(distance).T) <= millimetres
    return wide


def home_of(name: str, volumes: Mapping[Contrast, Volume], onto: Contrast | None) -> Contrast:
    """Whose grid is kept: that of `onto`; without it the first, and where grids differ the first of ONTO."""
    if onto is not None:
        if onto not in volumes:
            there = ", ".join(c.label for c in volumes)
            raise InputError(f"{name}: --reference-contrast {onto} is not there; there are {there}.")
        return onto
    first = next(c for c in Contrast if c in volumes)
    if all(exactly_on(v, volumes[first]) is not None for v in volumes.values()):
        return first
    return next((c for c in ONTO if c in volumes), first)


def _brain(
    volumes: Mapping[Contrast, Volume],
    home: Contrast,
    found: Mapping[Contrast, Registration],
    find_brain: FindBrain | None,
    mask: tuple[Volume, Contrast] | None,
    bare: Contrast | None,
) -> tuple[Mask | None, Contrast | None]:
    """The brain on the grid of `home`, and in which contrast it was found; None for neither mask nor head.

    bare   a contrast that shows nothing but the brain
    """
    if mask is not None:
        given, source = mask
        stripped_on = None
    elif bare is not None:
        source = stripped_on = bare
        given = Volume(shown(bare, volumes[bare]).astype(np.float32), volumes[bare].affine)
    elif find_brain is not None:
        source = stripped_on = next((c for c in STRIPPED_ON if c in volumes), home)
        given = Volume(find_brain(volumes[source]).astype(np.float32), volumes[source].affine)
    else:
        return None, None
    if source in found:
        given = resampled(given, volumes[home], found[source].transform, nearest=True)
    else:
        given = exactly_on(given, volumes[home]) or given
    brain: Mask = given.voxels > 0
    return brain, stripped_on


def _without_skull(volumes: Mapping[Contrast, Volume], whole: Collection[Contrast]) -> Contrast | None:
    """A contrast that was stripped before, beside others with the whole head or with noise all around, nowhere cut off.

    A head is much larger than it; noise may lie around a brain that is as large.
    """
    noisy = any(shows_air(c, volumes[c]) for c in whole)
    largest = max(head_volume(volumes[c]) for c in whole)
    for contrast in STRIPPED_ON:
        if contrast in volumes and contrast not in whole:
            seen = shown(contrast, volumes[contrast])
            size = int(seen.sum()) * volumes[contrast].voxel_volume / 1000
            edges = [np.moveaxis(seen, axis, 0)[end].mean() for axis in range(3) for end in (0, -1)]
            if (noisy or largest > LARGER * size) and size > 0 and max(edges) < CUT_OFF:
                return contrast
    return None


def _refuse_what_cannot_be_registered(
    name: str, home: Contrast, fixed: Volume, apart: Mapping[Contrast, Volume]
) -> None:
    for c, volume in {home: fixed, **apart}.items() if apart else ():
        if why := cannot_register(volume):
            raise InputError(
                f"{name}: {', '.join(other.label for other in apart)} and {home.label} lie on different grids, and "
                f"{c.label} cannot be registered: {why}. Resample the scans to one grid first, or leave {c.label} out."
            )


def _refuse_doubts(name: str, home: Contrast, found: Mapping[Contrast, Registration], align: Align) -> None:
    doubtful = {c: r.doubts() for c, r in found.items() if r.doubts()}
    if doubtful and align != "force":
        lines = [f"  {c.label}: {'; '.join(doubts)}" for c, doubts in doubtful.items()]
        raise InputError(
            f"{name}: the scans lie on different grids, and registering them to the {home.label} looks implausible:\n"
            + "\n".join(lines)
            + "\nAre all of one person, and of the head? --align force takes it all the same; --reference-contrast "
            "names another scan to register to."
        )


def _notes(
    home: Contrast, found: Mapping[Contrast, Registration], on: Contrast | None, masked: bool, bare: bool
) -> list[str]:
    notes = []
    for c, r in found.items():
        notes.append(
            f"{c.label} was registered to {home.label}: turned by {r.angle:.1f} degrees, moved by {r.shift:.1f} mm "
            f"(mutual information {r.before:.2f} -> {r.information:.2f} nats)."
        )
        notes += [f"Doubtful: {doubt}." for doubt in r.doubts()]
    if on is not None and bare:
        notes.append(
            f"The {on.label} comes without its skull, others with it or with noise around: what lies outside its brain "
            "was set to 0."
        )
    elif on is not None:
        notes.append(f"The brain was found in the {on.label}; everything outside it was set to 0.")
        if on not in (Contrast.T1, Contrast.T1CE):
            notes.append(
                f"Brain extraction is meant for T1-weighted scans of adults; it had only the {on.label}: "
                "look at the mask."
            )
    elif masked and found:
        notes.append("The brain mask given was carried over by the registration.")
    return notes
