"""How often the statistics of the benchmark err: false alarms and coverage where there is no true difference.

usage: python -m runs.measure.false_alarms [--runs 40000] [--seed 0] [--only tests|means]

Prints the tables of docs/protocols.md, "How often it errs". Differences between two methods vary between persons with
deviation 1 and between the examinations of one person with 0.5. `lognormal`: what a method does for a person is
lognormal (deviation 1 of the logarithm), scaled to the same deviation. The first runs of every line are also made
with rows, by `paired_tests`, and must give the same.
"""

import argparse

import numpy as np

from mrsynth.plain import Doubles
from mrsynth.scores.inference import FEW, holm, interval, signed_rank, skewed_interval
from mrsynth.scores.rows import Score
from mrsynth.scores.statistics import PRIMARY, paired_tests

PERSONS, STUDIES = (3, 6, 10, 30), (1, 3, 6)
BETWEEN, WITHIN = 1.0, 0.5
LEVEL = 0.05
CHECKED = 3  # runs of each line
BCA_RUNS, BCA_RESAMPLES = 500, 999  # at most


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("tests", "means"))
    args = parser.parse_args()
    if args.only != "means":
        tests_table(np.random.default_rng(args.seed), args.runs)
        print()
    if args.only != "tests":
        means_table(np.random.default_rng([args.seed, 1]), args.runs)


def tests_table(random: np.random.Generator, runs: int) -> None:
    """False alarms and coverage of differences."""
    head = (
        *("scores", "persons", "examinations of each", "false alarms, two methods", "three methods", "coverage"),
        "false alarms if examinations counted",
    )
    print(line(head) + "\n" + "|---" * len(head) + "|")
    for kind in ("normal", "lognormal"):
        for persons in PERSONS:
            for studies in STUDIES:
                found = simulated(random, kind, persons, studies, runs)
                print(line((kind, persons, studies, *map(percent, found))), flush=True)


def means_table(random: np.random.Generator, runs: int) -> None:
    """Coverage of the mean of one method, and how wide its interval is."""
    head = ("mean of one method", "persons", "coverage", "of t", "of BCa", "width, t = 1")
    print(line(head) + "\n" + "|---" * len(head) + "|")
    for name, spread in (("normal", 0.0), ("lognormal, 0.5", 0.5), ("lognormal, 1", 1.0)):
        for persons in PERSONS[1:]:
            *found, width = means(random, spread, persons, runs)
            print(line((name, persons, *map(percent, found), f"{width:.2f}")), flush=True)


def simulated(
    random: np.random.Generator, kind: str, persons: int, studies: int, runs: int
) -> tuple[float | None, ...]:
    """Shares of runs: an alarm of two methods, of three, coverage, and an alarm where examinations are the unit."""
    alarms = np.zeros(4)
    for run in range(runs):
        scores = drawn(random, kind, 3, persons, studies)  # (methods, persons, studies)
        each = scores.mean(axis=2)
        pairs = [each[0] - each[1], each[0] - each[2], each[1] - each[2]]
        tests = [signed_rank(pair) if persons >= FEW else None for pair in pairs]
        low, high = interval(pairs[0])
        naive = signed_rank((scores[0] - scores[1]).ravel()) if persons * studies >= FEW else None
        alarms += [
            tests[0] is not None and tests[0] <= LEVEL,
            any(p is not None and p <= LEVEL for p in holm(tests)),
            low is not None and high is not None and low <= 0 <= high,
            naive is not None and naive <= LEVEL,
        ]
        if run < CHECKED:
            check(scores, tests, (low, high))
    two, three, covered, counted = (alarms / runs).tolist()
    return two, three, covered if persons >= FEW else None, counted


def drawn(random: np.random.Generator, kind: str, methods: int, persons: int, studies: int) -> Doubles:
    """Scores (methods, persons, studies) without any true difference between methods."""
    own = random.standard_normal((methods, persons, 1))
    if kind == "lognormal":
        own = standard_lognormal(own, 1.0)
    noise = random.standard_normal((methods, persons, studies))
    hard = 3 * random.standard_normal((1, persons, 1))
    scores: Doubles = 25 + hard + (BETWEEN * own + WITHIN * noise) / np.sqrt(2)
    return scores


def standard_lognormal(normal: Doubles, spread: float) -> Doubles:
    """Lognormal with mean 0 and deviation 1, `spread` that of the logarithm."""
    mean, variance = np.exp(spread**2 / 2), (np.exp(spread**2) - 1) * np.exp(spread**2)
    standard: Doubles = (np.exp(spread * normal) - mean) / np.sqrt(variance)
    return standard


def check(scores: Doubles, tests: list[float | None], ends: tuple[float | None, float | None]) -> None:
    """Raise AssertionError unless the benchmark says of these scores, as rows, what was found here."""
    protocol, region, metric = PRIMARY
    rows = [
        Score(
            pattern="t1", target="t2", protocol=protocol, region=region, metric=metric, value=float(value),
            subject=f"{person}-{study}", person=str(person), method=f"m{method}",
        )
        for (method, person, study), value in np.ndenumerate(scores)
    ]  # fmt: skip
    family = [test for test in paired_tests(rows) if test.primary]
    assert [test.p_holm for test in family] == holm(tests)
    assert [test.n for test in family] == [scores.shape[1]] * 3
    assert (family[0].low is None) == (ends[0] is None)
    if ends != (None, None):
        np.testing.assert_allclose(np.array([family[0].low, family[0].high], float), np.array(ends, float))


def means(random: np.random.Generator, spread: float, persons: int, runs: int) -> tuple[float, float, float, float]:
    """How often the interval of one method's mean holds the true one: the benchmark's, Student's t, and BCa.

    The last is the median width of the benchmark's, that of Student's t being 1.
    """
    from scipy.stats import bootstrap

    hits = np.zeros(3)
    widths = np.zeros(runs)
    for run in range(runs):
        values = random.standard_normal(persons)
        values = standard_lognormal(values, spread) if spread else values
        both = np.array([skewed_interval(values), interval(values)], float)  # (2, low and high)
        hits[:2] += (both[:, 0] <= 0) & (both[:, 1] >= 0)
        widths[run] = np.divide(*np.diff(both)[:, 0])
        if run < BCA_RUNS:
            found = bootstrap((values,), np.mean, n_resamples=BCA_RESAMPLES, method="BCa", rng=random)
            hits[2] += found.confidence_interval.low <= 0 <= found.confidence_interval.high
    ours, student, bca = (hits / (runs, runs, min(runs, BCA_RUNS))).tolist()
    return ours, student, bca, float(np.median(widths))


def line(cells: tuple[object, ...]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def percent(share: float | None) -> str:
    """With one decimal; a dash where there is none."""
    return "-" if share is None else f"{share:.1%}".replace("%", " %")


if __name__ == "__main__":
    main()
