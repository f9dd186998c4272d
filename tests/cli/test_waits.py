"""A long wait is a line now and then; a short one is nothing."""

import io

import pytest
from rich.console import Console

from nanogrove.cli import waits
from nanogrove.cli.waits import WaitLines
from nanogrove.waits import Wait


def test_lines_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    written, clock = io.StringIO(), [100.0]
    monkeypatch.setattr(waits.time, "monotonic", lambda: clock[0])
    watch = WaitLines(Console(file=written, width=200))
    for seconds, wait in (
        (0.0, Wait("tokenising [my].txt", 0.0)),
        (0.9, Wait("tokenising [my].txt", 0.1)),
        (0.6, Wait("tokenising [my].txt", 0.25)),
        (1.0, Wait("tokenising [my].txt", 0.3)),
        (5.5, Wait("tokenising [my].txt", 0.8)),
        (9.0, Wait("reading b\x1b[31m", None)),
        (2.0, Wait("reading b\x1b[31m", None)),
    ):
        clock[0] += seconds
        watch(wait)
    assert written.getvalue().split("\n") == [
        "tokenising [my].txt: 25%, about 4 s left",
        "tokenising [my].txt: 80%, about 2 s left",
        "reading b\\x1b[31m: 2 s so far",
        "",
    ]
