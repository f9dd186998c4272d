"""The line of a wait, for a terminal alone."""

import io
import time

import pytest
from rich.console import Console

from nanogrove.cli import waits
from nanogrove.waits import Progress, waiting


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress("scoring", 40, 10, 0.0), "scoring: 25%, 0:30 left"),
        (Progress("scoring", 40, 40, 0.0), "scoring: 100%, 0:00 left"),
        (Progress("scoring", 40, 50, 0.0), "scoring: 0:10 so far"),
        (Progress("looking", None, 3, 0.0), "looking: 0:10 so far"),
        (Progress("scoring", 4000, 4, 0.0), "scoring: 0%, 2:46:30 left"),
        (Progress("\x1b[2J", None, 0, 0.0), "\\x1b[2J: 0:10 so far"),
    ],
)
def test_a_line_says_what_is_waited_for_and_how_long(
    monkeypatch: pytest.MonkeyPatch, progress: Progress, line: str
) -> None:
    monkeypatch.setattr("nanogrove.waits.time.monotonic", lambda: 10.0)
    assert waits.described(progress) == line


@pytest.mark.parametrize("terminal", [True, False])
def test_the_line_is_on_standard_error_of_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    file = io.StringIO()
    monkeypatch.setattr(waits, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(waits, "REFRESHES_PER_SECOND", 200)
    monkeypatch.setattr(
        waits,
        "Console",
        lambda stderr: Console(file=file, force_terminal=terminal, width=60, _environ={"TERM": "xterm"}),
    )
    with waits.shown_waits("starting"), waiting("scoring", 4) as progress:
        progress.done = 2
        deadline = time.monotonic() + 2
        while terminal and "scoring: 50%" not in file.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ("scoring: 50%" in file.getvalue()) is terminal
    assert bool(file.getvalue()) is terminal
