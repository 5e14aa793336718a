"""Batches of BIDS data sets: their derivative as the official validator sees it, and the raw data as they were."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mrsynth.cli.bids import bids
from mrsynth.contrasts import Contrast
from mrsynth.errors import InputError, UsageError
from mrsynth.io.nifti import write_volume
from mrsynth.io.subjects import SubjectFiles, find_subject
from mrsynth.tasks.batch.journal import Journal, Record, part_name, records_of
from mrsynth.tasks.batch.tree import Tree, of_participants, speaking_of
from tests.conftest import CHECKOUT, NO_VALIDATOR
from tests.helpers import commands_in, content

NAMES = {Contrast.T1: "T1w", Contrast.T1CE: "ce-gadolinium_T1w", Contrast.T2: "T2w", Contrast.FLAIR: "FLAIR"}
LACKING = {"sub-01": ("t1ce",), "sub-02/ses-a": ("t2",), "sub-02/ses-b": ("flair", "t1ce"), "sub-03": ()}
QUICK = ("--fast", "--no-self-check", "--no-progress", "--precision", "fp32")
MADE = {
    "sub-01/anat/sub-01_ce-gadolinium_desc-synth_T1w",
    "sub-02/ses-a/anat/sub-02_ses-a_desc-synth_T2w",
    "sub-02/ses-b/anat/sub-02_ses-b_desc-synth_FLAIR",
    "sub-02/ses-b/anat/sub-02_ses-b_ce-gadolinium_desc-synth_T1w",
}

pytestmark = pytest.mark.usefixtures("only_tiny", "no_pictures")


@pytest.fixture(scope="module")
def raw(tmp_path_factory, brain_volumes):
    """Three participants, one of them with two sessions."""
    root = tmp_path_factory.mktemp("data") / "STUDY"
    for number, (home, lacking) in enumerate(LACKING.items()):
        (root / home / "anat").mkdir(parents=True)
        for contrast, volume in brain_volumes((24, 28, 12), number).items():
            if contrast not in lacking:
                name = f"{home.replace('/', '_')}_{NAMES[contrast]}.nii.gz"
                write_volume(root / home / "anat" / name, volume)
    (root / "README").write_text("Made up for tests of mrsynth: nobody was scanned.")
    said = {"Name": "Made up", "BIDSVersion": "1.8.0", "License": "CC0", "Authors": ["A. One", "B. Two"]}
    (root / "dataset_description.json").write_text(json.dumps(said))
    return root


@pytest.fixture
def study(raw, tmp_path):
    return Path(shutil.copytree(raw, tmp_path / "STUDY"))


@pytest.fixture
def app(run_cli, monkeypatch, capsys):
    """app(*words) -> (exit status, stdout and stderr) of `mrsynth-bids`."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["mrsynth-bids", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            bids()
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    return run


def errors_of(folder):
    """(code, file) of every error that the official validator finds; skips where it is not installed."""
    if (program := shutil.which("bids-validator-deno")) is None:
        pytest.skip(NO_VALIDATOR)
    done = subprocess.run([program, folder, "--format", "json"], capture_output=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    return {(i["code"], i["location"].lstrip("/")) for i in issues if i["severity"] == "error"}


def images(out):
    return {p.relative_to(out).as_posix().removesuffix(".nii.gz") for p in out.rglob("*.nii.gz")}


def test_a_data_set_gets_a_derivative_and_keeps_its_raw_data(study, run_cli):
    before, out = content(study), study / "derivatives" / "mrsynth"
    status, printed, err = run_cli("batch", study, *QUICK)
    assert status == 0, err

    assert images(out) == MADE
    assert all((out / f"{image}.json").exists() for image in MADE)
    assert {p: b for p, b in content(study).items() if not p.startswith("derivatives")} == before
    sidecar = json.loads((out / "sub-02/ses-a/anat/sub-02_ses-a_desc-synth_T2w.json").read_text())
    home = "bids:source:sub-02/ses-a/anat/sub-02_ses-a_"
    assert sidecar["Sources"] == [f"{home}{name}.nii.gz" for name in ("T1w", "ce-gadolinium_T1w", "FLAIR")]
    for uri in sidecar["Sources"]:
        link = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]["source"]
        assert (out / link / uri.removeprefix("bids:source:")).is_file()
    page = (out / "index.html").read_text()
    for link in re.findall(r'href="([^"]+/report\.html)"', page):
        assert (out / link).is_file()
    assert page.count('/report.html"') == 3

    status, printed, err = run_cli("batch", study, *QUICK)
    assert status == 0 and "0 to do, 3 done before" in printed + err


@pytest.mark.parametrize("inside", [True, False])
def test_the_official_validator_finds_no_error_but_the_planted_one(inside, study, tmp_path, run_cli):
    out = study / "derivatives" / "mrsynth" if inside else tmp_path / "elsewhere"
    errors_of(study)  # skips
    samples = ("--mode", "sample", "--samples", "2") if inside else ()
    status, _, err = run_cli("batch", study, "-o", out, *QUICK, "--participants", "01", *samples)
    assert status == 0, err
    assert ("sub-01/anat/sub-01_ce-gadolinium_desc-synthspread_T1w" in images(out)) == inside
    assert errors_of(out) == set()

    image = out / "sub-01/anat/sub-01_ce-gadolinium_desc-synth_T1w.nii.gz"
    image.rename(image.with_name("sub-01_synthetic_T1ce.nii.gz"))
    found = errors_of(out)
    assert {place for _, place in found} == {
        "sub-01/anat/sub-01_synthetic_T1ce.nii.gz",
        "sub-01/anat/sub-01_ce-gadolinium_desc-synth_T1w.json",  # of no image now
    }


def test_a_brain_mask_that_was_found_is_named_and_described_as_bids_has_it(study, run_cli, monkeypatch):
    import numpy as np

    from mrsynth.io.nifti import read_volume
    from mrsynth.scans.volume import Volume

    def head(path):
        volume = read_volume(path)
        noise = np.random.default_rng(0).uniform(5, 20, volume.shape).astype(np.float32)
        write_volume(path, Volume(volume.voxels + noise, volume.affine))

    for path in (study / "sub-01").rglob("*.nii.gz"):
        head(path)
    monkeypatch.setattr(
        "mrsynth.tasks.complete.run.brain_by_deepbet",
        lambda volume: volume.voxels > 100,
    )
    status, _, err = run_cli("batch", study, *QUICK, "--participants", "01")
    assert status == 0, err
    out = study / "derivatives" / "mrsynth"
    said = json.loads((out / "sub-01/anat/sub-01_desc-brain_mask.json").read_text())

    assert said["Type"] == "Brain" and said["Sources"] == ["bids:source:sub-01/anat/sub-01_T1w.nii.gz"]
    assert errors_of(out) == set()
    status, _, err = run_cli("batch", study, *QUICK, "--participants", "01", "--overwrite")
    assert status == 0, err  # the mask and what describes it are ours to replace


def test_participants_are_chosen_with_all_their_sessions(study, tmp_path, run_cli):
    status, _, err = run_cli("batch", study, "-o", tmp_path / "out", *QUICK, "--participants", "02")
    assert status == 0, err
    assert images(tmp_path / "out") == {image for image in MADE if image.startswith("sub-02")}

    status, _, err = run_cli("batch", study, "-o", tmp_path / "out", *QUICK, "--participants", "sub-01,sub-02")
    assert status == 0, err
    assert images(tmp_path / "out") == MADE
    assert set(records_of(tmp_path / "out")) == {"sub-01", "sub-02_ses-a", "sub-02_ses-b"}


def test_a_participant_that_is_not_there_ends_with_what_is(study, run_cli):
    shutil.copy(study / "sub-03/anat/sub-03_T1w.nii.gz", study / "sub-03/anat/sub-03_run-2_T1w.nii.gz")
    status, _, err = run_cli("batch", study, *QUICK, "--participants", "sub-03")

    assert status == 2 and "sub-01, sub-02_ses-a" in err and "2 files could be the T1" in err
    assert not (study / "derivatives").exists()


def test_names_that_are_not_of_bids_are_refused_and_the_rest_is_done(study, run_cli):
    for path in list((study / "sub-01" / "anat").iterdir()):
        path.rename(path.with_name(path.name.replace("sub-01_", "one_")))
    status, _, err = run_cli("batch", study, *QUICK, "--participants", "01,anat,sub-01,one")
    assert status == 2

    status, out, err = run_cli("batch", study, *QUICK)
    assert status == 3 and "not named as in BIDS" in out + err
    assert images(study / "derivatives" / "mrsynth") == {image for image in MADE if "sub-01" not in image}


@pytest.mark.parametrize("place", [".", "sub-01", "sub-01/anat", "code", "derivatives", "sub-01/anat/../../results"])
def test_nothing_is_written_among_raw_data(place, study, run_cli):
    before = content(study)
    status, _, err = run_cli("batch", study, "-o", study / place, *QUICK)

    assert status == 2 and "lies among the data of" in err
    assert content(study) == before


def test_a_participant_by_itself_is_completed_into_the_derivative(study, run_cli):
    assert run_cli("batch", study / "sub-02", *QUICK)[0] == 0
    assert images(study / "derivatives" / "mrsynth") == {image for image in MADE if image.startswith("sub-02")}


def test_a_derivative_of_another_program_is_left_alone(study, tmp_path, run_cli):
    other = tmp_path / "fmriprep"
    other.mkdir()
    (other / "dataset_description.json").write_text('{"BIDSVersion": "1.8.0", "GeneratedBy": [{"Name": "fMRIPrep"}]}')
    before = content(other)
    status, _, err = run_cli("batch", study, "-o", other, *QUICK)

    assert status == 2 and "that mrsynth did not make" in err and content(other) == before


def test_what_others_added_to_the_derivative_stays(study, tmp_path, run_cli):
    out = tmp_path / "out"
    out.mkdir()
    (out / "README").write_text("ours")
    (out / ".bidsignore").write_text("notes/")
    assert run_cli("batch", study, "-o", out, *QUICK, "--participants", "01")[0] == 0
    said = json.loads((out / "dataset_description.json").read_text())
    (out / "dataset_description.json").write_text(json.dumps(said | {"Authors": ["A", "B"], "Name": "x"}))
    assert run_cli("batch", study, "-o", out, *QUICK, "--participants", "01")[0] == 0

    assert json.loads((out / "dataset_description.json").read_text()) == said | {"Authors": ["A", "B"]}
    assert (out / "README").read_text() == "ours" and not (out / "README.md").exists()
    lines = (out / ".bidsignore").read_text().splitlines()
    assert lines[0] == "notes/" and "**/report.html" in lines and len(lines) == len(set(lines))


def test_folders_of_other_kinds_are_as_they_were(tmp_path):
    files = SubjectFiles("sub-1", tmp_path, "free", {})

    assert Tree.of(tmp_path, None) == Tree(tmp_path / "mrsynth")
    assert Tree.of(tmp_path, None).home("sub-1") == Path("sub-1")
    Tree.of(tmp_path, None).refuse_strangers(files)
    with pytest.raises(InputError, match="not named as in BIDS"):
        Tree.of(tmp_path, None).__class__(tmp_path, dataset=object()).refuse_strangers(files)


# As a BIDS app -------------------------------------------------------------------------------------------------------


def test_the_app_makes_participants_and_sums_them_up(study, tmp_path, app):
    out = tmp_path / "OUT"
    status, said = app(study, out, "participant", "--participant-label", "01", "sub-03", *QUICK)
    assert status == 0, said
    assert app(study, out, "participant", "--participant_label", "02", *QUICK)[0] == 0
    assert images(out) == MADE
    for name in ("summary.csv", "index.html"):
        (out / name).unlink()
    status, said = app(study, out, "group")

    assert status == 0 and len((out / "summary.csv").read_text().splitlines()) == 1 + 4, said
    assert (out / "index.html").exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["participant"], 4, "is no BIDS data set"),
        (["group"], 4, "is no BIDS data set"),
        (["session"], 2, "invalid choice"),
    ],
)
def test_the_app_wants_a_data_set_and_a_level(words, status, message, tmp_path, app):
    (tmp_path / "in").mkdir()
    ended, said = app(tmp_path / "in", tmp_path / "out", *words)

    assert ended == status and message in said and not (tmp_path / "out").exists()


def test_a_summary_of_nothing_is_an_error(study, tmp_path, app):
    status, said = app(study, tmp_path / "out", "group")

    assert status == 4 and "holds no journal" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["STUDY", "out", "participant", "--participant-label", "99"], "--participant-label 99: found no such subject"),
        (["STUDY", "out", "participant", "--participant-label", ""], "--participant-label is empty"),
        (["STUDY", "", "participant"], "OUT is empty"),
        (["", "out", "participant"], "IN is empty"),
        (["STUDY", "STUDY/sub-01", "participant"], "Give OUT a folder in"),
        (["STUDY", "out", "participant", "--fst"], "No such option: --fst"),
        (["ROOT--out", "out", "participant"], "ROOT--out is no BIDS data set"),
    ],
)
def test_the_app_speaks_of_its_own_options(study, tmp_path, app, monkeypatch, words, said):
    """What it hands to `mrsynth batch` comes back in words of that; paths stay as they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ROOT--out").mkdir()
    status, printed = app(*words, *QUICK)

    assert status in (2, 4) and said in " ".join(printed.split()), printed
    assert not re.search(r"--participants\b|mrsynth batch|(?<!ROOT)--out\b|ROOT(?!--out)", printed), printed


def test_options_of_batch_hold_for_the_app(study, tmp_path, app):
    assert app(study, tmp_path / "out", "participant", "--participant-label", "01", *QUICK, "--seed", "5")[0] == 0
    assert json.loads((tmp_path / "out" / "batch.json").read_text())["seed"] == 5


# Runs beside one another ---------------------------------------------------------------------------------------------


def test_each_run_has_a_journal_of_its_own():
    names = [part_name(0, 1), part_name(1, 2), part_name(0, 1, ["sub-01"]), part_name(0, 1, ["a", "b"])]

    assert names[:3] == ["", "-1-of-2", "-sub-01"] and len(set(names)) == 4
    assert part_name(0, 1, ["b", "a", "b"]) == names[3] and "/" not in part_name(0, 1, ["../x"])


def test_of_two_journals_the_newer_record_counts(tmp_path, monkeypatch):
    for time, name, status in ((5.0, "journal.jsonl", "done"), (3.0, "journal-sub-01.jsonl", "failed")):
        monkeypatch.setattr("mrsynth.tasks.batch.journal.time.time", lambda time=time: time)
        Journal(tmp_path / name).add(Record(subject="sub-01", status=status))

    assert records_of(tmp_path)["sub-01"].status == "done"


def test_participants_are_named_with_and_without_their_prefix(study):
    folders = ("sub-01", "sub-02/ses-a", "sub-02/ses-b")
    subjects = [find_subject(study / folder) for folder in folders]

    def names(*wanted):
        return [files.name for files in of_participants(subjects, wanted)]

    assert names() == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
    assert names("02") == names("sub-02") == ["sub-02_ses-a", "sub-02_ses-b"]
    assert names("sub-02_ses-b", "01") == ["sub-01", "sub-02_ses-b"]
    with pytest.raises(UsageError, match="found no such subject among 3"):
        names("2")


# The page ------------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_page_run(study, tmp_path, run_cli, app, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = commands_in(CHECKOUT / "docs" / "bids.md")
    for command in commands:
        program, *words = shlex.split(command, comments=True)
        status = app(*words)[0] if program == "mrsynth-bids" else run_cli(*words)[0]
        assert status == 0, command

    assert len(commands) == 4
    assert images(study / "derivatives" / "mrsynth") == images(tmp_path / "DERIVED") == images(tmp_path / "OUT") == MADE


def test_a_name_is_a_word_of_its_own():
    lines = ["p1: 2 files could be the T1", "p10: the same", "in/p1/x.nii: a dead link", "cp1: another"]

    assert speaking_of(["p1"], lines) == [lines[0], lines[2]]
    assert speaking_of(["p10", "a+b"], lines) == [lines[1]]
