"""A spoiled contrast: there, but to be made from the others; the scan itself is neither read nor touched."""

import json
import shutil

import pytest

from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import MrsynthError, UsageError
from mrsynth.io.subjects import find_subject
from mrsynth.reports.record import Report
from mrsynth.tasks.complete.run import CompleteOptions, complete, plan

T1, T1CE, T2, FLAIR = STANDARD
QUICK = {"self_check": False, "precision": "fp32", "device": "cpu"}

pytestmark = pytest.mark.usefixtures("only_tiny", "no_pictures")


@pytest.mark.parametrize("layout", ["brats21", "bids"])
def test_the_scan_stays_and_what_is_made_has_another_name(write_subject_folder, tmp_path, layout):
    folder = write_subject_folder(tmp_path, "sub-p1", layout)
    scan = find_subject(folder).files[T2]
    scan.write_bytes(b"spoiled")  # not even readable
    _, written = complete(CompleteOptions(folder=folder, replaced=(T2,), **QUICK))

    image = written.images[T2]
    assert scan.read_bytes() == b"spoiled" and "remade" in image.name and image.name != scan.name
    report = Report.model_validate_json((written.folder / "report.json").read_text())
    assert report.available == (T1, T1CE, FLAIR) and report.outputs[0].replaces == scan.relative_to(folder).as_posix()
    assert (
        json.loads((written.folder / report.outputs[0].sidecar).read_text())["Replaces"]
        == scan.relative_to(folder).as_posix()
    )
    assert any("T2 was made although" in warning for warning in report.warnings)
    assert find_subject(folder).files[T2] == scan  # what was made is never taken for a scan


def test_what_is_missing_is_made_too_unless_targets_are_named(write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE])

    def names(**options):
        todo = plan(CompleteOptions(folder=folder, replaced=(T2,), **options))
        return [todo.output_name(target) for target in todo.targets]

    assert names() == ["p1_t1ce.nii.gz", "p1_t2_remade.nii.gz"]
    assert names(targets=(T2,)) == ["p1_t2_remade.nii.gz"]
    todo = plan(CompleteOptions(folder=folder, replaced=(T2,)))
    assert [todo.output_name(c, "spread") for c in (T2, T1CE)] == [
        "p1_t2_remade_spread.nii.gz",
        "p1_t1ce_spread.nii.gz",
    ]


def test_what_no_checkpoint_makes_is_not_said_to_have_been_made(write_subject_folder, tmp_path):
    """A scan of another contrast than those that are made: it is asked for by name all the same, and refused."""
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE])
    shutil.copy(find_subject(folder).files[T2], folder / "p1_pd.nii.gz")

    with pytest.raises(MrsynthError, match="pd"):
        plan(CompleteOptions(folder=folder, replaced=(Contrast.PD,)))


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("brats21", {f"sub-p1_t2_remade{tag}" for tag in ("", "_mean", "_spread")}),
        ("bids", {f"sub-p1_desc-synthremade{tag}_T2w" for tag in ("", "mean", "spread")}),
    ],
)
def test_mean_and_spread_of_what_is_made_anew_are_never_taken_for_scans(
    write_subject_folder, write_tiny_checkpoint, tmp_path, layout, names
):
    both = {"mode": "mean", "modes": ["mean", "sample"], "sampler": "ddpm", "steps": 2}
    weights = str(write_tiny_checkpoint(tmp_path / "both.safetensors", "both", sampling=both))
    folder = write_subject_folder(tmp_path, "sub-p1", layout)
    scan = find_subject(folder).files[T2]
    asked = {"weights": weights, "mode": "sample", "samples": 2}
    _, written = complete(CompleteOptions(folder=folder, replaced=(T2,), **asked, **QUICK))

    assert {path.name for path in written.folder.glob("*.nii.gz")} == {f"{name}.nii.gz" for name in names}
    for name in names:  # also where somebody moves them among the scans
        for ending in (".nii.gz", ".json"):
            (written.folder / f"{name}{ending}").rename(scan.parent / f"{name}{ending}")
    assert find_subject(folder).files[T2] == scan


def test_the_result_equals_that_of_a_subject_without_the_scan(write_subject_folder, tmp_path):
    whole = write_subject_folder(tmp_path / "a", "p1")
    lacking = write_subject_folder(tmp_path / "b", "p1", without=[T2])
    made = [
        complete(CompleteOptions(folder=whole, replaced=(T2,), **QUICK))[1],
        complete(CompleteOptions(folder=lacking, **QUICK))[1],
    ]

    assert made[0].images[T2].read_bytes() == made[1].images[T2].read_bytes()


def test_requests_that_make_no_sense(write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[T1CE])
    with pytest.raises(UsageError, match="--replace t1ce: p1 has no such scan"):
        plan(CompleteOptions(folder=folder, replaced=(T1CE,)))
    with pytest.raises(UsageError, match=r"--replace t1,t2,flair: nothing would be left"):
        plan(CompleteOptions(folder=folder, replaced=(T1, T2, FLAIR)))
