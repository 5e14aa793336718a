"""Who comes first, and how sure that is: ranks within each case, over persons drawn anew."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrsynth.plain import Doubles
from mrsynth.scores.inference import FEW
from mrsynth.scores.rows import Score
from mrsynth.scores.statistics import Kind, examination_of, goodness, person_of

RESAMPLES = 4000


class Rank(NamedTuple):
    """The place of one method among all that tried the same patterns and targets.

    mean    rank, 1 the best; within a case, then over a person's cases, then over persons; equal scores share a rank
    first   the share of draws of as many persons, with repetition, in which its mean rank is the best; None with fewer
            than FEW persons
    losses  cases it has no score of, which count as the last rank
    """

    method: str
    mean: float
    first: float | None
    losses: int
    cases: int
    persons: int


def ranks(rows: Sequence[Score], kind: Kind, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Rank]:
    """The methods from first to last, by one figure, over the patterns and targets that all of them tried.

    kind  protocol, region and metric
    Empty where there are not two methods or no pattern and target that all tried.
    """
    own = [row for row in rows if (row.protocol, row.region, row.metric) == kind]
    methods = list(dict.fromkeys(row.method for row in own))
    tried = {m: {(row.pattern, row.target) for row in own if row.method == m} for m in methods}
    common = set.intersection(*tried.values()) if len(methods) > 1 else set()
    good: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    persons: dict[str, str] = {}
    for row in own:
        if (row.pattern, row.target) in common and not np.isnan(row.value):
            case = (examination_of(row), row.pattern, row.target)
            persons[case[0]] = person_of(row)
            good.setdefault(case, {}).setdefault(row.method, []).append(goodness(row.metric, row.value))
    if not good:
        return []
    lost = {m: sum(m not in by for by in good.values()) for m in methods}
    by_person: dict[str, list[Doubles]] = {}
    for case, by in good.items():
        values = np.array([float(np.mean(by[m])) if m in by else np.nan for m in methods])
        by_person.setdefault(persons[case[0]], []).append(_ranked(values))
    table = np.array([np.mean(by_person[name], axis=0) for name in sorted(by_person)])  # (persons, methods)
    first = _first(table, resamples, seed) if len(table) >= FEW else None
    found = [
        Rank(m, float(table[:, i].mean()), None if first is None else float(first[i]), lost[m], len(good), len(table))
        for i, m in enumerate(methods)
    ]
    return sorted(found, key=lambda rank: rank.mean)


def _ranked(good: Doubles) -> Doubles:
    """(M,) ranks of (M,) goodness, 1 for the largest, the mean rank for equal ones; what is missing comes last."""
    value = np.where(np.isnan(good), -np.inf, good)
    missing = np.isnan(good)
    ahead = (value[:, None] < value) | (missing[:, None] & ~missing)
    alike = (value[:, None] == value) & (missing[:, None] == missing)
    ranked: Doubles = ahead.sum(1) + (alike.sum(1) + 1) / 2
    return ranked


def _first(table: Doubles, resamples: int, seed: int) -> Doubles:
    """(M,) how often each method has the least mean rank; those that share it share the draw."""
    n = len(table)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    means = weights @ table / n
    best = means <= means.min(axis=1, keepdims=True) + 1e-9
    shares: Doubles = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares
