"""The calibration error without what chance adds to it, and an interval for it.

The binned ECE is a mean of |accuracy − confidence|, which is never negative, so chance alone raises it: most where a
model is best and data is scarce. Roelofs et al. 2022, arXiv 2012.08668, measure that bias, recommend bins of equal
mass, and compare estimates that take it off. Here it is taken off exactly, in the square, as Bröcker 2012 and Ferro &
Fricker 2012 do for independent predictions, extended to predictions that are not: with S_j the sum of (correct −
confidence) over the predictions of unit j that lie in a bin, and n_j their number,

    gap² of a bin = Σ_{j≠k} S_j S_k / Σ_{j≠k} n_j n_k,    error² = Σ over bins of (share of the predictions) · gap²

Products within one unit, whose mean is positive by chance, do not enter, so the mean of error² over draws is 0 for a
perfect model and the binned square error for any other, whatever the predictions of one unit have to do with each
other. The root is given with the sign of error², below 0 where the gaps are smaller than chance makes them. It is a
root mean square, and so at least the mean gap that the ECE is.

Units are blocks of neighbouring sequences, MAX_BLOCKS at most: windows of a text that follow each other may belong to
one document. The interval is the percentile bootstrap over blocks, with the bins and the excluded pairs as they are.
Where the error is 0 it is too wide (it also varies by terms that are 0 there), never too narrow.
"""

import torch
from torch import Tensor

from nanogrove.data.rng import random

MAX_BLOCKS = 200
BOOTSTRAP_RESAMPLES = 1000
CONFIDENCE_LEVEL = 0.95


def blocks(rows: int) -> Tensor:
    """The block of each of so many rows, `[rows]`: at most MAX_BLOCKS, of neighbours, their sizes differing by one."""
    return torch.arange(rows) * min(rows, MAX_BLOCKS) // max(rows, 1)


def debiased_error(gap: Tensor, bins: Tensor, unit: Tensor) -> tuple[float, float, float] | None:
    """The error of the header and the ends of its interval, from `gap` (correct − confidence), bin and unit, all `[N]`.

    None where no bin holds predictions of two units.
    """
    units, width = int(unit.max()) + 1, int(bins.max()) + 1
    cell = unit * width + bins
    sums = torch.zeros(units * width, dtype=torch.float64).index_add(0, cell, gap.double()).view(units, width)
    counts = torch.bincount(cell, minlength=units * width).view(units, width).double()
    draws = random(0, "calibration").multinomial(units, [1 / units] * units, BOOTSTRAP_RESAMPLES)
    times = torch.cat([torch.ones(1, units, dtype=torch.float64), torch.from_numpy(draws).double()])
    products = (times @ sums).square() - times.square() @ sums.square()
    pairs = (times @ counts).square() - times.square() @ counts.square()
    mass = (times @ counts) * (pairs > 0)
    squares = (mass * products / pairs.clamp(min=1)).sum(-1) / mass.sum(-1)
    errors = squares.sign() * squares.abs().sqrt()
    if not errors[0].isfinite():
        return None
    ends = torch.tensor([(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2], dtype=torch.float64)
    low, high = errors[1:][errors[1:].isfinite()].quantile(ends).tolist()
    return float(errors[0]), low, high
