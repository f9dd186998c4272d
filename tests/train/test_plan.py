"""A phase of a plan has a schedule of its own, or goes on with the plan's."""

from functools import partial

import pytest
import torch

from nanogrove.train.optim.schedule import ScheduleConfig, schedule
from nanogrove.train.plan import Plan

CONFIG = ScheduleConfig(name="cosine", warmup=2, final=0.1)


def plan(steps: int = 20) -> Plan:
    return Plan(seed=0, steps=steps, lr_factor=schedule(CONFIG, steps), schedule=partial(schedule, CONFIG))


def test_a_phase_begins_its_schedule_anew_and_scales_it() -> None:
    phase = plan().phase(5, 12, 0.3)
    alone = schedule(CONFIG, 7)
    assert phase.steps == 12
    assert [phase.lr_factor(step) for step in range(5, 12)] == [0.3 * alone(step) for step in range(7)]
    assert phase.evaluates(12)


def test_a_phase_from_the_start_is_a_run_of_as_many_steps() -> None:
    phase, run = plan().phase(0, 8), plan(8)
    assert [phase.lr_factor(step) for step in range(8)] == [run.lr_factor(step) for step in range(8)]
    assert plan().phase(0, 0).steps == 0


@pytest.mark.parametrize("scale", [1.0, 0.5, torch.tensor([1.0, 2.0])])
def test_until_keeps_the_schedule_of_the_plan(scale: float | torch.Tensor) -> None:
    whole = plan()
    part = whole.until(6, scale)
    assert part.steps == 6
    for step in range(6):
        expected = scale * torch.as_tensor(whole.lr_factor(step))
        assert torch.equal(torch.as_tensor(part.lr_factor(step)), expected)


def test_a_plan_without_a_run_folder_has_no_rows() -> None:
    assert plan().rows.read_rows("round-1", dict, print, None) == []
