"""Pairs of contrasts other than the standard four, from files to files: CT and MR, FLAIR and DWI, T1 and FLAIR."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mrsynth.contrasts import CT_WARNING, Contrast
from mrsynth.errors import InputError
from mrsynth.io.cache import cached
from mrsynth.io.checkpoint import read_checkpoint
from mrsynth.io.subjects import find_subject, find_subjects, load_subject
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.synthesis import Synthesis
from mrsynth.tasks.complete import run as task
from mrsynth.tasks.complete.run import complete_subject, load_method
from mrsynth.tasks.train.run import TrainOptions, train
from tests.helpers import moved_fields

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

PAIR = (Contrast.CT, Contrast.MR)
SHAPE = (20, 24, 8)
OBLIQUE = np.array([[-1, 0.05, 0, 9], [-0.05, -1, 0, 12], [0, 0, 1, -4], [0, 0, 0, 1]])
DFBK = {
    "preset": "tiny",
    "network.width": 8,
    "network.groups": 4,
    "network.multipliers": [1, 2],
    "network.swin_levels": [1],
    "network.swin_width": 8,
    "network.head_dim": 8,
    "dfb.levels": [0],
    "kg.levels": [1],
    "kg.width": 16,
    "dfb.head_dim": 8,
    "kg.head_dim": 8,
}


def save(path, voxels, affine=OBLIQUE, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels.astype(dtype), affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    nib.save(image, path)


def synthrad(root, name, brain_volumes, seed, fill=-1024):
    """CT in Hounsfield units, MR with noise around the head, the mask of the head."""
    volumes = brain_volumes(SHAPE, seed, (Contrast.CT, Contrast.MR))
    mr = volumes[Contrast.MR].voxels
    ct = np.where(mr != 0, mr - 300, fill)  # -150 to 150
    save(root / name / "ct.nii.gz", ct)
    save(root / name / "mr.nii.gz", np.where(mr != 0, mr, 3))
    save(root / name / "mask.nii.gz", mr != 0)
    return root / name


def isles(root, number, brain_volumes, kinds=("Flair", "DWI", "T1", "T2")):
    volumes = brain_volumes(SHAPE, int(number))
    for n, kind in enumerate(kinds):
        contrast = Contrast.T2 if kind == "DWI" else Contrast(kind.lower())
        name = f"VSD.Brain.XX.O.MR_{kind}.{number}{n}"
        save(root / number / name / f"{name}.nii", volumes[contrast].voxels)
    return root / number


def settings(method, contrasts, **others):
    options = {f"method.{key}": value for key, value in (DFBK if method == "dfbk" else {}).items()}
    options |= {"method.contrasts": contrasts, "training.iterations": 1, "training.batch_size": 2}
    return {**options, "training.precision": "fp32", "preparation.multiple": 4, **others}


def flags(options):
    return [part for key, value in options.items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def heads(tmp_path_factory, brain_volumes):
    root = tmp_path_factory.mktemp("synthrad")
    for seed in range(2):
        synthrad(root, f"1BA00{seed}", brain_volumes, seed)
    return root


@pytest.fixture(scope="module")
def ct_and_mr(heads, tmp_path_factory):
    """A checkpoint for CT and MR of a window of its own."""
    out = tmp_path_factory.mktemp("runs") / "ct-mr"
    changes = settings("dfbk", ["ct", "mr"], **{"preparation.hounsfield": [-1000, 1000]})
    return train(TrainOptions("dfbk", (heads,), out, overrides=changes, device="cpu"))


def test_train_on_the_command_line_takes_the_contrasts(heads, tmp_path, run_cli):
    changes = flags({k: v for k, v in settings("dfbk", None).items() if k != "method.contrasts"})
    wanted = ["--method", "dfbk", "--contrasts", "ct,mr", "--data", heads, "--out", tmp_path / "run", *changes]
    code, out, err = run_cli("train", *wanted, "--device", "cpu", "--no-progress")
    assert code == 0, err
    checkpoint = read_checkpoint(Path(out.strip()))
    assert checkpoint.card.contrasts == (Contrast.CT, Contrast.MR) and checkpoint.config["contrasts"] == ["ct", "mr"]
    assert checkpoint.preparation["hounsfield"] == [-1024, 2000]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--contrasts", "ct,mri"], "no contrast is named 'mri'"),
        (["--contrasts", "ct"], "two or more"),
        (["--contrasts", "mr,mr"], "two or more"),
        (["--contrasts", "ct,mr", "--set", "method.contrasts=[t1, t2]"], "leave one of them out"),
        (["--contrasts", "ct,mr", "--set", "preparation.hounsfield=[100, 0]"], "preparation.hounsfield"),
    ],
)
def test_contrasts_and_windows_that_make_no_sense(heads, tmp_path, run_cli, words, said):
    code, _, err = run_cli("train", "--method", "dfbk", "--data", heads, "--out", tmp_path / "run", *words)
    assert code == 2 and said in err and not (tmp_path / "run").exists()


def test_a_segmenter_has_its_own_contrasts(heads, tmp_path, run_cli):
    words = ("--segmenter", "--contrasts", "ct,mr", "--data", heads, "--out", tmp_path / "run")
    code, _, err = run_cli("train", *words)
    assert code == 2 and "--contrasts" in err


def test_the_missing_ct_is_written_in_whole_hounsfield_units_where_the_mr_lies(heads, ct_and_mr, tmp_path, run_cli):
    folder = Path(shutil.copytree(heads / "1BA001", tmp_path / "1BA001"))
    (folder / "ct.nii.gz").unlink()
    code, _, err = run_cli("complete", folder, "--weights", ct_and_mr, "--samples", 2, "--no-progress")
    assert code == 0, err
    made, mr = nib.load(folder / "mrsynth" / "ct.nii.gz"), nib.load(folder / "mr.nii.gz")
    assert made.get_data_dtype() == np.int16 and made.shape == mr.shape
    assert moved_fields(made, mr) == []
    voxels, inside = np.asarray(made.dataobj), np.asarray(nib.load(folder / "mask.nii.gz").dataobj) != 0
    assert (voxels[~inside] == -1000).all() and voxels.min() == -1000 and voxels.max() <= 1000
    assert len(np.unique(voxels[inside])) > 1
    said = json.loads((folder / "mrsynth" / "ct.json").read_text())
    assert said["Units"] == "HU" and said["IntensityMapping"].startswith("Hounsfield units, whole numbers from -1000")
    assert CT_WARNING in said["Notices"]
    page = (folder / "mrsynth" / "report.html").read_text()
    assert CT_WARNING in page and "Hounsfield units, whole numbers" in page and "1000 u" not in page
    deviation = nib.load(folder / "mrsynth" / "ct_spread.nii.gz")
    assert deviation.get_data_dtype() == np.float32 and 0 < deviation.get_fdata().max() < 2000
    again = find_subject(folder)
    assert again.available == (Contrast.MR,)  # what was made is no input


def test_the_missing_mr_is_relative_and_scores_against_a_reference(heads, ct_and_mr, tmp_path, run_cli):
    folder = Path(shutil.copytree(heads / "1BA001", tmp_path / "1BA001"))
    (folder / "mr.nii.gz").unlink()
    code, _, err = run_cli(
        *("complete", folder, "--weights", ct_and_mr, "--reference", heads / "1BA001", "--no-progress")
    )
    assert code == 0, err
    voxels = nib.load(folder / "mrsynth" / "mr.nii.gz").get_fdata()
    assert voxels.min() >= 0 and 1 < voxels.max() <= 1000
    said = json.loads((folder / "mrsynth" / "mr.json").read_text())
    assert "Units" not in said and CT_WARNING not in said["Notices"]
    assert (folder / "mrsynth" / "metrics.csv").read_text().count("reference") == 13


def test_a_reference_and_the_self_check_see_a_ct_by_the_window(heads, ct_and_mr, monkeypatch):
    """With the truth put in the place of what a network makes there is no error."""
    whole, trained = load_subject(find_subject(heads / "1BA000")), load_method(ct_and_mr)
    true = trained.prepare(whole)
    monkeypatch.setattr("mrsynth.tasks.trained.synthesise_volume", lambda *_, **__: Synthesis(true.images, None, None))
    done = complete_subject(whole.without(Contrast.CT), trained)
    expected = np.maximum(whole.volumes[Contrast.CT].voxels, -1000)
    np.testing.assert_array_equal(done.volumes[Contrast.CT].voxels, expected)
    rows = list(task.against_reference(whole.without(Contrast.CT), done, Contrast.CT, whole.volumes[Contrast.CT]))
    rows += [row for row in task.check_on_itself(trained, whole, done.how, None, 3, None) if row.target == Contrast.CT]
    errors = [row.value for row in rows if row.metric == "MAE"]
    assert len(errors) == 4 and max(errors) < 1e-6


def test_one_direction_as_in_the_paper(heads, tmp_path):
    changes = settings("dfbk", ["ct", "mr"], **{"method.unified": False, "method.source": "mr", "method.target": "ct"})
    checkpoint = train(TrainOptions("dfbk", (heads,), tmp_path / "run", overrides=changes, device="cpu"))
    trained = load_method(checkpoint)
    assert trained.card.requires == {Contrast.CT: (Contrast.MR,)}
    whole = load_subject(find_subject(heads / "1BA000"))
    assert complete_subject(whole.without(Contrast.CT), trained).volumes.keys() == {Contrast.CT}


def test_the_window_decides_what_is_cached_of_a_ct_and_of_nothing_else(heads, tmp_path):
    files = find_subject(heads / "1BA000")
    windows = [PreparationConfig(multiple=4, hounsfield=window) for window in ((-1024, 2000), (-1000, 1000))]
    for contrasts, kept in ((PAIR, 2), ((Contrast.MR, Contrast.T1), 1)):
        assert len({cached(files, contrasts, window, tmp_path).path for window in windows}) == kept


# Bad input -----------------------------------------------------------------------------------------------------------


def test_training_refuses_a_ct_with_an_offset_by_name(heads, tmp_path, brain_volumes):
    root = tmp_path / "data"
    shutil.copytree(heads, root)
    folder = root / "1BA001"
    ct = nib.load(folder / "ct.nii.gz")
    save(folder / "ct.nii.gz", np.asarray(ct.dataobj) + 1024)
    with pytest.raises(InputError, match=r"1BA001: CT from 0 to \d+, with no voxel of air .* Hounsfield units"):
        train(TrainOptions("dfbk", (root,), tmp_path / "run", overrides=settings("dfbk", ["ct", "mr"]), device="cpu"))


def test_completing_refuses_a_ct_with_an_offset(heads, ct_and_mr, tmp_path, run_cli):
    folder = tmp_path / "1BA009"
    save(folder / "ct.nii.gz", np.asarray(nib.load(heads / "1BA000" / "ct.nii.gz").dataobj) + 1024)
    code, _, err = run_cli("complete", folder, "--weights", ct_and_mr, "--no-progress")
    assert code == 4 and "CT from 0 to" in err and not (folder / "mrsynth").exists()


@pytest.mark.parametrize("what", ["shape", "place"])
def test_source_and_target_on_different_grids_are_both_named(heads, tmp_path, what):
    root = tmp_path / "data"
    shutil.copytree(heads, root)
    voxels = np.asarray(nib.load(root / "1BA001" / "mr.nii.gz").dataobj)
    moved = OBLIQUE.copy()
    moved[0, 3] += 1
    save(root / "1BA001" / "mr.nii.gz", *((voxels[1:],) if what == "shape" else (voxels, moved)))
    with pytest.raises(
        InputError, match=r"(?s)1BA001: CT and MR lie on different grids.*ct\.nii\.gz.*mr\.nii\.gz"
    ) as error:
        train(TrainOptions("dfbk", (root,), tmp_path / "run", overrides=settings("dfbk", ["ct", "mr"]), device="cpu"))
    assert "20x24x8" in str(error.value) and "resample them first" in str(error.value)


# ISLES, WMH ----------------------------------------------------------------------------------------------------------


def test_flair_and_dwi_of_isles(tmp_path, brain_volumes, run_cli):
    for number in ("1", "2"):
        isles(tmp_path / "SISS2015_Training", number, brain_volumes)
    subjects, problems = find_subjects(tmp_path)
    assert [s.name for s in subjects] == ["siss-01", "siss-02"] and not problems
    changes = settings("dfbk", ["flair", "dwi"])
    checkpoint = train(TrainOptions("dfbk", (tmp_path,), tmp_path / "run", overrides=changes, device="cpu"))
    lacking = isles(tmp_path / "new", "7", brain_volumes, ("Flair", "T1"))
    code, _, err = run_cli("complete", lacking, "--weights", checkpoint, "--no-progress")
    assert code == 0, err
    (made,) = (lacking / "mrsynth").glob("*.nii.gz")
    assert json.loads(made.with_name(made.name.replace(".nii.gz", ".json")).read_text())["Target"] == "dwi"
    assert nib.load(made).shape == SHAPE


def test_a_folder_that_is_no_data_set_is_read_as_before(tmp_path, brain_volumes, write_subject_folder):
    write_subject_folder(tmp_path, "BraTS2021_00001", shape=SHAPE)
    save(tmp_path / "case" / "flair.nii.gz", brain_volumes(SHAPE)[Contrast.FLAIR].voxels)
    subjects, problems = find_subjects(tmp_path)
    assert {s.name for s in subjects} == {"BraTS2021_00001", "case"} and not problems
    assert find_subject(tmp_path / "case").available == (Contrast.FLAIR,)


def test_files_of_another_data_set_are_told(heads, tmp_path, brain_volumes):
    shutil.copytree(heads, tmp_path / "rad")
    isles(tmp_path / "siss", "1", brain_volumes, ("Flair",))
    subjects, (problem,) = find_subjects(tmp_path)
    assert [s.name for s in subjects] == ["1BA000", "1BA001"]
    assert "read as synthrad23; 1 files of other data sets" in problem


def test_msg_ldm_learns_two_contrasts(tmp_path, write_subject_folder, run_cli):
    for seed in range(2):
        write_subject_folder(tmp_path / "data", f"p{seed}", shape=(32, 32, 6), seed=seed)
    changes = settings("msg-ldm", ["t1", "flair"], **{"method.preset": "tiny", "preparation.multiple": 32})
    checkpoint = train(TrainOptions("msg-ldm", (tmp_path / "data",), tmp_path / "run", overrides=changes, device="cpu"))
    folder = tmp_path / "data" / "p0"
    for name in ("t1", "t1ce", "t2"):
        (folder / f"p0_{name}.nii.gz").unlink()
    code, _, err = run_cli("complete", folder, "--weights", checkpoint, "--steps", 2, "--no-progress")
    assert code == 0, err
    assert [path.name for path in (folder / "mrsynth").glob("*.nii.gz")] == ["p0_t1.nii.gz"]
