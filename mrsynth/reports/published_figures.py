"""The published figures in a benchmark report: apart from ours, with their protocol and how they were seen."""

from mrsynth.contrasts import spelled
from mrsynth.reports.elements import Cell, Number, counted
from mrsynth.reports.sections import Bullets, Notice, Paragraph, Passage, Table
from mrsynth.reports.tables import METRICS, Print, Results
from mrsynth.scores.published_figures import UNVERIFIED, PublishedFigures, PublishedRow

SECONDS = Print("seconds", ".3g")
EXACT = ".6g"  # the digits are theirs
LONG = 12  # lines beyond which the table is shown when the reader opens it


def published_passages(dataset: str, results: Results, published: PublishedFigures) -> list[Passage]:
    """Rows on the same family of data sets that made the same from the same, and how far they can be read."""
    family = published.family(dataset)
    if not family:
        return [Paragraph(f"None are known for the data set '{dataset}'.")]
    rows = published.concerning(dataset, results.all_pairs)
    same = bool(rows)
    rows = rows or tuple(sorted(family, key=lambda row: row.dataset != dataset))  # other inputs, and said to be
    others = len(family) - len(rows)
    rest = f"{counted(others, 'more published figure')} on this family of data sets: other inputs or contrasts."
    intro = ("" if same else "None made the same from the same; these are of other inputs or contrasts. ") + (
        f"What others have printed, collected on {published.collected.isoformat()}. None of it was measured by this "
        "program. Data, split, normalisation, region and reduction differ from ours or are not known: set no figure "
        f"below against one above. '{UNVERIFIED}': not read in the paper itself."
    )
    conducts = {row.protocol: published.protocols[row.protocol] for row in rows if row.protocol}
    texts = [f"{name}: {conduct.text}" for name, conduct in conducts.items()]
    if any(row.protocol is None for row in rows):
        texts.append("unknown: how the figure was made is not recorded beyond what its line says.")
    sources = [
        published.sources[key] for key in dict.fromkeys(key for row in rows for key in (row.paper, row.via) if key)
    ]
    listed = [f"{source.title}: {source.address}" if source.address else source.title for source in sources]
    return [
        Notice(intro),
        _table(dataset, published, rows),
        Paragraph("Protocols of the published figures, as far as known:"),
        Bullets(texts),
        Bullets(listed, "Sources"),
        Bullets(published.remarks, "Remarks"),
        *([Paragraph(rest, small=True)] if others else []),
    ]


def _table(dataset: str, published: PublishedFigures, rows: tuple[PublishedRow, ...]) -> Table:
    """One line per method, data and way to measure; one column per metric. No figure of ours."""
    lines: list[tuple[tuple[str, ...], dict[str, str]]] = []
    for row in rows:
        source = published.sources[row.paper].title
        if row.via:
            source = f"{source}, by way of {published.sources[row.via].title}"
        key = (
            row.method,
            row.release + ("" if row.dataset == dataset else " (another data set)"),
            row.split or "split not known",
            _words(row.target),
            _words(row.inputs),
            row.region or "not known",
            _against_ours(row, published),
            row.how_seen,
            ", ".join(filter(None, (source, row.table))),
            "; ".join(filter(None, (row.circumstances, row.note))),
        )
        free = next((cells for other, cells in lines if other == key and row.metric not in cells), None)
        if free is None:  # two figures of one metric are two benchmarks, and have a line each
            free = {}
            lines.append((key, free))
        free[row.metric] = _figure(row)
    metrics = [name for name in (*METRICS, "SECONDS") if any(name in cells for _, cells in lines)]
    metrics += sorted({name for _, cells in lines for name in cells} - set(metrics))
    heads = [(METRICS | {"SECONDS": SECONDS}).get(name, Print(name, "")).label for name in metrics]
    body: list[list[Cell]] = [
        [*key[:5], *(Number(cells.get(name, "")) for name in metrics), *key[5:]] for key, cells in lines
    ]
    head = ["Published method", "Data", "Split", "Made", "from", *heads, "Region", "Protocol", "Seen", "Source", "Note"]
    return Table(head, body, folded=len(body) > LONG, title=f"Published figures ({len(body)} lines)")


def _against_ours(row: PublishedRow, published: PublishedFigures) -> str:
    """The protocol's name, and which of ours comes nearest."""
    if row.protocol is None:
        return "unknown"
    nearest = published.protocols[row.protocol].nearest
    if nearest is None:
        return f"{row.protocol}: differs from all of ours"
    return f"{row.protocol}: not one of ours; nearest is {nearest}"


def _figure(row: PublishedRow) -> str:
    text = f"{row.value:{EXACT}}"
    if row.upper is not None:
        text += f" to {row.upper:{EXACT}}"
    return text + (f" ± {row.deviation:{EXACT}}" if row.deviation is not None else "")


def _words(names: str) -> str:
    special = {"any": "each in turn", "mean": "mean of all", "unknown": "not known", "any three": "the other three"}
    return special.get(names) or spelled(names)
