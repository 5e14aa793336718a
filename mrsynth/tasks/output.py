"""Writing what `complete` made: volumes, sidecars, report. Everything appears by atomic rename, the report last."""

import resource
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mrsynth
from mrsynth.contrasts import Contrast
from mrsynth.grid import Orientation, axis_code
from mrsynth.io.dataset import SubjectFiles
from mrsynth.io.files import write_bytes, write_text
from mrsynth.io.nifti import write_volume
from mrsynth.io.weights import sha256_of
from mrsynth.metrics import to_unit
from mrsynth.page import report_html
from mrsynth.pictures import Panel, montage
from mrsynth.report import (
    InputRecord,
    OutputRecord,
    Report,
    SamplerRecord,
    WeightsRecord,
    metrics_csv,
    report_json,
    sidecar_json,
)
from mrsynth.subject import Subject
from mrsynth.tasks.models import TrainedMethod
from mrsynth.volume import Volume

if TYPE_CHECKING:
    from mrsynth.tasks.complete import Completion

DESCRIPTION = "SYNTHETIC {} by mrsynth {} ({}), not acquired, not for diagnosis"
PACKAGES = ("torch", "numpy", "nibabel", "SimpleITK", "monai")
SCALE = 1000.0


@dataclass(frozen=True)
class Written:
    """What lies on disk now: the images by contrast, and the report."""

    folder: Path
    images: Mapping[Contrast, Path]
    report: Report
    html: Path


def write_results(
    *,
    out: Path,
    files: SubjectFiles,
    subject: Subject,
    completion: "Completion",
    trained: TrainedMethod,
    selection: str,
    truths: Mapping[Contrast, Volume],
    options: dict[str, Any],
    began: float,
) -> Written:
    """Write every image with its sidecar, then metrics.csv, report.html and report.json."""
    card, sampling = trained.card, completion.sampling
    used = [c for c in subject.available if c in card.contrasts]
    inputs = tuple(input_record(files.files[c], c, subject.volumes[c]) for c in used)
    weights = WeightsRecord.of(card, trained.sha256)
    sampler = SamplerRecord(
        name=sampling.sampler or getattr(trained.method.config, "sampler", "ddpm"),
        steps=sampling.steps or getattr(trained.method.config, "T", 1),
        seed=sampling.seed,
        samples=sampling.samples,
        precision=sampling.precision,
        device=sampling.device,
    )
    software = versions()
    stripped = not any("skull still there" in w for w in completion.warnings)

    def sidecar(target: Contrast, content: Any) -> str:
        return sidecar_json(
            target=target,
            inputs=inputs,
            weights=weights,
            sampler=sampler,
            selection=selection,
            software=software,
            skull_stripped=stripped,
            warnings=completion.warnings,
            content=content,
        )

    like = files.files[used[0]]
    outputs, images = [], {}
    for target, volume in completion.volumes.items():
        path = out / files.output_name(target)
        # the sidecar goes first: a synthetic image is never without the note that says so
        write_text(sidecar_path(path), sidecar(target, "image"))
        write_volume(path, volume, like, DESCRIPTION.format(target.label, mrsynth.__version__, card.name))
        std_path = out / files.std_name(target) if target in completion.deviations else None
        if std_path is not None:
            write_text(sidecar_path(std_path), sidecar(target, "standard deviation"))
            text = DESCRIPTION.format(f"{target.label} std. dev.", mrsynth.__version__, card.name)
            write_volume(std_path, completion.deviations[target], like, text)
        images[target] = path
        outputs.append(
            OutputRecord(
                contrast=target,
                file=path.name,
                std_file=std_path.name if std_path else None,
                sidecar=sidecar_path(path).name,
                sha256=sha256_of(path),
            )
        )
    pictures = {f"Synthetic {t.label}": picture(subject, used, completion, t, truths.get(t)) for t in images}
    report = Report(
        version=mrsynth.__version__,
        created=datetime.now(UTC),
        subject=subject.name,
        layout=files.layout,
        command=shlex.join(["mrsynth", *sys.argv[1:]]),
        options=options,
        inputs=inputs,
        selection=selection,
        weights=weights,
        sampler=sampler,
        outputs=tuple(outputs),
        scores=completion.scores,
        warnings=completion.warnings,
        timings={**completion.seconds, "total": time.perf_counter() - began},
        preparation=completion.prepared.record,
        software=software,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    write_text(out / "metrics.csv", metrics_csv(report))
    write_text(out / "report.html", report_html(report, pictures))
    write_text(out / "report.json", report_json(report))
    return Written(out, images, report, out / "report.html")


def input_record(path: Path, contrast: Contrast, volume: Volume) -> InputRecord:
    """What the report keeps of one input."""
    return InputRecord(
        contrast=contrast,
        file=str(path),
        sha256=sha256_of(path),
        shape=volume.shape,
        spacing=volume.spacing,
        axes=axis_code(volume.affine),
    )


def picture(
    subject: Subject, used: list[Contrast], completion: "Completion", target: Contrast, truth: Volume | None
) -> bytes:
    """Inputs, the synthetic image, its deviation, and with a reference the truth and the difference, in LPS."""
    orientation = Orientation.between(subject.reference.affine, "LPS")
    mask = orientation.apply(subject.foreground())

    def panel(title: str, voxels: Any, kind: Any) -> Panel:
        shown = orientation.apply(np.clip(voxels, 0, 1).astype(np.float32))
        return Panel(title, np.where(mask, shown, np.float32(0)), kind)

    scales = completion.prepared.scales
    synthetic = completion.volumes[target].voxels / SCALE
    panels = [panel(c.label, subject.volumes[c].voxels / scales[c], "input") for c in used]
    panels.append(panel(f"synthetic {target.label}", synthetic, "synthetic"))
    if target in completion.deviations:
        panels.append(panel("std. deviation", completion.deviations[target].voxels / SCALE, "uncertainty"))
    if truth is not None:
        unit = to_unit(truth.voxels)
        panels.append(panel(f"true {target.label}", unit, "reference"))
        panels.append(panel("difference", np.abs(unit - synthetic), "difference"))
    return montage(panels, mask, spacing=orientation.spacing(subject.reference.spacing))


def sidecar_path(image: Path) -> Path:
    """The JSON beside a NIfTI file."""
    return image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def versions() -> dict[str, str]:
    """Of mrsynth, Python and the packages that decide the numbers."""
    found = {"mrsynth": mrsynth.__version__, "python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
