"""The published figures in a benchmark report: apart from ours, with their protocol and how they were seen."""

from mrsynth.contrasts import spelled
from mrsynth.reports.elements import Cell, Number, counted
from mrsynth.reports.sections import Block, Bullets, Notice, Paragraph, Table
from mrsynth.reports.tables import METRICS, Print, Results
from mrsynth.scores.published_figures import UNVERIFIED, Published, PublishedRow

SECONDS = Print("seconds per volume", ".3g")
EXACT = ".6g"  # the digits are theirs
LONG = 12  # lines beyond which the table is shown when the reader opens it


def published_blocks(dataset: str, results: Results, published: Published) -> list[Block]:
    """Rows on the same family of data sets that made the same from the same, and how far they can be read."""
    family = published.family(dataset)
    if not family:
        return [Paragraph(f"None are known for the data set '{dataset}'.")]
    rows = published.concerning(dataset, results.all_pairs)
    others = len(family) - len(rows)
    rest = f"{counted(others, 'more published figure')} on this family of data sets: other inputs or contrasts."
    if not rows:
        return [Paragraph(f"None for what was made here. {rest}")]
    intro = (
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
        _table(dataset, results, published, rows),
        Paragraph("Protocols of the published figures, as far as known:"),
        Bullets(texts),
        Bullets(listed, "Sources"),
        Bullets(published.remarks, "Remarks"),
        *([Paragraph(rest, small=True)] if others else []),
    ]


def _table(dataset: str, results: Results, published: Published, rows: tuple[PublishedRow, ...]) -> Table:
    """One line per method, data and way to measure; one column per metric. No figure of ours."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
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
            _against_ours(row, published, results),
            row.how_seen,
            ", ".join(filter(None, (source, row.table))),
            row.note,
        )
        cell = lines.setdefault(key, {})
        shown = _figure(row)
        cell[row.metric] = f"{cell[row.metric]}; {shown}" if row.metric in cell else shown
    metrics = [name for name in (*METRICS, "SECONDS") if any(name in cells for cells in lines.values())]
    metrics += sorted({name for cells in lines.values() for name in cells} - set(metrics))
    heads = [(METRICS | {"SECONDS": SECONDS}).get(name, Print(name, "")).label for name in metrics]
    body: list[list[Cell]] = [
        [*key[:5], *(Number(cells.get(name, "")) for name in metrics), *key[5:]] for key, cells in lines.items()
    ]
    head = ["Published method", "Data", "Split", "Made", "from", *heads, "Region", "Protocol", "Seen", "Source", "Note"]
    return Table(head, body, folded=len(body) > LONG, title=f"Published figures ({len(body)} lines)")


def _against_ours(row: PublishedRow, published: Published, results: Results) -> str:
    """The protocol's name, and in plain words whether ours is another."""
    if row.protocol is None:
        return "unknown"
    ours = published.protocols[row.protocol].ours
    if ours is None:
        return f"{row.protocol}: differs from all of ours"
    if ours in results.protocols:
        return f"{row.protocol}: our protocol {ours} follows it; whether the figure was made so is not verified"
    return f"{row.protocol}: differs from ours of this run; our protocol {ours} would follow it"


def _figure(row: PublishedRow) -> str:
    text = f"{row.value:{EXACT}}"
    if row.upper is not None:
        text += f" to {row.upper:{EXACT}}"
    return text + (f" ± {row.deviation:{EXACT}}" if row.deviation is not None else "")


def _words(names: str) -> str:
    special = {"any": "each in turn", "mean": "mean of all", "unknown": "not known", "any three": "the other three"}
    return special.get(names) or spelled(names)
