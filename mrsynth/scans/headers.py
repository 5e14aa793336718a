"""What differs between scans by their headers only; it is judged before any registration, and never registered.

Rounding puts the voxels of one grid a small fraction of a voxel apart. Another order of axes is the same grid, stored
otherwise: the array is turned, and nothing interpolated. A form that one of the files lost is named, with the remedy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.plain import Doubles
from mrsynth.scans.grid import axis_code
from mrsynth.scans.subject import describe_grid
from mrsynth.scans.volume import Volume, same_grid

SAME_PLACE = 0.1  # of a voxel's shortest side: places so near are the same
# A quaternion in single precision turns a grid about its first voxel, at half a turn by up to 8e-4; an affine written
# with three decimals does likewise. No head moves so that its first voxel stays where it is.
FIRST_VOXEL = 0.01  # of a voxel
TURN = 1e-3
FARTHEST = 0.5  # of a voxel, at the last corner
ELSEWHERE = 10.0  # mm between the middles: an affine that begins at 0 puts a head there


@dataclass(frozen=True, eq=False)
class Forms:
    """Where a file says that its voxels lie: affines to mm in RAS+, None for a form whose code is 0.

    mistaken  the unit that it states although no head is so large or small in it: its numbers are taken as mm
    """

    sform: Doubles | None
    qform: Doubles | None
    mistaken: str = ""

    @property
    def known(self) -> bool:
        """Whether it says where left and right are."""
        return self.sform is not None or self.qform is not None

    @property
    def opposed(self) -> bool:
        """Whether the two forms run an axis of the voxels in directions more than 60 degrees apart."""
        if self.sform is None or self.qform is None:
            return False
        one, other = (form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0) for form in (self.sform, self.qform))
        return bool(((one * other).sum(axis=0) < 0.5).any())


def exactly_on(volume: Volume, fixed: Volume, *, known: bool = True) -> Volume | None:
    """The volume with the shape and the affine of `fixed`, where the two differ by header only; None where not.

    known   whether both say where they lie, or neither; one that does not is not turned by an affine that is made up
    Axes are permuted and reversed (a view of the voxels), never interpolated. What is on the same grid already comes
    back as it is.
    """
    if same_grid(volume, fixed):
        return volume
    if not known:
        return None
    turn = np.linalg.inv(fixed.affine[:3, :3]) @ volume.affine[:3, :3]
    order = np.abs(turn).argmax(axis=1)
    if sorted(order) != [0, 1, 2]:
        return None
    turned, affine = volume.voxels.transpose(order), np.eye(4)
    affine[:, :3], affine[:, 3] = volume.affine[:, order], volume.affine[:, 3]
    for axis, column in enumerate(order):
        if turn[axis, column] < 0:
            turned = np.flip(turned, axis)
            affine[:, 3] += (turned.shape[axis] - 1) * affine[:, axis]
            affine[:, axis] *= -1
    return Volume(turned, fixed.affine) if _same_places(Volume(turned, affine), fixed) else None


def brought_over(
    volumes: Mapping[Contrast, Volume], home: Contrast, forms: Mapping[Contrast, Forms] | None = None
) -> tuple[dict[Contrast, Volume], list[str]]:
    """The volumes, those that differ from that of `home` by header only on its grid; and what was turned, in sentences.

    forms   what each file says of its places; None where there are no files
    """
    fixed, done, notes = volumes[home], {}, []
    for contrast, volume in volumes.items():
        same = exactly_on(volume, fixed, known=forms is None or forms[contrast].known == forms[home].known)
        own, code = axis_code(volume.affine), axis_code(fixed.affine)
        if same is not None and own != code:
            same = Volume(np.asfortranarray(same.voxels), same.affine)
            notes.append(
                f"{contrast.label} is stored in another order of axes ({own}) and was turned to {code}, exactly."
            )
        done[contrast] = volume if same is None else same
    return done, notes


def check_grids(
    name: str,
    volumes: Mapping[Contrast, Volume],
    home: Contrast,
    align: str,
    forms: Mapping[Contrast, Forms] | None = None,
    places: Mapping[Contrast, str] | None = None,
) -> None:
    """Raise InputError for grids that differ although the images do not, and with align off for any that differ.

    volumes  as `brought_over` gives them; of their voxels only the shape counts
    forms    what each file says of its places; None where there are no files
    places   where each scan comes from, for messages
    """
    named = {c: (places or {}).get(c, c.label) for c in volumes}
    apart = [c for c, v in volumes.items() if not same_grid(v, volumes[home])]
    lost: dict[Contrast, str] = {}
    for contrast in apart if forms and align != "force" else ():
        assert forms is not None
        for one, other in ((contrast, home), (home, contrast)):
            if cause := _lost(volumes[one], forms[one], volumes[other], forms[other], other.label):
                remedy = f"If so, no resampling is needed: copy the geometry, fslcpgeom {named[other]} {named[one]}"
                lost.setdefault(one, f"{named[one]}: {one.label} {cause}. {remedy}")
    if lost:
        raise InputError(f"{name}: scans lie on different grids by their headers only.\n" + "\n".join(lost.values()))
    if apart and align == "off":
        other = apart[0]
        raise InputError(
            f"{name}: {home.label} and {other.label} lie on different grids: {_how(volumes[home], volumes[other])}.\n"
            f"{describe_grid(named[home], volumes[home])}\n{describe_grid(named[other], volumes[other])}\n"
            "`mrsynth complete` registers them (--align auto); here they must be on one grid: resample them first."
        )


def _same_places(a: Volume, b: Volume) -> bool:
    if a.shape != b.shape:
        return False
    last = [n - 1 for n in a.shape]
    corners = np.array([[i, j, k, 1] for i in (0, last[0]) for j in (0, last[1]) for k in (0, last[2])])
    apart = np.linalg.norm((corners @ (a.affine - b.affine).T)[:, :3], axis=1) / min(b.spacing)
    turned = np.abs((a.affine - b.affine)[:3, :3] / b.spacing).max()
    rounded = apart[0] <= FIRST_VOXEL and turned <= TURN and apart.max() <= FARTHEST
    return bool(apart.max() <= SAME_PLACE or rounded)


def _lost(one: Volume, own: Forms, other: Volume, others: Forms, label: str) -> str:
    """What `one` lost of its header, if that is why it lies elsewhere than `other`; else empty."""
    alike = one.shape == other.shape and np.allclose(one.spacing, other.spacing, rtol=0.01)
    if not own.known and others.known:
        return f"does not say where it lies (sform and qform codes are 0), {label} of the same size does" * alike
    alike = alike or (one.shape == other.shape and set(one.spacing) == {1})
    if alike and _is_default(one) and not _is_default(other) and _between_middles(one, other) > ELSEWHERE:
        return f"begins at 0 and its axes are not turned, as where a program lost the header; {label} has one"
    if own.sform is None and own.qform is not None and others.sform is not None and others.qform is not None:
        together = exactly_on(Volume(one.voxels, own.qform), Volume(other.voxels, others.qform))
        return f"has lost its sform (code 0); its qform is that of {label}, which has an sform" * (together is not None)
    return ""


def _is_default(volume: Volume) -> bool:
    """Whether the affine is what nibabel (RAS) or ITK (LPS) writes of an array that has none: no scanner gives it."""
    sizes = np.array([*volume.spacing, 1.0])
    return any(np.array_equal(volume.affine, np.diag(signs * sizes)) for signs in ([1, 1, 1, 1], [-1, -1, 1, 1]))


def _between_middles(a: Volume, b: Volume) -> float:
    """How far the middles of two images lie apart, in mm."""
    one, other = (v.affine @ [*(np.array(v.shape) - 1) / 2, 1] for v in (a, b))
    return float(np.linalg.norm(one - other))


def _how(a: Volume, b: Volume) -> str:
    """How two grids differ, in words."""
    if sorted(a.shape) != sorted(b.shape):
        return f"{'x'.join(map(str, a.shape))} and {'x'.join(map(str, b.shape))} voxels"
    if not np.allclose(sorted(a.spacing), sorted(b.spacing), rtol=0.01):
        return (
            f"voxels of {' x '.join(f'{s:.3g}' for s in a.spacing)} and {' x '.join(f'{s:.3g}' for s in b.spacing)} mm"
        )
    moved = _between_middles(a, b)
    return f"equal in size, with their middles {moved:.2g} mm apart, {axis_code(a.affine)} and {axis_code(b.affine)}"
