"""The command line as people and scripts meet it: exit status, what is printed, and what is left on the disk."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch

from mrsynth.contrasts import STANDARD
from mrsynth.errors import InputError
from tests.helpers import content, raising

T1, T1CE, T2, FLAIR = STANDARD
QUICK = ("--no-self-check", "--precision", "fp32")

pytestmark = pytest.mark.usefixtures("only_tiny", "no_pictures")


# Exit status ---------------------------------------------------------------------------------------------------------


def test_done_and_said(run_cli, folder):
    status, out, err = run_cli("complete", folder, "--precision", "fp32")

    assert (status, err) == (0, "")
    said = out.splitlines()
    image, report = folder / "mrsynth" / "p1_t1ce.nii.gz", folder / "mrsynth" / "report.html"
    assert said[0] == f"Found T1, T2, FLAIR (brats21 names) in {folder}."
    assert said[1].startswith("Missing: T1ce. tiny: makes t1ce from t1+t2+flair")
    assert f"T1ce: {image}" in said and f"Report: {report}" in said and image.is_file() and report.is_file()
    assert any(line.startswith("On this subject, hiding T1 and remaking it from T2+FLAIR gave") for line in said)
    assert any(line.startswith("Note: A synthetic T1ce is never evidence of contrast enhancement") for line in said)
    assert re.fullmatch(r"Took \d+ s, \d+ MB\.", said[-1])
    command = json.loads((folder / "mrsynth" / "report.json").read_text())["command"]
    assert command == "mrsynth complete . --precision fp32"  # the folder may be named after a patient


def test_nothing_missing(run_cli, write_subject_folder, tmp_path):
    folder = write_subject_folder(tmp_path, "p1")
    before = content(folder)

    status, out, _ = run_cli("complete", folder)
    assert status == 0 and "Nothing is missing: no image was made." in out
    assert content(folder) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "cwdmm"], r"There is no method 'cwdmm'\. Give auto or one of fgc2f"),
        (["--target", "t1"], r"t1 is already present .*possible as a target: t1ce"),
        (["--target", "t9"], "--target"),
        (["--sampler", "euler"], r"There is no sampler 'euler'\. Give one of ddpm, ddim, dpm_solver_pp"),
        (["--device", "tpu"], "Unknown device 'tpu'"),
        (["--device", "cuda:99"], "'cuda:99' is not there: torch sees 0 CUDA"),
        (["--precision", "fp8"], "Unknown precision 'fp8'"),
        (["--steps", "0"], "--steps"),
        (["--steps", "9"], r"Cannot take 9 sampling steps from a chain of 8 levels"),
        (["--samples", "many"], "--samples"),
        (["--sampler", "residual_shift"], "has no sampler 'residual_shift'"),
        (["--mode", "mean", "--steps", "2"], "--steps with mode mean"),
        (["--variance", "beta"], "--variance is an option of the sampler ddpm"),
        (["--weights", "tiny", "--method", "cwdm"], "tiny is a checkpoint of fgc2f, not of cwdm"),
        (["--colour"], "No such option"),
        (["second"], "unexpected extra argument"),
        (["--out", "{folder}"], "holds the scans; synthetic images never lie beside acquired ones"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_usage(run_cli, folder, monkeypatch, arguments, said, dry):
    """A dry run refuses what the run would refuse."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    before = content(folder)

    status, out, err = run_cli("complete", folder, *(a.format(folder=folder) for a in arguments), *dry)
    assert status == 2 and re.search(said, err, flags=re.DOTALL | re.IGNORECASE), err
    assert "Traceback" not in out + err
    assert content(folder) == before


def test_usage_without_a_subject(run_cli):
    assert run_cli("complete")[0] == 2
    assert run_cli("compleat", "x")[0] == 2
    assert run_cli()[0] == 2


def test_an_unknown_method_is_told_even_if_nothing_is_missing(run_cli, write_subject_folder, tmp_path):
    assert run_cli("complete", write_subject_folder(tmp_path, "p1"), "--method", "x")[0] == 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_out_of_memory(run_cli, folder, monkeypatch, error):
    before = content(folder)
    monkeypatch.setattr("mrsynth.methods.fgc2f.FgC2F.synthesise", raising(error))

    status, _, err = run_cli("complete", folder)
    assert status == 6
    assert "Memory ran out on cpu while completing p1 (24x28x20 voxels)" in " ".join(err.split())
    assert content(folder) == before


def test_out_of_memory_while_reading(run_cli, folder, monkeypatch):
    monkeypatch.setattr("mrsynth.io.nifti.np.asarray", raising(MemoryError()))

    status, _, err = run_cli("complete", folder)
    assert status == 6 and "Memory ran out" in err and not (folder / "mrsynth").exists()


def test_the_unexpected_is_one_line(run_cli, folder, monkeypatch, caplog):
    before = content(folder)
    monkeypatch.setattr(
        "mrsynth.methods.fgc2f.FgC2F.synthesise", raising(ZeroDivisionError("by [bold]nothing[/] :warning:"))
    )

    status, _, err = run_cli("complete", folder)
    assert status == 1 and not caplog.records
    assert (
        err
        == "Error: Unexpected ZeroDivisionError: by [bold]nothing[/] :warning:\nRun again with -v for the traceback.\n"
    )
    assert content(folder) == before

    assert run_cli("complete", folder, "-v")[0] == 1
    assert "Traceback" in caplog.text and "fail" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_by_a_signal(run_cli, folder, monkeypatch, number):
    """Sent by the system to this very process, in the middle of the synthesis."""
    before = content(folder)
    monkeypatch.setattr("mrsynth.methods.fgc2f.FgC2F.synthesise", lambda *_, **__: os.kill(os.getpid(), number))

    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits deafness
    try:
        status, _, err = run_cli("complete", folder)
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert (status, err) == (130, "Error: Interrupted.\n")
    assert content(folder) == before


def test_a_real_process_ends_at_sigterm_and_leaves_nothing(tiny_checkpoint, folder):
    """Also covers the console script: exit status, stderr, and no progress bar without a terminal."""
    before = content(folder)
    script = Path(sys.executable).with_name("mrsynth")
    environment = os.environ | {"MRSYNTH_WEIGHTS_DIR": str(tiny_checkpoint.parent), "OMP_NUM_THREADS": "1"}
    command = [script, "complete", folder, "--weights", tiny_checkpoint, "--samples", "100000"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        while not (folder / "mrsynth").exists() and running.poll() is None:
            time.sleep(0.05)
        running.terminate()
        out, err = running.communicate(timeout=120)

    assert (running.returncode, out, err) == (130, "", "Error: Interrupted.\n")
    assert content(folder) == before


# Printing and paths --------------------------------------------------------------------------------------------------


def test_quiet_prints_results_only(run_cli, folder):
    status, out, err = run_cli("complete", folder, *QUICK, "-q")
    made = folder / "mrsynth"

    assert (status, err) == (0, "")
    assert out.splitlines() == [f"T1ce: {made / 'p1_t1ce.nii.gz'}", f"Report: {made / 'report.html'}"]
    assert "Error:" in run_cli("complete", folder, "-q")[2]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run_cli, folder, monkeypatch):
    before = content(folder)
    monkeypatch.setattr("mrsynth.tasks.complete.run.load_raw", raising(AssertionError("voxels were read")))

    status, out, _ = run_cli("complete", folder, "--dry-run")
    assert status == 0 and f"Would write {folder / 'mrsynth' / 'p1_t1ce.nii.gz'}" in out and "tiny: makes t1ce" in out
    assert content(folder) == before


def test_a_dry_run_asks_the_segmenter_too(run_cli, folder, monkeypatch):
    monkeypatch.setattr("mrsynth.tasks.complete.run.segmenter_for", raising(InputError("it reads none of these")))

    assert run_cli("complete", folder, "--dry-run")[0] == 0
    assert run_cli("complete", folder, "--dry-run", "--segment")[0] == 4


def test_spaces_relative_paths_and_links(run_cli, folder, tmp_path, monkeypatch):
    spaced = tmp_path / "a study (2024)" / "p1"
    spaced.mkdir(parents=True)
    for path in folder.iterdir():
        (spaced / path.name).symlink_to(path)
    (tmp_path / "link").symlink_to(spaced, target_is_directory=True)
    monkeypatch.chdir(tmp_path)

    assert run_cli("complete", "link", *QUICK, "--out", "here/it is")[0] == 0
    assert run_cli("complete", spaced, *QUICK)[0] == 0
    monkeypatch.chdir(spaced)
    assert run_cli("complete", ".", *QUICK, "--overwrite")[0] == 0
    made = [p / "p1_t1ce.nii.gz" for p in (tmp_path / "here" / "it is", spaced / "mrsynth")]
    assert made[0].read_bytes() == made[1].read_bytes()
    assert {p.name for p in folder.iterdir()} == {f"p1_{c}.nii.gz" for c in ("t1", "t2", "flair")}


def test_files_named_by_hand(run_cli, folder, tmp_path):
    """Two scans from elsewhere, in a folder where nothing is found by itself."""
    (tmp_path / "empty").mkdir()
    scans = {c: tmp_path / f"scan{i}.nii.gz" for i, c in enumerate(("t1", "t2"))}
    for contrast, path in scans.items():
        path.write_bytes((folder / f"p1_{contrast}.nii.gz").read_bytes())

    status, _, err = run_cli("complete", tmp_path / "empty", "--t1", scans["t1"], "--t2", scans["t2"], *QUICK)
    assert status == 0, err
    assert sorted(p.name for p in (tmp_path / "empty" / "mrsynth").glob("*.nii.gz")) == [
        *("empty_flair.nii.gz", "empty_t1ce.nii.gz"),
    ]


def test_bf16_runs_on_the_cpu(run_cli, folder):
    assert run_cli("complete", folder, "--no-self-check", "--precision", "bf16")[0] == 0
    assert json.loads((folder / "mrsynth" / "report.json").read_text())["sampler"]["precision"] == "bf16"


def test_a_progress_bar_only_on_a_terminal(run_cli, folder, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "mrsynth.tasks.complete.run.complete", lambda options, progress: seen.append(progress) or (None, None)
    )
    monkeypatch.setattr("mrsynth.cli.subject.say", raising(SystemExit(0)))

    run_cli("complete", folder)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run_cli("complete", folder, "--no-progress")
    run_cli("complete", folder, "--quiet")
    run_cli("complete", folder)
    assert [bar is not None for bar in seen] == [False, False, False, True]


COMPLETE_OPTIONS = (
    *("--out", "-o", "--method", "--weights", "--target", "--steps", "--sampler", "--fast", "--samples", "--seed"),
    *("--device", "--precision", "--reference", "--self-check", "--no-self-check", "--overwrite", "--dry-run"),
    *("--crop", "--fetch", "--t1", "--t1ce", "--t2", "--flair", "-q", "-v", "--no-progress"),
)


def test_help(run_cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    status, out, _ = run_cli("--help")
    assert status == 0
    for command in ("complete", "inspect", "phantom", "train", "rank-contrasts", "weights"):
        assert command in out
        assert run_cli(command, "--help")[0] == 0
    shown = run_cli("complete", "--help")[1]
    assert [option for option in COMPLETE_OPTIONS if not re.search(rf"(?<!\S){option}\b", shown)] == []
    shown = run_cli("weights", "--help")[1]
    for command in ("list", "show", "fetch", "import", "verify"):
        assert command in shown and run_cli("weights", command, "--help")[0] == 0


# Weights and the other commands --------------------------------------------------------------------------------------


def test_weights(run_cli, only_tiny, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # or what it makes is wrapped, by the length of the others' names
    status, out, _ = run_cli("weights", "list")
    header, where, row = filter(None, out.splitlines())
    assert status == 0 and header.split() == ["name", "method", "size", "licence", "makes"]
    assert where == f"{only_tiny.parent}:" and row.startswith("tiny") and "CC0" in row

    status, out, _ = run_cli("weights", "show", "tiny")
    assert status == 0 and "name: tiny" in out and "licence: CC0" in out and re.search("sha256: [0-9a-f]{64}", out)
    status, out, _ = run_cli("weights", "verify")
    assert status == 0 and out.startswith(f"tiny: {only_tiny} is there")
    assert run_cli("weights", "show", "nothing")[0] == 5


def test_weights_that_are_only_published_can_be_shown(run_cli, monkeypatch):
    from mrsynth.card import ManifestEntry

    entry = ManifestEntry(name="big", method="cwdm", contrasts=STANDARD, licence="MIT", repository="a/b", pattern="t1")
    monkeypatch.setattr("mrsynth.io.store.manifest", lambda: [entry])

    assert "repository: a/b" in run_cli("weights", "show", "big")[1]
    assert "a/b (not on this machine)" in run_cli("weights", "list")[1]
    assert run_cli("weights", "list")[1].endswith("Not on this machine: `mrsynth weights fetch NAME` gets it.\n")
    assert run_cli("weights", "verify")[0] == 0


def test_fetching_weights(run_cli, only_tiny, monkeypatch, tmp_path):
    """A name that is here costs nothing; one that is not is handed to the task; an unknown one is told."""
    monkeypatch.setattr("mrsynth.io.hub.download", raising(AssertionError("something was downloaded")))
    status, out, _ = run_cli("weights", "fetch", "tiny")
    assert (status, out) == (0, f"tiny is on this machine already; nothing was downloaded.\n{only_tiny}\n")
    assert run_cli("weights", "fetch", "tiny", "-q")[1] == f"{only_tiny}\n"
    status, _, err = run_cli("weights", "fetch", "huge")
    assert status == 5 and "No checkpoint is called 'huge'. Known: tiny." in err

    monkeypatch.setattr("mrsynth.tasks.checkpoints.run.at_hand", lambda name: None)
    monkeypatch.setattr("mrsynth.tasks.checkpoints.run.fetch", lambda name, progress: tmp_path / f"{name}.safetensors")
    assert run_cli("weights", "fetch", "huge")[:2] == (0, f"{tmp_path / 'huge.safetensors'}\n")


def test_importing_weights(run_cli, monkeypatch, tmp_path):
    asked = []
    module = ModuleType("mrsynth.tasks.checkpoints.importing")
    module.import_checkpoint = lambda file, **options: asked.append((file, options)) or tmp_path / "made.safetensors"
    monkeypatch.setitem(sys.modules, "mrsynth.tasks.checkpoints.importing", module)

    status, out, _ = run_cli("weights", "import", tmp_path / "a.pt", "--method", "cwdm", "--target", "t1ce")
    assert (status, out) == (0, f"{tmp_path / 'made.safetensors'}\n")
    assert run_cli("weights", "import", "b.pt", "--method", "msg-ldm", "--name", "mine")[0] == 0
    assert asked == [
        (tmp_path / "a.pt", {"method": "cwdm", "target": T1CE, "name": None}),
        (Path("b.pt"), {"method": "msg-ldm", "target": None, "name": "mine"}),
    ]
    assert run_cli("weights", "import", "b.pt")[0] == 2
    assert run_cli("weights", "import", "b.pt", "--method", "cwdm", "--target", "t9")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "crop", "fetch"),
    [((), None, False), (("--crop", "brain", "--fetch"), "brain", True), (("--crop", "full"), "full", False)],
)
def test_the_crop_and_fetching_are_handed_on(run_cli, folder, monkeypatch, arguments, crop, fetch):
    seen = []
    monkeypatch.setattr("mrsynth.tasks.complete.run.complete", lambda options, _: seen.append(options) or sys.exit(0))

    assert run_cli("complete", folder, *arguments)[0] == 0
    (options,) = seen
    assert (options.crop, options.fetch) == (crop, fetch)
    assert run_cli("complete", folder, "--crop", "box")[0] == 2


@pytest.mark.parametrize(("arguments", "init"), [((), None), (("--init", "tiny"), "tiny")])
def test_what_training_begins_with_is_handed_on(run_cli, monkeypatch, tmp_path, arguments, init):
    seen = []
    monkeypatch.setattr("mrsynth.tasks.train.run.train", lambda options, _: seen.append(options) or tmp_path)

    command = ("train", "--method", "fgc2f", "--data", tmp_path, "--out", tmp_path / "run", *arguments)
    assert run_cli(*command)[0] == 0 and [options.init for options in seen] == [init]


@pytest.mark.parametrize("command", [["--help"], ["weights", "list"], ["weights", "show", "fgc2f-ship"], ["inspect"]])
def test_what_answers_at_once_imports_nothing_slow(command, folder, tmp_path):
    """In a process of its own, with the real manifest, whose entries are partly on a hub."""
    slow = {"torch", "monai", "huggingface_hub", "httpx", "SimpleITK", "mrsynth.io.dicom"}
    slow |= {"pydantic", "numpy"} if command == ["--help"] else set()
    command = [*command, str(folder)] if command == ["inspect"] else command
    program = (
        f"import sys, mrsynth.cli.app as cli; sys.argv = ['mrsynth', *{command!r}]\n"
        "try:\n    cli.main()\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        f"print({slow} & set(sys.modules), file=sys.stderr)"
    )
    environment = os.environ | {"MRSYNTH_HOME": str(tmp_path / "home"), "MRSYNTH_WEIGHTS_DIR": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "set()\n")


def test_no_weights_at_all(run_cli, folder, monkeypatch):
    monkeypatch.delenv("MRSYNTH_WEIGHTS_DIR")

    assert run_cli("weights", "list")[:2] == (0, "No checkpoint is known.\n")
    status, _, err = run_cli("complete", folder)
    assert status == 5 and "No checkpoint is at hand to make t1ce from t1+t2+flair" in err


@pytest.mark.parametrize("pair", ["iterations", "=3", "a=[1"])
def test_settings_of_a_run_are_key_and_value(run_cli, tmp_path, pair):
    status, _, err = run_cli("train", "--method", "fgc2f", "--data", tmp_path, "--out", tmp_path / "run", "--set", pair)

    assert status == 2 and f"--set {pair}:" in err
    assert not (tmp_path / "run").exists()


def test_phantoms_from_the_command_line(run_cli, tmp_path, coarse_head):
    """Really made: the seed counts on from subject to subject, so the second of seed 7 is the first of seed 8."""
    status, _, err = run_cli("phantom", tmp_path / "none", "--spacing", "0", "1", "1")
    assert status == 2 and "--spacing" in err and not (tmp_path / "none").exists()

    coarse = ("--spacing", "8", "8", "8", "--without", "t1ce", "--without", "t1ce", "--lesion", "ms", "--quiet")
    status, out, _ = run_cli("phantom", tmp_path / "two", "--seed", "7", "--subjects", "2", *coarse)
    assert (status, out) == (0, f"{tmp_path / 'two' / 'phantom-000'}\n{tmp_path / 'two' / 'phantom-001'}\n")
    assert run_cli("phantom", tmp_path / "one", "--seed", "8", *coarse)[0] == 0
    for name in ("t1", "t2", "flair", "seg"):
        second, first = (
            nib.load(tmp_path / folder / subject / f"{subject}_{name}.nii.gz").get_fdata()
            for folder, subject in (("two", "phantom-001"), ("one", "phantom-000"))
        )
        assert second.any() or name == "seg"
        np.testing.assert_array_equal(second, first)
    assert sorted(p.name for p in (tmp_path / "one" / "phantom-000").iterdir()) == [
        f"phantom-000_{name}.nii.gz" for name in ("flair", "seg", "t1", "t2")
    ]


# Signals, and texts of others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["heard", "while a library is at work"])
def test_every_wish_to_stop_is_status_130(run_cli, tmp_path, monkeypatch, name, wrapped):
    """Also where a library makes an error of its own of it, as pydantic does while it serialises."""

    def stopped(*_, **__):
        try:
            signal.raise_signal(getattr(signal, name))
        except KeyboardInterrupt as error:
            if not wrapped:
                raise
            raise ValueError("Error calling function: KeyboardInterrupt") from error

    monkeypatch.setattr("mrsynth.tasks.inspect.inspect", stopped)
    status, _, err = run_cli("inspect", tmp_path)
    assert (status, err.strip()) == (130, "Error: Interrupted.")


def test_a_signal_that_is_ignored_stays_so():
    """As SIGHUP under nohup."""
    program = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); sys.argv = ['mrsynth', '--help']\n"
        "from mrsynth.cli.app import main\n"
        "try: main()\n"
        "finally: assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_what_others_wrote_moves_no_cursor(run_cli, tmp_path):
    folder = tmp_path / "a\x1b[2J\x9b31m\u202eb"
    folder.mkdir()
    status, out, err = run_cli("inspect", folder)
    assert status == 4 and not set("\x1b\x9b\u202e") & set(out + err) and "\\x1b[2J\\x9b31m\\u202e" in err


def test_help_names_every_method():
    """The lists are written out, since reading them from the methods would load torch for --help."""
    from mrsynth.cli import options
    from mrsynth.cli.train import train
    from mrsynth.methods import METHODS
    from mrsynth.tasks.complete.run import KINDS

    def said(option):
        return set(re.findall(r"[a-z0-9-]+", option.__metadata__[0].help))

    assert set(METHODS) <= said(train.__annotations__["method"]) and set(KINDS) <= said(options.Method)
