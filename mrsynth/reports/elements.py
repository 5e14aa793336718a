"""The templates of the pages that mrsynth writes, and what a cell of their tables can hold.

Templates, styles and scripts are the files in `templates/`. Every text is escaped, and what would turn its letters
is spelt out; a page links to nothing outside.
"""

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from mrsynth.texts import visible

if TYPE_CHECKING:
    from jinja2 import Environment


class Number(NamedTuple):
    """A figure as it is to be printed, on the right of its cell; in bold if it is the best of those beside it."""

    text: str
    best: bool = False


Cell = str | float | Number | None


def render(template: str, **values: Any) -> str:
    """Fill in a template of `templates/`, by name. A value that it asks for and does not get is an error."""
    return _environment().get_template(template).render(**values)


def counted(number: int, noun: str) -> str:
    """`1 slice`, `6 slices`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mrsynth.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.globals["file"] = _text
    environment.filters["base64"] = lambda data: b64encode(data).decode("ascii")
    environment.filters["figures"] = is_of_figures
    return environment


def _text(name: str) -> str:
    return files("mrsynth.reports").joinpath("templates", name).read_text(encoding="utf-8")


def is_of_figures(rows: Sequence[Sequence[Cell]], column: int) -> bool:
    """Whether a column of a table holds figures, which stand on the right."""
    return any(isinstance(row[column], Number | float) for row in rows)
