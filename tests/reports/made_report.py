"""A report of `complete` that the tests of its page and of its verdict share."""

from datetime import UTC, datetime
from typing import Any

from mrsynth.card import Card, DataSource
from mrsynth.contrasts import Contrast
from mrsynth.reports.record import InputRecord, OutputRecord, Report, SamplerRecord, WeightsRecord
from mrsynth.scores.rows import Score

T1, T1CE, T2, FLAIR = Contrast.T1, Contrast.T1CE, Contrast.T2, Contrast.FLAIR


def made_input(contrast: Contrast, file: str = "") -> InputRecord:
    """A scan of 1 mm voxels."""
    return InputRecord(
        contrast=contrast,
        file=file or f"case_{contrast}.nii.gz",
        sha256="ab" * 32,
        shape=(240, 240, 155),
        spacing=(1.0, 1.0, 1.0),
        axes="LPS",
    )


def rows(
    target: Contrast, pattern: str, psnr: float, ssim: float, fit: float | None = None, **more: Any
) -> tuple[Score, ...]:
    """Brain PSNR, SSIM and PSNR_FIT of one comparison, by default a self-check on six slices."""
    more = {"kind": "self-check", "slices": (60, 70, 80, 90, 100, 110), "protocol": "brain2d"} | more
    figures: dict[str, float] = {"PSNR": psnr, "SSIM": ssim, "PSNR_FIT": psnr if fit is None else fit}
    return tuple(
        Score(target=target, pattern=pattern, region="brain", metric=metric, value=value, **more)
        for metric, value in figures.items()
    )


def made_report(**changes: Any) -> Report:
    """FLAIR made from T1 and T2."""
    card = Card(
        name="fgc2f-ship",
        method="fgc2f",
        contrasts=(T1, T1CE, T2, FLAIR),
        licence="Apache-2.0",
        training_data=(DataSource(name="open_ms_data", licence="CC BY 4.0", citation="Lesjak 2017", subjects=1),),
        scores=(
            Score(
                pattern="t1+t2", target=FLAIR, region="brain", metric="PSNR", value=19.8, subjects=3, protocol="brain3d"
            ),
        ),
    )
    fields: dict[str, Any] = {
        "version": "0.1.0",
        "created": datetime(2026, 11, 21, 8, 30, tzinfo=UTC),
        "subject": "ms19",
        "layout": "BraTS 2021",
        "options": {"steps": 4, "target": ["flair"]},
        "inputs": (made_input(T1), made_input(T2)),
        "selection": "the only checkpoint that makes FLAIR from T1 and T2",
        "weights": WeightsRecord.of(card, "cd" * 32),
        "sampler": SamplerRecord(
            name="ddim", steps=4, seed=7, samples=2, precision="fp32", device="cpu", noise="v1: a generator"
        ),
        "outputs": (
            OutputRecord(contrast=FLAIR, file="ms19_flair.nii.gz", sidecar="ms19_flair.json", sha256="ef" * 32),
        ),
        "scores": rows(T1, "t2", 21.3, 0.86, seconds=3.25),
        "timings": {"read": 1.5, "synthesise": 60.0},
    }
    return Report(**fields | changes)
