"""Learning-rate schedules: functions of the step that multiply every group's base rate.

A run of `steps` steps makes its updates at steps 0 … steps − 1. The factor rises in a straight line to 1 at the last
step of the warmup (at step 0 without one), never exceeds it, never rises again, and is the final rate exactly at step
steps − 1 and from there on. `wsd` falls during its last decay·steps steps, but never before the warmup is over.
"""

import math
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ScheduleConfig(BaseModel):
    """A linear warmup, then `cosine` to the final rate, `wsd` (stable, then a linear decay) or `constant`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: int = Field(0, ge=0, description="steps of linear warmup")
    decay: float = Field(0.2, gt=0, le=1, description="wsd: share of the run spent decaying, at its end")
    final: float = Field(0.1, ge=0, le=1, description="last rate over the base rate; constant ignores it")
    steps: int | None = Field(None, ge=1, description="the last rate is that of this step; the run's last if null")


def schedule(config: ScheduleConfig, steps: int) -> Callable[[int], float]:
    """The factor for step 0, 1, … of a run of `steps` steps.

    Where the warmup leaves no step to fall in, or the run has one step, the factor stays at 1 after the warmup.
    """
    steps = config.steps or steps
    peak, last = max(config.warmup - 1, 0), steps - 1
    begin = max(last - config.decay * steps, peak) if config.name == "wsd" else peak

    def factor(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / config.warmup
        if config.name == "constant" or last <= peak:
            return 1.0
        left = min(max((last - step) / (last - begin), 0.0), 1.0)
        height = left if config.name == "wsd" else 0.5 * (1 - math.cos(math.pi * left))
        return min(config.final + (1 - config.final) * height, 1.0)

    return factor
