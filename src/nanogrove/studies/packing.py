"""How runs become jobs: each by itself, or as many as can be one tensor program.

Bits do not depend on it, and what they cost does: see `auto`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from nanogrove.studies.engines.contract import Job
from nanogrove.studies.plan import Run
from nanogrove.studies.stack import stack_key

Pack = Callable[[Sequence[Run], int], list[Job]]
"""Jobs of runs, for so many workers."""

MOST_MEMBERS = 64  # of one program


def alone(runs: Sequence[Run], workers: int) -> list[Job]:
    """A job for each run."""
    return [Job((run,)) for run in runs]


def stacked(runs: Sequence[Run], workers: int) -> list[Job]:
    """Programs as large as can be, and as many as there are workers at least; what cannot be stacked, alone."""
    groups: dict[str, list[Run]] = defaultdict(list)
    single: list[Job] = []
    for run in runs:
        key = stack_key(run.preset)
        if key is None:
            single.append(Job((run,)))
        else:
            groups[f"{key} {run.preset.train.steps}"].append(run)
    parts = max(-(-workers // max(len(groups), 1)), 1)
    jobs: list[Job] = []
    for group in groups.values():
        size = min(max(-(-len(group) // parts), 1), MOST_MEMBERS)
        jobs += [Job(tuple(group[first : first + size])) for first in range(0, len(group), size)]
    return jobs + single


def auto(runs: Sequence[Run]) -> str:
    """The engine for some runs: stacked where any two can be one program, else processes."""
    keys = [key for key in (stack_key(run.preset) for run in runs) if key is not None]
    return "stacked" if len(set(keys)) < len(keys) else "processes"
