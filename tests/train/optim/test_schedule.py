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


def test_a_joint_keeps_the_past_of_its_phase_and_goes_on_as_wsd() -> None:
    joined = ScheduleConfig(name="cosine", warmup=2, decay=0.5, final=0.2, joints=[(4, 9), (20, 30), (33, 40)])
    plain = joined.model_copy(update={"joints": []})
    phase, planned = schedule(joined, 60, 10), [schedule(plain, end, 10) for end in (30, 60)]
    assert [phase(step) for step in range(10, 20)] == [planned[0](step) for step in range(10, 20)]
    low = planned[0](19)
    assert [phase(step) for step in range(20, 24)] == pytest.approx([low + (1 - low) / 2, 1, 1, 1])
    low = phase(32)
    assert [phase(step) for step in (33, 34, 45, 59)] == pytest.approx([low + (1 - low) / 2, 1, 1, 0.2])
    ended = joined.model_copy(update={"steps": 50})  # as that of one model by the schedule of a population
    assert [schedule(ended, 30, 10)(step) for step in range(10, 30)] == [phase(step) for step in range(10, 30)]
    assert [schedule(joined, 4)(step) for step in range(4)] == [schedule(plain, 4)(step) for step in range(4)]


@pytest.mark.parametrize("joints", [[[5, 4]], [[5, 9], [5, 9]]])
def test_joints_rise_and_are_at_most_what_was_planned(tiny: Any, joints: Any) -> None:
    with pytest.raises(PresetError, match="joints are"):
        resolve(tiny(schedule={"joints": joints}))
