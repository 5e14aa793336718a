"""Parts of the pages that mrsynth writes: style, sections, tables, pictures. No script, no link to anywhere else.

Everything here escapes the texts it is given; what is called `body` is HTML already.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

STYLE = """
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; color: #1b1e23; background: #f4f5f7; margin: 0; }
main { max-width: 1340px; margin: 0 auto; padding: 0 20px 40px; }
header { background: #8f1111; color: #fff; padding: 14px 20px; text-align: center; }
header strong { font-size: 26px; letter-spacing: .3em; display: block; }
section { background: #fff; border: 1px solid #dfe2e7; border-radius: 8px; padding: 4px 20px 16px; margin-top: 18px; }
h1 { font-size: 24px; margin: 24px 0 4px; } h2 { font-size: 19px; margin: 14px 0 8px; }
h3 { font-size: 16px; margin: 12px 0 4px; }
.rating { border-radius: 4px; padding: 2px 10px; color: #fff; font-weight: 600; }
.close { background: #1c6b3a; } .good { background: #3d7a1c; } .fair { background: #93650a; }
.rough { background: #b04a0c; } .poor { background: #a31515; } .unknown { background: #5b6270; }
.notice { border-left: 5px solid #a31515; background: #fdf0ef; padding: 6px 14px; margin: 8px 0; }
.warning { border-left: 5px solid #d08a00; background: #fff8e6; padding: 6px 14px; margin: 8px 0; }
.wide { overflow-x: auto; } img { max-width: 100%; display: block; margin: 0 auto; background: #0b0b0d; }
table { border-collapse: collapse; font-size: 14px; }
th, td { border-bottom: 1px solid #e3e6ea; padding: 4px 12px 4px 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } td { overflow-wrap: anywhere; }
figure { margin: 8px 0; } figcaption, .small { color: #5b6270; font-size: 13px; }
code { font-size: 12px; overflow-wrap: anywhere; } summary { cursor: pointer; font-weight: 600; margin-top: 8px; }
@media print { body { background: #fff; } section { break-inside: avoid; } header { print-color-adjust: exact; } }
""".strip()


class Number(NamedTuple):
    """A figure as it is to be printed, on the right of its cell; in bold if it is the best of those beside it."""

    text: str
    best: bool = False


Cell = str | float | Number | None


def document(title: str, header: str, body: str) -> str:
    """A whole page. `header` and `body` are HTML."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<header>{header}</header><main>",
            f"<h1>{escape(title)}</h1>",
            body,
            "</main></body></html>",
            "",
        ]
    )


def section(heading: str, body: str, anchor: str = "") -> str:
    """A box with a heading."""
    identity = f' id="{escape(anchor)}"' if anchor else ""
    return f"<section{identity}><h2>{escape(heading)}</h2>{body}</section>"


def folded(summary: str, body: str) -> str:
    """What is shown only when the reader opens it."""
    return f'<details><summary>{escape(summary)}</summary><div class="wide">{body}</div></details>'


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Strings on the left; figures on the right, floats with four digits; None is an empty cell."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def picture(caption: str, png: bytes) -> str:
    """A PNG inside the page, with its caption."""
    return (
        f'<figure><div class="wide"><img alt="{escape(caption)}" '
        f'src="data:image/png;base64,{b64encode(png).decode("ascii")}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def counted(number: int, noun: str) -> str:
    """`1 slice`, `6 slices`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _cell(value: Cell) -> str:
    if isinstance(value, Number):
        text = escape(value.text)
        return f'<td class="number">{f"<b>{text}</b>" if value.best else text}</td>'
    if isinstance(value, float):
        return f'<td class="number">{value:.4g}</td>'
    return f"<td>{escape(value or '')}</td>"
