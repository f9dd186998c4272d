"""Paired differences of a few seeds: an exact test, an interval, and how many seeds a question needs.

Arms of a study share their seeds, so each seed gives one difference of two figures, and what a seed makes easy or hard
for both drops out of it. All functions take such differences, or the figures of two arms; nothing is resampled, so that
the same figures give the same answer.

- `sign_flip`: where two arms are equally good and exchangeable, each difference could as well have had the other sign
  (Fisher 1935). The p value is the share of all 2ⁿ patterns of signs whose sum is as far from 0 as the observed one. It
  is exact for any distribution symmetric around 0, of any spread, another one for each seed. It cannot be below 2 / 2ⁿ.
- `t_interval`: the mean difference with Student's interval (1908), exact for normal differences.
- `holm`: p values of several tests, so that the chance of any wrong finding among them is below the level (Holm 1979).
- `interquartile_mean`, `probability_of_improvement`: figures beside the test that do not depend on one outlier (Agarwal
  et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice"). They describe the runs that were
  trained, have no interval here, and decide nothing.
- `seeds_needed`, `shown_effect`: what number of seeds can show anything at all, and how large an effect it shows.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_SEEDS = 40  # two halves of 2²⁰ sums each
EQUAL_SUMS = 1e-10  # of the sum of all magnitudes: equal sums of rounded figures differ by less, different ones by more
BISECTIONS = 60


class PairedTest(NamedTuple):
    """What decides a comparison: `EXACT` for a number of seeds that is fixed, `sequential.until_decided(cap)` else.

    Args:
        p_value: of paired differences in the order of their seeds.
        interval: of their mean, and the chance to miss it.
        shown_effect: what so many seeds show at a level, in standard deviations; None where it is not known.
    """

    p_value: Callable[[Sequence[float]], float]
    interval: Callable[[Sequence[float], float], tuple[float, float]]
    shown_effect: Callable[[int, float], float] | None


def sign_flip(differences: Sequence[float]) -> float:
    """The exact two-sided p value of paired differences, by all patterns of signs.

    Half of the differences have at most 2²⁰ signed sums, so those of both halves are sorted, and for each sum of one
    half a binary search counts the sums of the other that reach the observed total with it (Pagano and Tritchler 1983
    count the same by Fourier transforms). Sums that are equal but for rounding count as equal.

    Raises:
        ValueError: more than `MAX_SEEDS` differences, or one that is NaN or infinite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) > MAX_SEEDS or not np.isfinite(values).all():
        raise ValueError(f"the exact test takes up to {MAX_SEEDS} finite differences")
    values = values[values != 0]  # either sign of a zero gives the same sum, so zeros change no share
    if not len(values):
        return 1.0
    values = values / np.abs(values).max()
    magnitudes = np.abs(values)
    least = abs(values.sum()) - EQUAL_SUMS * magnitudes.sum()
    if least <= 0:
        return 1.0
    first, second = (np.sort(_signed_sums(half)) for half in np.array_split(magnitudes, 2))
    as_large = len(second) * len(first) - int(np.searchsorted(second, least - first).sum())
    return float(as_large / 2 ** (len(values) - 1))


def _signed_sums(magnitudes: Floats) -> Floats:
    """The sums [2ⁿ] of n magnitudes under every pattern of signs."""
    sums = np.zeros(1)
    for magnitude in magnitudes:
        sums = np.concatenate([sums - magnitude, sums + magnitude])
    return sums


def t_interval(differences: Sequence[float], level: float) -> tuple[float, float]:
    """The interval of the mean difference that misses the true one with a chance of `level`; infinite for one pair."""
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return -math.inf, math.inf
    half = t_quantile(level, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def t_quantile(level: float, degrees: int) -> float:
    """The magnitude that Student's t with so many degrees of freedom exceeds, on either side, with chance `level`."""
    angle = crossing(lambda angle: _t_inside(angle, degrees) - (1 - level), 0.0, math.pi / 2)
    return math.sqrt(degrees) * math.tan(angle)


def _t_inside(angle: float, degrees: int) -> float:
    """P(|T| ≤ √degrees · tan(angle)), a finite series for whole degrees (Abramowitz and Stegun 1964, 26.7.3 and 4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function crosses 0."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: those of at most the level are the tests that his step-down procedure rejects."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def interquartile_mean(figures: Sequence[float]) -> float:
    """The mean of the figures less the lowest and the highest quarter, each rounded down to whole figures."""
    cut = len(figures) // 4
    return float(np.mean(np.sort(np.asarray(figures, dtype=np.float64))[cut : len(figures) - cut]))


def probability_of_improvement(costs: Sequence[float], others: Sequence[float]) -> float:
    """The share of all pairs of a run of one arm and a run of another in which the first costs less; ties are halves.

    Pairs are of any two seeds: this is the chance that a run of the one beats a run of the other, not a test.
    """
    one, other = np.asarray(costs, dtype=np.float64)[:, None], np.asarray(others, dtype=np.float64)
    return float(np.mean((one < other) + 0.5 * (one == other)))


def seeds_needed(tests: int, level: float) -> int:
    """The least number n of pairs whose smallest p value, 2 / 2ⁿ, passes Holm's first step: log₂(2 tests / level)."""
    return max(1, math.ceil(math.log2(2 * tests / level) - 1e-9))


@cache
def shown_effect(seeds: int, level: float, power: float = 0.8) -> float:
    """The least mean difference, in standard deviations of the differences, that `sign_flip` shows with this power.

    Infinite where so few seeds cannot show any. Differences are taken as normal. Where only the two patterns of one
    sign are significant, this is exact: all n differences have the sign of their mean. Else it is the effect that
    Student's test shows by the noncentral t at the level that the sign-flip test attains, a multiple of 2 / 2ⁿ: by
    simulation 1 % below the sign-flip test's own at 8 pairs and level .05, and at most 8 % where very few patterns are
    significant.
    """
    patterns = math.floor(level * 2 ** (seeds - 1) + 1e-9)  # of 2ⁿ⁻¹, each with its opposite
    if patterns < 1:
        return math.inf
    normal = NormalDist()
    if patterns == 1:
        return crossing(lambda mean: normal.cdf(mean) ** seeds + normal.cdf(-mean) ** seeds - power, 0.0, 10.0)
    quantile = t_quantile(patterns / 2 ** (seeds - 1), seeds - 1)
    return crossing(lambda mean: _t_power(mean * math.sqrt(seeds), quantile, seeds - 1) - power, 0.0, 10.0)


def _t_power(noncentrality: float, quantile: float, degrees: int) -> float:
    """P(|T| > quantile) of the noncentral t: a mean of normal chances over the standard deviation of the sample."""
    nodes = np.linspace(0, 1 + 12 / math.sqrt(degrees), 400)[1:]
    log_density = (degrees - 1) * np.log(nodes) - degrees * nodes * nodes / 2
    weights = np.exp(log_density - log_density.max())
    normal = NormalDist()
    chances = [normal.cdf(noncentrality - quantile * s) + normal.cdf(-noncentrality - quantile * s) for s in nodes]
    return float(np.average(chances, weights=weights))


EXACT = PairedTest(sign_flip, t_interval, shown_effect)
