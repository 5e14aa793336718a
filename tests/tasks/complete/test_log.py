"""`mrsynth.log` says when what was done, and nobody else can say it in its place."""

import logging
import re

from mrsynth.tasks.complete.log import run_log

LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:+]+ (INFO|WARNING) (.*)")


def test_each_stage_and_warning_is_one_entry():
    with run_log("mrsynth: complete") as log:
        watch = log.watching(None)
        for what in ("reading", "reading", "writing"):
            watch(what, 0, 1)
        logging.getLogger("mrsynth.scans").warning("dust")
        logging.getLogger("mrsynth.scans").info("not so important")
    logging.getLogger("mrsynth").warning("too late")

    found = [LINE.fullmatch(line).groups() for line in log.text.splitlines()]
    assert found == [("INFO", "mrsynth: complete"), ("INFO", "reading"), ("INFO", "writing"), ("WARNING", "dust")]


def test_no_name_of_a_file_begins_a_line_or_moves_a_cursor():
    with run_log() as log:
        log.note("a\n2026-01-01T00:00:00+00:00 INFO done\x1b[2J\rb.nii.gz")

    first, second = log.text.splitlines()
    assert first.endswith("INFO a") and second == r"  2026-01-01T00:00:00+00:00 INFO done\x1b[2J\rb.nii.gz"
