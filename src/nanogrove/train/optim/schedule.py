"""Learning-rate schedules: functions of the step that multiply every group's base rate.

A run of `steps` steps makes its updates at steps 0 … steps − 1. The factor rises in a straight line to 1 at the last
step of the warmup (at step 0 without one), and after it is a function in `SCHEDULES`, which never exceeds 1, never
rises, and of `cosine` and `wsd` is the final rate exactly at step steps − 1 and from there on. `wsd` falls during its
last decay·steps steps, but never before the warmup is over.

A new schedule is one function and one line in `SCHEDULES`; its name is then a value of `schedule.name`.
"""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from nanogrove.train.optim.names import NameIn


class Point(NamedTuple):
    """A step after the warmup, with at least one step to fall in, and what a schedule may depend on there."""

    step: int
    peak: int  # the last step of the warmup
    steps: int  # of the run
    decay: float  # settings of `ScheduleConfig`
    final: float


def cosine(at: Point) -> float:
    """Half a cosine from the peak to the last step."""
    return _falling(at, 0.5 * (1 - math.cos(math.pi * _left(at, at.peak))))


def wsd(at: Point) -> float:
    """Stable at 1, then a straight line (Hu 2024, arXiv 2404.06395)."""
    return _falling(at, _left(at, max(at.steps - 1 - at.decay * at.steps, at.peak)))


def constant(at: Point) -> float:
    """1 to the end."""
    return 1.0


SCHEDULES: dict[str, Callable[[Point], float]] = {
    "cosine": cosine,
    "wsd": wsd,
    "constant": constant,
}


def _left(at: Point, begin: float) -> float:
    """The share of the way from step `begin` to the last one that is left, from 1 to 0."""
    last = at.steps - 1
    return min(max((last - at.step) / (last - begin), 0.0), 1.0)


def _falling(at: Point, height: float) -> float:
    """The factor at a height between the final rate, 0, and the base rate, 1."""
    return min(at.final + (1 - at.final) * height, 1.0)


class ScheduleConfig(BaseModel):
    """A linear warmup, then `cosine` to the final rate, `wsd` (stable, then a linear decay) or `constant`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, NameIn(SCHEDULES)] = Field("cosine", description="shape of the learning rate over the run")
    warmup: int = Field(0, ge=0, description="steps of linear warmup")
    decay: float = Field(0.2, gt=0, le=1, description="wsd: share of the run spent decaying, at its end")
    final: float = Field(0.1, ge=0, le=1, description="last rate over the base rate; constant ignores it")
    steps: int | None = Field(None, ge=1, description="the last rate is that of this step; the run's last if null")


def schedule(config: ScheduleConfig, steps: int) -> Callable[[int], float]:
    """The factor for step 0, 1, … of a run of `steps` steps.

    Where the warmup leaves no step to fall in, or the run has one step, the factor stays at 1 after the warmup.
    """
    steps = config.steps or steps
    peak, shape = max(config.warmup - 1, 0), SCHEDULES[config.name]

    def factor(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / config.warmup
        if steps - 1 <= peak:
            return 1.0
        return shape(Point(step, peak, steps, config.decay, config.final))

    return factor
