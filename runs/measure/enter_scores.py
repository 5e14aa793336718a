"""Put the scores of an entry into the manifest, as `runs/measure/validate.sh` found them; its weights stay as they are.

usage: python -m runs.measure.enter_scores NAME ROWS.json [--cpu-seconds N]

For a committee, which has no file to publish. `python runs/measure/cards.py` makes its card anew afterwards.
"""

import argparse
import json
from pathlib import Path

import yaml

from mrsynth.io.store import manifest
from runs.measure.publish import MANIFEST, from_rows, write_manifest


def main() -> None:
    """Read, replace, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--cpu-seconds", type=float, help="processor time for a brain")
    args = parser.parse_args()
    card = next((e for e in manifest() if e.name == args.name), None)
    if card is None:
        parser.error(f"no entry of the manifest is called {args.name}")
    found = from_rows(json.loads(args.rows.read_text()), card)
    entries = yaml.safe_load(MANIFEST.read_text())["weights"]
    entry = next(e for e in entries if e["name"] == args.name)
    entry["scores"] = [score.model_dump(mode="json") for score in found]
    if args.cpu_seconds:
        entry["cpu_seconds"] = args.cpu_seconds
    write_manifest(entries)


if __name__ == "__main__":
    main()
