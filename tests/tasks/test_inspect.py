"""`inspect` sees by names what `complete` would do, and loads nothing heavy for it."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD, Contrast
from mrsynth.errors import InputError, WeightsError
from mrsynth.io.checkpoint import read_checkpoint, write_checkpoint
from mrsynth.io.subjects import load_subject
from mrsynth.scans.familiarity import unfamiliar
from mrsynth.scores.rows import Score
from mrsynth.tasks.inspect import inspect
from mrsynth.tasks.models import load_method

HEAVY = ("torch", "monai", "matplotlib", "SimpleITK")
FOR_HEADERS = ("numpy", "nibabel", "scipy")  # nibabel loads scipy


def test_found_missing_and_chosen(only_tiny, write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE], segmentation=True)

    found = inspect(folder)

    assert (found.files.name, found.files.layout) == ("p1", "brats21")
    assert found.files.segmentation.name == "p1_seg.nii.gz"
    assert found.missing == (Contrast.T1CE,)
    assert found.choice.startswith("tiny: makes t1ce from t1+t2+flair")


def test_the_choice_is_that_of_complete(only_tiny, write_subject_folder, tmp_path):
    from mrsynth.tasks.complete.run import CompleteOptions, plan

    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE, Contrast.T2])

    assert inspect(folder).choice == plan(CompleteOptions(folder=folder)).selection.reason


def test_nothing_missing(only_tiny, write_subject_folder, tmp_path):
    found = inspect(write_subject_folder(tmp_path, "p1"))

    assert (found.missing, found.choice) == ((), None)


def test_without_a_checkpoint_the_reason_is_shown(only_tiny, write_subject_folder, tmp_path, monkeypatch):
    """Looking at a folder must not fail because weights are missing or the manifest is broken."""
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])
    monkeypatch.delenv("MRSYNTH_WEIGHTS_DIR")
    assert inspect(folder).choice.startswith("None: No checkpoint is at hand to make t1ce from t1+t2+flair")

    def broken():
        raise WeightsError("the manifest is broken")

    monkeypatch.setattr("mrsynth.io.store.manifest", broken)
    assert inspect(folder).choice == "None: the manifest is broken"


T1CE_ALONE = {
    "method": "cwdm",
    "contrasts": STANDARD,
    "requires": {Contrast.T1CE: (Contrast.T1, Contrast.T2, Contrast.FLAIR)},
    "licence": "CC0",
}


def test_a_network_for_just_this_contrast_is_the_choice_and_why(
    only_tiny, write_subject_folder, tmp_path, monkeypatch, run_cli
):
    """Of the file only the header is read: any tensor will do."""
    import torch

    from mrsynth.io.checkpoint import Checkpoint, write_checkpoint

    score = Score(
        pattern="t1+t2+flair", target="t1ce", region="brain", metric="PSNR", value=24.5, subjects=4, protocol="v1"
    )
    (tmp_path / "weights").mkdir()
    card = Card(name="special", **T1CE_ALONE, scores=(score,))
    write_checkpoint(tmp_path / "weights" / "special.safetensors", Checkpoint(card, {}, {}, {"any": torch.zeros(1)}))
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", f"{only_tiny.parent}:{tmp_path / 'weights'}")
    one = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])
    two = write_subject_folder(tmp_path, "p2", without=[Contrast.T1CE, Contrast.T2])

    why = "special: makes t1ce from t1+t2+flair with 24.5 dB brain PSNR on 4 validation subjects (as the checkpoint "
    why += "itself claims), the best of those"
    assert inspect(one).choice.startswith(why)
    assert inspect(two).choice.startswith("tiny: makes t1ce and t2 from t1+flair, the only checkpoint at hand")
    assert f"Checkpoint: {why}" in " ".join(run_cli("inspect", one)[1].split())


def test_what_is_only_published_is_named_and_not_fetched(only_tiny, write_subject_folder, tmp_path, monkeypatch):
    far = ManifestEntry(name="far", **T1CE_ALONE, repository="someone/cwdm", pattern="t1ce")
    monkeypatch.setattr("mrsynth.io.store.manifest", lambda: [far])
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])

    assert inspect(folder).choice.startswith("tiny: ")
    monkeypatch.delenv("MRSYNTH_WEIGHTS_DIR")
    assert inspect(folder).choice.startswith("None: No checkpoint is at hand to make t1ce from t1+t2+flair")
    assert "downloaded with --fetch: far (cwdm: t1ce from t1+t2+flair)" in inspect(folder).choice


def test_files_can_be_named(only_tiny, write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])
    enhanced = write_subject_folder(tmp_path / "whole", "p1") / "p1_t1ce.nii.gz"

    assert inspect(folder, {Contrast.T1CE: enhanced}).missing == ()


def test_an_unusable_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no scan"):
        inspect(tmp_path)


def test_the_command_prints_it(only_tiny, run_cli, write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE], segmentation=True)

    status, out, err = run_cli("inspect", folder)
    assert (status, err) == (0, "")
    for text in ("Subject p1 (brats21", "p1_t1.nii.gz", "p1_seg.nii.gz", "T1ce   missing", "Checkpoint: tiny: makes"):
        assert text in out

    status, out, _ = run_cli("inspect", folder, "-q")
    assert out.split() == ["T1", "p1_t1.nii.gz", "T2", "p1_t2.nii.gz", "FLAIR", "p1_flair.nii.gz", "T1ce", "missing"]


@pytest.mark.parametrize(
    "command", [["--help"], ["complete", "--help"], ["inspect"], ["weights", "list"]], ids=" ".join
)
def test_answers_at_once_because_nothing_heavy_is_loaded(command, tiny_checkpoint, write_subject_folder, tmp_path):
    if command == ["inspect"]:
        command = ["inspect", str(write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE]))]
    heavy = HEAVY if command[0] == "inspect" else (*HEAVY, *FOR_HEADERS)
    script = (
        f"import sys, json, mrsynth.cli.app as cli; sys.argv = ['mrsynth', *{command!r}]\n"
        "try: cli.main()\n"
        f"except SystemExit as end: print(json.dumps([end.code, [m for m in {heavy!r} if m in sys.modules]]))"
    )
    environment = {"MRSYNTH_WEIGHTS_DIR": str(tiny_checkpoint.parent), "PATH": "/usr/bin:/bin"}
    how = {"capture_output": True, "encoding": "utf-8", "env": environment, "check": True}
    done = subprocess.run([sys.executable, "-c", script], **how)

    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
    # the package's own checkpoints are known as well, and one of them may be the choice
    assert {"inspect": "Checkpoint: ", "weights": "tiny"}.get(command[0], "Usage: ") in done.stdout


def write(path, voxels, affine=None):
    nib.save(
        nib.Nifti1Image(np.asarray(voxels, np.float32), np.diag([-1.0, -1, 1, 1]) if affine is None else affine), path
    )


def test_every_unusable_file_is_listed_with_the_status_of_complete(only_tiny, run_cli, write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])
    (folder / "p1_t1.nii.gz").write_bytes(b"")
    (folder / "p1_t2.nii.gz").write_bytes(b"no gzip at all")

    found = inspect(folder)
    assert (found.status, found.judged, len(found.problems)) == (4, "headers", 2)
    assert "p1_t1.nii.gz is empty" in found.problems[0] and "p1_t2.nii.gz" in found.problems[1]
    status, out, _ = run_cli("inspect", folder)
    assert status == 4 and out.count("Problem:") == 2
    assert run_cli("complete", folder, "--dry-run")[0] == run_cli("complete", folder)[0] == 4


def test_what_only_voxels_tell_is_told_by_deep(only_tiny, run_cli, write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE], shape=(24, 28, 20))
    path = folder / "p1_t2.nii.gz"
    image = nib.load(path)
    spoiled = image.get_fdata(dtype=np.float32)
    spoiled[:, :, 8:11] = 0
    write(path, spoiled, image.affine)

    assert inspect(folder).hints == ()
    found = inspect(folder, deep=True)
    assert (found.status, found.judged, found.problems) == (0, "voxels", ())
    assert any("T2 may be spoiled: slices 8 to 10 along its third axis" in hint for hint in found.hints)
    write(path, np.full(spoiled.shape, np.nan), image.affine)
    assert inspect(folder).status == 0 and inspect(folder, deep=True).status == 4
    assert run_cli("inspect", folder, "--deep")[0] == run_cli("complete", folder)[0] == 4


def test_a_spoiled_scan_is_told_by_deep_where_nothing_is_missing(only_tiny, run_cli, write_subject_folder, tmp_path):
    """The contrast to replace is there: `complete` without --replace would not even look at it."""
    folder = write_subject_folder(tmp_path, "p1", shape=(40, 48, 32))
    path = folder / "p1_t2.nii.gz"
    image = nib.load(path)
    whole = image.get_fdata(dtype=np.float32)
    noise, lost = whole.copy(), whole.copy()
    noise[whole != 0] = np.random.default_rng(0).permutation(whole[whole != 0])
    lost[:, :, 12:16] = 0

    assert not any("T2 may be spoiled" in hint for hint in inspect(folder, deep=True).hints)
    for voxels, sign in ((noise, "the others predict "), (lost, "slices 12 to 15 along its third axis")):
        write(path, voxels, image.affine)
        found = inspect(folder, deep=True)
        assert (found.status, found.missing, found.judged, found.problems) == (0, (), "voxels", ())
        (told,) = (hint for hint in found.hints if hint.startswith("T2 may be spoiled"))
        assert sign in told and "`complete --replace t2` makes it from the others" in told
        assert inspect(folder).hints == ()
    status, out, _ = run_cli("inspect", folder, "--deep")
    assert status == 0 and "Note: T2 may be spoiled: slices 12" in " ".join(out.split()) and "all voxels" in out
    path.write_bytes(b"no gzip at all")
    assert inspect(folder).status == 0 and any("p1_t2.nii.gz" in hint for hint in inspect(folder, deep=True).hints)


def test_intensities_unlike_the_training_data_are_told_as_complete_tells_them(
    write_subject_folder, tmp_path, monkeypatch
):
    """The manifest leaves the histograms of the package's checkpoints to their files."""
    monkeypatch.delenv("MRSYNTH_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "home"))
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])
    path = folder / "p1_t1.nii.gz"
    image = nib.load(path)
    voxels = image.get_fdata(dtype=np.float32)
    write(path, np.where(voxels, 9 * voxels.max() + voxels, 0).astype(np.float32), image.affine)

    told = inspect(folder, deep=True).hints
    subject, trained = load_subject(folder), load_method("committee-ship")
    expected = unfamiliar(subject, trained.prepare(subject, None), trained.card)
    assert any("The intensities of T1 are spread" in hint for hint in expected)
    assert set(expected) <= set(told)


def test_json_holds_what_is_printed(only_tiny, run_cli, write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])

    status, out, err = run_cli("inspect", "-i", folder, "--json")
    said = json.loads(out)
    assert (status, err, said["status"], said["missing"], said["subject"]) == (0, "", 0, ["t1ce"], "p1")
    assert list(said["files"]) == ["t1", "t2", "flair"] and said["choice"].startswith("tiny")


def test_without_a_checkpoint_the_status_is_that_of_complete(
    write_subject_folder, only_tiny, tmp_path, monkeypatch, run_cli
):
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])
    monkeypatch.delenv("MRSYNTH_WEIGHTS_DIR")

    assert run_cli("inspect", folder)[0] == run_cli("complete", folder)[0] == 5


def test_a_preparation_that_this_version_does_not_know_ends_deep_as_it_ends_complete(
    only_tiny, run_cli, write_subject_folder, tmp_path, monkeypatch
):
    foreign = read_checkpoint(only_tiny)
    monkeypatch.setenv("MRSYNTH_WEIGHTS_DIR", str(tmp_path))
    later = replace(foreign, preparation={**foreign.preparation, "sharpened": True})
    write_checkpoint(tmp_path / only_tiny.name, later, torch.float32)
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])

    assert run_cli("inspect", folder, "--deep")[0] == run_cli("complete", folder)[0] == WeightsError.exit_code


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", ["unpacked", "times two"])
def test_one_image_under_two_names_is_told_where_nothing_is_missing(
    only_tiny, write_subject_folder, tmp_path, kind, deep
):
    """One file, packed and not, by its checksum; another multiple of it by its voxels, which only --deep reads."""
    folder = write_subject_folder(tmp_path, "p1")
    image = nib.load(folder / "p1_t1.nii.gz")
    (folder / "p1_t1ce.nii.gz").unlink()
    if kind == "unpacked":
        (folder / "p1_t1ce.nii").write_bytes(gzip.decompress((folder / "p1_t1.nii.gz").read_bytes()))
        with pytest.raises(InputError, match="T1 and T1ce are the same image"):
            inspect(folder, deep=deep)
        return
    nib.save(nib.Nifti1Image(image.get_fdata() * 2, image.affine), folder / "p1_t1ce.nii.gz")
    assert any("T1 and T1ce are the same image" in hint for hint in inspect(folder, deep=deep).hints) == deep
