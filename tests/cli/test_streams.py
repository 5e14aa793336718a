"""Names that are not in UTF-8, and streams that cannot show a name, are full, or closed: no work is lost to them."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrsynth.cli.app import main
from mrsynth.cli.console import Verbosity
from mrsynth.contrasts import Contrast

QUICK = ("--fast", "--no-self-check", "--no-progress")


class Full(io.BytesIO):
    """A stream behind which the disk is full."""

    def write(self, *_: Any) -> int:
        raise OSError(28, "No space left on device")


class Closed(io.BytesIO):
    """A pipe at whose other end nobody reads."""

    def write(self, *_: Any) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.fixture
def run_into(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, bytes]]:
    """run_into(stream, encoding, *arguments) -> (exit status, what reached the stream)."""

    def run(stream: io.BytesIO, encoding: str, *arguments: Any) -> tuple[int, bytes]:
        monkeypatch.setattr("sys.argv", ["mrsynth", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding))
        monkeypatch.setattr(Verbosity, "deaf", False)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), stream.getvalue()

    return run


@pytest.mark.parametrize("name", ["Müller 患者", os.fsdecode(b"M\xfcller"), "M\u0308"])
def test_a_folder_of_any_name_is_completed(
    tmp_path: Path,
    name: str,
    only_tiny: Path,
    no_pictures: None,
    write_subject_folder: Callable[..., Path],
    run_into: Callable[..., tuple[int, bytes]],
) -> None:
    """Also a name that is no UTF-8, into a stream that shows ASCII only; every JSON file is UTF-8."""
    folder = write_subject_folder(tmp_path, name, "free", without=[Contrast.T1CE])

    status, printed = run_into(io.BytesIO(), "ascii", "complete", folder, *QUICK)

    assert status == 0 and b"T1ce: " in printed and printed.isascii()
    for file in (folder / "mrsynth").glob("*.json"):
        assert json.loads(file.read_bytes().decode())
    report = json.loads((folder / "mrsynth" / "report.json").read_text(encoding="utf-8"))
    assert report["subject"] == os.fsencode(name).decode(errors="backslashreplace")


@pytest.fixture
def strange(tmp_path: Path, only_tiny: Path, write_subject_folder: Callable[..., Path]) -> Path:
    """A subject without T1ce whose name no stream but those of UTF-8 can show, where only the tiny checkpoint is."""
    return write_subject_folder(tmp_path, "Ångström 患者", "brats21", without=[Contrast.T1CE])


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "latin-1"])
@pytest.mark.parametrize("command", [("inspect",), ("complete", "--help")])
def test_any_stream_takes_what_is_printed(
    encoding: str, command: tuple[str, ...], strange: Path, run_into: Callable[..., tuple[int, bytes]]
) -> None:
    status, printed = run_into(io.BytesIO(), encoding, *command, *([strange] if command == ("inspect",) else []))
    assert status == 0 and printed.decode(encoding)
    if encoding != "utf-8" and command == ("inspect",):
        assert b"\\u60a3" in printed


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("command", ["inspect", "weights list", "weights show tiny", "benchmark --list", "doctor"])
def test_json_is_json_whatever_a_stream_can_show(
    encoding: str, command: str, strange: Path, run_into: Callable[..., tuple[int, bytes]]
) -> None:
    """An escape of Python's, \\xfc, is none of JSON's."""
    of_whom = [strange] if command == "inspect" else []
    status, printed = run_into(io.BytesIO(), encoding, *command.split(), "--json", *of_whom)
    content = json.loads(printed.decode("ascii"))
    assert status == 0 and content and (not of_whom or content["subject"] == strange.name)


@pytest.mark.parametrize("stream", [Full, Closed])
def test_results_are_there_though_nobody_could_be_told(
    tmp_path: Path,
    stream: type[io.BytesIO],
    only_tiny: Path,
    no_pictures: None,
    write_subject_folder: Callable[..., Path],
    run_into: Callable[..., tuple[int, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])
    status, _ = run_into(stream(), "utf-8", "complete", folder, *QUICK)
    err = capsys.readouterr().err
    assert status == 0 and (folder / "mrsynth" / "p1_t1ce.nii.gz").is_file()
    assert "Traceback" not in err and ("No space left" in err) == (stream is Full)


def test_a_name_that_is_never_written_may_be_too_long(
    tmp_path: Path,
    only_tiny: Path,
    no_pictures: None,
    write_subject_folder: Callable[..., Path],
    run_cli: Callable[..., tuple[int, str, str]],
) -> None:
    """`..._t1ce_spread.nii.gz` would have more bytes than a name can; no spread is asked for."""
    made = write_subject_folder(tmp_path, "p1", without=[Contrast.T1CE])
    long = "S" + "x" * 235
    for path in made.iterdir():
        path.rename(path.with_name(path.name.replace("p1", long)))

    status, _, err = run_cli("complete", made, *QUICK)

    assert status == 0, err
    assert (made / "mrsynth" / f"{long}_t1ce.nii.gz").is_file()
