"""Box plots of a benchmark, as PNG bytes: one group per contrast made, one box per method, one point per person.

Made with matplotlib's Agg canvas alone: no pyplot, no global state, no window system.
"""

import io
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np

DPI = 110
LEAST_OF_A_BOX = 3  # persons
LETTERS = 11  # of a text, to an inch
HEIGHT = 4.2  # inches
SLOT, LEAST, MOST = 0.42, 6.0, 11.6  # inches per box, and of the whole picture
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by everybody
GREYS = ("#5b6270", "#8f96a1")  # baselines
INK, RULE = "#1b1e23", "#dfe2e7"
LAST_LATIN = 0x24F  # what the font certainly has


def box_plot(
    groups: Mapping[str, Mapping[str, Sequence[float]]], *, axis: str, baselines: Sequence[str] = ()
) -> bytes | None:
    """Draw the scores, and return the PNG; None when there is no finite one.

    groups      contrast -> method -> one value per person; infinite values are not drawn
    axis        what is measured, and its unit
    baselines   the methods drawn in grey

    With fewer than LEAST_OF_A_BOX persons a box would be a pretence: only the points and their mean are drawn.
    """
    from matplotlib.lines import Line2D

    groups = {name: {m: v for m, v in by.items() if np.isfinite(v).any()} for name, by in groups.items()}
    groups = {name: by for name, by in groups.items() if by}
    methods = list(dict.fromkeys(method for by in groups.values() for method in by))
    if not methods:
        return None
    colours = _colours(methods, baselines)
    slots = sum(len(by) + 1 for by in groups.values())
    figure, axes = _figure(slots * SLOT)
    start, middles = 0.0, []
    for by in groups.values():
        places = {method: start + i for i, method in enumerate(m for m in methods if m in by)}
        for method, place in places.items():
            _draw(axes, place, np.asarray(by[method], float), colours[method])
        middles.append(start + (len(places) - 1) / 2)
        start += len(places) + 1
        if len(middles) < len(groups):
            axes.axvline(start - 1, color=RULE, linewidth=0.8)
    axes.set_xlim(-1, start - 1)
    axes.set_xticks(middles, [_text(name) for name in groups])
    _plain_axes(axes, axis)
    marks = [Line2D([], [], color=colours[m], marker="s", linestyle="", markersize=8) for m in methods]
    names = [_text(m) for m in methods]
    beside = int(figure.get_figwidth() * LETTERS / (max(map(len, names)) + 5))  # names, on one line of the legend
    lines = -(-len(names) // max(beside, 1))
    figure.legend(marks, names, loc="outside upper left", ncols=-(-len(names) // lines), frameon=False)
    return _png(figure)


def person_plot(lines: Mapping[str, Mapping[str, float]], *, axis: str) -> bytes | None:
    """A line for each person from method to method, and one through the means; None without two methods.

    lines  person -> method -> finite value; who lacks a method is not drawn
    """
    methods = list(dict.fromkeys(method for by in lines.values() for method in by))
    table = np.array([[by[m] for m in methods] for by in lines.values() if len(by) == len(methods)], float)
    table = table[np.isfinite(table).all(axis=1)] if table.size else table
    if len(methods) < 2 or not len(table):
        return None
    figure, axes = _figure(1.6 * len(methods))
    places = np.arange(len(methods))
    for values in table:
        axes.plot(places, values, color=GREYS[1], linewidth=0.9, alpha=0.7, marker=".", markersize=4)
    axes.plot(places, table.mean(axis=0), color=COLOURS[0], linewidth=2.4, marker="o")
    axes.set_xlim(-0.4, len(methods) - 0.6)
    room = int(figure.get_figwidth() / len(methods) * LETTERS) - 1
    axes.set_xticks(places, [fill(_text(name), max(room, 6)) for name in methods])
    _plain_axes(axes, axis)
    return _png(figure)


def _figure(inches: float) -> tuple[Any, Any]:
    """A figure about so wide, and its axes."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)  # inches; by default the texts touch the edge
    figure = Figure(figsize=(float(np.clip(inches, LEAST, MOST)), HEIGHT), dpi=DPI, layout=layout)
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    file = io.BytesIO()
    canvas.print_png(file)
    return file.getvalue()


def _plain_axes(axes: Any, axis: str) -> None:
    """A name beside the axis, rules across, and no frame."""
    axes.set_ylabel(_text(axis), color=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)


def _draw(axes: Any, place: float, values: Any, colour: str) -> None:
    finite = values[np.isfinite(values)]
    if len(finite) >= LEAST_OF_A_BOX:
        axes.boxplot(
            finite,
            positions=[place],
            widths=0.66,
            showfliers=False,  # every point is drawn below
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": colour, "alpha": 0.28, "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 2},
            whiskerprops={"color": colour},
            capprops={"color": colour},
        )
    else:
        axes.plot([place - 0.3, place + 0.3], [finite.mean()] * 2, color=colour, linewidth=2)
    aside = (np.arange(len(finite)) * 0.618 % 1 - 0.5) * 0.4  # golden ratio: neighbours lie apart, and always the same
    axes.plot(
        place + aside, np.sort(finite), ".", color=colour, markersize=5 if len(finite) < 60 else 3, alpha=0.75, zorder=3
    )


def _colours(methods: Sequence[str], baselines: Sequence[str]) -> dict[str, str]:
    own = [m for m in methods if m not in baselines]
    grey = [m for m in methods if m in baselines]
    chosen = {m: COLOURS[i % len(COLOURS)] for i, m in enumerate(own)}
    return chosen | {m: GREYS[i % len(GREYS)] for i, m in enumerate(grey)}


def _text(text: str) -> str:
    """As matplotlib shall print it: no formulas, no letters that its font lacks."""
    return "".join(c if c.isprintable() and ord(c) <= LAST_LATIN else "?" for c in text).replace("$", r"\$")
