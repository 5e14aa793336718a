"""The named ways to compare a synthetic volume with the true one. Only figures of one protocol can be compared.

Each protocol fixes normalisation, data range, region, SSIM window and reduction; docs/protocols.md shows them side by
side. Shared by all: the range is 1; the truth is clipped at the 0.1 / 99.9 % quantiles of its whole volume and scaled
to [0, 1], a CT from -1024 to 2000 Hounsfield units; the prediction is taken as it is, never scaled to fit; both are
zero outside the mask. Everything counts in voxels, so the spacing changes nothing. All of one case of 240x240x155
voxels, on one thread: 5 s and 0.25 GB.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError
from mrsynth.plain import Array, Mask
from mrsynth.scans.grid import Orientation
from mrsynth.scans.hounsfield import window_of
from mrsynth.scans.preparation import CWDM_GRID, fit_to_grid
from mrsynth.scans.subject import Subject
from mrsynth.scans.volume import extent
from mrsynth.scores.metrics import (
    EROSION,
    Fit,
    consistency,
    edges,
    interior,
    line_fit,
    mae,
    mse,
    nmse,
    psnr,
    ssim_map,
    to_unit,
)
from mrsynth.scores.rows import Score

TUMOUR = "WT"  # the region that `brasyn` calls tumour
SLICE_SHARE = 0.01  # of its pixels: a slice with no more foreground than this is left out of `slice2d`
CWDM_FLOOR = 0.04  # the published sampling script of cWDM sets what is not above this to 0
CWDM_MULTIPLES = (32, 32, 32)  # voxels; what its network halves, and what an axis too short for a brain grows by

AXES = "LPS"  # in which protocols see a volume

BRASYN_SEED = 123456
BRASYN_ORDER = (Contrast.T1CE, Contrast.T1, Contrast.FLAIR, Contrast.T2)  # the organisers': t1c, t1n, t2f, t2w


@dataclass(frozen=True, eq=False)
class Case:
    """One synthetic volume and the truth. What protocols share is computed once, when the first of them asks.

    prediction  (I, J, K) float32, u in [0, 1], axes LPS (the third axis counts axial slices)
    truth       (I, J, K) float32, in the file's own units
    mask        (I, J, K) bool, the foreground: non-zero in any true contrast of the subject; at least one voxel
    labels      (I, J, K) integers, the segmentation, or None
    regions     name -> values of the labels inside it, as the data set has them: {"WT": {1, 2, 4}, ...}
    window      the values of the truth that become 0 and 1, for a CT in Hounsfield units; None for quantiles

    Raises ValueError for unequal shapes or an empty mask, InputError for a prediction that is not finite in the mask.
    """

    prediction: Array
    truth: Array
    mask: Mask
    labels: NDArray[np.int16] | None = None
    regions: Mapping[str, frozenset[int]] = field(default_factory=dict)
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        given = {"prediction": self.prediction, "truth": self.truth, "mask": self.mask, "labels": self.labels}
        shapes = {name: array.shape for name, array in given.items() if array is not None}
        if len(set(shapes.values())) > 1 or self.mask.ndim != 3:
            raise ValueError(f"expected volumes of one shape (I, J, K), not {shapes}")
        if not self.mask.any():
            raise ValueError("the mask is empty: there is nothing to score")
        if broken := int(np.count_nonzero(~np.isfinite(self.p))):
            raise InputError(
                f"{broken} voxels of the synthetic volume are NaN or infinite; expected values in [0, 1]. The method "
                "failed on this subject: make the volume again in single precision, or leave the method out."
            )

    @cached_property
    def p(self) -> Array:
        """The prediction, zero outside the mask."""
        return np.ascontiguousarray(np.where(self.mask, self.prediction, 0), dtype=np.float32)

    @cached_property
    def y(self) -> Array:
        """The truth in [0, 1] (`to_unit`), zero outside the mask."""
        return np.ascontiguousarray(np.where(self.mask, to_unit(self.truth, self.window), 0), dtype=np.float32)

    @cached_property
    def fit(self) -> Fit:
        """The prediction in the mask after the straight line that brings it nearest to the truth."""
        return line_fit(self.p[self.mask], self.y[self.mask])

    @cached_property
    def similarity(self) -> Array:
        """SSIM around every voxel, window 11x11x11."""
        return ssim_map(self.p, self.y)

    @cached_property
    def similarity_in_slices(self) -> Array:
        """SSIM around every voxel, window 11x11 in its slice."""
        return ssim_map(self.p, self.y, slices=True)

    def region(self, name: str) -> Mask:
        """The voxels of the mask whose label belongs to a region; none without labels."""
        if self.labels is None:
            return np.zeros_like(self.mask)
        inside: Mask = self.mask & np.isin(self.labels, sorted(self.regions[name]))
        return inside


def scored_case(
    subject: Subject, target: Contrast, prediction: Array, regions: Mapping[str, frozenset[int]] | None = None
) -> Case:
    """A synthetic volume and its truth as protocols see them: in LPS, the foreground that of all true contrasts.

    subject     with the truth of the target
    prediction  (I, J, K), u in [0, 1], on the subject's own grid
    """
    turn = Orientation.between(subject.reference.affine, AXES).apply
    labels = None if subject.segmentation is None else subject.segmentation.voxels.round().astype(np.int16)
    return Case(
        prediction=turn(prediction),
        truth=turn(subject.volumes[target].voxels),
        mask=turn(subject.foreground()),
        labels=None if labels is None else turn(labels),
        regions=regions or {},
        window=window_of(target),
    )


# Region, metric and value. PSNR and PSNR_FIT in dB, infinite where nothing differs; SSIM at most 1; the others 0 or
# more: MSE and MAE as fractions of the range squared and of the range, NMSE infinite where the truth is empty.
Figure = tuple[str, str, float]


@dataclass(frozen=True)
class Protocol:
    """A way to compare: `description` states every choice in plain words, `measure` gives the figures of a case."""

    name: str
    description: str
    measure: Callable[[Case], list[Figure]]


def measure(case: Case, protocols: Iterable[str], **about: Any) -> list[Score]:
    """The rows of a case by these protocols, one after the other.

    about  what else the rows shall say, pattern and target at least: fields of `Score`
    """
    return [
        Score(protocol=name, region=region, metric=metric, value=value, **about)
        for name in protocols
        for region, metric, value in PROTOCOLS[name].measure(case)
    ]


def measures(protocol: str, regions: Mapping[str, frozenset[int]]) -> list[tuple[str, str]]:
    """Region and metric of the rows that a protocol can have, where a segmentation has these regions: as of noise."""
    noise = np.random.default_rng(0).random((2, 16, 16, 16), np.float32)
    values = sorted(frozenset[int]().union(*regions.values())) or [0]
    labels = np.resize(np.array([0, *values], np.int16), noise[0].shape)
    case = Case(noise[0], noise[1], np.ones(noise[0].shape, bool), labels, regions)
    return [(region, metric) for region, metric, _ in PROTOCOLS[protocol].measure(case)]


def brasyn_dropped(subjects: Iterable[str]) -> dict[str, Contrast]:
    """The contrast that the organisers of BraSyn take away from each case: their rule, with their seed.

    The names are sorted and each gets the next of numpy's legacy random integers 0..3, which counts through
    BRASYN_ORDER (script `drop_modality.py` of the challenge's tutorial). A case's contrast depends on how many names
    stand before it: give all cases of the folder, then pick, never the other way round.
    """
    names = sorted(set(subjects))
    picks = np.random.RandomState(BRASYN_SEED).randint(0, len(BRASYN_ORDER), size=len(names))
    return {name: BRASYN_ORDER[pick] for name, pick in zip(names, picks, strict=True)}


def _full3d(case: Case) -> list[Figure]:
    return [*_full(case, case.similarity[interior(case.p.shape)]), ("volume", "NMSE", nmse(case.p, case.y))]


def _full2d(case: Case) -> list[Figure]:
    return _full(case, case.similarity_in_slices[interior(case.p.shape, slices=True)])


def _brain2d(case: Case) -> list[Figure]:
    return [*_brain(case, case.similarity_in_slices), *_sharpness(case, slices=True)]


def _brain3d(case: Case) -> list[Figure]:
    even = consistency(case.p, case.y, case.mask)
    figures = [
        *_brain(case, case.similarity),
        ("brain", "NMSE", nmse(case.p[case.mask], case.y[case.mask])),
        *([("brain", "CONSISTENCY", even)] if even is not None else []),
        *_sharpness(case, slices=False),
    ]
    for name in case.regions:
        inside = case.region(name)
        if inside.any():
            p, y = case.p[inside], case.y[inside]
            figures += [
                (name, "PSNR", psnr(p, y)),
                (name, "MSE", mse(p, y)),
                (name, "MAE", mae(p, y)),
            ]
    return figures


def _slice2d(case: Case) -> list[Figure]:
    kept = case.mask.mean(axis=(0, 1)) > SLICE_SHARE
    if not kept.any():
        return []
    p, y = case.p[:, :, kept], case.y[:, :, kept]
    similarity = case.similarity_in_slices[:, :, kept][interior(p.shape, slices=True)]
    # slices are alike in size, so but for the logarithm in PSNR the mean of their means is the mean of all
    return [
        ("slices", "PSNR", float(np.mean([psnr(p[:, :, k], y[:, :, k]) for k in range(p.shape[2])]))),
        ("slices", "SSIM", _mean(similarity)),
        ("slices", "MSE", mse(p, y)),
        ("slices", "MAE", mae(p, y)),
    ]


def _brasyn(case: Case) -> list[Figure]:
    """As the organisers' script: each image by its own percentiles, tumour and the rest each alone on black."""
    if case.labels is None or TUMOUR not in case.regions:
        return []
    p, y = (_own_percentiles(image) for image in (case.p, np.where(case.mask, case.truth, 0)))
    tumour = case.mask & (case.labels > 0)
    figures = []
    for region, kept in (("tumour", tumour), ("healthy", ~tumour)):
        if tumour.any() or region == "healthy":
            a, b = (np.where(kept, image, 0) for image in (p, y))
            span = float(max(np.ptp(a), np.ptp(b)))
            inside = ssim_map(a, b, data_range=span or 1.0)[interior(a.shape)]
            figures.append((region, "SSIM", _mean(inside)))
    return figures


def _own_percentiles(image: Array) -> Array:
    """(I, J, K) clipped at its own 0.5 and 99.5 percentile, the lower not below 0, and scaled to [0, 1]."""
    low, high = np.percentile(image, (0.5, 99.5)).tolist()
    return to_unit(image, (max(low, 0.0), high))


def _cwdm(case: Case) -> list[Figure]:
    i, j, k = case.mask.shape
    brain = (extent(case.mask, 0), extent(case.mask, 1), extent(case.mask, 2))
    placements = fit_to_grid((i, j, k), brain, CWDM_GRID, CWDM_MULTIPLES)
    kept = tuple(place.kept for place in placements)
    padding = [(place.before, place.after) for place in placements]
    p, y = (np.pad(image[kept], padding) for image in (case.p, case.y))
    p[p <= CWDM_FLOOR] = 0
    return [
        ("volume", "PSNR", psnr(p, y)),
        ("volume", "SSIM", _mean(ssim_map(p, y)[interior(p.shape)])),
        ("volume", "MSE", mse(p, y)),
    ]


def _full(case: Case, similarity: Array) -> list[Figure]:
    """Figures over all voxels."""
    return [
        ("volume", "PSNR", psnr(case.p, case.y)),
        ("volume", "SSIM", _mean(similarity)),
        ("volume", "MSE", mse(case.p, case.y)),
        ("volume", "MAE", mae(case.p, case.y)),
    ]


def _brain(case: Case, similarity: Array) -> list[Figure]:
    """Figures over the voxels of the mask, before and after the fit."""
    p, y = case.p[case.mask], case.y[case.mask]
    return [
        ("brain", "PSNR", psnr(p, y)),
        ("brain", "PSNR_FIT", psnr(case.fit.voxels, y)),
        ("brain", "SSIM", _mean(similarity[case.mask])),
        ("brain", "MSE", mse(p, y)),
        ("brain", "MAE", mae(p, y)),
    ]


def _sharpness(case: Case, *, slices: bool) -> list[Figure]:
    """The slope of the fit, and the edges after it."""
    figures = [("brain", "SLOPE", case.fit.slope)]
    fitted = np.zeros_like(case.p)
    fitted[case.mask] = case.fit.voxels
    if found := edges(fitted, case.y, case.mask, slices=slices):
        figures.append(("brain", "EDGE", found.ratio))
        if found.correlation is not None:
            figures.append(("brain", "EDGE_R", found.correlation))
    return figures


def _mean(values: Array) -> float:
    return float(values.mean(dtype=np.float64))


_SCALING = (
    "The truth is clipped at the 0.1 and 99.9 % quantiles of its whole volume, background included, and scaled to "
    "[0, 1], a CT from -1024 to 2000 Hounsfield units; the prediction is taken as it is, in [0, 1]; both are 0 outside "
    "the foreground; the data range is 1."
)
_WINDOW = "Gaussian window of 11x11x11 voxels, sigma 1.5, K1 0.01, K2 0.03"

_WINDOW_2D = "Gaussian window of 11x11 pixels, sigma 1.5, K1 0.01, K2 0.03"

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "full3d",
            f"The whole volume, background included. {_SCALING} PSNR, MSE, MAE and NMSE (squared error over squared "
            f"truth) over all voxels; SSIM ({_WINDOW}) averaged over the voxels whose window fits into the volume. "
            "Background, which is easy, raises PSNR and SSIM.",
            _full3d,
        ),
        Protocol(
            "brain3d",
            f"The foreground alone. {_SCALING} PSNR, SSIM ({_WINDOW}; at the rim it sees background), MSE, MAE and "
            "NMSE over the voxels of the foreground; PSNR_FIT is PSNR after the straight line that brings the "
            "prediction nearest to the truth without falling; SLOPE is the slope of the best line, which may fall; "
            "EDGE is the mean absolute gradient within slices, after that fit, over that of the truth, in the "
            f"foreground eroded by {EROSION} voxels, and EDGE_R the correlation of the two gradient magnitudes; "
            "CONSISTENCY is how much more the error changes from slice to slice than within slices, 1 when it is as "
            "rough in all directions, and has no row where no slices are neighbours. PSNR, MSE and MAE also inside "
            "each tumour region that the subject's segmentation has; regions without a voxel, and all regions of a "
            "subject without a segmentation, have no row.",
            _brain3d,
        ),
        Protocol(
            "full2d",
            f"Slices, each whole, that need not be neighbours: what the self-check of `mrsynth complete` compares. "
            f"{_SCALING} The quantiles are those of the whole volume. PSNR, MSE and MAE over all voxels of the slices; "
            f"SSIM ({_WINDOW_2D}) averaged over the voxels whose window fits into the slice.",
            _full2d,
        ),
        Protocol(
            "brain2d",
            f"The foreground of slices that need not be neighbours: the self-check of `mrsynth complete` and the "
            f"validation of `mrsynth train`. {_SCALING} The quantiles are those of the whole volume. PSNR, PSNR_FIT "
            f"(after the straight line that brings the prediction nearest to the truth), SSIM ({_WINDOW_2D}; at the "
            "rim it sees background), MSE and MAE over the voxels of the foreground; SLOPE, EDGE and EDGE_R as in "
            "brain3d, eroded within slices.",
            _brain2d,
        ),
        Protocol(
            "slice2d",
            f"Axial slices, each for itself, as papers on 2-D methods score. {_SCALING} The quantiles are those of "
            f"the volume, not of the slice. Slices with more than {SLICE_SHARE:.0%} of their pixels in the foreground "
            "count, each whole, with its background and uncropped. PSNR, SSIM "
            f"({_WINDOW_2D}, where it fits into the slice), MSE and MAE of each slice, then the mean over "
            "slices; one slice without any error makes the mean PSNR infinite. A subject without such a slice has no "
            "row.",
            _slice2d,
        ),
        Protocol(
            "brasyn",
            "Tumour and the rest apart, as the script of the BraSyn challenge scores. Truth and prediction are each "
            "clipped at their own 0.5 and 99.5 percentiles, the lower one not below 0, and scaled to [0, 1]; each is "
            "multiplied by the tumour (every voxel with a label), then by its complement, background included. SSIM "
            f"({_WINDOW}) of the whole masked volume, averaged over the voxels whose window fits into it; the data "
            "range is the larger range of the two masked images. Background and the half that is masked out are alike "
            "in both and raise it. Subjects without a segmentation, and data sets without a tumour, have no row, "
            "subjects whose segmentation is empty no tumour row.",
            _brasyn,
        ),
        Protocol(
            "cwdm",
            f"The grid of cWDM. {_SCALING} 240x240x155 voxels come to 224x224x160: 8 planes less at both ends of axes "
            "1 and 2, 5 planes of zeros at the end of axis 3. Other shapes, and a brain that this would cut, are "
            "cropped or padded to 224x224x160 around the brain; an axis too short for the brain takes the next "
            f"multiple of 32, so the brain is never cut. Predicted values up to {CWDM_FLOOR} become 0, as in the "
            f"published sampling script; the truth keeps its own. PSNR, SSIM ({_WINDOW}, where it fits) and MSE over "
            "all voxels of the grid.",
            _cwdm,
        ),
    )
}
