"""`mrsynth-bids IN OUT participant|group`: the call that all BIDS apps have in common, in words of `mrsynth batch`.

K. J. Gorgolewski et al., BIDS apps, PLOS Computational Biology 13(3), 2017.
"""

import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

from mrsynth import __version__
from mrsynth.cli.app import main
from mrsynth.cli.words import BLANK, empty

WORDS = """Synthesise the contrasts that participants of a BIDS data set lack. Synthetic images are not for diagnosis.

participant  makes them; OUT becomes a BIDS derivative, and the same call goes on where it was stopped
group        writes summary.csv and index.html over all participants of OUT anew

All options of `mrsynth batch` hold for participant, such as --fast, --seed 1 or --device cuda; they come last."""

OWN = {"--participants": "--participant-label", "--out": "OUT", "ROOT": "IN", "mrsynth batch": "mrsynth-bids"}


def bids() -> None:
    """Run the program and end it as `mrsynth` would."""
    parser = ArgumentParser(
        "mrsynth-bids", description=WORDS, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", metavar="IN", help="folder of a BIDS data set; only read")
    parser.add_argument("out", metavar="OUT", help="folder for the derivative")
    parser.add_argument("level", choices=("participant", "group"))
    parser.add_argument(
        *("--participant-label", "--participant_label"),
        nargs="+",
        action="extend",
        default=[],
        metavar="LABEL",
        help="only these, with or without sub-; default all",
    )
    parser.add_argument("--version", action="version", version=f"mrsynth {__version__}")
    asked, others = parser.parse_known_args()
    for name, folder in (("IN", asked.source), ("OUT", asked.out)):
        if not folder.strip(BLANK):
            parser.error(empty(name))
    main(words_for_batch(asked.source, asked.out, asked.level, asked.participant_label, others), in_own_words)


def words_for_batch(source: str, out: str, level: str, labels: Sequence[str], others: Sequence[str]) -> list[str]:
    """The same for `mrsynth`."""
    words = ["batch", source, "--out", out, "--bids"]
    if level == "group":
        return [*words, "--only-summary", *others]
    return [*words, *(word for label in labels for word in ("--participants", label)), *others]


def in_own_words(message: str) -> str:
    """What `mrsynth batch` says of its options, in those of this program. Paths in a message stay as they are."""
    for word, own in OWN.items():
        message = re.sub(rf"(?<![\w/.-]){word}(?![\w/-]|\.\w)", own, message)
    return message
