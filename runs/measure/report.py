"""What report.html weighs, and the processor seconds that it takes to make, with its pictures and preview.png.

usage: python runs/measure/report.py ARGUMENTS OF mrsynth complete
as in: python runs/measure/report.py SUBJECT --out OUT
       python runs/measure/report.py SUBJECT --out OUT --weights fgc2f-ship --mode sample --samples 2 --reference TRUTH

Runs the command in this process and adds up what the functions that draw and write the report use; threads included.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrsynth.cli.app import main as mrsynth
from mrsynth.tasks.complete import output

DRAWS = ("picture", "preview", "report_html", "report_json", "metrics_csv")


def main() -> None:
    """One line after what the command prints."""
    if "--out" not in sys.argv:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[sys.argv.index("--out") + 1])
    spent = {name: 0.0 for name in DRAWS}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.process_time() - began

        return call

    for name in DRAWS:
        setattr(output, name, timed(name, getattr(output, name)))
    try:
        mrsynth(["complete", *sys.argv[1:]])
    except SystemExit as done:
        if done.code:
            raise
    size = (folder / "report.html").stat().st_size / 1e6
    each = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
    print(f"report.html {size:.1f} MB, {sum(spent.values()):.1f} processor seconds ({each})")


if __name__ == "__main__":
    main()
