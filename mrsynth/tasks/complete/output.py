"""Writing what `complete` made. Results are written into a hidden folder and moved into place together, at the end.

Every move is a rename within one file system, so that a file is there whole or not at all: first the sidecar, then its
image, and `report.json` last. A run that fails or is interrupted leaves no file of its own behind, and what an earlier
run left is as it was. One that is killed leaves its hidden folder, which the next run removes; killed among the
renames, which take some milliseconds, it can have replaced some results by new whole files. Nothing is ever replaced
that mrsynth did not write.
"""

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mrsynth import __version__
from mrsynth.contrasts import Contrast
from mrsynth.errors import UsageError
from mrsynth.io.bids import BidsDataset
from mrsynth.io.files import cannot_write, ensure_folder, to_disk, write_bytes, write_text
from mrsynth.io.locks import locked
from mrsynth.io.nifti import write_volume
from mrsynth.io.provenance import BRAIN_MASK, refuse_others
from mrsynth.io.store import sha256_of
from mrsynth.reports.montage import preview
from mrsynth.reports.record import (
    MAPS,
    Content,
    InputRecord,
    OutputRecord,
    RegistrationRecord,
    Report,
    SamplerRecord,
    VolumesRecord,
    WeightsRecord,
    metrics_csv,
    report_json,
    sidecar_json,
)
from mrsynth.reports.subject_page import report_html
from mrsynth.sampling import AXIAL
from mrsynth.scans.familiarity import has_skull
from mrsynth.scans.grid import axis_code
from mrsynth.scans.raw import Raw
from mrsynth.scans.volume import Volume
from mrsynth.tasks.complete.completion import Completed
from mrsynth.tasks.complete.pictures import picture
from mrsynth.tasks.complete.plan import Plan
from mrsynth.tasks.memory import peak_memory_mb
from mrsynth.tasks.privacy import Places

DESCRIPTION = "SYNTHETIC {} by mrsynth {} ({}), not acquired, not for diagnosis"
MASK = BRAIN_MASK + " {}, found in the {}"
IN_MEMORY = "(in memory; SHA-256 of its voxels, float32)"
LOG = "mrsynth.log"
REPORT_FILES = (LOG, "metrics.csv", "preview.png", "report.html", "report.json")
PACKAGES = ("torch", "numpy", "nibabel", "SimpleITK", "monai")


@dataclass(frozen=True)
class Saved:
    """What lies on disk now: the images by contrast, and the report."""

    folder: Path
    images: Mapping[Contrast, Path]
    report: Report
    html: Path


def result_names(todo: Plan) -> list[str]:
    """Every file name that the results may have, in the order they are moved into place."""
    tags = ("", "mean", "spread", "error", "std")  # std: what 0.1.0 wrote; an --overwrite takes it away
    images = [todo.output_name(target, tag) for target in todo.targets for tag in tags]
    images.append(todo.files.mask_name())
    return [name for image in images for name in (sidecar_name(image), image)] + [*REPORT_FILES]


def refuse_what_is_there(out: Path, names: Sequence[str], overwrite: bool) -> None:
    """Raise UsageError when files with these names are in a folder, and may not be replaced.

    With `overwrite` those may that mrsynth wrote; a scan, a folder, or anything else never.
    """
    there = [name for name in names if os.path.lexists(out / name)]
    refuse_others(out, there)
    if there and not overwrite:
        raise UsageError(f"{out} already holds {', '.join(there)}. Give --overwrite to replace them, or another --out.")


@contextmanager
def results_folder(out: Path, names: Sequence[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty hidden folder inside `out`; when the block ends well, what it holds moves to `out`.

    names      what may be moved, in this order
    overwrite  whether it may replace what an earlier run left
    Makes `out` at once, so that a place where nothing can be written is known before the long work; no other run can
    use it meanwhile, and what killed runs left in it is removed. When anything fails, `out` and its parents are as
    they were. Raises OutputError, and UsageError when another run is there or when there is something in the way, also
    when it came after the work had begun.
    """
    fresh = [folder for folder in (out, *out.parents) if not os.path.lexists(folder)]
    hidden = out / f".partial-{secrets.token_hex(8)}"
    try:
        ensure_folder(out)
        with _alone_in(out):
            refuse_what_is_there(out, names, overwrite)
            try:
                yield ensure_folder(hidden)
                refuse_what_is_there(out, names, overwrite)
                _move(hidden, out, names)
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
    except BaseException:
        for folder in fresh:
            with suppress(OSError):  # not there, or somebody else has put something into it
                folder.rmdir()
        raise


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Hold the output folder. Raises UsageError when another run does."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out))
        except BlockingIOError as error:
            raise UsageError(
                f"Another run of mrsynth is writing to {out}. Wait until it has ended, or give another --out."
            ) from error
        yield


def _move(source: Path, out: Path, names: Sequence[str]) -> None:
    """Rename all that is in `source`; remove what an earlier run left under the other names.

    So a spread never outlives its image. When a rename fails, everything is put back as it was.
    """
    earlier = source / ".earlier"
    tried: list[str] = []
    try:
        earlier.mkdir()
        for name in names:
            if os.path.lexists(out / name):
                _keep(out / name, earlier / name)
            tried.append(name)
            if os.path.lexists(source / name):
                os.replace(source / name, out / name)
            elif os.path.lexists(out / name):  # a name that is never written may be longer than any can be
                (out / name).unlink()
        to_disk(out)
    except BaseException as error:
        for name in reversed(tried):
            _put_back(earlier / name, out / name)
        if isinstance(error, OSError):
            raise cannot_write(out, error) from error
        raise


def _keep(path: Path, copy: Path) -> None:
    """Give a file a second name."""
    try:
        os.link(path, copy, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(path, copy, follow_symlinks=False)


def _put_back(copy: Path, path: Path) -> None:
    """Undo what was done to a file that was kept; remove one that was not there before."""
    if not os.path.lexists(copy):
        if os.path.lexists(path):  # not so of a name that is too long to exist
            path.unlink()
    elif not (os.path.lexists(path) and os.path.samestat(path.lstat(), copy.lstat())):
        os.replace(copy, path)


def write_results(
    folder: Path,
    *,
    todo: Plan,
    raw: Raw,
    completion: Completed,
    truths: Mapping[Contrast, Volume],
    options: dict[str, Any],
    command: str,
    dataset: Path | None = None,
    viewer: bool,
    began: float,
    volumes: VolumesRecord | None = None,
) -> Report:
    """Write every image with its sidecar, then metrics.csv, preview.png, report.html and report.json.

    todo     of its files those may be absent that were never one: scans that are in memory only
    dataset  the BIDS data set whose files are named by URI
    """
    card, how, files, subject = completion.card, completion.how, todo.files, raw.subject
    places = todo.places
    selection = places.text(todo.selection.reason) if todo.selection is not None else ""
    warnings = tuple(places.text(warning) for warning in completion.warnings)
    used = [c for c in subject.available if c in card.learnt]
    uris = {c: BidsDataset(dataset).uri(files.files[c]) for c in used} if dataset else {}
    inputs = tuple(input_record(files.files.get(c), places, c, raw, uris.get(c)) for c in used)
    sampler = SamplerRecord(
        name=how.sampler,
        steps=how.steps,
        seed=how.seed,
        samples=how.samples,
        precision=how.precision,
        device=how.device,
        mode=how.mode,
        words=how.words,
        noise=how.generator,
        eta=how.eta,
        variance=how.variance,
        planes=how.planes or AXIAL,  # else of each member
        cycle_spinning=how.cycle_spinning,
    )
    software = versions()
    stripped = not has_skull(subject)
    not_used = {places.name(path): places.plain(why) for path, why in files.left_out.items()}

    def replaced(target: Contrast) -> str | None:
        return places.name(todo.replaced[target]) if target in todo.replaced else None

    def write_image(name: str, target: Contrast, volume: Volume, content: Content) -> None:
        sidecar = sidecar_json(
            target=target,
            inputs=inputs,
            weights=weights_record(completion, [target]),
            sampler=sampler,
            selection=selection,
            software=software,
            skull_stripped=stripped,
            rule=completion.prepared.record["rule"],
            hounsfield=completion.prepared.hounsfield,
            warnings=warnings,
            not_used=not_used,
            content=content,
            replaces=replaced(target),
            volumes=volumes if volumes and target in volumes.synthetic else None,
            brightness=completion.brightness.get(target),
        )
        what = target.label if content == "image" else f"{target.label} {content}"
        write_text(folder / sidecar_name(name), sidecar)
        text = DESCRIPTION.format(what, __version__, card.name)
        whole = target is Contrast.CT and content not in MAPS
        write_volume(folder / name, volume, files.files.get(raw.home), text, whole=whole)

    outputs = []
    for target, volume in completion.volumes.items():
        name = todo.output_name(target)
        write_image(name, target, volume, "image")
        beside: dict[Content, str] = {}
        several: tuple[tuple[Content, Mapping[Contrast, Volume]], ...] = (
            ("mean", completion.means),
            ("spread", completion.spreads),
            ("error", completion.errors),
        )
        for content, found in several:
            if target in found:
                beside[content] = todo.output_name(target, content)
                write_image(beside[content], target, found[target], content)
        outputs.append(
            OutputRecord(
                contrast=target,
                file=name,
                mean_file=beside.get("mean"),
                spread_file=beside.get("spread"),
                error_file=beside.get("error"),
                brightness=completion.brightness.get(target),
                replaces=replaced(target),
                sidecar=sidecar_name(name),
                sha256=sha256_of(folder / name),
            )
        )
    if raw.stripped_on is not None and subject.mask is not None:
        made, name = MASK.format(__version__, raw.stripped_on.label), files.mask_name()
        if dataset:
            sources = [BidsDataset(dataset).uri(files.files[raw.stripped_on])]
            said = {"Type": "Brain", "Description": made, "Sources": sources}
            write_text(folder / sidecar_name(name), json.dumps(said, indent=2) + "\n")
        write_volume(folder / name, subject.mask, files.files.get(raw.home), made)
    pictures = {t: picture(raw, used, completion, t, truths.get(t), viewer=viewer) for t in completion.volumes}
    report = Report(
        version=__version__,
        created=datetime.now(UTC),
        subject=subject.name,
        layout=files.layout,
        command=places.command(command),
        options=places.plain(options),
        inputs=inputs,
        selection=selection,
        weights=weights_record(completion, list(completion.volumes)),
        sampler=sampler,
        outputs=tuple(outputs),
        scores=completion.scores,
        volumes=volumes,
        warnings=warnings,
        not_used=not_used,
        file_notes=places.plain(files.notes),
        timings={**completion.seconds, "total": time.perf_counter() - began},
        preparation=places.plain(completion.prepared.record),
        software=software,
        peak_memory_mb=peak_memory_mb(how.device),
    )
    write_text(folder / "metrics.csv", metrics_csv(report))
    write_bytes(folder / "preview.png", preview([pictures[t].png for t in pictures], said_of_picture(report)))
    write_text(folder / "report.html", report_html(report, pictures))
    write_text(folder / "report.json", report_json(report))
    return report


def weights_record(completion: Completed, targets: Sequence[Contrast]) -> WeightsRecord:
    """What the report keeps of the checkpoint, or of a committee and those of it that made any of the targets."""
    record = WeightsRecord.of(completion.card, completion.sha256)
    members = {m.card.name: m for target in targets for m in completion.members.get(target, ())}
    records = [
        WeightsRecord.of(m.card, m.sha256).model_copy(update={"planes": completion.planes.get(name, AXIAL)})
        for name, m in members.items()
    ]
    return record.model_copy(update={"members": tuple(records)})


def input_record(
    path: Path | None, places: Places, contrast: Contrast, raw: Raw, uri: str | None = None
) -> InputRecord:
    """What the report keeps of one input, under the names that may be written of it; path None: one in memory."""
    volume, found = raw.subject.volumes[contrast], raw.registrations.get(contrast)
    return InputRecord(
        contrast=contrast,
        file=places.name(path) if path else IN_MEMORY,
        sha256=sha256_of(path) if path else sha256(volume.voxels.tobytes()).hexdigest(),
        shape=volume.shape,
        spacing=volume.spacing,
        axes=axis_code(volume.affine),
        registration=None if found is None else RegistrationRecord.of(found, raw.home),
        uri=uri,
    )


def said_of_picture(report: Report) -> dict[str, str]:
    """What preview.png says of itself: by `Software` mrsynth knows its own."""
    made = ", ".join(output.contrast.label for output in report.outputs)
    return {"Software": f"mrsynth {report.version}", "Title": f"SYNTHETIC {made}", "Warning": " ".join(report.notices)}


def sidecar_name(image: str) -> str:
    """The name of the JSON beside a NIfTI file."""
    return image.removesuffix(".gz").removesuffix(".nii") + ".json"


def versions() -> dict[str, str]:
    """Of mrsynth, Python and the packages that decide the numbers."""
    found = {"mrsynth": __version__, "python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
