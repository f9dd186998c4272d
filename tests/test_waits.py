"""A wait is seen while it lasts, and the time that is left follows from the pace so far."""

from contextlib import suppress

import pytest

from nanogrove.waits import Progress, current_progress, waiting


def test_a_wait_lasts_as_long_as_its_block() -> None:
    assert current_progress() is None
    with waiting("reading") as wait:
        assert current_progress() is wait
    assert current_progress() is None
    with suppress(KeyboardInterrupt), waiting("reading"):
        raise KeyboardInterrupt
    assert current_progress() is None


def test_the_outermost_wait_of_a_known_size_is_shown_or_else_the_innermost() -> None:
    with waiting("starting"), waiting("looking") as looking:
        assert current_progress() is looking
        with waiting("scoring", 4) as scoring, waiting("writing", 9):
            assert current_progress() is scoring
        assert current_progress() is looking
        assert current_progress(least_seconds=60) is None
        looking.over = True
        assert current_progress() is not looking


def test_the_time_left_is_known_once_something_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogrove.waits.time.monotonic", lambda: 30.0)
    wait = Progress("scoring", total=40, start=20.0)
    assert wait.seconds_left() is None
    wait.done = 10
    assert wait.seconds_left() == 30
    wait.done = 40
    assert wait.seconds_left() == 0
    wait.done = 50
    assert wait.seconds_left() is None
    assert Progress("looking", done=3, start=20.0).seconds_left() is None
