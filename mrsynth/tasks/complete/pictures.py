"""What a report shows of one synthetic contrast: montage and viewer, beside what it was made from."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mrsynth.contrasts import Contrast
from mrsynth.plain import Array
from mrsynth.reports.montage import Kind, Panel, montage
from mrsynth.reports.viewer import SubjectPicture, viewer_data
from mrsynth.scans.hounsfield import window_of
from mrsynth.scans.raw import Raw
from mrsynth.scans.views import View
from mrsynth.scans.volume import Volume
from mrsynth.scores.metrics import QUANTILES, to_unit
from mrsynth.tasks.complete.completion import Completed, in_u, spread

SQUARE_MM = 24
NOTES = {Contrast.T1CE: "never evidence of enhancement", Contrast.CT: "not for dose or diagnosis"}


def picture(
    raw: Raw,
    used: Sequence[Contrast],
    completion: Completed,
    target: Contrast,
    truth: Volume | None,
    *,
    viewer: bool,
) -> SubjectPicture:
    """Montage and, if it is wanted, viewer of the panels."""
    shown, view = panels(raw, used, completion, target, truth)
    data = viewer_data(shown, view.mask, view.spacing) if viewer else None
    return SubjectPicture(montage(shown, view.mask, spacing=view.spacing), data)


def panels(
    raw: Raw, used: Sequence[Contrast], completion: Completed, target: Contrast, truth: Volume | None = None
) -> tuple[list[Panel], View]:
    """Inputs, the synthetic image, mean, spread and error, and with a reference the truth and the difference, in LPS.

    A scan that was registered is also shown in a checkerboard with the one it was brought onto.
    """
    subject = raw.subject
    view = View.of(subject)

    def panel(title: str, u: Array, kind: Kind, low: float = 0.0, span: float = 1.0) -> Panel:
        """`low` and `span`: from u to the values of the file."""
        return Panel(title, view.shown(u), kind, (float(low), float(low + span)))

    scales, offsets = completion.prepared.scales, completion.prepared.record["offsets"]
    window, synthetic = completion.prepared.hounsfield, completion.in_u(target)
    own, full = window_of(target, window), spread(target, window)
    zero = own[0] if own else 0.0
    u = {c: (subject.volumes[c].voxels - offsets[c]) / scales[c] for c in used}
    shown = [panel(c.label, u[c], "input", offsets[c], scales[c]) for c in used]
    for c in (c for c in used if c in raw.registrations and raw.home in used):
        board = checkerboard(u[raw.home], u[c], subject.reference.spacing)
        shown.append(panel(f"{raw.home.label} and {c.label}", board, "input"))
    made = panel(f"synthetic {target.label}", synthetic, "synthetic", zero, full)
    shown.append(replace(made, note=NOTES.get(target, "")))
    if target in completion.means:
        mean = in_u(target, completion.means[target].voxels, window)
        shown.append(panel("mean of samples", mean, "synthetic", zero, full))
    if target in completion.spreads:
        shown.append(panel("spread of samples", completion.spreads[target].voxels / full, "uncertainty", span=full))
    if target in completion.errors:
        expected = panel("error to expect", completion.errors[target].voxels / full, "uncertainty", span=full)
        shown.append(replace(expected, note="of kinds that were seen in training"))
    if truth is not None:
        true = to_unit(truth.voxels, own)
        low, high = own or np.quantile(truth.voxels, QUANTILES)
        shown.append(panel(f"true {target.label}", true, "reference", low, high - low))
        shown.append(panel("difference", np.abs(true - synthetic), "difference"))
    return shown, view


def checkerboard(one: Array, other: Array, spacing: Sequence[float]) -> Array:
    """Two images (I, J, K) in turn, in cubes of 24 mm: where they fit, edges run on from one into the other."""
    rows, columns, planes = (np.arange(n) * step // SQUARE_MM for n, step in zip(one.shape, spacing, strict=True))
    number = rows[:, None, None] + columns[None, :, None] + planes[None, None, :]
    board: Array = np.where(number % 2 == 0, one, other)
    return board
