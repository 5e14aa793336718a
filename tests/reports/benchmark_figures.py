"""Rows of benchmarks that the tests of tables, plots and pages share."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from mrsynth.contrasts import STANDARD, pattern_name, patterns
from mrsynth.reports.elements import Number
from mrsynth.reports.sections import Table
from mrsynth.scores.rows import Score

NASTY = "a|b <script>x</script> & \"c\" 'd'</td> [l](http://x) `q` *s* $m$ 漢"
BASE: dict[str, Any] = {"dataset": "brats21", "split": "test@0000000a", "pattern": "t1+t2+flair", "target": "t1ce"}
BASE |= {"protocol": "full3d", "region": "volume", "metric": "PSNR", "method": "fgc2f"}


def column(values: Iterable[float], **more: Any) -> list[Score]:
    """A score for each of the subjects s00, s01, ...; by default of fgc2f, T1ce from the others."""
    return [Score(**BASE | more | {"subject": f"s{i:02}", "value": float(v)}) for i, v in enumerate(values)]


def every_pattern(subjects: int = 2) -> list[Score]:
    """fgc2f and both baselines on all 14 patterns, cwdm on the four with one missing."""
    rng, rows = np.random.default_rng(0), list[Score]()
    for given in patterns():
        for target in (c for c in STANDARD if c not in given):
            for method in ("copy", "fgc2f", "cwdm", "regression"):
                if method != "cwdm" or len(given) == 3:
                    place = {"pattern": pattern_name(given), "target": target.value, "method": method}
                    rows += column(rng.normal(20, 2, subjects), **place)
                    rows += column(rng.uniform(0.7, 0.9, subjects), metric="SSIM", **place)
    return rows


def texts(table: Table | None) -> list[list[str | float]]:
    """Cells as printed, the best ones with a star."""
    assert table is not None
    return [
        [("" if c is None else f"{'*' * c.best}{c.text}" if isinstance(c, Number) else c) for c in row]
        for row in table.rows
    ]
