"""`report.html`: one self-contained page that a radiologist can read from top to bottom.

The verdict on each contrast, the pictures, the figures, warnings, inputs, provenance. Its words stand in
`templates/subject.html`; here is what they are filled with.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mrsynth.contrasts import WARNINGS, Contrast, spelled
from mrsynth.reports.elements import Cell, Number, counted, render
from mrsynth.reports.record import Report, VolumesRecord, WeightsRecord, intensity_mapping
from mrsynth.reports.trust import assess
from mrsynth.reports.viewer import SubjectPicture
from mrsynth.sampling import AXIAL, listed
from mrsynth.scans.hounsfield import HOUNSFIELD
from mrsynth.scores.rows import Score

COLUMNS: dict[tuple[str, str], str] = {
    ("brain", "PSNR"): "PSNR, brain (dB)",
    ("brain", "SSIM"): "SSIM, brain",
    ("brain", "PSNR_FIT"): "PSNR, brain, after fit (dB)",
    ("brain", "MSE"): "MSE, brain",
    ("brain", "MAE"): "MAE, brain",
    ("brain", "NMSE"): "NMSE, brain",
    ("brain", "CONSISTENCY"): "slice consistency, brain",
    ("brain", "SLOPE"): "slope of the fit, brain",
    ("brain", "EDGE"): "edges, of the truth's, brain",
    ("brain", "EDGE_R"): "correlation of edges, brain",
    ("volume", "PSNR"): "PSNR, all (dB)",
    ("volume", "SSIM"): "SSIM, all",
    ("volume", "MSE"): "MSE, all",
    ("volume", "MAE"): "MAE, all",
    ("volume", "NMSE"): "NMSE, all",
}
FIRST = (("brain", "PSNR"), ("brain", "SSIM"))  # what most readers need; the others are folded
KINDS = {"reference": "against the true image", "self-check": "self-check: hidden and remade"}
UNKNOWN = "nothing was measured: trust nothing in it that the acquired contrasts do not show as well"


class Grid(NamedTuple):
    """A table of the page."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def report_html(report: Report, pictures: Mapping[Contrast, SubjectPicture]) -> str:
    """Lay out the report.

    pictures   of each contrast that was made, in the order shown
    """
    made = " and ".join(output.contrast.label for output in report.outputs) or "nothing"
    return render(
        "subject.html",
        title=f"Synthetic {made} of {report.subject}",
        made=made,
        report=report,
        sources=", ".join(contrast.label for contrast in report.available),
        verdicts=[_verdict(report, output.contrast) for output in report.outputs],
        notices=[notice for notice in report.notices if notice not in _own_notices(report)],
        pictures=[
            {"caption": f"Synthetic {target.label}", "notice": WARNINGS.get(target), **picture._asdict()}
            for target, picture in pictures.items()
        ],
        errors=_errors(report),
        viewers=any(picture.viewer is not None for picture in pictures.values()),
        scores=_scores(report.scores),
        volumes=_volumes(report.volumes),
        files=_files(report),
        facts=_facts(report),
        details=_details(report),
    )


def notebook_html(subject: str, viewers: Mapping[Contrast, Any]) -> str:
    """A frame with the viewers of what was made, for a cell of a notebook.

    viewers   what `viewer_data` gives, of each contrast that was made
    """
    made = " and ".join(contrast.label for contrast in viewers)
    shown = [{"caption": f"Synthetic {c.label}", "notice": WARNINGS.get(c), "viewer": v} for c, v in viewers.items()]
    title = f"Synthetic {made} of {subject}"
    return render("frame.html", title=title, page=render("notebook.html", title=title, made=made, pictures=shown))


# The sections, from top to bottom ------------------------------------------------------------------------------------


def _own_notices(report: Report) -> set[str]:
    """What is said beside the contrast it is about."""
    return {WARNINGS[o.contrast] for o in report.outputs if o.contrast in WARNINGS}


def _verdict(report: Report, target: Contrast) -> dict[str, str | None]:
    trust = assess(report, target)
    name, words = (trust.rating.name, trust.rating.words) if trust.rating else ("unknown", UNKNOWN)
    notice = WARNINGS.get(target)
    return {"label": target.label, "name": name, "words": f"{words}.", "text": trust.text, "notice": notice}


def _errors(report: Report) -> str:
    """What must be said of the error maps; nothing where there are none."""
    told = [o for o in report.outputs if o.error_file]
    if not told:
        return ""
    sure = ", ".join(f"{o.contrast.label} by about {o.brightness:.0f}" for o in told if o.brightness is not None)
    overall = f" Overall brightness itself is likely to be wrong, on the scale of the file: {sure}." if sure else ""
    return (
        "The error to expect is what is left once overall brightness and contrast are right. It knows mistakes of the "
        "kinds seen in its training and no others: a dark place is no proof, and a lesion that no scan shows is "
        f"missing without a sign.{overall}"
    )


def _scores(scores: Sequence[Score]) -> dict[str, Any] | None:
    """One line per comparison: with the columns that matter, and with all."""
    comparisons: dict[tuple[str, str, str, str], list[Score]] = {}
    for row in scores:
        slices = counted(len(row.slices), "slice") if row.slices else "whole volume"
        key = (KINDS[row.kind], row.made.label, spelled(row.pattern), slices)
        comparisons.setdefault(key, []).append(row)
    if not comparisons:
        return None
    measured = [column for column in COLUMNS if any((row.region, row.metric) == column for row in scores)]
    first = [column for column in measured if column in FIRST]

    def lines(columns: Sequence[tuple[str, str]], protocol: bool) -> Grid:
        rows: list[list[Cell]] = []
        for key, own in comparisons.items():
            values = {(row.region, row.metric): row.value for row in own}
            names = ", ".join(dict.fromkeys(row.protocol for row in own))
            rows.append([*key, *(values.get(column) for column in columns), *([names] if protocol else [])])
        head = ["Comparison", "Made", "from", "on", *(COLUMNS[column] for column in columns)]
        return Grid([*head, *(["Protocol"] if protocol else [])], rows)

    return {"first": lines(first, protocol=False), "all": lines(measured, protocol=True)}


REGIONS = {"WT": "whole tumour (WT)", "TC": "tumour core (TC)", "ET": "enhancing tumour (ET)"}


def _volumes(volumes: VolumesRecord | None) -> Grid | None:
    """A line a region, in millilitres."""
    if volumes is None:
        return None
    made, there = (", ".join(c.label for c in contrasts) for contrasts in (volumes.synthetic, volumes.acquired))
    true = [f"with the true {made}"] if any(r.true_ml is not None for r in volumes.regions) else []
    rows: list[list[Cell]] = []
    for r in volumes.regions:
        figures = (r.synthetic_ml, r.acquired_ml, *([r.true_ml] if true else []))
        cells = [Number("" if ml is None else f"{ml:.1f} ml") for ml in figures]
        rows.append([REGIONS.get(r.region, r.region), *cells])
    return Grid(["Region", f"with the SYNTHETIC {made}", f"from {there} alone", *true], rows)


def _files(report: Report) -> dict[str, Any]:
    return {
        "read": [
            [i.contrast.label, i.file, " x ".join(map(str, i.shape)), " x ".join(f"{s:.3g}" for s in i.spacing), i.axes]
            for i in report.inputs
        ],
        "made": [
            [o.contrast.label, o.file, o.mean_file or "", o.spread_file or "", o.error_file or "", o.sidecar]
            for o in report.outputs
        ],
        "sums": [[i.file, i.sha256] for i in report.inputs] + [[o.file, o.sha256] for o in report.outputs],
        "mapping": " ".join(_mappings(report)),
    }


def _mappings(report: Report) -> list[str]:
    """What the numbers in the outputs mean, once where several have the same scale."""
    rule, window = report.preparation.get("rule", "not recorded"), report.preparation.get("hounsfield", HOUNSFIELD)
    made = [(o.contrast.label, intensity_mapping(rule, o.contrast, (window[0], window[1]))) for o in report.outputs]
    texts = dict.fromkeys(text for _, text in made)
    if len(texts) < 2:
        return list(texts)
    return [f"{', '.join(label for label, of in made if of == text)}: {text}" for text in texts]


def _member(member: WeightsRecord) -> str:
    """A member of a committee, with the planes of its slices where they are not the axial alone."""
    planes = "" if member.planes == AXIAL else f", {listed(member.planes)} slices"
    return f"{member.name} (licence {member.licence}, SHA-256 {member.sha256}{planes})"


def _facts(report: Report) -> list[list[str]]:
    weights, sampler = report.weights, report.sampler
    spread = [f"{name} {value}, " for name in ("eta", "variance") if (value := getattr(sampler, name)) is not None]
    facts = {
        "Checkpoint": f"{weights.name} (method {weights.method}, licence {weights.licence})",
        "SHA-256": weights.sha256 or "unknown",
        "Members": "; ".join(_member(m) for m in weights.members),
        "Why this one": report.selection,
        "Sampler": f"{sampler.name}, {counted(sampler.steps, 'step')}, {counted(sampler.samples, 'sample')}, "
        f"{''.join(spread)}seed {sampler.seed}",
        "Device": f"{sampler.device}, {sampler.precision}",
        "mrsynth": f"{report.version}, {report.created.isoformat(timespec='seconds')}",
        "Command": report.command,
        "Peak memory of the process": f"{report.peak_memory_mb:.0f} MB" if report.peak_memory_mb is not None else "",
    }
    return [[name, fact] for name, fact in facts.items() if fact]


def _details(report: Report) -> list[tuple[str, Grid]]:
    """Name and table of what is shown when the reader opens it."""
    data = [[d.name, str(d.subjects), d.licence, d.citation] for d in report.weights.training_data]
    tables = {"Training data": Grid(["Data", "Subjects", "Licence", "Citation"], data)}
    further: dict[str, Mapping[str, Any]] = {
        "Seconds": {stage: f"{seconds:.1f}" for stage, seconds in report.timings.items()},
        "Options": report.options,
        "Preparation": report.preparation,
        "Software": report.software,
    }
    tables |= {name: Grid([], [[key, str(value)] for key, value in d.items()]) for name, d in further.items()}
    return [(name, table) for name, table in tables.items() if table.rows]
