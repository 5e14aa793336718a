"""Put the scores of an entry into the manifest; its weights stay as they are.

usage: python -m runs.measure.enter_scores NAME FILE [--add] [--cpu-seconds N]

For a committee, which has no file to publish. FILE is what `runs/measure/publish.py` takes for --rows.
With --add the scores of cases that FILE says nothing of stay.
`python runs/measure/cards.py` makes its card anew afterwards.
"""

import argparse
from pathlib import Path

import yaml

from mrsynth.io.store import manifest
from runs.measure.publish import MANIFEST, scores_in, write_manifest


def main() -> None:
    """Read, replace, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--cpu-seconds", type=float, help="processor time for a brain")
    args = parser.parse_args()
    card = next((e for e in manifest() if e.name == args.name), None)
    if card is None:
        parser.error(f"no entry of the manifest is called {args.name}")
    found = scores_in(args.rows, card)
    if args.add:
        anew = {(score.pattern, score.target) for score in found}
        found = (*(score for score in card.scores if (score.pattern, score.target) not in anew), *found)
    entries = yaml.safe_load(MANIFEST.read_text())["weights"]
    entry = next(e for e in entries if e["name"] == args.name)
    entry["scores"] = [score.model_dump(mode="json") for score in found]
    if args.cpu_seconds:
        entry["cpu_seconds"] = args.cpu_seconds
    write_manifest(entries)


if __name__ == "__main__":
    main()
