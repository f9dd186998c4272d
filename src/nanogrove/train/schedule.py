"""Learning-rate schedules: functions of the step that multiply every group's base rate."""

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
    steps: int | None = Field(None, ge=1, description="step at which the last rate is reached; the run's last if null")


def schedule(config: ScheduleConfig, steps: int) -> Callable[[int], float]:
    """The factor for step 0, 1, … of a run of `steps` steps; behind the last step it stays at the last value."""
    steps = config.steps or steps

    def factor(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / config.warmup
        if config.name == "cosine":
            done = min((step - config.warmup) / max(steps - config.warmup, 1), 1.0)
            return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * done))
        if config.name == "wsd":
            left = max(steps - step, 0) / (config.decay * steps)
            return min(1.0, config.final + (1 - config.final) * left)
        return 1.0

    return factor
