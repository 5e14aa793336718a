"""How what was typed becomes the words of a command, for every command alike: none of them may be empty."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from mrsynth.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])
BLANK = " \t\r\n,"  # a list of nothing is nothing, too


class Command(TyperCommand):
    """A command whose options and arguments hold something, wherever they are given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words as any command does. Raises UsageError for one that is empty.

        To a task an empty word means the default, the folder we are in, or everything: what nobody who typed it meant.
        """
        typed = list(args)
        rest = super().parse_args(ctx, args)  # first: --help answers whatever else is typed, and errors of its own come
        if ctx.resilient_parsing:
            return rest
        given, _, order = self.make_parser(ctx).parse_args(args=typed)
        for parameter in dict.fromkeys(order):
            if not any(word.strip(BLANK) == "" for word in words(given.get(parameter.name))):
                continue
            option = parameter.param_type_name == "option"
            name = (
                max(parameter.opts, key=len) if option else (parameter.metavar or parameter.name.upper()).strip("[.]")
            )
            raise UsageError(empty(name, parameter.required))
        return rest


class Commands(typer.Typer):
    """Commands of this kind."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """As `typer.Typer.command`."""
        return super().command(name, cls=Command, **settings)


def empty(name: str, required: bool = True) -> str:
    """What is said of an option or argument with an empty word."""
    way_out = "" if required else ", or leave it out"
    return f"{name} is empty: give a value{way_out}. In a script a variable may be empty or misspelt."


def words(value: Any) -> Iterator[str]:
    """The words in what the parser holds of a parameter, which may be one, several, or none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from words(part)
