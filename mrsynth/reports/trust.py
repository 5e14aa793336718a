"""How far to trust a synthetic image, in plain words.

The words come from three kinds of figures, named as what they are: the true image given as a reference; the
self-check, which hides an input and makes it anew; and the checkpoint's own validation. A rating is the worse of what
brain PSNR and brain SSIM say, and of several figures the worst. The limits are ours, not those of a reader study. They
were set by what known damage to a true T1 does (subjects ms19 / BraTS-GLI-00027-000, protocol `brain3d`):

    damage                        brain PSNR      brain SSIM
    noise of 5 % of the range     26.2 / 26.1     0.94 / 0.69
    blur, sigma 1 mm              21.4 / 27.4     0.89 / 0.92
    blur, sigma 2 mm              16.3 / 23.6     0.62 / 0.79
    moved by 1 mm                 18.0 / 23.0     0.82 / 0.83
    all 15 % too dark             20.5 / 19.6     0.97 / 0.98
    one grey for the whole brain  11.1 / 16.3     0.13 / 0.46
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mrsynth.contrasts import Contrast, spelled
from mrsynth.reports.elements import counted
from mrsynth.reports.record import Report
from mrsynth.sampling import of_another_mode
from mrsynth.scores.rows import Score

FORGIVEN_DB = 2.0  # a straight-line fit that gains more than this says: mostly a matter of brightness and contrast


@dataclass(frozen=True)
class Rating:
    """A band of quality: reached with at least this brain PSNR (dB) and at least this brain SSIM."""

    name: str
    psnr: float
    ssim: float
    words: str


_CLOSE = "anatomy and tissue contrast are close to a real scan; small or faint lesions can still be missing or invented"
_GOOD = "anatomy and tissue contrast are mostly right; small lesions and absolute intensity are not to be relied on"
_FAIR = "anatomy is usually right; absolute intensity and small lesions are not to be relied on"
_ROUGH = "large structures are usually right; tissue contrast, intensity and lesions are often wrong"
_POOR = "little better than one grey for the whole brain; nothing in it is to be relied on"

RATINGS = (  # best first
    Rating("close", 26, 0.90, _CLOSE),
    Rating("good", 23, 0.85, _GOOD),
    Rating("fair", 20, 0.75, _FAIR),
    Rating("rough", 17, 0.55, _ROUGH),
    Rating("poor", float("-inf"), float("-inf"), _POOR),
)


@dataclass(frozen=True)
class Trust:
    """The verdict on one synthetic contrast; no rating where nothing was measured."""

    target: Contrast
    rating: Rating | None
    text: str


def rate(psnr_brain: float, ssim_brain: float | None = None) -> Rating:
    """The best rating whose limits both figures reach; PSNR alone decides where SSIM was not measured."""
    ssim = float("inf") if ssim_brain is None else ssim_brain
    return next((r for r in RATINGS if psnr_brain >= r.psnr and ssim >= r.ssim), RATINGS[-1])


def expected_quality(psnr_brain: float, ssim_brain: float | None = None) -> str:
    """What such figures mean for who looks at the image, without a full stop; the error is the RMS that PSNR states."""
    error = 100 * 10 ** (-psnr_brain / 20)
    return f"{rate(psnr_brain, ssim_brain).words} (intensities are off by about {error:.0f} % of the range)"


def assess(report: Report, target: Contrast) -> Trust:
    """Judge one of the report's outputs; what its notices say is not said again."""
    found = _findings(report.scores)
    available = report.available
    against_truth = [f for f in found if f.kind == "reference" and f.target is target]
    self_checks = [] if against_truth else [f for f in found if f.kind == "self-check"]
    known = [] if against_truth else _validated(report.weights.scores, target, available)
    scored, mode = report.weights.mode, report.sampler.mode
    unlike = bool(known) and of_another_mode(scored, mode)
    known = [] if unlike else known
    ratings = [f.rating for f in against_truth + self_checks] + [rate(s.value) for s in known]
    worst = max(ratings, key=RATINGS.index, default=None)

    said = [f"Against the true {target.label}: {f.figures}. That means: {f.meaning}." for f in against_truth]
    said += [
        f"On this subject, hiding {f.target.label} and remaking it from {spelled(f.pattern)} gave {f.figures}: "
        f"{f.meaning}."
        for f in self_checks
    ]
    for by in dict.fromkeys(f.by for f in self_checks if f.by):
        hidden = " or ".join(f.target.label for f in self_checks if f.by == by)
        said.append(f"The self-check is by {by}: of the networks those that can do without {hidden}.")
    if not against_truth and not self_checks:
        said.append(_why_no_self_check(available, report.weights.requires))
    if not against_truth:
        harder = "; each self-check had one contrast fewer to work from" if self_checks else ""
        said.append(f"{target.label} itself cannot be checked, since no true {target.label} exists{harder}.")
    said += [
        f"In validation on {counted(s.subjects, 'other subject')}, {target.label} made from "
        f"{spelled(s.pattern)} had a mean brain PSNR of {s.value:.1f} dB: {expected_quality(s.value)}."
        for s in known
    ]
    if unlike:
        said.append(
            f"What {report.weights.name} reached in validation is of mode {scored}, not of a {mode} as this is."
        )
    if worst is None:
        said.append("How good it is is unknown: trust nothing in it that the acquired contrasts do not show as well.")
    return Trust(target, worst, " ".join(said))


@dataclass(frozen=True)
class _Finding:
    """The brain figures of one comparison; `by` names the networks of a committee that took part."""

    target: Contrast
    pattern: str
    kind: str
    slices: int
    psnr: float
    ssim: float | None
    psnr_fit: float | None
    slope: float | None = None
    by: str = ""

    @property
    def rating(self) -> Rating:
        return rate(self.psnr, self.ssim)

    @property
    def figures(self) -> str:
        ssim = f" and SSIM {self.ssim:.2f}" if self.ssim is not None else ""
        where = f" on {counted(self.slices, 'slice')}" if self.slices else ""
        return f"a brain PSNR of {self.psnr:.1f} dB{ssim}{where}"

    @property
    def meaning(self) -> str:
        words = expected_quality(self.psnr, self.ssim)
        if self.slope is not None and self.slope <= 0:
            return (
                f"{words}; it is dark where the truth is bright, or has no contrast, which no display window corrects"
            )
        if self.psnr_fit is not None and self.psnr_fit - self.psnr > FORGIVEN_DB:
            return f"{words}; much of the error is overall brightness and contrast, which a display window corrects"
        return words


def _findings(rows: Iterable[Score]) -> list[_Finding]:
    """The brain figures of each comparison among the rows, in their order; without a brain PSNR there is no finding."""
    comparisons: dict[tuple[Contrast, str, str, int, str], dict[str, float]] = {}
    for row in rows:
        if row.region == "brain":
            key = (row.made, row.pattern, row.kind, len(row.slices), row.weights)
            comparisons.setdefault(key, {})[row.metric] = row.value
    return [
        _Finding(*key[:4], figures["PSNR"], figures.get("SSIM"), figures.get("PSNR_FIT"), figures.get("SLOPE"), key[4])
        for key, figures in comparisons.items()
        if "PSNR" in figures
    ]


def _validated(scores: Iterable[Score], target: Contrast, available: Sequence[Contrast]) -> list[Score]:
    """The checkpoint's brain PSNR for this target from exactly these inputs."""
    return [
        s
        for s in scores
        if (s.region, s.metric, s.target) == ("brain", "PSNR", target) and set(s.given) == set(available)
    ]


def _why_no_self_check(available: Sequence[Contrast], requires: Mapping[Contrast, Sequence[Contrast]] | None) -> str:
    if len(available) == 1:
        return (
            f"No self-check was possible: {available[0].label} is the only contrast of this subject, "
            "so nothing could be hidden and remade."
        )
    if requires is not None and not any({t, *inputs} <= set(available) for t, inputs in requires.items()):
        made = " and ".join(target.label for target in requires)
        return f"No self-check was possible: this checkpoint makes only {made}, so none of its inputs can be remade."
    return "No self-check was made."
