"""`mrsynth doctor`."""

import typer

from mrsynth.cli.console import print_json, print_result
from mrsynth.cli.options import Json


def doctor(as_json: Json = False) -> None:
    """Say in one page what mrsynth finds on this machine, for a report of a fault; ends with 5 for bad weights."""
    from mrsynth.tasks.doctor import examine

    found = examine()
    if as_json:
        print_json(found.facts)
    else:
        width = max(map(len, found.facts))
        for name, fact in found.facts.items():
            for number, line in enumerate(fact.splitlines() or [""]):
                print_result(f"{'' if number else name:{width}}  {line}")
    if found.status:
        raise typer.Exit(found.status)
