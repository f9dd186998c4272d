"""Learning-rate schedules: functions of the step that multiply every group's base rate.

A run of `steps` steps makes its updates at steps 0 … steps − 1. The factor rises in a straight line to 1 at the last
step of the warmup (at step 0 without one), and after it is a function in `SCHEDULES`, which never exceeds 1, never
rises, and of `cosine` and `wsd` is the final rate exactly at step steps − 1 and from there on. `wsd` falls during its
last decay·steps steps, but never before the warmup is over.

A run that went on for longer than was planned has a joint where it stood: the past keeps the factors it had, and a
warmup from the last one, a stable phase at 1 and a decay as of `wsd` follow. Its factors are a function of the settings
alone, in which the joints are.

A new schedule is one function and one line in `SCHEDULES`; its name is then a value of `schedule.name`.
"""

from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from nanogrove.settings import Settings
from nanogrove.train.optim.names import NameIn
from nanogrove.train.optim.shapes import Point, constant, cosine, wsd

SCHEDULES: dict[str, Callable[[Point], float]] = {
    "cosine": cosine,
    "wsd": wsd,
    "constant": constant,
}


Joint = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Factor = Callable[[int], float]


class ScheduleConfig(Settings):
    """A linear warmup, then `cosine` to the final rate, `wsd` (stable, then a linear decay) or `constant`."""

    name: Annotated[str, NameIn(SCHEDULES)] = Field("cosine", description="shape of the learning rate over the run")
    warmup: int = Field(0, ge=0, description="steps of linear warmup")
    decay: float = Field(0.2, gt=0, le=1, description="wsd: share of the run spent decaying, at its end")
    final: float = Field(0.1, ge=0, le=1, description="last learning rate over the base rate; constant ignores it")
    steps: int | None = Field(None, ge=1, description="the last rate is that of this step; the run's last if null")
    joints: list[Joint] = Field(
        [], description="[step, planned] of each extension, which --schedule extend adds: where it began, of which end"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        steps = [step for step, _ in self.joints]
        if any(later <= earlier for earlier, later in pairwise(steps)) or any(at > end for at, end in self.joints):
            raise ValueError(f"joints are [step, planned], with steps that rise and are at most planned: {self.joints}")
        return self


def schedule(config: ScheduleConfig, end: int, start: int = 0) -> Factor:
    """The factor for each step of a run, or of a phase of it, from step `start` to before step `end`.

    Where the warmup leaves no step to fall in, or there is one step, the factor stays at 1 after the warmup.
    """
    joints = [joint for joint in config.joints if start < joint[0] < end]
    ends = [*(planned for _, planned in joints), end if config.steps is None else start + config.steps]
    begins, pieces = [start], [_planned(config, ends[0], start)]
    for (step, _), later in zip(joints, ends[1:], strict=True):
        pieces.append(_extension(config, later, step, pieces[-1](step - 1)))
        begins.append(step)
    return lambda step: pieces[max(bisect_right(begins, step) - 1, 0)](step)


def _planned(config: ScheduleConfig, end: int, start: int) -> Factor:
    """The factors from step `start` to before step `end`, without a joint."""
    steps = end - start
    peak, shape = max(config.warmup - 1, 0), SCHEDULES[config.name]

    def factor(step: int) -> float:
        step -= start
        if step < config.warmup:
            return (step + 1) / config.warmup
        if steps - 1 <= peak:
            return 1.0
        return shape(Point(step, peak, steps, config.decay, config.final))

    return factor


def _extension(config: ScheduleConfig, end: int, start: int, low: float) -> Factor:
    """The factors after a joint at step `start`, before which the factor was `low`."""
    stable = _planned(config.model_copy(update={"name": "wsd"}), end, start)

    def factor(step: int) -> float:
        warming = step - start < config.warmup
        return low + (1 - low) * stable(step) if warming else stable(step)

    return factor
