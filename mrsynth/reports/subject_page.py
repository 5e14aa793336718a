"""`report.html`: one self-contained page that a radiologist can read from top to bottom.

What was made and how far to trust it, the picture, the figures, warnings, inputs, provenance. No script, no link to
anywhere else: style and pictures are inside. Every text that comes from outside passes `html.escape`.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mrsynth.reports.elements import counted, document, folded, picture, section, table
from mrsynth.reports.record import Report, ScoreRow, intensity_mapping
from mrsynth.reports.trust import Trust, assess, spelled
from mrsynth.scans.hounsfield import HOUNSFIELD
from mrsynth.scores.metrics import MetricName, Region

COLUMNS: dict[tuple[Region, MetricName], str] = {
    ("brain", "PSNR"): "PSNR, brain (dB)",
    ("brain", "PSNR_FIT"): "PSNR, brain, after fit (dB)",
    ("brain", "SSIM"): "SSIM, brain",
    ("brain", "MSE"): "MSE, brain",
    ("brain", "MAE"): "MAE, brain",
    ("volume", "PSNR"): "PSNR, all (dB)",
    ("volume", "SSIM"): "SSIM, all",
    ("volume", "MSE"): "MSE, all",
    ("volume", "MAE"): "MAE, all",
}
KINDS = {"reference": "against the true image", "self-check": "self-check: hidden and remade"}


def report_html(report: Report, montage_png: Mapping[str, bytes]) -> str:
    """Lay out the report.

    montage_png   caption -> PNG, in the order shown
    """
    targets = [output.contrast for output in report.outputs]
    made = " and ".join(t.label for t in targets) or "nothing"
    title = f"Synthetic {made} of {report.subject}"
    trust = [assess(report, target) for target in targets]
    header = f"<strong>SYNTHETIC</strong>{escape(made)} made by mrsynth; not for diagnosis"
    body = [
        _made(report),
        section("How far to trust it", _verdicts(report, trust)),
        section("Pictures", _pictures(montage_png)) if montage_png else "",
        section("Scores", _scores(report)),
        section("Warnings", _warnings(report), anchor="warnings"),
        section("Inputs and outputs", _files(report)),
        section("How it was made", _provenance(report)),
    ]
    return document(title, header, "\n".join(body))


# The sections, from top to bottom ------------------------------------------------------------------------------------


def _made(report: Report) -> str:
    made = ", ".join(output.contrast.label for output in report.outputs)
    sources = ", ".join(contrast.label for contrast in report.available)
    if not report.outputs:
        return f"<p>Nothing was missing, so nothing was made. Read: {escape(sources)}.</p>"
    return (
        f"<p><b>{escape(made)}</b> was inferred from <b>{escape(sources)}</b> by the method "
        f"{escape(report.weights.method)}. No scanner acquired it.</p>"
    )


def _verdicts(report: Report, trust: Sequence[Trust]) -> str:
    parts = []
    for verdict in trust:
        name = verdict.rating.name if verdict.rating else "unknown"
        parts.append(
            f'<h3>{escape(verdict.target.label)} <span class="rating {name}">quality: {name}</span></h3>'
            f"<p>{escape(verdict.text)}</p>"
        )
    parts += [f'<p class="notice">{escape(notice)}</p>' for notice in report.notices]
    if report.warnings:
        count = counted(len(report.warnings), "warning")
        parts.append(f'<p class="warning">Before you rely on this: <a href="#warnings">{count} below</a>.</p>')
    return "".join(parts)


def _pictures(montage_png: Mapping[str, bytes]) -> str:
    figures = "".join(picture(caption, png) for caption, png in montage_png.items())
    return (
        f'{figures}<p class="small">Radiological convention: the patient\'s right is on the left. The red frame marks '
        "what is synthetic. Bright uncertainty means that repeated samples disagree; dark uncertainty does not mean "
        "that the image is right.</p>"
    )


def _scores(report: Report) -> str:
    if not report.scores:
        return "<p>Nothing was measured on this subject.</p>"
    comparisons: dict[tuple[str, str, str, str], list[ScoreRow]] = {}
    for row in report.scores:
        slices = counted(len(row.slices), "slice") if row.slices else "whole volume"
        key = (KINDS[row.kind], row.target.label, spelled(row.pattern), slices)
        comparisons.setdefault(key, []).append(row)
    shown = [column for column in COLUMNS if any((row.region, row.metric) == column for row in report.scores)]
    lines = []
    for key, rows in comparisons.items():
        values = {(row.region, row.metric): row.value for row in rows}
        protocols = ", ".join(dict.fromkeys(row.protocol for row in rows))
        lines.append([*key, *(values.get(column) for column in shown), protocols])
    head = ["Comparison", "Made", "from", "on", *(COLUMNS[column] for column in shown), "Protocol"]
    return (
        f'<div class="wide">{table(head, lines)}</div>'
        '<p class="small">PSNR: higher is better, 20 dB is an error of 10 % of the intensity range; "after fit" '
        "forgives overall brightness and contrast. SSIM: likeness of structure, at most 1. MSE, MAE: squared and "
        "absolute error in fractions of the range, lower is better. Figures over all voxels count the empty background "
        "and look better for it. Range 1, intensities scaled by the 0.1 and 99.9 % quantiles, those of a CT by its "
        "window of Hounsfield units, Gaussian window of 11 voxels, sigma 1.5, in 3 dimensions (3d) or within slices "
        "(2d); compare only within one protocol.</p>"
    )


def _warnings(report: Report) -> str:
    if not report.warnings:
        return "<p>None.</p>"
    return "".join(f'<p class="warning">{escape(warning)}</p>' for warning in report.warnings)


def _files(report: Report) -> str:
    read = [
        [i.contrast.label, i.file, " x ".join(map(str, i.shape)), " x ".join(f"{s:.3g}" for s in i.spacing), i.axes]
        for i in report.inputs
    ]
    written = [[o.contrast.label, o.file, o.std_file or "", o.sidecar] for o in report.outputs]
    sums = [[i.file, i.sha256] for i in report.inputs] + [[o.file, o.sha256] for o in report.outputs]
    mapping = " ".join(_mappings(report))
    return (
        f"<p>Subject {escape(report.subject)}, layout {escape(report.layout)}.</p>"
        f'<div class="wide">{table(["Read", "File", "Voxels", "Spacing (mm)", "Axes"], read)}</div><br>'
        f'<div class="wide">{table(["Made", "File", "Standard deviation", "Sidecar"], written)}</div>'
        f"<details><summary>SHA-256</summary>{table(['File', 'SHA-256'], sums)}</details>"
        f'<p class="small">Intensities of what was made: {escape(mapping)}</p>'
    )


def _mappings(report: Report) -> list[str]:
    """What the numbers in the outputs mean, once where several have the same scale."""
    rule, window = report.preparation.get("rule", "not recorded"), report.preparation.get("hounsfield", HOUNSFIELD)
    made = [(o.contrast.label, intensity_mapping(rule, o.contrast, (window[0], window[1]))) for o in report.outputs]
    texts = dict.fromkeys(text for _, text in made)
    if len(texts) < 2:
        return list(texts)
    return [f"{', '.join(label for label, of in made if of == text)}: {text}" for text in texts]


def _provenance(report: Report) -> str:
    weights, sampler = report.weights, report.sampler
    facts: dict[str, Any] = {
        "Checkpoint": f"{weights.name} (method {weights.method}, licence {weights.licence})",
        "SHA-256": weights.sha256 or "unknown",
        "Why this one": report.selection,
        "Sampler": f"{sampler.name}, {counted(sampler.steps, 'step')}, {counted(sampler.samples, 'sample')}, "
        f"seed {sampler.seed}",
        "Device": f"{sampler.device}, {sampler.precision}",
        "mrsynth": f"{report.version}, {report.created.isoformat(timespec='seconds')}",
        "Command": report.command,
        "Peak memory": f"{report.peak_memory_mb:.0f} MB" if report.peak_memory_mb is not None else "",
    }
    data = [[d.name, str(d.subjects), d.licence, d.citation] for d in weights.training_data]
    details = {
        "Seconds": {stage: f"{seconds:.1f}" for stage, seconds in report.timings.items()},
        "Options": report.options,
        "Preparation": report.preparation,
        "Software": report.software,
    }
    return "".join(
        [
            table([], [[name, fact] for name, fact in facts.items() if fact]),
            folded("Training data", table(["Data", "Subjects", "Licence", "Citation"], data)) if data else "",
            *(folded(name, table([], [[k, str(v)] for k, v in d.items()])) for name, d in details.items() if d),
        ]
    )
