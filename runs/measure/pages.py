"""Write the tables of docs/benchmark.md anew from the result files in runs/results. The prose is left as it is.

usage: python runs/measure/pages.py [--check]      --check only says whether the page is up to date (status 1: not)

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; TABLES says what makes each. Result files are rows
of the voxel regression script (NAME.json), tables of `mrsynth benchmark` (NAME.csv), or tables that another script of
this folder printed (NAME.md). phantom.csv is a results.csv less the lines that no table needs:
  grep -E "^dataset|,brain3d,brain,PSNR" RUN/results.csv > runs/results/phantom.csv
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from mrsynth.contrasts import STANDARD, Contrast, pattern_name, patterns
from mrsynth.methods import METHODS
from mrsynth.scores.rows import Score, read_results

RESULTS = Path(__file__).parents[1] / "results"
PAGE = Path(__file__).parents[2] / "docs" / "benchmark.md"
FIGURES = ("psnr_brain", "psnr_brain_fit", "psnr", "ssim")
BASELINE = {"gbm": "baseline", "linear": "baseline"}  # two models in one file
SUBJECTS = ("ms19", "BraTS-GLI-00027-000", "BraTS2021_01478")


def models() -> dict[str, list[dict[str, Any]]]:
    """Rows of every model, the regressions first: the benchmark's own, then those of the voxel regression script."""
    found: dict[str, list[dict[str, Any]]] = {}
    if (own := RESULTS / "regression.csv").exists():
        found["regression"] = rows_of(read_results(own.read_text(), own.name))
    for name in (*BASELINE, "fgc2f-ship", "cwdm-ship", "msg-ldm-ship", "dfbk-ship"):
        path = RESULTS / f"{BASELINE.get(name, name)}.json"
        if path.exists():
            rows = json.loads(path.read_text())
            found[name] = [r for r in rows if r["model"] == name] if name in BASELINE else rows
    return found


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


def by_subject() -> str:
    """`psnr_brain / psnr_brain_fit` of each subject, target and model."""
    shown = {name: rows for name, rows in models().items() if name != "linear"}
    lines = [("subject", "target", *shown)]
    for subject in SUBJECTS:
        for target in STANDARD:
            ours = [next(r for r in rows if (r["case"], r["target"]) == (subject, target)) for rows in shown.values()]
            lines.append((subject, target.value, *(f"{r['psnr_brain']:.2f} / {r['psnr_brain_fit']:.2f}" for r in ours)))
    return table(lines)


def every_pattern() -> str:
    """PSNR / PSNR after the fit in the brain, mean over subjects, of each method for every pattern and target."""
    rows = read_results((RESULTS / "phantom.csv").read_text(), "phantom.csv")
    chosen = [r for r in rows if (r.protocol, r.region) == ("brain3d", "brain")]
    methods = list(dict.fromkeys(r.method for r in chosen))
    values: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in chosen:
        values[row.pattern, row.target, row.method, row.metric].append(row.value)

    def cell(pattern: str, target: Contrast, method: str) -> str:
        both = [values[pattern, target.value, method, metric] for metric in ("PSNR", "PSNR_FIT")]
        return " / ".join(f"{mean(v):.2f}" for v in both) if all(both) else ""

    lines = [("available", "made", *methods)]
    for available in patterns():
        pattern = pattern_name(available)
        for target in (t for t in STANDARD if t not in available):
            lines.append((pattern, target.value, *(cell(pattern, target, m) for m in methods)))
    lines.append(("**mean of 28**", "", *(f"**{pooled(chosen, m)}**" for m in methods)))
    return table(lines)


def pooled(rows: Iterable[Score], method: str) -> str:
    """Mean over all patterns and targets of a method that makes them all."""
    own = [r for r in rows if r.method == method]
    if len({(r.pattern, r.target) for r in own}) < 28:
        return "-"
    return " / ".join(f"{mean(r.value for r in own if r.metric == m):.2f}" for m in ("PSNR", "PSNR_FIT"))


def printed(name: str) -> Callable[[], str]:
    """A table that another script printed."""
    return lambda: (RESULTS / f"{name}.md").read_text().strip()


def printed_once_it_is(name: str) -> Callable[[], str]:
    """The same, of a measurement that may not have been made."""
    return lambda: printed(name)() if (RESULTS / f"{name}.md").exists() else "(not measured yet)"


TABLES: dict[str, Callable[[], str]] = {
    "one-missing": one_missing,
    "by-subject": by_subject,
    "patterns": every_pattern,
    "steps-cwdm": printed("steps-cwdm"),
    "steps-cwdm-slab": printed("steps-cwdm-slab"),
    "steps-msg-ldm": printed("steps-msg-ldm"),
    "steps-dfbk": printed("steps-dfbk"),
    "ceiling-msg-ldm": printed("ceiling-msg-ldm"),
    "consistency": printed("consistency"),
    **{f"ablations-{method}": printed_once_it_is(f"ablations-{method}") for method in METHODS},
}


def table(lines: list[tuple[str, ...]]) -> str:
    """Markdown; the first line is the head."""
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


def renewed(page: str) -> str:
    """The page with every table made anew. Raises SystemExit for a table that nothing makes, or that has no place."""
    found = re.findall(r"<!-- begin (\S+) -->", page)
    if sorted(found) != sorted(TABLES):
        raise SystemExit(f"{PAGE}: tables {sorted(found)}, expected {sorted(TABLES)}")
    for name, make in TABLES.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, _, rest = page.partition(begin)
        _, closing, after = rest.partition(end)
        if not closing:
            raise SystemExit(f"{PAGE}: {end} is missing")
        page = f"{before}{begin}\n{make()}\n{end}{after}"
    return page


def main() -> None:
    """Renew the page, or check it."""
    before = PAGE.read_text(encoding="utf-8")
    after = renewed(before)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if after == before else f"{PAGE} is not what the result files say: run {sys.argv[0]}")
    PAGE.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
