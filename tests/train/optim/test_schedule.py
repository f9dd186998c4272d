"""A new schedule is one function and one line."""

from collections.abc import Callable
from typing import Any

import pytest

from nanogrove.config.overrides import resolve
from nanogrove.errors import PresetError
from nanogrove.train.optim.schedule import SCHEDULES, ScheduleConfig, schedule
from nanogrove.train.optim.shapes import Point


def inverse_root(at: Point) -> float:
    """The schedule of Vaswani 2017, equation 3."""
    return ((at.peak + 1) / (at.step + 1)) ** 0.5


def test_a_new_schedule_follows_its_warmup(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PresetError, match="must be 'cosine', 'wsd' or 'constant', and 'root' was given"):
        resolve(tiny(), ["schedule.name=root"])
    monkeypatch.setitem(SCHEDULES, "root", inverse_root)
    config = resolve(tiny(), ["schedule.name=root", "schedule.warmup=4"]).schedule
    factor: Callable[[int], float] = schedule(config, 100)
    assert [factor(step) for step in (0, 3, 15, 99)] == pytest.approx([0.25, 1.0, 0.5, 0.2])


def test_a_schedule_is_asked_only_where_there_is_a_step_to_fall_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "none", lambda at: 1 / (at.steps - 1 - at.peak))
    factor = schedule(ScheduleConfig(name="none", warmup=5), 5)
    assert [factor(step) for step in range(4, 8)] == [1.0] * 4
