"""Shapes of learning-rate schedules: the factor of the base rate at a step after the warmup.

None exceeds 1 or rises. `cosine` and `wsd` reach the final rate exactly at the last step; `wsd` falls during its last
decay·steps steps, but never before the warmup is over.
"""

import math
from typing import NamedTuple


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


def _left(at: Point, begin: float) -> float:
    """The share of the way from step `begin` to the last one that is left, from 1 to 0."""
    last = at.steps - 1
    return min(max((last - at.step) / (last - begin), 0.0), 1.0)


def _falling(at: Point, height: float) -> float:
    """The factor at a height between the final rate, 0, and the base rate, 1."""
    return min(at.final + (1 - at.final) * height, 1.0)
