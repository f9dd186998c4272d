"""Pairs until a comparison is decided: a bound that is valid at every number of pairs, and what is left of it at a cap.

Null hypothesis: each paired difference d_i could as well have had the other sign, given its magnitude and all earlier
differences. Nothing else is assumed: spreads may differ from seed to seed, and tails may be heavy.

**Before the cap.** Let z_i = d_i / rms(d_1 … d_i). Under the null hypothesis E[exp(c z_i) / cosh(c z_i)] = 1 for each
c, since the scale is known from magnitudes and the sign is a fair coin, so

    E_n = mean over c in {±1, ±2} of ∏ exp(c z_i) / cosh(c z_i)

is a nonnegative martingale that starts at 1 (de la Peña 1999 has these factors with exp(c² z² / 2), which bounds cosh).
The chance that it ever reaches 1 / α is at most α (Ville 1939). So 1 / max E_n is a p value that may be looked at after
every pair, and a study may stop whenever it likes (Ramdas et al. 2023, "Game-theoretic statistics and safe
anytime-valid inference"). A difference of 0 has the factor 1.

**At the cap**, a number of pairs N that is fixed before the first, all magnitudes are known, and so is the law of the
whole path under random signs. Some of α is left, as the bound reaches 1 / α in fewer cases than Ville's inequality
allows. It is spent on the sum of the differences: the set of paths that are rejected at level α is

    {max E_n ≥ 1 / α} ∪ {|Σ d| ≥ t},   t as small as the share of this set among all patterns of signs is at most α.

The p value is the largest α at which a path is not rejected. Up to 15 pairs all patterns are counted. Beyond, 16,384
random ones and the observed one are: they are exchangeable, so the chance is exact for the second set, and exceeds α
only as far as more than α of the sample reach the bound, by .0007 on average if the bound had no slack at all.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from nanogrove.studies.statistics import BISECTIONS, EQUAL_SUMS, Floats, PairedTest

BETS = (1.0, 2.0)  # values of c, chosen by power among ten sets (docs/decisions/032-when-a-comparison-is-decided.md)
PATTERNS = 2**14
SHIFTS = 801  # tried by the interval before it is made exact


def until_decided(cap: int) -> PairedTest:
    """The test of a study that looks after every pair and ends at `cap` pairs, which is fixed before the first."""
    return PairedTest(lambda differences: p_until_decided(differences, cap), anytime_interval, None)


def p_until_decided(differences: Sequence[float], cap: int) -> float:
    """A p value of the differences up to now, in the order of their seeds, for a study of at most `cap` pairs.

    Raises:
        ValueError: more differences than `cap`, since a cap that is raised after a look gives no error rate; or one
            that is NaN or infinite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) > cap or not np.isfinite(values).all():
        raise ValueError(f"a study with a cap of {cap} pairs takes up to {cap} finite differences")
    if not values.any():
        return 1.0
    return _p_at_cap(values) if len(values) == cap else float(_anytime_p(values))


def log_e(differences: Floats, bets: Sequence[float] = BETS) -> Floats:
    """log E_n [..., N] of differences [..., N], after each of them; `bets` are the magnitudes of c."""
    largest = np.abs(differences).max(-1, keepdims=True)
    units = np.divide(
        differences, largest, out=np.zeros_like(differences), where=largest > 0
    )  # squares do not overflow
    scale = np.sqrt(np.cumsum(units**2, -1) / np.arange(1, differences.shape[-1] + 1))
    z = np.divide(units, scale, out=np.zeros_like(units), where=scale > 0)
    total, wealth = np.cumsum(z, -1), []
    for c in bets:
        up = np.cumsum(math.log(2) - np.log1p(np.exp(-2 * c * z)), -1)  # exp(x) / cosh(x) = 2 / (1 + exp(-2x))
        wealth += [up, up - 2 * c * total]
    return np.asarray(np.logaddexp.reduce(wealth) - math.log(len(wealth)))


def _anytime_p(differences: Floats) -> Floats:
    """1 / max E_n [...] of paths [..., N], at most 1."""
    return np.asarray(np.exp(-np.maximum(log_e(differences).max(-1), 0)))


def _p_at_cap(values: Floats) -> float:
    """The p value at the cap, of the last differences too.

    Levels are whole shares of the patterns. Paths that reach the bound at the next level are counted at each, so that
    the p value is valid at levels between two shares.
    """
    paths = np.concatenate([values[None], np.abs(values) * _signs(len(values))])
    early = _anytime_p(paths)
    totals = np.abs(paths.sum(1))
    as_far = totals >= totals[0] - EQUAL_SUMS * np.abs(values).sum()
    if 2 ** (len(values) - 1) <= PATTERNS:  # all patterns are there: the observed one would count twice
        early_p, early, as_far = early[0], early[1:], as_far[1:]
    else:
        early_p = early[0]
    count = len(early)
    levels = np.arange(count + 1)
    rejected_paths = as_far.sum() + np.searchsorted(np.sort(early[~as_far]), (levels + 1) / count, "right")
    not_rejected = np.flatnonzero((rejected_paths > levels) & (early_p > levels / count))
    return float(min(early_p, (not_rejected[-1] + 1) / count)) if len(not_rejected) else float(early_p)


@cache
def _signs(count: int) -> Floats:
    """All patterns of signs [B, count], each with its opposite once, or `PATTERNS` random ones where there are more."""
    if 2 ** (count - 1) <= PATTERNS:
        flipped = np.arange(2 ** (count - 1))[:, None] >> np.arange(count) & 1
    else:
        flipped = np.random.default_rng(count).integers(2, size=(PATTERNS, count))
    return np.where(flipped == 1, -1.0, 1.0)


def anytime_interval(differences: Sequence[float], level: float) -> tuple[float, float]:
    """The interval of the centre of symmetry, valid whenever a study stops; infinite where there are too few pairs.

    It holds the shifts m for which E_n of d_1 − m … d_n − m is below 1 / `level`, and what lies between them. The mean
    is the centre of symmetry where the differences have both.
    """
    values = np.asarray(differences, dtype=np.float64)
    span = float(np.ptp(values)) or float(np.abs(values).max()) or 1.0
    shifts = np.linspace(values.min() - 4 * span, values.max() + 4 * span, SHIFTS)
    shifts = np.sort(np.append(shifts, np.median(values)))

    def evidence(shift: Floats) -> Floats:
        return log_e(values - shift[:, None])[:, -1] + math.log(level)

    heights = evidence(shifts)
    inside = np.flatnonzero((heights < 0) | (heights == heights.min()))
    first, last = int(inside[0]), int(inside[-1])

    def edge(outer: float, inner: float) -> float:
        for _ in range(BISECTIONS):
            middle = (outer + inner) / 2
            outer, inner = (outer, middle) if evidence(np.array([middle]))[0] < 0 else (middle, inner)
        return inner

    low = -math.inf if first == 0 else edge(float(shifts[first - 1]), float(shifts[first]))
    high = math.inf if last == len(shifts) - 1 else edge(float(shifts[last + 1]), float(shifts[last]))
    return low, high
