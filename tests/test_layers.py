"""The house is as docs/architecture.md says: rows, doors, no circles, and no file that has grown a second idea."""

import ast
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "mrsynth"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOT = PACKAGE / "__init__.py"  # stands above the rows: it exports names from all of them, lazily
LONGEST = 400
MOST_MODULES = 12

# Library -> the only files that may import it, as paths inside the package.
DOORS = {
    "nibabel": ("io/nifti.py", "io/other_formats.py"),
    "typer": ("cli/",),
    "rich": ("cli/console.py",),
    "huggingface_hub": ("io/hub.py",),
    "transformers": ("io/encoders.py",),
    "distributed": ("tasks/batch/cluster.py",),
    "dask": ("tasks/batch/cluster.py",),
    "torchvision": (),  # has no CPU build beside the pinned torch
}


def rows() -> dict[str, int]:
    """Row number of every name in the table of docs/architecture.md; a folder is listed without its slash."""
    page = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d+) \| ([^|]+) \|", page, flags=re.MULTILINE)
    return {name.rstrip("/"): int(row) for row, names in table for name in re.findall(r"`([^`]+)`", names)}


ROWS = rows()


def home(path: Path) -> str:
    """The name a file has in the table: `io` for mrsynth/io/nifti.py, `cli` for mrsynth/cli/app.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    """mrsynth.io.nifti for mrsynth/io/nifti.py, mrsynth.io for mrsynth/io/__init__.py."""
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES} - {"mrsynth"}


def imports(path: Path, source: str | None = None) -> Iterator[str]:
    """Full names of what a file imports, at its top or inside a function.

    `from a import b` gives a.b. A string that is the name of a module of ours counts too, since the only use for one is
    `import_module`. mrsynth/__init__.py exports lazily: its strings and what it imports for type checkers are left out.
    """
    tree = ast.parse(source if source is not None else path.read_text(encoding="utf-8"))
    if path == ROOT:
        tree.body = [node for node in tree.body if ast.unparse(node).split("\n")[0] != "if TYPE_CHECKING:"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module(path).split(".")[: None if path.name == "__init__.py" else -1]
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and node.value in MODULES and path != ROOT:
            yield node.value


def ours(path: Path, source: str | None = None) -> set[str]:
    """Names in the table that a file imports from; `__init__` for a lazy export, or anything else no row has."""
    found = set()
    for name in imports(path, source):
        top, *rest = name.split(".")
        if top == "mrsynth" and rest != ["__version__"]:
            found.add(rest[0] if rest and rest[0] in ROWS else "__init__")
    return found


def violations(path: Path, source: str | None = None) -> list[str]:
    """What a file imports against the table, in words."""
    here = home(path)
    if here not in ROWS:
        return ["has no row in docs/architecture.md"]
    return [
        f"row {ROWS[here]} {here} imports row {ROWS.get(there, 'none')} {there}"
        for there in sorted(ours(path, source))
        if there not in ROWS or ROWS[there] > ROWS[here] or (there == "io" and here not in ("io", "tasks"))
    ]


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def modules_imported(path: Path, source: str | None = None) -> set[str]:
    """Our own modules that a file imports, the root left out: it exports names from all of them, lazily."""
    names = (name for name in imports(path, source) if name.startswith("mrsynth."))
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES - {module(path)}


def edges() -> set[tuple[str, str]]:
    """(importer, imported) between the names of the table."""
    return {(home(path), there) for path in FILES if path != ROOT for there in ours(path) if there != home(path)}


def test_every_file_imports_from_its_own_row_or_an_earlier_one_and_the_root_nothing_of_ours():
    found = [f"{relative(path)}: {what}" for path in FILES if path != ROOT for what in violations(path)]
    found += [f"__init__.py imports {name}" for name in ours(ROOT)]

    assert found == []


def test_the_table_and_the_top_level_name_the_same_few_things():
    files = {home(path) for path in FILES if path != ROOT}
    modules = [path for path in PACKAGE.glob("*.py") if path != ROOT]

    assert files == set(ROWS), "docs/architecture.md has a table of rows"
    assert len(modules) <= MOST_MODULES, f"{len(modules)} modules stand loose in mrsynth/: which room do they want?"


def test_a_file_that_code_or_a_page_names_is_there():
    texts = [*FILES, *(CHECKOUT / "docs").rglob("*.md"), *CHECKOUT.glob("*.md")]
    texts += [path for path in (CHECKOUT / "runs").rglob("*") if path.suffix in (".py", ".sh", ".md")]
    named = re.compile(r"(?<![\w./-])(?:runs|docs|tests|examples|mrsynth)/[\w./-]+\.(?:py|sh|md)\b")
    absent = {
        f"{path.relative_to(CHECKOUT)}: {name}"
        for path in texts
        if path.name != "CHANGELOG.md"
        for name in named.findall(path.read_text(encoding="utf-8"))
        if "newpaper" not in name and not (CHECKOUT / name).exists()
    }

    assert absent == set()


def test_every_script_that_measures_is_in_its_readme():
    readme = (CHECKOUT / "runs" / "README.md").read_text(encoding="utf-8")
    scripts = [path.name for path in (CHECKOUT / "runs" / "measure").iterdir() if path.suffix in (".py", ".sh")]

    assert [name for name in scripts if f"`{name}`" not in readme] == []


def test_the_page_names_every_file_of_every_room():
    page = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.findall(
        r"^\| ([^|]*`[^|]+) \| (.+) \|$", page.split("## What is where")[1].split("\n## ")[0], flags=re.MULTILINE
    )
    rooms = {name.rstrip("/"): said for names, said in table for name in re.findall(r"`([^`]+)`", names)}
    inside = [path.relative_to(PACKAGE).parts for path in FILES if path.name != "__init__.py"]

    assert set(rooms) == set(ROWS)
    assert [
        "/".join((room, *rest))
        for room, *rest in inside
        if rest and f"`{rest[0].removesuffix('.py')}{'/' if rest[1:] else ''}`" not in rooms[room]
    ] == []


def test_no_two_names_of_the_table_import_each_other_even_by_way_of_others():
    found = edges()
    graph = TopologicalSorter({name: {there for here, there in found if here == name} for name in ROWS})
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    print(f"{len(ROWS)} names, {len(found)} import edges between them; {len(FILES)} files, {lines} lines")

    graph.prepare()  # raises CycleError, which names the circle


def test_no_two_modules_import_each_other_not_even_inside_a_function_or_for_type_checkers_alone():
    TopologicalSorter({module(path): modules_imported(path) for path in FILES if path != ROOT}).prepare()


def test_a_circle_of_modules_is_seen_however_it_is_hidden():
    for source in (
        "if TYPE_CHECKING:\n    from mrsynth.scans.volume import Volume",
        "def f():\n    from mrsynth.scans import volume",
        "from .volume import Volume",
    ):
        assert modules_imported(PACKAGE / "scans/grid.py", source) == {"mrsynth.scans.volume"}
    with pytest.raises(CycleError):
        TopologicalSorter(
            {"mrsynth.scans.grid": {"mrsynth.scans.volume"}, "mrsynth.scans.volume": {"mrsynth.scans.grid"}}
        ).prepare()


@pytest.mark.parametrize(
    ("file", "source", "found"),
    [
        (
            "scans/volume.py",
            "def f():\n    from mrsynth.scores.metrics import psnr",
            "row 2 scans imports row 3 scores",
        ),
        ("text_tokens.py", "from . import scores", "row 2 text_tokens imports row 3 scores"),
        ("networks/unet.py", "from ..methods import base", "row 6 networks imports row 7 methods"),
        ("selection.py", "import mrsynth.io.store", "row 8 selection imports row 4 io"),
        ("cli/app.py", "from mrsynth.io import store", "row 10 cli imports row 4 io"),
        ("reports/record.py", "from mrsynth import complete_subject", "row 8 reports imports row none __init__"),
        ("reports/record.py", "HOME = 'mrsynth.io.nifti'", "row 8 reports imports row 4 io"),
        ("scans/grid.py", "if TYPE_CHECKING:\n    from mrsynth.cli.app import main", "row 2 scans imports row 10 cli"),
        ("tasks/complete/run.py", "from mrsynth.io import nifti\nfrom mrsynth import __version__", None),
        ("errors.py", "from mrsynth.contrasts import Contrast\nimport enum", None),
    ],
)
def test_the_rule_sees_every_way_to_import(file, source, found):
    assert violations(PACKAGE / file, source) == ([found] if found else [])


def test_a_library_has_one_door():
    users = {(relative(path), name.split(".")[0]) for path in FILES for name in imports(path)}

    assert [f"{user} imports {name}" for user, name in sorted(users) if not user.startswith(DOORS.get(name, ""))] == []


def test_no_file_is_too_long():
    lines = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}

    assert {name: n for name, n in lines.items() if n > LONGEST} == {}, "ask what second idea lives in each"


SLOW = ("torch", "monai", "matplotlib", "SimpleITK", "huggingface_hub", "transformers")


@pytest.mark.parametrize(
    "name",
    [
        *("mrsynth", "mrsynth.cli.app", "mrsynth.selection"),
        *("mrsynth.tasks.inspect", "mrsynth.tasks.checkpoints.run", "mrsynth.io.hub"),
    ],
)
def test_what_answers_at_once_loads_no_torch(name):
    """`mrsynth --help`, `inspect` and `weights list` answer in half a second because none of this imports torch."""
    script = f"import sys, {name}; print([m for m in {SLOW} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("mrsynth.example", 443)])
def test_tests_cannot_reach_the_network(address):
    with pytest.raises(pytest.fail.Exception, match="loopback only"), socket.socket() as client:
        client.connect(address)
    with pytest.raises(pytest.fail.Exception, match="loopback only"):
        socket.create_connection(address, timeout=1)


def test_tests_reach_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
