"""How runs become jobs: each by itself, or as many as can be one tensor program. Bits do not depend on it.

`fastest` is the rule of the engine `auto`: a program of several runs where a step of one is small, so that most of its
time is not arithmetic; docs/findings/speed.md has the measurements that the limit comes from.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from nanogrove.config.preset import Preset
from nanogrove.studies.engines.contract import Job
from nanogrove.studies.plan import Run
from nanogrove.studies.stack import stack_key
from nanogrove.train.autotune import Work, memory_bytes

Pack = Callable[[Sequence[Run], int], list[Job]]
"""Jobs of runs, for so many workers."""

MOST_MEMBERS = 64  # of one program
SMALL_STEP_FLOPS = 3e9  # of a step of one run; above, as many runs side by side are as fast as one program


def alone(runs: Sequence[Run], workers: int) -> list[Job]:
    """A job for each run."""
    return [Job((run,)) for run in runs]


def stacked(runs: Sequence[Run], workers: int) -> list[Job]:
    """Programs as large as can be, and as many as there are workers at least; what cannot be stacked, alone."""
    return _packed(runs, workers, stack_key)


def fastest(runs: Sequence[Run], workers: int) -> list[Job]:
    """Programs of runs whose steps are small; all other runs alone."""
    return _packed(runs, workers, lambda preset: stack_key(preset) if _work(preset).flops < SMALL_STEP_FLOPS else None)


def _packed(runs: Sequence[Run], workers: int, key_of: Callable[[Preset], str | None]) -> list[Job]:
    groups: dict[str, list[Run]] = defaultdict(list)
    jobs: list[Job] = []
    for run in runs:
        key = key_of(run.preset)
        if key is None:
            jobs.append(Job((run,)))
        else:
            groups[key].append(run)
    parts = -(-workers // max(len(groups), 1))
    for group in groups.values():
        size = max(min(-(-len(group) // parts), MOST_MEMBERS, _fitting(group[0].preset, workers)), 1)
        jobs += [Job(tuple(group[first : first + size])) for first in range(0, len(group), size)]
    return jobs


def _work(preset: Preset) -> Work:
    return Work(preset.model, 1, preset.train.batch_size)


def _fitting(preset: Preset, workers: int) -> int:
    """How many members fit in a worker's share of the memory."""
    return memory_bytes(torch.device("cpu")) // workers // _work(preset).bytes(preset.train.batch_size)
