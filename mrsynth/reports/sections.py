"""A report as a list of sections, written once and laid out twice: as Markdown and as a self-contained page.

Texts are plain: both layouts escape them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mrsynth.reports.elements import Cell, Number, is_of_figures, render


@dataclass(frozen=True)
class Paragraph:
    """Running text; small: an explanation below a table."""

    kind: ClassVar[str] = "paragraph"
    text: str
    small: bool = False


@dataclass(frozen=True)
class Notice:
    """What nobody must overlook; grave: about safety."""

    kind: ClassVar[str] = "notice"
    text: str
    grave: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list; with a title it is shown in the page only when the reader opens it."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells below a head.

    title       above it
    folded      in the page, shown when the reader opens it
    page_only   too long for the Markdown, which then says where to look
    """

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    folded: bool = False
    page_only: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG, and perhaps what `viewer_data` gives of the same; the Markdown leaves both out."""

    kind: ClassVar[str] = "picture"
    caption: str
    png: bytes
    viewer: Any | None = None


Passage = Paragraph | Notice | Bullets | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    heading: str
    passages: Sequence[Passage]


def as_html(title: str, header: str, sections: Iterable[Section]) -> str:
    """One page without any outside resource; `header` is the line on top."""
    sections = list(sections)
    viewers = any(isinstance(b, Picture) and b.viewer is not None for section in sections for b in section.passages)
    return render("sections.html", title=title, header=header, sections=sections, viewers=viewers)


def as_markdown(title: str, sections: Iterable[Section]) -> str:
    """The same as GitHub-flavoured Markdown, without the pictures."""
    parts = [f"# {plain(title)}"]
    for section in sections:
        parts.append(f"## {plain(section.heading)}")
        parts += [text for passage in section.passages if (text := _markdown(passage))]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text with everything escaped that Markdown or HTML would read as a mark; one line.

    Only where it would be one: the file is also read as it is. `< 0.001`, `[1.2, 3.4]` and `a_b` stay.
    """
    line = re.sub(r"\s+", " ", text)
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line)
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line)
    line = re.sub(r"[\\`*|]|~(?=~)|\](?=[(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", line)
    return line


# Markdown ------------------------------------------------------------------------------------------------------------


def _markdown(passage: Passage) -> str:
    match passage:
        case Paragraph():
            return plain(passage.text)
        case Notice():
            return f"> **{plain(passage.text)}**"
        case Bullets():
            items = "\n".join(f"- {plain(item)}" for item in passage.items)
            return f"{plain(passage.title)}:\n\n{items}" if passage.title else items
        case Picture():
            return ""
        case Table():
            if passage.page_only:
                return f"{plain(passage.title)}: in report.html."
            lines = [_line(passage.head or [""] * len(passage.rows[0])), _rule(passage), *map(_line, passage.rows)]
            table = "\n".join(lines)
            return f"**{plain(passage.title)}**\n\n{table}" if passage.title else table


def _line(cells: Sequence[Cell]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _rule(table: Table) -> str:
    """Columns of figures are set on the right."""
    columns = len(table.head or table.rows[0])
    marks = ("---:" if table.head and is_of_figures(table.rows, column) else "---" for column in range(columns))
    return f"|{'|'.join(marks)}|"


def _cell(value: Cell) -> str:
    if isinstance(value, Number):
        return f"**{plain(value.text)}**" if value.best and value.text else plain(value.text)
    if isinstance(value, float):
        return f"{value:.4g}"
    return plain(value or "")
