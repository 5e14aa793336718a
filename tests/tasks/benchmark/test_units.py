"""What a benchmark has finished: kept exactly, and never mixed with another benchmark's."""

import json
import math

import pytest
import yaml

from mrsynth.errors import InputError, UsageError
from mrsynth.scores.rows import COLUMNS, SCHEMA, ResultRow, read_results, results_csv
from mrsynth.tasks.benchmark.units import Unit, UnitStore

SETTINGS = {"dataset": "folder", "seed": 0, "protocols": ("brain3d",)}


def row(value=20.5, **changes):
    facts = {
        "dataset": "folder", "split": "test@0", "subject": "a, b", "method": "cwdm", "weights": "w", "pattern": "t1+t2",
        "target": "t1ce", "protocol": "brain3d", "region": "brain", "metric": "PSNR", "value": value, "seconds": 1 / 3,
    }  # fmt: skip
    return ResultRow(**{**facts, **changes})


UNIT = Unit("a, b", "cwdm", "t1+t2:t1ce")


def test_finished_work_comes_back_exactly(tmp_path):
    rows = [row(0.1 + 0.2), row(float("inf")), row(seconds=None, steps=4)]
    store = UnitStore(tmp_path, SETTINGS, resume=False)
    assert store.rows(UNIT) is None
    store.finish(UNIT, rows)
    assert store.rows(UNIT) == rows
    assert UnitStore(tmp_path, SETTINGS, resume=True).rows(UNIT) == rows
    json.loads(next((tmp_path / "units").iterdir()).read_text(), parse_constant=pytest.fail)


def test_units_never_share_a_file():
    units = [Unit("a/b", "m", "c"), Unit("a_b", "m", "c"), Unit("a", "b_m", "c"), Unit("ä" * 300, "m", "c")]
    names = {unit.filename for unit in units}
    assert len(names) == len(units)
    assert all("/" not in name and len(name.encode()) < 120 for name in names)


def test_a_folder_with_a_benchmark_is_not_overwritten_by_chance(tmp_path):
    UnitStore(tmp_path, SETTINGS, resume=False)
    with pytest.raises(UsageError, match="already holds a benchmark"):
        UnitStore(tmp_path, SETTINGS, resume=False)


def test_another_setting_is_refused_and_named(tmp_path):
    UnitStore(tmp_path, SETTINGS, resume=False)
    with pytest.raises(UsageError, match="seed was 0, now 7"):
        UnitStore(tmp_path, {**SETTINGS, "seed": 7}, resume=True)


def test_results_of_an_older_schema_are_counted_and_made_again(tmp_path):
    store = UnitStore(tmp_path, SETTINGS, resume=False)
    store.finish(UNIT, [row()])
    (file,) = (tmp_path / "units").iterdir()
    file.write_text(json.dumps({"schema": SCHEMA - 1, "rows": [{"what": 1}]}))
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump({"schema": SCHEMA - 1, "old": True}))
    store = UnitStore(tmp_path, SETTINGS, resume=True)
    assert store.rows(UNIT) is None
    assert store.outdated == 1
    store.finish(UNIT, [row()])
    assert store.rows(UNIT) == [row()]


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1}', '{"schema": 1, "rows": [{"subject": "a"}]}', "[]"])
def test_a_damaged_unit_is_done_again(tmp_path, text, caplog):
    store = UnitStore(tmp_path, SETTINGS, resume=False)
    store.finish(UNIT, [row()])
    (file,) = (tmp_path / "units").iterdir()
    file.write_text(text)
    assert store.rows(UNIT) is None
    assert "done again" in caplog.text


# The table -----------------------------------------------------------------------------------------------------------


def test_the_table_round_trips():
    rows = [row(), row(float("inf"), subject='quote " comma , newline \n'), row(seconds=None, peak_memory_mb=12.25)]
    text = results_csv(rows)
    assert read_results(text, "x") == rows
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert math.isinf(read_results(text, "x")[1].value)


def test_a_table_of_another_version_or_damaged_is_refused_with_its_place():
    with pytest.raises(InputError, match=r"run\.csv: expected a table .* found subject, score"):
        read_results("subject,score\na,1\n", "run.csv")
    text = results_csv([row(), row(1.5)]).replace("1.5", "bright")
    with pytest.raises(InputError, match=r"run\.csv, line 3: value"):
        read_results(text, "run.csv")
    with pytest.raises(InputError, match="found nothing"):
        read_results("", "run.csv")
