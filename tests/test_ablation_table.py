"""The ablations: each run file changes what its name says, and the table has means over seeds, their spread, and the
difference from `full` seed by seed.
"""

from pathlib import Path

import pytest

from mrsynth.diffusion.samplers import levels_of
from mrsynth.methods import build_method
from mrsynth.scores.rows import Score, results_csv
from mrsynth.tasks.train.cards import sampling_of
from mrsynth.tasks.train.config import read_run_file
from runs.measure.ablation_table import cell, main, table

ABLATIONS = Path(__file__).resolve().parents[1] / "runs" / "ablations"
# The rows of each paper: variant -> what is other than in `full`, by dotted key.
ROWS = {
    "cwdm": {
        "skips-additive": {"network.skips": "additive"},
        "channels-8": {"network.width": 8},
        "channels-32": {"network.width": 32},
        "schedule-cosine": {"schedule": "cosine"},
        "steps-1000": {"steps": 1000},
        "steps-10": {"steps": 10},
        "steps-10-ddim": {"steps": 10, "sampler": "ddim"},
    },
    "fgc2f": {
        "no-guidance": {"freq.mode": "none"},
        "no-split": {"freq.mode": "plain"},
        "no-selection": {"freq.select": "fixed"},
        "no-curriculum": {"curriculum": "none"},
        "T-50": {"T": 50},
        "T-100": {"T": 100},
        "T-500": {"T": 500},
    },
    "msg-ldm": {
        "no-decoupling": {"structure.decouple": False},
        "no-hfib": {"structure.hfib": "none"},
        "no-msse": {"structure.msse": False},
        "no-sa": {"losses.w_sa": 0.0, "seg": "on", "structure.msse": False},
        "no-sc": {"losses.w_sc": 0.0},
    },
    "dfbk": {
        "none": {"dfb.mode": "off", "kg.mode": "off"},
        "dfb": {"kg.mode": "off"},
        "kg": {"dfb.mode": "off"},
        **{f"dfb-{n}": {"dfb.mode": m, "kg.mode": "off"} for n, m in (("low", "L"), ("high", "H"), ("plain", "plain"))},
        **{f"kg-{n}": {"kg.mode": m, "dfb.mode": "off"} for n, m in (("low", "L"), ("high", "H"), ("plain", "plain"))},
    },
}
FULL = {
    "cwdm": {"network.skips": "concat", "network.width": 16, "schedule": "linear", "T": 1000, "steps": 100},
    "fgc2f": {"freq.mode": "c2f", "freq.select": "dynamic", "curriculum": "cumulative", "T": 200},
    "msg-ldm": {"structure.decouple": True, "structure.hfib": "residual", "structure.msse": True},
    "dfbk": {"dfb.mode": "LH", "kg.mode": "LH"},
}


def read(method, variant):
    """The run file of a variant: options of the method by dotted key, and all that is no option of it but the name."""
    config = read_run_file(ABLATIONS / method / f"{variant}.yaml", method)
    rest = config.model_dump(exclude={"method", "name"})

    def flat(options, before=""):
        for key, value in options.items():
            yield from flat(value, f"{before}{key}.") if isinstance(value, dict) else [(before + key, value)]

    return dict(flat(config.method)), rest


@pytest.mark.parametrize(("method", "variant"), [(m, v) for m, rows in ROWS.items() for v in rows])
def test_a_row_of_a_paper_differs_from_full_in_what_it_says_and_in_nothing_else(method, variant):
    (full, training), (options, own_training) = read(method, "full"), read(method, variant)

    assert full.items() >= FULL[method].items() and own_training == training
    assert {key: value for key, value in options.items() if full[key] != value} == ROWS[method][variant]


@pytest.mark.parametrize("method", ROWS)
def test_what_is_no_row_of_a_paper_is_called_a_control(method):
    """So that one seed is enough for it; what trains nothing of its own shares the network of what it names."""
    files = {file.stem: file.read_text() for file in (ABLATIONS / method).glob("*.yaml")}

    assert {name for name, text in files.items() if not text.startswith("# Control")} == {"full", *ROWS[method]}
    for name, text in files.items():
        if "# weights: " in text:
            of = text.partition("# weights: ")[2].split()[0]
            (own, _), (theirs, _) = read(method, name), read(method, of)
            assert {key for key in own if own[key] != theirs[key]} <= {"steps", "sampler", "kg.swap"}


@pytest.mark.parametrize("variant", ["full", *ROWS["fgc2f"]])
def test_the_chain_that_is_judged_reaches_both_stages(variant):
    """In one step from the noisiest level the variants of the fine stage could not differ."""
    config = read_run_file(ABLATIONS / "fgc2f" / f"{variant}.yaml", "fgc2f").method
    method = build_method({**config, "network": {**config["network"], "width": 16}})
    said = sampling_of(method)
    visited = levels_of(said["sampler"], method.schedule, said["steps"])

    assert said["mode"] == "sample" and len(visited) == 20
    assert sum(level >= method.config.first_coarse for level in visited) == 10


def results(folder, file, values):
    """A results.csv like those of `mrsynth benchmark`: checkpoint -> PSNR of each of its rows."""
    same = {"pattern": "t1+t2", "target": "flair", "protocol": "brain3d", "region": "brain"}
    rows = [
        Score(**same, metric=metric, value=figure, weights=weights)
        for weights, figures in values.items()
        for figure in figures
        for metric in ("PSNR", "PSNR_FIT", "SSIM")
    ]
    (folder / file).write_text(results_csv(rows))
    return folder / file


def test_means_over_seeds_with_their_spread_and_paired_differences(tmp_path):
    files = [
        results(tmp_path, "1.csv", {"small-s1": [10.0, 12.0], "full-s1": [20.0, 22.0]}),
        results(tmp_path, "2.csv", {"small-s2": [13.0], "full-s2": [25.0]}),
    ]
    head, rule, full, small = table(files)

    assert head.split(" | ")[-1] == "PSNR - full |" and rule.count("|") == head.count("|")
    assert full.startswith("| full | 2 | 23.000 ± 2.828 |") and full.endswith("|  |")
    assert small.startswith("| small | 2 | 12.000 ± 1.414 |")
    assert small.endswith("| -11.000 ± 1.414 |")  # -10 and -12: the spread of the difference, not of the two


def test_what_is_kept_of_a_seed_makes_the_table_of_its_benchmark(tmp_path, monkeypatch, capsys):
    """Alone, and beside the benchmark of another seed."""
    first = results(tmp_path, "1.csv", {"small-s1": [10.0, 12.0], "full-s1": [20.0, 22.0]})
    second = results(tmp_path, "2.csv", {"small-s2": [13.0], "full-s2": [25.0]})
    monkeypatch.setattr("sys.argv", ["ablation_table.py", "--means", str(first)])
    main()
    kept = tmp_path / "kept.csv"
    kept.write_text(capsys.readouterr().out)

    full, small = kept.read_text().splitlines()[1:]
    assert full == "full,1,2,21.0000,21.0000,21.0000" and small == "small,1,2,11.0000,11.0000,11.0000"
    assert table([kept]) == table([first]) and table([kept, second]) == table([first, second])


def test_variants_that_are_means_over_other_cases_are_no_table(tmp_path):
    with pytest.raises(SystemExit, match=r"seed 1: the variants do not have the same cases: .*'small': 1"):
        table([results(tmp_path, "1.csv", {"small-s1": [10.0], "full-s1": [20.0, 22.0]})])


def test_a_seed_that_is_there_twice_is_no_table(tmp_path):
    """Nobody could say which of the two is meant."""
    twice = [results(tmp_path, name, {"full-s1": [20.0, 22.0]}) for name in ("1.csv", "2.csv")]
    with pytest.raises(SystemExit, match=r"2\.csv: full with seed 1 is in another of these files too"):
        table(twice)


def test_one_seed_has_no_spread_and_names_must_tell_the_seed(tmp_path):
    assert cell([1.0]) == "1.000" and cell([0.5], "+") == "+0.500"
    with pytest.raises(SystemExit, match="VARIANT-sSEED"):
        table([results(tmp_path, "1.csv", {"full": [1.0]})])
