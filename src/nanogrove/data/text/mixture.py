"""Which source each sequence comes from: a pure function of the sequence's number.

`round_robin` takes the sources in turn. `weighted` draws systematically: of each stratum of `SEQUENCES_PER_STRATUM`
sequences, source i gets the floor or ceiling of its share, in an order that is a function of (seed, stratum). So the
shares hold in every stretch, and no draw depends on another. `sequential` shows all windows of a source, then those of
the next, and begins again.

`Phase`s let weights change at given sequences, which are part of a run's state; each source goes on where it was.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nanogrove.data.rng import random

SEQUENCES_PER_STRATUM = 256  # shares are rounded within a stratum
GOLDEN_RATIO = (5**0.5 - 1) / 2  # multiples of it, less their whole part, fill (0, 1) evenly


class Phase(NamedTuple):
    """Weights from sequence `start` on."""

    start: int
    weights: tuple[float, ...]


Assigned = tuple[np.ndarray, np.ndarray]  # the sources of N sequences, and their numbers within these


def round_robin(number: np.ndarray, sources: int) -> Assigned:
    """The sources in turn."""
    return number % sources, number // sources


def sequential(
    number: np.ndarray, has_window: Sequence[Callable[[int], bool]], epoch: Sequence[Callable[[], int]]
) -> Assigned:
    """One source after the other.

    Args:
        number: of each sequence, `[N]`
        has_window: of each source, whether it has a window of a number
        epoch: of each source, how many windows it has
    """
    sources, positions = np.empty_like(number), np.empty_like(number)
    for row, left in enumerate(number.tolist()):
        source = passes = 0
        while not has_window[source](left):
            left -= epoch[source]()
            source += 1
            if source == len(has_window):
                source, total = 0, sum(count() for count in epoch)
                passes, left = 1 + left // total, left % total
        sources[row], positions[row] = source, passes * epoch[source]() + left if passes else left
    return sources, positions


class Weighted:
    """Weighted sources under phases of weights.

    `phases` may leave out phases that are over: `number` is how many these are, and `counts` how many sequences of each
    source they took.
    """

    def __init__(
        self, phases: Sequence[Phase], seed: int, number: int = 0, counts: Sequence[int] | None = None
    ) -> None:
        self.phases, self.seed, self.number = list(phases), seed, number
        self.before = [np.array(counts or [0] * len(phases[0].weights))]  # sequences of each source before each phase
        for n in range(1, len(self.phases)):
            length = self.phases[n].start - self.phases[n - 1].start
            self.before.append(self.before[-1] + self._taken(n - 1, length))

    def assign(self, number: np.ndarray) -> Assigned:
        """Sources of sequences `[N]`, and their numbers within these."""
        starts = np.array([phase.start for phase in self.phases])
        phases = np.searchsorted(starts, number, side="right") - 1
        strata, rest = np.divmod(number - starts[phases], SEQUENCES_PER_STRATUM)
        source, position = np.empty_like(number), np.empty_like(number)
        for phase, stratum in np.unique(np.stack([phases, strata]), axis=1).T.tolist():
            rows = (phases == phase) & (strata == stratum)
            drawn = self._stratum(phase, stratum)
            before = self.before[phase] + self._counts_of_strata(phase, stratum)
            ranks = np.stack([np.cumsum(drawn == i) - 1 for i in range(len(before))])
            source[rows] = drawn[rest[rows]]
            position[rows] = before[source[rows]] + ranks[source[rows], rest[rows]]
        return source, position

    def _bounds(self, phase: int) -> np.ndarray:
        """Where the sources' points end on a line of `SEQUENCES_PER_STRATUM`."""
        weights = np.array(self.phases[phase].weights)
        bounds: np.ndarray = np.cumsum(weights / weights.sum()) * SEQUENCES_PER_STRATUM
        bounds[np.flatnonzero(weights)[-1] :] = SEQUENCES_PER_STRATUM  # exactly, whatever rounding gave
        return bounds

    def _shift(self, phase: int, stratum: int | np.ndarray) -> float | np.ndarray:
        """How far the points of a stratum, or of each of several, are moved; phases of one stratum differ in it too."""
        return (stratum + self.number + phase) * GOLDEN_RATIO % 1.0

    def _stratum(self, phase: int, stratum: int) -> np.ndarray:
        """The source of each sequence of a stratum."""
        points = np.arange(SEQUENCES_PER_STRATUM) + self._shift(phase, stratum)
        drawn: np.ndarray = np.searchsorted(self._bounds(phase), points, side="right")
        return drawn[random(self.seed, "mixture", self.number + phase, stratum).permutation(SEQUENCES_PER_STRATUM)]

    def _counts_of_strata(self, phase: int, strata: int) -> np.ndarray:
        """Sequences of each source in the first `strata` strata of a phase, counted without drawing them."""
        shift, bounds = self._shift(phase, np.arange(strata)), self._bounds(phase)[:, None]
        below = np.ceil(bounds - shift)
        below += (below + shift < bounds).astype(float) - (below - 1 + shift >= bounds)  # as sums of points round
        taken: np.ndarray = np.diff(np.clip(below, 0, SEQUENCES_PER_STRATUM).sum(1), prepend=0).astype(np.int64)
        return taken

    def _taken(self, phase: int, length: int) -> np.ndarray:
        """Sequences of each source in the first `length` of a phase."""
        strata, rest = divmod(length, SEQUENCES_PER_STRATUM)
        part = np.bincount(self._stratum(phase, strata)[:rest], minlength=len(self.phases[phase].weights))
        return self._counts_of_strata(phase, strata) + part
