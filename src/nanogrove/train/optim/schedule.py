"""Learning-rate schedules: functions of the step that multiply every group's base rate.

A run of `steps` steps makes its updates at steps 0 … steps − 1. The factor rises in a straight line to 1 at the last
step of the warmup (at step 0 without one), and after it is a function in `SCHEDULES`, which never exceeds 1, never
rises, and of `cosine` and `wsd` is the final rate exactly at step steps − 1 and from there on. `wsd` falls during its
last decay·steps steps, but never before the warmup is over.

A new schedule is one function and one line in `SCHEDULES`; its name is then a value of `schedule.name`.
"""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from nanogrove.settings import Settings
from nanogrove.train.optim.names import NameIn
from nanogrove.train.optim.shapes import Point, constant, cosine, wsd

SCHEDULES: dict[str, Callable[[Point], float]] = {
    "cosine": cosine,
    "wsd": wsd,
    "constant": constant,
}


class ScheduleConfig(Settings):
    """A linear warmup, then `cosine` to the final rate, `wsd` (stable, then a linear decay) or `constant`."""

    name: Annotated[str, NameIn(SCHEDULES)] = Field("cosine", description="shape of the learning rate over the run")
    warmup: int = Field(0, ge=0, description="steps of linear warmup")
    decay: float = Field(0.2, gt=0, le=1, description="wsd: share of the run spent decaying, at its end")
    final: float = Field(0.1, ge=0, le=1, description="last learning rate over the base rate; constant ignores it")
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
