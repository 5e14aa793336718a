"""What a user installs: versions agree, declared dependencies suffice, and the wheel carries the weights."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import yaml

import mrsynth
from mrsynth.tasks.doctor import EXTRAS

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
LARGEST_WEIGHTS = {"fgc2f": 10_000_000}
ALL_WEIGHTS = 60_000_000


def read(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def named(requirement: str) -> str:
    """The normalised distribution name of a requirement: scikit-image of `scikit-image>=0.24`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement).group()).lower()


# Versions and metadata -----------------------------------------------------------------------------------------------


def test_one_version():
    """pyproject.toml reads the version from the package, and the newest entry of the changelog is about it."""
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "mrsynth/__init__.py"
    newest = re.search(r"^## (\S+)", read("CHANGELOG.md"), flags=re.MULTILINE)
    assert newest.group(1) == mrsynth.__version__


def test_the_citation_names_the_four_papers():
    citation = yaml.safe_load(read("CITATION.cff"))

    assert citation["title"] == "mrsynth" and citation["license"] == PROJECT["project"]["license"]
    papers = {entry["identifiers"][0]["value"] for entry in citation["references"]}
    assert papers == {f"arXiv:{number}" for number in re.findall(r"arXiv:(\d{4}\.\d{5})", read("README.md"))}


def test_dev_has_every_extra():
    extras = PROJECT["project"]["optional-dependencies"]
    inside = re.search(r"mrsynth\[(.*)\]", next(r for r in extras["dev"] if r.startswith("mrsynth"))).group(1)

    assert set(inside.split(",")) == set(extras) - {"dev"}


def test_the_doctor_looks_for_every_extra():
    extras = {name: len(needs) for name, needs in PROJECT["project"]["optional-dependencies"].items() if name != "dev"}

    assert {name: len(modules) for name, modules in EXTRAS.items()} == extras


def test_every_import_is_declared():
    """A library that mrsynth imports, even inside a function, is a dependency or in an extra other than dev."""
    declared = {named(r) for r in PROJECT["project"]["dependencies"]}
    for extra, requirements in PROJECT["project"]["optional-dependencies"].items():
        declared |= {named(r) for r in requirements} if extra != "dev" else set()
    distributions = packages_distributions()
    imported = set()
    for path in (CHECKOUT / "mrsynth").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    undeclared = {
        name
        for name in imported - sys.stdlib_module_names - {"mrsynth"}
        if not declared & {named(d) for d in distributions.get(name, [name])}
    }

    assert undeclared == set()


def test_ci_runs_what_the_readme_says():
    commands = "ruff check . && ruff format --check . && mypy && pytest"

    assert commands in read("README.md")
    lines = [line.strip() for line in read(".ci/run").splitlines()]
    each = commands.split(" && ")
    assert [command for line in lines for command in each if f"{line} ".startswith(f"{command} ")] == each


def test_torch_is_pinned_once():
    pins = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]

    assert pins == ["torch==2.13.0"]


# Weights -------------------------------------------------------------------------------------------------------------


def test_manifest_lists_every_embedded_checkpoint_with_its_checksum():
    from mrsynth.io.store import manifest

    folder = CHECKOUT / "mrsynth" / "weights"
    embedded = {entry.file: entry for entry in manifest() if entry.file is not None}

    assert set(embedded) == {path.name for path in folder.glob("*.safetensors")}
    for name, entry in embedded.items():
        content = (folder / name).read_bytes()
        assert (entry.sha256, entry.size) == (hashlib.sha256(content).hexdigest(), len(content))
        assert len(content) <= LARGEST_WEIGHTS.get(entry.method, ALL_WEIGHTS)
    assert sum(entry.size for entry in embedded.values()) <= ALL_WEIGHTS


def test_no_scan_is_part_of_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")

    assert [f for f in listed.stdout.splitlines() if re.search(r"\.(nii|nii\.gz|dcm|mgz|mha|nrrd)$", f)] == []


# The wheel -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built by `pip wheel .` in a copy of the checkout, with no network: the build back end is in the dev extra."""
    pytest.importorskip("hatchling", reason="hatchling is not installed; the dev extra has it")
    copy, out = tmp_path_factory.mktemp("source") / "checkout", tmp_path_factory.mktemp("wheel")
    unneeded = (".git", ".venv", "venv", ".*_cache", ".hypothesis", "__pycache__", "scratch", "build", "dist")
    copytree(CHECKOUT, copy, ignore=ignore_patterns(*unneeded))
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    build = [sys.executable, "-m", "pip", "wheel", ".", *offline, "-w", str(out)]
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_the_manifest_and_the_weights(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    source = CHECKOUT / "mrsynth"
    expected = {
        path.relative_to(CHECKOUT).as_posix() for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }

    assert wheel.name == f"mrsynth-{mrsynth.__version__}-py3-none-any.whl"
    assert expected | {"mrsynth/weights_manifest.yaml"} <= held
    assert {name.split("/")[0] for name in held} == {"mrsynth", f"mrsynth-{mrsynth.__version__}.dist-info"}
    assert {Path(name).name for name in held} >= {"LICENSE", "THIRD_PARTY.md", "entry_points.txt"}


def test_the_installed_wheel_finds_its_manifest(wheel, tmp_path):
    """Unpacked far from the checkout, as pip would install it."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = (
        "import mrsynth, pathlib; from mrsynth.io.store import locate, manifest; "
        "print(pathlib.Path(mrsynth.__file__).parents[1]); [print(locate(e)) for e in manifest() if e.file]"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert all(Path(line).resolve().is_relative_to(tmp_path.resolve()) for line in done.stdout.splitlines())
    assert len(done.stdout.splitlines()) > 1
