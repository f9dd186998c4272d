"""The CPU time of a step of each candidate, measured alone on one thread, all candidates in turn.

Each round takes some steps of every candidate, so that what else the machine does meets all alike. The ratio of a
candidate's time to the first one's is taken round by round, and its interval is the t interval of the mean of the
logarithms at 99 %. Steps are the method's own, of a state that is thrown away, at a learning rate of 0; nothing is
scored. The first steps, which warm up memory and caches, are left out.
"""

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from nanogrove.record.events import Event
from nanogrove.runs.rehearsal import rehearsed
from nanogrove.studies.arms import Candidate
from nanogrove.studies.budget import Cost, Measured
from nanogrove.studies.statistics import t_interval
from nanogrove.waits import waiting

ROUNDS = 15
ROUND_SECONDS = 0.2  # of each candidate in a round, about
WARM_STEPS = 3
LEVEL = 0.01  # the interval holds the ratio 99 times of 100


def measure_times(entries: Sequence[Candidate]) -> list[Measured]:
    """The times of a step of each candidate, and the interval of their ratios to the first."""
    main = _rounds([_rehearsed(each, False) for each in entries])
    counts = [each.setup.method.num_steps(each.setup.preset.method, 0) for each in entries]
    further = [
        float(np.median(_rounds([_rehearsed(each, True)]))) if count else 0.0
        for each, count in zip(entries, counts, strict=True)
    ]
    measured = []
    for row, each in zip(main, further, strict=True):
        ratios = np.log(row / main[0])
        low, high = (0.0, 0.0) if row is main[0] else t_interval(ratios, LEVEL)
        centre = math.exp(float(ratios.mean()))
        cost = Cost(float(np.median(main[0])) * centre, each)
        measured.append(Measured(cost, math.exp(low) / centre, math.exp(high) / centre))
    return measured


def _rehearsed(candidate: Candidate, further: bool) -> Iterator[Event]:
    setup = candidate.setup
    return rehearsed(setup.preset.method, setup.corpus, setup.plan, setup.new_state, further)


def _rounds(steps: Sequence[Iterator[Event]]) -> list[np.ndarray]:
    """Seconds of a step of each, `[ROUNDS]`."""
    counts = []
    for each in steps:
        for _ in range(WARM_STEPS - 1):
            _seconds(each, 1)
        counts.append(max(round(ROUND_SECONDS / max(_seconds(each, 1), 1e-6)), 1))
    seconds = np.empty((len(steps), ROUNDS))
    with waiting("timing steps of each arm", total=ROUNDS) as progress:
        for number in range(ROUNDS):
            for row, (each, count) in enumerate(zip(steps, counts, strict=True)):
                seconds[row, number] = _seconds(each, count) / count
            progress.done += 1
    return list(seconds)


def _seconds(events: Iterator[Event], count: int) -> float:
    """CPU seconds of `count` steps."""
    began, left = time.process_time(), count
    while left:
        left -= next(events).kind == "step"
    return time.process_time() - began
