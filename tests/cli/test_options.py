"""What a script expects of the command line: version, letter case, other spellings, JSON, threads, environment."""

import json
import os

import pytest
import torch
import typer
import yaml
from typer.main import get_command

from mrsynth import __version__
from mrsynth.cli.app import app
from mrsynth.cli.options import contrasts_listed
from mrsynth.contrasts import SPELLINGS, STANDARD
from mrsynth.errors import UsageError
from mrsynth.texts import meant

T1, T1CE, T2, FLAIR = STANDARD


@pytest.fixture
def folder(write_subject_folder, tmp_path):
    return write_subject_folder(tmp_path, "p1", without=[T1CE, T2])


def test_the_version(run_cli):
    assert run_cli("--version") == (0, f"mrsynth {__version__}\n", "")


@pytest.mark.parametrize("values", [["t1ce,t2"], ["T1ce", "t2"], ["T1CE, T2", "t1ce"]])
def test_contrasts_may_be_listed_in_any_letter_case(values):
    assert contrasts_listed("--target", values) == (T1CE, T2)


def test_an_unknown_contrast_is_named():
    with pytest.raises(UsageError, match=r"--target: no contrast is named 't3'; known are t1, t1ce"):
        contrasts_listed("--target", ["t1,t3"])
    assert contrasts_listed("--target", None) == ()


def commands(command, *above):
    """(words that call it, command) of every command."""
    if inner := getattr(command, "commands", None):
        for name, one in inner.items():
            yield from commands(one, *above, name)
    else:
        yield above, command


EVERY = [
    pytest.param(words, command, taken, id=f"{' '.join(words)} {taken.name}")
    for words, command in commands(get_command(app))
    for taken in command.params
    if not getattr(taken, "is_flag", False)
]


@pytest.mark.parametrize(("words", "command", "taken"), EVERY)
def test_an_empty_word_is_refused_wherever_one_is_taken(run_cli, tmp_path, monkeypatch, words, command, taken):
    """Read as the default, as the folder we are in, or as all, it would do what nobody asked for."""
    monkeypatch.chdir(tmp_path)
    typed = [*words]
    for one in command.params:
        if one is taken or one.required:
            option = [max(one.opts, key=len)] if one.param_type_name == "option" else []
            typed += [*option, *(["" if one is taken else "1"] * max(1, one.nargs))]

    status, _, err = run_cli(*typed)
    name = max(taken.opts, key=len) if taken.param_type_name == "option" else taken.name.upper()
    shown = (getattr(taken, "metavar", None) or name).strip("[.]") if taken.param_type_name == "argument" else name
    assert status == 2 and shown in err and ("is empty: give a value" in err or "Invalid value for" in err), err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--target", " , "], ["--target=\t"], ["--", " "], ["-i", ""]])
def test_a_list_of_nothing_and_blanks_are_empty_too(run_cli, words):
    status, _, err = run_cli("complete", *words)
    assert status == 2 and "is empty: give a value, or leave it out" in err, err


BENCHMARK = ("benchmark", "-o", "run", "--dataset")


@pytest.mark.usefixtures("only_tiny")
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["complete", "FOLDER", "--target", "t1c"], "t1ce"),
        (["complete", "FOLDER", "--replace", "FLARE"], "flair"),
        (["complete", "FOLDER", "--target", "t2f"], "flair"),
        (["complete", "FOLDER", "--method", "fgcf2"], "fgc2f"),
        (["complete", "FOLDER", "--weights", "tinny"], "tiny"),
        (["complete", "FOLDER", "--sampler", "dimm"], "ddim"),
        (["complete", "FOLDER", "--planes", "saggital"], "sagittal"),
        (["complete", "FOLDER", "--device", "cdua"], "cuda"),
        (["complete", "FOLDER", "--precision", "bf61"], "bf16"),
        (["complete", "FOLDER", "--strip", "hdbet"], "hd-bet"),
        (["batch", "HOME", "--participants", "p11"], "p1"),
        (["weights", "fetch", "tinny"], "tiny"),
        (["weights", "show", "Tinny"], "tiny"),
        (["benchmark", "--describe", "brats-21"], "brats21"),
        ([*BENCHMARK, "phantoms"], "phantom"),
        ([*BENCHMARK, "phantom", "--protocol", "brian3d"], "brain3d"),
        ([*BENCHMARK, "phantom", "--patterns", "t1+flare:t2"], "flair"),
        ([*BENCHMARK, "phantom", "--patterns", "one-mising"], "one-missing"),
        (["train", "--method", "dfkb", "--data", "HOME", "--out", "run"], "dfbk"),
        (["train", "--method", "fgc2f", "--data", "HOME", "--out", "run", "--contrasts", "t1,t1-ce"], "t1ce"),
        (["phantom", "run", "--without", "t1gd"], "t1ce"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else x,
)
def test_a_name_that_is_not_known_brings_the_nearest_that_is(run_cli, folder, tmp_path, monkeypatch, words, name):
    monkeypatch.chdir(tmp_path)
    typed = [{"FOLDER": folder, "HOME": folder.parent}.get(word, word) for word in words]

    status, _, err = run_cli(*typed)
    assert status in (2, 5) and " ".join(err.split()).endswith(f" Did you mean {name}?"), err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["t3", "t9", "zebra", "", "t1gdd"])
def test_nothing_is_suggested_that_is_not_like_it(name):
    """A T1 after gadolinium is never taken for a T1."""
    assert meant(name, SPELLINGS) in ("", " Did you mean t1ce?")


def test_help_answers_whatever_else_is_typed(run_cli):
    assert run_cli("inspect", "", "--help")[0] == 0


@pytest.mark.usefixtures("only_tiny")
def test_names_are_read_in_any_letter_case_and_the_folder_in_two_ways(run_cli, folder):
    options = ["--target", "T1CE,T2", "--method", "FGC2F", "--device", "CPU", "--precision", "FP32", "--dry-run"]
    status, out, err = run_cli("complete", "-i", folder, *options, "--crop", "BRAIN")

    assert (status, err) == (0, "") and out.count("Would write") == 2 and "Judged by headers only" in out
    assert run_cli("complete", folder, *options)[:2] == (status, out.replace("-i ", ""))
    assert run_cli("complete", folder, "-i", folder, *options)[0] == run_cli("complete", *options)[0] == 2


NAMES = {
    "method": "fgc2f",
    "device": "cuda:1",
    "precision": "fp32",
    "mode": "mean",
    "sampler": "ddim",
    "variance": "beta",
    "noise": "v1",
    "strip": "hd-bet",
    "align": "force",
    "reference-contrast": "t1ce",
    "crop": "full",
    "lesion": "ms",
    "dataset": "brats21",
    "describe": "ixi",
    "protocol": "brain3d,cwdm",
    "patterns": "t1+t2:t1ce",
}


def test_every_option_that_takes_a_name_takes_it_in_any_letter_case():
    seen = set()
    for name, command in typer.main.get_command(app).commands.items():
        known = NAMES.keys() - ({"noise"} if name == "phantom" else set())  # there it is a number
        options = {p.name: p.opts[0][2:] for p in command.params if p.opts[0][2:] in known}
        words = [word for option in options.values() for word in (f"--{option}", NAMES[option].upper())]
        found = command.make_context(name, words, resilient_parsing=True).params
        assert {option: str(found[key]) for key, option in options.items()} == {o: NAMES[o] for o in options.values()}
        seen |= set(options.values())

    assert seen == set(NAMES)


@pytest.mark.usefixtures("only_tiny")
def test_the_mean_takes_no_option_of_a_chain_on_the_command_line_either(run_cli, folder):
    status, _, err = run_cli("complete", folder, "--mode", "MEAN", "--steps", 3)
    assert status == 2 and "--steps with mode mean" in err
    status, _, err = run_cli("complete", folder, "--mode", "median")
    assert status == 2 and "--mode" in err


@pytest.mark.usefixtures("only_tiny")
def test_threads_are_limited(run_cli, folder, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    try:
        assert run_cli("complete", folder, "--threads", 1, "--dry-run")[0] == 0
        assert torch.get_num_threads() == 1 and os.environ["OMP_NUM_THREADS"] == "1"
        assert run_cli("complete", folder, "--threads", 100_000, "--dry-run")[0] == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("own", "used"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_sleep_unless_the_user_says_other(run_cli, monkeypatch, own, used):
    monkeypatch.setenv("OMP_WAIT_POLICY", own or "")
    if own is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    run_cli("--version")

    assert os.environ["OMP_WAIT_POLICY"] == used


def test_two_that_show_something_and_stop_are_refused(run_cli):
    code, _, said = run_cli("benchmark", "--list", "--describe", "brats21")
    assert code == 2 and "give one of them" in said


@pytest.mark.usefixtures("only_tiny")
def test_lists_as_json(run_cli):
    listed = json.loads(run_cli("weights", "list", "--json")[1])
    assert [(entry["name"], entry["at_hand"]) for entry in listed] == [("tiny", True)]
    assert json.loads(run_cli("weights", "show", "tiny", "--json")[1])["images"].startswith(
        "One draw by 2 steps of ddim"
    )
    sets = json.loads(run_cli("benchmark", "--list", "--json")[1])
    assert {"brats21", "phantom"} <= {s["name"] for s in sets}
    assert run_cli("benchmark", "--json")[0] == 2


@pytest.mark.usefixtures("only_tiny")
def test_the_doctor_tells_device_extras_store_and_weights(run_cli, monkeypatch):
    monkeypatch.setenv("MRSYNTH_OFFLINE", "1")
    status, out, err = run_cli("doctor", "--json")
    facts = json.loads(out)

    assert (status, err, facts["mrsynth"]) == (0, "", __version__)
    assert {"device", "bf16", "compiler", "extras", "store", "weights", "network", "environment"} <= set(facts)
    assert "1 checkpoints" in facts["weights"] and facts["network"].startswith("forbidden")
    assert "MRSYNTH_OFFLINE=1" in facts["environment"] and "MRSYNTH_OFFLINE=1" in run_cli("doctor")[1]


def test_what_was_fetched_can_be_cleared_and_nothing_else(run_cli, tmp_path, monkeypatch):
    store = tmp_path / "home" / "weights"
    store.mkdir(parents=True)
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("cwdm-official-t1", "mine"):
        (store / f"{name}.safetensors").write_bytes(b"x" * 1000)
    copy = tmp_path / "hub" / "models--pfriedri--cwdm" / "snapshots" / "1"
    copy.mkdir(parents=True)
    (copy / "a.pt").write_bytes(b"y" * 500)
    record = {
        "repository": "pfriedri/cwdm",
        "file": "a.pt",
        "revision": "1",
        "sha256": "0",
        "size": 1,
        "stored_sha256": "0",
    }
    (store / "fetched.yaml").write_text(yaml.safe_dump({"cwdm-official-t1": record}))

    status, out, _ = run_cli("weights", "clear", "--dry-run")
    assert status == 0 and len(out.splitlines()) == 3 and (store / "cwdm-official-t1.safetensors").exists()
    assert run_cli("weights", "clear", "mine")[0] == 2
    assert run_cli("weights", "clear")[0] == 0
    assert [p.name for p in sorted(store.iterdir())] == ["fetched.yaml", "mine.safetensors"] and not copy.exists()


@pytest.mark.usefixtures("only_tiny", "no_pictures")
def test_the_log_lies_beside_the_results(run_cli, folder):
    assert run_cli("complete", folder, "--precision", "fp32", "--no-self-check", "-q")[0] == 0

    lines = (folder / "mrsynth" / "mrsynth.log").read_text().splitlines()
    assert f"INFO mrsynth {__version__}: mrsynth complete" in lines[0] and "tiny: makes t1ce and t2" in lines[1]
    assert any(line.endswith("INFO reading") for line in lines) and "INFO done in" in lines[-1]
    assert any("WARNING The foreground is" in line for line in lines)
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize("name", ["../../mine", "/tmp/mine", "a/b", ".hidden", "", "a\nb"])
def test_no_name_on_record_leads_out_of_the_store(run_cli, tmp_path, monkeypatch, name):
    """Somebody else may have written the records of a shared store."""
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "home"))
    store = tmp_path / "home" / "weights"
    store.mkdir(parents=True)
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"mine")
    record = dict(repository="a/b", file="c", revision="0", sha256="0", size=1, stored_sha256="0")
    (store / "fetched.yaml").write_text(yaml.safe_dump({name: record}))

    status, _, err = run_cli("weights", "clear")
    assert status == 5 and "no name of a checkpoint" in " ".join(err.split()), err
    assert mine.exists()
