"""Write the tables of the benchmark's pages, of docs/training.md and of README.md anew from the files in runs/results.

usage: python -m runs.measure.pages [--check]      --check only says whether the pages are up to date (status 1: not)

The prose around them is left as it is.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; TABLES says what makes each. Result files are rows
of the voxel regression script (NAME.json), tables of `mrsynth benchmark` (NAME.csv), means that ablation_table.py
printed (ablations-METHOD.csv), or tables that another script of this folder printed (NAME.md; speed.md was written by
hand, from a clock). phantom.csv is a results.csv less the lines
that no table needs:
  grep -E "^dataset|,brain3d,brain,PSNR" RUN/results.csv > runs/results/phantom.csv
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from mrsynth.contrasts import STANDARD, Contrast, pattern_name, patterns
from mrsynth.io.store import manifest
from mrsynth.methods import METHODS
from mrsynth.scores.rows import Score, read_results
from runs.measure.ablation_table import table as ablation_table

CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = CHECKOUT / "runs" / "results"
NAMES = ("README.md", "docs/benchmark.md", "docs/benchmark-appendices.md", "docs/training.md")
PAGES = [CHECKOUT / name for name in NAMES]
BAR = "regression"
FIGURES = ("psnr_brain", "psnr_brain_fit", "psnr", "ssim")
BASELINE = {"gbm": "baseline", "linear": "baseline"}  # two models in one file
SUBJECTS = ("ms19", "BraTS-GLI-00027-000", "BraTS2021_01478")


def models() -> dict[str, list[dict[str, Any]]]:
    """Rows of every model, the regressions first: the benchmark's own, then those of the voxel regression script."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in ("regression", *BASELINE, "committee-ship", "fgc2f-ship", "cwdm-ship", "msg-ldm-ship", "dfbk-ship"):
        if (own := RESULTS / f"{name}.csv").exists():
            found[name] = rows_of(s for s in read_results(own.read_text(), own.name) if s.given == others(s.made))
        elif (path := RESULTS / f"{BASELINE.get(name, name)}.json").exists():
            rows = json.loads(path.read_text())
            found[name] = [r for r in rows if r["model"] == name] if name in BASELINE else rows
    return found


def others(target: Contrast) -> tuple[Contrast, ...]:
    """The three from which a contrast is made where one is missing."""
    return tuple(c for c in STANDARD if c is not target)


def rows_of(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """Rows of a benchmark in the form of that script: a dictionary for each volume."""
    names = {("brain3d", "PSNR"): "psnr_brain", ("brain3d", "PSNR_FIT"): "psnr_brain_fit"}
    names |= {("full3d", "PSNR"): "psnr", ("full3d", "SSIM"): "ssim"}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in scores:
        if (row.protocol, row.metric) in names and row.region in ("brain", "volume"):
            own = found.setdefault((row.subject, row.target), {"case": row.subject, "target": row.target})
            own[names[row.protocol, row.metric]] = row.value
    return list(found.values())


def one_missing() -> str:
    """Each model: each contrast from the three others, then the mean."""
    lines: list[tuple[str, ...]] = [("model", "target", *FIGURES)]
    for name, rows in models().items():
        groups = {t.value: [r for r in rows if r["target"] == t] for t in STANDARD} | {f"**mean of {len(rows)}**": rows}
        lines += [(name, what, *(f"{mean(r[f] for r in some):.3f}" for f in FIGURES)) for what, some in groups.items()]
    return table(lines)


def shipped() -> dict[str, list[dict[str, Any]]]:
    """The bar, and every model that ships."""
    return {name: rows for name, rows in models().items() if name == BAR or name.endswith("-ship")}


def of(rows: list[dict[str, Any]], figure: str, target: Contrast | None = None) -> float:
    """The mean of a figure, over all targets or one."""
    return float(mean(r[figure] for r in rows if target in (None, r["target"])))


def wins(rows: list[dict[str, Any]]) -> int:
    """Volumes in which a model is above the bar, after the fit."""
    bar = {(r["case"], r["target"]): r["psnr_brain_fit"] for r in models()[BAR]}
    return sum(r["psnr_brain_fit"] > bar[r["case"], r["target"]] for r in rows)


def summary() -> str:
    """Each shipped model in a line: means, contrast by contrast after the fit, and wins over the bar."""
    found = shipped()
    columns: list[tuple[str, Callable[[list[dict[str, Any]]], float], str]] = [
        ("PSNR", lambda rows: of(rows, "psnr_brain"), ".2f"),
        ("after fit", lambda rows: of(rows, "psnr_brain_fit"), ".2f"),
        *((t.label, lambda rows, t=t: of(rows, "psnr_brain_fit", t), ".2f") for t in STANDARD),
        ("SSIM", lambda rows: of(rows, "ssim"), ".3f"),
    ]
    best = [max(figure(rows) for rows in found.values()) for _, figure, _ in columns]
    lines: list[tuple[str, ...]] = [("model", *(name for name, _, _ in columns), "wins")]
    for name, rows in found.items():
        cells = []
        for (_, figure, digits), top in zip(columns, best, strict=True):
            value = figure(rows)
            cells.append(f"**{value:{digits}}**" if value == top else f"{value:{digits}}")
        lines.append((name, *cells, "" if name == BAR else f"{wins(rows)} of {len(rows)}"))
    return table(lines)


def verdict() -> str:
    """Which model, by how much, how sure, and what no figure shows: six lines."""
    found = shipped()
    bar = found.pop(BAR)
    gain = {name: [of(r, figure) - of(bar, figure) for figure in FIGURES[:2]] for name, r in found.items()}
    first = max(found, key=lambda name: of(found[name], "psnr_brain"))
    others = "; ".join(f"{n} {signed(gain[n][0])} ({signed(gain[n][1])})" for n in found if n != first)
    tops = []
    for target in STANDARD:
        every = {BAR: bar, **found}
        name = max(every, key=lambda n: of(every[n], "psnr_brain_fit", target))
        lead = of(every[name], "psnr_brain_fit", target) - of(bar, "psnr_brain_fit", target)
        tops.append(f"{target.label} {name}" + (f" ({lead:+.2f})" if lead else ", no network is better"))
    persons = len({r["case"] for r in bar})
    seconds, memory = timed("mrsynth complete")
    lines = [
        f"**Which:** {first}, {of(found[first], 'psnr_brain'):.2f} dB: {gain[first][0]:+.2f} over the regression, and "
        f"{gain[first][1]:+.2f} after the fit.",
        f"**The others,** before and (after) the fit: {others} dB.",
        f"**By contrast,** after the fit: {'; '.join(tops)}.",
        f"**How sure:** {persons} persons are too few for a test; {first} is above the regression in "
        f"{wins(found[first])} of {len(found[first])} volumes.",
        "**What no figure shows:** images are smooth, small lesions are lost, a synthetic T1ce shows no enhancement.",
        f"**Cost:** {seconds} s and {memory} for a volume of 240x240x155 on two CPU cores, everything included.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def signed(value: float) -> str:
    """With two digits, and no minus before a zero."""
    return f"{round(value, 2) + 0:+.2f}"


def segmented() -> tuple[str, ...]:
    """Of docs/segmentation.md: Dice of the whole tumour with all real, without FLAIR, with a synthetic one; ET's."""
    page = (CHECKOUT / "docs" / "segmentation.md").read_text(encoding="utf-8")
    flair = re.search(r"^\| FLAIR \| (\S+) \| (\S+) \| (\S+) \|", page, flags=re.MULTILINE)
    enhancing = re.search(r"ET Dice (\S+) \(fgc2f\)", page)
    assert flair is not None and enhancing is not None, "docs/segmentation.md says it otherwise now"
    return (*flair.groups(), enhancing[1])


def timed(command: str) -> tuple[str, str]:
    """Seconds and peak memory of a command."""
    (row,) = re.findall(rf"^\| `{re.escape(command)}` \| (\S+) \| (.+?) \|$", printed("speed")(), flags=re.MULTILINE)
    return row[0], row[1]


def figures() -> str:
    """Four figures for the first screen, and beside each what it does not promise."""
    found = shipped()
    bar = found.pop(BAR)
    first = max(found, key=lambda name: of(found[name], "psnr_brain"))
    best, (seconds, memory) = found[first], timed("mrsynth complete")
    t1ce = [of(rows, "psnr_brain_fit", Contrast.T1CE) for rows in (best, bar)]
    real, without, synthetic, enhancing = segmented()
    lines: list[tuple[str, ...]] = [
        ("measured", "and what it cannot do"),
        (
            f"**{of(best, 'psnr_brain'):.1f} dB** brain PSNR with one contrast missing; voxel-wise regression "
            f"{of(bar, 'psnr_brain'):.1f}",
            "12 volumes of three persons: too few for a test; other scanners are not measured",
        ),
        (
            f"**{of(best, 'ssim'):.3f}** SSIM; regression {of(bar, 'ssim'):.3f}",
            "smooth: fine sulci, thin vessels and small lesions are blurred or lost",
        ),
        (
            f"**{synthetic}** Dice of the whole tumour with a synthetic FLAIR; {without} without one, {real} with the "
            "true one (one subject, measured with 0.1.0)",
            f"enhancement: Dice {enhancing} (0.1.0) from a synthetic T1ce, which lies at {t1ce[0]:.1f} dB after the "
            f"fit, a regression at {t1ce[1]:.1f}",
        ),
        (
            f"**{float(seconds):.0f} s** and {memory} on two CPU cores, 240x240x155 voxels, report included",
            "heads of children, CT, other organs: no shipped checkpoint",
        ),
    ]
    return table(lines)


def by_subject() -> str:
    """`psnr_brain / psnr_brain_fit` of each subject, target and model."""
    shown = {name: rows for name, rows in models().items() if name != "linear"}
    lines = [("subject", "target", *shown)]
    for subject in SUBJECTS:
        for target in STANDARD:
            ours = [next(r for r in rows if (r["case"], r["target"]) == (subject, target)) for rows in shown.values()]
            lines.append((subject, target.value, *(f"{r['psnr_brain']:.2f} / {r['psnr_brain_fit']:.2f}" for r in ours)))
    return table(lines)


Figures = Mapping[tuple[str, str, str], float]  # by pattern, target and metric


def every_pattern() -> str:
    """PSNR / PSNR after the fit in the brain of phantoms, mean over subjects, of each method in every case."""
    values: dict[str, dict[tuple[str, str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read_results((RESULTS / "phantom.csv").read_text(), "phantom.csv"):
        if (row.protocol, row.region) == ("brain3d", "brain"):
            values[row.method][row.pattern, row.target, row.metric].append(row.value)
    return of_every_case({method: {key: mean(v) for key, v in own.items()} for method, own in values.items()})


def every_scan() -> str:
    """The same for the validation subjects, of the shipped checkpoints, as the manifest has it."""
    found = {e.name: {(s.pattern, s.target, s.metric): s.value for s in e.scores} for e in manifest()}
    cwdm = {key: value for name, own in found.items() if name.startswith("cwdm-ship-") for key, value in own.items()}
    columns = {name: found[name] for name in ("committee-ship", "fgc2f-ship", "msg-ldm-ship", "dfbk-ship")}
    return of_every_case({**columns, "cwdm-ship-*": cwdm})


def of_every_case(columns: Mapping[str, Figures]) -> str:
    """A line for every pattern and target, and the means of the columns that have them all."""
    cases = [(pattern_name(given), target.value) for given in patterns() for target in STANDARD if target not in given]

    def cell(own: Figures, among: Sequence[tuple[str, str]]) -> str:
        both = [[own[(*case, metric)] for case in among if (*case, metric) in own] for metric in ("PSNR", "PSNR_FIT")]
        return " / ".join(f"{mean(v):.2f}" for v in both) if all(len(v) == len(among) for v in both) else ""

    lines = [("available", "made", *columns)]
    lines += [(*case, *(cell(own, [case]) for own in columns.values())) for case in cases]
    lines.append((f"**mean of {len(cases)}**", "", *(f"**{cell(own, cases) or '-'}**" for own in columns.values())))
    return table(lines)


def printed(name: str) -> Callable[[], str]:
    """A table that another script printed."""
    return lambda: (RESULTS / f"{name}.md").read_text().strip()


def printed_once_it_is(name: str) -> Callable[[], str]:
    """The same, of a measurement that may not have been made."""
    return lambda: printed(name)() if (RESULTS / f"{name}.md").exists() else "(not measured yet)"


def ablations(method: str) -> Callable[[], str]:
    """The variants of a method beside each other, from the means of their seeds."""
    return lambda: "\n".join(ablation_table([RESULTS / f"ablations-{method}.csv"]))


TABLES: dict[str, Callable[[], str]] = {
    "figures": figures,
    "verdict": verdict,
    "summary": summary,
    "speed": printed("speed"),
    "one-missing": one_missing,
    "by-subject": by_subject,
    "patterns": every_pattern,
    "patterns-of-scans": every_scan,
    "steps-fgc2f": printed("steps-fgc2f"),
    "steps-cwdm": printed("steps-cwdm"),
    "steps-cwdm-slab": printed("steps-cwdm-slab"),
    "steps-msg-ldm": printed("steps-msg-ldm"),
    "steps-dfbk": printed("steps-dfbk"),
    "ceiling-msg-ldm": printed("ceiling-msg-ldm"),
    "consistency": printed("consistency"),
    **{f"ablations-{method}": ablations(method) for method in METHODS},
    "speed-beside": printed_once_it_is("speed-beside"),
    "curves": printed_once_it_is("curves"),
    "tuning": printed("tuning"),
}


def table(lines: list[tuple[str, ...]]) -> str:
    """Markdown; the first line is the head."""
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


def renewed(pages: dict[Path, str]) -> dict[Path, str]:
    """The pages with every table made anew. Raises SystemExit for a table that nothing makes, or that has no place."""
    found = [name for page in pages.values() for name in re.findall(r"<!-- begin (\S+) -->", page)]
    if sorted(found) != sorted(TABLES):
        raise SystemExit(f"tables {sorted(found)}, expected {sorted(TABLES)}")
    return {path: _renewed(path, page) for path, page in pages.items()}


def _renewed(path: Path, page: str) -> str:
    for name in re.findall(r"<!-- begin (\S+) -->", page):
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, _, rest = page.partition(begin)
        _, closing, after = rest.partition(end)
        if not closing:
            raise SystemExit(f"{path}: {end} is missing")
        page = f"{before}{begin}\n{TABLES[name]()}\n{end}{after}"
    return page


def main() -> None:
    """Renew the pages, or check them."""
    before = {path: path.read_text(encoding="utf-8") for path in PAGES}
    for path, page in renewed(before).items():
        if page == before[path]:
            continue
        if "--check" in sys.argv[1:]:
            raise SystemExit(f"{path} is not what the result files say: run {sys.argv[0]}")
        path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
