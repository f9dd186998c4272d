"""What a regret study came to: the points of all runs by seed, and what they are compared with."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nanogrove.settings import Settings
from nanogrove.studies.regret.measured import Point
from nanogrove.studies.regret.settings import RegretSettings
from nanogrove.studies.statistics import t_interval

LEVEL = 0.05  # of intervals


class SeedFindings(Settings):
    """What is exact about a seed: `excess` KL(grammar ‖ μ), `short` the mass of texts that end early, J* as `value`."""

    excess: float
    short: float
    value: float
    base: Point
    optimum: Point
    best_of: list[Point]
    steered: list[Point]
    frontier: list[tuple[float, float]]


class MethodFindings(Settings):
    """A method: its learning rate, the mean regret of each trial, that of what it aims at, and its points by seed.

    A trial that diverged has no regret.
    """

    name: str
    title: str
    rate: float
    trials: dict[float, float | None]
    ideal: float | None
    points: list[list[Point]]

    def at(self, texts: int) -> list[Point]:
        """The points after so many scored texts, of each seed that came so far."""
        return [each for points in self.points for each in points if each.texts == texts]


class Findings(Settings):
    """All that the page shows."""

    settings: RegretSettings
    machine: dict[str, Any]
    seeds: list[SeedFindings]
    methods: list[MethodFindings]


class Spread(Settings):
    """A figure of several seeds: its mean with a t interval of 95 %, its median and quartiles."""

    mean: float
    low: float | None
    high: float | None
    lower: float
    median: float
    upper: float


def spread(figures: Sequence[float]) -> Spread:
    """The spread of one figure of each seed, at least one; one alone has no interval."""
    low, high = (end if math.isfinite(end) else None for end in t_interval(figures, LEVEL))
    lower, median, upper = (float(each) for each in np.quantile(figures, [0.25, 0.5, 0.75]))
    return Spread(mean=float(np.mean(figures)), low=low, high=high, lower=lower, median=median, upper=upper)


def best(points: Sequence[Sequence[Point]]) -> list[Point]:
    """Of decoding, whose seeds all have the same strengths, the points of that of the least mean regret."""
    by_strength = [list(group) for group in zip(*points, strict=True)]
    return min(by_strength, key=mean_regret)


def lines(findings: Findings) -> Iterator[str]:
    """What a study came to, in words: the base, then a line for each method, the least regret first."""
    base, scored = spread([seed.base.regret for seed in findings.seeds]), findings.settings.scored
    yield f"base: regret {base.mean:.3f} nats; the optimum has none"
    ends = [(method.title, method.at(scored)) for method in findings.methods]
    for title, points in sorted(ends, key=lambda each: mean_regret(each[1])):
        yield f"{title}: {described(points)} after {scored:,} scored texts" if points else f"{title}: diverged"
    for title, by_seed in decoders(findings):
        points = best(by_seed)
        yield f"{title} {points[0].strength:g}: {described(points)}, {points[0].texts} scored per text"


def decoders(findings: Findings) -> list[tuple[str, list[list[Point]]]]:
    """What trains nothing, by what its strength is called, with its points by seed."""
    seeds = findings.seeds
    return [("best of", [seed.best_of for seed in seeds]), ("steered, β", [seed.steered for seed in seeds])]


def mean_regret(points: Sequence[Point]) -> float:
    """The mean regret of points; infinite of none."""
    return sum(each.regret for each in points) / len(points) if points else math.inf


def described(points: Sequence[Point]) -> str:
    """The regret of points, at least one, in words."""
    regret, kl = (spread([getattr(each, name) for each in points]) for name in ("regret", "kl"))
    interval = "" if regret.low is None or regret.high is None else f" ({regret.low:.3f} to {regret.high:.3f})"
    return f"regret {regret.mean:.3f}{interval} nats at KL {kl.mean:.2f}"
