"""What a benchmark has finished: kept exactly, and never mixed with another benchmark's."""

import json
import math

import pytest
import yaml

from mrsynth.errors import InputError, UsageError
from mrsynth.scores.rows import COLUMNS, SCHEMA, Score, read_results, results_csv
from mrsynth.tasks.benchmark.pieces import Piece, PieceStore

SETTINGS = {"dataset": "folder", "seed": 0, "protocols": ("brain3d",)}


def row(value=20.5, **changes):
    facts = {
        "dataset": "folder", "split": "test@0", "subject": "a, b", "method": "cwdm", "weights": "w", "pattern": "t1+t2",
        "target": "t1ce", "protocol": "brain3d", "region": "brain", "metric": "PSNR", "value": value, "seconds": 1 / 3,
    }  # fmt: skip
    return Score(**{**facts, **changes})


PIECE = Piece("a, b", "cwdm", "t1+t2:t1ce")


def test_finished_work_comes_back_exactly(tmp_path):
    rows = [row(0.1 + 0.2), row(float("inf")), row(seconds=None, steps=4)]
    store = PieceStore(tmp_path, SETTINGS, resume=False)
    assert store.rows(PIECE) is None
    store.finish(PIECE, rows)
    assert store.rows(PIECE) == rows
    assert PieceStore(tmp_path, SETTINGS, resume=True).rows(PIECE) == rows
    json.loads(next((tmp_path / "pieces").iterdir()).read_text(), parse_constant=pytest.fail)


def test_pieces_never_share_a_file():
    pieces = [Piece("a/b", "m", "c"), Piece("a_b", "m", "c"), Piece("a", "b_m", "c"), Piece("ä" * 300, "m", "c")]
    names = {piece.filename for piece in pieces}
    assert len(names) == len(pieces)
    assert all("/" not in name and len(name.encode()) < 120 for name in names)


def test_a_folder_with_a_benchmark_is_not_overwritten_by_chance(tmp_path):
    PieceStore(tmp_path, SETTINGS, resume=False)
    with pytest.raises(UsageError, match="already holds a benchmark"):
        PieceStore(tmp_path, SETTINGS, resume=False)


def test_another_setting_is_refused_and_named(tmp_path):
    PieceStore(tmp_path, SETTINGS, resume=False)
    with pytest.raises(UsageError, match="seed was 0, now 7"):
        PieceStore(tmp_path, {**SETTINGS, "seed": 7}, resume=True)


def test_results_of_an_older_schema_are_counted_and_made_again(tmp_path):
    store = PieceStore(tmp_path, SETTINGS, resume=False)
    store.finish(PIECE, [row()])
    (file,) = (tmp_path / "pieces").iterdir()
    file.write_text(json.dumps({"schema": SCHEMA - 1, "rows": [{"what": 1}]}))
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump({"schema": SCHEMA - 1, "old": True}))
    store = PieceStore(tmp_path, SETTINGS, resume=True)
    assert store.rows(PIECE) is None
    assert store.outdated == 1
    store.finish(PIECE, [row()])
    assert store.rows(PIECE) == [row()]


@pytest.mark.parametrize(
    "text", ["", "{", f'{{"schema": {SCHEMA}}}', f'{{"schema": {SCHEMA}, "rows": [{{"subject": "a"}}]}}', "[]"]
)
def test_a_damaged_piece_is_done_again(tmp_path, text, caplog):
    store = PieceStore(tmp_path, SETTINGS, resume=False)
    store.finish(PIECE, [row()])
    (file,) = (tmp_path / "pieces").iterdir()
    file.write_text(text)
    assert store.rows(PIECE) is None
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


@pytest.mark.parametrize("more", [",1,2", '"'])
def test_a_row_that_is_cut_off_or_too_long_is_named_with_its_line(more):
    text = results_csv([row(), row(1.5)])
    with pytest.raises(InputError, match=r"run\.csv, line 3: .*damaged"):
        read_results(text.rstrip("\n") + more, "run.csv")
    with pytest.raises(InputError, match=r"run\.csv, line \d: .*damaged"):
        read_results(text.rsplit(",", 3)[0], "run.csv")
    with pytest.raises(InputError, match="field larger than field limit"):
        read_results(text + "x" * 2**18, "run.csv")
