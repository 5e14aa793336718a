"""The pages lead somewhere: no link is dead, and docs/index.md leaves none out."""

import re
from pathlib import Path

import pytest

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
