"""The pages lead somewhere, docs/index.md leaves none out, and what they name of options and keys is what there is."""

import re
import tomllib
from pathlib import Path

import pytest
import typer

from mrsynth.cli.app import app
from mrsynth.methods import METHODS, method_class
from mrsynth.plain import Plain
from mrsynth.scans.preparation import PreparationConfig
from mrsynth.tasks.train.config import DataConfig, RunConfig
from mrsynth.training.batches import TrainingConfig
from runs.measure import pages

CHECKOUT = Path(__file__).resolve().parents[1]
DOCS = sorted((CHECKOUT / "docs").rglob("*.md"))
PAGES = [*DOCS, *sorted(CHECKOUT.glob("*.md")), CHECKOUT / "runs" / "README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(path: Path) -> str:
    """Without code, in which brackets are no links and hashes no headings."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(path: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = [re.sub(r"[`*]", "", h).lower() for h in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[tuple[Path, str]]:
    """Where its links within the project lead: file and anchor."""
    found = []
    for link in LINK.findall(text_of(path)):
        if not re.match(r"[a-z]+:", link):
            name, _, anchor = link.partition("#")
            found.append(((path.parent / name).resolve() if name else path, anchor))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_no_link_is_dead(page):
    dead = [
        f"{target.name}#{anchor}"
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]

    assert dead == []


def test_the_index_leaves_no_page_out():
    index = CHECKOUT / "docs" / "index.md"
    named = {target for target, _ in links(index)}
    for folder in {target for target in named if target.name == "README.md" and target.is_relative_to(index.parent)}:
        named |= {target for target, _ in links(folder) if target.parent == folder.parent}  # an index of its own

    assert [path.relative_to(CHECKOUT).as_posix() for path in PAGES if path not in {*named, index}] == []
    assert index in {target for target, _ in links(CHECKOUT / "README.md")}


def test_a_dead_link_is_seen(tmp_path):
    (tmp_path / "a.md").write_text(
        "# A *b* `c`, d\n[x](b.md) [y](#a-b-c-d) [z](#e) [w](https://x.org/a.md) `[v](u.md)`"
    )

    found = links(tmp_path / "a.md")
    assert [(target.name, anchor) for target, anchor in found] == [("b.md", ""), ("a.md", "a-b-c-d"), ("a.md", "e")]
    assert not found[0][0].exists() and anchors(tmp_path / "a.md") == {"a-b-c-d"}


def test_the_tables_are_what_the_result_files_say():
    there = {path: path.read_text(encoding="utf-8") for path in pages.PAGES}

    assert pages.renewed(there) == there
    assert "-0.00" not in pages.verdict() and pages.signed(-0.001) == "+0.00" and pages.signed(-0.26) == "-0.26"


def test_wins_are_volumes_above_the_bar():
    found = pages.shipped()

    assert pages.wins(found["regression"]) == 0
    better = [r | {"psnr_brain_fit": r["psnr_brain_fit"] + 0.1} for r in found["regression"]]
    assert pages.wins(better) == len(better) == 12


def keys_of(config, before=""):
    """Every key of a configuration with its default, at any depth: {"network.width": 64, ...}."""
    found = {}
    for name, field in config.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Plain):
            found |= keys_of(inner, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = field.default
    return found


def named_on(text):
    """Words in code."""
    return {word for span in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", span)}


def configuration_words(method):
    """The words of a method's page under Configuration, and of the page that it leaves the network to."""
    page = (CHECKOUT / "docs" / "methods" / f"{method}.md").read_text(encoding="utf-8")
    section = page.partition("## Configuration")[2].partition("\n## ")[0]
    others = [configuration_words(other) for other in METHODS if f"({other}.md)" in section]
    return set(re.findall(r"\w+", section)).union(*others)


@pytest.mark.parametrize("method", METHODS)
def test_every_key_of_a_method_is_on_its_page(method):
    keys = {part for key in keys_of(method_class(method).Config) for part in key.split(".")} - {"method"}

    assert sorted(keys - configuration_words(method)) == []


def test_every_key_of_a_run_file_is_told_with_its_default():
    page = (CHECKOUT / "docs" / "training.md").read_text(encoding="utf-8")
    section = page.partition("## The keys of a run file")[2].partition("\n## ")[0]
    told = {}
    for head, defaults, *_ in (line.strip("| ").split(" | ") for line in section.splitlines() if line[:3] == "| `"):
        if head.endswith(".`"):  # of a table
            place = head.strip("`.")
            continue
        first, *names = head.replace("`", "").split(", ")
        stem = ".".join([place, *first.split(".")[:-1]])
        values = re.findall(r"\[.*?\]|[^, ]+", defaults)
        told |= dict(zip([f"{place}.{first}", *(f"{stem}.{name}" for name in names)], values, strict=True))

    wanted = {
        f"{place}.{key}": value
        for place, config in (("training", TrainingConfig), ("preparation", PreparationConfig))
        for key, value in keys_of(config).items()
    }
    assert set(told) == set(wanted)
    wrong = {key: (told[key], value) for key, value in wanted.items() if not says(told[key], value)}
    assert wrong == {}
    assert set(RunConfig.model_fields) | set(DataConfig.model_fields) <= named_on(section)


def says(text, value):
    """Whether a cell of a table means a default."""
    if isinstance(value, tuple):
        return text in (value[0], "[" + ", ".join(f"{part:g}" for part in value if not isinstance(part, str)) + "]")
    return text == ("none" if value is None else value if isinstance(value, str) else f"{value:.10g}")


def options_typed(command):
    """The options of a command and all below it."""
    own = {name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("--")}
    return own.union(*map(options_typed, getattr(command, "commands", {}).values()))


OF_OTHERS = {"help", "gpus", "nv", "build-arg", "participant-label", "command"}  # of every program, and of others
FOR_USERS = [
    CHECKOUT / "README.md",
    *(page for page in DOCS if page.parent.name != "cards" and page.stem != "training-log"),
]


def options_named(text):
    """Those of commands of mrsynth in code, in lines and in sentences, without the dashes."""
    lines = re.findall(r"^ *mrsynth(?:-bids)? [^#\n]*", text.replace("\\\n", " "), flags=re.MULTILINE)
    spans = re.findall(r"`((?:mrsynth [^`\n]*|(?!docker)[a-z-]+ )?--[^`\n]+)`", text)
    return {option for words in (*lines, *spans) for option in re.findall(r"(?<![\w-])--([a-z][\w-]+)", words)}


@pytest.mark.parametrize("page", FOR_USERS, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_every_option_that_a_page_names_is_one(page):
    known = {name[2:] for name in options_typed(typer.main.get_command(app))}

    assert sorted(options_named(page.read_text(encoding="utf-8")) - known - OF_OTHERS) == []


def test_an_option_that_is_none_is_seen():
    text = (
        "```bash\nmrsynth x \\\n    --aa 1  # --no\ndocker run --no\n```\n`--bb-c`, `batch --dd`, `mrsynth x --ee`, -n"
    )

    assert options_named(text) == {"aa", "bb-c", "dd", "ee"}


def test_the_readme_names_every_extra():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")

    assert [extra for extra in extras if extra != "dev" and f"| `{extra}` |" not in readme] == []


FILE = re.compile(r"\b(?:docs|examples|mrsynth|runs|tests|tools)/[\w/-]+\.(?:json|md|py|sh|yaml)\b")


@pytest.mark.parametrize("folder", ["docs", "examples", "mrsynth"])
def test_no_file_that_is_named_is_gone(folder):
    texts = {
        path: path.read_text(encoding="utf-8")
        for end in ("md", "py", "sh")
        for path in CHECKOUT.glob(f"{folder}/**/*.{end}")
    }
    named = {(path.name, name) for path, text in texts.items() for name in FILE.findall(text)}

    assert named
    assert [where for where in sorted(named) if not (CHECKOUT / where[1]).exists() and "newpaper" not in where[1]] == []
