"""Write docs/cards/ anew: the model card of every checkpoint that the manifest knows.

usage: python runs/measure/cards.py
"""

from pathlib import Path

from mrsynth.io.data_sources import known_data
from mrsynth.io.store import manifest
from mrsynth.reports.model_card import card_page

CARDS = Path(__file__).resolve().parents[2] / "docs" / "cards"
INDEX = """# Model cards

One page for every checkpoint that mrsynth knows by name, made from the manifest (`python runs/measure/cards.py`).
`mrsynth weights show NAME --card` prints the same, also of a file of your own.

"""


def pages() -> dict[str, str]:
    """File name -> text, of the cards and their index."""
    entries = manifest()
    made = {f"{entry.name}.md": card_page(entry, known_data(entry)) for entry in entries}
    lines = [f"- [{entry.name}]({entry.name}.md): {entry.ability}" for entry in entries]
    return {"README.md": INDEX + "\n".join(lines) + "\n", **made}


def main() -> None:
    """Write them; pages of checkpoints that are no more are removed."""
    CARDS.mkdir(exist_ok=True)
    written = pages()
    for path in CARDS.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (CARDS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
