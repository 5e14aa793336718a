"""The container files: linted, alike, complete; and followed in a fresh prefix, as another user, without a network."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from mrsynth.contrasts import Contrast
from mrsynth.io.nifti import read_volume, write_volume
from runs.measure.containers import CHECKOUT, CONTAINERS, apptainer, build, dockerfile, may_confine, run_in

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
BRASYN = {Contrast.T1: "t1n", Contrast.T1CE: "t1c", Contrast.T2: "t2w", Contrast.FLAIR: "t2f"}
OF_DOCKER = {"HOME", "USER", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}  # Apptainer sees to these itself


# What the files say --------------------------------------------------------------------------------------------------


def hadolint(path):
    if (program := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed")
    return subprocess.run([program, "--no-color", path], capture_output=True, text=True, check=False).stdout


def test_the_linter_finds_nothing_but_what_is_planted(tmp_path):
    assert hadolint(CONTAINERS / "Dockerfile") == ""

    text = (CONTAINERS / "Dockerfile").read_text()
    (tmp_path / "Dockerfile").write_text(text.replace("RUN bash", "RUN cd /src && bash"))
    assert "DL3003" in hadolint(tmp_path / "Dockerfile")


def test_the_definition_is_read_by_an_independent_parser_as_we_read_it():
    parsers = pytest.importorskip("spython.main.parse.parsers")
    ours = apptainer(VARIANT="{{ VARIANT }}", BASE="{{ BASE }}")
    (theirs,) = parsers.get_parser("singularity")(str(CONTAINERS / "mrsynth.def")).recipe.values()

    assert theirs.fromHeader == ours.base.lower()  # as it spells every header
    assert dict(line.split() for line in theirs.files) == ours.copies
    assert theirs.install[: len(ours.runs)] == list(ours.runs)
    assert dict(line.split("=", 1) for line in theirs.environ) == ours.settings


@pytest.mark.parametrize("arguments", [{}, {"VARIANT": "cuda"}, {"BASE": "python:3.13-slim"}])
def test_both_files_do_the_same(arguments):
    docker, other = dockerfile(**arguments), apptainer(**arguments)

    assert docker.base == other.base == arguments.get("BASE", "python:3.12-slim")
    assert docker.copies == other.copies
    assert list(docker.runs) == [command for command in other.runs if command != "rm -rf /src"]
    assert docker.runs[0].endswith(f'"{arguments.get("VARIANT", "cpu")}"')
    assert {k: v for k, v in docker.settings.items() if k not in OF_DOCKER} == other.settings
    assert docker.settings["MRSYNTH_OFFLINE"] == "1"
    assert sorted(p[0] for p in docker.programs if p[0][0] not in "/-") == sorted(p[0] for p in other.programs)


def test_all_that_the_build_needs_is_copied():
    project, wheel = PROJECT["project"], PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    needed |= {*wheel["packages"], *wheel["force-include"]}
    scripts = {path.relative_to(CHECKOUT).as_posix() for path in CONTAINERS.glob("*.sh")}

    assert set(dockerfile().copies) == needed | scripts
    assert all((CHECKOUT / source).exists() for source in dockerfile().copies)


def test_every_program_is_there():
    installed = {*PROJECT["project"]["scripts"], "brasyn"}

    assert {p[0] for p in apptainer().programs} == {"mrsynth", "mrsynth-bids", "brasyn"} == installed


@pytest.mark.parametrize("script", sorted(CONTAINERS.glob("*.sh")), ids=lambda path: path.name)
def test_the_shell_reads_every_script(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


# BraSyn --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def brasyn(tmp_path):
    """brasyn(status, *files) -> (exit status, stderr): the script, with a batch that ends so and has written files."""

    def run(status, *files):
        (tmp_path / "bin").mkdir(exist_ok=True)
        program = tmp_path / "bin" / "mrsynth"
        made = "\n".join(f'mkdir -p "$4/{Path(f).parent}"; echo {f} >"$4/{f}"' for f in files)
        rows = "subject,status\\nBraTS-GLI-00009-000,failed,cut off\\n"
        program.write_text(
            f'#!/bin/sh\necho "$*" >"{tmp_path}/asked"\n{made}\nprintf "{rows}" >"$4/summary.csv"\nexit {status}\n'
        )
        program.chmod(0o755)
        (tmp_path / "output").mkdir(exist_ok=True)
        script = ["bash", CONTAINERS / "brasyn.sh", tmp_path / "input", tmp_path / "output", "--seed", "3"]
        path = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(script, env=path, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    return run


ONE, TWO = (
    f"BraTS-{kind}-00001-000/BraTS-{kind}-00001-000-{word}.nii.gz" for kind, word in (("GLI", "t1c"), ("MEN", "t2w"))
)


@pytest.mark.parametrize("status", [0, 3])
def test_what_was_made_lies_in_one_folder_and_nothing_else(status, brasyn, tmp_path):
    mask = "BraTS-MEN-00001-000/BraTS-MEN-00001-000_brain_mask.nii.gz"
    ended, said = brasyn(status, ONE, TWO, mask, "batch.json")

    assert ended == status and ("BraTS-GLI-00009-000,failed" in said) == (status == 3)
    assert sorted(p.name for p in (tmp_path / "output").iterdir()) == [Path(ONE).name, Path(TWO).name]
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:3] == ["batch", str(tmp_path / "input"), "--out"] and asked[-2:] == ["--seed", "3"]


def test_a_batch_that_ends_at_once_delivers_nothing_and_may_go_on(brasyn, tmp_path):
    ended, _ = brasyn(5, ONE)

    assert ended == 5 and [p.name for p in (tmp_path / "output").iterdir()] == [".brasyn"]


def test_nothing_that_was_there_is_replaced(brasyn, tmp_path):
    (tmp_path / "output").mkdir()
    there = tmp_path / "output" / Path(ONE).name
    there.write_text("a scan")
    ended, said = brasyn(0, ONE, TWO)

    assert ended == 2 and "was there before" in said and there.read_text() == "a scan"
    assert (tmp_path / "output" / Path(TWO).name).exists() and (tmp_path / "output" / ".brasyn" / ONE).exists()


# Followed ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image():
    """The Dockerfile followed in a fresh folder that any user may look into; skips where pip has nothing to install."""
    asked = ["-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "-c", CHECKOUT / "constraints.txt"]
    if subprocess.run([sys.executable, *asked, "torch"], capture_output=True, check=False).returncode:
        pytest.skip("pip has no torch to install")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    before = os.environ.get("TORCH_INDEX")
    os.environ["TORCH_INDEX"] = ""  # the index that pip is set to
    try:
        build(dockerfile(), folder / "image")
        yield folder / "image"
    finally:
        os.environ.pop("TORCH_INDEX") if before is None else os.environ.update(TORCH_INDEX=before)
        shutil.rmtree(folder)


@pytest.mark.slow
def test_the_image_works_for_anybody_without_a_network_and_without_writing(image, brain_volumes):
    home = image.parent
    volumes = brain_volumes((32, 40, 16))
    for name, lacking in (("BraTS-GLI-00001-000", Contrast.T1CE), ("BraTS-MET-00777-000", Contrast.T2)):
        (home / "in" / name).mkdir(parents=True)
        for contrast in volumes:
            if contrast is not lacking:
                write_volume(home / "in" / name / f"{name}-{BRASYN[contrast]}.nii.gz", volumes[contrast])
    anat = home / "STUDY" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    for contrast, word in ((Contrast.T1, "T1w"), (Contrast.T2, "T2w")):
        write_volume(anat / f"sub-01_{word}.nii.gz", volumes[contrast])
    (home / "STUDY" / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.8.0"}))
    for name in ("flat", "bids", "one"):
        (home / name).mkdir()
        (home / name).chmod(0o777)
    before = {path for path in image.rglob("*") if "tmp" not in path.parts}

    def run(*words, out):
        return run_in(dockerfile(), image, [str(word) for word in words], [home / out])

    assert run("brasyn", home / "in", home / "flat", out="flat") == 0
    names = sorted(p.name for p in (home / "flat").iterdir())
    assert names == ["BraTS-GLI-00001-000-t1c.nii.gz", "BraTS-MET-00777-000-t2w.nii.gz"]
    made = read_volume(home / "flat" / names[0])
    assert made.shape == (32, 40, 16) and made.voxels.max() > 100
    assert (
        run("mrsynth-bids", home / "STUDY", home / "bids", "participant", "--fast", "--no-self-check", out="bids") == 0
    )
    assert (home / "bids/sub-01/anat/sub-01_desc-synth_FLAIR.nii.gz").exists()
    subject = home / "in" / "BraTS-GLI-00001-000"
    assert run("mrsynth", "complete", subject, "--out", home / "one", "--fast", "--no-self-check", out="one") == 0
    assert {path for path in image.rglob("*") if "tmp" not in path.parts} - before <= {image / "python"}
    if may_confine():
        assert {p.stat().st_uid for p in (home / "flat").iterdir()} == {54321}
        assert run("touch", image / "opt" / "mrsynth" / "x", out="one") != 0
        assert run("python", "-c", "import socket; socket.create_connection(('1.1.1.1', 53), 5)", out="one") != 0
